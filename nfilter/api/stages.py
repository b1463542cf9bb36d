"""The protocols that plugins implement. Nothing here is inherited from but ``StageConfig``.

A class is a stage, a backend, a source and so on because it has these members, not because of its bases.
``nfilter.testing`` holds the conformance checks for each of them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import (
    Annotated,
    Any,
    ClassVar,
    Literal,
    Protocol,
    Union,
    get_args,
    get_origin,
    runtime_checkable,
)

import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator

from nfilter.api.budget import Budget
from nfilter.api.capabilities import Abilities, Ranks, TokenizerDigest
from nfilter.api.interrupt import Drain
from nfilter.api.model import Model
from nfilter.api.types import (
    JSON,
    FloatArray,
    Message,
    ModelRef,
    Row,
    Sample,
    TokenSample,
    Unreadable,
)


class StageConfig(BaseModel):
    """The base of every plugin's configuration: unknown keys are errors, values are frozen, numbers are finite.

    ``also_known`` maps a name that other tools use for a setting to the field here (``{"learning_rate": "lr"}``), or to a
    sentence on what to write instead; the error for an unknown key shows it.
    """

    also_known: ClassVar[Mapping[str, str]] = {}

    model_config = ConfigDict(
        extra="forbid", frozen=True, arbitrary_types_allowed=False, allow_inf_nan=False
    )

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        # pydantic would take true for 1: "rounds: yes" is a slip, never a number.
        if isinstance(value, bool) and info.field_name is not None:
            kinds = _leaves(cls.model_fields[info.field_name].annotation)
            if kinds & {int, float} and not kinds & {bool, Any, object}:
                raise ValueError("a number is needed here, and true or false is none")
        return value


def _leaves(annotation: Any) -> set[Any]:
    """The plain types that an annotation is made of: ``Annotated[int, ...] | None`` has int and NoneType."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _leaves(get_args(annotation)[0])
    if origin in {Union, UnionType}:
        return set().union(*(_leaves(part) for part in get_args(annotation)))
    if origin is Literal:
        return {type(value) for value in get_args(annotation)}
    return {annotation}


# --- models --------------------------------------------------------------------------------------------------


