"""The reference page of the hooks: each hook's docstring, and an example from a plugin that uses all of them."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path
from typing import Any, Final

from nfilter.api import hookspecs
from nfilter.api.events import RunFinished, RunStarted, StageFinished
from nfilter.api.hookspecs import REGISTRATIONS
from site_pages.markdown import doc, prose

INTRODUCTION: Final = (
    "This page is made from the code of the installed version. A plugin is a module that is registered under the entry-point "
    "group `nfilter`; [contributing](../contributing.md) has a complete one. Hooks register things and observe things: none changes "
    "data, and the order of steps is in the recipe alone. The examples are one plugin that uses every hook; it begins with:"
)
EXAMPLE: Final = Path(__file__).parent / "example_plugin.py"


def hook_names() -> list[str]:
    """Return the names of all hooks, in the order of the source."""
    return [name for name in vars(hookspecs) if name.startswith("nfilter_")]


def hooks_page() -> str:
    """Every hook with one example."""
    parts = [
        "# Hooks",
        INTRODUCTION,
        f"```python\n{_preamble()}\n```",
    ]
    examples = _examples()
    for name in hook_names():
        hook: Any = getattr(hookspecs, name)
        kind = REGISTRATIONS.get(name)
        note = f"Registers classes of the kind {kind}." if kind else ""
        parts += [f"## {name}", doc(hook), prose(note), f"```python\n{examples[name]}\n```"]
    for event in (RunStarted, StageFinished, RunFinished):
        fields = ", ".join(f"`{field}`" for field in inspect.signature(event).parameters)
        parts += [f"## {event.__name__}", doc(event), f"Fields: {fields}."]
    return "\n\n".join(part for part in parts if part) + "\n"


def _tree() -> tuple[str, list[ast.stmt]]:
    text = EXAMPLE.read_text(encoding="utf-8")
    return text, ast.parse(text).body


def _preamble() -> str:
    """Return the imports and values before the first hook of the example, without the docstring of the module."""
    text, body = _tree()
    first = next(node for node in body if isinstance(node, ast.FunctionDef))
    lines = text.splitlines()
    begin = (body[0].end_lineno or 0) + 1
    return "\n".join(lines[begin : _start(first) - 1]).strip()


def _examples() -> dict[str, str]:
    """Return the source of every function of the example by its name, with its decorator."""
    text, body = _tree()
    lines = text.splitlines()
    found = {}
    for node in body:
        if isinstance(node, ast.FunctionDef):
            found[node.name] = "\n".join(lines[_start(node) - 1 : node.end_lineno])
    return found


def _start(function: ast.FunctionDef) -> int:
    """Return the first line of a function, with its decorators."""
    return min([function.lineno, *(each.lineno for each in function.decorator_list)])
