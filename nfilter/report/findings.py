"""The results of a run as text: label noise, cleaning, accuracy and cost, for the closing screen and the page."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from nfilter.api.durations import duration
from nfilter.api.notes import is_number
from nfilter.metrics import figures
from nfilter.metrics.figures import Figure
from nfilter.report import encoding, rate, reading, runs, text, training
from nfilter.store.failed_calls import failed_calls_text

_DETECTION = (
    ("precision", "precision", "undefined, no label was flagged"),
    ("recall", "recall", "undefined, no label is wrong"),
    ("f1", "F1", "undefined, no label is wrong"),
    ("roc_auc", "ROC-AUC", "undefined, no scores or all labels have the same truth"),
)
_MEANING: Final = {
    "vanilla": ", not trained",
    "raw": ", trained on the original labels",
    "cleaned": ", trained on the cleaned rows",
    "truth": ", trained on the true labels",
}
_NEEDS: Final = {
    "recovered": ("cleaned_minus_raw", "truth_minus_raw"),
    "recovered_vanilla": ("vanilla_minus_raw", "truth_minus_raw"),
    "gain": ("cleaned_minus_vanilla", "truth_minus_vanilla"),
}
"""The numerator and the denominator of each ratio, both differences between arms."""


@dataclass(frozen=True, slots=True)
class Section:
    """A heading and its lines, each a name and a text."""

    title: str
    lines: list[tuple[str, str]]


def findings(run_dir: Path, metrics: Mapping[str, Any]) -> list[Section]:
    """Return the sections of the closing screen, for a run or a group of seeds."""
    return [
        Section("Label noise", _noise(run_dir, metrics)),
        Section("Cleaning", _cleaning(metrics)),
        Section(_accuracy_title(metrics), _accuracy(metrics)),
        Section("Cost", _cost(run_dir, metrics)),
    ]


def headline(run_dir: Path, metrics: Mapping[str, Any]) -> str:
    """Return the run's name, directory and seeds."""
    seeds = metrics.get("seeds") or []
    word = "seed" if len(seeds) == 1 else "seeds"
    of_seeds = f", {word} {', '.join(str(seed) for seed in seeds)}" if seeds else ""
    return f"{metrics.get('name', run_dir.name)} in {run_dir}{of_seeds}"


def _count(figure: Figure | None) -> str:
    return "not counted" if figure is None else f"{round(figure.mean):,}"


def _decimal(figure: Figure) -> str:
    mean = f"{figure.mean:.3f}"
    return mean if figure.sd is None else f"{mean} ± {figure.sd:.3f}"


