"""``vote: judge`` of the check: a model decides whether a label is right, given the label and the views."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from nfilter import JSON, Completion, Context, Fence, Request, Sample, View, excerpt
from nfilter_robustft.check_settings import CheckConfig
from nfilter_robustft.views import RequestBuilder

_VERDICT = re.compile(
    r"(?P<none>\bno\s)?verdict\W{0,8}(?:correct\s?[|/]\s?wrong\W{1,8})?(?P<word>correct|wrong)\b(?=(?P<rest>[^\n]*))",
    re.IGNORECASE,
)
# More in the line of a verdict that makes it another one, a choice or a condition.
_UNCLEAR = re.compile(
    r"\s*[?/|,\"']*\s*(?:->|→)?\s*[\"']?\b(?:correct|wrong)\b|\s*\?|\s(?:or|if|unless|is|labels?\s\w)\b|[.;,]\s*(?:wait|no|actually|but|however)\b|[\s,(]{1,3}(?:the|this)\slabel\sis\b",
    re.IGNORECASE,
)
_ONE_WORD = re.compile(r"\W*(?P<word>correct|wrong)\W*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Judgement:
    """The judge's decision about one label, with its reason, calls and generated tokens."""

    wrong: bool
    reason: str
    text: str
    calls: int
    tokens: int
    failure: str | None = None

    def to_json(self) -> dict[str, JSON]:
        """Return the value of ``judge`` in a verdict note."""
        return {
            "text": self.text,
            "calls": self.calls,
            "tokens": self.tokens,
            "failure": self.failure,
        }


def read_verdict(text: str, fence: Fence | None = None) -> bool | None:
    """Return whether the reply calls the label wrong, or None without a verdict.

    With a ``fence`` (if the prompt asks for it), only a last line with its code counts, so that a verdict quoted from
    the data is ignored. Without one, the last "Verdict: ..." counts, unless its line names both or takes it back.
    """
    if fence is not None:
        verdict = fence.verdict(text, "Verdict", ("correct", "wrong"))
        return None if verdict is None else verdict == "wrong"
    found = list(_VERDICT.finditer(text))
    if found and (found[-1]["none"] or _UNCLEAR.match(found[-1]["rest"])):
        return None
    last = found[-1] if found else _ONE_WORD.fullmatch(text)
    return last["word"].lower() == "wrong" if last else None


def judge_labels(
    samples: Sequence[Sample], ctx: Context, config: CheckConfig
) -> dict[str, Judgement]:
    """Return the judgements by id. The judge sees the views' answers and reasoning.

    A reply without a verdict is requested again at ``retry_temperature`` up to ``retries`` times. After that, or after
    a failed call, the label counts as wrong, with that reason.
    """
    builder = RequestBuilder(ctx, ctx.prompt(config.prompt), config.max_tokens, 0.0, logprobs=False)
    judgements: dict[str, Judgement] = {}
    tokens = {sample.id: 0 for sample in samples}
    pending = list(samples)
    for attempt in range(config.retries + 1):
        if not pending:
            break
        requests: list[Request] = []
        fences: list[Fence | None] = []
        for sample in pending:
            variables = {"label": sample.response, "candidates": _candidates(sample, config.views)}
            request = builder.request(
                sample,
                draw=attempt,
                key="judge",
                temperature=config.retry_temperature if attempt else 0.0,
                **variables,
            )
            requests.append(request)
            fence = builder.fence(sample, **variables)
            asked = fence.asked((message.content for message in request.messages), "Verdict")
            fences.append(fence if asked else None)
        unreadable = []
        completions = ctx.model(str(config.llm)).generate(requests)
        for sample, shown, completion in zip(pending, fences, completions, strict=True):
            tokens[sample.id] += completion.completion_tokens
            wrong, failure = _read_completion(completion, shown)
            if wrong is not None:
                reason = f"the judge calls the label {'wrong' if wrong else 'correct'}"
            elif completion.failure is not None:
                reason = f"the judge failed ({failure})"
            else:
                reason = f"{failure} in the judge's reply {excerpt(completion.text)}"
                unreadable.append(sample)
            text = shown.without(completion.text) if shown else completion.text
            judgements[sample.id] = Judgement(
                wrong is not False, reason, text, attempt + 1, tokens[sample.id], failure
            )
        pending = unreadable
    return judgements


def _read_completion(completion: Completion, fence: Fence | None) -> tuple[bool | None, str | None]:
    """Return whether the label is wrong and the failure, one of which is None."""
    if completion.failure is not None:
        return None, str(completion.failure)
    # A verdict in a truncated reply may not be final.
    if completion.finish == "length":
        return None, "cut off at max_tokens: no verdict could be read"
    wrong = read_verdict(completion.text, fence)
    return wrong, None if wrong is not None else "no verdict could be read"


def _candidates(sample: Sample, views: Sequence[str]) -> list[dict[str, JSON]]:
    candidates = [View.of(sample, name) or View(None) for name in views]
    return [{"answer": view.answer, "reasoning": view.reasoning} for view in candidates]
