"""The invariants of stages. Every error names the plugin, the sample and the remedy."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np

from nfilter.api.errors import ContractError
from nfilter.api.notes import Proposal, Verdict, View
from nfilter.api.stages import Contract, State
from nfilter.api.types import Sample, TokenSample

_Value = TypeVar("_Value")


def values_of(stage: str, method: str, kind: type[_Value], returned: object) -> list[_Value]:
    """Return a stage's result as a list of samples of type ``kind``; a generator is consumed.

    Raises:
        ContractError: if it is anything else, e.g. None because of a missing ``return``.
    """
    if not isinstance(returned, Iterable) or isinstance(returned, str | bytes | Mapping):
        raise ContractError(
            f"{stage}: {method} returned {_named(returned)}, not a sequence of {kind.__name__}; return every sample, in order"
        )
    values = list(returned)
    for number, value in enumerate(values):
        if not isinstance(value, kind):
            raise ContractError(
                f"{stage}: {method} returned {_named(value)} as item {number}, not a {kind.__name__}"
            )
    return values


def _named(value: object) -> str:
    return "None" if value is None else f"a {type(value).__name__}"


def check_state(stage: str, method: str, state: object) -> State:
    """Return a stage's state after checking that it can be written to files.

    Raises:
        ContractError: if it is not a State of JSON values and arrays, e.g. None because of a missing ``return``.
    """
    what = None
    if not isinstance(state, State):
        what = f"it returned {_named(state)}"
    else:
        try:
            json.dumps(dict(state.values), allow_nan=False)
            objects = [
                name for name, array in state.arrays.items() if np.asarray(array).dtype.hasobject
            ]
        except (AttributeError, TypeError, ValueError) as error:
            what = str(error)
        else:
            if not objects:
                return state
            what = f"the array {objects[0]!r} has Python objects"
    raise ContractError(
        f"{stage}: {method} did not return a State of JSON values and numpy arrays: {what}; write return "
        f"State({{'median': 3.5}}, {{'scores': array}}) in {method}, or remove {method}"
    )


def check_written(stage: str, contract: Contract, missing: Iterable[str], samples: int) -> None:
    """Check that every declared note or score is on at least one sample.

    Args:
        stage: The stage's name.
        contract: Its contract.
        missing: The declared names that no sample has.
        samples: The number of samples that the stage received.

    Raises:
        ContractError: if one is missing, unless there was no sample, or it is among ``sometimes``.
    """
    never = sorted(set(missing) - contract.sometimes)
    if never and samples:
        raise ContractError(
            f"{stage}: the contract writes {never[0]!r}, and none of {samples} samples has it; write it, take it out of "
            "writes, or add it to sometimes if only some data needs it"
        )


def notes_not_written(contract: Contract, samples: Iterable[Sample | TokenSample]) -> set[str]:
    """Return the declared notes or scores that no sample has."""
    missing = set(contract.writes)
    for sample in samples:
        if not missing:
            break
        missing -= set(sample.notes if isinstance(sample, Sample) else sample.scores)
    return missing


def check_samples(
    stage: str,
    contract: Contract,
    before: Sequence[Sample],
    after: Sequence[Sample],
    given: Mapping[str, bool] = MappingProxyType({}),
) -> None:
    """Check the invariants of a sample stage.

    The stage returns the same ids in the same order (new ones only if the contract allows them, each with parents), writes
    only declared notes, changes nothing that stages may not change, and gives a reason for every change.

    Args:
        stage: The stage's name.
        contract: Its contract.
        before: The samples of the chunk.
        after: The samples that the stage returned.
        given: Every id in use, with whether the stage receives its sample: parents may be in other chunks.

    Raises:
        ContractError: names the stage, the sample and the invariant.
    """
    old = {sample.id: sample for sample in before}
    kept = [sample for sample in after if sample.id in old]
    added = [sample for sample in after if sample.id not in old]
    if [sample.id for sample in kept] != [sample.id for sample in before]:
        missing = [sample.id for sample in before if sample.id not in {item.id for item in kept}]
        what = f"sample {missing[0]!r} is missing" if missing else "the order differs"
        raise ContractError(
            f"{stage}: {what} in the result of process; return every sample, in order (drop() keeps it on record)"
        )
    if added and not contract.new_samples:
        raise ContractError(
            f"{stage}: sample {added[0].id!r} is new, and the contract does not say new_samples"
        )
    twice = next(
        (key for key, count in Counter(sample.id for sample in added).items() if count > 1), None
    )
    if twice is not None:
        raise ContractError(f"{stage}: two new samples have the id {twice!r}; ids are unique")
    for sample in added:
        _check_new(stage, contract, sample, old, given)
    for sample in kept:
        _check_one(stage, contract, old[sample.id], sample)


def _check_new(
    stage: str,
    contract: Contract,
    sample: Sample,
    old: Mapping[str, Sample],
    given: Mapping[str, bool],
) -> None:
    where = f"{stage}: new sample {sample.id!r}"
    if not sample.parents or any(
        parent not in old and not given.get(parent) for parent in sample.parents
    ):
        raise ContractError(
            f"{where} has parents {sample.parents!r}; name samples that the stage received"
        )
    if sample.id in given:
        raise taken(stage, sample)
    inherited = {key for parent in sample.parents if parent in old for key in old[parent].notes}
    stray = sorted(set(sample.notes) - contract.writes - inherited)
    if stray:
        raise ContractError(
            f"{where}: note {stray[0]!r} is neither a parent's nor among the contract's writes: "
            f"{sorted(contract.writes)}"
        )
    if sample.pinned:
        raise ContractError(f"{where} is pinned; only a person pins a sample")
    _check_forms(where, contract, sample, set(sample.notes) - inherited)
    _check_weight(where, sample)
    _check_json(stage, sample, sorted(sample.notes))
    _check_text(where, sample)


def taken(stage: str, sample: Sample) -> ContractError:
    """Return the error for a new sample whose id is in use."""
    return ContractError(
        f"{stage}: new sample {sample.id!r} has the id of an existing sample; Sample.made creates a new id"
    )


def _check_one(stage: str, contract: Contract, was: Sample, now: Sample) -> None:
    if now is was:
        return
    where = f"{stage}: sample {now.id!r}"
    touched = [key for key, value in now.notes.items() if was.notes.get(key, _MISSING) is not value]
    _check_json(stage, now, touched)
    written = [key for key in touched if was.notes.get(key, _MISSING) != now.notes[key]]
    stray = sorted(set(written) - contract.writes)
    if stray:
        raise ContractError(
            f"{where}: note {stray[0]!r} is not among the contract's writes: {sorted(contract.writes)}"
        )
    _check_forms(where, contract, now, set(touched))
    removed = sorted(set(was.notes) - set(now.notes))
    if removed:
        raise ContractError(
            f"{where}: note {removed[0]!r} was removed; notes are only added or replaced"
        )
    for name in ("meta", "parents", "pinned", "tools"):
        if getattr(was, name) != getattr(now, name):
            raise ContractError(f"{where}: {name} was changed; a stage must not change it")
    _check_turns(where, was, now)
    if changed(was, now) and not (now.why or "").strip():
        raise ContractError(
            f"{where}: changed without a reason; use relabel(), weigh() or drop(), which take one"
        )
    if now.dropped is not None and not now.dropped.strip():
        raise ContractError(f"{where}: dropped without a reason; use drop(), which takes one")
    _check_weight(where, now)
    _check_text(where, now)


def _check_turns(where: str, was: Sample, now: Sample) -> None:
    if was.context != now.context:
        raise ContractError(
            f"{where}: messages before the response were changed; a stage may change only the response"
        )
    if was.rejected != now.rejected or (was.rejected and was.messages != now.messages):
        if not _swapped(was, now):
            raise ContractError(
                f"{where}: a response of the preference pair was changed; use swap(), which exchanges the two, or drop()"
            )
        return
    if was.response == now.response and was.messages != now.messages:
        raise ContractError(
            f"{where}: the response's message was changed in other fields than its text; use relabel(), which replaces the text"
        )


def _swapped(was: Sample, now: Sample) -> bool:
    """Whether ``now`` is the preference pair ``was`` with its two responses exchanged."""
    if was.rejected is None or not was.messages or was.messages[-1].role != "assistant":
        return False
    swapped = was.swap("compared")
    return (swapped.messages, swapped.rejected) == (now.messages, now.rejected)


def _check_forms(where: str, contract: Contract, sample: Sample, touched: set[str]) -> None:
    """Check that verdicts, views and proposals have the form that metrics and reports read."""
    verdict = "write {'flagged': True or False, 'noise_score': a number from 0 to 1}"
    answer = "write {'answer': a text, or None if there is none}"
    for names, what, from_json, remedy in (
        (contract.verdicts, "is a verdict", Verdict.from_json, verdict),
        (contract.views, "is a view", View.from_json, answer),
        (contract.proposes, "is a proposal", Proposal.from_json, answer),
    ):
        for name in sorted(touched & names):
            note = sample.notes[name]
            try:
                from_json(note)
            except ValueError as error:
                raise ContractError(
                    f"{where}: note {name!r} {what}, and its value is {note!r:.120}: {error}; {remedy}"
                ) from error


def _check_weight(where: str, sample: Sample) -> None:
    if not (0.0 <= sample.weight < float("inf")):
        raise ContractError(f"{where}: the weight {sample.weight!r} is negative or not finite")


def _check_json(stage: str, sample: Sample, keys: Sequence[str]) -> None:
    for key in keys:
        try:
            json.dumps(sample.notes[key], allow_nan=False, ensure_ascii=False).encode()
        except (TypeError, ValueError) as error:
            raise ContractError(
                f"{stage}: sample {sample.id!r}: note {key!r} is not JSON: {error}"
            ) from error


def _check_text(where: str, sample: Sample) -> None:
    try:
        "\0".join((sample.response, sample.why or "", sample.dropped or "")).encode()
    except UnicodeEncodeError as error:
        raise ContractError(
            f"{where}: the response or a reason cannot be encoded as UTF-8: {error}"
        ) from error


_MISSING: Any = object()


def changed(was: Sample, now: Sample) -> bool:
    """Whether a stage changed something that affects training: response, weight or drop."""
    return was.response != now.response or was.weight != now.weight or was.dropped != now.dropped


def create(stage: str, made: Sample) -> tuple[Sample, dict[str, Any]]:
    """Return a new sample as it is recorded, and the decision that records its parents."""
    reason = f"made from {', '.join(made.parents)}{f': {made.why}' if made.why else ''}"
    return replace(made, why=None), _decision(stage, made, "create", reason)


def _held(was: Sample, now: Sample) -> str | None:
    """Why a stage's decision is not applied; None if it is."""
    if was.pinned and changed(was, now):
        return "pinned by a person"
    replaced = was.response != now.response and not _swapped(was, now)
    if was.calls_tools and replaced and now.dropped is None:
        return "the response calls a tool"
    return None


