"""Prompt templates: found by name, rendered in a sandbox, identified by a hash of their source.

A template's source is cut into role blocks by lines that are exactly ``[system]``, ``[user]`` or ``[assistant]``.
The cut is made before anything is rendered, so dataset text can add words to a message but never a message.
"""

from __future__ import annotations

import hashlib
import re
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from nfilter.api.errors import PromptError, did_you_mean, short
from nfilter.api.file_errors import file_advice
from nfilter.api.types import Message, Role

if TYPE_CHECKING:
    from jinja2.sandbox import SandboxedEnvironment

_ROLE_LINE = re.compile(r"^\[(system|user|assistant)\][ \t]*$", re.MULTILINE)
_LARGEST = (
    10**6
)  # largest number of characters or items, and largest value, of a product in a template
_WIDE = re.compile(r"%[^%A-Za-z]*(?:\d{4}|\*)")
_NAME = re.compile(r"[A-Za-z0-9_-]{1,100}(/[A-Za-z0-9_-]{1,100}){1,8}")


def shipped_directory() -> Path:
    """Return the folder of nfilter's own templates: inside the wheel, or beside the package in a checkout."""
    core = Path(__file__).resolve().parents[1]
    inside = core / "prompt_files"
    return inside if inside.is_dir() else core.parent / "prompts"


@dataclass(frozen=True)
class FileTemplate:
    """One template file. ``digest`` is the SHA-256 of its source, a part of the key of cached calls."""

    name: str
    path: Path
    source: str

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the template's source, in hex."""
        return hashlib.sha256(self.source.encode()).hexdigest()

    @cached_property
    def _blocks(self) -> tuple[tuple[Role, Any], ...]:
        from jinja2 import TemplateSyntaxError

        environment = _environment()
        marks = list(_ROLE_LINE.finditer(self.source))
        if not marks:
            raise PromptError(
                f"{self.path}:1: no role block; begin one with a line that is exactly [user]"
            )
        blocks = []
        ends = [mark.start() for mark in marks[1:]] + [len(self.source)]
        for mark, end in zip(marks, ends, strict=True):
            # Blank lines replace the text before the block, so that jinja's line numbers are those of the file.
            text = "\n" * self.source.count("\n", 0, mark.end()) + self.source[mark.end() : end]
            try:
                blocks.append((cast("Role", mark.group(1)), environment.from_string(text)))
            except TemplateSyntaxError as error:
                raise PromptError(f"{self.path}:{error.lineno}: {error.message}") from error
        self._check_preamble(self.source[: marks[0].start()])
        return tuple(blocks)

    def _check_preamble(self, text: str) -> None:
        rest = re.sub(r"\{#.*?#\}", "", text, flags=re.DOTALL).strip()
        if rest:
            raise PromptError(
                f"{self.path}:1: {rest.splitlines()[0]!r} stands before the first role block; "
                "put it below a line that is exactly [user], or in a {# comment #}"
            )

    def validate(self) -> None:
        """Parse the template.

        Raises:
            PromptError: with file and line, when it does not parse.
        """
        _ = self._blocks

    def render(self, **variables: Any) -> tuple[Message, ...]:
        """Return one message per role block, its content stripped of white space at both ends.

        Raises:
            PromptError: for an unknown variable, or what the sandbox refuses.
        """
        blocks = self._blocks
        try:
            return tuple(Message(role, block.render(variables).strip()) for role, block in blocks)
        # Rendering can raise any error: a division by zero, an undefined name.
        except Exception as error:
            names = ", ".join(sorted(variables))
            raise PromptError(
                f"{self.path}:{_line_of(error)}: {error}; a template here may use: {names}"
            ) from error


class Prompts:
    """Finds templates by name (``folder/name``) in directories; the first directory that has it wins."""

    def __init__(
        self,
        directories: Iterable[Path],
        brought: Callable[[str | None], Sequence[Path]] | None = None,
    ) -> None:
        """``brought`` returns further directories for a name, or all for None; it is called if no other directory has the name."""
        self._own: Sequence[Path] = tuple(directories)
        self._brought = brought or (lambda _name: ())
        self._loaded: dict[str, FileTemplate] = {}

    def get(self, name: str) -> FileTemplate:
        """Return the template of that name.

        Raises:
            PromptError: when the name is not of the form ``folder/name``, or nothing is there.
            PluginError: when two plugins bring it.
        """
        if name not in self._loaded:
            self._loaded[name] = self._find(name)
        return self._loaded[name]

    @property
    def directories(self) -> tuple[Path, ...]:
        """All directories that are searched, in order."""
        return (*self._own, *self._brought(None))

    def names(self) -> list[str]:
        """Return all templates that can be found."""
        found = set()
        for directory in self.directories:
            for path in directory.glob("**/*.jinja"):
                found.add(path.relative_to(directory).with_suffix("").as_posix())
        return sorted(found)

    def _find(self, name: str) -> FileTemplate:
        if not _NAME.fullmatch(name):
            raise PromptError(f"prompt {short(repr(name))} is not of the form folder/name")
        path = _file_in(self._own, name) or _file_in(self._brought(name), name)
        if path is not None:
            return FileTemplate(name, path, _text(path))
        places = ", ".join(str(directory) for directory in self.directories)
        raise PromptError(f"no prompt {name!r} under {places}{did_you_mean(name, self.names())}")


def _file_in(directories: Iterable[Path], name: str) -> Path | None:
    paths = (directory / f"{name}.jinja" for directory in directories)
    return next((path for path in paths if path.is_file()), None)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise PromptError(f"{path}:1: not readable as UTF-8 text: {error}") from error
    except OSError as error:
        raise PromptError(
            f"{path}: cannot be read ({error.strerror or error}); {file_advice(path, error)}"
        ) from error


def _line_of(error: Exception) -> int:
    """Return the line of the template in which ``error`` was raised; jinja's frames have the file name ``<template>``."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename == "<template>"
    ]
    return frames[-1].lineno or 1 if frames else 1


def _environment() -> SandboxedEnvironment:
    from jinja2 import StrictUndefined
    from jinja2.exceptions import SecurityError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Small(ImmutableSandboxedEnvironment):
        """A sandbox with bounded arithmetic: an operation whose result may be too large is refused before it runs."""

        intercepted_binops = frozenset({"*", "**", "%"})

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            sizes = [
                abs(side) if isinstance(side, int | float) else len(side) for side in (left, right)
            ]
            fine = {
                "*": sizes[0] * sizes[1] <= _LARGEST,
                "**": sizes[0] <= 1000 and sizes[1] <= 10,
                "%": not (isinstance(left, str) and _WIDE.search(left)),
            }
            if not fine[operator]:
                raise SecurityError(f"{operator!r} would make a giant here, and a template may not")
            return super().call_binop(context, operator, left, right)

    return Small(
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
        keep_trailing_newline=False,
    )
