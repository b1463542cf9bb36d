"""A large JSON Lines file through three cheap stages: memory, rows per second, and the engine's cost per stage.

python benchmarks/many_samples.py [--rows 100000,1000000] [--chunk N]

Each size runs in a process of its own. Rows are drawn with a seed; one in 10 is dropped, one in 20 relabelled. "Overhead" is
the CPU time of a stage less that of its own ``process``, a sample.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

from nfilter import Context, Contract, Sample, StageConfig, StageFinished, State, hookimpl

WORDS = (
    "the",
    "sum",
    "of",
    "two",
    "numbers",
    "is",
    "what",
    "a",
    "careful",
    "person",
    "writes",
    "down",
    "before",
    "any",
)


class Nothing(StageConfig):
    """No settings."""


class Timed:
    """The CPU seconds of all calls of ``process``."""

    inside: ClassVar[float] = 0.0


def stage(label: str, change: Callable[[Sample], Sample], writes: frozenset[str]) -> type:
    """A stage that applies ``change`` to every sample and measures its time."""

    class Stage:
        name: ClassVar[str] = label
        Config: ClassVar[type[StageConfig]] = Nothing

        def __init__(self, config: Nothing) -> None:
            pass

        @classmethod
        def contract(cls, config: Nothing) -> Contract:
            return Contract(writes=writes)

        def process(self, chunk: Sequence[Sample], state: State, ctx: Context) -> list[Sample]:
            began = time.process_time()
            out = [change(sample) for sample in chunk]
            Timed.inside += time.process_time() - began
            return out

    return Stage


def measured(sample: Sample) -> Sample:
    """A note of the response's length."""
    return sample.note("length", {"words": len(sample.response.split())})


def trimmed(sample: Sample) -> Sample:
    """Remove the trailing space that one response in 20 has."""
    text = sample.response
    return sample if text == text.strip() else sample.relabel(text.strip(), "blanks at the ends")


def long_enough(sample: Sample) -> Sample:
    """One response in 10 has fewer than 20 words."""
    note: Any = sample.notes["length"]
    words = note["words"]
    return sample if words >= 20 else sample.drop(f"length: {words} words, fewer than 20")


def write(path: Path, rows: int) -> None:
    """Draw the rows: about 300 characters each."""
    rng = random.Random(0)
    with path.open("w", encoding="utf-8") as out:
        for number in range(rows):
            asked = " ".join(rng.choices(WORDS, k=rng.randint(8, 20)))
            size = rng.randint(5, 19) if rng.random() < 0.1 else rng.randint(20, 50)
            said = " ".join(rng.choices(WORDS, k=size)) + (" " if rng.random() < 0.05 else "")
            row = {"id": f"row-{number}", "instruction": asked, "output": said}
            out.write(json.dumps(row) + "\n")


RECIPE = """\
name: many
{chunk}models: {{student: {{use: hf, model: tiny}}}}
source: {{use: jsonl, path: rows.jsonl}}
samples:
  - {{use: bench.measure}}
  - {{use: bench.trim}}
  - {{use: bench.cut}}
arms: []
"""


def one(rows: int, chunk: int | None) -> dict[str, Any]:
    """Run once in this process; return the figures."""
    from nfilter.engine.run import run
    from nfilter.recipe.model import load
    from nfilter.registry.loading import load as load_plugins

    marks: list[tuple[str, float]] = []
    module = ModuleType("bench")
    stages = [
        stage("bench.measure", measured, frozenset({"length"})),
        stage("bench.trim", trimmed, frozenset()),
        stage("bench.cut", long_enough, frozenset()),
    ]

    def nfilter_stages() -> list[type]:
        return stages

    def nfilter_stage_finished(event: StageFinished) -> None:
        marks.append((event.stage, time.process_time()))

    module.nfilter_stages = hookimpl(nfilter_stages)  # type: ignore[attr-defined]
    module.nfilter_stage_finished = hookimpl(nfilter_stage_finished)  # type: ignore[attr-defined]
    own: Any = SimpleNamespace(
        name="bench",
        dist=SimpleNamespace(name="bench", version="1"),
        value="bench",
        load=lambda: module,
    )
    plugins = load_plugins([*entry_points(group="nfilter"), own])
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        write(home / "rows.jsonl", rows)
        text = RECIPE.format(chunk=f"chunk: {chunk}\n" if chunk else "")
        (home / "r.yaml").write_text(text, encoding="utf-8")
        recipe = load(home / "r.yaml", plugins)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        began, wall = time.process_time(), time.perf_counter()
        run(recipe, plugins, home / "run")
        cpu, wall = time.process_time() - began, time.perf_counter() - wall
        metrics = json.loads((home / "run" / "metrics.json").read_text(encoding="utf-8"))
        size = (home / "rows.jsonl").stat().st_size
    # The first stage's mark has reading the source before it: only what lies between two marks is a stage's alone.
    engine = marks[-1][1] - marks[0][1]
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "rows": rows,
        "source_mib": round(size / 2**20, 1),
        "samples": metrics["samples"],
        "wall_seconds": round(wall, 1),
        "rows_a_second": round(rows / wall),
        "cpu_us_a_row": round(cpu / rows * 1e6, 1),
        "overhead_us_a_sample_a_stage": round(
            (engine - Timed.inside * 2 / 3) / (len(marks) - 1) / rows * 1e6, 1
        ),
        "peak_mib": round(after / 2**20),
        "peak_growth_mib": round((after - before) / 2**20),
        "growth_bytes_a_row": round((after - before) / rows),
    }


def main() -> None:
    """Run every size in its own process."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    options.add_argument("--rows", default="100000,1000000")
    options.add_argument("--chunk", type=int)
    options.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    args = options.parse_args()
    if args.one:
        print(json.dumps(one(int(args.rows), args.chunk), indent=2))
        return
    for rows in args.rows.split(","):
        command = [sys.executable, __file__, "--one", "--rows", rows]
        subprocess.run(
            [*command, *(["--chunk", str(args.chunk)] if args.chunk else [])], check=True
        )


if __name__ == "__main__":
    main()
