"""Speed of per-token losses, compared with its limit, a plain implementation and the published computation, in one run.

    python benchmarks/scoring_speed.py --data train.jsonl [--rows N] [--rounds 3] [--out figures.json]

The file has the columns question and answer; a tokenizer is trained on it. The model is a Llama of about 15 million
parameters with random weights and 32,000 pieces. Losses of the answer's tokens are wanted. In turn, so that the
machine's moods hit all alike:

- limit: the model's body, and the head at response positions, on the batches that nfilter makes; nothing else.
- nfilter: ``score`` of the backend ``hf``.
- plain: batches of 6 padded to the longest, in file order, full logits, one unreduced cross-entropy.
- published: the same with the library's own loss computed as well and thrown away.

Every way's losses are compared with nfilter's. Rates are response and prompt tokens a second, without padding.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from nfilter import Message, Sample, Site, TokenSample
from nfilter_hf.backend import HFBackend
from nfilter_hf.config import HFConfig

PIECES = 32_000
BATCH = 6
Losses = list[npt.NDArray[np.float32]]


def build(folder: Path, texts: Sequence[str]) -> None:
    """Return a checkpoint with random weights and its own tokenizer."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "</s>", "<pad>"]
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=PIECES, special_tokens=special, show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )  # fmt: skip
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=PIECES, hidden_size=256, intermediate_size=1024, num_hidden_layers=6, num_attention_heads=8,
        num_key_value_heads=4, tie_word_embeddings=True, max_position_embeddings=1024, bos_token_id=0,
        eos_token_id=1, pad_token_id=2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)


def batches(samples: Sequence[TokenSample], tokens: int) -> list[list[TokenSample]]:
    """Return the batches that nfilter makes: longest first, up to a number of tokens with padding."""
    waiting = sorted(samples, key=lambda s: -len(s.ids))
    out = []
    while waiting:
        count = max(1, tokens // len(waiting[0].ids))
        out.append(waiting[:count])
        waiting = waiting[count:]
    return out


def padded(batch: Sequence[TokenSample]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return ids, attention mask and response mask, [rows, longest] each."""
    longest = max(len(s.ids) for s in batch)
    ids = torch.full((len(batch), longest), 2)
    mask = torch.zeros_like(ids)
    response = torch.zeros(ids.shape, dtype=torch.bool)
    for row, s in enumerate(batch):
        ids[row, : len(s.ids)] = torch.from_numpy(s.ids)
        mask[row, : len(s.ids)] = 1
        response[row, : len(s.ids)] = torch.from_numpy(s.response)
    response[:, 0] = False
    return ids, mask, response


def limit(model: Any, made: Sequence[Any]) -> None:
    """The work that every scorer needs: the limit."""
    body, matrix = model.model, model.lm_head
    with torch.inference_mode():
        for ids, wanted, chunk in made:
            states = body(input_ids=ids, use_cache=False).last_hidden_state[wanted]
            for at in range(0, len(states), chunk):
                matrix(states[at : at + chunk])


def plain(model: Any, samples: Sequence[TokenSample], *, library: bool) -> Losses:
    """Compute the full logits of every batch; with ``library``, also the library's own loss."""
    out: Losses = []
    with torch.no_grad():
        for start in range(0, len(samples), BATCH):
            batch = samples[start : start + BATCH]
            ids, mask, response = padded(batch)
            labels = torch.where(response, ids, -100)
            more = {"labels": labels} if library else {}
            logits = model(input_ids=ids, attention_mask=mask, use_cache=False, **more).logits
            flat = logits[:, :-1].reshape(-1, logits.shape[-1])
            losses = cross_entropy(flat, labels[:, 1:].reshape(-1), reduction="none")
            losses = losses.view(len(batch), -1)
            out += [losses[row][response[row, 1:]].numpy() for row in range(len(batch))]
    return out


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return the seconds and the result."""
    start = time.perf_counter()
    found = work()
    return time.perf_counter() - start, found


def main() -> None:
    """Run the comparison and print it."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    options.add_argument("--data", type=Path, required=True)
    options.add_argument("--rows", type=int)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--batch-tokens", type=int, default=4096)
    options.add_argument("--out", type=Path)
    args = options.parse_args()
    rows = [json.loads(line) for line in args.data.read_text(encoding="utf-8").splitlines()]
    texts = [f"{row['question']}\n{row['answer']}" for row in rows]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build(folder, texts)
        backend = HFBackend(
            HFConfig(model=str(folder), batch_tokens=args.batch_tokens), Site(folder)
        )
        chats = [
            Sample(str(i), (Message("user", row["question"]), Message("assistant", row["answer"])))
            for i, row in enumerate(rows[: args.rows])
        ]
        samples = backend.encode(chats, max_length=1024, turns="all")
        model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        made = []
        for batch in batches(samples, args.batch_tokens):
            ids, _, response = padded(batch)
            before = torch.zeros_like(response)
            before[:, :-1] = response[:, 1:]
            made.append((ids, before, 2**22 // PIECES))
        ways: dict[str, Callable[[], Any]] = {
            "limit": lambda: limit(model, made),
            "nfilter": lambda: backend.score(samples),
            "plain": lambda: plain(model, samples, library=False),
            "published": lambda: plain(model, samples, library=True),
        }
        backend.score(samples[:BATCH])
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        found: dict[str, Any] = {}
        memory: dict[str, float] = {}
        for _ in range(args.rounds):
            for way, work in ways.items():
                spent, found[way] = timed(work)
                seconds[way].append(spent)
                memory.setdefault(way, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    ours = [losses[~np.isnan(losses)] for losses in found["nfilter"]]
    gaps = {
        way: max(float(np.abs(a - b).max()) for a, b in zip(ours, found[way], strict=True))
        for way in ("plain", "published")
    }
    tokens = sum(len(s.ids) for s in samples)
    figures = {
        "rows": len(samples),
        "tokens": tokens,
        "response_tokens": int(sum(s.response.sum() for s in samples)),
        "parameters": sum(p.numel() for p in model.parameters()),
        "threads": torch.get_num_threads(),
        "seconds": seconds,
        "tokens_per_second": {way: round(tokens / min(spent)) for way, spent in seconds.items()},
        "of_the_limit": min(seconds["limit"]) / min(seconds["nfilter"]),
        "against_plain": min(seconds["plain"]) / min(seconds["nfilter"]),
        "against_published": min(seconds["published"]) / min(seconds["nfilter"]),
        "largest_difference": gaps,
        "peak_rss_mib_so_far": memory,
    }
    print(json.dumps(figures, indent=2))
    if args.out:
        args.out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
