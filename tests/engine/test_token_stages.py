"""Token stages run as sample stages do: a run goes on inside one, takes what is whole, and names what is damaged."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nfilter import Contract, StageConfig, State, StoreError, TokenSample
from nfilter.store.token_chunks import open_tokens

RECIPE = """\
name: sums
answer: number
chunk: 4
models: {student: {use: example.adder}}
source: {use: example.qa, path: rows.qa, truth: true}
arms: [ARMS]
encode: {model: student}
tokens:
TOKENS
train: {use: example.memory, model: student}
evaluate: {metric: accuracy, source: {use: example.qa, path: test.qa}}
"""
ROWS = "".join(f"{n}+1 => {n + (6 if n < 2 else 1)} | {n + 1}\n" for n in range(10))
TOKENS = ("extra.score", "extra.mask, above: 7")


@dataclass
class Work:
    """How often two stages were called, and where the second one is interrupted."""

    calls: list[str] = field(default_factory=list)
    interrupt_at: str | None = None

    def stages(self) -> list[type]:
        return [type("Score", (Score,), {"work": self}), type("Mask", (Mask,), {"work": self})]


class Score:
    """Scores a token by its id; only the samples of even number have the second score."""

    name = "extra.score"
    Config = StageConfig
    work: Work

    def __init__(self, config: StageConfig) -> None:
        self.config = config

    @classmethod
    def contract(cls, config: StageConfig) -> Contract:
        return Contract(writes=frozenset({"id", "even"}))

    def process_tokens(
        self, chunk: Sequence[TokenSample], state: State, ctx: Any, bit: int
    ) -> list[TokenSample]:
        self.work.calls.append(f"score {question(chunk[0])}")
        return [self._one(sample) for sample in chunk]

    def _one(self, sample: TokenSample) -> TokenSample:
        scores = np.where(sample.response, sample.ids, np.nan).astype(np.float32)
        scored = sample.score("id", scores)
        even = int(question(sample).partition("+")[0]) % 2 == 0
        return scored.score("even", scores + 1) if even else scored


class MaskConfig(StageConfig):
    """The digit above which tokens are masked."""

    above: int = 7


class Mask:
    """Masks digits above ``above`` and, by a draw, some tokens more; learns the mean score."""

    name = "extra.mask"
    Config = MaskConfig
    work: Work

    def __init__(self, config: MaskConfig) -> None:
        self.config = config

    @classmethod
    def contract(cls, config: MaskConfig) -> Contract:
        return Contract(reads=frozenset({"id"}))

    def fit_tokens(self, stream: Iterable[TokenSample], ctx: Any) -> State:
        scores = np.concatenate([s.scores["id"][s.response] for s in stream])
        self.work.calls.append("fit")
        return State({"report": {"mean": float(scores.mean())}}, {"scores": scores})

    def process_tokens(
        self, chunk: Sequence[TokenSample], state: State, ctx: Any, bit: int
    ) -> list[TokenSample]:
        self.work.calls.append(f"mask {question(chunk[0])}")
        if self.work.interrupt_at in map(question, chunk):
            raise KeyboardInterrupt
        assert len(state.arrays["scores"]) > 0
        return [
            s.mask((s.ids - ord("0") > self.config.above) | self._drawn(s, ctx), bit) for s in chunk
        ]

    def _drawn(self, sample: TokenSample, ctx: Any) -> Any:
        rng = ctx.rng(sample.id)
        return np.array([rng.random() < 0.2 for _ in sample.ids], dtype=bool)


def question(sample: TokenSample) -> str:
    return "".join(map(chr, sample.ids[~sample.response][:-1]))


def recipe(arms: str = "cleaned", tokens: Sequence[str] = TOKENS) -> str:
    entries = "\n".join(f"  - {{use: {each}}}" for each in tokens)
    return RECIPE.replace("ARMS", arms).replace("TOKENS", entries)


Run = Callable[..., Any]


@pytest.fixture
def work() -> Work:
    return Work()


@pytest.fixture
def run(kit: Any, work: Work) -> Run:
    """Run the recipe with the given arms and token stages."""
    (kit.home / "test.qa").write_text("1+1 => 2\n3+1 => 4\n")

    def start(arms: str = "cleaned", tokens: Sequence[str] = TOKENS, **more: Any) -> Any:
        text = recipe(arms, tokens)
        return kit.run(more.pop("stages", work.stages()), rows=ROWS, text=text, **more)

    return start


def untimed(value: Any) -> Any:
    """The figures without the time that training took."""
    if isinstance(value, dict):
        return {key: untimed(each) for key, each in value.items() if key != "seconds"}
    return value


def chunks_of(folder: Path) -> dict[str, bytes]:
    """What is published of tokens, by name, but for times and seals."""
    files = [
        *folder.glob("0*/*.npz"),
        *folder.glob("0*/decisions-*.jsonl"),
        *folder.glob("0*/state/*"),
    ]
    files += [file for file in (folder / "tokens").iterdir() if file.suffix != ".json"]
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def test_figures_events_and_files_of_token_stages(kit: Any, run: Run, work: Work) -> None:
    events: list[Any] = []
    result = run(hooks={"stage_finished": lambda event: events.append(event)})  # noqa: PLW0108
    assert sorted(path.name for path in kit.out.glob("0*")) == [
        "00-source", "01-encode", "02-extra.score", "03-extra.mask",
    ]  # fmt: skip
    assert [event.stage for event in events] == ["02-extra.score", "03-extra.mask"]
    arrays = {path.stem: np.load(path) for path in (kit.out / "tokens").glob("*.npy")}
    masked = int((arrays["reasons"] == 2).sum())
    stages = result.metrics["tokens"]["stages"]
    assert stages["1-extra.score"] == {"masked": 0, "samples_emptied": 0}
    assert stages["2-extra.mask"]["masked"] == masked > 0
    mean = float(arrays["score-id"][arrays["response"]].mean())
    assert stages["2-extra.mask"]["report"] == {"mean": pytest.approx(mean, rel=1e-5)}
    assert result.metrics["tokens"]["response"] == int(arrays["response"].sum())
    assert result.metrics["tokens"]["in_loss"] == int(np.count_nonzero(arrays["weights"]))
    # Of the second score the odd samples have none.
    samples = {question(sample): sample for sample in kit.tokens("03-extra.mask").samples()}
    assert [name for name, sample in samples.items() if "even" in sample.scores] == [
        "0+1", "2+1", "4+1", "6+1", "8+1",
    ]  # fmt: skip
    emptied = [row["id"] for row in kit.tokens("03-extra.mask").decisions()]
    assert emptied == [s.id for s in samples.values() if not s.weights.any()]
    assert stages["2-extra.mask"]["samples_emptied"] == len(emptied) == events[1].dropped
    assert (events[0].kept, events[0].changed) == (10, 0)
    manifest = kit.json("manifest.json")
    assert [stage["stage"] for stage in manifest["token_stages"]] == [
        event.stage for event in events
    ]


def test_each_stage_writes_only_what_it_changed(kit: Any, run: Run) -> None:
    run()
    written = {}
    for name in ("01-encode", "02-extra.score", "03-extra.mask"):
        with np.load(kit.out / name / "chunk-000000.npz", allow_pickle=False) as file:
            written[name] = set(file.files)
    assert {"ids", "spans", "texts_bytes"} <= written["01-encode"]
    assert written["02-extra.score"] == {"score-id", "score-even", "rows-score-even"}
    assert written["03-extra.mask"] == {"weights", "reasons"}


def test_one_more_arm_runs_no_token_stage_again(kit: Any, run: Run, work: Work) -> None:
    first = run()
    work.calls.clear()
    before = chunks_of(kit.out)
    inode = (kit.out / "tokens").stat().st_ino
    second = run("raw, cleaned")
    assert work.calls == []
    assert chunks_of(kit.out) == before
    assert (kit.out / "tokens").stat().st_ino == inode
    assert second.metrics["tokens"] == first.metrics["tokens"]
    said = [text for text in kit.reporter.infos if text.startswith("0")]
    assert [text.endswith("(from an earlier run)") for text in said] == [True, True]
    assert [stage["reused"] for stage in kit.json("manifest.json")["token_stages"]] == [True, True]


def test_an_interrupted_token_stage_goes_on_and_ends_in_the_same_files(
    kit: Any, run: Run, work: Work
) -> None:
    whole = run(out=kit.home / "whole")
    work.interrupt_at = "5+1"
    with pytest.raises(KeyboardInterrupt):
        run(out=kit.home / "broken")
    work.interrupt_at = None
    work.calls.clear()
    broken = run(out=kit.home / "broken")
    # The first chunk of the second stage is there, and so is what it learned.
    assert work.calls == ["mask 4+1", "mask 8+1"]
    assert chunks_of(kit.home / "broken") == chunks_of(kit.home / "whole")
    assert len(chunks_of(kit.home / "whole")) > 20
    assert untimed(broken.metrics) == untimed(whole.metrics)


@pytest.mark.parametrize(
    ("change", "rerun"),
    [
        ({"assignments": ["tokens.1.above=5"]}, {"03-extra.mask": "config"}),
        (
            {"assignments": ["seed=1"]},
            {"01-encode": "input", "02-extra.score": "input, seed", "03-extra.mask": "input, seed"},
        ),
        (
            {"assignments": ["encode.max_length=64"]},
            {"01-encode": "config", "02-extra.score": "input", "03-extra.mask": "input"},
        ),
        ({"assignments": ["name=other"]}, {}),
    ],
)
def test_a_change_runs_again_what_depends_on_it_and_says_so(
    kit: Any, run: Run, change: dict[str, Any], rerun: dict[str, str]
) -> None:
    run()
    run(**change)
    said = dict(
        text.split(": running again, because its inputs changed: ")
        for text in kit.reporter.infos
        if "running again" in text and not text.startswith("source")
    )
    assert said == rerun


def test_another_order_gives_other_bits_and_removes_what_is_gone(
    kit: Any, run: Run, work: Work
) -> None:
    run(tokens=("extra.score", "extra.mask", "extra.mask, above: 5"))
    assert kit.json("tokens/index.json")["reasons"] == ["extra.score", "extra.mask", "extra.mask"]
    third = open_tokens(kit.out / "04-extra.mask", kit.tokens("03-extra.mask"))
    assert any((sample.reasons & np.uint32(4)).any() for sample in third.samples())
    run()
    assert not (kit.out / "04-extra.mask").exists()
    assert "04-extra.mask: no longer in the recipe; removed" in kit.reporter.infos
    # The same stage twice draws other numbers, and the first use draws the same as alone.
    alone = chunks_of(kit.out)
    run(tokens=("extra.score", "extra.mask", "extra.mask, above: 5"))
    assert chunks_of(kit.out)["03-extra.mask/chunk-000000.npz"] == alone["03-extra.mask/chunk-000000.npz"]  # fmt: skip


@pytest.mark.parametrize(
    "name",
    ["01-encode/chunk-000001.npz", "02-extra.score/chunk-000001.npz", "03-extra.mask/chunk-000002.npz",
     "03-extra.mask/state/scores.npy", "03-extra.mask/done.json", "03-extra.mask/decisions-000000.jsonl"],
)  # fmt: skip
def test_damage_is_named_and_healed(kit: Any, run: Run, work: Work, name: str) -> None:
    first = run()
    before = chunks_of(kit.out)
    file = kit.out / name
    file.write_bytes(file.read_bytes()[:-3] + b"xyz")
    work.calls.clear()
    second = run()
    stage = name.partition("/")[0]
    (said,) = [text for text in kit.reporter.warnings if text.startswith(f"{stage}: ")]
    assert re.search(rf"{name} (has other|is not JSON|has 3 bytes, and 0 were written)", said)
    assert chunks_of(kit.out) == before
    assert second.metrics["tokens"] == first.metrics["tokens"]
    assert {call.split()[0] for call in work.calls} == (
        {"encode": set(), "extra.score": {"score"}, "extra.mask": {"fit", "mask"}}[stage[3:]]
    )


def test_a_damaged_chunk_is_no_end_of_a_run_that_readers_trust(kit: Any, run: Run) -> None:
    from nfilter.report import reading

    run()
    opened = reading.open_run(kit.out)
    assert reading.ended(opened)
    assert [artefact.directory.name for artefact in reading.stages(opened)] == ["00-source"]
    shutil.rmtree(kit.out / "03-extra.mask")
    assert not reading.ended(opened)
    with pytest.raises(
        StoreError, match=r"03-extra\.mask: is not the artefact of the finished run"
    ):
        reading.last_finished(opened)


def test_what_encoding_warns_of_is_said_by_a_run_that_takes_it(kit: Any, run: Run) -> None:
    for _ in range(2):
        metrics = run(assignments=["encode.max_length=6"]).metrics
        said = [text for text in kit.reporter.warnings if text.startswith("arm cleaned: ")]
        assert len(said) == len(set(said)) > 0
        assert {"stage": "train.cleaned", "text": said[0], "times": 1} in metrics["warnings"]


def test_no_token_stage_is_asked_where_encoding_leaves_nothing(
    kit: Any, run: Run, work: Work
) -> None:
    from nfilter import NothingLeftError

    run()
    work.calls.clear()
    with pytest.raises(NothingLeftError):
        run(assignments=["encode.max_length=3"])
    assert work.calls == []
    assert kit.json("metrics.json")["tokens"]["stages"] == {}
    assert sorted(path.name for path in kit.out.glob("0*")) == ["00-source", "01-encode"]


# --- models that a stage trains and offers --------------------------------------------------------------------


class Teacher:
    """Trains a model on all samples, offers it, and is interrupted once when it processes."""

    name = "extra.teacher"
    Config = StageConfig
    fits = 0
    interrupt = False

    def __init__(self, config: StageConfig) -> None:
        self.config = config

    @classmethod
    def contract(cls, config: StageConfig) -> Contract:
        return Contract(trains=True)

    def fit_tokens(self, stream: Iterable[TokenSample], ctx: Any) -> State:
        Teacher.fits += 1
        ref = ctx.train(list(stream))
        ctx.publish_model(ref)
        return State({"reference": ref.path})

    def process_tokens(
        self, chunk: Sequence[TokenSample], state: State, ctx: Any, bit: int
    ) -> Sequence[TokenSample]:
        assert (Path(str(state.values["reference"])) / "memory.json").is_file()
        if Teacher.interrupt and question(chunk[0]) == "4+1":
            raise KeyboardInterrupt
        return chunk


ADOPTS = """\
name: sums
answer: number
chunk: 4
models: {student: {use: example.adder}}
source: {use: example.qa, path: rows.qa}
arms: [cleaned]
encode: {model: student}
tokens: [{use: extra.teacher}]
train: {use: adopt, from: extra.teacher, with: {use: example.memory, model: student}}
evaluate: {metric: accuracy, source: {use: example.qa, path: test.qa}}
"""


@pytest.fixture
def adopts(kit: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.setattr(Teacher, "fits", 0)
    monkeypatch.setattr(Teacher, "interrupt", False)
    (kit.home / "test.qa").write_text("1+1 => 2\n")
    return lambda **more: kit.run(
        [Teacher], rows=ROWS.replace(" | ", " => 0 | "), text=ADOPTS, **more
    )


def test_a_run_that_takes_a_stage_takes_the_model_that_it_offered(
    kit: Any, adopts: Callable[..., Any]
) -> None:
    first = adopts()
    memory = (kit.out / "adapters" / "cleaned" / "memory.json").read_bytes()
    shutil.rmtree(kit.out / "adapters")
    assert adopts().metrics["arms"] == first.metrics["arms"]
    assert Teacher.fits == 1
    assert (kit.out / "adapters" / "cleaned" / "memory.json").read_bytes() == memory
    # One that is damaged is no model to take.
    (model,) = (kit.out / "models").iterdir()
    (model / "memory.json").write_text("{}")
    adopts()
    assert Teacher.fits == 2
    (said,) = [text for text in kit.reporter.warnings if text.startswith("02-extra.teacher: ")]
    assert f"{model.name}/memory.json" in said
    assert (kit.out / "adapters" / "cleaned" / "memory.json").read_bytes() == memory


def test_a_run_that_was_moved_inside_a_stage_uses_no_path_of_its_old_place(
    kit: Any, adopts: Callable[..., Any]
) -> None:
    Teacher.interrupt = True
    with pytest.raises(KeyboardInterrupt):
        adopts()
    Teacher.interrupt = False
    kit.out.rename(kit.home / "moved")
    adopts(out=kit.home / "moved")
    assert Teacher.fits == 2
    assert "02-extra.teacher: the folder of the run was moved before it ended; it runs again" in kit.reporter.infos  # fmt: skip
    # Once it has ended, it may be moved.
    (kit.home / "moved").rename(kit.home / "again")
    adopts(out=kit.home / "again")
    assert Teacher.fits == 2
