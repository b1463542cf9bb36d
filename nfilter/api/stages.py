"""The protocols that plugins implement. Nothing is inherited from them.

A class is a stage, a backend or a source because it has these members, not because of its base classes. ``nfilter.testing``
has conformance checks for each of them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import (
    Any,
    ClassVar,
    Literal,
    Protocol,
    runtime_checkable,
)

import numpy.typing as npt

from nfilter.api.budget import Budget
from nfilter.api.calls import ModelRef
from nfilter.api.capabilities import Abilities, Ranks
from nfilter.api.interrupt import Interrupt
from nfilter.api.model import Model
from nfilter.api.settings import StageConfig
from nfilter.api.tool_settings import ToolUse
from nfilter.api.tools import Tool
from nfilter.api.types import JSON, FloatArray, Message, Sample, TokenSample

# --- models --------------------------------------------------------------------------------------------------


class Backend(Protocol):
    """A kind of model. It is built once per run from its config, and implements its declared capabilities.

    Optional members of the class: ``facts(config, site)``, a class method that returns a line about how the model is reached,
    for ``check`` and run.log; ``tool_problems(config, site)``, a class method that returns why the model cannot be given tools, as
    far as that is known before it is loaded; ``shields = True`` if the backend itself keeps control tokens in messages as plain text (for
    others the engine breaks them before the call); ``built_on``, the backends that an instance is built on, so that their code counts
    where its code does; ``own_hosts``, a set of hosts that need no permission, and ``hosts(config)``,
    a class method that returns hosts in addition to those of the config's addresses. Data is sent only to this machine, to
    ``own_hosts`` and to hosts that the user allowed.

    Any plugin class may have ``also_known``, which maps its names in other tools to the text to write here; the error for an
    unknown name shows it.
    """

    name: ClassVar[str]
    Config: ClassVar[type[StageConfig]]

    @classmethod
    def abilities(cls, config: Any) -> Abilities: ...

    @classmethod
    def problems(cls, config: Any, site: Site) -> Iterable[str]:
        """Return faults of the config that are detectable without loading, e.g. a missing folder or a wrong name."""
        ...

    def __init__(self, config: Any, site: Site) -> None: ...

    def fingerprint(self) -> str:
        """Return a text that identifies the weights; equal fingerprints share cached answers."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Site:
    """The environment of backends: the recipe's folder, to which paths are relative, and the models that ship, by name.

    ``backends`` has the classes of all backends by name, so that one can be built on another without importing its plugin.

    A backend whose calls cost money holds the cost in ``budget``, if there is one, before each call, and starts none once
    ``interrupt.requested``; its stream then ends early. A call that is held and not settled when the process is killed counts
    at its maximum, unless it is ``recoverable``. What it paid for calls that end without a completion it passes to
    ``budget.lose``. ``state_dir`` is a folder of the run, possibly not created yet, for state that
    a backend needs after a kill; None outside a run. ``allow_hosts`` are the hosts that the user allowed; a backend checks
    them at each connection.
    """

    base_dir: Path
    models: Mapping[str, Path] = field(default_factory=dict)
    budget: Budget | None = None
    interrupt: Interrupt = field(default_factory=Interrupt)
    state_dir: Path | None = None
    allow_hosts: frozenset[str] = frozenset()
    backends: Mapping[str, type[Any]] = field(default_factory=dict)


# --- stages --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ModelNeed:
    """A model that a stage uses, by its name in the recipe, and the capability that it needs."""

    model: str
    capability: type
    logprobs: bool = False
    field: str = ""
    tools: bool = True


@dataclass(frozen=True, slots=True)
class Calls:
    """The expected calls of a stage to a model for each row that it receives.

    Between ``least`` and ``most`` calls per row, ``usual`` is the estimate; ``prompt`` is the template, which contains the
    texts of ``rows`` rows; an answer has at most ``max_tokens``. ``shows`` is the maximum number of tokens of earlier answers in
    a prompt; with 0, a stage with several calls per row is assumed to show one answer.
    """

    model: str
    prompt: str
    max_tokens: int
    least: float = 1.0
    usual: float = 1.0
    most: float = 1.0
    rows: float = 1.0
    shows: int = 0