def _noise(run_dir: Path, metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    lines = [("rows read", _count(figures.figure(metrics, "samples.read")))]
    if len(metrics.get("seeds") or []) > 1:
        lines.append(("±", "standard deviation over seeds; counts are means"))
    lines += [
        (f"seed {seed}", f"not in the figures: {why}")
        for seed, why in (metrics.get("nothing_left") or {}).items()
    ]
    unreadable = figures.figure(metrics, "samples.unreadable")
    if unreadable is not None and unreadable.mean:
        lines.append(
            (
                "unreadable",
                f"{_count(unreadable)}, in quarantine.jsonl with line and error",
            )
        )
    noise_rate = rate.noise_rate(run_dir, metrics)
    if noise_rate is not None:
        by = ", narrowed by rows checked by hand" if rate.audited(run_dir) is not None else ""
        lines.append(("wrong labels", f"{rate.rate_text(noise_rate)}{by}"))
    else:
        why = (
            "some views did not answer every row"
            if figures.reported(metrics, "not_asked")
            else "no stage of the recipe estimates a noise rate"
        )
        lines.append(("wrong labels", f"not estimated: {why}"))
    truth = figures.true_rate(metrics)
    if truth is not None:
        lines.append(("true noise rate", rate.share_text(truth)))
    if "detection" in metrics:
        lines.append(("detection", _detection(metrics)))
    elif reading.has_verdicts(run_dir):
        run = shlex.quote(str(reading.first_run(run_dir)))
        lines.append(
            (
                "detection",
                f"not measured: the true labels are unknown; `nfilter audit {run}` estimates it from rows checked by hand",
            )
        )
    else:
        lines.append(("detection", "not measured: no stage of the recipe flags labels"))
    return lines


def _detection(metrics: Mapping[str, Any]) -> str:
    parts = []
    for key, name, undefined in _DETECTION:
        figure = figures.figure(metrics, f"detection.{key}")
        parts.append(f"{name} {_decimal(figure) if figure is not None else undefined}")
    return ", ".join(parts)


def _cleaning(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    lines = [
        ("relabelled", _some(metrics, "relabelled", "of the kept rows")),
        (
            "dropped",
            _some(metrics, "dropped", ", with reasons in dropped.jsonl"),
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


def _some(metrics: Mapping[str, Any], key: str, detail: str) -> str:
    """A count of rows with ``detail``; ``none`` if it is 0."""
    figure = figures.figure(metrics, f"samples.{key}")
    if figure is not None and not figure.mean:
        return "none"
    return f"{_count(figure)}{detail if detail.startswith(',') else f' {detail}'}"


def _tokens(metrics: Mapping[str, Any]) -> str:
    response, in_loss = (
        figures.figure(metrics, f"tokens.{key}") for key in ("response", "in_loss")
    )
    by_stage = [
        f"{label.partition('-')[2]} masked {_count(masked)}"
        for label in metrics["tokens"].get("stages") or {}
        if (masked := figures.figure(metrics, "tokens.stages", label, "masked")) and masked.mean
    ]
    return "; ".join([f"{_count(in_loss)} of {_count(response)} are in the loss", *by_stage])


def _token_noise(metrics: Mapping[str, Any]) -> str:
    noise, kept, lost = (
        figures.figure(metrics, f"tokens.token_noise.{key}")
        for key in ("noise", "noise_kept", "signal_dropped")
    )
    if noise is None:
        return "not measured: every response differs from the source"
    return (
        f"{rate.share_text(noise)} of the tokens with known truth are noise; {rate.share_text(kept) if kept else 'none'} of the noise is in "
        f"the loss, and {rate.share_text(lost) if lost else 'none'} of the other tokens is not"
    )


def _relabel(metrics: Mapping[str, Any]) -> str:
    flagged, before, after, kept = (
        figures.figure(metrics, f"relabel.{key}") for key in ("flagged", "before", "after", "kept")
    )
    if flagged is not None and not flagged.mean:
        return "no label was flagged"
    parts = [
        f"{rate.share_text(before)} before selection" if before else "no new label was proposed"
    ]
    if kept is not None and not kept.mean:
        rows = "all flagged rows were" if flagged is None else _were(round(flagged.mean))
        return ", ".join([*parts, f"{rows} dropped"])
    if after is not None:
        parts.append(f"{rate.share_text(after)} after it")
    if kept is not None:
        parts.append(f"{rate.share_text(kept)} of the flagged rows kept")
    return ", ".join(parts)


def _were(flagged: int) -> str:
    return "the one flagged row was" if flagged == 1 else f"all {flagged:,} flagged rows were"


def _labels(metrics: Mapping[str, Any]) -> str:
    before, after = (
        figures.figure(metrics, f"relabel.labels_{key}") for key in ("before", "after")
    )
    return (
        f"{rate.share_text(before) if before else 'unknown'} before cleaning, "
        f"{rate.share_text(after) if after else 'none'} after it"
    )


def _accuracy_title(metrics: Mapping[str, Any]) -> str:
    rows = [arm.get("rows") for _, arm in figures.arms(metrics)]
    count = next((int(row) for row in rows if is_number(row)), None)
    one = any(arm.get("sd") is None for _, arm in figures.arms(metrics))
    error = ", ± standard error" if one else ""
    return f"Accuracy ({count:,} test rows{error})" if count else "Accuracy"


def _accuracy(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    arms = figures.arms(metrics)
    if not arms:
        return [("not measured", "the recipe has no `evaluate` section, so no arm was evaluated")]
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
        lines.append(("recovered", _ratio(metrics, "recovered", "of the accuracy lost to noise")))
        if isinstance(compared.get("vanilla_minus_raw"), Mapping):
            lines.append(
                (
                    "no training",
                    _ratio(metrics, "recovered_vanilla", "recovered"),
                )
            )
        lines.append(("gain", _ratio(metrics, "gain", "of the gain with true labels")))
        if len(metrics.get("seeds") or ()) == 1:
            lines.append(("intervals", "over test rows, not over seeds: add --seeds 0,1,2"))
    return lines


def _arm(arm: Mapping[str, Any]) -> str:
    mean = arm["mean"]
    if arm.get("sd") is not None:
        accuracy = f"{mean:.3f} ± {arm['sd']:.3f}"
    elif is_number(arm.get("standard_error")):
        accuracy = f"{mean:.3f} ± {arm['standard_error']:.3f}"
    else:
        accuracy = f"{mean:.3f}"
    unanswered = arm.get("unanswered")
    if is_number(unanswered) and unanswered:
        accuracy += f", {text.percent(unanswered)} without an answer"
    return accuracy


def _ratio(metrics: Mapping[str, Any], key: str, of: str) -> str:
    """A ratio of differences between arms with its interval, or why it is undefined."""
    ratio = metrics.get(key)
    above, below = _NEEDS[key]
    compared = metrics.get("comparisons") or {}
    if is_number(ratio):
        over = compared.get(above)
        if ratio < 0 and isinstance(over, Mapping):
            arm, other = above.split("_minus_")
            return f"none: {arm} is {-over['mean']:.3f} below {other}"
        return f"{ratio:.2f}{_interval(figures.figure(metrics, key))} {of}"
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
        return f"undefined: {best} is no better than {other} ({difference['mean']:+.3f})"
    undefined = f"undefined: {best} is {difference['mean']:.3f} above {other}"
    if difference["standard_error"] is None:
        return f"{undefined}, on one test row"
    return f"{undefined}, which may be chance (three standard errors are {3 * difference['standard_error']:.3f})"


def _interval(figure: Figure | None) -> str:
    if figure is None or figure.low is None or figure.high is None:
        return ""
    return f" [{figure.low:.2f}, {figure.high:.2f}]"


def _cost(run_dir: Path, metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    calls = figures.figure(metrics, "calls_per_sample")
    lines = [("calls per sample", _calls(calls)), *_failed(metrics)]
    usd = figures.figure(metrics, "usd")
    spent = runs.spent(run_dir)
    if usd is not None:
        dollars = f"{usd.mean:.4f}{' per seed' if usd.n > 1 else ''}"
        if spent is not None and spent[1].runs > 1:
            dollars = runs.both(spent, lambda each: f"{each.usd:.4f}")
        lines.append(("dollars", dollars))
    if spent is not None:
        if spent[1].runs > 1 and spent[1].calls:
            lines.append(("calls", runs.both(spent, lambda each: f"{each.calls:,}")))
        lines.append(("time", _time(spent)))
    return lines


def _failed(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Failed calls, one line per model."""
    outcomes = metrics.get("failed_calls")
    return [
        ("failed calls", failed_calls_text(model, outcome))
        for model, outcome in (outcomes.items() if isinstance(outcomes, Mapping) else ())
        if outcome.get("failed")
    ]


def _calls(figure: Figure | None) -> str:
    if figure is None:
        return "not counted"
    if not figure.mean:
        return "none: no stage called a model"
    return f"below 0.001 ({figure.mean:.1e})" if figure.mean < 0.0005 else _decimal(figure)


def _time(spent: tuple[runs.Spent, runs.Spent]) -> str:
    time = runs.both(spent, lambda each: duration(each.seconds, 1))
    untimed = spent[1].untimed
    return f"{time}, without {untimed} of unknown length" if untimed else time
