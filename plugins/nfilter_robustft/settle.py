"""``robustft.settle``: relabels, weights and drops samples by a view's posterior, without a model call."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import Field

from nfilter import (
    JSON,
    Context,
    Contract,
    Sample,
    StageConfig,
    State,
    Verdict,
    View,
    excerpt,
)
from nfilter_robustft.answer_format import format_like
from nfilter_robustft.keys import key_of
from nfilter_robustft.labelled_rows import ROWS_PER_CLASS
from nfilter_robustft.views import is_bare_answer

_MOST_ANSWERS = 1000  # distinct answers, and spellings of each, that are counted
_MOST_SPELLINGS = 20
_MOST_TOLD = 3  # answers that are nearly gone, each with a warning


class SettleConfig(StageConfig):
    """``view`` must have a posterior, like that of ``robustft.classifier``.

    If the most likely of c answers has probability p, the sample has the value (c p - 1) / (c - 1): 0 at chance, 1 for
    a certain label. ``weights: soft`` multiplies the sample's training weight by it; samples below ``least`` are
    dropped. ``relabel: false`` drops samples whose label is not the most likely answer.
    """

    view: str = Field(
        default="classifier",
        description="The view with the probabilities of all answers, such as that of robustft.classifier.",
    )
    into: str = Field(default="check", description="The note with the verdict.")
    relabel: bool = Field(
        default=True,
        description="Replace labels by the most probable answer; false drops these samples.",
    )
    weights: Literal["soft", "none"] = Field(
        default="soft",
        description="soft: multiply the training weight by the certainty of the label; none: leave it.",
    )
    least: float = Field(
        default=0.25,
        ge=0,
        lt=1,
        description="Certainty of the label, 0 (chance) to 1, below which a sample is dropped.",
    )


@dataclass(frozen=True, slots=True)
class _Posterior:
    """The most likely ``answer``, its probability, that of the label, and the number of answers."""

    answer: str
    p: float
    label: float
    of: int

    @classmethod
    def read(cls, view: View | None) -> _Posterior | None:
        value: Any = None if view is None else view.more.get("posterior")
        if not isinstance(value, Mapping):
            return None
        return cls(str(value["answer"]), float(value["p"]), float(value["label"]), int(value["of"]))

    @property
    def worth(self) -> float:
        """Value of the most likely answer as a label, from 0 at chance to 1."""
        return max(0.0, (self.of * self.p - 1) / (self.of - 1))


class Settle:
    """Stage that relabels each sample to its most likely answer, weights it by confidence, and drops uncertain samples.

    It writes a verdict with the proposed answer; a label is flagged if it is not the most likely answer. Without a
    posterior, the label is kept.
    """

    name: ClassVar[str] = "robustft.settle"
    Config: ClassVar[type[StageConfig]] = SettleConfig

    def __init__(self, config: SettleConfig) -> None:
        self.config = config

    @classmethod
    def contract(cls, config: SettleConfig) -> Contract:
        own = frozenset({config.into})
        return Contract(reads=frozenset({config.view}), writes=own, verdicts=own, proposes=own)

    def fit(self, stream: Iterable[Sample], ctx: Context) -> State:
        """Count how the responses spell each answer ("World" where answers are compared as "world"), and each answer's rows."""
        spellings = _Spellings()
        labels, left = Counter[str](), Counter[str]()
        for sample in stream:
            label = ctx.answers.parse(sample.response, sample)
            if ctx.answers.kind == "exact":
                spellings.add(label, sample.response.strip())
            posterior = _Posterior.read(View.of(sample, self.config.view))
            if posterior is None:
                continue
            kept = posterior.worth >= self.config.least and (
                self.config.relabel or posterior.answer == label
            )
            new = label if sample.pinned else posterior.answer if kept else None
            for counts, answer in ((labels, label), (left, new)):
                if (key := key_of(answer, sample, ctx)) is not None:
                    counts[key] += 1
        for text in _nearly_gone(labels, left):
            ctx.log.warning(text)
        return State({"spellings": spellings.most_frequent()})

    def process(self, chunk: Sequence[Sample], state: State, ctx: Context) -> list[Sample]:
        spellings: Any = state.values["spellings"]
        labels = [ctx.answers.parse(sample.response, sample) for sample in chunk]
        posteriors = [_Posterior.read(View.of(sample, self.config.view)) for sample in chunk]
        same = ctx.answers.agree(
            [
                (label, None if each is None else each.answer)
                for label, each in zip(labels, posteriors, strict=True)
            ]
        )
        return [
            self._keep(sample)
            if each is None
            else self._decide(sample, label, agrees, each, spellings, ctx)
            for sample, label, agrees, each in zip(chunk, labels, same, posteriors, strict=True)
        ]

    def _keep(self, sample: Sample) -> Sample:
        """Keep a sample without a posterior."""
        view = View.of(sample, self.config.view) or View(None)
        support = view.more.get("support") if view.more.get("votes") else None
        score = 1 - float(support) if isinstance(support, int | float) else 0.5
        verdict = Verdict(
            flagged=False,
            noise_score=round(min(1.0, max(0.0, score)), 6),
            more={"answer": None},
        )
        reason = view.failure or "it has no posterior"
        return sample.note(self.config.into, verdict.to_json()).keep(
            f"label kept: {self.config.view} has no answer ({reason})"
        )

    def _decide(
        self,
        sample: Sample,
        label: str | None,
        agrees: bool,
        posterior: _Posterior,
        spellings: Mapping[str, str],
        ctx: Context,
    ) -> Sample:
        config = self.config
        verdict = Verdict(
            flagged=not agrees and not sample.pinned,
            noise_score=round(1 - posterior.label, 6),
            more={"answer": posterior.answer, "worth": round(posterior.worth, 6)},
        )
        noted = sample.note(config.into, verdict.to_json())
        if sample.pinned:
            return noted.keep("pinned by a user: not changed")
        evidence = f"{config.view} gives {excerpt(posterior.answer)} probability {posterior.p:.2f}"
        if not agrees:
            evidence += f" and the label {excerpt(label)} {posterior.label:.2f}"
        if posterior.worth < config.least:
            return noted.drop(
                f"too uncertain: {evidence}; worth {posterior.worth:.2f}, least {config.least:g}"
            )
        if not agrees and not config.relabel:
            return noted.drop(f"flagged: {evidence}")
        reason = f"confirmed: {evidence}"
        if not agrees:
            reason = f"relabelled: {evidence}"
            new = _new_response(sample, label, posterior.answer, spellings, ctx)
            noted = noted.relabel(new, reason)
        if config.weights == "none":
            return noted if not agrees else noted.keep(reason)
        return noted.weigh(
            sample.weight * posterior.worth, f"{reason}; weight {posterior.worth:.2f}"
        )


