"""``robustft.check``: votes, noise scores, the reported noise rate, and the judge."""

import random

import pytest
from pydantic import ValidationError

from nfilter import Completion, Failure, Generates, Message, ModelNeed, Sample
from nfilter.testing import FakeContext, FakeGenerator, check_sample_stage, view
from nfilter_robustft.check import Check
from nfilter_robustft.check_settings import CheckConfig
from nfilter_robustft.judge import read_verdict

OPTIONS = ["red", "green", "blue", "black"]
VIEWS = ["base", "reasoning"]


def sample(name, label, base, reasoning, **meta):
    messages = (Message("user", f"question {name}"), Message("assistant", label))
    notes = {"base": view(base), "reasoning": view(reasoning, reasoning="because")}
    return Sample(name, messages, notes=notes, meta={"options": OPTIONS, **meta})


ROWS = [
    sample("both", "A", "A", "A"),
    sample("one", "A", "A", "B"),
    sample("neither", "A", "B", "B"),
    sample("silent", "A", "A", None),
    sample("dumb", "A", None, None),
    sample("unread", "no idea", "A", "A"),
]


def run(rows, ctx=None, **config):
    config = CheckConfig(views=VIEWS, **config)
    ctx = ctx or FakeContext(answers="choice")
    return {s.id: s for s in check_sample_stage(Check, config, rows, ctx)}


def flagged(out):
    return {name for name, s in out.items() if s.notes["check"]["flagged"]}


@pytest.mark.parametrize(
    ("vote", "expected"),
    [
        ("all", {"one", "neither", "silent", "dumb", "unread"}),
        ("any", {"neither", "dumb", "unread"}),
        ("none", set()),
    ],
)
def test_votes(vote, expected):
    out = run(ROWS, vote=vote)
    assert flagged(out) == expected
    for s in out.values():
        assert s.why.startswith("flagged" if s.id in expected else "reliable")
        assert s.notes["check"]["vote"] == vote
        assert 0 <= s.notes["check"]["noise_score"] <= 1
        assert s.dropped is None


def test_note_and_reason_list_the_votes():
    out = run(ROWS)
    assert out["one"].notes["check"]["agree"] == {"base": True, "reasoning": False}
    assert out["silent"].notes["check"]["agree"] == {"base": True, "reasoning": None}
    assert out["unread"].notes["check"]["agree"] == {"base": None, "reasoning": None}
    assert "base agrees, reasoning answers 'B'" in out["one"].why
    assert "reasoning has no answer" in out["silent"].why
    assert "no answer can be read in the label 'no idea'" in out["unread"].why
    assert out["unread"].notes["check"]["noise_score"] == 1.0


def simulated(n, rho, seed=0):
    rng = random.Random(seed)

    def annotate(truth, right):
        return truth if rng.random() < right else rng.choice([x for x in "ABCD" if x != truth])

    rows, wrong = [], {}
    for i in range(n):
        truth = rng.choice("ABCD")
        label = annotate(truth, 1 - rho)
        rows.append(sample(f"s{i}", label, annotate(truth, 0.75), annotate(truth, 0.85)))
        wrong[f"s{i}"] = label != truth
    return rows, wrong


def test_noise_rate_is_estimated_logged_and_reported():
    rows, _ = simulated(1500, 0.3)
    ctx = FakeContext(answers="choice")
    state = Check(CheckConfig(views=VIEWS)).fit(iter(rows), ctx)
    rate = state.values["report"]["estimated_noise_rate"]
    assert rate["n"] == 1500
    assert rate["low"] < 0.3 < rate["high"] < 0.6
    assert rate["estimate"] is None
    independent = rate["if_independent"]
    assert independent["low"] < independent["estimate"] < independent["high"]
    assert independent["estimate"] == pytest.approx(0.3, abs=0.04)
    accuracy = state.values["report"]["view_accuracy"]
    assert accuracy == pytest.approx({"base": 0.75, "reasoning": 0.85}, abs=0.04)
    message = ctx.log.lines[0][1]
    assert message.startswith(f"noise rate between {rate['low']:.2f} and {rate['high']:.2f}: ")
    assert f"it would be {independent['estimate']:.2f} (" in message
    assert "with each other make this estimate too high" in message
    assert "with the label too low" in message
    assert not state.arrays


