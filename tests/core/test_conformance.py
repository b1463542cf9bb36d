"""The conformance checks that plugin authors call: they pass what the engine would take, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from nfilter_example.model import Adder, AdderConfig
from nfilter_example.stages import Agree, AgreeConfig, Ask, AskConfig, Lengths, LengthsConfig

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
)
from nfilter.testing import (
    FakeContext,
    FakeEncoder,
    FakeGenerator,
    check_backend,
    check_sample_stage,
    view,
)

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


class Bad:
    """Keeps no rule that is not replaced below."""

    name = "bad.stage"
    Config = StageConfig

    def __init__(self, config: Any) -> None: ...

    @classmethod
    def contract(cls, config: Any) -> Contract:
        return Contract()

    def process(self, chunk: Any, state: Any, ctx: Any) -> Any:
        return [sample.note("stray", 1) for sample in chunk]


@pytest.mark.parametrize(
    ("members", "error", "says"),
    [
        ({}, ContractError, "note 'stray'"),
        ({"name": "nodot"}, AssertionError, "not of the form plugin.stage"),
        ({"Config": dict}, AssertionError, "is not a StageConfig"),
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
        "Generates", "Streams", "Embeds", "Scores", "Encodes", "LendsModule", "Adapts",
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
    with pytest.raises(AttributeError, match="no attribute 'Recipe'"):
        _ = nfilter.Recipe


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
