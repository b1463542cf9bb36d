"""``preset: official``: the settings of RobustFT's published code, for comparison with the paper's results.

Source: github.com/luo-junyu/RobustFT, robustft.py. Every call uses temperature 1, at most 512 tokens, and
log-probabilities, with one call per view and one per review: 2N + 2M calls for N samples, M of them flagged.

Remaining differences from the published code:

- Prompts are this project's own. Data in them is fenced by lines with a code that the review must repeat.
- Answers are parsed by the recipe's ``answer``: the last stated one. The published code takes the first word after
  the first "Answer:", else the first character of the reply; compares everything except letters by its first
  character; and parses "**Answer:** B" as an asterisk.
- A view without an answer agrees with no label and is not a candidate. A flagged sample without a candidate or
  without a readable review is dropped with that reason; the median is that of the remaining flagged samples.
- A dataset without flagged or without clean samples does not crash; without clean samples, the nll of the review ranks.
- Draws are seeded; calls run concurrently, are journaled, and resume.
- The encoder is the recipe's; the published code embeds the questions with text-embedding-3-small.
- Responses keep their form; the published code trains on its own prompt and on "Answer: B", with the settings of
  LLaMA-Factory's example. Here, training is configured by the recipe's ``train``.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

CALL: Final[Mapping[str, Any]] = MappingProxyType(
    {"temperature": 1.0, "max_tokens": 512, "logprobs": True}
)
"""Sampling settings of every model call in the published code."""


def apply_official_preset(settings: Any, **more: Any) -> Any:
    """Return ``settings``; with ``preset: official``, add the published settings and ``more`` as defaults."""
    if isinstance(settings, Mapping) and settings.get("preset") == "official":
        return {**CALL, **more, **settings}
    return settings
