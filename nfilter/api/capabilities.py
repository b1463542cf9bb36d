"""What a model can do, as protocols, and how a config or a backend names them. Nothing here is inherited from.

``Backend`` in ``nfilter.api.stages`` says which of these it has; a config field marked ``Needs`` says which it wants.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from nfilter.api.budget import Price
from nfilter.api.types import (
    Completion,
    FloatArray,
    IntArray,
    ModelRef,
    Request,
    Sample,
    TokenSample,
)


@runtime_checkable
class Generates(Protocol):
    """Answers requests. One completion a request, in the same order; a failure is a completion too."""

    def generate(self, requests: Sequence[Request]) -> list[Completion]: ...


@runtime_checkable
class Streams(Protocol):
    """Gives answers as they come: a request's index and its completion, each index once, in any order.

    A backend that generates may also stream; progress is then seen, and answers are kept, while others are made. It may
    give None where nothing more is there yet: what came is then kept at once, and otherwise in groups.
    """

    def stream(self, requests: Sequence[Request]) -> Iterator[tuple[int, Completion] | None]: ...


@runtime_checkable
class EndsPrompts(Protocol):
    """Tells how the text ends that a request is rendered to: a template may begin a thought there."""

    def prompt_end(self, request: Request) -> str: ...


@runtime_checkable
class Priced(Protocol):
    """A backend class whose calls cost money: dollars a token with a given config, None where that is not known."""

    @classmethod
    def price(cls, config: Any) -> Price | None: ...


@runtime_checkable
class Embeds(Protocol):
    """Turns texts into vectors: float32 [n, d], not normalised."""

    def embed(self, texts: Sequence[str]) -> FloatArray: ...


@dataclass(frozen=True, slots=True)
class CutTexts:
    """How many of ``texts`` texts were longer than an encoder's window of ``window`` tokens, and what it read of those.

    ``read`` is ``head``, ``tail`` or ``mean``; ``setting`` is the field of the backend's config that chooses it.
    """

    cut: int
    texts: int
    window: int
    read: str
    setting: str


class CutCounter:
    """Counts them for a backend: ``read`` and ``setting`` are those of ``CutTexts``. Several threads may add."""

    def __init__(self, read: str, setting: str) -> None:
        self._read = read
        self._setting = setting
        self._added: list[tuple[int, int, int]] = []

    def add(self, cut: int, texts: int, window: int) -> None:
        """Count ``texts`` texts that were embedded, ``cut`` of them longer than ``window`` tokens."""
        self._added.append((cut, texts, window))

    def take(self) -> CutTexts | None:
        """What was added since this was last called; None where nothing was."""
        taken, self._added = self._added, []
        cut, texts = (sum(each[place] for each in taken) for place in (0, 1))
        return CutTexts(cut, texts, taken[-1][2], self._read, self._setting) if texts else None


@runtime_checkable
class CutsTexts(Protocol):
    """A backend that embeds and tells what did not fit its window; the engine warns of it at the end of a stage."""

    def take_cut_texts(self) -> CutTexts | None:
        """What was embedded since this was last asked; None where nothing was, or where the limit is not known."""
        ...


@runtime_checkable
class Scores(Protocol):
    """Per-token losses of given tokens: one float32 [T] a sample, NaN at position 0 and outside the response."""

    def score(
        self, samples: Sequence[TokenSample], adapter: ModelRef | None = None
    ) -> list[FloatArray]: ...


@runtime_checkable
class Encodes(Protocol):
    """Turns conversations into tokens with the model's own tokenizer and chat template.

    ``turns`` is ``all`` (every assistant turn is response) or ``last``. What does not fit in ``max_length`` is left out
    on the right, and ``cut`` says what it was. A sample whose response would be cut to nothing comes back with
    ``response`` all False, one that the template does not take without any token; the engine drops both with the
    reason.
    """

    def encode(
        self, samples: Sequence[Sample], *, max_length: int, turns: str
    ) -> list[TokenSample]: ...


@dataclass(frozen=True, slots=True)
class TokenizerDigest:
    """SHA-256 of what makes ids of a conversation: the tokenizer, and the chat template with the tokens it names."""

    tokenizer: str
    template: str


@runtime_checkable
class Tokenizes(Protocol):
    """Tells which tokenizer encodes, and what ids say. Ids mean the same under every model of an equal digest."""

    def tokenizer_digest(self) -> TokenizerDigest: ...

    def decode(self, ids: Sequence[IntArray]) -> list[str]: ...


@runtime_checkable
class LendsModule(Protocol):
    """Lends the local torch module, scoped; eval mode and the active adapter are restored on exit."""

    def lend(self) -> AbstractContextManager[Any]: ...


@runtime_checkable
class Adapts(Protocol):
    """Generates with a trained adapter over the same weights, for as long as the scope is open."""

    def adapted(self, ref: ModelRef) -> AbstractContextManager[Generates]: ...


CAPABILITIES: tuple[type, ...] = (
    Generates, Streams, Embeds, Scores, Encodes, Tokenizes, LendsModule, Adapts,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Needs:
    """A mark on a config field that names a model: ``llm: Annotated[str, Needs(Generates, logprobs=True)]``."""

    capability: type
    logprobs: bool = False


@dataclass(frozen=True, slots=True)
class Abilities:
    """What a backend can do with a given config, known before anything loads."""

    capabilities: frozenset[type]
    logprobs: bool = False


@dataclass(frozen=True, slots=True)
class Ranks:
    """What a stage ranks samples by: a measure of a view, such as ``nll``.

    ``instead`` is what to write in the stage's place where the view has no such measure, an item of the list each, as YAML on
    one line; MODEL stands for the model behind the view.
    """

    view: str
    measure: str
    instead: tuple[str, ...]
