"""How fast a model on this machine answers, and how long a stage will take at that: measured on its first answers.

A backend gives answers in bursts, a batch at a time. The first burst has the loading of the weights in it, so that what is
measured begins with its end, unless it is the only one. What was measured is kept in ``pace.json`` of the run, a record a stage, and
``nfilter plan`` reads it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from nfilter.api.durations import duration, speed
from nfilter.api.errors import DamageError, StoreError
from nfilter.api.stages import Calls, Log
from nfilter.api.types import Completion
from nfilter.store.files import read_sealed, write_sealed

PACES: Final = "pace.json"
_BURST: Final = 0.05  # seconds between answers of one burst, at most
_SURE: Final = 5.0  # seconds that have to be measured before anything is said
_LONG: Final = 600.0  # seconds that a stage may take without a word
_CALLS: Final = 16
_KEYS: Final = 8192  # calls that are told apart when they come again: those of first rows


@dataclass(slots=True)
class Rate:
    """Calls that a model answered in ``seconds``, and the tokens that it read and wrote."""

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0

    def add(self, answers: Iterable[Completion], seconds: float) -> None:
        """Count answers that came in ``seconds``."""
        for answer in answers:
            self.calls += 1
            self.prompt_tokens += answer.prompt_tokens
            self.completion_tokens += answer.completion_tokens
        self.seconds += seconds

    @property
    def known(self) -> bool:
        """Whether enough was measured to say anything."""
        return self.seconds >= _SURE and self.calls >= _CALLS


@dataclass(slots=True)
class _Clocked:
    """One model of one stage: bursts so far. ``before`` is the first burst, which counts only while it is the only one."""

    rate: Rate = field(default_factory=Rate)
    first: Rate | None = None
    burst: list[Completion] = field(default_factory=list)
    since: float = 0.0
    last: float = 0.0
    answered: int = 0
    told: float = 0.0
    keys: set[str] = field(default_factory=set)


class Pace:
    """The measure of one stage; ``rows`` is how many samples it sees, ``calls`` what its contract says it asks."""

    def __init__(
        self,
        stage: str,
        rows: int,
        calls: Iterable[Calls],
        log: Log,
        file: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
        described: Callable[[str], str] = str,
    ) -> None:
        """``described`` gives what a model's record carries, so that a rate is not taken for that of another model."""
        self.stage = stage
        self.rows = rows
        self.calls = tuple(calls)
        self.log = log
        self.file = file
        self.clock = clock
        self.described = described
        self._models: dict[str, _Clocked] = {}

    def known(self, model: str, keys: Iterable[str]) -> None:
        """Answers that came from the journal. What a stage asks while it fits, it asks again later: that counts once."""
        clocked = self._models.setdefault(model, _Clocked())
        clocked.answered += sum(key not in clocked.keys for key in keys)

    def begin(self, model: str) -> None:
        """A model is about to be asked."""
        clocked = self._models.setdefault(model, _Clocked())
        clocked.since = clocked.last = self.clock()

    def answered(self, model: str, key: str, answer: Completion) -> None:
        """The answer to the call ``key`` came."""
        clocked, now = self._models[model], self.clock()
        if clocked.burst and now - clocked.last > _BURST:
            self._close(clocked)
            self._tell(model, clocked)
        clocked.burst.append(answer)
        clocked.answered += 1
        clocked.last = now
        if len(clocked.keys) < _KEYS:
            clocked.keys.add(key)

    def end(self, model: str) -> None:
        """All answers of this call came."""
        clocked = self._models[model]
        if clocked.burst:
            self._close(clocked)
        self._tell(model, clocked)

    def rate(self, model: str) -> Rate:
        """What was measured of a model."""
        clocked = self._models.get(model, _Clocked())
        if clocked.rate.calls:
            return clocked.rate
        return clocked.first or clocked.rate

    def left(self, model: str) -> float | None:
        """Seconds that the stage will still ask the model; None where nothing is known."""
        expected = sum(calls.usual for calls in self.calls if calls.model == model) * self.rows
        rate = self.rate(model)
        if not rate.known or not expected:
            return None
        answered = self._models[model].answered
        return max(0.0, expected - answered) * rate.seconds / rate.calls

    def keep(self) -> None:
        """Have what was measured on record, where it is enough to go by."""
        found = {name: self.rate(name) for name in self._models}
        found = {name: rate for name, rate in found.items() if rate.known}
        if self.file is None or not found:
            return
        records = {n: {**asdict(rate), "of": self.described(n)} for n, rate in found.items()}
        kept = {**paces(self.file), self.stage: records}
        write_sealed(self.file, {"stages": kept})

    @staticmethod
    def _close(clocked: _Clocked) -> None:
        seconds = clocked.last - clocked.since
        if clocked.first is None:
            clocked.first = Rate()
            clocked.first.add(clocked.burst, seconds)
        else:
            clocked.rate.add(clocked.burst, seconds)
        clocked.burst, clocked.since = [], clocked.last

    def _tell(self, model: str, clocked: _Clocked) -> None:
        left = self.left(model)
        if left is None or left < max(_LONG, 2 * clocked.told):
            return
        clocked.told = left
        self.log.info(f"{self.stage}: {told(left, self.rate(model), model)}")


def told(seconds: float, rate: Rate, model: str) -> str:
    """``about 2 h 10 min of asking expert left, at 310 tokens/s (a call takes 0.9 s); ...`` with what to do about it."""
    return (
        f"about {duration(seconds)} of asking {model} left, at {speed(rate.completion_tokens / rate.seconds)} "
        f"({rate.seconds / rate.calls:.2g} s per call, measured on {rate.calls:,}). Stop it (Ctrl-C; no answer is lost) and try fewer "
        "rows (--limit N), fewer rounds:, a smaller max_tokens:, or a faster model"
    )


def paces(file: Path) -> dict[str, Any]:
    """What was measured in a run, ``{stage: {model: Rate}}`` as JSON; nothing where there is no record that is whole."""
    with suppress(DamageError, StoreError, OSError):
        found = read_sealed(file, file.parent) if file.is_file() else {}
        stages = found.get("stages")
        if isinstance(stages, Mapping):
            return dict(stages)
    return {}
