"""YAML into plain values, with the line of every value; strict about what a recipe may hold.

No aliases, no duplicate keys, no tags, at most 256 KiB and 32 levels: a recipe is a page that a person reads.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from nfilter.errors import RecipeError

MAX_BYTES = 256 * 1024
MAX_DEPTH = 32

Where: TypeAlias = tuple[str | int, ...]


@dataclass
class Located:
    """Plain values and, for every path into them, the line where it stands."""

    file: Path
    value: Any
    lines: dict[Where, int] = field(default_factory=dict)
    overridden: dict[Where, str] = field(default_factory=dict)

    def place(self, where: Where) -> str:
        """``file:line`` of the nearest known path, or the ``--set`` that put it there."""
        for end in range(len(where), -1, -1):
            if where[:end] in self.overridden:
                return f"--set {self.overridden[where[:end]]}"
            if where[:end] in self.lines:
                return f"{self.file}:{self.lines[where[:end]]}"
        return f"{self.file}:1"

    def fault(self, where: Where, text: str) -> str:
        """A fault at a path, as one line."""
        name = dotted(where)
        return f"{self.place(where)}: {name}: {text}" if name else f"{self.place(where)}: {text}"


def dotted(where: Where) -> str:
    """``samples[2].k`` for a path."""
    text = ""
    for part in where:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


class _Loader(yaml.SafeLoader):
    """SafeLoader whose floats include ``1e-4`` and ``1.5e4``, and whose dates stay text."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, regexp) for tag, regexp in pairs if tag != "tag:yaml.org,2002:timestamp"]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9][0-9_]*(?:\.[0-9_]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def read(file: Path) -> Located:
    """Read a recipe file.

    Raises:
        RecipeError: with file and line, for whatever is wrong with it.
    """
    try:
        size = file.stat().st_size
    except OSError as error:
        raise RecipeError(
            f"{file}: cannot be read ({error.strerror}); `nfilter init` writes a recipe that runs"
        ) from error
    if size > MAX_BYTES:
        raise RecipeError(f"{file}:1: {size} bytes; a recipe has at most {MAX_BYTES}")
    try:
        text = file.read_text(encoding="utf-8")
    except (UnicodeDecodeError, OSError) as error:
        raise RecipeError(f"{file}:1: not readable as UTF-8 text: {error}") from error
    return parse(text, file)


def parse(text: str, file: Path) -> Located:
    """Parse the text of a recipe; ``file`` is only named in errors."""
    try:
        loader = _Loader(text)
        try:
            return _Builder(loader, file).build()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise RecipeError(f"{file}:{line}: not YAML: {error.problem}") from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        what = (
            f"the character {chr(error.character)!r}"
            if isinstance(error.character, int)
            else "a byte"
        )
        raise RecipeError(f"{file}:{line}: not YAML: {what} may not stand in it") from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise RecipeError(f"{file}:1: not YAML: {error}") from error


