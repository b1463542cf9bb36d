"""A running vLLM engine: requests of several streams are in it together, and each stream takes its own answers."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from nfilter import ModelError, first_line, missing_package

# vLLM reads them when it is imported, and its processes inherit them. What the user has set stays.
_ENVIRONMENT: Final[Mapping[str, str]] = {
    # It would send the model's architecture and the machine's hardware to a server.
    "VLLM_NO_USAGE_STATS": "1",
    # A forked process cannot use a GPU that this process has looked at.
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    "VLLM_LOGGING_LEVEL": "WARNING",
}


class RefusedError(Exception):
    """A request that vLLM refuses; caught inside this plugin."""


class Engine:
    """A vLLM engine with its model.

    Raises:
        ModelError: if it cannot start; the message has the usual remedies.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
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
                "If memory is short, raise gpu_memory, set max_length: 8192, or split the weights with gpus: 2"
            ) from error
        self._finished: dict[str, Any] = {}

    def add(
        self,
        ids: Sequence[int],
        params: Any,
        adapter: Any = None,
        salt: str | None = None,
    ) -> str:
        """Add a request and return its key. With ``salt``, it shares no cached beginning with requests of another salt.

        Raises:
            RefusedError: if vLLM refuses it.
        """
        from vllm import TokensPrompt
        from vllm.exceptions import VLLMValidationError

        prompt = TokensPrompt(prompt_token_ids=list(ids))
        if salt is not None:
            prompt["cache_salt"] = salt
        try:
            (key,) = self._llm.enqueue([prompt], params, lora_request=adapter, use_tqdm=False)
        except (ValueError, VLLMValidationError) as error:
            raise RefusedError(first_line(error)) from error
        return str(key)

    def wait(self, keys: Collection[str]) -> Iterator[tuple[str, Any]]:
        """Let the engine work until one of the requests ``keys`` has ended, and yield those with their outputs.

        Yields nothing if requests of other streams have ended first.

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
        """Remove requests that nobody waits for."""
        if keys:
            # An engine that has stopped has no requests.
            with suppress(Exception):
                self._llm.llm_engine.abort_request(list(keys), internal=True)
        for key in keys:
            self._finished.pop(_number(key), None)

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
        self._finished |= {output.request_id: output for output in outputs if output.finished}


def _number(key: str) -> str:
    """The number by which an output names its request: vLLM appends random letters to it in the key."""
    return key.partition("-")[0]


def _reason(error: Exception) -> str:
    return first_line(error).rstrip(".")
