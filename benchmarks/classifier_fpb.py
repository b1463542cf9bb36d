"""FPB relabelled by the classifier only: correct labels before and after, and detection of wrong labels.

    python -m benchmarks.classifier_fpb --data FOLDER --out figures.json [--student MODEL] [--seeds 3]

FOLDER is as for ``benchmarks.neighbors_fpb``. Seed 0 has the files' own noise, the others redraw it as the files were
made. ``--student`` names a causal model whose states at two thirds of its depth are a second encoder. The truth is used
for scoring and, in the rows with trusted labels, for a hundred of them; never to choose anything.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.neighbors_fpb import (
    LETTERS,
    LEVELS,
    Cached,
    Level,
    auc,
    encoder_folder,
    f1,
    load,
    with_trusted,
)
from nfilter import Message, Sample, Site
from nfilter.testing import FakeContext
from nfilter_embed.backend import SentenceTransformers, SentenceTransformersConfig
from nfilter_hf.backend import HFBackend
from nfilter_hf.config import HFConfig
from nfilter_robustft.classifier import Classifier, ClassifierConfig
from nfilter_robustft.settle import Settle, SettleConfig

DEPTH = 0.66


def redrawn(level: Level, percent: int, seed: int) -> Level:
    """Return the same rows with equally many wrong labels, at other rows than in the file."""
    rng = np.random.default_rng(1000 * seed + percent)
    n, c = len(level.truth), level.classes
    rows = rng.permutation(n)[: int(n * percent / 100)]
    codes = level.truth.copy()
    codes[rows] = (codes[rows] + rng.integers(1, c, size=len(rows))) % c
    samples = [
        Sample(s.id, (s.messages[0], Message("assistant", LETTERS[code])), meta=s.meta)
        for s, code in zip(level.samples, codes, strict=True)
    ]
    return Level(samples, codes != level.truth, codes, level.truth, c)


def measured(level: Level, encoders: dict[str, Any], trusted: str | None) -> dict[str, Any]:
    """Run both stages as in a recipe. Trusted rows are in no fraction."""
    start = time.process_time()
    ctx = FakeContext(models=encoders, answers="choice", seed=0)
    stage = Classifier(ClassifierConfig(encoder=list(encoders), trusted=trusted))
    state = stage.fit(iter(level.samples), ctx)
    settle = Settle(SettleConfig())
    viewed = stage.process(level.samples, state, ctx)
    out = settle.process(viewed, state, ctx)
    seconds = time.process_time() - start
    rest = np.array([not (trusted and s.meta.get(trusted)) for s in out])
    checks: list[Any] = [s.notes["check"] for s in out]
    flagged = np.array([check["flagged"] for check in checks])
    scores = np.array([check["noise_score"] for check in checks])
    codes = np.array([LETTERS.index(s.response) for s in out])
    right = codes == level.truth
    left = np.array([s.dropped is None for s in out]) & rest
    weight = np.array([s.weight for s in out])
    wrong = level.wrong
    values: Any = state.values
    hit = int((flagged & wrong & rest).sum())
    return {
        "right_before": float(1 - wrong[rest].mean()),
        "right_after": float(right[left].mean()),
        "right_by_weight": float(np.average(right[left], weights=weight[left])),
        "rows_left": int(left.sum()),
        "relabelled_right": float(right[left & flagged].mean()) if (left & flagged).any() else None,
        "precision": hit / max(1, int((flagged & rest).sum())),
        "recall": hit / max(1, int((wrong & rest).sum())),
        "f1": f1(flagged[rest], wrong[rest]),
        "auc": auc(scores[rest], wrong[rest]),
        "noise_rate": values["report"]["classifier"]["noise_rate"],
        "informative": values["informative"],
        "seconds": round(seconds, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--encoder", type=Path)
    parser.add_argument("--student")
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    site = Site(Path())
    folder = str(encoder_folder(args.encoder))
    words = SentenceTransformersConfig(model=folder, device="cpu")
    encoders: dict[str, Any] = {"words": Cached(SentenceTransformers(words, site))}
    ways = [("words",)]
    if args.student:
        encoders["states"] = Cached(
            HFBackend(HFConfig(model=args.student, embed_layer=DEPTH), site)
        )  # type: ignore[arg-type]
        ways.append(("words", "states"))
    out: list[dict[str, Any]] = []
    for percent in LEVELS:
        for seed in range(args.seeds):
            level = load(args.data / "noisy" / f"noisy{percent}.csv")
            if seed:
                level = redrawn(level, percent, seed)
            marked, _ = with_trusted(level, 100, 100 + seed)
            for names in ways:
                for each, trusted in ((level, None), (marked, "sure")):
                    figures = measured(each, {name: encoders[name] for name in names}, trusted)
                    row = {"noise": percent, "seed": seed, "encoders": list(names), **figures}
                    out.append({**row, "trusted": 100 if trusted else 0})
                    args.out.write_text(json.dumps(out, indent=1) + "\n", encoding="utf-8")
    print(
        "noise  encoders        trusted  right before  after  by weight  rows  P     R     F1    AUC"
    )
    keys = ("right_before", "right_after", "right_by_weight", "rows_left")
    for percent in LEVELS:
        for names in ways:
            for trusted in (0, 100):
                rows = [
                    r for r in out
                    if (r["noise"], r["encoders"], r["trusted"]) == (percent, list(names), trusted)
                ]  # fmt: skip
                a, b, c, d = (np.mean([r[key] for r in rows]) for key in keys)
                p, r, f, u = (
                    np.mean([r[key] for r in rows]) for key in ("precision", "recall", "f1", "auc")
                )
                silent = "" if all(r["informative"] for r in rows) else "  (silent)"
                print(
                    f"{percent}%    {' + '.join(names):15} {trusted:7d}  {a:12.3f}  {b:.3f}  {c:9.3f}  {d:4.0f}  "
                    f"{p:.3f} {r:.3f} {f:.3f} {u:.3f}{silent}"
                )


if __name__ == "__main__":
    main()
