"""Adapters of a run: answers and scores with them are those of ``use: hf``, and the engine is started again where it must be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nfilter import ModelError, ModelRef
from nfilter_sglang.adapters import unapplied_layers
from nfilter_sglang.backend import SGLangBackend
from tests.engine_cases import ADAPTED, check_adapters, make_adapter, with_settings

Open = Callable[..., SGLangBackend]
# PEFT reads an attribute that transformers has renamed.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"
)


@pytest.fixture(scope="module")
def refs(plugins: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelRef, ModelRef]:
    folder, base = tmp_path_factory.mktemp("adapters"), plugins.models["tiny"]
    return make_adapter(base, folder / "small", 4), make_adapter(base, folder / "large", 12)


def test_answers_and_scores_with_an_adapter_are_those_of_hf(
    opened: Open, hf: Any, refs: tuple[ModelRef, ModelRef], sglang: Any
) -> None:
    model = opened(adapter_rank=12)
    check_adapters(model, hf, refs)
    (engine,) = sglang.Engine.started
    names = ("enable_lora", "max_lora_rank", "lora_target_modules", "lora_paths")
    assert [engine.settings.get(name) for name in names] == [True, 12, ["all"], None]
    assert {each.adapter for each in engine.requests} == {None, *(ref.digest for ref in refs)}


def loaded(sglang: Any) -> list[tuple[int | None, list[str]]]:
    """Of each engine the room for adapters, and those with which it was started."""
    return [
        (
            engine.settings.get("max_lora_rank"),
            [str(int(each["lora_name"])) for each in engine.settings.get("lora_paths", ())],
        )
        for engine in sglang.Engine.started
    ]


def test_the_engine_starts_again_for_an_adapter_that_it_cannot_load(
    opened: Open, refs: tuple[ModelRef, ModelRef], sglang: Any
) -> None:
    model = opened()
    model.generate(ADAPTED)
    for ref in (refs[0], refs[1], refs[0]):
        with model.adapted(ref) as adapted:
            assert adapted.generate(ADAPTED)[0].failure is None
    model.generate(ADAPTED)
    assert loaded(sglang) == [(None, []), (4, ["4"]), (12, ["4", "12"])]
    assert [engine.stopped for engine in sglang.Engine.started] == [True, True, False]


def test_copies_load_no_adapter_while_they_run(
    opened: Open, refs: tuple[ModelRef, ModelRef], sglang: Any
) -> None:
    model = opened(copies=2, adapter_rank=16)
    for ref in (refs[1], refs[0]):
        with model.adapted(ref) as adapted:
            assert adapted.generate(ADAPTED)[0].failure is None
    assert loaded(sglang) == [(16, ["12"]), (16, ["12", "4"])]


def test_an_adapter_that_sglang_cannot_load_ends_the_run_with_the_reason(
    opened: Open, plugins: Any, tmp_path: Path
) -> None:
    odd = make_adapter(plugins.models["tiny"], tmp_path / "odd", 4, target_modules=["up_proj"])
    with (
        pytest.raises(
            ModelError, match=r"SGLang cannot start .*tiny.*: LoRA adapter .* is incompatible"
        ),  # fmt: skip
        opened(adapter_rank=8).adapted(odd) as adapted,
    ):
        adapted.generate(ADAPTED)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"use_rslora": True}, "rank-stabilised scaling"),
        ({"rank_pattern": {"q_proj": 8}}, "a rank of its own for some modules"),
    ],
)
def test_an_adapter_that_sglang_does_not_apply_as_peft_does_is_named_before_a_call(
    opened: Open,
    refs: tuple[ModelRef, ModelRef],
    tmp_path: Path,
    sglang: Any,
    change: dict[str, Any],
    words: str,
) -> None:
    changed = with_settings(refs[0], tmp_path / "changed", **change)
    with (
        pytest.raises(ModelError, match=f"it has {words}; set use: hf for this model"),
        opened().adapted(changed) as adapted,
    ):
        adapted.generate(ADAPTED)
    assert not sglang.Engine.started


@pytest.mark.parametrize(
    ("targets", "words"),
    [
        (["q_proj"], "q_proj without v_proj"),
        (["v_proj", "o_proj"], "v_proj without q_proj"),
        (["k_proj"], "k_proj without q_proj and v_proj"),
        (["k_proj", "q_proj"], "k_proj and q_proj without v_proj"),
        (["q_proj", "v_proj"], None),
        (["q_proj", "k_proj", "v_proj"], None),
        (["o_proj"], None),
    ],
)
def test_queries_and_values_have_matrices_together_or_not_at_all(
    targets: list[str], words: str | None
) -> None:
    whole = ["model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.v_proj"]
    layers = [*whole, *(f"model.layers.1.self_attn.{name}" for name in targets)]
    wanted = None if words is None else f"{words} in model.layers.1.self_attn"
    assert unapplied_layers(layers) == wanted


def test_a_matrix_whose_layer_sglang_does_not_find_or_takes_for_another_is_named() -> None:
    """GPT-2's names have no ``layers.``; those of the layers for images have the same numbers as those for text."""
    text = "model.language_model.layers.0.mlp.down_proj"
    assert unapplied_layers([text, "model.language_model.embed_tokens", "lm_head"]) is None
    told = unapplied_layers(["transformer.h.0.attn.c_attn"])
    assert (
        told == "a matrix for transformer.h.0.attn.c_attn, whose name has no 'layers.' and number"
    )
    seen = "model.vision_tower.encoder.layers.0.mlp.down_proj"
    told = unapplied_layers([text, seen])
    assert (
        told == "matrices for the layers of model.language_model. and model.vision_tower.encoder."
    )


def test_an_adapter_of_which_sglang_would_fail_at_the_first_call_is_named_before(
    opened: Open, plugins: Any, tmp_path: Path, sglang: Any
) -> None:
    ref = make_adapter(plugins.models["tiny"], tmp_path / "part", 4, target_modules=["v_proj"])
    with pytest.raises(ModelError, match=r"it has v_proj without q_proj in model\.layers\.0\.self_attn; set use: hf"):  # fmt: skip
        opened().score([], ref)
    assert not sglang.Engine.started
