"""Numbers: the answer is a quantity, whatever it is dressed in."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from nfilter.answers.choice import options_of
from nfilter.answers.markers import statements
from nfilter.answers.reading import TAIL, clean, line_at
from nfilter.types import Sample

MAX_DIGITS = 64
"""Significant digits: a number with more is none that a question asks for."""
MAX_EXPONENT = 300

_PLAIN_DIGITS = 40  # a canonical number with more digits than these is written with an exponent
_INT = r"(?:\d{1,3}(?:[,'’_]\d{3})+(?!\d)|\d{1,3}(?:,\d{2})+,\d{3}(?!\d)|\d++)"
_DECIMAL = rf"(?:{_INT}(?:\.\d++)?|(?<!\.)\.\d++)"
_CURRENCY = r"[$€£¥₹₩₽]"
_NUMBER = re.compile(
    rf"""(?:(?<![\w)\]%])(?P<sign>[-+]))?(?:(?P<currency>{_CURRENCY})(?P<late>[-+])?\s?)?
    (?<!\w)(?<!\d\.)
    (?: (?P<whole>\d++)\s(?P<num1>\d++)\s?/\s?(?P<den1>\d++)(?!\s?/\s?\d)
      | (?<!\d/)(?P<num>{_INT})\s?/\s?(?P<den>{_INT})(?!\s?/\s?\d)(?!\.\d)
      | 10\s?\^\s?\{{?\s?(?P<power>[-+]?\d++)\s?\}}?
      | (?P<decimal>{_DECIMAL})
        (?: [eE](?P<e>[-+]?\d++) | \s?(?:x|×|\*|·|\\times|\\cdot)\s?10\s?\^\s?\{{?\s?(?P<ten>[-+]?\d++)\s?\}}? )?
    )
    (?: [ ]?(?P<unit>%|°?[A-Za-zµ]++) )?""",
    re.VERBOSE,
)
_HASHES = re.compile(r"^\s{0,3}####\s{0,3}(?=\S)", re.MULTILINE)
_EQUATION = re.compile(r"[\d\s.,+\-*/×÷·()^$€£%xX]*=\s?")
_FILLED = re.compile(
    r"[\s:(\[{\"']*(?:(?:a|the|total|of|about|around|approximately|roughly|exactly|simply|just|only|then|thus|"
    r"therefore|clearly|equal|equals|to|[A-Za-z]\s?=)[\s,:]+){0,5}[\s(\[{\"'=]*",
    re.IGNORECASE,
)
_FRAC = re.compile(r"\\[dt]?frac\s?\{\s?(\d++)\s?\}\s?\{\s?(\d++)\s?\}")
_VULGAR = re.compile(r"(\d?)([\u00bc-\u00be\u2150-\u215e])")
_SUPER = re.compile("([\u2070\u00b9\u00b2\u00b3\u2074-\u2079\u207a\u207b]+)")
_GROUPED = re.compile(r"(?<=\d)[\u00a0\u2009\u202f](?=\d{3}(?!\d))")
# With plain spaces only where the number stands alone or is stated: "5 of 10 200 g bags" holds no 10,200.
_SPACED = re.compile(
    r"(?P<head>\A\s*|####\s?|\banswer\W{0,4}(?:is\s)?)(?P<number>[-+]?\d{1,3}(?: \d{3})+)(?=(?:\.\d+)?[\s.]*\Z)",
    re.IGNORECASE,
)


@dataclass(slots=True)
class Number:
    """The last number that is stated ("#### 72", a box, "answer: 72"), or else the last one.

    ``tolerance`` is a share of the larger magnitude, ``absolute`` a distance; either is enough. ``units`` are
    pairs of a unit and its factor; a unit that is not among them is ignored, a percent sign too.
    """

    tolerance: float = 1e-6
    absolute: float = 0.0
    units: tuple[tuple[str, float], ...] = ()

    kind: str = field(default="number", init=False)

    def parse(self, text: str, sample: Sample | None = None) -> str | None:
        """The number in canonical form ("72", "-0.5", "1/3", "6e23"), or None."""
        text = _prepare(text)
        for each in reversed(statements(text)):
            line = line_at(text, each.position)
            found = _first(line) if each.form == "heading" else _next(line)
            if found is not None:
                return self._canonical(found)
        numbers = list(_NUMBER.finditer(text))
        return self._canonical(numbers[-1]) if numbers else None

    def agree(self, pairs: Sequence[tuple[str | None, str | None]]) -> list[bool]:
        """Whether the two are within the tolerance of one another."""
        return [self._same(left, right) for left, right in pairs]

    def options(self, sample: Sample) -> tuple[str, ...] | None:
        """``meta["options"]`` as strings."""
        return options_of(sample)

    def _same(self, left: str | None, right: str | None) -> bool:
        if left is None or right is None:
            return False
        one, other = value(left), value(right)
        if one is None or other is None:
            return False
        allowed = max(Fraction(self.absolute), Fraction(self.tolerance) * max(abs(one), abs(other)))
        return abs(one - other) <= allowed

    def _canonical(self, match: re.Match[str]) -> str | None:
        number = _read(match)
        if number is None:
            return None
        factors = dict(self.units)
        for mark in (match["currency"], match["unit"]):
            if mark in factors:
                number *= Fraction(str(factors[mark]))
        return canonical(number)


def value(text: str) -> Fraction | None:
    """The exact value of a text that is one number and nothing else; None for anything else."""
    match = _NUMBER.fullmatch(text) if len(text) <= 4 * MAX_DIGITS else None
    return _read(match) if match is not None else None


def canonical(number: Fraction) -> str | None:
    """One string a value: decimal where that ends, else ``n/d`` in lowest terms; None past the bounds."""
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


def _prepare(text: str) -> str:
    text = text[-TAIL:]
    text = _GROUPED.sub("", text)
    text = _SPACED.sub(lambda found: found["head"] + found["number"].replace(" ", ""), text)
    text = _VULGAR.sub(_spelled, text)
    text = _SUPER.sub(
        lambda run: "^" + unicodedata.normalize("NFKC", run[0]).replace("−", "-"), text
    )
    text = text.replace("\\$", "$").replace("\\%", "%").replace("\\,", "").replace("\\!", "")
    text = text.replace("{,}", ",")
    text = _FRAC.sub(r" \1/\2", text)
    text = _HASHES.sub("Answer: ", text)
    return clean(text)


def _spelled(match: re.Match[str]) -> str:
    fraction = unicodedata.normalize("NFKC", match[2]).replace("\u2044", "/")
    return f"{match[1]} {fraction}"


def _first(line: str) -> re.Match[str] | None:
    """The first number after "Answer:", or the right-hand side where it is worked out there ("60 + 12 = 72")."""
    equation = _EQUATION.match(line[:200])
    return _NUMBER.search(line, equation.end() if equation else 0)


def _next(line: str) -> re.Match[str] | None:
    """The number that follows "the answer is", but for a few words that say nothing."""
    filled = _FILLED.match(line)
    start = filled.end() if filled else 0
    equation = _EQUATION.match(line[start : start + 200])
    return _NUMBER.match(line, start + (equation.end() if equation else 0))


def _read(match: re.Match[str]) -> Fraction | None:
    # Bounded first: what follows is exact, and so as slow as the number is long.
    if sum(map(str.isdigit, match[0])) > 3 * MAX_DIGITS:
        return None
    if match["power"]:
        size = _scaled(Fraction(1), match["power"])
    elif match["decimal"]:
        head, _, tail = match["decimal"].partition(".")
        mantissa = Fraction(_integer((head or "0") + tail), 10 ** len(tail))
        size = _scaled(mantissa, match["e"] or match["ten"] or "0")
    else:
        top, bottom = (
            _integer(match["num"] or match["num1"]),
            _integer(match["den"] or match["den1"]),
        )
        size = _integer(match["whole"] or "0") + Fraction(top, bottom) if bottom else None
    negative = "-" in (match["sign"] or match["late"] or "")
    return -size if negative and size is not None else size


def _integer(text: str) -> int:
    return int(re.sub(r"\D", "", text))


def _scaled(number: Fraction, exponent: str) -> Fraction | None:
    power = int(exponent)
    return number * Fraction(10) ** power if abs(power) <= 2 * MAX_EXPONENT else None