def test_vote_probability_flags_over_the_threshold_and_is_calibrated():
    rows, wrong = simulated(3000, 0.3)
    out = run(rows, vote="probability", threshold=0.5)
    scores = {name: s.notes["check"]["noise_score"] for name, s in out.items()}
    assert flagged(out) == {name for name, score in scores.items() if score > 0.5}
    assert sum(scores.values()) / 3000 == pytest.approx(sum(wrong.values()) / 3000, abs=0.03)
    by_score = {}
    for name, score in scores.items():
        by_score.setdefault(score, []).append(wrong[name])
    large = {score: hits for score, hits in by_score.items() if len(hits) >= 100}
    assert len(large) >= 4
    for score, hits in large.items():
        assert sum(hits) / len(hits) == pytest.approx(score, abs=0.09)


def test_vote_probability_flags_labels_without_any_view_answer():
    out = run([ROWS[4], *simulated(200, 0.1)[0]], vote="probability")
    assert "dumb" in flagged(out)
    assert "no view has an answer" in out["dumb"].why


def test_result_does_not_depend_on_chunks():
    rows, _ = simulated(40, 0.3)
    ctx, stage = FakeContext(answers="choice"), Check(CheckConfig(views=VIEWS))
    state = stage.fit(rows, ctx)
    parts = [s for i in range(0, 40, 7) for s in stage.process(rows[i : i + 7], state, ctx)]
    assert parts == stage.process(rows, state, ctx)


def test_equal_numbers_in_different_notation_agree():
    messages = (Message("user", "?"), Message("assistant", "1,000"))
    s = Sample("n", messages, notes={"base": view("1000"), "reasoning": view("1000.0")})
    out = run([s], FakeContext(answers="number"))
    assert out["n"].notes["check"]["agree"] == {"base": True, "reasoning": True}


def test_trusted_label_is_never_flagged():
    rows = [*ROWS, sample("sure", "A", "B", "B", checked="yes")]
    for vote in ("all", "probability"):
        out = run(rows, vote=vote, trusted="checked")
        assert "sure" not in flagged(out)
        assert out["sure"].notes["check"]["noise_score"] == 0.0
        assert "column 'checked'" in out["sure"].why
    assert "neither" in flagged(run(rows, trusted="checked"))


@pytest.mark.parametrize("rows", [[], ROWS[:1], ROWS[4:5], ROWS[5:6]])
def test_few_or_no_answers(rows):
    assert len(run(rows)) == len(rows)


def test_wide_range_logs_a_warning():
    ctx = FakeContext(answers="choice")
    rows = simulated(300, 0.3)[0]
    Check(CheckConfig(views=["base"])).fit(rows, ctx)
    assert any(kind == "warning" and "trusted: COLUMN" in text for kind, text in ctx.log.lines)


@pytest.mark.types("give the check trusted labels (trusted: COLUMN)")
def test_trusted_labels_narrow_the_rate_to_a_point():
    rng = random.Random(1)

    def row(i):
        truth = rng.choice("ABCD")
        label = truth if rng.random() < 0.7 else rng.choice("ABCD".replace(truth, ""))
        answers = [truth if rng.random() < 0.95 else "D" for _ in VIEWS]
        marked = {"sure": 1} if label == truth and rng.random() < 0.3 else {}
        return sample(f"s{i}", label, *answers, **marked)

    ctx = FakeContext(answers="choice")
    state = Check(CheckConfig(views=VIEWS, trusted="sure")).fit([row(i) for i in range(3000)], ctx)
    rate = state.values["report"]["estimated_noise_rate"]
    wrong = 0.3 / (0.3 + 0.7 * 0.7)
    assert rate["low"] < wrong < rate["high"]
    assert rate["estimate"] == pytest.approx(wrong, abs=0.06)
    assert rate["trusted"] > 500
    assert ctx.log.lines[0][1].startswith(f"estimated noise rate {rate['estimate']:.2f}: ")
    assert not any("trusted: COLUMN" in text for _, text in ctx.log.lines)


# --- the judge -----------------------------------------------------------------------------------------------


@pytest.fixture
def judged(obedient):
    """Runner of ``vote: judge`` with scripted replies per sample; it fails on a superfluous call."""

    def ask(replies, rows=ROWS, **config):
        left = {name: list(texts) for name, texts in replies.items()}
        model = obedient(FakeGenerator(lambda request: left[request.sample_id].pop(0)))
        ctx = FakeContext(models={"expert": model}, answers="choice")
        return run(rows, ctx, vote="judge", llm="expert", **config), model

    return ask


REPLIES = {
    "one": ["It fits.\nVerdict: correct"],
    "neither": ["Verdict: correct at first.\n**Verdict: wrong**"],
    "silent": ["hm", "hmm", "Verdict: correct"],
    "dumb": ["hm", "hm", "hm"],
}


