"""``robustft.review``: calls, reading of replies, and decisions."""

import re

import pytest
from pydantic import ValidationError

from nfilter import Completion, Failure, Message, Sample
from nfilter.answers import AnswerConfig, build
from nfilter.testing import FakeGenerator, check_sample_stage, view
from nfilter_robustft.review import Review, ReviewConfig

DOWN = Completion("", "failed", failure=Failure("server", "down"))
SPLIT = {"context": "B", "reasoning": "C"}


@pytest.fixture
def review(context, obedient):
    """Runner of the review with ``model``; None: a call raises."""

    def run(chunk, model=None, *, answers="choice", seed=0, **config):
        ctx = context(obedient(model) if model else None, answers=answers, seed=seed)
        return check_sample_stage(Review, ReviewConfig(llm="m", **config), chunk, ctx)

    return run


def prompts(model):
    return ["\n".join(message.content for message in r.messages) for r in model.requests]


def test_review_chooses_a_candidate(sample, review):
    model = FakeGenerator(lambda request: "C fits better.\nAnswer: C", logprob=-2.0)
    (out,) = review([sample(1, views=SPLIT, flagged=True)], model)
    note = out.notes["review"]
    assert out.response == "C"
    assert out.dropped is None
    assert out.why == "flagged, and relabelled from 'A' to 'C': the review chose the reasoning view"
    assert (note["answer"], note["choice"], note["attempts"], note["calls"]) == (
        "C",
        "reasoning",
        1,
        1,
    )
    assert (note["nll"], note["text"], note["failure"]) == (2.0, "C fits better.\nAnswer: C", None)
    assert len(model.requests) == 1


def test_review_gives_its_own_answer(sample, review):
    model = FakeGenerator(lambda request: "Neither.\nAnswer: D")
    (out,) = review([sample(1, views=SPLIT, flagged=True)], model)
    assert (out.response, out.notes["review"]["choice"]) == ("D", "own")
    assert out.why == "flagged, and relabelled from 'A' to 'D': the review's own answer"


def test_review_confirms_the_label(sample, review):
    model = FakeGenerator(lambda request: "Answer: A")
    (out,) = review(
        [sample(1, response="(A)", views={"context": "B", "reasoning": "A"}, flagged=True)], model
    )
    assert (out.response, out.dropped) == ("(A)", None)
    assert out.why == "flagged, and confirmed as 'A': the review chose the reasoning view"
    assert out.notes["review"]["answer"] == "A"


def test_unreadable_replies_are_retried(sample, review, scripted):
    model = scripted({"1": ["Hard to say", DOWN, "Answer: B"], "2": ["Answer: C"]})
    chunk = [sample(key, views=SPLIT, flagged=True) for key in (1, 2)]
    one, two = review(chunk, model, retry_temperature=0.5)
    assert (one.response, one.notes["review"]["attempts"], one.notes["review"]["calls"]) == (
        "B",
        3,
        3,
    )
    assert (
        one.why
        == "flagged, and relabelled from 'A' to 'B': the review chose the context view, at attempt 3"
    )
    assert (two.response, two.notes["review"]["attempts"]) == ("C", 1)
    asked = [r for r in model.requests if r.sample_id == "1"]
    assert [r.draw for r in asked] == [0, 1, 2]
    assert [r.sampling.temperature for r in asked] == [0.0, 0.5, 0.5]
    assert len({r.sampling.seed for r in asked}) == 3
    assert len({r.messages for r in asked}) == 1


@pytest.mark.parametrize(
    ("replies", "failure"),
    [
        (["Hm", "Well", "A or B, who knows"], "no answer in 'A or B, who knows'"),
        (["Hm", "Well", DOWN], "server: down"),
    ],
)
def test_unreadable_review_drops_the_sample(sample, review, scripted, replies, failure):
    model = scripted({"1": replies})
    (out,) = review([sample(1, views=SPLIT, flagged=True)], model)
    assert out.dropped == f"flagged, and the review is unreadable after 3 attempts: {failure}"
    assert out.response == "A"
    note = out.notes["review"]
    assert (note["answer"], note["attempts"], note["choice"]) == (None, 3, "none")
    assert note["failure"]
    (out,) = review([sample(1, views=SPLIT, flagged=True)], scripted({"1": ["Hm"]}), retries=0)
    assert "after 1 attempts" in out.dropped


