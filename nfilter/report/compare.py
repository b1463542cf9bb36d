"""`nfilter compare`: the figures of several runs side by side, and reasons why they are not comparable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nfilter.metrics import figures
from nfilter.metrics.figures import Figure, Range
from nfilter.recipe.sections import ARMS
from nfilter.report import reading, text
from nfilter.report.rate import noise_rate
from nfilter.report.sameness import differences

if TYPE_CHECKING:
    from rich.console import Console

_DETECTION = ("precision", "recall", "f1", "roc_auc")


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of all runs; None for a run without it."""

    name: str
    cells: Sequence[Figure | Range | None]


@dataclass(frozen=True, slots=True)
class Table:
    """Figures (rows) by runs (columns); ``notes`` are reasons why runs are not comparable."""

    runs: Sequence[str]
    rows: Sequence[Row]
    notes: Sequence[str]


def compare(run_dirs: Sequence[Path]) -> Table:
    """Return the figures of runs and groups of seeds, in the given order.

    Raises:
        StoreError: if one of them is not a run, or has not ended.
    """
    metrics = [reading.metrics_of(path) for path in run_dirs]
    runs = list(zip(run_dirs, metrics, strict=True))
    rows = [Row(name, [_cell(*run, name) for run in runs]) for name in _names(metrics)]
    return Table(
        runs=[str(path) for path in run_dirs],
        rows=[row for row in rows if any(cell is not None for cell in row.cells)],
        notes=differences(run_dirs),
    )


def as_json(table: Table) -> dict[str, Any]:
    """Return ``{"runs": [...], "figures": {name: [{mean, sd, n, low, high} or null, ...]}, "notes": [...]}``."""
    return {
        "runs": list(table.runs),
        "figures": {
            row.name: [_values(cell) if cell else None for cell in row.cells] for row in table.rows
        },
        "notes": list(table.notes),
    }


def _names(metrics: Sequence[Mapping[str, Any]]) -> list[str]:
    """The figures that any of the runs has: first in a fixed order, then in the order of metrics.json."""
    names = [figures.ESTIMATE, *(f"detection.{key}" for key in _DETECTION)]
    for section in ("detection", "relabel"):
        for each in metrics:
            names += figures.names_under(each, section)
    arms = {name for each in metrics for name, _ in figures.arms(each)}
    names += [f"arms.{name}" for name in (*ARMS, *sorted(arms - set(ARMS)))]
    names += [*figures.RATIOS, "calls_per_sample", "samples.read", "samples.unreadable"]
    names += ["samples.kept", "samples.dropped", "samples.relabelled"]
    for each in metrics:
        outcomes = each.get("failed_calls")
        ended = outcomes.items() if isinstance(outcomes, Mapping) else ()
        names += [f"failed_calls.{model}.failed" for model, of in ended if of.get("failed")]
    return list(dict.fromkeys(names))


def _values(cell: Figure | Range) -> dict[str, Any]:
    return {"mean": None, "sd": None, **asdict(cell)}


def _cell(run_dir: Path, metrics: Mapping[str, Any], name: str) -> Figure | Range | None:
    return (
        noise_rate(run_dir, metrics) if name == figures.ESTIMATE else figures.figure(metrics, name)
    )


def _counts(row: Row) -> bool:
    """Whether a row has counts, not shares."""
    means = [cell.mean for cell in row.cells if isinstance(cell, Figure)]
    if not means:
        return False
    return row.name.startswith("samples.") or (
        all(float(mean).is_integer() for mean in means) and max(means) > 1
    )


def show(cell: Figure | Range | None, *, count: bool = False) -> str:
    """Return a cell as text: ``mean ± sd (n)``, a plain mean for one seed, ``low to high`` for a range, ``-`` for none."""
    if cell is None:
        return "-"
    if isinstance(cell, Range):
        return f"{cell.low:.3f} to {cell.high:.3f}" + (f" ({cell.n})" if cell.n > 1 else "")
    if cell.sd is None and count and float(cell.mean).is_integer():
        return f"{int(cell.mean):,}"
    digits = 1 if count else 3  # a mean of counts over seeds has tenths
    mean = text.number(float(cell.mean), digits)
    if cell.sd is not None:
        return f"{mean} ± {text.number(float(cell.sd), digits)} ({cell.n})"
    if cell.low is not None and cell.high is not None:
        return f"{mean} [{cell.low:.3f}, {cell.high:.3f}]"
    return mean if cell.n == 1 else f"{mean} ({cell.n})"


def render(table: Table, console: Console) -> None:
    """Print the table, and below it the reasons against a comparison. Names are never parsed as markup."""
    from rich import box
    from rich.table import Table as Grid
    from rich.text import Text

    grid = Grid(box=box.SIMPLE_HEAD, pad_edge=False)
    grid.add_column("")
    for run in table.runs:
        grid.add_column(Text(text.plain(run), overflow="fold"), justify="right", overflow="fold")
    for row in table.rows:
        cells = [Text(show(cell, count=_counts(row))) for cell in row.cells]
        grid.add_row(Text(text.plain(row.name)), *cells)
    console.print(grid)
    shown = [cell for row in table.rows for cell in row.cells]
    if any(isinstance(cell, Figure) and cell.sd is not None for cell in shown):
        console.print(Text("mean ± standard deviation over seeds (n)"))
    for note in table.notes:
        console.print(Text(f"not comparable: {text.plain(note)}", style="yellow"))
