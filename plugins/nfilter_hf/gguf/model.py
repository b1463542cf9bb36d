"""Read the configuration, the tokenizer and the dequantised weights of a GGUF file with transformers."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from nfilter import ModelError, missing_package
from nfilter_hf.cached_folders import is_valid, store
from nfilter_hf.fingerprint import cache_folder, file_sha256
from nfilter_hf.gguf import corrections as gguf_corrections
from nfilter_hf.gguf.corrections import correct_settings, correct_tokenizer
from nfilter_hf.gguf.header import read_header

_LIBRARIES: Final = ("transformers", "tokenizers", "gguf")


def settings_and_tokenizer(file: Path) -> tuple[Any, Any]:
    """Return the transformers configuration and the fast tokenizer, with its chat template, of a GGUF file.

    The conversion takes seconds. The result is cached as config.json and tokenizer.json in the user's cache, with a key of the
    file's header, the versions of the libraries and this code; a damaged copy is made again.

    Raises:
        ModelError: if transformers cannot use the file.
    """
    cached = cache_folder() / "gguf" / _key(file)
    if is_valid(cached):
        return _load(cached)
    settings, tokenizer = _convert(file)

    def write(folder: Path) -> None:
        settings.save_pretrained(folder)
        tokenizer.save_pretrained(folder)

    return _load(cached) if store(cached, write) else (settings, tokenizer)


@contextmanager
def alone(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield arguments with which ``from_pretrained`` of transformers reads only ``file``, not other files of its folder."""
    if find_spec("gguf") is None:
        raise ModelError(f"a GGUF model {missing_package('gguf', 'nfilter[local]')}")
    with tempfile.TemporaryDirectory(prefix="nfilter-gguf-") as empty, _without_bar():
        yield empty, {"gguf_file": str(file.absolute()), "local_files_only": True}


def unpacking() -> dict[str, Any]:
    """Return the argument with which ``from_pretrained`` dequantises weights."""
    import transformers

    # Older versions always dequantise.
    config = getattr(transformers, "GgufConfig", None)
    return {} if config is None else {"quantization_config": config(dequantize=True)}


def _convert(file: Path) -> tuple[Any, Any]:
    from transformers import AutoConfig, AutoTokenizer

    try:
        with alone(file) as (folder, options):
            settings = AutoConfig.from_pretrained(folder, **options)
            tokenizer = AutoTokenizer.from_pretrained(folder, **options)
    except ModelError:
        raise
    except Exception as error:
        # Readers of a binary format raise errors of any type, all of them about the file.
        raise ModelError(
            f"{file}: transformers cannot read this GGUF file: {error}. Convert the model again with a current llama.cpp, "
            "or give its folder or hub id with *.safetensors"
        ) from error
    header = read_header(file)
    correct_settings(settings, header, file)
    correct_tokenizer(tokenizer, header, file)
    return settings, tokenizer


def made_by() -> str:
    """Return the SHA-256 of the code that reads GGUF files: versions of the libraries, and this plugin's files."""
    versions = [_version(name) for name in _LIBRARIES]
    code = [file_sha256(Path(part)) for part in (__file__, gguf_corrections.__file__)]
    return hashlib.sha256(json.dumps([versions, code]).encode()).hexdigest()


def _key(file: Path) -> str:
    """The SHA-256 of everything that settings and tokenizer depend on, a small part of the file."""
    header = read_header(file)
    total = hashlib.sha256(made_by().encode())
    with file.open("rb") as data:
        total.update(data.read(header.size))
        # The frequency divisors belong to the settings, and are stored among the weights.
        for name in sorted(name for name in header.tensors if name.startswith("rope_")):
            data.seek(header.data_start + header.tensors[name].offset)
            total.update(data.read(header.tensors[name].size or 0))
    return total.hexdigest()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _load(folder: Path) -> tuple[Any, Any]:
    from transformers import AutoConfig, AutoTokenizer

    settings = AutoConfig.from_pretrained(str(folder), local_files_only=True)
    return settings, AutoTokenizer.from_pretrained(str(folder), local_files_only=True)


@contextmanager
def _without_bar() -> Iterator[None]:
    """Suppress the progress bar of dequantisation, which would overwrite the run's; transformers has no option for it."""
    reading: Any = import_module("transformers.modeling_gguf_pytorch_utils")
    bar = getattr(reading, "tqdm", None)
    if bar is None:
        yield
        return
    reading.tqdm = _plain
    try:
        yield
    finally:
        reading.tqdm = bar


def _plain(items: Iterable[Any], **settings: Any) -> Iterable[Any]:
    del settings
    return items
