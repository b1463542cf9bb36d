"""Parse and compute arithmetic over exact fractions. Nothing is evaluated as code, and every size is bounded.

comparison = sum [("<" | "<=" | ">" | ">=" | "=" | "==" | "!=") sum]
sum        = term {("+" | "-") term}
term       = unary {("*" | "/" | "//" | "mod" | "of") unary}
unary      = {"+" | "-"} power
power      = postfix [("^" | "**") unary]            (to the right: 2^3^2 = 2^9, and -2^2 = -4)
postfix    = atom {"%"}                              (a percentage: 15% = 0.15)
atom       = number | "(" sum ")" | name "(" sum {"," sum} ")"
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Context, Decimal
from fractions import Fraction

from nfilter import ToolError, did_you_mean

MOST_CHARACTERS = 1000
MOST_DEPTH = 40
MOST_DIGITS = 1000
"""Maximum number of digits of a numerator or denominator of an intermediate result."""
MOST_EXPONENT = 1000
_PLACES = 40
"""Decimal digits of a root that is not rational."""
_TOLERANCE = Fraction(1, 10**30)

_SAME: Mapping[str, str] = {
    "×": "*", "·": "*", "⋅": "*", "÷": "/", "−": "-", "–": "-", "≤": "<=", "≥": ">=", "≠": "!=", "²": "^2", "³": "^3",
}  # fmt: skip
_PLAIN = str.maketrans(dict(_SAME))
_TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)|(?P<name>[A-Za-z]+)"
    r"|(?P<sign>\*\*|//|<=|>=|==|!=|[-+*/^%()<>=,]))"
)
_COMPARE: Mapping[str, Callable[[Fraction, Fraction], bool]] = {
    "<": lambda a, b: a < b, "<=": lambda a, b: a <= b, ">": lambda a, b: a > b, ">=": lambda a, b: a >= b,
    "=": lambda a, b: a == b, "==": lambda a, b: a == b, "!=": lambda a, b: a != b,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Number:
    """A value. ``exact`` is False if an irrational root was rounded; ``percent`` is True for a plain percentage."""

    value: Fraction
    exact: bool = True
    percent: bool = False


def compute(text: str) -> Number | bool:
    """Return the value of an expression, or whether a comparison is true.

    Raises:
        ToolError: if the text does not match the grammar above, or a limit is exceeded.
    """
    if len(text) > MOST_CHARACTERS:
        raise ToolError(
            f"the expression has {len(text)} characters, more than {MOST_CHARACTERS}; compute it in parts"
        )
    parser = _Parser(_tokens(text.translate(_PLAIN)))
    return parser.whole()


def _tokens(text: str) -> list[tuple[str, str]]:
    tokens, at = [], 0
    text = text.rstrip()
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:
            rest = text[at:].lstrip()
            raise ToolError(
                f"{rest[:1]!r} is not arithmetic; write numbers, + - * / // ^ % mod ( ) < <= = >= >, and {_NAMES}"
            )
        kind = found.lastgroup or ""
        tokens.append((kind, found[kind]))
        at = found.end()
    return tokens


class _Parser:
    """Recursive descent over the tokens; computes as it reads."""

    def __init__(self, tokens: list[tuple[str, str]]) -> None:
        self._tokens = tokens
        self._at = 0
        self._depth = 0

    def whole(self) -> Number | bool:
        left = self._sum()
        if (sign := self._take(*_COMPARE)) is not None:
            result = _compared(sign, left, self._sum())
            self._end()
            return result
        self._end()
        return left

    def _end(self) -> None:
        if self._at == len(self._tokens):
            return
        kind, text = self._tokens[self._at]
        if text == ",":
            raise ToolError("a comma separates arguments only; write 1234567, not 1,234,567")
        if text in _COMPARE:
            raise ToolError("there are two comparisons; write one per call, such as 1 < 2")
        if kind in ("number", "name") or text == "(":
            raise ToolError(
                f"there is no sign before {text!r}; write * for a product, as in 2 * {text}"
            )
        raise ToolError(f"{text!r} is not expected here; check the parentheses, as in (1 + 2) * 3")

    def _peek(self) -> str:
        return self._tokens[self._at][1] if self._at < len(self._tokens) else ""

    def _take(self, *signs: str) -> str | None:
        text = self._peek()
        if text in signs:
            self._at += 1
            return text
        return None

    def _sum(self) -> Number:
        left = self._term()
        while (sign := self._take("+", "-")) is not None:
            right = self._term()
            if right.percent and not left.percent:
                raise ToolError(
                    f"a number {sign} a percentage has two readings; write x * (1 {sign} 0.15), or x {sign} 0.15"
                )
            value = left.value + right.value if sign == "+" else left.value - right.value
            left = Number(_bounded(value), left.exact and right.exact, left.percent)
        return left

    def _term(self) -> Number:
        left = self._unary()
        while (sign := self._take("*", "/", "//", "mod", "of")) is not None:
            right = self._unary()
            exact = left.exact and right.exact
            left = Number(_bounded(_product(sign, left.value, right.value)), exact)
        return left

    def _unary(self) -> Number:
        sign = 1
        while (found := self._take("+", "-")) is not None:
            sign = -sign if found == "-" else sign
        number = self._power()
        return Number(sign * number.value, number.exact, number.percent)

    def _power(self) -> Number:
        base = self._postfix()
        if self._take("^", "**") is None:
            return base
        self._deeper()
        exponent = self._unary()
        self._depth -= 1
        return Number(_power(base.value, exponent.value), base.exact and exponent.exact)

    def _postfix(self) -> Number:
        number = self._atom()
        while self._take("%") is not None:
            following = self._tokens[self._at][0] if self._at < len(self._tokens) else ""
            if following == "number" or self._peek() == "(":
                raise ToolError(
                    f"% before {self._peek()!r} has two readings; write 17 mod 5 for a remainder, or 15% of 80"
                )
            number = Number(number.value / 100, number.exact, percent=True)
        return number

    def _atom(self) -> Number:
        if self._at == len(self._tokens):
            raise ToolError("the expression ends too early; write a number behind its last sign")
        kind, text = self._tokens[self._at]
        self._at += 1
        if kind == "number":
            return Number(_literal(text))
        if kind == "name":
            return self._function(text)
        if text != "(":
            raise ToolError(f"{text!r} stands where a number belongs; write one, as in 1 + 2")
        self._deeper()
        inner = self._sum()
        self._depth -= 1
        self._close()
        return Number(inner.value, inner.exact)

    def _function(self, name: str) -> Number:
        function = _FUNCTIONS.get(name.lower())
        if function is None:
            raise ToolError(f"there is no function {name[:40]!r}{did_you_mean(name, _FUNCTIONS)}")
        if self._take("(") is None:
            raise ToolError(f"{name} has no arguments; write {name}(2)")
        self._deeper()
        arguments = [self._sum()]
        while self._take(",") is not None:
            arguments.append(self._sum())
        self._depth -= 1
        self._close()
        return function(arguments)

    def _close(self) -> None:
        if self._take(")") is None and self._peek() != ")":
            if self._at < len(self._tokens):
                self._end()
            raise ToolError("a parenthesis is not closed; write one ) for each (")

    def _deeper(self) -> None:
        self._depth += 1
        if self._depth > MOST_DEPTH:
            raise ToolError(
                f"the expression is nested more than {MOST_DEPTH} deep; compute it in parts"
            )


def _literal(text: str) -> Fraction:
    exponent = re.search(r"[eE]([+-]?[0-9]+)$", text)
    if exponent is not None and (len(exponent[1]) > 5 or abs(int(exponent[1])) > MOST_EXPONENT):
        raise ToolError(
            f"the exponent of {text[:40]} is above {MOST_EXPONENT}; compute with smaller numbers"
        )
    return _bounded(Fraction(text))


def _bounded(value: Fraction) -> Fraction:
    most = MOST_DIGITS * 3.33
    if value.numerator.bit_length() > most or value.denominator.bit_length() > most:
        raise ToolError(
            f"a number has more than {MOST_DIGITS} digits; compute with smaller numbers"
        )
    return value


def _product(sign: str, left: Fraction, right: Fraction) -> Fraction:
    if sign in ("*", "of"):
        return left * right
    if right == 0:
        raise ToolError("there is a division by 0; check the divisor")
    if sign == "/":
        return left / right
    return Fraction(left // right) if sign == "//" else left % right


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator != 1:
        raise ToolError("an exponent is not whole; write sqrt(x) for x^0.5")
    if abs(exponent) > MOST_EXPONENT:
        raise ToolError(f"an exponent is above {MOST_EXPONENT}; compute with smaller numbers")
    if base == 0 and exponent < 0:
        raise ToolError("there is a division by 0; check the divisor")
    bits = max(base.numerator.bit_length(), base.denominator.bit_length())
    # Check the size of the power before computing it.
    if (bits - 1) * abs(int(exponent)) > MOST_DIGITS * 3.33:
        raise ToolError(
            f"a number has more than {MOST_DIGITS} digits; compute with smaller numbers"
        )
    return _bounded(base ** int(exponent))


def _compared(sign: str, left: Number, right: Number) -> bool:
    gap = abs(left.value - right.value)
    if not (left.exact and right.exact) and gap <= _TOLERANCE * max(Fraction(1), abs(left.value)):
        raise ToolError(
            "the two sides are too near for an inexact root to decide; write abs(a - b) < 0.000001"
        )
    return _COMPARE[sign](left.value, right.value)


def _one(name: str, arguments: list[Number]) -> Number:
    if len(arguments) != 1:
        raise ToolError(f"{name} takes one argument, not {len(arguments)}; write {name}(2)")
    return arguments[0]


def _sqrt(arguments: list[Number]) -> Number:
    number = _one("sqrt", arguments)
    if number.value < 0:
        raise ToolError("sqrt of a negative number is not real; check its sign")
    top, bottom = number.value.numerator, number.value.denominator
    roots = math.isqrt(top), math.isqrt(bottom)
    if roots[0] ** 2 == top and roots[1] ** 2 == bottom:
        return Number(Fraction(*roots), number.exact)
    context = Context(prec=_PLACES)
    root = context.sqrt(context.divide(Decimal(top), Decimal(bottom)))
    return Number(Fraction(root), exact=False)


def _round(arguments: list[Number]) -> Number:
    if len(arguments) > 2:
        raise ToolError("round takes a number and its decimals; write round(2.345, 2)")
    places = arguments[1].value if len(arguments) == 2 else Fraction(0)
    if places.denominator != 1 or abs(places) > 100:
        raise ToolError("round takes whole decimals from -100 to 100; write round(2.345, 2)")
    scale = Fraction(10) ** int(places)
    scaled = arguments[0].value * scale
    # Round half away from zero.
    whole = math.floor(abs(scaled) + Fraction(1, 2)) * (1 if scaled >= 0 else -1)
    return Number(Fraction(whole) / scale, arguments[0].exact)


def _gcd(arguments: list[Number]) -> Number:
    if any(each.value.denominator != 1 for each in arguments):
        raise ToolError("gcd takes whole numbers; write gcd(12, 18)")
    return Number(Fraction(math.gcd(*(int(each.value) for each in arguments))))


def _extreme(choose: Callable[[list[Fraction]], Fraction]) -> Callable[[list[Number]], Number]:
    return lambda arguments: Number(
        choose([each.value for each in arguments]), all(each.exact for each in arguments)
    )


def _whole(name: str, down: Callable[[Fraction], int]) -> Callable[[list[Number]], Number]:
    def function(arguments: list[Number]) -> Number:
        number = _one(name, arguments)
        return Number(Fraction(down(number.value)), number.exact)

    return function


def _abs(arguments: list[Number]) -> Number:
    number = _one("abs", arguments)
    return Number(abs(number.value), number.exact)


_FUNCTIONS: Mapping[str, Callable[[list[Number]], Number]] = {
    "abs": _abs,
    "ceil": _whole("ceil", math.ceil),
    "floor": _whole("floor", math.floor),
    "gcd": _gcd,
    "max": _extreme(max),
    "min": _extreme(min),
    "round": _round,
    "sqrt": _sqrt,
}
_NAMES = ", ".join(_FUNCTIONS)
