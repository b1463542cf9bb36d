"""``xtf.relevance``: tokens whose meaning is far from the task's (XTF, Eqs. 4 and 7)."""

from __future__ import annotations

from collections import Counter
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
from nfilter_xtf.attribute import Attributed, Tally
from nfilter_xtf.choose import Band, classes_of
from nfilter_xtf.otsu import CLASSES
from nfilter_xtf.presets import Cap, Preset
from nfilter_xtf.vectors import (
    control_ids,
    cosines,
    mean_vector,
    texts_of,
    tokenizer_of,
    word_ids,
)

FEW = 2000


class RelevanceConfig(StageConfig):
    """Masks the tokens of the class that is furthest from the task, of five that multi-Otsu finds over all tokens.

    The task is the mean vector of ``words``, as the tokenizer of ``model`` reads them (write ' word' where it has a
    piece with the space), else the mean of all response tokens. White space and control tokens are exempt, but for
    ``preset: paper``, which masks the second-lowest class of all tokens, and ``official``, the lowest of all. ``cap``
    bounds the share of a sample's response tokens that is masked, the lowest first: ``auto`` is the preset's (5%, so
    nothing in a response of fewer than 20 tokens; none with ``paper``), ``none`` no bound. ``mask: false`` only scores.
    """

    model: Annotated[str, Needs(LendsModule)] = "student"
    words: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    preset: Preset = "default"
    cap: Cap = "auto"
    mask: bool = True


class Relevance:
    """Writes ``xtf.relevance``, [T]: 1 less the distance (1 - cosine) of a token's vector and the task's; NaN where exempt.

    One vector a vocabulary id: the last hidden state of the token alone. Every occurrence has the same score.
    """

    name: ClassVar[str] = "xtf.relevance"
    Config: ClassVar[type[StageConfig]] = RelevanceConfig

    def __init__(self, config: RelevanceConfig) -> None:
        self.config = config
        self._rest = Attributed("relevance", config.preset, config.cap, config.mask)

    @classmethod
    def contract(cls, config: RelevanceConfig) -> Contract:  # noqa: ARG003 (the protocol's signature)
        """Writes a score."""
        return Contract(writes=frozenset({cls.name}))

    def fit_tokens(self, stream: Iterable[TokenSample], ctx: Context) -> State:
        """Score every id that occurs in a response, and find the classes."""
        samples = list(stream)
        ids, counts = counted(samples)
        if not len(ids):
            return State({"cuts": None}, {"ids": ids, "scores": np.zeros(0, dtype=np.float32)})
        scores = self._by_id(ids, counts, ctx)
        cuts = classes_of(scores, counts)
        distinct = int((~np.isnan(scores)).sum())
        if cuts is None:
            ctx.log.warning(
                f"{self.name}: the scores of {distinct} distinct tokens do not part into {CLASSES} classes, so nothing "
                "is masked; leave the stage out, or give it more data"
            )
        elif distinct < FEW:
            ctx.log.warning(
                f"{self.name}: only {distinct} distinct tokens occur; under some thousand, {CLASSES} classes mean little"
            )
        arrays: dict[str, npt.NDArray[Any]] = {"ids": ids, "scores": scores}
        bare = State({"cuts": cuts}, arrays)
        rule, tally = self._rule(bare), Tally()
        for sample in samples:
            tally.add(*self._rest.counted(sample, looked_up(sample, bare), rule))
        report: dict[str, JSON] = {
            **tally.report(self._rest, ctx),
            "thresholds": None if cuts is None else [round(cut, 6) for cut in cuts],
            "distinct_tokens": distinct,
            "exempt_tokens": len(ids) - distinct,
        }
        return State({"cuts": cuts, "report": report}, arrays)

    def process_tokens(
        self, chunk: Sequence[TokenSample], state: State, ctx: Context, bit: int
    ) -> list[TokenSample]:
        """Look every token up, and mask those of the class."""
        del ctx
        rule = self._rule(state)
        return [self._rest.applied(sample, looked_up(sample, state), rule, bit) for sample in chunk]

    def _rule(self, state: State) -> Band:
        cuts: Any = state.values["cuts"]
        return Band.of(cuts, self.config.preset)

    def _by_id(self, ids: IntArray, counts: IntArray, ctx: Context) -> FloatArray:
        """The scores of ``ids`` ([n], float32); NaN where exempt."""
        with ctx.model(self.config.model).lend() as lent:
            tokenizer = tokenizer_of(lent, self.config.model)
            lent.module.eval()
            texts = texts_of(tokenizer, ids)
            asked = _same_text(ids, texts) if self.config.preset == "official" else ids
            if self.config.words:
                centre = mean_vector(lent.module, *word_ids(tokenizer, self.config.words))
            else:
                centre = mean_vector(lent.module, asked, counts.astype(np.float64))
            scores = cosines(lent.module, asked, centre)
            if self.config.preset == "default":
                scores[_exempt(ids, texts, control_ids(tokenizer))] = np.nan
        return scores.astype(np.float32)


def counted(samples: Iterable[TokenSample]) -> tuple[IntArray, IntArray]:
    """The ids that occur in responses ([n], ascending), and how often each does."""
    total: Counter[int] = Counter()
    for sample in samples:
        found, times = np.unique(sample.ids[sample.response], return_counts=True)
        total.update(dict(zip(found.tolist(), times.tolist(), strict=True)))
    ids = np.array(sorted(total), dtype=np.int64)
    return ids, np.array([total[number] for number in ids.tolist()], dtype=np.int64)


def looked_up(sample: TokenSample, state: State) -> FloatArray:
    """The scores of a sample's tokens ([T], float32); NaN outside the response and for an id not seen before."""
    ids, scores = state.arrays["ids"], state.arrays["scores"]
    out = np.full(len(sample.ids), np.nan, dtype=np.float32)
    if not len(ids):
        return out
    place = np.minimum(np.searchsorted(ids, sample.ids), len(ids) - 1)
    known = sample.response & (ids[place] == sample.ids)
    out[known] = scores[place[known]]
    return out


def _exempt(ids: IntArray, texts: Sequence[str], control: frozenset[int]) -> BoolArray:
    pairs = zip(ids.tolist(), texts, strict=True)
    return np.array([number in control or not text.strip() for number, text in pairs])


def _same_text(ids: IntArray, texts: Sequence[str]) -> IntArray:
    """For each id the first whose text is the same but for white space: the published code keeps one vector a text."""
    first: dict[str, int] = {}
    pairs = zip(ids.tolist(), texts, strict=True)
    return np.array([first.setdefault(text.strip(), number) for number, text in pairs], np.int64)
