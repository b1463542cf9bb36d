"""What a model can do, as protocols, and how a config or a backend names them. Nothing is inherited from these classes.

``Backend.abilities`` returns the capabilities of a backend; ``Needs`` on a config field names the required one. A plugin
defines capabilities of its own with ``capability``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Protocol, TypeVar, runtime_checkable

from nfilter.api.budget import Price
from nfilter.api.calls import Completion, ModelRef, Request
from nfilter.api.errors import ContractError, ModelError
from nfilter.api.types import FloatArray, IntArray, Sample, TokenSample


@runtime_checkable
class Generates(Protocol):
    """Generates text: one completion per request, in the same order; a failure is a completion too."""

    def generate(self, requests: Sequence[Request]) -> list[Completion]: ...


@runtime_checkable
class Streams(Protocol):
    """Generates text and yields each completion when it is complete, with the index of its request.

    Each index comes once, in any order, so that progress is visible and answers are stored early. None may be yielded while
    no answer is complete: the answers before it are then stored immediately instead of in groups.
    """

    def stream(self, requests: Sequence[Request]) -> Iterator[tuple[int, Completion] | None]: ...


@runtime_checkable
class OpenStreams(Protocol):
    """Streams completions, and takes further requests while earlier ones are in flight: conversations run side by side.

    ``more`` is called after each completion that was yielded, in the thread that iterates, and returns the requests that
    follow from it. Requests are numbered in the order in which they came, beginning with ``first``. The stream ends when every
    request was answered and ``more`` returned no further one. None is yielded as by ``Streams``.
    """

    def open_stream(
        self, first: Sequence[Request], more: Callable[[], Sequence[Request]]
    ) -> Iterator[tuple[int, Completion] | None]: ...


@runtime_checkable
class EndsPrompts(Protocol):
    """Returns the end of the rendered prompt of a request: a template may open a reasoning block there."""

    def prompt_end(self, request: Request) -> str: ...


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model as an inference engine loads it.

    Attributes:
        path: The folder of the checkpoint, or its single file.
        context: Maximum length of a sequence in tokens.
        end_ids: The tokens that end an answer.
    """

    path: Path
    context: int
    end_ids: frozenset[int]


@dataclass(frozen=True, slots=True)
class PromptTokens:
    """The prompt of a request as token ids; ``room`` is the maximum number of tokens to generate, at least 1."""

    ids: tuple[int, ...]
    room: int


@runtime_checkable
class EncodesRequests(Protocol):
    """A backend that encodes requests and decodes answers without loading weights.

    A backend around an inference engine that takes token ids is built on one, whose name it gives (``EngineKind.reader``).
    """

    @classmethod
    def text_config(
        cls, *, model: str, revision: str | None, max_length: int | None, chat_template: str
    ) -> Any:
        """Return the config of an instance that is used without weights."""
        ...

    def checkpoint(self) -> Checkpoint:
        """Return the model's place on this machine; a model of the hub is downloaded.

        Raises:
            ModelError: if there is none, or it cannot be loaded.
        """
        ...

    def encode_request(self, request: Request) -> PromptTokens | Completion:
        """Return the prompt, or the completion if nothing is to be generated: a failure, or ``max_tokens`` is 0."""
        ...

    def decode_answer(
        self,
        request: Request,
        prompt: PromptTokens,
        ids: Sequence[int],
        logprobs: Sequence[float] | None,
        finish: Literal["stop", "length"],
    ) -> Completion:
        """Return the completion of generated ``ids``, including the end token, with its tool calls.

        The text ends before the end token or the first stop string. ``logprobs`` has one number per id.
        """
        ...


@runtime_checkable
class Priced(Protocol):
    """A backend class whose calls cost money. ``price`` returns dollars per token for a config; None if unknown."""

    @classmethod
    def price(cls, config: Any) -> Price | None: ...


@runtime_checkable
class Embeds(Protocol):
    """Embeds texts: float32 [n, d], not normalised."""

    def embed(self, texts: Sequence[str]) -> FloatArray: ...


@dataclass(frozen=True, slots=True)
class CutTexts:
    """Count of texts longer than the window of an encoder.

    Attributes:
        cut: Number of texts longer than the window.
        texts: Number of embedded texts.
        window: Window of the encoder in tokens.
        read: Which part of a longer text is embedded: ``head``, ``tail`` or ``mean`` (all parts, averaged).
        setting: The field of the backend's config that selects this.
    """

    cut: int
    texts: int
    window: int
    read: str
    setting: str


class CutCounter:
    """Counter of ``CutTexts`` for a backend; ``read`` and ``setting`` are its fields. Several threads may add."""

    def __init__(self, read: str, setting: str) -> None:
        self._read = read
        self._setting = setting
        self._added: list[tuple[int, int, int]] = []

    def add(self, cut: int, texts: int, window: int) -> None:
        """Count ``texts`` embedded texts, of which ``cut`` are longer than ``window`` tokens."""
        self._added.append((cut, texts, window))

    def take(self) -> CutTexts | None:
        """Return the counts since the last call; None if there are none."""
        taken, self._added = self._added, []
        cut, texts = (sum(each[place] for each in taken) for place in (0, 1))
        return CutTexts(cut, texts, taken[-1][2], self._read, self._setting) if texts else None


