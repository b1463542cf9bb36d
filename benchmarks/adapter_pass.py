"""One forward and backward pass of a model with an adapter: nfilter's pass of its LoRA layers against PEFT's own.

    python benchmarks/adapter_pass.py --model FOLDER_OR_GGUF [--dtype float32] [--dropout 0.1] [--tokens 512] [--rounds 2]

Each round measures both ways one after the other, on the same random tokens, without a head or an optimiser; figures are medians of
processor seconds per pass. The ratio is PEFT's time by nfilter's.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from nfilter import Site
from nfilter_hf.backend import HFBackend
from nfilter_hf.config import HFConfig
from nfilter_hf.lora import adapter

PASSES = 3


def seconds(wrapped: Any, ids: torch.Tensor, passes: int) -> list[float]:
    """Processor seconds of each forward and backward pass."""
    out = []
    for _ in range(passes):
        start = time.process_time()
        states = wrapped.base_model.model.base_model(
            input_ids=ids, use_cache=False
        ).last_hidden_state
        states.float().pow(2).mean().backward()
        for parameter in wrapped.parameters():
            parameter.grad = None
        out.append(time.process_time() - start)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", required=True, help="a folder or a GGUF file")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=512, help="tokens of a pass")
    parser.add_argument("--rounds", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(1)
    config = HFConfig.model_validate({"model": args.model, "dtype": args.dtype, "device": "cpu"})
    ways: dict[str, Callable[[Any], None]] = {"nfilter": adapter.lighten, "peft": lambda _: None}
    found: dict[str, list[float]] = {name: [] for name in ways}
    with HFBackend(config, Site(Path())).lend() as lent:
        ids = torch.randint(5, lent.module.config.vocab_size, (1, args.tokens))
        for _ in range(args.rounds):
            for name, way in ways.items():
                with (
                    mock.patch.object(adapter, "lighten", way),
                    adapter.attached(
                        lent.module,
                        rank=args.rank,
                        alpha=2.0 * args.rank,
                        dropout=args.dropout,
                        targets=None,
                    ) as wrapped,
                ):
                    wrapped.train()
                    seconds(wrapped, ids, 1)
                    found[name] += seconds(wrapped, ids, PASSES)
    nfilter, peft = (statistics.median(found[name]) for name in ways)
    print(
        f"nfilter {nfilter:.3f} s, peft {peft:.3f} s per pass of {args.tokens} tokens: {peft / nfilter:.2f}x"
    )


if __name__ == "__main__":
    main()
