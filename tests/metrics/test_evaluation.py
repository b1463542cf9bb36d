"""Completions of an arm against the responses of the test set."""

from __future__ import annotations

from nfilter import Message, Sample
from nfilter.answers import AnswerConfig, build
from nfilter.metrics.evaluation import JudgedAnswer, arm_result, judge_answers


def test_rows_without_a_reference_are_judged_and_not_scored() -> None:
    test = [
        Sample(name, (Message("user", "How many?"), Message("assistant", response)))
        for name, response in (("right", "72"), ("wrong", "3"), ("silent", "5"), ("odd", "none"))
    ]
    texts = ["It is 72.0", "Answer: 4", "I cannot say", "Answer: 1"]
    judged = judge_answers(test, texts, build(AnswerConfig(kind="number")))
    assert [row.right for row in judged] == [True, False, False, False]
    assert judged[3].reference is None
    assert judged[2] == JudgedAnswer("silent", "I cannot say", None, "5", False)
    assert list(judged[2].to_json()) == ["id", "text", "answer", "reference", "right"]
    result = arm_result("raw", judged, {"steps": 3})
    assert dict(result.right) == {"right": True, "wrong": False, "silent": False}
    assert (result.unanswered, result.training) == (1, {"steps": 3})
    assert result.accuracy == 1 / 3
    assert not arm_result("raw", [judged[3]], None).right
