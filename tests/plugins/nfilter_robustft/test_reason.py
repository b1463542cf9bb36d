"""``robustft.reason``: rounds, stopping, and calls."""

import pytest

from nfilter import Completion, Failure
from nfilter.testing import FakeGenerator, check_sample_stage
from nfilter_robustft.reason import Reason, ReasonConfig

DOWN = Completion("", "failed", failure=Failure("server", "down"))


def run(context, model, chunk, **config):
    stage_config = ReasonConfig(llm="m", **config)
    out = check_sample_stage(Reason, stage_config, chunk, context(model))
    return [each.notes["reasoning"] for each in out]


def replies_with(*answers):
    """Return the replies of one sample: a reasoning, then alternating reflections and reasonings."""
    replies = [f"So. Answer: {answers[0]}"]
    for number, answer in enumerate(answers[1:], 1):
        replies += [f"reflection {number}", f"Again {number}. Answer: {answer}"]
    return replies


@pytest.mark.parametrize(
    ("answers", "rounds", "calls", "saved", "stopped"),
    [
        ("AA", 1, 3, 6, "settled"),
        ("ABB", 2, 5, 4, "settled"),
        ("ABABB", 4, 9, 0, "settled"),
        ("ABABA", 4, 9, 0, "rounds"),
    ],
)
def test_sample_stops_after_two_equal_answers(
    sample, context, scripted, answers, rounds, calls, saved, stopped
):
    model = scripted({"1": replies_with(*answers)})
    (note,) = run(context, model, [sample(1)])
    assert note["answer"] == answers[-1]
    assert note["answers"] == list(answers)
    assert (note["rounds"], note["calls"], note["saved"], note["stopped"]) == (
        rounds, calls, saved, stopped,
    )  # fmt: skip
    assert len(model.requests) == calls


def test_rounds_are_batched_over_unsettled_samples(sample, context, scripted):
    sizes = []
    model = scripted(
        {"1": replies_with("A", "A"), "2": replies_with("A", "B", "B"), "3": replies_with("C", "C")}
    )
    generate = model.generate

    def counted(requests):
        sizes.append(len(requests))
        return generate(requests)

    model.generate = counted
    notes = run(context, model, [sample(1), sample(2), sample(3)])
    assert [note["answer"] for note in notes] == ["A", "B", "C"]
    assert [size for size in sizes if size] == [3, 3, 3, 1, 1]
    assert sum(note["calls"] for note in notes) == len(model.requests) == 11
    assert sum(note["calls"] + note["saved"] for note in notes) == 3 * 9


def test_unreadable_answers_never_settle(sample, context, scripted):
    model = scripted({"1": replies_with("?", "?", "A", "A")})
    (note,) = run(context, model, [sample(1)])
    assert note["answers"] == [None, None, "A", "A"]
    assert (note["answer"], note["rounds"]) == ("A", 3)
    (note,) = run(context, scripted({"1": replies_with("?", "?")}), [sample(1)], rounds=1)
    assert (note["answer"], note["failure"], note["stopped"]) == (None, None, "rounds")


def test_prompts_contain_reasoning_and_reflection(sample, context, scripted):
    model = scripted({"1": replies_with("A", "B", "B")})
    run(context, model, [sample(1, "the query", "SECRET")])
    first, reflect, second, reflect_2, third = (r.messages[-1].content for r in model.requests)
    assert "before" not in first
    assert "So. Answer: A" in reflect
    assert "ends in the answer:\nBEGIN" in reflect
    assert "So. Answer: A" in second
    assert "reflection 1" in second
    assert "Again 1. Answer: B" in reflect_2
    assert "So. Answer: A" not in third
    assert "reflection 2" in third
    assert all("the query" in r.messages[-1].content for r in model.requests)
    assert not any("SECRET" in r.messages[-1].content for r in model.requests)


def test_view_contains_the_last_reasoning(sample, context, scripted):
    replies = replies_with("A", "B", "B")
    replies[-1] = Completion(replies[-1], logprobs=(-1.0, -3.0), completion_tokens=7)
    (note,) = run(context, scripted({"1": replies}), [sample(1)])
    assert note["text"] == note["reasoning"] == "Again 2. Answer: B"
    assert note["nll"] == 2.0
    assert note["tokens"] == 3 + 2 + 4 + 2 + 7


def test_failed_first_reasoning_is_a_failed_view(sample, context, scripted):
    model = scripted({"1": [DOWN], "2": replies_with("A", "A")})
    failed, other = run(context, model, [sample(1), sample(2)])
    assert (failed["answer"], failed["failure"], failed["calls"]) == (None, "server: down", 1)
    assert (failed["reasoning"], failed["stopped"], failed["saved"]) == (None, "failed", 0)
    assert other["answer"] == "A"


@pytest.mark.parametrize(
    ("replies", "stopped", "calls"),
    [
        (["Answer: A", DOWN], "reflection failed: server: down", 2),
        (["Answer: A", "hm", DOWN], "reasoning failed: server: down", 3),
    ],
)
def test_later_failure_keeps_the_last_complete_reasoning(
    sample, context, scripted, replies, stopped, calls
):
    (note,) = run(context, scripted({"1": replies}), [sample(1)])
    assert (note["answer"], note["stopped"], note["calls"]) == ("A", stopped, calls)
    assert (note["rounds"], note["saved"]) == (0, 0)


def test_truncated_reasoning_has_no_answer(sample, context):
    cut = FakeGenerator(lambda request: Completion("It could be (B) if", "length"))
    (note,) = run(context, cut, [sample(1)], rounds=0)
    assert (note["answer"], note["failure"]) == (None, "cut off at max_tokens")
    stated = FakeGenerator(lambda request: Completion("Answer: B\nNext question", "length"))
    (note,) = run(context, stated, [sample(1)], rounds=0)
    assert (note["answer"], note["failure"]) == ("B", None)


def test_official_preset_reasons_once(sample, context, scripted):
    model = scripted({"1": replies_with("A")})
    (note,) = run(context, model, [sample(1)], preset="official")
    assert (note["answer"], note["calls"], note["rounds"], note["saved"]) == ("A", 1, 0, 0)
    assert ReasonConfig(llm="m", preset="official", rounds=2).rounds == 2
    assert ReasonConfig(llm="m").rounds == 4


def test_contract_names_the_reflection_prompt_only_with_rounds():
    both = Reason.contract(ReasonConfig(llm="m"))
    assert both.prompts == {"robustft/reason", "robustft/reflect"}
    assert both.writes == both.views == {"reasoning"}
    assert Reason.contract(ReasonConfig(llm="m", rounds=0)).prompts == {"robustft/reason"}


def test_thoughts_are_part_of_the_reasoning_and_reflection_prompt(sample, context):
    model = FakeGenerator(lambda request: Completion("Answer: B", reasoning="is it A? no"))
    (out,) = Reason(ReasonConfig(llm="m", rounds=1)).process([sample(1)], None, context(model))
    note = out.notes["reasoning"]
    assert (note["answer"], note["text"]) == ("B", "Answer: B")
    assert note["reasoning"] == "is it A? no\n\nAnswer: B"
    assert "is it A? no" in model.requests[1].messages[-1].content
