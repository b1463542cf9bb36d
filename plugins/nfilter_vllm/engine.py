"""A running vLLM engine: calls of several streams are in it together, and each stream takes its own outputs."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from typing import Any, Final, Literal

from nfilter import (
    EngineAdapter,
    EngineCall,
    EngineOutput,
    EngineScores,
    ModelError,
    first_line,
    missing_package,
)

# vLLM reads them when it is imported, and its processes inherit them. What the user has set stays.
_ENVIRONMENT: Final[Mapping[str, str]] = {
    # It would send the model's architecture and the machine's hardware to a server.
    "VLLM_NO_USAGE_STATS": "1",
    # A forked process cannot use a GPU that this process has looked at.
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    "VLLM_LOGGING_LEVEL": "WARNING",
}

Asked = EngineCall | EngineScores


class Engine:
    """A vLLM engine with its model, and room for adapters up to a rank.

    Raises:
        ModelError: if it cannot start; the message has the usual remedies.
    """

    def __init__(self, settings: Mapping[str, Any], rank: int) -> None:
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        try:
            from vllm import LLM
        except ImportError as error:
            raise ModelError(
                f"vllm {missing_package('vllm', 'nfilter[vllm]')} ({error})"
            ) from error
        try:
            self._llm: Any = LLM(**settings)
        except Exception as error:
            # Every type of error occurs, and the cause is often only in the log of vLLM's own process.
            raise ModelError(
                f"vLLM cannot start {settings['model']}: {_reason(error)}. The cause may be above, in the log of its process. "
                "If memory is short, raise gpu_memory, set max_length: 8192, or split the weights with gpus: 2; if another model is on the GPU, "
                "lower gpu_memory below what is free"
            ) from error
        self._rank = rank
        self._adapters: dict[str, Any] = {}
        self._asked: dict[str, Asked] = {}
        self._finished: dict[str, EngineOutput] = {}
        self._refused = 0

    def load(self, adapter: EngineAdapter) -> bool:
        """Make an adapter available; False if its rank is above that for which the engine started.

        Raises:
            ModelError: if vLLM rejects it. In the middle of a batch its error would end the engine.
        """
        if adapter.rank > self._rank:
            return False
        if adapter.digest not in self._adapters:
            from vllm.lora.request import LoRARequest

            number = len(self._adapters) + 1
            request = LoRARequest(adapter.digest, number, str(adapter.folder))
            try:
                self._llm.llm_engine.add_lora(request)
            except Exception as error:
                raise ModelError(
                    f"vLLM cannot load the adapter in {adapter.folder}: {_whole(error)}; set use: hf for this model"
                ) from error
            self._adapters[adapter.digest] = request
        return True

    def add(self, call: Asked, adapter: str | None = None) -> str:
        """Add a call and return its key."""
        from vllm import TokensPrompt
        from vllm.exceptions import VLLMValidationError

        prompt = TokensPrompt(prompt_token_ids=list(call.ids))
        if isinstance(call, EngineScores):
            # vLLM reads no cached beginning for log-probabilities of a prompt. A salt keeps the order of samples without
            # influence on what others would read.
            prompt["cache_salt"] = call.salt
        request = None if adapter is None else self._adapters[adapter]
        try:
            params = _score_params() if isinstance(call, EngineScores) else _params(call)
            (key,) = self._llm.enqueue([prompt], params, lora_request=request, use_tqdm=False)
        except (ValueError, VLLMValidationError) as error:
            self._refused += 1
            key = f"refused{self._refused}"
            self._finished[key] = EngineOutput("refused", message=first_line(error))
        else:
            self._asked[_number(key)] = call
        return str(key)

    def wait(self, keys: Collection[str]) -> Iterator[tuple[str, EngineOutput]]:
        """Let the engine work until one of the calls ``keys`` has ended, and yield those with their outputs.

        Yields nothing if calls of other streams have ended first.

        Raises:
            ModelError: if the engine has stopped.
        """
        others = len(self._finished)
        while not (ended := [key for key in keys if _number(key) in self._finished]):
            if len(self._finished) > others:
                return
            self._step()
        for key in ended:
            yield key, self._finished.pop(_number(key))

    def abort(self, keys: Collection[str]) -> None:
        """Remove calls that nobody waits for."""
        if keys:
            # An engine that has stopped has no requests.
            with suppress(Exception):
                self._llm.llm_engine.abort_request(list(keys), internal=True)
        for key in keys:
            self._finished.pop(_number(key), None)
            self._asked.pop(_number(key), None)

    def close(self) -> None:
        """Stop the engine and its processes, and release the memory of the GPUs."""
        self._llm.llm_engine.engine_core.shutdown()

    def _step(self) -> None:
        engine = self._llm.llm_engine
        if not engine.has_unfinished_requests():
            raise ModelError("vLLM has lost a request; run the same command to resume")
        try:
            outputs = engine.step()
        except Exception as error:
            raise ModelError(
                f"vLLM's engine has stopped: {_reason(error)}. The cause is above, in the log of its process; run the same "
                "command to resume. If memory ran out, lower gpu_memory or max_length"
            ) from error
        for output in outputs:
            call = self._asked.pop(output.request_id, None) if output.finished else None
            if call is not None:
                self._finished[output.request_id] = _output(call, output)


def _score_params() -> Any:
    from vllm import SamplingParams

    return SamplingParams(
        temperature=0.0, max_tokens=1, prompt_logprobs=0, flat_logprobs=True, detokenize=False
    )


def _params(call: EngineCall) -> Any:
    """vLLM's sampling parameters. All are set, so that none is taken from the model's generation_config.json.

    Raises:
        ValueError: if vLLM refuses them.
    """
    from vllm import SamplingParams
    from vllm.sampling_params import StructuredOutputsParams

    try:
        return SamplingParams(
            temperature=call.temperature,
            top_p=call.top_p,
            top_k=0,
            min_p=0.0,
            seed=call.seed,
            stop=list(call.stop),
            stop_token_ids=sorted(call.end_ids),
            max_tokens=call.room,
            logprobs=0 if call.logprobs else None,
            # Without stop strings the text is decoded once, by nfilter.
            detokenize=bool(call.stop),
            structured_outputs=StructuredOutputsParams(json=dict(call.schema))
            if call.schema
            else None,
        )
    except Exception as error:
        # vLLM's own type of error is a ValueError in some versions only.
        raise ValueError(first_line(error)) from error


def _output(call: Asked, output: Any) -> EngineOutput:
    """What a call has asked for, of vLLM's output."""
    if isinstance(call, EngineScores):
        return EngineOutput("length", logprobs=_prompt_logprobs(call, output.prompt_logprobs))
    (made,) = output.outputs
    ids = list(made.token_ids)
    if made.finish_reason not in ("stop", "length"):
        # vLLM's end of a call whose schema it cannot follow: it names no reason, and knows one kind of grammar per engine.
        odd_schema = made.finish_reason == "error" and call.schema is not None
        finish: Literal["refused", "failed"] = "refused" if odd_schema else "failed"
        return EngineOutput(finish, ids, message=str(made.finish_reason))
    chances = None
    if call.logprobs:
        # Where some are missing, the number tells nfilter.
        pairs = zip(made.logprobs or (), ids, strict=False)
        chances = [at[token].logprob for at, token in pairs if token in at]
    return EngineOutput(made.finish_reason, ids, chances)


def _prompt_logprobs(call: EngineScores, found: Any) -> list[float]:
    """The log-probabilities of the tokens from ``call.start`` on. ``found`` has those of each position by token.

    Where ``found`` is not that of the prompt, some or all are missing, and the number tells nfilter.
    """
    if len(found or ()) > len(call.ids):
        return []
    pairs = zip(found or (), call.ids, strict=False)
    asked = list(pairs)[call.start :]
    return [at[token].logprob for at, token in asked if token in (at or ())]


def _number(key: str) -> str:
    """The number by which an output names its request: vLLM appends random letters to it in the key."""
    return key.partition("-")[0]


def _whole(error: Exception) -> str:
    """The message on one line. vLLM names the layers that it does not know after those that it knows."""
    return " ".join(str(error).split())[:2000].rstrip(".") or type(error).__name__


def _reason(error: Exception) -> str:
    return first_line(error).rstrip(".")
