"""Check a model's folder and device without importing torch or transformers."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from nfilter import ModelError, Site, missing_package
from nfilter_hf.config import HFConfig, Location, locate
from nfilter_hf.gguf.header import Header, read_header

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "tekken.json")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def config_problems(config: HFConfig, site: Site) -> Iterator[str]:
    """Yield every fault of ``config`` that is detectable before loading, each with its remedy."""
    for package in ("torch", "transformers", "peft"):
        if find_spec(package) is None:
            yield f"hf {missing_package(package, 'nfilter[local]')}"
    place = locate(config.model, site)
    if place.problem:
        yield place.problem
    if place.file is not None:
        yield from _gguf_problems(config, place)
    elif place.folder is not None:
        yield from folder_problems(place.folder)
        settings = read_json(place.folder / "config.json") or {}
        limit = settings.get("max_position_embeddings", settings.get("n_positions"))
        yield from _length_problems(config, limit)
    if place.folder is not None and config.revision is not None:
        what = "folder" if place.file is None else "file here"
        yield f"revision {config.revision!r} needs a hub id; {config.model!r} is a {what}: remove 'revision'"
    yield from _device_problems(config)


def tool_problems(config: HFConfig, site: Site) -> Iterator[str]:
    """Yield the reason why every request with tools would fail: a chat template without them. A hub model is not looked up."""
    place = locate(config.model, site)
    if place.problem or place.folder is None:
        return
    texts = [] if config.chat_template == "none" else list(_templates(place))
    # A template writes tools only by the variable that has them, or by another template, which it includes.
    if all(
        re.search(r"\btools\b|{%-?\s*(?:include|import|from|extends)\b", text) is None
        for text in texts
    ):
        yield (
            f"the chat template of {config.model!r} has no tools, so that every request with tools fails; choose a model whose "
            "template has them, such as {use: hf, model: Qwen/Qwen3-4B}, or remove 'tools'"
        )


def _templates(place: Location) -> Iterator[str]:
    """Yield the chat templates of a folder or GGUF file: the one for conversations and any others by name."""
    if place.gguf is not None:
        values = read_header(place.gguf).values
        yield from (str(v) for k, v in values.items() if k.startswith("tokenizer.chat_template"))
        return
    assert place.folder is not None
    for path in (
        place.folder / "chat_template.jinja",
        *place.folder.glob("additional_chat_templates/*.jinja"),
    ):
        if path.is_file():
            yield path.read_text(encoding="utf-8", errors="replace")
    for name in ("tokenizer_config.json", "chat_template.json"):
        value = (read_json(place.folder / name) or {}).get("chat_template")
        for each in value if isinstance(value, list) else [value]:
            text = each.get("template") if isinstance(each, dict) else each
            if isinstance(text, str):
                yield text


def folder_problems(folder: Path) -> Iterator[str]:
    """Yield the reasons why ``folder`` cannot be loaded."""
    if not folder.is_dir():
        yield f"there is no folder {folder}"
        return
    if not (folder / "config.json").is_file():
        if (folder / "adapter_config.json").is_file():
            yield (
                f"{folder} has an adapter, not a full model: name its base as the model, "
                "or merge the adapter with 'nfilter merge'"
            )
        else:
            yield f"{folder} has no config.json, so it is not a transformers checkpoint; give the folder that has one"
        return
    settings = read_json(folder / "config.json")
    if settings is None:
        yield f"{folder / 'config.json'} is not a JSON object; copy the checkpoint again"
        return
    if settings.get("auto_map") and not _is_native(str(settings.get("model_type", ""))):
        yield (
            f"{folder}: this checkpoint needs its own Python code (auto_map in config.json), which is never "
            "executed; use a model whose architecture is part of transformers"
        )
    if not any(folder.glob("*.safetensors")):
        if any(path for pattern in _PICKLES for path in folder.glob(pattern)):
            yield (
                f"{folder} has only pickled weights, which are never loaded; if you trust them, convert them "
                "once: AutoModelForCausalLM.from_pretrained(...).save_pretrained('NEW_FOLDER'), and use NEW_FOLDER"
            )
        else:
            yield f"{folder} has no *.safetensors weights; copy the checkpoint again, with its weights"
    yield from _shard_problems(folder)
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        yield f"{folder} has no tokenizer (tokenizer.json); save the model's tokenizer in it"


def _shard_problems(folder: Path) -> Iterator[str]:
    index = read_json(folder / "model.safetensors.index.json") or {}
    shards = index.get("weight_map")
    names = {str(shard) for shard in shards.values()} if isinstance(shards, dict) else set()
    for name in sorted(name for name in names if "/" in name or "\\" in name):
        yield (
            f"{folder}: model.safetensors.index.json names the shard {name!r} in another folder; a checkpoint is "
            "one folder: copy it again"
        )


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the JSON object in ``path``, or None if it has none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def _is_native(model_type: str) -> bool:
    # Searches the folder of the architecture, because importing transformers takes seconds.
    spec = find_spec("transformers")
    if spec is None or spec.origin is None or not model_type.replace("-", "_").isidentifier():
        return False
    return (Path(spec.origin).parent / "models" / model_type.replace("-", "_").lower()).is_dir()


def _gguf_problems(config: HFConfig, place: Location) -> Iterator[str]:
    if find_spec("gguf") is None:
        yield f"a GGUF model {missing_package('gguf', 'nfilter[local]')}"
    if config.load_in_4bit:
        yield (
            f"load_in_4bit takes safetensors weights, and {config.model!r} is a GGUF file, which is dequantised when it is "
            "read: remove load_in_4bit, or give the model's folder or hub id in full precision"
        )
    if place.gguf is not None:
        try:
            header = read_header(place.gguf)
        except ModelError as error:
            yield str(error)
            return
        yield from header_problems(place.gguf, header)
        yield from _length_problems(config, header.context)


def header_problems(path: Path, header: Header) -> Iterator[str]:
    """Yield the reasons why the GGUF file at ``path`` with this header cannot be used."""
    parts = header.values.get("split.count")
    if isinstance(parts, int) and parts > 1:
        yield (
            f"{path} is one of {parts} parts of a model: join them with 'llama-gguf-split --merge FIRST_PART OUT.gguf' "
            "(it comes with llama.cpp), and give OUT.gguf"
        )
    elif not header.tensors:
        yield f"{path} has no weights, only a vocabulary; give the file of the full model"
    if not isinstance(header.values.get("tokenizer.ggml.tokens"), int):
        yield f"{path} has no tokenizer (tokenizer.ggml.tokens); convert the model again with a current llama.cpp"
    if not _reads(header.architecture):
        yield (
            f"{path} is a model of the architecture {header.architecture!r}, which the installed transformers cannot read "
            "from GGUF: pip install --upgrade transformers, or give its folder or hub id with *.safetensors"
        )


def _reads(architecture: str) -> bool:
    # Searches the names in the source, because importing transformers takes seconds.
    spec = find_spec("transformers")
    if spec is None or spec.origin is None:
        return True
    place = Path(spec.origin).parent / "integrations"
    files = [*place.glob("gg*.py"), *place.glob("gguf/*.py")]
    texts = [file.read_text(encoding="utf-8", errors="replace") for file in files]
    known = {_bare(name) for text in texts for name in re.findall(r'"([\w.-]+)": ', text)}
    return not texts or _bare(architecture) in known


def _bare(architecture: str) -> str:
    # llama.cpp and transformers write some names differently: qwen2moe and qwen2_moe.
    return architecture.replace("-", "").replace("_", "").lower()


def _length_problems(config: HFConfig, limit: Any) -> Iterator[str]:
    if config.max_length is not None and isinstance(limit, int) and config.max_length > limit:
        yield f"max_length {config.max_length} is more than the model's context of {limit} tokens: at most {limit}"


def _device_problems(config: HFConfig) -> Iterator[str]:
    if config.device == "mps" and sys.platform != "darwin":
        yield "device mps exists on macOS only: set device to auto, cuda or cpu"
    if config.device == "cuda" and not _may_have_cuda():
        yield "device cuda: this machine has no CUDA device: set device to auto or cpu"
    if config.load_in_4bit:
        if config.device in ("cpu", "mps"):
            yield f"load_in_4bit needs a CUDA device, not device {config.device}: remove load_in_4bit"
        elif not _may_have_cuda():
            yield "load_in_4bit needs a CUDA device, and this machine has none: remove load_in_4bit"
        if find_spec("bitsandbytes") is None:
            yield "load_in_4bit needs bitsandbytes: pip install 'nfilter[quant]', or remove load_in_4bit"


def _may_have_cuda() -> bool:
    """Whether a GPU driver is present; True on systems where this cannot be detected."""
    if sys.platform == "darwin":
        return False
    if sys.platform != "linux":
        return True
    return any(Path(p).exists() for p in ("/dev/nvidiactl", "/dev/nvidia0", "/dev/kfd", "/dev/dxg"))
