"""A small run to look at: the example plugin's source and models, a checker, a mender and hostile rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from nfilter import Contract, Sample, StageConfig, State, Verdict, View
from nfilter.engine.run import RunResult, run
from nfilter.recipe.model import load

HOSTILE = '</script><img src=x onerror="document.title=1">{{7*7}}\x1b[2J\u202e'
RECIPE = """
name: sums
answer: number
chunk: 8
models:
  student: {use: example.adder, off_by: 1}
  expert: {use: example.adder}
source: {use: example.qa, path: sums.qa, truth: true}
samples:
  - {use: view.ask, llm: expert, into: reasoning}
  - {use: view.check}
  - {use: view.mend}
  - {use: view.select}
"""


class Nothing(StageConfig):
    """No settings."""


class AskConfig(StageConfig):
    """The model that answers, and where."""

    llm: str = "expert"
    into: str = "reasoning"


class Ask:
    """Asks the model, and writes a view with hostile reasoning."""

    name: ClassVar[str] = "view.ask"
    Config: ClassVar[type[StageConfig]] = AskConfig

    @classmethod
    def contract(cls, config: Any) -> Contract:
        from nfilter import Generates, ModelNeed

        return Contract(
            writes=frozenset({config.into, "guess"}),
            views=frozenset({config.into, "guess"}),
            needs=(ModelNeed(config.llm, Generates, field="llm"),),
        )

    def __init__(self, config: Any) -> None:
        self.config = config

    def process(self, chunk: Sequence[Sample], state: State, ctx: Any) -> list[Sample]:
        from nfilter import Request

        requests = [Request(sample.context, sample_id=sample.id) for sample in chunk]
        answers = ctx.model(self.config.llm).generate(requests)
        out = []
        for sample, answer in zip(chunk, answers, strict=True):
            view = View(answer.text, answer.text, reasoning=HOSTILE, nll=len(answer.text) / 10)
            guess = View("7" if len(sample.query) % 2 else answer.text, "g")
            out.append(sample.note(self.config.into, view.to_json()).note("guess", guess.to_json()))
        return out


class Check:
    """Flags a label that the view contradicts."""

    name: ClassVar[str] = "view.check"
    Config: ClassVar[type[StageConfig]] = Nothing

    @classmethod
    def contract(cls, config: Any) -> Contract:
        return Contract(
            reads=frozenset({"reasoning"}),
            writes=frozenset({"check"}),
            verdicts=frozenset({"check"}),
        )

    def __init__(self, config: Any) -> None:
        pass

    def process(self, chunk: Sequence[Sample], state: State, ctx: Any) -> list[Sample]:
        return [self._one(sample) for sample in chunk]

    def _one(self, sample: Sample) -> Sample:
        view = View.of(sample, "reasoning")
        assert view is not None
        flagged = view.answer != sample.response
        score = (0.6 if flagged else 0.1) + (int(sample.query.split("+")[0]) % 10) / 40
        return sample.note("check", Verdict(flagged, score).to_json()).keep(
            f"flagged {HOSTILE}" if flagged else "the view agrees"
        )


class Mend:
    """Takes the answer of the view where the label is flagged."""

    name: ClassVar[str] = "view.mend"
    Config: ClassVar[type[StageConfig]] = Nothing

    @classmethod
    def contract(cls, config: Any) -> Contract:
        return Contract(reads=frozenset({"check", "reasoning"}))

    def __init__(self, config: Any) -> None:
        pass

    def process(self, chunk: Sequence[Sample], state: State, ctx: Any) -> list[Sample]:
        out = []
        for sample in chunk:
            verdict, view = Verdict.of(sample, "check"), View.of(sample, "reasoning")
            assert verdict is not None
            assert view is not None
            answer = view.answer
            flagged = verdict.flagged and answer is not None
            out.append(
                sample.relabel(str(answer), f"the view says '{answer}'") if flagged else sample
            )
        return out


class Select:
    """Drops rows with an odd new label."""

    name: ClassVar[str] = "view.select"
    Config: ClassVar[type[StageConfig]] = Nothing

    @classmethod
    def contract(cls, config: Any) -> Contract:
        return Contract(reads=frozenset({"check"}))

    def __init__(self, config: Any) -> None:
        pass

    def process(self, chunk: Sequence[Sample], state: State, ctx: Any) -> list[Sample]:
        out = []
        for sample in chunk:
            verdict = Verdict.of(sample, "check")
            odd = verdict is not None and verdict.flagged and int(sample.response or "0") % 2 == 1
            out.append(sample.drop("a new label that is odd") if odd else sample)
        return out


def rows() -> str:
    """24 sums, every third label wrong."""
    out = []
    for n in range(24):
        right = n + 2 * n
        out.append(f"{n}+{2 * n} => {right + (n % 3 == 0)} | {right}")
    return "\n".join([*out, f"nothing to read {HOSTILE}"]) + "\n"


@pytest.fixture
def plugins(catalogue: Callable[..., Any]) -> Any:
    return catalogue(stages=[Ask, Check, Mend, Select])


@pytest.fixture
def runs(tmp_path: Path, plugins: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., RunResult]:
    """``runs(name)`` runs the recipe in runs/NAME of an empty folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sums.qa").write_text(rows(), encoding="utf-8")
    (tmp_path / "recipe.yaml").write_text(RECIPE, encoding="utf-8")

    def make(name: str = "sums", assignments: Iterable[str] = ()) -> RunResult:
        recipe = load(tmp_path / "recipe.yaml", plugins, list(assignments))
        return run(recipe, plugins, tmp_path / "runs" / name)

    return make
