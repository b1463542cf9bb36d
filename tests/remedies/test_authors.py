"""What a plugin's author is told to write is written, and the plugin is taken."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from nfilter_example.model import Adder, AdderConfig, Memory, MemoryConfig
from nfilter_example.source import QuestionsAndAnswers
from pydantic import BaseModel

from nfilter import (
    Abilities,
    Calls,
    Contract,
    ContractError,
    Generates,
    Message,
    ModelNeed,
    ModelRef,
    Row,
    Sample,
    Site,
    StageConfig,
    State,
    TrainingResult,
    Unreadable,
    hookimpl,
)
from nfilter.registry.contracts import contract_of, rows_of
from nfilter.registry.loading import load
from nfilter.registry.registration import class_faults
from nfilter.testing import (
    FakeContext,
    check_backend,
    check_metric,
    check_sample_stage,
    check_token_loss,
    check_token_stage,
    check_trainer,
    token_sample,
)

SAMPLES = [
    Sample(str(n), (Message("user", f"{n}+1"), Message("assistant", str(n + 1)))) for n in range(4)
]
TOKENS = [token_sample(str(n), "abc"[: 1 + n % 3]) for n in range(4)]
X = frozenset({"x"})


class Plain:
    """A stage that does nothing wrong."""

    name = "my_plugin.plain"
    Config: Any = StageConfig

    def __init__(self, config: Any) -> None: ...

    @classmethod
    def contract(cls, config: Any) -> Contract:
        return Contract()

    def process(self, chunk: Any, state: Any, ctx: Any) -> Any:
        return chunk


class Tokens(Plain):
    """The same over tokens."""

    def process_tokens(self, chunk: Any, state: Any, ctx: Any, bit: int) -> Any:
        return chunk


def made(contract: Any = None, base: type = Plain, **members: Any) -> type[Any]:
    if contract is not None:
        members["contract"] = classmethod(lambda cls, config: contract)
    return type("Plain", (base,), members)


def over(work: Callable[..., Any], contract: Any = None) -> type[Any]:
    """A stage that does ``work(sample, ctx)`` to each sample."""
    return made(contract, process=lambda self, chunk, state, ctx: [work(s, ctx) for s in chunk])


def over_tokens(work: Callable[..., Any]) -> type[Any]:
    """A stage that does ``work(tokens, bit)`` to each sample's tokens."""
    return made(base=Tokens, process_tokens=lambda self, chunk, state, ctx, bit: [work(t, bit) for t in chunk])  # fmt: skip


def appended(sample: Sample, _: Any) -> Sample:
    sample.notes["x"]["list"].append(1)  # type: ignore[index,call-overload,union-attr]
    return sample


def drawn(sample: Sample, ctx: Any) -> Sample:
    numbers = np.random.default_rng(ctx.rng("key").getrandbits(64))
    return sample.note("x", float(numbers.random()) + ctx.rng(sample.id).random())


def zeroed(tokens: Any, bit: int) -> Any:
    return replace(tokens, weights=tokens.weights * 0)


def lighter(sample: Sample, _: Any) -> Sample:
    turns = (sample.messages[0], replace(sample.messages[1], weight=0.5))
    return replace(sample, messages=turns, why="it is lighter")


