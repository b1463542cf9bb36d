"""Answers of each kind: what is read from a text, and what agrees with what."""

import json
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfilter import Sample
from nfilter.answers import AnswerConfig, build
from nfilter.answers.quantity import canonical, value
from nfilter.answers.words import spans_f1

FOUR = Sample("s", (), meta={"options": ["negative", "neutral", "positive", "cat"]})
KEYS = Sample("s", (), meta={"options": ["C major", "D minor", "B", "A"]})


def kind(name, **options):
    return build(AnswerConfig(kind=name, **options))


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("b", "B"),
        ("(B)", "B"),
        ("B.", "B"),
        ("**B**", "B"),
        ("`B`", "B"),
        ("  B\n", "B"),
        ("**Answer:** B", "B"),
        ("**Answer: B**", "B"),
        ("__Answer:__ (B)", "B"),
        ("Answer - B", "B"),
        ("Answer: B) neutral", "B"),
        ("answer: b", "B"),
        ("answer: b) neutral", "B"),
        ("ANSWER = B", "B"),
        ("Answer：Ｂ", "B"),
        ("The answer is (B) because it fits, not (A).", "B"),
        ("The answer is therefore B.", "B"),
        ("The answer is option B", "B"),
        ("The correct option is **B**.", "B"),
        ("The answer to the question is B.", "B"),
        ("B is the correct answer, while A is tempting", "B"),
        ("## Final Answer\n\nB", "B"),
        ("<answer>B</answer>", "B"),
        ("$\\boxed{B}$", "B"),
        ("\\boxed{\\text{B}}", "B"),
        ("B. neutral", "B"),
        ("(B) neutral, since nothing changed", "B"),
        ("Let me think.\nSo:\nB", "B"),
        ("So it must be B.", "B"),
        ("It is clearly (B), as said.", "B"),
        ("Answer: A\nNo, wait.\nAnswer: B", "B"),
        ("Answer: B\n\nI hope this helps! A pleasure.", "B"),
        ("Answer: B because A is too strong", "B"),
        ("The answer is not A. Answer: B", "B"),
        ("neutral", "B"),
        ("Neutral.", "B"),
        ("Answer: neutral", "B"),
        ("The answer is neutral. Nothing changed.", "B"),
        ("Answer: A negative", "A"),
        ("Answer: A", "A"),
        ("The answer is A because it fell", "A"),
        ("Option D", "D"),
        ("", None),
        ("   \n", None),
        ("...", None),
        ("Based on the text, shares fell", None),
        ("Answer - Based on the text", None),
        ("Answer: Based on the text", None),
        ("A cat sat on the mat", None),
        ("I think so", None),
        ("The answer is a cat's", None),
        ("The answer is A cat's tail", None),
        ("The answer is not A", None),
        ("Answer: A or B", None),
        ("Answer: A/B", None),
        ("Answer: A, B", None),
        ("Answer: (A) and (B)", None),
        ("Answer: F", None),
        ("Answer: C++", None),
        ("Answer: U.S. shares", None),
        ("F", None),
        ("A. negative\nB. neutral\nC. positive\nD. cat", None),
        ("Between (A) and (B) I cannot tell", None),
        ("B-cells divide", None),
        ("Dr. Bell said no", None),
    ],
)
def test_choice(text, letter):
    assert kind("choice").parse(text, FOUR) == letter


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("D minor", "B"),  # an option's text, not option D
        ("Answer: D minor", "B"),
        ("The answer is C major.", "A"),
        ("B", "B"),  # a letter before an option whose text is a letter
        ("Answer: A", "A"),
        ("Answer: D", "D"),
    ],
)
def test_choice_between_a_letter_and_an_option_that_looks_like_one(text, letter):
    assert kind("choice").parse(text, KEYS) == letter


def test_choice_without_options_takes_any_letter_but_no_text():
    choice = kind("choice")
    assert choice.parse("Answer: F") == "F"
    assert choice.parse("E") == "E"
    assert choice.parse("neutral") is None
    assert choice.parse("I think") is None


def test_capitals_tell_options_apart_where_nothing_else_does():
    genes = Sample("s", (), meta={"options": ["R", "rr", "Rr", "RR"]})
    read = {text: kind("choice").parse(text, genes) for text in ("Rr", "Answer: RR", "rr.", "rR")}
    assert read == {"Rr": "C", "Answer: RR": "D", "rr.": "B", "rR": None}


def test_signs_and_symbols_are_option_texts_too():
    charges = Sample("s", (), meta={"options": ["-1", "+1", "−2", "+2"]})
    metals = Sample("s", (), meta={"options": ["Ne.", "Mg.", "Ca.", "K."]})
    choice = kind("choice")
    assert [choice.parse(text, charges) for text in ("+1", "Answer: -1", "-2.")] == ["B", "A", "C"]
    assert [choice.parse(text, metals) for text in ("K", "Answer: K.", "D", "mg")] == [
        "D",
        "D",
        "D",
        "B",
    ]


