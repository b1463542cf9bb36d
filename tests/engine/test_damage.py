"""Every kind of file of a run, damaged in every way: the same command makes it whole, or says what is wrong."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import nfilter_example
import numpy as np
import pytest
from nfilter_example.model import Adder

import nfilter_export
from nfilter import (
    Contract,
    NfilterError,
    Request,
    Sample,
    StageConfig,
    State,
    StoreError,
    hookimpl,
)
from nfilter.engine.export import export
from nfilter.engine.run import run
from nfilter.recipe.model import load
from nfilter.registry.loading import Plugins
from nfilter.registry.loading import load as load_plugins
from nfilter.report.audit import audit
from nfilter.report.compare import compare
from nfilter.report.explain import explain
from nfilter.store import seals

ROWS = "no sum\n" + "".join(f"{n}+1 => {n + (6 if n < 4 else 1)} | {n + 1}\n" for n in range(10))
TEST = "".join(f"{n}+1 => {n + 1}\n" for n in range(6))
RECIPE = """\
name: sums
answer: number
chunk: 4
models:
  student: {use: example.adder, off_by: 1}
  expert: {use: example.adder}
source: {use: example.qa, path: rows.qa, truth: true}
samples:
  - {use: example.ask, llm: expert, into: view}
  - {use: extra.fit}
  - {use: extra.judge}
  - {use: example.agree, view: view}
arms: [vanilla, raw, cleaned]
encode: {model: student}
tokens:
  - {use: example.first, keep: 2}
train: {use: example.memory, model: student}
evaluate: {metric: accuracy, source: {use: example.qa, path: test.qa}}
"""
Damage = Callable[[Path], None]


def fit(stream: Any, ctx: Any) -> State:
    names = [sample.query for sample in stream]
    report = {"rows": len(names)}
    return State(
        {"report": report, "names": names}, {"size": np.arange(len(names), dtype=np.int64)}
    )


def measure(chunk: Sequence[Sample], state: Any, ctx: Any) -> list[Sample]:
    names = list(state.values["names"])
    return [s.note("place", int(state.arrays["size"][names.index(s.query)])) for s in chunk]


def flag(chunk: Sequence[Sample], state: Any, ctx: Any) -> list[Sample]:
    return [
        sample.note(
            "verdict",
            {
                "flagged": sample.notes["view"]["answer"] != sample.response,  # type: ignore[index, call-overload]
                "noise_score": 0.5,
                "agree": {},
                "vote": "all",
            },
        )
        for sample in chunk
    ]


class World:
    """One run that is whole, what it left, and what every reader says of it."""

    def __init__(self, home: Path, plugins: Plugins) -> None:
        self.home = home
        self.plugins = plugins
        self.asked = 0
        for name, text in (("rows.qa", ROWS), ("test.qa", TEST), ("r.yaml", RECIPE)):
            (home / name).write_text(text, encoding="utf-8")
        self.whole = home / "whole"
        self.run(self.whole)
        self.calls = self.asked
        self.left = left(self.whole)
        self.said = dict(self.read(self.whole))

    def run(self, out: Path) -> StoreError | None:
        """Run the recipe; the error that it ended with."""
        self.asked = 0
        try:
            run(load(self.home / "r.yaml", self.plugins), self.plugins, out)
        except StoreError as error:
            return error
        return None

    def read(self, out: Path) -> Iterator[tuple[str, Any]]:
        """What every command that reads a run says of it; an error of nfilter's own tree is one, any other is raised."""
        row = json.loads((self.whole / "dropped.jsonl").read_text().splitlines()[0])["id"]
        kept = json.loads((self.whole / "04-example.agree" / "chunk-000002.jsonl").read_text().splitlines()[0])["id"]  # fmt: skip
        readers: dict[str, Callable[[], Any]] = {
            "explain": lambda: story(out, row),
            "explain kept": lambda: story(out, kept),
            "explain line": lambda: story(out, "line:1"),
            "compare": lambda: table(out),
            "export": lambda: self.exported(out),
            "audit": lambda: audited(out),
        }
        for name, reader in readers.items():
            try:
                yield name, reader()
            except NfilterError as error:
                yield name, error

    def exported(self, out: Path) -> dict[str, bytes]:
        target = self.home / "exported"
        shutil.rmtree(target, ignore_errors=True)
        export(out, self.plugins, "trl", target)
        return {path.name: path.read_bytes() for path in sorted(target.iterdir())}


def story(out: Path, name: str) -> Any:
    return replace(explain(out, name, show_truth=True, show_tokens=True), run="")


def table(out: Path) -> Any:
    return replace(compare([out]), runs=[""])


def audited(out: Path) -> Any:
    for name in ("audit.csv", "audit.json"):
        (out / name).unlink(missing_ok=True)
    return replace(audit(out, n=6), run="", sheet="", record="")


def left(out: Path) -> dict[str, Any]:
    """All that a run leaves for others, without the times that things took."""
    found: dict[str, Any] = {
        str(path.relative_to(out)): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.suffix in (".jsonl", ".npy", ".npz") or path.name == "memory.json"
    }
    for name in ("metrics.json", "recipe.lock.yaml"):
        found[name] = untimed((out / name).read_text(encoding="utf-8"))
    return found