def test_agreed_answer_is_adopted_without_a_call(sample, review):
    views = {"context": view("B", nll=0.125, text="B."), "reasoning": "B"}
    (out,) = review([sample(1, views=views, flagged=True)])
    note = out.notes["review"]
    assert out.response == "B"
    assert out.why == "flagged, and relabelled from 'A' to 'B': all views agree, the context view"
    assert (note["calls"], note["attempts"], note["saved"], note["nll"]) == (0, 0, 1, 0.125)
    model = FakeGenerator(lambda request: "Answer: D")
    (out,) = review([sample(1, views=views, flagged=True)], model, skip_agreed=False)
    assert (out.response, len(model.requests)) == ("D", 1)


def test_disagreeing_views_are_reviewed(sample, review):
    names = ("x", "y", "z")
    model = FakeGenerator(lambda request: "Answer: C")
    chunk = [
        sample(1, views=dict(zip(names, "BBB", strict=True)), flagged=True),
        sample(2, views=dict(zip(names, "BBC", strict=True)), flagged=True),
        sample(3, views=dict(zip(names, ("B", None, "B"), strict=True)), flagged=True),
    ]
    out = review(chunk, model, views=names)
    assert [each.response for each in out] == ["B", "C", "B"]
    assert [r.sample_id for r in model.requests] == ["2"]


@pytest.mark.parametrize("first", [view(None, failure="no clean sample"), view(None, text="hm")])
def test_single_candidate_is_adopted_without_a_call(sample, review, first):
    (out,) = review([sample(1, views={"context": first, "reasoning": "C"}, flagged=True)])
    assert out.response == "C"
    assert out.why.endswith("only one view has an answer, the reasoning view")
    assert out.notes["review"]["saved"] == 1


def test_single_candidate_is_reviewed_without_skip_agreed(sample, review):
    views = {"context": view(None, text="hm"), "reasoning": "C"}
    for config in ({"skip_agreed": False}, {"preset": "official"}):
        model = FakeGenerator(lambda request: "Answer: D")
        (out,) = review([sample(1, views=views, flagged=True)], model, **config)
        assert (out.response, len(model.requests)) == ("D", 1)
    sure = {**views, "context": view(None, calls=0, skipped="reasoning is sure of its answer")}
    (out,) = review([sample(1, views=sure, flagged=True)], skip_agreed=False)
    assert (out.response, out.notes["review"]["calls"]) == ("C", 0)
    nothing = dict.fromkeys(views, view(None, text="hm"))
    (out,) = review([sample(1, views=nothing, flagged=True)], preset="official")
    assert "no view has an answer" in out.dropped


def test_official_preset_makes_one_call_and_writes_the_bare_answer(sample, review):
    model = FakeGenerator(lambda request: "Hm")
    (out,) = review([sample(1, views=SPLIT, flagged=True)], model, preset="official")
    assert "after 1 attempts" in out.dropped
    (request,) = model.requests
    assert (request.sampling.temperature, request.sampling.max_tokens) == (1, 512)
    one = sample(1, response="A, as it is the first of them all", views=SPLIT, flagged=True)
    (out,) = review([one], FakeGenerator(lambda request: "Answer: B"), preset="official")
    assert out.response == "B"


def test_one_view_needs_no_review(sample, review):
    chunk = [
        sample(1, views={"context": "B"}, flagged=True),
        sample(2, views={"context": None}, flagged=True),
    ]
    one, two = review(chunk, views=("context",))
    assert (one.response, one.notes["review"]["saved"]) == ("B", 0)
    assert one.why.endswith("one view and no review, the context view")
    assert two.dropped is not None


def test_sample_without_candidates_is_dropped(sample, review):
    views = {
        "context": view(None, failure="no clean sample"),
        "reasoning": view(None, text="hm hm"),
    }
    chunk = [sample(1, views=views, flagged=True), sample(2, flagged=True)]
    one, two = review(chunk)
    assert one.dropped == (
        "flagged, and no view has an answer: context: no clean sample; reasoning: no answer in 'hm hm'"
    )
    assert "context was not written" in two.dropped
    assert "review" not in one.notes


