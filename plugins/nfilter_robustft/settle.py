"""``robustft.settle``: what to train on, where a view knows how likely each answer is: no model is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import Field

from nfilter import Context, Contract, Sample, StageConfig, State, Verdict, View
from nfilter_robustft.views import excerpt
from nfilter_robustft.wording import in_the_form_of


class SettleConfig(StageConfig):
    """``view`` has to give a posterior, as ``robustft.classifier`` does.

    A label of which the likeliest answer has probability p out of c answers is worth (c p - 1) / (c - 1) of one that is
    surely right: 0 at chance. With ``weights: soft`` that is the sample's weight in training; samples that are worth
    less than ``least`` leave. ``relabel: false`` drops those whose label is not the likeliest answer.
    """

    view: str = "classifier"
    into: str = "check"
    relabel: bool = True
    weights: Literal["soft", "none"] = "soft"
    least: float = Field(default=0.25, ge=0, lt=1)


@dataclass(frozen=True, slots=True)
class _Posterior:
    """The likeliest ``answer``, its probability, that of the label, and of how many answers."""

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
        """What the likeliest answer is worth as a label, from 0 at chance to 1."""
        return max(0.0, (self.of * self.p - 1) / (self.of - 1))


class Settle:
    """Relabels each sample to the likeliest answer, weighs it by how sure that is, and drops what is as good as a guess.

    It writes the verdict, with the proposed answer: a label is flagged where it is not the likeliest answer. Where the
    view says nothing, the label stays as it is.
    """

    name: ClassVar[str] = "robustft.settle"
    Config: ClassVar[type[StageConfig]] = SettleConfig

    def __init__(self, config: SettleConfig) -> None:
        self.config = config

    @classmethod
    def contract(cls, config: SettleConfig) -> Contract:
        """Reads a view; its note is a verdict that proposes a label."""
        own = frozenset({config.into})
        return Contract(reads=frozenset({config.view}), writes=own, verdicts=own, proposes=own)

    def process(self, chunk: Sequence[Sample], state: State, ctx: Context) -> list[Sample]:
        """Decide each sample of the chunk."""
        labels = [ctx.answers.parse(sample.response, sample) for sample in chunk]
        found = [_Posterior.read(View.of(sample, self.config.view)) for sample in chunk]
        same = ctx.answers.agree(
            [
                (label, None if each is None else each.answer)
                for label, each in zip(labels, found, strict=True)
            ]
        )
        return [
            self._silent(sample) if each is None else self._decide(sample, label, agrees, each, ctx)
            for sample, label, agrees, each in zip(chunk, labels, same, found, strict=True)
        ]

    def _silent(self, sample: Sample) -> Sample:
        view = View.of(sample, self.config.view) or View(None)
        support = view.more.get("support") if view.more.get("votes") else None
        score = 1 - float(support) if isinstance(support, int | float) else 0.5
        verdict = Verdict(
            flagged=False,
            noise_score=round(min(1.0, max(0.0, score)), 6),
            more={"answer": None},
        )
        why = view.failure or "it gives no posterior"
        return sample.note(self.config.into, verdict.to_json()).keep(
            f"the label stays: {self.config.view} has no answer ({why})"
        )

    def _decide(
        self, sample: Sample, label: str | None, agrees: bool, found: _Posterior, ctx: Context
    ) -> Sample:
        config = self.config
        verdict = Verdict(
            flagged=not agrees and not sample.pinned,
            noise_score=round(1 - found.label, 6),
            more={"answer": found.answer, "worth": round(found.worth, 6)},
        )
        noted = sample.note(config.into, verdict.to_json())
        if sample.pinned:
            return noted.keep("pinned by a person: nothing is changed")
        says = f"{config.view} gives {excerpt(found.answer)} probability {found.p:.2f}"
        if not agrees:
            says += f" and the label {excerpt(label)} {found.label:.2f}"
        if found.worth < config.least:
            return noted.drop(
                f"as good as a guess: {says}; worth {found.worth:.2f}, least {config.least:g}"
            )
        if not agrees and not config.relabel:
            return noted.drop(f"flagged: {says}")
        how = f"confirmed: {says}"
        if not agrees:
            how = f"relabelled: {says}"
            noted = noted.relabel(_worded(sample, label, found.answer, ctx), how)
        if config.weights == "none":
            return noted if not agrees else noted.keep(how)
        return noted.weigh(sample.weight * found.worth, f"{how}; weight {found.worth:.2f}")


def _worded(sample: Sample, label: str | None, answer: str, ctx: Context) -> str:
    """The new response: the answer, spelled as the old response spelled its own where that can be seen."""
    options = ctx.answers.options(sample) if ctx.answers.kind == "choice" else None
    return in_the_form_of(sample.response.strip(), label, answer, options or ()) or answer
