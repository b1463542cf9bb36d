"""Types of settings that several stages of this plugin have."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from nfilter_robustft.partitioned import IndexSettings
from nfilter_robustft.skipping import Settled

Preset: TypeAlias = Annotated[
    Literal["paper", "official"],
    Field(
        description="paper: as the paper describes it; official: the settings of the published code."
    ),
]
Logprobs: TypeAlias = Annotated[
    bool,
    Field(
        description="Request token log-probabilities, for the nll of the view; false for a model that gives none."
    ),
]
SettledViews: TypeAlias = Annotated[
    Settled | None,
    Field(
        description="Skip samples whose verdict earlier views have settled; null asks about all."
    ),
]
OnlyFlagged: TypeAlias = Annotated[
    Literal["flagged"] | None,
    Field(
        description="flagged: ask only about samples that the check flagged and that were not asked before; null: about all."
    ),
]
CheckName: TypeAlias = Annotated[
    str, Field(description="The verdict note that only: flagged reads.")
]
TrustedColumn: TypeAlias = Annotated[
    str | None,
    Field(description="A column that marks labels known to be right (true, yes or 1)."),
]
ReferenceSize: TypeAlias = Annotated[
    int, Field(ge=20, description="Samples that are learned from, at most; at least 20.")
]
IndexChoice: TypeAlias = Annotated[
    IndexSettings,
    Field(
        description="How neighbours are searched; {use: ivf} is for more vectors than memory holds."
    ),
]
