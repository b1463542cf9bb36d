"""Several processes of one launch: the first does the run, the others help its trainer and touch nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest

from nfilter import Contract, Follows, RecipeError, StageConfig, TrainingResult
from nfilter.cli import entry
from nfilter.engine.arms import BEGUN, MARKER
from nfilter.engine.launch import Launch, follow, leading, single_process_warning
from nfilter.recipe.model import load

RECIPE = """\
name: sums
answer: number
models:
  student: {use: example.adder}
source: {use: example.qa, path: rows.qa}
samples: []
arms: [raw]
encode: {model: student}
train: {use: extra.trainer, model: student}
"""


class TrainerConfig(StageConfig):
    model: str = "student"
    rate: int = 1


def trainer(seen: list[Any], fails: list[bool] | None = None) -> type:
    """A trainer that keeps what is asked of it, leaves a file, and stops where it is told to."""

    class Extra:
        name: ClassVar[str] = "extra.trainer"
        Config: ClassVar[type[StageConfig]] = TrainerConfig

        @classmethod
        def contract(cls, config: Any) -> Contract:
            return Contract()

        @classmethod
        def memory(cls, config: Any, model_config: Any, site: Any) -> dict[str, float]:
            return {}

        def __init__(self, config: Any) -> None:
            self.config = config

        def train(self, samples: Any, model: Any, out: Path, ctx: Any, start: Any = None) -> Any:
            from nfilter import ModelRef

            seen.append(sorted(path.name for path in out.iterdir() if path.name != BEGUN))
            (out / f"rate-{self.config.rate}").write_text("so far")
            if fails and fails.pop(0):
                raise KeyboardInterrupt
            return TrainingResult(ModelRef(str(out), "adapter", "b", "d"), 1, 1, (1.0,), 0.0)

        @contextmanager
        def lead(self) -> Iterator[None]:
            seen.append("leads")
            try:
                yield
            finally:
                seen.append("sends home")

        def follow(self, site: Any, loss: Any) -> None:
            seen.append(("follows", site.base_dir, loss))

    return Extra


def test_a_training_that_was_stopped_finds_what_it_left_and_no_other_does(kit: Any) -> None:
    seen: list[Any] = []
    hooks = {"hooks": {"trainers": [trainer(seen, [True, False, True, False])]}}
    with pytest.raises(KeyboardInterrupt):
        kit.run(text=RECIPE, **hooks)
    assert (kit.out / "adapters" / "raw" / BEGUN).is_file()
    kit.run(text=RECIPE, **hooks)
    assert seen == [[], ["rate-1"]]
    assert sorted(path.name for path in (kit.out / "adapters" / "raw").iterdir()) == [
        MARKER,
        "rate-1",
    ]
    kit.run(text=RECIPE, **hooks)
    assert len(seen) == 2
    # A finished training of other settings is no beginning of this one.
    with pytest.raises(KeyboardInterrupt):
        kit.run(text=RECIPE, assignments=["train.rate=2"], **hooks)
    assert seen[2] == []
    assert not [text for text in kit.reporter.infos if "since it was stopped" in text]
    kit.run(text=RECIPE, assignments=["train.rate=3"], **hooks)
    assert seen[3] == []
    assert (
        "train.raw: its data or settings changed since it was stopped; training starts from the beginning"
        in kit.reporter.infos
    )


@pytest.mark.parametrize(
    ("environment", "launch"),
    [
        ({}, Launch(0, 1)),
        ({"WORLD_SIZE": "1", "RANK": "0"}, Launch(0, 1)),
        ({"WORLD_SIZE": "1"}, Launch(0, 1)),
        ({"RANK": "0"}, Launch(0, 1)),
        ({"WORLD_SIZE": "2", "RANK": "0"}, Launch(0, 2)),
        ({"WORLD_SIZE": "4", "RANK": "3"}, Launch(3, 4)),
    ],
)
def test_the_environment_says_which_process_this_is(
    environment: dict[str, str], launch: Launch
) -> None:
    assert Launch.of(environment) == launch


@pytest.mark.types("or unset both")
@pytest.mark.parametrize(
    "environment",
    [
        {"WORLD_SIZE": "2"},
        {"WORLD_SIZE": "2", "RANK": "2"},
        {"WORLD_SIZE": "2", "RANK": "-1"},
        {"WORLD_SIZE": "two", "RANK": "0"},
        {"WORLD_SIZE": "0", "RANK": "0"},
    ],
)
def test_an_environment_that_contradicts_itself_is_an_error(environment: dict[str, str]) -> None:
    with pytest.raises(RecipeError, match="start with torchrun --nproc-per-node 2 -m nfilter run"):
        Launch.of(environment)
    unset = {key: value for key, value in environment.items() if key not in ("RANK", "WORLD_SIZE")}
    assert Launch.of(unset) == Launch(0, 1)


def test_accelerate_on_a_cpu_starts_one_process_and_that_is_said() -> None:
    asked = {"ACCELERATE_USE_CPU": "True", "MASTER_PORT": "29500"}
    assert "torchrun --nproc-per-node 2" in (single_process_warning(asked) or "")
    assert single_process_warning({**asked, "WORLD_SIZE": "2"}) is None
    assert single_process_warning({"ACCELERATE_USE_CPU": "True"}) is None  # --num_processes 1
    assert single_process_warning({"ACCELERATE_USE_CPU": "False", "MASTER_PORT": "29500"}) is None
    assert single_process_warning({}) is None


def loaded(home: Path, plugins: Any, text: str = RECIPE) -> Any:
    (home / "rows.qa").write_text("1+1 => 2\n")
    (home / "r.yaml").write_text(text)
    return load(home / "r.yaml", plugins)


def test_the_first_process_leads_and_the_others_follow(
    tmp_path: Path, catalogue: Callable[..., Any]
) -> None:
    seen: list[Any] = []
    plugins = catalogue(trainers=[trainer(seen)])
    recipe = loaded(tmp_path, plugins)
    with leading(recipe, Launch(0, 2)):
        seen.append("runs")
    assert seen == ["leads", "runs", "sends home"]
    seen.clear()
    with leading(recipe, Launch()):
        assert seen == []
    before = sorted(path.name for path in tmp_path.iterdir())
    follow(recipe, plugins, Launch(1, 2))
    assert seen == [("follows", recipe.base_dir, None)]
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert isinstance(trainer(seen)(TrainerConfig()), Follows)


@pytest.mark.types("type nfilter run «», without torchrun")
@pytest.mark.parametrize("rank", ["0", "1"])
@pytest.mark.parametrize(
    ("train", "says"),
    [
        ("train: {use: example.memory}", "and example.memory trains in one process; type nfilter run"),
        ("arms: []", "and it has no training; type nfilter run"),
    ],
)  # fmt: skip
def test_a_recipe_that_cannot_be_shared_is_refused_at_once(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    catalogue: Callable[..., Any],
    rank: str,
    train: str,
    says: str,
) -> None:
    text = RECIPE.replace("train: {use: extra.trainer, model: student}", train)
    if train.startswith("arms"):
        text = text.replace("arms: [raw]\n", "")
    (tmp_path / "rows.qa").write_text("1+1 => 2\n")
    (tmp_path / "r.yaml").write_text(text)
    plugins = catalogue()
    monkeypatch.setattr("nfilter.registry.loading.load", lambda **_: plugins)
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert entry(["run", str(tmp_path / "r.yaml"), "--out", str(tmp_path / "out")]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "2 processes were started for this recipe" in err
    assert says in err
    assert not (tmp_path / "out").exists()
    monkeypatch.delenv("RANK")
    monkeypatch.delenv("WORLD_SIZE")
    typed = err.split("type nfilter ")[1].split(", without torchrun")[0].split()
    assert entry([*typed, "--out", str(tmp_path / "out")]) == 0
