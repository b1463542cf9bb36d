"""A language model that decides whether two texts have the same meaning."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from nfilter.answers.markers import denied
from nfilter.api.calls import Completion, Request, Sampling
from nfilter.api.capabilities import Generates
from nfilter.api.fences import Fence
from nfilter.api.stages import Template

# "no" before a word says something else: "no doubt", "no unit".
_SAID = re.compile(r"(?<![\w'’])(?:yes(?![\w'’])|no(?=[^\w\s'’]|\s*(?:\n|\Z)))", re.IGNORECASE)
_SAME = re.compile(
    r"(?<![\w'’])(?:(?P<none>no\sdifferences?)|(?P<same>same)|(?:no\s)?different)(?![\w'’])",
    re.IGNORECASE,
)
_ASKS = re.compile(
    r"(?<!\w)(?:whether|if|say|cannot|can['’]t)(?!\w)[^.!?\n]{0,30}\Z", re.IGNORECASE
)


def judged_by(
    model: Generates,
    template: Template,
) -> Callable[[Sequence[tuple[str, str]]], list[bool]]:
    """The judge for ``build``: one greedy request per pair, ``template`` rendered with ``first``, ``second``, ``fence``.

    Where the template asks for "Verdict CODE: yes", a reply agrees with that as its last line alone; elsewhere its last
    yes or no counts, and without one the last "same" or "different", or its negation. A failed, truncated or unreadable reply counts as disagreement.
    """

    def judge(pairs: Sequence[tuple[str, str]]) -> list[bool]:
        sampling = Sampling(max_tokens=64)
        fences = [Fence.around("", pair) for pair in pairs]
        requests = [
            Request(template.render(first=first, second=second, fence=fence.code), sampling)
            for (first, second), fence in zip(pairs, fences, strict=True)
        ]
        return [
            _agrees(completion, fence, request)
            for completion, fence, request in zip(
                model.generate(requests), fences, requests, strict=True
            )
        ]

    return judge


def _agrees(completion: Completion, fence: Fence, request: Request) -> bool:
    if completion.failure is not None or completion.finish == "length":
        return False
    if fence.asked((message.content for message in request.messages), "Verdict"):
        return fence.verdict(completion.text, "Verdict", ("yes", "no")) == "yes"
    return _says_yes(completion.text)


def _says_yes(text: str) -> bool:
    said = [each for each in _SAID.finditer(text) if not _ASKS.search(text[: each.start()])]
    if said:
        return said[-1][0].lower() == "yes"
    named = list(_SAME.finditer(text))
    if not named or _ASKS.search(text[: named[-1].start()]):
        return False
    last = named[-1]
    same = bool(last["same"] or last["none"]) or last[0].lower().startswith("no")
    return same != denied(text[: last.start()])
