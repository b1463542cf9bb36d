"""Judge the answers of an arm to the test set against the reference answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from nfilter.api.stages import AnswerKind
from nfilter.api.types import JSON, Sample
from nfilter.metrics.arms import ArmResult


@dataclass(frozen=True, slots=True)
class JudgedAnswer:
    """One line of evaluation/ARM.jsonl: the completion of a test sample, and whether its answer is right.

    ``answer`` and ``reference`` are in canonical form; None if no answer could be parsed.
    """

    id: str
    text: str
    answer: str | None
    reference: str | None
    right: bool

    def to_json(self) -> dict[str, JSON]:
        """Return the line."""
        return asdict(self)


def judge_answers(
    test: Sequence[Sample], texts: Sequence[str], answers: AnswerKind
) -> list[JudgedAnswer]:
    """Compare each completion with the response of its test sample."""
    references = [answers.parse(sample.response, sample) for sample in test]
    given = [answers.parse(text, sample) for text, sample in zip(texts, test, strict=True)]
    right = answers.agree(list(zip(references, given, strict=True)))
    return [
        JudgedAnswer(sample.id, text, answer, reference, same)
        for sample, text, answer, reference, same in zip(
            test, texts, given, references, right, strict=True
        )
    ]


def arm_result(
    arm: str, judged: Sequence[JudgedAnswer], training: Mapping[str, JSON] | None
) -> ArmResult:
    """Return the result of an arm over the rows that have a reference answer."""
    scored = [row for row in judged if row.reference is not None]
    right = {row.id: row.right for row in scored}
    return ArmResult(arm, right, sum(row.answer is None for row in scored), training)