def test_the_text_of_two_equal_options_names_neither():
    twins = Sample("s", (), meta={"options": ["yes", "yes", "no"]})
    assert kind("choice").parse("yes", twins) is None
    assert kind("choice").parse("no", twins) == "C"
    assert kind("choice").parse("D", twins) is None


def test_options_are_given_as_strings():
    assert kind("choice").options(Sample("s", (), meta={"options": ["x", 2]})) == ("x", "2")


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("72", "72"),
        ("72.0", "72"),
        ("072", "72"),
        ("72.", "72"),
        ("1,072", "1072"),
        ("1,00,000", "100000"),
        ("1'072", "1072"),
        ("1\u202f072", "1072"),
        ("3,000,000 dollars", "3000000"),
        ("$1,072.50", "1072.5"),
        ("US$5", "5"),
        ("€ 5", "5"),
        ("-$5", "-5"),
        ("$-5", "-5"),
        ("50%", "50"),
        ("50 \\%", "50"),
        ("5km", "5"),
        ("5 km/h", "5"),
        ("the 3rd", "3"),
        ("3/4", "0.75"),
        ("-3/4", "-0.75"),
        ("1/3", "1/3"),
        ("2/6", "1/3"),
        ("1 1/2", "1.5"),
        ("-1 1/2", "-1.5"),
        ("½", "0.5"),
        ("1½", "1.5"),
        ("\\frac{3}{4}", "0.75"),
        ("1.5e3", "1500"),
        ("1E-2", "0.01"),
        ("1.5 x 10^3", "1500"),
        ("1.5 \\times 10^{-3}", "0.0015"),
        ("10²", "100"),
        ("6.02×10²³", "602000000000000000000000"),
        ("-5", "-5"),
        ("−5", "-5"),
        ("10-5", None),
        ("7 - 5", None),
        (".5", "0.5"),
        ("so...5", "5"),
        ("-0", "0"),
        ("0.10", "0.1"),
        ("1, 2", None),
        ("60 and 12 make 72", "72"),
        ("Natalia sold 48/2 = 24.\n#### 72", "72"),
        ("#### 1,072", "1072"),
        ("\\boxed{72}, since 60 and 12", "72"),
        ("\\boxed{\\frac{1}{4}}", "0.25"),
        ("answer: 72", "72"),
        ("**Answer:** 72 apples in 3 boxes", "72"),
        ("Answer: 60 + 12 = 72 apples", "72"),
        ("Answer - 5", "5"),
        ("Answer: -5", "-5"),
        ("Answer: x = 5", "5"),
        ("The answer is 72, as 60 + 12 make that.", "72"),
        ("The answer is about $72. That took 3 steps.", "72"),
        ("The answer is found by adding 60 and 12. So 72.", "72"),
        ("Answer: 71\nNo.\nAnswer: 72", "72"),
        ("mip +48: 7+8=15 3+4+1=8 answer: 85", "85"),
        ("", None),
        ("none", None),
        ("x2", None),
        ("covid", None),
        ("3/0", None),
        ("1e999999999", None),
        ("1e" + "9" * 500, None),
        ("1e500", None),
        ("10^999999999", None),
        ("9" * 65, None),
        ("1" + "0" * 100, "1e100"),
        ("9" * 10**6, None),
        ("0." + "1" * 100, None),
    ],
)
def test_number(text, number):
    assert kind("number").parse(text) == number


@pytest.mark.parametrize(
    ("left", "right", "options", "same"),
    [
        ("72", "72.0", {}, True),
        ("0.333333333", "1/3", {}, True),
        ("0.33", "1/3", {}, False),
        ("0.33", "1/3", {"tolerance": 0.02}, True),
        ("100", "101", {"tolerance": 0.01}, True),
        ("100", "102", {"tolerance": 0.01}, False),
        ("100", "101.005", {"tolerance": 0.00996}, True),  # a share of the larger one, either way
        ("100", "101", {"absolute": 1}, True),
        ("100", "101.5", {"absolute": 1}, False),
        ("0", "0.0000001", {"tolerance": 0.5}, False),  # a share of next to nothing
        ("-72", "72", {"tolerance": 0.5}, False),
        ("72", None, {}, False),
        (None, None, {}, False),
        ("72", "x", {}, False),
        ("1e300", "1e-300", {}, False),
    ],
)
def test_number_agreement(left, right, options, same):
    assert kind("number", **options).agree([(left, right), (right, left)]) == [same, same]


