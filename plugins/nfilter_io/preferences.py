"""Preference pairs: a prompt and two responses, chosen and rejected, as texts or as lists of turns, as TRL reads them.

``meta`` has the turns before the responses as they were read. How the two responses were written is kept in the order of their
texts, so that ``meta`` does not say which of them was chosen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from nfilter import JSON, Message, Sample, is_number
from nfilter_io.cells import (
    RowError,
    as_number_type,
    as_text,
    dump_cell,
    json_style,
    load_cell,
    number_type,
    quoted,
)
from nfilter_io.layout import Layout
from nfilter_io.row_parts import KEEP, Parsed, restore_system, system_beside, tools_beside
from nfilter_io.turns import (
    TEXT_KEYS,
    begins_turns,
    fill_turn,
    has_value,
    keys_of,
    new_turn,
    read_tools,
    read_turn,
)

_SIDES: Final = ("chosen", "rejected")
_KEYS: Final = TEXT_KEYS


@dataclass(frozen=True, slots=True)
class _Cell:
    """One parsed cell: a response, the messages before it, and how both were written.

    ``form`` describes the response, ``raw`` has the objects of the turns before it; ``speaker`` is None for a text. ``style`` is
    that of a list that is JSON text.
    """

    response: Message | None
    before: tuple[Message, ...] = ()
    raw: tuple[Mapping[str, Any], ...] = ()
    speaker: str | None = None
    style: int | None = None
    form: Mapping[str, JSON] = field(default_factory=dict)
    not_carried: tuple[str, ...] = ()


def parse_preference(row: Mapping[str, Any], layout: Layout) -> Parsed:
    """Parse a row with a chosen and a rejected response.

    Raises:
        RowError: the responses are equal, or differ before their last turn; there is no prompt, or two that differ.
    """
    columns = {side: layout.column(side) for side in _SIDES}
    chosen, rejected = (_response_cell(row.get(columns[side]), columns[side]) for side in _SIDES)
    assert chosen.response is not None
    assert rejected.response is not None
    if (chosen.speaker is None) != (rejected.speaker is None):
        raise RowError(
            f"of {quoted(columns['chosen'])} and {quoted(columns['rejected'])} one is text and the other a list of turns"
        )
    if chosen.before != rejected.before:
        raise RowError(
            f"the turns of {quoted(columns['chosen'])} and {quoted(columns['rejected'])} differ before the last one"
        )
    if chosen.response.content.strip() == rejected.response.content.strip():
        raise RowError(
            f"{quoted(columns['chosen'])} and {quoted(columns['rejected'])} have the same text"
        )
    meta = dict(row)
    keep: dict[str, JSON] = {}
    prompt, more = _prompt(row, layout, chosen.before, meta, keep)
    system, beside = system_beside(row, layout, meta, keep, prompt[0] if prompt else None)
    not_carried = (
        *more,
        *chosen.not_carried,
        *rejected.not_carried,
        *_beside(row, columns),
        *beside,
    )
    if not any(message.role == "user" for message in prompt):
        raise RowError("there is no turn of a user before the responses")
    for side, cell in zip(_SIDES, (chosen, rejected), strict=True):
        meta[columns[side]] = None if cell.speaker is None else list(cell.raw)
        if cell.style is not None:
            keep[f"{side}_style"] = cell.style
    keep["forms"] = [
        dict(cell.form)
        for cell in sorted((chosen, rejected), key=lambda cell: cell.response.content)  # type: ignore[union-attr]
    ]
    meta[KEEP] = keep
    tools = tools_beside(row, layout) or _tools_inside(row, layout)
    messages = (*system, *prompt, chosen.response)
    return Parsed(messages, meta, tools, not_carried, rejected.response)


def _tools_inside(row: Mapping[str, Any], layout: Layout) -> tuple[Mapping[str, JSON], ...]:
    """Return the tools beside the turns of a prompt in OpenAI's format."""
    column = layout.optional_column("prompt")
    value = row.get(column) if column is not None else None
    if column is None or not isinstance(value, Mapping):
        return ()
    return read_tools(value.get("tools"), column)


def _beside(row: Mapping[str, Any], columns: Mapping[str, str]) -> Iterator[str]:
    """Yield the columns that describe one of the responses: they stay in place when the two are exchanged."""
    for name in row:
        other = name.replace("chosen", "rejected")
        if other != name and other in row and name not in columns.values() and has_value(row[name]):
            yield (
                f"the columns {quoted(name)} and {quoted(other)}, which stay as they are when a pair is swapped"
            )


def _turns_in(value: Any, column: str) -> list[Any] | None:
    """Return the turns of a cell, which may be JSON text; None if it is a text, or empty."""
    if isinstance(value, str) and begins_turns(value):
        try:
            value = load_cell(value, column)
        except RowError:
            return None
    if not isinstance(value, list) or not value:
        return None
    if isinstance(value[0], Mapping) and (_KEYS.keys() & value[0].keys()):
        return value
    raise RowError(f"the field {quoted(column)} is a list, and not of turns with role and content")


