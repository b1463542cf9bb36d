"""Calls to capabilities that plugins define, with their results in the journal."""

from __future__ import annotations

import base64
import hashlib
import inspect
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, fields, is_dataclass
from types import SimpleNamespace
from typing import Any, Protocol

import numpy as np
from pydantic import BaseModel

from nfilter.api.capabilities import caching, methods_of
from nfilter.api.errors import ContractError
from nfilter.api.interrupt import Interrupt, Interrupted
from nfilter.api.stages import Progress
from nfilter.store.files import canonical, digest

_PORTION = 64  # items per call of the backend, and per commit
_NUMBERS = "biufc"  # kinds of arrays


class ResultStore(Protocol):
    """Where results are stored: the journal of a run."""

    def results(self, keys: Sequence[str]) -> dict[str, str]: ...

    def keep_results(self, rows: Sequence[tuple[str, str, float]]) -> None: ...


@dataclass(frozen=True, slots=True)
class Calls:
    """The methods of one capability of one model, for one stage.

    Attributes:
        who: The stage, the model and its backend, for errors.
        label: The stage and the model, for progress bars.
        capability: The protocol class.
        backend: The object with the methods.
        identity: What a result depends on besides the arguments: the weights, and the code of a local model.
        store: Where results are stored.
        progress: Opens a progress bar.
        interrupt: Tells whether the run is being interrupted.
        spent: Returns the dollars that the run has spent.
        lose: Receives dollars that were paid for calls without a result.
        take_lost: Takes the costs that the backend knows to have no result, which are among those spent.
    """

    who: str
    label: str
    capability: type
    backend: Any
    identity: tuple[str, ...]
    store: ResultStore
    progress: Callable[[int, str], AbstractContextManager[Progress]]
    interrupt: Interrupt
    spent: Callable[[], float]
    lose: Callable[[float], None]
    take_lost: Callable[[], object] = lambda: None

    def methods(self) -> SimpleNamespace:
        """Return an object with the methods of the capability."""
        settings = caching(self.capability)
        if settings is None or not settings.cached:
            call = self._uncached
        else:
            call = self._each if settings.each else self._whole
        names = methods_of(self.capability)
        return SimpleNamespace(**{name: _Method(name, call) for name in names})

    def _uncached(self, name: str, args: Sequence[Any], keywords: Mapping[str, Any]) -> Any:
        return getattr(self.backend, name)(*args, **keywords)

    def _whole(self, name: str, args: Sequence[Any], keywords: Mapping[str, Any]) -> Any:
        """Call the backend once, or return the stored result."""
        key = self._key(name, self._arguments(name, args, keywords)[1])
        found = self.store.results([key])
        if key not in found:
            with self._paying() as paid:
                result = self._packed(name, self._uncached(name, args, keywords))
                self.store.keep_results([(key, result, paid())])
            found = {key: result}
        return _unpacked(found[key])[0]

    def _each(self, name: str, args: Sequence[Any], keywords: Mapping[str, Any]) -> Any:
        """Call the backend for items without a stored result, in portions; return one result per item."""
        first, arguments = self._arguments(name, args, keywords)
        items = arguments.pop(first, None)
        if not isinstance(items, list | tuple):
            raise ContractError(
                f"{self.who}: {self._shown(name)} takes a list first, with one result per item, and not "
                f"{type(items).__name__}; write @capability(each=False) where a call has one result as a whole"
            )
        if not items:
            return self._uncached(name, args, keywords)
        keys = [self._key(name, arguments, item) for item in items]
        places: dict[str, int] = {}
        for place, key in enumerate(keys):
            places.setdefault(key, place)
        found = self.store.results(list(places))
        todo = [key for key in places if key not in found]
        with self.progress(len(todo), f"{self.label}: {name}") as bar:
            for start in range(0, len(todo), _PORTION):
                if self.interrupt.requested:
                    raise Interrupted
                part = todo[start : start + _PORTION]
                asked = [items[places[key]] for key in part]
                again = (
                    ((asked, *args[1:]), keywords) if args else (args, {**keywords, first: asked})
                )
                with self._paying() as paid:
                    results = self._rows(name, self._uncached(name, *again), len(part))
                    share = paid() / len(part)
                    self.store.keep_results(
                        [(key, row, share) for key, row in zip(part, results, strict=True)]
                    )
                found.update(zip(part, results, strict=True))
                bar.advance(len(part))
        return self._joined(name, [_unpacked(found[key]) for key in keys])

    def _arguments(
        self, name: str, args: Sequence[Any], keywords: Mapping[str, Any]
    ) -> tuple[str, dict[str, Any]]:
        """Return the name of the first parameter of the protocol's method, and the arguments by name."""
        signature = inspect.signature(getattr(self.capability, name))
        own, *names = signature.parameters
        bound = signature.bind(None, *args, **keywords).arguments
        return (names or [own])[0], {key: each for key, each in bound.items() if key != own}

    def _key(self, name: str, *arguments: Any) -> str:
        kind = f"{self.capability.__module__}.{self.capability.__qualname__}.{name}"
        try:
            return digest(
                "capability", *self.identity, kind, [_looked_up(each) for each in arguments]
            )
        except _OtherValueError as error:
            raise ContractError(
                f"{self.who}: {self._shown(name)} is called with {error}, by which no result can be looked up: give JSON "
                "values, numbers in arrays or dataclasses of them, or write @capability(cached=False)"
            ) from error

    def _packed(self, name: str, value: Any, *, row: bool = False) -> str:
        try:
            return _packed(value, row=row)
        except _OtherValueError as error:
            raise ContractError(
                f"{self.who}: {self._shown(name)} returned {error}, which cannot be stored: return JSON values or numeric "
                "arrays, or write @capability(cached=False)"
            ) from error

    def _rows(self, name: str, returned: Any, count: int) -> list[str]:
        """Return the results of ``count`` items, packed."""
        row = isinstance(returned, np.ndarray) and returned.ndim > 0
        if not row and not isinstance(returned, list | tuple):
            what = type(returned).__name__
        elif len(returned) != count:
            what = f"{len(returned)} results"
        else:
            return [self._packed(name, each, row=row) for each in returned]
        raise ContractError(
            f"{self.who}: {self._shown(name)} returned {what} for {count} items; return one result per item, in order, or write "
            "@capability(each=False) where a call has one result as a whole"
        )

    def _joined(self, name: str, results: Sequence[tuple[Any, bool]]) -> Any:
        """Return the results as the backend returns them: an array [n, ...] of rows, or a list."""
        values = [value for value, _ in results]
        if not all(row for _, row in results):
            return values
        try:
            return np.stack(values)
        except ValueError as error:
            shapes = sorted({str(value.shape) for value in values})
            raise ContractError(
                f"{self.who}: {self._shown(name)} returned rows of the shapes {', '.join(shapes)}, and one array has rows of one "
                "shape; return a list of arrays"
            ) from error

    def _shown(self, name: str) -> str:
        return f"{self.capability.__name__}.{name}"

    @contextmanager
    def _paying(self) -> Iterator[Callable[[], float]]:
        """Yield the dollars spent since the start; they are recorded as lost if the block fails."""
        before = self.spent()

        def paid() -> float:
            return max(0.0, self.spent() - before)

        try:
            yield paid
        except BaseException:
            if paid():
                self.lose(paid())
            raise
        finally:
            self.take_lost()


