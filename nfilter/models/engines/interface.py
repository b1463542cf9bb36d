"""What a plugin writes to run models with an inference engine, and what it is given."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol


@dataclass(frozen=True, slots=True)
class EngineCall:
    """Token ids that the engine continues.

    Attributes:
        ids: The prompt.
        room: Maximum number of tokens to generate, at least 1.
        temperature: 0 for the most probable token at each step.
        top_p: Share of the probability from which tokens are drawn.
        seed: A number below 2**63 that depends on the request and its draw; None at temperature 0.
        stop: Texts after which generation may end. None is empty.
        end_ids: Tokens that end the answer.
        logprobs: Whether the log-probability of each generated token is returned.
        schema: A JSON Schema that the answer follows, or None.
    """

    ids: Sequence[int]
    room: int
    temperature: float
    top_p: float
    seed: int | None
    stop: Sequence[str]
    end_ids: frozenset[int]
    logprobs: bool
    schema: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class EngineScores:
    """Token ids whose log-probabilities are read.

    Attributes:
        ids: The tokens.
        start: The first position of interest, at least 1.
        salt: Calls of different salts share no cached beginning, for engines that cache without regard to log-probabilities.
    """

    ids: Sequence[int]
    start: int
    salt: str


@dataclass(frozen=True, slots=True)
class EngineOutput:
    """The end of a call.

    Attributes:
        finish: ``stop`` and ``length`` as the engine reports them; ``refused`` if it will not take the call, ``failed`` if it
            ended it for another reason.
        ids: The generated tokens, with the end token.
        logprobs: Natural logarithms, before temperature and ``top_p``: one per generated token, or of an ``EngineScores`` one
            per token from ``start`` on. None if they were not asked for.
        message: The reason of ``refused`` and ``failed``.
    """

    finish: Literal["stop", "length", "refused", "failed"]
    ids: Sequence[int] = ()
    logprobs: Sequence[float] | None = None
    message: str = ""


@dataclass(frozen=True, slots=True)
class EngineAdapter:
    """A LoRA adapter in PEFT's format: its digest, folder and highest rank."""

    digest: str
    folder: Path
    rank: int


class InferenceEngine(Protocol):
    """A running engine with its model. One thread at a time calls it, for several streams of answers in turn."""

    def load(self, adapter: EngineAdapter) -> bool:
        """Make an adapter available for calls. False if a new engine is needed for it.

        Raises:
            ModelError: if the engine cannot apply it.
        """
        ...

    def add(self, call: EngineCall | EngineScores, adapter: str | None) -> str:
        """Add a call, with the adapter of that digest, and return its key. A refusal is an output of the call."""
        ...

    def wait(self, keys: Collection[str]) -> Iterator[tuple[str, EngineOutput]]:
        """Wait until one of the calls ``keys`` has ended, and yield those that have.

        Yields nothing if calls of other streams have ended first.

        Raises:
            ModelError: if the engine has stopped.
        """
        ...

    def abort(self, keys: Collection[str]) -> None:
        """Remove calls that nobody waits for."""
        ...

    def close(self) -> None:
        """Stop the engine and release its memory."""
        ...
