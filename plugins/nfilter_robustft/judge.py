"""The checker as a judge: a model is shown a label and the views, and says whether the label is right."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from nfilter import JSON, Completion, Context, Fence, Request, Sample, View
from nfilter_robustft.views import Asking, excerpt

_VERDICT = re.compile(r"verdict\W{0,8}(?P<word>correct|wrong)\b", re.IGNORECASE)
_LONE = re.compile(r"\W*(?P<word>correct|wrong)\W*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the judge said of one label: ``wrong``, why, after how many calls and generated tokens."""

    wrong: bool
    reason: str
    text: str
    calls: int
    tokens: int
    failure: str | None = None

    def to_json(self) -> dict[str, JSON]:
        """The part of a verdict note that tells of the judge."""
        return {
            "text": self.text,
            "calls": self.calls,
            "tokens": self.tokens,
            "failure": self.failure,
        }


def read(text: str, fence: Fence | None = None) -> bool | None:
    """Whether the reply says that the label is wrong; None where it says neither.

    With a ``fence``, which the prompt asked for, the last line counts alone, and only where it carries the code: what
    the data says of verdicts is none. Without one the last "Verdict: ..." counts.
    """
    if fence is not None:
        said = fence.verdict(text, "Verdict", ("correct", "wrong"))
        return None if said is None else said == "wrong"
    stated = [match["word"] for match in _VERDICT.finditer(text)]
    if not stated:
        lone = _LONE.fullmatch(text)
        stated = [lone["word"]] if lone else []
    return stated[-1].lower() == "wrong" if stated else None


def ask(
    samples: Sequence[Sample],
    ctx: Context,
    *,
    llm: str,
    prompt: str,
    views: Sequence[str],
    max_tokens: int,
    retries: int,
    retry_temperature: float,
) -> dict[str, Judgement]:
    """A judgement for each sample, by id. The judge sees the views' answers and reasoning.

    A reply without a verdict is asked for again, warmer, up to ``retries`` times; then, as after a failed call,
    the label counts as wrong, with that reason.
    """
    asking = Asking(ctx, ctx.prompt(prompt), max_tokens, 0.0, logprobs=False)
    judged: dict[str, Judgement] = {}
    tokens = {sample.id: 0 for sample in samples}
    open_samples = list(samples)
    for attempt in range(retries + 1):
        if not open_samples:
            break
        requests, fences = [], []
        for sample in open_samples:
            shown = {"label": sample.response, "candidates": _candidates(sample, views)}
            request = asking.request(
                sample,
                draw=attempt,
                key="judge",
                temperature=retry_temperature if attempt else 0.0,
                **shown,
            )
            requests.append(request)
            fences.append(_asked(asking.fence(sample, **shown), request))
        unread = []
        replies = ctx.model(llm).generate(requests)
        for sample, fence, done in zip(open_samples, fences, replies, strict=True):
            tokens[sample.id] += done.completion_tokens
            wrong, failure = _read(done, fence)
            if wrong is not None:
                reason = f"the judge calls the label {'wrong' if wrong else 'correct'}"
            elif done.failure is not None:
                reason = f"the judge failed ({failure})"
            else:
                reason = f"{failure} in the judge's reply {excerpt(done.text)}"
                unread.append(sample)
            text = fence.without(done.text) if fence else done.text
            judged[sample.id] = Judgement(
                wrong is not False, reason, text, attempt + 1, tokens[sample.id], failure
            )
        open_samples = unread
    return judged


def _asked(fence: Fence, request: Request) -> Fence | None:
    prompt = (message.content for message in request.messages)
    return fence if fence.asked(prompt, "Verdict") else None


def _read(done: Completion, fence: Fence | None) -> tuple[bool | None, str | None]:
    """Whether the label is wrong, or why that is not known."""
    if done.failure is not None:
        return None, f"{done.failure.kind}: {done.failure.detail}"
    # A verdict in a reply that was cut off may be one that the model still argued about.
    wrong = read(done.text, fence) if done.finish != "length" else None
    if wrong is None and done.finish == "length":
        return None, "cut off at max_tokens: no verdict could be read"
    return wrong, None if wrong is not None else "no verdict could be read"


def _candidates(sample: Sample, views: Sequence[str]) -> list[dict[str, JSON]]:
    found = [View.of(sample, name) or View(None) for name in views]
    return [{"answer": view.answer, "reasoning": view.reasoning} for view in found]
