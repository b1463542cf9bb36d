"""Speed and peak memory of LoRA training on masked responses, compared with TRL's SFTTrainer, in one run.

    python benchmarks/training_speed.py --data train.jsonl [--steps 4] [--rounds 2] [--out figures.json]

The file has the columns question and answer; a tokenizer is trained on it. The model is a Llama of about 15 million
parameters with random weights and 32,000 pieces, in float32. 60% of each response's tokens, drawn by a seed, have
weight 1 and the others 0. Every way trains the same adapter from the same first values, on the same rows in the same
optimiser steps, at the same learning rates. Each round runs every way once, each in a process of its own, one after
another, so that the machine's moods hit all alike and peak memory is that way's own.

- limit: the model's body, forward and backward, on the passes that nfilter makes; no head, no loss, no optimiser.
- nfilter: the trainer ``hf.lora`` as it is.
- trl: SFTTrainer as it is, in float32: the step's rows in one pass, gradient checkpointing on.
- trl-plain: the same without gradient checkpointing.
- trl-tuned: without it too; the step's rows sorted by length and passed ``--micro`` at a time.
- trl-grouped: as trl-tuned, with the library's own grouping by length over all rows instead. Its steps are made of
  other rows, so its losses are not compared.

Rates are tokens of the rows a second, without padding, over the trainer's whole call. Processor seconds are those of
all threads over the same stretch; threads that wait for one another sleep, so that these stay true on a machine that
others use. Losses are means over the tokens of weight 1 of a step.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scoring_speed import build
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from nfilter import Message, Sample, Site, TokenSample
from nfilter.testing import FakeContext
from nfilter_hf.backend import HFBackend
from nfilter_hf.config import HFConfig
from nfilter_hf.lora.adapter import attached
from nfilter_hf.lora.data import TrainRow, micro_batches, step_order, training_row
from nfilter_hf.lora.settings import LoraSettings, pass_tokens
from nfilter_hf.lora.trainer import LoraTrainer

SEED = 0
KEPT = 0.6
WAYS = ("limit", "nfilter", "trl", "trl-plain", "trl-tuned", "trl-grouped")
Times = npt.NDArray[np.float64]
Found = tuple[Times, list[float], int]
"""Seconds, processor seconds, the loss of each step, and the tokens of all forward passes with padding."""


def clock() -> Times:
    """Return the time, and the processor time of this process."""
    return np.array([time.perf_counter(), time.process_time()])


def masked(sample: TokenSample) -> TokenSample:
    """Set 60% of the response to weight 1, the rest to 0."""
    response = np.flatnonzero(sample.response).tolist()
    kept = random.Random(f"{SEED} {sample.id}").sample(response, round(KEPT * len(response)))
    weights = np.zeros(len(sample.ids), dtype=np.float32)
    weights[kept] = 1
    return dataclasses.replace(sample, weights=weights)


def encoded(folder: Path, rows: Sequence[Any]) -> list[TokenSample]:
    """Return the rows in the backend's encoding, masked."""
    backend = HFBackend(HFConfig(model=str(folder)), Site(folder))
    chats = [
        Sample(str(i), (Message("user", row["question"]), Message("assistant", row["answer"])))
        for i, row in enumerate(rows)
    ]
    return [masked(sample) for sample in backend.encode(chats, max_length=1024, turns="all")]


class Lender:
    """A model that lends a given module."""

    def __init__(self, module: Any) -> None:
        self._module = module

    @contextmanager
    def lend(self) -> Any:
        """Return the module unchanged."""
        yield SimpleNamespace(module=self._module)


def limit(module: Any, samples: Sequence[TokenSample], config: LoraSettings) -> Found:
    """The work that every trainer needs: the limit."""
    rows = [row for row in map(training_row, samples) if row is not None]
    seen = 0
    with adapter(module, config) as wrapped:
        wrapped.train()
        start = clock()
        for batch in passes(rows, config):
            seen += batch.inputs.size
            ids = torch.from_numpy(batch.inputs)
            states = module.base_model(input_ids=ids, use_cache=False).last_hidden_state
            states.backward(torch.ones_like(states))
        return clock() - start, [], seen


def passes(rows: Sequence[TrainRow], config: LoraSettings) -> list[Any]:
    """Return the forward passes of all steps of nfilter."""
    steps = step_order(len(rows), config.batch_size, config.max_steps or 1, SEED)
    return [
        batch
        for members in steps
        for batch in micro_batches(
            [rows[i] for i in members], pass_tokens(config, "cpu"), config.loss_norm
        )
    ]


