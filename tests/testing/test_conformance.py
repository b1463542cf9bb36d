"""The conformance checks that plugin authors call: they pass what the engine would take, and nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from nfilter_example.model import Adder, AdderConfig
from nfilter_example.stages import Agree, AgreeConfig, Ask, AskConfig, Lengths, LengthsConfig
from nfilter_example.tokens import First, FirstConfig

from nfilter import (
    CAPABILITIES,
    Abilities,
    Contract,
    ContractError,
    Embeds,
    Generates,
    Message,
    Sample,
    StageConfig,
    TokenSample,
)
from nfilter.testing import (
    FakeContext,
    FakeEncoder,
    FakeGenerator,
    check_backend,
    check_sample_stage,
    check_token_loss,
    check_token_stage,
    view,
)
from tests.made_stages import Plain

SAMPLES = [
    Sample(str(n), (Message("user", f"{n}+1"), Message("assistant", str(n + 1)))) for n in range(3)
]


def test_stages_that_keep_the_rules_pass() -> None:
    ctx = FakeContext(models={"expert": FakeGenerator(lambda request: "3")}, answers="number")
    from nfilter_example import HERE

    ctx = FakeContext(models=ctx.models, answers="number", prompts=[HERE / "prompts"])
    asked = check_sample_stage(Ask, AskConfig(), SAMPLES, ctx)
    judged = check_sample_stage(Agree, AgreeConfig(), asked, ctx)
    assert [sample.dropped is None for sample in judged] == [False, False, True]
    check_sample_stage(Lengths, LengthsConfig(), SAMPLES, ctx)


class Bad(Plain):
    """Keeps no rule that is not replaced below."""

    name = "bad.stage"

    def process(self, chunk: Any, state: Any, ctx: Any) -> Any:
        return [sample.note("stray", 1) for sample in chunk]


@pytest.mark.parametrize(
    ("members", "error", "says"),
    [
        ({}, ContractError, "note 'stray'"),
        ({"name": "nodot"}, AssertionError, "has the form plugin.stage, and 'nodot' has not"),
        ({"Config": dict}, AssertionError, "its Config, dict, is no StageConfig"),
        (
            {"process": lambda self, chunk, state, ctx: chunk[1:]},
            ContractError,
            "sample '0' is missing",
        ),
    ],
)
def test_stages_that_break_one_do_not(
    members: dict[str, Any], error: type[Exception], says: str
) -> None:
    stage = type("Stage", (Bad,), members)
    with pytest.raises(error, match=says):
        check_sample_stage(stage, StageConfig(), SAMPLES, FakeContext())


def token_samples(count: int = 5) -> list[TokenSample]:
    n = 4
    return [
        TokenSample(
            id=str(k), ids=np.arange(n), response=np.arange(n) > 0, turn=np.zeros(n, np.int16),
            spans=np.zeros((n, 2), np.int32), weights=(np.arange(n) > 0).astype(np.float32),
        )
        for k in range(count)
    ]  # fmt: skip


def test_a_token_stage_that_keeps_the_rules_passes() -> None:
    done, _ = check_token_stage(First, FirstConfig(keep=2), token_samples(), FakeContext(), chunk=2)
    assert [sample.weights.tolist() for sample in done] == [[0, 1, 1, 0]] * 5


def _in_place(self: Any, chunk: Any, state: Any, ctx: Any, bit: int) -> Any:
    chunk[0].weights[1] = 0.5
    return chunk


@pytest.mark.parametrize(
    ("members", "error", "says"),
    [
        ({"name": "nodot"}, AssertionError, "has the form plugin.stage"),
        ({"process_tokens": lambda *_: None}, ContractError, "process_tokens returned None"),
        (
            {"process_tokens": lambda s, chunk, *_: chunk[1:]},
            ContractError,
            "not the same samples in the same order",
        ),
        (
            {"process_tokens": lambda s, chunk, *_: [c.score("x", c.weights) for c in chunk]},
            ContractError,
            "score 'x' is not among",
        ),
        (
            {"process_tokens": lambda s, chunk, *_: [c.mask(c.response, 7) for c in chunk]},
            ContractError,
            "a reason bit of another stage",
        ),
        ({"process_tokens": _in_place}, AssertionError, "was changed in place"),
    ],
)
def test_token_stages_that_break_one_do_not(
    members: dict[str, Any], error: type[Exception], says: str
) -> None:
    check_token_stage(Plain, StageConfig(), token_samples(), FakeContext())
    stage = type("Stage", (Plain,), members)
    with pytest.raises(error, match=says):
        check_token_stage(stage, StageConfig(), token_samples(), FakeContext())


class PlainLoss:
    """Weighs by the label's logit and a score."""

    name = "plain"
    Config = StageConfig
    mean_over = "weighed"

    def __init__(self, config: Any) -> None: ...

    @classmethod
    def contract(cls, config: Any) -> Contract:
        return Contract(reads=frozenset({"score"}))

    def stats(self, logits_chunk: Any, labels: Any) -> Any:
        return {"logit": logits_chunk[np.arange(len(labels)), labels]}

    def weigh(self, stats: Any, cached: Any, step: int) -> Any:
        return stats["logit"] * cached["score"]


