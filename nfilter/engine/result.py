"""``nfilter.run``: run a recipe from Python, and read what a run made."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

from nfilter.api.errors import ModelError, RecipeError, SourceError, missing_package
from nfilter.engine import run as engine
from nfilter.engine.error_attribution import attributed
from nfilter.engine.executors import execute
from nfilter.engine.lookup import prompts_of, site_of
from nfilter.engine.ranks.place import Place
from nfilter.engine.ranks.worker import follow
from nfilter.engine.rows import CLEANED, DROPPED
from nfilter.progress import bytes_on, reporter_for
from nfilter.recipe.check import check
from nfilter.recipe.model import Recipe
from nfilter.report import explain, reading, text
from nfilter.report.explanation import Explanation
from nfilter.report.findings import findings, headline


@dataclass(frozen=True, slots=True)
class Result:
    """A finished run: its directory, and the values of its metrics.json."""

    directory: Path
    metrics: Mapping[str, Any]

    @classmethod
    def open(cls, directory: str | Path) -> Self:
        """Return the result of an earlier run.

        Raises:
            StoreError: where ``directory`` has no finished run.
        """
        path = Path(directory)
        return cls(path, reading.metrics_of(path))

    @property
    def cleaned(self) -> Any:
        """The rows that were kept, as a ``datasets.Dataset`` with the columns of the source.

        Raises:
            ModelError: where the package datasets is not installed.
            SourceError: where a column has values of several types.
        """
        return _dataset(self.directory, CLEANED)

    @property
    def dropped(self) -> Any:
        """The other rows, as a ``datasets.Dataset`` with the columns id, stage, reason and row; raises as ``cleaned`` does."""
        return _dataset(self.directory, DROPPED)

    def rows(self, name: str = CLEANED) -> Iterator[dict[str, Any]]:
        """Yield the rows of cleaned.jsonl or dropped.jsonl as dicts, in constant memory.

        Raises:
            DamageError: where the file is not what the run wrote.
        """
        return reading.rows(self.directory, name)

    def explain(self, sample_id: str, *, truth: bool = False, tokens: bool = False) -> Explanation:
        """Return everything that happened to one row.

        Args:
            sample_id: The row's id, or ``line:N`` for an unreadable row.
            truth: Whether to include the true label, where it is known.
            tokens: Whether to include the tokens of the response.

        Raises:
            StoreError: where the run has no such row; the nearest id is named.
        """
        return explain.explain(self.directory, sample_id, show_truth=truth, show_tokens=tokens)

    def _repr_html_(self) -> str:
        parts = [f"<h4>{_safe(headline(self.directory, self.metrics))}</h4>"]
        for section in findings(self.directory, self.metrics):
            rows = "".join(
                f"<tr><th>{_safe(name)}</th><td>{_safe(words)}</td></tr>"
                for name, words in section.lines
            )
            parts.append(f"<table><caption>{_safe(section.title)}</caption>{rows}</table>")
        return "\n".join(parts)


def run(
    recipe: Recipe | str | Path,
    out: str | Path | None = None,
    *,
    plugins: Iterable[str | Path] = (),
    limit: int | None = None,
    progress: bool = False,
    rank: int | str | None = None,
    world: int | None = None,
) -> Result:
    """Check a recipe and run it; the same call after an interruption resumes the run.

    Args:
        recipe: From ``Recipe.load`` or ``Recipe.from_dict``, or the path of a recipe's file.
        out: The run directory, by default ``runs/NAME``.
        plugins: Python files with plugins, in addition to those that the recipe was loaded with.
        limit: Rows of the source to read, from the first on.
        progress: Whether to print progress; warnings are always printed.
        rank: The recipe's executor is not used, and this process is one of ``world`` that share the chunks of stages, from 0; ``auto`` reads the scheduler's environment.
            Every rank returns the result of the run, which rank 0 publishes.
        world: The number of these processes; their run directory is on a file system that all of them share.

    Raises:
        NfilterError: a subclass for every kind of failure, with what was wrong and what to do about it.
    """
    place = Place.of(None if rank is None else str(rank), world)
    files = [plugins] if isinstance(plugins, str | Path) else list(plugins)
    if not isinstance(recipe, Recipe):
        recipe = Recipe.load(recipe, files)
    elif files:
        recipe = recipe.with_plugins(files)
    found = recipe.plugins
    reporter = reporter_for(quiet=not progress)
    with attributed(found, "check"):
        site, prompts = site_of(recipe, found), prompts_of(recipe, found)
        report = check(
            recipe, found, site, prompts, data=False, progress=bytes_on(lambda: reporter)
        )
    if report.faults:
        raise RecipeError(report.faults)
    target = Path("runs") / recipe.name if out is None else Path(out)
    if recipe.executor is not None and rank is None:
        execute(recipe, target, limit=limit, progress=progress)
        return Result.open(target)
    if place.rank:
        follow(recipe, found, target, place, limit=limit, reporter=reporter)
        return Result.open(target)
    done = engine.run(recipe, found, target, limit=limit, reporter=reporter, place=place)
    return Result(done.directory, done.metrics)


def _safe(value: str) -> str:
    """Return text of a run as HTML: the rows and names in it are untrusted."""
    return escape(text.plain(value))


def _dataset(directory: Path, name: str) -> Any:
    if find_spec("datasets") is None:
        needs = missing_package("datasets", "nfilter[datasets]")
        raise ModelError(f"a Dataset {needs}; the rows are in {directory / name}")
    rows = list(reading.rows(directory, name))
    keys = dict.fromkeys(key for row in rows for key in row)
    columns = {key: [row.get(key) for row in rows] for key in keys}
    dataset = import_module("datasets").Dataset
    try:
        return dataset.from_dict(columns)
    except (TypeError, ValueError) as error:  # pyarrow's errors are subclasses
        mixed = next((key for key, values in columns.items() if not _fits(dataset, values)), None)
        if mixed is None:
            raise
        raise SourceError(
            f"{directory / name}: column {mixed!r} has values of several types, which a Dataset cannot hold; "
            f"write list(result.rows({name!r})) to read the rows as dicts"
        ) from error


def _fits(dataset: Any, values: Sequence[Any]) -> bool:
    try:
        dataset.from_dict({"column": values})
    except (TypeError, ValueError):
        return False
    return True