VERDICT: Any = {"flagged": True, "noise_score": 0.5}
STAGES: list[tuple[type[Any], str, list[type[Any]]]] = [
    (made({"reads": X}), "write return Contract(...), also where it says nothing", [made(Contract())]),
    (made(Contract(reads="view")), "write reads=frozenset({'name'})", [made(Contract(reads=frozenset({"view"})))]),  # type: ignore[arg-type]
    (made(Contract(needs=ModelNeed("m", Generates))), "write needs=(ModelNeed(...),)", [made(Contract(needs=(ModelNeed("m", Generates),)))]),  # type: ignore[arg-type]
    (made(Contract(calls=[3])), "write calls=(Calls(...),)", [made(Contract(calls=(Calls("m", "p", 8),)))]),  # type: ignore[arg-type,list-item]
    (made(Contract(verdicts=X)), "add it to writes", [over(lambda s, _: s.note("x", VERDICT), Contract(writes=X, verdicts=X))]),
    (made(Contract(writes=X)), "write it, take it out of writes, or add it to sometimes",
     [over(lambda s, _: s.note("x", 1), Contract(writes=X)), made(Contract()), made(Contract(writes=X, sometimes=X))]),
    (made(fit=lambda *_: None), "write return State({'median': 3.5}, {'scores': array}) in fit, or remove fit",
     [made(fit=lambda *_: State({"median": 3.5}, {"scores": np.zeros(2)})), made()]),
    (made(process=lambda self, chunk, *_: chunk[1:]), "return every sample, in order (drop() keeps it on record)",
     [made(process=lambda self, chunk, *_: [chunk[0].drop("the first"), *chunk[1:]] if chunk[0].id == "0" else chunk)]),
    (over(lambda s, _: replace(s, messages=(*s.context, Message("assistant", "9")))), "use relabel(), weigh() or drop()",
     [over(lambda s, _: s.relabel("9", "it is nine")), over(lambda s, _: s.weigh(0.5, "half")), over(lambda s, _: s.drop("bad"))]),
    (over(lambda s, _: replace(s, dropped=" ", why="x")), "use drop(), which takes one", [over(lambda s, _: s.drop("bad"))]),
    (over(lighter), "use relabel(), which replaces the text", [over(lambda s, _: s.relabel("9", "it is nine"))]),
    (over(lambda s, _: s.note("x", True), Contract(writes=X, verdicts=X)), "write {'flagged': True or False, 'noise_score': a number from 0 to 1}",
     [over(lambda s, _: s.note("x", {"flagged": False, "noise_score": 1}), Contract(writes=X, verdicts=X))]),
    (over(lambda s, _: s.note("x", {"text": "5"}), Contract(writes=X, views=X)), "write {'answer': a text, or None if there is none}",
     [over(lambda s, _, given=answer: s.note("x", {"answer": given}), Contract(writes=X, views=X)) for answer in ("5", None)]),
    (over(lambda s, _: (random.random(), s)[1]), "use ctx.rng(sample.id), or numpy.random.default_rng(ctx.rng(key).getrandbits(64))",
     [over(drawn, Contract(writes=X))]),
]  # fmt: skip


@pytest.mark.types(
    "write return Contract(...)", "=frozenset({'name'})", "=(«»(...),)", "none of «» samples has it; write it",
    "write return State({'median': 3.5}", "return every sample, in order (drop()", "use relabel(), weigh() or drop()",
    "dropped without a reason; use drop()", "use relabel(), which replaces the text", "write {'flagged': True or False",
    "write {'answer': a text", "use ctx.rng(sample.id)",
)  # fmt: skip
@pytest.mark.parametrize(("stage", "told", "mended"), STAGES, ids=range(len(STAGES)))
def test_a_stage_over_samples(stage: type[Any], told: str, mended: Sequence[type[Any]]) -> None:
    # A change of rows depends on no chunk, so that only the slip is left.
    with pytest.raises((ContractError, AssertionError)) as error:
        check_sample_stage(stage, StageConfig(), SAMPLES, FakeContext())
    assert told in str(error.value)
    assert mended
    for each in mended:
        check_sample_stage(each, StageConfig(), SAMPLES, FakeContext())


@pytest.mark.types("return a new one: note(), relabel()")
def test_a_sample_is_not_changed_in_place() -> None:
    noted = [sample.note("x", {"list": []}) for sample in SAMPLES]
    stage = over(appended, Contract(reads=X, writes=X))
    with pytest.raises((ContractError, AssertionError), match=r"changed in place"):
        check_sample_stage(stage, StageConfig(), noted, FakeContext())
    stage = over(lambda s, _: s.note("x", {"list": [1]}), Contract(reads=X, writes=X))
    check_sample_stage(stage, StageConfig(), noted, FakeContext())


@pytest.mark.types("use mask(positions, bit)", "return a new one: score(), mask(), weigh()")
def test_a_stage_over_tokens() -> None:
    with pytest.raises(ContractError, match=r"without a reason; use mask\(positions, bit\)"):
        check_token_stage(over_tokens(zeroed), StageConfig(), TOKENS, FakeContext())
    masked = over_tokens(lambda tokens, bit: tokens.mask(tokens.response, bit))
    done, _ = check_token_stage(masked, StageConfig(), TOKENS, FakeContext())
    assert not any(tokens.weights.any() for tokens in done)

    def in_place(tokens: Any, bit: int) -> Any:
        tokens.weights.flags.writeable = True
        tokens.weights[-1] = 0.5
        return tokens

    fresh = [token_sample(str(n), "abc"[: 1 + n % 3]) for n in range(4)]
    with pytest.raises(
        AssertionError, match=r"changed in place; return a new one: score\(\), mask"
    ):
        check_token_stage(over_tokens(in_place), StageConfig(), fresh, FakeContext())
    weighed = over_tokens(lambda tokens, bit: tokens.weigh(np.where(tokens.response, 0.5, 1), bit))
    check_token_stage(weighed, StageConfig(), TOKENS, FakeContext())


