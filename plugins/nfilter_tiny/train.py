"""Train ``tiny`` from scratch: ``python -m nfilter_tiny.train``.

Writes the model folder, ``training_log.json`` and ``profile.json`` (measured on held-out dev questions). Examples are a function of
seed and step, so an interrupted run resumes from its checkpoint with the same results.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from nfilter import publishing
from nfilter_tiny import MODEL_DIR
from nfilter_tiny.checkpoint import load_checkpoint, save_checkpoint
from nfilter_tiny.formats import Example, Turn, draw_example
from nfilter_tiny.profile import measure
from nfilter_tiny.tokenizer import build_tokenizer

if TYPE_CHECKING:
    from torch.optim import Optimizer

IGNORED: Final = -100


@dataclass(frozen=True, slots=True)
class Settings:
    """Hyperparameters; the defaults are those of the shipped model."""

    seed: int = 0
    steps: int = 4000
    batch: int = 192
    buckets: int = 8
    muon_lr: float = 0.02
    adam_lr: float = 3e-3
    warmup: int = 50
    direct_weight: float = 2.0
    hidden: int = 128
    layers: int = 4


def render(turns: Sequence[Turn]) -> str:
    """Return the chat template's text up to the reply, without the template engine; a test compares the two."""
    return "<s>" + "".join(f"<|{role}|>{content}" for role, content in turns) + "<|assistant|>"


@dataclass(frozen=True, slots=True)
class Encoded:
    """Token ids, the number of prompt tokens, and the weight of the reply's tokens."""

    ids: list[int]
    prompt: int
    weight: float


def encode_pairs(
    tokenizer: PreTrainedTokenizerFast,
    pairs: Sequence[tuple[Sequence[Turn], str]],
    weights: Sequence[float] | None = None,
) -> list[Encoded]:
    """Encode prompts and replies separately, so that their border is a token border as in generation."""
    backend = tokenizer.backend_tokenizer
    prompts = backend.encode_batch([render(turns) for turns, _ in pairs], add_special_tokens=False)
    replies = backend.encode_batch([reply + "</s>" for _, reply in pairs], add_special_tokens=False)
    return [
        Encoded([*p.ids, *r.ids], len(p.ids), weight)
        for p, r, weight in zip(prompts, replies, weights or [1.0] * len(pairs), strict=True)
    ]


def encode(
    tokenizer: PreTrainedTokenizerFast, examples: Sequence[Example], settings: Settings
) -> list[Encoded]:
    """Encode training examples; direct answers have their own weight."""
    weights = [settings.direct_weight if e.skill == "answer" else 1.0 for e in examples]
    return encode_pairs(tokenizer, [(e.turns, e.reply) for e in examples], weights)