@pytest.mark.parametrize(
    ("members", "says"),
    [
        ({"mean_over": "all"}, "mean_over is 'all'; write mean_over = 'given'"),
        ({"stats": lambda s, x, y: {"logit": x}}, r"has shape \(6, 3\), not \(6,\)"),
        ({"stats": lambda s, x, y: {"logit": y / len(y)}}, "division of the logits into chunks"),
        (
            {"weigh": lambda s, stats, cached, step: stats["logit"][1:]},
            r"weigh returned shape \(5,\)",
        ),
        ({"weigh": lambda s, stats, cached, step: stats["logit"] * np.nan}, "is not finite"),
        ({"weigh": lambda s, stats, cached, step: -stats["logit"] - 1}, "is negative"),
        (
            {"contract": classmethod(lambda c, x: Contract(reads=frozenset({"b"})))},
            r"reads \['b'\]",
        ),
    ],
)
def test_online_losses_that_break_a_rule_are_refused(members: dict[str, Any], says: str) -> None:
    logits, labels = np.arange(18.0).reshape(6, 3), np.array([0, 1, 2, 0, 1, 2])
    cached = {"score": np.full(6, 0.5)}
    weights = check_token_loss(PlainLoss, StageConfig(), logits, labels, cached)
    assert weights.tolist() == [0, 2, 4, 4.5, 6.5, 8.5]
    loss = type("Loss", (PlainLoss,), members)
    with pytest.raises(AssertionError, match=says):
        check_token_loss(loss, StageConfig(), logits, labels, cached)


class Anchored(PlainLoss):
    """Adds the squared distance of the label's logits."""

    def penalty(self, logits_chunk: Any, labels: Any, reference_logits: Any) -> Any:
        at = np.arange(len(labels))
        return (logits_chunk[at, labels] - reference_logits[at, labels]) ** 2


@pytest.mark.types("it has a penalty; give reference_logits")
@pytest.mark.parametrize(
    ("penalty", "says"),
    [
        (lambda s, x, y, r: x, r"penalty returned shape \(6, 3\), not \(6,\)"),
        (lambda s, x, y, r: y * np.nan, "a penalty is not finite"),
        (lambda s, x, y, r: y / len(y), "the penalty depends on the division"),
        (lambda s, x, y: y, r"nfilter calls def penalty\(self, logits_chunk, labels, reference"),
    ],
)
@pytest.mark.types("it has a penalty; give reference_logits")
def test_penalties_that_break_a_rule_are_refused(penalty: Any, says: str) -> None:
    logits, labels = np.arange(18.0).reshape(6, 3), np.array([0, 1, 2, 0, 1, 2])
    given = (StageConfig(), logits, labels, {"score": np.full(6, 0.5)})
    check_token_loss(Anchored, *given, reference_logits=logits + 1)
    with pytest.raises(AssertionError, match="it has a penalty; give reference_logits"):
        check_token_loss(Anchored, *given)
    loss = type("Loss", (Anchored,), {"penalty": penalty})
    with pytest.raises(AssertionError, match=says):
        check_token_loss(loss, *given, reference_logits=logits + 1)


def test_a_backend_has_what_it_promises() -> None:
    assert Generates in check_backend(Adder, AdderConfig()).capabilities

    class Promises(Adder):
        """Says that it embeds."""

        @classmethod
        def abilities(cls, config: Any) -> Abilities:
            return Abilities(frozenset({Embeds}))

    with pytest.raises(AssertionError, match="Promises lacks embed, which it promises"):
        check_backend(Promises, AdderConfig())


def test_the_capabilities_are_the_published_ones() -> None:
    assert [capability.__name__ for capability in CAPABILITIES] == [
        "Generates", "Streams", "OpenStreams", "Embeds", "Scores", "Encodes", "Tokenizes", "LendsModule", "Adapts",
    ]  # fmt: skip
    for capability in (Generates, Embeds):
        assert isinstance(
            {Generates: FakeGenerator(str), Embeds: FakeEncoder()}[capability], capability
        )


def test_every_public_name_is_there_and_nothing_else_is_exported() -> None:
    import nfilter

    for name in nfilter.__all__:
        assert getattr(nfilter, name) is not None
    assert sorted(nfilter.__all__) == dir(nfilter)
    with pytest.raises(AttributeError, match="No nfilter attribute Recipes"):
        _ = nfilter.Recipes


def test_a_view_has_the_shape_that_plugins_agree_on() -> None:
    assert set(view("a")) == {
        "answer",
        "text",
        "reasoning",
        "nll",
        "tokens",
        "calls",
        "rounds",
        "failure",
    }
    assert view(None, support=0.5)["support"] == 0.5
