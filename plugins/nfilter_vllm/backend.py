"""The backend ``vllm``: generates and scores with vLLM; prompts, tokens and answers are those of the backend ``hf``."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

from nfilter import (
    Abilities,
    Adapts,
    Completion,
    Encodes,
    FloatArray,
    Generates,
    IntArray,
    ModelError,
    ModelRef,
    OpenStreams,
    Request,
    Sample,
    Scores,
    Site,
    Streams,
    TokenizerDigest,
    Tokenizes,
    TokenSample,
    adapter_files,
)
from nfilter_vllm.answers import answers
from nfilter_vllm.checks import (
    config_problems,
    installed_version,
    reader_class,
    reader_config,
)
from nfilter_vllm.config import RANKS, VLLMConfig, admitted_rank
from nfilter_vllm.engine import Engine
from nfilter_vllm.scores import score

Numbered = Iterator[tuple[int, Completion] | None]


class VLLMBackend:
    """Any causal language model that vLLM runs, by hub id or folder. The engine starts at the first call.

    What renders prompts, encodes samples and reads answers is an instance of the backend ``hf`` that never loads weights, so
    that both backends send the same tokens and read the same text.
    """

    name: ClassVar[str] = "vllm"
    # The reader keeps control tokens in messages plain text.
    shields: ClassVar[bool] = True
    Config: ClassVar[type[VLLMConfig]] = VLLMConfig

    @classmethod
    def abilities(cls, config: VLLMConfig) -> Abilities:
        able = {Generates, Streams, OpenStreams, Scores, Encodes, Tokenizes, Adapts}
        return Abilities(frozenset(able), logprobs=True)

    @classmethod
    def problems(cls, config: VLLMConfig, site: Site) -> Iterable[str]:
        return list(config_problems(config, site))

    @classmethod
    def facts(cls, config: VLLMConfig, site: Site) -> Iterable[str]:
        """Yield how much of the GPUs vLLM takes, and its version."""
        gpus = "one GPU" if config.gpus == 1 else f"{config.gpus} GPUs"
        version = installed_version() or "(not installed)"
        yield f"vLLM {version} on {gpus}; it reserves {config.gpu_memory:.0%} of the memory until the run ends"

    @classmethod
    def tool_problems(cls, config: VLLMConfig, site: Site) -> Iterable[str]:
        """Yield why this model cannot be given tools, as far as its files tell before it is loaded."""
        reader = reader_class(site)
        return list(reader.tool_problems(reader_config(reader, config), site))

    def __init__(self, config: VLLMConfig, site: Site) -> None:
        self._config = config
        self._interrupt = site.interrupt
        reader = reader_class(site)
        self._reader: Any = reader(reader_config(reader, config), site)
        self._engine: Engine | None = None
        self._rank = 0
        self._adapters: dict[str, int] = {}
        self._lock = threading.RLock()

    @property
    def built_on(self) -> tuple[Any, ...]:
        """The backend whose code prepares prompts and reads answers."""
        return (self._reader,)

    def fingerprint(self) -> str:
        """Return the SHA-256 of weights, tokenizer, template and settings that change answers."""
        values = ["vllm", self._reader.fingerprint(), self._config.dtype]
        return hashlib.sha256(json.dumps(values).encode()).hexdigest()

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """Return one completion per request, in order. A request that cannot be answered is a failure."""
        return _in_order(self.stream(requests), len(requests))

    def stream(self, requests: Sequence[Request]) -> Numbered:
        """Yield completions with their request's index as they come."""
        return self.open_stream(requests, tuple)

    def open_stream(
        self, first: Sequence[Request], more: Callable[[], Sequence[Request]]
    ) -> Numbered:
        """Yield completions with their request's number as they come, and take further requests from ``more``."""
        yield from self._answers(first, more, None)

    def score(
        self, samples: Sequence[TokenSample], adapter: ModelRef | None = None
    ) -> list[FloatArray]:
        """Return per-token losses, float32 [T] per sample, of the base or with ``adapter``; see ``scores.score``."""
        with self._lock:
            engine, request = self._ready(adapter)
            return score(engine, samples, self._reader.checkpoint().context, request)

    @contextmanager
    def adapted(self, ref: ModelRef) -> Iterator[Adapted]:
        """Return the same engine with the adapter ``ref``. Requests with and without it may run at the same time."""
        model = Adapted(self, ref)
        try:
            yield model
        finally:
            model.closed = True

    def encode(
        self, samples: Sequence[Sample], *, max_length: int, turns: str
    ) -> list[TokenSample]:
        """Encode samples with the model's template, as ``hf`` does."""
        encoded: list[TokenSample] = self._reader.encode(
            samples, max_length=max_length, turns=turns
        )
        return encoded

    def decode(self, ids: Sequence[IntArray]) -> list[str]:
        """Return the text of each list of ids."""
        texts: list[str] = self._reader.decode(ids)
        return texts

    def tokenizer_digest(self) -> TokenizerDigest:
        """Return the digest of tokenizer and chat template."""
        found: TokenizerDigest = self._reader.tokenizer_digest()
        return found

    def prompt_end(self, request: Request) -> str:
        """Return the end of the prompt that the template renders; empty if it rejects the request."""
        return str(self._reader.prompt_end(request))

    def close(self) -> None:
        """Stop the engine and release the memory of the GPUs; a later call starts it again."""
        with self._lock:
            engine, self._engine = self._engine, None
            if engine is not None:
                engine.close()
            self._reader.close()

    def _answers(
        self,
        first: Sequence[Request],
        more: Callable[[], Sequence[Request]],
        adapter: ModelRef | None,
    ) -> Numbered:
        with self._lock:
            engine, request = self._ready(adapter)
            yield from answers(
                engine, self._reader, first, more, request, lambda: self._interrupt.requested
            )

    def _ready(self, adapter: ModelRef | None) -> tuple[Engine, Any]:
        """The running engine, and vLLM's request for the adapter."""
        rank = self._config.adapter_rank or 0
        folder = None
        if adapter is not None:
            folder, rank = _checked(adapter, rank)
        if self._engine is not None and rank > self._rank:
            # The room for adapters is fixed when the engine starts.
            self._engine.close()
            self._engine = None
        if self._engine is None:
            self._rank = max(rank, self._rank)
            self._engine = Engine(self._settings(self._rank))
        if adapter is None:
            return self._engine, None
        from vllm.lora.request import LoRARequest

        number = self._adapters.setdefault(adapter.digest, len(self._adapters) + 1)
        return self._engine, LoRARequest(adapter.digest, number, str(folder))

    def _settings(self, rank: int) -> dict[str, Any]:
        """The arguments of ``vllm.LLM``."""
        config, place = self._config, self._reader.checkpoint()
        if place.path.is_file():
            raise ModelError(
                f"{place.path} is one file, and vllm takes a folder with safetensors weights: set use: hf for this model"
            )
        settings = {
            "model": str(place.path),
            "tokenizer_mode": "hf",
            "load_format": "safetensors",
            "trust_remote_code": False,
            "dtype": config.dtype,
            "max_model_len": place.context,
            "gpu_memory_utilization": config.gpu_memory,
            "tensor_parallel_size": config.gpus,
            "enforce_eager": config.eager,
            # Sampling defaults of the model's generation_config.json are not those of a recipe.
            "generation_config": "vllm",
            # Before temperature and top_p, as `hf` computes them.
            "logprobs_mode": "raw_logprobs",
            "use_tqdm_on_load": False,
        }
        if rank:
            settings |= {"enable_lora": True, "max_lora_rank": admitted_rank(rank)}
        return settings


