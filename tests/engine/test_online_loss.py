"""``train: {loss: ...}`` from the recipe to the trainer: parsing, errors, check, fingerprints, who is given it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from pydantic import Field

import nfilter_losses
from nfilter import Contract, ModelRef, RecipeError, StageConfig, State, TokenSample, TrainingResult
from nfilter.engine.lookup import prompts_of, site_of
from nfilter.recipe.check import check
from nfilter.recipe.model import Recipe, load
from nfilter.registry.loading import Plugins
from nfilter_losses.dft import Dft
from nfilter_losses.rho1 import Rho1

RECIPE = """\
name: sums
answer: number
models: {student: {use: example.adder}}
source: {use: example.qa, path: sums.qa}
arms: [cleaned]
encode: {model: student}
tokens:
  - {use: example.first, keep: 3}
train: {use: extra.trainer, loss: dft}
evaluate: {metric: accuracy, source: {use: example.qa, path: test.qa}}
"""
DATA = "1+1 => 2\n2+3 => 5\n"


class TrainerConfig(StageConfig):
    """Which model learns, and one setting."""

    model: str = "student"
    rate: float = Field(default=0.5, gt=0)


class Trainer:
    """Keeps the losses that it was given."""

    name = "extra.trainer"
    Config = TrainerConfig
    seen: list[Any]

    @classmethod
    def contract(cls, config: TrainerConfig) -> Contract:
        return Contract(online_loss=True)

    @classmethod
    def memory(cls, config: Any, model_config: Any, site: Any) -> Mapping[str, float]:
        return {}

    def __init__(self, config: TrainerConfig) -> None:
        self.config = config

    def train(
        self,
        samples: Sequence[TokenSample],
        model: Any,
        out: Path,
        ctx: Any,
        start: ModelRef | None = None,
    ) -> TrainingResult:
        self.seen.append((ctx.stage, ctx.loss))
        (out / "memory.json").write_text("{}")
        ref = ModelRef(str(out), "adapter", model.fingerprint(), "0")
        return TrainingResult(ref, 1, 1, (1.0,), 0.0)


class ReferenceConfig(StageConfig):
    """The loss that it writes, and that nobody reads."""

    loss: float = 0.0
    other: float = 0.0


class Reference:
    """A token stage that trains a reference and writes its loss."""

    name = "extra.reference"
    Config = ReferenceConfig

    @classmethod
    def contract(cls, config: Any) -> Contract:
        return Contract(writes=frozenset({"loss.reference", "other"}))

    def __init__(self, config: ReferenceConfig) -> None:
        self.config = config

    def fit_tokens(self, stream: Iterable[TokenSample], ctx: Any) -> State:
        ctx.train(list(stream))
        return State()

    def process_tokens(
        self, chunk: Sequence[TokenSample], state: State, ctx: Any, bit: int
    ) -> list[TokenSample]:
        assert ctx.loss is None
        return [
            one.score("loss.reference", np.full(len(one.ids), self.config.loss)).score(
                "other", np.full(len(one.ids), self.config.other)
            )
            for one in chunk
        ]


def hooks() -> dict[str, Any]:
    """A trainer of its own for every test, so that none keeps what another saw."""
    return {
        "trainers": [type("OwnTrainer", (Trainer,), {"seen": []})],
        "stages": [Reference],
        "losses": nfilter_losses.nfilter_losses(),
    }


@pytest.fixture
def reading(
    folder: Callable[..., Path], catalogue: Callable[..., Plugins]
) -> Callable[..., tuple[Recipe, Plugins]]:
    def read(text: str, *assignments: str) -> tuple[Recipe, Plugins]:
        home = folder({"r.yaml": text, "sums.qa": DATA, "test.qa": "1+2 => 3\n"})
        plugins = catalogue(**hooks())
        return load(home / "r.yaml", plugins, assignments), plugins

    return read


def with_loss(loss: str, **replaced: str) -> str:
    text = RECIPE.replace("loss: dft", f"loss: {loss}")
    for section, value in replaced.items():
        (line,) = [line for line in text.splitlines() if line.startswith(f"{section}:")]
        text = text.replace(line, f"{section}: {value}")
    return text


RHO1 = with_loss("rho1").replace("  - {use: example.first, keep: 3}", "  - {use: extra.reference}")


def test_a_loss_is_a_name_or_a_name_with_settings(reading: Callable[..., Any]) -> None:
    train = reading(RECIPE)[0].train
    assert (train.loss.name, train.loss.item.cls, train.loss.where) == (
        "dft",
        Dft,
        ("train", "loss"),
    )
    loss = reading(with_loss("{use: rho1, ratio: 0.3}"))[0].train.loss
    assert (loss.item.cls, loss.config.ratio, loss.config.reference) == (
        Rho1,
        0.3,
        "loss.reference",
    )
    assert reading(RECIPE, "train.loss=eaft")[0].train.loss.name == "eaft"


@pytest.mark.parametrize("none", ["null", "~"])
def test_no_loss_is_the_plain_one(reading: Callable[..., Any], none: str) -> None:
    for text in (with_loss(none), RECIPE.replace(", loss: dft", "")):
        recipe = reading(text)[0]
        assert recipe.train.loss is None
        assert "loss" not in recipe.dump()["train"]


def test_a_recipe_written_out_holds_its_loss_in_full(reading: Callable[..., Any]) -> None:
    once = reading(with_loss("{use: rho1, ratio: 0.3}"))[0].dump()
    assert once["train"]["loss"] == {"use": "rho1", "ratio": 0.3, "reference": "loss.reference"}
    assert reading(yaml.safe_dump(once, sort_keys=False))[0].dump() == once


def test_stages_may_be_trained_by_a_trainer_of_an_adopted_model(
    reading: Callable[..., Any],
) -> None:
    recipe = reading(
        with_loss(
            "dft",
            train="{use: adopt, from: example.first, with: {use: extra.trainer, loss: dft}}",
        )
    )[0]
    assert recipe.train.loss.where == ("train", "with", "loss")
    assert recipe.dump()["train"]["with"]["loss"] == {"use": "dft"}


BROKEN = {
    "unknown-loss": with_loss("dtf"),
    "unknown-loss-used": with_loss("{use: rho2}"),
    "loss-unknown-key": with_loss("{use: rho1, ration: 0.6}"),
    "loss-wrong-value": with_loss("{use: rho1, ratio: 6}"),
    "loss-of-adopt": with_loss("x", train="{use: adopt, from: example.first, loss: dft}"),
    "loss-no-name": with_loss("0.5"),
}
CHECKED = {
    "loss-not-taken": with_loss("x", train="{use: example.memory, model: student, loss: dft}"),
    "loss-unwritten-score": with_loss("rho1"),
    "loss-misnamed-score": RHO1.replace("loss: rho1", "loss: {use: rho1, reference: loss.refrence}"),
    "loss-without-tokens": RHO1.replace("arms: [cleaned]", "arms: [raw, cleaned]"),
    "loss-of-no-arm": with_loss(
        "x", train="{use: adopt, from: example.first, with: {use: extra.trainer, loss: dft}}"
    ),
}  # fmt: skip


def said(faults: Sequence[str], home: Path) -> str:
    return "".join(f"error: {fault}\n" for fault in faults).replace(f"{home}/", "")


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_loss_names_line_and_remedy(
    name: str, reading: Callable[..., Any], golden: Callable[[str, str], None], tmp_path: Path
) -> None:
    with pytest.raises(RecipeError) as caught:
        reading(BROKEN[name])
    golden(f"errors/{name}.txt", said(caught.value.faults, tmp_path))


def checked(recipe: Recipe, plugins: Plugins) -> list[str]:
    return check(
        recipe, plugins, site_of(recipe, plugins), prompts_of(recipe, plugins), data=False
    ).faults


@pytest.mark.parametrize("name", CHECKED)
def test_a_loss_that_cannot_work_is_reported_before_a_run(
    name: str, reading: Callable[..., Any], golden: Callable[[str, str], None], tmp_path: Path
) -> None:
    golden(f"errors/{name}.txt", said(checked(*reading(CHECKED[name])), tmp_path))


@pytest.mark.parametrize("text", [RECIPE, with_loss("eaft", arms="[vanilla, raw, cleaned]"), RHO1])
def test_a_loss_that_works_has_no_fault(reading: Callable[..., Any], text: str) -> None:
    assert checked(*reading(text)) == []


def test_the_trainer_of_an_arm_is_given_the_loss_and_that_of_a_reference_is_not(kit: Any) -> None:
    (kit.home / "sums.qa").write_text(DATA)
    given = hooks()
    stages = given.pop("stages")
    kit.run(stages, text=RHO1.replace("evaluate:", "#"), hooks=given)
    (reference, arm) = given["trainers"][0].seen
    assert reference == ("02-extra.reference.train", None)
    assert arm[0] == "train.cleaned"
    assert isinstance(arm[1], Rho1)
    assert arm[1].config.ratio == 0.6
    # Another loss trains the arm again, and leaves the reference as it is.
    text = RHO1.replace("loss: rho1", "loss: {use: rho1, ratio: 0.5}").replace("evaluate:", "#")
    kit.run(stages, text=text, hooks=given)
    assert [stage for stage, _ in given["trainers"][0].seen[2:]] == ["train.cleaned"]


def test_a_changed_loss_trains_again_and_the_same_does_not(kit: Any) -> None:
    (kit.home / "sums.qa").write_text(DATA)
    given = hooks()
    stages = given.pop("stages")
    seen = given["trainers"][0].seen
    for loss, trained in (
        ("dft", 1),
        ("dft", 1),
        ("{use: dft}", 1),
        ("eaft", 2),
        ("{use: eaft, top: 10}", 3),
        ("null", 4),
    ):
        kit.run(stages, text=with_loss(loss).replace("evaluate:", "#"), hooks=given)
        assert len(seen) == trained, loss
    names = [loss.name if loss else None for _, loss in seen]
    assert names == ["dft", "eaft", "eaft", None]


def test_a_score_that_the_loss_reads_trains_again_and_another_does_not(kit: Any) -> None:
    (kit.home / "sums.qa").write_text(DATA)
    given = hooks()
    stages = given.pop("stages")
    arms = []
    for settings in ("", ", other: 1", ", other: 1, loss: 2"):
        text = RHO1.replace("use: extra.reference", f"use: extra.reference{settings}")
        kit.run(stages, text=text.replace("evaluate:", "#"), hooks=given)
        arms.append([name for name, _ in given["trainers"][0].seen].count("train.cleaned"))
    assert arms == [1, 1, 2]


def test_losses_are_listed_and_shown_as_other_kinds_are(
    catalogue: Callable[..., Plugins],
) -> None:
    import io

    from rich.console import Console

    from nfilter.cli.installed import listing, show_all
    from nfilter.registry.catalogue import show_one

    plugins = catalogue(losses=nfilter_losses.nfilter_losses())
    out = io.StringIO()
    console = Console(file=out, width=200)
    show_all(listing(plugins, {}), console, as_json=False)
    line = next(line for line in out.getvalue().splitlines() if " rho1 " in line)
    assert line.split()[:2] == ["loss", "rho1"]
    assert "Token loss over the tokens with the highest excess loss of each step" in line
    show_one(plugins, "rho1", console, as_json=False)
    shown = out.getvalue()
    assert "loss rho1" in shown
    assert "Share of the tokens of a step that is trained on" in shown
