"""Values of the three presets: ``default`` is nfilter's, ``paper`` the equations, ``official`` the published code.

The published code differs from the paper in five places, which ``official`` follows: reasoning importance averages the
attention of the first layer over keys (so every score is 1 / T); its cut is Q1 - 1.5 (Q3 - Q1); its cap moves that cut to
a rank; the classes of relevance are found among all tokens, prompts included; and the lowest class is masked. The caps
are those of its script (5%, 10%, 5%); its README has 5% for all three. In its code the weight of the third score also
limits the cumulative share of masked classes; that coupling is not followed.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Literal, TypeAlias

from pydantic import Field

Preset: TypeAlias = Literal["default", "paper", "official"]
Attribute: TypeAlias = Literal["reasoning", "novelty", "relevance"]
Cap: TypeAlias = Annotated[float, Field(gt=0, le=1)] | Literal["auto", "none"]

# The settings that all stages have, with their descriptions.
PresetSetting: TypeAlias = Annotated[
    Preset,
    Field(
        description="default: nfilter's rule; paper: the equations as written; official: the published code."
    ),
]
CapSetting: TypeAlias = Annotated[
    Cap,
    Field(
        description="Share of a sample's response tokens that is masked, at most; auto: the preset's; none: no bound."
    ),
]
MaskSetting: TypeAlias = Annotated[
    bool, Field(description="Mask the tokens; false only writes the score.")
]

ATTRIBUTES: tuple[Attribute, ...] = ("reasoning", "novelty", "relevance")

_CAPS: Mapping[Attribute, float] = MappingProxyType(
    {"reasoning": 0.05, "novelty": 0.10, "relevance": 0.05}
)


def score_name(attribute: Attribute) -> str:
    """Return the name of the token score that an attribute's stage writes."""
    return f"xtf.{attribute}"


def cap_of(
    attribute: Attribute, preset: Preset, cap: float | Literal["auto", "none"]
) -> float | None:
    """Return the largest share of a sample's response tokens that ``attribute`` may mask; None for no bound."""
    if cap == "none" or (cap == "auto" and preset == "paper"):
        return None
    return _CAPS[attribute] if cap == "auto" else float(cap)


def keeps_one(preset: Preset) -> bool:
    """Return whether a sample always keeps one token; the equations and the published code may mask all."""
    return preset == "default"
