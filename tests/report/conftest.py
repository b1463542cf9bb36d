"""A real run to read: the example plugin's source, models and trainer, and three stages made here."""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
from rich.console import Console

from nfilter import Contract, Message, Sample, StageConfig, State
from tests.made_plugins import make_module, make_point

RECIPE = """
name: sums
answer: number
chunk: 10
models:
  student: {use: example.adder, off_by: 1}
  expert: {use: example.adder}
source: {use: example.qa, path: sums.qa, truth: true}
samples:
  - {use: example.ask, llm: expert, into: view}
  - {use: story.check}
  - {use: story.mend}
  - {use: story.twin}
  - {use: story.select}
arms: [vanilla, raw, cleaned, truth]
encode: {model: student, max_length: 60}
tokens:
  - {use: example.first, keep: 2}
train: {use: example.memory, model: student}
evaluate: {metric: accuracy, max_tokens: 16, source: {use: example.qa, path: test.qa}}
"""


class Nothing(StageConfig):
    """No settings."""


class Check:
    """Flags a label that the view contradicts; the score falls with the number in question."""

    name: ClassVar[str] = "story.check"
    Config: ClassVar[type[StageConfig]] = Nothing

    @classmethod
    def contract(cls, config: Any) -> Contract:
        return Contract(
            reads=frozenset({"view"}),
            writes=frozenset({"verdict"}),
            verdicts=frozenset({"verdict"}),
        )

    def __init__(self, config: Any) -> None:
        pass

    def fit(self, stream: Iterable[Sample], ctx: Any) -> State:
        n = sum(1 for _ in stream)
        rate = {"estimate": 0.35, "low": 0.21, "high": 0.52, "n": n}
        return State({"report": {"estimated_noise_rate": rate}})

    def process(self, chunk: Sequence[Sample], state: State, ctx: Any) -> list[Sample]:
        return [self._one(sample) for sample in chunk]

    def _one(self, sample: Sample) -> Sample:
        answer = sample.notes["view"]["answer"]
        agrees = answer == sample.response
        score = round(0.1 + 0.005 * (int(answer) % 50) + (0.0 if agrees else 0.6), 3)
        verdict = {
            "flagged": not agrees,
            "noise_score": score,
            "agree": {"view": agrees},
            "vote": "all",
        }
        return sample.note("verdict", verdict).keep(
            f"view says {answer}, the label {sample.response}"
        )


class Mend:
    """Gives a flagged row the view's answer."""

    name: ClassVar[str] = "story.mend"
    Config: ClassVar[type[StageConfig]] = Nothing

    @classmethod
    def contract(cls, config: Any) -> Contract:
        view = frozenset({"view"})
        return Contract(reads=frozenset({"view", "verdict"}), writes=view, proposes=view)

    def __init__(self, config: Any) -> None:
        pass

    def process(self, chunk: Sequence[Sample], state: State, ctx: Any) -> list[Sample]:
        return [
            sample.note("view", sample.notes["view"]).relabel(
                sample.notes["view"]["answer"], "the view's answer stands in for a wrong label"
            )
            if sample.notes["verdict"]["flagged"]
            else sample
            for sample in chunk
        ]


class Twin:
    """Makes a new sample from the row 5+6."""

    name: ClassVar[str] = "story.twin"
    Config: ClassVar[type[StageConfig]] = Nothing

    @classmethod
    def contract(cls, config: Any) -> Contract:
        return Contract(new_samples=True)

    def __init__(self, config: Any) -> None:
        pass

    def process(self, chunk: Sequence[Sample], state: State, ctx: Any) -> list[Sample]:
        out = list(chunk)
        for sample in chunk:
            if sample.query == "5+6":
                turned = (Message("user", "6+5"), Message("assistant", sample.response))
                out.append(Sample(f"twin-{sample.id}", turned, parents=(sample.id,)))
        return out


class Select:
    """Drops what was relabelled to an even sum; halves the weight of sums over 40."""

    name: ClassVar[str] = "story.select"
    Config: ClassVar[type[StageConfig]] = Nothing

    @classmethod
    def contract(cls, config: Any) -> Contract:
        return Contract(reads=frozenset({"verdict"}))

    def __init__(self, config: Any) -> None:
        pass

    def process(self, chunk: Sequence[Sample], state: State, ctx: Any) -> list[Sample]:
        return [self._one(sample) for sample in chunk]

    def _one(self, sample: Sample) -> Sample:
        flagged = sample.notes.get("verdict", {}).get("flagged")
        if flagged and int(sample.response) % 2 == 0:
            return sample.drop("a new label with an even sum is not trusted")
        if int(sample.response) > 40:
            return sample.weigh(0.5, "a sum over 40 counts half")
        return sample


