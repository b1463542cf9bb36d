"""Numbers as models and people write them: read right, or unreadable, and never as another value."""

import random
import re
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from nfilter.answers import AnswerConfig, build
from nfilter.answers.quantity import value

NUMBER = build(AnswerConfig(kind="number"))
GERMAN = build(AnswerConfig(kind="number", locale="de"))

READ = {
    # signs
    "\\boxed{-\\frac{3}{4}}": "-0.75", "\\boxed{-\\dfrac{1}{2}}": "-0.5", "\\boxed{\\frac{-7}{2}}": "-3.5",
    "The answer is - 5": "-5", "-½": "-0.5", "-\\frac34": "-0.75", "\\frac{3}{-4}": "-0.75", "\\frac{-3}{-4}": "0.75",
    "-\\frac{-3}{4}": "0.75", "\\text{-}5": "-5", "{-}5": "-5", "-{5}": "-5", "−5": "-5", "–5": "-5", "The answer is –5": "-5",
    "minus 5": "-5", "negative 5": "-5", "The answer is negative 5.": "-5", "The answer is minus $5.": "-5", "\\(-5\\)": "-5",
    "\\boxed{- 5}": "-5", "Ответ: минус 5": "-5", "答案是负5": "-5", "答えはマイナス5です": "-5", "答案：-5": "-5", "So x = - 5.": "-5",
    # fractions
    "\\frac34": "0.75", "\\frac 3 4": "0.75", "\\frac{3}4": "0.75", "\\frac3{4}": "0.75", "1 3/4": "1.75", "1\\frac{3}{4}": "1.75",
    "-1\\frac{3}{4}": "-1.75", "1¾": "1.75", "-1 ¾": "-1.75", "3⁄4": "0.75", "\\boxed{\\left(\\frac{3}{4}\\right)}": "0.75",
    "\\frac{1{,}000}{8}": "125", "1.5/2": "0.75",
    # boxes
    "\\boxed{x=5}": "5", "\\boxed{x = -5}": "-5", "\\boxed{5\\text{ cm}}": "5", "\\boxed{5\\,\\text{cm}}": "5",
    "\\boxed{90^\\circ}": "90", "\\boxed{\\$5}": "5", "\\boxed{50\\%}": "50", "\\boxed{2^{10}}": "1024", "\\boxed{AB = 5}": "5",
    "\\boxed{\\theta = 30^{\\circ}}": "30", "\\boxed{3}, so \\boxed{4}": "4", "$\\boxed{3}$\n\n\\boxed{3}": "3", "The final answer is: $\\boxed{-7}$. I hope so.": "-7",
    # thousands
    "1{,}234": "1234", "1\\,234": "1234", "1\u2009234": "1234", "1\u202f234\u202f567": "1234567", "20 000": "20000",
    "20 000 dollars": "20000", "The answer is 20 000 people.": "20000", "1'234": "1234",
    # units and scales
    "72 cm^2": "72", "72 cm²": "72", "72 m/s^2": "72", "The area is 72 cm^2.": "72", "72 \\text{ cm}^2": "72", "72 m2": "72",
    "5 million": "5000000", "$5 million": "5000000", "5 lakh": "500000", "5万": "50000", "1.5亿元": "150000000", "$72 a week": "72",
    "5\\frac{\\text{km}}{\\text{h}}": "5", "| total | -5 |": "-5", "5 Mayan coins": "5", "The answer is 7, not 99.": "7",
    "The answer is not 99 but 7.": "7", "12 (twelve)": "12", "It is 12, and that answer is correct.": "12", "It is the 5th of 12 = 5": "5", "95% of them, so 19": "19",
    "The answer is 12! I hope this helps.": "12", "The answer is in the table. It says 12.": "12", "3 to the power of 2 = 9": "9",
    # powers of ten
    "10**6": "1000000", "2**-1": "0.5", "**5**": "5", "x = **5**": "5",
    "1.5\\times10^{3}": "1500", "1.5 \\times 10^{-3}": "0.0015", "1.5×10⁻³": "0.0015", "1.5\\cdot10^3": "1500", "3x10^4": "30000",
    # digits of other scripts
    "۷۲": "72", "٧٢": "72", "۱۲۳٫۴": "123.4", "١٬٢٣٤": "1234", "१२३": "123", "১২৩": "123", "๗๒": "72", "１，２３４．５": "1234.5",
    "-۵": "-5", "۵٪": "5", "الجواب: ٧٢": "72", "उत्तर: ७२": "72",
    # sums and revisions
    "5 apples + 3 oranges = 8 fruits": "8", "The answer is 5 apples + 3 oranges = 8 fruits": "8",
    "Answer: 5 apples and 3 oranges = 8 fruits": "8", "So 5 + 3 = 8 fruits": "8", "Answer: 1/2 = 0.5": "0.5",
    "She has 4 + 5 = 9 points in 40 minutes.": "9", "48/2 = <<48/2=24>>24 clips": "24", "The answer is 5. Wait, no, 6.": "6",
    "Answer: 5. Wait, actually 6.": "6", "The answer is 5? Wait. 2+2 = 4": "4",
    "Answer: 41. Wait, actually -5.": "-5", "Answer: 41. Wait, actually .5": "0.5", "Answer: 41. Correction: -$5": "-5", "41... wait, −5": "-5",
    "Answer: 41. Wait - 5": "5", "Answer: 41. No, actually — 5.": "5",
    # languages
    "答案是72": "72", "答案是72个苹果": "72", "答えは72です": "72", "정답은 72입니다": "72", "所以一共有72个": "72", "คำตอบคือ 72": "72",
    "Respuesta: 72": "72", "La respuesta es 72 manzanas.": "72", "Ответ: 72": "72", "La réponse est 72.": "72", "Antwort: 72": "72",
    '{"answer": 72}': "72", '{"answer": "-3/4"}': "-0.75", "**Answer: 1,234.50 dollars**": "1234.5", "Answer: 72 (60 + 12)": "72",
    "The answer is 72 - that is all.": "72", "=> 5": "5", "72 млн": "72000000", "The answer is \\( \\frac{1}{2} \\).": "0.5", "## Answer\n\n72": "72", "Answer: 72, since 60+12=72": "72",
}  # fmt: skip