def test_unflagged_sample_is_kept_with_the_votes_as_reason(sample, review):
    chunk = [sample(key, views=SPLIT, flagged=False) for key in range(3)]
    agree = [
        {"base": True, "reasoning": True},
        {"base": True, "reasoning": False, "near": None},
        {},
    ]
    chunk = [
        each.note("check", {**each.notes["check"], "agree": votes, "vote": "any"})
        for each, votes in zip(chunk, agree, strict=True)
    ]
    out = review(chunk)
    assert [each.why for each in out] == [
        "every view agrees with the label: base, reasoning",
        "not flagged (vote any): agree: base; differ: reasoning; no answer: near",
        "not flagged",
    ]
    assert all("review" not in each.notes and each.response == "A" for each in out)


def test_pinned_sample_is_not_reviewed(sample, review):
    (out,) = review([sample(1, views=SPLIT, flagged=True, pinned=True)])
    assert (out.response, out.why) == ("A", "pinned by a user: not reviewed")


def test_prompt_contains_the_candidates_but_not_the_label(sample, review):
    views = {
        "context": view("B", text="Like the others.\nAnswer: B"),
        "reasoning": view("C", reasoning="Step one."),
    }
    model = FakeGenerator(lambda request: "Answer: C")
    review([sample(1, "The query", "SECRET", views=views, flagged=True)], model)
    (text,) = prompts(model)
    for part in ("The query", "Like the others.", "Step one."):
        assert part in text
    assert "SECRET" not in text


def test_candidate_order_is_random_and_reproducible(sample, review):
    def orders(seed, **config):
        model = FakeGenerator(lambda request: "Answer: C")
        out = review(
            [sample(i, views=SPLIT, flagged=True) for i in range(40)], model, seed=seed, **config
        )
        shown = [text.index("\nB\n") < text.index("\nC\n") for text in prompts(model)]
        noted = [each.notes["review"]["order"][0] == "context" for each in out]
        assert shown == noted
        return shown

    first = orders(0)
    assert 8 < sum(first) < 32
    assert first == orders(0) != orders(1)
    assert all(orders(0, shuffle=False))
    assert not any(orders(0, preset="official"))  # the reasoning view comes first


def test_the_official_preset(sample, review):
    views = {
        "context": view("B", reasoning="because"),
        "reasoning": view("B", reasoning="Step one."),
    }
    model = FakeGenerator(lambda request: "Answer: B")
    (out,) = review([sample(1, views=views, flagged=True)], model, preset="official")
    (text,) = prompts(model)  # it asks although both agree
    assert "Step one." not in text
    assert "because" not in text
    assert re.search(
        r"Candidate 1, the reasoning view:\nBEGIN \w+\nB\nEND \w+\n"
        r"Candidate 2, the context view:\nBEGIN \w+\nB\nEND",
        text,
    )
    assert out.response == "B"
    assert ReviewConfig(llm="m", preset="official", prompt="a/b").prompt == "a/b"
    assert Review.contract(ReviewConfig(llm="m", preset="official")).prompts == {
        "robustft/review_answers"
    }


@pytest.mark.parametrize(
    ("reply", "choice", "answer"),
    [
        ("Answer: Candidate 1 is correct.", "first", "72"),
        ("I weighed 3 things.\n**Answer: Candidate 2**", "second", "85"),
        ("Answer: candidate #2", "second", "85"),
        ("Answer: Candidate 3 is correct", "own", "3"),
        ("Answer: 85.0", "second", "85"),
        ("Answer: 2", "own", "2"),
    ],
)
def test_candidate_can_be_chosen_by_number(sample, review, reply, choice, answer):
    model = FakeGenerator(lambda request: reply)
    one = sample(1, response="5", views={"first": "72", "second": "85"}, flagged=True)
    (out,) = review([one], model, answers="number", views=("first", "second"), shuffle=False)
    assert (out.notes["review"]["choice"], out.notes["review"]["answer"]) == (choice, answer)


FULL = "48 / 2 = 24, and 48 + 24 = 72.\n#### 72"


@pytest.mark.parametrize(
    ("write", "old", "new"),
    [
        ("auto", "71", "72"),
        ("auto", "71 apples", "72"),
        ("auto", "48 + 23 makes seventy-one.\n#### 71", FULL),
        ("answer", "48 + 23 makes seventy-one.\n#### 71", "72"),
        ("text", "71", FULL),
    ],
)
def test_write_modes(sample, review, write, old, new):
    views = {"context": view("72", text=FULL), "reasoning": view("72", text="Answer: 72")}
    (out,) = review(
        [sample(1, response=old, views=views, flagged=True)], answers="number", write=write
    )
    assert out.response == new


