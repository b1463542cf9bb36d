"""The plots, as SVG with the same bytes for the same figures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from benchmarks.evidence.figures import Evidence, Line, Rule, Spread
from benchmarks.evidence.findings import official_rule
from benchmarks.evidence.lines import LINES, VIEW_SETS, VOTES
from benchmarks.evidence.plan import BETAS, KS, MIDDLE

SETTINGS: Final[Any] = {
    "svg.hashsalt": "nfilter",
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
}
MARKERS: Final = "osD^vP*Xhp"
COLOURS: Final = (
    "#777777", "#cc4444", "#b07aa1", "#1f5fa8", "#59a14f", "#f28e2b", "#9c755f", "#76b7b2", "#222222", "#999933",
)  # fmt: skip
ENOUGH: Final = 0.6


def draw(evidence: Evidence, folder: Path) -> dict[str, str]:
    """Draw what there are figures for; the file names by the name of the plot."""
    drawers = {"main": _main, "calls": _calls, "calibration": _calibration, "sweep": _sweep}
    drawn = {}
    for name, drawer in drawers.items():
        with _figure(len(evidence.scope.noises)) as (figure, axes):
            if drawer(evidence, axes):
                folder.mkdir(parents=True, exist_ok=True)
                _save(figure, folder / f"{name}.svg")
                drawn[name] = f"{name}.svg"
    return drawn


@contextmanager
def _figure(panels: int) -> Iterator[tuple[Any, Sequence[Any]]]:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(SETTINGS):
        figure = Figure(figsize=(4.6 * panels + 2.6, 4.2), layout="constrained")
        axes = figure.subplots(1, panels, squeeze=False)[0]
        yield figure, list(axes)


def _save(figure: Any, file: Path) -> None:
    part = file.with_name(f".{file.name}.part")
    figure.savefig(part, format="svg", metadata={"Date": None, "Creator": None})
    part.replace(file)


def _points(
    axis: Any,
    x: Sequence[float],
    found: Sequence[Spread],
    place: int,
    label: str,
    marker: int | None = None,
) -> None:
    axis.errorbar(
        x,
        [value.mean for value in found],
        yerr=[value.error for value in found],
        label=label,
        color=COLOURS[place % len(COLOURS)],
        marker=MARKERS[(place if marker is None else marker) % len(MARKERS)],
        markersize=5,
        linewidth=1,
        capsize=2,
    )


def _main(evidence: Evidence, axes: Sequence[Any]) -> bool:
    """Accuracy of each line over the noise, a panel a kind of noise."""
    any_line = False
    for axis, noise in zip(axes, evidence.scope.noises, strict=True):
        for place, name in enumerate(LINES):
            found = [
                (p, line)
                for p in evidence.scope.percents
                if (line := evidence.line(name, noise, p))
            ]
            if found:
                any_line = True
                _points(
                    axis, [p for p, _ in found], [line.accuracy for _, line in found], place, name
                )
        axis.set(title=noise, xlabel="wrong labels, %", ylabel="test accuracy ± standard error")
        axis.set_xticks(list(evidence.scope.percents))
    if any_line:
        axes[-1].legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    return any_line


def _calls(evidence: Evidence, axes: Sequence[Any]) -> bool:
    """F1 of each rule against calls a sample with relabel and review, the official recipe marked."""
    percent = _middle(evidence)
    any_rule = False
    for axis, noise in zip(axes, evidence.scope.noises, strict=True):
        rules = evidence.rules(noise, percent)
        any_rule = any_rule or bool(rules)
        for place, rule in enumerate(rules):
            _rule_point(axis, rule, place)
        published = official_rule(rules)
        if published is not None:
            axis.axvline(published.whole, color="black", linewidth=1, label="official 2N + 2M")
            axis.axvline(
                ENOUGH * published.whole,
                color="black",
                linestyle=":",
                linewidth=1,
                label="60% of it",
            )
        axis.set(
            title=f"{noise}, {percent}%",
            xlabel="calls a sample, whole",
            ylabel="F1 of wrong labels",
        )
    if any_rule:
        found = axes[-1].get_legend_handles_labels()
        named = [(h, n) for h, n in zip(*found, strict=True) if not n.startswith("_")]
        handles = [*_key(), *(handle for handle, _ in named)]
        axes[-1].legend(handles=handles, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    return any_rule


def _key() -> list[Any]:
    """What a colour and what a marker stand for: rules are too many to be named one by one."""
    from matplotlib.lines import Line2D

    views = [
        Line2D([], [], color=COLOURS[1 + place], marker="o", linestyle="", label="+".join(names))
        for place, names in enumerate(VIEW_SETS)
    ]
    votes = [
        Line2D([], [], color="black", marker=MARKERS[place], linestyle="", label=vote)
        for place, vote in enumerate(VOTES)
    ]
    return [*views, *votes]


def _rule_point(axis: Any, rule: Rule, place: int) -> None:
    """Colour by the views, marker by the vote; a star, with its name, for what was measured to its end."""
    if (f1 := rule.figures["f1"]) is None:
        return
    sets = [*VIEW_SETS]
    known = rule.views in sets
    colour = 1 + sets.index(rule.views) if known else 1 + len(sets) + place % 2
    marker = VOTES.index(rule.vote) if rule.vote in VOTES else MARKERS.index("*")
    name = f"_{rule.name}" if known else rule.name.replace(", reasoning only where needed", "")
    _points(axis, [rule.whole], [f1], colour, name, marker)


def _calibration(evidence: Evidence, axes: Sequence[Any]) -> bool:
    """The estimated noise rate over the true one, for the probability rules."""
    any_rule = False
    for axis, noise in zip(axes, evidence.scope.noises, strict=True):
        by_rule: dict[str, list[tuple[float, Spread]]] = {}
        for percent in evidence.scope.percents:
            rate = evidence.truth_rate(noise, percent)
            for rule in evidence.rules(noise, percent):
                estimate = rule.figures["estimate"]
                if rule.vote == "probability" and rate is not None and estimate is not None:
                    by_rule.setdefault(rule.name, []).append((rate.mean, estimate))
        for place, (name, found) in enumerate(by_rule.items()):
            any_rule = True
            _points(axis, [x for x, _ in found], [value for _, value in found], place, name)
        axis.axline((0, 0), slope=1, color="black", linewidth=0.8)
        axis.set(
            title=noise, xlabel="true noise rate", ylabel="estimated", xlim=(0, 1), ylim=(0, 1)
        )
    if any_rule:
        axes[-1].legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    return any_rule


def _sweep(evidence: Evidence, axes: Sequence[Any]) -> bool:
    """Accuracy over beta (left of the panel's axis) and over k, both at the middle level."""
    any_line = False
    for axis, noise in zip(axes, evidence.scope.noises, strict=True):
        above = axis.twiny()
        for where, label, values, place in ((axis, "beta", BETAS, 3), (above, "k", KS, 5)):
            found: list[tuple[float, Line]] = [
                (v, line) for v in values if (line := evidence.line(f"{label}={v}", noise, MIDDLE))
            ]
            where.set_xlabel(label, color=COLOURS[place])
            if len(found) > 1:
                any_line = True
                _points(
                    where, [v for v, _ in found], [line.accuracy for _, line in found], place, label
                )
        above.grid(visible=False)
        axis.set(title=f"{noise}, {MIDDLE}%", ylabel="test accuracy ± standard error")
    return any_line


def _middle(evidence: Evidence) -> int:
    return MIDDLE if MIDDLE in evidence.scope.percents else evidence.scope.percents[0]
