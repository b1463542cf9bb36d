"""The backend ``sentence-transformers``: one embedding vector per text."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from nfilter import (
    Abilities,
    CutCounter,
    CutTexts,
    Embeds,
    FloatArray,
    ModelError,
    Site,
    StageConfig,
    missing_package,
)
from nfilter_embed.checkpoint import FILES, find_folder, is_hub_id, model_files, problems
from nfilter_embed.windows import Window, mean_of_parts, split

_INSTALL = f"sentence-transformers {missing_package('sentence_transformers', 'nfilter[local]')}"


class SentenceTransformersConfig(StageConfig):
    """``model`` is a folder (relative to the recipe) or a hub id. ``prompt`` is prepended to every text ("query: ").

    ``normalise`` scales vectors to length 1. For a text longer than the encoder's window, ``window: head`` embeds the
    beginning, ``tail`` the end, and ``mean`` averages the vectors of all parts, weighted by their token counts.
    """

    model: str = Field(
        min_length=1, description="A folder (relative paths start at the recipe) or a hub id."
    )
    revision: str | None = Field(
        default=None, description="The revision on the hub: a branch, a tag or a commit."
    )
    device: Literal["auto", "cuda", "mps", "cpu"] = Field(
        default="auto", description="Where the model runs; auto takes a GPU if there is one."
    )
    batch_size: int = Field(default=64, ge=1, description="Texts per batch.")
    normalise: bool = Field(default=False, description="Scale vectors to length 1.")
    prompt: str = Field(
        default="", description="Text before every embedded text, such as 'query: '."
    )
    window: Window = Field(
        default="head",
        description="The part of a text longer than the encoder's window that is embedded: its head, its tail, or the mean of all parts.",
    )


class SentenceTransformers:
    """Sentence encoder. Loads on first use, from safetensors only, and never runs code from the checkpoint."""

    name: ClassVar[str] = "sentence-transformers"
    also_known: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("sentence_transformer", "sbert", "st", "embedding", "embeddings", "embedder", "bge", "e5"),
        "{use: sentence-transformers, model: sentence-transformers/all-MiniLM-L6-v2}",
    )
    Config: ClassVar[type[StageConfig]] = SentenceTransformersConfig

    def __init__(self, config: SentenceTransformersConfig, site: Site) -> None:
        self.config = config
        self.site = site
        self._model: Any = None
        self._cut_counter = CutCounter(config.window, "window")

    @classmethod
    def abilities(cls, config: SentenceTransformersConfig) -> Abilities:
        return Abilities(frozenset({Embeds}))

    @classmethod
    def problems(cls, config: SentenceTransformersConfig, site: Site) -> Iterable[str]:
        """Yield a missing package, a missing folder, or a checkpoint that needs pickles or its own code."""
        if find_spec("sentence_transformers") is None:
            yield _INSTALL
        folder = find_folder(config.model, site)
        if folder is not None:
            yield from problems(folder)
            if config.revision is not None:
                yield f"revision {config.revision!r} needs a hub id; {config.model!r} is a folder: remove revision"
        elif not is_hub_id(config.model):
            yield (
                f"model {config.model!r}: there is no folder {site.base_dir / config.model}. Give a folder, relative to "
                "the recipe, or a hub id such as sentence-transformers/all-MiniLM-L6-v2"
            )

    def fingerprint(self) -> str:
        """Return the SHA-256 of the checkpoint's files and of every setting that changes a vector.

        Downloads a hub model first.
        """
        config = self.config
        settings = json.dumps([config.model, config.revision, config.normalise, config.prompt])
        folder = self._folder()
        if find_folder(config.model, self.site) is not None:
            settings = json.dumps([config.normalise, config.prompt])
        if config.window != "head":
            settings += config.window
        total = hashlib.sha256(settings.encode())
        for path in model_files(folder):
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            total.update(f"{path.relative_to(folder).as_posix()}\0{digest}\n".encode())
        return total.hexdigest()

    def embed(self, texts: Sequence[str]) -> FloatArray:
        """Return the vectors of ``texts`` as float32 [n, d]; ``window`` selects the part of a text that is too long."""
        model = self._load_model()
        if not texts:
            return np.zeros((0, int(model.get_embedding_dimension())), dtype=np.float32)
        config = self.config
        clean = [_replace_surrogates(text) for text in texts]
        parts = split(model, clean, config.window, _replace_surrogates(config.prompt))
        if parts is None:
            return self._encode(
                model, [_replace_surrogates(config.prompt + text) for text in texts]
            )
        self._cut_counter.add(parts.longer, len(texts), parts.size)
        vectors = self._encode(model, parts.parts)
        if config.window == "mean" and parts.longer:
            vectors = mean_of_parts(vectors, parts, len(texts))
            if config.normalise:
                lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
                vectors = np.asarray(vectors / np.where(lengths > 0, lengths, 1), np.float32)
        return vectors

    def take_cut_texts(self) -> CutTexts | None:
        """Return the number of texts longer than the window since the last call, or None without texts."""
        return self._cut_counter.take()

    def _encode(self, model: Any, texts: list[str]) -> FloatArray:
        vectors = model.encode(
            texts,
            prompt="",
            batch_size=self.config.batch_size,
            show_progress_bar=False,
            convert_to_numpy=True,
            normalize_embeddings=self.config.normalise,
        )
        return np.asarray(vectors, dtype=np.float32)

    def close(self) -> None:
        self._model = None

    def _folder(self) -> Path:
        """Return the checkpoint's folder; download a hub model first, without pickles."""
        config = self.config
        folder = find_folder(config.model, self.site)
        if folder is not None:
            return folder
        if not is_hub_id(config.model):
            raise ModelError("; ".join(self.problems(config, self.site)))
        try:
            from huggingface_hub import snapshot_download
        except ImportError as error:
            raise ModelError(_INSTALL) from error
        try:
            return Path(
                snapshot_download(
                    config.model, revision=config.revision, allow_patterns=list(FILES)
                )
            )
        except (OSError, ValueError) as error:
            raise ModelError(
                f"sentence-transformers: {config.model!r} could not be downloaded from the hub: {error}. Check the id and "
                "the network, or give a local folder"
            ) from error

    def _load_model(self) -> Any:
        if self._model is None:
            folder = self._folder()
            faults = list(problems(folder))
            if faults:
                raise ModelError("\n".join(faults))
            try:
                from sentence_transformers import SentenceTransformer
            except ImportError as error:
                raise ModelError(_INSTALL) from error
            try:
                with _no_loading_bar():
                    self._model = SentenceTransformer(
                        str(folder),
                        device=None if self.config.device == "auto" else self.config.device,
                        trust_remote_code=False,
                        local_files_only=True,
                        model_kwargs={"use_safetensors": True},
                    )
            except (OSError, ValueError, RuntimeError, KeyError) as error:
                raise ModelError(
                    f"sentence-transformers: {folder} could not be loaded: {error}. Give a checkpoint that "
                    "sentence-transformers saved, and an available device"
                ) from error
        return self._model


def _replace_surrogates(text: str) -> str:
    """Replace lone surrogates, which no tokenizer accepts, by "?"."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


@contextmanager
def _no_loading_bar() -> Iterator[None]:
    """Disable the loading bar of transformers, which would overwrite the run's own progress bar."""
    from transformers.utils import logging

    if not logging.is_progress_bar_enabled():
        yield
        return
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.enable_progress_bar()
