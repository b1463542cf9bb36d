"""The memory estimate, against real models built from the same config.json."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from nfilter import Site, StageConfig
from nfilter_hf.config import HFConfig
from nfilter_hf.lora.adapter import attached
from nfilter_hf.lora.settings import LoraSettings
from nfilter_hf.lora.trainer import LoraTrainer
from nfilter_hf.memory import sizes_of, training_memory

SIZES: dict[str, Any] = {
    "vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2,
}  # fmt: skip
MODELS: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama tied, with biases": {
        "tie_word_embeddings": True,
        "attention_bias": True,
        "mlp_bias": True,
    },
    "llama with wide heads": {"head_dim": 16},
    "mistral": {},
    "granite": {},
    "qwen2": {},
    "qwen2 tied": {"tie_word_embeddings": True},
    "qwen3": {"head_dim": 16},
    "gemma": {"head_dim": 16},
    "gemma2": {"head_dim": 16},
    "gemma3_text": {"head_dim": 16},
    "phi3": {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
}


def model(name: str, folder: Path) -> Any:
    """A random model of that family, whose config.json is in ``folder``."""
    config = AutoConfig.for_model(name.split(maxsplit=1)[0], **SIZES, **MODELS[name])
    config.save_pretrained(folder)
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).eval()


def estimate(folder: Path, **settings: Any) -> dict[str, float]:
    options = {k: settings.pop(k) for k in ("dtype", "device", "load_in_4bit") if k in settings}
    config = LoraSettings(model="student", **settings)
    site = Site(base_dir=folder.parent)
    return dict(LoraTrainer.memory(config, HFConfig(model=folder.name, **options), site))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("targets", [None, "all-linear", ("q_proj", "o_proj")])
def test_parameters_and_adapter_are_counted_exactly(
    name: str, targets: Any, tmp_path: Path
) -> None:
    if name == "phi3" and isinstance(targets, tuple):
        targets = ("qkv_proj", "o_proj")
    real = model(name, tmp_path)
    sizes = sizes_of(json.loads((tmp_path / "config.json").read_text()))
    assert sizes is not None
    assert sizes.parameters == sum(p.numel() for p in real.parameters())
    with attached(real, rank=6, alpha=8.0, dropout=0.0, targets=targets) as wrapped:
        trained = sum(p.numel() for p in wrapped.parameters() if p.requires_grad)
    assert sizes.lora_parameters(6, targets) == trained


def test_the_parts_follow_from_the_counts(tmp_path: Path) -> None:
    real = model("llama", tmp_path / "m")
    count = sum(p.numel() for p in real.parameters())
    small = estimate(tmp_path / "m", dtype="bfloat16", rank=8)
    large = estimate(tmp_path / "m", dtype="float32", rank=8)
    assert (small["weights"], large["weights"]) == (2 * count, 4 * count)
    adapter = 8 * 3 * (2 * (32 + 32) + 2 * (32 + 16) + 3 * (32 + 48)) * 4
    assert small["gradients"] == adapter
    assert small["optimizer"] == small["adapter"] == 2 * adapter
    for parts in (small, large):
        assert parts["total"] == sum(v for k, v in parts.items() if k != "total")
        assert parts["unused"] == pytest.approx(0.15 * (parts["total"] - parts["unused"]))
    assert not {"process", "unused"} & set(estimate(tmp_path / "m", device="cuda"))
    four = estimate(tmp_path / "m", load_in_4bit=True)["weights"]
    linear = 3 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48)
    assert four == linear * 0.5625 + (count - linear) * 4


@pytest.mark.parametrize("rank", [4, 32])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_activations_are_near_what_autograd_keeps(
    rank: int, dropout: float, tmp_path: Path
) -> None:
    real = model("llama", tmp_path / "m")
    rows, length = 8, 40
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with attached(real, rank=rank, alpha=8.0, dropout=dropout, targets=None) as wrapped:
        weights = {p.untyped_storage().data_ptr() for p in wrapped.parameters()}
        wrapped.train()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            states = real.base_model(
                input_ids=torch.zeros(rows, length, dtype=torch.long), use_cache=False
            ).last_hidden_state
            logits = real.get_output_embeddings()(states).float()
            loss = (logits.logsumexp(-1) - logits[..., 0]).sum()
    assert loss.requires_grad
    measured = sum(size for pointer, size in kept.items() if pointer not in weights)
    guess = estimate(
        tmp_path / "m",
        dtype="float32",
        rank=rank,
        dropout=dropout,
        micro_batch_tokens=rows * length,
    )["activations"]
    assert 0.7 < guess / measured < 1.6


TRAINED = """\
import json, resource, sys
from pathlib import Path
from nfilter.cli import entry
code = entry(["run", sys.argv[1], "--out", sys.argv[2]])
print(json.dumps([code, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024]))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux alone")
def test_the_total_is_what_a_training_takes(tmp_path: Path) -> None:
    from nfilter.engine.lookup import site_of
    from nfilter.recipe.model import load
    from nfilter.registry.loading import load as load_plugins

    wide = {
        **SIZES,
        "vocab_size": 8000,
        "hidden_size": 512,
        "intermediate_size": 1536,
        "num_hidden_layers": 12,
    }
    AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **wide)).save_pretrained(
        tmp_path / "m"
    )
    plugins = load_plugins()
    AutoTokenizer.from_pretrained(plugins.models["tiny"]).save_pretrained(tmp_path / "m")
    rows = [
        {"prompt": f"What is {n} plus {n}? " * 9, "response": f"It is {n + n}. " * 9}
        for n in range(48)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "r.yaml").write_text(
        "name: x\nanswer: exact\nmodels: {student: {use: hf, model: m, device: cpu}}\n"
        "source: {use: jsonl, path: rows.jsonl}\narms: [raw]\nencode: {model: student, max_length: 512}\n"
        "train: {use: hf.lora, model: student, rank: 64, alpha: 16, epochs: 1}\n"
    )
    recipe = load(tmp_path / "r.yaml", plugins)
    use = recipe.train
    assert use is not None
    total = LoraTrainer.memory(
        use.config, recipe.models["student"].config, site_of(recipe, plugins)
    )["total"]
    done = subprocess.run(
        [sys.executable, "-c", TRAINED, str(tmp_path / "r.yaml"), str(tmp_path / "out")],
        capture_output=True, text=True, check=True, env={**os.environ, "OMP_NUM_THREADS": "2"},
    )  # fmt: skip
    code, peak = json.loads(done.stdout.splitlines()[-1])
    assert code in (0, None), done.stderr
    assert 0.8 < total / peak < 1.3, (total, peak)