@runtime_checkable
class CutsTexts(Protocol):
    """An embedding backend that counts the texts longer than its window. The engine warns at the end of a stage."""

    def take_cut_texts(self) -> CutTexts | None:
        """Return the counts since the last call; None if nothing was embedded, or the window is unknown."""
        ...


@runtime_checkable
class Scores(Protocol):
    """Computes per-token losses of given tokens: float32 [T] per sample, NaN at position 0 and outside the response."""

    def score(
        self, samples: Sequence[TokenSample], adapter: ModelRef | None = None
    ) -> list[FloatArray]: ...


@runtime_checkable
class Encodes(Protocol):
    """Encodes conversations with the tokenizer and the chat template of the model.

    ``turns`` is ``all`` (every assistant turn is a response) or ``last``. Tokens after ``max_length`` are removed, and
    ``TokenSample.cut`` has their response mask. If no token of the response remains, ``response`` is all False; if the
    template rejects the sample, it has no tokens. The engine drops both with the reason.
    """

    def encode(
        self, samples: Sequence[Sample], *, max_length: int, turns: str
    ) -> list[TokenSample]: ...


@dataclass(frozen=True, slots=True)
class TokenizerDigest:
    """SHA-256 digests of the tokenizer, and of the chat template with the tokens that it names."""

    tokenizer: str
    template: str


@runtime_checkable
class Tokenizes(Protocol):
    """Identifies the tokenizer and decodes ids. With equal digests, equal ids have the same meaning."""

    def tokenizer_digest(self) -> TokenizerDigest: ...

    def decode(self, ids: Sequence[IntArray]) -> list[str]: ...


class Lent(Protocol):
    """A torch module on loan."""

    @property
    def module(self) -> Any:
        """The ``torch.nn.Module``, in eval mode. The core does not import torch, so the type is Any."""
        ...


@runtime_checkable
class LendsModule(Protocol):
    """Lends the local torch module within a scope. At its end, eval mode and the active adapter are restored."""

    def lend(self) -> AbstractContextManager[Lent]: ...


@runtime_checkable
class Adapts(Protocol):
    """Generates with a trained adapter on the same weights, within a scope."""

    def adapted(self, ref: ModelRef) -> AbstractContextManager[Generates]: ...


CAPABILITIES: tuple[type, ...] = (
    Generates, Streams, OpenStreams, Embeds, Scores, Encodes, Tokenizes, LendsModule, Adapts,
)  # fmt: skip
"""nfilter's own capabilities whose methods ``ctx.model(NAME)`` has itself."""


# Python 3.11 counts other attributes of a protocol class among the members that isinstance requires.
_MARK: Final = "_abc_nfilter_capability"
_TAKEN: Final = frozenset(
    {
        "abilities", "built_on", "checkpoint", "close", "decode_answer", "encode_request", "facts", "fingerprint", "hosts", "price",
        "problems", "prompt_end", "take_cut_texts", "tool_problems",
    }
)  # fmt: skip

_Capability = TypeVar("_Capability")


@dataclass(frozen=True, slots=True)
class Caching:
    """How results of a capability are stored in the journal.

    Attributes:
        cached: Whether they are stored.
        each: Whether a method returns one result per item of its first argument; each is then stored under its item.
    """

    cached: bool
    each: bool


def capability(
    *, cached: bool = True, each: bool = True
) -> Callable[[type[_Capability]], type[_Capability]]:
    """Declare a protocol class as a capability of models.

    ::

        @capability()
        class Rewards(Protocol):
            def reward(self, texts: Sequence[str]) -> list[float]: ...

    A backend names the class in ``abilities`` and has its methods. A stage annotates the setting of the model with
    ``Needs(Rewards)`` and calls ``ctx.model(NAME).use(Rewards).reward(texts)``.

    Args:
        cached: Store results in the journal of the run, so that a rerun does not call the backend. Arguments are then JSON
            values, numpy arrays, or dataclasses of these, such as ``Sample``. Results are JSON values or numeric arrays.
        each: The first argument of every method is a list, and the method returns one result per item, in order: a list, or an
            array [n, ...]. Each item is then looked up and stored separately. False: a call is stored as a whole.

    Raises:
        TypeError: if the class is not a protocol, has no method, or a method has a name that nfilter uses for another purpose.
    """

    def declare(protocol: type[_Capability]) -> type[_Capability]:
        name = getattr(protocol, "__name__", repr(protocol))
        if not getattr(protocol, "_is_protocol", False):
            raise TypeError(f"{name} is not a protocol; write class {name}(typing.Protocol)")
        methods = methods_of(protocol)
        if not methods:
            raise TypeError(f"{name} has no method; write the methods that a backend has to have")
        taken = _TAKEN.union(*map(methods_of, CAPABILITIES)).intersection(methods)
        if taken:
            raise TypeError(
                f"{name}: nfilter calls {min(taken)} of a backend for another purpose; rename the method"
            )
        setattr(protocol, _MARK, Caching(cached, each))
        return protocol

    return declare


