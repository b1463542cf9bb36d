"""What a run found, did, gained and cost, in words: the matter of the closing summary and of the page."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from nfilter.api.durations import duration
from nfilter.metrics import figures
from nfilter.metrics.figures import Figure
from nfilter.report import encoding, rate, reading, runs, text, training
from nfilter.store.failed_calls import told

_DETECTION = (
    ("precision", "precision", "undefined, no label was flagged"),
    ("recall", "recall", "undefined, no label is wrong"),
    ("f1", "F1", "undefined, no label is wrong"),
    ("roc_auc", "ROC-AUC", "undefined, there is no score or all labels are alike"),
)
_MEANING: Final = {
    "vanilla": ", not trained",
    "raw": ", trained on the labels as they came",
    "cleaned": ", trained on what was kept",
    "truth": ", trained on the true labels",
}
_NEEDS: Final = {
    "recovered": ("cleaned_minus_raw", "truth_minus_raw"),
    "recovered_vanilla": ("vanilla_minus_raw", "truth_minus_raw"),
    "gain": ("cleaned_minus_vanilla", "truth_minus_vanilla"),
}
"""The differences above and below the line of each ratio."""


@dataclass(frozen=True, slots=True)
class Section:
    """A heading and its lines: what, and the words for it."""

    title: str
    lines: list[tuple[str, str]]


def findings(run_dir: Path, metrics: Mapping[str, Any]) -> list[Section]:
    """The closing summary's sections, for a run or a group of seeds. No value of them is ever ``None``."""
    return [
        Section("What was wrong", _wrong(run_dir, metrics)),
        Section("What was done about it", _done(metrics)),
        Section(_gain_title(metrics), _gained(metrics)),
        Section("What it cost", _cost(run_dir, metrics)),
    ]


def headline(run_dir: Path, metrics: Mapping[str, Any]) -> str:
    """The run's name, directory and seeds."""
    seeds = metrics.get("seeds") or []
    word = "seed" if len(seeds) == 1 else "seeds"
    said = f", {word} {', '.join(str(seed) for seed in seeds)}" if seeds else ""
    return f"{metrics.get('name', run_dir.name)} in {run_dir}{said}"


def _share(found: Figure) -> str:
    said = text.percent(found.mean)
    if found.sd is not None:
        return f"{said} ± {100 * found.sd:.1f}"
    if found.low is not None and found.high is not None:
        return f"{said} (95% interval {text.percent(found.low)} to {text.percent(found.high)})"
    return said


def _count(found: Figure | None) -> str:
    if found is None:
        return "not counted"
    return f"{round(found.mean):,}"


def _plain(found: Figure) -> str:
    said = f"{found.mean:.3f}"
    return said if found.sd is None else f"{said} ± {found.sd:.3f}"