def test_units_are_converted_where_they_are_named():
    number = kind("number", units={"km": 1000, "%": 0.01, "m": 1, "€": 1.25})
    assert [number.parse(text) for text in ("3 km", "50%", "3 m", "€4", "3 apples", "3")] == [
        "3000", "0.5", "3", "5", "3", "3",
    ]  # fmt: skip


@given(st.fractions(max_denominator=10**6))
def test_a_canonical_number_is_its_own_value(number):
    text = canonical(number)
    assert text is not None
    assert value(text) == number
    assert kind("number").parse(text) == text


@given(st.decimals(allow_nan=False, allow_infinity=False, places=None))
def test_any_decimal_is_read_exactly_or_not_at_all(number):
    text = kind("number").parse(str(number))
    assert text is None or Fraction(value(text)) == Fraction(number)
    if abs(number.adjusted()) < 250 and len(number.as_tuple().digits) < 60:
        assert text is not None or len(str(number)) > 60


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Paris", "paris"),
        (" “Paris.” ", "paris"),
        ("**Paris**", "paris"),
        ("New\n  York", "new york"),
        ("Straße", "strasse"),
        ("ﬁne", "fine"),
        ("Ｐａｒｉｓ", "paris"),
        ("Answer: Paris\nIt is the capital.", "paris"),
        ("The capital is asked for.\n**Final answer:**\nParis", "paris"),
        ("Lyon? The answer is Paris.", "paris"),
        ("Answer: Lyon\nAnswer: Paris", "paris"),
        ("-5%", "-5%"),
        ("C++", "c++"),
        ("the cat's", "the cat's"),
        ("", None),
        ("?!", None),
        ("Answer:", None),
        ("answer", "answer"),
    ],
)
def test_exact(text, words):
    assert kind("exact").parse(text) == words


def test_exact_agreement():
    exact = kind("exact")
    pairs = [("paris", "paris"), ("paris", "lyon"), (None, None), ("paris", None)]
    assert exact.agree(pairs) == [True, False, False, False]


@pytest.mark.parametrize(
    ("text", "spans"),
    [
        ("Smith, Jones and Brown", ["brown", "jones", "smith"]),
        ("Smith; Jones", ["jones", "smith"]),
        ('["Smith, Jr.", "Jones"]', ["jones", "smith jr"]),
        ("the Smith", ["smith"]),
        ("Answer: Smith and Jones\nas the text says", ["jones", "smith"]),
        ("- Smith\n- Jones", ["jones", "smith"]),
        ("1. Smith\n2. Jones", ["jones", "smith"]),
        ("1,000 yards and 5.0 yards", ["1000 yards", "5 yards"]),
        ("Brand", ["brand"]),
        ("Smith, Smith", ["smith"]),
        ('[1, "x", null, ["y"]]', ["1", "x"]),
        ("minus ~ a", ["minus"]),
        ("", None),
        ("[]", None),
        ('["", "?"]', None),
    ],
)
def test_spans(text, spans):
    read = kind("spans").parse(text)
    assert (None if read is None else json.loads(read)) == spans


@pytest.mark.parametrize(
    ("left", "right", "f1"),
    [
        (["john smith"], ["john smith"], 1.0),
        (["john smith"], ["smith"], 2 / 3),
        (["smith", "jones"], ["smith"], 0.5),
        (["smith", "jones"], ["jones", "smith"], 1.0),
        (["12 yards"], ["14 yards"], 0.0),
        (["12 yards"], ["12"], 2 / 3),
        (["ab"], ["ba"], 0.0),  # the same characters, but not the same string
        (["a b", "b c"], ["b c", "a b"], 1.0),
        ([], ["x"], 0.0),
    ],
)
def test_spans_f1(left, right, f1):
    assert spans_f1(left, right) == pytest.approx(f1)
    assert spans_f1(right, left) == pytest.approx(f1)


def test_spans_agree_at_their_threshold():
    one, other = json.dumps(["john smith"]), json.dumps(["smith"])
    assert kind("spans", f1=0.66).agree([(one, other)]) == [True]
    assert kind("spans", f1=0.67).agree([(one, other)]) == [False]
    assert kind("spans").agree([(None, None), (one, None), (one, one)]) == [False, False, True]


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("1 000", "1000"),
        ("-12 345 678.", "-12345678"),
        ("1 234.5", "1234.5"),
        ("so many.\nAnswer: 10 200", "10200"),
        ("#### 1 000", "1000"),
        ("10 200 g", "10200"),
        ("we take 10 200", None),
        ("2020 300", None),
    ],
)
def test_plain_spaces_part_thousands_only_where_a_number_stands_alone_or_is_stated(
    text: str, answer: str | None
) -> None:
    assert build(AnswerConfig(kind="number")).parse(text) == answer