def decide(stage: str, was: Sample, now: Sample) -> tuple[Sample, dict[str, Any] | None]:
    """Return the sample as it is recorded, and the decision about it, None if there is none.

    A stage changes only the notes of a pinned sample. A response that calls a tool is not replaced, because a text cannot
    represent the call.
    """
    clean = replace(now, why=None)
    if held_by := _held(was, now):
        held = replace(
            clean,
            messages=was.messages,
            rejected=was.rejected,
            weight=was.weight,
            dropped=was.dropped,
        )
        return held, _decision(stage, now, "refused", f"{held_by}; the stage said: {now.why}")
    extra: dict[str, Any] = {}
    if now.weight != was.weight:
        extra["weight"] = {"before": was.weight, "after": now.weight}
    if now.response != was.response:
        extra |= {"before": was.response, "after": now.response}
        if was.messages and was.messages[-1].reasoning:
            extra["reasoning_before"] = was.messages[-1].reasoning
    if now.dropped is not None and was.dropped is None:
        return clean, _decision(stage, now, "drop", now.dropped, **extra)
    if now.response != was.response:
        return clean, _decision(stage, now, "relabel", now.why or "", **extra)
    if now.weight != was.weight:
        return clean, _decision(stage, now, "weigh", now.why or "", **extra["weight"])
    if now.why:
        return clean, _decision(stage, now, "keep", now.why)
    return clean, None


