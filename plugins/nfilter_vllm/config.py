"""The settings of a model that vLLM runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Final, Literal

from pydantic import Field

from nfilter import Share, StageConfig
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
        **dict.fromkeys(
            ("name", "model_name", "model_id", "base_model", "model_name_or_path", "pretrained_model_name_or_path", "path", "id"), "model",
        ),
        **dict.fromkeys(("torch_dtype", "precision"), "dtype"),
        **dict.fromkeys(("max_seq_length", "max_seq_len", "max_model_len", "model_max_length", "context_length"), "max_length"),
        **dict.fromkeys(("gpu_memory_utilization", "mem_fraction_static"), "gpu_memory"),
        **dict.fromkeys(("tensor_parallel_size", "tp", "tp_size"), "gpus"),
        **dict.fromkeys(("data_parallel_size", "dp", "dp_size"), _DATA_PARALLEL),
        "enforce_eager": "eager",
        **dict.fromkeys(("max_lora_rank", "lora_rank", "enable_lora"), "adapter_rank"),
        **dict.fromkeys(
            ("max_tokens", "max_new_tokens", "max_completion_tokens"),
            "it is set where the model is called: max_tokens: 256 on the stage, or under evaluate",
        ),
        **dict.fromkeys(("api_base", "base_url", "url"), '{use: litellm, model: NAME, api_base: "http://localhost:8000/v1"} for a server of vLLM'),
        "trust_remote_code": "code from a model's folder is never run; remove the line",
    }  # fmt: skip

    model: str = Field(
        min_length=1,
        description="A model that ships (tiny), a folder (relative paths start at the recipe), or a hub id, with safetensors weights.",
    )
    revision: str | None = Field(
        default=None, description="The revision on the hub: a branch, a tag or a commit."
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto",
        description="The type of the weights; auto: the checkpoint's, in 16 bits if that is float32.",
    )
    max_length: int | None = Field(
        default=None,
        gt=1,
        description="Tokens of the context, if fewer than the model allows; null takes the model's.",
    )
    chat_template: Literal["auto", "none"] = Field(
        default="auto", description="auto: the model's own template; none: Tulu-style roles."
    )
    gpu_memory: Share = Field(
        default=0.5,
        description="The share of each GPU's memory that vLLM reserves until the run ends.",
    )
    gpus: int = Field(default=1, ge=1, description="GPUs over which the weights are split.")
    eager: bool = Field(
        default=False,
        description="Whether the engine starts without CUDA graphs: sooner, with slower answers.",
    )
    adapter_rank: int | None = Field(
        default=None,
        ge=1,
        le=RANKS[-1],
        description="Room for adapters up to this rank; null: the engine starts again when the first adapter is used.",
    )
