"""What a stage has access to: models (journaled), prompts, seeded generators, progress, log."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

from nfilter.answers import build as build_answers
from nfilter.answers import judged_by
from nfilter.api.calls import ModelRef
from nfilter.api.capabilities import CutsTexts, CutTexts
from nfilter.api.errors import RecipeError
from nfilter.api.stages import AnswerKind, Progress, Template, TokenLoss
from nfilter.api.tool_settings import LazyRows, ToolUse, build_tool
from nfilter.api.tools import Tool, ToolSite
from nfilter.api.types import FloatArray, Sample, TokenSample
from nfilter.models.claims import CallClaims
from nfilter.models.pace import Pace
from nfilter.models.pool import ModelPool
from nfilter.models.proxy import JournaledModel
from nfilter.models.token_scores import Compute, streamed
from nfilter.progress import RunLog
from nfilter.recipe.model import Recipe
from nfilter.recipe.prompts import Prompts
from nfilter.registry.provenance import backend_code
from nfilter.store.failed_calls import failed_calls_text
from nfilter.store.files import digest
from nfilter.store.journal import Journal
from nfilter.store.losses import ScoreCaches, response


class RunContext:
    """The context of one stage in one run."""

    def __init__(
        self,
        recipe: Recipe,
        stage: str,
        pool: ModelPool,
        journal: Journal,
        prompts: Prompts,
        log: RunLog,
        *,
        stream: str | None = None,
        trainer: Callable[[Sequence[TokenSample], ModelRef | None], ModelRef] | None = None,
        publish: Callable[[ModelRef], None] | None = None,
        scores: ScoreCaches | None = None,
        loss: TokenLoss | None = None,
        place: str = "",
        rows: int | None = None,
        pace: Pace | None = None,
        code: str = "",
        stage_rows: Iterable[Sample] = (),
    ) -> None:
        """Create the context of ``stage``.

        Args:
            recipe: The recipe of the run.
            stage: The number and name of the stage.
            pool: Builds the models.
            journal: Stores the completions.
            prompts: Loads the templates.
            log: Writes run.log and warnings.
            stream: Seeds ``rng`` instead of ``stage``: the name without its number.
            trainer: Trains for ``train``; None if the recipe has no trainer.
            publish: Receives the model of ``publish_model``.
            scores: Stores losses and other token scores.
            loss: The online loss of an arm.
            place: Progress of the run, shown before the text of a progress bar.
            rows: Number of rows of the run, for the trainer of an arm.
            pace: Measures local models.
            code: The digest of the stage's plugin: scores that other code computed are not read.
            stage_rows: The samples that the stage receives, for its tools; iterated when a tool needs them.
        """
        self._rows = LazyRows(stage_rows)
        self._tools: dict[str, Tool] = {}
        self._code = code
        self._place = place
        self._pace = pace
        self.rows = rows
        self.seed = recipe.seed
        self.stage = stage
        self.base_dir: Path = recipe.base_dir
        self.log = log
        self.loss = loss
        self._stream = stream or stage
        self._recipe = recipe
        self._pool = pool
        self._journal = journal
        self._prompts = prompts
        self._trainer = trainer
        self._publish = publish
        self._scores = scores
        self._used: dict[str, Any] = {}
        self._cut: dict[str, CutTexts] = {}
        self.claims: CallClaims | None = None  # where several processes share the stage
        self.answers: AnswerKind = answers_of(recipe, self)

    def model(self, name: str) -> JournaledModel:
        """Return the model with that name in the recipe.

        Raises:
            ModelError: if there is none, it cannot be built, or its host is not allowed.
        """
        backend = self._pool.backend(name)
        self._used[self._recipe.aliases.get(name, name)] = backend
        return JournaledModel(
            name,
            backend,
            backend.fingerprint(),
            self._journal,
            self.stage,
            progress=self.progress,
            scores=self._scores,
            interrupt=self._pool.site.interrupt,
            cost=self._pool.cost(name),
            thoughts=self._recipe.thoughts(name),
            pace=self._pace if self._pool.is_local(name) else None,
            capabilities=self._pool.capabilities(name),
            budget=self._pool.site.budget,
            claims=self.claims,
        )

    def prompt(self, name: str) -> Template:
        """Return the template with that name."""
        return self._prompts.get(name)

    def tools(self, uses: Sequence[ToolUse]) -> dict[str, Tool]:
        """Return the tools by name. Each is built once per stage, so that an index that it makes serves all chunks.

        Raises:
            PluginError: if no plugin has such a tool.
        """
        return {use.use: self._tool(use) for use in uses}

    def _tool(self, use: ToolUse) -> Tool:
        key = json.dumps(use.dump(), sort_keys=True)
        if key not in self._tools:
            state_dir = self._pool.site.state_dir
            site = ToolSite(
                self.base_dir,
                self._rows,
                self.model,
                cache_dir=None if state_dir is None else state_dir / "tools",
                allow=self._recipe.allow,
            )
            item = self._recipe.plugins.get("tool", use.use)
            self._tools[key] = build_tool(item.cls, use, site)
        return self._tools[key]

    def rng(self, key: str) -> random.Random:
        """Return a generator seeded by the run's seed, the stage's name without its number, and ``key``."""
        return random.Random(f"{self.seed}\x1f{self._stream}\x1f{key}")

    def progress(
        self, total: int | None, text: str, note: Callable[[], str] | None = None
    ) -> AbstractContextManager[Progress]:
        """Return a progress bar for a terminal, with the progress of the run; elsewhere it shows nothing."""
        where = f"{self._place}: {text}" if self._place else text
        bar: AbstractContextManager[Progress] = self.log.reporter.progress(total, where, note)
        return bar

    def train(self, samples: Iterable[TokenSample], start: ModelRef | None = None) -> ModelRef:
        """Train with the trainer of the recipe.

        Raises:
            RecipeError: if the recipe has none.
        """
        if self._trainer is None:
            raise RecipeError(
                f"{self.stage} trains a model, and the recipe has no trainer; add train: {{use: TRAINER, model: MODEL}}; nfilter plugins lists trainers"
            )
        return self._trainer(list(samples), start)

    def finish(self) -> None:
        """Store the speed of local models; warn about failed calls and about texts longer than an encoder's window."""
        if self._pace is not None:
            self._pace.keep()
        for name, ended in self._journal.outcomes(self.stage).items():
            if ended["failed"]:
                self.log.warning(
                    f"{self.stage}: {failed_calls_text(name, ended)}; `nfilter explain RUN ID` says for a row what was asked and why"
                )
        self.add_cut_texts(self.take_cut_texts())
        for name, found in self._cut.items():
            if not found.cut or found.read == "mean":
                continue
            end, other = ("end", "tail") if found.read == "head" else ("beginning", "head")
            self.log.warning(
                f"{self.stage}: {found.cut} of {found.texts} texts are longer than the window of {name} ({found.window} "
                f"tokens), which read their {found.read} alone; where the {end} matters, set {found.setting}: {other}, "
                f"or {found.setting}: mean for all of it, on models: {name}"
            )

    def take_cut_texts(self) -> dict[str, CutTexts]:
        """Return the counts of the encoders that the stage used, by model, since the last call."""
        taken = {
            name: backend.take_cut_texts()
            for name, backend in self._used.items()
            if isinstance(backend, CutsTexts)
        }
        return {name: found for name, found in taken.items() if found is not None}

    def add_cut_texts(self, counted: Mapping[str, CutTexts]) -> None:
        """Add counts, such as those of another process that ran a part of the stage, to what ``finish`` reports."""
        for name, found in counted.items():
            before = self._cut.get(name)
            self._cut[name] = (
                found
                if before is None
                else replace(found, cut=before.cut + found.cut, texts=before.texts + found.texts)
            )

    def publish_model(self, ref: ModelRef) -> None:
        """Publish a model for ``train: {use: adopt}``."""
        if self._publish is not None:
            self._publish(ref)

    def token_scores(
        self, model: str, what: str, samples: Sequence[TokenSample], compute: Compute
    ) -> list[FloatArray]:
        """Return scores of response tokens, float32 [T] per sample, NaN elsewhere; see the protocol ``Context``."""
        backend, code = self._pool.backend(model), self._code
        name = digest(backend.fingerprint(), backend_code(backend), code, what)
        if self._scores is None:
            return list(compute(samples))
        return streamed(self._scores.of(name, response), samples, compute, self.stage)


def answers_of(recipe: Recipe, ctx: RunContext) -> AnswerKind:
    """Return the answer kind of the recipe. Its encoder or judge, if any, is a model of the recipe."""
    config = recipe.answer

    def embed(texts: Sequence[str]) -> FloatArray:
        return ctx.model(str(config.encoder)).embed(texts)

    def judge(pairs: Sequence[tuple[str, str]]) -> list[bool]:
        return judged_by(ctx.model(str(config.judge)), ctx.prompt(config.prompt))(pairs)

    return build_answers(config, embed=embed, judge=judge)
