"""What the three attribute stages share: from scores to a mask, and the figures for the report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from nfilter import JSON, BoolArray, Context, FloatArray, TokenSample
from nfilter_xtf.choose import Rule, capped, pool_of, spare_one, under
from nfilter_xtf.presets import Attribute, Preset, cap_of, keeps_one, score_name


@dataclass(frozen=True, slots=True)
class Attributed:
    """One attribute with its settings: what is written, and what is masked."""

    attribute: Attribute
    preset: Preset
    cap: float | Literal["auto", "none"]
    mask: bool

    def within(self, sample: TokenSample, scores: FloatArray, rule: Rule) -> BoolArray:
        """The positions ([T]) that are noise by this attribute, as many as the cap allows."""
        hits = under(sample, scores, rule)
        return capped(sample, scores, hits, cap_of(self.attribute, self.preset, self.cap))

    def lost(self, sample: TokenSample, scores: FloatArray, rule: Rule) -> BoolArray:
        """The positions ([T]) that leave the loss by this attribute alone."""
        lost = self.within(sample, scores, rule)
        return spare_one(sample, scores, lost) if keeps_one(self.preset) else lost

    def counted(self, sample: TokenSample, scores: FloatArray, rule: Rule) -> tuple[int, int, int]:
        """Tokens in the loss, those that are noise by the rule, and those of them that are masked."""
        lost = self.lost(sample, scores, rule).sum() if self.mask else 0
        return int(pool_of(sample).sum()), int(under(sample, scores, rule).sum()), int(lost)

    def applied(self, sample: TokenSample, scores: FloatArray, rule: Rule, bit: int) -> TokenSample:
        """The sample with its score, and with the mask unless only scores are wanted."""
        scored = sample.score(score_name(self.attribute), scores)
        if not self.mask:
            return scored
        lost = self.lost(sample, scores, rule)
        return scored.mask(lost, bit) if lost.any() else scored


@dataclass(slots=True)
class Tally:
    """Sums over samples of what ``Attributed.counted`` gives."""

    tokens: int = 0
    noise: int = 0
    masked: int = 0
    emptied: int = 0

    def add(self, tokens: int, noise: int, masked: int) -> None:
        """Count one sample."""
        self.tokens += tokens
        self.noise += noise
        self.masked += masked
        self.emptied += tokens > 0 and masked == tokens

    @property
    def rate(self) -> float:
        """The share of tokens that is masked."""
        return self.masked / self.tokens if self.tokens else 0.0

    def figures(self) -> dict[str, JSON]:
        """The sums, under the names that reports give them."""
        return {
            "tokens": self.tokens,
            "under_threshold": self.noise,
            "masked": self.masked,
            "mask_rate": round(self.rate, 6),
            "samples_emptied": self.emptied,
        }

    def report(self, rest: Attributed, ctx: Context) -> dict[str, JSON]:
        """The figures, which are also said in a sentence."""
        name = score_name(rest.attribute)
        done = f"{self.masked} of them ({self.rate:.1%} of all) are taken out of the loss"
        ctx.log.info(
            f"{name}: {self.noise} of {self.tokens} response tokens are noise by their scores, and "
            + (done if rest.mask else "none is masked here")
        )
        if rest.mask:
            say_of_cap(name, self.noise, self.masked, ctx)
        return {"preset": rest.preset, **self.figures()}


def say_of_cap(stage: str, noise: int, masked: int, ctx: Context) -> None:
    """Warn where there is noise and the cap lets none of it be masked."""
    if noise and not masked:
        ctx.log.warning(
            f"{stage}: {noise} tokens are noise and none is masked, as the cap is under one token of each response; "
            "raise cap, or set cap: none"
        )
