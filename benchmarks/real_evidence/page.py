"""docs/results-real.md, generated from cells, data, hashes and versions."""

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
    listed,
    mean_sd,
    number,
    ratio,
    seconds,
    share,
    table,
)
from benchmarks.real_evidence import findings
from benchmarks.real_evidence.data import DEV_ROWS, TRUSTED, DataSet
from benchmarks.real_evidence.figures import DETECTED, Figures, figures, flag_all, rules_found
from benchmarks.real_evidence.lines import ASKING, DEFAULT, FEW, LINES
from benchmarks.real_evidence.plan import GRID, TRIED_SEEDS, TRUSTED_AT, chosen, seeds_tried

HEAD: Final = (
    "line", "accuracy (sd)", "n", "less raw [95%]", "less vanilla [95%]", "less cleanlab [95%]", "recovered [95%]",
    "gain [95%]", "rows", "labels right", "precision", "recall", "F1", "ROC-AUC", "calls a row", "seconds to clean", "seconds",
)  # fmt: skip


@dataclass(frozen=True)
class Told:
    """What the page says beside figures: ``facts`` by name, data sets, folders left out and why, defaults as written."""

    facts: Mapping[str, str]
    sets: Sequence[DataSet]
    others: Mapping[str, str]
    defaults: Mapping[str, Mapping[str, Any]]
    train: Mapping[str, Any]
    commands: Sequence[str]
    asked: bool


def page(evidence: Evidence, cells: Cells, told: Told) -> str:
    """Return the report of the finished cells."""
    parts = [
        "# Results: real data and a real model",
        "Made by the command below from the figures of single runs; nothing here is typed by hand. Rerun it to check.",
        "```\n" + "\n".join(told.commands) + "\n```",
        _facts(evidence, told),
        *not_run(evidence),
        "## What it shows",
        _overview(evidence, told),
        *_shown(evidence, told),
        "## What is compared",
        _legend(evidence, told),
        "## Data",
        _data(told),
        "## Settings",
        _settings(cells, told),
        "## The recipe that init writes",
        _defaults(told),
    ]
    for one in told.sets:
        for level in _levels(evidence, one):
            parts += [f"## {one.name}, {level}% of the labels wrong", _lines(evidence, one, level)]
            parts += ["Detection by rule:", _detection(evidence, one, level)]
    return "\n\n".join(parts) + "\n"


def _levels(evidence: Evidence, one: DataSet) -> list[int]:
    return sorted({level for name, level, _ in evidence.plan.detection if name == one.name})


def _facts(evidence: Evidence, told: Told) -> str:
    cells = evidence.made()
    trained = [cell for cell in cells if cell.get("trained_in") == cell["cell"]["key"]]
    rows = [
        *told.facts.items(),
        ("seeds", ", ".join(map(str, evidence.scope.seeds))),
        ("device", device(cells)),
        ("cells", f"{len(cells)} of {len(evidence.plan.cells)}; {len(trained)} trainings, each done once"),
        ("commits", commits(commits_of(cells))),
    ]  # fmt: skip
    return table(("what", "value"), rows)


def _overview(evidence: Evidence, told: Told) -> str:
    """Return the accuracy of every line at every level."""
    places = [(one, level) for one in told.sets for level in _levels(evidence, one)]
    head = ["line", *(f"{one.name} {level}%" for one, level in places)]
    rows = []
    for name in LINES:
        planned = [evidence.is_planned(name, one.name, level) for one, level in places]
        if any(planned):
            shown = [evidence.line(name, one.name, level) for one, level in places]
            rows.append(
                [name, *(mean_sd(x.accuracy) if x else NOT_RUN if p else NONE for x, p in zip(shown, planned, strict=True))]
            )  # fmt: skip
    rows.append(["**best method**", *(findings.best(evidence, one.name, level) for one, level in places)])  # fmt: skip
    return table(head, rows)


def _shown(evidence: Evidence, told: Told) -> list[str]:
    said = [findings.learnable(evidence, one.name, one.frequent) for one in told.sets]
    for one in told.sets:
        for level in _levels(evidence, one):
            said += findings.level(evidence, one.name, level)
    return [bullets(said)]


def _lines(evidence: Evidence, one: DataSet, level: int) -> str:
    names = [name for name in LINES if evidence.is_planned(name, one.name, level)]
    rows = [_row(name, figures(evidence, name, one.name, level)) for name in names]
    return table(HEAD, rows) + "\n\n" + _unanswered(evidence, one, level)


def _row(name: str, found: Figures | None) -> list[str]:
    if found is None:
        return [name, NOT_RUN, *([NONE] * (len(HEAD) - 2))]
    line, alone = found.line, name == "vanilla"
    return [
        name,
        mean_sd(line.accuracy),
        str(line.accuracy.n),
        NONE if name == "raw" else interval(line.raw),
        NONE if alone else interval(line.vanilla),
        interval(findings.plain(found.less_cleanlab)),
        ratio(line.recovered_vanilla, line.intervals.get("recovered_vanilla")) if alone
        else ratio(line.recovered, line.intervals.get("recovered")),
        NONE if alone else ratio(line.gain, line.intervals.get("gain")),
        count(line.kept) if alone or line.kept is not None else "0",
        mean_sd(line.labels_right),
        *(mean_sd(found.found[key]) for key in DETECTED),
        number(line.calls.mean if line.calls else None),
        seconds(found.cleaning),
        seconds(found.seconds),
    ]  # fmt: skip


def _unanswered(evidence: Evidence, one: DataSet, level: int) -> str:
    found = [(name, figures(evidence, name, one.name, level)) for name in LINES]
    none = [f"{name} {share(f.no_answer.mean)}" for name, f in found if f and f.no_answer and f.no_answer.mean > 0]  # fmt: skip
    return f"Share of test rows without an answer that can be read: {', '.join(none) or 'none'}."


