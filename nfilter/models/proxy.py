"""The model that a stage receives: a backend whose completions are journaled and whose losses are stored."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar, cast

from nfilter.answers.thoughts import Thoughts
from nfilter.api.budget import Budget
from nfilter.api.calls import Completion, ModelRef, Request
from nfilter.api.capabilities import (
    CAPABILITIES,
    Adapts,
    Embeds,
    Encodes,
    Generates,
    LendsModule,
    Lent,
    OpenStreams,
    Priced,
    Scores,
    TokenizerDigest,
    Tokenizes,
    built_in,
    caching,
    check_capability,
    lacks,
    methods_of,
)
from nfilter.api.errors import ContractError
from nfilter.api.interrupt import Interrupt
from nfilter.api.stages import Progress
from nfilter.api.types import FloatArray, IntArray, Sample, TokenSample
from nfilter.models.answering import Answering
from nfilter.models.claims import CallClaims
from nfilter.models.conversations import Steps, conversing_in_rounds, finished
from nfilter.models.pace import Pace
from nfilter.models.results import Calls
from nfilter.progress import QuietReporter
from nfilter.registry.contracts import check_encoded, check_losses, check_vectors
from nfilter.registry.provenance import backend_code
from nfilter.store.files import digest
from nfilter.store.journal import Journal
from nfilter.store.losses import ScoreCaches

_PORTION = 2**18  # tokens scored between writes
_Capability = TypeVar("_Capability")
_OF_BACKEND = frozenset({LendsModule, Adapts})  # asked of the backend, also within ``adapted``


@dataclass(eq=False)
class JournaledModel:
    """A backend as one stage uses it (``nfilter.Model``): every completion is journaled, every loss stored.

    Attributes:
        name: The name of the model in the recipe.
        backend: The backend; it renders prompts, lends its module and takes adapters.
        identity: The fingerprint of the weights, including an active adapter.
        journal: Stores the completions.
        stage: The name of the stage.
        capable: What generates, embeds and scores, if it is not the backend: the same weights with an adapter.
        progress: Opens a progress bar.
        scores: Stores the losses; None computes them on every call.
        interrupt: Tells whether the run is being interrupted.
        cost: Returns the cost so far; called when the progress bar is drawn.
        thoughts: Separates reasoning from answers.
        pace: Receives the time of every answer.
        capabilities: What the backend declares for its config; None: the capabilities whose methods exist.
        budget: Counts the dollars that the run spends.
        claims: Tells which calls other processes make; None: this process makes all.
    """

    name: str
    backend: Any
    identity: str
    journal: Journal
    stage: str
    capable: Any = None
    progress: Callable[..., AbstractContextManager[Progress]] = QuietReporter().progress
    scores: ScoreCaches | None = None
    interrupt: Interrupt = field(default_factory=Interrupt)
    cost: Callable[[], str] | None = None
    thoughts: Thoughts = field(default_factory=Thoughts)
    pace: Pace | None = None
    capabilities: frozenset[type] | None = None
    budget: Budget | None = None
    claims: CallClaims | None = None

    def __post_init__(self) -> None:
        if self.capable is None:
            self.capable = self.backend

    def fingerprint(self) -> str:
        """Return what identifies the weights, including an active adapter."""
        return self.identity

    def code(self) -> str:
        """Return the digest of the backend's code."""
        return backend_code(self.backend)

    def has(self, capability: type) -> bool:
        """Return whether the backend declares the capability and has its methods."""
        if self.capabilities is not None and capability not in self.capabilities:
            return False
        owner = self.backend if capability in _OF_BACKEND else self.capable
        return all(hasattr(owner, name) for name in methods_of(capability))

    def _require(self, capability: type) -> None:
        if not self.has(capability):
            self._require_methods(capability)
            present = [each for each in self.capabilities or CAPABILITIES if self.has(each)]
            raise lacks(f"{self.stage}: {self._model_text()}", capability, present)

    def _require_methods(self, capability: type) -> None:
        """Raise ContractError if the backend declares the capability and lacks a method of it."""
        # With an adapter, what generates may have fewer methods than the backend.
        if capability not in (self.capabilities or ()) or self.capable is not self.backend:
            return
        missing = [name for name in methods_of(capability) if not hasattr(self.backend, name)]
        raise ContractError(
            f"{self._model_text()}: abilities(config) has {capability.__name__}, and the backend has no method {missing[0]!r}; add "
            f"def {missing[0]}(self, ...) to the class, or leave {capability.__name__} out of its abilities"
        )

    def use(self, capability: Callable[..., _Capability]) -> _Capability:
        """Return the methods of a plugin's capability; their results are stored in the journal.

        A stored result depends on the weights, the method and its arguments; of a local model also on the code of the backend.

        Raises:
            ModelError: if the backend lacks the capability.
            ContractError: if the capability is one of nfilter's own.
            TypeError: if the class is no capability.
        """
        kind = cast("type", capability)
        check_capability(kind)
        if caching(kind) is None:
            raise built_in(f"{self.stage}: model {self.name!r}", kind)
        self._require(kind)
        backend = type(self.backend)
        # Paid results stay valid when code changes; those of a local model cost time alone.
        code = () if isinstance(backend, Priced) else (self.code(),)
        calls = Calls(
            who=f"{self.stage}: {self._model_text()}",
            label=f"{self.stage}: {self.name}",
            capability=kind,
            backend=self.capable,
            identity=(self.identity, *code),
            store=self.journal,
            progress=self.progress,
            interrupt=self.interrupt,
            spent=lambda: self.budget.spent if self.budget is not None else 0.0,
            lose=lambda usd: self.journal.commit([], [], [(self.stage, self.name, usd)]),
            take_lost=lambda: self.budget.take_lost() if self.budget is not None else 0.0,
        )
        return cast("_Capability", calls.methods())

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """Return one completion per request, in order. Requests that the journal answers are not sent again.

        Answers are committed when they arrive, so that a killed run repeats few calls. Control tokens in messages are broken
        before the call, unless the backend keeps them plain text itself (``shields``).

        Reasoning is moved from the text of a completion to its ``reasoning``. The journal stores what the backend returned.

        Raises:
            ModelError: if the backend lacks ``Generates``.
            ContractError: if it does not return one completion per request.
        """
        self._require(Generates)
        return self._answering().generate(requests)

    def converse(
        self,
        first: Sequence[Request],
        reply: Callable[[int, Completion], Request | None],
    ) -> list[Completion]:
        """Hold one conversation per request, and return the last completion of each.

        A conversation goes on as soon as its answer is there if the backend has ``OpenStreams``; else all go on together, one
        batch per round. ``reply`` is called in this thread.

        Raises:
            ModelError: if the backend lacks ``Generates``.
            ContractError: if the backend does not return one completion per request.
        """
        return finished(self.conversing(first, reply))

    def conversing(
        self,
        first: Sequence[Request],
        reply: Callable[[int, Completion], Request | None],
    ) -> Steps:
        """Hold conversations like ``converse``, and yield after each answer or round."""
        self._require(Generates)
        if self.has(OpenStreams):
            return self._answering().conversing(first, reply)
        return conversing_in_rounds(self.generate, first, reply)

    def _answering(self) -> Answering:
        return Answering(
            self.stage,
            self.name,
            self.backend,
            self.capable,
            self.identity,
            self.journal,
            self.progress,
            self.interrupt,
            self.cost,
            self.thoughts,
            self.pace,
            self.claims,
            self.budget,
        )

    def _model_text(self) -> str:
        return f"model {self.name!r} ({self.backend.name})"

    def embed(self, texts: Sequence[str]) -> FloatArray:
        """Return float32 [n, d]; equal texts are embedded once.

        Raises:
            ModelError: if the backend lacks ``Embeds``.
            ContractError: if it does not return one vector per text.
        """
        self._require(Embeds)
        unique = list(dict.fromkeys(texts))
        vectors = check_vectors(self._model_text(), self.capable.embed(unique), len(unique))
        if len(unique) == len(texts):
            return vectors
        place = {text: index for index, text in enumerate(unique)}
        return vectors[[place[text] for text in texts]]

    def score(
        self, samples: Sequence[TokenSample], adapter: ModelRef | None = None
    ) -> list[FloatArray]:
        """Return per-token losses, float32 [T] per sample. Losses that this run has computed are read from disk.

        Raises:
            ModelError: if the backend lacks ``Scores``.
            ContractError: if it does not return one array per sample.
        """
        self._require(Scores)
        if self.scores is None:
            return check_losses(self._model_text(), self.capable.score(samples, adapter), samples)
        # Losses cost time and no money: those of other code are computed again.
        name = digest(self.identity, self.code(), adapter.digest if adapter else None)
        cache = self.scores.of(name)
        found = cache.find(samples)
        todo = [place for place, losses in enumerate(found) if losses is None]
        size = sum(len(samples[place].ids) for place in todo)
        with self.progress(size, f"{self.stage}: {self.name} scores tokens") as bar:
            for part in _portions(todo, samples):
                asked = [samples[place] for place in part]
                losses = check_losses(self._model_text(), self.capable.score(asked, adapter), asked)
                cache.put(asked, losses)
                for place, values in zip(part, losses, strict=True):
                    found[place] = values
                bar.advance(sum(len(sample.ids) for sample in asked))
        return [losses for losses in found if losses is not None]

    def encode(
        self, samples: Sequence[Sample], *, max_length: int, turns: str
    ) -> list[TokenSample]:
        """Return one token sample per sample.

        Raises:
            ModelError: if the backend lacks ``Encodes``.
            ContractError: if it does not return one token sample per sample.
        """
        self._require(Encodes)
        encoded = self.capable.encode(samples, max_length=max_length, turns=turns)
        return check_encoded(self._model_text(), encoded, samples)

    def tokenizer_digest(self) -> TokenizerDigest | None:
        """Return the digest of the tokenizer; None if the backend lacks ``Tokenizes``."""
        able = isinstance(self.capable, Tokenizes)
        return self.capable.tokenizer_digest() if able else None

    def decode(self, ids: Sequence[IntArray]) -> list[str] | None:
        """Return the text of each array of ids; None if the backend lacks ``Tokenizes``."""
        return self.capable.decode(ids) if isinstance(self.capable, Tokenizes) else None

    def lend(self) -> AbstractContextManager[Lent]:
        """Return a scope with the local torch module.

        Raises:
            ModelError: if the backend lacks ``LendsModule``.
        """
        self._require(LendsModule)
        lent: AbstractContextManager[Lent] = self.backend.lend()
        return lent

    @contextmanager
    def adapted(self, ref: ModelRef) -> Iterator[JournaledModel]:
        """Return a scope with the same model and an adapter, journaled under its own fingerprint.

        Raises:
            ModelError: if the backend lacks ``Adapts``.
        """
        self._require(Adapts)
        with self.backend.adapted(ref) as capable:
            yield replace(self, identity=digest(self.identity, ref.digest), capable=capable)


def _portions(places: Sequence[int], samples: Sequence[TokenSample]) -> Iterator[list[int]]:
    """Yield places, longest sample first, in portions that are stored one by one: a kill loses at most one."""
    order = sorted(places, key=lambda place: -len(samples[place].ids))
    part: list[int] = []
    size = 0
    for place in order:
        part.append(place)
        size += len(samples[place].ids)
        if size >= _PORTION:
            yield part
            part, size = [], 0
    if part:
        yield part
