"""``selflabel.relabel``: SelfLabel, the model's own answer as the label."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field

from nfilter import Context, Contract, Sample, StageConfig, State, View
from nfilter_selflabel.agreement import agreeing, views_of, why_no_answer


class RelabelConfig(StageConfig):
    """``view``: the view with the model's own answer."""

    view: str = Field(default="base", description="The view with the model's own answer.")


class Relabel:
    """Stage that replaces every label by the model's reply, unless both have the same answer.

    A sample without an own answer is dropped, because its label cannot be replaced; so is one whose response calls tools. Pinned
    samples keep their label. It is a baseline of RobustFT (arXiv 2412.14922, Table 1): no label is trusted.
    """

    name: ClassVar[str] = "selflabel.relabel"
    Config: ClassVar[type[StageConfig]] = RelabelConfig

    def __init__(self, config: RelabelConfig) -> None:
        self.config = config

    @classmethod
    def contract(cls, config: RelabelConfig) -> Contract:
        """Read the view."""
        return Contract(reads=frozenset({config.view}))

    def process(self, chunk: Sequence[Sample], state: State, ctx: Context) -> list[Sample]:
        """Relabel the samples of the chunk."""
        views = views_of(chunk, self.config.view)
        same = agreeing(chunk, views, ctx)
        return [
            relabelled(sample, view, agrees=agrees)
            for sample, view, agrees in zip(chunk, views, same, strict=True)
        ]


def relabelled(sample: Sample, view: View, *, agrees: bool) -> Sample:
    """Return ``sample`` with the text of ``view`` as its label, with its label if they agree, or dropped without an answer."""
    if sample.pinned:
        return sample.keep("pinned by a user: not changed")
    if agrees:
        return sample.keep("the own answer agrees with the label")
    if view.answer is None or not view.asked:
        return sample.drop(f"the model has no own answer: {why_no_answer(view)}")
    if sample.calls_tools:
        return sample.drop("the response calls tools, and the own answer cannot replace it")
    return sample.relabel(view.text.strip() or view.answer, "the own answer replaces the label")
