"""The configuration of the local backend, and the location of its model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from nfilter import ModelError, Site, StageConfig, did_you_mean
from nfilter_hf.gguf.header import SUFFIX

_ON_CPU = 4096
_LISTED = 8  # maximum number of GGUF files in an error
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


class HFConfig(StageConfig):
    """A causal language model that runs on this machine with transformers.

    Attributes:
        model: The short name of a model that ships, a folder (relative to the recipe), a hub id, or a GGUF file: its path, a
            folder with one GGUF file, or ``hub-id:file.gguf``. Quantised GGUF weights are dequantised.
        batch_tokens: Maximum size of a batch: rows times the longest row, prompt and new tokens together. If it is not set,
            scoring on a CPU uses a quarter of it.
        max_length: Shortens the model's context.
        chat_template: ``none`` ignores the model's template and uses Tulu's role markers, as for a model without a template.
        embed_layer: The hidden layer of embeddings: 0 are the token embeddings, 1 is the first layer's output, and so on; or a
            share of the depth, e.g. 0.66. The default is the last layer.
        embed_window: The embedded part of a text longer than the context: its ``head``, its ``tail``, or the ``mean`` over all
            parts.
    """

    also_known: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(
            ("name", "model_name", "model_id", "base_model", "model_name_or_path", "pretrained_model_name_or_path", "path", "id"), "model",
        ),
        **dict.fromkeys(("torch_dtype", "precision"), "dtype"),
        "device_map": "device",
        **dict.fromkeys(("load_in_8bit", "quantization", "quantize"), "load_in_4bit"),
        **dict.fromkeys(("max_seq_length", "max_seq_len", "max_model_len", "model_max_length", "context_length"), "max_length"),
        **dict.fromkeys(("batch_size", "max_batch_size"), "batch_tokens bounds the tokens of a batch: batch_tokens: 16384"),
        **dict.fromkeys(
            ("max_tokens", "max_new_tokens", "max_completion_tokens"),
            "it is set where the model is called: max_tokens: 256 on the stage, or under evaluate",
        ),
        "trust_remote_code": "code from a model's folder is never run; remove the line",
    }  # fmt: skip

    model: str = Field(
        min_length=1,
        description="A model that ships (tiny), a folder (relative paths start at the recipe), a hub id, or a GGUF file (path, or hub-id:file.gguf).",
    )
    revision: str | None = Field(
        default=None, description="The revision on the hub: a branch, a tag or a commit."
    )
    device: Literal["auto", "cuda", "mps", "cpu"] = Field(
        default="auto", description="Where the model runs; auto takes a GPU if there is one."
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto",
        description="The type of the weights; auto: bfloat16 or float16 on a GPU, float32 on most CPUs.",
    )
    load_in_4bit: bool = Field(
        default=False, description="Quantise the weights to 4 bits while loading (bitsandbytes)."
    )
    batch_tokens: int = Field(
        default=16384,
        gt=0,
        description="Tokens per batch, at most: rows times the longest row, prompt and new tokens together.",
    )
    max_length: int | None = Field(
        default=None,
        gt=1,
        description="Tokens of the context, if fewer than the model allows; null takes the model's.",
    )
    chat_template: Literal["auto", "none"] = Field(
        default="auto", description="auto: the model's own template; none: Tulu-style roles."
    )
    embed_layer: Annotated[int, Field(ge=0)] | Annotated[float, Field(gt=0, lt=1)] | None = Field(
        default=None,
        description="The hidden layer that gives embeddings: 0 the token vectors, 1 the first layer, or a share of the depth (0.66); null the last.",
    )
    embed_window: Literal["head", "tail", "mean"] = Field(
        default="head",
        description="The part of a text longer than the context that is embedded: its head, its tail, or the mean of all parts.",
    )


def scoring_tokens(config: HFConfig, device: str) -> int:
    """Return the maximum tokens of a batch for scoring: the configured value, else on a CPU at most 4096, for its caches."""
    if "batch_tokens" in config.model_fields_set or device != "cpu":
        return config.batch_tokens
    return min(config.batch_tokens, _ON_CPU)


@dataclass(frozen=True, slots=True)
class Location:
    """The location of a model: ``folder``, or ``hub_id`` on the hub; ``problem`` is the error if it has neither.

    ``file`` is the name of the GGUF file in the folder or repository, if the model is one.
    """

    folder: Path | None = None
    hub_id: str | None = None
    problem: str | None = None
    file: str | None = None

    @property
    def gguf(self) -> Path | None:
        """The path of a local GGUF file, else None."""
        return self.folder / self.file if self.folder is not None and self.file else None


def _expanded(model: str) -> Path:
    """The path with ``~`` expanded; unchanged if there is no such user."""
    try:
        return Path(model).expanduser()
    except RuntimeError:
        return Path(model)


def locate(model: str, site: Site) -> Location:
    """Find ``model``: first as a model that ships, then as a folder or a GGUF file, then as a hub id. No file is read."""
    try:
        shipped = site.models.get(model)
    except ModelError as error:
        return Location(problem=str(error))
    path = Path(shipped) if shipped is not None else site.base_dir / _expanded(model)
    return _here(path, model) or _elsewhere(path, model, site, ships=shipped is not None)


def _here(path: Path, model: str) -> Location | None:
    """The local model at ``path``; None if nothing exists there."""
    if path.is_dir():
        return _in_folder(path, model)
    if path.is_file() and path.suffix.lower() == SUFFIX:
        return Location(folder=path.parent, file=path.name)
    if path.is_file():
        return Location(
            problem=f"model {model!r}: {path} is a file that does not end in {SUFFIX}. Give its folder, or a "
            "GGUF file"
        )
    return None


def _elsewhere(path: Path, model: str, site: Site, *, ships: bool) -> Location:
    """The hub, if ``model`` can be a hub id, else the error."""
    near = did_you_mean(model, site.models)
    if ships:
        return Location(
            problem=f"model {model!r}: {path} does not exist; install the package that contains it again"
        )
    if model.lower().endswith(SUFFIX):
        return _on_hub(model) or Location(
            problem=f"model {model!r}: there is no file {path}. Give its path relative to the recipe, or a file on the hub "
            "like 'org/name:file.gguf'"
        )
    if _HUB_ID.fullmatch(model) and not model.endswith(".."):
        if "/" not in model and near.startswith("; did you mean"):
            return Location(problem=f"model {model!r} is not known{near}")
        return Location(hub_id=model)
    return Location(
        problem=f"model {model!r}: there is no folder {path}{near}. Give a folder with config.json and "
        "*.safetensors, relative to the recipe, or a hub id like 'org/name'"
    )


def _on_hub(model: str) -> Location | None:
    """The location of ``hub-id:file.gguf``; a single letter before the colon is a drive."""
    hub_id, _, file = model.partition(":")
    if len(hub_id) < 2 or not _HUB_ID.fullmatch(hub_id) or hub_id.endswith(".."):
        return None
    if any(part in ("", ".", "..") for part in file.replace("\\", "/").split("/")):
        return None
    return Location(hub_id=hub_id, file=file)


def _in_folder(folder: Path, model: str) -> Location:
    """The checkpoint in ``folder``: its safetensors weights if it has any, else its only GGUF file."""
    files = sorted(path.name for path in folder.glob(f"*{SUFFIX}"))
    if not files or any(folder.glob("*.safetensors")):
        return Location(folder=folder)
    if len(files) == 1:
        return Location(folder=folder, file=files[0])
    listed = ", ".join(files[:_LISTED]) + (", ..." if len(files) > _LISTED else "")
    return Location(
        problem=f"{folder} has {len(files)} GGUF files: {listed}. Name one of them, as in model: "
        f"{(Path(model) / files[0]).as_posix()}"
    )
