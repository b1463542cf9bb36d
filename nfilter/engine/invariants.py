"""What no stage may break. Every refusal names the plugin, the sample and what to do about it."""

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
    """What a stage returned, as a list of samples of its ``kind``; a generator is read to its end.

    Raises:
        ContractError: when it is anything else, such as the None of a forgotten ``return``.
    """
    if not isinstance(returned, Iterable) or isinstance(returned, str | bytes | Mapping):
        raise ContractError(
            f"{stage}: {method} returned {_named(returned)}, not a sequence of {kind.__name__}; return every sample, in order"
        )
    values = list(returned)
    for number, value in enumerate(values):
        if not isinstance(value, kind):
            raise ContractError(
                f"{stage}: {method} returned {_named(value)} at place {number}, where a {kind.__name__} belongs"
            )
    return values


def _named(value: object) -> str:
    return "None" if value is None else f"a {type(value).__name__}"


def check_state(stage: str, method: str, state: object) -> State:
    """What a stage learned, checked to be values that a file can hold.

    Raises:
        ContractError: when it is anything else, such as the None of a forgotten ``return``.
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
            what = f"the array {objects[0]!r} holds objects"
    raise ContractError(
        f"{stage}: what {method} returned is not a State of JSON values and numpy arrays: {what}; write return "
        f"State({{'median': 3.5}}, {{'scores': array}}) in {method}, or leave {method} out"
    )


def check_written(stage: str, contract: Contract, missing: Iterable[str], samples: int) -> None:
    """Refuse a declared note, or score, that stands on none of ``samples`` samples; ``missing`` names those.

    Raises:
        ContractError: unless there was no sample, or the contract says ``sometimes``.
    """
    never = sorted(set(missing) - contract.sometimes)
    if never and samples:
        raise ContractError(
            f"{stage}: the contract writes {never[0]!r}, and none of {samples} samples has it; write it, take it out of "
            "writes, or add it to sometimes where only some data calls for it"
        )


def unwritten(contract: Contract, samples: Iterable[Sample | TokenSample]) -> set[str]:
    """The declared notes, or scores, that stand on none of ``samples``."""
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
    """Refuse what breaks an invariant of a sample stage.

    ``before`` is the chunk. ``given`` says of all ids that are taken whether the stage was shown that sample; parents
    may be in other chunks.

    The same ids come back in the same order (new ones only where the contract says so, each with parents); only
    declared notes are written; what is not a stage's to change stays; every change has a reason.

    Raises:
        ContractError: names the stage, the sample and the invariant.
    """
    old = {sample.id: sample for sample in before}
    kept = [sample for sample in after if sample.id in old]
    added = [sample for sample in after if sample.id not in old]
    if [sample.id for sample in kept] != [sample.id for sample in before]:
        missing = [sample.id for sample in before if sample.id not in {item.id for item in kept}]
        what = f"sample {missing[0]!r} is missing" if missing else "the order is another"
        raise ContractError(
            f"{stage}: {what} in what process returned; return every sample, in order (drop() keeps it on record)"
        )
    if added and not contract.new_samples:
        raise ContractError(
            f"{stage}: sample {added[0].id!r} is new, and the contract does not say new_samples"
        )
    twice = next(
        (key for key, count in Counter(sample.id for sample in added).items() if count > 1), None
    )
    if twice is not None:
        raise ContractError(
            f"{stage}: new sample {twice!r} is there twice; an id is one sample's alone"
        )
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
            f"{where} has parents {sample.parents!r}; name samples that the stage was given"
        )
    if sample.id in given:
        raise ContractError(
            f"{where} has the id of a sample that is there already; Sample.made gives it one of its own"
        )
    inherited = {key for parent in sample.parents if parent in old for key in old[parent].notes}
    stray = sorted(set(sample.notes) - contract.writes - inherited)
    if stray:
        raise ContractError(
            f"{where}: note {stray[0]!r} is neither a parent's nor among what the contract writes: "
            f"{sorted(contract.writes)}"
        )
    if sample.pinned:
        raise ContractError(f"{where} is pinned; only a person pins a sample")
    _check_forms(where, contract, sample, set(sample.notes) - inherited)
    _check_weight(where, sample)
    _check_json(stage, sample, sorted(sample.notes))
    _check_text(where, sample)


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
            f"{where}: note {stray[0]!r} is not among what the contract writes: {sorted(contract.writes)}"
        )
    _check_forms(where, contract, now, set(touched))
    gone = sorted(set(was.notes) - set(now.notes))
    if gone:
        raise ContractError(
            f"{where}: note {gone[0]!r} was removed; notes are only added or replaced"
        )
    for name in ("meta", "parents", "pinned", "tools"):
        if getattr(was, name) != getattr(now, name):
            raise ContractError(f"{where}: {name} was changed; it is not a stage's to change")
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
            f"{where}: messages before the response were changed; only the response may be"
        )
    if was.response == now.response and was.messages != now.messages:
        raise ContractError(
            f"{where}: what the response holds beside its text was changed; use relabel(), which replaces the text"
        )


def _check_forms(where: str, contract: Contract, sample: Sample, touched: set[str]) -> None:
    """Verdicts and answers have the form that metrics and reports read."""
    verdict = "write {'flagged': True or False, 'noise_score': a number from 0 to 1}"
    answer = "write {'answer': a text, or None where there is none}"
    for names, what, from_json, remedy in (
        (contract.verdicts, "is a verdict", Verdict.from_json, verdict),
        (contract.views, "holds an answer", View.from_json, answer),
        (contract.proposes, "holds an answer", Proposal.from_json, answer),
    ):
        for name in sorted(touched & names):
            note = sample.notes[name]
            try:
                from_json(note)
            except ValueError as error:
                raise ContractError(
                    f"{where}: note {name!r} {what} and has the form {note!r:.120}: {error}; {remedy}"
                ) from error


def _check_weight(where: str, sample: Sample) -> None:
    if not (0.0 <= sample.weight < float("inf")):
        raise ContractError(f"{where}: the weight {sample.weight!r} is not finite and not negative")


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
            f"{where}: the response or a reason is not text that can be written: {error}"
        ) from error


_MISSING: Any = object()


def changed(was: Sample, now: Sample) -> bool:
    """Whether a stage decided anything that changes training: response, weight, or drop."""
    return was.response != now.response or was.weight != now.weight or was.dropped != now.dropped


def create(stage: str, made: Sample) -> tuple[Sample, dict[str, Any]]:
    """A new sample as it is recorded, and the record of where it comes from."""
    reason = f"made from {', '.join(made.parents)}{f': {made.why}' if made.why else ''}"
    return replace(made, why=None), _decision(stage, made, "create", reason)


def _held(was: Sample, now: Sample) -> str | None:
    """Why what a stage decided is not done."""
    if was.pinned and changed(was, now):
        return "pinned by a person"
    if was.calls_tools and was.response != now.response and now.dropped is None:
        return "the response calls a tool"
    return None


def decide(stage: str, was: Sample, now: Sample) -> tuple[Sample, dict[str, Any] | None]:
    """The sample as it is recorded, and the decision about it.

    A pinned sample keeps all but its notes. A response that calls a tool keeps its turn: no text says the same.
    """
    clean = replace(now, why=None)
    if held_by := _held(was, now):
        held = replace(clean, messages=was.messages, weight=was.weight, dropped=was.dropped)
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
    """Refuse what breaks an invariant of a token stage: ids, lengths, the response mask, undeclared scores.

    ``bit`` is the number of the stage's own reason: the only one that it may give.

    Raises:
        ContractError: names the stage, the sample and the invariant.
    """
    if [sample.id for sample in before] != [sample.id for sample in after]:
        raise ContractError(f"{stage}: not the same samples in the same order came back")
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
            raise ContractError(f"{where}: a weight is not finite and not negative")
        silent = (was.weights != 0) & (now.weights == 0) & (was.reasons == now.reasons)
        if np.any(silent):
            raise ContractError(
                f"{where}: a weight was set to 0 without a reason; use mask(positions, bit)"
            )
        if np.any((was.reasons ^ now.reasons) & ~np.uint32(1 << bit)):
            raise ContractError(
                f"{where}: a reason that is not this stage's was set or cleared; its bit is {bit}"
            )
        _check_scores(where, contract, was, now)


def _check_scores(where: str, contract: Contract, was: TokenSample, now: TokenSample) -> None:
    gone = sorted(set(was.scores) - set(now.scores))
    if gone:
        raise ContractError(
            f"{where}: score {gone[0]!r} was removed; scores are only added or replaced"
        )
    for name in sorted(set(now.scores) - contract.writes):
        if name not in was.scores or not np.array_equal(
            was.scores[name], now.scores[name], equal_nan=True
        ):
            raise ContractError(f"{where}: score {name!r} is not among what the contract writes")
