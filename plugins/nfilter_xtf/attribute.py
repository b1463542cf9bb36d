"""Shared by the three attribute stages: scores to a mask, and the report's counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from nfilter import JSON, BoolArray, Context, FloatArray, TokenSample
from nfilter_xtf.presets import Attribute, Preset, cap_of, keeps_one, score_name
from nfilter_xtf.rules import Rule, below_rank, lowest_within_cap, noise_mask, spare_best


@dataclass(frozen=True, slots=True)
class AttributeMasking:
    """Settings of one attribute's mask: preset, cap, and whether to mask at all."""

    attribute: Attribute
    preset: Preset
    cap: float | Literal["auto", "none"]
    mask: bool

    def capped_mask(self, sample: TokenSample, scores: FloatArray, rule: Rule) -> BoolArray:
        """Return the positions ([T]) that are noise by this attribute, limited by the cap."""
        hits = noise_mask(sample, scores, rule)
        cap = cap_of(self.attribute, self.preset, self.cap)
        if cap is not None and self.preset == "official" and self.attribute == "reasoning":
            return below_rank(sample, scores, hits, cap)
        return lowest_within_cap(sample, scores, hits, cap)

    def masked(self, sample: TokenSample, scores: FloatArray, rule: Rule) -> BoolArray:
        """Return the positions ([T]) that this attribute alone masks."""
        masked = self.capped_mask(sample, scores, rule)
        return spare_best(sample, scores, masked) if keeps_one(self.preset) else masked

    def counts(self, sample: TokenSample, scores: FloatArray, rule: Rule) -> tuple[int, int, int]:
        """Count tokens in the loss, those that are noise by the rule, and those that are masked."""
        masked = self.masked(sample, scores, rule).sum() if self.mask else 0
        noise = noise_mask(sample, scores, rule).sum()
        return int(sample.in_loss.sum()), int(noise), int(masked)

    def apply(self, sample: TokenSample, scores: FloatArray, rule: Rule, bit: int) -> TokenSample:
        """Return the sample with its score, masked unless ``mask`` is false."""
        scored = sample.score(score_name(self.attribute), scores)
        if not self.mask:
            return scored
        masked = self.masked(sample, scores, rule)
        return scored.mask(masked, bit) if masked.any() else scored


@dataclass(slots=True)
class Tally:
    """Sums of ``AttributeMasking.counts`` over samples."""

    tokens: int = 0
    noise: int = 0
    masked: int = 0
    emptied: int = 0

    def add(self, tokens: int, noise: int, masked: int) -> None:
        """Add the counts of one sample."""
        self.tokens += tokens
        self.noise += noise
        self.masked += masked
        self.emptied += tokens > 0 and masked == tokens

    @property
    def rate(self) -> float:
        """Return the share of tokens that is masked."""
        return self.masked / self.tokens if self.tokens else 0.0

    def figures(self) -> dict[str, JSON]:
        """Return the sums under their names in reports."""
        return {
            "tokens": self.tokens,
            "under_threshold": self.noise,
            "masked": self.masked,
            "mask_rate": round(self.rate, 6),
            "samples_emptied": self.emptied,
        }

    def report(self, masking: AttributeMasking, ctx: Context) -> dict[str, JSON]:
        """Return the figures and log them; warn if the cap lets no token be masked."""
        name = score_name(masking.attribute)
        action = f"masked {self.masked} of them ({self.rate:.1%} of all)"
        ctx.log.info(
            f"{name}: {self.noise} of {self.tokens} response tokens are noise by their scores, and "
            + (action if masking.mask else "this stage masks none")
        )
        if masking.mask:
            warn_of_cap(name, self.noise, self.masked, ctx)
        return {"preset": masking.preset, **self.figures()}


def warn_of_cap(stage: str, noise: int, masked: int, ctx: Context) -> None:
    """Warn if tokens are noise and the cap allows masking none of them."""
    if noise and not masked:
        ctx.log.warning(
            f"{stage}: {noise} tokens are noise and none is masked, because the cap is below one token per response; "
            "raise cap, or set cap: none"
        )
