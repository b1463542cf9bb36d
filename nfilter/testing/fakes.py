"""Fakes with the signatures of the protocols: scripted models, a character tokenizer, a context without a run."""

from __future__ import annotations

import hashlib
import json
import logging
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from nfilter.api.calls import Completion, ModelRef, Request
from nfilter.api.capabilities import TokenizerDigest
from nfilter.api.model import Model
from nfilter.api.stages import AnswerKind, Progress, Template, TokenLoss
from nfilter.api.tool_settings import ToolUse, build_tool
from nfilter.api.tools import Tool, ToolSite
from nfilter.api.types import JSON, FloatArray, IntArray, Message, Sample, TokenSample
from nfilter.recipe.prompts import Prompts, shipped_directory
from nfilter.registry.loading import load as load_plugins
from nfilter.testing.stage_model import Results, StageModel


@dataclass
class FakeGenerator:
    """Answers each request with ``answer(request)``, a text or a ``Completion``, and records the requests."""

    name: ClassVar[str] = "fake"

    answer: Callable[[Request], str | Completion]
    logprob: float = -0.5
    requests: list[Request] = field(default_factory=list)

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """Return one completion per request, in order."""
        self.requests.extend(requests)
        return [self._complete(request) for request in requests]

    def _complete(self, request: Request) -> Completion:
        answer = self.answer(request)
        if isinstance(answer, Completion):
            return answer
        words = max(1, len(answer.split()))
        logprobs = (self.logprob,) * words if request.logprobs else None
        return Completion(answer, logprobs=logprobs, completion_tokens=words)


@dataclass
class FakeEncoder:
    """Embeds with ``vector(text)``, or with hashes of words: equal texts have equal vectors, similar texts near ones."""

    vector: Callable[[str], Sequence[float]] | None = None
    dimensions: int = 64

    def embed(self, texts: Sequence[str]) -> FloatArray:
        """Return one vector per text, float32 [n, d]."""
        rows = [self.vector(text) if self.vector else self._words(text) for text in texts]
        return np.asarray(rows, dtype=np.float32).reshape(len(texts), -1)

    def _words(self, text: str) -> Sequence[float]:
        total = np.zeros(self.dimensions)
        for word in text.split():
            digest = hashlib.sha256(word.encode()).digest()
            total += np.random.default_rng(int.from_bytes(digest[:8], "big")).normal(
                size=self.dimensions
            )
        return [float(value) for value in total]


@dataclass
class FakeScorer:
    """Scores tokens with ``loss(sample)``, [T], or by their ids, with losses from 0 to 4.

    Tokens that nothing predicts have NaN. With an adapter, ``shift`` is added.
    """

    loss: Callable[[TokenSample], Sequence[float]] | None = None
    shift: float = -0.5

    def score(
        self, samples: Sequence[TokenSample], adapter: ModelRef | None = None
    ) -> list[FloatArray]:
        """Return one array per sample, float32 [T]."""
        return [self._score(sample, self.shift if adapter else 0.0) for sample in samples]

    def _score(self, sample: TokenSample, shift: float) -> FloatArray:
        given = self.loss(sample) if self.loss else (sample.ids * 7919 % 401) / 100
        losses = np.asarray(given, dtype=np.float32) + np.float32(shift)
        return np.where(sample.predicted, losses, np.float32("nan")).astype(np.float32)


class FakeTokenizer:
    """Encodes each character as its code point, and the end of each turn as 0."""

    def encode(
        self, samples: Sequence[Sample], *, max_length: int = 4096, turns: str = "all"
    ) -> list[TokenSample]:
        """Return one token sample per sample; the response is every assistant turn, or only the last (``turns="last"``)."""
        return [self._encode(sample, max_length, turns) for sample in samples]

    def decode(self, ids: Sequence[IntArray]) -> list[str]:
        """Return the text of each list of ids, without the ends of turns."""
        return ["".join(chr(int(each)) for each in one if each) for one in ids]

    def tokenizer_digest(self) -> TokenizerDigest:
        """Return a constant digest."""
        return TokenizerDigest("characters", "turns that end in 0")

    def _encode(self, sample: Sample, max_length: int, turns: str) -> TokenSample:
        last = len(sample.messages) - 1
        parts = [
            (ord(char), number, message.role == "assistant" and (turns == "all" or number == last))
            for number, message in enumerate(sample.messages)
            for char in message.content + "\0"
        ]
        starts = np.arange(len(parts), dtype=np.int32)
        response = np.array([own for _, _, own in parts], dtype=np.bool_)
        kept = slice(0, max_length)
        return TokenSample(
            id=sample.id,
            ids=np.array([code for code, _, _ in parts], dtype=np.int64)[kept],
            response=response[kept],
            turn=np.array([number for _, number, _ in parts], dtype=np.int16)[kept],
            spans=np.stack([starts, starts + 1], axis=1)[kept],
            weights=(response * np.float32(sample.weight)).astype(np.float32)[kept],
            text="".join(message.content + "\0" for message in sample.messages),
            cut=response[max_length:],
        )


