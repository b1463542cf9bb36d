"""A context for running a stage twice: the second run reuses the models' answers of the first, as in a run."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np

from nfilter.api.calls import Completion, ModelRef, Request
from nfilter.api.types import FloatArray, TokenSample
from nfilter.models.conversations import conversing_in_rounds, finished

_Result = TypeVar("_Result")


class Recording:
    """A context that records the answers of its models. ``again()`` returns one that reuses them and logs nothing."""

    def __init__(self, ctx: Any, kept: dict[Any, Any] | None = None, *, first: bool = True) -> None:
        self._ctx = ctx
        self._kept: dict[Any, Any] = {} if kept is None else kept
        self._first = first
        self.log = ctx.log if first else _Silent()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ctx, name)

    def model(self, name: str) -> Any:
        """Return the context's model with recording."""
        return _Model(self._ctx.model(name), name, self._kept, first=self._first)

    def again(self) -> Recording:
        """Return the context for runs after the first."""
        return Recording(self._ctx, self._kept, first=False)


class _Silent:
    def info(self, text: str) -> None: ...

    def warning(self, text: str) -> None: ...


class _Model:
    def __init__(self, model: Any, name: str, kept: dict[Any, Any], *, first: bool) -> None:
        self._model = model
        self._name = name
        self._kept = kept
        self._first = first
        if hasattr(model, "generate"):
            self.generate = self._generate
        if hasattr(model, "converse"):
            self.conversing = partial(conversing_in_rounds, self._generate)
            self.converse = lambda *talks: finished(self.conversing(*talks))
        if hasattr(model, "score"):
            self.score = self._score

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def _generate(self, requests: Sequence[Request]) -> list[Completion]:
        keys = [("generate", self._name, repr(request)) for request in requests]
        return self._through(keys, requests, self._model.generate)

    def _score(
        self, samples: Sequence[TokenSample], adapter: ModelRef | None = None
    ) -> list[FloatArray]:
        keys = [
            ("score", self._name, sample.id, sample.ids.tobytes(), adapter and adapter.digest)
            for sample in samples
        ]
        more = (adapter,) if adapter is not None else ()
        return self._through(keys, samples, lambda asked: self._model.score(asked, *more))

    def _through(self, keys: Sequence[Any], asked: Sequence[Any], ask: Any) -> list[Any]:
        """Recorded answers by ``keys``; ``ask`` is called for the others. The first run always asks."""
        todo = [number for number, key in enumerate(keys) if self._first or key not in self._kept]
        fresh = dict(
            zip(todo, ask([asked[number] for number in todo]) if todo else (), strict=True)
        )
        answers = [
            fresh[number] if number in fresh else self._kept[key] for number, key in enumerate(keys)
        ]
        self._kept.update(zip(keys, answers, strict=True))
        return answers


def with_own_randomness(who: str, work: Callable[[], _Result]) -> _Result:
    """Run ``work`` and check that it neither draws from a global random number generator nor seeds one.

    These are ``random``, ``numpy.random``, and torch if it is imported. An import may draw by itself: if ``work`` imported a
    module, it runs again.

    Raises:
        AssertionError: names the generator and what to use instead.
    """
    for _ in range(2):
        modules, before = set(sys.modules), _states()
        result = work()
        used = [name for name, state in before.items() if _states()[name] != state]
        if not used or modules == set(sys.modules):
            break
    assert not used, (
        f"{who} used the global generator of {used[0]}, so its result depends on other code; use "
        "ctx.rng(sample.id), or numpy.random.default_rng(ctx.rng(key).getrandbits(64))"
    )
    return result


def _states() -> dict[str, Any]:
    """The states of the global generators, comparable by value."""
    numbers = vars(np.random)["get_state"](legacy=False)
    states: dict[str, Any] = {"random": random.getstate(), "numpy.random": repr(numbers)}
    states["numpy.random"] += str(numbers["state"]["key"].tobytes())
    torch = sys.modules.get("torch")
    if torch is not None:
        states["torch"] = torch.get_rng_state().numpy().tobytes()
    return states
