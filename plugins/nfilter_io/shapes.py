"""Conversion of rows to messages and back, one pair of functions per shape.

Other cells of a row stay in ``meta``, under the columns' names and in their order. A cell whose text is in the messages is
None there, so ``meta`` does not reveal the old response of a relabelled sample. ``meta[KEEP]`` stores what is needed to
write a row in its original format.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from nfilter import JSON, Message, Sample, is_number
from nfilter_io.cells import (
    RowError,
    as_text,
    nonempty_text,
    quoted,
)
from nfilter_io.conversations import (
    TURNS,
    parse_completion,
    parse_turns,
    restore_completion,
    restore_turns,
)
from nfilter_io.label_sets import read_class, write_class
from nfilter_io.layout import Layout
from nfilter_io.multiple_choice import Options, read_answer, render, write_answer
from nfilter_io.passages import context_text, read_response, write_response
from nfilter_io.preferences import parse_preference, restore_preference, true_response
from nfilter_io.row_parts import (
    KEEP,
    TOOLS,
    Parsed,
    restore_system,
    system_message,
)
from nfilter_io.turns import has_value

# Columns that change the meaning of a row of any shape and are not read here.
_MEANING: Final = (
    "image", "images", "video", "videos", "audio", "audios", "documents", "history", "response_format", "tool_choice",
    "chat_template_kwargs", "sample_weight", "loss_weight", "weight", "options", "choices", "reasoning", "reasoning_content",
    "thinking", *TOOLS,
)  # fmt: skip
_CONTEXT: Final = ("context", "contexts", "passage", "article")
_WEIGHTS: Final = ("weight", "sample_weight", "loss_weight")


def parse(row: Mapping[str, Any], layout: Layout) -> Parsed:
    """Parse a clean row without its truth; raise RowError."""
    if KEEP in row:
        raise RowError(f"the field name {KEEP!r} is reserved")
    if layout.shape in TURNS:
        parsed = parse_turns(row, layout)
    elif layout.shape == "completion":
        parsed = parse_completion(row, layout)
    elif layout.shape == "preference":
        parsed = parse_preference(row, layout)
    elif layout.shape == "choice":
        parsed = _parse_choice(row, layout)
    elif layout.shape == "label":
        parsed = _parse_label(row, layout)
    else:
        parsed = _parse_pair(row, layout)
    return replace(
        parsed,
        not_carried=(*parsed.not_carried, *_unread_columns(row, layout, tools=bool(parsed.tools))),
    )


def _unread_columns(row: Mapping[str, Any], layout: Layout, *, tools: bool) -> Iterator[str]:
    read = {layout.id, layout.weight, *layout.used_columns(), *(TOOLS if tools else ())}
    for name in _MEANING:
        value = row.get(name)
        if name in read or not has_value(value) or (name in _WEIGHTS and value == 1):
            continue
        if name not in _WEIGHTS or is_number(value):
            remedy = f" (`weight: {name}` in the source reads it)" if name in _WEIGHTS else ""
            yield f"the column {quoted(name)}{remedy}"
    for name in _CONTEXT:
        if name not in read and has_value(row.get(name)):
            yield f"the column {quoted(name)}{_context_remedy(row[name], name, layout)}"
    if (
        "label" not in read
        and layout.shape != "preference"
        and str(row.get("label")).lower() == "false"
    ):
        yield "the column 'label', which is false: in unpaired preferences (KTO) a bad response"


def _context_remedy(value: Any, name: str, layout: Layout) -> str:
    if layout.shape not in ("prompt", "choice") or context_text(value) is None:
        return ""
    return f" (`columns: {{context: {name}}}` reads it)"


def row_weight(row: Mapping[str, Any], layout: Layout) -> float:
    """Return the row's weight in the training loss; 1 if the source names no weight column or the cell is empty.

    Raises:
        RowError: the cell is not a finite number of at least 0.
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
            f"the field {quoted(str(layout.weight))} is {quoted(value)}; a weight is a number from 0 up"
        )
    return number


