"""The setting ``tools:`` of a stage: tools by name, ``calculator``, or with settings, ``{use: lookup, path: docs}``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Final, Protocol, TypeAlias, runtime_checkable

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    PlainSerializer,
    PlainValidator,
    ValidationInfo,
    WithJsonSchema,
)

from nfilter.api.errors import short
from nfilter.api.tools import Tool, ToolSite
from nfilter.api.types import Sample

NAMED_TOOL: Final = "named_tool"
Path: TypeAlias = tuple[str | int, ...]
_LIST: Final = "a list of tools is needed, such as [calculator, {use: lookup, path: docs}]"


@dataclass(frozen=True, slots=True)
class ToolUse:
    """A tool that a stage gives to its models: its name, and its settings as JSON."""

    use: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    def dump(self) -> dict[str, Any]:
        """Return the entry of the recipe."""
        return {"use": self.use, **self.settings}


@runtime_checkable
class ReadsTools(Protocol):
    """The context in which a recipe is validated: it looks tools up and validates their settings."""

    def read_tool(self, use: ToolUse) -> ToolUse:
        """Return ``use`` with all settings.

        Raises:
            ValueError: if there is no such tool, or a setting is wrong.
        """
        ...


def _entry(value: Any, info: ValidationInfo) -> ToolUse:
    if isinstance(value, ToolUse):
        return value
    entry = {"use": value} if isinstance(value, str) else value
    if not isinstance(entry, Mapping) or not isinstance(entry.get("use"), str):
        text = f"the name of a tool is needed, or {{use: NAME, ...}}, not {short(repr(value))}"
        raise ValueError(text)  # noqa: TRY004 - pydantic reports a ValueError as a fault
    use = ToolUse(entry["use"], {key: item for key, item in entry.items() if key != "use"})
    return info.context.read_tool(use) if isinstance(info.context, ReadsTools) else use


def _list(value: Any) -> Any:
    if not isinstance(value, list | tuple):
        raise ValueError(_LIST)  # noqa: TRY004 - pydantic reports a ValueError as a fault
    return value


def _each_once(uses: tuple[ToolUse, ...]) -> tuple[ToolUse, ...]:
    names = [use.use for use in uses]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(
                f"{name} is named twice; a model calls a tool by its name, so keep one"
            )
    return uses


_Entry = Annotated[
    ToolUse,
    PlainValidator(_entry),
    PlainSerializer(ToolUse.dump, return_type=dict[str, Any]),
    WithJsonSchema({"part": NAMED_TOOL}),
]
Tools = Annotated[tuple[_Entry, ...], BeforeValidator(_list), AfterValidator(_each_once)]
"""The type of a setting that names tools. In a recipe each is looked up, and its settings are validated."""


def tool_uses(value: Any, at: Path = ()) -> Iterator[tuple[Path, ToolUse]]:
    """Yield the tools that a config names, also in its parts, each with its path in the config."""
    if isinstance(value, ToolUse):
        yield at, value
    elif isinstance(value, BaseModel):
        for name, info in type(value).model_fields.items():
            yield from tool_uses(getattr(value, name), (*at, info.alias or name))
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            yield from tool_uses(item, (*at, number))


def build_tool(tool: type[Any], use: ToolUse, site: ToolSite) -> Tool:
    """Build a tool for a stage. It receives other rows only if it promises to read rows, and labels only if it reads labels."""
    config = tool.Config.model_validate(dict(use.settings))
    reads = tool.reads(config)
    rows: Sequence[Sample] = ()
    if reads & {"rows", "labels"}:
        rows = site.rows if "labels" in reads else _Unlabelled(site.rows)
    built: Tool = tool(config, replace(site, rows=rows))
    return built


class LazyRows(Sequence[Sample]):
    """Rows that are read when a tool first needs them."""

    def __init__(self, read: Iterable[Sample]) -> None:
        """``read`` is iterated once."""
        self._read = read
        self._rows: list[Sample] | None = None

    def __len__(self) -> int:
        return len(self._all())

    def __getitem__(self, index: Any) -> Any:
        return self._all()[index]

    def __iter__(self) -> Iterator[Sample]:
        return iter(self._all())

    def _all(self) -> list[Sample]:
        if self._rows is None:
            self._rows = list(self._read)
        return self._rows


class _Unlabelled(Sequence[Sample]):
    """Rows without their responses and without notes, which may repeat a response."""

    def __init__(self, rows: Sequence[Sample]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        found = self._rows[index]
        return (
            [_without_label(each) for each in found]
            if isinstance(index, slice)
            else _without_label(found)
        )

    def __iter__(self) -> Iterator[Sample]:
        return (_without_label(each) for each in self._rows)


def _without_label(sample: Sample) -> Sample:
    return replace(sample, messages=sample.context, notes={})
