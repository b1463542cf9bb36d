"""The exception tree. Every message says what was wrong, where, and what to type instead."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path


class NfilterError(Exception):
    """The root of all errors that nfilter raises on purpose. ``exit_code`` is the process's."""

    exit_code = 1


class RecipeError(NfilterError):
    """A fault in a recipe or in a value given with ``--set``; ``faults`` lists all that were found."""

    exit_code = 2

    def __init__(self, faults: str | Iterable[str]) -> None:
        self.faults = (faults,) if isinstance(faults, str) else tuple(faults)
        super().__init__("\n".join(self.faults))


class PluginError(NfilterError):
    """A plugin that clashes with another, that was asked for and could not be loaded, or that raised an error of its own."""

    exit_code = 3


class ContractError(NfilterError):
    """A plugin broke an invariant of the engine; the message names the plugin and the sample."""

    exit_code = 3


class NoteError(ContractError):
    """A note that does not have the form of the type it is read as; the message names sample, note and field."""


class SourceError(NfilterError):
    """A source that cannot be read at all, or in which no row can be read."""

    exit_code = 4


class PromptError(NfilterError):
    """A template that is missing, that does not parse, or that names an unknown variable."""

    exit_code = 2


class ModelError(NfilterError):
    """A model that cannot be loaded, or that cannot do what a stage needs."""

    exit_code = 5


class NothingLeftError(NfilterError):
    """No sample is left to train on; the message says which stages dropped how many."""

    exit_code = 6


class StoreError(NfilterError):
    """A run directory that cannot be written, is held by another process, or is not a run."""

    exit_code = 7


class DamageError(StoreError):
    """A published file that is gone or is not what was written; ``path`` names it, ``what`` says what is wrong with it."""

    def __init__(self, message: str, path: Path | None = None, what: str = "") -> None:
        super().__init__(message)
        self.path = path
        self.what = what


class BudgetError(NfilterError):
    """The recipe's budget does not cover the next call."""

    exit_code = 8


def short(value: object, most: int = 80) -> str:
    """A stranger's value as it stands in an error: printable, and not longer than ``most`` characters.

    Text stands as it is, every other value as Python writes it.
    """
    text = value if isinstance(value, str) else repr(value)
    safe = "".join(char if char.isprintable() else "?" for char in text[: most + 1])
    return safe if len(safe) <= most else f"{safe[: most - 3]}..."


def also_known(names: Mapping[str, str], name: str) -> str | None:
    """What ``names`` says of ``name``, whatever the case and the dashes in it; None where it says nothing."""
    wanted = name.casefold().replace("-", "_")
    return next((to for known, to in names.items() if known.replace("-", "_") == wanted), None)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` for the nearest of ``known``, else what there is, else nothing."""
    choices = sorted(known)
    near = difflib.get_close_matches(name, choices, n=1, cutoff=0.6)
    if not near:
        tails = {choice.rsplit(".", 1)[-1]: choice for choice in choices}
        near = [tails[tail] for tail in difflib.get_close_matches(name, tails, n=1, cutoff=0.6)]
    if near:
        return f"; did you mean {near[0]!r}?"
    if choices and len(choices) <= 12:
        return "; known: " + ", ".join(short(choice) for choice in choices)
    return ""


def missing_package(module: str, requirement: str) -> str:
    """The end of a sentence about a package that is not installed, with the line that installs it.

    ``module`` is the name that Python imports, ``requirement`` what pip installs: ``faiss``, ``nfilter[local]``.
    """
    return f"needs the package {module}, which is not installed: pip install '{requirement}'"


@dataclass(frozen=True, slots=True)
class NotInstalled:
    """In place of the path of a model that a plugin names: the package that would bring it is not installed.

    ``module`` is the name that Python imports, ``requirement`` what pip installs: ``nfilter[smollm2]``.
    """

    module: str
    requirement: str

    def __str__(self) -> str:
        return missing_package(self.module, self.requirement)
