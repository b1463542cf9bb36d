"""The settings of a model that vLLM runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Final

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
from nfilter_vllm.adapters import RANKS

_DATA_PARALLEL: Final = (
    "executor: {use: local, workers: 2, gpus: 1} at the top of the recipe runs one model per GPU"
)


class VLLMConfig(StageConfig):
    """A causal language model that vLLM runs on the GPUs of this machine.

    Attributes:
        gpu_memory: The share of each GPU's memory that vLLM reserves until the run ends, for weights, activations and its
            cache. A model that trains on the same GPU needs the rest.
        gpus: GPUs over which the weights are split. Two models on two GPUs are two processes of the run (``executor``).
        eager: Without CUDA graphs: the engine starts sooner, and answers come slower.
        adapter_rank: Room for adapters up to this rank. If it is not set, the engine starts a second time when the first
            adapter is used.
    """

    also_known: ClassVar[Mapping[str, str]] = {
        **other_names("vLLM", 8000),
        **dict.fromkeys(("data_parallel_size", "dp", "dp_size"), _DATA_PARALLEL),
    }

    model: ModelPlace
    revision: ModelRevision = None
    dtype: WeightsType = "auto"
    max_length: ContextLength = None
    chat_template: PromptTemplate = "auto"
    gpu_memory: Share = Field(
        default=0.5,
        description="The share of each GPU's memory that vLLM reserves until the run ends.",
    )
    gpus: SplitGpus = 1
    eager: EagerStart = False
    adapter_rank: AdapterRoom = Field(default=None, le=RANKS[-1])
