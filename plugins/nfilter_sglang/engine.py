"""A running SGLang engine: calls of several streams are in it together, and each stream takes its own outputs."""

from __future__ import annotations

import itertools
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from nfilter import EngineAdapter, EngineCall, EngineOutput, EngineScores, ModelError
from nfilter_sglang.process import Channel

Asked = EngineCall | EngineScores


class Engine:
    """SGLang's offline engine with its model, in a process of its own.

    Args:
        channel: To a process that has just started.
        settings: The arguments of ``sglang.Engine``, without those for adapters.
        rank: Room for adapters up to this rank; 0 for none.
        adapters: Adapters that the engine loads when it starts.

    Raises:
        ModelError: if it cannot start; the message has the usual remedies.
    """

    def __init__(
        self,
        channel: Channel,
        settings: Mapping[str, Any],
        rank: int,
        adapters: Sequence[EngineAdapter],
    ) -> None:
        self._copies = int(settings["dp_size"])
        self._rank = rank
        self._adapters = {adapter.digest for adapter in adapters}
        self._numbers = itertools.count()
        self._asked: dict[str, Asked] = {}
        self._finished: dict[str, EngineOutput] = {}
        self._channel = channel
        whole = {**settings, **_adapter_settings(rank, adapters)}
        self._channel.send({"do": "start", "settings": whole})
        answer = self._channel.receive()
        if answer is None or "started" not in answer:
            self._channel.close()
            raise ModelError(
                f"SGLang cannot start {settings['model_path']}: {_reason(answer)}. The cause may be above, in the log of its process. "
                "If memory is short, raise gpu_memory, set max_length: 8192, or split the weights with gpus: 2"
            )

    def load(self, adapter: EngineAdapter) -> bool:
        """Make an adapter available; False if the engine has to be started with it."""
        if adapter.digest in self._adapters:
            return True
        # SGLang loads none into copies that run.
        if adapter.rank > self._rank or self._copies > 1:
            return False
        self._channel.send({"do": "load", "name": adapter.digest, "path": str(adapter.folder)})
        while "loaded" not in (result := self._receive()):
            self._keep(result)
        if result["error"]:
            return False
        self._adapters.add(adapter.digest)
        return True

    def add(self, call: Asked, adapter: str | None) -> str:
        """Add a call and return its key."""
        # SGLang aborts every request whose key begins with a given one: no key may be the beginning of another.
        key = f"{next(self._numbers):016d}"
        arguments = _score_arguments(call) if isinstance(call, EngineScores) else _arguments(call)
        if adapter is not None:
            arguments["lora_path"] = adapter
        self._asked[key] = call
        self._channel.send({"do": "add", "key": key, "arguments": arguments})
        return key

    def wait(self, keys: Collection[str]) -> Iterator[tuple[str, EngineOutput]]:
        """Wait until one of the calls ``keys`` has ended, and yield those with their outputs.

        Yields nothing if calls of other streams have ended first.

        Raises:
            ModelError: if the engine has stopped.
        """
        others = len(self._finished)
        while not (ended := [key for key in keys if key in self._finished]):
            if len(self._finished) > others:
                return
            self._keep(self._receive())
        for key in ended:
            yield key, self._finished.pop(key)

    def abort(self, keys: Collection[str]) -> None:
        """Remove calls that nobody waits for."""
        running = [key for key in keys if self._asked.pop(key, None) is not None]
        if running:
            self._channel.send({"do": "abort", "keys": running})
        for key in keys:
            self._finished.pop(key, None)

    def close(self) -> None:
        """Stop the engine and its processes, and release the memory of the GPUs."""
        self._channel.close()

    def _receive(self) -> dict[str, Any]:
        result = self._channel.receive()
        if result is None or "stopped" in result:
            raise ModelError(
                f"SGLang's engine has stopped: {_reason(result)}. The cause is above, in the log of its process; run the same "
                "command to resume. If memory ran out, lower gpu_memory or max_length"
            )
        return result

    def _keep(self, result: Mapping[str, Any]) -> None:
        call = self._asked.pop(result["key"], None)
        if call is not None:
            self._finished[result["key"]] = _output(call, result)


def _adapter_settings(rank: int, adapters: Sequence[EngineAdapter]) -> dict[str, Any]:
    """The arguments for adapters. Without one at the start, every kind of module has room for them."""
    if not rank:
        return {}
    found: dict[str, Any] = {"enable_lora": True, "max_lora_rank": rank}
    if not adapters:
        return {**found, "lora_target_modules": ["all"]}
    paths = [
        {"lora_name": each.digest, "lora_path": str(each.folder), "pinned": False}
        for each in adapters
    ]
    return {**found, "lora_paths": paths}


def _arguments(call: EngineCall) -> dict[str, Any]:
    """The arguments of ``async_generate`` that generate an answer."""
    params: dict[str, Any] = {
        "max_new_tokens": call.room,
        "temperature": call.temperature,
        "top_p": call.top_p,
        "top_k": -1,
        "min_p": 0.0,
        "stop": list(call.stop),
        "stop_token_ids": sorted(call.end_ids),
    }
    if call.seed is not None:
        params["sampling_seed"] = call.seed
    if call.schema is not None:
        params["json_schema"] = json.dumps(call.schema)
    return {
        "input_ids": list(call.ids),
        "sampling_params": params,
        "return_logprob": call.logprobs,
    }


def _score_arguments(call: EngineScores) -> dict[str, Any]:
    """The arguments of ``async_generate`` that read log-probabilities of a prompt.

    SGLang returns those of the tokens after ``logprob_start_len``, and for that token None. Its cache is not used from there on.
    """
    return {
        "input_ids": list(call.ids),
        "sampling_params": {"max_new_tokens": 1, "temperature": 0.0},
        "return_logprob": True,
        "logprob_start_len": call.start - 1,
    }


def _output(call: Asked, result: Mapping[str, Any]) -> EngineOutput:
    """What a call has asked for, of SGLang's result."""
    if "refused" in result:
        return EngineOutput("refused", message=result["refused"])
    if "failed" in result:
        return EngineOutput("failed", message=result["failed"])
    output = result["output"]
    about = output["meta_info"]
    end = about.get("finish_reason") or {}
    ids = output.get("output_ids") or []
    # SGLang's end of an answer whose probabilities are not finite.
    if end.get("type") not in ("stop", "length") or end.get("matched") == "NaN happened":
        why = end.get("message") or end.get("matched") or "no reason given"
        return EngineOutput("failed", ids, message=str(why))
    if isinstance(call, EngineScores):
        asked = call.ids[call.start - 1 :]
        return EngineOutput("length", logprobs=_logprobs(about, "input", asked)[1:])
    chances = _logprobs(about, "output", ids) if call.logprobs else None
    return EngineOutput(end["type"], ids, chances)


def _logprobs(about: Mapping[str, Any], of: str, ids: Sequence[int]) -> list[float]:
    """The log-probabilities of the tokens ``ids``, of triples (log-probability, id, text); NaN for None.

    Triples of other tokens are left out, and the number tells nfilter.
    """
    found = about.get(f"{of}_token_logprobs") or []
    if len(found) > len(ids):
        return []
    return [
        float("nan") if chance is None else float(chance)
        for (chance, token, *_), wanted in zip(found, ids, strict=False)
        if token == wanted
    ]


def _reason(result: Mapping[str, Any] | None) -> str:
    if result is None:
        return "its process has ended"
    return str(result.get("stopped", result)).rstrip(".")
