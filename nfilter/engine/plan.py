"""What a run will ask of its models, and what that will cost, said before anything is asked."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from nfilter.api.budget import Price
from nfilter.api.capabilities import Priced
from nfilter.api.errors import SourceError
from nfilter.api.stages import Calls, ChoosesSettings, Contract, Foretold
from nfilter.api.types import Row
from nfilter.engine.ingest import rows
from nfilter.engine.lookup import prompts_of, site_of
from nfilter.engine.plan_time import Times, is_local
from nfilter.recipe.model import Recipe
from nfilter.registry.loading import Plugins

# Characters a token: English text has about four; numbers, code and other scripts have fewer.
_CHARACTERS: Final = (5.0, 4.0, 2.0)
_TEMPLATE_CODE: Final = re.compile(r"\{#.*?#\}|\{%.*?%\}|\{\{.*?\}\}", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Interval:
    """At least, usually, at most."""

    low: float
    usual: float
    high: float

    def __add__(self, other: Interval) -> Interval:
        return Interval(self.low + other.low, self.usual + other.usual, self.high + other.high)


@dataclass(frozen=True, slots=True)
class Expected:
    """What one stage asks of one model. ``usd`` is None where the model has no known price, 0 where it is local.

    ``seconds`` is how long a local model takes, at the rate that an earlier run measured; None where none did.
    """

    stage: str
    model: str
    calls: Interval
    prompt_tokens: Interval
    completion_tokens: Interval
    usd: Interval | None
    local: bool = False
    seconds: Interval | None = None
    tokens_per_second: float | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """All stages that ask. ``usd`` is their sum, None where a price is not known; ``rows`` are what the source gives.

    ``training`` says what the trainer would choose for these rows, and ``warnings`` what is odd about that.
    """

    rows: int
    stages: tuple[Expected, ...]
    usd: Interval | None
    budget: float | None
    training: str = ""
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def plan(
    recipe: Recipe, plugins: Plugins, limit: int | None = None, run_dir: Path | None = None
) -> Plan:
    """Read the source, and ask every stage's contract what it will ask. No model is loaded and no call made.

    Lengths come from the rows and templates by characters, so the intervals are wide; a stage is taken to see every row.
    What a run in ``run_dir`` measured of models that run here tells how long they will take.

    Raises:
        SourceError: when no row can be read.
    """
    texts = [_size(row) for row in rows(recipe.source, recipe, limit) if isinstance(row, Row)]
    if not texts:
        raise SourceError(
            f"source {recipe.source.use.name}: no row can be read, so nothing can be planned"
        )
    count, size = len(texts), sum(texts) / len(texts)
    prompts = prompts_of(recipe, plugins)
    stages = []
    times = Times(recipe, run_dir)
    for number, use in enumerate(recipe.samples, start=1):
        contract: Contract = use.item.cls.contract(use.config)
        for calls in contract.calls:
            template = len(_TEMPLATE_CODE.sub("", prompts.get(calls.prompt).source))
            price = price_of(recipe, calls.model)
            label = f"{number:02d}-{use.name}"
            asked = _expected(label, calls, count, template, size, price)
            stages.append(_timed(asked, times) if is_local(recipe, calls.model) else asked)
    training = _training(recipe, plugins, count)
    return Plan(
        count,
        tuple(stages),
        _sum(stage.usd for stage in stages),
        recipe.budget.usd if recipe.budget else None,
        training.text,
        (training.warning,) if training.warning else (),
    )


def _training(recipe: Recipe, plugins: Plugins, rows: int) -> Foretold:
    """What the trainer would choose for so many rows, where it chooses anything."""
    use = recipe.train
    model = recipe.model(use.config.model) if use is not None else None
    if use is None or model is None or not issubclass(use.item.cls, ChoosesSettings):
        return Foretold()
    found: Foretold = use.item.cls.foretold(
        use.config, model.config, site_of(recipe, plugins), rows
    )
    return found


def _timed(asked: Expected, times: Times) -> Expected:
    """What a model on this machine is asked, with how long that takes where it was measured."""
    found = times.of(asked.stage, asked.model)
    if found is None:
        return replace(asked, local=True)
    # Calls of this very stage tell more than the tokens of others, whose prompts have other lengths.
    basis, each = (
        (asked.calls, found.call)
        if found.call is not None
        else (asked.completion_tokens, 1 / found.tokens_per_second)
    )
    seconds = Interval(*(value * each for value in _three(basis)))
    return replace(asked, local=True, seconds=seconds, tokens_per_second=found.tokens_per_second)


def price_of(recipe: Recipe, model: str) -> Price | None:
    """Dollars a token of a model of the recipe: nothing for one that runs here, None where it is not known."""
    use = recipe.model(model)
    if use is None or not isinstance(use.item.cls, Priced):
        return Price(0.0, 0.0)
    found: Price | None = use.item.cls.price(use.config)
    return found


def _size(row: Row) -> int:
    return sum(len(message.content) for message in row.sample.messages)


def _expected(
    stage: str, calls: Calls, count: int, template: int, size: float, price: Price | None
) -> Expected:
    number = Interval(calls.least * count, calls.usual * count, calls.most * count)
    characters = template + calls.rows * size
    # What a stage shows of its own earlier answers is not known yet; at most it is as long as they may be.
    low, usual, high = (characters / each for each in _CHARACTERS)
    shown = calls.shows or (calls.max_tokens if calls.most > 1 else 0)
    prompt = Interval(number.low * low, number.usual * usual, number.high * (high + shown))
    # An answer has a token at least; half of what it may have, where nothing is known.
    answer = Interval(
        number.low, number.usual * calls.max_tokens / 2, number.high * calls.max_tokens
    )
    usd = None
    if price is not None:
        usd = Interval(
            *(
                price.prompt * p + price.completion * c
                for p, c in zip(_three(prompt), _three(answer), strict=True)
            )
        )
    return Expected(stage, calls.model, number, prompt, answer, usd)


def _three(value: Interval) -> Sequence[float]:
    return (value.low, value.usual, value.high)


def _sum(parts: Iterable[Interval | None]) -> Interval | None:
    total = Interval(0.0, 0.0, 0.0)
    for part in parts:
        if part is None:
            return None
        total += part
    return total
