"""Time and memory of the exact threshold over many token scores, compared with a full stable sort.

python benchmarks/selection_memory.py [--scores 100000000] [--share 0.6] [--sort]
"""

from __future__ import annotations

import argparse
import json
import resource
import time

import numpy as np

from nfilter_tokens.top_scores import find_cut


def peak() -> int:
    """Return the peak memory of this process, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    """Draw the scores, find the threshold, and print time and memory."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    options.add_argument("--scores", type=int, default=100_000_000)
    options.add_argument("--share", type=float, default=0.6)
    options.add_argument("--sort", action="store_true", help="sort them too, and compare")
    args = options.parse_args()
    empty = peak()
    scores = np.empty(args.scores, dtype=np.float32)
    rng = np.random.default_rng(0)
    for start in range(0, args.scores, 2**22):
        block = rng.standard_normal(min(2**22, args.scores - start), dtype=np.float32)
        scores[start : start + len(block)] = np.round(block, 4)  # with ties
    drawn = peak()
    began = time.perf_counter()
    keep = int(args.scores * args.share)
    cut = find_cut([scores], keep)
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
