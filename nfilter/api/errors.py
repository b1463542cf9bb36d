"""The exceptions of nfilter. Every message says what was wrong, where, and what to type instead."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from nfilter.api.addresses import without_secrets


class NfilterError(Exception):
    """The base of all errors that nfilter raises. ``exit_code`` is the exit code of the command.

    Addresses in the message are cut: no user, key, query or fragment.
    """

    exit_code = 1

    def __init__(self, *args: object) -> None:
        super().__init__(*(without_secrets(a) if isinstance(a, str) else a for a in args))


class RecipeError(NfilterError):
    """A fault in a recipe or in a value given with ``--set``; ``faults`` lists all faults."""

    exit_code = 2

    def __init__(self, faults: str | Iterable[str]) -> None:
        given = (faults,) if isinstance(faults, str) else faults
        self.faults = tuple(without_secrets(fault) for fault in given)
        super().__init__("\n".join(self.faults))


class PluginError(NfilterError):
    """A plugin that clashes with another, is needed and cannot be loaded, or raised an exception."""

    exit_code = 3


class ContractError(NfilterError):
    """A plugin broke an invariant of the engine; the message names the plugin and the sample."""

    exit_code = 3


class NoteError(ContractError):
    """A note that does not match the type it is read as; the message names sample, note and field."""


class SourceError(NfilterError):
    """A source that cannot be read, or without a readable row."""

    exit_code = 4


class PromptError(NfilterError):
    """A template that is missing, does not parse, or uses an unknown variable."""

    exit_code = 2


class ModelError(NfilterError):
    """A model that cannot be loaded, or lacks a capability that a stage needs."""

    exit_code = 5


class ToolError(NfilterError):
    """A call of a tool that has no answer; the model that made the call reads what to write instead."""

    def __init__(self, *args: object) -> None:
        # The model reads its own text as it wrote it.
        Exception.__init__(self, *args)


class NothingLeftError(NfilterError):
    """No sample is left to train on; the message has the number of samples that each stage dropped."""

    exit_code = 6


class StoreError(NfilterError):
    """A run directory that cannot be written, is held by another process, or is not a run."""

    exit_code = 7


class DamageError(StoreError):
    """A published file that is missing or was changed; ``path`` is its path, ``what`` the damage."""

    def __init__(self, message: str, path: Path | None = None, what: str = "") -> None:
        super().__init__(message)
        self.path = path
        self.what = what


class BudgetError(NfilterError):
    """The recipe's budget does not cover the next call."""

    exit_code = 8


def short(value: object, most: int = 80) -> str:
    """Return an untrusted value for an error message: printable, at most ``most`` characters.

    A text is shown as it is, any other value as its ``repr``.
    """
    text = value if isinstance(value, str) else repr(value)
    safe = "".join(char if char.isprintable() else "?" for char in text[: most + 1])
    return safe if len(safe) <= most else f"{safe[: most - 3]}..."


def excerpt(text: str | None, most: int = 60) -> str:
    """Return an answer or another text for a reason: on one line, quoted, at most ``most`` characters."""
    if text is None:
        return "no answer"
    flat = " ".join(text.split())
    return repr(flat if len(flat) <= most else f"{flat[: most - 3]}...")


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, of at most 200 characters; without a message, the name of its class."""
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


def also_known(names: Mapping[str, str], name: str) -> str | None:
    """Return the entry of ``name`` in ``names``, ignoring case and the difference of ``-`` and ``_``; None if it has none."""
    wanted = name.casefold().replace("-", "_")
    return next((to for known, to in names.items() if known.replace("-", "_") == wanted), None)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` with the nearest of ``known``, else a short list of ``known``, else an empty text."""
    choices = sorted(known)
    near = [choice for choice in choices if choice.lower() == name.lower()][
        :1
    ] or difflib.get_close_matches(name, choices, n=1, cutoff=0.6)
    if not near:
        tails = {choice.rsplit(".", 1)[-1]: choice for choice in choices}
        near = [tails[tail] for tail in difflib.get_close_matches(name, tails, n=1, cutoff=0.6)]
    if near:
        return f"; did you mean {near[0]!r}?"
    if choices and len(choices) <= 12:
        return "; known: " + ", ".join(short(choice) for choice in choices)
    return ""


def missing_package(module: str, requirement: str) -> str:
    """Return the end of a sentence about a package that is not installed, with the command that installs it.

    ``module`` is the name that Python imports, ``requirement`` the argument of pip, e.g. ``faiss`` and ``nfilter[local]``.
    """
    return f"needs the package {module}, which is not installed: pip install '{requirement}'"


@dataclass(frozen=True, slots=True)
class NotInstalled:
    """Registered instead of a model's path if the package that contains it is not installed.

    ``module`` is the name that Python imports, ``requirement`` the argument of pip, e.g. ``nfilter[local]``.
    """

    module: str
    requirement: str

    def __str__(self) -> str:
        return missing_package(self.module, self.requirement)
