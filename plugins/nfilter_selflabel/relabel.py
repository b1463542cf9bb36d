"""``selflabel.relabel``: SelfLabel, the model's own answer as the label."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field

from nfilter import Context, Contract, Sample, StageConfig, State, View
from nfilter_selflabel.agreement import agreeing, views_of, why_no_answer


class RelabelConfig(StageConfig):
    """``view``: the view with the model's own answer."""

    view: str = Field(default="base", description="The view with the model's own answer.")
    write: Literal["auto", "answer", "reply"] = Field(
        default="auto",
        description="answer: the answer alone; reply: the whole reply; auto: the reply for the answer kind text, else the answer.",
    )


class Relabel:
    """Stage that replaces every label by the model's own answer, unless both have the same answer.

    A sample without an own answer is dropped, because its label cannot be replaced; so is one whose response calls tools. Pinned
    samples keep their label. It is a baseline of RobustFT (arXiv 2412.14922, Table 1): no label is trusted.
    """

    name: ClassVar[str] = "selflabel.relabel"
    Config: ClassVar[type[StageConfig]] = RelabelConfig

    def __init__(self, config: RelabelConfig) -> None:
        self.config = config

    @classmethod
    def contract(cls, config: RelabelConfig) -> Contract:
        return Contract(reads=frozenset({config.view}))

    def process(self, chunk: Sequence[Sample], state: State, ctx: Context) -> list[Sample]:
        views = views_of(chunk, self.config.view)
        same = agreeing(chunk, views, ctx)
        write = self.config.write
        reply = write == "reply" or (write == "auto" and ctx.answers.kind == "text")
        return [
            relabelled(sample, view, agrees=agrees, reply=reply)
            for sample, view, agrees in zip(chunk, views, same, strict=True)
        ]


def relabelled(sample: Sample, view: View, *, agrees: bool, reply: bool = True) -> Sample:
    """Return ``sample`` with the ``reply`` or answer of ``view`` as its label, or its own if they agree, or dropped without one."""
    if sample.pinned:
        return sample.keep("pinned by a user: not changed")
    if agrees:
        return sample.keep("the own answer agrees with the label")
    if view.answer is None or not view.asked:
        return sample.drop(f"the model has no own answer: {why_no_answer(view)}")
    if sample.calls_tools:
        return sample.drop("the response calls tools, and the own answer cannot replace it")
    text = view.text.strip() if reply else ""
    return sample.relabel(text or view.answer, "the own answer replaces the label")
