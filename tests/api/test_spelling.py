"""An answer that is compared in lower case, as a text spells it."""

from __future__ import annotations

import pytest

from nfilter import spelled_in
from nfilter.answers import AnswerConfig, build


@pytest.mark.parametrize(
    ("text", "answer", "spelled"),
    [
        ("World", "world", "World"),
        ("It is in Paris, France.", "france", "France"),
        ("Not paris.\nAnswer: Paris", "paris", "Paris"),  # the last one counts
        ("The  United\nStates", "united states", "United States"),
        ("Parisian, then Paris", "paris", "Paris"),  # not inside a word
        ("Parisian", "paris", "paris"),
        ("Straße", "strasse", "strasse"),  # a letter that becomes two
        ("x", "", ""),
        ("C++ and C", "c++", "C++"),
    ],
)
def test_the_spelling_of_the_text_is_taken(text: str, answer: str, spelled: str) -> None:
    assert spelled_in(text, answer) == spelled


@pytest.mark.parametrize(
    "text", ["Sci/Tech", "Answer: New York", "**Le Havre**", "Because.\n\nAnswer: Ada Lovelace."]
)
def test_a_spelled_answer_is_the_same_answer(text: str) -> None:
    exact = build(AnswerConfig(kind="exact"))
    answer = exact.parse(text)
    assert answer is not None
    spelled = spelled_in(text, answer)
    assert spelled != answer
    assert exact.parse(spelled) == answer
