"""Conformance checks of backends and trainers: members, declared capabilities, and results."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nfilter.api.calls import Request
from nfilter.api.capabilities import Abilities, caching, methods_of
from nfilter.api.model import Model
from nfilter.api.stages import Context, Site
from nfilter.api.training import TrainingResult
from nfilter.api.types import Sample, TokenSample
from nfilter.registry.contracts import (
    check_completions,
    check_encoded,
    check_losses,
    check_vectors,
    contract_of,
)
from nfilter.registry.registration import Method, method_faults
from nfilter.testing.conformance import check_class
from nfilter.testing.replay import with_own_randomness


def check_backend(
    backend: type[Any],
    config: Any,
    site: Site | None = None,
    *,
    requests: Sequence[Request] = (),
    texts: Sequence[str] = (),
    samples: Sequence[Sample] = (),
) -> Abilities:
    """Check that a backend class has the members of its declared capabilities; return its abilities.

    With a ``site`` the backend is built and called: with ``requests`` if it generates, with ``texts`` if it embeds, with
    ``samples`` if it encodes, and with their tokens if it scores. It must return one result per input, in order.

    Raises:
        AssertionError: if the class lacks a member, or breaks a rule of the protocols.
        ContractError: if the number or the form of results differs.
    """
    check_class("backend", backend)
    abilities: Abilities = backend.abilities(config)
    assert isinstance(abilities, Abilities), (
        f"{backend.name}: abilities returned {abilities!r:.60}; write return Abilities(frozenset({{Generates}}))"
    )
    for capability in abilities.capabilities:
        for member in methods_of(capability):
            assert hasattr(backend, member), f"{backend.__name__} lacks {member}, which it promises"
            if caching(capability) is not None:
                faults = list(method_faults(backend, _called(capability, member)))
                assert not faults, f"{backend.__name__}: {'; '.join(faults)}"
    if site is not None:
        problems = list(backend.problems(config, site))
        assert all(isinstance(each, str) for each in problems), (
            f"{backend.name}: problems must return texts, not {problems!r:.80}"
        )
        built = backend(config, site)
        try:
            _ask(backend.name, built, abilities, requests, texts, samples)
        finally:
            built.close()
    return abilities


def _called(capability: type, name: str) -> Method:
    """Return how the method of a plugin's capability is called."""
    _, *parameters = inspect.signature(getattr(capability, name)).parameters.values()
    by_name = [each.name for each in parameters if each.kind is inspect.Parameter.KEYWORD_ONLY]
    in_order = [each.name for each in parameters if each.name not in by_name]
    return Method(name, tuple(in_order), tuple(by_name))


def _ask(
    name: str,
    built: Any,
    abilities: Abilities,
    requests: Sequence[Request],
    texts: Sequence[str],
    samples: Sequence[Sample],
) -> None:
    mark = built.fingerprint()
    assert isinstance(mark, str), f"{name}: fingerprint must return a text, not {mark!r:.60}"
    assert mark, f"{name}: fingerprint returned an empty text"
    assert mark == built.fingerprint(), f"{name}: fingerprint returns another text each time"
    able = {capability.__name__ for capability in abilities.capabilities}
    if requests and "Generates" in able:
        answers = check_completions(name, built.generate(list(requests)), len(requests))
        for request, answer in zip(requests, answers, strict=True):
            assert not (
                abilities.logprobs
                and request.logprobs
                and answer.failure is None
                and answer.logprobs is None
            ), f"{name}: it declares logprobs, and a completion has none"
    if requests and "Streams" in able:
        _check_numbers(name, "stream", built.stream(list(requests)), len(requests))
    if requests and "OpenStreams" in able:
        waiting = [list(requests), []]
        stream = built.open_stream(list(requests), lambda: waiting.pop(0) if waiting else [])
        _check_numbers(name, "open_stream", stream, 2 * len(requests))
    if texts and "Embeds" in able:
        vectors = check_vectors(name, built.embed(list(texts)), len(texts))
        again = check_vectors(name, built.embed([texts[-1]]), 1)
        assert np.allclose(vectors[-1], again[0], atol=1e-3), (
            f"{name}: the vector of a text depends on the other texts of the call"
        )
    if samples and "Encodes" in able:
        encoded = check_encoded(
            name, built.encode(list(samples), max_length=4096, turns="all"), samples
        )
        short = check_encoded(name, built.encode(list(samples), max_length=4, turns="all"), samples)
        for one in short:
            assert len(one.ids) <= 4, (
                f"{name}: {one.id!r} has {len(one.ids)} tokens at max_length 4"
            )
        if "Scores" in able:
            _score(name, built, encoded)