def adapter(module: Any, config: LoraSettings) -> Any:
    """Return the module with an adapter whose initial values are equal for every method."""
    torch.manual_seed(SEED)
    return attached(
        module, rank=config.rank, alpha=config.alpha, dropout=config.dropout, targets=None
    )


def nfilter(module: Any, samples: Sequence[TokenSample], config: LoraSettings, out: Path) -> Found:
    """``hf.lora``, complete: attach the adapter, train, save, remove it."""
    rows = [row for row in map(training_row, samples) if row is not None]
    start = clock()
    result = LoraTrainer(config).train(samples, Lender(module), out, FakeContext(seed=SEED))
    seconds = clock() - start
    return seconds, list(result.losses), sum(b.inputs.size for b in passes(rows, config))


def trl(
    way: str, module: Any, samples: Sequence[TokenSample], config: LoraSettings, out: Path, micro: int
) -> Found:  # fmt: skip
    """SFTTrainer's training call; its preparation, such as tokenizing the dataset, is not measured."""
    warnings.simplefilter("ignore")
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    tuned = way in ("trl-tuned", "trl-grouped")
    steps = step_order(len(samples), config.batch_size, config.max_steps or 1, SEED)
    order = [
        i
        for members in steps
        for i in (sorted(members, key=lambda i: -len(samples[i].ids)) if tuned else members)
    ]
    rows = [
        {
            "input_ids": samples[i].ids.tolist(),
            "labels": np.where(samples[i].weights != 0, samples[i].ids, -100).tolist(),
        }
        for i in order
    ]
    losses: list[float] = []
    seen = 0

    class Noted(SFTTrainer):  # type: ignore[misc]
        """The trainer, with the loss of every pass recorded."""

        def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            nonlocal seen
            seen += inputs["input_ids"].numel()
            loss = super().training_step(model, inputs, *args, **kwargs)
            losses.append(float(loss))
            return loss

    size = micro if tuned else config.batch_size
    plain = {} if way == "trl" else {"gradient_checkpointing": False}
    grouped = {"train_sampling_strategy": "group_by_length"}
    settings = SFTConfig(
        output_dir=str(out), per_device_train_batch_size=size, gradient_accumulation_steps=config.batch_size // size,
        num_train_epochs=1, learning_rate=config.lr, lr_scheduler_type="linear", warmup_steps=0, weight_decay=0.0,
        max_grad_norm=1.0, bf16=False, use_cpu=True, report_to=[], save_strategy="no", disable_tqdm=True, seed=SEED,
        **(grouped if way == "trl-grouped" else {"train_sampling_strategy": "sequential"}), **plain,
    )  # fmt: skip
    with adapter(module, config) as wrapped:
        trainer = Noted(
            model=wrapped, args=settings, train_dataset=Dataset.from_list(rows),
            processing_class=PreTrainedTokenizerFast.from_pretrained(module.name_or_path),
        )  # fmt: skip
        start = clock()
        trainer.train()
        seconds = clock() - start
    if way == "trl-grouped":
        return seconds, [], seen
    count = config.batch_size // size
    return seconds, [sum(losses[i : i + count]) for i in range(0, len(losses), count)], seen


