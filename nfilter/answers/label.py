"""Classification: the answer is the name of one class."""

from __future__ import annotations

import json
import re
import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from nfilter.answers.choice import options_of
from nfilter.answers.markers import denied, revised
from nfilter.answers.reading import clean, fold, line_at, trimmed
from nfilter.api.types import Sample

_EDGE = "".join(set(string.punctuation) - set("+#-%$")) + string.whitespace + "“”‘’…。"
_BULLET = re.compile(r"^[-*•–]\s+")
_JOINT = re.compile(r"[_\s]+|(?<=\w)-+(?=\w)")
_NAMED = re.compile(
    r"\b(?:label|class|category|sentiment|topic|intent|classification|emotion)\b[\"']?\s?(?:is|:|=|->|→)\s?:?",
    re.IGNORECASE,
)
_LONGEST = 20_000  # characters of a JSON reply


@dataclass(slots=True)
class Label:
    """The name of a class, one of those that the sample lists (``meta["options"]``).

    A name stands for a class whatever its case and whether its words are joined by ``_``, ``-`` or a space, where that
    tells all classes apart. It has to be the whole reply, a whole line that is stated ("Answer: positive", "the label is
    positive"), or the one value of a JSON reply; a name inside a sentence is no answer. Without a list every reply is read
    as it stands.
    """

    kind: str = field(default="label", init=False)

    def parse(self, text: str, sample: Sample | None = None) -> str | None:
        """Return the name of the class as listed, or None if the text names no listed class or more than one."""
        names = options_of(sample) if sample is not None else None
        if names is not None and names.count(text.strip()) == 1:
            return text.strip()
        cleaned = clean(text)
        for said in _said(text, cleaned):
            if names is None:
                return " ".join(said.split()).strip(_EDGE) or None
            found = _named(said, names)
            if found is not None:
                return found
        return None

    def agree(self, pairs: Sequence[tuple[str | None, str | None]]) -> list[bool]:
        """Whether both are the same class."""
        return [left is not None and left == right for left, right in pairs]

    def options(self, sample: Sample) -> tuple[str, ...] | None:
        """Return None: classes have no letters."""
        return None


def _said(text: str, cleaned: str) -> Iterator[str]:
    """Candidates for a class name: the whole reply, the last stated answer, the value of a JSON object."""
    whole = text.strip()
    if whole.startswith("{"):
        yield from _in_json(whole)
    yield cleaned
    places = [statement.position for statement in revised(cleaned)]
    places += [
        match.end()
        for match in _NAMED.finditer(cleaned)
        if not (denied(cleaned[: match.start()]) or denied(cleaned[: match.end()]))
    ]
    if places:
        line = line_at(cleaned, max(places))
        yield line
        yield re.split(r"\.(?:\s|$)", line, maxsplit=1)[0]


def _in_json(text: str) -> Iterator[str]:
    try:
        value = json.loads(text[:_LONGEST])
    except (ValueError, RecursionError):
        return
    if isinstance(value, dict) and len(value) == 1:
        (only,) = value.values()
        if isinstance(only, str):
            yield only


def _named(text: str, names: Sequence[str]) -> str | None:
    """The entry of ``names`` equal to ``text``; case and separators are ignored unless classes differ only by them."""
    bare = _BULLET.sub("", " ".join(text.split()))
    for form in (str, _plain):
        forms = [form(name) for name in names]
        for wanted in (form(bare), form(trimmed(bare, _EDGE))):
            if forms.count(wanted) == 1:
                return names[forms.index(wanted)]
    return None


def _plain(text: str) -> str:
    return _JOINT.sub(" ", fold(text)).strip()
