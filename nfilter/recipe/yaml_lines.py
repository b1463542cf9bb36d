"""Read YAML into plain values with the line of every value.

A recipe is a page that a person reads: no aliases, no duplicate keys, no tags, at most 256 KiB and 32 levels, integers of 64 bits.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any, TypeAlias

import yaml

from nfilter.api.addresses import without_secrets
from nfilter.api.errors import RecipeError, short
from nfilter.api.file_errors import file_advice

MAX_BYTES = 256 * 1024
MAX_DEPTH = 32
MAX_INT = 2**63 - 1
_SECRET = re.compile(
    r"(?:^|[_-])(?:(?:key|token|secret|password|authorization)(?:_env)?|query_env)$", re.IGNORECASE
)
_LONGEST = 3000  # characters of a fault: a name in it may be as long as the file

Where: TypeAlias = tuple[str | int, ...]


@dataclass
class YamlDocument:
    """Plain values and the line of every path into them.

    ``file`` names them in errors; ``origins`` has the file of each line that is in another one, ``overridden`` the assignments.
    Values without lines did not come from a file.
    """

    file: Path
    value: Any
    lines: dict[Where, int] = field(default_factory=dict)
    overridden: dict[Where, str] = field(default_factory=dict)
    origins: dict[Where, Path] = field(default_factory=dict)

    def place(self, where: Where) -> str:
        """Return ``file:line`` of the nearest known path, or the ``--set`` that put it there."""
        for end in range(len(where), -1, -1):
            if where[:end] in self.overridden:
                return f"--set {_without_key(self.overridden[where[:end]])}"
            if where[:end] in self.lines:
                file = self.origins.get(where[:end], self.file)
                return f"{file}:{self.lines[where[:end]]}"
            # A section without a line was made by an assignment to something in it.
            made = [text for path, text in self.overridden.items() if path[:end] == where[:end]]
            if end and made:
                return f"--set {_without_key(made[0])}"
        return f"{self.file}:1" if self.lines else str(self.file)

    def has(self, where: Where) -> bool:
        """Return whether a value stands at ``where``."""
        value = self.value
        for step in where:
            try:
                value = value[step]
            except (KeyError, IndexError, TypeError):
                return False
        return True

    def order(self, where: Where) -> tuple[str, int]:
        """Return a sort key: assignments first, then the file's own lines, then those of other files."""
        ends = (where[:end] for end in range(len(where), -1, -1))
        known = next((end for end in ends if end in self.overridden or end in self.lines), ())
        origin = self.origins.get(known)
        line = 0 if known in self.overridden else self.lines.get(known, 1)
        return "" if origin is None or line == 0 else str(origin), line

    def fault(self, where: Where, text: str) -> str:
        """Return a fault at a path, as one line."""
        name, text = dotted(where), without_secrets(text)
        text = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
        return f"{self.place(where)}: {name}: {text}" if name else f"{self.place(where)}: {text}"


def dotted(where: Where) -> str:
    """Return a path as text: ``samples[2].k``."""
    text = ""
    for part in where:
        name = part if isinstance(part, int) else short(part, 60)
        text += f"[{name}]" if isinstance(name, int) else f".{name}" if text else name
    return text


_INT = "tag:yaml.org,2002:int"
_FLOAT = "tag:yaml.org,2002:float"
_REPLACED = {_INT, _FLOAT, "tag:yaml.org,2002:timestamp"}
_DIGITS = 32  # characters of the longest integer that is converted: 64 bits take 19, or 16 after 0x


