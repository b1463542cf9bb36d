"""Settings that the backends of all inference engines have, so that equal settings have equal bounds and descriptions."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field

ModelPlace: TypeAlias = Annotated[
    str,
    Field(
        min_length=1,
        description="A model that ships (tiny), a folder (relative paths start at the recipe), or a hub id, with safetensors weights.",
    ),
]
ModelRevision: TypeAlias = Annotated[
    str | None, Field(description="The revision on the hub: a branch, a tag or a commit.")
]
WeightsType: TypeAlias = Annotated[
    Literal["auto", "float32", "bfloat16", "float16"],
    Field(
        description="The type of the weights; auto: the checkpoint's, in 16 bits if that is float32."
    ),
]
ContextLength: TypeAlias = Annotated[
    Annotated[int, Field(gt=1)] | None,
    Field(
        description="Tokens of the context, if fewer than the model allows; null takes the model's."
    ),
]
PromptTemplate: TypeAlias = Annotated[
    Literal["auto", "none"],
    Field(description="auto: the model's own template; none: Tulu-style roles."),
]
SplitGpus: TypeAlias = Annotated[
    int, Field(ge=1, description="GPUs over which the weights are split.")
]
EagerStart: TypeAlias = Annotated[
    bool,
    Field(
        description="Whether the engine starts without CUDA graphs: sooner, with slower answers."
    ),
]
AdapterRoom: TypeAlias = Annotated[
    int | None,
    Field(
        ge=1,
        description="Room for adapters up to this rank; null: the engine starts again when the first adapter is used.",
    ),
]


def other_names(label: str, port: int) -> dict[str, str]:
    """Return ``also_known`` of an engine's config: the names that the engines and other tools use.

    Args:
        label: The engine's name in messages.
        port: The port that its server listens at if none is given.
    """
    return {
        **dict.fromkeys(
            ("name", "model_name", "model_id", "base_model", "model_name_or_path", "pretrained_model_name_or_path", "model_path", "path", "id"), "model",
        ),
        **dict.fromkeys(("torch_dtype", "precision"), "dtype"),
        **dict.fromkeys(("max_seq_length", "max_seq_len", "max_model_len", "model_max_length", "context_length"), "max_length"),
        **dict.fromkeys(("gpu_memory_utilization", "mem_fraction_static"), "gpu_memory"),
        **dict.fromkeys(("tensor_parallel_size", "tp", "tp_size"), "gpus"),
        **dict.fromkeys(("enforce_eager", "disable_cuda_graph"), "eager"),
        **dict.fromkeys(("max_lora_rank", "lora_rank", "enable_lora"), "adapter_rank"),
        **dict.fromkeys(
            ("max_tokens", "max_new_tokens", "max_completion_tokens"),
            "it is set where the model is called: max_tokens: 256 on the stage, or under evaluate",
        ),
        **dict.fromkeys(
            ("api_base", "base_url", "url"), f'{{use: litellm, model: NAME, api_base: "http://localhost:{port}/v1"}} for a server of {label}',
        ),
        "trust_remote_code": "code from a model's folder is never run; remove the line",
    }  # fmt: skip
