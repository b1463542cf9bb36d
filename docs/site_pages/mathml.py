"""Equations: a fenced block ``math`` with LaTeX becomes MathML, which browsers show without any script."""

from __future__ import annotations

from typing import Any


def mathml(latex: str) -> str:
    """Return one line of LaTeX as a displayed MathML element."""
    from latex2mathml.converter import convert

    return str(convert(latex, display="block"))


def fence(source: str, *_: Any, **__: Any) -> str:
    """Format a fenced block for ``pymdownx.superfences``: an equation per line; a line that ends with a backslash goes on."""
    lines = source.replace("\\\n", " ").splitlines()
    return "".join(f"<p>{mathml(line)}</p>" for line in lines if line.strip())