def with_weight(row: dict[str, JSON], weight: float, layout: Layout) -> dict[str, JSON]:
    """Return a restored row with the sample's weight, in the source's column or the first free default name."""
    if layout.weight is not None:
        value = row.get(layout.weight)
        return row if weight == 1.0 and value in (None, "") else {**row, layout.weight: weight}
    if weight == 1.0:
        return row
    name = next((name for name in _WEIGHTS if name not in row), "nfilter_weight")
    return {**row, name: weight}


def restore(sample: Sample, layout: Layout) -> dict[str, JSON]:
    """Return the row that ``parse`` read, with the sample's current response."""
    meta = dict(sample.meta)
    value = meta.pop(KEEP, None)
    keep: Mapping[str, Any] = value if isinstance(value, Mapping) else {}
    if layout.shape in TURNS:
        return restore_turns(sample, layout, meta, keep)
    if layout.shape == "completion":
        return restore_completion(sample, layout, meta, keep)
    if layout.shape == "preference":
        return restore_preference(sample, layout, meta, keep)
    if layout.shape == "choice":
        return _restore_choice(sample, layout, meta, keep)
    if layout.shape == "label":
        return _restore_label(sample, layout, meta, keep)
    return _restore_pair(sample, layout, meta, keep)


def truth_text(value: Any, row: Mapping[str, Any], layout: Layout) -> str | None:
    """Return the true label in the shape's own form, or None if it is missing or invalid.

    Never raises: a truth must not decide whether a row is read.
    """
    try:
        if value is None or value == "":
            return None
        if layout.shape == "label":
            return read_class(value, layout.classes, "truth")[0]
        if layout.shape in ("preference", "completion"):
            return true_response(value)
        if layout.shape != "choice":
            return read_response(value, "truth")[0]
        return read_answer(value, layout.options(row), layout.truth_form, "truth").letter
    except RowError:
        return None


# --- prompt and response, Alpaca -----------------------------------------------------------------------------


def _parse_pair(row: Mapping[str, Any], layout: Layout) -> Parsed:
    alpaca = layout.shape == "alpaca"
    query_column = layout.column("instruction" if alpaca else "prompt")
    answer_column = layout.column("output" if alpaca else "response")
    meta = dict(row)
    query = nonempty_text(row.get(query_column), query_column)
    context, not_carried = _input_text(row, layout) if alpaca else _context(row, layout)
    if context:
        query = _join_input(query, context)
    elif isinstance(row[query_column], str):
        meta[query_column] = None
    response, form = read_response(row.get(answer_column), answer_column)
    meta[answer_column] = None
    if form is not None:
        meta[KEEP] = {"form": form}
    messages = (*system_message(row, layout, meta), *_user_and_assistant(query, response))
    return Parsed(messages, meta, not_carried=not_carried)


def _input_text(row: Mapping[str, Any], layout: Layout) -> tuple[str, tuple[str, ...]]:
    """Return the input beside an instruction, empty without one, and what is not read: nothing."""
    column = layout.optional_column("input")
    value = row.get(column) if column is not None else None
    return ("" if column is None or value is None else as_text(value, column)), ()


def _context(row: Mapping[str, Any], layout: Layout) -> tuple[str, tuple[str, ...]]:
    """Return the text that a question is about, empty without one, and what is not read."""
    column = layout.optional_column("context")
    value = row.get(column) if column is not None else None
    text = context_text(value)
    if text is None:
        return "", (
            f"the column {quoted(str(column))}, which is neither a text nor a list of texts",
        )
    return text, ()


def _join_input(instruction: str, context: str) -> str:
    return f"{instruction}\n\n{context}" if context.strip() else instruction


def _user_and_assistant(query: str, response: str) -> tuple[Message, Message]:
    return Message("user", query), Message("assistant", response)


