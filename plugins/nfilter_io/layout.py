"""Layout of a file: the shape of its rows and the column of each role, configured or guessed."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, Final

from nfilter import SourceError, did_you_mean
from nfilter_io.cells import RowError, load_cell, quoted
from nfilter_io.config import RowSettings
from nfilter_io.dataset_purpose import other_purpose
from nfilter_io.label_sets import Classes, looks_like_classes, not_classes, text_and_classes
from nfilter_io.multiple_choice import (
    LETTERS,
    AnswerForm,
    Options,
    guess_form,
    option_columns,
    options_in_cell,
    options_in_columns,
    tells_base,
)
from nfilter_io.roles import EXAMPLES, OPTIONAL, ROLES, SECONDARY, SHARED

_LISTED: Final = re.compile(r"\bA[).:].*\bB[).:]", re.DOTALL)  # options inside a question
_LONG_NAME: Final = 40

PEEK: Final = 200
"""Number of rows that a guess is based on."""

Column = str | tuple[str, ...]

_TURN_ROLES: Final = frozenset({"messages", "conversations"})
_SPEAKER_KEY: Final = {"messages": "role", "sharegpt": "from"}
_OWN_NAMES_FIRST: Final = frozenset({"preference", "completion"})


@dataclass(frozen=True, slots=True)
class Layout:
    """Shape of the rows, its columns by role, and the forms of multiple-choice answers."""

    shape: str
    roles: Mapping[str, Column]
    id: str | None = None
    truth: str | None = None
    weight: str | None = None
    answer_form: AnswerForm = field(default_factory=AnswerForm)
    truth_form: AnswerForm = field(default_factory=AnswerForm)
    classes: Classes = field(default_factory=Classes)

    def column(self, role: str) -> str:
        """Return the column of a required role."""
        name = self.roles[role]
        return name if isinstance(name, str) else name[0]

    def optional_column(self, role: str) -> str | None:
        """Return the column of an optional role, or None."""
        return self.column(role) if role in self.roles else None

    def used_columns(self) -> set[str]:
        """Return all columns with a role."""
        return {name for column in self.roles.values() for name in _as_tuple(column)}

    def options(self, row: Mapping[str, Any]) -> Options:
        """Return the options of a multiple-choice row; raise RowError."""
        name = self.roles["options"]
        if isinstance(name, str):
            return options_in_cell(row.get(name), name)
        return options_in_columns(row, name)

    def describe(self) -> dict[str, str]:
        """Return the layout for display: ``shape``, the column of each role, and the form of answers."""
        out = {"shape": self.shape}
        for role, name in self.roles.items():
            out[role] = name if isinstance(name, str) else ", ".join(name)
        if self.id is not None:
            out["id"] = self.id
        if self.truth is not None:
            out["truth"] = self.truth
        if self.weight is not None:
            out["weight"] = self.weight
        if self.shape == "choice":
            out["answer_form"] = str(self.answer_form)
        if self.shape == "label":
            out["classes"] = str(self.classes)
        return out


def guess_layout(rows: Sequence[Mapping[str, Any]], config: RowSettings, *, whole: bool) -> Layout:
    """Return the layout of a file with the first rows ``rows``; ``whole``: these are all rows.

    Raises:
        SourceError: no shape fits, several fit, or a configured column does not exist; lists the columns and what to type.
    """
    counts = Counter(name for row in rows for name in row if isinstance(name, str))
    _check_named(counts, config, whole=whole)
    excluded = (config.truth, config.weight)
    usual = [name for name, n in counts.items() if 2 * n >= len(rows) and name not in excluded]
    every = [name for name in counts if name not in excluded]
    matches, unclear = _matching_shapes(usual, rows, config)
    if not matches and not unclear:
        matches, unclear = _matching_shapes(every, rows, config)
    if not matches and not unclear and config.shape == "auto" and not config.columns:
        pair = text_and_classes(every, rows)
        matches = {} if pair is None else {"label": pair}
    if len(matches) != 1 or unclear:
        raise SourceError(_layout_error(config, every, matches, unclear) + _hint(every, rows))
    shape, roles = next(iter(matches.items()))
    if shape == "prompt" and config.shape == "auto":
        _check_options_are_read(every, rows, roles, config)
    layout = Layout(shape, roles, _id_column(counts, config), config.truth, config.weight)
    return _with_forms(layout, rows, config) if shape == "choice" else layout


def _check_options_are_read(
    names: Sequence[str],
    rows: Sequence[Mapping[str, Any]],
    roles: Mapping[str, Column],
    config: RowSettings,
) -> None:
    """Refuse letters of options that are neither read nor in the question: such a letter says nothing."""
    answers = [str(row.get(str(roles["response"])) or "A").strip() for row in rows]
    questions = [str(row.get(str(roles["prompt"]))) for row in rows]
    listed = sum(_LISTED.search(text) is not None for text in questions)
    if listed > len(rows) / 2 or not all(len(text) == 1 and text in LETTERS for text in answers):
        return
    for column in _find(names, ROLES["choice"]["options"]):
        cells = [row[column] for row in rows if row.get(column)]
        if len(cells) > len(rows) / 2:
            raise SourceError(
                f"{config.path}: the answers are letters, and the column {quoted(column)} has no list of options: {quoted(cells[0])}; "
                'write a JSON list ["...", "..."] into each row, or type `shape: prompt` if the letters need no options'
            )


def _check_named(counts: Mapping[str, int], config: RowSettings, *, whole: bool) -> None:
    named = [("id", config.id)]
    if whole:  # only a few late rows may have true labels or weights
        named += [("truth", config.truth), ("weight", config.weight)]
    for role, columns in config.columns.items():
        several = (columns,) if isinstance(columns, str) else columns
        named.extend((f"columns.{role}", column) for column in several)
        if config.truth in several:
            raise SourceError(
                f"{config.path}: the column {quoted(config.truth)} is both the truth and columns.{role};"
                " the true labels need their own column"
            )
        if config.weight in several:
            raise SourceError(
                f"{config.path}: the column {quoted(config.weight)} is both the weight and columns.{role};"
                " the weights need their own column"
            )
    for where, column in named:
        if column is not None and column not in counts:
            raise SourceError(
                f"{config.path}: {where} names the column {quoted(column)}, which does not exist"
                f"{_suggestion(column, counts)} Columns found: {_listed(counts)}"
            )
    configured = [name for name in ("id", "truth", "weight") if getattr(config, name) is not None]
    for one, other in combinations(configured, 2):
        if (column := getattr(config, one)) == getattr(config, other):
            raise SourceError(
                f"{config.path}: the column {quoted(column)} is both {one} and {other}"
            )


def _suggestion(column: str, counts: Mapping[str, int]) -> str:
    """Return the nearest column as the end of a sentence, or a full stop."""
    suggestion = did_you_mean(column, counts)
    return suggestion if suggestion.endswith("?") else "."


def _id_column(counts: Mapping[str, int], config: RowSettings) -> str | None:
    if config.id is not None:
        return config.id
    return "id" if "id" in counts and config.truth != "id" else None


def _matching_shapes(
    names: Sequence[str], rows: Sequence[Mapping[str, Any]], config: RowSettings
) -> tuple[dict[str, dict[str, Column]], dict[str, str]]:
    """Return the shapes that fit, with their columns, and those that fit with an ambiguous column."""
    configured = _configured_columns(config)
    shapes = [config.shape] if config.shape != "auto" else list(ROLES)
    matches: dict[str, dict[str, Column]] = {}
    unclear: dict[str, str] = {}
    taken: set[str] = set()
    for shape in shapes:
        if not configured.keys() <= _known_roles(shape):
            continue
        candidates = _candidates(
            shape, names, rows, _by_role(shape, configured), named=config.shape == shape
        )
        required = set(ROLES[shape]) - OPTIONAL - ({"prompt"} if shape == "preference" else set())
        if not all(candidates[role] for role in required):
            continue
        if shape == "preference" and not _has_prompts(candidates, rows):
            continue
        if shape == "completion" and not _has_turns(candidates, rows):
            continue
        # System prompt and tools do not indicate a shape, so their columns may be shared.
        used = {
            name
            for role, columns in candidates.items()
            for column in columns
            for name in _as_tuple(column)
            if role not in SHARED
        }
        if used & taken:
            continue
        taken |= used
        ambiguous = [role for role, columns in candidates.items() if len(columns) > 1]
        if ambiguous:
            listed = _listed([str(column) for column in candidates[ambiguous[0]]])
            unclear[shape] = f"{ambiguous[0]} could be {listed}"
        else:
            matches[shape] = {role: columns[0] for role, columns in candidates.items() if columns}
        if shape == "preference":
            break  # no other shape has the columns chosen and rejected
    return matches, unclear


def _has_prompts(
    candidates: Mapping[str, Sequence[Column]], rows: Sequence[Mapping[str, Any]]
) -> bool:
    """Whether preference pairs have prompts: in a column, or in the turns before the responses."""
    chosen = str(candidates["chosen"][0])
    return bool(candidates["prompt"]) or any(
        _contains_turns(chosen, rows, shape) for shape in _SPEAKER_KEY
    )


def _has_turns(
    candidates: Mapping[str, Sequence[Column]], rows: Sequence[Mapping[str, Any]]
) -> bool:
    """Whether a prompt or its completion is a list of turns: two texts are the shape ``prompt``."""
    columns = [str(candidates[role][0]) for role in ("prompt", "completion")]
    return any(_contains_turns(column, rows, shape) for column in columns for shape in _SPEAKER_KEY)


def _as_tuple(column: Column) -> tuple[str, ...]:
    return (column,) if isinstance(column, str) else column


def _known_roles(shape: str) -> set[str]:
    return set(ROLES[shape]) | {alias for names in ROLES[shape].values() for alias in names}


def _configured_columns(config: RowSettings) -> dict[str, Column]:
    known = (
        set().union(*(_known_roles(shape) for shape in ROLES))
        if config.shape == "auto"
        else _known_roles(config.shape)
    )
    for role, column in config.columns.items():
        if role not in known:
            raise SourceError(
                f"{config.path}: columns.{role}: the shape {config.shape} has no role with that name"
                f"{_beside(role, column, config) or did_you_mean(role, known)}"
            )
        if isinstance(column, tuple) and role not in ROLES["choice"]["options"]:
            raise SourceError(
                f"{config.path}: columns.{role} takes one column; only options may take several"
            )
    return dict(config.columns)


def _beside(role: str, column: Column, config: RowSettings) -> str:
    """What to type instead of a role that is a setting of the source, such as ``id``; empty for another one."""
    if role not in type(config).model_fields:
        return ""
    return (
        f"; it stands beside columns: type `{role}: {json.dumps(column, ensure_ascii=False)}` there"
    )


def _by_role(shape: str, configured: Mapping[str, Column]) -> dict[str, Column]:
    """Return the configured columns by the shape's own role names: ``question`` of the shape prompt is its prompt."""
    named: dict[str, Column] = {}
    for alias, column in configured.items():
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
    configured: Mapping[str, Column],
    *,
    named: bool,
) -> dict[str, list[Column]]:
    """Return the candidate columns of each role of the shape: the configured one, else those with a known name.

    ``named``: the config names the shape, so the values of a label column are not checked.
    """
    claimed = {name for column in configured.values() for name in _as_tuple(column)}
    free = [name for name in names if name not in claimed]
    candidates: dict[str, list[Column]] = {}
    for role, known in ROLES[shape].items():
        if role in configured:
            candidates[role] = [configured[role]]
            continue
        columns = _find(free, known)
        columns = [n for n in columns if n.lower() not in SECONDARY] or columns
        if role in _TURN_ROLES:
            columns = [name for name in columns if _contains_turns(name, rows, shape)]
        if role == "options":
            columns = [name for name in columns if _contains_options(name, rows)]
        if role == "label" and not named:
            columns = [
                name
                for name in columns
                if looks_like_classes([row.get(name) for row in rows], name)
            ]
        own = role in columns and (role in ("output", "label", "text") or shape in _OWN_NAMES_FIRST)
        if own or role in SHARED:
            columns = columns[:1]  # the role's own name has priority over its aliases
        candidates[role] = [*columns]
        if role == "options" and not columns and (several := option_columns(free)):
            candidates[role] = [several]
    return candidates


