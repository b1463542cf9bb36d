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
from nfilter.models.engines.kind import EngineKind


def installed_version(package: str) -> str | None:
    """Return the version of an installed package, or None."""
    with suppress(PackageNotFoundError):
        return version(package)
    return None


def reader_class(site: Site, kind: EngineKind) -> Any:
    """Return the class of the backend that encodes requests and decodes answers for an engine.

    Raises:
        ModelError: if its plugin is not there.
    """
    found: Any = site.backends.get(kind.reader)
    if found is None or not isinstance(found, EncodesRequests):
        raise ModelError(
            f"{kind.name} renders prompts with the backend {kind.reader}, whose plugin is not loaded: unset NFILTER_BLOCK_PLUGINS"
        )
    return found


def reader_config(reader: Any, config: Any) -> Any:
    """Return the config of the reader of a model with the config ``config``."""
    return reader.text_config(
        model=config.model,
        revision=config.revision,
        max_length=config.max_length,
        chat_template=config.chat_template,
    )


def engine_problems(kind: EngineKind, config: Any, site: Site) -> Iterator[str]:
    """Yield every fault of an engine's config that is detectable before it starts, each with its remedy.

    ``config`` has ``model``, ``revision``, ``max_length`` and ``chat_template``.
    """
    if sys.platform != "linux":
        yield f"{kind.name} runs on Linux only: set use: {kind.reader} for this model"
    elif find_spec(kind.name) is None:
        yield f"{kind.name} {missing_package(kind.name, f'nfilter[{kind.name}]')}"
    else:
        yield from _version_problems(kind, installed_version(kind.name) or "")
    try:
        reader = reader_class(site, kind)
    except ModelError as error:
        yield str(error)
        return
    yield from reader.problems(reader_config(reader, config), site)
    if _is_one_file(config, site):
        yield (
            f"model {config.model!r} is one file (GGUF), and {kind.name} takes a folder or a hub id with safetensors weights: "
            f"set use: {kind.reader} for this model"
        )


def engine_tool_problems(kind: EngineKind, config: Any, site: Site) -> list[str]:
    """Return why a model cannot be given tools, as far as its files tell before it is loaded."""
    reader = reader_class(site, kind)
    return list(reader.tool_problems(reader_config(reader, config), site))


def _version_problems(kind: EngineKind, installed: str) -> Iterator[str]:
    numbers = re.match(r"\d+(?:\.\d+)*", installed)
    # A version that is not of this form is a development version.
    if numbers is not None and tuple(map(int, numbers[0].split("."))) < kind.least:
        wanted = ".".join(map(str, kind.least))
        yield (
            f"{kind.name} needs version {wanted} or newer of {kind.label}, and {installed} is installed: "
            f"pip install --upgrade '{kind.name}>={wanted}'"
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