class _Loader(yaml.SafeLoader):
    """SafeLoader whose floats include ``1e-4`` and ``1.5e4``, and whose dates and times (``1:30``) stay text."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, regexp) for tag, regexp in pairs if tag not in _REPLACED]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    _INT,
    re.compile(r"^[-+]?(?:0b[01_]+|0x[0-9a-fA-F_]+|[0-9][0-9_]*)$"),
    list("-+0123456789"),
)
_Loader.add_implicit_resolver(
    _FLOAT,
    re.compile(
        r"^[-+]?(?:[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?"
        r"|[0-9][0-9_]*[eE][-+]?[0-9]+|\.(?:inf|Inf|INF))$|^\.(?:nan|NaN|NAN)$"
    ),
    list("-+0123456789."),
)


def read(file: Path) -> YamlDocument:
    """Read a recipe file.

    Raises:
        RecipeError: with file and line, where it cannot be read, is not UTF-8, is not YAML or holds what a recipe may not.
    """
    try:
        with file.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        remedy = ""
        if isinstance(error, FileNotFoundError) and file.parent.is_dir():
            remedy = f"; `{_first_recipe(file)}` writes a recipe that runs"
        elif isinstance(error, PermissionError):
            remedy = f"; {file_advice(file, error)}"
        raise RecipeError(f"{short(str(file), 500)}: cannot be read ({why}){remedy}") from error
    if len(data) > MAX_BYTES:
        raise RecipeError(
            f"{file}:1: more than {MAX_BYTES} bytes; a recipe has at most {MAX_BYTES}"
        )
    try:
        text = data.decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise RecipeError(f"{file}:{line}: not readable as UTF-8 text: {error}") from error
    return parse(text, file)


def _first_recipe(file: Path) -> str:
    """Return the command that writes a recipe which needs neither data nor a model."""
    return shlex.join(["nfilter", "init", "--template", "quickstart", "--out", str(file)])


def parse(text: str, file: Path, depth: int = 0) -> YamlDocument:
    """Parse the text of a recipe.

    Args:
        text: YAML.
        file: The name in errors.
        depth: The level at which the value will stand.

    Raises:
        RecipeError: with the line, and a caret below the character where reading stopped.
    """
    try:
        loader = _Loader(text)
        try:
            return _Builder(loader, file, depth).build()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        problem, mark = _explained(error)
        line = mark.line + 1 if mark else 1
        raise RecipeError(f"{file}:{line}: not YAML: {problem}{_shown(mark, text)}") from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        what = (
            f"the character {chr(error.character)!r}"
            if isinstance(error.character, int)
            else "a byte"
        )
        mark = yaml.Mark("", error.position, line - 1, 0, None, 0)
        raise RecipeError(
            f"{file}:{line}: not YAML: {what} may not stand in it{_shown(mark, text)}"
        ) from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise RecipeError(f"{file}:1: not YAML: {error}") from error


def _explained(error: yaml.MarkedYAMLError) -> tuple[str, Any]:
    """Return what is wrong, with a remedy for frequent mistakes, and the mark of its place."""
    problem, mark = str(error.problem), error.problem_mark or error.context_mark
    if "'\\t'" in problem:
        return "a tab before a key or value; indent with blanks", mark
    if "escape character" in problem:
        return (
            f"{problem}; a path with backslashes stands in single quotes, as in 'C:\\data.jsonl'",
            mark,
        )
    if "quoted scalar" in str(error.context) and "end of stream" in problem:
        return "a quote that is not closed", error.context_mark
    return problem, mark


def _shown(mark: Any, text: str) -> str:
    """Return the line of a mark and a caret below its character, as two more lines; nothing without a mark."""
    if mark is None:
        return ""
    whole = yaml.Mark("", mark.index, mark.line, mark.column, text + "\0", mark.index)
    snippet: str = whole.get_snippet(indent=4, max_length=100) or ""
    # The file is untrusted: its control characters could change the terminal.
    safe = "".join(char if char.isprintable() or char == "\n" else "?" for char in snippet)
    return f"\n{safe}"


class _Builder:
    """Builds values from parser events: an alias is refused when it is read, so none is expanded."""

    def __init__(self, loader: Any, file: Path, depth: int) -> None:
        self.loader = loader
        self.file = file
        self.depth = depth
        self.document = YamlDocument(file, None)

    def build(self) -> YamlDocument:
        self._next(yaml.StreamStartEvent)
        if self.loader.check_event(yaml.StreamEndEvent):
            raise RecipeError(
                f"{self.file}:1: the file is empty; `{_first_recipe(self.file)} --force` writes a recipe that runs"
            )
        self._next(yaml.DocumentStartEvent)
        self.document.value = self._node((), self.depth)
        self._next(yaml.DocumentEndEvent)
        if not self.loader.check_event(yaml.StreamEndEvent):
            raise self._fault(self.loader.peek_event(), "a second document; a recipe is one")
        return self.document

    def _next(self, kind: type) -> Any:
        event = self.loader.get_event()
        if not isinstance(event, kind):
            raise self._fault(event, f"unexpected {type(event).__name__}")
        return event

    def _fault(self, event: Any, text: str) -> RecipeError:
        mark = event.start_mark
        shown = _shown(mark, mark.buffer.rstrip("\0")) if mark.buffer else ""
        return RecipeError(f"{self.file}:{mark.line + 1}: {text}{shown}")

    def _node(self, where: Where, depth: int) -> Any:
        event = self.loader.get_event()
        if isinstance(event, yaml.AliasEvent):
            raise self._fault(
                event,
                f"the alias *{short(event.anchor, 40)}; write the value out, aliases are not allowed",
            )
        if depth > MAX_DEPTH:
            raise self._fault(event, f"nested deeper than {MAX_DEPTH} levels")
        self.document.lines.setdefault(where, event.start_mark.line + 1)
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
                event, f"the tag {short(tag, 60)}; a recipe holds plain values, write it without"
            )

    def _scalar(self, event: Any) -> Any:
        tag = self.loader.resolve(yaml.ScalarNode, event.value, event.implicit)
        if tag == _INT:
            return self._whole_number(event)
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
                event,
                f"{short(event.value, 40)} is no number that a recipe can hold; write a finite one",
            )
        return value

    def _whole_number(self, event: Any) -> int:
        text: str = event.value
        digits = text.lstrip("+-").replace("_", "")
        if len(digits) > 1 and digits.isdigit() and digits.startswith("0"):
            raise self._fault(
                event,
                f"{text[:40]!r} could be decimal or octal; write it without the leading 0, or in quotes if it is text",
            )
        base = {"0x": 16, "0b": 2}.get(digits[:2], 10)
        # Longer integers are not converted: that takes time quadratic in their length.
        value = None
        if len(digits) <= (_DIGITS if base != 2 else 2 * _DIGITS + 2):
            try:
                value = int(digits, base)
            except ValueError as error:
                raise self._fault(
                    event, f"{text[:40]!r} cannot be read; put it in quotes if it is text"
                ) from error
        if value is None or value > MAX_INT:
            raise self._fault(
                event,
                f"{text[:40]!r} is larger than a recipe can hold; write at most {MAX_INT}, or put it in quotes if it is text",
            )
        return -value if text.startswith("-") else value

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
                    raise self._fault(
                        event, f"the alias *{short(event.anchor, 40)}; aliases are not allowed"
                    )
                raise self._fault(event, "a key that is not a plain word")
            self.loader.get_event()
            self._refuse_tag(event)
            key = event.value
            mark: Any = event.start_mark
            line = mark.line + 1
            try:
                key.encode()
            except UnicodeEncodeError as error:
                raise self._fault(
                    event, f"the key {short(key, 60)!r} is not UTF-8; write another name"
                ) from error
            if key == "<<" and not self.loader.check_event(yaml.AliasEvent):
                raise self._fault(event, "the key '<<'; copy the keys of the other mapping here")
            if key in values:
                first = self.document.lines[*where, key]
                raise self._fault(
                    event,
                    f"the key {short(key, 60)!r} stands here again, first in line {first}; keep one",
                )
            self.document.lines[*where, key] = line
            values[key] = self._node((*where, key), depth + 1)
        self.loader.get_event()
        return values


def override(document: YamlDocument, assignments: list[str]) -> None:
    """Apply ``a.b=c`` assignments in place; list items go by number (``samples.0.k=5``), values are YAML.

    Raises:
        RecipeError: for an assignment without ``=``, and for a path through a value that has no parts.
    """
    faults = []
    for text in assignments:
        path, found, raw = text.partition("=")
        steps = _steps(path)
        try:
            if not found or not steps:
                raise RecipeError("write it as path=value, for example train.epochs=1")
            if len(steps) > MAX_DEPTH:
                raise RecipeError(f"the path has more than {MAX_DEPTH} steps")
            value = parse(raw, Path("--set"), len(steps)).value if raw.strip() else None
            _assign(document, steps, value, text)
        except RecipeError as error:
            why = "; ".join(error.faults).removeprefix("--set:1: ")
            faults.append(f"--set {_without_key(text)}: {why}")
    if faults:
        raise RecipeError(faults)


def _without_key(text: str) -> str:
    """Return an assignment for a message, without the value of a key."""
    path, found, _ = text.partition("=")
    key = path.rpartition(".")[2]
    return short(f"{path}=***" if found and _SECRET.search(key) else without_secrets(text))


def assign(document: YamlDocument, path: str, value: Any) -> None:
    """Put ``value`` at ``path`` in place, as ``--set`` does.

    Raises:
        RecipeError: for a path through a value that has no parts.
    """
    _assign(document, _steps(path), plain_values(value), f"{path}={value!r}")


def plain_values(value: Any) -> Any:
    """Return ``value`` with dicts for all mappings, lists for tuples and texts for paths."""
    if isinstance(value, Mapping):
        return {str(key): plain_values(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_values(item) for item in value]
    return str(value) if isinstance(value, PurePath) else value


def _steps(path: str) -> list[str]:
    path = path.encode(errors="replace").decode()  # pydantic takes only UTF-8 as a key
    return [step for step in path.strip().replace("[", ".").replace("]", "").split(".") if step]


def _assign(document: YamlDocument, steps: list[str], value: Any, text: str) -> None:
    here = document.value
    where: Where = ()
    try:
        for index, step in enumerate(steps):
            key = _key(here, step)
            where = (*where, key)
            if index < len(steps) - 1:
                here = here.setdefault(key, {}) if isinstance(here, dict) else here[key]
        here[key] = value
    except (KeyError, IndexError, TypeError, ValueError) as error:
        path = ".".join(steps)
        raise RecipeError(f"nothing stands at {short(path)!r} that could take it") from error
    for known in [path for path in document.lines if path[: len(where)] == where]:
        del document.lines[known]
    document.overridden[where] = text


def _key(here: Any, step: str) -> str | int:
    if not isinstance(here, list):
        return step
    if not (step.isascii() and step.isdigit()):
        raise ValueError(f"{step!r} is not the number of a list item")
    return int(step)
