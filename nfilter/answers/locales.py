"""The decimal separator, point or comma, by the language of the answers."""

from __future__ import annotations

import re

COMMA = frozenset(
    {
        "af", "az", "be", "bg", "ca", "cs", "da", "de", "el", "es", "et", "eu", "fi", "fr", "gl", "hr", "hu", "hy", "id", "is",
        "it", "ka", "kk", "lt", "lv", "mk", "nb", "nl", "nn", "no", "pl", "pt", "ro", "ru", "sk", "sl", "sq", "sr", "sv", "tr",
        "uk", "uz", "vi",
    }
)  # fmt: skip
"""Languages that write 1.234,56 or 1 234,56."""
POINT = frozenset(
    {"ar", "bn", "en", "fa", "fil", "gu", "he", "hi", "ja", "kn", "ko", "ml", "mr", "ms", "pa", "sw", "ta", "te", "th", "ur", "zh"}
)  # fmt: skip
"""Languages that write 1,234.56; Arabic and Persian also have their own separators."""
_REGIONS = {
    "de-ch": False,
    "de-li": False,
    "it-ch": False,
    "es-mx": False,
    "es-us": False,
    "en-za": True,
}

UNREADABLE = "\ue002"
"""Replaces digits and separators that form no valid number."""

# Each digit group is joined to the previous one, so a list without spaces is a single token.
_TOKEN = re.compile(r"(?<![\d.])\d++(?:[.,'’_]\d++)++")
_POINTED = re.compile(
    r"(?:[1-9]\d{0,2}(?P<mark>[,'’_])\d{3}(?:(?P=mark)\d{3})*|[1-9]\d?(?:,\d{2})+,\d{3}|\d+)(?:\.\d+)?"
)
_COMMAED = re.compile(r"(?:[1-9]\d{0,2}(?P<mark>[.'’_])\d{3}(?:(?P=mark)\d{3})*|\d+)(?:,\d+)?")


def has_comma(locale: str | None) -> bool:
    """Return whether numbers of ``locale`` (``de``, ``de-CH``, ``pt_BR``) have a decimal comma.

    Raises:
        ValueError: when the language is not known.
    """
    if locale is None:
        return False
    name = locale.strip().lower().replace("_", "-")
    language = name.split("-", 1)[0]
    if name in _REGIONS:
        return _REGIONS[name]
    if language not in COMMA | POINT:
        raise ValueError(
            f"locale {locale!r} is not known; en reads 1,234.5 and de reads 1.234,5; known: {', '.join(sorted(COMMA | POINT))}"
        )
    return language in COMMA


def one_form(text: str, *, comma: bool) -> str:
    """Return ``text`` with plain numbers (digits and a decimal point). Numbers that violate the locale become unreadable."""
    return _TOKEN.sub(_plain_comma if comma else _plain_point, text)


def _plain_point(match: re.Match[str]) -> str:
    return re.sub(r"[,'’_]", "", match[0]) if _POINTED.fullmatch(match[0]) else UNREADABLE


def _plain_comma(match: re.Match[str]) -> str:
    fits = _COMMAED.fullmatch(match[0])
    return re.sub(r"[.'’_]", "", match[0]).replace(",", ".") if fits else UNREADABLE