class Backend(Protocol):
    """A kind of model. It is built once a run from its config, and implements the capabilities it names.

    A class method ``facts(config, site)`` may say in a line how the model is reached; ``check`` and run.log show it.
    ``shields = True`` on the class says that control tokens in a message stay plain text here; elsewhere the engine
    breaks them before the call. Data goes to no host that a config names and its user did not allow, but for this
    machine and ``own_hosts``, a set on the class; a class method ``hosts(config)`` adds hosts that no address shows.

    Any plugin class may have ``also_known``, a mapping of names that other tools use for it (``{"vllm": "{use: litellm, ...}"}``)
    to what to write here; the error for an unknown name shows it.
    """

    name: ClassVar[str]
    Config: ClassVar[type[StageConfig]]

    @classmethod
    def abilities(cls, config: Any) -> Abilities: ...

    @classmethod
    def problems(cls, config: Any, site: Site) -> Iterable[str]:
        """What is wrong with the config that can be seen without loading: a missing folder, a bad name."""
        ...

    def __init__(self, config: Any, site: Site) -> None: ...

    def fingerprint(self) -> str:
        """Identifies the weights: what a cached answer may be reused for."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Site:
    """Where things are: the recipe's folder (relative paths start there) and the models that ship, by name.

    A backend whose calls cost money holds it in ``budget`` before each, where there is one (it may have a cap, and counts
    what is spent), and begins none once ``drain`` is asked for; what it streams then ends early. ``state_dir`` is a
    folder of the run, perhaps not made yet, for what a backend must know again after a kill; None outside of a run.
    A backend that connects elsewhere asks ``allow_hosts`` at each connection; its user named those hosts.
    """

    base_dir: Path
    models: Mapping[str, Path] = field(default_factory=dict)
    budget: Budget | None = None
    drain: Drain = field(default_factory=Drain)
    state_dir: Path | None = None
    allow_hosts: frozenset[str] = frozenset()


# --- stages --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ModelNeed:
    """A model that a stage will use, by its name in the recipe."""

    model: str
    capability: type
    logprobs: bool = False
    field: str = ""


@dataclass(frozen=True, slots=True)
class Calls:
    """What a stage asks of a model for every row that reaches it, as far as its config tells.

    Between ``least`` and ``most`` calls a row, ``usual`` of them where nothing is known of the data; ``prompt`` is
    the template, which shows the texts of ``rows`` rows; an answer has at most ``max_tokens``.
    ``shows``: tokens of earlier answers that a prompt has at most; 0 is one answer where there may be several calls.
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
    """What a stage does to samples, as a function of its config.

    ``reads`` and ``writes`` name notes. ``verdicts`` names those of the notes written that are a ``Verdict``; metrics
    compare them with the truth. ``views`` names those that are a ``View``. ``proposes`` names the notes that are a
    ``Proposal``, a new label for a flagged sample. ``sometimes`` names those of the notes
    written that only some data calls for: every other one stands on at least one sample.
    ``prompts`` names templates. ``new_samples`` allows samples with parents to be added.
    ``online_loss``: a trainer that trains with ``ctx.loss`` where the recipe names one. ``trains``: a stage that calls
    ``ctx.train``, and so needs the recipe to name a trainer. ``calls`` says what to expect before any call is made.
    ``measures``: which a view that is written has, each with the model whose log-probabilities it takes, or None:
    ``{"base": {"nll": "expert", "agreement": None}}``; ``ranks``: those that the stage ranks by.
    ``packages`` maps each importable name that may not be installed to what pip installs: ``{"faiss": "nfilter[local]"}``.
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
    trains: bool = False
    calls: tuple[Calls, ...] = ()
    packages: Mapping[str, str] = field(default_factory=dict, hash=False)
    measures: Mapping[str, Mapping[str, str | None]] = field(default_factory=dict, hash=False)
    ranks: tuple[Ranks, ...] = ()


@dataclass(frozen=True, slots=True)
class State:
    """What ``fit`` learned: JSON values and numpy arrays (never objects), kept on disk, arrays memory-mapped.

    ``values["report"]``, a mapping, is what the stage found out about the whole dataset. It goes into metrics.json, under
    ``stages`` and the stage's number and name; that of a token stage under ``tokens``, ``stages``, its number and name, ``report``.
    """

    values: Mapping[str, JSON] = field(default_factory=dict)
    arrays: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)


class Log(Protocol):
    """Where a plugin says things: one sentence a call."""

    def info(self, text: str) -> None: ...

    def warning(self, text: str) -> None: ...


class Template(Protocol):
    """A prompt: rendered in a sandbox, one message a role block of its source."""

    @property
    def name(self) -> str: ...

    @property
    def digest(self) -> str: ...

    def render(self, **variables: Any) -> tuple[Message, ...]: ...


class AnswerKind(Protocol):
    """How answers are found in text and compared; one kind a recipe (``answer:``)."""

    kind: str

    def parse(self, text: str, sample: Sample | None = None) -> str | None:
        """The last answer in ``text``, in canonical form; None where there is none."""
        ...

    def agree(self, pairs: Sequence[tuple[str | None, str | None]]) -> list[bool]:
        """Whether two canonical answers are the same; an answer that is None agrees with nothing."""
        ...

    def options(self, sample: Sample) -> tuple[str, ...] | None:
        """The options of a multiple-choice sample, else None."""
        ...


class Progress(Protocol):
    """A running count of long work: rate and time left on a terminal, quiet elsewhere."""

    def advance(self, n: int = 1) -> None: ...


class Context(Protocol):
    """What a stage may reach. Everything else is out of bounds."""

    @property
    def seed(self) -> int: ...

    @property
    def stage(self) -> str: ...

    @property
    def base_dir(self) -> Path: ...

    @property
    def log(self) -> Log: ...

    @property
    def answers(self) -> AnswerKind: ...

    @property
    def loss(self) -> TokenLoss | None:
        """The online loss of ``train: {loss: ...}``, for the trainer of an arm; None everywhere else."""
        ...

    @property
    def rows(self) -> int | None:
        """How many rows the run has, for the trainer of an arm, so that all arms are trained alike; else None."""
        ...

    def model(self, name: str) -> Model:
        """Return the model with that name in the recipe."""
        ...

    def prompt(self, name: str) -> Template: ...

    def rng(self, key: str) -> random.Random:
        """A generator that depends on the run's seed, the stage and ``key`` alone (a sample's id, say)."""
        ...

    def progress(
        self, total: int | None, text: str, note: Callable[[], str] | None = None
    ) -> AbstractContextManager[Progress]:
        """A bar for long work; ``note`` is asked whenever it is drawn, for what changes on the way (a loss, say)."""
        ...

    def train(self, samples: Iterable[TokenSample], start: ModelRef | None = None) -> ModelRef:
        """Train with the recipe's trainer, from ``start`` or from the base; for stages that make references."""
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
        """Return a score per response token, float32 [T] per sample, NaN elsewhere; what was computed before is read.

        Args:
            model: The name of the model that ``compute`` reads the samples with.
            what: Names the score and all settings that decide it.
            samples: Equal ones (ids and response mask) are computed once.
            compute: Yields the scores, [T] each, of the samples that it receives, in order. They are stored as they
                come, so that a run that is killed goes on behind them.
        """
        ...


