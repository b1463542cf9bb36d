"""What rows of several shapes share: the parsed row, the system prompt and the tools, each in a column of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from nfilter import JSON, Message, Sample
from nfilter_io.cells import as_text, quoted
from nfilter_io.layout import Layout
from nfilter_io.turns import has_value, read_tools

KEEP: Final = "_nfilter"
"""Reserved name in ``meta`` for the format of cells, never their response."""

SYSTEM: Final = ("system", "system_prompt")
TOOLS: Final = ("tools", "functions")


@dataclass(frozen=True, slots=True)
class Parsed:
    """Messages, tools and metadata of one row.

    ``rejected`` is the rejected response of a preference pair. ``not_carried`` names the parts that change the row's meaning and are in none of them.
    """

    messages: tuple[Message, ...]
    meta: Mapping[str, JSON]
    tools: tuple[Mapping[str, JSON], ...] = ()
    not_carried: tuple[str, ...] = ()
    rejected: Message | None = None


def system_message(
    row: Mapping[str, Any], layout: Layout, meta: dict[str, Any]
) -> tuple[Message, ...]:
    """Return the system prompt in a column of its own as a message; a text is then None in ``meta``."""
    column = filled_column(row, layout, "system", SYSTEM)
    if column is None:
        return ()
    text = as_text(row[column], column)
    if isinstance(row[column], str):
        meta[column] = None
    return (Message("system", text),)


def system_beside(
    row: Mapping[str, Any],
    layout: Layout,
    meta: dict[str, Any],
    keep: dict[str, JSON],
    first: Message | None,
) -> tuple[tuple[Message, ...], tuple[str, ...]]:
    """Return the system prompt in a column beside turns, of which ``first`` is the first, and what is not carried.

    ``keep`` notes that the system prompt is the column's. Turns that begin with a system turn have no other.
    """
    if first is None or first.role != "system":
        system = system_message(row, layout, meta)
        if system:
            keep["system"] = True
        return system, ()
    column = filled_column(row, layout, "system", SYSTEM)
    if column is None or row[column] == first.content:
        return (), ()
    return (), (f"the column {quoted(column)} beside a system turn",)


def tools_beside(row: Mapping[str, Any], layout: Layout) -> tuple[Mapping[str, JSON], ...]:
    """Return the tools in a column of their own. Raises RowError."""
    column = filled_column(row, layout, "tools", TOOLS)
    return read_tools(row[column], column) if column is not None else ()


def filled_column(
    row: Mapping[str, Any], layout: Layout, role: str, names: Sequence[str]
) -> str | None:
    """Return the column of an optional role that this row fills: the layout's, else one with a known name.

    The layout depends on the first rows only, and a column may be rare.
    """
    configured = layout.optional_column(role)
    columns = (configured,) if configured is not None else names
    taken = layout.used_columns() if configured is None else set()
    return next((name for name in columns if name not in taken and has_value(row.get(name))), None)


def restore_system(sample: Sample, layout: Layout, meta: dict[str, Any]) -> None:
    """Write the system message to its column in ``meta``."""
    configured = layout.optional_column("system")
    # A cell whose text is in a message is None.
    column = configured or next(
        (name for name in SYSTEM if name in meta and meta[name] is None), None
    )
    text = next((m.content for m in sample.messages if m.role == "system"), None)
    if column is not None and text is not None and str(meta.get(column)) != text:
        meta[column] = text
