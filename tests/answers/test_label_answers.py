"""Answers that name a class of a label set: read right or unreadable."""

from __future__ import annotations

import pytest

from nfilter import Message, Sample
from nfilter.answers import AnswerConfig, build

KIND = build(AnswerConfig(kind="label"))


def sample(*names: str) -> Sample:
    turns = (Message("user", "text"), Message("assistant", names[0]))
    return Sample("a", turns, meta={"options": list(names)})


SENTIMENT = sample("negative", "positive", "not sure")
INTENT = sample("card_arrival", "card-lost", "top up", "refund")
STARS = sample("0", "1", "2")
CASED = sample("US", "us")


@pytest.mark.parametrize(
    ("of", "text", "name"),
    [
        (SENTIMENT, "positive", "positive"),
        (SENTIMENT, " Positive.\n", "positive"),
        (SENTIMENT, "**POSITIVE**", "positive"),
        (SENTIMENT, '"negative"', "negative"),
        (SENTIMENT, "Not sure", "not sure"),
        (SENTIMENT, "It is a warm review.\nAnswer: positive", "positive"),
        (SENTIMENT, "Answer: negative\nNo, wait.\nAnswer: positive.", "positive"),
        (SENTIMENT, "The sentiment is negative.", "negative"),
        (SENTIMENT, "Label: negative. It complains.", "negative"),
        (SENTIMENT, '{"label": "negative"}', "negative"),
        (SENTIMENT, "\\boxed{positive}", "positive"),
        (SENTIMENT, '```json\n{"label": "negative"}\n```', "negative"),
        (SENTIMENT, '{"sentiment": "negative"}', "negative"),
        (SENTIMENT, "Answer: positive. Wait, actually negative", "negative"),
        # another class, several, a negation, a name in a sentence
        (SENTIMENT, "neutral", None),
        (SENTIMENT, "Answer: neutral", None),
        (SENTIMENT, "positive or negative", None),
        (SENTIMENT, "positive, negative", None),
        (SENTIMENT, "negative\npositive", None),
        (SENTIMENT, "Answer: not positive", None),
        (SENTIMENT, "not positive", None),
        (SENTIMENT, "The review says positive things about it", None),
        (SENTIMENT, "Answer: positive and negative", None),
        (SENTIMENT, "I cannot tell whether this is positive", None),
        (SENTIMENT, '{"label": "neutral"}', None),
        (SENTIMENT, '{"first": "positive", "second": "negative"}', None),
        (SENTIMENT, "", None),
        (SENTIMENT, "...", None),
        (SENTIMENT, "sure", None),
        (INTENT, "card arrival", "card_arrival"),
        (INTENT, "Card-Arrival", "card_arrival"),
        (INTENT, "card_lost", "card-lost"),
        (INTENT, "top_up", "top up"),
        (INTENT, "card", None),
        (STARS, "1", "1"),
        (STARS, "Answer: 2", "2"),
        (STARS, "- 1", "1"),
        (STARS, "12", None),
        (STARS, "-1", None),
        (STARS, "1.5", None),
        (STARS, "3", None),
        (CASED, "us", "us"),
        (CASED, "US", "US"),
        (CASED, "Us", None),
    ],
)
def test_a_reply_names_one_listed_class_or_is_unreadable(
    of: Sample, text: str, name: str | None
) -> None:
    assert KIND.parse(text, of) == name


def test_every_name_is_read_back_in_common_forms() -> None:
    names = (
        "Sci/Tech",
        "World",
        "C++",
        "C#",
        "C",
        "don't know",
        "naïve",
        "是",
        "top_up",
        "très bon",
        "A",
        "B",
    )
    every = sample(*names)
    for name in names:
        for form in (
            "{}",
            "{}.",
            "Answer: {}",
            "**{}**",
            "`{}`",
            '"{}"',
            "Thinking.\nAnswer: {}.",
            "The label is {}",
        ):
            assert KIND.parse(form.format(name), every) == name, form.format(name)


def test_a_label_is_always_read_as_itself() -> None:
    names = ("**bold**", "__init__", "{x}", "Answer: b", "①", "½", "<think>", "a\u00adb", "-", "b")
    every = sample(*names)
    for name in names:
        if name != "<think>":  # a thought that never ends is no answer
            assert KIND.parse(name, every) == name


def test_classes_agree_when_they_are_the_same() -> None:
    pairs = [("a", "a"), ("a", "b"), (None, None), ("a", None)]
    assert KIND.agree(pairs) == [True, False, False, False]
    assert KIND.options(SENTIMENT) is None
    assert KIND.kind == "label"
    assert KIND.parse("Answer: any words", None) is not None
