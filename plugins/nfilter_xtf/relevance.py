"""``xtf.relevance``: mask tokens whose vectors are far from the task's (XTF, Eqs. 4 and 7)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Any, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from nfilter import (
    JSON,
    BoolArray,
    Context,
    Contract,
    FloatArray,
    IntArray,
    LendsModule,
    Needs,
    StageConfig,
    State,
    TokenSample,
)
from nfilter_xtf.attribute import AttributeMasking, Tally
from nfilter_xtf.otsu import CLASSES
from nfilter_xtf.presets import CapSetting, MaskSetting, PresetSetting
from nfilter_xtf.rules import Band, occurrences, relevance_cuts
from nfilter_xtf.vectors import control_ids, cosines, mean_vector, texts_of, tokenizer_of, word_ids

MIN_DISTINCT = 2000


class RelevanceConfig(StageConfig):
    """Mask the tokens of the class furthest from the task, out of five multi-Otsu classes over all tokens.

    The task is the mean vector of ``words``, as the tokenizer of ``model`` encodes them (write ' word' if its pieces
    include the space), by default the mean of all response tokens. White space and control tokens are exempt, except
    with ``preset: paper``, which masks the second-lowest class of all tokens, and ``official``, the lowest of classes
    that are found among prompt tokens too, as in the published code. ``cap``
    bounds the share of a sample's response tokens that is masked, lowest scores first: ``auto`` is the preset's (5%, so
    no token of a response under 20 tokens; none with ``paper``), ``none`` no bound. ``mask: false`` only scores.
    """

    model: Annotated[str, Needs(LendsModule)] = Field(
        default="student", description="The local model that is read."
    )
    words: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        default=(),
        description="Words whose mean vector is the task; by default the mean of all response tokens.",
    )
    preset: PresetSetting = "default"
    cap: CapSetting = "auto"
    mask: MaskSetting = True


class Relevance:
    """Stage that writes ``xtf.relevance``, [T]: the cosine of a token's vector and the task's; NaN for exempt tokens.

    The vector of a vocabulary id is the last hidden state of the token alone. Every occurrence has the same score.
    With ``preset: official`` prompt tokens have a score too; only response tokens are ever masked.
    """

    name: ClassVar[str] = "xtf.relevance"
    Config: ClassVar[type[StageConfig]] = RelevanceConfig

    def __init__(self, config: RelevanceConfig) -> None:
        self.config = config
        self._masking = AttributeMasking("relevance", config.preset, config.cap, config.mask)

    @classmethod
    def contract(cls, config: RelevanceConfig) -> Contract:
        return Contract(writes=frozenset({cls.name}))

    def fit_tokens(self, stream: Iterable[TokenSample], ctx: Context) -> State:
        """Score every id that occurs in a response, or anywhere with ``official``, and find the classes."""
        samples = list(stream)
        ids, counts = count_ids(samples, prompts=self._reads_prompts)
        in_responses = _counts_in_responses(samples, ids)
        if not in_responses.any():
            return State({"cuts": None}, {"ids": ids[:0], "scores": np.zeros(0, dtype=np.float32)})
        scores = self._score_ids(ids, in_responses, ctx)
        cuts = relevance_cuts(scores, counts)
        distinct = int((~np.isnan(scores)).sum())
        if cuts is None:
            ctx.log.warning(
                f"{self.name}: the scores of {distinct} distinct tokens do not form {CLASSES} classes, so nothing is masked; "
                "leave the stage out, or give it more data"
            )
        elif distinct < MIN_DISTINCT:
            ctx.log.warning(
                f"{self.name}: only {distinct} distinct tokens occur; below {MIN_DISTINCT}, {CLASSES} classes are unreliable"
            )
        arrays: dict[str, npt.NDArray[Any]] = {"ids": ids, "scores": scores}
        partial = State({"cuts": cuts}, arrays)
        rule, tally = self._rule(partial), Tally()
        for sample in samples:
            tally.add(*self._masking.counts(sample, self._lookup(sample, partial), rule))
        report: dict[str, JSON] = {
            **tally.report(self._masking, ctx),
            "thresholds": None if cuts is None else [round(cut, 6) for cut in cuts],
            "distinct_tokens": distinct,
            "exempt_tokens": len(ids) - distinct,
        }
        return State({"cuts": cuts, "report": report}, arrays)

    def process_tokens(
        self, chunk: Sequence[TokenSample], state: State, ctx: Context, bit: int
    ) -> list[TokenSample]:
        """Look up the score of every token, and mask the tokens of the class."""
        rule = self._rule(state)
        return [
            self._masking.apply(sample, self._lookup(sample, state), rule, bit) for sample in chunk
        ]

    @property
    def _reads_prompts(self) -> bool:
        return self.config.preset == "official"

    def _lookup(self, sample: TokenSample, state: State) -> FloatArray:
        return lookup_scores(sample, state, prompts=self._reads_prompts)

    def _rule(self, state: State) -> Band:
        cuts: Any = state.values["cuts"]
        return Band.of(cuts, self.config.preset)

    def _score_ids(self, ids: IntArray, counts: IntArray, ctx: Context) -> FloatArray:
        """Return the scores of ``ids`` ([n], float32); NaN for exempt ids."""
        with ctx.model(self.config.model).lend() as lent:
            tokenizer = tokenizer_of(lent, self.config.model)
            lent.module.eval()
            texts = texts_of(tokenizer, ids)
            scored_ids = (
                _first_with_same_text(ids, texts) if self.config.preset == "official" else ids
            )
            if self.config.words:
                task = mean_vector(lent.module, *word_ids(tokenizer, self.config.words))
            else:
                task = mean_vector(lent.module, scored_ids, counts.astype(np.float64))
            scores = cosines(lent.module, scored_ids, task)
            if self.config.preset == "default":
                scores[_is_exempt(ids, texts, control_ids(tokenizer))] = np.nan
        return scores.astype(np.float32)


def count_ids(
    samples: Iterable[TokenSample], *, prompts: bool = False
) -> tuple[IntArray, IntArray]:
    """Return the ids that occur in responses ([n], ascending) and the number of occurrences of each ([n]).

    ``prompts`` counts the tokens of prompts too.
    """
    counted = (sample.ids if prompts else sample.ids[sample.response] for sample in samples)
    return occurrences(counted, np.int64)


def _counts_in_responses(samples: Iterable[TokenSample], ids: IntArray) -> IntArray:
    """Return how often each of ``ids`` ([n], ascending) occurs in responses ([n])."""
    present, times = count_ids(samples)
    counts = np.zeros(len(ids), dtype=np.int64)
    counts[np.searchsorted(ids, present)] = times
    return counts


def lookup_scores(sample: TokenSample, state: State, *, prompts: bool = False) -> FloatArray:
    """Return the scores of a sample's tokens ([T], float32); NaN for ids without a score.

    NaN outside the response too, unless ``prompts``.
    """
    ids, scores = state.arrays["ids"], state.arrays["scores"]
    out = np.full(len(sample.ids), np.nan, dtype=np.float32)
    if not len(ids):
        return out
    index = np.minimum(np.searchsorted(ids, sample.ids), len(ids) - 1)
    known = (sample.response | prompts) & (ids[index] == sample.ids)
    out[known] = scores[index[known]]
    return out


def _is_exempt(ids: IntArray, texts: Sequence[str], control: frozenset[int]) -> BoolArray:
    pairs = zip(ids.tolist(), texts, strict=True)
    return np.array([number in control or not text.strip() for number, text in pairs])


def _first_with_same_text(ids: IntArray, texts: Sequence[str]) -> IntArray:
    """Map each id to the first id with the same stripped text: the published code has one vector per text."""
    first: dict[str, int] = {}
    pairs = zip(ids.tolist(), texts, strict=True)
    return np.array([first.setdefault(text.strip(), number) for number, text in pairs], np.int64)
