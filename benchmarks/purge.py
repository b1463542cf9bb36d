"""What entp.purge finds of planted junk, what it purges of untouched rows, and what it costs on many rows.

python -m benchmarks.purge --data FOLDER [--half report|tune] [--share 0.02] [--rows 300000] [--show] [--out figures.json]

FOLDER has dolly/dolly_3k.json (instruction, input, output) and gsm8k/train.jsonl (question, answer).
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.purge_junk import answered, edited, planted
from benchmarks.purge_requests import kinds, restyled
from nfilter import Message, Sample, hash_of
from nfilter.testing import FakeContext
from nfilter_entp.purging.purge import Purge, PurgeConfig
from nfilter_entp.purging.rules import Rules

CHUNK = 1000


def rows_of(folder: Path, name: str) -> list[Sample]:
    """All rows of a dataset as conversations of two turns."""
    if name == "dolly":
        rows = json.loads((folder / "dolly" / "dolly_3k.json").read_text(encoding="utf-8"))
        pairs = [(f"{r['instruction']}\n\n{r['input']}" if r["input"].strip() else r["instruction"], r["output"]) for r in rows]  # fmt: skip
    else:
        lines = (folder / "gsm8k" / "train.jsonl").read_text(encoding="utf-8").splitlines()
        pairs = [(row["question"], row["answer"]) for row in map(json.loads, lines)]
    return [
        Sample(f"{name}-{n}", (Message("user", asked), Message("assistant", said)))
        for n, (asked, said) in enumerate(pairs)
    ]


def half_of(samples: Sequence[Sample], half: str) -> list[Sample]:
    """Thresholds were chosen on one half of the rows, by a hash of their text, and figures are of the other."""
    wanted = half == "report"
    return [s for s in samples if hash_of(s.query + s.response) % 2 == wanted]


def purged(samples: Sequence[Sample], config: PurgeConfig) -> dict[str, list[str]]:
    """The reasons of each row that leaves, by id."""
    stage, ctx = Purge(config), FakeContext()
    state = stage.fit(iter(samples), ctx)
    out = [s for start in range(0, len(samples), CHUNK) for s in stage.process(samples[start : start + CHUNK], state, ctx)]  # fmt: skip
    return {s.id: s.dropped.split("; ") for s in out if s.dropped}


def flags(samples: Sequence[Sample]) -> dict[str, Any]:
    """How many of a dataset's own rows leave, by rule, as they are and as a careful writer would put them."""
    rng = random.Random("restyled")
    rules = {"exact_duplicates": None, "near_duplicates": None}
    named = [name for name in PurgeConfig().rules.model_fields_set if name not in rules]
    alone = PurgeConfig.model_validate({"rules": named})
    styled = [restyled(sample, rng) for sample in samples]
    return {
        "rows": len(samples),
        "as_they_are": _by_rule(purged(samples, PurgeConfig())),
        "restyled": _by_rule(purged(styled, alone)),
    }


def _by_rule(left: dict[str, list[str]]) -> dict[str, int]:
    names = [{reason.split(":")[0] for reason in reasons} for reasons in left.values()]
    known = Rules.model_fields
    return {"all": len(left), **Counter(name for each in names for name in each if name in known)}


def quality(
    samples: list[Sample], share: float, *, show: bool, half: str = "report"
) -> dict[str, Any]:
    """Precision and recall by kind. A row counts as found by whichever rule; precision is of the rule that names it."""
    mixed, junk = planted(samples, share, more=kinds(half))
    left = purged(mixed, PurgeConfig())
    base = {name: name.removesuffix("-copy") for name in junk}
    original = {source: name for name, source in base.items() if name != source}
    found: Counter[str] = Counter()
    wrong: list[Any] = []
    by_rule: dict[str, Any] = {}
    for name, reasons in left.items():
        # Of a pair the longer one stays, so the row that the copy was made of may leave in its place.
        kind = junk.get(name)
        if (
            kind is None
            and name in original
            and original[name] not in left
            and "duplicates" in reasons[0]
        ):
            kind = junk[original[name]]
        if kind is None:
            wrong.append((name, reasons))
        else:
            found[kind] += 1
        for reason in reasons:
            rule = reason.split(":")[0]
            if rule in Rules.model_fields:
                right, total = by_rule.get(rule, (0, 0))
                by_rule[rule] = (right + (kind is not None), total + 1)
    untouched = len(mixed) - len(junk)
    if show:
        texts = {s.id: s for s in mixed}
        for name, reasons in wrong:
            print(
                "WRONG",
                name,
                reasons,
                "|",
                texts[name].query[-150:],
                "|",
                texts[name].response[-150:],
            )
        for name, kind in junk.items():
            if (
                name not in left
                and original.get(base[name]) not in left
                and not (name != base[name] and base[name] in left)
            ):
                print(
                    "MISSED",
                    kind,
                    repr(texts[name].query[-60:]),
                    "|",
                    repr(texts[name].response[-90:]),
                )
    return {
        "rows": len(mixed),
        "recall": {kind: [found[kind], total] for kind, total in Counter(junk.values()).items()},
        "precision": {rule: list(pair) for rule, pair in sorted(by_rule.items())},
        "untouched_purged": [len(wrong), untouched],
        "wrong_by_rule": dict(Counter(reasons[0].split(":")[0] for _, reasons in wrong)),
    }


