"""Measure the speed of local models on their first answers, and estimate the remaining time of a stage.

A backend returns answers in bursts, one batch at a time. The time of the first burst includes the loading of the weights, so
it counts only if it is the only one. The measurements are stored in ``pace.json`` of the run, one record per stage, for
``nfilter plan``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from nfilter.api.calls import Completion
from nfilter.api.durations import duration, speed
from nfilter.api.errors import DamageError, StoreError
from nfilter.api.stages import Calls, Log
from nfilter.store.files import read_sealed, write_sealed

PACES: Final = "pace.json"
_BURST: Final = 0.05  # maximum seconds between answers of one burst
_MIN_SECONDS: Final = 5.0  # of measurement before an estimate
_MIN_CALLS: Final = 16  # of measurement before an estimate
_LONG: Final = 600.0  # seconds of remaining time from which it is logged
_KEYS: Final = 8192  # maximum number of keys that are remembered to recognise repeated calls


@dataclass(slots=True)
class Rate:
    """The number of calls that a model answered in ``seconds``, and their tokens."""

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0

    def add(self, answers: Iterable[Completion], seconds: float) -> None:
        """Add answers that took ``seconds``."""
        for answer in answers:
            self.calls += 1
            self.prompt_tokens += answer.prompt_tokens
            self.completion_tokens += answer.completion_tokens
        self.seconds += seconds

    @property
    def known(self) -> bool:
        """Whether the measurement is long enough for an estimate."""
        return self.seconds >= _MIN_SECONDS and self.calls >= _MIN_CALLS


@dataclass(slots=True)
class _Clocked:
    """The measurement of one model in one stage. ``first`` is the first burst, ``rate`` all later ones."""

    rate: Rate = field(default_factory=Rate)
    first: Rate | None = None
    burst: list[Completion] = field(default_factory=list)
    since: float = 0.0
    last: float = 0.0
    answered: int = 0
    logged: float = 0.0
    keys: set[str] = field(default_factory=set)


class Pace:
    """The measurements of one stage; ``rows`` is its number of samples, ``calls`` the expected calls of its contract."""

    def __init__(
        self,
        stage: str,
        rows: int,
        calls: Iterable[Calls],
        log: Log,
        file: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
        identify: Callable[[str], str] = str,
    ) -> None:
        """``identify`` returns a digest of a model, which distinguishes it from another model of the same name."""
        self.stage = stage
        self.rows = rows
        self.calls = tuple(calls)
        self.log = log
        self.file = file
        self.clock = clock
        self.identify = identify
        self._models: dict[str, _Clocked] = {}

    def known(self, model: str, keys: Iterable[str]) -> None:
        """Count answers from the journal. Calls that ``fit`` made already and ``process`` repeats count once."""
        clocked = self._models.setdefault(model, _Clocked())
        clocked.answered += sum(key not in clocked.keys for key in keys)

    def begin(self, model: str) -> None:
        """Start the clock of a model before its calls."""
        clocked = self._models.setdefault(model, _Clocked())
        clocked.since = clocked.last = self.clock()

    def answered(self, model: str, key: str, answer: Completion) -> None:
        """Record the answer to the call ``key``."""
        clocked, now = self._models[model], self.clock()
        if clocked.burst and now - clocked.last > _BURST:
            self._close(clocked)
            self._log_time_left(model, clocked)
        clocked.burst.append(answer)
        clocked.answered += 1
        clocked.last = now
        if len(clocked.keys) < _KEYS:
            clocked.keys.add(key)

    def end(self, model: str) -> None:
        """Record that all answers of these calls came."""
        clocked = self._models[model]
        if clocked.burst:
            self._close(clocked)
        self._log_time_left(model, clocked)

    def rate(self, model: str) -> Rate:
        """Return the measured rate of a model."""
        clocked = self._models.get(model, _Clocked())
        if clocked.rate.calls:
            return clocked.rate
        return clocked.first or clocked.rate

    def left(self, model: str) -> float | None:
        """Return the expected remaining seconds of the stage's calls to the model; None if unknown."""
        expected = sum(calls.usual for calls in self.calls if calls.model == model) * self.rows
        rate = self.rate(model)
        if not rate.known or not expected:
            return None
        answered = self._models[model].answered
        return max(0.0, expected - answered) * rate.seconds / rate.calls

    def keep(self) -> None:
        """Write the measurements to the file, if they are long enough."""
        rates = {name: rate for name in self._models if (rate := self.rate(name)).known}
        if self.file is None or not rates:
            return
        records = {n: {**asdict(rate), "of": self.identify(n)} for n, rate in rates.items()}
        known = speeds(self.file)
        write_sealed(self.file, {**known, "stages": {**_stages(known), self.stage: records}})

    @staticmethod
    def _close(clocked: _Clocked) -> None:
        seconds = clocked.last - clocked.since
        if clocked.first is None:
            clocked.first = Rate()
            clocked.first.add(clocked.burst, seconds)
        else:
            clocked.rate.add(clocked.burst, seconds)
        clocked.burst, clocked.since = [], clocked.last

    def _log_time_left(self, model: str, clocked: _Clocked) -> None:
        left = self.left(model)
        if left is None or left < max(_LONG, 2 * clocked.logged):
            return
        clocked.logged = left
        self.log.info(f"{self.stage}: {time_left_text(left, self.rate(model), model)}")


def time_left_text(seconds: float, rate: Rate, model: str) -> str:
    """Return e.g. ``about 2 h 10 min of calls to expert left, at 310 tokens/s (0.9 s per call, ...)`` with remedies."""
    return (
        f"about {duration(seconds)} of calls to {model} left, at {speed(rate.completion_tokens / rate.seconds)} "
        f"({rate.seconds / rate.calls:.2g} s per call, measured on {rate.calls:,}). Stop it (Ctrl-C; no answer is lost) and try fewer "
        "rows (--limit N), fewer rounds:, a smaller max_tokens:, or a faster model"
    )


def speeds(file: Path) -> dict[str, Any]:
    """Return the content of a run's ``pace.json``; empty without an undamaged record."""
    with suppress(DamageError, StoreError, OSError):
        return dict(read_sealed(file, file.parent)) if file.is_file() else {}
    return {}


def paces(file: Path) -> dict[str, Any]:
    """Return the measurements of a run, ``{stage: {model: Rate}}`` as JSON; empty without an undamaged record."""
    return _stages(speeds(file))


def _stages(record: Mapping[str, Any]) -> dict[str, Any]:
    stages = record.get("stages")
    return dict(stages) if isinstance(stages, Mapping) else {}
