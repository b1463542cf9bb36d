"""Generate answers: batched decoding with a key-value cache; finished rows are removed from the batch."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from nfilter import Completion, Failure, Request, Sampling
from nfilter_hf.batching import Budget
from nfilter_hf.decoding.preallocated_cache import preallocated_cache, step_attention
from nfilter_hf.decoding.sampling import choose, uniforms
from nfilter_hf.flat import can_flatten, shared_beginning
from nfilter_hf.loading import Loaded
from nfilter_hf.templates.prompts import encode_request, first_stop, text_of
from nfilter_hf.templates.tool_calls import with_tool_calls

if TYPE_CHECKING:
    from torch import Tensor


_MIN_PREFIX = 8
"""Minimum length of a common prefix of prompts for a separate forward pass over it."""


@dataclass(frozen=True, slots=True)
class Job:
    """One tokenized request; ``room`` is the maximum number of tokens to generate."""

    index: int
    request: Request
    ids: list[int]
    room: int

    @property
    def size(self) -> int:
        """The maximum length of its row in tokens."""
        return len(self.ids) + self.room


@dataclass(slots=True)
class _Row:
    """A request in progress: the generated tokens with their log-probabilities."""

    job: Job
    numbers: Iterator[float]
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish: Literal["stop", "length"] | None = None
    text: str | None = None
    broken: bool = False


def generate(loaded: Loaded, requests: Sequence[Request], budget: Budget) -> list[Completion]:
    """Return one completion per request, in order. A request that cannot be answered is a failure, not an exception."""
    answers = dict(stream(loaded, requests, budget))
    return [answers[index] for index in range(len(requests))]


def stream(
    loaded: Loaded, requests: Sequence[Request], budget: Budget
) -> Iterator[tuple[int, Completion]]:
    """Yield completions with their request's index, batch by batch."""
    jobs: list[Job] = []
    for index, request in enumerate(requests):
        job = _job(loaded, index, request)
        if isinstance(job, Job):
            jobs.append(job)
        else:
            yield index, job
    for batch, done in budget.each(jobs, lambda job: job.size, lambda jobs: _decode(loaded, jobs)):
        if done is not None:
            yield from done.items()
        else:
            yield batch[0].index, _too_large(batch[0])


def _too_large(job: Job) -> Completion:
    detail = f"{job.size} tokens do not fit in memory, even alone: lower max_tokens or max_length"
    failure = Failure("memory", detail)
    return Completion("", "failed", prompt_tokens=len(job.ids), failure=failure)


def _job(loaded: Loaded, index: int, request: Request) -> Job | Completion:
    """The tokenized request, or its completion if nothing is to be generated."""
    prompt = encode_request(loaded, request)
    if isinstance(prompt, Completion):
        return prompt
    return Job(index, request, list(prompt.ids), prompt.room)


def _decode(loaded: Loaded, jobs: Sequence[Job]) -> dict[int, Completion]:
    """Answer one batch. It has no side effects, so it can be repeated after running out of memory."""
    import torch

    rows = [_Row(job, uniforms(job.request.sampling, job.request.draw)) for job in jobs]
    active = list(rows)
    cache_name = _cache_name(loaded.module)
    own_cache = preallocated_cache(loaded.module) if can_flatten(loaded.module) else None
    attention = step_attention(loaded.module) if own_cache is not None else nullcontext()
    with torch.no_grad(), attention, _contiguous_states(loaded.module):
        ids, mask = _begun(loaded, [job.ids for job in jobs], {cache_name: own_cache})
        cache: Any = own_cache
        positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        while active:
            out = loaded.module(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions,
                use_cache=True,
                logits_to_keep=1,
                **{cache_name: cache},
            )
            cache = out[cache_name]
            tokens = _advance(loaded, active, out.logits[:, -1].float())
            del out
            keep = [index for index, row in enumerate(active) if row.finish is None]
            if len(keep) < len(active) and keep and _can_select(cache):
                kept = torch.tensor(keep, device=ids.device)
                cache.batch_select_indices(kept)
                tokens, mask, positions = tokens[kept], mask[kept], positions[kept]
                active = [active[index] for index in keep]
            elif not keep:
                break
            ids = tokens.unsqueeze(1)
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
            positions = positions[:, -1:] + 1
    return {row.job.index: _completion(loaded, row) for row in rows}


