"""Masks of ``segments.mask`` on the embedded model, where whole segments of other rows are planted in the reasoning.

    python -m benchmarks.segment_masks [--rows 200] [--seeds 0,1,2] [--share 0.4]

A row of the embedded world works its answer out in one line of steps; here each step is a segment of its own ("Wait" after a
blank line begins one), and steps of other rows are planted between them until they are ``share`` of the reasoning. The first
and the last segment are the row's own. What is masked is compared with what was planted, token by token, beside a control
that masks as many tokens of each row in random segments. Nothing is trained. The table on standard output is Markdown.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import yaml

from nfilter.engine.run import run
from nfilter.recipe.model import load as load_recipe
from nfilter.registry.loading import Plugins, load
from nfilter.store.tokens import read_tokens

_BREAK = "\n\nWait "
STEPS = 20
FORMS = ("entropy", "loss", "attribution")


def ran(plugins: Plugins, home: Path, recipe: dict[str, Any]) -> Path:
    """Run a recipe in ``home``; return the directory of the run."""
    (home / "r.yaml").write_text(yaml.safe_dump({"name": "segments", "answer": "exact", **recipe}))
    return run(load_recipe(home / "r.yaml", plugins), plugins, home / "run").directory


def world(plugins: Plugins, rows: int, seed: int) -> list[dict[str, str]]:
    """Return rows of the embedded world with their steps: ``question`` and ``answer``."""
    with tempfile.TemporaryDirectory() as place:
        source = {"use": "tiny", "split": "train", "rows": rows, "steps": True}
        out = ran(plugins, Path(place), {"source": source, "samples": [], "seed": seed})
        return [json.loads(line) for line in (out / "cleaned.jsonl").read_text().splitlines()]


def planted(rows: Sequence[dict[str, str]], share: float, seed: int) -> list[dict[str, Any]]:
    """Return the rows with segments of other rows in their reasoning, and the places of those in the response."""
    rng = random.Random(seed)
    steps = [row["answer"].rpartition("\n")[0].split(" ") for row in rows]
    made = []
    for number, row in enumerate(rows):
        own = steps[number]
        parts = [(piece, False) for piece in own]
        size, foreign = sum(map(len, own)), 0
        while foreign < share * (size + foreign):
            piece = rng.choice(steps[rng.randrange(len(rows))][2:] or own)
            parts.insert(rng.randint(1, len(parts) - 1), (piece, True))
            foreign += len(piece)
        text, places = "", []
        for at, (piece, wrong) in enumerate(parts):
            text += _BREAK if at else ""
            if wrong:
                places.append((len(text), len(text) + len(piece)))
            text += piece
        answer = row["answer"].rpartition("\n")[2]
        made.append({"question": row["question"], "answer": f"{text}\n{answer}", "planted": places})
    return made


def counted(rows: Sequence[dict[str, Any]], tokens: Path) -> list[float]:
    """Return the shares of planted and of own reasoning that are masked, precision and F1, over tokens."""
    places = {str(row["answer"]): row["planted"] for row in rows}
    counts = {(wrong, out): 0 for wrong in (True, False) for out in (True, False)}
    for sample in read_tokens(tokens)[0]:
        answer = next(text for text in places if text in sample.text)
        start, size = sample.text.index(answer), answer.rfind("\n")
        for at in range(len(sample.ids)):
            place = int(sample.spans[at, 0]) - start
            if sample.response[at] and 0 <= place < size:
                wrong = any(low <= place < high for low, high in places[answer])
                counts[wrong, not sample.weights[at]] += 1
    hit, missed = counts[True, True], counts[True, False]
    lost, kept = counts[False, True], counts[False, False]
    f1 = 2 * hit / max(1, 2 * hit + missed + lost)
    return [hit / (hit + missed), lost / (lost + kept), hit / max(1, hit + lost), f1]


def measured(plugins: Plugins, rows: Sequence[dict[str, Any]], by: str, seed: int) -> list[list[float]]:  # fmt: skip
    """Return the figures of one form and of its random control, which reads the same scores."""
    with tempfile.TemporaryDirectory() as place:
        home = Path(place)
        (home / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        recipe = {
            "models": {"student": {"use": "hf", "model": "tiny"}},
            "source": {
                "use": "jsonl",
                "path": "rows.jsonl",
                "columns": {"prompt": "question", "response": "answer"},
            },
            "samples": [],
            "encode": {"model": "student", "max_length": 512},
            "seed": seed,
        }
        found = []
        for random_ in (False, True):
            stage = {"use": "segments.mask", "by": by, "steps": STEPS, "random": random_}
            out = ran(plugins, home, {**recipe, "tokens": [stage]})
            found.append(counted(rows, out / "tokens"))
        return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--share", type=float, default=0.4)
    given = parser.parse_args()
    plugins = load()
    seeds = [int(seed) for seed in given.seeds.split(",")]
    data = {seed: planted(world(plugins, given.rows, seed), given.share, seed) for seed in seeds}
    print("| line | planted and masked | own and masked | precision | F1 |")
    print("| --- | --- | --- | --- | --- |", flush=True)
    for by in FORMS:
        begun = time.process_time()
        found = [measured(plugins, data[seed], by, seed) for seed in seeds]
        for number, name in enumerate((by, f"{by}, random")):
            columns = zip(*(each[number] for each in found), strict=True)
            shown = [f"{mean(each):.3f} ({spread(each):.3f})" for each in columns]
            print(f"| {name} | {' | '.join(shown)} |", flush=True)
        print(f"{by}: {time.process_time() - begun:.0f} s of processor time", file=sys.stderr)


def spread(values: Sequence[float]) -> float:
    """Return the standard deviation; 0 of one value."""
    return stdev(values) if len(values) > 1 else 0.0


if __name__ == "__main__":
    main()
