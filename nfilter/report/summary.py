"""The closing screen of a run."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nfilter.report import reading, text
from nfilter.report.findings import findings, headline
from nfilter.store.run_directory import RunDirectory

if TYPE_CHECKING:
    from rich.console import Console

_FILES = ("report.html", "metrics.json", "cleaned.jsonl", "dropped.jsonl", "adapters/cleaned")


def summarise(run_dir: Path, metrics: Mapping[str, Any], console: Console) -> None:
    """Print the results of a run, its files, and commands for a closer look."""
    text.heading(console, headline(run_dir, metrics))
    for section in findings(run_dir, metrics):
        text.heading(console, section.title)
        text.rows(console, section.lines)
    text.heading(console, f"Files and next commands{_warnings(metrics)}")
    written = [line for place, names in files(run_dir) for line in (f"{place}", f"   {names}")]
    for line in (*written, *pointers(run_dir)):
        # Paths and commands are not wrapped, so that they can be copied.
        console.print(f"   {text.plain(line)}", markup=False, highlight=False, soft_wrap=True)


def _warnings(metrics: Mapping[str, Any]) -> str:
    warnings = metrics.get("warnings")
    number = len(warnings) if isinstance(warnings, list) else 0
    return f" ({number} warning{'s' if number != 1 else ''}: see report.html)" if number else ""


def files(run_dir: Path) -> list[tuple[str, str]]:
    """Return folders with the names of the run's files in them; for a group, its folder and that of its first run."""
    folders: list[tuple[str, str]] = []
    left = list(_FILES)
    for folder in dict.fromkeys((run_dir, reading.first_run(run_dir))):
        present = [name for name in left if (folder / name).exists()]
        left = [name for name in left if name not in present]
        if present:
            folders.append((str(folder), ", ".join(present)))
    return folders


def pointers(run_dir: Path) -> list[str]:
    """Return commands with existing ids, to be copied."""
    run = reading.first_run(run_dir)
    lines = []
    quoted = shlex.quote(str(run))
    for word, sample_id in _examples(run):
        lines.append(f"nfilter explain {quoted} {_argument(sample_id)}    # {word}")
    if reading.has_verdicts(run):
        lines.append(f"nfilter audit {quoted}    # check flags by hand")
    return lines


def _argument(sample_id: str) -> str:
    quoted = shlex.quote(sample_id)
    return f"-- {quoted}" if sample_id.startswith("-") else quoted


def _examples(run: Path) -> list[tuple[str, str]]:
    if not reading.is_run(run):
        return []
    dropped = dict.fromkeys(str(row["id"]) for row in reading.rows(run, "dropped.jsonl"))
    changed = (str(decision["id"]) for decision in reading.relabels(RunDirectory(run)))
    relabelled = (sample_id for sample_id in changed if sample_id not in dropped)
    pairs = (("dropped", next(iter(dropped), None)), ("relabelled", next(relabelled, None)))
    return [(word, sample_id) for word, sample_id in pairs if sample_id is not None]
