"""Pilots: rows that are asked about, messages, and the votes of weak views."""

import random

import pytest

from nfilter import Completion, Failure, Message, Sample, hash_of
from nfilter.testing import FakeContext, FakeEncoder, FakeGenerator, check_sample_stage, view
from nfilter_robustft.answer import Answer, AnswerConfig
from nfilter_robustft.check import Check
from nfilter_robustft.check_settings import CheckConfig
from nfilter_robustft.neighbors import Neighbors, NeighborsConfig
from nfilter_robustft.reason import Reason, ReasonConfig
from nfilter_robustft.review import Review, ReviewConfig

LETTERS = "ABCD"
DOWN = Completion("", "failed", failure=Failure("server", "down"))


def rows(n=600, wrong=0.5):
    """Samples with the true letter in the query and a share ``wrong`` of wrong labels."""
    rng = random.Random(0)
    out = []
    for number in range(n):
        truth = rng.choice(LETTERS)
        label = rng.choice(LETTERS.replace(truth, "")) if rng.random() < wrong else truth
        messages = (Message("user", f"it is {truth}, row {number}"), Message("assistant", label))
        out.append(Sample(f"s{number}", messages))
    return out


def knows(request):
    """Answer with the true letter from the query."""
    return f"So it is. Answer: {request.messages[-1].content.partition('it is ')[2][0]}"


def guesses(request):
    """Answer with a random letter, reproducible per request."""
    return f"I guess. Answer: {random.Random(repr(request.messages)).choice(LETTERS)}"


def says_a(request):
    return "Answer: A"


def run(stage, config, samples, answer, **models):
    """Return the stage's samples, its context, the number of requests of ``fit``, and the state."""
    model = FakeGenerator(answer)
    ctx = FakeContext(models={"m": model, **models}, answers="choice")
    built = stage(config)
    state = built.fit(iter(samples), ctx) if hasattr(built, "fit") else None
    asked_in_fit = len(model.requests)
    out = list(built.process(samples, state, ctx)) if samples else []
    return out, ctx, asked_in_fit, state


STAGES = [(Answer, AnswerConfig(llm="m")), (Reason, ReasonConfig(llm="m"))]


@pytest.mark.parametrize(("stage", "config"), STAGES)
def test_constant_view_is_asked_about_pilot_rows_only(stage, config):
    samples = rows()
    model = FakeGenerator(says_a)
    ctx = FakeContext(models={"m": model}, answers="choice")
    out = check_sample_stage(stage, config, samples, ctx)
    notes = [each.notes[config.into] for each in out]
    asked = {request.sample_id for request in model.requests}
    assert len(asked) == 128
    assert all(note["answer"] is None and "no better than chance" in note["weak"] for note in notes)
    answered = [each.id for each in out if each.notes[config.into].get("answered") == "A"]
    assert set(answered) == asked
    assert sum(note["calls"] for note in notes) == 128
    whole = 1 if stage is Answer else 9
    assert sum(note.get("saved", 0) for note in notes) == (600 - 128) * whole
    assert all(each.why is None or "no better than chance" in each.why for each in out)
    (message,) = [text for level, text in ctx.log.lines if level == "warning"]
    assert message.startswith(
        f"{config.into} is no better than chance: it agrees with the label on "
    )
    assert "The other 472 rows are not asked" in message
    assert "weak: ask asks about all rows" in message


def test_figures_are_those_of_the_pilot():
    samples = rows()
    _, _, _, state = run(Answer, AnswerConfig(llm="m"), samples, says_a)
    found = state.values["report"]["pilot"]
    first = set(state.arrays["asked"].tolist())
    labels = [s.response for s in samples if hash_of(s.id) in first]
    assert len(labels) == found["rows"] == found["asked"] == 128
    assert found["agreement"] == pytest.approx(labels.count("A") / 128, abs=1e-6)
    assert found["verdict"] == "weak"


@pytest.mark.parametrize(("stage", "config"), STAGES)
def test_useful_view_is_asked_about_every_row(stage, config):
    samples = rows()
    model = FakeGenerator(knows)
    ctx = FakeContext(models={"m": model}, answers="choice")
    built = stage(config)
    state = built.fit(iter(samples), ctx)
    first = list(model.requests)
    out = built.process(samples, state, ctx)
    assert 64 <= len(first) <= 192
    # process repeats the requests of fit, which the journal answers in a run.
    later = model.requests[len(first) :]
    assert all(request in later for request in first)
    assert all(each.notes[config.into]["answer"] == each.query[6] for each in out)
    assert state.values["report"]["pilot"]["verdict"] == "useful"
    assert not any("weak" in each.notes[config.into] for each in out)


def test_guessing_view_is_weak_for_any_row_order():
    samples = rows(1500)
    _, _, asked, state = run(Answer, AnswerConfig(llm="m"), samples, guesses)
    assert state.values["report"]["pilot"]["verdict"] == "weak"
    assert 64 < asked < 1000
    _, _, _, again = run(Answer, AnswerConfig(llm="m"), samples[::-1], guesses)
    assert again.values == state.values
    assert (again.arrays["asked"] == state.arrays["asked"]).all()


