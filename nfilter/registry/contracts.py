"""Validate contracts and the return values of sources, models and metrics. The engine and ``nfilter.testing`` use it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from nfilter.api.calls import Completion
from nfilter.api.errors import ContractError
from nfilter.api.stages import Calls, Contract, ModelNeed
from nfilter.api.types import FloatArray, Row, Sample, TokenSample, Unreadable

_NAMES = ("reads", "writes", "verdicts", "views", "proposes", "prompts", "sometimes")
_WRITTEN = ("verdicts", "views", "sometimes")


def contract_of(cls: Any, config: Any) -> Contract:
    """Return the contract of ``cls`` for ``config``.

    Raises:
        ContractError: if it is not a valid Contract; the message lists all faults.
    """
    try:
        contract = cls.contract(config)
    except Exception as error:
        raise ContractError(
            f"{cls.name}: contract raised {type(error).__name__}: {error}"
        ) from error
    if not isinstance(contract, Contract):
        shown = "None" if contract is None else f"a {type(contract).__name__}"
        raise ContractError(
            f"{cls.name}: contract returned {shown}; write return Contract(...), also where it says nothing"
        )
    faults = list(_faults(contract))
    if faults:
        raise ContractError("; ".join(f"{cls.name}: contract: {fault}" for fault in faults))
    return contract


def _faults(contract: Contract) -> Iterator[str]:
    wrong = {
        name: getattr(contract, name) for name in _NAMES if not _is_names(getattr(contract, name))
    }
    for name, value in wrong.items():
        yield f"{name} is {value!r:.80}, not a set of names; write {name}=frozenset({{'name'}})"
    if not wrong:
        yield from _undeclared(contract)
    for name, kind in (("needs", ModelNeed), ("calls", Calls)):
        value = getattr(contract, name)
        if not isinstance(value, tuple | list) or not all(isinstance(each, kind) for each in value):
            yield f"{name} is {value!r:.80}, not a tuple of {kind.__name__}; write {name}=({kind.__name__}(...),)"
    for each in fields(contract):
        if each.type == "bool" and not isinstance(getattr(contract, each.name), bool):
            yield f"{each.name} is {getattr(contract, each.name)!r:.40}, neither True nor False"


def _is_names(value: object) -> bool:
    return isinstance(value, frozenset | set) and all(isinstance(each, str) for each in value)


def _undeclared(contract: Contract) -> Iterator[str]:
    """Notes that a set names but that ``writes`` or ``reads`` lacks."""
    for name in _WRITTEN:
        for note in sorted(set(getattr(contract, name)) - contract.writes):
            yield f"{note!r} is among {name} and not among writes; add it to writes"
    for note in sorted(contract.proposes - contract.writes - contract.reads):
        yield f"{note!r} is among proposes and neither read nor written; add it to reads, or to writes"


def rows_of(source: Any) -> Iterator[Row | Unreadable]:
    """Yield the rows of a source.

    Raises:
        ContractError: if an item is neither a Row nor an Unreadable.
    """
    rows = source.read()
    if not isinstance(rows, Iterable):
        raise ContractError(
            f"source {source.name!r}: read returned {type(rows).__name__}; write yield Row(sample) for each row"
        )
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, Row | Unreadable) or (
            isinstance(row, Row) and not isinstance(row.sample, Sample)
        ):
            raise ContractError(
                f"source {source.name!r}: read gave {row!r:.80} as row {number}; write yield Row(Sample(id, messages)), or "
                "Unreadable(line, error, raw) for what cannot be read"
            )
        yield row


def check_completions(who: str, answers: object, count: int) -> list[Completion]:
    """Return ``answers`` as the completions of ``count`` requests.

    Raises:
        ContractError: if they are not one Completion per request.
    """
    what = None
    if not isinstance(answers, Sequence) or isinstance(answers, str | bytes):
        what = f"generate returned {'None' if answers is None else f'a {type(answers).__name__}'}, not a list"
    elif len(answers) != count:
        what = f"{len(answers)} completions came back for {count} requests"
    else:
        strange = next((each for each in answers if not isinstance(each, Completion)), None)
        if strange is not None:
            what = f"generate returned a {type(strange).__name__} where a Completion belongs"
        else:
            return list(answers)
    raise ContractError(
        f"{who}: {what}; a backend returns one per request, in order, failures included"
    )


def check_vectors(who: str, vectors: object, count: int) -> FloatArray:
    """Return ``vectors``, [count, d], of ``count`` texts.

    Raises:
        ContractError: if the shape differs or a value is not a finite float.
    """
    if not isinstance(vectors, np.ndarray) or vectors.ndim != 2 or len(vectors) != count:
        shape = getattr(vectors, "shape", type(vectors).__name__)
        raise ContractError(
            f"{who}: embed returned {shape} for {count} texts; return an array [n, d]"
        )
    if vectors.dtype.kind != "f" or not np.isfinite(vectors).all():
        raise ContractError(f"{who}: embed returned numbers that are no floats or not finite")
    return vectors


def check_losses(who: str, losses: object, samples: Sequence[TokenSample]) -> list[FloatArray]:
    """Return the losses of ``samples``, one [T] array per sample.

    Raises:
        ContractError: if the number or the lengths of the arrays differ.
    """
    remedy = "return one float array [T] per sample, NaN where no token is predicted"
    if not isinstance(losses, Iterable):
        raise ContractError(f"{who}: score returned {type(losses).__name__}; {remedy}")
    values = list(losses)
    if len(values) != len(samples):
        raise ContractError(
            f"{who}: score returned {len(values)} arrays for {len(samples)} samples; {remedy}"
        )
    for sample, each in zip(samples, values, strict=True):
        if getattr(each, "shape", None) != sample.ids.shape:
            raise ContractError(
                f"{who}: the losses of sample {sample.id!r} have shape {getattr(each, 'shape', None)}, and it has "
                f"{len(sample.ids)} tokens; {remedy}"
            )
    return values


def check_encoded(who: str, encoded: object, samples: Sequence[Sample]) -> list[TokenSample]:
    """Return the encoded ``samples``.

    Raises:
        ContractError: if they are not one TokenSample per sample, in order.
    """
    remedy = "encode returns one TokenSample per sample, in order, without tokens if the template rejects the sample"
    values = list(encoded) if isinstance(encoded, Iterable) else None
    if values is None or not all(isinstance(each, TokenSample) for each in values):
        raise ContractError(f"{who}: encode returned something else than TokenSamples; {remedy}")
    if [each.id for each in values] != [sample.id for sample in samples]:
        raise ContractError(
            f"{who}: encode returned {len(values)} samples for {len(samples)}, or in another order; {remedy}"
        )
    return values


def check_figures(metric: str, returned: object) -> dict[str, Any]:
    """Return the figures of a metric as metrics.json stores them.

    Raises:
        ContractError: if they are not a mapping of names to JSON values.
    """
    remedy = (
        "return a mapping of names to JSON values: finite numbers, or None for an undefined figure"
    )
    if not isinstance(returned, Mapping) or not all(isinstance(key, str) for key in returned):
        shown = "None" if returned is None else f"a {type(returned).__name__}"
        raise ContractError(f"metric {metric!r} returned {shown}; {remedy}")
    try:
        json.dumps(dict(returned), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ContractError(
            f"metric {metric!r} returned values that are not JSON: {error}; {remedy}"
        ) from error
    return dict(returned)
