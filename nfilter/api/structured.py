"""Answers with a form: a pydantic model says what an answer has, and what has another form is asked again, a bounded number of times."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Generic, TypeVar

from pydantic import BaseModel, ValidationError

from nfilter.api.calls import Completion, Failure, Request
from nfilter.api.errors import short
from nfilter.api.model import Model
from nfilter.api.strict_json import strict_json
from nfilter.api.types import Message

_Form = TypeVar("_Form", bound=BaseModel)
_MOST_FAULTS: Final = 8  # named in a request to repair an answer
_MOST_SHOWN: Final = 4000  # characters of an answer that is sent back


@dataclass(frozen=True, slots=True)
class Structured(Generic[_Form]):
    """An answer with a form. ``value`` is None if there is none, and ``failure`` says why.

    Attributes:
        value: The validated answer.
        last: The last completion, with its text as the model wrote it.
        calls: The number of calls, repairs included.
        failure: Why there is no value; the kind is ``parse`` if the last answer does not have the form.
    """

    value: _Form | None
    last: Completion
    calls: int
    failure: Failure | None = None


def read_structured(
    model: Model, requests: Sequence[Request], form: type[_Form], *, repairs: int = 1
) -> list[Structured[_Form]]:
    """Ask for answers in the form of a pydantic model, and return one result per request, in order.

    The JSON Schema goes to the server as ``response_schema``; what the model writes is validated here in any case. An answer of
    another form is sent back with its faults, at most ``repairs`` times. The prompt has to describe the form in words too,
    for models without structured output.

    Args:
        model: The model, as ``ctx.model(NAME)`` returns it.
        requests: The first request of each answer.
        form: The pydantic model.
        repairs: How often a wrong form is asked again, 0 or more.

    Raises:
        ValueError: if ``repairs`` is negative.
    """
    if repairs < 0:
        raise ValueError(f"repairs is 0 or more, not {repairs}")
    schema = form.model_json_schema()
    first = [replace(request, response_schema=schema) for request in requests]
    asked = [[request] for request in first]
    values: dict[int, _Form] = {}
    faults: dict[int, str] = {}

    def reply(number: int, answer: Completion) -> Request | None:
        if answer.failure is not None:
            return None
        read = _read(answer.text, form)
        if not isinstance(read, str):
            values[number] = read
            return None
        faults[number] = read
        if len(asked[number]) > repairs:
            return None
        asked[number].append(_repair(asked[number][-1], answer, read))
        return asked[number][-1]

    last = model.converse(first, reply)
    return [
        Structured(
            values.get(number),
            answer,
            len(asked[number]),
            None
            if number in values
            else answer.failure
            or Failure("parse", f"the answer does not have the form asked for: {faults[number]}"),
        )
        for number, answer in enumerate(last)
    ]


def _repair(request: Request, answer: Completion, faults: str) -> Request:
    """Return the request that asks for the answer again."""
    wrong = Message("assistant", answer.text[:_MOST_SHOWN])
    again = Message(
        "user",
        f"That answer does not have the form that was asked for: {faults}. Answer again with one JSON object of that form "
        "and nothing else.",
    )
    return replace(request, messages=(*request.messages, wrong, again))


def _read(text: str, form: type[_Form]) -> _Form | str:
    """Return the value of an answer, or what is wrong with it. A code block around the object is removed, and nothing else."""
    plain = text.strip()
    if plain.startswith("```") and plain.endswith("```") and "\n" in plain:
        plain = plain[plain.index("\n") : -3].strip()
    try:
        value = strict_json(plain)
    except (ValueError, RecursionError):
        return "it is not one JSON object"
    try:
        return form.model_validate_json(json.dumps(value))
    except ValidationError as error:
        return _named(error)


def _named(error: ValidationError) -> str:
    """Return pydantic's errors in one line. Values of the answer are left out: they stand in it."""
    listed = error.errors(include_url=False, include_context=False, include_input=False)
    named = [
        f"{short('.'.join(map(str, each['loc']))) or 'the object'}: {short(each['msg'])}"
        for each in listed[:_MOST_FAULTS]
    ]
    return "; ".join(named)
