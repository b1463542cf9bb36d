"""Flipped preference pairs in the embedded task world: detection by view, and DPO on raw, cleaned and true pairs.

    python -m benchmarks.preference_pairs [--rows 400] [--test 400] [--development 400] [--rates 10,20,40] [--seeds 0,1,2] [--wrong uniform,own] [--dpo own]

The chosen response of a pair is the right answer of a question, the rejected one a wrong answer: ``uniform``, a plausible one at
random, or ``own``, a wrong answer that the model itself gave. A share of the pairs is flipped. F1 of the flips is that of each
view alone (a view flags the pairs whose label it contradicts), of the verdict of ``robustft.check`` and of as many pairs as that flags,
drawn at random. TRL's DPOTrainer then trains the embedded model on the pairs as given (raw), as the verdict leaves them (cleaned: flagged pairs
are swapped) and as they were before (truth); accuracy is the share of test pairs whose right answer has the higher log-probability. The
rate and the epochs of DPO are chosen first, among six, by the accuracy of the truth on development pairs, which are neither trained on nor reported.
The models' answers do not depend on labels, so each is computed once.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import statistics
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any, Final

import numpy as np

from nfilter import Exported, Message, Row, Sample, Site, State, Verdict, View
from nfilter.noise.labels import NoiseConfig, inject
from nfilter.testing import FakeContext
from nfilter_export.conversation_formats import NoSettings
from nfilter_export.preference_formats import TrlDpo
from nfilter_hf.backend import HFBackend
from nfilter_hf.config import HFConfig
from nfilter_pairs.decide import Decide
from nfilter_pairs.judge import Judge
from nfilter_pairs.neighbours import Neighbours
from nfilter_pairs.reward import Reward
from nfilter_robustft.check import Check
from nfilter_tiny import MODEL_DIR
from nfilter_tiny.own_wrong import ROWS
from nfilter_tiny.source import wrong_answers
from nfilter_tiny.world import id_of, problems

VIEWS: Final = ("reward", "neighbours", "judge")
STAGES: Final = (
    (Reward, {"max_length": 64}),
    (Neighbours, {"encoder": "student"}),
    (Judge, {"llm": "student", "prompt": "tiny/review_answers", "max_tokens": 80}),
    (Check, {"views": list(VIEWS), "vote": "probability"}),
    (Decide, {}),
)
DPO: Final = {"beta": 0.1, "per_device_train_batch_size": 16}
CANDIDATES: Final = tuple(
    {"learning_rate": rate, "num_train_epochs": epochs}
    for rate in (1e-4, 3e-4, 1e-3)
    for epochs in (1, 3)
)
CHOICE_SEED: Final = 100  # of no reported training


@dataclass
class Remembered:
    """A model whose losses, vectors and completions are computed once per text."""

    inner: HFBackend
    known: dict[Any, Any] = field(default_factory=dict)

    def encode(self, samples: Any, **settings: Any) -> Any:
        return self.inner.encode(samples, **settings)

    def score(self, samples: Any, adapter: Any = None) -> Any:
        return self._each([each.ids.tobytes() for each in samples], samples, self.inner.score)

    def embed(self, texts: Any) -> Any:
        return np.stack(self._each([("vector", text) for text in texts], texts, self.inner.embed))

    def generate(self, requests: Any) -> Any:
        keys = [(request.messages, request.sampling) for request in requests]
        return self._each(keys, requests, self.inner.generate)

    def _each(self, keys: Sequence[Any], items: Sequence[Any], compute: Any) -> list[Any]:
        missing = {
            key: item for key, item in zip(keys, items, strict=True) if key not in self.known
        }
        if missing:
            self.known |= zip(missing, compute(list(missing.values())), strict=True)
        return [self.known[key] for key in keys]


def pairs(kind: Any) -> list[Sample]:
    """The questions for which there are wrong answers of both kinds, with their right and one wrong answer."""
    out = []
    for problem in problems("train", "tasks")[:ROWS]:
        wrong = [str(each) for each in wrong_answers(problem, kind) if each != problem.answer]
        messages = (Message("user", problem.question), Message("assistant", problem.answer))
        if wrong:
            out.append(Sample(id_of(problem), messages, rejected=Message("assistant", wrong[0])))
    return out


def split(every: Sequence[Sample], *sizes: int) -> list[Sequence[Sample]]:
    """Consecutive parts of these sizes; the last ones are shorter if there are too few pairs."""
    ends = list(accumulate(sizes))
    return [every[end - size : end] for size, end in zip(sizes, ends, strict=True)]


def cleaned(samples: Sequence[Sample], model: Remembered, seed: int) -> list[Sample]:
    """Run the stages of the recipe ``preferences``."""
    for stage, config in STAGES:
        ctx = FakeContext(
            models={"student": model}, answers="preference", seed=seed, stage=stage.name
        )
        made: Any = stage(stage.Config.model_validate(config))  # type: ignore[attr-defined]
        state = made.fit(iter(samples), ctx) if hasattr(made, "fit") else State()
        samples = made.process(samples, state, ctx)
    return list(samples)


def f1(flags: Sequence[bool], flips: Sequence[bool]) -> float:
    hits = sum(a and b for a, b in zip(flags, flips, strict=True))
    return 2 * hits / max(sum(flags) + sum(flips), 1)


def detection(
    noisy: Sequence[Sample], done: Sequence[Sample], flips: Sequence[bool], seed: int
) -> dict[str, float]:
    """F1 of the flips by each view, by the verdict, and by as many pairs at random; the verdict's precision and recall."""
    out = {}
    for name in VIEWS:
        views = [View.of(sample, name) for sample in done]
        labels = ["A" if s.response < s.rejected.content else "B" for s in noisy if s.rejected]
        flags = [
            view is not None and view.answer not in (None, label)
            for view, label in zip(views, labels, strict=True)
        ]
        out[name] = f1(flags, flips)
    verdicts = [Verdict.of(sample, "check") for sample in done]
    flagged = [verdict is not None and verdict.flagged for verdict in verdicts]
    hits = sum(a and b for a, b in zip(flagged, flips, strict=True))
    drawn = set(random.Random(f"control {seed}").sample(range(len(noisy)), sum(flagged)))
    return {
        **out,
        "check": f1(flagged, flips),
        "random": f1([at in drawn for at in range(len(noisy))], flips),
        "precision": hits / max(sum(flagged), 1),
        "recall": hits / max(sum(flips), 1),
    }


@contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings of other libraries."""
    from datasets.utils.logging import disable_progress_bar
    from transformers.utils.logging import disable_progress_bar as no_bar_of_weights

    disable_progress_bar()
    no_bar_of_weights()
    logging.disable(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    logging.disable(logging.NOTSET)


def trained(
    samples: Sequence[Sample], seed: int, folder: Path, chosen: Mapping[str, float]
) -> Path:
    """Train the embedded model with DPOTrainer on the exported pairs."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    TrlDpo(NoSettings()).export(Exported(samples, (), (), encoded=False), folder)
    rows = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    settings = DPOConfig(
        output_dir=str(folder / "out"), use_cpu=True, report_to=[], bf16=False, gradient_checkpointing=False,
        save_strategy="no", seed=seed, max_length=64, disable_tqdm=True, logging_strategy="no", **DPO,
        **chosen,
    )  # fmt: skip
    trainer = DPOTrainer(
        AutoModelForCausalLM.from_pretrained(MODEL_DIR),
        args=settings,
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(MODEL_DIR),
    )
    trainer.train()
    trainer.save_model(str(folder / "model"))
    return folder / "model"


def accuracy(model: Path, test: Sequence[Sample]) -> float:
    """Share of the pairs whose right answer has the higher log-probability."""
    backend = HFBackend(HFConfig(model=str(model)), Site(model))
    ctx = FakeContext(models={"student": backend}, answers="preference")
    stage = Reward(Reward.Config.model_validate({"max_length": 64}))
    done = stage.process(test, stage.fit(iter(test), ctx), ctx)
    found = [View.of(sample, "reward") for sample in done]
    labels = [ctx.answers.parse(sample.response, sample) for sample in test]
    hits = sum(
        view is not None and view.answer == label for view, label in zip(found, labels, strict=True)
    )
    return hits / len(test)


def measured(
    samples: Sequence[Sample], seed: int, test: Sequence[Sample], chosen: Mapping[str, float]
) -> float:
    with tempfile.TemporaryDirectory() as folder, quiet():
        return accuracy(trained(samples, seed, Path(folder), chosen), test)


def choose(samples: Sequence[Sample], development: Sequence[Sample]) -> Mapping[str, float]:
    """The candidate whose model has the highest accuracy on the development pairs; of equal ones the first."""
    found = []
    for candidate in CANDIDATES:
        found.append(measured(samples, CHOICE_SEED, development, candidate))
        print(f"development: {candidate}: {found[-1]:.3f}", flush=True)
    return CANDIDATES[found.index(max(found))]


def shown(values: Sequence[float]) -> str:
    spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{spread}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=400)
    parser.add_argument("--test", type=int, default=400)
    parser.add_argument("--development", type=int, default=400)
    parser.add_argument("--rates", default="10,20,40")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--wrong", default="uniform,own")
    parser.add_argument(
        "--dpo", default="own", help="the wrong answers of the pairs on which models are trained"
    )
    given = parser.parse_args()
    seeds = [int(seed) for seed in given.seeds.split(",")]
    model = Remembered(HFBackend(HFConfig(model=str(MODEL_DIR)), Site(MODEL_DIR)))
    for kind in given.wrong.split(","):
        clean, test, development = split(pairs(kind), given.rows, given.test, given.development)
        print(
            f"\nwrong answers: {kind}; {len(clean)} pairs, {len(test)} of the test, {len(development)} of development",
            flush=True,
        )
        chosen: Mapping[str, float] = {}
        trains = kind in given.dpo.split(",")
        if trains:
            print(f"accuracy before DPO: {accuracy(MODEL_DIR, test):.3f}", flush=True)
            chosen = choose(clean, development)
            print(f"chosen: {chosen}", flush=True)
            truth = [measured(clean, seed, test, chosen) for seed in seeds]
            print(f"accuracy after DPO on the truth: {shown(truth)}", flush=True)
        names = (*VIEWS, "check", "random", "precision", "recall")
        print(
            "| flipped | "
            + " | ".join((*names, *(("DPO raw", "DPO cleaned") if trains else ())))
            + " |",
            flush=True,
        )
        for rate in given.rates.split(","):
            figures: dict[str, list[float]] = {}
            for seed in seeds:
                noise = NoiseConfig(ratio=int(rate) / 100)
                rows = inject([Row(sample) for sample in clean], noise, seed, "preference")
                noisy = [row.sample for row in rows]
                flips = [row.truth != row.sample.response for row in rows]
                done = cleaned(noisy, model, seed)
                for name, value in detection(noisy, done, flips, seed).items():
                    figures.setdefault(name, []).append(value)
                if trains:
                    figures.setdefault("raw", []).append(measured(noisy, seed, test, chosen))
                    figures.setdefault("cleaned", []).append(measured(done, seed, test, chosen))
            cells = [shown(figures[name]) for name in (*names, "raw", "cleaned") if name in figures]
            print(f"| {rate}% | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
