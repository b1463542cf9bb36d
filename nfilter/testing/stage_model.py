"""The model that ``FakeContext.model`` returns: a fake with the methods of ``nfilter.Model``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

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
    lacks,
    methods_of,
)
from nfilter.api.types import (
    Completion,
    FloatArray,
    IntArray,
    ModelRef,
    Request,
    Sample,
    TokenSample,
)


class StageModel:
    """A fake or a backend as a stage uses it, without journal and store.

    A capability is present if its methods exist. Other attributes, such as the requests that a fake recorded, are those of the
    wrapped object.
    """

    def __init__(self, name: str, model: Any) -> None:
        self.name = name
        self._model = model

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

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """Return one completion per request."""
        completions: list[Completion] = self._with(Generates).generate(requests)
        return completions

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
            yield StageModel(self.name, model)
