"""The process that has SGLang's engine: messages of one line of JSON come in, and results go out.

SGLang expects a process of its own: it sets signal handlers, the start method of multiprocessing and the policy of event loops,
its shutdown kills every child process, and a crash of its scheduler kills the process that has the engine. So nfilter starts
this module in one, and keeps nothing else there.

Messages, each with ``do``: ``start`` (``settings``), ``load`` (``name``, ``path``), ``add`` (``key``, ``arguments``) and ``abort`` (``keys``).
Results: ``{"started": version}``, ``{"loaded": name, "error": text}``, ``{"key": key, "output": ...}`` or
``{"key": key, "refused": text}`` or ``{"key": key, "failed": text}``; ``{"stopped": text}`` is the last one.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
from contextlib import suppress
from typing import Any, BinaryIO, Final

from nfilter import first_line

_ABOUT: Final = ("finish_reason", "input_token_logprobs", "output_token_logprobs")
"""What is read of an output's ``meta_info``."""


def run(messages: BinaryIO, results: BinaryIO) -> int:
    """Start the engine of the first message, answer further ones until there are no more, and return an exit status."""
    out = _Results(results)
    engine = None
    try:
        settings = json.loads(messages.readline())["settings"]
        try:
            import sglang

            engine = sglang.Engine(**settings)
        except Exception as error:  # noqa: BLE001 - every type occurs, and the run names it
            out.put({"stopped": first_line(error)})
            return 1
        out.put({"started": str(sglang.__version__)})
        try:
            engine.loop.run_until_complete(_serve(engine, messages, out))
        except Exception as error:  # noqa: BLE001 - as above
            out.put({"stopped": first_line(error)})
            return 1
        return 0
    finally:
        if engine is not None:
            engine.shutdown()


async def _serve(engine: Any, messages: BinaryIO, out: _Results) -> None:
    """Handle messages until there are no more. Calls run side by side; an adapter is loaded before the next message."""
    inbox: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def read() -> None:
        # After an error the loop has ended, and nobody waits for messages.
        with suppress(RuntimeError):
            for line in messages:
                loop.call_soon_threadsafe(inbox.put_nowait, json.loads(line))
            loop.call_soon_threadsafe(inbox.put_nowait, None)

    threading.Thread(target=read, daemon=True).start()
    calls: set[asyncio.Task[None]] = set()
    while (message := await inbox.get()) is not None:
        if message["do"] == "add":
            call = asyncio.create_task(_call(engine, message["key"], message["arguments"], out))
            calls.add(call)
            call.add_done_callback(calls.discard)
        elif message["do"] == "abort":
            for key in message["keys"]:
                engine.tokenizer_manager.abort_request(rid=key)
        else:
            await _load(engine, message["name"], message["path"], out)
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)


async def _call(engine: Any, key: str, arguments: dict[str, Any], out: _Results) -> None:
    try:
        output = await engine.async_generate(rid=key, **arguments)
        about = {name: output["meta_info"].get(name) for name in _ABOUT}
        kept = {"output_ids": output["output_ids"], "meta_info": about}
        result = {"key": key, "output": kept}
    except ValueError as error:
        # SGLang's error for a request that it will not take; other types mean that it failed.
        result = {"key": key, "refused": first_line(error)}
    except Exception as error:  # noqa: BLE001 - the request has failed, and others may not
        result = {"key": key, "failed": first_line(error)}
    out.put(result)


async def _load(engine: Any, name: str, path: str, out: _Results) -> None:
    try:
        done = await engine.async_load_lora_adapter(lora_name=name, lora_path=path)
        error = "" if done.success else str(done.error_message or "no reason given")
    except Exception as failure:  # noqa: BLE001 - the run names it
        error = first_line(failure)
    out.put({"loaded": name, "error": error})


class _Results:
    """Writes results, one line each. The reader takes them all while it waits, so that a write seldom blocks, and then not long."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def put(self, result: dict[str, Any]) -> None:
        self._file.write(json.dumps(result).encode() + b"\n")
        self._file.flush()


if __name__ == "__main__":
    descriptors = [int(each) for each in sys.argv[1:3]]
    for descriptor in descriptors:
        # Processes that SGLang starts do not get them: they would keep the pipes open.
        os.set_inheritable(descriptor, False)  # noqa: FBT003 - os's own signature
    with os.fdopen(descriptors[0], "rb") as incoming, os.fdopen(descriptors[1], "wb") as outgoing:
        sys.exit(run(incoming, outgoing))
