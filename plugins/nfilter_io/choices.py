"""Options and answers of multiple-choice rows, in the forms that data sets give them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from nfilter_io.cells import RowError, as_text, is_number, kind_of, load_cell, shown

LETTERS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

FormName = Literal["letter", "label", "text", "index"]
_LETTER = re.compile(r"([\s(\[]*)([A-Za-z])([\s)\].:]*)")


@dataclass(frozen=True, slots=True)
class Options:
    """The options of one row. ``labels`` are the data's own names of them, where it has any (ARC, MedQA)."""

    texts: tuple[str, ...]
    labels: tuple[str, ...] | None = None

    @property
    def letters(self) -> str:
        """The letters that stand for the options here."""
        return LETTERS[: len(self.texts)]


@dataclass(frozen=True, slots=True)
class AnswerForm:
    """How a column gives its answers, guessed from many rows: the usual form, and where an index starts."""

    usual: FormName = "letter"
    base: int = 0

    def __str__(self) -> str:
        return f"index from {self.base}" if self.usual == "index" else self.usual


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer: which option it is, and how the cell said so (JSON; None for a plain capital letter)."""

    index: int
    form: Mapping[str, Any] | None = None

    @property
    def letter(self) -> str:
        return LETTERS[self.index]


def options_of(value: Any, name: str) -> Options:
    """The options in one cell: a list, a list as JSON text, ``{"text": [...], "label": [...]}`` or ``{"A": ...}``.

    Raises RowError where they are none of these, fewer than 2 or more than 26.
    """
    if isinstance(value, str):
        value = load_cell(value, name)
    if value is None:
        raise RowError(f"the field {shown(name)} is missing")
    labels: tuple[str, ...] | None = None
    if isinstance(value, Mapping):
        if isinstance(value.get("text"), list):
            value, given = value["text"], value.get("label")
            if isinstance(given, list):
                labels = tuple(as_text(label, "label") for label in given)
        else:
            labels, value = tuple(value), list(value.values())
    if not isinstance(value, list):
        raise RowError(f"the field {shown(name)} is {kind_of(value)}, not a list of options")
    texts = tuple(as_text(text, name) for text in value)
    return _checked(Options(texts, labels))


def options_in(row: Mapping[str, Any], columns: Sequence[str]) -> Options:
    """The options spread over ``columns``; empty ones at the end are none. Raises RowError."""
    cells = [row.get(column) for column in columns]
    while cells and (cells[-1] is None or cells[-1] == ""):
        cells.pop()
    texts = tuple(as_text(cell, column) for cell, column in zip(cells, columns, strict=False))
    return _checked(Options(texts))


def _checked(options: Options) -> Options:
    n = len(options.texts)
    if not 2 <= n <= len(LETTERS):
        raise RowError(f"has {n} options; multiple choice needs 2 to {len(LETTERS)}")
    if options.labels is not None and len(set(options.labels)) != n:
        raise RowError("has options and labels that do not match one to one")
    return options


def render(question: str, texts: Sequence[str]) -> str:
    """The user's message: the question, then a line for each option."""
    lines = (f"{letter}. {text}" for letter, text in zip(LETTERS, texts, strict=False))
    return "\n".join((question, *lines))


def _as_letter(value: Any, options: Options) -> Answer | None:
    match = _LETTER.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        return None
    before, letter, after = match.groups()
    index = LETTERS.index(letter.upper())
    if index >= len(options.texts):
        return None
    if value == letter and letter.isupper():
        return Answer(index)
    return Answer(
        index, {"as": "letter", "before": before, "after": after, "lower": letter.islower()}
    )


def _as_label(value: Any, options: Options) -> Answer | None:
    if options.labels is None or not (isinstance(value, str) or is_number(value)):
        return None
    text = as_text(value, "answer")
    if text not in options.labels:
        return None
    index = options.labels.index(text)
    if text == LETTERS[index]:
        return Answer(index)
    return Answer(index, {"as": "label", "type": _type_of(value)})


def _as_text(value: Any, options: Options) -> Answer | None:
    if not (isinstance(value, str) or is_number(value)):
        return None
    text = as_text(value, "answer")
    if options.texts.count(text) != 1:
        return None
    return Answer(options.texts.index(text), {"as": "text", "type": _type_of(value)})


def _as_index(value: Any, options: Options, base: int) -> Answer | None:
    number = _whole(value)
    if number is None or not 0 <= number - base < len(options.texts):
        return None
    return Answer(number - base, {"as": "index", "base": base, "type": _type_of(value)})


def _whole(value: Any) -> int | None:
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    if is_number(value):
        return int(value)
    if isinstance(value, str) and re.fullmatch(r"\d{1,2}", value):
        return int(value)
    return None


def _type_of(value: Any) -> str:
    return type(value).__name__


def _readings(value: Any, options: Options, base: int) -> dict[FormName, Answer]:
    found: dict[FormName, Answer | None] = {
        "letter": _as_letter(value, options),
        "label": _as_label(value, options),
        "text": _as_text(value, options),
        "index": _as_index(value, options, base),
    }
    return {name: answer for name, answer in found.items() if answer is not None}


def guess_form(cells: Iterable[tuple[Any, Options]], base: int | None = None) -> AnswerForm:
    """The form that reads most of the cells; between equals a letter, the data's label, a text, an index.

    An index starts at ``base``; where that is None, at 1 if some cell equals the number of options and none
    is 0, else at 0.
    """
    seen = list(cells)
    if base is None:
        numbers = [(_whole(value), len(options.texts)) for value, options in seen]
        has_zero = any(number == 0 for number, _ in numbers)
        base = int(not has_zero and any(number == n for number, n in numbers))
    fits = Counter(name for value, options in seen for name in _readings(value, options, base))
    if not fits:
        return AnswerForm(base=base)
    order: tuple[FormName, ...] = ("letter", "label", "text", "index")
    return AnswerForm(max(order, key=lambda name: fits[name]), base)


def read_answer(value: Any, options: Options, form: AnswerForm, name: str) -> Answer:
    """The option that a cell names: in the column's usual form, else in the only other one that fits.

    An index among answers of another form is never read: where it would start from cannot be known. Raises
    RowError where the cell is missing, names no option, or could name several.
    """
    if value is None or value == "":
        raise RowError(f"the field {shown(name)} is missing")
    readings = _readings(value, options, form.base)
    if form.usual in readings:
        return readings[form.usual]
    sure = [answer for name, answer in readings.items() if name != "index"]
    if sure and len({answer.index for answer in readings.values()}) == 1:
        return sure[0]
    what = "could name several options" if sure else "names none of the options"
    raise RowError(
        f"the field {shown(name)} is {shown(value)}, which {what};"
        f" give one of {', '.join(options.letters)}"
    )


def write_answer(
    letter: str, options: Options, form: Mapping[str, Any] | None
) -> str | int | float:
    """The option of that letter in the form of the cell that it came from; other text stays as it is."""
    index = LETTERS.find(letter) if len(letter) == 1 else -1
    if form is None or not 0 <= index < len(options.texts):
        return letter
    if form["as"] == "letter":
        return f"{form['before']}{letter.lower() if form['lower'] else letter}{form['after']}"
    if form["as"] == "text":
        return _typed(options.texts[index], form["type"])
    if form["as"] == "label":
        return _typed(options.labels[index] if options.labels else letter, form["type"])
    return _typed(str(index + form["base"]), form["type"])


def _typed(text: str, name: str) -> str | int | float:
    try:
        if name == "int":
            return int(text)
        if name == "float":
            return float(text)
    except ValueError:
        return text
    return text
