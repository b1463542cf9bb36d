"""The grammar of one number, its exact value, and its canonical form."""

from __future__ import annotations

import math
import re
from fractions import Fraction

from nfilter.answers.locales import UNREADABLE, one_form

MAX_DIGITS = 64
"""Significant digits: a number with more is none that a question asks for."""
MAX_EXPONENT = 300

CURRENCY = "[$€£¥₹₩₽₺₫₪฿]"
_PLAIN_DIGITS = 40  # a canonical number with more digits than these is written with an exponent
_DECIMAL = r"(?:\d++(?:\.\d++)?|(?<![\d.])\.\d++)"
_EXPONENT = r"(?:\{{\s?(?P<{0}>[-–+]?\d++)\s?\}}|(?P<{0}0>[-–+]?\d++))"
NUMBER = re.compile(
    rf"""(?:(?P<sign>[-–+])(?P<gap>\s?))?(?:(?P<currency>{CURRENCY})\s?(?P<late>[-–+])?\s?)?
    (?<!\w)(?<!\d\.)
    (?: (?P<whole>\d++)\s(?P<num1>\d++)\s?/\s?(?P<den1>\d++)(?!\s?/\s?\d)(?!\.\d)
      | (?<!\d/)(?P<num>\d++(?:\.\d++)?)\s?/\s?(?P<den>\d++(?:\.\d++)?)(?!\s?/\s?\d)
      | (?P<base>\d{{1,6}}+)(?!\d)\s?\^\s?{_EXPONENT.format("power")}
      | (?P<decimal>{_DECIMAL})
        (?: [eE](?P<e>[-+–]?\d++)(?!\w) | \s?(?:x|×|\*|·)\s?10\s?\^\s?{_EXPONENT.format("ten")} )?
      | (?P<unreadable>{UNREADABLE}++)
    )
    (?: [ ]?(?P<unit>%|°?[A-Za-zµΩ]++|{CURRENCY}) )?""",
    re.VERBOSE,
)


def value(text: str, *, comma: bool = False) -> Fraction | None:
    """The exact value of a text that is one number and nothing else; None for anything else."""
    match = NUMBER.fullmatch(one_form(text, comma=comma)) if len(text) <= 4 * MAX_DIGITS else None
    return read(match) if match is not None else None


def read(match: re.Match[str]) -> Fraction | None:
    """The exact value of a match of ``NUMBER`` without its unit; None past the bounds, or where it has none."""
    # Bounded first: what follows is exact, and so as slow as the number is long.
    if match["unreadable"] or sum(map(str.isdigit, match[0])) > 3 * MAX_DIGITS:
        return None
    size = _size(match)
    negative = (match["sign"] or "") in ("-", "–") and match["sign"] is not None
    negative ^= match["late"] in ("-", "–")
    return -size if negative and size is not None else size


def canonical(number: Fraction, *, comma: bool = False) -> str | None:
    """One string a value: decimal where that ends, else ``n/d`` in lowest terms; None past the bounds."""
    written = _canonical(number)
    return written.replace(".", ",") if comma and written is not None else written


def _size(match: re.Match[str]) -> Fraction | None:
    if match["base"]:
        return _power(int(match["base"]), _exponent(match, "power"))
    if match["decimal"]:
        ten = int(match["e"].replace("–", "-")) if match["e"] else _exponent(match, "ten")
        return _scaled(_decimal(match["decimal"]), ten)
    if match["whole"]:
        top, bottom = int(match["num1"]), int(match["den1"])
        # 1 234/5 may be 1,234 fifths as well.
        return int(match["whole"]) + Fraction(top, bottom) if 0 < top < bottom else None
    under = _decimal(match["den"])
    return _decimal(match["num"]) / under if under else None


def _exponent(match: re.Match[str], name: str) -> int:
    return int((match[name] or match[f"{name}0"] or "0").replace("–", "-"))


def _decimal(text: str) -> Fraction:
    head, _, tail = text.partition(".")
    return Fraction(int((head or "0") + tail), 10 ** len(tail))


def _scaled(number: Fraction, power: int) -> Fraction | None:
    return number * Fraction(10) ** power if abs(power) <= 2 * MAX_EXPONENT else None


def _power(base: int, power: int) -> Fraction | None:
    if base == 0:
        return Fraction(0) if power > 0 else None
    digits = abs(power) * math.log10(base) if abs(power) <= 10**6 else math.inf
    return Fraction(base) ** power if digits <= 2 * MAX_EXPONENT else None


def _canonical(number: Fraction) -> str | None:
    top, bottom = number.numerator, number.denominator
    twos = fives = 0
    rest = bottom
    while rest % 2 == 0:
        rest, twos = rest // 2, twos + 1
    while rest % 5 == 0:
        rest, fives = rest // 5, fives + 1
    places = max(twos, fives)
    if rest != 1 or places > 2 * MAX_EXPONENT:
        short = max(abs(top), bottom) < 10**MAX_DIGITS
        return f"{top}/{bottom}" if short else None
    digits = str(abs(top) * 10**places // bottom)
    stripped = digits.rstrip("0")
    if not stripped:
        return "0"
    exponent = len(digits) - places - 1
    if len(stripped) > MAX_DIGITS or abs(exponent) > MAX_EXPONENT:
        return None
    return ("-" if top < 0 else "") + _written(stripped, exponent)


def _written(digits: str, exponent: int) -> str:
    """``digits`` (no trailing zeros) with the point after the first, times ten to ``exponent``."""
    if not -_PLAIN_DIGITS < exponent < _PLAIN_DIGITS or len(digits) > _PLAIN_DIGITS:
        return digits[0] + ("." + digits[1:] if digits[1:] else "") + f"e{exponent}"
    if exponent < 0:
        return "0." + "0" * (-exponent - 1) + digits
    whole = digits[: exponent + 1].ljust(exponent + 1, "0")
    part = digits[exponent + 1 :]
    return f"{whole}.{part}" if part else whole
