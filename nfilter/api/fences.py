"""Fences: a code that the untrusted texts of a prompt do not contain, and parsing of replies with that code.

Labels, answers of models and texts of other rows are data. A template puts them between two lines with the code, and may
ask for a verdict with the code, so that an echo of the data is not parsed as the model's own reply.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nfilter.api.lookalikes import visible

_LEAST, _STEP = 8, 4
_OTHER = re.compile(r"[^0-9a-z]+")
# Possessive quantifiers, so that matching time is linear in the length of a line.
_LINE = r"^[^\w\n]*+(?:(?:my|the)[ ])?(?:final[ ])?(?:{word})?[^\w\n]*+(?<!\w){code}(?!\w)[^\w\n:*]*+(?:is\b|:|\*|$)"


@dataclass(frozen=True, slots=True)
class Fence:
    """The ``code`` of one call: hexadecimal digits that depend only on the shown texts."""

    code: str

    @classmethod
    def around(cls, key: str, shown: Any) -> Fence:
        """Return the fence for ``key`` (a sample's id) and the texts in ``shown``, nested mappings, sequences and texts.

        The code is a hash of all of them, lengthened until none of them contains it, also not with blanks, signs or unseen
        characters in it, or with lookalikes. It does not depend on the seed, so a greedy call is the same call for all seeds.
        """
        texts = list(_texts(shown))
        digest = hashlib.sha256(json.dumps([key, texts]).encode()).hexdigest()
        read = [_alphanumeric(text) for text in texts]
        sizes = range(_LEAST, len(digest) + 1, _STEP)
        free = (n for n in sizes if not any(digest[:n] in text for text in read))
        return cls(digest[: next(free, len(digest))])

    def stands_in(self, text: str) -> bool:
        """Return whether a reader finds the code in ``text``, also with blanks, signs or unseen characters in it."""
        return self.code in _alphanumeric(text)

    def asked(self, prompt: Iterable[str], word: str) -> bool:
        """Whether the ``prompt`` asks for ``word`` (e.g. Verdict or Answer) followed by the code.

        Data cannot ask, because only templates write the code.
        """
        wanted = f"{word} {self.code}"
        return any(wanted in text for text in prompt)

    def verdict(self, text: str, word: str, verdicts: Sequence[str]) -> str | None:
        """Return the one of ``verdicts`` in the last line of ``text``, which must be "WORD CODE: verdict"; else None."""
        lines = text.strip().rsplit("\n", 1)[-1:]
        either = "|".join(map(re.escape, verdicts))
        match = re.fullmatch(
            rf"[\W_]*+{word}[\W_]*+{self.code}[\W_]++(?P<verdict>{either})[\W_]*+",
            lines[0],
            re.IGNORECASE,
        )
        return match["verdict"].lower() if match else None

    def behind(self, text: str, word: str) -> str | None:
        """Return the text after the last "WORD CODE:" at the beginning of a line, to the end of ``text``; None without one."""
        pattern = _LINE.format(word=word, code=self.code)
        end = None
        for match in re.finditer(pattern, text, re.IGNORECASE | re.MULTILINE):
            end = match.end()
        return None if end is None else text[end:]

    def without(self, text: str) -> str:
        """Return ``text`` without the code: "Answer: B" for "Answer CODE: B"."""
        return re.sub(rf"[ \t]?[(\[]?(?<!\w){self.code}(?!\w)[)\]]?", "", text, flags=re.IGNORECASE)


def _alphanumeric(text: str) -> str:
    """Return the ASCII letters and digits that a reader sees in ``text``, in lower case."""
    return _OTHER.sub("", visible(text).lower())


def _texts(value: Any) -> Iterator[str]:
    """All texts in nested mappings and sequences, without keys."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key in value:
            yield from _texts(value[key])
    elif isinstance(value, Iterable):
        for each in value:
            yield from _texts(each)