class _Spellings:
    """Counts the spellings of each answer, of responses that are little more than their answer."""

    def __init__(self) -> None:
        self._counts: dict[str, Counter[str]] = {}

    def add(self, answer: str | None, response: str) -> None:
        """Count a response."""
        if answer is None or not is_bare_answer(response, answer):
            return
        if answer not in self._counts and len(self._counts) >= _MOST_ANSWERS:
            return
        spelled = self._counts.setdefault(answer, Counter())
        if response in spelled or len(spelled) < _MOST_SPELLINGS:
            spelled[response] += 1

    def most_frequent(self) -> dict[str, JSON]:
        """Return the most frequent spelling of each answer."""
        return {
            answer: min(spelled, key=lambda text: (-spelled[text], text))
            for answer, spelled in self._counts.items()
        }


def _nearly_gone(labels: Mapping[str, int], left: Mapping[str, int]) -> Iterable[str]:
    """Yield a warning for each answer that too few rows have after this stage, if enough had it before."""
    gone = [a for a in sorted(labels) if labels[a] >= ROWS_PER_CLASS and left.get(a, 0) < min(ROWS_PER_CLASS, labels[a] / 2)]  # fmt: skip
    for answer in gone[:_MOST_TOLD]:
        yield (
            f"the answer {excerpt(answer)} was the label of {labels[answer]} rows, and {left.get(answer, 0)} are left with it: the view hardly tells "
            "it from the others, and a model that is trained on the rows that are left learns little of it"
        )
    if len(gone) > _MOST_TOLD:
        yield f"{len(gone) - _MOST_TOLD} other answers are left in so few rows too"


def _new_response(
    sample: Sample, label: str | None, answer: str, spellings: Mapping[str, str], ctx: Context
) -> str:
    """Return the answer in the format of the old response, if that can be determined, else as other responses spell it."""
    options = ctx.answers.options(sample) if ctx.answers.kind == "choice" else None
    formatted = format_like(sample.response.strip(), label, answer, options or ())
    return formatted or spellings.get(answer, answer)
