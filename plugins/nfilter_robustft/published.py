"""``preset: official``: the settings of the published code of RobustFT, for the comparison with the paper's own.

Source: github.com/luo-junyu/RobustFT, robustft.py. Every call there has temperature 1 and 512 tokens at most, with
log-probabilities, and there is one call a view and one a review: 2N + 2M for N samples, M of them flagged.

Differences that stay, as what they replace is a fault or cannot be had here:

- Prompts are this project's own, and data in them stands between lines with a code, which the review has to repeat.
- Answers are read by the recipe's ``answer``: the last one that is stated. The published code takes the first word
  behind the first "Answer:", else the first character of the reply; compares all but letters by their first
  character; and reads "**Answer:** B" as an asterisk.
- A view without an answer agrees with nothing and is no candidate. A flagged sample without a candidate, or whose
  review cannot be read, is dropped with that reason; the median is that of the flagged samples left.
- No sample flagged or none clean is no crash, and without a clean sample the nll of the review ranks.
- Draws have seeds, and calls run together, are kept, and go on where a run was stopped.
- The encoder is the recipe's; the published code sends the questions to text-embedding-3-small.
- Responses keep the recipe's form of a dialogue; the published code trains on its own prompt and on "Answer: B", with
  the settings of LLaMA-Factory's example. Training is no stage: a recipe's ``train`` says how.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

CALL: Final[Mapping[str, Any]] = MappingProxyType(
    {"temperature": 1.0, "max_tokens": 512, "logprobs": True}
)
"""How the published code asks its model, whatever it asks."""


def as_published(settings: Any, **more: Any) -> Any:
    """The ``settings`` of a stage that asks a model, with the published ones and ``more`` where it names none itself."""
    if isinstance(settings, Mapping) and settings.get("preset") == "official":
        return {**CALL, **more, **settings}
    return settings
