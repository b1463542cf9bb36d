"""The executor `local`: the rows are those of one process, also when processes are killed, and its error is that of a rank."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import nfilter
from nfilter import Job, PluginError, Recipe, StoreError
from nfilter.testing import check_executor
from nfilter_local import Local, LocalConfig
from tests.engine.ranks.test_processes import PURGE

RECIPE = f"{PURGE}executor: {{use: local, workers: 2}}\n"


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    rows = [{"id": f"row-{n}", "prompt": f"{n}+1", "response": str(n + 1)} for n in range(40)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "r.yaml").write_text(RECIPE)
    return tmp_path / "r.yaml"


@pytest.mark.parametrize("workers", [1, 2])
def test_the_rows_are_those_of_one_process(recipe: Path, tmp_path: Path, workers: int) -> None:
    check_executor(Local, LocalConfig(workers=workers), Recipe.load(recipe), tmp_path)


PLUGIN = """\
import os
from collections.abc import Iterable
from pathlib import Path
from nfilter import Contract, StageConfig, hookimpl
class Broken:
    name = "house.broken"
    Config = StageConfig
    @classmethod
    def contract(cls, config): return Contract()
    def __init__(self, config): ...
    def process(self, chunk, state, ctx):
        raise KeyError("no such key")
class Killed:
    name = "house.killed"
    Config = StageConfig
    @classmethod
    def contract(cls, config): return Contract()
    def __init__(self, config): ...
    def process(self, chunk, state, ctx):
        for sample in chunk:
            mark = Path(HOME) / sample.query
            if sample.query in ("17+1", "23+1") and not mark.exists():
                mark.touch()
                os.kill(os.getpid(), 9)
        return [sample.keep("it is a sum") for sample in chunk]
@hookimpl
def nfilter_stages() -> Iterable[type]: return [Broken, Killed]
"""


def with_stage(recipe: Path, name: str) -> Recipe:
    file = recipe.parent / "house.py"
    file.write_text(f"{PLUGIN}HOME = {str(recipe.parent)!r}\n")
    return Recipe.load(recipe, [file], [f"samples.0.use={name}"])


def test_processes_that_are_killed_are_started_again_and_go_on(
    recipe: Path, tmp_path: Path
) -> None:
    killed = with_stage(recipe, "house.killed")
    done = nfilter.run(killed, tmp_path / "two")
    # Chunks of 7 rows: row 17 is one of rank 0, row 23 one of rank 1.
    assert all((tmp_path / name).exists() for name in ("17+1", "23+1"))
    alone = nfilter.run(killed.override("executor.workers", 1), tmp_path / "one")
    assert list(done.rows()) == list(alone.rows())
    assert len(list(done.rows())) == 40


@pytest.mark.types("use fewer workers, for example: --set executor.workers=1")
def test_a_process_that_is_always_killed_ends_the_run(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = Recipe.load(recipe).override("executor.restarts", 1)
    with monkeypatch.context() as killed:
        killed.setenv("NFILTER_FAILPOINT", "chunk.samples:1")
        with pytest.raises(StoreError, match="its process ended by signal 9, 2 times"):
            nfilter.run(once, tmp_path / "two")
    done = nfilter.run(once.override("executor.workers", 1), tmp_path / "two")
    assert len(list(done.rows())) == 40


def test_the_error_of_a_rank_is_that_of_the_run(recipe: Path, tmp_path: Path) -> None:
    broken = with_stage(recipe, "house.broken")
    with pytest.raises(PluginError, match=r"plugin 'house' .* raised KeyError: 'no such key'"):
        nfilter.run(broken, tmp_path / "out")


@pytest.mark.parametrize(("seen", "devices"), [(None, ["2,3", "0,1"]), ("4,5,6,7", ["6,7", "4,5"])])
def test_each_process_sees_its_gpus_and_has_its_share_of_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seen: str | None, devices: list[str]
) -> None:
    started: dict[int, dict[str, str]] = {}

    class Popen:
        returncode = 0

        def __init__(self, command: list[str], **given: Any) -> None:
            self._out, self._env = given["pass_fds"][0], given["env"]

        def communicate(self, text: str) -> None:
            rank = json.loads(text)["rank"]
            started[rank] = self._env
            os.write(self._out, json.dumps({"rank": rank}).encode())
            os.close(self._out)

        def poll(self) -> int:
            return 0

    monkeypatch.setattr("nfilter_local.subprocess.Popen", _writing(Popen))
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if seen is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", seen)
    job = Job({}, str(tmp_path / "r.yaml"), str(tmp_path / "out"), 2)
    ends = list(Local(LocalConfig(workers=2, gpus=2)).run(job))
    assert sorted(end.rank for end in ends) == [0, 1]
    assert [started[rank]["CUDA_VISIBLE_DEVICES"] for rank in (1, 0)] == devices
    assert {each["OMP_NUM_THREADS"] for each in started.values()} == {"4"}


def _writing(cls: type) -> Callable[..., Any]:
    """A process has a descriptor of its own: the parent closes that which it gave."""

    def start(command: list[str], **given: Any) -> Any:
        return cls(command, **{**given, "pass_fds": (os.dup(given["pass_fds"][0]),)})

    return start
