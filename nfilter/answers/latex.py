"""Convert LaTeX numbers to plain text: fractions, signs in braces, thin spaces, and operator names."""

from __future__ import annotations

import re

from nfilter.answers.locales import UNREADABLE

_NAMES = {
    "times": "×", "cdot": "×", "ast": "×", "div": "÷", "pm": "±", "mp": "±", "approx": "≈", "simeq": "≈", "sim": "≈",
    "le": "≤", "leq": "≤", "ge": "≥", "geq": "≥", "lt": "<", "gt": ">", "ne": "≠", "neq": "≠", "pi": "π", "sqrt": "√",
    "infty": "∞", "circ": "°", "degree": "°", "minus": "-", "quad": " ", "qquad": " ", "left": "", "right": "", "big": "",
    "Big": "", "bigl": "", "bigr": "", "displaystyle": "", "textstyle": "", "limits": "", "colon": ":", "neg": "-",
}  # fmt: skip
_NAME = re.compile(r"\\([A-Za-z]+)")
_TEXT = re.compile(
    r"\\(?:text(?:bf|it|rm|sf|tt)?|math(?:rm|bf|it|sf|tt)|mbox|operatorname|boldsymbol|bm)\s?\{([^{}\\]*+)\}"
)
_THIN = re.compile(r"\\[,;: >]|~")
_DEGREE = re.compile(r"\^\s?(?:\{\s?°\s?\}|°)")
_SIGN = "[-–−+]"
_BRACED = re.compile(rf"(?<![A-Za-z^_}}\]√/])\{{\s*({_SIGN}?\s?[\d.,]*)\s*\}}")
_OPERAND = rf"({_SIGN}?\s?\d+(?:[.,]\d+)*)"
_FRACTION = re.compile(
    rf"(?P<sign>{_SIGN}\s?)?(?P<whole>(?<![\w.,])\d+\s?)?\\[dtc]?frac\s*+(?:\{{\s*{_OPERAND}\s*\}}|(\d))\s*+(?:\{{\s*{_OPERAND}\s*\}}|(\d))"
)
_GROUP = r"\{(?:[^{}]|\{(?:[^{}]|\{[^{}]{0,300}+\}){0,300}+\}){0,300}+\}"
_OPAQUE = re.compile(
    rf"\\(?:(?:[dtc]?frac|[dt]?binom)(?![A-Za-z])\s?(?:{_GROUP}|\d)\s?(?:{_GROUP}|\d)"
    rf"|sqrt\s?\[[^\[\]]{{0,20}}\]\s?(?:{_GROUP}|\d))"
)
_UNIT_FRACTION = re.compile(
    r"\\[dtc]?frac\s?\{\s?([A-Za-z]{1,8})\s?\}\s?\{\s?([A-Za-z]{1,8}(?:\^\{?\d\}?)?)\s?\}"
)


def plain_math(text: str) -> str:
    """Return ``text`` with LaTeX numbers in plain characters; fractions and roots of anything else are unreadable.

    Unknown commands are kept.
    """
    if "\\" not in text and "{" not in text:
        return text
    text = (
        text.replace("{,}", ",")
        .replace("{.}", ".")
        .replace("\\!", "")
        .replace("\\$", "$")
        .replace("\\%", "%")
    )
    text = _THIN.sub("\u202f", text)
    text = _TEXT.sub(r"\1", text)
    text = _FRACTION.sub(_slashed, text)
    text = _OPAQUE.sub(UNREADABLE, _UNIT_FRACTION.sub(r" \1/\2", text))
    text = _NAME.sub(lambda name: _NAMES.get(name[1], name[0]), text)
    return _BRACED.sub(r"\1", _DEGREE.sub("°", text))


def _slashed(match: re.Match[str]) -> str:
    """``-1 3/4`` for ``-1\\frac{3}{4}``."""
    top, bottom = match[3] or match[4], match[5] or match[6]
    outer, whole = (match["sign"] or "").strip(), (match["whole"] or "").strip()
    before = match.string[: match.start()].rstrip()[-1:]
    operand = bool(before) and ((before.isalnum() and before.isascii()) or before in ")]}.")
    tied = (operand and not outer and match.string[match.start() - 1] == before) or (
        match.string[match.end() : match.end() + 1].isdigit()
    )
    inner = _is_negative(top) != _is_negative(bottom)
    size = f"{_without_sign(top)}/{_without_sign(bottom)}"
    if tied or (whole and (_is_negative(top) or _is_negative(bottom))):
        return f"{match['sign'] or ''}{UNREADABLE}"
    if whole:
        return f"{match['sign'] or ''}{whole} {size}"
    if not inner:
        return f"{match['sign'] or ''}{size}"
    if not outer:
        return f"-{size}"
    return UNREADABLE if operand else size if outer != "+" else f"-{size}"


def _is_negative(text: str) -> bool:
    return text[:1] in ("-", "–", "−")


def _without_sign(text: str) -> str:
    return re.sub(rf"{_SIGN}\s?", "", text)
