"""What stands beside an adapter: another program loads it, and the card says how."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from nfilter.cli import entry
from nfilter_hf.lora.handover import card, vllm_rank


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("handover")
    (folder / "recipe.yaml").write_text(
        "name: handed\nanswer: exact\nmodels: {student: {use: hf, model: tiny}}\n"
        "source: {use: tiny, split: train, domain: say, rows: 8}\narms: [cleaned]\n"
        "encode: {model: student, max_length: 64}\n"
        "train: {use: hf.lora, model: student, rank: 24, max_steps: 1}\n"
    )
    assert entry(["run", str(folder / "recipe.yaml"), "--out", str(folder / "run"), "--quiet"]) == 0
    return folder / "run" / "adapters" / "cleaned"


def test_the_tokenizer_is_that_of_the_base(adapter: Path) -> None:
    from transformers import AutoTokenizer

    from nfilter.registry.loading import load

    ours = AutoTokenizer.from_pretrained(adapter)
    base = AutoTokenizer.from_pretrained(load().models["tiny"])
    talk = [{"role": "user", "content": "say 12 apples"}]
    assert ours.chat_template == base.chat_template
    assert ours.apply_chat_template(talk, tokenize=False) == base.apply_chat_template(
        talk, tokenize=False
    )
    assert ours("say 12 apples").input_ids == base("say 12 apples").input_ids
    assert all(file.stat().st_mode & 0o777 == 0o644 for file in adapter.iterdir() if file.is_file())


def test_peft_loads_the_folder(adapter: Path) -> None:
    from peft import AutoPeftModelForCausalLM

    model = AutoPeftModelForCausalLM.from_pretrained(adapter)
    assert model.peft_config["default"].r == 24


def test_the_card_names_base_and_rank(adapter: Path) -> None:
    text = (adapter / "README.md").read_text(encoding="utf-8")
    _, head, body = text.split("---\n", 2)
    assert yaml.safe_load(head)["base_model"].endswith("nfilter_tiny/model")
    assert "rank 24, alpha 16." in body
    assert "--max-lora-rank 32 --lora-modules cleaned=" in body


# vLLM refuses an adapter above --max-lora-rank, and takes these values alone.
@pytest.mark.parametrize(
    ("rank", "most"),
    [(1, 1), (2, 8), (16, 16), (17, 32), (64, 64), (257, 320), (512, 512), (513, None)],
)
def test_the_least_rank_that_vllm_takes(rank: int, most: int | None) -> None:
    assert vllm_rank(rank) == most


def test_a_strange_name_of_a_base_stays_one_value() -> None:
    base = 'a: "b"\n---\n# x; rm -rf .'
    text = card("cleaned", base, rank=600, alpha=16, steps=1, rows=1)
    head = text.removeprefix("---\n").partition("\n---\n")[0]
    assert yaml.safe_load(head)["base_model"] == base
    assert "nfilter merge RUN" in text
    assert "vllm serve 'a: " in card("cleaned", base, rank=8, alpha=16, steps=1, rows=1)
