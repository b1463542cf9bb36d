"""A finished run, handed to an exporter."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from nfilter.engine.samples import live
from nfilter.errors import PluginError, RecipeError, StoreError
from nfilter.plugins import Plugins
from nfilter.report import reading
from nfilter.stages import Exported
from nfilter.tokenstore import has_tokens, read_tokens, tokenizer_of


def export(
    run_dir: Path, plugins: Plugins, name: str, out: Path, settings: Mapping[str, Any] | None = None
) -> list[str]:
    """Write what the run ``run_dir`` kept to the new folder ``out``; what the exporter says it wrote.

    Rows that lost every token are left out, as they are in training.

    Raises:
        PluginError: when no exporter is called so.
        RecipeError: when it does not take the settings.
        StoreError: when there is no finished run, it has no tokens, or ``out`` is there already.
    """
    item = plugins.registered.get(("exporter", name))
    if item is None:
        raise PluginError(plugins.unknown("exporter", name))
    try:
        config = item.cls.Config.model_validate(dict(settings or {}))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "settings"
        raise RecipeError(
            f"--set {place}: {first['msg']}; see nfilter plugins show {name}"
        ) from error
    run = reading.open_run(run_dir)
    if not reading.ended(run):
        raise StoreError(
            f"{run_dir}: the run has not ended; run the same command again and it goes on"
        )
    if not has_tokens(run.path / "tokens"):
        raise StoreError(
            f"{run_dir}: it has no tokens, as its recipe does not train the arm cleaned; add arms: [cleaned]"
        )
    if out.exists():
        raise StoreError(f"{out}: it is there already; name a folder that is not, or remove it")
    samples, reasons = read_tokens(run.path / "tokens")
    trained = [sample for sample in samples if sample.weights.any()]
    ids = {sample.id for sample in trained}
    last = reading.stages(run)[-1]
    part = out.with_name(f".{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    kept = [sample for sample in live(last) if sample.id in ids]
    made = tokenizer_of(run.path / "tokens")
    said = list(item.cls(config).export(Exported(kept, trained, tuple(reasons), made), part))
    part.rename(out)
    return said
