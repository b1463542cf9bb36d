"""The state of one run that its steps share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from nfilter.api.calls import ModelRef
from nfilter.api.errors import ContractError
from nfilter.api.events import StageFinished
from nfilter.api.stages import TokenLoss
from nfilter.api.types import Sample, TokenSample
from nfilter.engine import arms
from nfilter.engine.ingest import Limit
from nfilter.engine.ledger import Ledger
from nfilter.engine.stages import Division, OneProcess
from nfilter.engine.step_position import step_position
from nfilter.models.context import RunContext
from nfilter.models.pace import Pace
from nfilter.models.pool import ModelPool
from nfilter.progress import RunLog
from nfilter.recipe.model import Recipe
from nfilter.recipe.prompts import Prompts
from nfilter.registry.loading import Plugins
from nfilter.store.files import digest
from nfilter.store.journal import Journal
from nfilter.store.losses import ScoreCaches
from nfilter.store.run_directory import RunDirectory


@dataclass
class RunState:
    """One run in progress.

    ``finished`` and ``tokens_finished`` have the finished sample stages and token stages, ``published`` the models that stages
    offer, by the stage's name in the recipe. ``speeds`` has, by arm, the measured ``seconds_per_step`` of its training and the
    ``evaluation_seconds`` of its test. ``rank`` is that of this process among those that share the chunks of stages.
    """

    recipe: Recipe
    plugins: Plugins
    directory: RunDirectory
    pool: ModelPool
    journal: Journal
    prompts: Prompts
    log: RunLog
    limit: Limit
    rank: int = 0
    division: Division = field(default_factory=OneProcess)
    published: dict[str, ModelRef] = field(default_factory=dict)
    finished: list[StageFinished] = field(default_factory=list)
    tokens_finished: list[StageFinished] = field(default_factory=list)
    fingerprints: dict[str, str] = field(default_factory=dict)
    lints: dict[str, dict[str, Any]] = field(default_factory=dict)
    trainings: dict[str, dict[str, Any]] = field(default_factory=dict)
    speeds: dict[str, dict[str, float]] = field(default_factory=dict)
    rows: int = 0
    scores: ScoreCaches = field(init=False)
    ledger: Ledger = field(init=False)

    def __post_init__(self) -> None:
        self.ledger = Ledger(self.directory.path, self.journal, self.log.warning)
        self.scores = ScoreCaches(self.directory.path / "scores", self.log.warning)

    @property
    def at(self) -> str:
        """The stage, arm or other step that is running."""
        return self.log.at

    @at.setter
    def at(self, stage: str) -> None:
        self.log.at = stage

    def context(
        self,
        stage: str,
        stream: str | None = None,
        loss: TokenLoss | None = None,
        rows: int | None = None,
        pace: Pace | None = None,
        publish: Callable[[ModelRef], None] | None = None,
        code: str = "",
        stage_rows: Iterable[Sample] = (),
    ) -> RunContext:
        """Return the context of one step of this run.

        Args:
            stage: The label of the step.
            stream: The key of its random numbers; None uses ``stage``.
            loss: The online loss of an arm's training.
            rows: The run's number of rows, for a trainer that chooses settings.
            pace: Measures local models; None measures nothing.
            publish: Receives the model that the stage offers.
            code: The digest of the code of the stage's plugin.
            stage_rows: The samples that the stage receives, for its tools; iterated when a tool needs them.
        """
        self.at = stage
        return RunContext(
            self.recipe,
            stage,
            self.pool,
            self.journal,
            self.prompts,
            self.log,
            stream=stream,
            trainer=partial(self.train_for, stage) if self.recipe.train is not None else None,
            publish=publish,
            scores=self.scores,
            loss=loss,
            place=step_position(self.recipe, stage),
            rows=rows,
            pace=pace,
            code=code,
            stage_rows=stage_rows,
        )

    def train_for(
        self, stage: str, samples: Sequence[TokenSample], start: ModelRef | None
    ) -> ModelRef:
        """Train a model for a stage, in a folder under models/.

        Raises:
            ContractError: on another rank than 0.
        """
        if self.rank:
            raise only_in_fit(stage, "trains a model", self.rank)
        assert self.recipe.train is not None
        # One folder per model, because a later training of the stage starts from an earlier one. The name is without the
        # stage's number, which depends on the stages before it.
        name = digest(arms.tokens_digest(samples), start.digest if start else "")[:16]
        out = self.directory.path / "models" / f"{stage.partition('-')[2]}-{name}"
        # Reference models use the plain loss: an online loss may read scores that are computed with this model.
        use = replace(self.recipe.train, loss=None)
        done = arms.train_adapter(use, samples, self.context(f"{stage}.train"), out, start)
        self.at = stage
        assert done.ref is not None
        return done.ref


def only_in_fit(stage: str, what: str, rank: int) -> ContractError:
    """Return the error for a stage that does something in ``process`` which rank 0 alone may do."""
    return ContractError(
        f"{stage}: its process {what} on rank {rank}, which only rank 0 can publish; do it in fit, or write "
        'one_process="each chunk ..." in the contract'
    )
