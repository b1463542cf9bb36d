"""A model behind an inference engine: what a backend around one is made of."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from nfilter.api.calls import Completion, ModelRef, Request
from nfilter.api.capabilities import (
    Abilities,
    Adapts,
    Checkpoint,
    Encodes,
    Generates,
    OpenStreams,
    Scores,
    Streams,
    TokenizerDigest,
    Tokenizes,
)
from nfilter.api.errors import ModelError
from nfilter.api.stages import Site
from nfilter.api.types import FloatArray, IntArray, Sample, TokenSample
from nfilter.models.engines.adapters import usable_adapter
from nfilter.models.engines.answers import answers
from nfilter.models.engines.interface import EngineAdapter, InferenceEngine
from nfilter.models.engines.kind import EngineKind
from nfilter.models.engines.reader import reader_class, reader_config
from nfilter.models.engines.scores import score

ENGINE_ABILITIES: Final = Abilities(
    frozenset({Generates, Streams, OpenStreams, Scores, Encodes, Tokenizes, Adapts}), logprobs=True
)
"""What a model behind an engine can do."""

Numbered = Iterator[tuple[int, Completion] | None]
Start = Callable[[Checkpoint, Sequence[EngineAdapter]], InferenceEngine]


class EngineModel:
    """A model that an inference engine runs on token ids. The engine starts at the first call.

    What renders prompts, encodes samples and reads answers is an instance of another backend (``kind.reader``) that never loads
    weights, so that both send the same tokens and read the same text.

    Args:
        kind: The engine.
        config: With ``model``, ``revision``, ``dtype``, ``max_length`` and ``chat_template``.
        site: The environment of the backend.
        start: Starts the engine with a checkpoint and room for the adapters that were used so far.

    Raises:
        ModelError: if that backend is not there.
    """

    def __init__(self, kind: EngineKind, config: Any, site: Site, start: Start) -> None:
        reader = reader_class(site, kind)
        self.reader: Any = reader(reader_config(reader, config), site)
        self._kind = kind
        self._dtype: str = config.dtype
        self._start = start
        self._interrupt = site.interrupt
        self._engine: InferenceEngine | None = None
        self._adapters: dict[str, EngineAdapter] = {}
        self._lock = threading.RLock()

    def fingerprint(self) -> str:
        """Return the SHA-256 of weights, tokenizer, template and settings that change answers."""
        values = [self._kind.name, self.reader.fingerprint(), self._dtype]
        return hashlib.sha256(json.dumps(values).encode()).hexdigest()

    def generate(
        self, requests: Sequence[Request], adapter: ModelRef | None = None
    ) -> list[Completion]:
        """Return one completion per request, in order. A request that cannot be answered is a failure."""
        return _in_order(self.open_stream(requests, tuple, adapter), len(requests))

    def open_stream(
        self,
        first: Sequence[Request],
        more: Callable[[], Sequence[Request]],
        adapter: ModelRef | None = None,
    ) -> Numbered:
        """Yield completions with their request's number as they come, and take further requests from ``more``."""
        with self._lock:
            engine, digest = self._ready(adapter)
            yield from answers(
                self._kind.label,
                engine,
                self.reader,
                first,
                more,
                digest,
                lambda: self._interrupt.requested,
            )

    def score(
        self, samples: Sequence[TokenSample], adapter: ModelRef | None = None
    ) -> list[FloatArray]:
        """Return per-token losses, float32 [T] per sample, of the base or with ``adapter``; see ``scores.score``."""
        with self._lock:
            engine, digest = self._ready(adapter)
            context = self.reader.checkpoint().context
            return score(self._kind.label, engine, samples, context, digest)

    @contextmanager
    def adapted(self, ref: ModelRef) -> Iterator[AdaptedEngineModel]:
        """Return the same engine with the adapter ``ref``. Requests with and without it may run at the same time."""
        model = AdaptedEngineModel(self, ref)
        try:
            yield model
        finally:
            model.closed = True

    def encode(
        self, samples: Sequence[Sample], *, max_length: int, turns: str
    ) -> list[TokenSample]:
        """Encode samples with the model's template, as the reader does."""
        encoded: list[TokenSample] = self.reader.encode(samples, max_length=max_length, turns=turns)
        return encoded

    def decode(self, ids: Sequence[IntArray]) -> list[str]:
        """Return the text of each list of ids."""
        texts: list[str] = self.reader.decode(ids)
        return texts

    def tokenizer_digest(self) -> TokenizerDigest:
        """Return the digest of tokenizer and chat template."""
        found: TokenizerDigest = self.reader.tokenizer_digest()
        return found

    def prompt_end(self, request: Request) -> str:
        """Return the end of the prompt that the template renders; empty if it rejects the request."""
        return str(self.reader.prompt_end(request))

    def close(self) -> None:
        """Stop the engine and release its memory; a later call starts it again."""
        with self._lock:
            self._stop()
            self.reader.close()

    def _stop(self) -> None:
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.close()

    def _ready(self, ref: ModelRef | None) -> tuple[InferenceEngine, str | None]:
        """The running engine, and the digest of the adapter, which is loaded."""
        place = self.reader.checkpoint()
        if place.path.is_file():
            raise ModelError(
                f"{place.path} is one file, and {self._kind.name} takes a folder with safetensors weights: set use: {self._kind.reader} for this model"
            )
        adapter = None if ref is None else self._usable(ref)
        if adapter is not None and self._engine is not None and not self._engine.load(adapter):
            # Some engines fix the room for adapters when they start.
            self._stop()
        if self._engine is None:
            others = [each for each in self._adapters.values() if each != adapter]
            self._engine = self._start(place, [*others, *([adapter] if adapter else [])])
            if adapter is not None and not self._engine.load(adapter):
                raise ModelError(
                    f"{self._kind.label} has no room for the adapter in {adapter.folder}; set use: {self._kind.reader} for this model"
                )
        if adapter is not None:
            # Not before: an adapter with which no engine starts is not in the way of other calls.
            self._adapters[adapter.digest] = adapter
        return self._engine, adapter.digest if adapter is not None else None

    def _usable(self, ref: ModelRef) -> EngineAdapter:
        kind = self._kind
        return usable_adapter(ref, kind.label, kind.adapters, kind.reader)


