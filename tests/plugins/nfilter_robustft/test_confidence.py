"""The setting ``sure``: probabilities, votes, and calls that a confident view saves."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from nfilter import Completion, Message, RecipeError, Sample, View
from nfilter.testing import FakeContext, FakeEncoder, FakeGenerator, check_sample_stage, view
from nfilter_robustft.answer import Answer, AnswerConfig
from nfilter_robustft.check import Check
from nfilter_robustft.check_settings import CheckConfig
from nfilter_robustft.confidence import Sure, probability_of
from nfilter_robustft.reason import Reason, ReasonConfig
from nfilter_robustft.relabel import NO_CLEAN, Relabel, RelabelConfig
from nfilter_robustft.review import Review, ReviewConfig

VIEWS = ["reasoning", "neighbors", "base"]
SURE = {"view": "reasoning"}


def row(name, label, reasoning, neighbors, base, p=None, **more):
    """A sample whose reasoning has probability ``p`` over ten tokens; None: no nll."""
    nll = None if p is None else -math.log(p) / 10
    notes = {
        "reasoning": view(reasoning, nll=nll, tokens=10),
        "neighbors": view(neighbors, nll=None, tokens=0, calls=0),
        "base": view(base),
    }
    return Sample(
        name, (Message("user", f"q {name}"), Message("assistant", label)), notes=notes, **more
    )


def checked(rows, **more):
    config = CheckConfig(**{"views": VIEWS, "vote": "any", "sure": SURE, **more})
    return {s.id: s for s in check_sample_stage(Check, config, rows, FakeContext(answers="choice"))}


# --- probability ---------------------------------------------------------------------------------------------


@given(logprobs=st.lists(st.floats(-8, 0), min_size=1, max_size=30))
def test_probability_is_the_product_of_token_probabilities(logprobs):
    done = Completion("A", logprobs=tuple(logprobs), completion_tokens=len(logprobs))
    answer = View("A", nll=done.nll, tokens=done.completion_tokens)
    assert probability_of(answer) == pytest.approx(math.prod(math.exp(x) for x in logprobs))


@pytest.mark.parametrize(
    "answer",
    [View("A"), View("A", nll=None, tokens=3), View("A", nll=math.nan, tokens=3), View("A", nll=0.1, tokens=0)],
)  # fmt: skip
def test_probability_is_unknown_without_nll(answer):
    assert probability_of(answer) is None


@pytest.mark.parametrize(
    ("stage", "config"),
    [
        (Answer, AnswerConfig(llm="m", into="it", samples=3, temperature=0.7)),
        (Reason, ReasonConfig(llm="m", into="it", rounds=2)),
    ],
)
def test_probability_is_that_of_the_chosen_draw(stage, config):
    """The note's tokens count three draws, or reason, reflect, reason; its nll is that of one."""
    model = FakeGenerator(
        lambda request: Completion("Answer: A", logprobs=(-0.2, -0.3), completion_tokens=2)
    )
    ctx = FakeContext(models={"m": model}, answers="choice")
    rows = [Sample("x", (Message("user", "q"), Message("assistant", "A")))]
    (out,) = check_sample_stage(stage, config, rows, ctx)
    assert out.notes["it"]["tokens"] == 6
    assert probability_of(View.of(out, "it")) == pytest.approx(math.exp(-0.5))


def test_view_without_an_answer_is_never_sure():
    sure = Sure(view="reasoning")
    assert sure.of(row("x", "A", None, "A", "A", p=1.0)) is None
    assert sure.of(row("x", "A", "B", "A", "A", p=0.49)) is None
    assert sure.of(row("x", "A", "B", "A", "A", p=0.51)) == pytest.approx(0.51)
    assert Sure(view="reasoning", probability=0.9).of(row("x", "A", "B", "A", "A", p=0.8)) is None
    assert sure.of(Sample("x", (Message("user", "q"), Message("assistant", "A")))) is None


# --- votes ---------------------------------------------------------------------------------------------------

ANSWER = st.sampled_from(["A", "B", None])
ROW = st.tuples(
    st.sampled_from(["A", "B"]), ANSWER, ANSWER, ANSWER, st.sampled_from([None, 0.2, 0.9])
)


@settings(max_examples=60)  # each example fits the noise rate
@given(rows=st.lists(ROW, min_size=1, max_size=6), vote=st.sampled_from(["any", "all"]))
def test_sure_view_votes_alone_else_the_others_vote(rows, vote):
    samples = [row(f"s{i}", *values) for i, values in enumerate(rows)]
    out = checked(samples, vote=vote)
    for i, (label, reasoning, neighbors, base, p) in enumerate(rows):
        sure = reasoning is not None and p == 0.9
        voting = [reasoning] if sure else [neighbors, base]
        agree = [answer == label for answer in voting]
        reliable = any(agree) if vote == "any" else all(agree)
        note = out[f"s{i}"].notes["check"]
        assert note["flagged"] is not reliable
        assert note["agree"]["reasoning"] == (None if reasoning is None else reasoning == label)