def _find(names: Sequence[str], known: Sequence[str]) -> list[str]:
    """Return the columns with one of the known names; an exact match hides matches that differ in case."""
    matches = []
    for name in known:
        exact = [name] if name in names else [n for n in names if n.lower() == name.lower()]
        matches.extend(exact)
    return matches


def _contains_turns(name: str, rows: Sequence[Mapping[str, Any]], shape: str) -> bool:
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


def _contains_options(name: str, rows: Sequence[Mapping[str, Any]]) -> bool:
    for row in rows:
        try:
            options_in_cell(row.get(name), name)
        except RowError:
            continue
        return True
    return False


def _with_forms(layout: Layout, rows: Sequence[Mapping[str, Any]], config: RowSettings) -> Layout:
    answers, truths = [], []
    for row in rows:
        try:
            options = layout.options(row)
        except RowError:
            continue
        answers.append((row.get(layout.column("answer")), options))
        if layout.truth is not None:
            truths.append((row.get(layout.truth), options))
    form = guess_form(answers, config.index_base)
    if form.usual == "index" and config.index_base is None and not tells_base(answers):
        raise SourceError(
            f"{config.path}: the numbers in the column {quoted(layout.column('answer'))} may count the options from 0 or from 1;"
            " type `index_base: 0` or `index_base: 1`"
        )
    return Layout(
        layout.shape,
        layout.roles,
        layout.id,
        layout.truth,
        layout.weight,
        form,
        guess_form(truths, form.base if form.usual == "index" else config.index_base),
    )