def _wrong(run_dir: Path, metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    lines = [("rows read", _count(figures.figure(metrics, "samples.read")))]
    if len(metrics.get("seeds") or []) > 1:
        lines.append(("±", "the standard deviation between seeds; counts are means"))
    lines += [
        (f"seed {seed}", f"no part of the figures: {why}")
        for seed, why in (metrics.get("nothing_left") or {}).items()
    ]
    unreadable = figures.figure(metrics, "samples.unreadable")
    if unreadable is not None and unreadable.mean:
        lines.append(
            (
                "unreadable",
                f"{_count(unreadable)}, kept apart in quarantine.jsonl with line and error",
            )
        )
    found = rate.noise_rate(run_dir, metrics)
    if found is not None:
        by = ", narrowed by rows checked by hand" if rate.audited(run_dir) is not None else ""
        lines.append(("wrong labels", f"{rate.words(found)}{by}"))
    else:
        why = (
            "not every view was asked about every row"
            if figures.reported(metrics, "not_asked")
            else "no stage of the recipe estimates a noise rate"
        )
        lines.append(("wrong labels", f"not estimated: {why}"))
    truth = figures.true_rate(metrics)
    if truth is not None:
        lines.append(("in truth", _share(truth)))
    if "detection" in metrics:
        lines.append(("detection", _detection(metrics)))
    elif reading.has_verdicts(run_dir):
        run = shlex.quote(str(next(iter(reading.children_of(run_dir)), run_dir)))
        lines.append(
            (
                "detection",
                f"not measured: the true labels are not known; `nfilter audit {run}` measures it by hand",
            )
        )
    else:
        lines.append(("detection", "not measured: no stage of the recipe flags labels"))
    return lines


def _detection(metrics: Mapping[str, Any]) -> str:
    parts = []
    for key, name, undefined in _DETECTION:
        found = figures.figure(metrics, f"detection.{key}")
        parts.append(f"{name} {_plain(found) if found is not None else undefined}")
    return ", ".join(parts)


def _done(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    lines = [
        ("relabelled", _some(metrics, "relabelled", "of the rows kept", "of the rows kept")),
        (
            "dropped",
            _some(
                metrics,
                "dropped",
                ", with its reason in dropped.jsonl",
                ", each with its reason in dropped.jsonl",
            ),
        ),
        ("kept", f"{_count(figures.figure(metrics, 'samples.kept'))}, in cleaned.jsonl"),
    ]
    if (encoded := encoding.closing(metrics)) is not None:
        lines.append(("encoded", encoded))
    tokens = metrics.get("tokens")
    if isinstance(tokens, Mapping) and "response" in tokens:
        lines.append(("tokens", _tokens(metrics)))
    if isinstance(tokens, Mapping) and "token_noise" in tokens:
        lines.append(("token noise", _token_noise(metrics)))
    if isinstance(metrics.get("relabel"), Mapping):
        lines.append(("new labels right", _relabel(metrics)))
        lines.append(("all labels right", _labels(metrics)))
    if (trained := training.closing(metrics)) is not None:
        lines.append(("trained", trained))
    return lines


def _some(metrics: Mapping[str, Any], key: str, of_one: str, of_more: str) -> str:
    """A count of rows and what is to be said of them; ``none`` where there are none."""
    found = figures.figure(metrics, f"samples.{key}")
    if found is not None and not found.mean:
        return "none"
    said = of_one if found is not None and found.mean == 1 else of_more
    return f"{_count(found)}{said if said.startswith(',') else f' {said}'}"


def _tokens(metrics: Mapping[str, Any]) -> str:
    there, left = (figures.figure(metrics, f"tokens.{key}") for key in ("response", "in_loss"))
    took = [
        f"{label.partition('-')[2]} took out {_count(masked)}"
        for label in metrics["tokens"].get("stages") or {}
        if (masked := figures.figure(metrics, "tokens.stages", label, "masked")) and masked.mean
    ]
    return "; ".join([f"{_count(left)} of {_count(there)} are in the loss", *took])


def _token_noise(metrics: Mapping[str, Any]) -> str:
    noise, kept, lost = (
        figures.figure(metrics, f"tokens.token_noise.{key}")
        for key in ("noise", "noise_kept", "signal_dropped")
    )
    if noise is None:
        return "not measured: no response is as the source had it"
    return (
        f"{_share(noise)} of the tokens whose truth is known; {_share(kept) if kept else 'none'} of it is still in "
        f"the loss, and {_share(lost) if lost else 'none'} of the signal is not"
    )


def _relabel(metrics: Mapping[str, Any]) -> str:
    flagged, before, after, kept = (
        figures.figure(metrics, f"relabel.{key}") for key in ("flagged", "before", "after", "kept")
    )
    if flagged is not None and not flagged.mean:
        return "no label was flagged"
    parts = [f"{_share(before)} before selection" if before else "no new label was proposed"]
    if kept is not None and not kept.mean:
        rows = "all flagged rows were" if flagged is None else _were(round(flagged.mean))
        return ", ".join([*parts, f"{rows} dropped"])
    if after is not None:
        parts.append(f"{_share(after)} after it")
    if kept is not None:
        parts.append(f"{_share(kept)} of the flagged rows kept")
    return ", ".join(parts)


def _were(flagged: int) -> str:
    return "the one flagged row was" if flagged == 1 else f"all {flagged:,} flagged rows were"


def _labels(metrics: Mapping[str, Any]) -> str:
    before, after = (
        figures.figure(metrics, f"relabel.labels_{key}") for key in ("before", "after")
    )
    return (
        f"{_share(before) if before else 'not known'} as they came, "
        f"{_share(after) if after else 'none is left'} in what was kept"
    )


def _gain_title(metrics: Mapping[str, Any]) -> str:
    rows = [arm.get("rows") for _, arm in figures.arms(metrics)]
    count = next((int(row) for row in rows if figures.is_number(row)), None)
    one = any(arm.get("sd") is None for _, arm in figures.arms(metrics))
    error = ", ± its standard error" if one else ""
    return (
        f"What it gained (share of {count:,} test rows answered right{error})"
        if count
        else "What it gained"
    )


def _gained(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    arms = figures.arms(metrics)
    if not arms:
        return [
            ("nothing measured", "the recipe has no `evaluate` section, so no arm was examined")
        ]
    lines = [(f"arm {name}", f"{_arm(arm)}{_MEANING.get(name, '')}") for name, arm in arms]
    compared = metrics.get("comparisons") or {}
    for key, name in (
        ("cleaned_minus_raw", "cleaned - raw"),
        ("cleaned_minus_vanilla", "cleaned - vanilla"),
    ):
        difference = compared.get(key)
        if isinstance(difference, Mapping):
            lines.append(
                (
                    name,
                    f"{difference['mean']:+.3f} (95% interval {difference['low']:+.3f} to {difference['high']:+.3f})",
                )
            )
    if len(arms) > 1:
        lines.append(("recovered", _ratio(metrics, "recovered", "of what the noise cost")))
        if isinstance(compared.get("vanilla_minus_raw"), Mapping):
            lines.append(
                (
                    "no training",
                    _ratio(metrics, "recovered_vanilla", "of it, by leaving the model as it is"),
                )
            )
        lines.append(("gain", _ratio(metrics, "gain", "of what the true labels would give")))
        if len(metrics.get("seeds") or ()) == 1:
            lines.append(("intervals", "for new test rows, not for new seeds: add --seeds 0,1,2"))
    return lines


def _arm(arm: Mapping[str, Any]) -> str:
    mean = arm["mean"]
    if arm.get("sd") is not None:
        said = f"{mean:.3f} ± {arm['sd']:.3f}"
    elif figures.is_number(arm.get("standard_error")):
        said = f"{mean:.3f} ± {arm['standard_error']:.3f}"
    else:
        said = f"{mean:.3f}"
    unanswered = arm.get("unanswered")
    if figures.is_number(unanswered) and unanswered:
        said += f", {text.percent(unanswered)} without an answer"
    return said


def _ratio(metrics: Mapping[str, Any], key: str, of: str) -> str:
    found = metrics.get(key)
    above, below = _NEEDS[key]
    compared = metrics.get("comparisons") or {}
    if figures.is_number(found):
        over = compared.get(above)
        if found < 0 and isinstance(over, Mapping):
            arm, other = above.split("_minus_")
            return f"nothing: {arm} is {-over['mean']:.3f} below {other}"
        return f"{found:.2f}{_ends(figures.figure(metrics, key))} {of}"
    missing = [name for name in (above, below) if not isinstance(compared.get(name), Mapping)]
    if missing:
        needed = sorted(
            {arm for name in missing for arm in name.split("_minus_")}
            - set(metrics.get("arms") or {})
        )
        return f"not measured: it needs the arm {' and '.join(needed)}"
    difference = compared[below]
    best, other = below.split("_minus_")
    if difference["mean"] <= 0:
        return f"no share: {best} is no better than {other} ({difference['mean']:+.3f})"
    said = f"no share: {best} is {difference['mean']:.3f} above {other}"
    if difference["standard_error"] is None:
        return f"{said}, on one test row"
    return f"{said}, which may be chance (three standard errors are {3 * difference['standard_error']:.3f})"


def _ends(found: figures.Figure | None) -> str:
    if found is None or found.low is None or found.high is None:
        return ""
    return f" [{found.low:.2f}, {found.high:.2f}]"


def _cost(run_dir: Path, metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    calls = figures.figure(metrics, "calls_per_sample")
    lines = [("calls per sample", _calls(calls)), *_failed(metrics)]
    usd = figures.figure(metrics, "usd")
    found = runs.spent(run_dir)
    if usd is not None:
        said = f"{usd.mean:.4f}{' a seed' if usd.n > 1 else ''}"
        if found is not None and found[1].runs > 1:
            said = runs.both(found, lambda spent: f"{spent.usd:.4f}")
        lines.append(("dollars", said))
    if found is not None:
        if found[1].runs > 1 and found[1].calls:
            lines.append(("calls", runs.both(found, lambda spent: f"{spent.calls:,}")))
        lines.append(("time", _time(found)))
    return lines


def _failed(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Calls that brought no answer, a line a model."""
    found = metrics.get("failed_calls")
    outcomes = found.items() if isinstance(found, Mapping) else ()
    return [
        ("failed calls", told(model, ended)) for model, ended in outcomes if ended.get("failed")
    ]


def _calls(found: Figure | None) -> str:
    if found is None:
        return "not counted"
    if not found.mean:
        return "none: no stage asked a model for an answer"
    return f"fewer than 0.001 ({found.mean:.1e})" if found.mean < 0.0005 else _plain(found)


def _time(found: tuple[runs.Spent, runs.Spent]) -> str:
    said = runs.both(found, lambda spent: duration(spent.seconds, 1))
    untimed = found[1].untimed
    return f"{said}, without {untimed} whose length is not known" if untimed else said
