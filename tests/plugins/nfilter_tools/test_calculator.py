"""The calculator against fractions, decimals and known answers, and what it refuses."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfilter import ToolCall, ToolError, ToolResult, ToolSite, answer_tool_call
from nfilter.testing import check_tool
from nfilter_tools.calculator import Calculator, CalculatorConfig, exact_decimal
from nfilter_tools.expressions import Number, compute

SITE = ToolSite(Path())


def value(text: str) -> Fraction:
    found = compute(text)
    assert isinstance(found, Number)
    return found.value


def said(text: str) -> str:
    tool = Calculator(CalculatorConfig(), SITE)
    call = ToolCall("calculator", json.dumps({"expression": text}))
    return answer_tool_call({"calculator": tool}, call, None).text


KNOWN = {
    "1+2*3": "7", "(1+2)*3": "9", "-2^2": "-4", "2^3^2": "512", "2**-2": "0.25", "0.1+0.2": "0.3", "7//2": "3",
    "-7//2": "-4", "17 mod 5": "2", "-7 mod 5": "3", "15% of 80": "12", "50%": "0.5", "5% + 3%": "0.08",
    "200 * 10%": "20", "1/3": "1/3 (about 0.333333333333)", "2/3*3": "2", "6 ÷ 4": "1.5", "3 × 4 − 5": "7",
    "sqrt(16)": "4", "sqrt(4/9)": "2/3 (about 0.666666666667)", "sqrt(2)": "about 1.41421356237",
    "round(2.345, 2)": "2.35", "round(-2.5)": "-3", "round(1234, -2)": "1200", "floor(-1.5)": "-2", "ceil(1.2)": "2",
    "max(1, 2.5, 2)": "2.5", "min(3, 1/2)": "0.5", "abs(-3)": "3", "gcd(12, 18)": "6", "1.5e3": "1500", ".5": "0.5",
    "1e-3": "0.001", "--3": "3", "5²": "25", "1 < 2": "true", "0.1 + 0.2 = 0.3": "true", "2 ^ 10 != 1024": "false",
    "sqrt(2) > 1.414": "true", "3 ≤ 2": "false",
}  # fmt: skip


@pytest.mark.parametrize("text", KNOWN)
def test_known_answers(text: str) -> None:
    assert said(text) == KNOWN[text]


# An expression and its value, computed with Python's fractions; None where it has none.
Pair = tuple[str, Fraction | None]


def _joined(left: Pair, sign: str, right: Pair) -> Pair:
    text = f"({left[0]} {sign} {right[0]})"
    a, b = left[1], right[1]
    if a is None or b is None or (sign in ("/", "//", "mod") and b == 0):
        return text, None
    results = {"+": lambda: a + b, "-": lambda: a - b, "*": lambda: a * b, "/": lambda: a / b,
               "//": lambda: Fraction(a // b), "mod": lambda: a % b}  # fmt: skip
    return text, results[sign]()


_NUMBERS = st.builds(
    lambda whole, places: (f"{whole}.{places}", Fraction(f"{whole}.{places}")),
    st.integers(0, 10**6),
    st.from_regex(r"[0-9]{1,6}", fullmatch=True),
)
_EXPRESSIONS: st.SearchStrategy[Pair] = st.recursive(
    _NUMBERS,
    lambda inner: st.one_of(
        st.builds(_joined, inner, st.sampled_from(["+", "-", "*", "/", "//", "mod"]), inner),
        st.builds(lambda one: (f"-{one[0]}", None if one[1] is None else -one[1]), inner),
        st.builds(
            lambda one, power: (
                f"({one[0]})^{power}",
                None if one[1] is None else one[1] ** power,
            ),
            inner,
            st.integers(0, 3),
        ),
    ),
    max_leaves=8,
)


@given(_EXPRESSIONS)
def test_random_expressions_have_the_value_of_fractions(pair: Pair) -> None:
    text, expected = pair
    if expected is None:
        with pytest.raises(ToolError, match=r"division by 0|digits"):
            compute(text)
        return
    found, told = expected, "digits"
    try:
        found = value(text)
    except ToolError as error:
        told = str(error)
    # A part may be too large where the whole is not small.
    assert "digits" in told
    assert found == expected


@given(st.fractions(max_denominator=10**9))
def test_a_decimal_is_printed_only_where_it_is_exact(number: Fraction) -> None:
    text = exact_decimal(number)
    if text is not None:
        assert Fraction(text) == number
    else:
        rest = number.denominator
        while rest % 2 == 0:
            rest //= 2
        while rest % 5 == 0:
            rest //= 5
        assert rest != 1 or number.denominator.bit_length() > 40


@given(st.text(max_size=60))
def test_any_text_is_a_value_or_one_readable_error(text: str) -> None:
    told = "a value"
    found: Number | bool = True
    try:
        found = compute(text)
    except ToolError as error:
        told = str(error)
    assert isinstance(found, bool | Number)
    assert 5 < len(told) < 300


REFUSED = {
    "__import__('os').system('id')": "is not arithmetic; write numbers",
    "().__class__": "'.' is not arithmetic; write numbers",
    "1 + * 2": "stands where a number belongs; write one, as in 1 + 2",
    "open(1)": "there is no function 'open'",
    "exec(1)": "there is no function 'exec'",
    "x": "there is no function 'x'",
    "[1]*10**9": "is not arithmetic",
    "1_000": "'_' is not arithmetic; write numbers",
    "9^9^9": "an exponent is above 1000; compute with smaller numbers",
    "2^1000^2": "an exponent is above 1000",
    "(10^900)^900": "a number has more than 1000 digits; compute with smaller numbers",
    "10^900*10^900": "more than 1000 digits",
    "1e9999999": "the exponent of 1e9999999 is above 1000",
    "(" * 60 + "1": "nested more than 40 deep; compute it in parts",
    "2^" * 60 + "1": "nested more than 40 deep",
    "1" * 1001: "has 1001 characters, more than 1000; compute it in parts",
    "1/0": "there is a division by 0",
    "0^-1": "there is a division by 0",
    "5 mod 0": "there is a division by 0",
    "1 < 2 < 3": "there are two comparisons; write one per call",
    "(1 + 2": "a parenthesis is not closed; write one ) for each (",
    "1 + 2)": "')' is not expected here",
    "": "the expression ends too early",
    "sqrt(-1)": "sqrt of a negative number is not real",
    "1,234": "a comma separates arguments only; write 1234567, not 1,234,567",
    "17 % 5": "% before '5' has two readings; write 17 mod 5 for a remainder, or 15% of 80",
    "(1 = 1) + 1": "there are two comparisons",
}


@pytest.mark.parametrize("text", REFUSED)
def test_everything_else_is_refused(text: str) -> None:
    with pytest.raises(ToolError) as caught:
        compute(text)
    assert REFUSED[text] in str(caught.value)


@pytest.mark.types(
    "an exponent is not whole; write sqrt(x) for x^0.5",
    "too near for an inexact root to decide; write abs(a - b) < 0.000001",
    "takes one argument, not «»; write",
    "round takes a number and its decimals; write round(2.345, 2)",
    "round takes whole decimals from -100 to 100; write round(2.345, 2)",
    "gcd takes whole numbers; write gcd(12, 18)",
    "is not arithmetic; write numbers",
    "there is no sign before «»; write * for a product",
    "has no arguments; write",
    "a percentage has two readings; write",
)
@pytest.mark.parametrize(
    ("wrong", "says", "right", "result"),
    [
        ("9^0.5", "write sqrt(x) for x^0.5", "sqrt(9)", "3"),
        ("sqrt(2)*sqrt(2) = 2", "write abs(a - b) < 0.000001", "abs(sqrt(2)*sqrt(2) - 2) < 0.000001", "true"),
        ("abs(1, 2)", "abs takes one argument, not 2; write abs(2)", "abs(2)", "2"),
        ("round(1, 2, 3)", "write round(2.345, 2)", "round(2.345, 2)", "2.35"),
        ("round(1, 0.5)", "write round(2.345, 2)", "round(2.345, 2)", "2.35"),
        ("gcd(1.5, 3)", "write gcd(12, 18)", "gcd(12, 18)", "6"),
        ("$5 + 1", "'$' is not arithmetic; write numbers, + - *", "5 + 1", "6"),
        ("2(3)", "write * for a product, as in 2 * (", "2 * (3)", "6"),
        ("2 x", "write * for a product, as in 2 * x", "2 * 3", "6"),
        ("sqrt 4", "sqrt has no arguments; write sqrt(2)", "sqrt(4)", "2"),
        ("80 + 15%", "write x * (1 + 0.15), or x + 0.15", "80 * (1 + 0.15)", "92"),
    ],
)  # fmt: skip
def test_what_an_error_says_to_write_works(wrong: str, says: str, right: str, result: str) -> None:
    assert says in said(wrong)
    assert said(right) == result


def test_it_is_pure_and_its_result_is_no_untrusted_text() -> None:
    result = check_tool(Calculator, CalculatorConfig(digits=3), SITE, {"expression": "2/3"}, None)
    data = {"value": "2/3", "text": "2/3 (about 0.667)", "exact": True}
    assert result == ToolResult("2/3 (about 0.667)", data, untrusted=False)
    assert Calculator.reads(CalculatorConfig()) == frozenset()
