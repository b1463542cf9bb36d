"""Rows to messages and back, one pair of functions a shape.

What a row holds beyond the messages stays in ``meta``, under the columns' own names and in their order. A cell whose
text went into the messages is None there: the messages are its only copy, and so nothing tells the old response of
a sample that was relabelled. ``meta[KEEP]`` holds what is needed to write a row as it came.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from nfilter import JSON, ROLES, Message, Role, Sample
from nfilter_io.cells import (
    RowError,
    as_text,
    dump_cell,
    filled_text,
    in_form,
    json_style,
    kind_of,
    load_cell,
    number_form,
    shown,
)
from nfilter_io.choices import Options, read_answer, render, write_answer
from nfilter_io.layout import Layout

KEEP: Final = "_nfilter"
"""The one reserved name in ``meta``: how cells were written, never what the response was."""

_SPEAKERS: Final[Mapping[str, Role]] = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "bard": "assistant",
    "bing": "assistant",
    "system": "system",
    "tool": "tool",
    "observation": "tool",
    "function_response": "tool",
}
_SPEAKER_OF: Final[Mapping[str, str]] = {
    "user": "human",
    "assistant": "gpt",
    "system": "system",
    "tool": "tool",
}


@dataclass(frozen=True, slots=True)
class Parsed:
    """One row, read: its messages, and everything else that it held."""

    messages: tuple[Message, ...]
    meta: Mapping[str, JSON]


def parse(row: Mapping[str, Any], layout: Layout) -> Parsed:
    """The messages and the rest of a clean row without its truth. Raises RowError."""
    if KEEP in row:
        raise RowError(f"the field name {KEEP!r} is reserved")
    if layout.shape in _TURNS:
        return _parse_turns(row, layout)
    if layout.shape == "choice":
        return _parse_choice(row, layout)
    return _parse_pair(row, layout)


def restore(sample: Sample, layout: Layout) -> dict[str, JSON]:
    """The row that ``parse`` read, with the sample's own response in place."""
    meta = dict(sample.meta)
    keep = meta.pop(KEEP, None)
    kept: Mapping[str, Any] = keep if isinstance(keep, Mapping) else {}
    if layout.shape in _TURNS:
        return _restore_turns(sample, layout, meta, kept)
    if layout.shape == "choice":
        return _restore_choice(sample, layout, meta, kept)
    return _restore_pair(sample, layout, meta, kept)


def truth_text(value: Any, row: Mapping[str, Any], layout: Layout) -> str | None:
    """The true label in the shape's own form, or None where there is none or it cannot be read.

    A truth must never decide whether a row is read, so that nothing is raised here.
    """
    try:
        if value is None or value == "":
            return None
        if layout.shape != "choice":
            return as_text(value, "truth")
        return read_answer(value, layout.options(row), layout.truth_form, "truth").letter
    except RowError:
        return None


# --- prompt and response, Alpaca -----------------------------------------------------------------------------


def _parse_pair(row: Mapping[str, Any], layout: Layout) -> Parsed:
    alpaca = layout.shape == "alpaca"
    asked = layout.column("instruction" if alpaca else "prompt")
    answered = layout.column("output" if alpaca else "response")
    meta = dict(row)
    query = filled_text(row.get(asked), asked)
    extra = layout.optional("input")
    if extra is not None and row.get(extra) not in (None, ""):
        query = _joined(query, as_text(row[extra], extra))
    elif isinstance(row[asked], str):
        meta[asked] = None
    response = as_text(row.get(answered), answered)
    form = number_form(row[answered])
    meta[answered] = None
    if form is not None:
        meta[KEEP] = {"form": form}
    return Parsed((*_system(row, layout, meta), *_exchange(query, response)), meta)


def _joined(instruction: str, given: str) -> str:
    return f"{instruction}\n\n{given}" if given.strip() else instruction