def test_checkpointing_and_smaller_passes_need_less(tmp_path: Path) -> None:
    model("llama", tmp_path / "m")
    plain = estimate(tmp_path / "m")
    assert (
        estimate(tmp_path / "m", gradient_checkpointing=True)["activations"] < plain["activations"]
    )
    assert estimate(tmp_path / "m", micro_batch_tokens=64)["activations"] < plain["activations"] / 8


def test_what_is_not_known_is_empty(tmp_path: Path) -> None:
    (tmp_path / "odd").mkdir()
    for text in (
        "{",
        "[]",
        '{"model_type": "mamba"}',
        '{"model_type": "llama", "hidden_size": "x"}',
    ):
        (tmp_path / "odd" / "config.json").write_text(text)
        assert estimate(tmp_path / "odd") == {}
    assert estimate(tmp_path / "nowhere/at all") == {}
    settings = LoraSettings(model="student")
    assert training_memory(settings, StageConfig(), Site(base_dir=tmp_path)) == {}


def test_a_hub_model_is_known_once_its_config_is_cached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, site = LoraSettings(model="student"), Site(base_dir=tmp_path)
    hub = HFConfig(model="some-org/some-model", dtype="bfloat16")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert training_memory(settings, hub, site) == {}
    cached = tmp_path / "models--some-org--some-model"
    real = model("qwen2", cached / "snapshots" / "abc")
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("abc")
    parts = training_memory(settings, hub, site)
    assert parts["weights"] == 2 * sum(p.numel() for p in real.parameters())


def test_a_model_that_ships_is_found_by_its_name(tmp_path: Path) -> None:
    model("llama", tmp_path / "elsewhere")
    site = Site(base_dir=tmp_path / "recipe", models={"tiny": tmp_path / "elsewhere"})
    assert training_memory(LoraSettings(model="m"), HFConfig(model="tiny"), site)["total"] > 0


def test_the_estimate_needs_no_torch(tmp_path: Path) -> None:
    model("llama", tmp_path / "m")
    code = (
        "import sys; from pathlib import Path; from nfilter import Site; from nfilter_hf.config import HFConfig;"
        "from nfilter_hf.lora.trainer import LoraTrainer; from nfilter_hf.lora.settings import LoraSettings;"
        f"parts = LoraTrainer.memory(LoraSettings(model='m'), HFConfig(model='m'), Site(Path({str(tmp_path)!r})));"
        "assert parts['total'] > 0; assert not {'torch', 'transformers', 'peft'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
