"""Which shape the rows of a file have, and which column plays which role: as told, or guessed and stated."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, Final

from nfilter import SourceError, did_you_mean
from nfilter_io.cells import RowError, load_cell, shown
from nfilter_io.choices import LETTERS, AnswerForm, Options, guess_form, options_in, options_of
from nfilter_io.classes import Classes, looks_like_classes
from nfilter_io.config import Settings
from nfilter_io.purposes import other_purpose

PEEK: Final = 200
"""How many rows a guess is made from."""

Column = str | tuple[str, ...]

# The most telling shape first: a shape that shares a column with an earlier one that fits is not meant.
ROLES: Final[Mapping[str, Mapping[str, tuple[str, ...]]]] = {
    "messages": {
        "messages": ("messages", "conversations", "conversation"),
        "system": ("system", "system_prompt"),
        "tools": ("tools", "functions"),
    },
    "sharegpt": {
        "conversations": ("conversations", "conversation", "messages"),
        "system": ("system", "system_prompt"),
        "tools": ("tools", "functions"),
    },
    "choice": {
        "question": ("question", "query", "prompt", "input"),
        "options": ("options", "choices"),
        "answer": ("answer", "answerKey", "answer_key", "label", "correct_answer", "response"),
        "system": ("system", "system_prompt"),
    },
    "alpaca": {
        "instruction": ("instruction",),
        "input": ("input", "context"),
        "output": ("output", "response", "completion", "answer"),
        "system": ("system", "system_prompt"),
    },
    "prompt": {
        "prompt": ("prompt", "question", "query", "input"),
        "response": ("response", "completion", "answer", "output"),
        "system": ("system", "system_prompt"),
    },
    "label": {
        "text": (
            "text",
            "sentence",
            "review",
            "content",
            "comment",
            "document",
            "tweet",
            "utterance",
        ),
        "label": (
            "label",
            "labels",
            "class",
            "category",
            "sentiment",
            "target",
            "intent",
            "topic",
            "label_text",
        ),
        "system": ("system", "system_prompt"),
    },
}
_OPTIONAL: Final = frozenset({"system", "input", "tools"})
_ASIDE: Final = frozenset({"system", "tools"})
_EXAMPLES: Final = {
    "messages": "{messages: COLUMN}",
    "sharegpt": "{conversations: COLUMN}",
    "choice": "{question: COLUMN, options: COLUMN, answer: COLUMN}",
    "alpaca": "{instruction: COLUMN, input: COLUMN, output: COLUMN}",
    "prompt": "{prompt: COLUMN, response: COLUMN}",
    "label": "{text: COLUMN, label: COLUMN}",
}
_TURN_ROLES: Final = frozenset({"messages", "conversations"})
_SPEAKER_KEY: Final = {"messages": "role", "sharegpt": "from"}


@dataclass(frozen=True, slots=True)
class Layout:
    """How rows are read: the shape, its columns by role, and the forms of multiple-choice answers."""

    shape: str
    roles: Mapping[str, Column]
    id: str | None = None
    truth: str | None = None
    weight: str | None = None
    answer_form: AnswerForm = field(default_factory=AnswerForm)
    truth_form: AnswerForm = field(default_factory=AnswerForm)
    classes: Classes = field(default_factory=Classes)

    def column(self, role: str) -> str:
        """The one column of a role that the shape must have."""
        name = self.roles[role]
        return name if isinstance(name, str) else name[0]

    def optional(self, role: str) -> str | None:
        """The column of a role that may be absent."""
        return self.column(role) if role in self.roles else None

    def used(self) -> set[str]:
        """Every column that plays a role."""
        return {name for column in self.roles.values() for name in _several(column)}

    def options(self, row: Mapping[str, Any]) -> Options:
        """The options of a multiple-choice row. Raises RowError."""
        name = self.roles["options"]
        if isinstance(name, str):
            return options_of(row.get(name), name)
        return options_in(row, name)

    def stated(self) -> dict[str, str]:
        """The layout in words: ``shape``, a column for each role, and how answers are given."""
        told = {"shape": self.shape}
        for role, name in self.roles.items():
            told[role] = name if isinstance(name, str) else ", ".join(name)
        if self.id is not None:
            told["id"] = self.id
        if self.truth is not None:
            told["truth"] = self.truth
        if self.weight is not None:
            told["weight"] = self.weight
        if self.shape == "choice":
            told["answer_form"] = str(self.answer_form)
        if self.shape == "label":
            told["classes"] = str(self.classes)
        return told


def guess(rows: Sequence[Mapping[str, Any]], config: Settings, *, whole: bool) -> Layout:
    """The layout of a file whose first rows are ``rows``; ``whole`` says that there are no others.

    Raises SourceError, listing the columns found and what to type, where no shape or more than one fits, or
    where the config names a column that is not there.
    """
    counts = Counter(name for row in rows for name in row if isinstance(name, str))
    _check_named(counts, config, whole=whole)
    aside = (config.truth, config.weight)
    usual = [name for name, n in counts.items() if 2 * n >= len(rows) and name not in aside]
    every = [name for name in counts if name not in aside]
    found, unclear = _fitting(usual, rows, config)
    if not found and not unclear:
        found, unclear = _fitting(every, rows, config)
    if len(found) != 1 or unclear:
        raise SourceError(_question(config, every, found, unclear, rows))
    shape, roles = next(iter(found.items()))
    layout = Layout(shape, roles, _id_column(counts, config), config.truth, config.weight)
    return _with_forms(layout, rows, config.index_base) if shape == "choice" else layout


def _check_named(counts: Mapping[str, int], config: Settings, *, whole: bool) -> None:
    named = [("id", config.id)]
    if whole:  # true labels and weights may stand in a few rows far down
        named += [("truth", config.truth), ("weight", config.weight)]
    for role, columns in config.columns.items():
        several = (columns,) if isinstance(columns, str) else columns
        named.extend((f"columns.{role}", column) for column in several)
        if config.truth in several:
            raise SourceError(
                f"{config.path}: the column {shown(config.truth)} is both the truth and columns.{role};"
                " the true labels need a column of their own"
            )
        if config.weight in several:
            raise SourceError(
                f"{config.path}: the column {shown(config.weight)} is both the weight and columns.{role};"
                " the weights need a column of their own"
            )
    for where, column in named:
        if column is not None and column not in counts:
            raise SourceError(
                f"{config.path}: {where} names the column {shown(column)}, which is not there"
                f"{_near(column, counts)} Columns found: {_listed(counts)}"
            )
    once = [name for name in ("id", "truth", "weight") if getattr(config, name) is not None]
    for one, other in combinations(once, 2):
        if (column := getattr(config, one)) == getattr(config, other):
            raise SourceError(
                f"{config.path}: the column {shown(column)} is both {one} and {other}"
            )


def _near(column: str, counts: Mapping[str, int]) -> str:
    """The nearest column as the end of a sentence; all of them are listed behind it."""
    near = did_you_mean(column, counts)
    return near if near.endswith("?") else "."


def _id_column(counts: Mapping[str, int], config: Settings) -> str | None:
    if config.id is not None:
        return config.id
    return "id" if "id" in counts and config.truth != "id" else None


def _fitting(
    names: Sequence[str], rows: Sequence[Mapping[str, Any]], config: Settings
) -> tuple[dict[str, dict[str, Column]], dict[str, str]]:
    """The shapes that fit, with their columns; and those that would, were it clear which column is meant."""
    told = _told_roles(config)
    shapes = [config.shape] if config.shape != "auto" else list(ROLES)
    found: dict[str, dict[str, Column]] = {}
    unclear: dict[str, str] = {}
    taken: set[str] = set()
    for shape in shapes:
        if not told.keys() <= _known_roles(shape):
            continue
        candidates = _candidates(
            shape, names, rows, _canonical(shape, told), meant=config.shape == shape
        )
        if not all(candidates[role] for role in ROLES[shape] if role not in _OPTIONAL):
            continue
        # a system prompt and tools are no sign of a shape, so that sharing their columns means nothing
        used = {
            name
            for role, columns in candidates.items()
            for column in columns
            for name in _several(column)
            if role not in _ASIDE
        }
        if used & taken:
            continue
        taken |= used
        several = [role for role, columns in candidates.items() if len(columns) > 1]
        if several:
            listed = _listed([str(column) for column in candidates[several[0]]])
            unclear[shape] = f"{several[0]} could be {listed}"
        else:
            found[shape] = {role: columns[0] for role, columns in candidates.items() if columns}
    return found, unclear


def _several(column: Column) -> tuple[str, ...]:
    return (column,) if isinstance(column, str) else column


def _known_roles(shape: str) -> set[str]:
    return set(ROLES[shape]) | {alias for names in ROLES[shape].values() for alias in names}


def _told_roles(config: Settings) -> dict[str, Column]:
    known = (
        set().union(*(_known_roles(shape) for shape in ROLES))
        if config.shape == "auto"
        else _known_roles(config.shape)
    )
    for role, column in config.columns.items():
        if role not in known:
            raise SourceError(
                f"{config.path}: columns.{role}: no role of the shape {config.shape} has that name"
                f"{did_you_mean(role, known)}"
            )
        if isinstance(column, tuple) and role not in ROLES["choice"]["options"]:
            raise SourceError(
                f"{config.path}: columns.{role} takes one column; only options may take several"
            )
    return dict(config.columns)


def _canonical(shape: str, told: Mapping[str, Column]) -> dict[str, Column]:
    """The told columns under the shape's own role names: ``question`` of the shape prompt is its prompt."""
    named: dict[str, Column] = {}
    for alias, column in told.items():
        role = (
            alias
            if alias in ROLES[shape]
            else next(r for r, names in ROLES[shape].items() if alias in names)
        )
        named[role] = column
    return named


