"""Near duplicates among many edits of one row: rows per second of entp.purge at growing sizes, compared with datasketch's MinHashLSH.

python -m benchmarks.purge_copies [--rows 4000,16000,64000] [--compared 1000,2000,4000] [--kinds both,response] [--out figures.json]

Kinds: "both" has one of 30 words of the question and one of 80 of the response replaced; "response" has 2, 8, 24 or 40 words of the
response replaced. The other tool is used as its documentation shows: a row queries the index, and is added to it if no candidate is
a near duplicate, by the same comparison. It has the same signatures and bands, and keeps all rows in memory. Times are processor
time of one process per size, with reading rows and without making them.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nfilter import Message, Sample
from nfilter.testing import FakeContext
from nfilter_entp.purging.minhash import BANDS, ROWS
from nfilter_entp.purging.purge import Purge, PurgeConfig
from nfilter_entp.purging.row_similarity import Parts, Shingled, similarity_of
from nfilter_entp.purging.texts import Text

WORDS = [a + b + c for a in "bdfgklmnprst" for b in "aeiou" for c in ("n", "sta", "rek", "lo", "mi")]  # fmt: skip
RULES = ["exact_duplicates", "near_duplicates"]


def edits_of_one(kind: str, rows: int) -> Iterator[Sample]:
    """Yield edits of one row."""
    rng = random.Random(0)
    question = [rng.choice(WORDS) for _ in range(30)]
    response = [rng.choice(WORDS) for _ in range(80)]
    for number in range(rows):
        asked = _edited(question, 1, rng) if kind == "both" else question
        edits = 1 if kind == "both" else rng.choice([2, 8, 24, 40])
        turns = (Message("user", " ".join(asked)), Message("assistant", " ".join(_edited(response, edits, rng))))  # fmt: skip
        yield Sample(str(number), turns)


def _edited(words: list[str], edits: int, rng: random.Random) -> list[str]:
    words = list(words)
    for place in rng.sample(range(len(words)), edits):
        words[place] = rng.choice(WORDS)
    return words


def purge(kind: str, rows: int) -> dict[str, Any]:
    """Measure entp.purge with the two rules of duplicates."""
    stage, ctx = Purge(PurgeConfig.model_validate({"rules": RULES})), FakeContext()
    stage.fit(edits_of_one(kind, 50), ctx)  # imports and tables
    before, began = _peak(), time.process_time()
    state = stage.fit(edits_of_one(kind, rows), ctx)
    seconds = time.process_time() - began - _making(kind, rows)
    report: Any = state.values["report"]
    found = sum(report["broken"].values())
    return {**_figures("entp.purge", kind, rows, seconds, found), "bytes_per_row": round((_peak() - before) / rows)}  # fmt: skip


def lsh(kind: str, rows: int) -> dict[str, Any]:
    """Measure a loop over datasketch's MinHashLSH, in the order in which entp.purge decides: the longest response first."""
    from datasketch import MinHash, MinHashLSH

    samples = sorted(edits_of_one(kind, rows), key=lambda sample: -len(sample.response))
    Parts.of(Text.of(samples[0])).joint()  # tables
    began = time.process_time()
    index = MinHashLSH(num_perm=BANDS * ROWS, params=(BANDS, ROWS))
    stay, found = dict[int, Shingled](), 0
    for number, sample in enumerate(samples):
        parts = Parts.of(Text.of(sample))
        own = Shingled(parts)
        signature = MinHash(num_perm=BANDS * ROWS, seed=1, hashfunc=_as_it_is)
        signature.update_batch([parts.joint()])
        if any(similarity_of(own, stay[near], 0.7) is not None for near in index.query(signature)):
            found += 1
        else:
            index.insert(number, signature)
            stay[number] = own
    return _figures("MinHashLSH", kind, rows, time.process_time() - began, found)


def _as_it_is(value: Any) -> Any:
    return value  # shingles are already hashed


def _figures(tool: str, kind: str, rows: int, seconds: float, found: int) -> dict[str, Any]:
    return {"tool": tool, "kind": kind, "rows": rows, "rows_per_second": round(rows / seconds), "found": found}  # fmt: skip


def _making(kind: str, rows: int) -> float:
    few = min(rows, 20_000)
    began = time.process_time()
    for _ in edits_of_one(kind, few):
        pass
    return (time.process_time() - began) / few * rows


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    """Measure each size in a process of its own, and print a table."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    options.add_argument("--rows", default="4000,16000,64000")
    options.add_argument("--compared", default="1000,2000,4000", help="sizes for both tools")
    options.add_argument("--kinds", default="both,response")
    options.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    options.add_argument("--out", type=Path)
    args = options.parse_args()
    if args.one:
        tool, kind, rows = args.one
        print(json.dumps({"purge": purge, "lsh": lsh}[tool](kind, int(rows))))
        return
    sizes = [("purge", rows) for rows in args.rows.split(",") if rows]
    both = [(tool, rows) for rows in args.compared.split(",") if rows for tool in ("purge", "lsh")]
    figures = []
    print("| edits | tool | rows | rows/s | found | bytes per row |\n|---|---|---|---|---|---|")
    for kind in args.kinds.split(","):
        for tool, rows in both + sizes:
            command = [sys.executable, "-m", "benchmarks.purge_copies", "--one", tool, kind, rows]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            figures.append(json.loads(done.stdout))
            print("| " + " | ".join(str(figures[-1].get(key, "")) for key in ("kind", "tool", "rows", "rows_per_second", "found", "bytes_per_row")) + " |", flush=True)  # fmt: skip
    if args.out:
        args.out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
