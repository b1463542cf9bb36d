"""Many rows through ``entp.purge`` and ``robustft.neighbors``: rows per second, memory per process, and what the index costs in accuracy.

python benchmarks/at_scale.py [--rows 2000000] [--workers 1,2] [--exact-up-to 100000] [--dimensions 64]
    [--code 16] [--steps purge,ivf] [--out FILE]

Every run is a command of its own, with one process or with workers of the executor ``local``. Rows are drawn with a seed: junk and
copies for the purge; for neighbours 1,000 topics with 100 answers, 30% of them wrong, and an encoder that computes vectors from the
text. Each step runs with a quarter of the rows too: growth is the difference of the peaks per row. Memory is sampled in /proc.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ENCODER = Path(__file__).with_name("topics_encoder.py")
TOPICS, ANSWERS, WRONG = 1000, 100, 0.3
_EVERY = 0.1  # seconds between two looks at the memory of processes
_WORDS = tuple(f"{a}{b}{c}" for a in "bdfgklmnprst" for b in "aeiou" for c in "lmnrst")


@dataclass(frozen=True, slots=True)
class Figures:
    """One run.

    Attributes:
        step: What was run.
        rows: The rows of the source.
        workers: Processes that share the chunks.
        seconds: Time from start to end of the command.
        rows_per_second: Rows per second of that time.
        cpu_us_per_row: Processor time of all processes, in microseconds per row.
        peak_mib: Largest resident memory of one process, with the pages of mapped files that the kernel may drop.
        own_mib: Largest memory of one process without pages of files.
        index: The report of the index, if it has lists.
        output: The SHA-256 of cleaned.jsonl.
    """

    step: str
    rows: int
    workers: int
    seconds: float
    rows_per_second: float
    cpu_us_per_row: float
    peak_mib: float
    own_mib: float
    index: dict[str, Any] | None
    output: str


def write_purge(path: Path, rows: int) -> None:
    """Draw rows of about 300 characters: one in 20 is a copy, one in 20 has an empty response."""
    rng = random.Random(0)
    last = ""
    with path.open("w", encoding="utf-8") as out:
        for number in range(rows):
            asked = f"Describe {' '.join(rng.choices(_WORDS, k=rng.randint(8, 20)))}."
            said = f"{' '.join(rng.choices(_WORDS, k=rng.randint(20, 40))).capitalize()}."
            draw = rng.random()
            if draw < 0.05:
                said = ""
            text = (
                last
                if last and draw > 0.95
                else json.dumps({"instruction": asked, "output": said})[1:]
            )
            last = text
            out.write(f'{{"id": "row-{number}", {text}\n')


def write_neighbours(path: Path, rows: int) -> None:
    """Draw rows with a topic, whose number decides the right answer."""
    rng = random.Random(0)
    with path.open("w", encoding="utf-8") as out:
        for number in range(rows):
            topic = rng.randrange(TOPICS)
            answer = rng.randrange(ANSWERS) if rng.random() < WRONG else topic % ANSWERS
            row = {
                "id": f"row-{number}",
                "instruction": f"What of topic {topic}, number {number}?",
                "output": str(answer),
            }
            out.write(json.dumps(row) + "\n")


def recipe(step: str, workers: int, dimensions: int, index: dict[str, Any]) -> dict[str, Any]:
    """Return the recipe of a step."""
    made: dict[str, Any] = {
        "name": "scale",
        "answer": "exact",
        "chunk": 2000,
        "source": {"use": "jsonl", "path": f"{step.split(',', maxsplit=1)[0]}.jsonl"},
        "samples": [{"use": "entp.purge"}],
        "arms": [],
    }
    if step != "purge":
        made["models"] = {"encoder": {"use": "bench.topics", "dimensions": dimensions}}
        made["samples"] = [
            {"use": "robustft.neighbors", "weighting": "similarity", "k": 10, "index": index}
        ]
    if workers > 1:
        made["executor"] = {"use": "local", "workers": workers}
    return made


class Watch:
    """The peaks of the memory of a process and of those that it started."""

    def __init__(self, process: int) -> None:
        self.peak: dict[int, int] = {}
        self.own: dict[int, int] = {}
        self._process = process
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Stop."""
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ended.is_set():
            for process in processes_of(self._process):
                values = _status(process)
                for found, key in ((self.peak, "VmHWM"), (self.own, "RssAnon")):
                    found[process] = max(found.get(process, 0), values.get(key, 0))
            self._ended.wait(_EVERY)


def processes_of(process: int) -> list[int]:
    """Return a process and those that any of its threads started."""
    started: list[int] = []
    with suppress(OSError):  # it may end meanwhile
        for thread in Path(f"/proc/{process}/task").iterdir():
            started += map(int, (thread / "children").read_text(encoding="ascii").split())
    return [process, *(each for child in started for each in processes_of(child))]


def _status(process: int) -> dict[str, int]:
    """Return the sizes of a process in KiB."""
    try:
        text = Path(f"/proc/{process}/status").read_text(encoding="utf-8")
    except OSError:
        return {}
    lines = (line.split() for line in text.splitlines() if line.endswith(" kB"))
    return {name.rstrip(":"): int(value) for name, value, _ in lines}


