"""A language model that says whether two texts say the same."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from nfilter.capabilities import Generates
from nfilter.stages import Template
from nfilter.types import Request, Sampling

_SAID = re.compile(r"(?<![\w'’])(yes|no|same|different)(?![\w'’])", re.IGNORECASE)


def judged_by(
    model: Generates, template: Template, *, max_tokens: int = 64
) -> Callable[[Sequence[tuple[str, str]]], list[bool]]:
    """The judge for ``build``: one greedy request a pair, ``template`` rendered with ``first`` and ``second``.

    The last yes or no of the reply counts; a failed or unreadable reply is no agreement.
    """

    def judge(pairs: Sequence[tuple[str, str]]) -> list[bool]:
        sampling = Sampling(max_tokens=max_tokens)
        requests = [
            Request(template.render(first=first, second=second), sampling)
            for first, second in pairs
        ]
        return [
            completion.failure is None and _said_yes(completion.text)
            for completion in model.generate(requests)
        ]

    return judge


def _said_yes(text: str) -> bool:
    said = _SAID.findall(text)
    return bool(said) and said[-1].lower() in {"yes", "same"}
