"""A language model that decides whether two texts have the same meaning."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from nfilter.api.calls import Completion, Request, Sampling
from nfilter.api.capabilities import Generates
from nfilter.api.fences import Fence
from nfilter.api.stages import Template

_SAID = re.compile(r"(?<![\w'’])(yes|no|same|different)(?![\w'’])", re.IGNORECASE)


def judged_by(
    model: Generates,
    template: Template,
) -> Callable[[Sequence[tuple[str, str]]], list[bool]]:
    """The judge for ``build``: one greedy request per pair, ``template`` rendered with ``first``, ``second``, ``fence``.

    Where the template asks for "Verdict CODE: yes", a reply agrees with that as its last line alone; elsewhere its last
    yes or no counts. A failed, truncated or unreadable reply counts as disagreement.
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
    said = _SAID.findall(completion.text)
    return bool(said) and said[-1].lower() in {"yes", "same"}
