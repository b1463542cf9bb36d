"""Skipping of views: verdicts are those without skipping, for any answers, or an error is raised."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from nfilter import EMPTY_STATE, Message, RecipeError, Sample, State
from nfilter.testing import FakeContext, FakeEncoder, FakeGenerator, check_sample_stage, view
from nfilter_robustft import nfilter_stages
from nfilter_robustft.answer import Answer, AnswerConfig
from nfilter_robustft.check import Check
from nfilter_robustft.check_settings import CheckConfig
from nfilter_robustft.reason import Reason, ReasonConfig
from nfilter_robustft.skipping import Settled
from nfilter_robustft.statistics.posterior import Estimate

STAGES = {stage.name: stage for stage in nfilter_stages()}
VIEWS = ("neighbors", "reasoning", "base")
SETTING = {"vote": "any", "views": ["neighbors"]}


def sample(name, label, **more):
    return Sample(name, (Message("user", f"q {name}"), Message("assistant", label)), **more)


def ask(stage, rows, answers, **config):
    """Write one view with ``answers`` by id; return the samples and the ids that were asked about."""
    model = FakeGenerator(lambda request: f"Answer: {answers[request.sample_id] or '?'}")
    more = {"rounds": 0} if stage is Reason else {}
    config = stage.Config(llm="m", **{**more, **config})
    out = check_sample_stage(
        stage, config, rows, FakeContext(models={"m": model}, answers="choice")
    )
    return out, [request.sample_id for request in model.requests]


def verdicts(samples, **config):
    """Return verdicts by id, with a fixed estimate, on which no verdict under ``any`` or ``all`` depends."""
    config = CheckConfig(**config)
    fitted = Estimate(0.3, 0.1, 0.5, 9, dict.fromkeys(config.views, 0.7), 0.1, converged=True)
    ctx = FakeContext(answers="choice")
    out = Check(config).process(samples, State({"fit": fitted.to_json()}), ctx)
    return {each.id: each.notes["check"] for each in out}


# --- equal verdicts ------------------------------------------------------------------------------------------

ANSWER = st.sampled_from(["A", "B", "C", None])
ROW = st.fixed_dictionaries(
    {"label": st.sampled_from(["A", "B", "unreadable"]), "sure": st.booleans(), **dict.fromkeys(VIEWS, ANSWER)}
)  # fmt: skip


@st.composite
def lines(draw):
    """Draw an order of the views; all except the first may be settled by earlier ones."""
    order = draw(st.permutations(VIEWS))
    earlier = [draw(st.sets(st.sampled_from(order[:i]))) if i else set() for i in range(len(order))]
    return [(name, sorted(names)) for name, names in zip(order, earlier, strict=True)]


def with_views(rows, line, vote):
    """Return the samples with all views, and the ids asked about per view; ``vote`` None skips nothing."""
    samples = [
        sample(f"s{i}", row["label"], meta={"sure": row["sure"]}) for i, row in enumerate(rows)
    ]
    calls = {}
    for name, names in line:
        answers = {f"s{i}": row[name] for i, row in enumerate(rows)}
        if name == "neighbors":
            samples = [each.note(name, view(answers[each.id])) for each in samples]
            continue
        settled = {"vote": vote, "views": names} if vote and names else None
        stage = Reason if name == "reasoning" else Answer
        samples, calls[name] = ask(stage, samples, answers, into=name, settled=settled)
    return samples, calls


@settings(max_examples=200)
@given(
    rows=st.lists(ROW, min_size=1, max_size=5),
    line=lines(),
    listed=st.permutations(VIEWS),
    vote=st.sampled_from(["any", "all"]),
    trusted=st.sampled_from([None, "sure"]),
)
def test_skipping_does_not_change_verdicts(rows, line, listed, vote, trusted):
    check = {"views": listed, "vote": vote, "trusted": trusted}
    all_asked, _ = with_views(rows, line, None)
    some_asked, calls = with_views(rows, line, vote)
    expected, actual = verdicts(all_asked, **check), verdicts(some_asked, **check)
    assert {name: note["flagged"] for name, note in actual.items()} == {
        name: note["flagged"] for name, note in expected.items()
    }
    for each in some_asked:
        for name in VIEWS:
            skipped = "skipped" in each.notes[name]
            assert actual[each.id]["agree"][name] == (
                None if skipped else expected[each.id]["agree"][name]
            )
            if skipped:
                note = each.notes[name]
                assert (note["answer"], note["calls"], note["failure"]) == (None, 0, None)
            if name in calls:
                assert skipped == (each.id not in calls[name])
        if vote == "any" and actual[each.id]["flagged"]:
            assert trusted or not any("skipped" in each.notes[name] for name in VIEWS)


# --- skipped samples, by hand --------------------------------------------------------------------------------

ROWS = {
    "yes": ("A", "A"), "no": ("A", "B"), "silent": ("A", None), "unread": ("who knows", "A"), "absent": ("A", "absent"),
}  # fmt: skip


def with_neighbors(**more):
    return [
        sample(name, label, notes={} if n == "absent" else {"neighbors": view(n, **more)})
        for name, (label, n) in ROWS.items()
    ]


@pytest.mark.parametrize(
    ("vote", "asked", "reason"),
    [
        ("any", ["no", "silent", "unread", "absent"],
         "neighbors answers 'A' and agrees with the label 'A': that settles vote: any"),
        ("all", ["yes", "absent"], "neighbors answers 'B' and disagrees with the label 'A': that settles vote: all"),
    ],
)  # fmt: skip
def test_settled_samples_are_skipped_with_a_reason(vote, asked, reason):
    settled = {"vote": vote, "views": ["neighbors"]}
    answers = dict.fromkeys(ROWS, "A")
    for stage, most in ((Answer, {"samples": 3, "temperature": 0.7}), (Reason, {"rounds": 1})):
        out, who = ask(stage, with_neighbors(), answers, into="mine", settled=settled, **most)
        assert set(who) == set(asked)
        notes = {each.id: each.notes["mine"] for each in out}
        assert {name for name, note in notes.items() if "skipped" not in note} == set(asked)
        note = notes["yes" if vote == "any" else "no"]
        assert note["skipped"] == reason
        assert (note["answer"], note["text"], note["calls"], note["saved"]) == (None, "", 0, 3)
        assert note["settled"] == settled


def test_view_without_an_answer_settles_vote_all():
    out, _ = ask(
        Answer,
        with_neighbors(),
        dict.fromkeys(ROWS, "A"),
        settled={"vote": "all", "views": ["neighbors"]},
    )
    why = {each.id: each.notes["base"].get("skipped") for each in out}
    assert (
        why["silent"]
        == "neighbors has no answer, so it does not agree with the label 'A': that settles vote: all"
    )
    assert why["unread"].startswith("no answer can be read in the label")


@pytest.mark.parametrize("vote", ["any", "all"])
def test_a_skipped_view_settles_nothing(vote):
    rows = [
        sample("s", "A", notes={"reasoning": view(None, calls=0, skipped="settled by neighbors")})
    ]
    _, who = ask(Answer, rows, {"s": "A"}, settled={"vote": vote, "views": ["reasoning"]})
    assert who == ["s"]


def test_answers_are_compared_by_kind():
    rows = [
        Sample(
            "n",
            (Message("user", "?"), Message("assistant", "1,000")),
            notes={"neighbors": view("1000.0")},
        )
    ]
    ctx = FakeContext(models={"m": FakeGenerator(lambda request: "7")}, answers="number")
    (out,) = check_sample_stage(Answer, AnswerConfig(llm="m", settled=SETTING), rows, ctx)
    assert "1000.0" in out.notes["base"]["skipped"]


# --- unsafe skips --------------------------------------------------------------------------------------------


def with_skips(vote="any", **config):
    """Write a base view that skips ``yes`` (under all: ``no``, ``silent`` and ``unread``)."""
    return ask(
        Answer,
        with_neighbors(),
        dict.fromkeys(ROWS, "B"),
        settled={"vote": vote, "views": ["neighbors"]},
        **config,
    )[0]


@pytest.mark.parametrize("vote", ["all", "probability", "judge", "none"])
def test_check_with_another_vote_raises(vote):
    more = {"llm": "m"} if vote == "judge" else {}
    stage = Check(CheckConfig(views=["neighbors", "base"], vote=vote, **more))
    with pytest.raises(RecipeError) as error:
        stage.fit(with_skips(), FakeContext(answers="choice"))
    text = str(error.value)
    assert "'base' was not asked about sample 'yes'" in text
    assert "settled: {vote: any, views: [neighbors]}" in text
    assert f"vote: {vote}, views: [neighbors, base]" in text
    assert "leave settled out of that stage" in text


@pytest.mark.types("add to views of «» every view of settled")
def test_check_without_the_settling_views_raises():
    with pytest.raises(RecipeError, match=r"add to views of robustft\.check every view of settled"):
        verdicts(with_skips(), views=["base"], vote="any")
    assert set(verdicts(with_skips(), views=["neighbors", "base"], vote="any")) == set(ROWS)


def test_changed_label_raises():
    rows = [each.relabel("B", "made anew") if each.id == "yes" else each for each in with_skips()]
    with pytest.raises(RecipeError, match="let no stage between the two change labels"):
        verdicts(rows, views=["neighbors", "base"], vote="any")


@pytest.mark.parametrize(("near", "vote"), [("A", "any"), ("B", "all")])
def test_skips_without_settings_are_verified(near, vote):
    notes = {"near": view(near), "base": view(None, skipped="for reasons")}
    one = sample("s", "A", notes=notes)
    views = ["near", "base"]
    assert verdicts([one], views=views, vote=vote)["s"]["flagged"] == (vote == "all")
    for other in {"any", "all", "probability", "none"} - {vote}:
        with pytest.raises(RecipeError):
            verdicts([one], views=views, vote=other)


def test_skipped_views_are_reported_and_no_rate_is_estimated():
    rows = with_skips("all")
    ctx, stage = (
        FakeContext(answers="choice"),
        Check(CheckConfig(views=["neighbors", "base"], vote="all")),
    )
    state = stage.fit(rows, ctx)
    assert state.values["report"] == {"not_asked": {"base": 3}}
    assert any("base for 3" in text and "no estimate" in text for _, text in ctx.log.lines)
    out = {each.id: each for each in stage.process(rows, state, ctx)}
    assert "base was not asked" in out["no"].why
    assert all(0 <= each.notes["check"]["noise_score"] <= 1 for each in out.values())
    full = [each.note("base", view("A")) for each in rows]
    assert "estimated_noise_rate" in stage.fit(full, ctx).values["report"]


# --- only flagged --------------------------------------------------------------------------------------------


def test_only_flagged_asks_about_unasked_flagged_samples():
    def judged(name, *, flagged, **more):
        return sample(
            name,
            "A",
            notes={"check": {"flagged": flagged, "noise_score": 0.5}, **more.pop("notes", {})},
            **more,
        )

    rows = [
        judged("new", flagged=True),
        judged("skipped", flagged=True, notes={"reasoning": view(None, skipped="settled")}),
        judged("asked", flagged=True, notes={"reasoning": view("C")}),
        judged("silent", flagged=True, notes={"reasoning": view(None)}),
        judged("fine", flagged=False),
        judged("pinned", flagged=True, pinned=True),
    ]  # fmt: skip
    out, who = ask(Reason, rows, dict.fromkeys(("new", "skipped"), "B"), only="flagged")
    assert who == ["new", "skipped"]
    answers = {
        each.id: each.notes["reasoning"]["answer"] for each in out if "reasoning" in each.notes
    }
    assert answers == {"new": "B", "skipped": "B", "asked": "C", "silent": None}
    assert "skipped" not in out[1].notes["reasoning"]


# --- pipelines -----------------------------------------------------------------------------------------------


def world(n=24):
    """Build samples with label A, and the answers of both views in every combination."""
    samples = [sample(f"s{i}", "A", meta={"options": ["w", "x", "y", "z"]}) for i in range(n)]
    base = {f"s{i}": "AB"[i % 2] for i in range(n)}
    reasoning = {f"s{i}": "ABC"[i % 3] for i in range(n)}
    return samples, base, reasoning


@pytest.fixture
def run(obedient):
    return lambda line, n=24: _run(obedient, line, n)


def _run(obedient, line, n):
    """Run a pipeline; return kept and dropped samples by id, and the number of calls per stage."""
    samples, base, reasoning = world(n)
    dropped, calls = [], []
    for name, config in line:
        stage = STAGES[name]
        answers = {"robustft.answer": base, "robustft.reason": reasoning}.get(name)
        model = FakeGenerator(
            lambda request, by_id=answers: f"Answer: {by_id[request.sample_id] if by_id else 'D'}"
        )
        model = obedient(model)
        logprob = {f"s{i}": -float(i + 1) for i in range(n)}
        if name == "robustft.relabel":
            model.generate = _with_logprobs(model, logprob)
        built = stage(
            stage.Config(**({"llm": "m"} if "llm" in stage.Config.model_fields else {}), **config)
        )
        ctx = FakeContext(models={"m": model, "e": FakeEncoder()}, answers="choice", stage=name)
        state = built.fit(samples, ctx) if hasattr(built, "fit") else EMPTY_STATE
        samples = built.process(samples, state, ctx) if samples else []
        dropped += [each for each in samples if each.dropped is not None]
        samples = [each for each in samples if each.dropped is None]
        calls.append(len(model.requests))
    return {each.id: each for each in samples}, {each.id: each for each in dropped}, calls


def _with_logprobs(model, logprob):
    generate = model.generate

    def each(requests):
        done = []
        for request in requests:
            model.logprob = logprob[request.sample_id]
            done += generate([request])
        return done

    return each


BASE = ("robustft.answer", {"into": "base"})
RELABEL = ("robustft.relabel", {"encoder": "e"})
SELECT = ("robustft.select", {"by": "context", "keep": 0.5})
REVIEW = ("robustft.review", {})
ALL = ("robustft.check", {"views": ["base", "reasoning"], "vote": "all"})


def reason(**config):
    return ("robustft.reason", {"rounds": 0, **config})


def test_selection_before_review_saves_calls(run):
    after = [BASE, reason(), ALL, RELABEL, REVIEW, SELECT]
    before = [BASE, reason(), ALL, RELABEL, SELECT, REVIEW]
    kept, dropped, calls = run(after)
    kept_before, dropped_before, calls_before = run(before)
    assert set(kept) == set(kept_before)
    assert set(dropped) == set(dropped_before)
    assert {name: each.response for name, each in kept.items()} == {
        name: each.response for name, each in kept_before.items()
    }
    flagged = sum(each.notes["check"]["flagged"] for each in (*kept.values(), *dropped.values()))
    assert flagged == 20
    assert len(dropped) == 10
    assert calls == [24, 24, 0, 20, 20, 0]
    assert calls_before == [24, 24, 0, 20, 0, 10]
    assert all("review" not in each.notes for each in dropped_before.values())
    assert all("not selected: rank" in each.dropped for each in dropped_before.values())


def test_vote_all_pipeline_with_skips_and_only_flagged(run):
    settled = {"vote": "all", "views": ["base"]}
    full = [BASE, reason(), ALL, RELABEL, SELECT, REVIEW]
    skipping = [BASE, reason(settled=settled), ALL, RELABEL, SELECT, reason(only="flagged"), REVIEW]
    (kept, dropped, calls), (kept_skipping, dropped_skipping, fewer_calls) = (
        run(full),
        run(skipping),
    )
    assert {name: each.response for name, each in kept.items()} == {
        name: each.response for name, each in kept_skipping.items()
    }
    assert set(dropped) == set(dropped_skipping)
    assert calls == [24, 24, 0, 20, 0, 10]
    assert fewer_calls == [24, 12, 0, 20, 0, 6, 10]
    assert any("skipped" in each.notes["reasoning"] for each in dropped_skipping.values())


def test_review_reports_skipped_reasoning(run):
    line = [BASE, reason(settled={"vote": "all", "views": ["base"]}), ALL, RELABEL]
    kept, _, calls = run([*line, REVIEW])
    single = [each for each in kept.values() if "only one view" in each.why]
    assert single
    assert all(each.why.endswith("(reasoning: not asked), the context view") for each in single)
    assert calls[-1] == 20 - len(single)
    _, dropped, _ = run([*line, ("robustft.review", {"views": ["reasoning"]})])
    assert all(
        "reasoning was not asked: base answers 'B'" in each.dropped for each in dropped.values()
    )
    assert dropped


def test_vote_any_pipeline_asks_every_view_of_flagged_samples(run):
    line = [
        BASE, reason(settled={"vote": "any", "views": ["base"]}),
        ("robustft.check", {"views": ["base", "reasoning"], "vote": "any"}), RELABEL, REVIEW,
    ]  # fmt: skip
    kept, _, calls = run(line)
    flagged = [each for each in kept.values() if each.notes["check"]["flagged"]]
    assert len(flagged) == 8
    assert not any("skipped" in each.notes["reasoning"] for each in flagged)
    assert calls == [24, 12, 0, 8, 8]
    fine = next(each for each in kept.values() if "skipped" in each.notes["reasoning"])
    assert fine.why == "not flagged (vote any): agree: base; not asked: reasoning"


# --- contract and config -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("stage", "config"), [(Answer, AnswerConfig), (Reason, ReasonConfig)])
def test_contract_and_settings(stage, config):
    assert stage.contract(config(llm="m")).reads == frozenset()
    assert stage.contract(config(llm="m", settled={"vote": "any", "views": ["a", "b"]})).reads == {
        "a",
        "b",
    }
    assert stage.contract(config(llm="m", only="flagged", check="verdict")).reads == {"verdict"}
    again = config(**config(llm="m", settled=SETTING).model_dump(mode="json"))
    assert again.settled == Settled(vote="any", views=("neighbors",))
    for bad, words in (
        ({"settled": {"vote": "any", "views": ["x", "x"]}}, "twice"),
        ({"settled": {"vote": "any", "views": []}}, "at least 1"),
        ({"settled": {"vote": "judge", "views": ["x"]}}, "any"),
        ({"settled": {"vote": "any", "views": ["mine"]}, "into": "mine"}, "cannot settle itself"),
        ({"settled": SETTING, "only": "flagged"}, "leave out one"),
        ({"only": "reliable"}, "flagged"),
    ):
        with pytest.raises(ValidationError, match=words):
            config(llm="m", **bad)


def test_world_has_every_combination():
    _, base, reasoning = world()
    assert {(base[name], reasoning[name]) for name in base} == {(a, b) for a in "AB" for b in "ABC"}
