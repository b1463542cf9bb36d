"""Texts that an encoder does not read to their end: a stage warns of them once, with counts and a remedy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import pytest

from nfilter import Abilities, CutCounter, CutTexts, Embeds, Sample, StageConfig


class Letters:
    """An encoder whose window has five letters."""

    name: ClassVar[str] = "extra.letters"

    class Config(StageConfig):
        """What it reads of a text that is longer."""

        part: str = "head"

    @classmethod
    def abilities(cls, config: Any) -> Abilities:
        return Abilities(frozenset({Embeds}))

    @classmethod
    def problems(cls, config: Any, site: Any) -> Sequence[str]:
        return ()

    def __init__(self, config: Any, site: Any) -> None:
        self.read = config.part
        self.longer = self.texts = 0

    def fingerprint(self) -> str:
        return f"letters {self.read}"

    def close(self) -> None:
        pass

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        self.longer += sum(len(text) > 5 for text in texts)
        self.texts += len(texts)
        return np.zeros((len(texts), 2), np.float32)

    def take_cut_texts(self) -> CutTexts | None:
        found = CutTexts(self.longer, self.texts, 5, self.read, "part")
        self.longer = self.texts = 0
        return found


def embedding(chunk: Sequence[Sample], state: Any, ctx: Any) -> Sequence[Sample]:
    ctx.model("encoder").embed([sample.query for sample in chunk])
    return chunk


@pytest.mark.types("or «»: mean for all of it, on models")
@pytest.mark.parametrize(("read", "lost", "other"), [("head", "end", "tail"), ("tail", "beginning", "head"), ("mean", "", "")])  # fmt: skip
def test_a_stage_warns_once_of_what_its_encoder_did_not_read(
    kit: Any, stage: Any, read: str, lost: str, other: str
) -> None:
    rows = "1+1 => 2\n10+10 => 20\n100+100 => 200\n1000+1 => 1001\n7+1 => 8\n"
    models = "models: {{student: {{use: example.adder}}, letters: {{use: extra.letters, part: {}}}, encoder: letters}}\n"
    stages = [stage("extra.near", embedding), stage("extra.none")]

    def run(part: str) -> list[str]:
        kit.run(
            stages, rows=rows, more=models.format(part), chunk=2, hooks={"backends": [Letters]}, out=kit.home / part,
        )  # fmt: skip
        return list(kit.reporter.warnings)

    wanted = (
        f"01-extra.near: 2 of 5 texts are longer than the window of letters (5 tokens), which read their {read} alone; where "
        f"the {lost} matters, set part: {other}, or part: mean for all of it, on models: letters"
    )
    assert run(read) == ([wanted] if lost else [])
    if lost:  # the settings that are named
        (warned,) = run(other)
        assert f"which read their {other} alone" in warned
        assert run("mean") == []


def test_texts_are_counted_until_they_are_taken() -> None:
    counter = CutCounter("head", "part")
    assert counter.take() is None
    counter.add(1, 3, 5)
    counter.add(0, 2, 6)
    assert counter.take() == CutTexts(1, 5, 6, "head", "part")
    assert counter.take() is None
