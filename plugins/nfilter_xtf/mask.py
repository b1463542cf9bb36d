"""``xtf.mask``: the union of the attributes over scores that are there (XTF, Eq. 1), and its random control."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field, field_validator

from nfilter import (
    JSON,
    BoolArray,
    Context,
    Contract,
    FloatArray,
    StageConfig,
    State,
    TokenSample,
)
from nfilter_xtf.attribute import Attributed, Tally, say_of_cap
from nfilter_xtf.choose import (
    Band,
    Known,
    LowTail,
    Rule,
    classes_of,
    pool_of,
    scores_of,
    spare_one,
    under,
)
from nfilter_xtf.presets import ATTRIBUTES, Attribute, Cap, Preset, keeps_one, score_name

_TOP = 20


class MaskConfig(StageConfig):
    """Masks what is noise by any of ``attributes``, whose stages come before with ``mask: false`` and this ``preset``.

    ``cap`` holds for each attribute: ``auto`` is the preset's (5%, 10%, 5%; none with ``paper``). ``random: true`` is
    the control: as many tokens of each sample as the attributes would mask, drawn with the run's seed.
    """

    attributes: Annotated[tuple[Attribute, ...], Field(min_length=1)] = ATTRIBUTES
    preset: Preset = "default"
    cap: Cap = "auto"
    random: bool = False

    @field_validator("attributes")
    @classmethod
    def _once(cls, value: tuple[Attribute, ...]) -> tuple[Attribute, ...]:
        if len(set(value)) != len(value):
            raise ValueError(f"attributes: {list(value)} names one twice; name each once")
        return value


class Mask:
    """One stage for the three masks, so that each is worked out on the whole response, in no order."""

    name: ClassVar[str] = "xtf.mask"
    Config: ClassVar[type[StageConfig]] = MaskConfig

    def __init__(self, config: MaskConfig) -> None:
        self.config = config

    @classmethod
    def contract(cls, config: MaskConfig) -> Contract:
        """Reads the attributes' scores."""
        return Contract(reads=frozenset(map(score_name, config.attributes)))

    def fit_tokens(self, stream: Iterable[TokenSample], ctx: Context) -> State:
        """Find the classes of relevance, and count what will be masked by whom."""
        samples = list(stream)
        cuts = self._cuts(samples, ctx) if "relevance" in self.config.attributes else None
        rules, sums = self._rules(cuts), _Sums()
        for sample in samples:
            masks = self._masks(sample, rules)
            found = [under(sample, self._scores(sample, name), rules[name]) for name in rules]
            noise = int(np.logical_or.reduce(found).sum())
            sums.add(sample, masks, self._lost(sample, masks, ctx), noise)
        tally = sums.tally
        ctx.log.info(
            f"{self.name}: {tally.masked} of {tally.tokens} response tokens ({tally.rate:.1%}) are taken out of the loss"
            + (", drawn at random" if self.config.random else "")
        )
        say_of_cap(self.name, tally.noise, tally.masked, ctx)
        report = sums.report(self.config, cuts)
        return State({"cuts": cuts, "report": report})

    def process_tokens(
        self, chunk: Sequence[TokenSample], state: State, ctx: Context, bit: int
    ) -> list[TokenSample]:
        """Mask the union, or as many at random."""
        cuts: Any = state.values["cuts"]
        rules = self._rules(cuts)
        out = []
        for sample in chunk:
            lost = self._lost(sample, self._masks(sample, rules), ctx)
            out.append(sample.mask(lost, bit) if lost.any() else sample)
        return out

    def _rules(self, cuts: Sequence[float] | None) -> dict[Attribute, Rule]:
        preset = self.config.preset
        every: dict[Attribute, Rule] = {
            "reasoning": LowTail(preset),
            "novelty": Known(),
            "relevance": Band.of(cuts, preset),
        }
        return {attribute: every[attribute] for attribute in self.config.attributes}

    def _masks(
        self, sample: TokenSample, rules: Mapping[Attribute, Rule]
    ) -> dict[Attribute, BoolArray]:
        """What each attribute masks by itself ([T] each), within its cap."""
        # Not ``lost``: it is the union that has to leave a token.
        return {
            attribute: Attributed(attribute, self.config.preset, self.config.cap, mask=True).within(
                sample, self._scores(sample, attribute), rule
            )
            for attribute, rule in rules.items()
        }

    def _lost(
        self, sample: TokenSample, masks: Mapping[Attribute, BoolArray], ctx: Context
    ) -> BoolArray:
        lost: BoolArray = np.logical_or.reduce(list(masks.values()))
        if keeps_one(self.config.preset):
            lost = spare_one(sample, self._scores(sample, self.config.attributes[0]), lost)
        if not self.config.random:
            return lost
        pool = np.flatnonzero(pool_of(sample)).tolist()
        drawn = np.zeros(len(lost), dtype=np.bool_)
        drawn[ctx.rng(sample.id).sample(pool, int(lost.sum()))] = True
        return drawn

    def _scores(self, sample: TokenSample, attribute: Attribute) -> FloatArray:
        name = score_name(attribute)
        return scores_of(sample, name, self.name, f"{name}, mask: false")

    def _cuts(self, samples: Sequence[TokenSample], ctx: Context) -> list[float] | None:
        """The cuts that xtf.relevance found: its scores of all response tokens are what it found them in."""
        total: Counter[float] = Counter()
        for sample in samples:
            scores = self._scores(sample, "relevance")[sample.response]
            values, times = np.unique(scores[~np.isnan(scores)], return_counts=True)
            total.update(dict(zip(values.tolist(), times.tolist(), strict=True)))
        values = np.array(sorted(total), dtype=np.float64)
        cuts = classes_of(values, np.array([total[value] for value in values.tolist()]))
        if cuts is None:
            ctx.log.warning(
                f"{self.name}: the relevance scores do not part into classes, so relevance masks nothing"
            )
        return cuts


@dataclass(slots=True)
class _Sums:
    """Counts over samples; ``both`` is by pair of attributes, an attribute with itself being all that it masks."""

    tally: Tally = field(default_factory=Tally)
    both: Counter[tuple[Attribute, Attribute]] = field(default_factory=Counter)
    ids: Counter[int] = field(default_factory=Counter)

    def add(
        self,
        sample: TokenSample,
        masks: Mapping[Attribute, BoolArray],
        lost: BoolArray,
        noise: int,
    ) -> None:
        self.tally.add(int(pool_of(sample).sum()), noise, int(lost.sum()))
        for a, mask in masks.items():
            for b, other in masks.items():
                self.both[a, b] += int((mask & other).sum())
        self.ids.update(sample.ids[lost].tolist())

    def report(self, config: MaskConfig, cuts: Sequence[float] | None) -> dict[str, JSON]:
        """Figures of the run: rates by attribute, their overlap in tokens, and the ids that are masked most."""
        overlap: dict[str, JSON] = {
            a: {b: self.both[a, b] for b in config.attributes} for a in config.attributes
        }
        tokens = self.tally.tokens
        rates: dict[str, JSON] = {
            a: round(self.both[a, a] / tokens, 6) if tokens else 0.0 for a in config.attributes
        }
        most = sorted(self.ids.items(), key=lambda item: (-item[1], item[0]))[:_TOP]
        return {
            "preset": config.preset,
            "random": config.random,
            **self.tally.figures(),
            "mask_rate_by_attribute": rates,
            "overlap": overlap,
            "relevance_thresholds": None if cuts is None else [round(cut, 6) for cut in cuts],
            "most_masked_ids": [[number, times] for number, times in most],
        }
