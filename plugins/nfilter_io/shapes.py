"""Rows to messages and back, one pair of functions a shape.

What a row holds beyond the messages stays in ``meta``, under the columns' own names and in their order. A cell whose
text went into the messages is None there: the messages are its only copy, and so nothing tells the old response of
a sample that was relabelled. ``meta[KEEP]`` holds what is needed to write a row as it came.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from nfilter import JSON, Message, Sample
from nfilter_io.cells import (
    RowError,
    as_text,
    dump_cell,
    filled_text,
    in_form,
    is_number,
    json_style,
    kind_of,
    load_cell,
    number_form,
    shown,
)
from nfilter_io.choices import Options, read_answer, render, write_answer
from nfilter_io.classes import read_class, write_class
from nfilter_io.layout import Layout
from nfilter_io.turns import SPEAKERS, Turn, fill_turn, filled, new_turn, read_tools, read_turn

KEEP: Final = "_nfilter"
"""The one reserved name in ``meta``: how cells were written, never what the response was."""

_SYSTEM: Final = ("system", "system_prompt")
_TOOLS: Final = ("tools", "functions")
# Columns that change what a row means, whatever its shape, and that nothing here reads.
_MEANING: Final = (
    "image", "images", "video", "videos", "audio", "audios", "documents", "history", "response_format", "tool_choice",
    "chat_template_kwargs", "sample_weight", "loss_weight", "weight", *_TOOLS,
)  # fmt: skip
_WEIGHTS: Final = ("weight", "sample_weight", "loss_weight")


@dataclass(frozen=True, slots=True)
class Parsed:
    """One row, read: its messages and tools, and everything else that it held.

    ``lost`` names what of it changes its meaning and is in none of them.
    """

    messages: tuple[Message, ...]
    meta: Mapping[str, JSON]
    tools: tuple[Mapping[str, JSON], ...] = ()
    lost: tuple[str, ...] = ()


def parse(row: Mapping[str, Any], layout: Layout) -> Parsed:
    """The messages and the rest of a clean row without its truth. Raises RowError."""
    if KEEP in row:
        raise RowError(f"the field name {KEEP!r} is reserved")
    if layout.shape in _TURNS:
        parsed = _parse_turns(row, layout)
    elif layout.shape == "choice":
        parsed = _parse_choice(row, layout)
    elif layout.shape == "label":
        parsed = _parse_label(row, layout)
    else:
        parsed = _parse_pair(row, layout)
    return replace(parsed, lost=(*parsed.lost, *_not_read(row, layout, tools=bool(parsed.tools))))


def _not_read(row: Mapping[str, Any], layout: Layout, *, tools: bool) -> Iterator[str]:
    read = {layout.id, layout.weight, *layout.used(), *(_TOOLS if tools else ())}
    for name in _MEANING:
        value = row.get(name)
        if name in read or not filled(value) or (name in _WEIGHTS and value == 1):
            continue
        if name not in _WEIGHTS or is_number(value):
            remedy = f" (`weight: {name}` in the source reads it)" if name in _WEIGHTS else ""
            yield f"the column {shown(name)}{remedy}"


def row_weight(row: Mapping[str, Any], layout: Layout) -> float:
    """The row's weight in the training loss; 1 where the source names no column for it, or the cell is empty.

    Raises RowError for what is no finite number from 0 up.
    """
    value = row.get(layout.weight) if layout.weight is not None else None
    if value is None or value == "":
        return 1.0
    try:
        number = float(value) if isinstance(value, str) or is_number(value) else math.nan
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise RowError(
            f"the field {shown(str(layout.weight))} is {shown(value)}; a weight is a number from 0 up"
        )
    return number


def with_weight(row: dict[str, JSON], weight: float, layout: Layout) -> dict[str, JSON]:
    """A restored row with the sample's weight in its column: the source's, else the first free of the usual names."""
    if layout.weight is not None:
        given = row.get(layout.weight)
        return row if weight == 1.0 and given in (None, "") else {**row, layout.weight: weight}
    if weight == 1.0:
        return row
    name = next((name for name in _WEIGHTS if name not in row), "nfilter_weight")
    return {**row, name: weight}


def restore(sample: Sample, layout: Layout) -> dict[str, JSON]:
    """The row that ``parse`` read, with the sample's own response in place."""
    meta = dict(sample.meta)
    keep = meta.pop(KEEP, None)
    kept: Mapping[str, Any] = keep if isinstance(keep, Mapping) else {}
    if layout.shape in _TURNS:
        return _restore_turns(sample, layout, meta, kept)
    if layout.shape == "choice":
        return _restore_choice(sample, layout, meta, kept)
    if layout.shape == "label":
        return _restore_label(sample, layout, meta, kept)
    return _restore_pair(sample, layout, meta, kept)


