"""The type of ``ctx.model(NAME)``."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager
from typing import Protocol, TypeVar

from nfilter.api.calls import Completion, ModelRef, Request
from nfilter.api.capabilities import Lent, TokenizerDigest
from nfilter.api.types import FloatArray, IntArray, Sample, TokenSample

_Capability = TypeVar("_Capability")


class Model(Protocol):
    """A model of the recipe, as a stage or a trainer uses it.

    Each method belongs to a capability and raises ModelError if the backend lacks it. A stage annotates the setting that
    names the model with ``Needs(CAPABILITY)``, so that ``nfilter check`` reports such a recipe before the run.
    """

    @property
    def name(self) -> str:
        """The name of the model in the recipe."""
        ...

    def fingerprint(self) -> str:
        """Return what identifies the weights, including an active adapter."""
        ...

    def has(self, capability: type) -> bool:
        """Return whether the model has the capability."""
        ...

    # Not type[_Capability]: type checkers accept no protocol class there.
    def use(self, capability: Callable[..., _Capability]) -> _Capability:
        """Return the methods of a capability that a plugin defines (``nfilter.capability``).

        ``ctx.model(NAME).use(Rewards).reward(texts)``. Results are stored in the journal, unless the capability says otherwise.
        Stored results have the types of JSON: a tuple is returned as a list.

        Raises:
            ModelError: if the backend lacks the capability.
            ContractError: if the capability is one of nfilter's own, whose methods the model has itself.
        """
        ...

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """Return one completion per request, in order (``Generates``).

        Answers in the journal are not requested again. A failure is a completion with ``failure`` set. Reasoning is in
        ``Completion.reasoning``, not in its text.
        """
        ...

    def converse(
        self,
        first: Sequence[Request],
        reply: Callable[[int, Completion], Request | None],
    ) -> list[Completion]:
        """Hold one conversation per request, side by side, and return the last completion of each (``Generates``).

        ``reply`` receives the number of a conversation and its completion, and returns the next request of the conversation,
        or None at its end. It is called in the thread of the stage, once per completion; what it returns may depend on its own
        conversation only, because the order over conversations varies. Every call is journaled like one of ``generate``.
        """
        ...

    def conversing(
        self,
        first: Sequence[Request],
        reply: Callable[[int, Completion], Request | None],
    ) -> Generator[None, None, list[Completion]]:
        """Hold conversations like ``converse``, in steps that are taken by iterating, beside those of other models.

        ``run_agents`` does so for agents of several models. Calls of an API go on between two steps. Throwing ``Interrupted`` into
        it ends it: no call starts, and the answers of running calls are taken in further steps. Closing it abandons its calls.
        """
        ...

    def embed(self, texts: Sequence[str]) -> FloatArray:
        """Return one vector per text, float32 [n, d], not normalised (``Embeds``). Equal texts are embedded once."""
        ...

    def score(
        self, samples: Sequence[TokenSample], adapter: ModelRef | None = None
    ) -> list[FloatArray]:
        """Return per-token losses, float32 [T] per sample, NaN at position 0 and outside the response (``Scores``).

        Losses that this run has computed are read from disk.
        """
        ...

    def encode(
        self, samples: Sequence[Sample], *, max_length: int, turns: str
    ) -> list[TokenSample]:
        """Return one token sample per sample, in order (``Encodes``)."""
        ...

    def tokenizer_digest(self) -> TokenizerDigest | None:
        """Return the digest of the tokenizer; None if the model lacks ``Tokenizes``."""
        ...

    def decode(self, ids: Sequence[IntArray]) -> list[str] | None:
        """Return the text of each array of ids, [T] each; None if the model lacks ``Tokenizes``."""
        ...

    def lend(self) -> AbstractContextManager[Lent]:
        """Return a scope with the local torch module (``LendsModule``)."""
        ...

    def adapted(self, ref: ModelRef) -> AbstractContextManager[Model]:
        """Return a scope with the same model and the adapter ``ref`` (``Adapts``)."""
        ...
