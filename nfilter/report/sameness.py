"""Whether two runs are comparable: the same source rows, test set, evaluation settings and base model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nfilter.api.types import Sample
from nfilter.report import reading
from nfilter.store.artefacts import Artefact
from nfilter.store.files import digest
from nfilter.store.run_directory import RunDirectory

_EVALUATE = ("metric", "max_tokens", "prompt", "limit")


@dataclass(frozen=True)
class _Facts:
    """The values that determine comparability: the run, its lock file, its source's fingerprint."""

    path: Path
    run: Path
    lock: Mapping[str, Any]
    fingerprint: str | None


def differences(run_dirs: Sequence[Path]) -> list[str]:
    """Return one sentence for each reason why a run is not comparable with the first."""
    facts = [_facts_of(path) for path in run_dirs]
    notes: list[str] = []
    first = facts[0]
    for other in facts[1:]:
        pair = f"{first.path} and {other.path}"
        notes += [f"{pair}: {why}" for why in _differences_between(first, other)]
    return notes


def _facts_of(path: Path) -> _Facts:
    children = reading.children_of(path)
    run = path if reading.is_run(path) or not children else children[0]
    lock = reading.locked_recipe(run)
    fingerprint = reading.manifest(run).get("fingerprints", {}).get(reading.SOURCE)
    return _Facts(path, run, lock, fingerprint)


def _differences_between(a: _Facts, b: _Facts) -> list[str]:
    notes = []
    if a.fingerprint is None or b.fingerprint is None or a.fingerprint != b.fingerprint:
        why = _data(a, b)
        if why:
            notes.append(why)
    if a.lock.get("answer") != b.lock.get("answer"):
        notes.append(
            f"answers are parsed differently (answer: {_kind(a.lock)} and {_kind(b.lock)})"
        )
    tests = [_test_rows(facts.run) for facts in (a, b)]
    if None not in tests and tests[0] != tests[1]:
        notes.append("the test rows differ")
    elif None not in tests:
        notes += _evaluation_settings(a.lock.get("evaluate"), b.lock.get("evaluate"))
    if (models := _models(a, b)) is not None:
        notes.append(models)
    return notes


def _models(a: _Facts, b: _Facts) -> str | None:
    """Why the trained models are not comparable: they differ, or one is unknown; None if they are equal."""
    untrained = [
        str(facts.path) for facts in (a, b) if not isinstance(facts.lock.get("train"), Mapping)
    ]
    if untrained:
        return None if len(untrained) == 2 else f"no model was trained in {untrained[0]}"
    first, second = _trained(a.lock), _trained(b.lock)
    if first.hash is None or second.hash is None:
        unknown = a.path if first.hash is None else b.path
        return f"it is unknown whether the same model was trained: {unknown} does not record it"
    if first.hash == second.hash:
        return None
    if first.model != second.model:
        return f"the trained models differ ({first.model} and {second.model})"
    return f"the trained models, both {first.model}, differ in weights or settings (number format, device, chat template)"


def _data(a: _Facts, b: _Facts) -> str | None:
    """How the source rows differ. Fingerprints depend on the seed (injected noise), so the questions are compared."""
    source = [RunDirectory(facts.run).stage(0, reading.SOURCE) for facts in (a, b)]
    if not all(reading.finished(artefact) for artefact in source):
        return "the rows of one run are not recorded"
    if _hash(source[0], _question) != _hash(source[1], _question):
        return "the source rows differ"
    noise = [_noise(facts.lock) for facts in (a, b)]
    if noise[0] != noise[1]:
        return f"the injected noise differs ({noise[0]} and {noise[1]})"
    same_seed = a.lock.get("seed") == b.lock.get("seed")
    if same_seed and _hash(source[0], _response) != _hash(source[1], _response):
        return "the questions are equal and the labels differ"
    return None


def _noise(lock: Mapping[str, Any]) -> str:
    source = lock.get("source")
    noise = source.get("noise") if isinstance(source, Mapping) else None
    return json.dumps(noise, sort_keys=True) if noise is not None else "none"


def _question(sample: Sample) -> Any:
    return [[message.role, message.content] for message in sample.context]


def _response(sample: Sample) -> Any:
    return sample.response


def _hash(artefact: Artefact[Sample], part: Callable[[Sample], Any]) -> str:
    """The hash of the ids and one part of all rows."""
    hasher = hashlib.sha256()
    for sample in artefact.samples():
        hasher.update(digest(sample.id, part(sample)).encode())
    return hasher.hexdigest()


def _test_rows(run: Path) -> str | None:
    names = sorted(reading.manifest(run).get("files", {}))
    for name in names:
        if name.startswith("evaluation/"):
            return digest([[row["id"], row["reference"]] for row in reading.rows(run, name)])
    return None


def _evaluation_settings(a: Any, b: Any) -> list[str]:
    """Say which settings of the evaluation differ between two runs."""
    if not isinstance(a, Mapping) or not isinstance(b, Mapping):
        return []
    changed = [key for key in _EVALUATE if a.get(key) != b.get(key)]
    settings = ", ".join(f"evaluate.{key} {a.get(key)!r} and {b.get(key)!r}" for key in changed)
    return [f"the evaluation settings differ ({settings})"] if changed else []


def _kind(lock: Mapping[str, Any]) -> str:
    answer = lock.get("answer")
    return str(answer.get("kind")) if isinstance(answer, Mapping) else "unknown"


@dataclass(frozen=True)
class _Model:
    """The model that a run trains: its name in the recipe, and its recorded hash."""

    model: str
    hash: str | None


def _trained(lock: Mapping[str, Any]) -> _Model:
    """The trained model of a lock file, with aliases resolved."""
    models, locked = lock.get("models"), lock.get("lock")
    hashes = locked.get("models") if isinstance(locked, Mapping) else None
    name = lock["train"].get("model")
    seen = set()
    while isinstance(models, Mapping) and isinstance(name, str) and name not in seen:
        seen.add(name)
        value = models.get(name)
        if isinstance(value, Mapping):
            known = hashes.get(name) if isinstance(hashes, Mapping) else None
            return _Model(str(value.get("model", name)), known if isinstance(known, str) else None)
        name = value
    return _Model(str(name), None)
