"""Options and answers of multiple-choice rows, in the formats of common datasets."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from nfilter import is_number
from nfilter_io.cells import RowError, as_text, json_type, load_cell, quoted

LETTERS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

FormName = Literal["letter", "label", "text", "index"]
_FAMILY = re.compile(
    r"(?P<stem>(?:choice|option|opt|op|ending|answer_choice)s?[_ ]?)(?P<at>\d|[A-Ha-h])",
    re.IGNORECASE,
)
_LETTER = re.compile(r"([\s(\[]*)([A-Za-z])([\s)\].:]*)")

_LETTER_AND_TEXT = re.compile(r"([\s(\[]*)([A-Z])([)\].:]+\s*|\s+-\s+)(\S.*?)(\s*)", re.DOTALL)
_INDEX = re.compile(
    r"(\d{1,2})(?:\.0)?"
)  # data frames write indices as 1.0 where a cell is missing


@dataclass(frozen=True, slots=True)
class Options:
    """Options of one row. ``labels`` are the dataset's own names of the options, if any (ARC, MedQA)."""

    texts: tuple[str, ...]
    labels: tuple[str, ...] | None = None

    @property
    def letters(self) -> str:
        """Return nfilter's letters of the options."""
        return LETTERS[: len(self.texts)]


@dataclass(frozen=True, slots=True)
class AnswerForm:
    """Format of a column's answers, guessed from many rows: the usual form, and the first index."""

    usual: FormName = "letter"
    base: int = 0

    def __str__(self) -> str:
        return f"index from {self.base}" if self.usual == "index" else self.usual


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer: the index of the option, and the cell's format (JSON; None for a plain capital letter)."""

    index: int
    form: Mapping[str, Any] | None = None

    @property
    def letter(self) -> str:
        return LETTERS[self.index]


def options_in_cell(value: Any, name: str) -> Options:
    """Return the options in one cell: a list, ``{"text": [...], "label": [...]}``, ``[{"label": ..., "text": ...}]`` or ``{"A": ...}``.

    Each may be JSON text, or text as Python prints it.

    Raises:
        RowError: another format, fewer than 2 options, or more than 26.
    """
    if isinstance(value, str):
        value = load_cell(value, name)
    if value is None:
        raise RowError(f"the field {quoted(name)} is missing")
    labels: tuple[str, ...] | None = None
    if isinstance(value, Mapping):
        if isinstance(value.get("text"), list):
            value, names = value["text"], value.get("label")
            if isinstance(names, list):
                labels = tuple(as_text(label, "label") for label in names)
        else:
            labels, value = tuple(value), list(value.values())
    if not isinstance(value, list):
        raise RowError(f"the field {quoted(name)} is {json_type(value)}, not a list of options")
    if value and all(isinstance(item, Mapping) and "text" in item for item in value):
        names = [item.get("label", item.get("key")) for item in value]
        value = [item["text"] for item in value]
        if None not in names:
            labels = tuple(as_text(label, "label") for label in names)
    texts = tuple(as_text(text, name) for text in value)
    return _check_options(Options(texts, labels))


def options_in_columns(row: Mapping[str, Any], columns: Sequence[str]) -> Options:
    """Return the options in several ``columns``, without empty ones at the end; raise RowError."""
    cells = [row.get(column) for column in columns]
    while cells and (cells[-1] is None or cells[-1] == ""):
        cells.pop()
    texts = tuple(as_text(cell, column) for cell, column in zip(cells, columns, strict=False))
    return _check_options(Options(texts))


def option_columns(names: Sequence[str]) -> tuple[str, ...]:
    """Return the columns of the options: A, B, ..., or one name with consecutive letters or numbers (choice_0, option1, opa)."""
    families: dict[str, dict[int, str]] = {"": {}}
    for name in names:
        if len(name) == 1 and name in LETTERS:
            families[""][LETTERS.index(name)] = name
        elif match := _FAMILY.fullmatch(name):
            at = match["at"]
            place = int(at) if at.isdigit() else LETTERS.index(at.upper())
            kind = "digit" if at.isdigit() else "letter"
            families.setdefault(f"{match['stem'].lower()} {kind}", {})[place] = name
    for kind, found in families.items():
        place = 1 if kind.endswith("digit") and 0 not in found else 0
        columns = []
        while place in found:
            columns.append(found[place])
            place += 1
        if len(columns) >= 2:
            return tuple(columns)
    return ()


def _check_options(options: Options) -> Options:
    n = len(options.texts)
    if not 2 <= n <= len(LETTERS):
        raise RowError(f"has {n} options; multiple choice needs 2 to {len(LETTERS)}")
    if options.labels is not None and len(set(options.labels)) != n:
        raise RowError("has options and labels that do not match one to one")
    return options


def render(question: str, texts: Sequence[str]) -> str:
    """Return the user's message: the question, followed by one line per option."""
    lines = (f"{letter}. {text}" for letter, text in zip(LETTERS, texts, strict=False))
    return "\n".join((question, *lines))