def catalogue() -> Any:
    """The example plugin, the metrics, and the stages above."""
    import nfilter_example

    import nfilter_metrics
    from nfilter.registry.loading import load

    story = make_module("story", stages=[Check, Mend, Twin, Select])
    modules = {"example": nfilter_example, "metrics": nfilter_metrics, "story": story}
    plugins = load([make_point(name, module, name) for name, module in modules.items()], ())
    assert plugins.failed == ()
    return plugins


def sums() -> list[tuple[str, int, int]]:
    """Question, label and truth of 25 rows; every third label is one too high, from the second row on."""
    rows = []
    for number in range(25):
        a, b = number + 1, number + 2 + number % 2
        rows.append((f"{a}+{b}", a + b + (number % 3 == 1), a + b))
    return rows


def write_world(folder: Path, recipe: str = RECIPE) -> Path:
    """Recipe, training rows (one line unreadable, one too long to encode) and test rows in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"{question} => {label} | {truth}" for question, label, truth in sums()]
    long = "+".join(["0"] * 40) + "+7"
    lines[3:3] = ["nothing to learn here \x1b[31m"]
    lines.append(f"{long} => 7 | 7")
    (folder / "sums.qa").write_text("\n".join(lines) + "\n", encoding="utf-8")
    tests = [f"{question} => {truth}" for question, _, truth in sums()]
    (folder / "test.qa").write_text("\n".join(tests) + "\n", encoding="utf-8")
    (folder / "sums.yaml").write_text(recipe, encoding="utf-8")
    return folder / "sums.yaml"


def settle(run: Path) -> None:
    """Set the time of a run to a constant, for golden files."""
    from nfilter.store.files import read_sealed, write_sealed

    path = run / "runs.json"
    (only,) = read_sealed(path, run)["runs"]
    write_sealed(path, {"runs": [{**only, "seconds": 12.34}]})


def reseal(run: Path) -> None:
    """Update the seals of files that a test changed."""
    from nfilter.store.files import write_sealed
    from nfilter.store.seals import sealed

    def again(record: Path, files: Any) -> None:
        for name in [*files]:
            if (record.parent / name).is_file():
                files[name] = sealed(record.parent / name)
            else:
                del files[name]

    records = [*run.glob("[0-9]*-*/done.json"), run / "tokens" / "index.json"]
    for record in (*records, run / "manifest.json"):
        if record.is_file():
            value = json.loads(record.read_text(encoding="utf-8"))
            value.pop("seal")
            again(record, value["artefact"]["files"] if "artefact" in value else value["files"])
            write_sealed(record, value)


@pytest.fixture
def written() -> Any:
    """``written(RUN)`` updates the seals of files that a test changed."""
    return reseal


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with ``runs/sums`` and ``runs/group`` (two seeds)."""
    from nfilter.engine.run import run
    from nfilter.engine.seeds import run_seeds
    from nfilter.recipe.model import load
    from nfilter.report.html import write_report

    folder = tmp_path_factory.mktemp("made")
    plugins = catalogue()
    recipe = load(write_world(folder), plugins)
    run(recipe, plugins, folder / "runs" / "sums")
    run_seeds(recipe, plugins, folder / "runs" / "group", [0, 1])
    for name in ("sums", "group/seed-0", "group/seed-1"):
        settle(folder / "runs" / name)
    for name in ("sums", "group"):
        metrics = json.loads((folder / "runs" / name / "metrics.json").read_text(encoding="utf-8"))
        write_report(folder / "runs" / name, metrics)
    return folder


@pytest.fixture
def world(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copy these runs into the working directory, where paths are short and tests may write."""
    shutil.copytree(made, tmp_path / "w")
    monkeypatch.chdir(tmp_path / "w")
    return tmp_path / "w"


@pytest.fixture
def id_of() -> Callable[..., str]:
    """``id_of("5+6")`` returns the id of the row with that question."""
    return find_id


def find_id(question: str, run: Path = Path("runs/sums")) -> str:
    """Return the id of the row with that question."""
    for path in sorted((run / "00-source").glob("chunk-*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            if row["messages"][0][1] == question:
                return str(row["id"])
    raise AssertionError(question)


@pytest.fixture
def shown() -> Callable[..., str]:
    """``shown(render, thing, ...)`` returns the output at 80 columns, without colours and trailing blanks."""

    def call(render: Callable[..., None], *args: Any, **more: Any) -> str:
        out = io.StringIO()
        console = Console(
            file=out, width=80, color_system=None, highlight=False, legacy_windows=False
        )
        render(*args, console, **more)
        return re.sub(r"[ \t]+\n", "\n", out.getvalue())

    return call
