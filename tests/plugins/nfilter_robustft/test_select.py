"""``robustft.select``: exact size, order by nll, ties, and reasons."""

import re

import pytest
import yaml
from pydantic import ValidationError

from nfilter import ContractError, Message, ModelError, Sample
from nfilter.testing import FakeContext, check_sample_stage, view
from nfilter_robustft.answer import AnswerConfig
from nfilter_robustft.select import Select, SelectConfig


def sample(name, nll, flagged=True, **more):
    messages = (Message("user", "q"), Message("assistant", "a"))
    notes = {"check": {"flagged": flagged, "noise_score": 0.5}}
    if nll != "absent":
        notes["context"] = view("a", nll=nll)
    return Sample(name, messages, notes=notes, **more)


def run(samples, **config):
    config = SelectConfig(**config)
    return {s.id: s for s in check_sample_stage(Select, config, samples, FakeContext())}


def kept(out):
    return {name for name, s in out.items() if s.dropped is None}


def test_lowest_nll_is_kept_and_reasons_name_rank_m_and_nll():
    values = {"a": 0.9, "b": 0.1, "c": 0.5, "d": 0.3, "e": 0.7}
    out = run([sample(k, v) for k, v in values.items()])
    assert kept(out) == {"b", "d"}
    assert "rank 5 of 5 by context nll 0.9" in out["a"].dropped
    assert "rank 3 of 5 by context nll 0.5" in out["c"].dropped
    assert "rank 1 of 5 by context nll 0.1" in out["b"].why


@pytest.mark.parametrize(
    ("keep", "m", "expected"),
    [
        (0.5, 7, 3),
        (1.0, 7, 7),
        (0.0, 7, 0),
        (0.29, 100, 29),
        (0.7, 10, 7),
        (0.1, 9, 0),
        (1 / 3, 3, 0),
    ],
)
def test_number_of_kept_samples_is_the_floor(keep, m, expected):
    out = run([sample(f"s{i:03}", i / 10) for i in range(m)], keep=keep)
    assert kept(out) == {f"s{i:03}" for i in range(expected)}


@pytest.mark.parametrize(
    ("flagged", "others", "config", "message"),
    [
        (3, 2, {"keep": 0}, "0 of 3 flagged samples are kept (keep 0); 2 samples are not flagged"),
        (3, 0, {"keep": 0}, "0 of 3 flagged samples are kept (keep 0); 0 samples are not flagged"),
        (1, 1, {"keep": 0.5}, "0 of 1 flagged samples are kept (keep 0.5); 1 samples are not flagged"),
        (4, 1, {"keep": 0.5}, "2 of 4 flagged samples are kept"),
        (0, 4, {"keep": 0.5}, "no sample is flagged: nothing to select"),
    ],
)  # fmt: skip
def test_summary_is_logged(flagged, others, config, message):
    rows = [sample(f"f{i}", 0.1) for i in range(flagged)]
    rows += [sample(f"o{i}", 0.1, flagged=False) for i in range(others)]
    ctx = FakeContext()
    Select(SelectConfig(**config)).fit(rows, ctx)
    assert ctx.log.lines == [("info", message)]


def test_keep_0_and_1_need_no_nll():
    for keep in (0, 1):
        assert Select.contract(SelectConfig(keep=keep)).ranks == ()
        ctx = FakeContext()
        rows = [sample("a", None), sample("b", "absent"), sample("c", 0.5)]
        stage = Select(SelectConfig(keep=keep))
        out = stage.process(rows, stage.fit(rows, ctx), ctx)
        assert [s.dropped is None for s in out] == [bool(keep)] * 3
        assert [kind for kind, _ in ctx.log.lines] == ["info"]
        if not keep:
            assert out[0].dropped == "not selected: keep 0 drops each of the 3 flagged samples"
    assert Select.contract(SelectConfig(keep=0.5)).ranks


def test_ties_are_ordered_by_id():
    rows = [sample(name, 0.5) for name in ("d", "a", "c", "b")]
    assert kept(run(rows)) == kept(run(rows[::-1])) == {"a", "b"}


@pytest.mark.parametrize("missing", [None, "absent", float("nan"), float("inf")])
def test_missing_nll_ranks_last_and_warns(missing):
    ctx = FakeContext()
    rows = [sample("a", missing), sample("b", 9.0), sample("c", 8.0)]
    stage = Select(SelectConfig(keep=0.7))
    state = stage.fit(rows, ctx)
    out = {s.id: s for s in stage.process(rows, state, ctx)}
    assert kept(out) == {"b", "c"}
    assert "rank 3 of 3 by context: no nll" in out["a"].dropped
    assert any("1 of 3 flagged samples have no nll" in text for _, text in ctx.log.lines)


@pytest.mark.parametrize("missing", [None, "absent"])
def test_review_nll_is_the_fallback(missing):
    ctx = FakeContext()
    rows = [
        sample(name, missing).note("review", view("a", nll=nll))
        for name, nll in (("a", 0.9), ("b", 0.2), ("c", 0.5), ("d", None))
    ]
    stage = Select(SelectConfig(keep=0.5))
    state = stage.fit(rows, ctx)
    out = {s.id: s for s in stage.process(rows, state, ctx)}
    assert kept(out) == {"b", "c"}
    assert "rank 3 of 4 by review nll 0.9" in out["a"].dropped
    assert any("ranking by 'review'" in text for _, text in ctx.log.lines)