def token_sample(
    name: str = "a",
    response: str = "answer",
    *,
    prompt: str = "question",
    scores: Mapping[str, Sequence[float]] | None = None,
) -> TokenSample:
    """Return a token sample of one question and one answer, with one token per character (see ``FakeTokenizer``).

    ``scores`` has one number per response token, including its end; other tokens have NaN.
    """
    sample = Sample(name, (Message("user", prompt), Message("assistant", response)))
    (tokens,) = FakeTokenizer().encode([sample])
    for key, values in (scores or {}).items():
        whole = np.full(len(tokens.ids), np.nan, dtype=np.float32)
        whole[tokens.response] = np.asarray(values, dtype=np.float32)
        tokens = tokens.score(key, whole)
    return tokens


class _Log:
    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []

    def info(self, text: str) -> None:
        self.lines.append(("info", text))

    def warning(self, text: str) -> None:
        self.lines.append(("warning", text))
        logging.getLogger("nfilter.testing").info("%s", text)


class _Counter:
    def __init__(self) -> None:
        self.count = 0

    def advance(self, n: int = 1) -> None:
        self.count += n


class FakeContext:
    """A context without a run: named models, prompts from directories, random numbers from ``seed``."""

    def __init__(
        self,
        *,
        models: Mapping[str, Any] | None = None,
        answers: AnswerKind | str = "exact",
        prompts: Iterable[Path] = (),
        seed: int = 0,
        stage: str = "test.stage",
        base_dir: Path = Path(),
        loss: TokenLoss | None = None,
        rows: int | None = None,
        tools: Iterable[type[Any]] = (),
        stage_rows: Sequence[Sample] = (),
    ) -> None:
        """``tools`` are looked up before installed ones; ``stage_rows`` are the rows that tools read."""
        self.rows = rows
        self._tool_classes = {each.name: each for each in tools}
        self._stage_rows = stage_rows
        self._tools: dict[str, Tool] = {}
        self.models = dict(models or {})
        self.seed = seed
        self.stage = stage
        self.base_dir = base_dir
        self.loss = loss
        self.log = _Log()
        self._results = Results()
        self.published: list[ModelRef] = []
        self._scores: dict[tuple[str, str, bytes, bytes], FloatArray] = {}
        self._prompts = Prompts((*prompts, shipped_directory()))
        if isinstance(answers, str):
            from nfilter.answers import AnswerConfig, build

            answers = build(AnswerConfig.model_validate({"kind": answers}))
        self.answers: AnswerKind = answers

    def model(self, name: str) -> Model:
        """Return the model given under that name; ``models`` has the object itself."""
        return StageModel(name, self.models[name], self._results)

    def prompt(self, name: str) -> Template:
        """Return a template from the given directories or the shipped ones."""
        return self._prompts.get(name)

    def tools(self, uses: Sequence[ToolUse]) -> dict[str, Tool]:
        """Return the tools by name, each built once."""
        return {use.use: self._tool(use) for use in uses}

    def _tool(self, use: ToolUse) -> Tool:
        key = json.dumps(use.dump(), sort_keys=True)
        if key not in self._tools:
            known = self._tool_classes.get(use.use)
            cls = load_plugins().get("tool", use.use).cls if known is None else known
            site = ToolSite(self.base_dir, self._stage_rows, self.model)
            self._tools[key] = build_tool(cls, use, site)
        return self._tools[key]

    def rng(self, key: str) -> random.Random:
        """Return a generator seeded by seed, stage and key, as in a run."""
        return random.Random(f"{self.seed}\x1f{self.stage}\x1f{key}")

    @contextmanager
    def progress(
        self, total: int | None, text: str, note: Callable[[], str] | None = None
    ) -> Iterator[Progress]:
        """Yield a counter that shows nothing."""
        yield _Counter()

    def train(self, samples: Iterable[TokenSample], start: ModelRef | None = None) -> ModelRef:
        """Raise NotImplementedError; subclasses override it."""
        raise NotImplementedError("FakeContext has no trainer; subclass it and override train")

    def publish_model(self, ref: ModelRef) -> None:
        """Append the model to ``published``."""
        self.published.append(ref)

    def token_scores(
        self,
        model: str,
        what: str,
        samples: Sequence[TokenSample],
        compute: Callable[[Sequence[TokenSample]], Iterator[FloatArray]],
    ) -> list[FloatArray]:
        """Return the scores that ``compute`` yields; equal samples are computed once per context."""
        keys = [(model, what, s.ids.tobytes(), s.response.tobytes()) for s in samples]
        todo = {key: s for key, s in zip(keys, samples, strict=True) if key not in self._scores}
        if todo:
            self._scores.update(zip(todo, compute(list(todo.values())), strict=True))
        return [self._scores[key] for key in keys]


def view(answer: str | None, **more: JSON) -> dict[str, JSON]:
    """Return a view note with ``answer`` and default values; ``more`` replaces or adds keys."""
    note: dict[str, JSON] = {
        "answer": answer,
        "text": answer or "",
        "reasoning": None,
        "nll": 0.5,
        "tokens": 1,
        "calls": 1,
        "rounds": 0,
        "failure": None,
    }
    return {**note, **more}