def _candidates(
    shape: str,
    names: Sequence[str],
    rows: Sequence[Mapping[str, Any]],
    told: Mapping[str, Column],
    *,
    meant: bool,
) -> dict[str, list[Column]]:
    """For each role of the shape, the columns that could play it: those told, else those of a known name.

    ``meant`` says that the config names the shape, so that nothing has to look like it.
    """
    claimed = {name for column in told.values() for name in _several(column)}
    free = [name for name in names if name not in claimed]
    candidates: dict[str, list[Column]] = {}
    for role, known in ROLES[shape].items():
        if role in told:
            candidates[role] = [told[role]]
            continue
        columns = _find(free, known)
        if role in _TURN_ROLES:
            columns = [name for name in columns if _holds_turns(name, rows, shape)]
        if role == "options":
            columns = [name for name in columns if _holds_options(name, rows)]
        if role == "label" and not meant:
            columns = [
                name
                for name in columns
                if looks_like_classes([row.get(name) for row in rows], name)
            ]
        own = role in columns and role in ("output", "label", "text")
        if own or role in _ASIDE:
            columns = columns[:1]  # a shape's own name wins over the namesake of another shape
        candidates[role] = [*columns]
        if role == "options" and not columns and _letter_columns(free):
            candidates[role] = [_letter_columns(free)]
    return candidates