def _exchange(query: str, response: str) -> tuple[Message, Message]:
    return Message("user", query), Message("assistant", response)


def _system(row: Mapping[str, Any], layout: Layout, meta: dict[str, Any]) -> tuple[Message, ...]:
    column = layout.optional("system")
    if column is None or row.get(column) in (None, ""):
        return ()
    text = as_text(row[column], column)
    if isinstance(row[column], str):
        meta[column] = None
    return (Message("system", text),)


def _restore_pair(
    sample: Sample, layout: Layout, meta: dict[str, Any], kept: Mapping[str, Any]
) -> dict[str, JSON]:
    alpaca = layout.shape == "alpaca"
    asked = layout.column("instruction" if alpaca else "prompt")
    extra = layout.optional("input")
    _restore_system(sample, layout, meta)
    given = meta.get(extra) if extra is not None else None
    query = str(meta.get(asked)) if meta.get(asked) is not None else None
    if query is not None and given not in (None, ""):
        query = _joined(query, str(given))
    if query != sample.query:
        meta[asked] = sample.query
        if extra is not None and given not in (None, ""):
            meta[extra] = ""
    meta[layout.column("output" if alpaca else "response")] = in_form(
        sample.response, kept.get("form")
    )
    return meta


def _restore_system(sample: Sample, layout: Layout, meta: dict[str, Any]) -> None:
    column = layout.optional("system")
    text = next((m.content for m in sample.messages if m.role == "system"), None)
    if column is not None and text is not None and str(meta.get(column)) != text:
        meta[column] = text


# --- multiple choice -----------------------------------------------------------------------------------------


def _parse_choice(row: Mapping[str, Any], layout: Layout) -> Parsed:
    asked, answered = layout.column("question"), layout.column("answer")
    meta = dict(row)
    question = filled_text(row.get(asked), asked)
    options = layout.options(row)
    answer = read_answer(row.get(answered), options, layout.answer_form, answered)
    meta[answered] = None
    keep: dict[str, JSON] = {}
    if answer.form is not None:
        keep["form"] = dict(answer.form)
    texts = list(options.texts)
    if "options" not in row:
        keep["options"] = []
    elif row["options"] != texts:
        keep["options"] = [row["options"]]
    meta["options"] = texts
    if keep:
        meta[KEEP] = keep
    query = render(question, options.texts)
    return Parsed((*_system(row, layout, meta), *_exchange(query, answer.letter)), meta)


def _restore_choice(
    sample: Sample, layout: Layout, meta: dict[str, Any], kept: Mapping[str, Any]
) -> dict[str, JSON]:
    asked, answered = layout.column("question"), layout.column("answer")
    _restore_system(sample, layout, meta)
    if "options" in kept:
        if kept["options"]:
            meta["options"] = kept["options"][0]
        else:
            meta.pop("options", None)
    options = _options_again(meta, layout)
    question = meta.get(asked)
    if options is None or question is None or render(str(question), options.texts) != sample.query:
        # a sample that was not read here, or whose question was rewritten
        meta[asked] = sample.query
        meta[answered] = sample.response
        return meta
    meta[answered] = write_answer(sample.response, options, kept.get("form"))
    return meta


def _options_again(meta: Mapping[str, Any], layout: Layout) -> Options | None:
    try:
        return layout.options(meta)
    except RowError:
        return None


# --- chat messages, ShareGPT ---------------------------------------------------------------------------------

# shape: the role of its column, and the keys of one turn
_TURNS: Final = {
    "messages": ("messages", "role", "content"),
    "sharegpt": ("conversations", "from", "value"),
}


