"""The cleaned arm: encode its samples, run the token stages, publish tokens/."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from nfilter.api.types import Sample, TokenSample
from nfilter.engine.arms import Encoded, encode
from nfilter.engine.pipeline import model_part, token_stages
from nfilter.engine.samples import live
from nfilter.engine.stages import log_begun
from nfilter.engine.state import RunState
from nfilter.engine.tokens import left_of
from nfilter.models.context import RunContext
from nfilter.registry.provenance import core_code
from nfilter.store.artefacts import Artefact, fingerprint_of
from nfilter.store.tokens import is_made_of, write_tokens


def cleaned_arm(state: RunState, last: Artefact[Sample]) -> Encoded:
    """Encode the samples of ``last`` and run the token stages on them; publish the tokens."""
    ctx = state.context("train.cleaned")
    if not state.recipe.tokens:
        encoded = encode(state.recipe, live(last), ctx, "arm cleaned")
        encoded.lint["all_masked"]["stages"] = 0
        folder = state.directory.path / "tokens"
        write_tokens(folder, encoded.samples, [], tokenizer=encoded.lint["tokenizer"])
        return encoded
    return _through_stages(state, _encoded(state, last, ctx))


def _through_stages(state: RunState, encoded: Artefact[TokenSample]) -> Encoded:
    """Run the token stages, unless there is no sample, and publish the tokens."""
    before = encoded.summary()
    stages = token_stages(state, encoded) if before["samples"] else _no_stages(state, encoded)
    final = (encoded, *stages)[-1]
    names = [use.name for use in state.recipe.tokens]
    samples = list(final.samples())
    left = left_of(samples, names)
    lint = before["lint"]
    lint["all_masked"]["stages"] = len(left.dropped)
    folder, made_of = state.directory.path / "tokens", state.fingerprints[final.directory.name]
    if not is_made_of(folder, made_of):
        write_tokens(folder, samples, names, tokenizer=lint["tokenizer"], made_of=made_of)
    dropped = [(row["id"], row["reason"]) for row in encoded.decisions()]
    figures = {
        "response": before["response"],
        "in_loss": left.in_loss,
        "stages": {
            f"{number}-{name}": _figures(stage.summary())
            for number, (name, stage) in enumerate(zip(names, stages, strict=False), start=1)
        },
    }
    return Encoded(left.kept, [*dropped, *left.dropped], lint, figures)


def _no_stages(state: RunState, encoded: Artefact[TokenSample]) -> list[Artefact[TokenSample]]:
    """Remove the token stages of an earlier run, which have other samples."""
    labels = {artefact.directory.name for _, artefact in state.directory.stages()}
    state.directory.discard_except({*labels, encoded.directory.name})
    return []


def _figures(summary: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of a token stage; the stage's own report is under ``report``."""
    counted = {"masked": summary["masked"], "samples_emptied": summary["emptied"]}
    report = summary["report"]
    return {**counted, "report": report} if isinstance(report, Mapping) else counted


def _encoded(state: RunState, last: Artefact[Sample], ctx: RunContext) -> Artefact[TokenSample]:
    """Encode the samples of ``last``, or reuse the artefact of an earlier run with equal parts."""
    artefact = state.directory.encoded(len(state.recipe.samples) + 1)
    label = artefact.directory.name
    parts = _parts(state, last)
    state.fingerprints[label] = fingerprint_of(parts)
    begun = artefact.begin(parts)
    log_begun(label, begun, ctx.log)
    if begun.status == "reused":
        for text in artefact.summary()["warnings"]:
            ctx.log.warning(text)
        return artefact
    start = time.monotonic()
    with ctx.log.collect_warnings() as warned:
        encoded = encode(state.recipe, live(last), ctx, "arm cleaned")
    _publish(artefact, encoded, state.recipe.chunk)
    artefact.finish(
        {
            "samples": len(encoded.samples),
            "response": sum(int(sample.response.sum()) for sample in encoded.samples),
            "lint": encoded.lint,
            "warnings": list(dict.fromkeys(warned)),
            "seconds": time.monotonic() - start,
        }
    )
    return artefact


def _publish(artefact: Artefact[TokenSample], encoded: Encoded, size: int) -> None:
    """Publish chunks of ``size`` samples; the samples that encoding dropped are decisions of the first chunk."""
    dropped = [
        {"id": name, "stage": "encode", "action": "drop", "reason": reason}
        for name, reason in encoded.dropped
    ]
    starts = range(0, len(encoded.samples) or 1, size)
    for index, start in enumerate(starts):
        chunk = encoded.samples[start : start + size]
        artefact.write_chunk(index, chunk, dropped if index == 0 else [])


def _parts(state: RunState, last: Artefact[Sample]) -> dict[str, Any]:
    """The parts of encoding's fingerprint by name; the model's fingerprint covers its tokenizer and template."""
    config = state.recipe.encode
    return {
        "input": last.fingerprint(),
        "config": config.model_dump(mode="json"),
        f"model {config.model}": model_part(state, config.model),
        "nfilter's code": core_code(),
    }