def one(
    home: Path, step: str, rows: int, workers: int, dimensions: int, index: dict[str, Any]
) -> Figures:
    """Run a step in processes of its own; return its figures.

    Raises:
        RuntimeError: if it fails.
    """
    name = f"{step.replace(', ', '-').replace(' ', '-')}-{rows}-{workers}"
    (home / f"{name}.yaml").write_text(
        json.dumps(recipe(step, workers, dimensions, index)), encoding="utf-8"
    )
    command = [
        sys.executable,
        "-m",
        "nfilter",
        "run",
        f"{name}.yaml",
        "--out",
        name,
        "--quiet",
        "--plugin",
        str(ENCODER),
        "--limit",
        str(rows),
    ]
    began = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=home, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    watch = Watch(process.pid)
    assert process.stderr is not None
    error = process.stderr.read()
    _, status, used = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    watch.end()
    if status:
        raise RuntimeError(f"{step}, {rows} rows, {workers} workers: {error[-2000:]}")
    metrics = json.loads((home / name / "metrics.json").read_text(encoding="utf-8"))
    reports = metrics.get("stages", {}).values()
    found = [each["neighbors"].get("index") for each in reports if "neighbors" in each]
    return Figures(
        step, rows, workers, round(seconds, 1), round(rows / seconds), round((used.ru_utime + used.ru_stime) / rows * 1e6),
        round(max(watch.peak.values(), default=0) / 1024, 1), round(max(watch.own.values(), default=0) / 1024, 1),
        found[0] if found else None, hashlib.sha256((home / name / "cleaned.jsonl").read_bytes()).hexdigest(),
    )  # fmt: skip


def growth(figures: Sequence[Figures], each: Figures) -> tuple[float, float] | None:
    """Return by how many bytes per row the two peaks grew from the run with fewer rows; None for that one."""
    less = [
        f
        for f in figures
        if (f.step, f.workers) == (each.step, each.workers) and f.rows < each.rows
    ]
    if not less:
        return None
    rows = each.rows - less[0].rows
    return (each.peak_mib - less[0].peak_mib) * 2**20 / rows, (
        each.own_mib - less[0].own_mib
    ) * 2**20 / rows


def table(figures: Sequence[Figures]) -> str:
    """Return the figures as a table."""
    lines = [
        "| step | rows | workers | rows/s | CPU µs per row | peak MiB | without files | growth, bytes per row | recall | changed flags |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for each in figures:
        grew = growth(figures, each)
        grown = "" if grew is None else f"{grew[0]:.0f}, {grew[1]:.0f} without files"
        index = each.index or {}
        error = [f"{index[name]:.2%}" if name in index else "" for name in ("recall", "changed")]
        lines.append(
            f"| {each.step} | {each.rows:,} | {each.workers} | {each.rows_per_second:,.0f} | {each.cpu_us_per_row:,.0f} | "
            f"{each.peak_mib:,.0f} | {each.own_mib:,.0f} | {grown} | {' | '.join(error)} |"
        )
    return "\n".join(lines)


def different(figures: Sequence[Figures]) -> list[str]:
    """Return the steps whose rows depend on the number of workers."""
    outputs: dict[tuple[str, int], set[str]] = {}
    for each in figures:
        outputs.setdefault((each.step, each.rows), set()).add(each.output)
    return [f"{step}, {rows:,} rows" for (step, rows), found in outputs.items() if len(found) > 1]


def main() -> None:
    """Run all steps with both sizes, and print the figures."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    options.add_argument("--rows", type=int, default=2_000_000)
    options.add_argument("--workers", default="1,2")
    options.add_argument("--dimensions", type=int, default=64)
    options.add_argument("--code", type=int, default=16, help="bytes per vector of the step code")
    options.add_argument(
        "--exact-up-to", type=int, default=100_000, help="rows up to which the exact index runs too"
    )
    options.add_argument(
        "--steps",
        default="",
        help="of purge, ivf, code, exact and graph; all that fit the rows without it",
    )
    options.add_argument("--out", type=Path, help="a JSON file for the figures")
    args = options.parse_args()
    named: dict[str, tuple[str, dict[str, Any]]] = {
        "purge": ("purge", {}),
        "ivf": ("neighbours, ivf", {"use": "ivf"}),
        "code": (f"neighbours, ivf of {args.code} bytes", {"use": "ivf", "code": args.code}),
        "exact": ("neighbours, exact", {"use": "exact"}),
        "graph": ("neighbours, graph", {"use": "auto"}),
    }
    # A graph is built above 50,000 vectors.
    usual = ["purge", "ivf", "code", "exact" if args.rows <= args.exact_up_to else "graph"]
    steps = dict(named[name] for name in (args.steps.split(",") if args.steps else usual))
    figures: list[Figures] = []
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        write_purge(home / "purge.jsonl", args.rows)
        write_neighbours(home / "neighbours.jsonl", args.rows)
        for step, index in steps.items():
            for workers in map(int, args.workers.split(",")):
                for rows in (max(1, args.rows // 4), args.rows):
                    figures.append(one(home, step, rows, workers, args.dimensions, index))
                    print(json.dumps(asdict(figures[-1])), file=sys.stderr, flush=True)
    print(table(figures))
    for each in different(figures):
        print(f"{each}: the rows depend on the number of workers")
    if args.out:
        args.out.write_text(
            json.dumps([asdict(each) for each in figures], indent=2) + "\n", encoding="utf-8"
        )


if __name__ == "__main__":
    main()
