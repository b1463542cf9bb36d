"""docs/results-real-tokens.md, generated from cells, data, hashes and versions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.evidence.cells import Cells, commits_of
from benchmarks.evidence.figures import Evidence
from benchmarks.evidence.page import commits, device, not_run
from benchmarks.evidence.text import (
    NONE,
    NOT_RUN,
    bullets,
    count,
    interval,
    mean_sd,
    ratio,
    seconds,
    table,
)
from benchmarks.real_evidence.findings import plain
from benchmarks.real_tokens import findings
from benchmarks.real_tokens.data import LONGEST, SHORTEST, DataSet
from benchmarks.real_tokens.figures import Figures, figures
from benchmarks.real_tokens.lines import FULL, LINES, MIXED, RANDOM, TRUTH
from benchmarks.real_tokens.plan import GRID, MIDDLE, MIXED_AT, chosen, own_control, setting_key
from benchmarks.token_evidence.lines import ROUNDS, WARMUP, K
from benchmarks.token_evidence.runner import LABELS

HEAD: Final = (
    "line", "loss (sd)", "n", "saves over full [95%]", "saves over random [95%]", "saves over as many at random [95%]", "recovered [95%]",
    "p > .5", "more than full [95%]", "kept", "noise in the loss", "noise kept", "signal lost", "F1", "steps", "seconds",
)  # fmt: skip

_SAME_SCORES: Final = ("RHO", "Rho-1", "auto", *MIXED)
"""The lines that reuse the scores of another line."""


@dataclass(frozen=True)
class Told:
    """What the page says beside figures: ``facts`` by name, data sets, folders left out and why, the settings of all lines."""

    facts: Mapping[str, str]
    sets: Sequence[DataSet]
    others: Mapping[str, str]
    train: Mapping[str, Any]
    commands: Sequence[str]


def page(evidence: Evidence, cells: Cells, told: Told) -> str:
    """Return the report of the finished cells."""
    parts = [
        "# Results: noise inside responses, real texts and a real model",
        "Made by the command below from the figures of single runs; nothing here is typed by hand. Rerun it to check.",
        "```\n" + "\n".join(told.commands) + "\n```",
        _facts(evidence, told),
        *not_run(evidence),
        "## What it shows",
        _overview(evidence, told),
        *_shown(evidence, told),
        "## What is compared",
        _legend(told),
        "## Data",
        _data(told),
        "## Settings",
        _settings(cells, told),
    ]
    for one, level in _levels(evidence, told):
        title = f"{level}% of the text is noise" if level else "as they are"
        names = [name for name in LINES if name not in MIXED]
        parts += [f"## {one.name}, {title}", _lines(evidence, one, level, names), _kinds(evidence, one, level)]  # fmt: skip
    for one in told.sets:
        if any((name, one.name, MIXED_AT, s) in evidence.plan.of for name in MIXED for s in evidence.scope.seeds):  # fmt: skip
            title = f"## {one.name}, {MIXED_AT}% of the text is noise, and {LABELS:.0%} of the answers are wrong"
            parts += [title, _lines(evidence, one, MIXED_AT, MIXED)]
    parts += ["## What the scores know", _aucs(evidence, told)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _levels(evidence: Evidence, told: Told) -> list[tuple[DataSet, int]]:
    planned = {(one, level) for name, one, level, _ in evidence.plan.of if name not in MIXED}
    return [(one, level) for one in told.sets for level in evidence.scope.percents if (one.name, level) in planned]  # fmt: skip


def _facts(evidence: Evidence, told: Told) -> str:
    cells = evidence.made()
    rows = [
        *told.facts.items(),
        ("seeds", ", ".join(map(str, evidence.scope.seeds)) + f" at {MIDDLE}%; the first at other levels"),
        ("levels", ", ".join(f"{level}%" for level in evidence.scope.percents)),
        ("device", device(cells)),
        ("cells", f"{len(cells)} of {len(evidence.plan.cells)}"),
        ("commits", commits(commits_of(cells))),
    ]  # fmt: skip
    return table(("what", "value"), rows)


def _overview(evidence: Evidence, told: Told) -> str:
    """Return the loss of every line at every level."""
    places = _levels(evidence, told)
    head = ["line", *(f"{one.name} {level}%" for one, level in places)]
    rows = []
    for name in LINES:
        if name in MIXED:
            continue
        shown = [figures(evidence, name, one.name, level) for one, level in places]
        planned = [evidence.is_planned(name, one.name, level) for one, level in places]
        if any(planned):
            rows.append([name, *(mean_sd(f.loss) if f else NOT_RUN if p else NONE for f, p in zip(shown, planned, strict=True))])  # fmt: skip
    return "Mean loss of a token of clean test answers, in nats; lower is better:\n\n" + table(head, rows)  # fmt: skip


def _shown(evidence: Evidence, told: Told) -> list[str]:
    said = [text for one, level in _levels(evidence, told) for text in findings.level(evidence, one.name, level)]  # fmt: skip
    said += [f"{one.name}, wrong answers too: {text}" for one in told.sets for text in findings.mixed(evidence, one.name, MIXED_AT)]  # fmt: skip
    return [bullets(said)] if said else [f"No line has {NOT_RUN.removeprefix('not ')}."]


def _lines(evidence: Evidence, one: DataSet, level: int, names: Sequence[str]) -> str:
    planned = [name for name in names if evidence.is_planned(name, one.name, level)]
    rows = [_row(name, figures(evidence, name, one.name, level)) for name in planned]
    return table(HEAD, rows)


def _row(name: str, found: Figures | None) -> list[str]:
    if found is None:
        return [name, NOT_RUN, *([NONE] * (len(HEAD) - 2))]
    own = own_control(name)
    bounds = None if found.bounds is None else dict(zip(("low", "high"), found.bounds, strict=True))
    return [
        name,
        mean_sd(found.loss),
        str(found.loss.n),
        interval(plain(found.saves[FULL])),
        interval(plain(found.saves[RANDOM])),
        interval(plain(found.saves[own])) if own != RANDOM else NONE,
        ratio(found.recovered, bounds),
        mean_sd(found.likely),
        interval(plain(found.more_likely)),
        mean_sd(found.kept),
        mean_sd(found.noise_share),
        mean_sd(found.mask.noise_kept),
        mean_sd(found.mask.signal_dropped),
        mean_sd(found.mask.f1),
        NONE if found.steps is None else count(found.steps),
        seconds(found.seconds),
    ]


def _kinds(evidence: Evidence, one: DataSet, level: int) -> str:
    """Return the kind of noise that each mask removes."""
    rows = []
    for name in LINES:
        found = figures(evidence, name, one.name, level)
        if found is not None and found.mask.recalls and found.kept is not None and found.kept.mean < 1:  # fmt: skip
            rows.append((name, found.mask.recalls))
    if not rows:
        return ""
    kinds = sorted({kind for _, recalls in rows for kind in recalls})
    shown = [[name, *(mean_sd(recalls.get(kind)) for kind in kinds)] for name, recalls in rows]
    return "Share of the noise taken out, by kind:\n\n" + table(("line", *kinds), shown)


def _aucs(evidence: Evidence, told: Told) -> str:
    """Return, by score and level, the probability that a signal token has a higher score than a noise token."""
    places = [(one, level) for one, level in _levels(evidence, told) if level]
    rows = []
    for line in LINES:
        found = [figures(evidence, line, one.name, level) for one, level in places]
        names = sorted({name for f in found if f for name in f.mask.auc})
        shown = names if line not in _SAME_SCORES else []
        rows += [(line, f"`{name}`", *(mean_sd(f.mask.auc.get(name)) if f else NOT_RUN for f in found)) for name in shown]  # fmt: skip
    note = (
        "ROC-AUC of each score, noise against signal: above .5 signal has the higher scores, below .5 noise has. A method that keeps "
        "high scores needs the first; one that masks high scores (`perplexity`) needs the second."
    )
    head = ("line", "score", *(f"{one.name} {level}%" for one, level in places))
    return f"{note}\n\n" + (table(head, rows) if rows else NOT_RUN)


def _legend(told: Told) -> str:
    sizes = told.sets[0].sizes
    return (
        bullets(f"**{line.name}**: {line.says}." for line in LINES.values())
        + "\n\n"
        + f"A third of the noise each is filler phrases, words of other rows, and wrong words or digits (nfilter's `noise: tokens`); the level is its "
        f"share of the characters of the answers, on average. All lines of a seed see the same {sizes.train} rows and the same noise, once, and train alike; "
        f"what differs is the weight of tokens. Fixed before any figure: k {K} for every method that takes a share, whatever the noise; warm-up "
        f"{WARMUP}, {ROUNDS} rounds, presets as shipped. `{TRUTH}` alone knows what was planted.\n\n"
        f"*loss*: of {sizes.test} test rows whose answers are clean, the mean over rows of the mean loss of an answer's tokens (nats), mean and standard deviation over n "
        "seeds. *saves over ...*: the loss of that line less this one's, so that above 0 this one is better; paired, in brackets the 95% intervals for new seeds "
        "and new test rows (crossed random effects, t quantiles; of one seed for new rows alone). *recovered* = (full - line) / (full - truth), a dash where the true mask "
        "is not shown to save anything. *p > .5*: the share of test tokens with a probability over one half. It is blind to how unlikely the rest are, "
        "where *loss* is not: a line that leaves unlikely tokens out is not meant to make them likely. *kept*: the share of the answers' tokens in the loss. "
        "*noise in the loss*: the share of noise among them. *noise kept* and *signal lost*: the two errors of a mask, *F1* that of what it masks as noise; a soft weight above 0 is kept. *seconds*: processor time of a cell.\n\n"
        "What a seed varies: which rows are trained on, their order, where the noise is, the draws of stages and the initialisation of the adapter."
    )  # fmt: skip


def _data(told: Told) -> str:
    head = ("data set", "rows given", "rows to draw from", "to train", "to choose on", "to test", "SHA-256")  # fmt: skip
    rows = [
        [one.name, str(one.given), str(len(one.pool)), str(one.sizes.train), str(len(one.dev)), str(len(one.test)), f"`{one.digest}`"]
        for one in told.sets
    ]  # fmt: skip
    left = [f"{name}: {why}" for name, why in sorted(told.others.items())]
    return (
        f"Rows of {LONGEST} characters or fewer, {SHORTEST} or more of them in the answer, each once: short ones are many in the hours that the page may take. "
        'Test rows are `random.Random("test").sample` of them (of the file of the test, where there is one), those that settings are chosen on '
        '`random.Random("dev").sample` of the rest, and a seed trains on `random.Random(f"train {seed}").sample` of what is left. No question is in two of these.\n\n'
        + table(head, rows)
        + (
            "\n\nFolders that are no data set of this kind: " + "; ".join(left) + "."
            if left
            else ""
        )
    )


def _settings(cells: Cells, told: Told) -> str:
    names = list(GRID[0])
    rows, said = [], []
    for one in told.sets:
        taken = chosen(cells, one.name)
        for setting in GRID:
            value = cells.get(setting_key(setting, one.name))
            shown = (NOT_RUN, NONE) if value is None else (f"{value['loss']:.4f}", f"{value['seconds']:.0f}")  # fmt: skip
            mark = "chosen" if setting == taken else ""
            rows.append([one.name, *(f"{setting[name]:g}" for name in names), *shown, mark])
        if taken is None:
            said.append(f"{one.name}: not chosen yet, so that no line has run.")
    fixed = ", ".join(f"{key} {value}" for key, value in told.train.items() if key not in ("use", "model", *names))  # fmt: skip
    return (
        f"Chosen before any line was trained: the setting with which `{TRUTH}` at {MIDDLE}% and seed 0 has the lowest loss on rows that no line is trained or tested on. "
        f"Fixed beforehand: {fixed}.\n\n"
        + table(("data set", *names, "loss of the rows held out", "seconds", ""), rows)
        + ("\n\n" + bullets(said) if said else "")
    )