UNREADABLE = [
    # what is stated has no digits, and a number stands before it
    "We add 41.\nThe answer is twelve.", "There are 41. The answer is undefined.", "41 and 2, so the answer is half.",
    "The answer is π, not 41 rounded", "She had 41. The answer is seven. There were 12 before.", "Answer: zero apples, since she ate all 5",
    "Answer: No apples; she ate 5", "Answer: two thirds of 12", "Answer: five dollars and 25 cents", "From 41 we get: the answer is H2O",
    # parts of an expression
    "\\frac{\\sqrt{3}}{2}", "The answer is $\\frac{\\pi}{2}$.", "\\frac{\\frac{1}{2}}{3}", "\\binom{5}{2}", "\\sqrt[3]{8}", "|-5|", "-|5|",
    "\\left|-5\\right|", "⌊3.5⌋", "⌈3.5⌉", "The answer is 1/-2", "+/-5", "The answer is 5! = 120", ",5", "half of 48", "twice 48", "double 48",
    # dates and compound measures
    "December 25, 2024", "25 December 2024", "Answer: May 5", "Answer: 5 May", "Answer: 5th of May", "Jan. 5th, 2024", "the 1990s", "1990's",
    "5' 11\"", "Answer: 5 ft. 11 in.", "Answer: 5 lbs., 3 oz.", "Answer: 40.7° N, 74.0° W", "3 lakh 50 thousand", "5 hundred thousand",
    "5 thousand million", "It takes 150 minutes or 2.5 hours", "There are 7 apples and 0 pears.",
    # intervals, ranges, ratios, pairs
    "(0,∞)", "(-\\infty, 5]", "[5, \\infty)", "(100,200)", "[100,200]", "(3,345]", "5..10", "5...10", "5…10", "5~10", "5 through 10",
    "from 5 up to 10", "5 until 10", "3∶2", "1 in 10", "5 of 10", "5 of the 10", "5 for 10", "5 vs 10", "5 by 10", "3 groups of 4", "12 km in 3 hours",
    "x = 3 or x = 4", "x = 3, y = 4", "The answer is x_1 = 3, x_2 = 4", "Answers: 1) 3 2) 4", "Answers: a=3, b=4", "\\boxed{3} and \\boxed{4}",
    "\\boxed{3}, \\boxed{4}", "\\boxed{3} \\text{ or } \\boxed{4}", "\\boxed{3}, \\boxed{4}, \\boxed{5}", "12 apples (4 each)", "0.5 (50%)", "5/3 (1.67)",
    # denied, or compared
    "It isn't 7.", "The answer cannot be 7.", "The answer isn't 7", "never 7", "neither 7 nor 99", "7 is wrong", "7 is not the answer",
    "7 apples is incorrect", "7 degrees below zero", "12 apples, which is 3 more than 9", "more than 7", "4 instead of 7",
    "\\boxed{4\\sqrt{2}}", "\\boxed{\\frac{\\sqrt{3}}{2}}", "\\boxed{2\\pi}", "\\boxed{\\pm 2021}", "\\boxed{1:30}", "\\boxed{(1,2)}",
    "\\boxed{(1, 5)}", "2\\sqrt{3}", "\\boxed{3, 4}", "\\boxed{x = 5, y = 3}", "\\boxed{x=5\\text{ or }x=-5}", "\\boxed{x > 5}",
    "\\boxed{2x}", "\\boxed{5!}", "\\boxed{10 - 5}", "\\boxed{[1, 2]}", "\\boxed{\\{1,2\\}}", "\\boxed{5i}", "\\boxed{1010_2}",
    "\\boxed{0.\\overline{3}}", "\\boxed{0.333...}", "\\boxed{72", "\\boxed{\\text{no solution}}\nI tried 5",
    "\\boxed{12\\text{ apples and }3\\text{ pears}}", "\\boxed{\\frac{1}{2}\\pi}", "1.5\\frac{1}{2}", "x\\frac12", "1.234,56", "3,5", "0,125", "012,345",
    "Answer: 3,5", "Answer: 1.234,56 €", "1.234.567", "12,34", "So 4 apples cost 7,5", "Answer: 60 minutes = 1 hour", "答案是5分之3",
    "下午3点30分", "5k", "$5M", "5 billion and 3", "2 hours 30 minutes", "The answer is 2 hours and 30 minutes.", "5 ft 3 in", "5'3\"", "5°30'",
    "The answer is 1:30 pm", "5 and a half", "3 or 4", "3-4", "3–4", "between 3 and 4", "3 to 4", "The answer is 3 or 4", "2021-2022",
    "3/4/2020", "3 out of 4", "covid-19", "y = 2x", "4 = 2x", "the value is 2\\pi", "so it is 4\\sqrt{2}.", "The area is 9π.", "f(5)",
    "the ratio is 3:4", "(-2)^2", "<5", "≤ 5", "-(5)", "- 5", "Answer:\n- 5", "Answer: seventy", "There are 3 boxes.\nAnswer: unknown",
    "The answer is not 5.", "3 × 10 5", "-US$5", "Answer: table 3 shows it", "two thirds, 2 thirds", "67/4 = 16.75 bags, so 17",
    "\\frac{1}{2}7", "½7", "0.(3)", "0.3̅", "3・5", "\\boxed{0.\\dot{3}}", "\\boxed{3:2}", "\\boxed{1\\text{ h }30\\text{ min}}",
    "\\boxed{5 < x < 7}", "\\boxed{\\sqrt{4}}", "\\boxed{|5|}", "\\boxed{2 + 3i}", "\\boxed{\\frac{x}{2}}", "\\boxed{e^{2}}", "1.2.3", "192.168.0.1",
]  # fmt: skip


