"""Throughput of API calls against a server in a process of its own: ours beside bare aiohttp, litellm and other tools.

    python -m benchmarks.api_throughput [--calls 2000] [--latency 0.2] [--levels 8,64,256] [--ways ...] [--json FILE]
    python -m benchmarks.api_throughput --peers DIR     # and curator, inspect-ai and distilabel, in their environments
    python -m benchmarks.api_throughput --peers DIR --kill
    python -m benchmarks.api_throughput --adaptive      # ours finding its own level, beside fixed ones

The server answers after ``latency`` seconds. The ideal is ceil(calls / C) * latency. Over it are told the span, as the
server saw it from the first call to the last reply, and the wall time of the whole piece of work, with what a tool
prepares and writes; then the client's processor time a call, that of its child processes included. Server and client have
a core each, where the system can do that. Every row runs in a process of its own, what it imports not counted.
``journal`` is ours as a stage calls it, its answers committed to SQLite. A row stands only where the server has served
each question once and every answer is the server's. Rows are told as they come; the tables on standard output are Markdown.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks import api_adaptive, api_kills
from benchmarks.peers import running
from benchmarks.peers.asking import pin, questions
from nfilter import Message, Request, Sampling, Site
from tests.model_server.server import ModelProcess

ROOT = Path(__file__).resolve().parents[1]
SERVER_CORE = {0} if (os.cpu_count() or 1) > 1 else None


def requests(calls: int) -> list[Request]:
    """The questions as a stage would ask them."""
    return [
        Request((Message("user", text),), Sampling(max_tokens=64), sample_id=str(n))
        for n, text in enumerate(questions(calls))
    ]


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
    from nfilter.models.proxy import JournaledModel
    from nfilter.store.journal import Journal

    model = backend(url, "aiohttp", level or None)
    asked = requests(calls)
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder) / "journal.db")
        proxy = JournaledModel("test", model, model.fingerprint(), journal, "bench")
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

    return int(timed(lambda: asyncio.run(main())))


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

    return int(timed(lambda: asyncio.run(main())))


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


def client(way: str, url: str, warm: str, calls: int, level: int) -> None:
    """One row of the table, in this process; ``level`` 0 is ours finding its own. ``warm`` is asked before."""
    pin()
    import aiohttp  # noqa: F401 (the import is no part of a call)

    if "litellm" in way:
        from nfilter_litellm.providers import library

        library()
    WAYS[way](warm, 2, level or 2)
    answered = WAYS[way](url, calls, level)
    print(json.dumps({"answered": answered, **_MEASURED}))


def limit(calls: int, level: int, latency: float) -> float:
    """Seconds after which a run is said to hang."""
    return max(120.0, 5 * math.ceil(calls / min(level or 64, 64)) * latency)


def measure(way: str, calls: int, level: int, latency: float, **script: Any) -> dict[str, Any]:
    """Start a server and a client of ours for one row; ``script`` is what else the server does.

    A second server is asked first, so that what is imported late is not counted.
    """
    words = [sys.executable, "-m", "benchmarks.api_throughput", "--client", way]
    with (
        ModelProcess(cores=SERVER_CORE, latency=latency, **script) as server,
        ModelProcess(cores=SERVER_CORE) as warm,
        tempfile.TemporaryDirectory() as home,
    ):
        process = running.begin(
            [*words, server.url, warm.url, str(calls), str(level)], Path(home), {**os.environ}
        )
        ended = running.end(process, Path(home), limit(calls, level, latency))
        served = server.report()
    found = json.loads(ended.said) if ended.said else {"answered": 0}
    return row_of(way, calls, level, latency, served, ended.trouble, found)


def measure_peer(folder: Path, tool: str, calls: int, level: int, latency: float) -> dict[str, Any]:
    """The same for another tool."""
    with (
        ModelProcess(cores=SERVER_CORE, latency=latency) as server,
        ModelProcess(cores=SERVER_CORE) as warm,
        tempfile.TemporaryDirectory() as place,
    ):
        home, out = Path(place) / "home", Path(place) / "out"
        words = running.command(folder, tool, server.url, calls, level, out, warm.url)
        process = running.begin(words, home, running.environment())
        ended = running.end(process, home, limit(calls, level, latency))
        served = server.report()
        found = json.loads(ended.said) if ended.said else {}
        found["answered"] = running.right_answers(out / "answers.jsonl", calls)
    return row_of(tool, calls, level, latency, served, ended.trouble, found)


def row_of(
    way: str, calls: int, level: int, latency: float, served: dict[str, Any], trouble: str, found: dict[str, Any]
) -> dict[str, Any]:  # fmt: skip
    """One row: what the server counted and what the client told."""
    distinct = served["conversations"] - bool(served["empty"])
    asked = served["attempts"] - served["empty"]
    if not trouble and (distinct, found["answered"]) != (calls, calls):
        trouble = f"{distinct} questions served, {found['answered']} answered of {calls}"
    ideal = math.ceil(calls / level) * latency if level else None
    row = {
        "way": way, "level": level or "adaptive", "calls": calls, "answered": found["answered"], "distinct": distinct,
        "attempts": asked, "limited": served["counts"].get("limited", 0),
        "most_in_flight": served["most_in_flight"], "span": served["span"], "trouble": trouble,
    }  # fmt: skip
    if "wall" in found:
        row |= {
            "wall": found["wall"], "calls_a_second": calls / found["wall"],
            "cpu_ms_a_call": 1000 * found["cpu"] / calls,
        }  # fmt: skip
        if ideal:
            row |= {"over_ideal": found["wall"] / ideal, "span_over_ideal": served["span"] / ideal}
    return row


def name(way: str) -> str:
    """A way as the tables name it, with the version where it is not ours."""
    if way in running.PEERS:
        return running.name(way)
    if way in ("aiohttp", "litellm"):
        return f"{way} {version(way)}"
    return {"nfilter": "nfilter", "journal": "nfilter with its journal"}.get(way, way)


def markdown(rows: list[dict[str, Any]]) -> str:
    """A line a way, three columns a level."""
    levels = list(dict.fromkeys(row["level"] for row in rows))
    heads = [f"C = {level}: span | wall | CPU ms a call" for level in levels]
    lines = [f"| way | {' | '.join(heads)} |", "|---" * (1 + 3 * len(levels)) + "|"]
    found = {(row["way"], row["level"]): row for row in rows}
    for way in dict.fromkeys(row["way"] for row in rows):
        cells = [cell for level in levels for cell in _cells(found.get((way, level)))]
        lines.append(f"| {name(way)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cells(row: dict[str, Any] | None) -> list[str]:
    if row is None or row["trouble"]:
        return [row["trouble"] if row else "", "", ""]
    if "over_ideal" not in row:
        return [f"{row['span']:.1f} s", f"{row['wall']:.1f} s", f"{row['cpu_ms_a_call']:.2f}"]
    return [
        f"{row['span_over_ideal']:.2f}",
        f"{row['over_ideal']:.2f}",
        f"{row['cpu_ms_a_call']:.2f}",
    ]


def tell(row: dict[str, Any]) -> None:
    """A row as soon as it is known, to standard error."""
    cells = " ".join(f"{cell:>8}" for cell in _cells(row))
    many = "" if row["attempts"] == row["calls"] else f"  {row['attempts']} calls served"
    print(f"{row['way']:16}{row['level']!s:>9} {cells}{many}", file=sys.stderr, flush=True)


def throughput(options: argparse.Namespace) -> list[dict[str, Any]]:
    """All rows, level by level."""
    calls = options.calls or 2000
    rows = []
    print(f"{'':16}{'C':>9} {'span':>8} {'wall':>8} {'CPU ms':>8}", file=sys.stderr)
    for level in map(int, options.levels.split(",")):
        for way in filter(None, options.ways.split(",")):
            if level == 0 and way in ("aiohttp", "litellm"):
                continue
            rows.append(measure(way, calls, level, options.latency))
            tell(rows[-1])
        for tool in options.tools.split(",") if options.peers and level else ():
            rows.append(measure_peer(options.peers, tool, calls, level, options.latency))
            tell(rows[-1])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.api_throughput", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "--client",
        nargs=5,
        metavar=("WAY", "URL", "WARM", "CALLS", "LEVEL"),
        help=argparse.SUPPRESS,
    )
    parser.add_argument("--calls", type=int, help="2,000, or 20,000 with --adaptive")
    parser.add_argument("--latency", type=float, default=0.2, help="of the server, in seconds")
    parser.add_argument(
        "--levels", default="8,64,256", help="0 finds its own, for ours alone; --kill takes 64"
    )
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument(
        "--peers",
        type=Path,
        metavar="DIR",
        help="environments of `python -m benchmarks.peers setup DIR`",
    )
    parser.add_argument("--tools", default=",".join(running.PEERS), help="which of the peers")
    parser.add_argument(
        "--kill", action="store_true", help="kill -9 at half, then the same command again"
    )
    parser.add_argument("--repeats", type=int, default=3, help="kills of each tool")
    parser.add_argument(
        "--adaptive", action="store_true", help="ours finding its level, beside fixed ones"
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.client:
        way, url, warm, calls, level = options.client
        client(way, url, warm, int(calls), int(level))
        return
    if options.peers and (absent := running.missing(options.peers, options.tools.split(","))):
        parser.error(absent)
    if options.kill:
        rows = api_kills.measure(
            options.peers, options.tools.split(","), options.calls or 2000, options.repeats, options.latency, SERVER_CORE
        )  # fmt: skip
        table = api_kills.markdown(rows, name)
    elif options.adaptive:
        rows = api_adaptive.measure(measure, options.calls or 20_000, options.latency)
        table = api_adaptive.markdown(rows)
    else:
        rows = throughput(options)
        table = markdown(rows)
    print(table)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