def _detection(evidence: Evidence, one: DataSet, level: int) -> str:
    found = rules_found(evidence, one.name, level)
    if not found:
        return NOT_RUN
    rate = evidence.truth_rate(one.name, level)
    rows = [
        [f"`{name}`", *(mean_sd(values[key]) for key in (*DETECTED, "flagged"))]
        for name, values in found.items()
    ]
    rows.append(["flagging all", mean_sd(rate), "1.000", mean_sd(flag_all(evidence, one.name, level)), NONE, "1.000"])  # fmt: skip
    return table(("rule", "precision", "recall", "F1", "ROC-AUC", "flagged"), rows)


def _legend(evidence: Evidence, told: Told) -> str:
    absent = [name for name in LINES if not any(name == line for line, *_ in evidence.plan.of)]
    left_out = [name for name in absent if name in (*ASKING, DEFAULT)]
    shown = {name: text for name, text in LINES.items() if name not in absent}
    left = "" if told.asked else (
        f" Not part of this page: {listed([f'`{name}`' for name in left_out])} and rules over the student's own answers, for which it writes "
        "several answers to every row; `--asked` adds them."
    )  # fmt: skip
    return (
        bullets(f"**{name}**: {text}." for name, text in shown.items())
        + f"\n\nThe lines with checked labels are at {TRUSTED_AT}%. A data set whose rows have options of their own has {listed(FEW)} alone. "
        "All lines train the same student with the same settings for the same number of steps; equal rows are trained on once. A line that keeps no row ends in the untrained student."
        + left
        + "\n\nAccuracy on the test rows, mean and standard deviation over n seeds; the student writes four tokens at most, and what cannot "
        "be read as a letter of an option is wrong. *less ...*: paired differences, in brackets their 95% intervals for new seeds and new test rows "
        "(crossed random effects, t quantiles; of one seed for new rows alone). *recovered* = (line - raw) / (truth - raw), in "
        "vanilla's row (vanilla - raw) / (truth - raw); *gain* = (line - vanilla) / (truth - vanilla); a dash where the denominator is under "
        "three standard errors. *labels right*: among the rows trained on. Precision, recall, F1 and ROC-AUC: of the line's "
        "own flags, wrong labels are the positives. *seconds*: processor time, of the stages and in all; a line whose rows were trained on before has no second figure.\n\n"
        "What a seed varies: the order of training rows and the initialisation of the adapter, the folds and draws of the stages, which "
        f"{TRUSTED} rows are checked, and the noise. Seed 0 has the published noisy file. Other seeds flip the labels anew by the rule of the published "
        "files, `random.Random(seed).sample(range(n), int(n * ratio))`; the wrong letter is drawn by the same generator, `choice` among the "
        "other letters, row by row (the published rule for it is not known). `vanilla` has no seed."
    )


def _data(told: Told) -> str:
    head = ("data set", "train rows", "test rows", "options", "published levels", "wrong rows by the rule", "labels of no option", "SHA-256")  # fmt: skip
    rows = [
        [
            one.name,
            str(len(one.truth)),
            str(len(one.test)),
            "the same in all rows" if one.closed else "each row its own",
            ", ".join(f"{level}%" for level in sorted(one.noisy)),
            ", ".join(f"{level}%: {'yes' if one.by_rule(level) else 'no'}" for level in sorted(one.noisy)),
            ", ".join(f"{level}%: {one.nameless(level)}" for level in sorted(one.noisy)),
            f"`{one.digest}`",
        ]
        for one in told.sets
    ]  # fmt: skip
    left = [f"{name}: {why}" for name, why in sorted(told.others.items())]
    return table(head, rows) + ("\n\nFolders that are no data set of this kind: " + "; ".join(left) + "." if left else "")  # fmt: skip


def _settings(cells: Cells, told: Told) -> str:
    names = list(GRID[0])
    first = told.sets[0].name
    taken, rows = chosen(cells, first), []
    for setting in GRID:
        values = seeds_tried(cells, setting, first)
        mark = "chosen" if setting == taken else ""
        accuracy = ", ".join(share(value["accuracy"]) for value in values) or NOT_RUN
        spent = ", ".join(f"{value['seconds']:.0f}" for value in values) or NONE
        rows.append([*(f"{setting[name]:g}" for name in names), accuracy, spent, mark])
    left = "" if taken is not None else "\n\nNot chosen yet, so that no line has run."
    fixed = ", ".join(f"{key} {value}" for key, value in told.train.items() if key not in ("use", "model", "epochs", *names))  # fmt: skip
    return (
        f"Chosen before any line was trained, for all data sets alike, on {DEV_ROWS} rows (a quarter of a small set) held out of the truth of {first}, "
        f"by a student that trained on the rest of it, once with each of the seeds {', '.join(map(str, TRIED_SEEDS))}; the worse of them counts: of the settings within one standard "
        "error of the best the one that sees the fewest rows, of equals the best. No test row has a part in it. "
        f"Fixed beforehand: {fixed}.\n\n"
        + table((*names, "accuracy on the rows held out", "seconds", ""), rows)
        + left
    )


def _defaults(told: Told) -> str:
    if not told.defaults:
        return NOT_RUN
    shown = [f"{name}: " + " → ".join(f"`{_plain(stage)}`" for stage in value["samples"]) for name, value in told.defaults.items()]  # fmt: skip
    return f"`{DEFAULT}` has these stages:\n\n" + bullets(shown)


def _plain(stage: Mapping[str, Any]) -> str:
    settings = ", ".join(f"{key}: {value}" for key, value in stage.items() if key != "use")
    return f"{stage['use']}({settings})".replace("'", "")
