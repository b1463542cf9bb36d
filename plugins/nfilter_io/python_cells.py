"""Cells with a list or a dict as Python prints it: pandas writes them to CSV in this form, NumPy arrays included.

The grammar is read here, and nothing in a cell is evaluated.
"""

from __future__ import annotations

import re
from typing import Any, Final

_MAX_DEPTH: Final = 64
_TOKEN: Final = re.compile(
    r"""\s*(?:
    (?P<text>'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*")
    |(?P<number>[+-]?(?:\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?))(?![\w.])
    |(?P<name>None|True|False)\b
    |(?P<array>array\(\s*)(?=[\[{])
    |(?P<mark>,\s*dtype=[\w<>.'"]+\s*\)|[\[\](){}:,])
    )""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPE: Final = re.compile(
    r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))", re.DOTALL
)
_PLAIN: Final = {"n": "\n", "t": "\t", "r": "\r", "\n": ""}
_NAMES: Final = {"None": None, "True": True, "False": False}
_CLOSING: Final = {"[": "]", "(": ")"}


def read_python(text: str) -> Any:
    """Return the list or dict that Python printed as ``text``: texts, numbers, None, True, False, lists, tuples, dicts, arrays.

    Two texts with white space between them are two items, as NumPy prints an array.

    Raises:
        ValueError: for any other text, one that Python prints in another way, and more than 64 levels.
    """
    if not re.match(r"\s*[\[({]", text):
        raise ValueError("no list and no dict")
    reader = _Reader(text)
    value = reader.value(0)
    if reader.word is not None:
        raise ValueError("text after the value")
    return value


class _Reader:
    """One token ahead: ``kind`` and ``word`` are those of the next one, None at the end."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self.kind: str | None = None
        self.word: str | None = None
        self._after_space = False
        self._advance()

    def _advance(self) -> str:
        before = self.word or ""
        match = _TOKEN.match(self._text, self._at)
        if match is not None and match.lastgroup is not None:
            self.kind, self.word = match.lastgroup, match.group(match.lastgroup)
            self._after_space = match.group()[0].isspace()
            self._at = match.end()
        elif self._text[self._at :].strip():
            raise ValueError(f"position {self._at} is not as Python prints a value")
        else:
            self.kind = self.word = None
        return before

    def _expect(self, mark: str) -> None:
        if self.kind != "mark" or self.word != mark:
            raise ValueError(f"{mark!r} is missing")
        self._advance()

    def value(self, depth: int) -> Any:
        if depth > _MAX_DEPTH:
            raise ValueError(f"more than {_MAX_DEPTH} levels")
        kind, word = self.kind, self.word
        if kind == "text":
            return _unescaped(self._advance()[1:-1])
        if kind == "number":
            digits = self._advance()
            return int(digits) if re.fullmatch(r"[+-]?\d{1,300}", digits) else float(digits)
        if kind == "name":
            return _NAMES[self._advance()]
        if kind == "array":
            self._advance()
            items = self.value(depth + 1)
            if self.word != ")" and not (self.word or "").startswith(","):
                raise ValueError("an array is not closed")
            self._advance()
            return items
        if word in _CLOSING:
            return self._items(_CLOSING[str(word)], depth)
        if word == "{":
            return self._pairs(depth)
        raise ValueError("a value is missing")

    def _items(self, closing: str, depth: int) -> list[Any]:
        self._advance()
        items: list[Any] = []
        while self.word != closing:
            items.append(self.value(depth + 1))
            if self.word == ",":
                self._advance()
            elif self.word != closing and not self._after_space:
                raise ValueError("two items without a comma or white space between them")
        self._advance()
        return items

    def _pairs(self, depth: int) -> dict[str, Any]:
        self._advance()
        pairs: dict[str, Any] = {}
        while self.word != "}":
            key = self.value(depth + 1)
            if not isinstance(key, str | int) or isinstance(key, bool) or str(key) in pairs:
                raise ValueError("a key is no text, or stands twice")
            self._expect(":")
            pairs[str(key)] = self.value(depth + 1)
            if self.word != "}":
                self._expect(",")
        self._advance()
        return pairs


def _unescaped(text: str) -> str:
    return _ESCAPE.sub(_character, text) if "\\" in text else text


def _character(match: re.Match[str]) -> str:
    code = match.group(1) or match.group(2) or match.group(3)
    if code is not None:
        number = int(code, 16)
        if number > 0x10FFFF:
            raise ValueError(f"there is no character {code}")
        return chr(number)
    return _PLAIN.get(match.group(4), match.group(4))
