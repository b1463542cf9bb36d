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

_UNIFORM: Final = 8  # wrong answers drawn per row, of which the noise takes one


class TinySourceConfig(StageConfig):
    """Split, domain and number of rows (default: all).

    ``steps`` puts the worked steps before the answer, as ``tiny/reason`` requests: responses long enough for token-level cleaning.
    ``wrong`` adds a column ``wrong`` with wrong answers, for ``noise: {ratio: 0.5, wrong: wrong}``: ``uniform`` ones, equally likely among
    plausible ones (with steps: a fault that leads to them), or the model's ``own``, which are direct answers.
    """

    split: Literal["train", "neighbors", "dev", "test"] = Field(
        default="train", description="The split that is read."
    )
    domain: Literal["tasks", "say"] = Field(
        default="tasks", description="tasks: short questions with one answer; say: free text."
    )
    rows: int | None = Field(
        default=None, ge=1, description="Rows, from the first on; null takes all."
    )
    steps: bool = Field(default=False, description="Put the worked steps before the answer.")
    wrong: Literal["uniform", "own"] | None = Field(
        default=None,
        description="The wrong answers in an added column: uniform among plausible ones, or the model's own.",
    )


class TinySource:
    """Questions of the embedded task world with their true answers; add ``noise:`` to make some wrong."""

    name: ClassVar[str] = "tiny"
    Config: ClassVar[type[StageConfig]] = TinySourceConfig

    @classmethod
    def problems(cls, config: TinySourceConfig, base_dir: Path) -> Iterable[str]:
        return ()

    @classmethod
    def columns(cls, config: TinySourceConfig, base_dir: Path) -> Mapping[str, str]:
        """Return the columns of the world's rows."""
        return {"prompt": "question", "response": "answer", "id": "id"}

    def __init__(self, config: TinySourceConfig, base_dir: Path) -> None:
        self.config = config

    def read(self) -> Iterator[Row | Unreadable]:
        """Yield the rows of the split, always in the same order."""
        config = self.config
        available = problems(config.split, config.domain)
        if config.rows is not None and config.rows > len(available):
            raise SourceError(
                f"split {config.split!r} of {config.domain!r} has {len(available)} rows; set rows to at most that"
            )
        for problem in available[: config.rows]:
            answer = worked(problem.steps, problem.answer) if config.steps else problem.answer
            messages = (Message("user", problem.question), Message("assistant", answer))
            meta: dict[str, JSON] = {"family": problem.family}
            if config.wrong is not None:
                meta["wrong"] = wrong_answers(problem, config.wrong, steps=config.steps)
            yield Row(Sample(id=id_of(problem), messages=messages, meta=meta))

    def restore(self, sample: Sample) -> Mapping[str, JSON]:
        """Return the row with columns ``id``, ``question`` and ``answer``."""
        return {"id": sample.id, "question": sample.query, "answer": sample.response}


def wrong_answers(
    problem: Problem, kind: Literal["uniform", "own"], *, steps: bool = False
) -> list[JSON]:
    """Return wrong answers to choose from, always the same for a problem.

    Raises:
        SourceError: if the model's own answers were not drawn for this row, or are requested with steps.
    """
    if kind == "uniform":
        rng = random.Random(f"nfilter-tiny wrong 2 {problem.key}")
        if steps:
            return [worked(*FAMILIES[problem.family].slip(rng, problem)) for _ in range(_UNIFORM)]
        return [FAMILIES[problem.family].wrong(rng, problem) for _ in range(_UNIFORM)]
    if steps:
        raise SourceError(
            "the model's own wrong answers have no steps: use wrong: uniform with steps"
        )
    drawn = own_wrong()
    if id_of(problem) not in drawn:
        raise SourceError(
            f"the model's own wrong answers exist only for the first {ROWS} rows of split 'train': "
            "set rows to at most that, or use wrong: uniform"
        )
    return list(drawn[id_of(problem)])
