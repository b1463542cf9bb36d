"""What a person does with a GGUF model besides asking it: train it, estimate its memory, fold an adapter in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf_of
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from nfilter import Message, ModelError, Sample, Site
from nfilter.testing import FakeContext
from nfilter_hf import loading
from nfilter_hf.backend import HFBackend
from nfilter_hf.gguf import weights as gguf_weights
from nfilter_hf.lora.trainer import LoraTrainer
from nfilter_hf.memory import training_memory
from nfilter_hf.merge import merge

# PEFT asks for gradient checkpointing by a name that newer transformers retire.
pytestmark = pytest.mark.filterwarnings("ignore:.*checkpointing:FutureWarning")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def folder(checkpoint: Any) -> Path:
    return Path(checkpoint("llama", "chatml"))


@pytest.fixture
def file(folder: Path, tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    gguf_of.write(folder, path, pre="gpt-2", kind="Q8_0")
    return path


def backend(model: Path | str, **config: Any) -> HFBackend:
    return HFBackend(
        HFBackend.Config(model=str(model), device="cpu", **{"dtype": "float32", **config}),
        Site(Path()),
    )


def trained(model: HFBackend, out: Path) -> Path:
    samples = [
        Sample(str(number), (Message("user", f"add {number}"), Message("assistant", "red fox")))
        for number in range(8)
    ]
    tokens = model.encode(samples, max_length=64, turns="all")
    config = LoraTrainer.Config(model="m", rank=4, epochs=4, lr=0.05)
    LoraTrainer(config).train(tokens, model, out, FakeContext())
    return out


def logits(module: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = module.eval()(input_ids=torch.arange(3, 60)[None]).logits.float()
    return found


def test_an_adapter_names_the_file_and_is_folded_into_what_it_holds(
    file: Path, tmp_path: Path
) -> None:
    model = backend(file)
    adapter = trained(model, tmp_path / "adapter")
    said = json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert said == str(file)
    base = model._load().module
    before = logits(base)
    wanted = logits(PeftModel.from_pretrained(base, adapter))
    assert (wanted - before).abs().max() > 0.1
    merged = merge(adapter, said, tmp_path / "merged")
    assert merged.dtype == "float32"
    plain = AutoModelForCausalLM.from_pretrained(merged.folder)
    torch.testing.assert_close(logits(plain), wanted, rtol=0, atol=1e-4)
    tokenizer, own = AutoTokenizer.from_pretrained(merged.folder), model._open_text().tokenizer
    text = "red  12 <|im_end|> fox ☃"
    assert tokenizer(text)["input_ids"] == own(text)["input_ids"]
    assert tokenizer.chat_template == own.chat_template
    assert list(merged.folder.glob("*.safetensors"))
    assert not list(merged.folder.glob("*.gguf"))
    again = backend(merged.folder)
    assert HFBackend.problems(HFBackend.Config(model=str(merged.folder)), Site(Path())) == []
    assert again.tokenizer_digest().tokenizer == model.tokenizer_digest().tokenizer


def test_a_folder_with_one_file_is_a_base_too(file: Path, tmp_path: Path) -> None:
    adapter = trained(backend(file), tmp_path / "adapter")
    home = tmp_path / "home"
    home.mkdir()
    file.rename(home / file.name)
    assert merge(adapter, str(home), tmp_path / "merged").folder.is_dir()
    with pytest.raises(
        ModelError, match=r"there is no file .*model\.gguf.*; name the base with --model"
    ):
        merge(adapter, str(file), tmp_path / "other")


def test_small_models_are_kept_unpacked_and_made_again_where_they_are_damaged(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unpacked: list[Path] = []
    plain = loading.gguf_model.unpacking
    monkeypatch.setattr(loading.gguf_model, "unpacking", lambda: unpacked.append(file) or plain())
    first = backend(file)._load().module
    again = backend(file)._load().module
    assert unpacked == [file]
    assert again.state_dict().keys() == first.state_dict().keys()
    for name, values in first.state_dict().items():
        assert torch.equal(values, again.state_dict()[name])
    one, other = (
        {**each.config.to_dict(), "architectures": None, "_name_or_path": None}
        for each in (first, again)
    )
    assert one == other
    assert again.generation_config.to_dict() == first.generation_config.to_dict()
    assert again.name_or_path == first.name_or_path == str(file)
    (kept,) = (tmp_path / "cache" / "nfilter" / "gguf-weights").glob("*/*")
    weights = kept / "model.safetensors"
    content = weights.read_bytes()
    weights.unlink()  # a model that is loaded may stand on the old file
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert torch.equal(logits(backend(file)._load().module), logits(first))
    assert unpacked == [file, file]
    # Another type is a rounding of the same, and what other code made of the same file goes.
    half = dict(backend(file, dtype="bfloat16")._load().module.named_parameters())
    for name, values in first.named_parameters():
        assert torch.equal(half[name], values.to(torch.bfloat16))
    assert unpacked == [file] * 2
    monkeypatch.setattr(gguf_weights, "made_by", lambda: "newer")
    backend(file)._load()
    assert [path.name for path in kept.parent.iterdir()] == ["newer"]
    monkeypatch.setattr(gguf_weights, "_LARGEST", 1000)
    monkeypatch.setattr(gguf_weights, "made_by", lambda: "newest")
    backend(file)._load()
    assert [path.name for path in kept.parent.iterdir()] == ["newer"]


def test_memory_is_estimated_from_the_header(file: Path, folder: Path) -> None:
    config = LoraTrainer.Config(model="m", rank=4)

    def of(model: Path) -> dict[str, float]:
        return training_memory(
            config, HFBackend.Config(model=str(model), device="cpu"), Site(Path())
        )

    parameters = sum(p.numel() for p in backend(file)._load().module.parameters())
    assert of(file)["weights"] == 4 * parameters
    assert of(file) == of(folder)
    file.write_bytes(file.read_bytes()[:100])
    assert of(file) == {}