def caching(capability: type) -> Caching | None:
    """Return how results of a plugin's capability are stored; None for any other class."""
    found = vars(capability).get(_MARK)
    return found if isinstance(found, Caching) else None


def check_capability(capability: object) -> None:
    """Check that a class is a capability.

    Raises:
        TypeError: if it is neither one of nfilter's nor declared with ``capability``.
    """
    if not isinstance(capability, type) or (
        capability not in CAPABILITIES and caching(capability) is None
    ):
        raise TypeError(
            f"{getattr(capability, '__name__', repr(capability))} is not a capability; write @nfilter.capability() above the "
            "class"
        )


def methods_of(capability: type) -> list[str]:
    """Return the names of the methods that a backend with the capability has."""
    names = {name for base in capability.__mro__ for name in vars(base) if name[0] != "_"}
    return sorted(name for name in names if callable(getattr(capability, name)))


@runtime_checkable
@capability(cached=False)
class Attends(Protocol):
    """Reads the attention of a local model, one sample at a time."""

    def attention(
        self,
        samples: Sequence[TokenSample],
        reduce: Callable[[Any, TokenSample], Any],
        layers: slice = slice(None),
    ) -> Iterator[list[FloatArray]]:
        """Yield, for each sample, one array [T] per layer, the first layer first.

        Args:
            samples: The samples that are read.
            reduce: Called with the weights of a layer, a torch tensor [heads, T, T] of queries by keys, and the sample; returns a
                tensor [T]. It is called right after the layer, so that the weights of one layer are in memory.
            layers: The layers that are read.

        Raises:
            ModelError: if the model yields no attention weights, or a sample exceeds its context or memory.
        """
        ...


@runtime_checkable
@capability(cached=False)
class Attributes(Protocol):
    """Attributes the probability of some tokens of a sample to tokens before them, by gradients of a local model."""

    def attributions(
        self,
        samples: Sequence[TokenSample],
        select: Callable[[TokenSample], tuple[IntArray, IntArray]],
        steps: int,
    ) -> Iterator[FloatArray]:
        """Yield, for each sample, float32 [T]: the part of log p(targets) that each source adds; NaN at other tokens.

        The numbers are integrated gradients with respect to the input embeddings. They add up, but for the error of the
        integral, to the log-probability of the targets minus that with a neutral embedding at all sources.

        Args:
            samples: The samples that are read, one at a time.
            select: Returns the positions of the sources and of the targets of a sample, ascending; no target is at 0. If either
                is empty, all values are NaN.
            steps: Steps of the integral; each is one forward and one backward pass.

        Raises:
            ModelError: if a sample exceeds the model's context or memory.
        """
        ...


def lacks(who: str, capability: type, present: Iterable[type]) -> ModelError:
    """Return the error for a call to a model without the capability.

    Args:
        who: The caller and the model.
        capability: The capability that the method belongs to.
        present: The capabilities of the model.
    """
    name = capability.__name__
    listed = ", ".join(sorted(each.__name__ for each in present)) or "none"
    return ModelError(
        f"{who} does not have the capability {name} (it has: {listed}); name another model in the recipe. The author of the "
        f"stage can annotate the setting with Needs({name}), and `nfilter check` reports it before the run"
    )


def built_in(who: str, capability: type) -> ContractError:
    """Return the error for ``use`` of one of nfilter's own capabilities."""
    method = methods_of(capability)[0]
    return ContractError(
        f"{who}: {capability.__name__} is one of nfilter's own capabilities; write ctx.model(NAME).{method}(...) without use"
    )


@dataclass(frozen=True, slots=True)
class Needs:
    """Annotation of a config field that names a model: ``llm: Annotated[str, Needs(Generates, logprobs=True)]``.

    Attributes:
        capability: The capability that the stage uses.
        logprobs: Whether it uses log-probabilities of the answers.
        tools: Whether the model receives the tools of a setting of type ``nfilter.Tools`` beside the field. False where the stage
            calls them itself (``nfilter.answer_tool_call``), so that a model that cannot call tools will do.
    """

    capability: type
    logprobs: bool = False
    tools: bool = True

    def __post_init__(self) -> None:
        """Raises TypeError for a class that is no capability."""
        check_capability(self.capability)


@dataclass(frozen=True, slots=True)
class Abilities:
    """The capabilities of a backend with a given config, known before anything loads."""

    capabilities: frozenset[type]
    logprobs: bool = False

    def __post_init__(self) -> None:
        """Raises TypeError for a class that is no capability."""
        for each in self.capabilities:
            check_capability(each)


@dataclass(frozen=True, slots=True)
class Ranks:
    """A measure of a view, such as ``nll``, by which a stage ranks samples.

    ``instead``: the list items to write instead of the stage if the view lacks the measure, each as YAML on one line. MODEL stands
    for the model of the view.
    """

    view: str
    measure: str
    instead: tuple[str, ...]
