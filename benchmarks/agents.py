"""What a calculator changes for a panel of reviewers, and what agents side by side save over agents in lockstep.

    python -m benchmarks.agents [--rows 200] [--seeds 0,1,2] [--json FILE]

A panel of three reviewers judges rows of which 30% have a wrong label: sums of the embedded world, and word problems with
chains of three or four steps like GSM8K's, whose wrong label has a wrong step. The reviewers are calls over HTTP to a
server on this machine whose "model" is scripted (``benchmarks.agents_policy``): it reads the question, not the truth, and
makes mistakes at stated rates. The figures show what the mechanism does with those rates, and nothing about any model.

Then 60 agents of five turns run on a model whose calls take random times, once in rounds and once side by side. Tables on
standard output are Markdown.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, Final

from benchmarks.agents_policy import Policy, problem, solution
from nfilter import Agent, Completion, Message, Request, ToolCall, run_agents
from nfilter.engine.run import run
from nfilter.models.conversations import conversing_in_rounds, finished
from nfilter.models.proxy import JournaledModel
from nfilter.recipe.model import Recipe
from nfilter.registry.loading import load as load_plugins
from nfilter.store.journal import Journal
from tests.model_server.faults import Script
from tests.model_server.server import ModelServer

RATIO: Final = 0.3
SLIP: Final = 0.25
MISREAD: Final = 0.1
PRICE: Final = {"prompt": 0.15, "completion": 0.6}
VOICES: Final = (
    "Compute in the order of the text.",
    "Look for what the question leaves for later.",
    "Write every step on its own line.",
)
AGENTS, TURNS, MEAN, REPEATS = 60, 5, 0.1, 3


def sums(rows: int, seed: int) -> Iterator[dict[str, Any]]:
    """Yield sums of the embedded world with plausible wrong answers."""
    from nfilter_tiny.source import wrong_answers
    from nfilter_tiny.world import problems

    known = [each for each in problems("train", "tasks") if each.family == "add"]
    for each in random.Random(f"sums {seed}").sample(known, rows):
        yield {"prompt": each.question, "response": each.answer, "wrong": wrong_answers(each, "uniform")}  # fmt: skip


def chains(rows: int, seed: int) -> Iterator[dict[str, Any]]:
    """Yield word problems with worked answers, and with worked answers of which a step is wrong."""
    rng = random.Random(f"chains {seed}")
    for _ in range(rows):
        question, numbers, steps = problem(rng)
        wrong = [solution(numbers, steps, rng) for _ in range(4)]
        yield {"prompt": question, "response": solution(numbers, steps), "wrong": wrong}


DATA: Final[dict[str, Callable[[int, int], Iterator[dict[str, Any]]]]] = {
    "sums of the embedded world": sums,
    "chains of three or four steps": chains,
}


def panel(data: str, rows: int, seed: int, *, tools: bool) -> dict[str, float]:
    """Run the panel over one data set; return its figures."""
    with (
        tempfile.TemporaryDirectory() as folder,
        ModelServer(Script(answer=Policy(tools, SLIP, MISREAD, seed))) as server,
    ):
        home = Path(folder)
        lines = (json.dumps(row) for row in DATA[data](rows, seed))
        (home / "rows.jsonl").write_text("\n".join(lines) + "\n")
        reviewers = [
            {"llm": "judge", "instructions": voice, "tools": ["calculator"] if tools else []}
            for voice in VOICES
        ]
        recipe = {
            "name": "panel",
            "seed": seed,
            "answer": "number",
            "models": {"judge": {"use": "litellm", "model": "scripted", "api_base": server.url, "price": PRICE}},
            "source": {"use": "jsonl", "path": str(home / "rows.jsonl"), "noise": {"ratio": RATIO, "wrong": "wrong"}},
            "samples": [{"use": "panel.review", "reviewers": reviewers, "rounds": 6}],
        }  # fmt: skip
        plugins = load_plugins()
        done = run(Recipe.from_dict(recipe, plugins), plugins, home / "out")
        figures: Any = done.metrics
        detection, relabel, calls = figures["detection"], figures["relabel"], figures["calls"]
        return {
            "precision": detection["precision"],
            "recall": detection["recall"],
            "labels_before": relabel["labels_before"],
            "labels_after": relabel["labels_after"],
            "calls_per_row": calls["calls"] / rows,
            "usd_per_1000_rows": 1000 * figures["usd"] / rows,
        }


class Slow:
    """A model whose calls take random times; each agent calls the calculator until its last turn."""

    name = "slow"

    def __init__(self, seed: int, calls: int = AGENTS) -> None:
        self._pool = ThreadPoolExecutor(calls)
        self._seed = seed
        self._lock = threading.Lock()
        self.seconds: dict[str, list[float]] = {}

    def close(self) -> None:
        self._pool.shutdown()

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        return list(self._pool.map(self._answer, requests))

    def open_stream(
        self, first: Sequence[Request], more: Callable[[], Sequence[Request]]
    ) -> Iterator[tuple[int, Completion]]:
        places: dict[Future[Completion], int] = {}
        for request in first:
            places[self._pool.submit(self._answer, request)] = len(places)
        count, running = len(places), set(places)
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for each in done:
                yield places[each], each.result()
                for request in more():
                    future = self._pool.submit(self._answer, request)
                    places[future] = count
                    running.add(future)
                    count += 1

    def _answer(self, request: Request) -> Completion:
        turn = sum(each.role == "assistant" for each in request.messages)
        seconds = latency(self._seed, request.sample_id, turn)
        time.sleep(seconds)
        with self._lock:
            self.seconds.setdefault(request.sample_id, []).append(seconds)
        if turn + 1 < TURNS:
            call = ToolCall("calculator", json.dumps({"expression": f"{turn} + 1"}))
            return Completion("", completion_tokens=8, tool_calls=(call,))
        return Completion("done", completion_tokens=1)


def latency(seed: int, agent: str, turn: int) -> float:
    """Return the seconds of a call: exponential, with the mean ``MEAN``."""
    return random.Random(f"{seed} {agent} {turn}").expovariate(1 / MEAN)


class _Lockstep:
    """A model whose conversations go on together, one batch per round."""

    def __init__(self, model: JournaledModel) -> None:
        self._model = model

    def converse(self, first: Sequence[Request], reply: Any) -> list[Completion]:
        return finished(conversing_in_rounds(self._model.generate, first, reply))


def timed(seed: int, *, lockstep: bool) -> float:
    """Return the seconds that the agents take."""
    from nfilter.api.tool_settings import ToolUse, build_tool
    from nfilter.api.tools import ToolSite

    item = load_plugins().get("tool", "calculator")
    tool = build_tool(item.cls, ToolUse("calculator"), ToolSite(Path()))
    backend = Slow(seed)
    agents = [
        Agent(Request((Message("user", f"Question {n}"),), sample_id=str(n)), {"calculator": tool}, rounds=TURNS)
        for n in range(AGENTS)
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder) / "journal.db")
        model: Any = JournaledModel("slow", backend, "slow", journal, "bench")
        began = time.perf_counter()
        done = run_agents(_Lockstep(model) if lockstep else model, agents)  # type: ignore[arg-type]
        seconds = time.perf_counter() - began
        journal.close()
    backend.close()
    assert all(len(each.turns) == TURNS for each in done)
    return seconds


def expected(seed: int) -> tuple[float, float]:
    """Return the seconds that the times of the calls alone need: in rounds, and side by side."""
    times = [[latency(seed, str(n), turn) for turn in range(TURNS)] for n in range(AGENTS)]
    rounds = sum(max(each[turn] for each in times) for turn in range(TURNS))
    return rounds, max(sum(each) for each in times)


def panel_table(found: dict[tuple[str, bool], list[dict[str, float]]]) -> str:
    """Return the figures of the panels, means over seeds with the standard deviation."""
    lines = [
        "| data | calculator | precision | recall | right labels before | right labels after | calls per row | USD per 1,000 rows |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (data, tools), runs in found.items():
        cells = []
        for name in runs[0]:
            values = [each[name] for each in runs]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            digits = 2 if name == "calls_per_row" else 3
            cells.append(f"{statistics.mean(values):.{digits}f} ± {spread:.{digits}f}")
        lines.append(f"| {data} | {'yes' if tools else 'no'} | {' | '.join(cells)} |")
    return "\n".join(lines)


def time_table(times: Sequence[dict[str, float]]) -> str:
    """Return the seconds of the agents."""
    lines = [
        "| seed | in rounds, s | side by side, s | ratio | ratio of the times of the calls alone |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {each['seed']:.0f} | {each['rounds']:.2f} | {each['side']:.2f} | {each['rounds'] / each['side']:.2f} | "
        f"{each['rounds_alone'] / each['side_alone']:.2f} |"
        for each in times
    ]
    return "\n".join(lines)


def main() -> None:
    """Run all and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    seeds = [int(each) for each in options.seeds.split(",")]
    found: dict[tuple[str, bool], list[dict[str, float]]] = {}
    for data in DATA:
        for tools in (False, True):
            for seed in seeds:
                figures = panel(data, options.rows, seed, tools=tools)
                found.setdefault((data, tools), []).append(figures)
                print(data, tools, seed, figures, file=sys.stderr, flush=True)
    times = []
    for seed in seeds:
        rounds_alone, side_alone = expected(seed)
        times.append(
            {
                "seed": float(seed),
                "rounds": min(timed(seed, lockstep=True) for _ in range(REPEATS)),
                "side": min(timed(seed, lockstep=False) for _ in range(REPEATS)),
                "rounds_alone": rounds_alone,
                "side_alone": side_alone,
            }
        )
    print(panel_table(found))
    print()
    print(time_table(times))
    if options.json:
        named = {f"{data}, {'with' if tools else 'without'} calculator": runs for (data, tools), runs in found.items()}  # fmt: skip
        options.json.write_text(json.dumps({"panels": named, "times": times}, indent=1) + "\n")


if __name__ == "__main__":
    main()
