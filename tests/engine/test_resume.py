"""Killed, changed, repeated: what a second run does again, and what it takes from the first."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from nfilter import Contract, Generates, ModelNeed, NfilterError, Request, Sample, State, StoreError
from nfilter.registry import provenance
from nfilter.store.files import read_json
from nfilter.store.run_directory import RunDirectory

Stage = Callable[..., type]
ROOT = Path(__file__).resolve().parents[2]
ASKS = Contract(writes=frozenset({"view"}), needs=(ModelNeed("student", Generates),))


class Work:
    """A stage that asks the model and may be told to fail after it asked, at a given question."""

    def __init__(self) -> None:
        self.chunks: list[list[str]] = []
        self.fits = 0
        self.fail_at: str | None = None

    def fit(self, stream: Any, ctx: Any) -> State:
        self.fits += 1
        return State({"n": sum(1 for _ in stream)})

    def process(self, chunk: Sequence[Sample], state: State, ctx: Any) -> list[Sample]:
        self.chunks.append([sample.query for sample in chunk])
        requests = [Request(sample.context, sample_id=sample.id) for sample in chunk]
        done = ctx.model("student").generate(requests)
        if self.fail_at in self.chunks[-1]:
            raise KeyboardInterrupt
        return [
            sample.note("view", answer.text) for sample, answer in zip(chunk, done, strict=True)
        ]


def snapshot(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.suffix == ".jsonl" or path.name == "done.json"
    }


def test_a_killed_run_goes_on_where_it_stopped(kit: Any, stage: Stage, asked: list[str]) -> None:
    work = Work()
    work.fail_at = "8+1"
    ask = stage("extra.ask", work.process, fit=work.fit, contract=ASKS)
    with pytest.raises(KeyboardInterrupt):
        kit.run([ask], chunk=4)
    assert [chunk[0] for chunk in work.chunks] == ["0+1", "4+1", "8+1"]
    assert len(asked) == 10
    artefact = kit.artefact("01-extra.ask")
    assert [artefact.has_chunk(index) for index in range(3)] == [True, True, False]
    assert not list(artefact.directory.rglob("*.part"))

    work.fail_at = None
    result = kit.run([ask], chunk=4)
    assert [chunk[0] for chunk in work.chunks] == ["0+1", "4+1", "8+1", "8+1"]
    assert work.fits == 1
    assert len(asked) == 10  # the third chunk's answers were committed before the kill
    artefact = kit.artefact("01-extra.ask")
    assert [sample.notes["view"] for sample in artefact.samples()] == [
        str(n + 1) for n in range(10)
    ]
    assert result.metrics["calls_per_sample"] == 1.0
    assert not [text for text in kit.reporter.infos if "changed" in text]


def test_a_resumed_run_ends_in_the_same_files_as_an_unbroken_one(kit: Any, stage: Stage) -> None:
    work = Work()
    ask = stage("extra.ask", work.process, contract=ASKS)
    kit.run([ask], chunk=3, out=kit.home / "whole")
    work.fail_at = "5+1"
    with pytest.raises(KeyboardInterrupt):
        kit.run([ask], chunk=3, out=kit.home / "broken")
    work.fail_at = None
    kit.run([ask], chunk=3, out=kit.home / "broken")
    whole, broken = snapshot(kit.home / "whole"), snapshot(kit.home / "broken")
    for files in (whole, broken):
        del files["01-extra.ask/done.json"]  # it holds the seconds
    assert whole == broken
    assert len(whole) > 8


def test_nothing_is_done_again_when_nothing_changed(
    kit: Any, stage: Stage, asked: list[str]
) -> None:
    work = Work()
    stages = [stage("extra.ask", work.process, fit=work.fit, contract=ASKS), stage("extra.other")]
    first = kit.run(stages)
    before = snapshot(kit.out)
    work.chunks.clear()
    asked.clear()
    second = kit.run(stages)
    assert (work.chunks, work.fits, asked) == ([], 1, [])
    assert snapshot(kit.out) == before
    assert second.metrics == first.metrics
    assert all(text.endswith("(from an earlier run)") for text in kit.reporter.infos)
    assert [stage["reused"] for stage in kit.json("manifest.json")["stages"]] == [True, True]


@pytest.mark.parametrize(
    ("change", "rerun"),
    [
        ({"assignments": ["samples.1.tag=x"]}, {"b": "config", "c": "input"}),
        ({"assignments": ["samples.2.tag=x"]}, {"c": "config"}),
        ({"assignments": ["seed=1"]}, {"a": "input, seed", "b": "input, seed", "c": "input, seed"}),
        ({"assignments": ["chunk=5"]}, {"a": "input", "b": "input", "c": "input"}),
        ({"assignments": ["answer=exact"]}, dict.fromkeys("abc", "input, answer")),
        ({"assignments": ["models.student.off_by=2"]}, {"b": "model student", "c": "input"}),
        ({"assignments": ["name=other"]}, {}),
        ({"rows": "1+1 => 2\n"}, {"a": "input", "b": "input", "c": "input"}),
    ],
)
def test_a_change_runs_again_what_depends_on_it_and_says_so(
    kit: Any, stage: Stage, change: dict[str, Any], rerun: dict[str, str]
) -> None:
    ran: list[str] = []

    def noting(name: str) -> Callable[..., Any]:
        def process(chunk: Sequence[Sample], state: Any, ctx: Any) -> Any:
            ran.append(name)
            return chunk

        return process

    needs = Contract(needs=(ModelNeed("student", Generates),))
    stages = [
        stage(f"extra.{name}", noting(name), contract=needs if name == "b" else None)
        for name in "abc"
    ]
    kit.run(stages, chunk=100)
    assert ran == ["a", "b", "c"]
    ran.clear()
    kit.run(stages, chunk=100, **change)
    assert list(dict.fromkeys(ran)) == list(rerun)
    said = dict(
        text.split(": running again, because its inputs changed: ")
        for text in kit.reporter.infos
        if "running again" in text and not text.startswith("source")
    )
    assert said == {f"{'abc'.index(name) + 1:02d}-extra.{name}": why for name, why in rerun.items()}


def test_a_changed_template_runs_its_stage_again(kit: Any, asked: list[str]) -> None:
    text = (
        "name: t\nanswer: number\nmodels: {expert: {use: example.adder}}\n"
        "source: {use: example.qa, path: rows.qa}\nsamples:\n  - {use: example.ask}\n"
    )
    kit.run(text=text)
    assert len(asked) == 10
    prompt = kit.home / "prompts" / "example" / "ask.jinja"
    prompt.parent.mkdir(parents=True)
    prompt.write_text("[user]\nWhat is {{ query }}?\n")
    kit.run(text=text)
    assert asked[10:] == [f"What is {n}+1?" for n in range(10)]
    assert any(
        said == "01-example.ask: running again, because its inputs changed: prompt example/ask"
        for said in kit.reporter.infos
    )


def test_stages_that_are_gone_leave_nothing_behind(kit: Any, stage: Stage) -> None:
    work = Work()
    ask = stage("extra.ask", work.process, contract=ASKS)
    a, b, c = (stage(f"extra.{name}") for name in "abc")
    assert kit.run([a, b, ask, c]).metrics["calls_per_sample"] == 1.0
    result = kit.run([a, c])
    assert sorted(path.name for path in kit.out.glob("[0-9]*")) == [
        "00-source",
        "01-extra.a",
        "02-extra.c",
    ]
    removed = [
        text for text in kit.reporter.infos if text.endswith("no longer in the recipe; removed")
    ]
    assert [text.split(":")[0] for text in removed] == ["02-extra.b", "03-extra.ask", "04-extra.c"]
    assert result.metrics["calls_per_sample"] == 0.0
    assert set(kit.json("manifest.json")["calls"]) == set()


def test_a_stage_that_moved_asks_nothing_again(kit: Any, stage: Stage, asked: list[str]) -> None:
    work = Work()
    ask = stage("extra.ask", work.process, contract=ASKS)
    kit.run([ask])
    result = kit.run([stage("extra.a"), ask])
    assert len(asked) == 10
    assert result.metrics["calls_per_sample"] == 1.0


def test_a_chunk_counts_only_with_its_decisions(kit: Any, stage: Stage) -> None:
    work = Work()
    ask = stage("extra.ask", work.process, contract=ASKS)
    work.fail_at = "8+1"
    with pytest.raises(KeyboardInterrupt):
        kit.run([ask], chunk=4)
    # What a kill between the two leaves.
    (kit.artefact("01-extra.ask").directory / "chunk-000002.jsonl").write_text("")
    work.fail_at = None
    work.chunks.clear()
    kit.run([ask], chunk=4)
    assert [chunk[0] for chunk in work.chunks] == ["8+1"]
    assert len(list(kit.artefact("01-extra.ask").samples())) == 10


def test_a_failure_in_the_middle_of_a_chunk_leaves_no_torn_file(
    kit: Any, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nfilter.store import samples as store

    plain = store.sample_to_json
    count = 0

    def failing(sample: Sample) -> Any:
        nonlocal count
        count += 1
        if count == 10 + 6:  # ten of the source, then the second of the stage's second chunk
            raise OSError("no space left on device")
        return plain(sample)

    monkeypatch.setattr(store, "sample_to_json", failing)
    with pytest.raises(
        StoreError, match=r"chunk-000001.*no space left.*run the same command to resume"
    ):
        kit.run([stage("extra.a")], chunk=4)
    names = sorted(path.name for path in (kit.out / "01-extra.a").iterdir())
    assert names == ["chunk-000000.jsonl", "decisions-000000.jsonl", "fingerprint", "parts.jsonl"]
    kit.run([stage("extra.a")], chunk=4)
    assert len(kit.lines("cleaned.jsonl")) == 10


KILLED = """\
import os, signal, sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
import nfilter_example
from nfilter import Contract, Generates, ModelNeed, Request, StageConfig, hookimpl
from nfilter.engine.run import run
from nfilter.registry.loading import load
from nfilter.recipe.model import load as load_recipe