def collate(encoded: Sequence[Encoded], pad: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return right-padded ids, next-token labels and weights, each [batch, width]. Causal attention ignores the padding."""
    width = max(len(e.ids) for e in encoded)
    ids = torch.full((len(encoded), width), pad)
    labels = torch.full((len(encoded), width), IGNORED)
    weights = torch.zeros(len(encoded), width)
    for row, e in enumerate(encoded):
        size = len(e.ids)
        ids[row, :size] = torch.tensor(e.ids)
        labels[row, e.prompt - 1 : size - 1] = ids[row, e.prompt : size]
        weights[row, e.prompt - 1 : size - 1] = e.weight
    return ids, labels, weights


def build_model(tokenizer: PreTrainedTokenizerFast, settings: Settings) -> LlamaForCausalLM:
    """Build a Llama with about one million parameters."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=settings.hidden,
        intermediate_size=3 * settings.hidden,
        num_hidden_layers=settings.layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def build_optimizers(model: nn.Module, settings: Settings) -> list[Optimizer]:
    """Return Muon for the hidden matrices and AdamW for embeddings and norms."""
    hidden = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    return [
        torch.optim.Muon(hidden, lr=settings.muon_lr, weight_decay=0.01),
        torch.optim.AdamW(others, lr=settings.adam_lr, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def rate(step: int, settings: Settings) -> float:
    """Return the learning rate as a share of its peak: warm-up, decay to one half at three quarters of the steps, then to zero."""
    turn = 3 * settings.steps // 4
    decay = (
        1 - step / (2 * turn)
        if step < turn
        else (settings.steps - step) / (settings.steps - turn) / 2
    )
    return min((step + 1) / settings.warmup, decay)


Batch = tuple[Tensor, Tensor, Tensor]


def gradients(
    model: LlamaForCausalLM, batch: Batch, norm: float
) -> tuple[float, tuple[Tensor, ...]]:
    """Return the loss of one length bucket and its gradients; the parameters' ``grad`` is unchanged."""
    ids, labels, weights = batch
    target_mask = labels != IGNORED
    states = model.model(input_ids=ids, use_cache=False).last_hidden_state[target_mask]
    losses = functional.cross_entropy(model.lm_head(states), labels[target_mask], reduction="none")
    loss = (losses * weights[target_mask]).sum() / norm
    return loss.item(), torch.autograd.grad(loss, list(model.parameters()))


def train_step(
    model: LlamaForCausalLM,
    optimizers: Sequence[Optimizer],
    batches: Sequence[Batch],
    workers: Executor,
) -> float:
    """Update once from all ``batches``; return their mean loss.

    Buckets are distributed over single-threaded ``workers``, which is faster on a busy machine than threads that synchronize within
    each operation. Gradients are added in bucket order.
    """
    norm = sum(float(weights.sum()) for _, _, weights in batches)
    total = 0.0
    # Longest bucket first, to balance the workers.
    for loss, parts in workers.map(lambda b: gradients(model, b, norm), reversed(batches)):
        total += loss
        for parameter, part in zip(model.parameters(), parts, strict=True):
            parameter.grad = part if parameter.grad is None else parameter.grad.add_(part)
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()
    return total


def draw_batches(tokenizer: PreTrainedTokenizerFast, step: int, settings: Settings) -> list[Batch]:
    """Return the examples of ``step``, in buckets of similar length."""
    rng = random.Random(f"nfilter-tiny 2 {settings.seed} {step}")
    examples = [draw_example(rng) for _ in range(settings.batch)]
    encoded = sorted(encode(tokenizer, examples, settings), key=lambda e: len(e.ids))
    size = -(-len(encoded) // settings.buckets)
    pad = int(tokenizer.pad_token_id)
    return [collate(encoded[i : i + size], pad) for i in range(0, len(encoded), size)]


def run(
    settings: Settings, out: Path, *, workers: int = 2, limit_profile: int = 400
) -> dict[str, Any]:
    """Train, save and measure; return the log."""
    torch.set_num_threads(1)
    pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,))
    torch.manual_seed(settings.seed)
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer()
    model = build_model(tokenizer, settings)
    optimizers = build_optimizers(model, settings)
    checkpoint = out / "checkpoint.safetensors"
    identity = json.dumps(asdict(settings), sort_keys=True)
    first, wall, cpu, tokens = 0, 0.0, 0.0, 0
    losses: list[tuple[int, float]] = []
    if checkpoint.exists():
        meta = load_checkpoint(checkpoint, model, optimizers)
        if meta["settings"] != identity:
            raise ValueError(
                f"{checkpoint} belongs to a run with other settings; delete it or choose another --out"
            )
        state = json.loads(meta["state"])
        first, wall, cpu, tokens = state["step"], state["wall"], state["cpu"], state["tokens"]
        losses = [(s, v) for s, v in state["losses"]]
    wall_start, cpu_start = time.perf_counter() - wall, time.process_time() - cpu
    peaks = [settings.muon_lr, settings.adam_lr]
    model.train()
    for step in range(first, settings.steps):
        batches = draw_batches(tokenizer, step, settings)
        for optimizer, peak in zip(optimizers, peaks, strict=True):
            optimizer.param_groups[0]["lr"] = peak * rate(step, settings)
        loss = train_step(model, optimizers, batches, pool)
        tokens += sum(ids.numel() for ids, _, _ in batches)
        if step % 50 == 49 or step == 0:
            losses.append((step + 1, round(loss, 4)))
            elapsed = time.perf_counter() - wall_start
            print(
                f"step {step + 1}/{settings.steps} loss {loss:.4f} {elapsed:.0f} s",
                file=sys.stderr,
                flush=True,
            )
        if step % 200 == 199:
            state = {
                "step": step + 1, "tokens": tokens, "losses": losses,
                "wall": time.perf_counter() - wall_start, "cpu": time.process_time() - cpu_start,
            }  # fmt: skip
            save_checkpoint(
                checkpoint, model, optimizers, {"settings": identity, "state": json.dumps(state)}
            )
    log = {
        "settings": asdict(settings),
        "parameters": sum(p.numel() for p in model.parameters()),
        "tokens": tokens,
        "seconds": round(time.perf_counter() - wall_start, 1),
        "cpu_seconds": round(time.process_time() - cpu_start, 1),
        "workers": workers,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "losses": losses,
    }
    save(model, tokenizer, out)
    with publishing(out / "training_log.json") as file:
        file.write(json.dumps(log, indent=1) + "\n")
    profile = measure(out, limit=limit_profile)
    with publishing(out / "profile.json") as file:
        file.write(json.dumps(profile, indent=1) + "\n")
    checkpoint.unlink(missing_ok=True)
    return log


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Write the weights as float16 with a config that loads them as float32: small on disk, exact enough to run."""
    model.eval()
    model.generation_config.do_sample = False
    model.half().save_pretrained(out)
    tokenizer.save_pretrained(out)
    path = out / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["dtype"] = "float32"
    with publishing(path) as file:
        file.write(json.dumps(config, indent=2) + "\n")


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(prog="nfilter_tiny.train", description=__doc__)
    parser.add_argument(
        "--out", type=Path, default=MODEL_DIR, help="folder to write (default: the package's own)"
    )
    parser.add_argument(
        "--steps", type=int, default=Settings().steps, help="optimiser steps (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=Settings().seed, help="default: %(default)s")
    parser.add_argument(
        "--workers", type=int, default=2, help="buckets computed at once (default: %(default)s)"
    )
    args = parser.parse_args(argv)
    run(Settings(seed=args.seed, steps=args.steps), args.out, workers=args.workers)


if __name__ == "__main__":
    main()