class SampleStage(Protocol):
    """A step over samples. It holds no state of its own and is rebuilt from its config.

    A stage that needs to see all samples at once also has ``fit(self, stream, ctx) -> State``; ``process`` then
    receives that state and one chunk. Samples that are dropped never reach either.
    """

    name: ClassVar[str]
    Config: ClassVar[type[StageConfig]]

    @classmethod
    def contract(cls, config: Any) -> Contract: ...

    def __init__(self, config: Any) -> None: ...

    def process(self, chunk: Sequence[Sample], state: State, ctx: Context) -> Sequence[Sample]: ...


@runtime_checkable
class Fits(Protocol):
    """A sample stage that learns from all samples before it processes any."""

    def fit(self, stream: Iterable[Sample], ctx: Context) -> State: ...


class TokenStage(Protocol):
    """A step over encoded samples; the same as ``SampleStage`` otherwise. ``reads``/``writes`` name scores."""

    name: ClassVar[str]
    Config: ClassVar[type[StageConfig]]

    @classmethod
    def contract(cls, config: Any) -> Contract: ...

    def __init__(self, config: Any) -> None: ...

    def process_tokens(
        self, chunk: Sequence[TokenSample], state: State, ctx: Context, bit: int
    ) -> Sequence[TokenSample]:
        """``bit`` is the number of this stage's reason, for ``TokenSample.mask``."""
        ...


@runtime_checkable
class FitsTokens(Protocol):
    """A token stage that learns from all samples before it processes any."""

    def fit_tokens(self, stream: Iterable[TokenSample], ctx: Context) -> State: ...


# --- sources, exporters, trainers, metrics, losses -----------------------------------------------------------


class Source(Protocol):
    """Rows in, and rows out again in the shape they came in."""

    name: ClassVar[str]
    Config: ClassVar[type[StageConfig]]

    @classmethod
    def problems(cls, config: Any, base_dir: Path) -> Iterable[str]:
        """What is wrong that can be seen without reading the rows: a missing file, a column that is not there."""
        ...

    @classmethod
    def columns(cls, config: Any, base_dir: Path) -> Mapping[str, str]:
        """What was guessed of the data: role (``prompt``, ``response``, ...) to column; for ``init`` and ``check``."""
        ...

    def __init__(self, config: Any, base_dir: Path) -> None: ...

    def read(self) -> Iterator[Row | Unreadable]:
        """All rows in order; what cannot be read comes as ``Unreadable``, and reading goes on."""
        ...

    def restore(self, sample: Sample) -> Mapping[str, JSON]:
        """The sample in the columns of this source, its response put back in place, and its ``id``."""
        ...


@dataclass(frozen=True, slots=True)
class Exported:
    """What a run kept: the rows that are left, their tokens in the same order, reason bits by name.

    ``tokenizer`` made the ids; None where the model's backend does not tell. ``encoded`` is False for a run that made no
    tokens, such as one of rules alone: ``tokens`` and ``reasons`` are empty then.
    """

    samples: Sequence[Sample]
    tokens: Sequence[TokenSample]
    reasons: Sequence[str]
    tokenizer: TokenizerDigest | None = None
    encoded: bool = True