@pytest.mark.parametrize(("text", "number"), READ.items())
def test_what_is_read(text, number):
    assert NUMBER.parse(text) == number


@pytest.mark.parametrize("text", UNREADABLE)
def test_what_could_be_another_value_is_not_read(text):
    assert NUMBER.parse(text) is None


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1.234,56", "1234,56"),
        ("3,5", "3,5"),
        ("1.234", "1234"),
        ("1 234,5", "1234,5"),
        ("-3,5", "-3,5"),
        ("1.234.567", "1234567"),
        ("5 Millionen", "5000000"),
        ("Antwort: 3,5 €", "3,5"),
        ("\\boxed{3{,}5}", "3,5"),
        ("1,5 \\times 10^3", "1500"),
        ("1/3", "1/3"),
        ("1.5", None),
        ("1 Billion", None),
    ],
)
def test_a_locale_says_what_a_comma_is(text, number):
    assert GERMAN.parse(text) == number
    if number is not None:
        assert GERMAN.parse(number) == number
        assert GERMAN.agree([(number, number)]) == [True]


@pytest.mark.parametrize(("locale", "read"), [("de-CH", None), ("es_MX", None), ("pt-BR", "3,5")])
def test_a_locale_may_name_a_country(locale, read):
    assert build(AnswerConfig(kind="number", locale=locale)).parse("3,5") == read


