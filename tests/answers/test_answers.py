"""Answers of all kinds: free text, what a config may say, and rules that no text breaks."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from nfilter import Completion, Failure, Message, Needs, Sample
from nfilter.answers import AnswerConfig, build, judged_by
from nfilter.testing import FakeGenerator

FOUR = Sample("s", (), meta={"options": ["negative", "neutral", "positive", "cat"]})


def kind(name, **options):
    return build(AnswerConfig(kind=name, **options))


def lengths(texts):
    return np.asarray([(len(text) % 7 - 3, len(text) % 5 - 2) for text in texts], dtype=np.float32)


TEXT = build(AnswerConfig(kind="text", encoder="e"), embed=lengths)
ALL = [kind("choice"), kind("number"), kind("exact"), kind("spans"), TEXT]


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("It rains.\nTake care.", "It rains.\nTake care."),
        ("First, look.\n**Answer:** It rains.\nTake care.", "It rains.\nTake care."),
        ("Final answer: It rains.", "It rains."),
        ("Answer: no\nAnswer: It rains.", "It rains."),
        ("The answer: 5 is in the text. My answer: yes", "5 is in the text. My answer: yes"),
        ("Answer:", None),
        ("", None),
    ],
)
def test_text(text, answer):
    assert TEXT.parse(text) == answer


def test_text_agrees_by_cosine_with_each_text_embedded_once():
    asked = []

    def embed(texts):
        asked.append(list(texts))
        places = {"x": (1, 0), "near x": (3, 1), "y": (0, 2), "empty": (0, 0)}
        return np.asarray([places[text] for text in texts], dtype=np.float32)

    text = build(AnswerConfig(kind="text", encoder="e", similarity=0.9), embed=embed)
    pairs = [("x", "near x"), ("x", "y"), ("near x", "x"), ("X ", "x"), (None, "x"), ("empty", "x")]
    assert text.agree(pairs) == [True, False, True, True, False, False]
    assert len(asked) == 1
    assert sorted(asked[0]) == ["empty", "near x", "x", "y"]
    strict = build(AnswerConfig(kind="text", encoder="e", similarity=0.95), embed=embed)
    assert strict.agree([("x", "near x")]) == [False]


def test_text_agrees_by_a_judge_asked_once_a_pair():
    replies = {
        "rain": "Yes.",
        "snow": "No, not yes: no",
        "hail": Completion("", "failed", failure=Failure("server", "x")),
    }
    model = FakeGenerator(lambda request: replies[request.messages[0].content.split("|")[0]])

    class Template:
        name, digest = "t/t", ""

        def render(self, **variables):
            return (Message("user", f"{variables['first']}|{variables['second']}"),)

    text = build(AnswerConfig(kind="text", judge="j"), judge=judged_by(model, Template()))
    pairs = [("rain", "wet"), ("wet", "rain"), ("snow", "wet"), ("hail", "wet"), ("wet", "wet")]
    assert text.agree(pairs) == [True, True, False, False, True]
    assert len(model.requests) == 3


@pytest.mark.parametrize(
    "meta", [{}, {"options": "AB"}, {"options": ["x"]}, {"options": [["a"], "b"]}]
)
def test_options_that_are_none(meta):
    assert all(each.options(Sample("s", (), meta=meta)) is None for each in ALL)


def test_the_config_can_be_one_word():
    assert AnswerConfig.model_validate("choice") == AnswerConfig(kind="choice")
    assert AnswerConfig.model_validate({"kind": "number", "tolerance": 0.01}).tolerance == 0.01
    dumped = AnswerConfig(kind="number", units={"km": 1000}).model_dump()
    assert AnswerConfig.model_validate(dumped).units == {"km": 1000}


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("letters", "choice"),
        ({"kind": "choice", "tolerance": 0.1}, "belongs to kind 'number'"),
        ({"kind": "number", "f1": 0.5}, "belongs to kind 'spans'"),
        ({"kind": "text"}, "encoder: MODEL"),
        ({"kind": "text", "encoder": "a", "judge": "b"}, "one model"),
        ({"kind": "number", "tolerance": -1}, "tolerance"),
        ({"kind": "number", "units": {"km": 0}}, "units"),
        ({"kind": "exact", "tolerence": 1}, "tolerence"),
    ],
)
def test_a_config_that_means_nothing_is_refused(config, said):
    with pytest.raises(ValidationError, match=said):
        AnswerConfig.model_validate(config)


def test_text_without_its_model_can_be_read_but_not_compared():
    text = build(AnswerConfig(kind="text", encoder="e"), judge=lambda pairs: [True] * len(pairs))
    assert text.parse("Answer: x") == "x"
    assert text.agree([("x", "X"), (None, "x")]) == [True, False]
    with pytest.raises(ValueError, match="no encoder"):
        text.agree([("x", "y")])


def test_the_models_that_a_config_names_are_marked():
    marked = {
        name: mark.capability.__name__
        for name, info in AnswerConfig.model_fields.items()
        for mark in info.metadata
        if isinstance(mark, Needs)
    }
    assert marked == {"encoder": "Embeds", "judge": "Generates"}


FRAGMENTS = st.sampled_from(
    ["Answer:", "answer is ", "The answer: ", "**", "`", "(", ")", "[", "]", "\n", " ", "B", "A", "I", "a", ",", ";",
     " and ", "1", "2.5", "1,000", "-", "/", "e9", "%", "$", "^", "10", "\\boxed{", "}", "\\frac{1}{3}", "####", "½",
     "negative", "the", "ß", "ﬁ", "İ", "ͅ", "\u0345", "ª", '"', "'", ":", "=", "_", ".", "#", "+", "\u202f"]
)  # fmt: skip
TEXTS = st.one_of(st.text(max_size=40), st.lists(FRAGMENTS, max_size=12).map("".join))


@pytest.mark.parametrize("answers", ALL, ids=lambda answers: answers.kind)
@settings(max_examples=300)
@given(text=TEXTS)
def test_a_canonical_answer_reads_as_itself(answers, text):
    once = answers.parse(text, FOUR)
    assert once != ""
    if once is not None:
        assert answers.parse(once, FOUR) == once
        assert answers.agree([(once, once), (once, None)]) == [True, False]


@pytest.mark.parametrize("answers", ALL, ids=lambda answers: answers.kind)
@settings(max_examples=200)
@given(left=TEXTS, right=TEXTS)
def test_agreement_is_symmetric_and_knows_no_neighbours(answers, left, right):
    one, other = answers.parse(left), answers.parse(right)
    forth, back, alone = *answers.agree([(one, other), (other, one)]), answers.agree([(one, other)])
    assert [forth] == alone == [back]
    assert answers.agree([]) == []


HOSTILE = [
    "9" * 10**6, "1 " * 10**6, "1," * 10**6, "1/" * 10**6, "1e" * 10**5, "-" * 10**6, "$" * 10**6, "(" * 10**6,
    "*" * 10**6, "_" * 10**6, "`" * 10**6, " " * 10**6, "\n" * 10**6, "! " * 10**6, "A " * 10**6, "=" * 10**6,
    "answer " * 10**5, "answer: " * 10**5, "answer\n" * 10**5, "answer to " * 10**5, "the answer is the " * 10**5,
    "\\boxed{" * 10**5, "\\boxed{{" * 10**5, "\\text{" * 10**5, "10^{" * 10**5, "[" * 19_999, "\\frac{1}{" * 10**5,
    "Answer: " + "1+" * 10**4, "Answer: " + "([" * 10**4, "\ufdfa" * 10**5, "½" * 10**5, "١" * 10**6, "**x" * 10**5,
    "\ud800" * 100, "\0" * 1000, "and " * 10**5,
]  # fmt: skip


@pytest.mark.parametrize("answers", ALL, ids=lambda answers: answers.kind)
@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: repr(text[:12]))
def test_no_text_takes_long(answers, text):
    start = time.process_time()
    read = answers.parse(text, FOUR)
    answers.agree([(read, "1"), ("1", read)])
    assert time.process_time() - start < 5