class Exporter(Protocol):
    """Writes what remains of a run for another program.

    ``takes_rows = True`` on the class says that a run without tokens can be exported too; without it, the engine refuses
    such a run before the exporter is called.
    """

    name: ClassVar[str]
    Config: ClassVar[type[StageConfig]]

    def __init__(self, config: Any) -> None: ...

    def export(self, run: Exported, out: Path) -> Iterable[str]:
        """Write files into the empty folder ``out``; a line on each, and on what the format cannot hold.

        The engine publishes the folder as a whole when this returns, so that the files are written in the plain way.
        """
        ...


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """What training ended in: the adapter, and the figures of the way there.

    ``resumed_from`` is the step of the checkpoint that training went on from; None where it began at the beginning.
    ``settings`` are those that say how it went (batch size, epochs, learning rate), with what the trainer chose.
    """

    ref: ModelRef
    steps: int
    tokens: int
    losses: tuple[float, ...]
    seconds: float
    resumed_from: int | None = None
    settings: Mapping[str, JSON] = field(default_factory=dict)


class Trainer(Protocol):
    """Fine-tunes a model on weighted tokens and saves an adapter in PEFT format under ``out``.

    ``out`` is new, or holds what a training of the same tokens, settings, model and start left when it was stopped: a
    trainer may go on from that.
    """

    name: ClassVar[str]
    Config: ClassVar[type[StageConfig]]

    @classmethod
    def contract(cls, config: Any) -> Contract: ...

    @classmethod
    def memory(cls, config: Any, model_config: Any, site: Site) -> Mapping[str, float]:
        """An estimate in bytes by part (``weights``, ``optimizer``, ...); empty where it cannot be known."""
        ...

    def __init__(self, config: Any) -> None: ...

    def train(
        self,
        samples: Sequence[TokenSample],
        model: Model,
        out: Path,
        ctx: Context,
        start: ModelRef | None = None,
    ) -> TrainingResult: ...


@runtime_checkable
class ChoosesSettings(Protocol):
    """A trainer that chooses what its recipe leaves open, from the rows and the model."""

    @classmethod
    def fits_rows(cls, config: Any) -> bool:
        """Whether what it chooses for an arm depends on ``Context.rows``."""
        ...

    @classmethod
    def foretold(cls, config: Any, model_config: Any, site: Site, rows: int | None) -> Foretold:
        """How a training of the run's ``rows`` would go; None: how many is not known yet. Nothing is loaded."""
        ...


@dataclass(frozen=True, slots=True)
class Foretold:
    """What a trainer would choose, in words, and a warning; each empty where there is nothing to say."""

    text: str = ""
    warning: str = ""


@runtime_checkable
class Follows(Protocol):
    """A trainer that shares its work among the processes of one launch (torchrun, accelerate).

    The first process does the run. Nothing but the trainer's own work reaches the others: they see no run directory.
    """

    def lead(self) -> AbstractContextManager[None]:
        """In the first process, around the whole run: its work is shared, and at its end all others return."""
        ...

    def follow(self, site: Site, loss: TokenLoss | None) -> None:
        """In every other process: take part in the work until the first process's run is over, well or not.

        No process may wait for one that is gone. ``site`` is where models are looked for, ``loss`` the recipe's online loss.
        """
        ...


class TokenLoss(Protocol):
    """An online loss: per-token statistics of a chunk of logits, then a weight for every token of the batch.

    The batch is an optimiser step: the n predictions that had a weight before. What ``weigh`` gives multiplies those
    weights and is a constant to the gradient. ``mean_over`` says what the trainer divides by, as its own setting asks
    (a mean of tokens, of samples): ``given``, the weights that the tokens came with, so that a scale of ``weigh``
    counts; ``weighed``, those times ``weigh``, a mean over what is kept, for weights that are never negative.
    """

    name: ClassVar[str]
    Config: ClassVar[type[StageConfig]]
    mean_over: ClassVar[Literal["given", "weighed"]]

    @classmethod
    def contract(cls, config: Any) -> Contract:
        """``reads`` names the scores that ``weigh`` takes from ``cached``."""
        ...

    def __init__(self, config: Any) -> None: ...

    def stats(self, logits_chunk: Any, labels: Any) -> Mapping[str, Any]:
        """Logits [m, vocab], of any float type and without gradients, and labels [m] to named statistics, each [m]."""
        ...

    def weigh(self, stats: Mapping[str, Any], cached: Mapping[str, Any], step: int) -> Any:
        """Statistics of the whole batch to finite weights [n], which may be negative.

        ``cached`` has the scores of the token stages at the same predictions, each [n], NaN where undefined. All are
        arrays of the trainer's library in the same order; ``step`` counts optimiser steps from 0.
        """
        ...


EMPTY_STATE = State()
