"""One process of a launch: ``python process_program.py OUT JSON``; started by test_distributed.

It trains, answers and scores with the model in the folder ``model``; the first process prints what came out.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

import nfilter_hf.backend
from nfilter import Message, NfilterError, Request, Sampling, Site, TokenSample
from nfilter.testing import FakeContext
from nfilter_hf.backend import HFBackend
from nfilter_hf.config import HFConfig
from nfilter_hf.lora.settings import LoraSettings
from nfilter_hf.lora.trainer import LoraTrainer
from nfilter_losses.dft import Dft, DftConfig
from nfilter_losses.rho1 import Rho1, Rho1Config

SCORE = "loss.reference"
VOCABULARY = 50
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


def requests() -> list[Request]:
    """Prompts of different lengths, drawn and greedy; one is longer than the context."""
    words = [
        "the",
        "quick",
        "brown",
        "fox",
        "jumps",
        "over",
        "the",
        "lazy",
        "dog",
        "what",
        "is",
        "two",
        "plus",
        "three",
    ]
    found = [
        Request(
            (Message("user", " ".join(words[: 1 + i % len(words)])),),
            Sampling(max_tokens=6, temperature=float(i % 2), seed=i, stop=("zz",)),
            logprobs=i % 3 == 0,
            sample_id=str(i),
        )
        for i in range(7)
    ]
    return [*found, Request((Message("user", "fox " * 400),))]


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


def poisoned(call: int, what: str) -> None:
    """Poison every model that this process loads."""
    real = nfilter_hf.backend.load

    def load(*args: Any) -> Any:
        loaded = real(*args)
        poison(loaded.module, call, what)
        return loaded

    nfilter_hf.backend.load = load  # type: ignore[attr-defined]


def answered(model: Any) -> list[Any]:
    """Completions and losses as JSON values."""
    completions = [asdict(each) for each in model.generate(requests())]
    losses = model.score([sample(i) for i in range(9)])
    return [completions, [np.nan_to_num(each, nan=-1.0).tolist() for each in losses]]


def lead(trainer: LoraTrainer, model: HFBackend, out: Path, options: Any, ctx: Any) -> None:
    samples = [sample(i) for i in range(options.get("samples", 20))]
    for name in options.get("trainings", ["one"]):
        result = trainer.train(samples, model, out / name, ctx)
        print(json.dumps(result.losses))
        if options.get("fail"):
            raise NfilterError("the run failed")
    if options.get("answers"):
        print(json.dumps(answered(model)))
        with model.adapted(result.ref) as adapted:
            print(json.dumps(answered(adapted)))
        print(json.dumps(answered(model)))


def main() -> int:
    out, options = Path(sys.argv[1]), json.loads(sys.argv[2])
    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if options.get("poison") and options["poison"][0] == rank:
        poisoned(*options["poison"][1:])
    if base := options.get(f"base {rank}"):
        HFBackend.fingerprint = lambda _: base  # type: ignore[method-assign]
    settings = {
        "model": "student", "rank": 4, "dropout": 0.0, "lr": 2e-3, "batch_size": 8, "epochs": 3, "schedule": "constant",
        **options.get("settings", {}), **options.get(f"settings {rank}", {}),
    }  # fmt: skip
    loss = LOSSES[options["loss"]]() if options.get("loss") else None
    ctx = FakeContext(loss=loss, seed=3)
    trainer = LoraTrainer(LoraSettings.model_validate(settings))
    site = Site(Path.cwd())
    try:
        if rank:
            trainer.follow(site, loss)
            return 0
        config = HFConfig(model=options["model"], device="cpu", dtype="float32")
        with trainer.lead() if size > 1 else nullcontext():
            lead(trainer, HFBackend(config, site), out, options, ctx)
    except NfilterError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    finally:
        for kind, text in ctx.log.lines:
            print(kind, text, file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
