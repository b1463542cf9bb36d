"""The context view: flagged samples answered from their nearest clean neighbours (RobustFT, Eqs. 4 and 5)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from nfilter import (
    JSON,
    Calls,
    Context,
    Contract,
    Embeds,
    FloatArray,
    Generates,
    ModelNeed,
    Needs,
    PackedTexts,
    Sample,
    StageConfig,
    State,
    View,
)
from nfilter_robustft.index import THRESHOLD, Index, build
from nfilter_robustft.keys import text_of
from nfilter_robustft.published import as_published
from nfilter_robustft.sure import Sure
from nfilter_robustft.views import Asking, is_flagged, read, reasoning_of, with_notes

NO_CLEAN = "no clean sample to take context from"
_BLOCK = 1024


class RelabelConfig(StageConfig):
    """``k`` neighbours by cosine similarity of their queries, or with ``embed: question`` without the lettered options.

    ``check`` is the verdict note; null does without a checker: every sample is answered anew, from any others.
    With ``sure`` a flagged sample that the named view is sure about is not asked: that view's answer stands.
    ``exact_up_to`` clean samples are searched exactly, more through a graph.

    ``preset: official`` answers from 3 neighbours by question, in at most 512 tokens at temperature 1, as the published
    code does. The prompt, the encoder and how an answer is read are not the published ones.
    """

    llm: Annotated[str, Needs(Generates)]
    encoder: Annotated[str, Needs(Embeds)]
    into: str = "context"
    preset: Literal["paper", "official"] = "paper"
    check: str | None = "check"
    k: int = Field(default=3, ge=1, le=64)
    embed: Literal["query", "question"] = "query"
    prompt: str = "robustft/relabel"
    max_tokens: int = Field(default=512, ge=1)
    temperature: float = Field(default=0.0, ge=0)
    logprobs: bool = True
    sure: Sure | None = None
    exact_up_to: int = Field(default=THRESHOLD, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _as_published(cls, value: Any) -> Any:
        return as_published(value, k=3, embed="question")


@dataclass(frozen=True, slots=True)
class Neighbor:
    """A clean sample near a flagged one, as the prompt shows it."""

    id: str
    query: str
    response: str
    similarity: float


class Relabel:
    """Writes the model's answer to each flagged sample, given its nearest clean ones; the label is not shown.

    It proposes and does not change the response: ``robustft.review`` decides. Without any clean sample there is
    no context and so no answer, which the view says.
    """

    name: ClassVar[str] = "robustft.relabel"
    Config: ClassVar[type[StageConfig]] = RelabelConfig

    def __init__(self, config: RelabelConfig) -> None:
        self.config = config

    @classmethod
    def contract(cls, config: RelabelConfig) -> Contract:
        """Reads the verdict, writes a view that proposes a label; its ``nll`` is what selection ranks by."""
        return Contract(
            packages={"faiss": "nfilter[local]"},
            reads=frozenset(
                name
                for name in (config.check, config.sure.view if config.sure else None)
                if name is not None
            ),
            writes=frozenset({config.into}),
            sometimes=frozenset({config.into}),
            views=frozenset({config.into}),
            measures={config.into: {"nll": config.llm} if config.logprobs else {}},
            proposes=frozenset({config.into}),
            prompts=frozenset({config.prompt}),
            needs=(
                ModelNeed(config.llm, Generates, config.logprobs, "llm"),
                ModelNeed(config.encoder, Embeds, field="encoder"),
            ),
            calls=(
                Calls(
                    config.llm,
                    config.prompt,
                    config.max_tokens,
                    least=0 if config.check or config.sure else 1,
                    usual=0.5 if config.check or config.sure else 1,
                    rows=1 + config.k,
                ),
            ),
        )

    def fit(self, stream: Iterable[Sample], ctx: Context) -> State:
        """Index the clean queries, with the texts that prompts will show; nothing where nothing is flagged."""
        clean: list[tuple[str, str, str]] = []
        asked: list[str] = []
        flagged = 0
        for sample in stream:
            doubted = is_flagged(sample, self.config.check)
            flagged += doubted
            if not doubted or self.config.check is None:
                clean.append((sample.id, sample.query, sample.response))
                asked.append(self._asked(sample, ctx))
        values: dict[str, JSON] = {"clean": len(clean), "flagged": flagged}
        if not flagged:
            ctx.log.info("no sample is flagged: nothing to relabel")
            return State(values)
        if not clean:
            ctx.log.warning(
                f"all {flagged} samples are flagged: {NO_CLEAN}; the review has the other views alone"
            )
            return State(values)
        if len(clean) < self.config.k:
            ctx.log.warning(f"{len(clean)} clean samples are fewer than k: {self.config.k}")
        vectors = self._embed(asked, ctx)
        texts = PackedTexts.of(text for row in clean for text in row)
        arrays = {**build(vectors, self.config.exact_up_to), **texts.arrays("clean")}
        return State(values, arrays)

    def process(self, chunk: Sequence[Sample], state: State, ctx: Context) -> list[Sample]:
        """Answer the flagged samples of the chunk from their neighbours."""
        config = self.config
        flagged, decided = self._divide(chunk)
        if not flagged:
            return with_notes(chunk, config.into, decided)
        if not state.values.get("clean"):
            more: dict[str, JSON] = {"neighbors": [], "similarities": []}
            note = View(None, calls=0, failure=NO_CLEAN, more=more)
            nothing = {sample.id: note for sample in flagged}
            return with_notes(chunk, config.into, {**decided, **nothing})
        near = self.neighbors(flagged, state, ctx)
        asking = Asking(
            ctx, ctx.prompt(config.prompt), config.max_tokens, config.temperature, config.logprobs
        )
        requests = [
            asking.request(
                sample,
                neighbors=[{"query": each.query, "response": each.response} for each in found],
            )
            for sample, found in zip(flagged, near, strict=True)
        ]
        notes = {}
        completions = ctx.model(config.llm).generate(requests)
        for sample, found, done in zip(flagged, near, completions, strict=True):
            answer, failure = read(ctx, sample, done, reasoned=False)
            notes[sample.id] = View(
                answer,
                text=done.text,
                reasoning=reasoning_of(done.text, answer, done.reasoning),
                nll=done.nll,
                tokens=done.completion_tokens,
                failure=failure,
                more={
                    "neighbors": [each.id for each in found],
                    "similarities": [round(each.similarity, 6) for each in found],
                },
            )
        return with_notes(chunk, config.into, {**decided, **notes})

    def _divide(self, chunk: Sequence[Sample]) -> tuple[list[Sample], dict[str, View]]:
        """Whom to ask, and by id the notes on flagged samples that another view decides."""
        flagged = [sample for sample in chunk if is_flagged(sample, self.config.check)]
        sure = self.config.sure
        if sure is None:
            return flagged, {}
        notes: dict[str, View] = {}
        for sample in flagged:
            p = sure.of(sample)
            if p is not None:
                why = f"{sure.view} is sure of its answer (p {p:.2f})"
                notes[sample.id] = View(None, calls=0, more={"skipped": why, "saved": 1})
        return [sample for sample in flagged if sample.id not in notes], notes

    def neighbors(
        self, samples: Sequence[Sample], state: State, ctx: Context
    ) -> list[list[Neighbor]]:
        """The ``k`` nearest clean samples to each sample, nearest first, itself never among them."""
        k = self.config.k
        vectors = self._embed([self._asked(sample, ctx) for sample in samples], ctx)
        # One more, for the sample itself, which is in the index where there is no checker.
        similarities, positions = Index.open(state.arrays).search(vectors, k + 1)
        texts = PackedTexts.open(state.arrays, "clean")
        found = []
        for sample, row, places in zip(samples, similarities, positions, strict=True):
            near = [
                _neighbor(texts, int(place), float(similarity))
                for similarity, place in zip(row, places, strict=True)
                if place >= 0
            ]
            found.append([each for each in near if each.id != sample.id][:k])
        return found

    def _asked(self, sample: Sample, ctx: Context) -> str:
        """What the encoder sees of a sample."""
        return text_of(sample, ctx) if self.config.embed == "question" else sample.query

    def _embed(self, queries: Sequence[str], ctx: Context) -> FloatArray:
        model = ctx.model(self.config.encoder)
        blocks = []
        with ctx.progress(len(queries), "embedding queries") as progress:
            for start in range(0, len(queries), _BLOCK):
                block = queries[start : start + _BLOCK]
                blocks.append(np.asarray(model.embed(block), dtype=np.float32))
                progress.advance(len(block))
        return np.concatenate(blocks)


def _neighbor(texts: PackedTexts, place: int, similarity: float) -> Neighbor:
    first = 3 * place
    return Neighbor(texts[first], texts[first + 1], texts[first + 2], similarity)