def _with(**members: Any) -> type:
    return type("Plain", (Plain,), members)


def _without(member: str) -> type:
    members = {key: value for key, value in vars(Plain).items() if key not in (member, "__dict__")}
    return type("Plain", (), members)


async def _later(self: Any, chunk: Any, state: Any, ctx: Any) -> Any:
    return chunk


class PlainModel(BaseModel):
    """No StageConfig."""


NAMED = {"name": "my_plugin.plain"}
CLASSES: list[tuple[Any, str, Any]] = [
    (_with(name="plain"), "write name = 'my_plugin.plain'", _with(**NAMED)),
    (_with(name=3), "which is no text; write name = 'my_plugin.plain'", _with(**NAMED)),
    (_with(Config=StageConfig()), "write Config = StageConfig", _with(Config=StageConfig)),
    (_with(Config=PlainModel), "write class PlainModel(nfilter.StageConfig)", _with(Config=type("PlainModel", (StageConfig,), {}))),
    (_with(contract=lambda self, config: Contract()), "write @classmethod above it", _with(contract=classmethod(lambda cls, config: Contract()))),
    (_with(contract=Contract()), "not a method; write @classmethod def contract(cls, config)", _with(contract=classmethod(lambda cls, config: Contract()))),
    (_with(process=_later), "is async, and nfilter calls plain functions; write def process(self, chunk, state, ctx)", _with(process=lambda self, chunk, state, ctx: chunk)),
    (_without("__init__"), "write def __init__(self, config)", _with(__init__=lambda self, config: None)),
    (Plain(None), "return the class itself, Plain, not Plain(...)", Plain),
]  # fmt: skip


@pytest.mark.types(
    "which is no text; write name =", "and «» has not; write name =", "which is no class; write Config =", "is no StageConfig; write class",
    "write @classmethod above it", "not a method; write", "calls plain functions; write", "and it does not take that; write",
    "return the class itself",
)  # fmt: skip
@pytest.mark.parametrize(("slip", "told", "mended"), CLASSES, ids=range(len(CLASSES)))
def test_a_class(slip: Any, told: str, mended: Any) -> None:
    assert told in "\n".join(class_faults("stage", slip, "my_plugin"))
    assert class_faults("stage", mended, "my_plugin") == []


@pytest.mark.types(
    "a recipe cannot name it by; write name =", "metrics.json has figures of the engine's own"
)
def test_the_name_of_a_metric() -> None:
    compute = {"compute": lambda self, data: {}}
    for name, given in (("my metric", "metric"), ("samples", "my_plugin_samples")):
        metric = type("Metric", (), {"name": name, **compute})
        (fault,) = class_faults("metric", metric, "my_plugin")
        assert f"name = {given!r}" in fault or f"like {given}" in fault
        assert class_faults("metric", type("Metric", (), {"name": given, **compute}), "my_plugin") == []  # fmt: skip


@pytest.mark.types("write mean_over = 'given', or 'weighed'")
@pytest.mark.parametrize("mean", ["given", "weighed"])
def test_the_mean_of_a_loss(mean: str) -> None:
    class Loss(Plain):
        """The logit of the label."""

        name = "mine"
        mean_over = "all"
        process = None

        def stats(self, logits_chunk: Any, labels: Any) -> Any:
            return {"logit": logits_chunk[np.arange(len(labels)), labels]}

        def weigh(self, stats: Any, cached: Any, step: int) -> Any:
            return stats["logit"]

    (fault,) = class_faults("loss", Loss, "my_plugin")
    assert fault.endswith("write mean_over = 'given', or 'weighed'")
    Loss.mean_over = mean
    assert class_faults("loss", Loss, "my_plugin") == []
    check_token_loss(Loss, StageConfig(), np.ones((4, 2)), np.array([0, 1, 0, 1]))