@dataclass(frozen=True, slots=True)
class Contract:
    """What a stage or trainer does, as a function of its config.

    Attributes:
        reads: Names of notes (of scores, for a token stage) that it reads.
        writes: Names of notes or scores that it writes.
        verdicts: Written notes that are a ``Verdict``; metrics compare them with the truth.
        views: Written notes that are a ``View``.
        proposes: Notes that are a ``Proposal``, a new label for a flagged sample.
        sometimes: Written notes that only some data produces; every other one is on at least one sample.
        prompts: Names of templates.
        needs: Models that it uses in addition to config fields with ``Needs``.
        new_samples: Whether it may add samples with parents.
        online_loss: Whether a trainer supports ``ctx.loss``.
        online_penalty: Whether a trainer supports a ``ctx.loss`` that ``AddsPenalty``.
        trains: Whether it calls ``ctx.train``, so that the recipe needs a trainer.
        calls: The expected calls, for ``nfilter plan``.
        packages: Importable names that may not be installed, mapped to pip's argument: ``{"faiss": "nfilter[local]"}``.
        measures: The measures of each written view, with the model whose log-probabilities they use, or None:
            ``{"base": {"nll": "expert", "agreement": None}}``.
        ranks: The measures that the stage ranks by.
        one_process: Why one process must see all chunks, in order; empty if several processes may each take some of them. Words
            that complete "it runs in one process, because ...".
    """

    reads: frozenset[str] = frozenset()
    writes: frozenset[str] = frozenset()
    verdicts: frozenset[str] = frozenset()
    views: frozenset[str] = frozenset()
    proposes: frozenset[str] = frozenset()
    sometimes: frozenset[str] = frozenset()
    prompts: frozenset[str] = frozenset()
    needs: tuple[ModelNeed, ...] = ()
    new_samples: bool = False
    online_loss: bool = False
    online_penalty: bool = False
    trains: bool = False
    calls: tuple[Calls, ...] = ()
    packages: Mapping[str, str] = field(default_factory=dict, hash=False)
    measures: Mapping[str, Mapping[str, str | None]] = field(default_factory=dict, hash=False)
    ranks: tuple[Ranks, ...] = ()
    one_process: str = ""


@dataclass(frozen=True, slots=True)
class State:
    """The result of ``fit``: JSON values and numpy arrays (without objects), stored on disk; arrays are memory-mapped.

    ``values["report"]``, a mapping, has figures about the whole dataset. It is written to metrics.json under ``stages`` and the
    stage's number and name; for a token stage under ``tokens``, ``stages``, its number and name, ``report``.
    """

    values: Mapping[str, JSON] = field(default_factory=dict)
    arrays: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)


class Log(Protocol):
    """The log of a plugin: one sentence per call."""

    def info(self, text: str) -> None: ...

    def warning(self, text: str) -> None: ...


class Template(Protocol):
    """A prompt template, rendered in a sandbox; each role block of its source becomes a message."""

    @property
    def name(self) -> str:
        """The name in the recipe, ``folder/name``."""
        ...

    @property
    def digest(self) -> str:
        """The SHA-256 of the source."""
        ...

    def render(self, **variables: Any) -> tuple[Message, ...]:
        """Return the messages; ``question_variables`` returns the usual variables of a sample.

        Raises:
            PromptError: if the template uses a variable that is not given.
        """
        ...


