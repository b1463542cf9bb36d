"""Adapters of a run: answers and scores with them are those of ``use: hf``, and the engine makes room for them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nfilter import ModelError, ModelRef, Site
from nfilter_vllm.adapters import unapplied_layers
from nfilter_vllm.backend import VLLMBackend
from tests.engine_cases import ADAPTED, check_adapters, encoded, make_adapter, with_settings

Open = Callable[..., VLLMBackend]
# PEFT reads an attribute that transformers has renamed.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"
)


@pytest.fixture(scope="module")
def refs(plugins: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelRef, ModelRef]:
    folder, base = tmp_path_factory.mktemp("adapters"), plugins.models["tiny"]
    return make_adapter(base, folder / "small", 4), make_adapter(base, folder / "large", 12)


def test_answers_and_scores_with_an_adapter_are_those_of_hf(
    opened: Open, hf: Any, refs: tuple[ModelRef, ModelRef], vllm: Any
) -> None:
    model = opened(adapter_rank=12)
    check_adapters(model, hf, refs)
    samples = encoded(model)
    for ref in refs:
        for mine, theirs in zip(model.score(samples, ref), hf.score(samples, ref), strict=True):
            np.testing.assert_allclose(mine, theirs, atol=1e-3, equal_nan=True)
    (engine,) = vllm.LLM.started
    assert (engine.settings["enable_lora"], engine.settings["max_lora_rank"]) == (True, 16)
    numbers = [each.adapter and each.adapter.lora_int_id for each in engine.requests]
    assert set(numbers) == {None, 1, 2}
    assert engine.llm_engine.loaded == [1, 2]


def test_the_engine_starts_again_for_an_adapter_that_it_has_no_room_for(
    opened: Open, refs: tuple[ModelRef, ModelRef], vllm: Any
) -> None:
    model = opened()
    model.generate(ADAPTED)
    for ref in (refs[0], refs[1], refs[0]):
        with model.adapted(ref) as adapted:
            adapted.generate(ADAPTED)
    model.generate(ADAPTED)
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
    changed = with_settings(refs[0], tmp_path / "changed", **change)
    with (
        pytest.raises(ModelError, match=message),
        opened().adapted(changed) as adapted,
    ):
        adapted.generate(ADAPTED)
    assert not vllm.LLM.started


def test_ranks_and_scalings_of_single_layers_are_applied_as_hf_does(
    opened: Open, hf: Any, plugins: Any, tmp_path: Path, vllm: Any
) -> None:
    own = {"use_rslora": True, "rank_pattern": {"v_proj": 12}, "alpha_pattern": {"q_proj": 3}}
    ref = make_adapter(plugins.models["tiny"], tmp_path / "own", 4, **own)
    model = opened()
    with model.adapted(ref) as one, hf.adapted(ref) as other:
        for got, wanted in zip(one.generate(ADAPTED), other.generate(ADAPTED), strict=True):
            assert got.text == wanted.text
            assert got.logprobs == pytest.approx(wanted.logprobs, abs=1e-3)
    # There is room for the highest rank.
    assert [engine.settings["max_lora_rank"] for engine in vllm.LLM.started] == [16]


@pytest.mark.types("set dtype: auto for this model, or use: hf")
def test_adapters_need_weights_of_16_bits(
    opened: Open, refs: tuple[ModelRef, ModelRef], site: Site, vllm: Any
) -> None:
    """vLLM's own kernels take no others, and it would end with the name of no setting."""
    wide = opened(dtype="float32")
    plain = wide.generate(ADAPTED)
    with pytest.raises(
        ModelError, match="16 bits only; set dtype: auto for this model, or use: hf"
    ):
        wide.score([], refs[0])
    assert wide.generate(ADAPTED) == plain
    config = {"model": "tiny", "adapter_rank": 8}
    told = [
        VLLMBackend.problems(VLLMBackend.Config(**config, dtype=dtype), site)
        for dtype in ("float32", "auto")
    ]
    assert [len(list(each)) for each in told] == [1, 0]
    assert opened(dtype="auto").score([], refs[0]) == []


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
    (plain,) = model.generate(ADAPTED[:1])
    with (
        pytest.raises(ModelError, match=r"vLLM cannot load the adapter in .*odd: Call to add_lora method failed: .*down_proj.*; set use: hf"),
        model.adapted(ref) as adapted,
    ):  # fmt: skip
        adapted.generate(ADAPTED)
    assert model.generate(ADAPTED[:1]) == [plain]
    assert len(vllm.LLM.started) == 1
    with hf.adapted(ref) as other:
        assert other.generate(ADAPTED)[0].failure is None


def test_pickled_adapters_are_never_loaded(
    opened: Open, refs: tuple[ModelRef, ModelRef], tmp_path: Path
) -> None:
    folder = tmp_path / "pickled"
    shutil.copytree(refs[0].path, folder)
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(ModelError, match="pickled adapters are never loaded"):
        opened().score([], replace(refs[0], path=str(folder)))
