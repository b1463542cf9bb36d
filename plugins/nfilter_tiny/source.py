"""The task world as a source: ``source: {use: tiny, split: train}``."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import ClassVar, Final, Literal

from pydantic import Field

from nfilter import JSON, Message, Row, Sample, SourceError, StageConfig, Unreadable
from nfilter_tiny.formats import worked
from nfilter_tiny.own_wrong import ROWS, own_wrong
from nfilter_tiny.world import FAMILIES, Problem, id_of, problems

_UNIFORM: Final = 8  # wrong answers drawn for each row; the noise takes one


class TinySourceConfig(StageConfig):
    """Which split of which domain, and how many of its rows (all by default).

    ``steps`` has the worked steps before the answer, as ``tiny/reason`` asks for them: responses long enough to clean by
    token. ``wrong`` adds a column of that name with wrong answers, for ``noise: {ratio: 0.5, wrong: wrong}``: ``uniform`` ones,
    each plausible one as likely (with a fault in the steps that leads to it), or the model's ``own``, which are direct.
    """

    split: Literal["train", "neighbors", "dev", "test"] = "train"
    domain: Literal["tasks", "say"] = "tasks"
    rows: int | None = Field(default=None, ge=1)
    steps: bool = False
    wrong: Literal["uniform", "own"] | None = None


class TinySource:
    """Questions of the embedded task world with their true answers; add ``noise:`` to make some wrong."""

    name: ClassVar[str] = "tiny"
    Config: ClassVar[type[StageConfig]] = TinySourceConfig

    @classmethod
    def problems(cls, config: TinySourceConfig, base_dir: Path) -> Iterable[str]:
        """There is nothing that could be missing."""
        del config, base_dir
        return ()

    @classmethod
    def columns(cls, config: TinySourceConfig, base_dir: Path) -> Mapping[str, str]:
        """The columns of the world's rows."""
        del config, base_dir
        return {"prompt": "question", "response": "answer", "id": "id"}

    def __init__(self, config: TinySourceConfig, base_dir: Path) -> None:
        del base_dir
        self.config = config

    def read(self) -> Iterator[Row | Unreadable]:
        """The rows of the split, always the same and in the same order."""
        config = self.config
        found = problems(config.split, config.domain)
        if config.rows is not None and config.rows > len(found):
            raise SourceError(
                f"split {config.split!r} of {config.domain!r} has {len(found)} rows; ask for no more than that"
            )
        for problem in found[: config.rows]:
            answer = worked(problem.steps, problem.answer) if config.steps else problem.answer
            messages = (Message("user", problem.question), Message("assistant", answer))
            meta: dict[str, JSON] = {"family": problem.family}
            if config.wrong is not None:
                meta["wrong"] = wrong_answers(problem, config.wrong, steps=config.steps)
            yield Row(Sample(id=id_of(problem), messages=messages, meta=meta))

    def restore(self, sample: Sample) -> Mapping[str, JSON]:
        """Back in the columns ``id``, ``question`` and ``answer``."""
        return {"id": sample.id, "question": sample.query, "answer": sample.response}


def wrong_answers(
    problem: Problem, kind: Literal["uniform", "own"], *, steps: bool = False
) -> list[JSON]:
    """Wrong answers to choose one from: always the same for a problem.

    Raises:
        SourceError: the model's own were not drawn for this row, or have no steps.
    """
    if kind == "uniform":
        rng = random.Random(f"nfilter-tiny wrong 2 {problem.key}")
        if steps:
            return [worked(*FAMILIES[problem.family].slip(rng, problem)) for _ in range(_UNIFORM)]
        return [FAMILIES[problem.family].wrong(rng, problem) for _ in range(_UNIFORM)]
    if steps:
        raise SourceError("the model's own wrong answers are direct: use wrong: uniform with steps")
    drawn = own_wrong()
    if id_of(problem) not in drawn:
        raise SourceError(
            f"the model's own wrong answers were drawn for the first {ROWS} rows of split 'train' alone: "
            "ask for no more rows, or use wrong: uniform"
        )
    return list(drawn[id_of(problem)])