def truth_text(value: Any, row: Mapping[str, Any], layout: Layout) -> str | None:
    """The true label in the shape's own form, or None where there is none or it cannot be read.

    A truth must never decide whether a row is read, so that nothing is raised here.
    """
    try:
        if value is None or value == "":
            return None
        if layout.shape == "label":
            return read_class(value, layout.classes, "truth")[0]
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
    column = _named(row, layout, "system", _SYSTEM)
    if column is None:
        return ()
    text = as_text(row[column], column)
    if isinstance(row[column], str):
        meta[column] = None
    return (Message("system", text),)


def _named(row: Mapping[str, Any], layout: Layout, role: str, names: Sequence[str]) -> str | None:
    """The column of an optional role that this row fills: the layout's, else one of a known name.

    A layout is settled on the first rows, and a column may be rare, or come late.
    """
    told = layout.optional(role)
    columns = (told,) if told is not None else names
    taken = layout.used() if told is None else set()
    return next((name for name in columns if name not in taken and filled(row.get(name))), None)


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
    told = layout.optional("system")
    # A cell whose text went into a message is None.
    column = told or next((name for name in _SYSTEM if name in meta and meta[name] is None), None)
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


# --- label sets ----------------------------------------------------------------------------------------------


def _parse_label(row: Mapping[str, Any], layout: Layout) -> Parsed:
    asked, answered = layout.column("text"), layout.column("label")
    meta = dict(row)
    text = filled_text(row.get(asked), asked)
    label, form = read_class(row.get(answered), layout.classes, answered)
    if isinstance(row[asked], str):
        meta[asked] = None
    meta[answered] = None
    keep: dict[str, JSON] = {"options": [row["options"]] if "options" in row else []}
    if form is not None:
        keep["form"] = dict(form)
    meta["options"], meta[KEEP] = list(layout.classes.names), keep
    before = [message.content for message in _system(row, layout, {})]
    told = "\n".join((_CLASSIFY, *(f"- {name}" for name in layout.classes.names)))
    system = Message("system", "\n\n".join((*before, told)))
    return Parsed((system, *_exchange(text, label)), meta)


_CLASSIFY: Final = (
    "Classify the text. Answer with the name of one of these classes and nothing else:"
)


