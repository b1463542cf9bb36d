"""Generate answers with a vLLM engine, and yield each as soon as it is complete."""

from __future__ import annotations

import hashlib
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from nfilter import MARKS, Completion, EncodesRequests, Failure, PromptTokens, Request
from nfilter_vllm.engine import Engine, RefusedError

_IN_FLIGHT: Final = 2048
"""Requests of a stream that the engine has at once: more than it computes at once, so that none of its places is empty."""

Reader = EncodesRequests


@dataclass(frozen=True, slots=True)
class _Call:
    index: int
    request: Request
    prompt: PromptTokens


def answers(
    engine: Engine,
    reader: Reader,
    first: Sequence[Request],
    more: Callable[[], Sequence[Request]],
    adapter: Any = None,
    stopped: Callable[[], bool] = lambda: False,
) -> Iterator[tuple[int, Completion] | None]:
    """Yield completions with the numbers of their requests; see ``nfilter.OpenStreams``.

    ``reader`` encodes requests and decodes answers; ``adapter`` is vLLM's request for an adapter. Once ``stopped`` returns True,
    the stream ends with the answers of the requests that are in the engine.
    """
    pending = deque(enumerate(first))
    count = len(first)
    running: dict[str, _Call] = {}
    try:
        while pending or running:
            done: list[tuple[int, Completion]] = []
            if pending and stopped():
                pending.clear()
                continue
            while pending and len(running) < _IN_FLIGHT and not done:
                key, call = _begun(engine, reader, *pending.popleft(), adapter)
                if isinstance(call, _Call):
                    running[key] = call
                else:
                    done.append(call)
            if not done and running:
                ended = list(engine.wait(running))
                done = [_completed(reader, running.pop(key), output) for key, output in ended]
                if not done:
                    yield None
            for answer in done:
                yield answer
                following = more()
                pending.extend(enumerate(following, count))
                count += len(following)
    finally:
        engine.abort(running)


def _begun(
    engine: Engine, reader: Reader, index: int, request: Request, adapter: Any
) -> tuple[str, _Call | tuple[int, Completion]]:
    """The key and the call of a request that is in the engine now, or its completion."""
    prompt = reader.encode_request(request)
    if isinstance(prompt, Completion):
        return "", (index, prompt)
    for schema in (True, False):
        try:
            params = _params(reader, request, prompt, schema=schema)
            return engine.add(prompt.ids, params, adapter), _Call(index, request, prompt)
        except RefusedError as error:
            # A schema that no grammar can express is left to the stage, which validates the answer in any case.
            refused = Failure("refused", f"vLLM refuses the request: {error}")
    return "", (index, Completion("", "failed", prompt_tokens=len(prompt.ids), failure=refused))


def _params(reader: Reader, request: Request, prompt: PromptTokens, *, schema: bool) -> Any:
    """vLLM's sampling parameters. All are set, so that none is taken from the model's generation_config.json."""
    from vllm import SamplingParams
    from vllm.sampling_params import StructuredOutputsParams

    sampling = request.sampling
    wanted = request.response_schema if schema and _may_constrain(reader, request) else None
    try:
        return SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=0,
            min_p=0.0,
            seed=_seed(request) if sampling.temperature > 0 else None,
            stop=[stop for stop in sampling.stop if stop],
            stop_token_ids=sorted(_ends(reader)),
            max_tokens=prompt.room,
            logprobs=0 if request.logprobs else None,
            # Without stop strings the text is decoded once, by the reader.
            detokenize=any(sampling.stop),
            structured_outputs=StructuredOutputsParams(json=dict(wanted)) if wanted else None,
        )
    except Exception as error:
        # vLLM's own type of error is a ValueError in some versions only.
        raise RefusedError(str(error)) from error


def _ends(reader: Reader) -> frozenset[int]:
    return reader.checkpoint().end_ids


def _may_constrain(reader: Reader, request: Request) -> bool:
    """Whether an answer can follow a schema from its first token: not if it may be a call, or begins inside reasoning."""
    if request.tools and request.tool_choice != "none":
        return False
    end = getattr(reader, "prompt_end", None)
    text = end(request).rstrip() if end is not None else ""
    return not text.endswith(tuple(opening for opening, _ in MARKS))


def _seed(request: Request) -> int:
    """A seed of 63 bits that depends only on the request's seed and draw."""
    text = f"{request.sampling.seed}\0{request.draw}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) >> 1


def _completed(reader: Reader, call: _Call, output: Any) -> tuple[int, Completion]:
    """The number of a request and its completion."""
    (made,) = output.outputs
    ids = list(made.token_ids)
    if made.finish_reason not in ("stop", "length"):
        why = f"vLLM ended the request: {made.finish_reason}"
        return call.index, _failed(call, len(ids), why)
    chances = None
    if call.request.logprobs:
        found = made.logprobs or ()
        if len(found) != len(ids):
            why = f"vLLM returned log-probabilities for {len(found)} of {len(ids)} tokens"
            return call.index, _failed(call, len(ids), why)
        chances = [at[token].logprob for at, token in zip(found, ids, strict=True)]
        if not all(map(math.isfinite, chances)):
            why = "the model's output is not finite: try dtype float32, or check the weights"
            return call.index, _failed(call, len(ids), why)
        chances = [min(chance, 0.0) for chance in chances]
    finish: Literal["stop", "length"] = "stop" if made.finish_reason == "stop" else "length"
    return call.index, reader.decode_answer(call.request, call.prompt, ids, chances, finish)


def _failed(call: _Call, made: int, why: str) -> Completion:
    return Completion(
        "", "failed", None, len(call.prompt.ids), made, failure=Failure("server", why)
    )
