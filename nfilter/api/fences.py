"""A code that no untrusted text of a prompt can hold, and what counts only behind that code.

Labels, answers of models and other rows' text are data. A template puts them between two lines with the code, and may
ask for a verdict that carries it: then an echo of the data is never taken for what the model itself says.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_LEAST, _STEP = 8, 4
# Possessive, so that no line of punctuation takes longer than it is long.
_LINE = r"^[^\w\n]*+(?:(?:my|the)[ ])?(?:final[ ])?(?:{word})?[^\w\n]*+(?<!\w){code}(?!\w)[^\w\n:*]*+(?:is\b|:|\*|$)"


@dataclass(frozen=True, slots=True)
class Fence:
    """One call's ``code``: hexadecimal digits, the same whenever the same texts are shown."""

    code: str

    @classmethod
    def around(cls, key: str, shown: Any) -> Fence:
        """A code from ``key`` (a sample's id) and every text in ``shown``, a value of mappings, sequences and texts.

        It is a hash of all of them, and is made longer for as long as one of them holds it: so no text can hold its
        own code, whoever wrote it. It depends on no seed, so that a greedy call stays the same call for every seed.
        """
        texts = list(_texts(shown))
        digest = hashlib.sha256(json.dumps([key, texts]).encode()).hexdigest()
        lowered = [text.lower() for text in texts]
        sizes = range(_LEAST, len(digest) + 1, _STEP)
        free = (n for n in sizes if not any(digest[:n] in text for text in lowered))
        return cls(digest[: next(free, len(digest))])

    def asked(self, prompt: Iterable[str], word: str) -> bool:
        """Whether the ``prompt`` asks for ``word`` (Verdict, Answer) with the code beside it.

        The code stands only where a template wrote it, so no data can ask.
        """
        wanted = f"{word} {self.code}"
        return any(wanted in text for text in prompt)

    def verdict(self, text: str, word: str, verdicts: Sequence[str]) -> str | None:
        """Which of ``verdicts`` the last line of ``text`` gives, as "WORD CODE: verdict" and nothing else; else None."""
        lines = text.strip().rsplit("\n", 1)[-1:]
        either = "|".join(map(re.escape, verdicts))
        match = re.fullmatch(
            rf"[\W_]*+{word}[\W_]*+{self.code}[\W_]++(?P<verdict>{either})[\W_]*+",
            lines[0],
            re.IGNORECASE,
        )
        return match["verdict"].lower() if match else None

    def behind(self, text: str, word: str) -> str | None:
        """What stands behind the last line of ``text`` that begins with "WORD CODE:", to the end; None without one."""
        pattern = _LINE.format(word=word, code=self.code)
        end = None
        for match in re.finditer(pattern, text, re.IGNORECASE | re.MULTILINE):
            end = match.end()
        return None if end is None else text[end:]

    def without(self, text: str) -> str:
        """``text`` without the code: "Answer: B" where the model wrote "Answer CODE: B"."""
        return re.sub(rf"[ \t]?[(\[]?(?<!\w){self.code}(?!\w)[)\]]?", "", text, flags=re.IGNORECASE)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key in value:
            yield from _texts(value[key])
    elif isinstance(value, Iterable):
        for each in value:
            yield from _texts(each)