def _check_numbers(name: str, method: str, stream: Iterable[Any], count: int) -> None:
    """Check that a stream yields each of ``count`` requests once."""
    streamed = [each for each in stream if each is not None]
    numbers = sorted(number for number, _ in streamed)
    assert numbers == list(range(count)), (
        f"{name}: {method} yielded the requests {numbers} of {count}; yield each once"
    )
    check_completions(name, [answer for _, answer in streamed], count)


def _score(name: str, built: Any, encoded: Sequence[TokenSample]) -> None:
    for sample, losses in zip(
        encoded, check_losses(name, built.score(list(encoded)), encoded), strict=True
    ):
        outside = np.asarray(losses)[~sample.predicted]
        assert np.isnan(outside).all(), (
            f"{name}: {sample.id!r} has losses at tokens that are not predicted; write NaN at position 0 and outside the response"
        )
        inside = np.asarray(losses)[sample.predicted]
        assert np.isfinite(inside).all(), f"{name}: a loss of {sample.id!r} is not finite"


def check_trainer(
    trainer: type[Any],
    config: Any,
    samples: Sequence[TokenSample],
    model: Model,
    out: Path,
    ctx: Context,
    site: Site | None = None,
) -> TrainingResult:
    """Train ``model`` on ``samples`` into the folder ``out``, check the result and return it.

    Raises:
        AssertionError: if the class lacks a member, or breaks a rule.
        ContractError: if its contract is not valid.
    """
    check_class("trainer", trainer)
    contract_of(trainer, config)
    sizes = dict(trainer.memory(config, getattr(model, "config", None), site or Site(out)))
    assert all(isinstance(size, int | float) and size >= 0 for size in sizes.values()), (
        f"{trainer.name}: memory must return bytes by part, not {sizes!r:.80}"
    )
    before = [sample.weights.tobytes() + sample.ids.tobytes() for sample in samples]
    out.mkdir(parents=True, exist_ok=True)
    result = with_own_randomness(
        trainer.name, lambda: trainer(config).train(list(samples), model, out, ctx, None)
    )
    assert isinstance(result, TrainingResult), (
        f"{trainer.name}: train returned {result!r:.60}; write return TrainingResult(ref, steps, tokens, losses, seconds)"
    )
    assert [sample.weights.tobytes() + sample.ids.tobytes() for sample in samples] == before, (
        f"{trainer.name}: a sample was changed in place"
    )
    path = Path(result.ref.path)
    assert path.resolve().is_relative_to(out.resolve()), (
        f"{trainer.name}: the adapter is in {path}, outside its folder {out}"
    )
    assert any(out.iterdir()), f"{trainer.name}: it wrote nothing into {out}"
    assert result.ref.digest, f"{trainer.name}: the adapter's ModelRef has no digest"
    assert all(math.isfinite(loss) for loss in result.losses), (
        f"{trainer.name}: a loss is not finite"
    )
    trained = sum(int(np.count_nonzero(sample.weights)) for sample in samples)
    assert result.tokens == 0 or trained > 0, (
        f"{trainer.name}: it reports training on {result.tokens} tokens, and none has a weight"
    )
    return result