kill_at, home = sys.argv[1], Path(sys.argv[2])

class Ask:
    name, Config = "extra.ask", StageConfig
    def __init__(self, config): pass
    @classmethod
    def contract(cls, config):
        return Contract(writes=frozenset({"view"}), needs=(ModelNeed("student", Generates),))
    def process(self, chunk, state, ctx):
        print("chunk", chunk[0].query, flush=True)
        done = ctx.model("student").generate([Request(sample.context, sample_id=sample.id) for sample in chunk])
        if kill_at in [sample.query for sample in chunk]:
            os.kill(os.getpid(), signal.SIGKILL)
        return [sample.note("view", answer.text) for sample, answer in zip(chunk, done)]

module = ModuleType("extra")
module.nfilter_stages = hookimpl(lambda: [Ask])
generate = nfilter_example.Adder.generate
def counting(self, requests):
    print("asked", len(requests), flush=True)
    return generate(self, requests)
nfilter_example.Adder.generate = counting
point = lambda name, module: SimpleNamespace(name=name, value=name, load=lambda: module, dist=SimpleNamespace(name=name, version="1"))
plugins = load([point("nfilter_example", nfilter_example), point("extra", module)], ())
run(load_recipe(home / "r.yaml", plugins), plugins, home / "out")
"""


def test_kill_minus_nine_then_the_same_command(kit: Any, tmp_path: Path) -> None:
    (tmp_path / "rows.qa").write_text("".join(f"{n}+1 => {n + 1}\n" for n in range(6)))
    (tmp_path / "r.yaml").write_text(
        kit.recipe_text([], "samples:\n  - {use: extra.ask}\n", chunk=2)
    )
    (tmp_path / "killed.py").write_text(KILLED)
    example = ROOT / "tests" / "dist" / "nfilter-example" / "src"
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, (example, ROOT, ROOT / "plugins"))),
    }

    def call(kill_at: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(tmp_path / "killed.py"), kill_at, str(tmp_path)],
            capture_output=True, text=True, env=environment, timeout=60, check=False,
        )  # fmt: skip

    first = call("3+1")
    assert first.returncode == -9
    assert first.stdout.split("\n")[:4] == ["chunk 0+1", "asked 2", "chunk 2+1", "asked 2"]
    second = call("nowhere")
    assert (second.returncode, second.stderr) == (0, "")
    assert second.stdout.split("\n")[:3] == ["chunk 2+1", "chunk 4+1", "asked 2"]
    assert read_json(tmp_path / "out" / "metrics.json")["calls_per_sample"] == 1.0


@pytest.mark.types("process «» is running in it; wait for it")
def test_a_second_process_is_told_who_is_running(
    kit: Any, example_dist: Path, command: Callable[..., Any]
) -> None:
    kit.run()
    with RunDirectory(kit.out).held():
        done = command("run", "r.yaml", "--out", "out", path=[example_dist], cwd=kit.home)
    assert done.returncode == 7
    assert done.stderr == (
        f"error: out: process {os.getpid()} is running in it; wait for it, or choose another --out\n"
    )
    assert (
        command(
            "run", "r.yaml", "--out", "out", "--json", path=[example_dist], cwd=kit.home
        ).returncode
        == 0
    )


@pytest.mark.types("cannot be written («»); choose another --out")
def test_a_run_directory_that_cannot_be_made_is_named(kit: Any) -> None:
    (kit.home / "file").write_text("")
    with pytest.raises(
        NfilterError, match=r"file: cannot be written \(File exists\); choose another --out"
    ):
        kit.run(out=kit.home / "file")
    assert kit.run(out=kit.home / "another").metrics["samples"]["read"] == 10


def test_what_a_kill_leaves_of_a_removal_is_never_taken_for_whole(
    kit: Any, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    work = Work()
    ask = stage("extra.ask", work.process, contract=ASKS)
    kit.run([ask], chunk=4)

    def killed(path: Path) -> None:
        (path / "chunk-000001.jsonl").unlink()
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        kit.run([ask], chunk=4, assignments=["samples.0.tag=x"])
    monkeypatch.undo()
    kit.run([ask], chunk=4)
    assert len(list(kit.artefact("01-extra.ask").samples())) == 10
    assert len(kit.lines("cleaned.jsonl")) == 10


@pytest.mark.types("not a readable journal")
def test_a_journal_that_is_none_is_named(kit: Any) -> None:
    kit.run()
    (kit.out / "journal.db").write_bytes(b"this is no database, whatever its name may say" * 40)
    for name in ("journal.db-wal", "journal.db-shm"):
        (kit.out / name).unlink(missing_ok=True)
    with pytest.raises(NfilterError, match=r"journal\.db: not a readable journal") as said:
        kit.run()
    assert f"move {kit.out} away and run again, which repeats all calls" in str(said.value)
    kit.out.rename(kit.home / "away")
    assert kit.run().metrics["samples"]["read"] == 10


@pytest.fixture
def editable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A plugin's package that is installed from where it is written: ``helper.py`` decides, ``stage.py`` is registered."""
    package = tmp_path / "editable_plugin"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "helper.py").write_text("WORD = 'one'\n")
    (package / "stage.py").write_text(EDITABLE)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield package
    for name in [name for name in sys.modules if name.startswith("editable_plugin")]:
        del sys.modules[name]