@dataclass(frozen=True, slots=True)
class _Method:
    name: str
    call: Callable[[str, Sequence[Any], Mapping[str, Any]], Any]

    def __call__(self, *args: Any, **keywords: Any) -> Any:
        return self.call(self.name, args, keywords)


class _OtherValueError(Exception):
    """A value that is neither JSON nor an array; the message describes it."""


def _packed(value: Any, *, row: bool = False) -> str:
    """Return a result as JSON text; ``row``: it is a row of an array."""
    if isinstance(value, np.ndarray) or row:
        array = np.ascontiguousarray(value)
        if array.dtype.kind not in _NUMBERS:
            raise _OtherValueError(f"an array of {array.dtype}")
        shape = list(np.shape(value))  # ascontiguousarray makes a scalar one-dimensional
        data = [array.dtype.str, shape, base64.b64encode(array.tobytes()).decode("ascii")]
        return json.dumps({"row" if row else "array": data})
    return json.dumps({"value": _json(value)})


def _unpacked(text: str) -> tuple[Any, bool]:
    """Return a result, and whether it is a row of an array."""
    ((kind, data),) = json.loads(text).items()
    if kind == "value":
        return data, False
    dtype, shape, encoded = data
    array = np.frombuffer(base64.b64decode(encoded), dtype=np.dtype(dtype)).reshape(shape)
    return array.copy(), kind == "row"


def _json(value: Any) -> Any:
    if isinstance(value, np.generic) and value.dtype.kind in "biuf":
        value = value.item()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise _OtherValueError(f"{value}, which JSON does not have")
        return value
    if isinstance(value, list | tuple):
        return [_json(each) for each in value]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: _json(each) for key, each in value.items()}
    raise _OtherValueError(f"a {type(value).__name__}")


def _looked_up(value: Any) -> Any:
    """Return JSON that differs wherever the arguments of two calls differ."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": repr(value)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.ndarray) and value.dtype.kind in _NUMBERS:
        data = np.ascontiguousarray(value).tobytes()
        return {"array": [value.dtype.str, list(value.shape), hashlib.sha256(data).hexdigest()]}
    return _parts(value)


def _parts(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return {"list": [_looked_up(each) for each in value]}
    if isinstance(value, Mapping):
        pairs = [[_looked_up(key), _looked_up(each)] for key, each in value.items()]
        return {"mapping": sorted(pairs, key=canonical)}
    if isinstance(value, BaseModel):
        return {"fields": [type(value).__qualname__, _looked_up(value.model_dump())]}
    if is_dataclass(value) and not isinstance(value, type):
        named = {field.name: _looked_up(getattr(value, field.name)) for field in fields(value)}
        return {"fields": [type(value).__qualname__, named]}
    raise _OtherValueError(f"a {type(value).__name__}")
