"""A run by an executor: what the executor is given, whose error the command ends with, and what is not combined with it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

import nfilter
from nfilter import ContractError, Job, NfilterError, RankEnd, Recipe, StageConfig, run_rank
from nfilter.cli import entry
from nfilter.engine.executors import execute
from nfilter.recipe.model import load

RECIPE = """\
name: small
chunk: 2
source: {use: example.qa, path: rows.qa}
samples: []
executor: {use: house, workers: 3}
"""


class HouseConfig(StageConfig):
    workers: int = 1


class House:
    """Keeps the job, and yields what a test wrote."""

    name: ClassVar[str] = "house"
    Config: ClassVar[type[StageConfig]] = HouseConfig
    ends: ClassVar[list[RankEnd]] = []
    jobs: ClassVar[list[Job]] = []
    closed: ClassVar[list[bool]] = []

    @classmethod
    def workers(cls, config: HouseConfig) -> int:
        return config.workers

    @classmethod
    def problems(cls, config: HouseConfig) -> list[str]:
        return ["it needs a house; build one"] if config.workers == 13 else []

    def __init__(self, config: HouseConfig) -> None: ...

    def run(self, job: Job) -> Iterator[RankEnd]:
        self.jobs.append(job)
        try:
            yield from self.ends
        finally:
            self.closed.append(True)


@pytest.fixture
def recipe(tmp_path: Path, catalogue: Callable[..., Any]) -> Recipe:
    House.jobs, House.closed = [], []
    House.ends = [RankEnd(2), RankEnd(0), RankEnd(1)]
    (tmp_path / "rows.qa").write_text("1+1 => 2\n")
    (tmp_path / "r.yaml").write_text(RECIPE)
    return load(tmp_path / "r.yaml", catalogue(executors=[House]), ["chunk=5"])


def test_an_executor_is_given_the_run_as_json_with_absolute_paths(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    execute(recipe, Path("out"), limit=7, lenders=[Path("pilot.db")])
    (job,) = House.jobs
    assert (job.world, job.limit, job.out) == (3, 7, str(tmp_path / "out"))
    assert (job.file, job.lenders) == (str(tmp_path / "r.yaml"), (str(tmp_path / "pilot.db"),))
    assert (job.recipe["chunk"], job.recipe["name"]) == (5, "small")
    assert Job.of(json.loads(json.dumps(job.values()))) == job


@pytest.mark.parametrize(
    ("end", "kind", "words", "code"),
    [
        (RankEnd(0, "BudgetError", "the budget is used up"), nfilter.BudgetError, "the budget is used up", 8),
        (RankEnd(2, "ModelError", "no model"), nfilter.ModelError, "rank 2: no model", 5),
        (RankEnd(1, "RecipeError", "line 1: no"), nfilter.RecipeError, "rank 1: line 1: no", 2),
        (RankEnd(1, "ValueError", "odd"), NfilterError, "rank 1: ValueError: odd", 1),
        (RankEnd(0, "short", "odd"), NfilterError, "short: odd", 1),
    ],
)  # fmt: skip
def test_the_error_is_that_of_the_rank_and_the_others_are_ended(
    recipe: Recipe, tmp_path: Path, end: RankEnd, kind: type, words: str, code: int
) -> None:
    House.ends = [RankEnd(2, "EndedError", "rank 0 failed"), end, RankEnd(1, "StoreError", "later")]
    with pytest.raises(NfilterError) as found:
        execute(recipe, tmp_path / "out")
    assert (type(found.value), str(found.value), found.value.exit_code) == (kind, words, code)
    assert House.closed == [True]


def test_a_rank_without_an_end_is_an_error(recipe: Recipe, tmp_path: Path) -> None:
    House.ends = [RankEnd(0), RankEnd(2)]
    with pytest.raises(ContractError, match="executor 'house' lost rank 1 of 3"):
        execute(recipe, tmp_path / "out")


def test_a_rank_reads_the_recipe_and_says_how_it_ended(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"id": "a", "prompt": "1+1", "response": "2"}\n')
    sections = {"name": "one", "source": {"use": "jsonl", "path": "rows.jsonl"}, "samples": []}
    job = Job(sections, str(tmp_path / "r.yaml"), str(tmp_path / "out"), 1)
    assert run_rank(job.values(), 0) == {"rank": 0, "kind": None, "error": ""}
    assert json.loads((tmp_path / "out/cleaned.jsonl").read_text())["id"] == "a"
    sections["source"] = {"use": "jsonl", "path": "none.jsonl"}
    end = run_rank({**job.values(), "recipe": sections}, 0)
    assert end["kind"] == "SourceError"
    assert "none.jsonl" in str(end["error"])


def test_the_lock_has_the_executor_and_null_is_none(recipe: Recipe) -> None:
    assert recipe.dump()["executor"] == {"use": "house", "workers": 3}
    without = recipe.override("executor", None)
    assert without.executor is None
    assert "executor" not in without.dump()


FILE = """\
from collections.abc import Iterable
from nfilter import RankEnd, StageConfig, hookimpl, run_rank
class Config(StageConfig):
    workers: int = 1
