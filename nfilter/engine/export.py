"""Export a finished run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from nfilter.api.data import Exported
from nfilter.api.errors import NothingLeftError, RecipeError, StoreError
from nfilter.api.file_errors import accessing
from nfilter.engine.fine_tune import fine_tune_of
from nfilter.engine.samples import live
from nfilter.recipe.file_hints import not_loaded
from nfilter.registry.loading import Plugins, Registered
from nfilter.report import reading
from nfilter.store.files import publishing_folder
from nfilter.store.run_directory import RunDirectory
from nfilter.store.tokens import read_tokens, tokenizer_of


def export(
    run_dir: Path, plugins: Plugins, name: str, out: Path, settings: Mapping[str, Any] | None = None
) -> list[str]:
    """Write the remaining rows of the run ``run_dir`` to the new folder ``out`` with the exporter ``name``.

    Rows without a token in the loss are left out, as in training; in a run without tokens, rows of weight 0.

    Returns:
        The exporter's messages about the files it wrote.

    Raises:
        PluginError: if no exporter has this name, or two have.
        RecipeError: if it does not accept the settings.
        NothingLeftError: if the run kept no row.
        StoreError: if there is no finished run, if it has no tokens and the format needs them, or if ``out`` exists or cannot
            be written.
    """
    item = plugins.get("exporter", name)
    try:
        config = item.cls.Config.model_validate(dict(settings or {}))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "settings"
        raise RecipeError(
            f"--set {place}: {first['msg']}; see nfilter plugins show {name}"
        ) from error
    run = reading.open_ended(run_dir)
    before = reading.manifest(run_dir)
    exported, left_out = _exported(run, item, plugins)
    if not exported.samples:
        raise NothingLeftError(
            f"{run_dir}: no row is left to export; dropped.jsonl and metrics.json name the stage that dropped them: relax its "
            "settings and run again"
        )
    with accessing(out):
        present = out.exists()
    if present:
        raise StoreError(f"{out}: exists already; name a new folder, or remove this one")
    with publishing_folder(out) as part:
        messages = list(item.cls(config).export(exported, part))
        reading.refuse_replaced(run, before)
    left = [f"{left_out} rows of weight 0 are left out"] if left_out else []
    # A file may ship the model that the run trained, which the exporter names.
    return [*messages, *left, *not_loaded([run_dir / reading.LOCK], plugins.files)]


def _exported(run: RunDirectory, item: Registered, plugins: Plugins) -> tuple[Exported, int]:
    """The exporter's input, and the number of rows of weight 0 that it leaves out."""
    last = reading.stages(run)[-1]
    tokens = reading.tokens(run)
    trained_as = fine_tune_of(run.path, plugins.models)
    if tokens is not None:
        samples, reasons = read_tokens(tokens)
        trained = [sample for sample in samples if sample.weights.any()]
        ids = {sample.id for sample in trained}
        kept = [sample for sample in live(last) if sample.id in ids]
        return (
            Exported(kept, trained, tuple(reasons), tokenizer_of(tokens), fine_tune=trained_as),
            0,
        )
    if not _takes_rows(item):
        others = [other.name for other in plugins.of_kind("exporter") if _takes_rows(other)]
        raise StoreError(
            f"{run.path}: has no tokens, and the format {item.name} needs them; add a section tokens: or arms: [cleaned] to "
            f"the recipe and run it again, or export with --format {' or '.join(others)}"
        )
    rows = list(live(last))
    kept = [sample for sample in rows if sample.weight > 0]
    return Exported(kept, (), (), encoded=False, fine_tune=trained_as), len(rows) - len(kept)


def _takes_rows(item: Registered) -> bool:
    return bool(getattr(item.cls, "takes_rows", False))