def _parse_turns(row: Mapping[str, Any], layout: Layout) -> Parsed:
    role, who, what = _TURNS[layout.shape]
    column = layout.column(role)
    cell = row.get(column)
    turns = load_cell(cell, column) if isinstance(cell, str) else cell
    if turns is None:
        raise RowError(f"the field {shown(column)} is missing")
    if not isinstance(turns, list):
        raise RowError(f"the field {shown(column)} is {kind_of(turns)}, not a list of turns")
    if not turns:
        raise RowError(f"the field {shown(column)} has no turns")
    messages = [_turn(turn, at, who, what) for at, turn in enumerate(turns, 1)]
    last = max((at for at, m in enumerate(messages) if m.role == "assistant"), default=None)
    if last is None:
        raise RowError(f"the field {shown(column)} has no turn of an assistant")
    if not any(message.role == "user" for message in messages[:last]):
        raise RowError(f"the field {shown(column)} has no turn of a user before the response")
    read = tuple(messages[: last + 1])
    keep: dict[str, JSON] = {}
    form = number_form(turns[last][what])
    if form is not None:
        keep["form"] = form
    if isinstance(cell, str):
        keep["style"] = json_style(cell, turns)
    meta = dict(row)
    system = _system(row, layout, meta) if read[0].role != "system" else ()
    if system:
        keep["system"] = True
    meta[column] = [_emptied(turn, what, at, last) for at, turn in enumerate(turns)]
    if keep:
        meta[KEEP] = keep
    return Parsed((*system, *read), meta)


def _turn(turn: Any, at: int, who: str, what: str) -> Message:
    if not isinstance(turn, Mapping):
        raise RowError(f"turn {at} is {kind_of(turn)}, not an object")
    speaker = turn.get(who)
    role = _speaker(speaker) if who == "from" else speaker
    if not isinstance(speaker, str) or role not in ROLES:
        known = ", ".join(_SPEAKERS if who == "from" else ROLES)
        raise RowError(f"turn {at} has the unknown {who} {shown(speaker)}; known: {known}")
    try:
        return Message(role, as_text(turn.get(what), what))
    except RowError as error:
        raise RowError(f"turn {at}: {error}") from None


def _speaker(name: object) -> Role | None:
    return _SPEAKERS.get(name) if isinstance(name, str) else None


def _emptied(turn: Mapping[str, Any], what: str, at: int, last: int) -> dict[str, Any]:
    """The turn without its text where the messages hold it; turns after the response stay whole."""
    if at == last or (at < last and isinstance(turn[what], str)):
        return {**turn, what: None}
    return dict(turn)


def _restore_turns(
    sample: Sample, layout: Layout, meta: dict[str, Any], kept: Mapping[str, Any]
) -> dict[str, JSON]:
    role, who, what = _TURNS[layout.shape]
    column = layout.column(role)
    before = meta.get(column)
    messages = sample.messages
    if "system" in kept and messages and messages[0].role == "system":
        _restore_system(sample, layout, meta)
        messages = messages[1:]
    turns = _filled(before, messages, who, what) if isinstance(before, list) else None
    if turns is None:
        turns = [
            {who: _SPEAKER_OF[m.role] if who == "from" else m.role, what: m.content}
            for m in messages
        ]
    last = max((at for at, m in enumerate(messages) if m.role == "assistant"), default=None)
    if last is not None and turns:
        turns[last][what] = in_form(turns[last][what], kept.get("form"))
    meta[column] = dump_cell(turns, kept["style"]) if "style" in kept else turns
    return meta


def _filled(
    before: Sequence[Any], messages: Sequence[Message], who: str, what: str
) -> list[dict[str, Any]] | None:
    """The turns as they came with the messages' texts in place; None where the two do not match."""
    if len(before) < len(messages):
        return None
    turns: list[dict[str, Any]] = []
    for at, turn in enumerate(before):
        if at >= len(messages):
            turns.append(dict(turn))
            continue
        role = _speaker(turn[who]) if who == "from" else turn[who]
        if role != messages[at].role:
            return None
        same = turn[what] is not None and as_text(turn[what], what) == messages[at].content
        turns.append(dict(turn) if same else {**turn, what: messages[at].content})
    return turns
