"""Training, scoring and generation with a real model, beside other ways of doing the same, in one run.

    python -m benchmarks.model_speed --model FOLDER --train fpb.csv --generate gsm8k.jsonl [--dtype bfloat16] [--out figures.json]

``--train`` is a CSV or JSON Lines file with question, options (a JSON list) and answer (a letter, or a text); it is
what is trained on and scored. ``--generate`` has questions to answer. Every way has the same weights in the same number
format, the same rows and the same threads. Rounds run every way once, one after another, so that the machine's moods
hit all alike; figures are medians over rounds of tokens a second of processor time, which stays true on a machine that
others use, and of wall time. Tokens are those of the rows, without padding; in generation, new ones.

Training (LoRA of one rank on all linear layers, ``--batch`` rows a step, AdamW, dropout .1):
- nfilter: ``hf.lora`` as it is.
- nfilter-float32: the same with weights in float32.
- peft: a plain loop; rows of a step padded to its longest, the model's own loss.
- trl: SFTTrainer, completion-only labels, without gradient checkpointing.

Scoring (the loss of every token of the answers):
- nfilter: ``score`` of the backend ``hf``.
- plain: batches sorted by length, padded, full logits, one cross-entropy.

Generation (greedy, ``--new`` tokens a row at most):
- nfilter: ``generate`` of the backend ``hf``.
- transformers: ``generate`` over one batch, padded on the left.
- continuous: the library's continuous batching, ``generate_batch``; only where it is asked for with ``--ways``.
- llama.cpp, llama.cpp-bfloat16: its server with the GGUF file ``--model``, and with the same weights unpacked to bfloat16; see
  ``llama_cpp.py``, whose Python is ``--llama-python``.

A way that is asked for and not installed is left out with a word.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import subprocess
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from benchmarks.llama_cpp import LlamaCpp, unpacked
from benchmarks.speed_table import Way, measured, table
from nfilter import Message, Request, Sample, Sampling, Site, TokenSample
from nfilter.testing import FakeContext
from nfilter_hf.backend import HFBackend
from nfilter_hf.config import HFConfig
from nfilter_hf.lora.settings import LoraSettings
from nfilter_hf.lora.trainer import LoraTrainer

RANK = 16
USUAL = ("nfilter", "nfilter-float32", "peft", "trl", "plain", "transformers")


def rows_of(path: Path, count: int) -> list[dict[str, Any]]:
    """The first rows of a CSV or JSON Lines file."""
    if path.suffix == ".csv":
        with path.open(encoding="utf-8", newline="") as file:
            return [dict(row) for row, _ in zip(csv.DictReader(file), range(count), strict=False)]
    lines = path.read_text(encoding="utf-8").splitlines()[:count]
    return [json.loads(line) for line in lines]


def question(row: dict[str, Any]) -> str:
    """The question, with its options under it."""
    options = row.get("options") or []
    listed = json.loads(options) if isinstance(options, str) else options
    return "\n".join(
        [row["question"], *(f"{chr(65 + i)}. {text}" for i, text in enumerate(listed))]
    )


def opened(args: argparse.Namespace, dtype: str) -> HFBackend:
    """The model in that format."""
    config = HFConfig.model_validate({"model": str(args.model), "dtype": dtype, "device": "cpu"})
    return HFBackend(config, Site(Path.cwd()))


def encoded(backend: HFBackend, rows: Sequence[dict[str, Any]]) -> list[TokenSample]:
    """The rows with the backend's own encoding."""
    chats = [
        Sample(str(i), (Message("user", question(row)), Message("assistant", str(row["answer"]))))
        for i, row in enumerate(rows)
    ]
    return backend.encode(chats, max_length=1024, turns="all")


def settings(args: argparse.Namespace) -> LoraSettings:
    """The same training for all."""
    return LoraSettings(
        rank=RANK, alpha=RANK, dropout=0.1, target_modules="all-linear", lr=2e-4, epochs=1, batch_size=args.batch,
        checkpoint_every=None,
    )  # fmt: skip


