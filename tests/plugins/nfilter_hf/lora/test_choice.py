"""Batch, epochs and learning rate where a recipe leaves them open, and the warning of a training that is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from lent_llama import Lender, llama, sample
from pydantic import ValidationError

from nfilter import Site
from nfilter.testing import FakeContext
from nfilter_hf.config import HFConfig
from nfilter_hf.lora.choice import choice_text, choose, choose_lr, hidden_size, too_few
from nfilter_hf.lora.settings import LoraSettings
from nfilter_hf.lora.trainer import LoraTrainer


@pytest.mark.parametrize(
    ("rows", "batch_size", "epochs", "steps"),
    [
        (3, 4, 10, 10),  # too few for any choice: there is a warning
        (32, 4, 10, 80),
        (160, 4, 3, 120),
        (640, 8, 2, 160),
        (1585, 16, 2, 200),
        (1600, 32, 2, 100),
        (51_010, 32, 2, 3_190),
    ],
)
def test_rows_decide_batch_and_epochs(rows: int, batch_size: int, epochs: int, steps: int) -> None:
    found = choose(LoraSettings(), rows, 2048, rows)
    assert (found.batch_size, found.epochs, found.steps) == (batch_size, epochs, steps)
    assert found.open == ("batch_size", "epochs", "lr")


def test_steps_are_counted_beforehand_and_a_few_of_them_are_like_the_others() -> None:
    assert LoraTrainer.steps(LoraSettings(), 744, 1585) == 94
    short = LoraTrainer.first_steps(LoraSettings(rank=8, trackers=("tensorboard",)), 1585, 6)
    assert (short.batch_size, short.rank, short.trackers) == (16, 8, ())
    assert LoraTrainer.steps(short, 64, 64) == LoraTrainer.steps(short, 8, 8) == 6


def test_any_number_of_rows_from_eight_on_gives_twenty_steps() -> None:
    steps = [choose(LoraSettings(), rows, None, rows).steps for rows in range(8, 3_000)]
    assert min(steps) == 20
    assert all(count >= 50 for count in steps[12:])


def test_an_arm_with_fewer_rows_keeps_batch_and_epochs_until_it_has_too_few_steps() -> None:
    raw, cleaned, little = (choose(LoraSettings(), n, 2048, 1585) for n in (1585, 744, 160))
    assert (raw.batch_size, raw.epochs, raw.steps) == (16, 2, 200)
    assert (cleaned.batch_size, cleaned.epochs, cleaned.steps) == (16, 2, 94)
    assert (little.batch_size, little.epochs, little.steps) == (16, 6, 60)
    assert raw.lr == cleaned.lr == little.lr


@pytest.mark.parametrize(
    ("hidden", "lr"),
    [(576, 5.4e-4), (2048, 2e-4), (4096, 1.2e-4), (8192, 6.8e-5), (128, 1e-3), (None, 2e-4)],
)
def test_a_smaller_model_learns_faster(hidden: int | None, lr: float) -> None:
    assert choose_lr(hidden) == lr


def test_what_a_recipe_sets_stays_as_it_is() -> None:
    config = LoraSettings(batch_size=48, epochs=3, lr=1e-4)
    found = choose(config, 32, 576, 32)
    assert found.settings() == {"batch_size": 48, "epochs": 3, "lr": 1e-4}
    assert found.steps == 3
    assert found.open == ()
    one = choose(LoraSettings(epochs=1), 160, 576, 160)
    assert (one.batch_size, one.epochs, one.open) == (4, 1, ("batch_size", "lr"))
    assert choose(LoraSettings(max_steps=7), 160, 576, 160).steps == 7


@pytest.mark.parametrize(
    ("config", "size"),
    [
        ({"hidden_size": 576}, 576),
        ({"n_embd": 768}, 768),
        ({"text_config": {"hidden_size": 896}}, 896),
        ({}, None),
        ({"hidden_size": "many"}, None),
    ],
)
def test_the_hidden_size_of_a_config_json(config: dict[str, Any], size: int | None) -> None:
    assert hidden_size(config) == size


def test_what_was_chosen_is_said_with_what_it_was_chosen_for() -> None:
    every = choose(LoraSettings(), 32, 576, 32)
    assert choice_text(every, 32, 576) == (
        "batch_size 4, epochs 10 and lr 0.00054 are chosen for 32 rows and the model's hidden size of 576: "
        "80 optimiser steps"
    )
    one = choose(LoraSettings(batch_size=8, epochs=1), 32, None, 32)
    assert (
        choice_text(one, 32, None)
        == "lr 0.0002 is chosen for a model of unknown size: 4 optimiser steps"
    )


HARDLY = ": the adapter will hardly differ from the untrained model; "


@pytest.mark.parametrize(
    ("settings", "rows", "says"),
    [
        (
            {"batch_size": 48, "epochs": 2},
            32,
            "only 2 optimiser steps on 32 rows (batch_size 48, epochs 2)%sremove train.batch_size and train.epochs (batch_size 4 and epochs 10 give 80 steps)",
        ),
        (
            {"epochs": 1},
            32,
            "only 8 optimiser steps on 32 rows (batch_size 4, epochs 1)%sremove train.epochs (batch_size 4 and epochs 10 give 80 steps)",
        ),
        (
            {"max_steps": 1},
            160,
            "only 1 optimiser step on 160 rows (batch_size 4, epochs 3, max_steps 1)%sremove train.max_steps, or raise it to 100",
        ),
        (
            {},
            3,
            "only 10 optimiser steps on 3 rows (batch_size 4, epochs 10)%sadd rows; with the present rows, train.epochs: 100 gives 100 steps",
        ),
        ({}, 8, None),
    ],
)
def test_too_few_steps_are_said_with_what_to_type(
    settings: dict[str, Any], rows: int, says: str | None
) -> None:
    config = LoraSettings.model_validate(settings)
    assert too_few(config, choose(config, rows, 576, rows), rows) == (
        says % HARDLY if says else None
    )


@pytest.mark.types(
    "remove train.max_steps, or raise it",
    "remove «» (batch_size",
    "add rows; with the present rows, train.epochs:",
)
@pytest.mark.parametrize(
    ("settings", "rows", "remedy"),
    [
        ({"batch_size": 48, "epochs": 2}, 32, {}),
        ({"epochs": 1}, 32, {}),
        ({}, 3, {"epochs": 60}),
        ({"batch_size": 16}, 3, {"epochs": 60}),
    ],
)
def test_the_remedy_works(settings: dict[str, Any], rows: int, remedy: dict[str, Any]) -> None:
    before = LoraSettings.model_validate(settings)
    assert too_few(before, choose(before, rows, 576, rows), rows)
    after = LoraSettings.model_validate(remedy)
    assert too_few(after, choose(after, rows, 576, rows), rows) is None


def trained(out: Path, ctx: FakeContext, rows: int, **settings: Any) -> dict[str, Any]:
    config = LoraSettings.model_validate({"rank": 4, "dropout": 0, **settings})
    result = LoraTrainer(config).train([sample(i) for i in range(rows)], Lender(llama()), out, ctx)
    record: dict[str, Any] = json.loads((out / "training.json").read_text())
    assert result.settings == {
        name: record["config"][name] for name in ("batch_size", "epochs", "lr")
    }
    return record


def test_a_training_says_what_it_chose(tmp_path: Path) -> None:
    ctx = FakeContext(rows=12)
    record = trained(tmp_path, ctx, 12)
    assert record["chosen"] == ["batch_size", "epochs", "lr"]
    assert (record["config"]["batch_size"], record["config"]["epochs"]) == (4, 10)
    assert record["config"]["lr"] == choose_lr(llama().config.hidden_size)
    assert record["steps"] == 30
    (said,) = (text for _, text in ctx.log.lines if "chosen" in text)
    assert said.endswith("30 optimiser steps")
    assert [text for kind, text in ctx.log.lines if kind == "warning"] == []


def test_what_is_chosen_trains_as_what_is_typed(tmp_path: Path) -> None:
    chosen = trained(tmp_path / "chosen", FakeContext(rows=12), 12)
    settings = {name: chosen["config"][name] for name in ("batch_size", "epochs", "lr")}
    typed = trained(tmp_path / "typed", FakeContext(), 12, **settings)
    assert typed["chosen"] == []
    assert typed["losses"] == chosen["losses"]
    assert typed["digest"] == chosen["digest"]


def test_a_training_of_few_steps_warns(tmp_path: Path) -> None:
    ctx = FakeContext(stage="train.raw")
    trained(tmp_path, ctx, 12, batch_size=48, epochs=2, lr=1e-3)
    (warning,) = (text for kind, text in ctx.log.lines if kind == "warning")
    assert warning.startswith("train.raw: only 2 optimiser steps on 12 rows")


def test_before_a_run_the_rows_may_be_unknown(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text(json.dumps({"hidden_size": 576}))
    model, site = HFConfig(model="m"), Site(tmp_path)
    open_, set_ = LoraSettings(), LoraSettings(batch_size=48, epochs=2, lr=1e-4)
    assert LoraTrainer.foretold(open_, model, site, None).text == (
        "batch_size, epochs and lr are chosen from the rows and the model"
    )
    known = LoraTrainer.foretold(open_, model, site, 32)
    assert "lr 0.00054 are chosen for 32 rows and the model's hidden size of 576" in known.text
    assert known.warning == ""
    away = LoraTrainer.foretold(open_, HFConfig(model="some/hub-id"), site, 32)
    assert away.text == (
        "batch_size 4 and epochs 10 are chosen for 32 rows: 80 optimiser steps; lr is chosen from the model's size, which is known "
        "after the model is downloaded"
    )
    assert LoraTrainer.foretold(set_, model, site, None).text == ""
    assert "only 2 optimiser steps" in LoraTrainer.foretold(set_, model, site, 32).warning
    assert LoraTrainer.fits_rows(open_)
    assert not LoraTrainer.fits_rows(set_)


@pytest.mark.parametrize("value", ["much", 0, -1])
def test_other_words_than_auto_are_refused(value: Any) -> None:
    for name in ("batch_size", "epochs", "lr"):
        with pytest.raises(ValidationError):
            LoraSettings.model_validate({name: value})
