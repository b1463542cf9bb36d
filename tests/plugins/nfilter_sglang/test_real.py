"""SGLang itself: the stand-in has its signatures, and on a GPU answers and scores are those of ``use: hf``."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from nfilter import Site
from nfilter_sglang.backend import SGLangBackend
from tests.engine_cases import (
    check_adapters,
    check_answers,
    check_scores,
    check_seed,
    encoded,
    make_adapter,
)

pytestmark = pytest.mark.skipif(find_spec("sglang") is None, reason="needs sglang")


def test_sglang_has_what_the_backend_calls() -> None:
    """Names of arguments and fields, without a GPU; ``test_backend.py`` tests the calls against the same names."""
    import msgspec
    from sglang.srt.entrypoints.engine import Engine
    from sglang.srt.managers.io_struct import LoRAUpdateOutput
    from sglang.srt.managers.tokenizer_manager import TokenizerManager
    from sglang.srt.sampling.sampling_params import SamplingParams
    from sglang.srt.server_args import ServerArgs

    assert set(inspect.signature(ServerArgs).parameters) >= {
        "model_path", "load_format", "trust_remote_code", "dtype", "context_length", "mem_fraction_static", "tp_size", "dp_size",
        "disable_cuda_graph", "enable_deterministic_inference", "allow_auto_truncate", "log_level", "enable_lora", "max_lora_rank",
        "lora_target_modules", "lora_paths", "lora_strict_loading",
    }  # fmt: skip
    asked = inspect.signature(Engine.async_generate).parameters
    assert set(asked) >= {"input_ids", "sampling_params", "return_logprob", "logprob_start_len", "lora_path", "rid"}  # fmt: skip
    load = inspect.signature(Engine.async_load_lora_adapter).parameters
    assert list(load)[1:3] == ["lora_name", "lora_path"]
    assert {field.name for field in msgspec.structs.fields(LoRAUpdateOutput)} >= {"success", "error_message"}  # fmt: skip
    assert {field.name for field in msgspec.structs.fields(SamplingParams)} >= {
        "max_new_tokens", "temperature", "top_p", "top_k", "min_p", "stop", "stop_token_ids", "sampling_seed", "json_schema",
    }  # fmt: skip
    assert "rid" in inspect.signature(TokenizerManager.abort_request).parameters
    assert callable(Engine.shutdown)


@pytest.fixture(scope="module")
def pair(plugins: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Any]]:
    """The embedded model with SGLang and with transformers, both in float32 on a GPU."""
    import torch

    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    site = Site(tmp_path_factory.mktemp("site"), plugins.models, backends=plugins.backends)
    config = SGLangBackend.Config(model="tiny", dtype="float32", gpu_memory=0.3, deterministic=True)
    fast = SGLangBackend(config, site)
    cls = plugins.backends["hf"]
    yield fast, cls(cls.Config(model="tiny", device="cuda", dtype="float32"), site)
    fast.close()


@pytest.mark.gpu
def test_answers_and_scores_are_those_of_hf_and_seeds_repeat(pair: tuple[Any, Any]) -> None:
    fast, slow = pair
    check_answers(fast, slow, tolerance=1e-2)
    check_seed(fast)
    check_scores(fast, slow, encoded(fast), tolerance=1e-2)


@pytest.mark.gpu
def test_adapters_are_applied_as_hf_does(
    pair: tuple[Any, Any], plugins: Any, tmp_path: Path
) -> None:
    fast, slow = pair
    base = plugins.models["tiny"]
    check_adapters(
        fast, slow, [make_adapter(base, tmp_path / "a", 8), make_adapter(base, tmp_path / "b", 16)]
    )