def many(samples: Sequence[Sample], rows: int) -> Iterator[Sample]:
    """Copies of the rows, each edited on its own: from a few words, a near copy, to half of them, which is none."""
    rng = random.Random(0)
    for number in range(rows):
        sample = samples[number % len(samples)]
        share = rng.choice([0.02, 0.1, 0.3, 0.5])
        turns = (Message("user", edited(sample.query, rng, share)), sample.messages[-1])
        copy = replace(sample, messages=turns)
        yield answered(copy, edited(sample.response, rng, share), f"{sample.id}-{number}")


def cost(folder: Path, rows: int) -> dict[str, Any]:
    """Rows a second of processor time and bytes of memory a row, of rows that are made as they are read and never held together."""
    samples = rows_of(folder, "dolly")
    began = time.process_time()
    size = sum(len(s.query) + len(s.response) for s in many(samples, min(rows, 20_000))) / min(
        rows, 20_000
    )
    making = (time.process_time() - began) / min(rows, 20_000)
    stage, ctx = Purge(PurgeConfig()), FakeContext()
    stage.process(samples[:200], stage.fit(iter(samples[:200]), ctx), ctx)  # tables and imports
    before = _peak()
    wall, began = time.perf_counter(), time.process_time()
    state = stage.fit(many(samples, rows), ctx)
    fitted = time.process_time() - began
    grown = _peak() - before
    began, chunk, dropped = time.process_time(), [], 0
    for number, sample in enumerate(many(samples, rows), start=1):
        chunk.append(sample)
        if len(chunk) == CHUNK or number == rows:
            dropped += sum(s.dropped is not None for s in stage.process(chunk, state, ctx))
            chunk = []
    decided = time.process_time() - began
    spent = fitted + decided - 2 * making * rows
    return {
        "rows": rows, "characters_a_row": round(size), "fit_seconds": round(fitted - making * rows, 1),
        "process_seconds": round(decided - making * rows, 1), "rows_a_second": round(rows / spent), "wall_seconds_with_making": round(time.perf_counter() - wall, 1),
        "bytes_a_row": round(grown / rows), "state_bytes": sum(a.nbytes for a in state.arrays.values()),
        "dropped": dropped, "report": state.values["report"],
    }  # fmt: skip


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _table(name: str, figures: dict[str, Any]) -> None:
    wrong, untouched = figures["untouched_purged"]
    print(
        f"\n{name}: {figures['rows']} rows; {wrong} of {untouched} untouched rows purged ({100 * wrong / untouched:.2f}%), {figures['wrong_by_rule']}"
    )
    print("| planted | found | | rule | right of those it names |\n|---|---|---|---|---|")
    kinds, rules = list(figures["recall"].items()), list(figures["precision"].items())
    for n in range(max(len(kinds), len(rules))):
        kind = f"{kinds[n][0]} | {kinds[n][1][0]} of {kinds[n][1][1]}" if n < len(kinds) else " | "
        rule = f"{rules[n][0]} | {rules[n][1][0]} of {rules[n][1][1]}" if n < len(rules) else " | "
        print(f"| {kind} | | {rule} |")


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    options.add_argument("--data", type=Path, required=True)
    options.add_argument("--half", choices=["report", "tune"], default="report")
    options.add_argument("--share", type=float, default=0.02)
    options.add_argument("--rows", type=int, default=300_000)
    options.add_argument(
        "--show",
        action="store_true",
        help="print untouched rows that were purged, and junk that was not",
    )
    options.add_argument("--cost-alone", action="store_true", help=argparse.SUPPRESS)
    options.add_argument("--out", type=Path)
    args = options.parse_args()
    if args.cost_alone:
        print(json.dumps(cost(args.data, args.rows)))
        return
    figures: dict[str, Any] = {}
    for name in ("dolly", "gsm8k"):
        figures[name] = quality(
            half_of(rows_of(args.data, name), args.half), args.share, show=args.show, half=args.half
        )
        _table(name, figures[name])
        figures[f"{name}_flags"] = flags(rows_of(args.data, name))
        print(f"\n{name}, all rows: {json.dumps(figures[f'{name}_flags'])}")
    if args.rows:
        # In a process of its own: the peak of memory is of this part alone.
        command = [
            sys.executable,
            "-m",
            "benchmarks.purge",
            "--data",
            str(args.data),
            "--rows",
            str(args.rows),
            "--cost-alone",
        ]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        figures["cost"] = json.loads(done.stdout)
        print("\n" + json.dumps(figures["cost"], indent=2))
    if args.out:
        args.out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
