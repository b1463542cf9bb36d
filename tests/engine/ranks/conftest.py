"""Runs of several ranks: in threads, where stages are functions, and in processes that can be killed."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from nfilter.engine.ranks import worker
from nfilter.engine.ranks.place import Place
from nfilter.engine.ranks.waiting import Waiting
from nfilter.engine.run import run
from nfilter.recipe.model import load

ROWS = "".join(f"{n}+1 => {n + 1}\n" for n in range(10))
FINAL = ("cleaned.jsonl", "dropped.jsonl", "quarantine.jsonl", "truth.jsonl")


def results(run: Path) -> dict[str, bytes]:
    """The rows, the chunks and the decisions of a run, and its arrays of tokens, by path."""
    chunks = [*run.glob("[0-9][0-9]-*/chunk-*"), *run.glob("[0-9][0-9]-*/decisions-*")]
    tokens = (path for path in run.glob("tokens/*") if path.suffix != ".json")
    paths = [*(run / name for name in FINAL), *chunks, *tokens]
    return {path.relative_to(run).as_posix(): path.read_bytes() for path in paths if path.is_file()}


# A process that a shell starts in the background ignores Ctrl-C, and so do its children.
_RUN = """
import runpy, signal
signal.signal(signal.SIGINT, signal.default_int_handler)
runpy.run_module("nfilter", run_name="__main__")
"""


@dataclass
class Together:
    """Starts ranks in threads; a rank is as it is in a process of its own, but for the signals."""

    kit: Any
    errors: dict[int, BaseException] = field(default_factory=dict)
    done: dict[int, Any] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)

    def prepare(
        self, stages: Sequence[type], rows: str = ROWS, more: str = "", chunk: int = 2
    ) -> tuple[Any, Any]:
        (self.kit.home / "rows.qa").write_text(rows, encoding="utf-8")
        (self.kit.home / "r.yaml").write_text(self.kit.recipe_text(stages, more, chunk))
        plugins = self.kit.catalogue(stages=list(dict.fromkeys(stages)))
        return load(self.kit.home / "r.yaml", plugins), plugins

    def follower(self, recipe: Any, plugins: Any, place: Place, out: Path) -> threading.Thread:
        def follow() -> None:
            try:
                self.done[place.rank] = worker.follow(
                    recipe, plugins, out, place, waiting=Waiting(self.lines.append)
                )
            except BaseException as error:  # noqa: BLE001 (the test looks at it)
                self.errors[place.rank] = error

        thread = threading.Thread(target=follow, name=f"rank {place.rank}", daemon=True)
        thread.start()
        return thread

    def run(
        self,
        stages: Sequence[type],
        world: int,
        *,
        rows: str = ROWS,
        more: str = "",
        chunk: int = 2,
        out: Path | None = None,
    ) -> Any:
        """Run stages on ``world`` ranks; return rank 0's result."""
        recipe, plugins = self.prepare(stages, rows, more, chunk)
        out = out or self.kit.out
        threads = [
            self.follower(recipe, plugins, Place(rank, world), out) for rank in range(1, world)
        ]
        try:
            return run(recipe, plugins, out, reporter=self.kit.reporter, place=Place(0, world))
        finally:
            for thread in threads:
                thread.join(60)
                assert not thread.is_alive()


@pytest.fixture
def together(kit: Any, monkeypatch: pytest.MonkeyPatch) -> Together:
    # Warnings are redirected for the whole process, which rank 0 does already.
    monkeypatch.setattr(worker, "shown_once", lambda *_: nullcontext())
    return Together(kit)


@dataclass
class Processes:
    """Starts ``nfilter run`` in a folder."""

    home: Path

    def start(
        self, out: str, *words: str, recipe: str = "r.yaml", env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", _RUN, "run", recipe, "--out", out, *words],
            cwd=self.home, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "NFILTER_ALLOW_HOSTS": "127.0.0.1", **(env or {})},
        )  # fmt: skip

    def ranks(self, out: str, world: int, kill: Mapping[int, str] | None = None) -> list[int]:
        """Run ``world`` ranks to their end; ``kill`` has the failpoint of a rank, which is then started again."""
        kill = kill or {}
        places = [("--rank", str(rank), "--world", str(world)) for rank in range(world)]
        started = [
            self.start(
                out,
                *place,
                env={"NFILTER_FAILPOINT": kill[rank]} if rank in kill else {},
            )
            for rank, place in enumerate(places)
        ]
        codes = []
        for rank in kill:
            started[rank].communicate(timeout=240)
            codes.append(started[rank].returncode)
            started[rank] = self.start(out, *places[rank])
        for process in started:
            _, error = process.communicate(timeout=240)
            assert process.returncode == 0, error
        return codes


@pytest.fixture
def processes(tmp_path: Path) -> Processes:
    return Processes(tmp_path)


@pytest.fixture
def results_of() -> Callable[[Path], dict[str, bytes]]:
    return results