def test_judge_decides_unless_every_view_agrees(judged):
    out, model = judged(REPLIES)
    assert flagged(out) == {"neither", "dumb", "unread"}
    asked = [request.sample_id for request in model.requests]
    assert {name: asked.count(name) for name in out} == {
        "both": 0,
        "one": 1,
        "neither": 1,
        "silent": 3,
        "dumb": 3,
        "unread": 0,
    }
    assert out["silent"].notes["check"]["judge"]["calls"] == 3
    assert out["one"].notes["check"]["judge"]["text"] == "It fits.\nVerdict: correct"
    assert "no verdict could be read" in out["dumb"].why
    assert out["dumb"].notes["check"]["judge"]["failure"] == "no verdict could be read"
    assert "the judge calls the label wrong" in out["neither"].why
    assert out["both"].notes["check"]["judge"] is None


def test_judge_prompt_contains_question_label_views_and_reasoning(judged):
    _, model = judged(REPLIES)
    text = next(r for r in model.requests if r.sample_id == "one").messages[-1].content
    for part in (
        "question one",
        "Label:\nBEGIN",
        "Candidate 2:\nBEGIN",
        "\nB\nReasoning: because\nEND",
    ):
        assert part in text


def test_retries_are_sampled_with_new_seeds(judged):
    _, model = judged(REPLIES)
    silent = [request for request in model.requests if request.sample_id == "silent"]
    assert [request.draw for request in silent] == [0, 1, 2]
    assert [request.sampling.temperature for request in silent] == [0.0, 0.7, 0.7]
    assert len({request.sampling.seed for request in silent[1:]}) == 2


def test_failed_judge_call_flags_without_retry(judged):
    refused = Completion("", "failed", failure=Failure("refused", "policy"))
    out, model = judged({**REPLIES, "one": [refused]})
    assert "one" in flagged(out)
    assert "refused: policy" in out["one"].why
    assert sum(request.sample_id == "one" for request in model.requests) == 1


@pytest.mark.parametrize(
    "reply",
    [
        "The label is not wrong.", "correct or wrong?", "", "Verdict: incorrect", "Verdict: correct\nor so",
        "It has Verdict: correct", Completion("Verdict: correct", "length"),
    ],
)  # fmt: skip
def test_replies_without_a_verdict(reply, judged):
    out, _ = judged({**REPLIES, "one": [reply] * 3})
    assert "one" in flagged(out)
    assert out["one"].notes["check"]["judge"]["failure"]


@pytest.mark.parametrize(
    ("reply", "wrong"),
    [
        ("Verdict: wrong", True), ("**Verdict**: **correct**", False), ("Verdict (correct|wrong): wrong", True), ("Verdict: correct/wrong", None),
        ("Verdict: correct or wrong?", None), ("Verdict: correct? No, wrong.", None), ("Verdict: wrong if B, correct if C", None),
        ("No verdict. Correct labels are rare.", None), ("Verdict: correct. Wait, wrong.", None), ("Verdict: correct (the label is wrong)", None),
        ("Verdict: correct\nVerdict: wrong", True), ("Verdict: wrong, because 2+2=4", True), ('{"verdict": ["correct", "wrong"]}', None),
        ('{"verdict": "wrong"}', True), ("The verdict 'correct' does not apply. Verdict: wrong", True),
    ],
)  # fmt: skip
def test_a_verdict_without_a_code_is_read_right_or_not_at_all(reply, wrong):
    assert read_verdict(reply) is wrong


# --- contract and config -------------------------------------------------------------------------------------


def test_contract():
    contract = Check.contract(CheckConfig(views=VIEWS, into="verdict"))
    assert contract.reads == set(VIEWS)
    assert contract.writes == contract.verdicts == {"verdict"}
    assert not contract.needs
    assert not contract.prompts
    judge = Check.contract(CheckConfig(views=VIEWS, vote="judge", llm="expert"))
    assert judge.needs == (ModelNeed("expert", Generates, field="llm"),)
    assert judge.prompts == {"robustft/judge"}


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"views": []}, "at least 1"),
        ({"views": ["a", "a"]}, "twice"),
        ({"views": ["a"], "vote": "judge"}, "llm: expert"),
        ({"views": ["a"], "vote": "any", "preset": "official"}, "votes all"),
    ],
)
def test_invalid_configs_raise(bad, words):
    with pytest.raises(ValidationError, match=words):
        CheckConfig(**bad)
