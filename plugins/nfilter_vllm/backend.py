"""The backend ``vllm``: generates and scores with vLLM; prompts, tokens and answers are those of the backend ``hf``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar, Final

from nfilter import (
    ENGINE_ABILITIES,
    Abilities,
    AdaptedEngineModel,
    Checkpoint,
    Completion,
    EngineAdapter,
    EngineKind,
    EngineModel,
    FloatArray,
    IntArray,
    ModelError,
    ModelRef,
    Request,
    Sample,
    Site,
    TokenizerDigest,
    TokenSample,
    engine_problems,
    engine_tool_problems,
    installed_version,
)
from nfilter_vllm.adapters import SUPPORT, admitted_rank
from nfilter_vllm.config import VLLMConfig
from nfilter_vllm.engine import Engine

KIND: Final = EngineKind("vllm", "vLLM", least=(0, 33), reader="hf", adapters=SUPPORT)

# vllm/lora/ops/triton_ops of vLLM 0.33
WIDE: Final = (
    "vLLM applies adapters to weights of 16 bits only; set dtype: auto for this model, or use: hf"
)

Numbered = Iterator[tuple[int, Completion] | None]


class VLLMBackend:
    """Any causal language model that vLLM runs, by hub id or folder. The engine starts at the first call."""

    name: ClassVar[str] = "vllm"
    # The reader keeps control tokens in messages plain text.
    shields: ClassVar[bool] = True
    Config: ClassVar[type[VLLMConfig]] = VLLMConfig

    @classmethod
    def abilities(cls, config: VLLMConfig) -> Abilities:
        return ENGINE_ABILITIES

    @classmethod
    def problems(cls, config: VLLMConfig, site: Site) -> Iterable[str]:
        found = list(engine_problems(KIND, config, site))
        if config.adapter_rank is not None and config.dtype == "float32":
            found.append(WIDE)
        return found

    @classmethod
    def facts(cls, config: VLLMConfig, site: Site) -> Iterable[str]:
        """Yield how much of the GPUs vLLM takes, and its version."""
        gpus = "one GPU" if config.gpus == 1 else f"{config.gpus} GPUs"
        version = installed_version("vllm") or "(not installed)"
        yield f"vLLM {version} on {gpus}; it reserves {config.gpu_memory:.0%} of the memory until the run ends"

    @classmethod
    def tool_problems(cls, config: VLLMConfig, site: Site) -> Iterable[str]:
        """Yield why this model cannot be given tools, as far as its files tell before it is loaded."""
        return engine_tool_problems(KIND, config, site)

    def __init__(self, config: VLLMConfig, site: Site) -> None:
        self._config = config
        self._model = EngineModel(KIND, config, site, self._start)

    @property
    def built_on(self) -> tuple[Any, ...]:
        """The backend whose code prepares prompts and reads answers."""
        return (self._model.reader,)

    def fingerprint(self) -> str:
        """Return the SHA-256 of weights, tokenizer, template and settings that change answers."""
        return self._model.fingerprint()

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """Return one completion per request, in order. A request that cannot be answered is a failure."""
        return self._model.generate(requests)

    def stream(self, requests: Sequence[Request]) -> Numbered:
        """Yield completions with their request's index as they come."""
        return self._model.open_stream(requests, tuple)

    def open_stream(
        self, first: Sequence[Request], more: Callable[[], Sequence[Request]]
    ) -> Numbered:
        """Yield completions with their request's number as they come, and take further requests from ``more``."""
        return self._model.open_stream(first, more)

    def score(
        self, samples: Sequence[TokenSample], adapter: ModelRef | None = None
    ) -> list[FloatArray]:
        """Return per-token losses, float32 [T] per sample, of the base or with ``adapter``."""
        return self._model.score(samples, adapter)

    def adapted(self, ref: ModelRef) -> AbstractContextManager[AdaptedEngineModel]:
        """Return the same engine with the adapter ``ref``. Requests with and without it may run at the same time."""
        return self._model.adapted(ref)

    def encode(
        self, samples: Sequence[Sample], *, max_length: int, turns: str
    ) -> list[TokenSample]:
        """Encode samples with the model's template, as ``hf`` does."""
        return self._model.encode(samples, max_length=max_length, turns=turns)

    def decode(self, ids: Sequence[IntArray]) -> list[str]:
        """Return the text of each list of ids."""
        return self._model.decode(ids)

    def tokenizer_digest(self) -> TokenizerDigest:
        """Return the digest of tokenizer and chat template."""
        return self._model.tokenizer_digest()

    def prompt_end(self, request: Request) -> str:
        """Return the end of the prompt that the template renders; empty if it rejects the request."""
        return self._model.prompt_end(request)

    def close(self) -> None:
        """Stop the engine and release the memory of the GPUs; a later call starts it again."""
        self._model.close()

    def _start(self, place: Checkpoint, adapters: Sequence[EngineAdapter]) -> Engine:
        config = self._config
        rank = max([config.adapter_rank or 0, *(adapter.rank for adapter in adapters)])
        if rank and config.dtype == "float32":
            raise ModelError(WIDE)
        settings: dict[str, Any] = {
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
        return Engine(settings, rank)
