"""`nfilter schema --markdown`: all sections and settings of a recipe on one page, with the texts of the schema."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from nfilter.api.hookspecs import REGISTRATIONS
from nfilter.recipe.model import Recipe
from nfilter.registry.catalogue import Setting, rows_of_item, settings_of, summary
from nfilter.registry.loading import Plugins

_HEAD = ("setting", "type", "default", "what it is")


def reference(plugins: Plugins) -> str:
    """Return Markdown with a table of the sections, and one of the settings of every installed plugin. All plugins are imported."""
    lines = ["# Settings of a recipe", "", "## Sections", "", *_table(settings_of(Recipe))]
    for kind in REGISTRATIONS.values():
        items = plugins.of_kind(kind)
        lines += ["", f"## {kind.capitalize()}s"] if items else []
        for item in items:
            lines += ["", f"### `{item.name}`", "", _cell(summary(item.cls))]
            rows = rows_of_item(item)
            lines += ["", *_table(rows)] if rows else []
    return "\n".join(lines) + "\n"


def _table(rows: Iterable[Setting]) -> Iterator[str]:
    yield f"| {' | '.join(_HEAD)} |"
    yield "|---" * len(_HEAD) + "|"
    for name, kind, default, what in rows:
        cells = ("`" + name + "`", _cell(kind), _cell(default), _cell(what))
        yield f"| {' | '.join(cells)} |"


def _cell(text: str) -> str:
    """Return text as one cell: plugins write it, so that no markup of it counts."""
    for mark in "\\`*_[]<>|":
        text = text.replace(mark, f"\\{mark}")
    return " ".join(text.split())