@pytest.mark.types("or write «» in its place, with your model for MODEL")
def test_no_nll_at_all_raises():
    rows = [sample(name, None) for name in "dbca"]
    with pytest.raises(
        ModelError, match=r"none of 4 flagged samples has an nll in 'context'.*rank: agreement"
    ):
        Select(SelectConfig(keep=0.5)).fit(rows, FakeContext())
    stage = Select(SelectConfig(keep=1))
    state = stage.fit(rows, FakeContext())
    assert kept({s.id: s for s in stage.process(rows, state, FakeContext())}) == set("abcd")
    # The two lines that the error names.
    with pytest.raises(ModelError) as error:
        Select(SelectConfig(keep=0.5)).fit(rows, FakeContext())
    ask, rank = (yaml.safe_load(line) for line in re.findall(r"`- (\{.*?\})`", str(error.value)))
    assert AnswerConfig.model_validate({k: v for k, v in ask.items() if k != "use"}).samples == 5
    drawn = [each.note(ask["into"], view("a", agreement=n / 4)) for n, each in enumerate(rows)]
    chosen = Select(SelectConfig.model_validate({k: v for k, v in rank.items() if k != "use"}))
    out = chosen.process(drawn, chosen.fit(drawn, FakeContext()), FakeContext())
    assert kept({s.id: s for s in out}) == {"c", "a"}


def test_unflagged_samples_are_kept_and_not_counted():
    rows = [sample("clean", 99.0, flagged=False), sample("a", 0.2), sample("b", 0.4)]
    out = run(rows)
    assert kept(out) == {"clean", "a"}
    assert "not flagged" in out["clean"].why
    assert "rank 2 of 2 " in out["b"].dropped


def test_pinned_samples_are_not_ranked():
    assert kept(run([sample("p", 99.0, pinned=True), sample("a", 0.2), sample("b", 0.4)])) == {
        "p",
        "a",
    }


def test_check_null_ranks_every_sample():
    rows = [sample("a", 0.3, flagged=False), sample("b", 0.1, flagged=False)]
    assert kept(run(rows, check=None)) == {"b"}
    assert Select.contract(SelectConfig(check=None)).reads == {"context"}


def test_nothing_flagged():
    assert kept(run([sample("a", 0.3, flagged=False)])) == {"a"}
    assert run([]) == {}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((0.1, 0.2, 0.3), {"s0"}),
        ((0.1, 0.2, 0.3, 0.4), {"s0", "s1"}),
        ((0.5, 0.5, 0.5), set()),
        ((None, 0.1, 0.2), {"s1"}),
    ],
)
def test_official_preset_keeps_samples_below_the_median(values, expected):
    rows = [sample(f"s{i}", v) for i, v in enumerate(values)]
    assert kept(run(rows, preset="official")) == expected


def test_by_random_depends_on_the_seed_only():
    rows = [sample(f"s{i}", i) for i in range(40)]

    def picked(seed):
        ctx, stage = FakeContext(seed=seed), Select(SelectConfig(by="random", keep=0.5))
        state = stage.fit(rows, ctx)
        return kept({s.id: s for s in stage.process(rows, state, ctx)})

    assert len(picked(0)) == 20
    assert picked(0) == picked(0)
    assert picked(0) != picked(1)
    assert picked(0) != {f"s{i}" for i in range(20)}
    assert Select.contract(SelectConfig(by="random")).reads == {"check"}


def test_result_does_not_depend_on_chunks():
    rows = [sample(f"s{i:02}", (7 * i) % 20) for i in range(20)]
    ctx, stage = FakeContext(), Select(SelectConfig(keep=0.35))
    state = stage.fit(iter(rows), ctx)
    whole = stage.process(rows, state, ctx)
    parts = [s for i in range(0, 20, 3) for s in stage.process(rows[i : i + 3], state, ctx)]
    assert parts == whole
    assert sum(values.nbytes for values in state.arrays.values()) == 16 * 20


def test_unranked_flagged_sample_raises():
    ctx, stage = FakeContext(), Select(SelectConfig())
    state = stage.fit([sample("a", 0.1)], ctx)
    with pytest.raises(ContractError, match="'b' is flagged but was not ranked"):
        stage.process([sample("b", 0.1)], state, ctx)


@pytest.mark.parametrize(
    "bad",
    [
        {"keep": 1.5},
        {"preset": "official", "keep": 0.5},
        {"preset": "official", "by": "random"},
        {"top": 1},
    ],
)
def test_invalid_configs_raise(bad):
    with pytest.raises(ValidationError):
        SelectConfig(**bad)


def test_rank_agreement_keeps_the_highest():
    rows = [
        sample(name, 0.1).note("context", view("a", nll=nll, agreement=agreement))
        for name, nll, agreement in (("a", 0.1, 0.2), ("b", 0.9, 1.0), ("c", 0.5, 0.6))
    ] + [sample("d", 0.0)]
    out = run(rows, rank="agreement")
    assert kept(out) == {"b", "c"}
    assert "rank 3 of 4 by context agreement 0.2" in out["a"].dropped
    assert "rank 4 of 4 by context: no agreement" in out["d"].dropped
    with pytest.raises(ValidationError, match="leave out keep, rank and by: random"):
        SelectConfig(preset="official", rank="agreement")


@pytest.mark.types("so the ranking is by id only: raise the temperature")
@pytest.mark.parametrize(("agreements", "warned"), [((1, 1, 1), True), ((1, 0.8, 1), False)])
def test_identical_draws_warn(context, agreements, warned):
    """A server that ignores the temperature decodes every draw greedily."""
    rows = [
        sample(f"s{n}", 0.1).note("context", view("a", agreement=agreement))
        for n, agreement in enumerate(agreements)
    ]
    ctx = context()
    Select(SelectConfig(rank="agreement")).fit(rows, ctx)
    lines = [text for kind, text in ctx.log.lines if kind == "warning"]
    assert any("check that the server samples" in text for text in lines) == warned
