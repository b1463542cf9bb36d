"""Texts of the code as Markdown: docstrings, descriptions, tables."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

_CODE = re.compile(r"(``.+?``|`[^`]+`)", re.DOTALL)
_SPECIAL = re.compile(r"([\\*_\[\]|])")


def prose(text: str) -> str:
    """Return a plain text as Markdown that shows it as it is; text between backquotes stays code."""
    parts = _CODE.split(text)
    return "".join(part if index % 2 else _plain(part) for index, part in enumerate(parts))


def _plain(text: str) -> str:
    return _SPECIAL.sub(r"\\\1", text.replace("&", "&amp;").replace("<", "&lt;"))


def code(text: str) -> str:
    """Return a text as a code span, whatever backquotes it has; nothing for an empty text."""
    fence = "``" if "`" in text else "`"
    return f"{fence}{text}{fence}" if text else ""


def doc(item: Any) -> str:
    """Return the docstring of a class or function, its paragraphs unwrapped; lists and parts such as ``Raises`` are list items."""
    return paragraphs(inspect.getdoc(item) or "")


def paragraphs(text: str) -> str:
    """Return a docstring as Markdown paragraphs."""
    out = []
    for part in filter(None, text.strip().split("\n\n")):
        if all(line.startswith("    ") for line in part.splitlines()):
            out.append(f"```python\n{textwrap.dedent(part)}\n```")
            continue
        if part == "::":
            continue
        title, *lines = part.splitlines()
        if title.endswith(":") and lines and all(line.startswith(" ") for line in lines):
            items = re.split(r"\n(?= {4}\S)", "\n" + "\n".join(lines))[1:]
            out.append("\n".join([prose(title), "", *(f"- {_line(item)}" for item in items)]))
        else:
            out.append(_line(part))
    return "\n\n".join(out)


def _line(text: str) -> str:
    return prose(" ".join(text.split()))


def table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table of cells that are Markdown already; empty without rows."""
    lines = [f"| {' | '.join(' '.join(cell.split()) for cell in row)} |" for row in rows]
    if not lines:
        return ""
    return "\n".join([f"| {' | '.join(titles)} |", "|" + "---|" * len(titles), *lines])