class Here:
    name = "here"
    Config = Config
    @classmethod
    def workers(cls, config): return config.workers
    @classmethod
    def problems(cls, config): return ["a thirteenth is missing; write workers: 12"] if config.workers == 13 else []
    def __init__(self, config): ...
    def run(self, job):
        assert job.world == 1
        yield RankEnd.of(run_rank(job.values(), 0))
@hookimpl
def nfilter_executors() -> Iterable[type]: return [Here]
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here.py").write_text(FILE)
    (tmp_path / "rows.jsonl").write_text(
        "".join(f'{{"prompt": "{n}+1?", "response": "{n + 1}"}}\n' for n in range(9))
    )
    (tmp_path / "r.yaml").write_text(
        "name: small\nchunk: 2\nsource: {use: jsonl, path: rows.jsonl}\nsamples: [{use: entp.purge}]\nexecutor: {use: here}\n"
    )
    return tmp_path


def command(words: str) -> int:
    return entry(words.split())


def test_the_command_and_python_run_by_the_executor(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("run r.yaml --plugin here.py --json") == 0
    assert json.loads(capsys.readouterr().out)["samples"]["kept"] == 9
    assert len(list(nfilter.run("r.yaml", "two", plugins=["here.py"]).rows())) == 9
    more = ["r.yaml", "--plugin", "here.py", "--set", "executor.workers=2"]
    assert entry(["run", *more]) == 3
    assert "plugin 'here' of" in capsys.readouterr().err
    assert entry(["run", *more, "--rank", "0", "--world", "1", "--out", "three"]) == 0


def test_check_lists_what_its_ranks_share_and_what_is_missing(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check = "check r.yaml --plugin here.py"
    assert command(check) == 0
    assert "shared by" not in capsys.readouterr().out
    assert command(f"{check} --set executor.workers=4") == 0
    assert "01-entp.purge: shared by 4 ranks" in capsys.readouterr().out
    assert command(f"{check} --set executor.workers=13") == 2
    assert "a thirteenth is missing; write workers: 12" in capsys.readouterr().err
    assert command(f"{check} --set executor.workers=12") == 0


@pytest.mark.types("leave out --seeds, and start one run per seed")
@pytest.mark.types("use one of the two: «», or start without torchrun")
@pytest.mark.types("add --set executor=null")
def test_what_is_not_combined_with_an_executor(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = "run r.yaml --plugin here.py --quiet"
    assert command(f"{run} --seeds 0,1") == 2
    assert "executor 'here' runs one seed; leave out --seeds" in capsys.readouterr().err
    assert command(f"{run} --set seed=1 --out runs/seed-1") == 0
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert command(run) == 2
    assert "use one of the two: add --set executor=null, or start" in capsys.readouterr().err
    monkeypatch.delenv("RANK")
    monkeypatch.delenv("WORLD_SIZE")
    assert command(f"{run} --set executor=null --seeds 0,1 --out runs/seeds") == 0
