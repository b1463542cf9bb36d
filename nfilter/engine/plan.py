"""`nfilter plan`: estimate the calls of a run, their cost and their time, without making one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from nfilter.api.budget import Price
from nfilter.api.capabilities import Priced
from nfilter.api.errors import SourceError
from nfilter.api.stages import Calls, Contract
from nfilter.api.training import ChoosesSettings, Foretold
from nfilter.api.types import Row
from nfilter.engine.ingest import rows
from nfilter.engine.lookup import prompts_of, site_of
from nfilter.engine.plan_time import Times, is_local, pilot_directory
from nfilter.engine.whole_time import WholeTime, measured_in, whole_time
from nfilter.recipe.model import Recipe
from nfilter.registry.loading import Plugins

# Characters per token: English text has about four; numbers, code and other scripts have fewer.
_CHARACTERS: Final = (5.0, 4.0, 2.0)
_TEMPLATE_CODE: Final = re.compile(r"\{#.*?#\}|\{%.*?%\}|\{\{.*?\}\}", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Interval:
    """A lower bound, an estimate and an upper bound."""

    low: float
    usual: float
    high: float

    def __add__(self, other: Interval) -> Interval:
        return Interval(self.low + other.low, self.usual + other.usual, self.high + other.high)


@dataclass(frozen=True, slots=True)
class Expected:
    """The expected calls of one stage to one model. ``usd`` is None if the price is unknown, 0 for a local model.

    ``seconds`` is the time of a local model at the rate that an earlier run measured; None if none was measured.
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
    """The stages that call models. ``usd`` is their sum, None if a price is unknown; ``rows`` is the number of source rows.

    ``training`` describes the settings that the trainer would choose for these rows; ``warnings`` are about them. ``time`` is
    that of the whole run, as a pilot measured it; None without one.
    """

    rows: int
    stages: tuple[Expected, ...]
    usd: Interval | None
    budget: float | None
    training: str = ""
    warnings: tuple[str, ...] = ()
    time: WholeTime | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        return asdict(self)


def plan(
    recipe: Recipe, plugins: Plugins, limit: int | None = None, run_dir: Path | None = None
) -> Plan:
    """Read the source, and estimate the calls from the stages' contracts. No model is loaded and no call is made.

    Lengths are estimated from the characters of rows and templates, so the intervals are wide; every stage is assumed to
    receive every row. Times of local models come from the measurements of a run in ``run_dir`` and of its pilot.

    Raises:
        SourceError: if no row can be read.
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
        _whole_time(recipe, run_dir, count),
    )


def _whole_time(recipe: Recipe, run_dir: Path | None, count: int) -> WholeTime | None:
    """The time of ``count`` rows as a pilot in ``run_dir``, or the pilot of a run there, measured it."""
    directories = () if run_dir is None else (run_dir, pilot_directory(run_dir))
    known = (whole_time(recipe, measured_in(each), count) for each in directories)
    return next((found for found in known if found is not None), None)


def _training(recipe: Recipe, plugins: Plugins, rows: int) -> Foretold:
    """The settings that the trainer would choose for this number of rows; empty if it does not choose any."""
    use = recipe.train
    model = recipe.model(use.config.model) if use is not None else None
    if use is None or model is None or not issubclass(use.item.cls, ChoosesSettings):
        return Foretold()
    foretold: Foretold = use.item.cls.foretold(
        use.config, model.config, site_of(recipe, plugins), rows
    )
    return foretold


def _timed(asked: Expected, times: Times) -> Expected:
    """The expected calls to a local model, with their time if it was measured."""
    measured = times.of(asked.stage, asked.model)
    if measured is None:
        return replace(asked, local=True)
    # Seconds per call of the same stage are better than tokens per second of others, whose prompts have other lengths.
    basis, each = (
        (asked.calls, measured.call)
        if measured.call is not None
        else (asked.completion_tokens, 1 / measured.tokens_per_second)
    )
    seconds = Interval(*(value * each for value in _bounds(basis)))
    return replace(asked, local=True, seconds=seconds, tokens_per_second=measured.tokens_per_second)


def price_of(recipe: Recipe, model: str) -> Price | None:
    """Return the price of a model of the recipe in dollars per token: 0 for a local model, None if it is unknown."""
    use = recipe.model(model)
    if use is None or not isinstance(use.item.cls, Priced):
        return Price(0.0, 0.0)
    price: Price | None = use.item.cls.price(use.config)
    return price


def _size(row: Row) -> int:
    return sum(len(message.content) for message in row.sample.messages)


def _expected(
    stage: str, calls: Calls, count: int, template: int, size: float, price: Price | None
) -> Expected:
    number = Interval(calls.least * count, calls.usual * count, calls.most * count)
    characters = template + calls.rows * size
    # A prompt may repeat the stage's earlier answers; their length is at most max_tokens.
    low, usual, high = (characters / each for each in _CHARACTERS)
    shown = calls.shows or (calls.max_tokens if calls.most > 1 else 0)
    prompt = Interval(number.low * low, number.usual * usual, number.high * (high + shown))
    # An answer has at least one token; half of max_tokens is the estimate.
    answer = Interval(
        number.low, number.usual * calls.max_tokens / 2, number.high * calls.max_tokens
    )
    usd = None
    if price is not None:
        usd = Interval(
            *(
                price.prompt * p + price.completion * c
                for p, c in zip(_bounds(prompt), _bounds(answer), strict=True)
            )
        )
    return Expected(stage, calls.model, number, prompt, answer, usd)


def _bounds(value: Interval) -> Sequence[float]:
    return (value.low, value.usual, value.high)


def _sum(parts: Iterable[Interval | None]) -> Interval | None:
    total = Interval(0.0, 0.0, 0.0)
    for part in parts:
        if part is None:
            return None
        total += part
    return total