def test_a_locale_that_is_not_known_names_those_that_are():
    with pytest.raises(ValidationError, match=r"'klingon' is not known; en reads 1,234\.5 and de"):
        AnswerConfig(kind="number", locale="klingon")
    with pytest.raises(ValidationError, match="belongs to kind 'number'"):
        AnswerConfig(kind="choice", locale="de")


# --- forty ways to write a number -----------------------------------------------------------------------------


def plain(number: Fraction) -> str | None:
    """Decimal digits without a sign, where there are few of them."""
    size = abs(number) * 10**4
    if size.denominator != 1:
        return None
    digits = f"{size.numerator:05d}"
    return f"{digits[:-4]}.{digits[-4:]}".rstrip("0").rstrip(".")


def grouped(number: Fraction, mark: str) -> str | None:
    text = plain(number)
    if text is None:
        return None
    head, point, tail = text.partition(".")
    return f"{int(head):,}".replace(",", mark) + point + tail


def in_digits(number: Fraction, zero: str) -> str | None:
    text = plain(number)
    return text and re.sub(r"\d", lambda digit: chr(ord(zero) + int(digit[0])), text)


def over(number: Fraction, form: str) -> str:
    return form.format(abs(number.numerator), number.denominator)


def mixed(number: Fraction, form: str) -> str | None:
    whole, rest = divmod(abs(number), 1)
    return form.format(whole, rest.numerator, rest.denominator) if whole and rest else None


def powered(number: Fraction, form: str) -> str | None:
    text = plain(number * 1000)
    return text and form.format(text)


def of(make, *more):
    """Signs before what ``make`` writes: a hyphen, or nothing."""

    def write(number: Fraction) -> str | None:
        text = make(number, *more)
        return None if text is None else f"-{text}" if number < 0 else text

    return write


def signed(sign):
    def write(number: Fraction) -> str | None:
        text = plain(number)
        return None if text is None else f"{sign}{text}" if number < 0 else text

    return write


def dressed(form):
    bare = of(plain)

    def write(number: Fraction) -> str | None:
        text = bare(number)
        return text and form.replace("{}", text)

    return write


WAYS = {
    "plain": of(plain), "comma": of(grouped, ","), "braced comma": of(grouped, "{,}"), "thin": of(grouped, "\u2009"),
    "narrow": of(grouped, "\u202f"), "nbsp": of(grouped, "\u00a0"), "latex thin": of(grouped, "\\,"), "space": of(grouped, " "),
    "apostrophe": of(grouped, "'"), "curly": of(grouped, "’"), "arabic": of(in_digits, "٠"), "persian": of(in_digits, "۰"),
    "hindi": of(in_digits, "०"), "bengali": of(in_digits, "০"), "thai": of(in_digits, "๐"), "wide": of(in_digits, "０"),
    "slash": of(over, "{}/{}"), "frac": of(over, "\\frac{{{}}}{{{}}}"), "dfrac": of(over, "\\dfrac{{{}}}{{{}}}"),
    "slash spaced": of(over, "{} / {}"), "in dollars": of(over, "$\\frac{{{}}}{{{}}}$"), "mixed": of(mixed, "{} {}/{}"),
    "mixed frac": of(mixed, "{}\\frac{{{}}}{{{}}}"), "e": of(powered, "{}e-3"), "times": of(powered, "{}\\times10^{{-3}}"),
    "unicode power": of(powered, "{} × 10⁻³"), "U+2212": signed("−"), "en dash": signed("–"), "wide sign": signed("－"),
    "text sign": signed("\\text{-}"), "braced sign": signed("{-}"), "minus": signed("minus "), "negative": signed("negative "),
    "box": dressed("\\boxed{{}}"), "box with a name": dressed("$\\boxed{x = {}}$"), "box with a unit": dressed("\\boxed{{}\\text{ cm}}"),
    "unit": dressed("{} km/h"), "square": dressed("{} m^2"), "percent": dressed("{}%"), "hashes": dressed("so it is\n#### {}"),
    "is": dressed("The answer is {}."), "marker": dressed("2 and 3 are close.\n**Answer:** {} apples"), "chinese": dressed("答案是{}。"),
    "json": dressed('{"reasoning": "1 + 1", "answer": "{}"}'), "thoughts": dressed("<think>is it 17? no</think>{}"),
    "spanish": dressed("La respuesta es {}."), "math": dressed("\\({}\\)"), "bold": dressed("**{}**"),
    # A value or none: these leave open what is meant. (1,125 is one thousand where no locale says otherwise.)
    "german": of(lambda number: (plain(number) or "").replace(".", ",") if number * 1000 % 1 or not number * 100 % 1 else None),
    "german groups": of(lambda n: (grouped(n, "_") or "").replace(".", ",").replace("_", ".") if "." in (plain(n) or "") and abs(n) >= 1000 else None),
    "surd": dressed("{}\\sqrt{2}"), "pair": dressed("({}, {})"), "range": dressed("{} to {}"), "variable": dressed("{}x"),
}  # fmt: skip
OPEN = {"german", "german groups", "surd", "pair", "range", "variable"}
NUMBERS = st.one_of(
    st.integers(-(10**9), 10**9).map(Fraction),
    st.integers(-(10**7), 10**7).map(lambda number: Fraction(number, 100)),
    st.builds(Fraction, st.integers(-999, 999), st.integers(2, 99)),
)


