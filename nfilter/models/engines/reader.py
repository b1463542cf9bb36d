"""The backend that renders prompts and reads answers for an inference engine, and checks of a config before one starts."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

from nfilter.api.capabilities import EncodesRequests
from nfilter.api.errors import ModelError, missing_package
from nfilter.api.stages import Site


def installed_version(package: str) -> str | None:
    """Return the version of an installed package, or None."""
    with suppress(PackageNotFoundError):
        return version(package)
    return None


def reader_class(site: Site, name: str) -> Any:
    """Return the class of the backend ``hf``, which encodes requests and decodes answers for the backend ``name``.

    Raises:
        ModelError: if its plugin is not there.
    """
    found: Any = site.backends.get("hf")
    if found is None or not isinstance(found, EncodesRequests):
        raise ModelError(
            f"{name} renders prompts with the backend hf, whose plugin is not loaded: unset NFILTER_BLOCK_PLUGINS"
        )
    return found


def reader_config(reader: Any, config: Any) -> Any:
    """Return the config of the reader; device and dtype are not used, because it loads no weights."""
    return reader.Config(
        model=config.model,
        revision=config.revision,
        max_length=config.max_length,
        chat_template=config.chat_template,
        device="cpu",
        dtype="float32",
    )


def engine_problems(
    config: Any, site: Site, name: str, label: str, least: tuple[int, ...]
) -> Iterator[str]:
    """Yield every fault of an engine's config that is detectable before it starts, each with its remedy.

    Args:
        config: With ``model``, ``revision``, ``max_length`` and ``chat_template`` as the backend ``hf`` has them.
        site: The environment of the backend.
        name: The name of the backend, of its package on the index and of nfilter's extra.
        label: The engine's name in messages.
        least: The oldest version whose interface is known to fit.
    """
    if sys.platform != "linux":
        yield f"{name} runs on Linux only: set use: hf for this model"
    elif find_spec(name) is None:
        yield f"{name} {missing_package(name, f'nfilter[{name}]')}"
    else:
        yield from _version_problems(name, label, installed_version(name) or "", least)
    try:
        reader = reader_class(site, name)
    except ModelError as error:
        yield str(error)
        return
    yield from reader.problems(reader_config(reader, config), site)
    if _is_one_file(config, site):
        yield (
            f"model {config.model!r} is one file (GGUF), and {name} takes a folder or a hub id with safetensors weights: "
            "set use: hf for this model"
        )


def _version_problems(
    name: str, label: str, installed: str, least: tuple[int, ...]
) -> Iterator[str]:
    numbers = re.match(r"\d+(?:\.\d+)*", installed)
    # A version that is not of this form is a development version.
    if numbers is not None and tuple(map(int, numbers[0].split("."))) < least:
        wanted = ".".join(map(str, least))
        yield (
            f"{name} needs version {wanted} or newer of {label}, and {installed} is installed: "
            f"pip install --upgrade '{name}>={wanted}'"
        )


def _is_one_file(config: Any, site: Site) -> bool:
    """Whether the model is a GGUF file, as far as its name tells."""
    if config.model.lower().endswith(".gguf"):
        return True
    try:
        shipped = site.models.get(config.model)
    except ModelError:  # its package is not installed, which the reader reports
        return False
    return shipped is not None and shipped.suffix.lower() == ".gguf"
