"""vLLM itself: the stand-in has its signatures, and on a GPU answers and scores are those of ``use: hf``."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nfilter import Site
from nfilter_vllm.adapters import RANKS, SUPPORT
from nfilter_vllm.backend import VLLMBackend
from tests.engine_cases import check_answers, check_scores, check_seed, encoded, make_adapter

pytestmark = pytest.mark.skipif(find_spec("vllm") is None, reason="needs vllm")


def test_vllm_has_what_the_backend_calls() -> None:
    """Names of arguments and fields, without a GPU; ``test_backend.py`` tests the calls against the same names."""
    import msgspec
    from vllm import LLM, SamplingParams
    from vllm.config.lora import MaxLoRARanks
    from vllm.engine.arg_utils import EngineArgs
    from vllm.lora.peft_helper import PEFTHelper
    from vllm.lora.request import LoRARequest
    from vllm.sampling_params import StructuredOutputsParams
    from vllm.v1.engine.llm_engine import LLMEngine

    start = {*inspect.signature(LLM.__init__).parameters, *EngineArgs.__dataclass_fields__}
    assert start >= {
        "model", "tokenizer_mode", "load_format", "trust_remote_code", "dtype", "max_model_len", "gpu_memory_utilization",
        "tensor_parallel_size", "enforce_eager", "generation_config", "logprobs_mode", "use_tqdm_on_load", "enable_lora", "max_lora_rank",
    }  # fmt: skip
    named = {field.name for field in msgspec.structs.fields(SamplingParams)}
    assert named >= {
        "temperature", "top_p", "top_k", "min_p", "seed", "stop", "stop_token_ids", "max_tokens", "logprobs", "detokenize",
        "structured_outputs", "prompt_logprobs", "flat_logprobs",
    }  # fmt: skip
    enqueue = inspect.signature(LLM.enqueue).parameters
    assert list(enqueue)[1:4] == ["prompts", "sampling_params", "lora_request"]
    assert "use_tqdm" in enqueue
    assert list(inspect.signature(LLMEngine.abort_request).parameters)[1:] == ["request_ids", "internal"]  # fmt: skip
    assert list(inspect.signature(LLMEngine.add_lora).parameters)[1:] == ["lora_request"]
    assert callable(LLMEngine.step)
    assert callable(LLMEngine.has_unfinished_requests)
    LoRARequest("name", 1, "path")
    StructuredOutputsParams(json={"type": "object"})
    assert MaxLoRARanks.__args__ == RANKS
    applied = PEFTHelper(
        r=4,
        lora_alpha=8,
        target_modules=["q"],
        use_rslora=True,
        rank_pattern={"q": 16},
        alpha_pattern={"q": 12},
    )
    assert applied.get_rank_and_scaling("layers.0.q") == (16, 3.0)
    assert SUPPORT.applied == {"use_rslora", "rank_pattern", "alpha_pattern"}


@pytest.fixture(scope="module")
def pair(plugins: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Any]]:
    """The embedded model with vLLM and with transformers, both in float32 on a GPU."""
    import torch

    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    site = Site(tmp_path_factory.mktemp("site"), plugins.models, backends=plugins.backends)
    fast = VLLMBackend(VLLMBackend.Config(model="tiny", dtype="float32", gpu_memory=0.3), site)
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
def test_scores_with_an_adapter_are_close_to_those_of_hf(
    pair: tuple[Any, Any], plugins: Any, tmp_path: Path
) -> None:
    """In 16 bits, to which alone vLLM applies adapters; one has ranks and scalings of its own for some layers."""
    _, slow = pair
    base = plugins.models["tiny"]
    own = {"use_rslora": True, "rank_pattern": {"v_proj": 12}, "alpha_pattern": {"q_proj": 3}}
    refs = [make_adapter(base, tmp_path / "a", 8), make_adapter(base, tmp_path / "b", 4, **own)]
    site = Site(tmp_path, plugins.models, backends=plugins.backends)
    fast = VLLMBackend(
        VLLMBackend.Config(model="tiny", dtype="bfloat16", gpu_memory=0.2, adapter_rank=16), site
    )
    samples = encoded(fast)
    plain = fast.score(samples)
    for ref in refs:
        for got, wanted, bare in zip(
            fast.score(samples, ref), slow.score(samples, ref), plain, strict=True
        ):
            here = np.isfinite(wanted)
            assert np.abs(got - wanted)[here].mean() < 0.3
            assert np.abs(bare - wanted)[here].mean() > 1
    fast.close()