def _as_letter(value: Any, options: Options) -> Answer | None:
    match = _LETTER.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        return _as_letter_and_text(value, options)
    before, letter, after = match.groups()
    index = LETTERS.index(letter.upper())
    if index >= len(options.texts):
        return None
    if value == letter and letter.isupper():
        return Answer(index)
    return Answer(
        index, {"as": "letter", "before": before, "after": after, "lower": letter.islower()}
    )


def _as_letter_and_text(value: Any, options: Options) -> Answer | None:
    """Read "B) tin", where B is the option "tin"."""
    match = _LETTER_AND_TEXT.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        return None
    before, letter, after, text, end = match.groups()
    index = LETTERS.index(letter)
    if index >= len(options.texts) or options.texts[index].strip() != text:
        return None
    return Answer(index, {"as": "both", "before": before, "after": after, "end": end})


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
    number = _as_int(value)
    if number is None or not 0 <= number - base < len(options.texts):
        return None
    decimal = isinstance(value, str) and value.endswith(".0")
    kind = "decimal" if decimal else _type_of(value)
    return Answer(number - base, {"as": "index", "base": base, "type": kind})


def _as_int(value: Any) -> int | None:
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    if is_number(value):
        return int(value)
    match = _INDEX.fullmatch(value) if isinstance(value, str) else None
    return None if match is None else int(match.group(1))


def _type_of(value: Any) -> str:
    return type(value).__name__


def _interpretations(value: Any, options: Options, base: int) -> dict[FormName, Answer]:
    answers: dict[FormName, Answer | None] = {
        "letter": _as_letter(value, options),
        "label": _as_label(value, options),
        "text": _as_text(value, options),
        "index": _as_index(value, options, base),
    }
    return {name: answer for name, answer in answers.items() if answer is not None}


def guess_form(cells: Iterable[tuple[Any, Options]], base: int | None = None) -> AnswerForm:
    """Return the form that fits most cells; ties prefer letter, label, text, index in this order.

    An index starts at ``base``. If that is None, it starts at 1 if a cell equals the number of options and none is 0,
    else at 0.
    """
    pairs = list(cells)
    if base is None:
        numbers = [(_as_int(value), len(options.texts)) for value, options in pairs]
        has_zero = any(number == 0 for number, _ in numbers)
        base = int(not has_zero and any(number == n for number, n in numbers))
    fits = Counter(
        name for value, options in pairs for name in _interpretations(value, options, base)
    )
    if not fits:
        return AnswerForm(base=base)
    order: tuple[FormName, ...] = ("letter", "label", "text", "index")
    return AnswerForm(max(order, key=lambda name: fits[name]), base)


def tells_base(cells: Iterable[tuple[Any, Options]]) -> bool:
    """Return whether a cell is 0 or the number of options: without one, indices may begin at 0 or at 1."""
    return any(_as_int(value) in (0, len(options.texts)) for value, options in cells)


def read_answer(value: Any, options: Options, form: AnswerForm, name: str) -> Answer:
    """Return the option that a cell names, in the column's usual form or the only other form that fits.

    An index in a column of another form is never read, because its first index is unknown.

    Raises:
        RowError: the cell is missing, names no option, or is ambiguous.
    """
    if value is None or value == "":
        raise RowError(f"the field {quoted(name)} is missing")
    interpretations = _interpretations(value, options, form.base)
    if form.usual in interpretations:
        return interpretations[form.usual]
    candidates = [answer for name, answer in interpretations.items() if name != "index"]
    if candidates and len({answer.index for answer in interpretations.values()}) == 1:
        return candidates[0]
    problem = "could name several options" if candidates else "names none of the options"
    raise RowError(
        f"the field {quoted(name)} is {quoted(value)}, which {problem};"
        f" give one of {', '.join(options.letters)}"
    )


def write_answer(
    letter: str, options: Options, form: Mapping[str, Any] | None
) -> str | int | float:
    """Return the option of ``letter`` in the original cell's form; return other text unchanged."""
    index = LETTERS.find(letter) if len(letter) == 1 else -1
    if form is None or not 0 <= index < len(options.texts):
        return letter
    if form["as"] == "letter":
        return f"{form['before']}{letter.lower() if form['lower'] else letter}{form['after']}"
    if form["as"] == "both":
        text = options.texts[index].strip()
        return f"{form['before']}{letter}{form['after']}{text}{form['end']}"
    if form["as"] == "text":
        return _to_type(options.texts[index], form["type"])
    if form["as"] == "label":
        return _to_type(options.labels[index] if options.labels else letter, form["type"])
    return _to_type(str(index + form["base"]), form["type"])


def _to_type(text: str, name: str) -> str | int | float:
    try:
        if name == "int":
            return int(text)
        if name == "float":
            return float(text)
        if name == "decimal":
            return f"{text}.0"
    except ValueError:
        return text
    return text