def _restore_label(
    sample: Sample, layout: Layout, meta: dict[str, Any], kept: Mapping[str, Any]
) -> dict[str, JSON]:
    asked, answered = layout.column("text"), layout.column("label")
    if "options" in kept:
        meta.pop("options", None)
        if kept["options"]:
            meta["options"] = kept["options"][0]
    if meta.get(asked) is None or str(meta[asked]) != sample.query:
        meta[asked] = sample.query
    meta[answered] = write_class(sample.response, layout.classes, kept.get("form"))
    return meta


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
    given = _turns(cell, column)
    turns = [read_turn(turn, at, who, what) for at, turn in enumerate(given, 1)]
    messages = [turn.message for turn in turns]
    last = max((at for at, m in enumerate(messages) if m.role == "assistant"), default=None)
    if last is None:
        raise RowError(f"the field {shown(column)} has no turn of an assistant")
    if not any(message.role == "user" for message in messages[:last]):
        raise RowError(f"the field {shown(column)} has no turn of a user before the response")
    read = tuple(messages[: last + 1])
    keep: dict[str, JSON] = {}
    form = number_form(given[last].get(what)) if is_number(given[last].get(what)) else None
    if form is not None:
        keep["form"] = form
    if turns[last].form:
        keep["turn"] = dict(turns[last].form)
    if isinstance(cell, str):
        keep["style"] = json_style(cell, given)
    lost = [name for turn in turns[: last + 1] for name in turn.lost]
    meta = dict(row)
    system: tuple[Message, ...] = ()
    if read[0].role != "system":
        system = _system(row, layout, meta)
    elif (other := _named(row, layout, "system", _SYSTEM)) and row[other] != read[0].content:
        lost.append(f"the column {shown(other)} beside a system turn")
    if system:
        keep["system"] = True
    meta[column] = [_emptied(turn, turns[at], what, at, last) for at, turn in enumerate(given)]
    if keep:
        meta[KEEP] = keep
    listed = _named(row, layout, "tools", _TOOLS)
    tools = read_tools(row[listed], listed) if listed is not None else ()
    return Parsed((*system, *read), meta, tools, tuple(lost))


def _turns(cell: Any, column: str) -> list[Any]:
    turns = load_cell(cell, column) if isinstance(cell, str) else cell
    if turns is None:
        raise RowError(f"the field {shown(column)} is missing")
    if not isinstance(turns, list):
        raise RowError(f"the field {shown(column)} is {kind_of(turns)}, not a list of turns")
    if not turns:
        raise RowError(f"the field {shown(column)} has no turns")
    return turns


def _emptied(turn: Mapping[str, Any], read: Turn, what: str, at: int, last: int) -> dict[str, Any]:
    """The turn without its text where the messages hold it; turns after the response stay whole."""
    if at == last:
        number = {what: None} if is_number(turn.get(what)) else {}
        return {**read.bare, **number}
    if at < last and read.message.content and turn.get(what) == read.message.content:
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
    last = max((at for at, m in enumerate(messages) if m.role == "assistant"), default=-1)
    form = kept.get("turn", {})
    turns = _filled(before, messages, who, what, form) if isinstance(before, list) else None
    if turns is None:
        turns = [new_turn(message, who, what) for message in messages]
        if sample.tools and _named(meta, layout, "tools", _TOOLS) is None:
            meta[layout.optional("tools") or _TOOLS[0]] = [dict(tool) for tool in sample.tools]
    if last >= 0 and "form" in kept:
        turns[last][what] = in_form(turns[last][what], kept["form"])
    meta[column] = dump_cell(turns, kept["style"]) if "style" in kept else turns
    return meta


def _filled(
    before: Sequence[Any], messages: Sequence[Message], who: str, what: str, form: Mapping[str, Any]
) -> list[dict[str, Any]] | None:
    """The turns as they came with the messages' texts in place; None where the two do not match."""
    if len(before) < len(messages):
        return None
    turns: list[dict[str, Any]] = []
    for at, turn in enumerate(before):
        if at >= len(messages):
            turns.append(dict(turn))
            continue
        message = messages[at]
        if SPEAKERS[who][turn[who]] != message.role:
            return None
        if at == len(messages) - 1:
            turns.append(fill_turn(turn, message, who, what, form))
        elif _other_text(turn.get(what), message, what):
            turns.append({**turn, what: message.content})
        else:
            turns.append(dict(turn))
    return turns


def _other_text(value: Any, message: Message, what: str) -> bool:
    """Whether a turn before the response does not hold the message's text."""
    if message.tool_calls or isinstance(value, list):
        return value is None and message.content != ""
    return value is None or as_text(value, what) != message.content