class _Builder:
    """Builds values straight from events: an alias is refused when it is met, so none is ever expanded."""

    def __init__(self, loader: Any, file: Path) -> None:
        self.loader = loader
        self.file = file
        self.located = Located(file, None)

    def build(self) -> Located:
        self._next(yaml.StreamStartEvent)
        if self.loader.check_event(yaml.StreamEndEvent):
            raise RecipeError(
                f"{self.file}:1: the file is empty; `nfilter init` writes a recipe that runs"
            )
        self._next(yaml.DocumentStartEvent)
        self.located.value = self._node((), 0)
        self._next(yaml.DocumentEndEvent)
        if not self.loader.check_event(yaml.StreamEndEvent):
            line = self.loader.peek_event().start_mark.line + 1
            raise RecipeError(f"{self.file}:{line}: a second document; a recipe is one")
        return self.located

    def _next(self, kind: type) -> Any:
        event = self.loader.get_event()
        if not isinstance(event, kind):
            raise self._fault(event, f"unexpected {type(event).__name__}")
        return event

    def _fault(self, event: Any, text: str) -> RecipeError:
        return RecipeError(f"{self.file}:{event.start_mark.line + 1}: {text}")

    def _node(self, where: Where, depth: int) -> Any:
        event = self.loader.get_event()
        if isinstance(event, yaml.AliasEvent):
            raise self._fault(
                event, f"the alias *{event.anchor}; write the value out, aliases are not allowed"
            )
        if depth > MAX_DEPTH:
            raise self._fault(event, f"nested deeper than {MAX_DEPTH} levels")
        self.located.lines.setdefault(where, event.start_mark.line + 1)
        self._refuse_tag(event)
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event)
        if isinstance(event, yaml.SequenceStartEvent):
            return self._sequence(where, depth)
        return self._mapping(where, depth)

    def _refuse_tag(self, event: Any) -> None:
        if event.tag is not None:
            tag = event.tag.replace("tag:yaml.org,2002:", "!!")
            raise self._fault(
                event, f"the tag {tag}; a recipe holds plain values, write it without"
            )

    def _scalar(self, event: Any) -> Any:
        tag = self.loader.resolve(yaml.ScalarNode, event.value, event.implicit)
        node = yaml.ScalarNode(tag, event.value, event.start_mark, event.end_mark, event.style)
        try:
            value = self.loader.construct_object(node, deep=True)
            _ = value.encode() if isinstance(value, str) else None
        except (ValueError, yaml.constructor.ConstructorError) as error:
            raise self._fault(
                event, f"{event.value[:40]!r} cannot be read; put it in quotes if it is text"
            ) from error
        if isinstance(value, float) and not math.isfinite(value):
            raise self._fault(
                event, f"{event.value} is no number that a recipe can hold; write a finite one"
            )
        return value

    def _sequence(self, where: Where, depth: int) -> list[Any]:
        items: list[Any] = []
        while not self.loader.check_event(yaml.SequenceEndEvent):
            items.append(self._node((*where, len(items)), depth + 1))
        self.loader.get_event()
        return items

    def _mapping(self, where: Where, depth: int) -> dict[str, Any]:
        values: dict[str, Any] = {}
        while not self.loader.check_event(yaml.MappingEndEvent):
            event: Any = self.loader.peek_event()
            if not isinstance(event, yaml.ScalarEvent):
                if isinstance(event, yaml.AliasEvent):
                    raise self._fault(event, f"the alias *{event.anchor}; aliases are not allowed")
                raise self._fault(event, "a key that is not a plain word")
            self.loader.get_event()
            self._refuse_tag(event)
            key = event.value
            mark: Any = event.start_mark
            line = mark.line + 1
            if key in values:
                first = self.located.lines[*where, key]
                raise self._fault(
                    event, f"the key {key!r} stands here again, first in line {first}; keep one"
                )
            self.located.lines[*where, key] = line
            values[key] = self._node((*where, key), depth + 1)
        self.loader.get_event()
        return values


def override(located: Located, assignments: list[str]) -> None:
    """Apply ``a.b=c`` assignments in place; list items go by number (``samples.0.k=5``), values are YAML.

    Raises:
        RecipeError: for an assignment without ``=``, or a path that leads through a value that has no parts.
    """
    faults = []
    for text in assignments:
        path, found, raw = text.partition("=")
        if not found or not _steps(path):
            faults.append(f"--set {text}: write it as path=value, for example train.epochs=1")
            continue
        try:
            value = parse(raw, Path("--set")).value if raw.strip() else None
            _assign(located, _steps(path), value, text)
        except RecipeError as error:
            faults.append(f"--set {text}: {'; '.join(error.faults)}")
        except (KeyError, IndexError, TypeError, ValueError):
            faults.append(f"--set {text}: nothing stands at {path!r} that could take it")
    if faults:
        raise RecipeError(faults)


def _steps(path: str) -> list[str]:
    return [step for step in path.strip().replace("[", ".").replace("]", "").split(".") if step]


def _number_of(step: str) -> int:
    if not (step.isascii() and step.isdigit()):
        raise ValueError(f"{step!r} is not the number of a list item")
    return int(step)


def _assign(located: Located, steps: list[str], value: Any, text: str) -> None:
    here = located.value
    where: Where = ()
    for index, step in enumerate(steps):
        key: str | int = _number_of(step) if isinstance(here, list) else step
        where = (*where, key)
        if index == len(steps) - 1:
            here[key] = value
            for known in [path for path in located.lines if path[: len(where)] == where]:
                del located.lines[known]
            located.overridden[where] = text
        else:
            if isinstance(here, dict) and key not in here:
                here[key] = {}
            here = here[key]
