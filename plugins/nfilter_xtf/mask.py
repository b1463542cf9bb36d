"""``xtf.mask``: the union of the attribute masks over existing scores (XTF, Eq. 1), and its random control."""

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
    token_score,
)
from nfilter_xtf.attribute import AttributeMasking, Tally, warn_of_cap
from nfilter_xtf.presets import (
    ATTRIBUTES,
    Attribute,
    CapSetting,
    PresetSetting,
    keeps_one,
    score_name,
)
from nfilter_xtf.rules import (
    Band,
    Known,
    LowTail,
    Rule,
    noise_mask,
    occurrences,
    relevance_cuts,
    spare_best,
)

_TOP = 20


class MaskConfig(StageConfig):
    """Mask tokens that are noise by any of ``attributes``; their stages run before, with ``mask: false`` and this ``preset``.

    ``cap`` applies to each attribute: ``auto`` is the preset's (5%, 10%, 5%; none with ``paper``). ``random: true`` is
    the control: it masks as many tokens per sample as the attributes would, drawn with the run's seed.
    """

    attributes: Annotated[tuple[Attribute, ...], Field(min_length=1)] = Field(
        default=ATTRIBUTES, description="A token is masked if it is noise by any of these."
    )
    preset: PresetSetting = "default"
    cap: CapSetting = "auto"
    random: bool = Field(default=False, description="Mask as many random tokens, as a control.")

    @field_validator("attributes")
    @classmethod
    def _check_unique(cls, value: tuple[Attribute, ...]) -> tuple[Attribute, ...]:
        if len(set(value)) != len(value):
            raise ValueError(
                f"attributes: {list(value)} contains a duplicate; name each attribute once"
            )
        return value


class Mask:
    """Stage that masks the union of the three masks, each computed on the whole response."""

    name: ClassVar[str] = "xtf.mask"
    Config: ClassVar[type[StageConfig]] = MaskConfig

    def __init__(self, config: MaskConfig) -> None:
        self.config = config

    @classmethod
    def contract(cls, config: MaskConfig) -> Contract:
        return Contract(reads=frozenset(map(score_name, config.attributes)))

    def fit_tokens(self, stream: Iterable[TokenSample], ctx: Context) -> State:
        """Find the relevance classes, and count the masked tokens by attribute."""
        samples = list(stream)
        cuts = self._cuts(samples, ctx) if "relevance" in self.config.attributes else None
        rules, sums = self._rules(cuts), _Sums()
        for sample in samples:
            masks = self._masks(sample, rules)
            hits = [noise_mask(sample, self._scores(sample, name), rules[name]) for name in rules]
            noise = int(np.logical_or.reduce(hits).sum())
            sums.add(sample, masks, self._union(sample, masks, ctx), noise)
        tally = sums.tally
        ctx.log.info(
            f"{self.name}: masked {tally.masked} of {tally.tokens} response tokens ({tally.rate:.1%})"
            + (", drawn at random" if self.config.random else "")
        )
        warn_of_cap(self.name, tally.noise, tally.masked, ctx)
        report = sums.report(self.config, cuts)
        return State({"cuts": cuts, "report": report})

    def process_tokens(
        self, chunk: Sequence[TokenSample], state: State, ctx: Context, bit: int
    ) -> list[TokenSample]:
        """Mask the union, or as many random tokens."""
        cuts: Any = state.values["cuts"]
        rules = self._rules(cuts)
        out = []
        for sample in chunk:
            masked = self._union(sample, self._masks(sample, rules), ctx)
            out.append(sample.mask(masked, bit) if masked.any() else sample)
        return out

    def _rules(self, cuts: Sequence[float] | None) -> dict[Attribute, Rule]:
        preset = self.config.preset
        by_attribute: dict[Attribute, Rule] = {
            "reasoning": LowTail(preset),
            "novelty": Known(),
            "relevance": Band.of(cuts, preset),
        }
        return {attribute: by_attribute[attribute] for attribute in self.config.attributes}

    def _masks(
        self, sample: TokenSample, rules: Mapping[Attribute, Rule]
    ) -> dict[Attribute, BoolArray]:
        """Return the mask of each attribute ([T]), limited by its cap."""
        # Not ``masked``: the union, not each attribute, has to keep a token.
        return {
            attribute: AttributeMasking(
                attribute, self.config.preset, self.config.cap, mask=True
            ).capped_mask(sample, self._scores(sample, attribute), rule)
            for attribute, rule in rules.items()
        }

    def _union(
        self, sample: TokenSample, masks: Mapping[Attribute, BoolArray], ctx: Context
    ) -> BoolArray:
        masked: BoolArray = np.logical_or.reduce(list(masks.values()))
        if keeps_one(self.config.preset):
            masked = spare_best(sample, self._scores(sample, self.config.attributes[0]), masked)
        if not self.config.random:
            return masked
        pool = np.flatnonzero(sample.in_loss).tolist()
        drawn = np.zeros(len(masked), dtype=np.bool_)
        drawn[ctx.rng(sample.id).sample(pool, int(masked.sum()))] = True
        return drawn

    def _scores(self, sample: TokenSample, attribute: Attribute) -> FloatArray:
        name = score_name(attribute)
        return token_score(sample, name, self.name, f"{{use: {name}, mask: false}}")

    def _cuts(self, samples: Sequence[TokenSample], ctx: Context) -> list[float] | None:
        """Return the cuts of xtf.relevance, recomputed from its scores: of prompts too with ``official``."""
        prompts = self.config.preset == "official"
        scores = (self._scores(each, "relevance")[each.response | prompts] for each in samples)
        known = (each[~np.isnan(each)] for each in scores)
        cuts = relevance_cuts(*occurrences(known, np.float64))
        if cuts is None:
            ctx.log.warning(
                f"{self.name}: the relevance scores do not form classes, so relevance masks nothing"
            )
        return cuts


@dataclass(slots=True)
class _Sums:
    """Counts over samples; ``both[a, b]`` counts the tokens masked by both a and b."""

    tally: Tally = field(default_factory=Tally)
    both: Counter[tuple[Attribute, Attribute]] = field(default_factory=Counter)
    ids: Counter[int] = field(default_factory=Counter)

    def add(
        self,
        sample: TokenSample,
        masks: Mapping[Attribute, BoolArray],
        masked: BoolArray,
        noise: int,
    ) -> None:
        self.tally.add(int(sample.in_loss.sum()), noise, int(masked.sum()))
        for a, mask in masks.items():
            for b, other in masks.items():
                self.both[a, b] += int((mask & other).sum())
        self.ids.update(sample.ids[masked].tolist())

    def report(self, config: MaskConfig, cuts: Sequence[float] | None) -> dict[str, JSON]:
        """Return the rates by attribute, their overlap in tokens, and the most frequently masked ids."""
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