EDITABLE = """\
from nfilter import Contract, Generates, ModelNeed, Request, StageConfig
from editable_plugin import helper

class Config(StageConfig):
    pass

class Stage:
    name = "editable.stage"
    Config = Config

    def __init__(self, config):
        pass

    @classmethod
    def contract(cls, config):
        return Contract(writes=frozenset({"word"}), needs=(ModelNeed("student", Generates),))

    def process(self, chunk, state, ctx):
        ctx.model("student").generate([Request(s.context, sample_id=s.id) for s in chunk])
        return [s.note("word", helper.WORD) for s in chunk]
"""


def test_an_edited_plugin_runs_again_with_what_comes_after_and_asks_nothing_again(
    kit: Any, stage: Stage, asked: list[str], editable: Path
) -> None:
    def edited() -> type:
        provenance._tree.cache_clear()
        for name in [name for name in sys.modules if name.startswith("editable_plugin")]:
            del sys.modules[name]
        importlib.invalidate_caches()
        made: type = importlib.import_module("editable_plugin.stage").Stage
        return made

    before, after = stage("extra.before"), stage("extra.after")
    kit.run([before, edited(), after])
    (editable / "helper.py").write_text("WORD = 'two words'\n")
    kit.run([before, edited(), after])
    said = [text for text in kit.reporter.infos if "running again" in text]
    assert said == [
        "02-editable.stage: running again, because its inputs changed: plugin code",
        "03-extra.after: running again, because its inputs changed: input",
    ]
    assert {s.notes["word"] for s in kit.artefact("03-extra.after").samples()} == {"two words"}
    assert len(asked) == 10
    kit.run([before, edited(), after])
    assert [stage["reused"] for stage in kit.json("manifest.json")["stages"]] == [True] * 3


def test_other_code_of_the_engine_runs_everything_again(
    kit: Any, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    kit.run([stage("extra.a")])
    for module in ("ingest", "pipeline"):
        monkeypatch.setattr(f"nfilter.engine.{module}.core_code", lambda: "another")
    kit.run([stage("extra.a")])
    assert "source: running again, because its inputs changed: nfilter's code" in kit.reporter.infos  # fmt: skip
    assert "01-extra.a: running again, because its inputs changed: input, nfilter's code" in kit.reporter.infos  # fmt: skip
