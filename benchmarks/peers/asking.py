"""Shared code of the other tools' clients. It runs in each tool's own environment, with the standard library only.

A client is started as ``python ask_TOOL.py URL CALLS LEVEL FOLDER [--warm URL]``. What the tool keeps between runs lies
under FOLDER, so that the same command again is its way to go on; the answers are written to FOLDER/answers.jsonl.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import time
from collections.abc import Callable
from pathlib import Path

Run = Callable[[str, list[str], int, Path], Callable[[], "dict[str, str]"]]
"""Asks the questions at a base URL, so many at a time, keeping its own files in a folder.

What it returns reads the answers out of what the tool has made, by question, after the clock has stopped.
"""

CLIENT_CORE = {1}


def questions(calls: int, name: str = "Question") -> list[str]:
    """Return distinct questions of about 60 words, like those of a stage."""
    filler = " ".join(f"word{n}" for n in range(50))
    return [f"{name} {n}: {filler}?" for n in range(calls)]


def processor_seconds() -> float:
    """Return the processor time of this process, its threads, and its finished children."""
    whole = 0.0
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        used = resource.getrusage(who)
        whole += used.ru_utime + used.ru_stime
    return whole


def pin() -> None:
    """Run on the client's core, if the system supports it."""
    if hasattr(os, "sched_setaffinity") and (os.cpu_count() or 1) > 1:
        os.sched_setaffinity(0, CLIENT_CORE)


def main(run: Run) -> None:
    """Run once: write the answers to a file, and wall and processor seconds to standard output as one line of JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("calls", type=int)
    parser.add_argument("level", type=int)
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--warm", help="base URL of another server, asked once before the clock starts"
    )
    options = parser.parse_args()
    pin()
    folder = options.folder.resolve()
    if options.warm:  # what a tool imports and sets up at its first call is no part of a call
        (folder / "warm").mkdir(parents=True)
        run(options.warm, questions(2, "Warming"), options.level, folder / "warm")()
    asked = questions(options.calls)
    (folder / "kept").mkdir(parents=True, exist_ok=True)
    wall, cpu = time.perf_counter(), processor_seconds()
    read = run(options.url, asked, options.level, folder / "kept")
    wall, cpu = time.perf_counter() - wall, processor_seconds() - cpu
    with (folder / "answers.jsonl").open("w", encoding="utf-8") as out:
        out.writelines(json.dumps(pair) + "\n" for pair in read().items())
    print(json.dumps({"wall": wall, "cpu": cpu}), flush=True)
