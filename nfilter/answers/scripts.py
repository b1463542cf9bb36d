"""Digits of all scripts, and scripts that part no words: what a number or a letter may stand right behind."""

from __future__ import annotations

import re
import unicodedata

_RUN_ON = (
    "\u0e00-\u0eff\u1000-\u109f\u1100-\u11ff\u1780-\u17ff\u2e80-\u2fdf\u3005-\u3007\u3040-\u30ff\u3130-\u318f\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
)
_BEFORE = re.compile(rf"(?<=[{_RUN_ON}])(?=[A-Za-z0-9+\-–$€£¥₩.(\\])")
_BEHIND = re.compile(rf"(?<=[A-Za-z0-9%)°])(?=[{_RUN_ON}])")
_DIGIT = re.compile(r"[^\W_a-zA-Z0-9]")
# Decimal and thousands marks of Arabic and Persian, its percent sign and comma.
_MARKS = str.maketrans({"\u066b": ".", "\u066c": ",", "\u066a": "%", "\u060c": "،", "\u2044": "/"})


def apart(text: str) -> str:
    """``text`` with a blank between a character of a script without blanks and a letter or digit of another."""
    return _BEHIND.sub(" ", _BEFORE.sub(" ", text))


def western_digits(text: str) -> str:
    """``text`` with 0 to 9 for the digits of every script, and ``.`` and ``,`` for their decimal and thousands marks."""
    if text.isascii():
        return text
    return _DIGIT.sub(_western, text).translate(_MARKS)


def _western(match: re.Match[str]) -> str:
    value = unicodedata.decimal(match[0], None)
    return match[0] if value is None else str(value)