def _listed(names: Sequence[str] | Mapping[str, int]) -> str:
    some = [quoted(name) for name in list(names)[:30]]
    return ", ".join(some) + (", …" if len(names) > 30 else "") if some else "none"


def _hint(names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    """Return why a column is not taken for labels, or what is wrong with the names, as a further sentence; else an empty text."""
    if any(len(name) > _LONG_NAME and " " in name for name in names):
        return " The first line seems to be a row: write a line with the names of the columns above it."
    for name in _find(names, ROLES["label"]["label"]):
        cells = [row[name] for row in rows if row.get(name) not in (None, "")]
        if why := not_classes(cells, name):
            return f" {why}"
    return ""


def _layout_error(
    config: RowSettings,
    names: Sequence[str],
    matches: Mapping[str, Mapping[str, Column]],
    unclear: Mapping[str, str],
) -> str:
    listed = f"Columns found: {_listed(names)}."
    if len(matches) + len(unclear) > 1:
        shapes = " or ".join(f"`shape: {shape}`" for shape in (*matches, *unclear))
        return f"{config.path}: the rows fit several shapes. {listed} Type {shapes}."
    if unclear:
        shape, reason = next(iter(unclear.items()))
        return (
            f"{config.path}: the roles of the columns are ambiguous: {reason}. {listed}"
            f" Type `shape: {shape}` and `columns: {EXAMPLES[shape]}`."
        )
    if advice := other_purpose(names):
        return f"{config.path}: {advice}"
    if config.shape != "auto":
        return (
            f"{config.path}: the rows do not have the columns of the shape {config.shape}. {listed}"
            f" Type `columns: {EXAMPLES[config.shape]}`."
        )
    choices = ", or ".join(
        f"`shape: {shape}` with `columns: {EXAMPLES[shape]}`"
        for shape in ("prompt", "choice", "label")
    )
    return f"{config.path}: the shape of the rows is unknown. {listed} Type {choices}."