def tokens_of(samples: Sequence[TokenSample]) -> int:
    """Tokens of the rows, without padding."""
    return sum(len(sample.ids) for sample in samples)


def nfilter_training(
    backend: HFBackend, samples: Sequence[TokenSample], args: argparse.Namespace
) -> Way:
    """``hf.lora``, whole."""

    def run() -> int:
        with tempfile.TemporaryDirectory() as out:
            LoraTrainer(settings(args)).train(samples, backend, Path(out), FakeContext())
        return tokens_of(samples)

    return run


@contextmanager
def with_peft(module: Any) -> Iterator[Any]:
    """PEFT's adapter, as its documentation puts it on, and off again."""
    from peft import LoraConfig, get_peft_model

    frozen = [(p, p.requires_grad) for p in module.parameters()]
    config = LoraConfig(
        r=RANK,
        lora_alpha=RANK,
        lora_dropout=0.1,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    wrapped = get_peft_model(module, config)
    try:
        yield wrapped
    finally:
        wrapped.unload()
        for parameter, wanted in frozen:
            parameter.requires_grad_(wanted)


def padded(samples: Sequence[TokenSample], pad: int) -> dict[str, torch.Tensor]:
    """Ids, mask and labels of a batch, padded on the right."""
    longest = max(len(s.ids) for s in samples)
    ids = torch.full((len(samples), longest), pad)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for place, sample in enumerate(samples):
        size = len(sample.ids)
        ids[place, :size] = torch.from_numpy(sample.ids)
        mask[place, :size] = 1
        labels[place, :size] = torch.from_numpy(np.where(sample.weights != 0, sample.ids, -100))
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def peft_training(
    backend: HFBackend, samples: Sequence[TokenSample], args: argparse.Namespace
) -> Way:
    """A loop as in a tutorial."""

    def run() -> int:
        with backend.lend() as lent, with_peft(lent.module) as wrapped:
            wrapped.train()
            trained = [p for p in wrapped.parameters() if p.requires_grad]
            optimizer = torch.optim.AdamW(trained, lr=2e-4)
            pad = lent.tokenizer.pad_token_id or 0
            for start in range(0, len(samples), args.batch):
                wrapped(**padded(samples[start : start + args.batch], pad)).loss.backward()
                torch.nn.utils.clip_grad_norm_(trained, 1.0)
                optimizer.step()
                optimizer.zero_grad()
        return tokens_of(samples)

    return run


def trl_training(
    backend: HFBackend, samples: Sequence[TokenSample], args: argparse.Namespace
) -> Way:
    """SFTTrainer on the same ids and labels."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    data = Dataset.from_list(
        [
            {"input_ids": s.ids.tolist(), "labels": np.where(s.weights != 0, s.ids, -100).tolist()}
            for s in samples
        ]
    )

    def run() -> int:
        with (
            tempfile.TemporaryDirectory() as out,
            backend.lend() as lent,
            with_peft(lent.module) as wrapped,
        ):
            config = SFTConfig(
                output_dir=out, per_device_train_batch_size=args.batch, num_train_epochs=1, learning_rate=2e-4,
                bf16=False, use_cpu=True, report_to=[], save_strategy="no", disable_tqdm=True, max_grad_norm=1.0,
                gradient_checkpointing=False,
            )  # fmt: skip
            SFTTrainer(
                model=wrapped, args=config, train_dataset=data, processing_class=lent.tokenizer
            ).train()
        return tokens_of(samples)

    return run


def nfilter_scoring(backend: HFBackend, samples: Sequence[TokenSample]) -> Way:
    """The backend's own."""

    def run() -> int:
        backend.score(samples)
        return tokens_of(samples)

    return run


def plain_scoring(
    backend: HFBackend, samples: Sequence[TokenSample], args: argparse.Namespace
) -> Way:
    """Sorted, padded, full logits."""
    from torch.nn.functional import cross_entropy

    def run() -> int:
        with backend.lend() as lent, torch.no_grad():
            ordered = sorted(samples, key=lambda s: -len(s.ids))
            for start in range(0, len(ordered), args.batch):
                batch = padded(
                    ordered[start : start + args.batch], lent.tokenizer.pad_token_id or 0
                )
                labels = batch.pop("labels")[:, 1:]
                logits = lent.module(**batch, use_cache=False).logits[:, :-1]
                cross_entropy(logits.float().transpose(1, 2), labels, reduction="none")
        return tokens_of(samples)

    return run


def nfilter_generation(backend: HFBackend, asked: Sequence[str], args: argparse.Namespace) -> Way:
    """The backend's own."""
    requests = [
        Request((Message("user", text),), Sampling(max_tokens=args.new, temperature=0.0))
        for text in asked
    ]
    return lambda: sum(one.completion_tokens for one in backend.generate(requests))


def shown(tokenizer: Any, text: str) -> str:
    """A question as the model's template shows it."""
    turns = [{"role": "user", "content": text}]
    return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))