def _restore_pair(
    sample: Sample, layout: Layout, meta: dict[str, Any], keep: Mapping[str, Any]
) -> dict[str, JSON]:
    alpaca = layout.shape == "alpaca"
    query_column = layout.column("instruction" if alpaca else "prompt")
    extra = layout.optional_column("input" if alpaca else "context")
    restore_system(sample, layout, meta)
    context, _ = _input_text(meta, layout) if alpaca else _context(meta, layout)
    query = str(meta.get(query_column)) if meta.get(query_column) is not None else None
    if query is not None and context:
        query = _join_input(query, context)
    if query != sample.query:
        meta[query_column] = sample.query
        if extra is not None and context:
            meta[extra] = ""
    column = layout.column("output" if alpaca else "response")
    meta[column] = write_response(sample.response, keep.get("form"), context)
    return meta


# --- multiple choice -----------------------------------------------------------------------------------------


def _parse_choice(row: Mapping[str, Any], layout: Layout) -> Parsed:
    query_column, answer_column = layout.column("question"), layout.column("answer")
    meta = dict(row)
    question = nonempty_text(row.get(query_column), query_column)
    options = layout.options(row)
    answer = read_answer(row.get(answer_column), options, layout.answer_form, answer_column)
    meta[answer_column] = None
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
    context, not_carried = _context(row, layout)
    query = render(_join_input(question, context), options.texts)
    messages = (*system_message(row, layout, meta), *_user_and_assistant(query, answer.letter))
    return Parsed(messages, meta, not_carried=not_carried)


def _restore_choice(
    sample: Sample, layout: Layout, meta: dict[str, Any], keep: Mapping[str, Any]
) -> dict[str, JSON]:
    query_column, answer_column = layout.column("question"), layout.column("answer")
    restore_system(sample, layout, meta)
    if "options" in keep:
        if keep["options"]:
            meta["options"] = keep["options"][0]
        else:
            meta.pop("options", None)
    options = _reread_options(meta, layout)
    question = meta.get(query_column)
    about = _context(meta, layout)[0]
    if (
        options is None
        or question is None
        or render(_join_input(str(question), about), options.texts) != sample.query
    ):
        # a sample that was not read here, or with a rewritten question
        meta[query_column] = sample.query
        if about:
            meta[layout.column("context")] = ""
        meta[answer_column] = sample.response
        return meta
    meta[answer_column] = write_answer(sample.response, options, keep.get("form"))
    return meta


def _reread_options(meta: Mapping[str, Any], layout: Layout) -> Options | None:
    try:
        return layout.options(meta)
    except RowError:
        return None


# --- label sets ----------------------------------------------------------------------------------------------


def _parse_label(row: Mapping[str, Any], layout: Layout) -> Parsed:
    query_column, answer_column = layout.column("text"), layout.column("label")
    meta = dict(row)
    text = nonempty_text(row.get(query_column), query_column)
    label, form = read_class(row.get(answer_column), layout.classes, answer_column)
    if isinstance(row[query_column], str):
        meta[query_column] = None
    meta[answer_column] = None
    keep: dict[str, JSON] = {"options": [row["options"]] if "options" in row else []}
    if form is not None:
        keep["form"] = dict(form)
    meta["options"], meta[KEEP] = list(layout.classes.names), keep
    before = [message.content for message in system_message(row, layout, {})]
    configured = "\n".join((_CLASSIFY, *(f"- {name}" for name in layout.classes.names)))
    system = Message("system", "\n\n".join((*before, configured)))
    return Parsed((system, *_user_and_assistant(text, label)), meta)


_CLASSIFY: Final = (
    "Classify the text. Answer with the name of one of these classes and nothing else:"
)


def _restore_label(
    sample: Sample, layout: Layout, meta: dict[str, Any], keep: Mapping[str, Any]
) -> dict[str, JSON]:
    query_column, answer_column = layout.column("text"), layout.column("label")
    if "options" in keep:
        meta.pop("options", None)
        if keep["options"]:
            meta["options"] = keep["options"][0]
    if meta.get(query_column) is None or str(meta[query_column]) != sample.query:
        meta[query_column] = sample.query
    meta[answer_column] = write_class(sample.response, layout.classes, keep.get("form"))
    return meta
