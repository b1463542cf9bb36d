"""A model without weights, and a trainer that teaches it by heart."""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from nfilter import (
    Abilities,
    Adapts,
    Completion,
    Context,
    Contract,
    Encodes,
    Generates,
    Message,
    ModelRef,
    Needs,
    Request,
    Sample,
    Site,
    StageConfig,
    TokenSample,
    TrainingResult,
)

END = 0


class AdderConfig(StageConfig):
    """How far off its sums are."""

    off_by: int = Field(default=0, description="added to every sum")


class Adder:
    """Answers with the sum of the numbers in the question. It gives no log-probabilities."""

    name: ClassVar[str] = "example.adder"
    Config: ClassVar[type[StageConfig]] = AdderConfig

    @classmethod
    def abilities(cls, config: AdderConfig) -> Abilities:
        """Known before anything is built: ``nfilter check`` refuses a stage that needs more."""
        return Abilities(frozenset({Generates, Encodes, Adapts}), logprobs=False)

    @classmethod
    def problems(cls, config: AdderConfig, site: Site) -> Iterable[str]:
        """Nothing can be missing."""
        return ()

    def __init__(self, config: AdderConfig, site: Site) -> None:
        self.config = config

    def fingerprint(self) -> str:
        """What a cached answer may be reused for."""
        return f"example.adder off by {self.config.off_by}"

    def close(self) -> None:
        """There is nothing to let go of."""

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """One completion a request, in order."""
        return [self._complete(_question(request.messages)) for request in requests]

    def _complete(self, question: str) -> Completion:
        total = sum(int(number) for number in re.findall(r"\d+", question)) + self.config.off_by
        return Completion(
            str(total), prompt_tokens=len(question), completion_tokens=len(str(total))
        )

    def encode(
        self, samples: Sequence[Sample], *, max_length: int, turns: str
    ) -> list[TokenSample]:
        """One token a character; 0 ends every assistant's message."""
        return [_encode(sample, max_length, turns) for sample in samples]

    @contextmanager
    def adapted(self, ref: ModelRef) -> Iterator[Generates]:
        """The same model, with what was learned by heart."""
        learned = json.loads((Path(ref.path) / "memory.json").read_text(encoding="utf-8"))
        yield _Adapted(self, learned)


@dataclass(frozen=True)
class _Adapted:
    base: Adder
    learned: Mapping[str, str]

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        return [self._complete(request) for request in requests]

    def _complete(self, request: Request) -> Completion:
        known = self.learned.get(_question(request.messages))
        return Completion(known) if known is not None else self.base.generate([request])[0]


def _question(messages: Sequence[Message]) -> str:
    return next((message.content for message in reversed(messages) if message.role == "user"), "")


def _encode(sample: Sample, max_length: int, turns: str) -> TokenSample:
    ids: list[int] = []
    response: list[bool] = []
    turn: list[int] = []
    for index, message in enumerate(sample.messages):
        text = [ord(char) for char in message.content]
        last = index == len(sample.messages) - 1
        learned = message.role == "assistant" and (turns == "all" or last)
        ids += [*text, END]
        response += [learned] * (len(text) + 1)
        turn += [index] * (len(text) + 1)
    mask = np.array(response[:max_length], dtype=np.bool_)
    starts = np.arange(len(mask), dtype=np.int32)
    return TokenSample(
        id=sample.id,
        ids=np.array(ids[:max_length], dtype=np.int64),
        response=mask,
        turn=np.array(turn[:max_length], dtype=np.int16),
        spans=np.stack([starts, starts + 1], axis=1),
        weights=mask.astype(np.float32) * np.float32(sample.weight),
        cut=np.array(response[max_length:], dtype=np.bool_),
    )


class MemoryConfig(StageConfig):
    """Which model learns."""

    model: Annotated[str, Needs(Adapts)] = "student"


class Memory:
    """Learns every response by heart: the adapter is a table. Tokens without a weight are not learned."""

    name: ClassVar[str] = "example.memory"
    Config: ClassVar[type[StageConfig]] = MemoryConfig

    @classmethod
    def contract(cls, config: MemoryConfig) -> Contract:
        """The need of a model stands on the config's field."""
        return Contract()

    @classmethod
    def memory(cls, config: MemoryConfig, model_config: Any, site: Site) -> Mapping[str, float]:
        """Not known before the data is."""
        return {}

    def __init__(self, config: MemoryConfig) -> None:
        self.config = config

    def train(
        self,
        samples: Sequence[TokenSample],
        model: Any,
        out: Path,
        ctx: Context,
        start: ModelRef | None = None,
    ) -> TrainingResult:
        """One step a sample; the loss is 1 before a sample is learned, and 0 after the last one is."""
        begun = monotonic()
        learned: dict[str, str] = {}
        if start is not None:
            learned.update(
                json.loads((Path(start.path) / "memory.json").read_text(encoding="utf-8"))
            )
        for sample in samples:
            learned[_text(sample.ids[~sample.response])] = _text(sample.ids[sample.weights > 0])
        text = json.dumps(learned, sort_keys=True)
        (out / "memory.json").write_text(text, encoding="utf-8")
        ref = ModelRef(
            str(out), "adapter", model.fingerprint(), hashlib.sha256(text.encode()).hexdigest()
        )
        tokens = int(sum((sample.weights > 0).sum() for sample in samples))
        return TrainingResult(ref, len(samples), tokens, (1.0, 0.0), monotonic() - begun)


def _text(ids: Iterable[int]) -> str:
    return "".join(chr(value) for value in ids if value != END)
