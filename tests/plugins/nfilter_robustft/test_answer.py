"""``robustft.answer``."""

import pytest
from pydantic import ValidationError

from nfilter import Completion, Failure, Generates, Message, Sample
from nfilter.recipe.uses import model_needs
from nfilter.testing import FakeGenerator, check_sample_stage
from nfilter_robustft.answer import Answer, AnswerConfig

VIEW = {"answer", "text", "reasoning", "nll", "tokens", "calls", "rounds", "failure"}


def test_one_answer_per_sample_in_order(sample, context):
    model = FakeGenerator(lambda request: f"Answer: {request.sample_id}", logprob=-0.25)
    chunk = [sample(key) for key in "CAB"]
    out = check_sample_stage(Answer, AnswerConfig(llm="m"), chunk, context(model))
    assert [each.notes["base"]["answer"] for each in out] == ["C", "A", "B"]
    note = out[0].notes["base"]
    assert set(note) == VIEW | {"length"}
    assert (note["text"], note["nll"], note["tokens"], note["calls"]) == ("Answer: C", 0.25, 2, 1)
    assert note["failure"] is None
    assert len(model.requests) == 3


def test_prompt_contains_the_conversation_but_not_the_label(context):
    turns = [
        Message("system", "Be terse."), Message("user", "first question"), Message("assistant", "first reply"),
        Message("user", "second question"), Message("assistant", "SECRET"),
    ]  # fmt: skip
    model = FakeGenerator(lambda request: "A")
    Answer(AnswerConfig(llm="m")).process([Sample("s", tuple(turns))], None, context(model))
    (message,) = model.requests[0].messages
    for text in ("Be terse.", "first question", "first reply", "second question"):
        assert message.content.count(text) == 1
    assert "SECRET" not in message.content


@pytest.mark.parametrize(
    ("reply", "answer", "failure"),
    [
        ("Based on the text I cannot say", None, None),
        ("", None, "the reply is empty"),
        (" ...", None, "the reply is punctuation only"),
        (
            Completion("", "failed", failure=Failure("too_long", "9000 tokens")),
            None,
            "too_long: 9000 tokens",
        ),
        (Completion("A", "failed", failure=Failure("refused", "no")), None, "refused: no"),
        (Completion("B. because of", "length"), "B", None),
    ],
)
def test_replies_without_an_answer(sample, context, reply, answer, failure):
    model = FakeGenerator(lambda request: reply)
    (out,) = check_sample_stage(Answer, AnswerConfig(llm="m"), [sample(1)], context(model))
    assert (out.notes["base"]["answer"], out.notes["base"]["failure"]) == (answer, failure)


@pytest.mark.parametrize(
    ("kind", "text", "answer"),
    [
        ("number", "First 60 and then", None),
        ("number", "Answer: 12", None),  # of 1200, perhaps
        ("number", "Answer: 1,", None),
        ("number", "\\boxed{12", None),
        ("number", "\\boxed{12}", "12"),
        ("number", "Answer: 12\n", "12"),
        ("number", "Answer: 12 apples", "12"),
        ("exact", "Answer: New", None),
        ("exact", "Answer: New York\nIt is", "new york"),
        ("number", "Answer: 72, because 60 and", "72"),
        ("exact", "It may be", None),
    ],
)
def test_truncated_reply_needs_a_complete_answer(sample, context, kind, text, answer):
    model = FakeGenerator(lambda request: Completion(text, "length"))
    (out,) = Answer(AnswerConfig(llm="m")).process([sample(1)], None, context(model, answers=kind))
    assert out.notes["base"]["answer"] == answer
    assert out.notes["base"]["failure"] == (None if answer else "cut off at max_tokens")


@pytest.mark.parametrize(
    ("draws", "answer", "text", "agreement"),
    [
        (["A", "B", "Answer: B", "C", "B!"], "B", "B", 0.6),
        (["A", "B", "B", "A"], "A", "A", 0.5),  # ties: the first
        (["none", "no", "C", "none"], "C", "C", 0.25),
        (["none", "no"], None, "none", 0.0),
    ],
)
def test_majority_of_draws_is_the_answer(sample, context, scripted, draws, answer, text, agreement):
    model = scripted({"1": draws, "2": ["C"] * len(draws)})
    config = AnswerConfig(llm="m", samples=len(draws), temperature=0.7)
    one, two = check_sample_stage(Answer, config, [sample(1), sample(2)], context(model))
    note = one.notes["base"]
    assert (note["answer"], note["text"], note["agreement"]) == (answer, text, agreement)
    assert (note["calls"], note["samples"]) == (len(draws), len(draws))
    assert (two.notes["base"]["answer"], two.notes["base"]["agreement"]) == ("C", 1.0)


def test_draws_have_distinct_reproducible_seeds(sample, context):
    def seeds(seed):
        model = FakeGenerator(lambda request: "A")
        config = AnswerConfig(llm="m", samples=3, temperature=1.0)
        Answer(config).process([sample(1), sample(2)], None, context(model, seed=seed))
        return [(r.sample_id, r.draw, r.sampling.seed) for r in model.requests]

    assert seeds(0) == seeds(0)
    assert [entry[:2] for entry in seeds(0)] == [(i, d) for i in "12" for d in range(3)]
    assert len({entry[2] for entry in seeds(0) + seeds(1)}) == 12


def test_greedy_requests_do_not_depend_on_the_seed(sample, context):
    models = [FakeGenerator(lambda request: "A") for _ in range(2)]
    for seed, model in enumerate(models):
        Answer(AnswerConfig(llm="m")).process([sample(1)], None, context(model, seed=seed))
    assert models[0].requests == models[1].requests


def test_several_greedy_draws_raise():
    with pytest.raises(ValidationError, match=r"temperature: 0\.7"):
        AnswerConfig(llm="m", samples=5)


def test_contract():
    config = AnswerConfig(llm="x", into="mine", prompt="a/b")
    contract = Answer.contract(config)
    assert contract.writes == contract.views == {"mine"}
    assert contract.prompts == {"a/b"}
    assert [(need.model, need.capability) for need in model_needs(config)] == [("x", Generates)]


def test_empty_chunk_makes_no_request(context):
    model = FakeGenerator(lambda request: "A")
    assert Answer(AnswerConfig(llm="m")).process([], None, context(model)) == []
    assert model.requests == []


def test_thoughts_become_the_reasoning(sample, context):
    model = FakeGenerator(lambda request: Completion("B", reasoning="is it A? no"))
    (out,) = Answer(AnswerConfig(llm="m")).process([sample(1)], None, context(model))
    note = out.notes["base"]
    assert (note["answer"], note["text"], note["reasoning"]) == ("B", "B", "is it A? no")
