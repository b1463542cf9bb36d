"""Types of settings that many stages have, so that equal settings have equal bounds and descriptions."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import Field

from nfilter.api.capabilities import Embeds, Generates, Needs

Share: TypeAlias = Annotated[float, Field(gt=0, le=1)]
"""A setting above 0 and at most 1."""
Proportion: TypeAlias = Annotated[float, Field(ge=0, le=1)]
"""A setting from 0 to 1."""

GeneratorName: TypeAlias = Annotated[
    str, Needs(Generates), Field(description="The model that is asked.")
]
EncoderName: TypeAlias = Annotated[
    str, Needs(Embeds), Field(description="The model whose embeddings are compared.")
]
PromptName: TypeAlias = Annotated[str, Field(description="The template, folder/name.")]
ReplyTokens: TypeAlias = Annotated[int, Field(ge=1, description="Tokens per reply, at most.")]
Temperature: TypeAlias = Annotated[
    float, Field(ge=0, description="Sampling temperature; 0 is greedy decoding.")
]
RetryTemperature: TypeAlias = Annotated[
    float, Field(gt=0, description="Sampling temperature of repeated requests.")
]
Retries: TypeAlias = Annotated[
    int,
    Field(ge=0, le=16, description="Times that an unreadable reply is requested again, 0 to 16."),
]
