"""Answers with a form: validated, asked again a bounded number of times, and never guessed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict, Field

from nfilter import Completion, Failure, Message, Model, Request, read_structured
from nfilter.models.proxy import JournaledModel
from nfilter.store.journal import Journal
from nfilter.testing import FakeContext, FakeGenerator


class Judgement(BaseModel):
    model_config = ConfigDict(extra="forbid")

    right: bool
    score: int = Field(ge=0, le=10)


ASK = Request((Message("user", "Is it right? Answer with {right, score}."),), sample_id="a")
GOOD = '{"right": true, "score": 7}'


def model_that(*answers: str) -> tuple[Model, FakeGenerator]:
    """A model that gives these answers, one per turn of the assistant, and the fake behind it."""

    def answer(request: Request) -> str:
        return answers[sum(turn.role == "assistant" for turn in request.messages)]

    fake = FakeGenerator(answer)
    return FakeContext(models={"m": fake}).model("m"), fake


@pytest.mark.parametrize(
    "text", [GOOD, f"  {GOOD}\n", f"```json\n{GOOD}\n```", f"```\n{GOOD}\n```"]
)
def test_an_answer_of_the_form_is_its_value(text: str) -> None:
    model, fake = model_that(text)
    (done,) = read_structured(model, [ASK], Judgement)
    assert done.value == Judgement(right=True, score=7)
    assert (done.calls, done.failure, done.last.text) == (1, None, text)
    assert fake.requests[0].response_schema == Judgement.model_json_schema()


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("Yes, 7 of 10.", "it is not one JSON object"),
        (f"{GOOD} {GOOD}", "it is not one JSON object"),
        ('{"right": true, "right": false, "score": 7}', "it is not one JSON object"),
        ('{"right": true, "score": NaN}', "it is not one JSON object"),
        ('{"right": true, "score": 1e999}', "it is not one JSON object"),
        ('{"right": true, "score": 11}', "score: Input should be less than or equal to 10"),
        ('{"right": true}', "score: Field required"),
        ('{"right": true, "score": 7, "why": "x"}', "why: Extra inputs are not permitted"),
        ("[1]", "the object: Input should be an object"),
    ],
)
def test_another_form_is_sent_back_with_its_faults_and_may_be_mended(text: str, fault: str) -> None:
    model, fake = model_that(text, GOOD)
    (done,) = read_structured(model, [ASK], Judgement)
    assert done.value == Judgement(right=True, score=7)
    assert done.calls == 2
    question, wrong, again = fake.requests[1].messages
    assert question == ASK.messages[0]
    assert wrong == Message("assistant", text)
    assert fault in again.content
    assert fake.requests[1].response_schema is not None


@pytest.mark.parametrize("repairs", [0, 1, 3])
def test_repairs_are_bounded_and_what_is_left_is_unreadable(repairs: int) -> None:
    model, fake = model_that(*["no"] * 9)
    (done,) = read_structured(model, [ASK], Judgement, repairs=repairs)
    assert done.value is None
    assert done.failure == Failure(
        "parse", "the answer does not have the form asked for: it is not one JSON object"
    )
    assert done.calls == len(fake.requests) == repairs + 1


def test_a_failed_call_is_not_repaired() -> None:
    failed = Completion("", "failed", failure=Failure("refused", "will not"))
    fake = FakeGenerator(lambda _: failed)
    (done,) = read_structured(FakeContext(models={"m": fake}).model("m"), [ASK], Judgement)
    assert (done.value, done.failure, done.calls) == (None, failed.failure, 1)


def test_results_stand_in_the_order_of_the_requests() -> None:
    def answer(request: Request) -> str:
        number = int(request.messages[0].content)
        return GOOD if number % 2 or len(request.messages) > 1 else "no"

    fake = FakeGenerator(answer)
    asked = [Request((Message("user", str(number)),)) for number in range(5)]
    done = read_structured(FakeContext(models={"m": fake}).model("m"), asked, Judgement)
    assert [each.calls for each in done] == [2, 1, 2, 1, 2]
    assert all(each.value is not None for each in done)


def test_less_than_no_repair_is_refused() -> None:
    with pytest.raises(ValueError, match="repairs is 0 or more, not -1"):
        read_structured(model_that(GOOD)[0], [ASK], Judgement, repairs=-1)


def test_a_repaired_answer_is_in_the_journal(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.db")

    def run(answer: Callable[[Request], str]) -> Sequence[int]:
        fake = FakeGenerator(answer)
        model = JournaledModel("m", fake, "mark", journal, "a.stage")
        (done,) = read_structured(model, [ASK], Judgement)
        assert done.value is not None
        return done.calls, len(fake.requests)

    def forgetful(request: Request) -> str:
        return GOOD if len(request.messages) > 1 else "no"

    def never(request: Request) -> str:
        raise AssertionError(f"asked again: {request}")

    assert run(forgetful) == (2, 2)
    assert run(never) == (2, 0)
    journal.close()
