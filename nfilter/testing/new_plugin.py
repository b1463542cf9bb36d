"""``nfilter new-plugin``: a distribution with one plugin, its test and a recipe that runs it, to start from."""

from __future__ import annotations

import keyword
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Template
from types import MappingProxyType
from typing import Final

from nfilter.api.errors import StoreError
from nfilter.store.files import publishing_folder

_TEMPLATES: Final = Path(__file__).resolve().parent / "templates"
_NAME: Final = re.compile(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*", re.ASCII)


@dataclass(frozen=True, slots=True)
class _Kind:
    """``template``: the files to start from; ``hook``: what registers it; ``dotted``: whether its name has a plugin before it.

    ``stage``: whether a stage that uses it comes with it, in a module of its own.
    """

    template: str
    hook: str
    dotted: bool = True
    data: str = "rows.jsonl"
    stage: bool = False


KINDS: Final[Mapping[str, _Kind]] = MappingProxyType(
    {
        "stage": _Kind("stage", "stages"),
        "token-stage": _Kind("token_stage", "stages"),
        "backend": _Kind("backend", "backends"),
        "encoder": _Kind("encoder", "backends"),
        "source": _Kind("source", "sources", data="rows.tsv"),
        "exporter": _Kind("exporter", "exporters"),
        "metric": _Kind("metric", "metrics", dotted=False, data="truth_rows.jsonl"),
        "loss": _Kind("loss", "losses"),
        "tool": _Kind("tool", "tools", dotted=False, stage=True),
    }
)


def new_plugin(name: str, kind: str, into: Path) -> list[Path]:
    """Write the distribution ``name`` with a plugin of ``kind`` into the new folder ``into``; return its files.

    Raises:
        StoreError: if ``name`` or ``kind`` is invalid, or the folder exists.
    """
    chosen = KINDS.get(kind)
    if chosen is None:
        raise StoreError(f"--kind {kind}: there is no such kind; type one of: {', '.join(KINDS)}")
    package = name.replace("-", "_")
    if not _NAME.fullmatch(name) or keyword.iskeyword(package):
        raise StoreError(
            f"{name!r} is no name of a distribution: use lower-case letters, digits, - and _, like nfilter-short"
        )
    if into.exists():
        raise StoreError(
            f"{into}: it is there already; name another one, or give another folder with --out"
        )
    plugin = package.removeprefix("nfilter_") or package
    # The module is named after the kind; a package of that name would hide nothing, but read oddly.
    module = chosen.template
    values = {
        "dist": name,
        "package": package,
        "plugin": plugin,
        "module": module,
        "kind": kind,
        "hook": chosen.hook,
        "name": f"{plugin}.{module}" if chosen.dotted else plugin,
        "title": "".join(part.capitalize() for part in plugin.split("_")),
    }
    files = {
        "pyproject.toml": "pyproject.toml",
        "README.md": "README.md",
        f"{package}/__init__.py": f"{module}_init.py" if chosen.stage else "init.py",
        f"{package}/{module}.py": f"{chosen.template}.py",
        **({f"{package}/stage.py": f"{module}_stage.py"} if chosen.stage else {}),
        f"{package}/py.typed": None,
        f"tests/test_{module}.py": f"{chosen.template}_test.py",
        "recipe.yaml": f"{chosen.template}.yaml",
        chosen.data.removeprefix("truth_"): chosen.data,
    }
    with publishing_folder(into) as part:
        for path, template in files.items():
            target = part / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(_filled(template, values), encoding="utf-8")
    return [into / path for path in files]


def _filled(template: str | None, values: Mapping[str, str]) -> str:
    if template is None:
        return ""
    text = (_TEMPLATES / f"{template}.txt").read_text(encoding="utf-8")
    return Template(text).substitute(values)
