"""The answer of a preference pair: a letter that does not depend on which response is chosen."""

from __future__ import annotations

import pytest

from nfilter import Message, Sample
from nfilter.answers import AnswerConfig, build

KIND = build(AnswerConfig(kind="preference"))


def pair(chosen: str, rejected: str) -> Sample:
    messages = (Message("user", "q"), Message("assistant", chosen))
    return Sample("p", messages, rejected=Message("assistant", rejected))


@pytest.mark.parametrize("sample", [pair("no", "yes"), pair("yes", "no")])
def test_a_letter_names_a_response_whether_it_is_chosen_or_not(sample: Sample) -> None:
    assert KIND.options(sample) == ("no", "yes")
    assert [KIND.parse(text, sample) for text in ("no", "yes", " yes\n")] == ["A", "B", "B"]
    label = KIND.parse(sample.response, sample)
    swapped = sample.swap("why")
    assert {label, KIND.parse(swapped.response, swapped)} == {"A", "B"}


@pytest.mark.parametrize("text", ["A", "B", "", "Yes", "the answer is yes", "no yes"])
def test_any_other_text_is_neither(text: str) -> None:
    assert KIND.parse(text, pair("no", "yes")) is None


def test_thoughts_are_part_of_a_response() -> None:
    sample = pair("<think>a</think>yes", "<think>b</think>yes")
    assert KIND.parse(sample.response, sample) == "A"
    assert KIND.parse("yes", sample) is None


def test_a_sample_with_one_response_has_no_letter() -> None:
    alone = Sample("a", (Message("user", "q"), Message("assistant", "yes")))
    assert KIND.options(alone) is None
    assert KIND.parse("yes", alone) is None
    assert KIND.parse("yes") is None


def test_equal_letters_agree_and_no_answer_agrees_with_nothing() -> None:
    pairs = [("A", "A"), ("A", "B"), (None, "A"), (None, None)]
    assert KIND.agree(pairs) == [True, False, False, False]