def transformers_generation(
    backend: HFBackend, asked: Sequence[str], args: argparse.Namespace
) -> Way:
    """One batch, padded on the left."""

    def run() -> int:
        with backend.lend() as lent, torch.no_grad():
            tokenizer = lent.tokenizer
            texts = [shown(tokenizer, text) for text in asked]
            given = tokenizer(
                texts,
                return_tensors="pt",
                padding=True,
                padding_side="left",
                add_special_tokens=False,
            )
            out = lent.module.generate(
                input_ids=given.input_ids, attention_mask=given.attention_mask, max_new_tokens=args.new, do_sample=False,
            )  # fmt: skip
            new = out[:, given.input_ids.shape[1] :]
            ends = torch.tensor(sorted(stops(backend)))
            ended = torch.isin(new, ends).long().cumsum(-1)
            # The first end token counts, what is behind it is padding.
            return int(((ended == 0) | ((ended == 1) & torch.isin(new, ends))).sum())

    return run


def stops(backend: HFBackend) -> set[int]:
    """The tokens that end an answer."""
    with backend.lend() as lent:
        end = lent.module.generation_config.eos_token_id
        return set(end if isinstance(end, list) else [end]) - {None}


def continuous_generation(
    backend: HFBackend, asked: Sequence[str], args: argparse.Namespace
) -> Way:
    """The library's continuous batching."""
    from transformers import GenerationConfig

    def run() -> int:
        with backend.lend() as lent:
            tokenizer = lent.tokenizer
            ids = [
                tokenizer(shown(tokenizer, t), add_special_tokens=False).input_ids for t in asked
            ]
            config = GenerationConfig(
                max_new_tokens=args.new, do_sample=False, eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )  # fmt: skip
            found = lent.module.generate_batch(
                inputs=ids, generation_config=config, progress_bar=False
            )
            return sum(len(one.generated_tokens) for one in found.values())

    return run


def llama_cpp_generation(
    backend: HFBackend,
    asked: Sequence[str],
    args: argparse.Namespace,
    model: Path,
    closing: ExitStack,
) -> Way:
    """llama.cpp's server with a GGUF file, all prompts at once."""
    with backend.lend() as lent:
        tokenizer = lent.tokenizer
        texts = [shown(tokenizer, text) for text in asked]
        ids = [tokenizer(text, add_special_tokens=False).input_ids for text in texts]
    made = LlamaCpp(args.llama_python, model, ids, new=args.new, threads=args.threads)
    closing.callback(made.close)
    return made.run


def absent(name: str, args: argparse.Namespace) -> str:
    """Why a way cannot be measured here; empty if it can."""
    if name == "continuous":
        from transformers import PreTrainedModel

        return (
            ""
            if hasattr(PreTrainedModel, "generate_batch")
            else "this transformers has no generate_batch"
        )
    if not name.startswith("llama.cpp"):
        return ""
    if args.llama_python is None:
        return "no --llama-python"
    if args.model.suffix != ".gguf":
        return "--model is no GGUF file"
    done = subprocess.run(
        [str(args.llama_python), "-c", "import xllamacpp"], check=False, capture_output=True
    )
    return "" if done.returncode == 0 else f"{args.llama_python} has no xllamacpp"