@pytest.mark.parametrize(
    ("reply", "new"), [("It lies in France.\nAnswer: Paris", "Paris"), ("Answer: paris", "paris")]
)
def test_an_answer_in_words_is_written_as_the_model_spells_it(sample, review, reply, new):
    views = {"context": "lyon", "reasoning": "nice"}
    row = sample(1, response="Lyon", views=views, flagged=True)
    (out,) = review([row], FakeGenerator(lambda request: reply), answers="exact")
    assert out.notes["review"]["answer"] == "paris"
    assert out.response == new


def test_text_of_the_chosen_view_is_written(sample, review):
    model = FakeGenerator(lambda request: "The first adds up.\nAnswer: 72")
    old = "A long and winding calculation that ends in\n#### 71"
    views = {"context": view("72", text=FULL), "reasoning": "73"}
    (out,) = review([sample(1, response=old, views=views, flagged=True)], model, answers="number")
    assert out.response == FULL
    assert out.notes["review"]["text"] == "The first adds up.\nAnswer: 72"


def test_text_of_the_reviews_own_answer_is_written(sample, review):
    model = FakeGenerator(lambda request: "It is 60 + 13.\nAnswer: 73")
    old = "A long and winding calculation that ends in\n#### 71"
    one = sample(1, response=old, views={"context": "70", "reasoning": "72"}, flagged=True)
    (out,) = review([one], model, answers="number")
    assert out.response == "It is 60 + 13.\nAnswer: 73"


@pytest.mark.parametrize(
    ("old", "new"),
    [("A", "B"), ("(A)", "B"), ("very bad", "quite good"), ("A. very bad", "B. quite good"), ("(A) very bad", "(B) quite good")],
)  # fmt: skip
def test_choice_keeps_the_format_of_the_old_response(review, old, new):
    notes = {
        "check": {"flagged": True, "noise_score": 1.0, "agree": {}, "vote": "all"},
        "context": view("B", text="B is right, for many reasons"),
        "reasoning": view("B"),
    }
    turns = (Message("user", "?"), Message("assistant", old))
    one = Sample("s", turns, notes=notes, meta={"options": ["very bad", "quite good", "C"]})
    (out,) = review([one])
    assert out.response == new


def test_open_text_is_written_without_its_reasoning(sample, review):
    text = build(AnswerConfig(kind="text", judge="j"), judge=lambda pairs: [False] * len(pairs))
    model = FakeGenerator(lambda request: "Both miss it.\nAnswer:\nIt rains.\nA lot.")
    views = {"context": "It snows.", "reasoning": "It hails."}
    (out,) = review(
        [sample(1, response="Sun.\nAll day.", views=views, flagged=True)], model, answers=text
    )
    assert out.response == "It rains.\nA lot."


def test_confirmed_label_is_rewritten_unless_write_auto(sample, review):
    views = {"context": view("72", text="It is 72"), "reasoning": "72"}
    chunk = [sample(1, response="72.0 apples", views=views, flagged=True)]
    written = {
        write: review(chunk, answers="number", write=write)[0].response
        for write in ("auto", "answer", "text")
    }
    assert written == {"auto": "72.0 apples", "answer": "72", "text": "It is 72"}


def test_check_null_reviews_every_sample(sample, review):
    out = review(
        [sample(i, views={"context": "B", "reasoning": "B"}) for i in range(3)], check=None
    )
    assert [each.response for each in out] == ["B"] * 3


def test_contract_and_config():
    contract = Review.contract(ReviewConfig(llm="x", views=["a", "b"], into="r"))
    assert contract.reads == {"a", "b", "check"}
    assert contract.writes == contract.views == contract.proposes == {"r"}
    assert contract.prompts == {"robustft/review"}
    assert Review.contract(ReviewConfig(llm="x", check=None)).reads == {"context", "reasoning"}
    with pytest.raises(ValidationError, match="twice"):
        ReviewConfig(llm="x", views=["a", "a"])
    with pytest.raises(ValidationError, match="views"):
        ReviewConfig(llm="x", views=[])
