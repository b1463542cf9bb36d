"""What an engine does not apply of an adapter is named before a call; what it applies, and what changes nothing, is not."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from nfilter import AdapterSupport, ModelError, ModelRef
from nfilter.models.engines.adapters import usable_adapter

LAYER = "base_model.model.model.layers.0.self_attn.q_proj"
MATRICES = (f"{LAYER}.lora_A.weight", f"{LAYER}.lora_B.weight")
PLAIN = AdapterSupport()


def written(folder: Path, tensors: Sequence[str] = MATRICES, **config: Any) -> ModelRef:
    """An adapter with the values that PEFT writes for a plain one, but for ``config``."""
    values = {
        "peft_type": "LORA", "r": 8, "lora_alpha": 16, "bias": "none", "init_lora_weights": True, "use_dora": False, "use_rslora": False,
        "modules_to_save": None, "rank_pattern": {}, "alpha_pattern": {}, "lora_bias": False, "loftq_config": {}, "layers_to_transform": None,
        **config,
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(values))
    save_file({name: np.zeros((1, 1), np.float32) for name in tensors}, folder / "adapter_model.safetensors", {"format": "pt"})  # fmt: skip
    return ModelRef(str(folder), "adapter", "base", "1" * 64)


def test_a_plain_adapter_is_used_with_its_rank(tmp_path: Path) -> None:
    embedded = ["base_model.model.model.embed_tokens.lora_embedding_A", "base_model.model.model.embed_tokens.lora_embedding_B"]  # fmt: skip
    for init in (False, "gaussian", "EVA", "orthogonal"):
        adapter = usable_adapter(written(tmp_path, [*MATRICES, *embedded], init_lora_weights=init), "E", PLAIN, "other")  # fmt: skip
        assert (adapter.rank, adapter.folder, adapter.digest) == (8, tmp_path.resolve(), "1" * 64)


BEYOND = [
    ("use_dora", True, "DoRA"),
    ("modules_to_save", ["lm_head"], "whole modules"),
    ("trainable_token_indices", [1, 2], "embeddings of single tokens"),
    ("lora_bias", True, "biases"),
    ("bias", "lora_only", "biases"),
    ("layer_replication", [[0, 2], [1, 3]], "repeated layers"),
    ("use_bdlora", {"nblocks": 2}, "block-diagonal matrices (BD-LoRA)"),
    ("use_qalora", True, "pooled inputs (QALoRA)"),
    ("monteclora_config", {"n": 2}, "random draws (MonteCLoRA)"),
    ("arrow_config", {"top_k": 2}, "a choice among adapters (Arrow)"),
    ("kasa_config", {"a": 1}, "singular values (KaSA)"),
    ("use_rslora", True, "rank-stabilised scaling"),
    ("rank_pattern", {"q_proj": 4}, "a rank of its own for some modules"),
    ("alpha_pattern", {"q_proj": 4}, "a scaling of its own for some modules"),
    ("init_lora_weights", "pissa_niter_4", "a changed base (init_lora_weights: pissa_niter_4)"),
]  # fmt: skip


@pytest.mark.types("does not apply the adapter in «»: it has «»; set use: «» for this model")
@pytest.mark.parametrize(("key", "value", "words"), BEYOND)
def test_what_is_beyond_two_matrices_is_refused_unless_the_engine_applies_it(
    tmp_path: Path, key: str, value: Any, words: str
) -> None:
    ref = written(tmp_path, **{key: value})
    with pytest.raises(ModelError) as caught:
        usable_adapter(ref, "E", PLAIN, "other")
    assert str(caught.value) == (
        f"E does not apply the adapter in {tmp_path}: it has {words}; set use: other for this model"
    )
    if key not in ("bias", "init_lora_weights"):
        usable_adapter(ref, "E", AdapterSupport(applied=frozenset({key})), "other")


@pytest.mark.parametrize(
    "name",
    [
        f"{LAYER}.lora_magnitude_vector",
        f"{LAYER}.lora_B.bias",
        "base_model.model.lm_head.weight",
        # What PEFT writes of a vocabulary that was resized.
        "base_model.model.model.embed_tokens.base_layer.weight",
    ],
)
def test_a_tensor_that_is_no_matrix_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelError, match=f"it has the tensor {name}; set use: other"):
        usable_adapter(written(tmp_path, [*MATRICES, name]), "E", PLAIN, "other")


@pytest.mark.types("applies ranks up to «»; set use: «» for this model")
def test_the_highest_rank_of_a_layer_counts(tmp_path: Path) -> None:
    patterns = frozenset({"rank_pattern"})
    ref = written(tmp_path, rank_pattern={"q_proj": 64, "k_proj": 2})
    assert usable_adapter(ref, "E", AdapterSupport(patterns), "other").rank == 64
    assert usable_adapter(ref, "E", AdapterSupport(patterns, highest_rank=64), "other").rank == 64
    with pytest.raises(
        ModelError, match="has rank 64, and E applies ranks up to 63; set use: other"
    ):
        usable_adapter(ref, "E", AdapterSupport(patterns, highest_rank=63), "other")


def test_an_engine_is_asked_about_the_layers(tmp_path: Path) -> None:
    asked = []

    def unapplied(layers: Any) -> str | None:
        asked.append(sorted(layers))
        return "an odd layer"

    with pytest.raises(ModelError, match="it has an odd layer; set use: other"):
        usable_adapter(written(tmp_path), "E", AdapterSupport(unapplied_layers=unapplied), "other")
    assert asked == [["model.layers.0.self_attn.q_proj"]]


@pytest.mark.parametrize("config", [{"peft_type": "IA3"}, {"r": 0}, {"r": None}])
def test_what_is_no_lora_is_refused(tmp_path: Path, config: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match="is not a LoRA; give one that a run has trained"):
        usable_adapter(written(tmp_path, **config), "E", PLAIN, "other")


def test_an_adapter_that_tokens_switch_on_is_for_no_backend(tmp_path: Path) -> None:
    """PEFT's own model class alone reads them."""
    with pytest.raises(ModelError, match=r"\(aLoRA\), which no backend does; give one that a run"):
        usable_adapter(written(tmp_path, alora_invocation_tokens=[5]), "E", PLAIN, "other")


def length(size: int) -> bytes:
    return size.to_bytes(8, "little")


@pytest.mark.parametrize(
    "content", [b"", b"abc", length(99) + b"{}", length(2) + b"[]"[:1], length(2) + b"{a", length(2) + b"17", length(2**60) + b"{}", length(4) + b"[17]"]
)  # fmt: skip
def test_damaged_weights_are_named(tmp_path: Path, content: bytes) -> None:
    ref = written(tmp_path)
    (tmp_path / "adapter_model.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match=r"is damaged: .*; give the folder that training wrote"):
        usable_adapter(ref, "E", PLAIN, "other")
    usable_adapter(written(tmp_path), "E", PLAIN, "other")