def _decision(stage: str, sample: Sample, action: str, reason: str, **more: Any) -> dict[str, Any]:
    return {"id": sample.id, "stage": stage, "action": action, "reason": reason, **more}


def check_tokens(
    stage: str,
    contract: Contract,
    before: Sequence[TokenSample],
    after: Sequence[TokenSample],
    bit: int,
) -> None:
    """Check the invariants of a token stage: ids, lengths, response mask, weights, reasons, declared scores.

    ``bit`` is the number of the stage's own reason bit, the only one that it may set.

    Raises:
        ContractError: names the stage, the sample and the invariant.
    """
    if [sample.id for sample in before] != [sample.id for sample in after]:
        raise ContractError(f"{stage}: not the same samples in the same order were returned")
    for was, now in zip(before, after, strict=True):
        where = f"{stage}: sample {now.id!r}"
        for name in ("ids", "response", "turn", "spans"):
            if not np.array_equal(getattr(was, name), getattr(now, name)):
                raise ContractError(f"{where}: {name} was changed; it is fixed at encoding")
        if was.text != now.text:
            raise ContractError(f"{where}: text was changed; it is fixed at encoding")
        if np.any(now.weights[~now.response] != 0):
            raise ContractError(f"{where}: a weight outside the response is not 0")
        if not np.all(np.isfinite(now.weights)) or np.any(now.weights < 0):
            raise ContractError(f"{where}: a weight is negative or not finite")
        silent = (was.weights != 0) & (now.weights == 0) & (was.reasons == now.reasons)
        if np.any(silent):
            raise ContractError(
                f"{where}: a weight was set to 0 without a reason; use mask(positions, bit)"
            )
        if np.any((was.reasons ^ now.reasons) & ~np.uint32(1 << bit)):
            raise ContractError(
                f"{where}: a reason bit of another stage was set or cleared; this stage's bit is {bit}"
            )
        _check_scores(where, contract, was, now)


def _check_scores(where: str, contract: Contract, was: TokenSample, now: TokenSample) -> None:
    removed = sorted(set(was.scores) - set(now.scores))
    if removed:
        raise ContractError(
            f"{where}: score {removed[0]!r} was removed; scores are only added or replaced"
        )
    for name in sorted(set(now.scores) - contract.writes):
        if name not in was.scores or not np.array_equal(
            was.scores[name], now.scores[name], equal_nan=True
        ):
            raise ContractError(f"{where}: score {name!r} is not among the contract's writes")