def _find(names: Sequence[str], known: Sequence[str]) -> list[str]:
    """The columns that bear one of the known names; an exact match hides those that differ in case."""
    found = []
    for name in known:
        exact = [name] if name in names else [n for n in names if n.lower() == name.lower()]
        found.extend(exact)
    return found


def _letter_columns(names: Sequence[str]) -> tuple[str, ...]:
    columns = []
    for letter in LETTERS:
        if letter not in names:
            break
        columns.append(letter)
    return tuple(columns) if len(columns) >= 2 else ()


def _holds_turns(name: str, rows: Sequence[Mapping[str, Any]], shape: str) -> bool:
    key = _SPEAKER_KEY[shape]
    for row in rows:
        value = row.get(name)
        if isinstance(value, str):
            try:
                value = load_cell(value, name)
            except RowError:
                continue
        if isinstance(value, list) and value and isinstance(value[0], Mapping):
            return key in value[0]
    return False


def _holds_options(name: str, rows: Sequence[Mapping[str, Any]]) -> bool:
    for row in rows:
        try:
            options_of(row.get(name), name)
        except RowError:
            continue
        return True
    return False


def _with_forms(layout: Layout, rows: Sequence[Mapping[str, Any]], base: int | None) -> Layout:
    answers, truths = [], []
    for row in rows:
        try:
            options = layout.options(row)
        except RowError:
            continue
        answers.append((row.get(layout.column("answer")), options))
        if layout.truth is not None:
            truths.append((row.get(layout.truth), options))
    return Layout(
        layout.shape,
        layout.roles,
        layout.id,
        layout.truth,
        layout.weight,
        guess_form(answers, base),
        guess_form(truths, base),
    )


def _listed(names: Sequence[str] | Mapping[str, int]) -> str:
    some = [shown(name) for name in list(names)[:30]]
    return ", ".join(some) + (", …" if len(names) > 30 else "") if some else "none"


def _question(
    config: Settings,
    names: Sequence[str],
    found: Mapping[str, Mapping[str, Column]],
    unclear: Mapping[str, str],
    rows: Sequence[Mapping[str, Any]],
) -> str:
    listed = f"Columns found: {_listed(names)}."
    if len(found) + len(unclear) > 1:
        say = " or ".join(f"`shape: {shape}`" for shape in (*found, *unclear))
        return f"{config.path}: the rows could be of several shapes. {listed} Type {say}."
    if unclear:
        shape, why = next(iter(unclear.items()))
        return (
            f"{config.path}: it is not clear which column is which: {why}. {listed}"
            f" Type `shape: {shape}` and `columns: {_EXAMPLES[shape]}`."
        )
    if meant := other_purpose(names, rows):
        return f"{config.path}: {meant}"
    if config.shape != "auto":
        return (
            f"{config.path}: the rows do not have the columns of the shape {config.shape}. {listed}"
            f" Type `columns: {_EXAMPLES[config.shape]}`."
        )
    ways = ", or ".join(
        f"`shape: {shape}` with `columns: {_EXAMPLES[shape]}`"
        for shape in ("prompt", "choice", "label")
    )
    return f"{config.path}: the shape of the rows is not known. {listed} Type {ways}."