def there(name: str) -> bool:
    """Whether a package is installed."""
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


def compare(args: argparse.Namespace) -> dict[str, Any]:
    """All that was asked for."""
    ours, whole = opened(args, args.dtype), opened(args, "float32")
    figures: dict[str, Any] = {}
    wanted = set(args.ways)
    if args.train:
        samples = encoded(ours, rows_of(args.train, args.rows))
        made: dict[str, Callable[[], Way]] = {
            "nfilter": lambda: nfilter_training(ours, samples, args),
            "nfilter-float32": lambda: nfilter_training(whole, samples, args),
            "peft": lambda: peft_training(ours, samples, args),
            "trl": lambda: trl_training(ours, samples, args),
        }
        if "train" in args.what:
            figures["training"] = measured(
                {n: f() for n, f in made.items() if n in wanted}, args.rounds
            )
        scored: dict[str, Callable[[], Way]] = {
            "nfilter": lambda: nfilter_scoring(ours, samples),
            "nfilter-float32": lambda: nfilter_scoring(whole, samples),
            "plain": lambda: plain_scoring(ours, samples, args),
        }
        if "score" in args.what:
            figures["scoring"] = measured(
                {n: f() for n, f in scored.items() if n in wanted}, args.rounds
            )
    if args.generate and "generate" in args.what:
        asked = [question(row) for row in rows_of(args.generate, args.rows)]
        told: dict[str, Callable[[], Way]] = {
            "nfilter": lambda: nfilter_generation(ours, asked, args),
            "nfilter-float32": lambda: nfilter_generation(whole, asked, args),
            "transformers": lambda: transformers_generation(ours, asked, args),
            "continuous": lambda: continuous_generation(ours, asked, args),
            "llama.cpp": lambda: llama_cpp_generation(ours, asked, args, args.model, closing),
            "llama.cpp-bfloat16": lambda: llama_cpp_generation(
                ours, asked, args, unpacked(args.model, Path(folder)), closing
            ),
        }
        with tempfile.TemporaryDirectory() as folder, ExitStack() as closing:
            for name in [each for each in told if each in wanted]:
                if why := absent(name, args):
                    print(f"{name} is left out: {why}")
                    wanted.discard(name)
            figures["generation"] = measured(
                {n: f() for n, f in told.items() if n in wanted}, args.rounds
            )
    return figures


def main() -> None:
    """Run the comparison and print it."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    options.add_argument(
        "--model",
        type=Path,
        required=True,
        help="a folder with weights and tokenizer, or a GGUF file",
    )
    options.add_argument("--train", type=Path, help="rows to train on and score")
    options.add_argument("--generate", type=Path, help="questions to answer")
    options.add_argument(
        "--what",
        nargs="+",
        choices=("train", "score", "generate"),
        default=["train", "score", "generate"],
    )
    options.add_argument("--ways", nargs="+", default=list(USUAL))
    options.add_argument("--llama-python", type=Path, help="the Python that has xllamacpp")
    options.add_argument("--dtype", default="bfloat16")
    options.add_argument("--rows", type=int, default=32)
    options.add_argument("--batch", type=int, default=16)
    options.add_argument("--new", type=int, default=64, help="new tokens a row")
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--out", type=Path)
    args = options.parse_args()
    if "nfilter" not in args.ways:
        options.error("--ways must name nfilter, which the others are compared with")
    torch.set_num_threads(args.threads)
    warnings.simplefilter("ignore")
    figures = compare(args)
    names = ("torch", "transformers", "peft", "trl")
    about = SimpleNamespace(
        dtype=args.dtype, threads=args.threads, rows=args.rows, batch=args.batch, load=os.getloadavg()[0],
        machine=platform.machine(), **{name.replace("-", "_"): version(name) for name in names if there(name)},
    )  # fmt: skip
    figures["about"] = vars(about)
    print(json.dumps(figures, indent=2))
    for name in ("training", "scoring", "generation"):
        if name in figures:
            print(table(name, figures[name]), end="\n\n")
    if args.out:
        args.out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
