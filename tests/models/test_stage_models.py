"""``ctx.model(NAME)`` is typed, and a capability that the model lacks is an error that says what to type."""

from __future__ import annotations

import typing
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest
from nfilter_example.model import Adder, AdderConfig

from nfilter import (
    CAPABILITIES,
    Context,
    Embeds,
    Encodes,
    Generates,
    LendsModule,
    Lent,
    Message,
    Model,
    ModelError,
    ModelRef,
    Needs,
    Request,
    Sample,
    Scores,
    Site,
    StageConfig,
    Streams,
    Tokenizes,
    Trainer,
)
from nfilter.engine.run import run
from nfilter.models.proxy import JournaledModel
from nfilter.recipe.check import check
from nfilter.recipe.model import load
from nfilter.store.journal import Journal
from nfilter.testing import FakeContext, FakeEncoder, FakeGenerator, FakeScorer, token_sample

ASKED = [Request((Message("user", "2+3"),))]
CALLS: dict[str, Callable[[Model], Any]] = {
    "Generates": lambda model: model.generate(ASKED),
    "Embeds": lambda model: model.embed(["a"]),
    "Scores": lambda model: model.score([token_sample()]),
    "Encodes": lambda model: model.encode([], max_length=1, turns="all"),
    "LendsModule": lambda model: model.lend(),
    "Adapts": lambda model: model.adapted(ModelRef("x", "adapter", "b", "d")).__enter__(),
}


def hints(owner: Any, name: str) -> dict[str, Any]:
    return typing.get_type_hints(getattr(owner, name))


def test_stages_and_trainers_receive_a_typed_model() -> None:
    assert hints(Context, "model")["return"] is Model
    assert hints(Trainer, "train")["model"] is Model


@pytest.mark.parametrize("capability", [Generates, Embeds, Scores, Encodes, LendsModule])
def test_its_methods_have_the_types_of_the_capabilities(capability: type) -> None:
    for name in (each for each in vars(capability) if not each.startswith("_")):
        assert hints(Model, name) == hints(capability, name)


def test_no_method_returns_any() -> None:
    names = [name for name in vars(Model) if not name.startswith("_") and name != "name"]
    assert len(names) == 13
    assert Any not in [hints(Model, name)["return"] for name in names]
    (lent,) = typing.get_args(hints(Model, "lend")["return"])
    assert lent is Lent


@pytest.fixture
def journaled(tmp_path: Path) -> Callable[..., JournaledModel]:
    def make(backend: Any, *declared: type) -> JournaledModel:
        journal = Journal(tmp_path / "journal.db")
        return JournaledModel(
            "m", backend, "f", journal, "01-a.b", capabilities=frozenset(declared) or None
        )

    return make


@pytest.mark.parametrize("name", CALLS)
def test_a_capability_that_is_missing_is_named_with_those_that_are_there(
    name: str, journaled: Callable[..., JournaledModel]
) -> None:
    class Bare:
        name = "bare"

    says = rf"^01-a\.b: model 'm' \(bare\) does not have the capability {name} \(it has: none\)"
    with pytest.raises(ModelError, match=says):
        CALLS[name](journaled(Bare()))
    with pytest.raises(ModelError, match=rf"model 'm' does not have the capability {name}"):
        CALLS[name](FakeContext(models={"m": Bare()}).model("m"))


def test_what_a_backend_does_not_declare_it_does_not_have(
    journaled: Callable[..., JournaledModel],
) -> None:
    adder = Adder(AdderConfig(), Site(Path()))
    assert journaled(adder).generate(ASKED)[0].text == "5"
    model = journaled(adder, Encodes)
    assert [each for each in CAPABILITIES if model.has(each)] == [Encodes]
    with pytest.raises(ModelError, match=r"capability Generates \(it has: Encodes\)"):
        model.generate(ASKED)
    # A declaration without the methods is not enough.
    assert not journaled(adder, Embeds).has(Embeds)


def test_a_fake_has_the_capabilities_whose_methods_it_has() -> None:
    ctx = FakeContext(
        models={"g": FakeGenerator(lambda request: "4"), "e": FakeEncoder(), "s": FakeScorer()}
    )
    able = {
        name: [each for each in CAPABILITIES if ctx.model(name).has(each)] for name in ctx.models
    }
    assert able == {"g": [Generates], "e": [Embeds], "s": [Scores]}
    assert ctx.model("g").generate(ASKED)[0].text == "4"
    assert ctx.models["g"].requests == ASKED
    assert ctx.model("e").embed(["a b"]).shape == (1, 64)
    assert np.isfinite(ctx.model("s").score([token_sample()])[0]).any()
    assert ctx.model("g").decode([]) is None
    assert not ctx.model("g").has(Streams)
    assert not ctx.model("g").has(Tokenizes)


class EmbedsConfig(StageConfig):
    """``encoder``: the model."""

    encoder: str = "student"


class NeedsEmbedsConfig(StageConfig):
    """The same, annotated."""

    encoder: Annotated[str, Needs(Embeds)] = "student"


@pytest.mark.types("can annotate the setting with Needs(«»)")
def test_a_need_that_is_annotated_is_reported_before_the_run(
    tmp_path: Path, catalogue: Callable[..., Any]
) -> None:
    from nfilter import Contract

    class Near:
        """Embeds the questions."""

        name = "extra.near"
        Config: type[StageConfig] = EmbedsConfig

        @classmethod
        def contract(cls, config: Any) -> Contract:
            return Contract()

        def __init__(self, config: Any) -> None:
            self.config = config

        def process(self, chunk: list[Sample], state: Any, ctx: Context) -> list[Sample]:
            ctx.model(self.config.encoder).embed([sample.query for sample in chunk])
            return chunk

    (tmp_path / "rows.qa").write_text("1+1 => 2\n")
    (tmp_path / "r.yaml").write_text(
        "name: r\nanswer: number\nmodels: {student: {use: example.adder}}\n"
        "source: {use: example.qa, path: rows.qa}\nsamples:\n  - {use: extra.near}\n"
    )
    plugins = catalogue(stages=[Near])
    with pytest.raises(ModelError, match=r"example\.adder\) does not have the capability Embeds"):
        run(load(tmp_path / "r.yaml", plugins), plugins, tmp_path / "out")
    Near.Config = NeedsEmbedsConfig
    plugins = catalogue(stages=[Near])
    from nfilter.engine.lookup import prompts_of, site_of

    recipe = load(tmp_path / "r.yaml", plugins)
    report = check(recipe, plugins, site_of(recipe, plugins), prompts_of(recipe, plugins))
    assert [fault for fault in report.faults if "needs a model that embeds" in fault]