def test_there_are_forty_ways():
    assert len(WAYS.keys() - OPEN) >= 40


@settings(max_examples=150)
@given(number=NUMBERS)
def test_a_number_written_in_forty_ways_is_read_back(number):
    for name, write in WAYS.items():
        text = write(number)
        if text is None:
            continue
        read = NUMBER.parse(text)
        if name in OPEN:
            assert read is None or value(read) == number, (name, text, read)
        else:
            assert read is not None, (name, text)
            assert value(read) == number, (name, text, read)


@settings(max_examples=150)
@given(number=NUMBERS)
def test_german_numbers_are_read_back(number):
    text = plain(number)
    if text is None:
        return
    sign = "-" if number < 0 else ""
    for mark in (".", " ", "\u202f", "'"):
        groups = (grouped(number, "_") or "").replace(".", ",").replace("_", mark)
        read = GERMAN.parse(f"Antwort: {sign}{groups}")
        assert read is not None, groups
        assert value(read, comma=True) == number


def test_what_surrounds_a_number_never_changes_its_value():
    rng = random.Random(0)
    parts = [
        "-",
        " ",
        "–",
        "(",
        ")",
        "$",
        "\\",
        "{",
        "}",
        "^",
        "/",
        ",",
        ".",
        "x",
        "=",
        "%",
        "½",
        "\\pi",
        "\\frac",
        "+",
        "±",
        "'",
        ":",
    ]
    for _ in range(3000):
        before, after = rng.choice(parts), rng.choice(parts)
        read = NUMBER.parse(f"\\boxed{{{before}7{after}}}")
        more = {"0.7"} if before == "." else {"7.5", "-7.5"} if after == "½" else set()
        assert read in {None, "7", "-7", *more}, (before, after, read)
        if read == "7":
            assert before not in {"-", "–", "^", "/", "½", "\\pi", "±"}, (before, after)


# --- replies that hold other numbers too ------------------------------------------------------------------------

REPLIES = [
    "We had 41 and 17.\nAnswer: {}", "41 - 3 = 38\nThe answer is {}.", "<think>41 or 17?</think>{}", "The answer is {} because it has 3 parts.",
    "Answer: {}\n\nExplanation: 41 and 17 were given.", "Answer: {} (not 41)", "Answer: 41. Wait, actually {}.", "The answer is {}, which is more than 41.",
    "Answer: 41. Correction: {}", "1. Answer: {}", "| 41 | 17 |\n|---|---|\n\nAnswer: {}", "In 2024, 41% agreed. The answer is **{}**.", "$\\boxed{{{}}}$. That is 41 less.",
    '{{"steps": [41, 17], "answer": "{}"}}', "答案是{}，不是41。", "La réponse est {}. 41 était faux.", "Antwort: {}\n\nProbe: 41 - 17",
]  # fmt: skip
NUMBERS = {
    "7": "7", "-8321": "-8321", "−5": "-5", "1,234": "1234", "-1{,}234": "-1234", "0.5": "0.5", "-.5": "-0.5", "3/4": "0.75", "-1 3/4": "-1.75",
    "\\frac{3}{4}": "0.75", "-\\dfrac{3}{4}": "-0.75", "1.5\\times10^{3}": "1500", "१२": "12", "$5": "5", "-$5": "-5", "12%": "12",
}  # fmt: skip


@pytest.mark.parametrize("reply", REPLIES)
def test_a_number_among_others_is_that_one_or_unreadable(reply):
    read = {form: NUMBER.parse(reply.format(form)) for form in NUMBERS}
    assert {form: got for form, got in read.items() if got not in (NUMBERS[form], None)} == {}
    assert sum(got is None for got in read.values()) <= 2
