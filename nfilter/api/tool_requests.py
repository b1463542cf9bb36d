"""Whether a text of the data asks for a tool call: such a call is refused."""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from typing import Any, Final

from nfilter.api.lookalikes import visible
from nfilter.api.notes import is_number
from nfilter.api.types import ToolCall

_NEAR: Final = 200
"""Characters between the name of a tool and an argument that count as one request."""
_MOST_TOKENS: Final = 400
"""Words and signs of an argument between which blanks are ignored; a longer argument counts with the blanks that it has."""
_TOKEN: Final = re.compile(r"\w+|[^\w\s]")
_VERB: Final = re.compile(r"\b(?:call|use|run|invoke|execute|name|tool|function)\b", re.IGNORECASE)

_Place = tuple[int, int]


def asked_in(text: str, call: ToolCall) -> bool:
    """Whether ``text`` names the tool of ``call`` and, near it, every argument of the call.

    That is what data does that wants a tool called: as JSON, as code or in words. A value counts as it stands, with other blanks,
    and with the escapes of JSON; lookalikes of characters count as these. Of a call without arguments, the name with a bracket
    or a verb of calling counts. Time is linear in the text for each argument.
    """
    plain = visible(text)
    # Letters of other scripts stand beside a name without a blank.
    name = rf"(?<![A-Za-z0-9_-]){re.escape(call.name)}(?![A-Za-z0-9_-])"
    places = [match.span() for match in re.finditer(name, plain, re.IGNORECASE)]
    values = dict.fromkeys(filter(None, map(visible, _leaves(call.parsed()))))
    if not values:
        return any(_calls(plain, *place) for place in places)
    for value in values:
        if not places:
            return False
        places = _beside(plain, value, places)
    return bool(places)


def _beside(text: str, value: str, places: list[_Place]) -> list[_Place]:
    """Return the places within ``_NEAR`` characters of which ``value`` stands, before or after."""
    forms = {value, json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1]}
    spans = [
        match.span() for form in forms for match in re.finditer(_pattern(form), text, re.IGNORECASE)
    ]
    starts, ends = sorted(start for start, _ in spans), sorted(end for _, end in spans)
    return [
        (start, end)
        for start, end in places
        if _any_within(ends, start - _NEAR, start) or _any_within(starts, end, end + _NEAR)
    ]


def _any_within(numbers: list[int], least: int, most: int) -> bool:
    place = bisect_left(numbers, least)
    return place < len(numbers) and numbers[place] <= most


def _pattern(form: str) -> str:
    tokens = _TOKEN.findall(form)
    if len(tokens) > _MOST_TOKENS:
        return re.escape(form)
    pattern = " ?".join(map(re.escape, tokens))
    return rf"(?<![A-Za-z0-9_]){pattern}(?![A-Za-z0-9_])" if form.isalnum() else pattern


def _calls(text: str, start: int, end: int) -> bool:
    before, after = text[max(0, start - 40) : start], text[end : end + 3]
    return _VERB.search(before) is not None or after.lstrip().startswith("(")


def _leaves(value: Any) -> Iterator[str]:
    """Every text and number of the arguments, as text; keys, null and truth values are none."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _leaves(each)
    elif isinstance(value, list):
        for each in value:
            yield from _leaves(each)
    elif is_number(value):
        yield json.dumps(value)