def peak() -> float:
    """Return the peak memory of this process in MiB, without that of its parent."""
    status = Path("/proc/self/status")
    if status.is_file():
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def work(way: str, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Measure one method once, in this process."""
    torch.set_num_threads(args.threads)
    rows = json.loads((folder / "rows.json").read_text(encoding="utf-8"))
    samples = encoded(folder, rows)
    config = LoraSettings(
        rank=args.rank, alpha=16, dropout=0, lr=args.lr, schedule="linear", warmup=0, epochs=1, batch_size=args.batch,
        max_steps=args.steps, bf16=False,
    )  # fmt: skip
    module = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ways: dict[str, Callable[[Path], Found]] = {
        "limit": lambda _: limit(module, samples, config),
        "nfilter": lambda out: nfilter(module, samples, config, out),
    }
    with tempfile.TemporaryDirectory() as out:
        run = ways.get(way) or (lambda o: trl(way, module, samples, config, o, args.micro))
        before = peak()
        seconds, losses, seen = run(Path(out))
    return {
        "seconds": seconds[0],
        "processor_seconds": seconds[1],
        "losses": losses,
        "padded_tokens": seen,
        "tokens": sum(len(s.ids) for s in samples),
        "response_tokens": int(sum(s.response.sum() for s in samples)),
        "weighted_tokens": int(sum((s.weights != 0).sum() for s in samples)),
        "parameters": sum(p.numel() for p in module.parameters()),
        "peak_mib": peak(),
        "peak_before_mib": before,
    }


def compare(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Run all rounds, each method in its own process."""
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in args.ways}
    load = []
    for _ in range(args.rounds):
        for way in args.ways:
            load.append(os.getloadavg()[0])
            command = [
                sys.executable,
                __file__,
                *sys.argv[1:],
                "--folder",
                str(folder),
                "--way",
                way,
            ]
            settings = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=settings)
            found[way].append(json.loads(done.stdout.splitlines()[-1]))
    first = found[args.ways[0]][0]
    best = {way: min(one["seconds"] for one in every) for way, every in found.items()}
    work = {way: min(one["processor_seconds"] for one in every) for way, every in found.items()}
    figures: dict[str, Any] = {
        **{name: first[name] for name in ("tokens", "response_tokens", "weighted_tokens", "parameters")},
        "rows": args.steps * args.batch,
        "threads": args.threads,
        "load_before_each": [round(one, 2) for one in load],
        "seconds": {way: [one["seconds"] for one in every] for way, every in found.items()},
        "processor_seconds": {
            way: [one["processor_seconds"] for one in every] for way, every in found.items()
        },
        "tokens_per_second": {way: round(first["tokens"] / best[way]) for way in found},
        "padding": {way: every[0]["padded_tokens"] / first["tokens"] - 1 for way, every in found.items()},
        "peak_mib": {way: max(one["peak_mib"] for one in every) for way, every in found.items()},
        "peak_before_mib": {way: every[0]["peak_before_mib"] for way, every in found.items()},
        "losses": {way: every[0]["losses"] for way, every in found.items() if every[0]["losses"]},
    }  # fmt: skip
    if "nfilter" in found:
        figures["nfilter_times_as_fast"] = {
            way: {
                "best": best[way] / best["nfilter"],
                "processor": work[way] / work["nfilter"],
                "rounds": [
                    theirs["seconds"] / ours["seconds"]
                    for theirs, ours in zip(found[way], found["nfilter"], strict=True)
                ],
            }
            for way in found
            if way != "nfilter"
        }
        ours = np.asarray(figures["losses"]["nfilter"])
        figures["largest_difference_of_a_step_loss"] = {
            way: float(np.abs(np.asarray(losses) - ours).max())
            for way, losses in figures["losses"].items()
        }
    return figures


def table(figures: dict[str, Any]) -> str:
    """Print the figures of each method, one line each."""
    lines = [
        "| way | tokens/s | nfilter is | in processor time | padding | peak MiB | of it training | step losses differ by |",
        "|---|---|---|---|---|---|---|---|",
    ]
    ratios = figures.get("nfilter_times_as_fast", {})
    gaps = figures.get("largest_difference_of_a_step_loss", {})
    for way, rate in figures["tokens_per_second"].items():
        times, cost = (
            f"{ratios[way][of]:.2f}x" if way in ratios else "" for of in ("best", "processor")
        )
        gap = f"{gaps[way]:.1e}" if way in gaps and way != "nfilter" else ""
        most, before = figures["peak_mib"][way], figures["peak_before_mib"][way]
        lines.append(
            f"| {way} | {rate:,} | {times} | {cost} | {figures['padding'][way]:.0%} | {most:.0f} | {most - before:.0f} | {gap} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Run the comparison and print it."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    options.add_argument("--data", type=Path, required=True)
    options.add_argument("--steps", type=int, default=4, help="optimiser steps")
    options.add_argument("--batch", type=int, default=48, help="rows an optimiser step")
    options.add_argument("--micro", type=int, default=4, help="rows a pass of trl-tuned")
    options.add_argument("--rank", type=int, default=64)
    options.add_argument("--lr", type=float, default=1e-3)
    options.add_argument("--rounds", type=int, default=2)
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    options.add_argument("--out", type=Path)
    options.add_argument("--way", help=argparse.SUPPRESS)
    options.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = options.parse_args()
    if args.batch % args.micro:
        options.error("--batch must be a multiple of --micro")
    if args.way:
        print(json.dumps(work(args.way, args.folder, args)))
        return
    rows = [json.loads(line) for line in args.data.read_text(encoding="utf-8").splitlines()]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build(folder, [f"{row['question']}\n{row['answer']}" for row in rows])
        used = json.dumps(rows[: args.steps * args.batch])
        (folder / "rows.json").write_text(used, encoding="utf-8")
        figures = compare(folder, args)
    print(json.dumps(figures, indent=2))
    print(table(figures))
    if args.out:
        args.out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