class AdaptedEngineModel:
    """A model with an adapter. It can only be used while its scope is open."""

    def __init__(self, model: EngineModel, ref: ModelRef) -> None:
        self._model = model
        self._ref = ref
        self.closed = False

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """Return one completion per request, in order, of the adapted model."""
        return self._open().generate(requests, self._ref)

    def stream(self, requests: Sequence[Request]) -> Numbered:
        """Yield completions with their request's index as they come."""
        return self.open_stream(requests, tuple)

    def open_stream(
        self, first: Sequence[Request], more: Callable[[], Sequence[Request]]
    ) -> Numbered:
        """Yield completions with their request's number as they come."""
        return self._open().open_stream(first, more, self._ref)

    def score(
        self, samples: Sequence[TokenSample], adapter: ModelRef | None = None
    ) -> list[FloatArray]:
        """Return per-token losses of the adapted model, or with ``adapter`` instead."""
        return self._open().score(samples, adapter or self._ref)

    def encode(
        self, samples: Sequence[Sample], *, max_length: int, turns: str
    ) -> list[TokenSample]:
        """Encode samples; independent of the adapter."""
        return self._open().encode(samples, max_length=max_length, turns=turns)

    def decode(self, ids: Sequence[IntArray]) -> list[str]:
        """Return the text of ids; independent of the adapter."""
        return self._open().decode(ids)

    def tokenizer_digest(self) -> TokenizerDigest:
        """Return the tokenizer's digest; independent of the adapter."""
        return self._open().tokenizer_digest()

    def _open(self) -> EngineModel:
        if self.closed:
            raise ModelError(
                f"the adapter {self._ref.path} is no longer attached: use it inside 'with model.adapted(ref) as adapted:'"
            )
        return self._model


def _in_order(stream: Numbered, count: int) -> list[Completion]:
    done = dict(answer for answer in stream if answer is not None)
    return [done[index] for index in range(count)]