def test_reason_names_the_voters():
    out = checked(
        [row("sure", "A", "B", "A", "A", p=0.8), row("unsure", "A", "B", "A", "B", p=0.3)]
    )
    assert "reasoning is sure (p 0.80) and votes alone" in out["sure"].why
    assert out["sure"].why.startswith("flagged")
    assert "reasoning is not sure and has no vote" in out["unsure"].why
    assert out["unsure"].why.startswith("reliable")


def test_trusted_and_unreadable_labels_ignore_sure():
    rows = [
        row("trusted", "A", "B", "B", "B", p=1.0, meta={"ok": True}),
        row("unread", "who knows", "A", "A", "A", p=1.0),
    ]
    out = checked(rows, trusted="ok")
    assert [out[name].notes["check"]["flagged"] for name in ("trusted", "unread")] == [False, True]


@pytest.mark.types("leave settled out of the stage that writes")
def test_skipped_sure_view_raises():
    skipped = view(
        None, nll=None, skipped="settled", settled={"vote": "any", "views": ["neighbors"]}
    )
    sample = row("x", "A", None, "A", "A").note("reasoning", skipped)
    with pytest.raises(RecipeError, match="leave settled out of the stage that writes 'reasoning'"):
        checked([sample])
    asked = row("x", "A", None, "A", "A")  # its stage without settled
    assert set(checked([asked])) == {"x"}


def test_other_views_may_be_skipped_if_one_is_sure():
    skipped = view(None, nll=None, calls=0, skipped="reasoning is sure of its answer (p 0.90)")
    samples = [row("x", "A", "B", "A", None, p=0.9).note("base", skipped)]
    assert checked(samples)["x"].notes["check"]["flagged"]


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"vote": "probability"}, "needs vote: any or all, and vote is probability"),
        ({"sure": {"view": "context"}}, "one of several views"),
        ({"views": ["reasoning"]}, "one of several views"),
        ({"sure": {"view": "reasoning", "probability": 0}}, "greater than 0"),
    ],
)
def test_invalid_configs_raise(bad, words):
    with pytest.raises(ValidationError, match=words):
        CheckConfig(**{"views": VIEWS, "vote": "any", "sure": SURE, **bad})


# --- calls ---------------------------------------------------------------------------------------------------

RELABEL = RelabelConfig(llm="m", encoder="e", sure=Sure(view="reasoning"))


def doubted(*, clean=True):
    """``sure`` and ``unsure`` are flagged; ``fine`` is not."""
    rows = [row("sure", "A", "B", "C", "C", p=0.9), row("unsure", "A", "B", "C", "C", p=0.1)]
    rows += [row("fine", "D", "D", "D", "D", p=0.9)] if clean else []
    return list(checked(rows).values())


def relabelled(rows, reply="C"):
    model = FakeGenerator(lambda request: reply)
    ctx = FakeContext(
        models={"m": model, "e": FakeEncoder(lambda text: [1.0, float(len(text))])},
        answers="choice",
    )
    out = {s.id: s for s in check_sample_stage(Relabel, RELABEL, rows, ctx)}
    return out, [request.sample_id for request in model.requests]


def test_relabel_skips_samples_of_a_sure_view():
    out, asked = relabelled(doubted())
    assert set(asked) == {"unsure"}
    note = out["sure"].notes["context"]
    assert note["skipped"] == "reasoning is sure of its answer (p 0.90)"
    assert (note["answer"], note["calls"], note["saved"], note["failure"]) == (None, 0, 1, None)
    assert out["unsure"].notes["context"]["answer"] == "C"
    assert "context" not in out["fine"].notes


def test_skipped_and_without_context_have_different_reasons():
    out, asked = relabelled(doubted(clean=False))
    assert asked == []
    assert "is sure" in out["sure"].notes["context"]["skipped"]
    assert out["unsure"].notes["context"]["failure"] == NO_CLEAN


def test_review_adopts_the_sure_answer_without_a_call(obedient):
    out, _ = relabelled(doubted())
    model = obedient(FakeGenerator(lambda request: "Answer: C"))
    ctx = FakeContext(models={"m": model}, answers="choice")
    done = check_sample_stage(Review, ReviewConfig(llm="m"), list(out.values()), ctx)
    reviewed = {s.id: s for s in done}
    assert {request.sample_id for request in model.requests} == {"unsure"}
    assert (reviewed["sure"].response, reviewed["unsure"].response) == ("B", "C")
    assert reviewed["fine"].response == "D"
    assert "only one view has an answer (context: not asked)" in reviewed["sure"].why


def test_contracts_read_the_sure_view():
    assert Relabel.contract(RELABEL).reads == {"check", "reasoning"}
    bare = RelabelConfig(llm="m", encoder="e", check=None)
    assert Relabel.contract(bare).reads == frozenset()
