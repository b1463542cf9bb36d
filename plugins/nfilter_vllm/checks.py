"""Check the settings of a model without importing vllm."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any, Final

from nfilter import EncodesRequests, ModelError, Site, missing_package
from nfilter_vllm.config import VLLMConfig

LEAST: Final = (0, 33)
"""The oldest version of vLLM whose interface is known to fit."""


def installed_version() -> str | None:
    """Return the version of the installed vLLM, or None."""
    with suppress(PackageNotFoundError):
        return version("vllm")
    return None


def reader_class(site: Site) -> Any:
    """Return the class of the backend ``hf``, which encodes requests and decodes answers.

    Raises:
        ModelError: if its plugin is not there.
    """
    found: Any = site.backends.get("hf")
    if found is None or not isinstance(found, EncodesRequests):
        raise ModelError(
            "vllm renders prompts with the backend hf, whose plugin nfilter_hf is not loaded: unset NFILTER_BLOCK_PLUGINS"
        )
    return found


def reader_config(reader: Any, config: VLLMConfig) -> Any:
    """Return the config of the reader; device and dtype are not used, because it loads no weights."""
    return reader.Config(
        model=config.model,
        revision=config.revision,
        max_length=config.max_length,
        chat_template=config.chat_template,
        device="cpu",
        dtype="float32",
    )


def config_problems(config: VLLMConfig, site: Site) -> Iterator[str]:
    """Yield every fault of ``config`` that is detectable before the engine starts, each with its remedy."""
    if sys.platform != "linux":
        yield "vllm runs on Linux only: set use: hf for this model"
    elif find_spec("vllm") is None:
        yield f"vllm {missing_package('vllm', 'nfilter[vllm]')}"
    else:
        yield from _version_problems(installed_version() or "")
    try:
        reader = reader_class(site)
    except ModelError as error:
        yield str(error)
        return
    yield from reader.problems(reader_config(reader, config), site)
    if _is_one_file(config, site):
        yield (
            f"model {config.model!r} is one file (GGUF), and vllm takes a folder or a hub id with safetensors weights: "
            "set use: hf for this model"
        )


def _version_problems(installed: str) -> Iterator[str]:
    numbers = re.match(r"(\d+)\.(\d+)", installed)
    # A version that is not of this form is a development version.
    if numbers is not None and tuple(map(int, numbers.groups())) < LEAST:
        least = ".".join(map(str, LEAST))
        yield (
            f"vllm needs version {least} or newer of vLLM, and {installed} is installed: "
            f"pip install --upgrade 'vllm>={least}'"
        )


def _is_one_file(config: VLLMConfig, site: Site) -> bool:
    """Whether the model is a GGUF file, as far as its name tells."""
    if config.model.lower().endswith(".gguf"):
        return True
    try:
        shipped = site.models.get(config.model)
    except ModelError:  # its package is not installed, which the reader reports
        return False
    return shipped is not None and shipped.suffix.lower() == ".gguf"