@pytest.mark.parametrize(
    ("config", "n"),
    [
        (AnswerConfig(llm="m", weak="ask"), 600),
        (AnswerConfig(llm="m", preset="official"), 600),
        (AnswerConfig(llm="m"), 63),
    ],
)
def test_no_pilot_with_weak_ask_or_few_rows(config, n):
    samples = rows(n)
    out, _, in_fit, state = run(Answer, config, samples, says_a)
    assert in_fit == 0
    assert not state.values
    assert all(each.notes["base"]["answer"] == "A" for each in out)


def test_no_pilot_with_settled_rows():
    samples = [each.note("other", view(each.response)) for each in rows()]
    samples[1] = samples[1].note("other", view("A" if samples[1].response == "B" else "B"))
    config = AnswerConfig(llm="m", settled={"vote": "any", "views": ["other"]})
    out, _, in_fit, _ = run(Answer, config, samples, says_a)
    assert in_fit == 0
    assert sum(bool(each.notes["base"].get("skipped")) for each in out) == 599


def test_view_after_a_weak_view_has_its_own_pilot():
    weak, _, _, _ = run(Answer, AnswerConfig(llm="m"), rows(), says_a)
    config = ReasonConfig(llm="m", rounds=0, settled={"vote": "all", "views": ["base"]})
    out, _, in_fit, _ = run(Reason, config, weak, knows)
    assert in_fit >= 64
    assert all(each.notes["reasoning"]["answer"] == each.query[6] for each in out)


def test_failed_calls_are_no_evidence():
    out, _, _, state = run(Answer, AnswerConfig(llm="m"), rows(), lambda request: DOWN)
    assert not state.values
    assert all(each.notes["base"]["failure"] == "server: down" for each in out)


def test_only_flagged_skips_a_weak_view():
    weak, _, _, _ = run(Answer, AnswerConfig(llm="m"), rows(), says_a)
    flagged = [each.note("check", {"flagged": True, "noise_score": 0.9}) for each in weak]
    model = FakeGenerator(knows)
    ctx = FakeContext(models={"m": model}, answers="choice")
    Answer(AnswerConfig(llm="m", only="flagged")).process(flagged, None, ctx)
    assert not model.requests


# --- the check -----------------------------------------------------------------------------------------------


def checked(samples, **config):
    ctx = FakeContext(answers="choice")
    out = check_sample_stage(Check, CheckConfig(**config), samples, ctx)
    return out, [text for _, text in ctx.log.lines]


@pytest.mark.parametrize("vote", ["all", "any", "probability"])
def test_weak_views_only_flag_nothing_and_warn(vote):
    samples, _, _, _ = run(Answer, AnswerConfig(llm="m"), rows(), says_a)
    samples, _, _, _ = run(Reason, ReasonConfig(llm="m"), samples, says_a)
    out, messages = checked(samples, views=["base", "reasoning"], vote=vote)
    assert not any(each.notes["check"]["flagged"] for each in out)
    assert "no view has a vote" in out[0].why
    assert any(
        text.startswith("no view has a vote: base and reasoning are no better") for text in messages
    )
    kept, _, _, _ = run(Review, ReviewConfig(llm="m", views=("base",)), out, knows)
    assert all(each.dropped is None for each in kept)
    assert "no vote: base, reasoning" in kept[0].why


@pytest.mark.parametrize("cut", [{"budget_of_flags": 0.1}, {"target_precision": 0.5}])
def test_cutoff_without_votes_flags_nothing(cut):
    samples, _, _, _ = run(Answer, AnswerConfig(llm="m"), rows(), says_a)
    out, _ = checked(samples, views=["base"], **cut)
    assert not any(each.notes["check"]["flagged"] for each in out)


@pytest.mark.parametrize("vote", ["all", "any"])
def test_verdict_uses_the_remaining_views(vote):
    samples, _, _, _ = run(Reason, ReasonConfig(llm="m", rounds=0), rows(), knows)
    alone, _ = checked(samples, views=["reasoning"], vote=vote)
    samples, _, _, _ = run(Answer, AnswerConfig(llm="m"), samples, says_a)
    both, messages = checked(samples, views=["base", "reasoning"], vote=vote)
    flags = [each.notes["check"]["flagged"] for each in both]
    assert flags == [each.notes["check"]["flagged"] for each in alone]
    assert sum(flags) > 250
    assert "base is no better than chance and has no vote" in both[0].why
    assert any("base has no vote" in text for text in messages)


def test_weak_view_is_never_sure():
    samples, _, _, _ = run(Reason, ReasonConfig(llm="m", rounds=0), rows(), says_a)
    samples, _, _, _ = run(Answer, AnswerConfig(llm="m"), samples, knows)
    out, _ = checked(samples, views=["base", "reasoning"], vote="any", sure={"view": "reasoning"})
    assert all(each.notes["check"]["flagged"] == (each.query[6] != each.response) for each in out)


@pytest.mark.types("give the check a view of another kind (robustft.neighbors) or")
def test_neighbours_still_vote():
    samples, _, _, _ = run(Answer, AnswerConfig(llm="m"), rows(), says_a)
    encoder = FakeEncoder(lambda text: [float(text[6] == letter) for letter in LETTERS])
    samples, _, _, _ = run(Neighbors, NeighborsConfig(encoder="e"), samples, says_a, e=encoder)
    out, _ = checked(samples, views=["base", "neighbors"], vote="all")
    wrong = [each.query[6] != each.response for each in out]
    flagged = [each.notes["check"]["flagged"] for each in out]
    assert sum(a == b for a, b in zip(wrong, flagged, strict=True)) > 580
