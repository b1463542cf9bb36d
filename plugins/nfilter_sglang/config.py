"""The settings of a model that SGLang runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field

from nfilter import (
    AdapterRoom,
    ContextLength,
    EagerStart,
    ModelPlace,
    ModelRevision,
    PromptTemplate,
    Share,
    SplitGpus,
    StageConfig,
    WeightsType,
    other_names,
)


class SGLangConfig(StageConfig):
    """A causal language model that SGLang runs on the GPUs of this machine.

    Attributes:
        gpu_memory: The share of each GPU's memory that SGLang takes for weights and its cache until the run ends; activations
            come on top. A model that trains on the same GPU needs the rest.
        gpus: GPUs over which the weights are split.
        copies: Copies of the model, each on ``gpus`` GPUs; requests are distributed over them.
        eager: Without CUDA graphs: the engine starts sooner, and answers come slower.
        deterministic: Whether an answer depends neither on the requests that are computed beside it nor on chance: draws follow
            the recipe's seed. Slower.
        adapter_rank: Room for adapters up to this rank. If it is not set, the engine starts a second time when the first
            adapter is used.
    """

    also_known: ClassVar[Mapping[str, str]] = {
        **other_names("SGLang", 30000),
        **dict.fromkeys(("data_parallel_size", "dp", "dp_size", "replicas"), "copies"),
        "enable_deterministic_inference": "deterministic",
    }

    model: ModelPlace
    revision: ModelRevision = None
    dtype: WeightsType = "auto"
    max_length: ContextLength = None
    chat_template: PromptTemplate = "auto"
    gpu_memory: Share = Field(
        default=0.5,
        description="The share of each GPU's memory that SGLang takes for weights and its cache until the run ends.",
    )
    gpus: SplitGpus = 1
    copies: int = Field(
        default=1,
        ge=1,
        description="Copies of the model, each on that many GPUs; requests are distributed over them.",
    )
    eager: EagerStart = False
    deterministic: bool = Field(
        default=False,
        description="Whether answers depend on the recipe's seed alone, not on chance or on other requests; slower.",
    )
    adapter_rank: AdapterRoom = None