class AnswerKind(Protocol):
    """How answers are parsed from text and compared; one kind per recipe (``answer:``)."""

    kind: str

    def parse(self, text: str, sample: Sample | None = None) -> str | None:
        """Return the last answer in ``text``, in canonical form; None if there is none."""
        ...

    def agree(self, pairs: Sequence[tuple[str | None, str | None]]) -> list[bool]:
        """Return for each pair of canonical answers whether they are equal; None equals nothing."""
        ...

    def options(self, sample: Sample) -> tuple[str, ...] | None:
        """Return the options of a multiple-choice sample, else None."""
        ...


class Progress(Protocol):
    """The progress of a long task, shown with rate and time left on a terminal."""

    def advance(self, n: int = 1) -> None: ...


class NoProgress:
    """Progress that is shown nowhere."""

    def advance(self, n: int = 1) -> None:
        """Count nothing."""


class Context(Protocol):
    """The services that a stage may use."""

    @property
    def seed(self) -> int:
        """The seed of the run."""
        ...

    @property
    def stage(self) -> str:
        """The label of the stage in this run, which ``Sample.made`` takes; a stage that is used twice has two."""
        ...

    @property
    def base_dir(self) -> Path:
        """The folder of the recipe, to which paths in settings are relative."""
        ...

    @property
    def log(self) -> Log:
        """The log; a warning is also one of the run, in metrics.json and its report."""
        ...

    @property
    def answers(self) -> AnswerKind:
        """How answers are parsed and compared, as the recipe's ``answer:`` says."""
        ...

    @property
    def loss(self) -> TokenLoss | None:
        """The online loss of ``train: {loss: ...}``, for the trainer of an arm; otherwise None."""
        ...

    @property
    def rows(self) -> int | None:
        """The run's number of rows, for the trainer of an arm, so that all arms have equal settings; otherwise None."""
        ...

    def model(self, name: str) -> Model:
        """Return the model with that name in the recipe."""
        ...

    def prompt(self, name: str) -> Template: ...

    def tools(self, uses: Sequence[ToolUse]) -> Mapping[str, Tool]:
        """Return the tools of a setting of type ``nfilter.Tools`` by name, for ``nfilter.run_agents``.

        A tool that reads rows receives those that the stage receives, without responses unless it promises to read labels.
        """
        ...

    def rng(self, key: str) -> random.Random:
        """Return a generator that depends only on the run's seed, the stage and ``key``, e.g. a sample's id."""
        ...

    def progress(
        self, total: int | None, text: str, note: Callable[[], str] | None = None
    ) -> AbstractContextManager[Progress]:
        """Show a progress bar in the block; ``note`` is called whenever it is drawn, e.g. for the current loss."""
        ...

    def train(self, samples: Iterable[TokenSample], start: ModelRef | None = None) -> ModelRef:
        """Train with the recipe's trainer, from ``start`` or from the base; e.g. for stages that need a reference model."""
        ...

    def publish_model(self, ref: ModelRef) -> None:
        """Offer a model to ``train: {use: adopt, from: STAGE}``."""
        ...

    def token_scores(
        self,
        model: str,
        what: str,
        samples: Sequence[TokenSample],
        compute: Callable[[Sequence[TokenSample]], Iterator[FloatArray]],
    ) -> list[FloatArray]:
        """Return one score per response token, float32 [T] per sample, NaN elsewhere; computed scores are cached.

        Args:
            model: The name of the model that ``compute`` uses.
            what: The name of the score with all settings that it depends on; part of the cache key.
            samples: Equal samples (ids and response mask) are computed once.
            compute: Yields the scores, [T] each, of the samples that it receives, in order. They are stored as they come,
                so that a killed run resumes after them.
        """
        ...