def untimed(text: str) -> list[str]:
    """The lines of a file of values, without times and without the warnings of damage that was healed."""
    values = json.loads(text) if text.startswith("{") else None
    if isinstance(values, dict):
        values.pop("warnings", None)
        text = json.dumps(values, indent=1)
    return [line for line in text.splitlines() if "seconds" not in line]


def removed(path: Path) -> None:
    path.unlink()


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def cut(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def cut_at_the_end(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2])


def edited(path: Path) -> None:
    """The last digit, or else the last byte but one, is another one."""
    data = bytearray(path.read_bytes() or b"0")
    at = max((i for i, byte in enumerate(data) if 48 <= byte <= 57), default=len(data) - 2)
    data[at] = 48 + (data[at] - 47) % 10 if 48 <= data[at] <= 57 else data[at] ^ 1
    path.write_bytes(bytes(data))


def a_line_twice(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data + (data.splitlines(keepends=True) or [b"{}\n"])[-1])


def stray(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\xff\xfe\x00")


def stray_inside(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:40] + b"\xff" + data[40:])


def a_list(path: Path) -> None:
    path.write_bytes(b"[1, 2]\n")


def deep(path: Path) -> None:
    path.write_bytes(b"[" * 100_000)


def other_types(path: Path) -> None:
    """Every number in it is a text."""
    path.write_bytes(
        b"".join(b'"x"' if 48 <= byte <= 57 else bytes([byte]) for byte in path.read_bytes())
    )


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "inside").write_text("x")


WAYS: tuple[Damage, ...] = (
    removed, emptied, cut, cut_at_the_end, edited, a_line_twice, stray, stray_inside, a_list, deep, other_types, a_folder,
)  # fmt: skip
FILES = (
    "00-source/chunk-000000.jsonl", "00-source/decisions-000001.jsonl", "00-source/done.json", "00-source/fingerprint",
    "01-example.ask/chunk-000001.jsonl", "01-example.ask/decisions-000000.jsonl", "01-example.ask/done.json",
    "02-extra.fit/state/state.json", "02-extra.fit/state/size.npy", "02-extra.fit/chunk-000002.jsonl",
    "03-extra.judge/fingerprint", "04-example.agree/chunk-000000.jsonl", "04-example.agree/decisions-000001.jsonl",
    "04-example.agree/done.json", "05-encode/chunk-000001.npz", "05-encode/decisions-000000.jsonl", "05-encode/done.json",
    "06-example.first/chunk-000000.npz", "06-example.first/decisions-000001.jsonl", "06-example.first/fingerprint", "truth.jsonl", "quarantine.jsonl", "cleaned.jsonl", "dropped.jsonl", "metrics.json",
    "manifest.json", "runs.json", "recipe.lock.yaml", "tokens/index.json", "tokens/ids.npy", "tokens/weights.npy", "tokens/texts.jsonl",
    "tokens/offsets.npy", "adapters/raw/memory.json", "adapters/raw/nfilter.json", "evaluation/raw.jsonl",
    "evaluation/vanilla.jsonl", "journal.db", "report.html", "run.log",
)  # fmt: skip
PAIRS = (
    ("00-source/chunk-000000.jsonl", "00-source/chunk-000001.jsonl"),
    ("01-example.ask/chunk-000001.jsonl", "02-extra.fit/chunk-000001.jsonl"),
    ("01-example.ask/done.json", "02-extra.fit/done.json"),
    ("02-extra.fit/fingerprint", "03-extra.judge/fingerprint"),
    ("04-example.agree/decisions-000000.jsonl", "04-example.agree/decisions-000001.jsonl"),
    ("02-extra.fit", "03-extra.judge"),
    ("05-encode/chunk-000000.npz", "05-encode/chunk-000001.npz"),
    ("05-encode/chunk-000001.npz", "06-example.first/chunk-000001.npz"),
    ("05-encode", "06-example.first"),
    ("tokens/ids.npy", "tokens/offsets.npy"),
    ("tokens/index.json", "manifest.json"),
    ("adapters/raw/memory.json", "adapters/cleaned/memory.json"),
    ("adapters/raw", "adapters/cleaned"),
    ("evaluation/raw.jsonl", "evaluation/vanilla.jsonl"),
    ("cleaned.jsonl", "dropped.jsonl"),
    ("truth.jsonl", "quarantine.jsonl"),
)
FOLDERS = (
    "00-source", "01-example.ask", "02-extra.fit/state", "04-example.agree", "05-encode", "06-example.first", "tokens", "adapters",
    "adapters/raw", "evaluation",
)  # fmt: skip


def swapped(one: str, other: str) -> Damage:
    def swap(out: Path) -> None:
        (out / one).rename(out / "aside")
        (out / other).rename(out / one)
        (out / "aside").rename(out / other)

    return swap


def gone(name: str) -> Damage:
    return lambda out: shutil.rmtree(out / name)


