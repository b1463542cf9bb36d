"""docs/results.md: all of it from cells, hashes and versions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from benchmarks.evidence import findings, tables
from benchmarks.evidence.figures import Evidence
from benchmarks.evidence.lines import ABLATIONS, LINES
from benchmarks.evidence.plan import MIDDLE
from benchmarks.evidence.text import NOT_RUN, bullets, count, listed, table

SHOWN: Final = 8


def page(
    evidence: Evidence,
    facts: Mapping[str, Any],
    families: Mapping[str, str],
    commands: Sequence[str],
    pictures: Mapping[str, str],
) -> str:
    """The whole report. ``pictures`` are the plots that were drawn, by name, relative to the page."""
    parts = [
        "# Results",
        "Made by the commands below from the figures of single runs; nothing here is typed by hand. Rerun them to check.",
        *_head(evidence, facts, commands),
        "## What it shows",
        (
            "*gain*, *less vanilla* and *recovered* are RobustFT's, as in the main table; *best F1* is that of the best rule, and "
            "*calls* those of the cheapest rule within a standard error of it, as a share of the official 2N + 2M."
        ),
        tables.verdicts(evidence),
        *_findings(evidence),
        "## Main table",
        _legend(),
        tables.overview(evidence),
        *_pictures(pictures, ("main",)),
    ]
    for noise in evidence.scope.noises:
        for percent in evidence.scope.percents:
            parts += [
                f"### {percent}% {findings.NOISES[noise]}",
                tables.lines(evidence, LINES, noise, percent),
            ]
    parts += ["## Detection by rule", _rule_legend()]
    for noise in evidence.scope.noises:
        for percent in evidence.scope.percents:
            parts += [
                f"### {percent}% {findings.NOISES[noise]}: detection",
                tables.detection(evidence, noise, percent),
            ]
    parts += _pictures(pictures, ("calls", "calibration"))
    if not evidence.scope.quick:
        parts += _variations(evidence, pictures)
    parts += [
        "## By family",
        f"Accuracy at {MIDDLE}% noise, by family of the test rows, mean and sd.",
    ]
    for noise in evidence.scope.noises:
        parts += [
            f"### {findings.NOISES[noise].capitalize()}",
            tables.families(evidence, noise, families),
        ]
    parts += ["## The model", "Share right on held-out questions, its 95% interval (Wilson) and n."]
    parts += [tables.profile(facts.get("profile"))]
    return "\n\n".join(parts) + "\n"


def _head(evidence: Evidence, facts: Mapping[str, Any], commands: Sequence[str]) -> list[str]:
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    cells = evidence.made()
    trained = [cell for cell in cells if cell.get("trained_in") == cell["cell"]["key"]]
    rows = [
        ["versions", versions],
        ["seeds", ", ".join(map(str, evidence.scope.seeds))],
        ["rows", _rows(evidence)],
        ["optimiser steps", _steps(evidence)],
        ["device", device(cells)],
        [
            "cells",
            f"{len(cells)} of {len(evidence.plan.cells)}; {len(trained)} trainings, each done once",
        ],
        ["commits", commits(facts["commits"])],
        *[[f"SHA-256 of the {name} rows", f"`{value}`"] for name, value in facts["data"].items()],
        *[[f"SHA-256 of {name}", f"`{value}`"] for name, value in facts["weights"].items()],
    ]
    out = ["```\n" + "\n".join(commands) + "\n```", table(["what", "value"], rows)]
    frozen = facts.get("frozen")
    if frozen is not None:
        shown = json.dumps(frozen, indent=2, sort_keys=True, ensure_ascii=False)
        out += [
            "World, weights and splits were frozen before any figure here:",
            f"```json\n{shown}\n```",
        ]
    return out + not_run(evidence)


def device(cells: Sequence[Mapping[str, Any]]) -> str:
    """Where the cells ran, and how long it took."""
    devices = sorted({str(cell["device"]) for cell in cells if cell.get("device")}) or [NOT_RUN]
    return f"{listed(devices)}; {_work(cells)}"


def commits(counted: Mapping[str, int]) -> str:
    """The commits, and how many cells each made (``cells.commits_of``)."""
    return ", ".join(f"{name} ({n} cells)" for name, n in sorted(counted.items())) or "no cell yet"


def _work(cells: Sequence[Mapping[str, Any]]) -> str:
    """How long it took: in all, and a cell by what it does."""
    by: dict[str, list[float]] = {}
    for cell in cells:
        shared = cell.get("trained_in") not in (None, cell["cell"]["key"])
        by.setdefault("borrowed" if shared else cell["cell"]["kind"], []).append(cell["seconds"])
    means = ", ".join(f"{kind} {sum(s) / len(s):.1f} s" for kind, s in sorted(by.items()))
    return f"{sum(map(sum, by.values())) / 60:.1f} min of processor time in all" + (
        f" (a cell: {means})" if means else ""
    )


def _rows(evidence: Evidence) -> str:
    vanilla = evidence.of(
        "vanilla", evidence.scope.noises[0], evidence.scope.percents[0], evidence.scope.seeds[0]
    )
    raw = evidence.line("raw", evidence.scope.noises[0], evidence.scope.percents[0])
    test = str(len(vanilla["right"])) if vanilla else NOT_RUN
    return f"{count(raw.kept) if raw else NOT_RUN} to train, {test} to test"


def _steps(evidence: Evidence) -> str:
    found = {
        name: [
            line.steps.mean
            for noise in evidence.scope.noises
            for percent in evidence.scope.percents
            if (line := evidence.line(name, noise, percent)) is not None and line.steps is not None
        ]
        for name in ("raw", "truth", "robustft")
    }
    told = [
        f"{name} {min(steps):.0f}" + (f" to {max(steps):.0f}" if max(steps) > min(steps) else "")
        for name, steps in found.items()
        if steps
    ]
    return ", ".join(told) or NOT_RUN


def not_run(evidence: Evidence) -> list[str]:
    lost, failed = evidence.missing()
    out = []
    if lost:
        shown = ", ".join(lost[:SHOWN]) + (" and others" if len(lost) > SHOWN else "")
        out.append(f"Not run yet: {len(lost)} cells ({shown}). The same command goes on.")
    if failed:
        out.append(
            "Failed:\n\n"
            + bullets(
                f"{len(keys)} cells, the first {keys[0]}: `{_one_line(error)}`"
                for error, keys in failed.items()
            )
        )
    return out


def _one_line(text: str) -> str:
    return " ".join(text.replace("`", "'").split())[:300]


def _findings(evidence: Evidence) -> list[str]:
    levels = [
        (noise, percent) for noise in evidence.scope.noises for percent in evidence.scope.percents
    ]
    said = [text for noise, percent in levels for text in findings.main(evidence, noise, percent)]
    found = [
        text for noise, percent in levels for text in findings.detection(evidence, noise, percent)
    ]
    return [bullets(said), "Detection:", bullets(found)]


def _legend() -> str:
    return (
        "Accuracy on the test rows, mean and standard deviation over n seeds. *less vanilla*, *less raw*: paired "
        "differences. Intervals, in brackets, are 95% intervals for new seeds and new test rows: all seeds answer the same rows, so "
        "that seeds and rows are crossed random effects, with t quantiles; of one seed, for new rows alone. *recovered* = (line - raw) / (truth - raw), in vanilla's row (vanilla - raw) / "
        "(truth - raw); *gain* = (line - vanilla) / (truth - vanilla); a dash where the denominator is under three standard errors, "
        "*unbounded* where its interval holds 0 (Fieller). "
        "*labels right*: share of right labels among the rows trained on. *calls*, *tokens*: a sample, for cleaning.\n\n"
        + bullets(f"**{name}**: {meaning}." for name, meaning in LINES.items())
    )


def _rule_legend() -> str:
    return (
        "Wrong labels are the positives; thresholds are chosen without truth. `sure(a+b)`: a votes alone where the model gave "
        "its text a probability of one half or more, elsewhere any of the others. *calibration error*: expected calibration error "
        "of the noise score in ten equal bins; *estimated rate*: the noise rate if label and views erred independently. *bound*: 2ρ / (2ρ + "
        "(1 - ρ)(1 - a)), the F1 of an `all` that misses nothing, with a the accuracy of the rule's first view on all training "
        "rows; with a on the rows whose label is right no rule could pass it, as it is one may by a little. *calls*, "
        "*tokens*: a sample, for the views. *calls, whole*: with two more for each flagged sample (relabel and review), which "
        "is the published 2N + 2M for `all(base+reasoning)`; for lines called measured, what the whole recipe asked."
    )


def _variations(evidence: Evidence, pictures: Mapping[str, str]) -> list[str]:
    out = [
        "## Ablations",
        bullets(f"**{name}**: {meaning}." for name, meaning in ABLATIONS.items()),
    ]
    for noise in evidence.scope.noises:
        out += [
            f"### {MIDDLE}% {findings.NOISES[noise]}: ablations",
            tables.ablations(evidence, noise),
        ]
    out += [
        "## Beta and k",
        f"The share of flagged rows that selection keeps, and the neighbours in the prompt, at {MIDDLE}%.",
    ]
    for noise in evidence.scope.noises:
        out += [f"### {findings.NOISES[noise].capitalize()}: sweeps", tables.sweep(evidence, noise)]
    return [*out, *_pictures(pictures, ("sweep",))]


def _pictures(pictures: Mapping[str, str], names: Sequence[str]) -> list[str]:
    return [f"![{name}]({pictures[name]})" for name in names if name in pictures]