@contextmanager
def _contiguous_states(module: Any) -> Iterator[None]:
    """In the block, the output head receives the states of the last tokens as a contiguous tensor.

    For a slice with gaps between rows torch computes one product per row, and copies the frozen weights of the head for each:
    gigabytes for a batch.
    """
    head = module.get_output_embeddings()
    if head is None:
        yield
        return
    handle = head.register_forward_pre_hook(lambda _, args: (args[0].contiguous(), *args[1:]))
    try:
        yield
    finally:
        handle.remove()


def _begun(
    loaded: Loaded, prompts: Sequence[list[int]], kept: dict[str, Any]
) -> tuple[Tensor, Tensor]:
    """The remaining prompt tokens of a batch, padded on the left, and the mask of the full prompts.

    If ``kept`` has a cache, the common prefix of the prompts is processed once for all of them.
    """
    import torch

    (cache,) = kept.values()
    prefix = shared_beginning([np.asarray(prompt) for prompt in prompts])
    if cache is None or prefix < _MIN_PREFIX:
        return loaded.padded(prompts, left=True)
    first = torch.tensor([prompts[0][:prefix]], device=loaded.device)
    loaded.module.base_model(input_ids=first, use_cache=True, **kept)
    cache.batch_repeat_interleave(len(prompts))
    ids, mask = loaded.padded([prompt[prefix:] for prompt in prompts], left=True)
    return ids, torch.cat([mask.new_ones(len(prompts), prefix), mask], 1)


def _advance(loaded: Loaded, rows: Sequence[_Row], logits: Tensor) -> Tensor:
    """Append one token to each unfinished row; logits are float32 [n, vocabulary]."""
    samplings = [row.job.request.sampling for row in rows]
    numbers = [
        next(row.numbers) if s.temperature > 0 else 0.0
        for row, s in zip(rows, samplings, strict=True)
    ]
    tokens = choose(logits, samplings, numbers)
    chances = logits.gather(1, tokens.unsqueeze(1)).squeeze(1)
    # For greedy choices the largest logit alone shows whether the logits are finite.
    if any(r.job.request.logprobs or r.job.request.sampling.temperature > 0 for r in rows):
        chances = chances - logits.logsumexp(-1)
    for row, token, chance in zip(rows, tokens.tolist(), chances.tolist(), strict=True):
        if row.finish is not None:
            continue
        if not math.isfinite(chance):
            # Non-finite logits define no distribution.
            row.broken, row.finish = True, "stop"
            continue
        row.ids.append(token)
        row.logprobs.append(min(chance, 0.0))
        _check_end(loaded, row)
    return tokens


def _check_end(loaded: Loaded, row: _Row) -> None:
    stops = row.job.request.sampling.stop
    if row.ids[-1] in loaded.stop_ids:
        row.finish = "stop"
        row.text = text_of(loaded, row.ids[:-1])
    elif (
        stops
        and first_stop(text_of(loaded, row.ids[-_window(row.job.request.sampling) :]), stops)
        is not None
    ):
        whole = text_of(loaded, row.ids)
        at = first_stop(whole, stops)
        if at is not None:
            row.finish, row.text = "stop", whole[:at]
    if row.finish is None and len(row.ids) >= row.job.room:
        row.finish = "length"


def _window(sampling: Sampling) -> int:
    # A token covers at least one byte, so a stop string spans at most as many tokens as it has bytes.
    return max(len(stop.encode()) for stop in sampling.stop) + 4


def _completion(loaded: Loaded, row: _Row) -> Completion:
    prompt, made = len(row.job.ids), len(row.ids)
    if row.broken:
        failure = Failure(
            "server", "the model's output is not finite: try dtype float32, or check the weights"
        )
        return Completion("", "failed", None, prompt, made, failure)
    text = row.text if row.text is not None else text_of(loaded, row.ids)
    logprobs = tuple(row.logprobs) if row.job.request.logprobs else None
    done = Completion(text, row.finish or "length", logprobs, prompt, made)
    return with_tool_calls(done, row.job.request)


def _cache_name(module: Any) -> str:
    """The name of the key-value cache in a model's arguments and outputs: ``past_key_values`` before transformers 5.24."""
    parameters = inspect.signature(type(module).forward).parameters
    return "cache" if "cache" in parameters else "past_key_values"


def _can_select(cache: Any) -> bool:
    return all(hasattr(layer, "batch_select_indices") for layer in getattr(cache, "layers", [None]))
