"""The tables of the report, as markdown, from whatever cells there are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from benchmarks.evidence.figures import Evidence, Line, Rule
from benchmarks.evidence.findings import found_rules
from benchmarks.evidence.lines import ABLATIONS, CONTROLS, LINES
from benchmarks.evidence.plan import BETAS, KS, MIDDLE
from benchmarks.evidence.text import (
    NONE,
    NOT_RUN,
    count,
    interval,
    mean_sd,
    number,
    ratio,
    share,
    table,
)

LINE_HEAD: Final = (
    "line", "accuracy (sd)", "n", "less vanilla [95%]", "less raw [95%]", "recovered [95%]", "gain [95%]", "rows", "labels right",
    "steps", "calls", "tokens",
)  # fmt: skip
RULE_HEAD: Final = (
    "rule", "F1 (sd)", "precision", "recall", "MCC", "average precision", "ROC-AUC", "calibration error",
    "estimated rate", "flagged", "bound", "F1 / bound", "calls", "tokens", "calls, whole",
)  # fmt: skip


def verdicts(evidence: Evidence) -> str:
    """One row a level: what was asked for, and what was reached."""
    head = (
        "level", "gain [95%]", "less vanilla [95%]", "recovered [95%]", "of it by not training [95%]", "best F1",
        "`all` / its bound", "calls / official", "a control wins",
    )  # fmt: skip
    rows = []
    for noise in evidence.scope.noises:
        for percent in evidence.scope.percents:
            made = evidence.line("robustft", noise, percent)
            best, of_bound, calls = found_rules(evidence, noise, percent)
            wins = [
                name
                for name in CONTROLS
                if (gap := evidence.difference(name, "robustft", noise, percent)) is not None
                and gap.mean > gap.error
            ]
            rows.append(
                [
                    f"{noise} {percent}%",
                    _ratio(made, "gain"),
                    interval(made.vanilla if made else None),
                    _ratio(made, "recovered"),
                    _ratio(made, "recovered_vanilla"),
                    share(best),
                    share(of_bound),
                    share(calls),
                    (", ".join(wins) or "none") if made else NOT_RUN,
                ]
            )
    return table(head, rows)


def overview(evidence: Evidence) -> str:
    """Return the accuracy of every line at every level."""
    levels = [
        (noise, percent) for noise in evidence.scope.noises for percent in evidence.scope.percents
    ]
    head = ["line", *(f"{noise} {percent}%" for noise, percent in levels)]
    rows = []
    for name in LINES:
        found = [evidence.line(name, noise, percent) for noise, percent in levels]
        rows.append([name, *(mean_sd(line.accuracy) if line else NOT_RUN for line in found)])
    return table(head, rows)


def lines(evidence: Evidence, names: Iterable[str], noise: str, percent: int) -> str:
    """Each line with its differences and costs, at one level."""
    return table(
        LINE_HEAD,
        [_line_row(name, evidence.line(name, noise, percent)) for name in names],
    )


def _line_row(name: str, line: Line | None) -> list[str]:
    if line is None:
        return [name, NOT_RUN, *([NONE] * (len(LINE_HEAD) - 2))]
    alone = name == "vanilla"
    return [
        name,
        mean_sd(line.accuracy),
        str(line.accuracy.n),
        NONE if alone else interval(line.vanilla),
        NONE if name == "raw" else interval(line.raw),
        _ratio(line, "recovered_vanilla" if alone else "recovered"),
        NONE if alone else _ratio(line, "gain"),
        count(line.kept),
        mean_sd(line.labels_right),
        count(line.steps),
        number(line.calls.mean if line.calls else None),
        count(line.tokens),
    ]


def _ratio(line: Line | None, name: str) -> str:
    return NONE if line is None else ratio(getattr(line, name), line.intervals.get(name))


def sweep(evidence: Evidence, noise: str) -> str:
    """Accuracy over beta and over k, at the middle level."""
    out = []
    for label, values in (("beta", BETAS), ("k", KS)):
        found = [evidence.line(f"{label}={value}", noise, MIDDLE) for value in values]
        out.append(
            table(
                [label, *(f"{value:g}" for value in values)],
                [
                    ["accuracy (sd)", *(mean_sd(x.accuracy) if x else NOT_RUN for x in found)],
                    ["rows", *(count(x.kept) if x else NONE for x in found)],
                ],
            )
        )
    return "\n\n".join(out)


def ablations(evidence: Evidence, noise: str) -> str:
    """Table 3 at the middle level."""
    return lines(evidence, ("robustft", *ABLATIONS), noise, MIDDLE)


def detection(evidence: Evidence, noise: str, percent: int) -> str:
    """Every rule at one level, beside flagging all."""
    rules = evidence.rules(noise, percent)
    if not rules:
        return NOT_RUN
    everything = rules[0].figures["flag_all"]
    rate = evidence.truth_rate(noise, percent)
    foot = f"True noise rate: {mean_sd(rate)}. n = {rate.n if rate else 0} seeds."
    dashes = [NONE] * (len(RULE_HEAD) - 5)
    last = ["flagging all", mean_sd(everything), *dashes, "0.00", "0", "2.00"]
    return table(RULE_HEAD, [*map(_rule_row, rules), last]) + "\n\n" + foot


def _rule_row(rule: Rule) -> list[str]:
    figures = rule.figures
    plain = ("precision", "recall", "mcc", "average_precision", "roc_auc", "calibration", "estimate", "flagged",
             "bound", "of_bound")  # fmt: skip
    means = [share(found.mean) if (found := figures[key]) else NONE for key in plain]
    return [
        f"`{rule.name}`", mean_sd(figures["f1"]), *means, number(rule.calls), f"{rule.tokens:.0f}", number(rule.whole),
    ]  # fmt: skip


def families(evidence: Evidence, noise: str, of: Mapping[str, str]) -> str:
    """Accuracy by family of the test rows at the middle level."""
    if not of:
        return "The test rows name no family."
    names = sorted(set(of.values()))
    sizes = [sum(family == name for family in of.values()) for name in names]
    rows = [["rows", *map(str, sizes)]]
    for line in ("vanilla", "raw", "robustft", "truth"):
        found = evidence.families(line, noise, MIDDLE, of)
        rows.append([line, *(mean_sd(found.get(name)) if found else NOT_RUN for name in names)])
    return table(["line", *names], rows)


def profile(value: Mapping[str, Any] | None) -> str:
    """Skill by family: share right, its 95% interval (Wilson) and n."""
    if not value:
        return "No profile ships with the weights."
    skills = {name: row for name, row in value.items() if _is_skill(row)}
    names = dict.fromkeys(family for row in skills.values() for family in row)
    rows = [[name, *(_skill(row.get(name)) for row in skills.values())] for name in names]
    return table(["family", *skills], rows)


def _is_skill(row: Any) -> bool:
    return isinstance(row, Mapping) and any(
        isinstance(figure, Mapping) and "right" in figure for figure in row.values()
    )


def _skill(figure: Mapping[str, Any] | None) -> str:
    if not isinstance(figure, Mapping) or "right" not in figure:
        return NONE
    bounds = ""
    if "low" in figure and "high" in figure:
        bounds = f" [{share(figure['low'])}, {share(figure['high'])}]"
    return (
        f"{share(figure['right'])}{bounds} n={figure['n']}"
        if "n" in figure
        else share(figure["right"])
    )