def a_file(name: str) -> Damage:
    def put(out: Path) -> None:
        shutil.rmtree(out / name)
        (out / name).write_text("x")

    return put


def one_more(name: str, copy: str) -> Damage:
    def put(out: Path) -> None:
        shutil.copy(out / name, out / copy)

    return put


def at(way: Damage, name: str) -> Damage:
    return lambda out: way(out / name)


DAMAGES: Mapping[str, Damage] = {
    **{f"{way.__name__} {name}": at(way, name) for name in FILES for way in WAYS},
    **{f"swapped {one} {other}": swapped(one, other) for one, other in PAIRS},
    **{f"gone {name}": gone(name) for name in FOLDERS},
    **{f"a file {name}": a_file(name) for name in FOLDERS},
    "a chunk more": one_more("01-example.ask/chunk-000002.jsonl", "01-example.ask/chunk-000003.jsonl"),
    "a chunk of tokens more": one_more("06-example.first/chunk-000000.npz", "06-example.first/chunk-000009.npz"),
    "a chunk more of the last": one_more("04-example.agree/chunk-000000.jsonl", "04-example.agree/chunk-000003.jsonl"),
}  # fmt: skip
# Every kind of file, and every way, in a tenth of the time.
QUICK = sorted(DAMAGES)[:: max(1, len(DAMAGES) // 24)]


class Plain(StageConfig):
    """No settings."""


def stage(label: str, process: Any, contract: Contract, fit: Any = None) -> type:
    members: dict[str, Any] = {
        "name": label,
        "Config": Plain,
        "__init__": lambda self, config: None,
        "contract": classmethod(lambda cls, config: contract),
        "process": lambda self, chunk, state, ctx: process(chunk, state, ctx),
    }
    if fit is not None:
        members["fit"] = lambda self, stream, ctx: fit(stream, ctx)
    return type("Stage", (), members)


def points() -> list[Any]:
    extra = ModuleType("extra")
    stages = [
        stage("extra.fit", measure, Contract(writes=frozenset({"place"})), fit),
        stage(
            "extra.judge",
            flag,
            Contract(
                reads=frozenset({"view"}),
                writes=frozenset({"verdict"}),
                verdicts=frozenset({"verdict"}),
            ),
        ),
    ]
    extra.nfilter_stages = hookimpl(lambda: stages)  # type: ignore[attr-defined]
    modules = {"example": nfilter_example, "export": nfilter_export, "extra": extra}
    return [
        SimpleNamespace(
            name=name,
            value=name,
            dist=SimpleNamespace(name=name, version="1"),
            load=lambda module=module: module,
        )
        for name, module in modules.items()
    ]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    plugins = load_plugins(points(), ())
    assert plugins.failed == ()
    with pytest.MonkeyPatch.context() as patch:
        made: list[World] = []
        generate = Adder.generate

        def counting(self: Any, requests: Sequence[Request]) -> Any:
            made[0].asked += len(requests)
            return generate(self, requests)

        patch.setattr(Adder, "generate", counting)
        world = World.__new__(World)
        made.append(world)
        World.__init__(world, tmp_path_factory.mktemp("damage"), plugins)
        yield world


def judged(world: World, name: str) -> str:
    """What became of one damage: ``healed``, or ``named`` by the run itself."""
    out = world.home / "damaged"
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(world.whole, out)
    DAMAGES[name](out)
    for reader, said in world.read(out):
        if isinstance(said, StoreError):
            assert str(out) in str(said), (name, reader, said)
            assert re.search(r"nfilter run|same command|move .* away|put .* back", str(said)), said
            continue
        assert not isinstance(said, NfilterError), (name, reader, said)
        if getattr(said, "status", None) != "undecided" and not getattr(said, "gaps", None):
            assert said == world.said[reader], (name, reader)
    refused = world.run(out)
    if refused is not None:
        assert str(out) in str(refused), (name, refused)
        return "named"
    assert left(out) == world.left, name
    if "journal" not in name:
        assert world.asked == 0, name
    after = dict(world.read(out))
    assert after == world.said, name
    return "healed"


@pytest.mark.types("run the command that made it again")
@pytest.mark.parametrize("name", QUICK)
def test_a_damage_is_healed_or_named(world: World, name: str) -> None:
    assert judged(world, name) in ("healed", "named")


@pytest.mark.slow
def test_every_damage_is_healed_or_named(world: World) -> None:
    ends: Counter[str] = Counter()
    faults = []
    for name in DAMAGES:
        try:
            ends[judged(world, name)] += 1
        except Exception as error:  # noqa: BLE001 - all are told at once
            faults.append(f"{name}: {error!r}"[:400])
    assert faults == []
    print(f"{len(DAMAGES)} damages: {dict(ends)}")
    assert ends["healed"] > 0.85 * len(DAMAGES)


def test_a_look_that_compares_nothing_would_let_damage_pass(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seals, "_compare", lambda *_: None)
    with pytest.raises(AssertionError):
        judged(world, "edited 04-example.agree/chunk-000000.jsonl")
