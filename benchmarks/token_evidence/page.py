"""docs/results-tokens.md: all of it from cells, hashes and versions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from benchmarks.evidence.cells import Cells, commits_of
from benchmarks.evidence.text import NONE, bullets, interval, mean_sd, table
from benchmarks.token_evidence.figures import MIXED_RANDOM, RANDOM, Figures, figures, reason
from benchmarks.token_evidence.lines import ROUNDS, WARMUP, K
from benchmarks.token_evidence.runner import LABELS, LINES, TRUSTED_ROWS
from nfilter.engine.versions import versions
from nfilter.recipe.model import Recipe

_MIXED: Final = (
    "What is known of tokens here is known of the rows whose label was right and that no stage replaced; the random mask is the one "
    "over rows as they came."
)


def page(
    cells: Cells,
    recipe: Recipe,
    seeds: Sequence[int],
    percents: Sequence[int],
    commands: Sequence[str],
    device: str,
) -> str:
    """Return the report of the finished cells."""
    parts = [
        "# Results: noise inside responses",
        "Made by the command below from the figures of single runs; nothing here is typed by hand.",
        "```\n" + "\n".join(commands) + "\n```",
        _facts(cells, recipe, seeds, percents, device),
        _setting(recipe),
    ]
    for percent in percents:
        found = [f for line in LINES.values() if (f := figures(cells, line, percent, seeds))]
        alone = [f for f in found if not f.line.mixed]
        mixed = [f for f in found if f.line.mixed]
        parts += [f"## {percent}% of the text is noise", _table(alone), *_why(alone)]
        if mixed:
            title = f"## {percent}% of the text is noise, and {LABELS:.0%} of the labels are wrong"
            parts += [title, _MIXED, _table(mixed), *_why(mixed)]
    parts += ["## What the scores know", _aucs(cells, seeds, percents)]
    return "\n\n".join(parts) + "\n"


def _facts(
    cells: Cells, recipe: Recipe, seeds: Sequence[int], percents: Sequence[int], device: str
) -> str:
    every = [value for _, value in cells.all()]
    commits = commits_of(every)
    rows = getattr(recipe.source.use.config, "rows", None)
    minutes = sum(value.get("seconds", 0.0) for value in every) / 60
    lines = {
        "versions": ", ".join(f"{k} {v}" for k, v in versions().items()),
        "seeds": ", ".join(map(str, seeds)),
        "levels": ", ".join(f"{percent}%" for percent in percents),
        "rows": f"{rows} to train, {recipe.evaluate.limit if recipe.evaluate else NONE} of the test split",
        "device": f"{device}; {minutes:.0f} min of processor time in {len(every)} runs",
        "commits": ", ".join(f"{name} ({n} runs)" for name, n in sorted(commits.items())),
    }
    return table(("what", "value"), list(lines.items()))


def _setting(recipe: Recipe) -> str:
    train = recipe.train.config.model_dump(mode="json") if recipe.train else {}
    shown = ("rank", "alpha", "lr", "epochs", "batch_size", "dropout")
    return (
        "Responses are worked steps and an answer. A third of the noise each is filler phrases, words of other rows, and wrong words or "
        "digits; the level is its share of the characters. All lines see the same rows and noise a seed and train alike "
        f"({json.dumps({name: train.get(name) for name in shown})}); what differs is the weight of tokens. Fixed before any figure: "
        f"k {K}, warm-up {WARMUP}, {ROUNDS} rounds, presets as shipped. *Trusted*: the reference learnt from {TRUSTED_ROWS} clean rows of "
        "their own. *Noise kept* and *signal lost* are the two errors of a mask; precision, recall and F1 are of what is masked as noise. "
        "Mean and (standard deviation) over seeds; the difference to the random mask is paired by test row, with its 95% interval for new seeds "
        "and new test rows (crossed random effects, t quantiles). The model "
        "has never read such noise, so that noise surprises it more than anything that is worth learning: a loss under the base "
        "tells the two apart here, and what a reference has learnt of the noise looks like progress to excess loss. A large "
        "model has read filler and asides, and need not behave so."
    )


def _table(found: Sequence[Figures]) -> str:
    head = (
        "line",
        "what it does",
        "noise kept",
        "signal lost",
        "precision",
        "recall",
        "F1",
        "accuracy",
        "less random [95%]",
    )
    return table(
        head,
        [
            (
                f.line.name, f.line.says, mean_sd(f.mask.noise_kept), mean_sd(f.mask.signal_dropped), mean_sd(f.mask.precision),
                mean_sd(f.mask.recall), mean_sd(f.mask.f1), mean_sd(f.accuracy), interval(_plain(f)),
            )
            for f in found
        ],
    )  # fmt: skip


def _plain(found: Figures) -> Mapping[str, Any] | None:
    less = found.less_random
    return None if less is None else {"mean": less.mean, "low": less.low, "high": less.high}


def _why(found: Sequence[Figures]) -> list[str]:
    random = next((f for f in found if f.line.name in (RANDOM, MIXED_RANDOM)), None)
    if random is None:
        return []
    rest = [f for f in found if f.line.name not in (RANDOM, MIXED_RANDOM, "clean", "vanilla")]
    order = sorted(rest, key=lambda f: -f.accuracy.mean)
    better = [f.line.name for f in order if f.beats_random]
    lines = [f"**Better than the random mask**, in this order: {', '.join(better) or 'none'}."]
    vanilla = next((f for f in found if f.line.name == "vanilla"), None)
    if vanilla is not None:
        above = [f.line.name for f in order if f.accuracy.mean > vanilla.accuracy.mean]
        lines.append(
            f"**Better than no training at all** (`vanilla`, {mean_sd(vanilla.accuracy)}): {', '.join(above) or 'no line'}."
        )
    lines += [f"`{f.line.name}` is not: {reason(f, random)}." for f in order if not f.beats_random]
    return [bullets(lines)]


def _aucs(cells: Cells, seeds: Sequence[int], percents: Sequence[int]) -> str:
    """Return, by score and level, the probability that a signal token has a higher score than a noise token."""
    rows = []
    for line in LINES.values():
        by_level = {p: f.mask.auc for p in percents if (f := figures(cells, line, p, seeds))}
        names = sorted({name for auc in by_level.values() for name in auc})
        for name in names:
            if name.startswith("loss.") and "fixed" not in line.name:
                continue
            cellsof = [mean_sd(by_level.get(p, {}).get(name)) for p in percents]
            rows.append((line.name, f"`{name}`", *cellsof))
    note = (
        "ROC-AUC of each score, noise against signal: above .5 signal has the higher scores, below .5 noise has. A method that keeps "
        "high scores needs the first; one that masks high scores (a loss, a perplexity) needs the second."
    )
    return f"{note}\n\n" + table(("line", "score", *(f"{p}%" for p in percents)), rows)
