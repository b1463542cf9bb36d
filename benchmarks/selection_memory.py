"""Time and memory of the exact threshold over many token scores, compared with a full stable sort.

python benchmarks/selection_memory.py [--scores 100000000] [--share 0.6] [--sort]
python benchmarks/selection_memory.py --streamed [--scores 50000000]

With --streamed, the scores come in samples of 1,000 tokens that are drawn as they are read, as in a stage.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Iterator

import numpy as np

from nfilter import FloatArray, TokenCut, TokenSample
from nfilter.api.token_selection import find_threshold

SIZE = 1000  # tokens per sample of --streamed


def peak() -> int:
    """Return the peak memory of this process, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def samples(scores: int) -> Iterator[TokenSample]:
    """Yield samples with random scores that have ties."""
    rng = np.random.default_rng(0)
    for number in range(scores // SIZE):
        drawn = np.round(rng.standard_normal(SIZE, dtype=np.float32), 4)
        yield TokenSample(
            id=str(number), ids=np.zeros(SIZE, np.int64), response=np.ones(SIZE, bool), turn=np.zeros(SIZE, np.int16),
            spans=np.zeros((SIZE, 2), np.int32), weights=np.ones(SIZE, np.float32), scores={"drawn": drawn},
        )  # fmt: skip


def streamed(scores: int, share: float) -> None:
    """Find the threshold through a stream of samples, and print time and memory."""

    def score(sample: TokenSample) -> FloatArray:
        return sample.scores["drawn"]

    TokenCut.through(samples(10 * SIZE), score, lambda n: int(n * share))  # imports
    empty, began = peak(), time.process_time()
    cut = TokenCut.through(samples(scores), score, lambda n: int(n * share))
    figures = {
        "scores": cut.n,
        "kept": cut.kept,
        "bytes_of_the_scores": 4 * cut.n,
        "peak_bytes": peak() - empty,
        "seconds_of_processor_time_with_drawing": round(time.process_time() - began, 1),
    }
    print(json.dumps(figures, indent=2))


def main() -> None:
    """Draw the scores, find the threshold, and print time and memory."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    options.add_argument("--scores", type=int, default=100_000_000)
    options.add_argument("--share", type=float, default=0.6)
    options.add_argument("--sort", action="store_true", help="sort them too, and compare")
    options.add_argument("--streamed", action="store_true", help="read samples from a stream")
    args = options.parse_args()
    if args.streamed:
        streamed(args.scores, args.share)
        return
    empty = peak()
    scores = np.empty(args.scores, dtype=np.float32)
    rng = np.random.default_rng(0)
    for start in range(0, args.scores, 2**22):
        block = rng.standard_normal(min(2**22, args.scores - start), dtype=np.float32)
        scores[start : start + len(block)] = np.round(block, 4)  # with ties
    drawn = peak()
    began = time.perf_counter()
    keep = int(args.scores * args.share)
    cut = find_threshold([scores], keep)
    seconds = time.perf_counter() - began
    figures = {
        "scores": args.scores,
        "bytes_of_the_scores": scores.nbytes,
        "seconds": round(seconds, 2),
        "peak_over_their_bytes": round((peak() - empty) / scores.nbytes, 3),
        "beside_the_scores_bytes": peak() - drawn,
        "ties_at_the_cut": cut.ties,
    }
    if args.sort:
        began = time.perf_counter()
        order = np.argsort(-scores, kind="stable")[:keep]
        figures["seconds_of_a_stable_sort"] = round(time.perf_counter() - began, 2)
        last = scores[order[-1]]
        figures["same_cut"] = bool((scores > last).sum() + cut.ties == keep)
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
