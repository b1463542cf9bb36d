"""Answers about a passage: the passage's text, and the response in the forms of reading-comprehension datasets.

A response may be a text, a number, a boolean (BoolQ), or the spans of SQuAD: ``{"text": [...], "answer_start": [...]}``, of which the
first is the response.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from nfilter import JSON
from nfilter_io.cells import RowError, as_number_type, as_text, json_type, number_type, quoted

_TEXTS: Final = "text"
_STARTS: Final = "answer_start"
_LISTS: Final = ("contexts", "paragraphs", "sentences")  # of an object with the parts of a passage


def context_text(value: Any) -> str | None:
    """Return the text of a passage: a text, a list of texts, or an object with one (PubMedQA). Empty for none, None for another cell."""
    if isinstance(value, Mapping):
        value = next((value[name] for name in _LISTS if name in value), value)
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        return "\n".join(value)
    return None


def read_response(value: Any, name: str) -> tuple[str, JSON]:
    """Return the response in a cell, and the cell's form (None for a text). Raises RowError."""
    if isinstance(value, bool):
        return ("true" if value else "false"), "bool"
    if isinstance(value, Mapping) and isinstance(value.get(_TEXTS), list):
        texts = [as_text(text, name) for text in value[_TEXTS]]
        if not texts:
            raise RowError(f"the field {quoted(name)} has no answer")
        rest = {key: item for key, item in value.items() if key != _TEXTS}
        return texts[0], {"rest": rest, "others": texts[1:], "order": list(value)}
    if isinstance(value, Mapping) and _TEXTS in value:
        raise RowError(
            f"the field {quoted(name)} has {json_type(value[_TEXTS])} under 'text', not a list of answers"
        )
    return as_text(value, name), number_type(value)


def write_response(text: str, form: JSON, context: str) -> JSON:
    """Return a response in the form of its cell; a new one is looked up in the passage ``context``."""
    if form == "bool":
        return {"true": True, "false": False}.get(text.strip().lower(), text)
    if not isinstance(form, Mapping):
        return as_number_type(text, form)
    written: Any = form
    rest = written["rest"]
    starts = rest.get(_STARTS)
    first = starts[0] if isinstance(starts, list) and starts else None
    if isinstance(first, int) and context[first : first + len(text)] == text:
        spans: dict[str, JSON] = {**rest, _TEXTS: [text, *written["others"]]}
    else:
        at = context.find(text)
        spans = {**rest, _TEXTS: [text], **({_STARTS: [at] if at >= 0 else []} if starts is not None else {})}  # fmt: skip
    return {key: spans[key] for key in written["order"]}
