"""``robustft.relabel``: the context view, an answer from the nearest clean neighbours (RobustFT, Eqs. 4 and 5)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from nfilter import (
    JSON,
    Calls,
    Context,
    Contract,
    Embeds,
    FloatArray,
    Generates,
    GeneratorName,
    ModelNeed,
    Needs,
    PackedTexts,
    PromptName,
    ReplyTokens,
    Sample,
    StageConfig,
    State,
    Temperature,
    View,
)
from nfilter_robustft.confidence import Sure
from nfilter_robustft.index import THRESHOLD
from nfilter_robustft.keys import text_of
from nfilter_robustft.official_preset import apply_official_preset
from nfilter_robustft.partitioned import (
    IndexSettings,
    Nearest,
    build_index,
    index_figures,
    measured,
    open_index,
)
from nfilter_robustft.settings import IndexChoice, Logprobs, Preset
from nfilter_robustft.vector_file import VectorFile
from nfilter_robustft.views import RequestBuilder, add_notes, is_flagged, read_answer, reasoning_of

NO_CLEAN = "no clean sample to use as context"
_BLOCK = 1024


class RelabelConfig(StageConfig):
    """``k``: number of neighbours by cosine similarity of queries; ``embed: question`` excludes lettered options.

    ``check`` is the verdict note; with null, every sample is relabelled from any others. With ``sure``, flagged samples
    on which that view is sure are skipped, and its answer is used. Up to ``exact_up_to`` clean samples are searched
    exactly, more through an HNSW graph.

    ``preset: official`` uses 3 neighbours by question, at most 512 tokens and temperature 1, like the published code.
    The prompt, the encoder and the parsing of answers are not those of the published code.
    """

    llm: GeneratorName
    encoder: Annotated[str, Needs(Embeds)] = Field(
        description="The model whose embeddings find the neighbours."
    )
    into: str = Field(default="context", description="The note with the view.")
    preset: Preset = "paper"
    check: str | None = Field(
        default="check",
        description="The verdict note that is read; null relabels every sample from any others.",
    )
    k: int = Field(
        default=3, ge=1, le=64, description="Clean neighbours that the prompt shows, 1 to 64."
    )
    embed: Literal["query", "question"] = Field(
        default="query",
        description="What is embedded: the whole query, or the question without lettered options.",
    )
    prompt: PromptName = "robustft/relabel"
    max_tokens: ReplyTokens = 512
    temperature: Temperature = 0.0
    logprobs: Logprobs = True
    sure: Sure | None = Field(
        default=None,
        description="Take the answer of this view where it is confident, without a call.",
    )
    exact_up_to: int = Field(
        default=THRESHOLD,
        ge=1,
        description="Up to this number of vectors the search is exact, above it approximate (HNSW).",
    )
    index: IndexChoice = IndexSettings()

    @model_validator(mode="before")
    @classmethod
    def _apply_preset(cls, value: Any) -> Any:
        return apply_official_preset(value, k=3, embed="question")


@dataclass(frozen=True, slots=True)
class Neighbor:
    """A clean neighbour of a flagged sample, as shown in the prompt."""

    id: str
    query: str
    response: str
    similarity: float


class Relabel:
    """Stage that writes the model's answer to each flagged sample given its nearest clean samples, without the label.

    The view proposes a label but does not change the response; ``robustft.review`` decides. Without any clean sample
    the view has no answer.
    """

    name: ClassVar[str] = "robustft.relabel"
    Config: ClassVar[type[StageConfig]] = RelabelConfig

    def __init__(self, config: RelabelConfig) -> None:
        self.config = config

    @classmethod
    def contract(cls, config: RelabelConfig) -> Contract:
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
            needs=(ModelNeed(config.llm, Generates, config.logprobs, "llm"),),
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
        """Index the queries of clean samples and store their texts for the prompts, if any sample is flagged."""
        clean: list[tuple[str, str, str]] = []
        texts: list[str] = []
        flagged = 0
        for sample in stream:
            is_doubted = is_flagged(sample, self.config.check)
            flagged += is_doubted
            if not is_doubted or self.config.check is None:
                clean.append((sample.id, sample.query, sample.response))
                texts.append(self._text(sample, ctx))
        values: dict[str, JSON] = {"clean": len(clean), "flagged": flagged}
        if not flagged:
            ctx.log.info("no sample is flagged: nothing to relabel")
            return State(values)
        if not clean:
            ctx.log.warning(
                f"all {flagged} samples are flagged: {NO_CLEAN}; the review uses the other views only"
            )
            return State(values)
        if len(clean) < self.config.k:
            ctx.log.warning(f"{len(clean)} clean samples are fewer than k: {self.config.k}")
        packed = PackedTexts.of(text for row in clean for text in row)
        seed, index = ctx.rng("index").getrandbits(63), self.config.index
        if index.use != "ivf":
            vectors = np.concatenate(list(self._embedded(texts, ctx)))
            arrays = build_index(vectors, index, seed, self.config.exact_up_to)
        else:
            with VectorFile() as file:
                for block in self._embedded(texts, ctx):
                    file.add(block)
                arrays = build_index(file, index, seed, self.config.exact_up_to)
                nearest = measured(arrays, file, self.config.k + 1, index.compared, seed)
            values |= self._index_report(arrays, nearest, ctx)
        return State(values, {**arrays, **packed.arrays("clean")})

    def _index_report(
        self, arrays: Mapping[str, npt.NDArray[Any]], nearest: Nearest | None, ctx: Context
    ) -> dict[str, JSON]:
        """Return the report of an index of lists, with its error for clean samples; nothing for another index."""
        figures = index_figures(arrays, self.config.index)
        if nearest is not None:
            error = nearest.difference(self.config.k)
            ctx.log.info(
                f"index of {figures['lists']} lists: it finds {error.recall:.1%} of the {self.config.k} nearest clean samples, and"
                f" {error.changed:.1%} of prompts differ from those with the exact ones ({len(nearest.queries)} queries compared)"
            )
            figures |= {"compared": len(nearest.queries), "recall": error.recall, "changed": error.changed}  # fmt: skip
        return {"report": {"index": figures}} if figures else {}

    def process(self, chunk: Sequence[Sample], state: State, ctx: Context) -> list[Sample]:
        config = self.config
        flagged, decided = self._split_asked(chunk)
        if not flagged:
            return add_notes(chunk, config.into, decided)
        if not state.values.get("clean"):
            more: dict[str, JSON] = {"neighbors": [], "similarities": []}
            note = View(None, calls=0, failure=NO_CLEAN, more=more)
            without_context = {sample.id: note for sample in flagged}
            return add_notes(chunk, config.into, {**decided, **without_context})
        neighbors = self.neighbors(flagged, state, ctx)
        builder = RequestBuilder(
            ctx, ctx.prompt(config.prompt), config.max_tokens, config.temperature, config.logprobs
        )
        requests = [
            builder.request(
                sample,
                neighbors=[{"query": each.query, "response": each.response} for each in near],
            )
            for sample, near in zip(flagged, neighbors, strict=True)
        ]
        notes = {}
        completions = ctx.model(config.llm).generate(requests)
        for sample, near, completion in zip(flagged, neighbors, completions, strict=True):
            answer, failure = read_answer(ctx, sample, completion, reasoned=False)
            notes[sample.id] = View(
                answer,
                text=completion.text,
                reasoning=reasoning_of(completion.text, answer, completion.reasoning),
                nll=completion.nll,
                tokens=completion.completion_tokens,
                failure=failure,
                more={
                    "neighbors": [each.id for each in near],
                    "similarities": [round(each.similarity, 6) for each in near],
                },
            )
        return add_notes(chunk, config.into, {**decided, **notes})

    def _split_asked(self, chunk: Sequence[Sample]) -> tuple[list[Sample], dict[str, View]]:
        """Return the flagged samples to ask about, and by id the notes on those that a sure view decides."""
        flagged = [sample for sample in chunk if is_flagged(sample, self.config.check)]
        sure = self.config.sure
        if sure is None:
            return flagged, {}
        notes: dict[str, View] = {}
        for sample in flagged:
            p = sure.of(sample)
            if p is not None:
                reason = f"{sure.view} is sure of its answer (p {p:.2f})"
                notes[sample.id] = View(None, calls=0, more={"skipped": reason, "saved": 1})
        return [sample for sample in flagged if sample.id not in notes], notes

    def neighbors(
        self, samples: Sequence[Sample], state: State, ctx: Context
    ) -> list[list[Neighbor]]:
        """Return the ``k`` nearest other clean samples of each sample, nearest first."""
        k = self.config.k
        asked = [self._text(sample, ctx) for sample in samples]
        vectors = np.concatenate(list(self._embedded(asked, ctx)))
        # One more than k: without a check, the index contains the sample itself.
        similarities, positions = open_index(state.arrays).search(vectors, k + 1)
        texts = PackedTexts.open(state.arrays, "clean")
        neighbors = []
        for sample, row, indices in zip(samples, similarities, positions, strict=True):
            near = [
                _neighbor(texts, int(index), float(similarity))
                for similarity, index in zip(row, indices, strict=True)
                if index >= 0
            ]
            neighbors.append([each for each in near if each.id != sample.id][:k])
        return neighbors

    def _text(self, sample: Sample, ctx: Context) -> str:
        """Return the text of a sample to embed."""
        return text_of(sample, ctx) if self.config.embed == "question" else sample.query

    def _embedded(self, queries: Sequence[str], ctx: Context) -> Iterator[FloatArray]:
        """Yield the vectors of queries in blocks [., d]."""
        model = ctx.model(self.config.encoder)
        with ctx.progress(len(queries), "embedding queries") as progress:
            for start in range(0, len(queries), _BLOCK):
                block = queries[start : start + _BLOCK]
                yield np.asarray(model.embed(block), dtype=np.float32)
                progress.advance(len(block))


def _neighbor(texts: PackedTexts, index: int, similarity: float) -> Neighbor:
    first = 3 * index
    return Neighbor(texts[first], texts[first + 1], texts[first + 2], similarity)
