"""``selflabel.noiseal``: the scheme of NoiseAL (Yuan et al., arXiv 2504.02901): models that agree find clean rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Annotated, Any, ClassVar

from pydantic import Field

from nfilter import (
    Calls,
    Completion,
    Context,
    Contract,
    Fence,
    Generates,
    Needs,
    PackedTexts,
    Request,
    Sample,
    Sampling,
    StageConfig,
    State,
    Verdict,
    View,
    question_variables,
)
from nfilter_selflabel.agreement import agreeing, views_of
from nfilter_selflabel.relabel import relabelled

_BATCH = 256


class NoiseALConfig(StageConfig):
    """``views``: the answers of the models that check the label, such as a small and a large one."""

    llm: Annotated[str, Needs(Generates)] = Field(description="The model that relabels.")
    views: tuple[str, ...] = Field(
        default=("small", "large"),
        min_length=1,
        max_length=16,
        description="The views that must all agree with the label of a clean row.",
    )
    k: int = Field(default=3, ge=0, le=64, description="Clean rows that the prompt shows, 0 to 64.")
    prompt: str = Field(default="selflabel/examples", description="The template, folder/name.")
    max_tokens: int = Field(default=512, ge=1, description="Tokens per reply, at most.")
    into: str = Field(default="noiseal", description="The note with the verdict and the proposal.")


class NoiseAL:
    """Stage that relabels rows on which models and label do not all agree, with clean rows as examples in the prompt.

    A row is clean if every view has the answer of its label. Every other row is answered by ``llm``, which sees ``k`` clean rows
    drawn at random and not the label, and the reply replaces the label; without an answer the row is dropped. Pinned rows keep
    their label. The noise score is the share of views that do not agree.

    The paper trains two small classifiers and divides rows by their confidence during training, asks the large model about
    one part of the rows, and trains the rest with other losses. Only the scheme above is here: agreement of models in place of
    confidence, and one loss.
    """

    name: ClassVar[str] = "selflabel.noiseal"
    Config: ClassVar[type[StageConfig]] = NoiseALConfig

    def __init__(self, config: NoiseALConfig) -> None:
        self.config = config

    @classmethod
    def contract(cls, config: NoiseALConfig) -> Contract:
        own = frozenset({config.into})
        call = Calls(config.llm, config.prompt, config.max_tokens, 0, 0.5, 1, rows=1 + config.k)
        return Contract(
            reads=frozenset(config.views),
            writes=own,
            verdicts=own,
            proposes=own,
            prompts=frozenset({config.prompt}),
            calls=(call,),
        )

    def fit(self, stream: Iterable[Sample], ctx: Context) -> State:
        texts: list[str] = []
        rows = iter(stream)
        while batch := list(islice(rows, _BATCH)):
            for sample, count in zip(batch, self._disagreeing(batch, ctx), strict=True):
                if not count:
                    texts += [sample.query, sample.response]
        if not texts:
            ctx.log.warning(
                f"{self.name}: no row is clean, so prompts have no examples; check that the views are of models that can answer"
            )
        clean = len(texts) // 2
        return State({"report": {"clean": clean}}, PackedTexts.of(texts).arrays("clean"))

    def process(self, chunk: Sequence[Sample], state: State, ctx: Context) -> list[Sample]:
        against = self._disagreeing(chunk, ctx)
        asked = [
            sample
            for sample, count in zip(chunk, against, strict=True)
            if count and not sample.pinned
        ]
        requests = [self._request(sample, state, ctx) for sample in asked]
        replies = ctx.model(self.config.llm).generate(requests) if requests else []
        views = [_view(sample, reply, ctx) for sample, reply in zip(asked, replies, strict=True)]
        same = agreeing(asked, views, ctx)
        decided = {
            sample.id: (view, agrees)
            for sample, view, agrees in zip(asked, views, same, strict=True)
        }
        out = []
        for sample, count in zip(chunk, against, strict=True):
            view, agrees = decided.get(sample.id, (View(None), True))
            verdict = Verdict(
                flagged=sample.id in decided,
                noise_score=count / len(self.config.views),
                more={"answer": view.answer},
            )
            noted = sample.note(self.config.into, verdict.to_json())
            clean = sample.id not in decided and not sample.pinned
            out.append(
                noted.keep("clean: the label and all views agree")
                if clean
                else relabelled(noted, view, agrees=agrees)
            )
        return out

    def _disagreeing(self, samples: Sequence[Sample], ctx: Context) -> list[int]:
        """Return the number of views that do not agree with each label."""
        columns = [agreeing(samples, views_of(samples, name), ctx) for name in self.config.views]
        return [row.count(False) for row in zip(*columns, strict=True)]

    def _request(self, sample: Sample, state: State, ctx: Context) -> Request:
        clean = PackedTexts.open(state.arrays, "clean")
        n = len(clean) // 2
        drawn = ctx.rng(sample.id).sample(range(n), min(self.config.k, n))
        shown: dict[str, Any] = {
            "neighbors": [{"query": clean[2 * i], "response": clean[2 * i + 1]} for i in drawn],
            **question_variables(sample, ctx.answers),
        }
        fence = Fence.around(sample.id, shown).code
        messages = ctx.prompt(self.config.prompt).render(**shown, fence=fence)
        return Request(messages, Sampling(self.config.max_tokens), sample_id=sample.id)


def _view(sample: Sample, reply: Completion, ctx: Context) -> View:
    """Return the reply as a view; a reply that was cut off has no answer."""
    if reply.failure is not None:
        return View(None, failure=str(reply.failure))
    if reply.finish == "length":
        return View(None, text=reply.text, failure=reply.incomplete)
    return View(ctx.answers.parse(reply.text, sample), text=reply.text)
