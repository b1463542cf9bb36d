"""What other programs need beside an adapter's weights: the tokenizer that its rows were encoded with, and a card."""

from __future__ import annotations

import json
import shlex
import tempfile
from pathlib import Path
from typing import Any, Final

from nfilter import publishing, publishing_file

CARD: Final = "README.md"
_VLLM_RANKS: Final = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The values that vLLM takes for --max-lora-rank; its default is 16."""


def save_tokenizer(tokenizer: Any, out: Path) -> None:
    """Write the tokenizer and its chat template into ``out``, each file whole or not at all; nothing for None.

    Raises:
        StoreError: when a file cannot be written.
    """
    if tokenizer is None:
        return
    with tempfile.TemporaryDirectory(prefix="nfilter-tokenizer-") as folder:
        tokenizer.save_pretrained(folder)
        for file in sorted(Path(folder).rglob("*")):
            if file.is_file():
                with publishing_file(out / file.relative_to(folder)) as part:
                    part.write_bytes(file.read_bytes())


def save_card(
    out: Path, base: str | None, *, rank: int, alpha: float, steps: int, rows: int
) -> None:
    """Write README.md: the base, the adapter's size, and how PEFT, vLLM and nfilter load it.

    Raises:
        StoreError: when it cannot be written.
    """
    text = card(out.name, base, rank=rank, alpha=alpha, steps=steps, rows=rows)
    with publishing(out / CARD) as file:
        file.write(text)


def vllm_rank(rank: int) -> int | None:
    """The least value of vLLM's --max-lora-rank that admits an adapter of ``rank``; None where none does."""
    return min((each for each in _VLLM_RANKS if each >= rank), default=None)


def card(name: str, base: str | None, *, rank: int, alpha: float, steps: int, rows: int) -> str:
    """The text of the card, with the metadata that the Hugging Face Hub reads."""
    head = ["library_name: peft", "pipeline_tag: text-generation", "tags: [lora, nfilter]"]
    if base is not None:
        head.insert(0, f"base_model: {json.dumps(base)}")
    model = shlex.quote(base) if base else "BASE"
    most = vllm_rank(rank)
    serve = (
        f"vllm serve {model} --enable-lora --max-lora-rank {most} --lora-modules {name}=PATH_OF_THIS_FOLDER"
        if most is not None
        else f"# vLLM takes adapters up to rank {_VLLM_RANKS[-1]}; merge this one: nfilter merge RUN"
    )
    lines = [
        "---", *head, "---", "",
        f"# LoRA adapter {name}", "",
        f"Trained with nfilter for {steps:,} optimiser steps on {rows:,} rows; rank {rank}, alpha {alpha:g}. `training.json` has every",
        "setting and the loss of each step. The tokenizer and the chat template here are those that the rows were encoded with.", "",
        "```python",
        "from peft import AutoPeftModelForCausalLM",
        "from transformers import AutoTokenizer", "",
        'model = AutoPeftModelForCausalLM.from_pretrained("PATH_OF_THIS_FOLDER")',
        'tokenizer = AutoTokenizer.from_pretrained("PATH_OF_THIS_FOLDER")',
        "```", "",
        "```", serve, "```", "",
    ]  # fmt: skip
    return "\n".join(lines)
