"""Throughput of API calls against a server in a process of its own: ours beside bare aiohttp and litellm.

    python benchmarks/api_throughput.py [--calls 2000] [--latency 0.2] [--levels 8,64,256] [--ways ...] [--json FILE]

The server answers after ``latency`` seconds. The ideal is ceil(calls / C) * latency; what is told is wall time over it, and
the client's processor time a call. Server and client have a core each, where the system can do that. Every row of the
table runs in a process of its own. ``journal`` is ours as a stage calls it, its answers committed to SQLite.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nfilter import Message, Request, Sampling, Site
from nfilter.testing.server import ModelProcess

ROOT = Path(__file__).resolve().parents[1]
SERVER_CORE, CLIENT_CORE = {0}, {1}


def requests(calls: int) -> list[Request]:
    """Different questions of about 60 words, as a stage would ask them."""
    filler = " ".join(f"word{n}" for n in range(50))
    return [
        Request((Message("user", f"Question {n}: {filler}?"),), Sampling(max_tokens=64), sample_id=str(n))
        for n in range(calls)
    ]  # fmt: skip


def bodies(calls: int) -> list[dict[str, Any]]:
    """The same questions as OpenAI's request bodies."""
    return [
        {
            "model": "test",
            "messages": [{"role": turn.role, "content": turn.content} for turn in request.messages],
            "max_tokens": 64,
            "temperature": 0.0,
        }
        for request in requests(calls)
    ]


def backend(url: str, transport: str, level: int | None) -> Any:
    from nfilter_litellm.backend import LiteLLMBackend
    from nfilter_litellm.config import LiteLLMConfig

    config = LiteLLMConfig.model_validate(
        {"model": "test", "api_base": url, "transport": transport, "concurrency": level}
    )
    return LiteLLMBackend(config, Site(Path()))


def ours(transport: str) -> Callable[[str, int, int], int]:
    """The backend's own ``generate``."""

    def run(url: str, calls: int, level: int) -> int:
        model = backend(url, transport, level or None)
        asked = requests(calls)
        done = timed(lambda: model.generate(asked))
        model.close()
        return sum(completion.failure is None for completion in done)

    return run


def journaled(url: str, calls: int, level: int) -> int:
    """``ctx.model(name).generate``, with the journal."""
    from nfilter.context import Model
    from nfilter.journal import Journal

    model = backend(url, "aiohttp", level or None)
    asked = requests(calls)
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder) / "journal.db")
        proxy = Model("test", model, model.fingerprint(), journal, "bench")
        done = timed(lambda: proxy.generate(asked))
        journal.close()
    model.close()
    return sum(completion.failure is None for completion in done)


def bare_aiohttp(url: str, calls: int, level: int) -> int:
    """A pooled session and a semaphore."""
    import aiohttp

    async def main() -> int:
        gate = asyncio.Semaphore(level)
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector) as session:

            async def one(body: dict[str, Any]) -> int:
                async with gate, session.post(f"{url}/chat/completions", json=body) as reply:
                    value = await reply.json()
                    return int(bool(value["choices"][0]["message"]["content"]))

            return sum(await asyncio.gather(*(one(body) for body in bodies(calls))))

    return timed(lambda: asyncio.run(main()))


def litellm_gather(url: str, calls: int, level: int) -> int:
    """litellm's ``acompletion`` under gather, set up as we set it up."""
    from nfilter_litellm.providers import library

    litellm = library()

    async def main() -> int:
        gate = asyncio.Semaphore(level)

        async def one(body: dict[str, Any]) -> int:
            fields = {key: value for key, value in body.items() if key != "model"}
            async with gate:
                reply = await litellm.acompletion(
                    model="openai/test", api_base=url, api_key="none", max_retries=0, **fields
                )
            return int(bool(reply.choices[0].message.content))

        return sum(await asyncio.gather(*(one(body) for body in bodies(calls))))

    return timed(lambda: asyncio.run(main()))


WAYS: dict[str, Callable[[str, int, int], int]] = {
    "aiohttp": bare_aiohttp,
    "nfilter": ours("aiohttp"),
    "journal": journaled,
    "litellm": litellm_gather,
    "nfilter-litellm": ours("litellm"),
}
_MEASURED: dict[str, float] = {}


def timed(work: Callable[[], Any]) -> Any:
    """Run ``work`` and keep its wall and processor seconds, those of all threads."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    _MEASURED.update(wall=time.perf_counter() - wall, cpu=time.process_time() - cpu)
    return result


def client(way: str, url: str, calls: int, level: int) -> None:
    """One row of the table, in this process; ``level`` 0 is ours finding its own."""
    if hasattr(os, "sched_setaffinity") and (os.cpu_count() or 1) > 1:
        os.sched_setaffinity(0, CLIENT_CORE)
    import aiohttp  # noqa: F401 (the import is no part of a call)

    if "litellm" in way:
        from nfilter_litellm.providers import library

        library()
    answered = WAYS[way](url, calls, level)
    print(json.dumps({"answered": answered, **_MEASURED}))


def measure(way: str, calls: int, level: int, latency: float) -> dict[str, Any]:
    """Start a server and a client for one row."""
    cores = SERVER_CORE if (os.cpu_count() or 1) > 1 else None
    with ModelProcess(cores=cores, latency=latency) as server:
        command = [sys.executable, __file__, "--client", way, server.url, str(calls), str(level)]
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, cwd=ROOT, env={**os.environ}
        )
        found = json.loads(done.stdout.splitlines()[-1])
        served = server.report()
    ideal = math.ceil(calls / level) * latency if level else None
    return {
        "way": way, "level": level or "adaptive", "calls": calls, "answered": found["answered"],
        "attempts": served["attempts"], "wall": found["wall"], "calls_a_second": calls / found["wall"],
        "over_ideal": found["wall"] / ideal if ideal else None,
        "cpu_ms_a_call": 1000 * found["cpu"] / calls,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--client", nargs=4, metavar=("WAY", "URL", "CALLS", "LEVEL"))
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--latency", type=float, default=0.2)
    parser.add_argument("--levels", default="64,256", help="0 finds its own, for ours alone")
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.client:
        way, url, calls, level = options.client
        client(way, url, int(calls), int(level))
        return
    rows = []
    print(f"{'':16}{'C':>9}{'wall s':>9}{'/ideal':>8}{'calls/s':>9}{'CPU ms':>8}")
    for level in map(int, options.levels.split(",")):
        for way in options.ways.split(","):
            if level == 0 and way in ("aiohttp", "litellm"):
                continue
            row = measure(way, options.calls, level, options.latency)
            rows.append(row)
            over = f"{row['over_ideal']:8.2f}" if row["over_ideal"] else f"{'':8}"
            print(
                f"{way:16}{row['level']!s:>9}{row['wall']:9.2f}{over}{row['calls_a_second']:9.0f}"
                f"{row['cpu_ms_a_call']:8.2f}",
                flush=True,
            )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
