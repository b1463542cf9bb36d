"""Adapters of a run: answers and scores with them are those of ``use: hf``, and the engine makes room for them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nfilter import Message, ModelError, ModelRef, Request, Sample, Sampling
from nfilter_vllm.adapters import unapplied_layers
from nfilter_vllm.backend import VLLMBackend

Open = Callable[..., VLLMBackend]
# PEFT reads an attribute that transformers has renamed.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"
)
REQUESTS = [
    Request((Message("user", text),), Sampling(max_tokens=6), logprobs=True)
    for text in ("sot 218", "mel 4 7", "heron")
]
SAMPLES = [
    Sample(str(n), (Message("user", "sot 218"), Message("assistant", f"it is {n}")))
    for n in range(3)
]


def make_adapter(base: Path, out: Path, rank: int, **config: Any) -> ModelRef:
    """An adapter made with PEFT alone, both of its matrices random."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    module = AutoModelForCausalLM.from_pretrained(base)
    settings = {"r": rank, "lora_alpha": 2 * rank, "target_modules": ["q_proj", "v_proj"], **config}
    wrapped = get_peft_model(module, LoraConfig(task_type="CAUSAL_LM", **settings))
    generator = torch.Generator().manual_seed(rank)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    wrapped.save_pretrained(out)
    return ModelRef(str(out), "adapter", str(base), f"{rank:064}")


@pytest.fixture(scope="module")
def refs(plugins: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelRef, ModelRef]:
    folder, base = tmp_path_factory.mktemp("adapters"), plugins.models["tiny"]
    return make_adapter(base, folder / "small", 4), make_adapter(base, folder / "large", 12)


def test_answers_and_scores_with_an_adapter_are_those_of_hf(
    opened: Open, hf: Any, refs: tuple[ModelRef, ModelRef], vllm: Any
) -> None:
    model = opened(adapter_rank=12)
    samples = model.encode(SAMPLES, max_length=99, turns="all")
    plain = model.generate(REQUESTS)
    for ref in refs:
        with model.adapted(ref) as one, hf.adapted(ref) as other:
            got, wanted = one.generate(REQUESTS), other.generate(REQUESTS)
            assert [answer.text for answer in got] == [answer.text for answer in wanted]
            assert got != plain
            for mine, theirs in zip(one.score(samples), other.score(samples), strict=True):
                np.testing.assert_allclose(mine, theirs, atol=1e-3, equal_nan=True)
        scored = zip(model.score(samples, ref), hf.score(samples, ref), strict=True)
        for mine, theirs in scored:
            np.testing.assert_allclose(mine, theirs, atol=1e-3, equal_nan=True)
    assert model.generate(REQUESTS) == plain
    (engine,) = vllm.LLM.started
    assert (engine.settings["enable_lora"], engine.settings["max_lora_rank"]) == (True, 16)
    numbers = [each.adapter and each.adapter.lora_int_id for each in engine.requests]
    assert set(numbers) == {None, 1, 2}
    assert engine.llm_engine.loaded == [1, 2]


def test_the_engine_starts_again_for_an_adapter_that_it_has_no_room_for(
    opened: Open, refs: tuple[ModelRef, ModelRef], vllm: Any
) -> None:
    model = opened()
    model.generate(REQUESTS)
    for ref in (refs[0], refs[1], refs[0]):
        with model.adapted(ref) as adapted:
            adapted.generate(REQUESTS)
    model.generate(REQUESTS)
    rooms = [engine.settings.get("max_lora_rank") for engine in vllm.LLM.started]
    assert rooms == [None, 8, 16]
    stopped = [engine.llm_engine.engine_core.stopped for engine in vllm.LLM.started]
    assert stopped == [True, True, False]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"use_dora": True}, "it has DoRA; set use: hf"),
        ({"r": 600}, "has rank 600, and vLLM applies ranks up to 512; set use: hf"),
        ({"rank_pattern": {"q_proj": 700}}, "has rank 700"),
    ],
)
def test_an_adapter_that_vllm_does_not_apply_is_named_before_a_call(
    opened: Open,
    refs: tuple[ModelRef, ModelRef],
    tmp_path: Path,
    vllm: Any,
    change: dict[str, Any],
    message: str,
) -> None:
    folder = tmp_path / "changed"
    shutil.copytree(refs[0].path, folder)
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with (
        pytest.raises(ModelError, match=message),
        opened().adapted(replace(refs[0], path=str(folder))) as adapted,
    ):
        adapted.generate(REQUESTS)
    assert not vllm.LLM.started


def test_ranks_and_scalings_of_single_layers_are_applied_as_hf_does(
    opened: Open, hf: Any, plugins: Any, tmp_path: Path, vllm: Any
) -> None:
    own = {"use_rslora": True, "rank_pattern": {"v_proj": 12}, "alpha_pattern": {"q_proj": 3}}
    ref = make_adapter(plugins.models["tiny"], tmp_path / "own", 4, **own)
    model = opened()
    with model.adapted(ref) as one, hf.adapted(ref) as other:
        for got, wanted in zip(one.generate(REQUESTS), other.generate(REQUESTS), strict=True):
            assert got.text == wanted.text
            assert got.logprobs == pytest.approx(wanted.logprobs, abs=1e-3)
    # There is room for the highest rank.
    assert [engine.settings["max_lora_rank"] for engine in vllm.LLM.started] == [16]


def test_a_matrix_of_the_output_layer_is_refused() -> None:
    """Where vLLM reads log-probabilities of a prompt, it would apply it to one token per request."""
    layers = ["model.layers.0.self_attn.q_proj", "model.embed_tokens"]
    assert unapplied_layers(layers) is None
    assert unapplied_layers([*layers, "lm_head"]) == "matrices for the output layer lm_head"


@pytest.mark.types("vLLM cannot load the adapter in «»: «»; set use: hf for this model")
def test_an_adapter_that_vllm_rejects_is_named_and_the_engine_goes_on(
    opened: Open, hf: Any, plugins: Any, tmp_path: Path, vllm: Any
) -> None:
    ref = make_adapter(plugins.models["tiny"], tmp_path / "odd", 4, target_modules=["down_proj"])
    model = opened(adapter_rank=8)
    (plain,) = model.generate(REQUESTS[:1])
    with (
        pytest.raises(ModelError, match=r"vLLM cannot load the adapter in .*odd: Call to add_lora method failed: .*down_proj.*; set use: hf"),
        model.adapted(ref) as adapted,
    ):  # fmt: skip
        adapted.generate(REQUESTS)
    assert model.generate(REQUESTS[:1]) == [plain]
    assert len(vllm.LLM.started) == 1
    with hf.adapted(ref) as other:
        assert other.generate(REQUESTS)[0].failure is None


def test_pickled_adapters_are_never_loaded(
    opened: Open, refs: tuple[ModelRef, ModelRef], tmp_path: Path
) -> None:
    folder = tmp_path / "pickled"
    shutil.copytree(refs[0].path, folder)
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(ModelError, match="pickled adapters are never loaded"):
        opened().score([], replace(refs[0], path=str(folder)))