def _response_cell(value: Any, column: str) -> _Cell:
    """Parse a response with the turns before it."""
    turns = _turns_in(value, column)
    if turns is None:
        text = as_text(value, column)
        if not text.strip():
            raise RowError(f"the field {quoted(column)} is empty")
        kind = number_type(value)
        form = {} if kind is None else {"number": kind}
        return _Cell(Message("assistant", text), form=form)
    cell = _prompt_cell(turns, column, value)
    last = cell.before[-1]
    if last.role != "assistant":
        raise RowError(f"the last turn of {quoted(column)} is not an assistant's")
    speaker = str(cell.speaker)
    turn = read_turn(turns[-1], len(turns), speaker)
    template: dict[str, JSON] = dict(turn.template)
    _, key = keys_of(turns[-1], speaker)
    if is_number(turns[-1].get(key)):
        template[key] = None
    described: dict[str, JSON] = {"template": template, "turn": dict(turn.form), "usual": speaker}
    return _Cell(
        last, cell.before[:-1], cell.raw[:-1], speaker, cell.style, described, cell.not_carried
    )


def _prompt_cell(turns: Sequence[Any], column: str, value: Any) -> _Cell:
    """Parse a list of turns without a response."""
    speaker = next(key for key in _KEYS if key in turns[0])
    try:
        read = [read_turn(turn, at, speaker) for at, turn in enumerate(turns, 1)]
    except RowError as error:
        raise RowError(f"the field {quoted(column)}: {error}") from None
    return _Cell(
        None,
        tuple(turn.message for turn in read),
        tuple(turns),
        speaker,
        json_style(value, turns) if isinstance(value, str) else None,
        not_carried=tuple(name for turn in read for name in turn.not_carried),
    )


def _prompt(
    row: Mapping[str, Any],
    layout: Layout,
    before: tuple[Message, ...],
    meta: dict[str, Any],
    keep: dict[str, JSON],
) -> tuple[tuple[Message, ...], tuple[str, ...]]:
    """Return the messages of the prompt, and what they do not represent.

    The turns before the responses may repeat the prompt's column; the column is then left in ``meta``.
    """
    column = layout.optional_column("prompt")
    value = row.get(column) if column is not None else None
    if column is None or value is None or value == "":
        return before, ()
    if isinstance(value, Mapping) and isinstance(value.get("messages"), list):
        value = value["messages"]  # OpenAI's format
    turns = _turns_in(value, column)
    if turns is None:
        text = as_text(value, column)
        if before:
            if not any(
                turn.role == "user" and turn.content.strip() == text.strip() for turn in before
            ):
                raise RowError(
                    f"the field {quoted(column)} is none of the turns before the responses"
                )
            return before, ()
        if isinstance(value, str):
            meta[column] = None
        keep["prompt"] = "text"
        return (Message("user", text),), ()
    cell = _prompt_cell(turns, column, value)
    if before[: len(cell.before)] == cell.before:
        return before, cell.not_carried
    return (*cell.before, *before), cell.not_carried


def restore_preference(
    sample: Sample, layout: Layout, meta: dict[str, Any], keep: Mapping[str, Any]
) -> dict[str, JSON]:
    """Return the row that ``parse_preference`` read, with the sample's current responses."""
    rejected = sample.rejected
    forms = keep.get("forms")
    if forms is None or rejected is None:
        return _new_row(sample, layout, meta)
    if "system" in keep:
        restore_system(sample, layout, meta)
    if keep.get("prompt") == "text":
        prompt = layout.column("prompt")
        if meta.get(prompt) is None:
            meta[prompt] = sample.query
    both = (sample.messages[-1], rejected)
    first = min(message.content for message in both)
    for side, message in zip(_SIDES, both, strict=True):
        column = layout.column(side)
        form = forms[0 if message.content == first else 1]
        if "template" not in form:
            meta[column] = as_number_type(message.content, form.get("number"))
            continue
        last = fill_turn(form["template"], message, form["turn"], form["usual"])
        turns = [*meta[column], last]
        style = keep.get(f"{side}_style")
        meta[column] = turns if style is None else dump_cell(turns, style)
    return meta


def _new_row(sample: Sample, layout: Layout, meta: dict[str, Any]) -> dict[str, JSON]:
    """Return the row of a sample that was not read from a row of pairs: lists of turns."""
    prompt = layout.optional_column("prompt") or "prompt"
    meta[prompt] = [new_turn(message, "role", "content") for message in sample.context]
    meta[layout.column("chosen")] = [new_turn(sample.messages[-1], "role", "content")]
    meta[layout.column("rejected")] = (
        None if sample.rejected is None else [new_turn(sample.rejected, "role", "content")]
    )
    return meta


def true_response(value: Any) -> str:
    """Return the text of the response that is truly better, from a text or a list of turns.

    Raises:
        RowError: for anything else.
    """
    turns = _turns_in(value, "truth")
    if turns is None:
        return as_text(value, "truth")
    last = _prompt_cell(turns, "truth", value).before[-1]
    return last.content