class SampleStage(Protocol):
    """A step over samples. It has no state and is rebuilt from its config.

    A stage that needs all samples at once also has ``fit(self, stream, ctx) -> State``; ``process`` then receives that state
    and one chunk. Neither receives dropped samples.
    """

    name: ClassVar[str]
    Config: ClassVar[type[StageConfig]]

    @classmethod
    def contract(cls, config: Any) -> Contract:
        """Return what the stage does with these settings; no model is loaded yet."""
        ...

    def __init__(self, config: Any) -> None: ...

    def process(self, chunk: Sequence[Sample], state: State, ctx: Context) -> Sequence[Sample]:
        """Return the samples of the chunk in the same order, each with what the stage decided about it.

        A sample is returned as ``sample.keep(reason)``, ``drop``, ``relabel`` or ``weigh``, after ``note`` for notes.
        """
        ...


@runtime_checkable
class Fits(Protocol):
    """A sample stage that learns from all samples before it processes any."""

    def fit(self, stream: Iterable[Sample], ctx: Context) -> State:
        """Return what ``process`` needs of all samples; it is called once, before the first chunk."""
        ...


class TokenStage(Protocol):
    """A step over encoded samples, otherwise like ``SampleStage``. ``reads`` and ``writes`` name scores."""

    name: ClassVar[str]
    Config: ClassVar[type[StageConfig]]

    @classmethod
    def contract(cls, config: Any) -> Contract: ...

    def __init__(self, config: Any) -> None: ...

    def process_tokens(
        self, chunk: Sequence[TokenSample], state: State, ctx: Context, bit: int
    ) -> Sequence[TokenSample]:
        """Process one chunk; ``bit`` is the number of this stage's reason bit, for ``TokenSample.mask``."""
        ...


@runtime_checkable
class FitsTokens(Protocol):
    """A token stage that learns from all samples before it processes any."""

    def fit_tokens(self, stream: Iterable[TokenSample], ctx: Context) -> State:
        """Return what ``process_tokens`` needs of all samples; it is called once, before the first chunk."""
        ...


# --- online losses --------------------------------------------------------------------------------------------


class TokenLoss(Protocol):
    """An online loss: per-token statistics of chunks of logits, then a weight for every token of the batch.

    The batch is one optimiser step: the n predictions with a weight. The result of ``weigh`` multiplies these weights and is
    constant for the gradient. ``mean_over`` determines the denominator of the mean: ``given``, the original weights, so that a
    scale of ``weigh`` has an effect; ``weighed``, the weights times ``weigh``, which must then not be negative.
    """

    name: ClassVar[str]
    Config: ClassVar[type[StageConfig]]
    mean_over: ClassVar[Literal["given", "weighed"]]

    @classmethod
    def contract(cls, config: Any) -> Contract:
        """Return the contract; ``reads`` names the scores that ``weigh`` reads from ``cached``."""
        ...

    def __init__(self, config: Any) -> None: ...

    def stats(self, logits_chunk: Any, labels: Any) -> Mapping[str, Any]:
        """Return named statistics, [m] each, of logits [m, vocab], of any float type and without gradients, and labels [m]."""
        ...

    def weigh(self, stats: Mapping[str, Any], cached: Mapping[str, Any], step: int) -> Any:
        """Return finite weights [n], which may be negative, from the statistics of the whole batch, [n] each.

        ``cached`` has the scores of the token stages at the same predictions, [n] each, NaN where undefined. All are arrays of
        the trainer's library in the same order; ``step`` counts optimiser steps from 0.
        """
        ...


@runtime_checkable
class AddsPenalty(Protocol):
    """An online loss with a second term per token that depends on the model before training, such as a KL divergence.

    With weights w, ``weigh`` v and losses l, the loss of a step is the mean of ``v l`` as ``mean_over`` says, plus
    ``sum(w penalty) / sum(w)``.
    """

    def penalty(self, logits_chunk: Any, labels: Any, reference_logits: Any) -> Any:
        """Return penalties [m], differentiable in the logits [m, vocab], which have gradients here.

        ``reference_logits`` [m, vocab] are those of the base without the adapter and without dropout, without gradients.
        """
        ...


EMPTY_STATE = State()
"""The state of a stage without ``fit``."""