class Adapted:
    """A model with an adapter. It can only be used while its scope is open."""

    def __init__(self, backend: VLLMBackend, ref: ModelRef) -> None:
        self._backend = backend
        self._ref = ref
        self.closed = False

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """Return one completion per request, in order, of the adapted model."""
        return _in_order(self.stream(requests), len(requests))

    def stream(self, requests: Sequence[Request]) -> Numbered:
        """Yield completions with their request's index as they come."""
        return self.open_stream(requests, tuple)

    def open_stream(
        self, first: Sequence[Request], more: Callable[[], Sequence[Request]]
    ) -> Numbered:
        """Yield completions with their request's number as they come."""
        return self._open()._answers(first, more, self._ref)  # noqa: SLF001 - the other half of one class

    def score(
        self, samples: Sequence[TokenSample], adapter: ModelRef | None = None
    ) -> list[FloatArray]:
        """Return per-token losses of the adapted model, or with ``adapter`` instead."""
        return self._open().score(samples, adapter or self._ref)

    def encode(
        self, samples: Sequence[Sample], *, max_length: int, turns: str
    ) -> list[TokenSample]:
        """Encode samples; independent of the adapter."""
        return self._open().encode(samples, max_length=max_length, turns=turns)

    def decode(self, ids: Sequence[IntArray]) -> list[str]:
        """Return the text of ids; independent of the adapter."""
        return self._open().decode(ids)

    def tokenizer_digest(self) -> TokenizerDigest:
        """Return the tokenizer's digest; independent of the adapter."""
        return self._open().tokenizer_digest()

    def _open(self) -> VLLMBackend:
        if self.closed:
            raise ModelError(
                f"the adapter {self._ref.path} is no longer attached: use it inside 'with model.adapted(ref) as adapted:'"
            )
        return self._backend


def _in_order(stream: Numbered, count: int) -> list[Completion]:
    done = dict(answer for answer in stream if answer is not None)
    return [done[index] for index in range(count)]


def _checked(adapter: ModelRef, room: int) -> tuple[str, int]:
    """The folder of an adapter, and the greater one of its rank and ``room``.

    Raises:
        ModelError: if vLLM cannot apply it as PEFT does.
    """
    folder, config = adapter_files(adapter)
    ranks = [config.get("r"), *(config.get("rank_pattern") or {}).values()]
    rank = max((each for each in ranks if isinstance(each, int)), default=0)
    if config.get("peft_type") != "LORA" or rank < 1:
        raise ModelError(
            f"the adapter in {folder} is not a LoRA; give one that hf.lora has trained"
        )
    if config.get("use_dora") or config.get("modules_to_save"):
        raise ModelError(
            f"vLLM does not apply the adapter in {folder}: it has DoRA or whole modules; set use: hf for this model"
        )
    if admitted_rank(rank) is None:
        raise ModelError(
            f"the adapter in {folder} has rank {rank}, and vLLM applies ranks up to {RANKS[-1]}; set use: hf for this model"
        )
    return str(folder.resolve()), max(rank, room)
