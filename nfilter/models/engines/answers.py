"""Generate answers with an inference engine, and yield each as soon as it is complete."""

from __future__ import annotations

import hashlib
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from nfilter.answers.thoughts import MARKS
from nfilter.api.calls import Completion, Failure, FailureKind, Request
from nfilter.api.capabilities import EncodesRequests, PromptTokens
from nfilter.models.engines.interface import EngineCall, EngineOutput, InferenceEngine

_IN_FLIGHT: Final = 2048
"""Requests of a stream that the engine has at once: more than it computes at once, so that none of its places is empty."""


@dataclass(frozen=True, slots=True)
class _Asked:
    index: int
    request: Request
    prompt: PromptTokens
    call: EngineCall


def answers(
    label: str,
    engine: InferenceEngine,
    reader: EncodesRequests,
    first: Sequence[Request],
    more: Callable[[], Sequence[Request]],
    adapter: str | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> Iterator[tuple[int, Completion] | None]:
    """Yield completions with the numbers of their requests; see ``nfilter.OpenStreams``.

    ``reader`` encodes requests and decodes answers; ``adapter`` is the digest of a loaded adapter; ``label`` names the engine in
    messages. Once ``stopped`` returns True, the stream ends with the answers of the requests that are in the engine.
    """
    pending = deque(enumerate(first))
    count = len(first)
    running: dict[str, _Asked] = {}
    try:
        while pending or running:
            done: list[tuple[int, Completion]] = []
            if pending and stopped():
                pending.clear()
                continue
            while pending and len(running) < _IN_FLIGHT and not done:
                asked = _asked(reader, *pending.popleft())
                if isinstance(asked, _Asked):
                    running[engine.add(asked.call, adapter)] = asked
                else:
                    done.append(asked)
            if not done and running:
                for key, output in list(engine.wait(running)):
                    asked = running.pop(key)
                    if output.finish == "refused" and asked.call.schema is not None:
                        # A schema that no grammar can express is left to the stage, which validates the answer in any case.
                        free = replace(asked.call, schema=None)
                        running[engine.add(free, adapter)] = replace(asked, call=free)
                    else:
                        done.append((asked.index, _completed(label, reader, asked, output)))
                if not done:
                    yield None
            for answer in done:
                yield answer
                following = more()
                pending.extend(enumerate(following, count))
                count += len(following)
    finally:
        engine.abort(running)


def _asked(
    reader: EncodesRequests, index: int, request: Request
) -> _Asked | tuple[int, Completion]:
    """The call of a request, or its completion if nothing is to be generated."""
    prompt = reader.encode_request(request)
    if isinstance(prompt, Completion):
        return index, prompt
    sampling = request.sampling
    call = EngineCall(
        prompt.ids,
        prompt.room,
        sampling.temperature,
        sampling.top_p,
        _seed(request) if sampling.temperature > 0 else None,
        [stop for stop in sampling.stop if stop],
        reader.checkpoint().end_ids,
        request.logprobs,
        (request.response_schema or None) if _may_constrain(reader, request) else None,
    )
    return _Asked(index, request, prompt, call)


def _may_constrain(reader: EncodesRequests, request: Request) -> bool:
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


def _completed(
    label: str, reader: EncodesRequests, asked: _Asked, output: EngineOutput
) -> Completion:
    """The completion of a request."""
    ids = list(output.ids)
    if output.finish == "refused":
        return _failed(asked, 0, "refused", f"{label} refuses the request: {output.message}")
    if output.finish == "failed":
        return _failed(asked, len(ids), "server", f"{label} ended the request: {output.message}")
    chances = None
    if asked.request.logprobs:
        chances = list(output.logprobs or ())
        if len(chances) != len(ids):
            why = f"{label} returned log-probabilities for {len(chances)} of {len(ids)} tokens"
            return _failed(asked, len(ids), "server", why)
        if not all(map(math.isfinite, chances)):
            why = "the model's output is not finite: try dtype float32, or check the weights"
            return _failed(asked, len(ids), "server", why)
        chances = [min(chance, 0.0) for chance in chances]
    return reader.decode_answer(asked.request, asked.prompt, ids, chances, output.finish)


def _failed(asked: _Asked, made: int, kind: FailureKind, why: str) -> Completion:
    return Completion("", "failed", None, len(asked.prompt.ids), made, failure=Failure(kind, why))
