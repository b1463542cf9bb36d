"""The executor `ray`: what it asks of Ray, by a module in its place, and the rows of a run by Ray itself where it is installed."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from nfilter import Job, ModelError, Recipe, StoreError
from nfilter.testing import check_class, check_executor
from nfilter_ray.executor import RayConfig, RayExecutor

INSTALLED = importlib.util.find_spec("ray") is not None


class FakeRay(ModuleType):
    """The parts of Ray that the executor uses; calls run when they are waited for, the last one first."""

    def __init__(
        self,
        *,
        cpus: float = 4,
        gpus: float = 0,
        lost: tuple[int, ...] = (),
        started: bool = False,
    ) -> None:
        super().__init__("ray")
        self.__spec__ = ModuleSpec("ray", None)
        self.cpus, self.gpus, self.lost, self.started = cpus, gpus, lost, started
        self.inits: list[dict[str, Any]] = []
        self.options: dict[str, Any] = {}
        self.killed: list[int] = []
        self.exceptions = SimpleNamespace(
            RayActorError=type("RayActorError", (Exception,), {}),
            RayTaskError=type("RayTaskError", (Exception,), {}),
        )

    def is_initialized(self) -> bool:
        return self.started

    def init(self, **given: Any) -> None:
        if given["address"] == "nowhere:1":
            raise ConnectionError("nobody answers")
        self.inits.append({**given, "usage": os.environ["RAY_USAGE_STATS_ENABLED"]})
        self.started = True

    def shutdown(self) -> None:
        self.started = False

    def cluster_resources(self) -> dict[str, float]:
        # Ray names no GPU where there is none.
        return {"CPU": self.cpus} | ({"GPU": self.gpus} if self.gpus else {})

    def remote(self, cls: type) -> Any:
        def options(**given: Any) -> Any:
            self.options = given
            numbers = iter(range(99))

            def make() -> Any:
                actor = SimpleNamespace(number=next(numbers))
                actor.run = SimpleNamespace(remote=lambda job, rank: (cls, json.dumps(job), rank))
                return actor

            return SimpleNamespace(remote=make)

        return SimpleNamespace(options=options)

    def wait(self, calls: list[Any], num_returns: int) -> tuple[list[Any], list[Any]]:
        assert num_returns == 1
        return calls[-1:], calls[:-1]

    def get(self, call: Any) -> dict[str, Any]:
        cls, job, rank = call
        if rank in self.lost:
            raise self.exceptions.RayActorError("the actor died:\n out of memory")
        end: dict[str, Any] = cls().run(json.loads(job), rank)
        return end

    def kill(self, actor: Any, *, no_restart: bool) -> None:
        assert no_restart
        self.killed.append(actor.number)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    ray = FakeRay()
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setattr("nfilter_ray.rank.run_rank", lambda job, rank: {"rank": rank})
    monkeypatch.delenv("RAY_USAGE_STATS_ENABLED", raising=False)
    return ray


JOB = Job({}, "/r.yaml", "/out", 3)


def test_it_is_an_executor() -> None:
    check_class("executor", RayExecutor)
    assert RayExecutor.workers(RayConfig(workers=5)) == 5


def test_each_rank_is_an_actor_that_ray_starts_again(fake: FakeRay) -> None:
    fake.cpus = 6
    config = RayConfig(workers=3, cpus=2, gpus=0, restarts=7)
    assert [end.rank for end in RayExecutor(config).run(JOB)] == [2, 1, 0]
    assert fake.options == {
        "num_cpus": 2, "num_gpus": 0, "max_restarts": 7, "max_task_retries": 7
    }  # fmt: skip
    assert fake.killed == [0, 1, 2]
    assert not fake.started
    assert [each["usage"] for each in fake.inits] == ["0"]  # Ray tells nobody that it is used


def test_closing_it_ends_all_actors(fake: FakeRay) -> None:
    ends = RayExecutor(RayConfig(workers=3)).run(JOB)
    next(ends)
    ends.close()
    assert fake.killed == [0, 1, 2]
    assert not fake.started


def test_a_cluster_that_the_caller_connected_to_stays_connected(fake: FakeRay) -> None:
    fake.started = True
    assert len(list(RayExecutor(RayConfig(workers=3)).run(JOB))) == 3
    assert (fake.started, fake.inits) == (True, [])


def test_an_actor_that_is_lost_for_good_is_the_end_of_its_rank(fake: FakeRay) -> None:
    fake.lost = (1,)
    ends = {end.rank: end for end in RayExecutor(RayConfig(workers=3, restarts=2)).run(JOB)}
    assert ends[1].kind == "StoreError"
    assert "its actor was lost more than 2 times: the actor died: out of memory" in ends[1].error
    assert (ends[0].kind, ends[2].kind) == (None, None)


@pytest.mark.types("write fewer workers, or less of «»: --set executor.«»=«»")
def test_more_actors_than_this_machine_has_room_for(fake: FakeRay) -> None:
    fake.cpus = 2
    with pytest.raises(StoreError) as found:
        list(RayExecutor(RayConfig(workers=4)).run(JOB))
    assert "4 workers with 1 cpus each do not fit into the 2 cpus" in str(found.value)
    assert str(found.value).endswith("--set executor.cpus=0.5")
    assert len(list(RayExecutor(RayConfig(workers=4, cpus=0.5)).run(JOB))) == 3
    # A cluster elsewhere may grow.
    assert len(list(RayExecutor(RayConfig(workers=4, address="auto")).run(JOB))) == 3


def test_each_actor_reserves_its_gpus(fake: FakeRay) -> None:
    fake.gpus = 3
    assert len(list(RayExecutor(RayConfig(workers=3, gpus=1)).run(JOB))) == 3
    assert fake.options["num_gpus"] == 1
    # Two actors may share a GPU.
    assert len(list(RayExecutor(RayConfig(workers=4, gpus=0.5)).run(JOB))) == 3
    assert fake.options["num_gpus"] == 0.5


@pytest.mark.types("write fewer workers, or less of «»: --set executor.«»=«»")
def test_more_gpus_than_this_machine_has(fake: FakeRay) -> None:
    for has, less in ((0, "0"), (2, "0.5")):
        fake.gpus = has
        with pytest.raises(StoreError) as found:
            list(RayExecutor(RayConfig(workers=4, gpus=1)).run(JOB))
        assert f"4 workers with 1 gpus each do not fit into the {has} gpus" in str(found.value)
        assert str(found.value).endswith(f"--set executor.gpus={less}")
        assert not fake.started
        assert len(list(RayExecutor(RayConfig(workers=4, gpus=float(less))).run(JOB))) == 3
    fake.gpus = 0
    assert len(list(RayExecutor(RayConfig(workers=4, gpus=1, address="auto")).run(JOB))) == 3
    assert fake.options["num_gpus"] == 1


@pytest.mark.types("write address: null")
def test_no_cluster_at_the_address(fake: FakeRay) -> None:
    with pytest.raises(StoreError, match="no cluster at nowhere:1: nobody answers; start one with"):
        list(RayExecutor(RayConfig(address="nowhere:1")).run(JOB))
    assert len(list(RayExecutor(RayConfig(address=None)).run(JOB))) == 3


@pytest.mark.skipif(INSTALLED, reason="ray is installed")
def test_without_ray_it_says_what_to_install() -> None:
    (problem,) = RayExecutor.problems(RayConfig())
    assert problem == (
        "executor 'ray' needs the package ray, which is not installed: pip install 'nfilter[ray]'"
    )
    with pytest.raises(ModelError, match="pip install"):
        list(RayExecutor(RayConfig()).run(JOB))


@pytest.mark.slow
@pytest.mark.skipif(not INSTALLED, reason="ray is not installed")
def test_by_ray_the_rows_are_those_of_one_process(tmp_path: Path) -> None:
    rows = [{"id": f"row-{n}", "prompt": f"{n}+1", "response": str(n + 1)} for n in range(40)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "r.yaml").write_text(
        "name: purge\nanswer: exact\nchunk: 7\nsource: {use: jsonl, path: rows.jsonl}\nsamples: [{use: entp.purge}]\n"
    )
    config = RayConfig(workers=2, cpus=0.5)
    check_executor(RayExecutor, config, Recipe.load(tmp_path / "r.yaml"), tmp_path)
