"""Format numbers and untrusted text for people. Nothing here is parsed as markup."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nfilter.api.notes import is_number

if TYPE_CHECKING:
    from rich.console import Console

_CUT = 280
_CUT_LINES = 6
# C0 and C1 controls except tab and newline, bidirectional control characters, and lone surrogates.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)


def plain(text: str) -> str:
    """Return ``text`` with characters that could control a terminal or a page escaped (an escape becomes ``\\x1b``)."""
    text = text.replace("\r\n", "\n")
    return _UNSAFE.sub(lambda match: _visible(match[0]), text)


def _visible(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


def cut(text: str, *, full: bool = False, most: int = _CUT) -> str:
    """Return ``plain(text)`` shortened to ``most`` characters and ``_CUT_LINES`` lines, with the number of missing characters."""
    shown = plain(text)
    if full:
        return shown
    head = "\n".join(shown.split("\n")[:_CUT_LINES])[:most]
    left = len(shown) - len(head)
    return f"{head} [... {left:,} more characters]" if left > 0 else shown


def one_line(text: str, most: int = 60) -> str:
    """Return ``text`` on one line, with white space folded, shortened to ``most`` characters."""
    folded = " ".join(plain(text).split())
    return folded if len(folded) <= most else folded[: most - 3].rstrip() + "..."


def number(value: float, digits: int = 3) -> str:
    """Return a count with thousands separators, or a figure with ``digits`` decimals."""
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.{digits}f}"


def percent(value: float) -> str:
    """Return a share as a percentage with one decimal."""
    return f"{100 * value:.1f}%"


def value(thing: Any, *, full: bool = False) -> str:
    """Return a JSON value as text: null is ``none``, booleans ``yes`` and ``no``; mappings are ``key value`` pairs."""
    if thing is None or isinstance(thing, bool):
        return {None: "none", True: "yes", False: "no"}[thing]
    if is_number(thing):
        return f"{thing:.4g}" if isinstance(thing, float) else str(thing)
    if isinstance(thing, str):
        return cut(thing, full=full)
    if isinstance(thing, Mapping):
        return ", ".join(
            f"{plain(str(key))} {value(item, full=full)}" for key, item in thing.items()
        )
    if isinstance(thing, Sequence):
        shown = list(thing) if full else list(thing[:8])
        more = f", [{len(thing) - len(shown):,} more]" if len(thing) > len(shown) else ""
        return ", ".join(value(item, full=full) for item in shown) + more
    return plain(str(thing))


def rows(console: Console, pairs: Sequence[tuple[str, str]], *, width: int = 18) -> None:
    """Print pairs of a short name and a text as two columns; the text wraps within its column."""
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 1, 0, 0))
    grid.add_column(width=2)
    grid.add_column(width=width, overflow="fold")
    grid.add_column(overflow="fold")
    for name, text in pairs:
        grid.add_row(Text(""), Text(plain(name)), Text(plain(text)))
    console.print(grid)


def heading(console: Console, text: str) -> None:
    """Print a heading."""
    from rich.text import Text

    console.print(Text(plain(text), style="bold"), soft_wrap=False)
