"""One process of a launch that trains a random Llama: ``python ranks_program.py OUT JSON``; started by test_lora_ranks."""

from __future__ import annotations

import json
import os
import signal
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lent_llama import VOCABULARY, Lender, llama

from nfilter import NfilterError, TokenSample
from nfilter.testing import FakeContext
from nfilter_hf.lora.settings import LoraSettings
from nfilter_hf.lora.trainer import LoraTrainer
from nfilter_losses.dft import Dft, DftConfig
from nfilter_losses.rho1 import Rho1, Rho1Config

SCORE = "loss.reference"
LOSSES = {"dft": lambda: Dft(DftConfig()), "rho1": lambda: Rho1(Rho1Config(ratio=0.5))}


def sample(index: int) -> TokenSample:
    """Uneven weights, some of them 0, and a reference loss at every response token."""
    rng = np.random.default_rng(index)
    length = int(rng.integers(6, 20))
    response = np.arange(length) >= length // 2
    weights = rng.choice([0, 0.25, 1, 3], length) * response
    weights[-1] = 0.5
    return TokenSample(
        id=str(index),
        ids=rng.integers(0, VOCABULARY, length).astype(np.int64),
        response=response,
        turn=np.zeros(length, dtype=np.int16),
        spans=np.zeros((length, 2), dtype=np.int32),
        weights=weights.astype(np.float32),
        scores={SCORE: np.where(response, rng.gamma(2.0, 2.0, length), np.nan).astype(np.float32)},
    )


def poison(module: Any, call: int, what: str) -> None:
    """At the given forward pass of training: no memory, a kill, an error; or, from there on, no finite state."""
    calls = 0

    def hook(_: Any, __: Any, output: Any) -> Any:
        nonlocal calls
        calls += module.training
        if not module.training or calls < call:
            return output
        if what == "nan":
            return output * float("nan")
        if calls > call:
            return output
        if what == "memory":
            raise torch.OutOfMemoryError("crowded")
        if what == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "error":
            raise RuntimeError("a bug in this process")
        return output

    module.model.norm.register_forward_hook(hook)


def main() -> int:
    out, options = Path(sys.argv[1]), json.loads(sys.argv[2])
    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    module = llama()
    if options.get("poison") and options["poison"][0] == rank:
        poison(module, *options["poison"][1:])
    settings = {
        "model": "student", "rank": 4, "dropout": 0.0, "lr": 2e-3, "batch_size": 8, "epochs": 3, "schedule": "constant",
        **options.get("settings", {}), **options.get(f"settings {rank}", {}),
    }  # fmt: skip
    loss = LOSSES[options["loss"]]() if options.get("loss") else None
    ctx = FakeContext(loss=loss, seed=3)
    trainer = LoraTrainer(LoraSettings.model_validate(settings))
    lender = Lender(module, options.get(f"base {rank}", "fake"))
    try:
        if rank:
            trainer.follow(lender, ctx)
            return 0
        samples = [sample(i) for i in range(options.get("samples", 20))]
        with trainer.lead() if size > 1 else nullcontext():
            for name in options.get("trainings", ["one"]):
                result = trainer.train(samples, lender, out / name, ctx)
                print(json.dumps(result.losses))
                if options.get("fail"):
                    raise NfilterError("the run failed")
    except NfilterError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    finally:
        for kind, text in ctx.log.lines:
            print(kind, text, file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