@pytest.mark.types("write return Abilities(frozenset({Generates}))", "write return TrainingResult(")
def test_models_and_trainers(tmp_path: Path) -> None:
    class Bare(Adder):
        """Says nothing that is an Abilities."""

        @classmethod
        def abilities(cls, config: Any) -> Any:
            return {Generates}

    with pytest.raises(AssertionError, match=r"write return Abilities\(frozenset\(\{Generates\}\)\)"):  # fmt: skip
        check_backend(Bare, AdderConfig())
    Bare.abilities = classmethod(lambda cls, config: Abilities(frozenset({Generates})))  # type: ignore[method-assign]
    check_backend(Bare, AdderConfig())

    class Silent(Memory):
        """Returns a path."""

        def train(self, samples: Any, model: Any, out: Path, ctx: Any, start: Any = None) -> Any:
            super().train(samples, model, out, ctx, start)
            return str(out)

    class Told(Memory):
        """Returns what it is told to."""

        def train(self, samples: Any, model: Any, out: Path, ctx: Any, start: Any = None) -> Any:
            super().train(samples, model, out, ctx, start)
            ref = ModelRef(str(out), "adapter", "example.adder", "0" * 64)
            return TrainingResult(ref, 1, 2, [0.5], 0.1)

    tokens = [token_sample("a", "5", prompt="2+3")]
    model = Adder(AdderConfig(), Site(tmp_path))
    with pytest.raises(AssertionError, match=r"write return TrainingResult\(ref, steps, tokens, losses, seconds\)"):  # fmt: skip
        check_trainer(Silent, MemoryConfig(), tokens, model, tmp_path / "a", FakeContext())
    check_trainer(Told, MemoryConfig(), tokens, model, tmp_path / "b", FakeContext())


@pytest.mark.types("write yield Row(sample) for each row", "write yield Row(Sample(id, messages))")
def test_a_source() -> None:
    class Source(QuestionsAndAnswers):
        """Reads what ``given`` says."""

        given: Any = None

        def __init__(self) -> None: ...

        def read(self) -> Any:
            return type(self).given

    with pytest.raises(ContractError, match="read returned NoneType; write yield Row"):
        list(rows_of(Source()))
    Source.given = [{"prompt": "1"}]
    with pytest.raises(
        ContractError, match=r"write yield Row\(Sample\(id, messages\)\), or Unread"
    ):
        list(rows_of(Source()))
    Source.given = [Row(SAMPLES[0]), Unreadable(2, "it is cut", "{")]
    assert list(rows_of(Source())) == Source.given


@pytest.mark.types("return a mapping of names to JSON values")
def test_a_metric() -> None:
    from nfilter import Judged, MetricInput

    data = MetricInput([Judged(SAMPLES[0], SAMPLES[0], "1", True, True)], 1, [], [], [], {}, {}, {}, 0)  # fmt: skip

    def metric(figures: Any) -> type:
        return type("Metric", (), {"name": "mine", "compute": lambda self, data: figures})

    for wrong in (3, {"x": float("nan")}, {"x": object()}):
        with pytest.raises(ContractError, match=r"finite numbers, or None for an undefined figure"):
            check_metric(metric(wrong), data)
    assert check_metric(metric({"share": 0.5, "rate": None}), data) == {"share": 0.5, "rate": None}


def _hook(name: str, value: Any) -> ModuleType:
    module = ModuleType("mine")
    setattr(module, f"nfilter_{name}", hookimpl(lambda: value))
    return module


@pytest.mark.types(
    "write return («»,)",
    "write return (..., ) with all of them",
    "write Path(",
    "write return {'name': Path(...)}",
)
@pytest.mark.parametrize(
    ("hook", "slip", "told", "mended"),
    [
        ("stages", Plain, "write return (Plain,)", (Plain,)),
        ("stages", None, "write return (..., ) with all of them", (Plain,)),
        ("prompts", ["prompts"], "write Path('prompts')", [Path("prompts")]),
        ("models", {"tiny": "folder"}, "write return {'name': Path(...)}", {"tiny": Path("folder")}),
    ],
)  # fmt: skip
def test_a_hook(point: Any, hook: str, slip: Any, told: str, mended: Any) -> None:
    (failed,) = load([point("my_plugin", _hook(hook, slip))], ()).failed
    assert told in failed.error
    assert load([point("my_plugin", _hook(hook, mended))], ()).failed == ()


@pytest.mark.types("write @nfilter.hookimpl above it")
def test_a_hook_without_its_mark(point: Any) -> None:
    import nfilter

    module = ModuleType("mine")
    vars(module)["nfilter_stages"] = lambda: (Plain,)
    (failed,) = load([point("my_plugin", module)], ()).failed
    assert "write @nfilter.hookimpl above it" in failed.error
    vars(module)["nfilter_stages"] = nfilter.hookimpl(lambda: (Plain,))
    plugins = load([point("my_plugin", module)], ())
    assert plugins.get("stage", "my_plugin.plain").cls is Plain
    assert contract_of(Plain, StageConfig()) == Contract()
