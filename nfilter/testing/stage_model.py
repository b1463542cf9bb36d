"""The model that ``FakeContext.model`` returns: a fake with the methods of ``nfilter.Model``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar, cast

from nfilter.api.calls import Completion, ModelRef, Request
from nfilter.api.capabilities import (
    CAPABILITIES,
    Adapts,
    Embeds,
    Encodes,
    Generates,
    LendsModule,
    Lent,
    Scores,
    TokenizerDigest,
    Tokenizes,
    built_in,
    caching,
    check_capability,
    lacks,
    methods_of,
)
from nfilter.api.interrupt import Interrupt
from nfilter.api.types import FloatArray, IntArray, Sample, TokenSample
from nfilter.models.conversations import Steps, conversing_in_rounds, finished
from nfilter.models.results import Calls
from nfilter.progress import QuietReporter

_Capability = TypeVar("_Capability")


class Results:
    """Results of capabilities that plugins define, in memory."""

    def __init__(self) -> None:
        self._kept: dict[str, str] = {}

    def results(self, keys: Sequence[str]) -> dict[str, str]:
        """Return the stored results among ``keys``."""
        return {key: self._kept[key] for key in keys if key in self._kept}

    def keep_results(self, rows: Sequence[tuple[str, str, float]]) -> None:
        """Store results: key, JSON, dollars."""
        self._kept |= {key: result for key, result, _ in rows}


class StageModel:
    """A fake or a backend as a stage uses it, without a journal; results of capabilities that plugins define are in ``results``.

    A capability is present if its methods exist. Other attributes, such as the requests that a fake recorded, are those of the
    wrapped object.
    """

    def __init__(self, name: str, model: Any, results: Results) -> None:
        self.name = name
        self._model = model
        self._results = results

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def fingerprint(self) -> str:
        """Return the fingerprint of the wrapped object; of a fake without one, its name."""
        get = getattr(self._model, "fingerprint", None)
        return str(get()) if get is not None else self.name

    def has(self, capability: type) -> bool:
        """Return whether the wrapped object has the methods of the capability."""
        return all(hasattr(self._model, name) for name in methods_of(capability))

    def _with(self, capability: type) -> Any:
        if not self.has(capability):
            present = [each for each in CAPABILITIES if self.has(each)]
            raise lacks(f"model {self.name!r}", capability, present)
        return self._model

    def use(self, capability: Callable[..., _Capability]) -> _Capability:
        """Return the methods of a plugin's capability; results are stored as in a run, for as long as the context exists."""
        kind = cast("type", capability)
        check_capability(kind)
        if caching(kind) is None:
            raise built_in(f"model {self.name!r}", kind)
        calls = Calls(
            who=f"model {self.name!r}",
            label=self.name,
            capability=kind,
            backend=self._with(kind),
            identity=(self.fingerprint(), str(id(self._model))),
            store=self._results,
            progress=QuietReporter().progress,
            interrupt=Interrupt(),
            spent=lambda: 0.0,
            lose=lambda usd: None,  # noqa: ARG005
        )
        return cast("_Capability", calls.methods())

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """Return one completion per request."""
        completions: list[Completion] = self._with(Generates).generate(requests)
        return completions

    def converse(
        self,
        first: Sequence[Request],
        reply: Callable[[int, Completion], Request | None],
    ) -> list[Completion]:
        """Return the last completion of each conversation; conversations go on in rounds, in order."""
        return finished(self.conversing(first, reply))

    def conversing(
        self,
        first: Sequence[Request],
        reply: Callable[[int, Completion], Request | None],
    ) -> Steps:
        """Hold conversations like ``converse``, one round per step."""
        return conversing_in_rounds(self.generate, first, reply)

    def embed(self, texts: Sequence[str]) -> FloatArray:
        """Return float32 [n, d]."""
        vectors: FloatArray = self._with(Embeds).embed(texts)
        return vectors

    def score(
        self, samples: Sequence[TokenSample], adapter: ModelRef | None = None
    ) -> list[FloatArray]:
        """Return float32 [T] per sample."""
        more = (adapter,) if adapter is not None else ()
        losses: list[FloatArray] = self._with(Scores).score(samples, *more)
        return losses

    def encode(
        self, samples: Sequence[Sample], *, max_length: int, turns: str
    ) -> list[TokenSample]:
        """Return one token sample per sample."""
        encoded: list[TokenSample] = self._with(Encodes).encode(
            samples, max_length=max_length, turns=turns
        )
        return encoded

    def tokenizer_digest(self) -> TokenizerDigest | None:
        """Return the digest of the tokenizer; None if there is none."""
        return self._model.tokenizer_digest() if self.has(Tokenizes) else None

    def decode(self, ids: Sequence[IntArray]) -> list[str] | None:
        """Return the text of each array of ids; None without a tokenizer."""
        return self._model.decode(ids) if self.has(Tokenizes) else None

    def lend(self) -> AbstractContextManager[Lent]:
        """Return a scope with the module."""
        lent: AbstractContextManager[Lent] = self._with(LendsModule).lend()
        return lent

    @contextmanager
    def adapted(self, ref: ModelRef) -> Iterator[StageModel]:
        """Return a scope with the model and the adapter."""
        with self._with(Adapts).adapted(ref) as model:
            yield StageModel(self.name, model, self._results)
