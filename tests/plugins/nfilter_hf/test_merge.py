"""Folding an adapter in: the merged weights say what the adapter said, and every refusal names a remedy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from click.testing import CliRunner
from peft import PeftModel
from safetensors import SafetensorError
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from nfilter import ModelError, RecipeError, Site, StoreError
from nfilter.store.files import write_sealed
from nfilter.store.seals import sealed
from nfilter_hf.backend import HFBackend
from nfilter_hf.commands import merge as command
from nfilter_hf.lora.adapter import attached, save_adapter
from nfilter_hf.merge import merge, merge_run

# PEFT asks for gradient checkpointing by a name that newer transformers retire.
pytestmark = pytest.mark.filterwarnings("ignore:.*checkpointing:FutureWarning")

IDS = torch.tensor([[3, 9, 4, 7, 30, 2, 11]])


def llama(hidden: int = 32) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=40, hidden_size=hidden, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64, initializer_range=0.2,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def save_base(folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    llama().to(dtype).save_pretrained(folder)
    words = Tokenizer(models.WordLevel({"[UNK]": 0, "yes": 1, "no": 2}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]").save_pretrained(folder)
    return folder


def make_adapter(out: Path, base: Path | None) -> Path:
    """An adapter that does something: all of its weights are random."""
    with attached(llama(), rank=4, alpha=16.0, dropout=0.1, targets=None) as wrapped:
        generator = torch.Generator().manual_seed(1)
        for parameter in (p for p in wrapped.parameters() if p.requires_grad):
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
        save_adapter(wrapped, out, str(base) if base else None)
    return out


def logits(module: Any) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = module.eval()(input_ids=IDS).logits.float()
    return result


def make_run(folder: Path, base: Path | None, models: dict[str, Any] | None = None) -> Path:
    make_adapter(folder / "adapters" / "cleaned", base)
    recipe = {
        "name": "x",
        "models": models or {"student": {"use": "hf", "model": "tiny"}},
        "train": {"use": "hf.lora", "model": "student"},
        "lock": {"base_dir": str(folder.parent)},
    }
    (folder / "recipe.lock.yaml").write_text(yaml.safe_dump(recipe))
    trained = folder / "adapters" / "cleaned"
    files = {path.name: sealed(path) for path in trained.iterdir()}
    write_sealed(trained / "nfilter.json", {"files": files})
    return folder


@pytest.mark.parametrize(
    "name", ["adapter_model.safetensors", "adapter_config.json", "nfilter.json"]
)
def test_an_adapter_that_is_not_as_it_was_trained_is_not_folded_in(
    tmp_path: Path, name: str
) -> None:
    run = make_run(tmp_path / "run", save_base(tmp_path / "base"))
    file = run / "adapters" / "cleaned" / name
    data = bytearray(file.read_bytes())
    at = data.rindex(b"0") if name == "nfilter.json" else len(data) - 3
    data[at] ^= 1
    file.write_bytes(bytes(data))
    result = CliRunner().invoke(command, [str(run)])
    assert isinstance(result.exception, StoreError)
    assert f"{name}: has other" in str(result.exception)
    assert "nfilter run RECIPE --out" in str(result.exception)
    assert not (run / "merged").exists()


def test_merged_weights_say_what_the_adapter_said(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base")
    adapter = make_adapter(tmp_path / "adapter", base)
    out = merge(adapter, str(base), tmp_path / "deep" / "merged").folder
    plain = AutoModelForCausalLM.from_pretrained(base)
    before = logits(plain)
    wanted = logits(PeftModel.from_pretrained(plain, adapter))
    got = logits(AutoModelForCausalLM.from_pretrained(out))
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-5)
    assert (wanted - before).abs().max() > 0.1
    assert AutoTokenizer.from_pretrained(out)("no yes").input_ids == [2, 1]
    names = {path.name for path in out.iterdir()}
    assert "model.safetensors" in names
    assert "adapter_config.json" not in names
    assert not any(name.endswith((".bin", ".pt")) for name in names)
    assert [path.name for path in out.parent.iterdir()] == ["merged"]


def trained_in(adapter: Path, dtype: str) -> Path:
    (adapter / "training.json").write_text(json.dumps({"dtype": dtype}))
    return adapter


@pytest.mark.parametrize(
    ("asked", "trained", "wanted"),
    [
        (None, None, "bfloat16"),  # the base as it is stored
        (None, "float32", "float32"),  # a bf16 checkpoint that was trained in float32
        ("float16", "float32", "float16"),
        (None, "no type", "bfloat16"),
    ],
)
def test_the_sum_is_taken_in_float32_and_saved_in_the_type_of_the_training(
    tmp_path: Path, asked: str | None, trained: str | None, wanted: str
) -> None:
    base = save_base(tmp_path / "base", torch.bfloat16)
    adapter = make_adapter(tmp_path / "adapter", base)
    if trained is not None:
        trained_in(adapter, trained)
    made = merge(adapter, str(base), tmp_path / "merged", asked)
    merged = AutoModelForCausalLM.from_pretrained(made.folder, dtype="auto")
    dtype = getattr(torch, wanted)
    assert (made.dtype, merged.dtype) == (wanted, dtype)
    exact = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    exact = PeftModel.from_pretrained(exact, adapter).merge_and_unload()
    for name, tensor in exact.state_dict().items():
        assert torch.equal(merged.state_dict()[name], tensor.to(dtype)), name


def test_what_rounding_costs_is_told(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base", torch.bfloat16)
    adapter = trained_in(make_adapter(tmp_path / "adapter", base), "float32")
    kept = merge(adapter, str(base), tmp_path / "float32")
    assert (kept.lost, kept.logits) == (0.0, 0.0)
    assert "without rounding" in kept.message
    cast = merge(adapter, str(base), tmp_path / "bfloat16", "bfloat16")

    def load(folder: Path) -> Any:
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    before, exact, rounded = load(base), load(kept.folder), load(cast.folder)
    error = change = 0.0
    for name, tensor in exact.state_dict().items():
        if "proj" in name:
            error += float((rounded.state_dict()[name] - tensor).double().square().sum())
            change += float((tensor - before.state_dict()[name]).double().square().sum())
    assert cast.lost == pytest.approx((error / change) ** 0.5, rel=1e-3)
    assert cast.lost > 1e-4
    ids = torch.randint(40, (1, 64), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        difference = (rounded(input_ids=ids).logits - exact(input_ids=ids).logits).abs().max()
    assert cast.logits == pytest.approx(float(difference), rel=1e-3)
    assert cast.logits > 1e-3
    assert f"{cast.lost:.1%}" in cast.message


def test_a_full_disk_leaves_no_merged_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = save_base(tmp_path / "base")
    adapter = make_adapter(tmp_path / "adapter", base)

    def full(self: Any, folder: Path, **_: Any) -> None:
        (Path(folder) / "config.json").write_text("{}")
        raise SafetensorError("I/O error: No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(LlamaForCausalLM, "save_pretrained", full)
        with pytest.raises(
            StoreError, match=r"merged: cannot be written \(I/O error: No space left"
        ):
            merge(adapter, str(base), tmp_path / "merged")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "base"]
    assert merge(adapter, str(base), tmp_path / "merged").folder.is_dir()


def test_a_base_without_a_tokenizer_merges_without_one(tmp_path: Path) -> None:
    llama().save_pretrained(tmp_path / "base")
    out = merge(
        make_adapter(tmp_path / "a", None), str(tmp_path / "base"), tmp_path / "merged"
    ).folder
    assert not (out / "tokenizer.json").exists()


@pytest.mark.types(
    "is not an empty folder: give another one with --out",
    "cannot be loaded («»): give its folder",
    "does not fit the base",
    "has layers that the base",
)
def test_refusals(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base")
    adapter = make_adapter(tmp_path / "adapter", base)
    with pytest.raises(ModelError, match=r"has no LoRA adapter: adapter_config\.json is missing"):
        merge(tmp_path, str(base), tmp_path / "out")
    with pytest.raises(StoreError, match=r"not an empty folder: give another one with --out"):
        merge(adapter, str(base), base)
    with pytest.raises(ModelError, match=r"cannot be loaded .* with --model"):
        merge(adapter, str(tmp_path / "nowhere"), tmp_path / "out")
    llama(hidden=64).save_pretrained(tmp_path / "other")
    with pytest.raises(ModelError, match=r"does not fit the base .* with --model"):
        merge(adapter, str(tmp_path / "other"), tmp_path / "out")
    shallow = llama()
    shallow.config.num_hidden_layers = 1
    LlamaForCausalLM(shallow.config).save_pretrained(tmp_path / "shallow")
    with pytest.raises(ModelError, match=r"that it was trained on with --model"):
        merge(adapter, str(tmp_path / "shallow"), tmp_path / "out")
    pickled = tmp_path / "pickled"
    make_adapter(pickled, base)
    (pickled / "adapter_model.safetensors").rename(pickled / "adapter_model.bin")
    with pytest.raises(ModelError, match=r"adapter_model\.safetensors is missing"):
        merge(pickled, str(base), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    merge(
        adapter, str(base), tmp_path / "out"
    )  # the base that it was trained on, into another folder
    assert (tmp_path / "out" / "config.json").is_file()


def test_the_command_folds_the_adapter_of_a_run(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base")
    run = make_run(tmp_path / "run", base)
    result = CliRunner().invoke(command, [str(run)], catch_exceptions=False)
    assert result.exit_code == 0
    assert result.stdout.strip().splitlines()[-1] == str(run / "merged" / "cleaned")
    wanted = logits(
        PeftModel.from_pretrained(
            AutoModelForCausalLM.from_pretrained(base), run / "adapters/cleaned"
        )
    )
    got = logits(AutoModelForCausalLM.from_pretrained(run / "merged" / "cleaned"))
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-5)


@pytest.mark.types(
    "does not exist: give its folder, GGUF file or hub id with --model",
    "is not YAML («»): name the base with --model",
)
def test_a_base_that_moved_is_found_through_the_recipe_or_named(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base")
    gone = tmp_path / "gone"
    chain = {"student": "alias", "alias": {"use": "hf", "model": "base"}}
    run = make_run(tmp_path / "run", gone, chain)
    assert merge_run(run).folder == run / "merged" / "cleaned"
    lost = make_run(tmp_path / "lost", gone)
    with pytest.raises(ModelError, match=r"is not at .*gone.*with --model"):
        merge_run(lost)
    assert merge_run(lost, out=tmp_path / "out", model=str(base)).folder == tmp_path / "out"
    (lost / "recipe.lock.yaml").write_text("a: [")
    with pytest.raises(RecipeError, match=r"is not YAML .* name the base with --model"):
        merge_run(lost)
    assert merge_run(lost, out=tmp_path / "again", model=str(base)).folder == tmp_path / "again"


@pytest.mark.types(
    "give a folder that 'nfilter run' wrote",
    "nothing was trained; write train:",
    "choose one with --arm",
)
def test_runs_and_arms_that_are_not_there(tmp_path: Path) -> None:
    group = tmp_path / "group"
    for seed in (0, 1):
        make_run(group / f"seed-{seed}", None)
    with pytest.raises(
        StoreError, match=r"a group with one run per seed, .*: name one, like .*/group/seed-0$"
    ):
        merge_run(group)
    with pytest.raises(StoreError, match=r"is not a run: it has no recipe\.lock\.yaml"):
        merge_run(tmp_path)
    run = make_run(tmp_path / "run", None)
    with pytest.raises(
        ModelError, match=r"no adapter of the arm 'cleand'; did you mean 'cleaned'\?"
    ):
        merge_run(run, arm="cleand")
    (run / "adapters" / "cleaned" / "adapter_config.json").unlink()
    with pytest.raises(
        ModelError, match=r"nothing was trained; write train: \{use: hf\.lora, model: MODEL\}"
    ) as none:
        merge_run(run)
    assert "--arm" not in str(none.value)
    base = save_base(tmp_path / "base")
    trained = make_run(tmp_path / "trained", base)  # as a run with that section leaves one
    with pytest.raises(ModelError, match="choose one with --arm"):
        merge_run(trained, arm="raw")
    assert merge_run(trained, arm="cleaned").folder.is_dir()


def test_the_adapter_config_is_the_same_bytes_each_time(tmp_path: Path) -> None:
    one = make_adapter(tmp_path / "one", tmp_path)
    other = make_adapter(tmp_path / "other", tmp_path)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (one / name).read_bytes() == (other / name).read_bytes()
    targets = json.loads((one / "adapter_config.json").read_text())["target_modules"]
    assert targets == sorted(targets)


@pytest.mark.types("give the base in full precision with --model")
def test_a_quantised_base_is_refused_and_the_full_one_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = save_base(tmp_path / "base")
    save_base(tmp_path / "small")
    adapter = make_adapter(tmp_path / "adapter", base)
    load = AutoModelForCausalLM.from_pretrained

    def quantised(name: str, *args: Any, **more: Any) -> Any:
        found = load(base, *args, **more)
        if Path(name).name == "small":
            found.config.quantization_config = {"load_in_4bit": True}
        return found

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", quantised)
    with pytest.raises(ModelError, match="give the base in full precision with --model"):
        merge(adapter, str(tmp_path / "small"), tmp_path / "out")
    merge(adapter, str(base), tmp_path / "out")


@pytest.mark.types("name its base as the model, or merge the adapter")
def test_an_adapter_is_named_by_its_base_or_folded_in(tmp_path: Path) -> None:
    def problems(model: str) -> list[str]:
        config = HFBackend.Config(model=model, device="cpu")
        return list(HFBackend.problems(config, Site(tmp_path)))

    base = save_base(tmp_path / "base")
    run = make_run(tmp_path / "run", base)
    (told,) = problems("run/adapters/cleaned")
    assert "or merge the adapter with 'nfilter merge'" in told
    assert problems("base") == []
    assert CliRunner().invoke(command, [str(run)], catch_exceptions=False).exit_code == 0
    assert problems("run/merged/cleaned") == []
