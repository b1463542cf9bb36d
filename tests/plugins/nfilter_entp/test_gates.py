"""Each gate, with a value on either side of its limit; key terms by hand."""

import numpy as np
import pytest
from pydantic import ValidationError

from nfilter_entp.mixing.gates import (
    Gates,
    Rarity,
    failure_reason,
    judge,
    missing_terms,
    most_repeated,
    recall,
)

TERMS = [["anna", "berlin", "apples", "ten", "rivers"], ["bert", "paris", "pears", "six", "lakes"]]


def at(cosine):
    """A unit vector whose first coordinate is ``cosine``."""
    return np.array([cosine, np.sqrt(1 - cosine**2), 0.0], dtype=np.float32)


def gates(
    text="Anna, Berlin, apples, ten rivers; Bert, Paris, pears, six lakes",
    answer="Yes.",
    parents=(0.8, 0.7),
    other=-1.0,
    **limits,
):
    rows = np.stack([at(cosine) for cosine in parents])
    return judge(Gates(**limits), TERMS, text, answer, rows, at(1.0), other)


def only(found):
    return [name for name, gate in found.items() if not gate.passed]


def test_all_pass():
    found = gates()
    assert only(found) == []
    assert failure_reason(found) is None
    assert {name: gate.value for name, gate in found.items()} == pytest.approx(
        {"key_terms": 1.0, "repetition": 1, "likeness": 0.7, "near_duplicate": 0.8, "empty": 0, "template": 0, "refusal": 0}
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("Anna, Berlin, apples, ten; Bert, Paris, pears, six lakes", 0.8),
        ("Anna, Berlin, apples; Bert, Paris, pears, six lakes", 0.6),
        ("Anna, Berlin, apples, ten rivers", 0.0),
        # The parent that comes off worst counts, not both together.
        ("Anna, Berlin, apples, ten rivers, Bert, Paris, pears", 0.6),
    ],
)
def test_key_terms(text, value):
    gate = gates(text)["key_terms"]
    assert gate.value == pytest.approx(value)
    assert gate.passed is (value >= 0.8)
    assert gates(text, key_terms=value)["key_terms"].passed
    if value < 1:
        assert not gates(text, key_terms=value + 0.01)["key_terms"].passed


@pytest.mark.parametrize(("times", "passes"), [(3, True), (4, False)])
def test_repetition(times, passes):
    text = "one two three four " * times
    assert most_repeated(text) == times
    assert gates(answer=text)["repetition"].passed is passes
    whole = "Anna, Berlin, apples, ten rivers; Bert, Paris, pears, six lakes. " + text
    assert gates(whole)["repetition"].passed is passes
    assert gates(answer=text, repetition=times)["repetition"].passed
    assert not gates(answer=text, repetition=times - 1)["repetition"].passed


def test_repetition_counts_words_whatever_their_case_and_marks():
    assert most_repeated("One two, three four. ONE two three -- four!") == 2
    assert most_repeated("one two three") == 0
    assert most_repeated("") == 0
    # Overlapping runs count, so that one word over and over is seen.
    assert most_repeated("no " * 10) == 7
    assert most_repeated("| --- | --- | --- |\n" * 9) == 0


@pytest.mark.parametrize(
    ("parents", "passes"),
    [((0.5, 0.8), True), ((0.8, 0.5), True), ((0.499, 0.9), False), ((0.9, 0.499), False)],
)
def test_likeness_is_to_both_parents(parents, passes):
    assert gates(parents=parents)["likeness"].passed is passes
    assert gates(parents=parents)["likeness"].value == pytest.approx(min(parents), abs=1e-6)


@pytest.mark.parametrize(
    ("parents", "other", "passes"),
    [((0.95, 0.6), -1, True), ((0.951, 0.6), -1, False), ((0.6, 0.951), -1, False), ((0.6, 0.7), 0.95, True), ((0.6, 0.7), 0.951, False)],
)  # fmt: skip
def test_near_duplicates_of_parents_and_of_other_new_samples(parents, other, passes):
    found = gates(parents=parents, other=other)
    assert found["near_duplicate"].passed is passes
    assert found["near_duplicate"].value == pytest.approx(max(*parents, other), abs=1e-6)


def test_a_reason_names_each_gate_with_its_numbers():
    text = failure_reason(gates("Anna and Bert", "so it is now " * 9, parents=(0.2, 0.99)))
    assert text == (
        "key_terms is 0.2, under 0.8; repetition is 9, over 3; likeness is 0.2, under 0.5; "
        "near_duplicate is 0.99, over 0.95"
    )


def test_key_terms_are_the_rarest_words_in_the_order_of_the_text():
    rarity = Rarity()
    for text in ("the cat sat", "the cat ran", "the cat slept on mats", "zebras sat"):
        rarity.add(text)
    assert rarity.key_terms("The cat sat on zebras and mats", 2) == ["zebras", "mats"]
    assert rarity.key_terms("The cat sat on zebras and mats", 3) == ["sat", "zebras", "mats"]
    assert rarity.key_terms("the and of", 3) == []
    assert rarity.key_terms("cat cat cat", 3) == ["cat"]


def test_terms_are_found_in_their_plural_and_in_any_case():
    terms = ["Cats", "box", "make", "class", "3", "été", "日"]
    assert (
        missing_terms(
            ["cats", "box", "make", "class", "3", "été", "日"], "CAT boxes makes classes 3 Été 日本"
        )
        == []
    )
    assert missing_terms(["cat", "dog", "cat"], "a cat") == ["dog"]
    assert missing_terms(["car"], "a scar") == ["car"]
    assert recall(terms[:0], "x") == 1.0
    assert recall(["a1", "b2", "c3", "d4"], "a1 d4") == 0.5


@pytest.mark.parametrize(
    ("answer", "rule"),
    [
        ("", "empty"),
        ("?!", "empty"),
        ("∞", None),
        ("[]", None),
        ("Lorem ipsum dolor sit amet.", "template"),
        ("I cannot help with that.", "refusal"),
        ("I can't help with that request", "refusal"),
        ("I'm sorry, but I can’t assist with this.", "refusal"),
        ("Sorry, I am unable to answer that.", "refusal"),
        ("Unfortunately, I cannot provide this information.", "refusal"),
        ("We are not able to do it in a day, as 3 of 4 are ill.", None),
        ("I cannot say it better than Bert: six lakes.", None),
        ("I can help with that: it is six.", None),
        ("I'm not able to assist.", "refusal"),
        ("I cannot help but smile when I think of Paris.", None),
        ("I cannot help with the first part. " + "The second has an answer. " * 10, None),
    ],
)
def test_rules_look_at_the_answer(answer, rule):
    found = gates(answer=answer, repetition=100)
    assert only(found) == ([rule] if rule else [])
    assert (failure_reason(found) or "").startswith(f"{rule}: " if rule else "")
    assert only(gates(answer=answer, repetition=100, rules=[])) == []


def test_a_rule_that_the_instruction_asks_for_is_none():
    asked = "Anna, Berlin, apples, ten rivers; Bert, Paris, pears, six lakes: give the lorem ipsum filler text"
    assert only(gates(asked, "Lorem ipsum dolor sit amet.")) == []


@pytest.mark.parametrize("wrong", [["emtpy"], "empty"])
def test_a_rule_that_there_is_not_is_refused(wrong):
    with pytest.raises(ValidationError):
        Gates(rules=wrong)
