"""Encode, train and evaluate one arm at a time; all arms have the same settings."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from nfilter.api.calls import ModelRef, Request, Sampling
from nfilter.api.errors import DamageError, RecipeError, StoreError
from nfilter.api.events import StageFinished
from nfilter.api.training import ChoosesSettings, TrainingResult
from nfilter.api.types import Row, Sample, TokenSample
from nfilter.engine.ingest import rows
from nfilter.engine.lint import lint
from nfilter.metrics.arms import ArmResult
from nfilter.metrics.evaluation import arm_result, judge_answers
from nfilter.models.context import RunContext
from nfilter.recipe.model import Recipe
from nfilter.recipe.prompts import Prompts
from nfilter.recipe.sections import Arm
from nfilter.recipe.uses import Use
from nfilter.registry.provenance import core_code
from nfilter.report import reading
from nfilter.store.artefacts import differing
from nfilter.store.files import (
    check_folder,
    digest,
    read_sealed,
    remove,
    sync_folder,
    write_jsonl,
    write_sealed,
)
from nfilter.store.seals import sealed

MARKER = "nfilter.json"
BEGUN = "begun"


@dataclass(frozen=True, slots=True)
class Encoded:
    """An arm's encoded samples, and the samples without a token in the loss, as id and reason.

    ``lint`` has the figures of encoding, ``figures`` those of the token stages.
    """

    samples: list[TokenSample]
    dropped: list[tuple[str, str]]
    lint: dict[str, Any]
    figures: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Trained:
    """An arm's adapter, None for an arm that is not trained, and the figures of its training.

    ``seconds_per_step`` is None if this process did not train it, or the trainer did not measure it.
    """

    ref: ModelRef | None
    figures: dict[str, Any]
    seconds_per_step: float | None = None


def encode(recipe: Recipe, samples: Iterable[Sample], ctx: RunContext, arm: str) -> Encoded:
    """Encode samples with the model under ``encode``; samples without a token in the loss are dropped with the reason.

    Problems are logged as warnings now, before anything is trained.
    """
    model = ctx.model(recipe.encode.model)
    items = list(samples)
    encoded = model.encode(items, max_length=recipe.encode.max_length, turns=recipe.encode.turns)
    found = lint(recipe.encode, items, encoded, model.decode)
    for text in found.warnings:
        ctx.log.warning(f"{arm}: {text}")
    tokenizer = model.tokenizer_digest()
    figures = {**found.figures, "tokenizer": asdict(tokenizer) if tokenizer else None}
    return Encoded(found.kept, found.dropped, figures)


def nothing_left(
    arm: Arm, encoded: Encoded, finished: Sequence[StageFinished], directory: Path
) -> str:
    """Return why an arm has nothing to train on: the numbers that the ``finished`` stages and encoding dropped."""
    if arm == "truth" and not encoded.dropped:
        return "arm truth: no row has a known truth; name its column: source: {truth: COLUMN}"
    lost = []
    before = 0
    for done in finished:
        if done.dropped > before:
            lost.append(f"{done.stage} dropped {done.dropped - before}")
        before = done.dropped
    if encoded.dropped:
        lost.append(
            f"encoding dropped {len(encoded.dropped)}, the first because {encoded.dropped[0][1]}"
        )
    why = "; ".join(lost) or "the source has none"
    return (
        f"arm {arm}: no sample is left to train on ({why}); dropped.jsonl and `nfilter explain "
        f"{shlex.quote(str(directory))} ID` say why for each row"
    )


def train(
    recipe: Recipe, arm: Arm, encoded: Sequence[TokenSample], ctx: RunContext, directory: Path
) -> Trained:
    """Train one arm, or reuse the adapter that an earlier run trained on equal tokens with equal settings.

    Raises:
        RecipeError: if the recipe has no section train.
    """
    if recipe.train is None:
        place = recipe.document.place(("arms",))
        raise RecipeError(
            f"{place}: arm {arm!r} needs training; add train: {{use: TRAINER, model: MODEL}}; nfilter plugins lists trainers"
        )
    return train_adapter(recipe.train, encoded, ctx, directory / "adapters" / arm)


def train_adapter(
    use: Use,
    samples: Sequence[TokenSample],
    ctx: RunContext,
    out: Path,
    start: ModelRef | None = None,
) -> Trained:
    """Train into the folder ``out``, or reuse its content if it has equal tokens, settings and start.

    The files of an interrupted training with equal parts are kept for the trainer to resume from; all others are removed.
    """
    model = ctx.model(use.config.model)
    made = {
        name: digest(part)
        for name, part in {
            "config": use.dump(),
            "plugin": use.item.identity,
            "plugin code": use.item.code,
            "nfilter's code": core_code(),
            f"model {use.config.model}": [model.fingerprint(), model.code()],
            "seed": ctx.seed,
            "data": tokens_digest(samples),
            "start": start.digest if start is not None else None,
            "loss": _online(use, samples),
            **_rows(use, ctx),
        }.items()
    }
    reused = _reused(out, made, ctx)
    if reused is not None:
        return reused
    begun = out / BEGUN
    if (out / MARKER).exists() or _begun_with(begun) != made:
        if begun.exists() and not (out / MARKER).exists():
            ctx.log.info(
                f"{ctx.stage}: its data or settings changed since it was stopped; training starts from the beginning"
            )
        remove(out)
        write_sealed(begun, made)
    with ctx.log.collect_warnings() as warned:
        result: TrainingResult = use.item.cls(use.config).train(samples, model, out, ctx, start)
    figures = {
        "samples": len(samples),
        "tokens": result.tokens,
        "steps": result.steps,
        "first_loss": result.losses[0] if result.losses else None,
        "last_loss": result.losses[-1] if result.losses else None,
        "seconds": result.seconds,
        **result.settings,
    }
    ref = replace(result.ref, path=str(out))
    begun.unlink(missing_ok=True)
    # The record has the hashes of files that are on the disk.
    sync_folder(out)
    files = {
        path.relative_to(out).as_posix(): sealed(path)
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.name != MARKER
    }
    value = {
        "made_of": made,
        "ref": asdict(ref),
        "figures": figures,
        "warnings": list(dict.fromkeys(warned)),
        "files": files,
    }
    write_sealed(out / MARKER, value)
    return Trained(ref, figures, result.seconds_per_step)


def _rows(use: Use, ctx: RunContext) -> dict[str, int | None]:
    """The run's number of rows, if the trainer chooses settings by it; the adapter's fingerprint then depends on it."""
    trainer = use.item.cls
    able = issubclass(trainer, ChoosesSettings) and trainer.fits_rows(use.config)
    return {"rows of the run": ctx.rows} if able else {}


def _reused(out: Path, made: Mapping[str, str], ctx: RunContext) -> Trained | None:
    """The adapter of an earlier run, if it has equal parts and is undamaged."""
    if not (out / MARKER).exists():
        return None
    try:
        value = check_folder(out / MARKER, out.parent.parent)
    except DamageError as error:
        ctx.log.warning(f"{ctx.stage}: {error.path} {error.what}; it is trained again")
        return None
    if value["made_of"] != made:
        why = differing(value["made_of"], made)
        ctx.log.info(f"{ctx.stage}: training again, because its inputs changed: {why}")
        return None
    for warning in value.get("warnings", ()):
        ctx.log.warning(warning)
    # The current path: the run's folder may have been moved.
    return Trained(ModelRef(**{**value["ref"], "path": str(out)}), value["figures"])


def _begun_with(begun: Path) -> dict[str, Any] | None:
    """The parts of an interrupted training; None if there is none."""
    try:
        return read_sealed(begun, begun.parent.parent.parent)
    except DamageError:
        return None


def _online(use: Use, samples: Sequence[TokenSample]) -> tuple[str, ...]:
    """The parts that an online loss adds to an adapter's fingerprint: its plugin, and the scores that it reads."""
    if use.loss is None:
        return ()
    reads = sorted(use.loss.item.cls.contract(use.loss.config).reads)
    scores = [
        (sample.id, name, hashlib.sha256(sample.scores[name].tobytes()).hexdigest())
        for sample in samples
        for name in reads
        if name in sample.scores
    ]
    return (use.loss.item.identity, use.loss.item.code, digest(scores))


def tokens_digest(samples: Sequence[TokenSample]) -> str:
    """Return the SHA-256 of ids, tokens and weights, which determine a trained adapter."""
    hasher = hashlib.sha256()
    for sample in samples:
        hasher.update(sample.id.encode())
        hasher.update(np.ascontiguousarray(sample.ids).tobytes())
        hasher.update(np.ascontiguousarray(sample.weights).tobytes())
    return hasher.hexdigest()


def read_test(recipe: Recipe) -> list[Sample]:
    """Return the rows of the test source with their true labels; empty without a section evaluate.

    Raises:
        StoreError: if no row can be read.
    """
    if recipe.test is None or recipe.evaluate is None:
        return []
    test_rows = [
        row for row in rows(recipe.test, recipe, recipe.evaluate.limit) if isinstance(row, Row)
    ]
    if not test_rows:
        place = recipe.document.place(recipe.test.use.where)
        raise StoreError(f"{place}: no row of the test source can be read")
    return [
        row.sample if row.truth is None else row.sample.relabel(row.truth, "the truth")
        for row in test_rows
    ]


def evaluate(
    recipe: Recipe,
    arm: Arm,
    trained: Trained | None,
    test: Sequence[Sample],
    ctx: RunContext,
    prompts: Prompts,
    directory: Path,
) -> ArmResult:
    """Ask the arm's model every test question, greedily; write its answers to evaluation/ARM.jsonl.

    Raises:
        RecipeError: if there is no section evaluate, or no response of the test source has an answer of the recipe's kind.
    """
    if recipe.evaluate is None:
        raise RecipeError(f"{recipe.document.file}: arm {arm!r} needs a section evaluate")
    name = recipe.train.config.model if recipe.train is not None else recipe.encode.model
    model = ctx.model(name)
    template = prompts.get(recipe.evaluate.prompt) if recipe.evaluate.prompt else None
    requests = [
        Request(
            messages=sample.context
            if template is None
            else template.render(**variables(recipe, sample, ctx)),
            sampling=Sampling(max_tokens=recipe.evaluate.max_tokens),
            sample_id=sample.id,
            tools=sample.tools if template is None else (),
        )
        for sample in test
    ]
    if trained is None or trained.ref is None:
        completions = model.generate(requests)
    else:
        with model.adapted(trained.ref) as adapted:
            completions = adapted.generate(requests)
    judged = judge_answers(test, [done.text for done in completions], ctx.answers)
    write_jsonl(directory / "evaluation" / f"{arm}.jsonl", (row.to_json() for row in judged))
    result = arm_result(arm, judged, trained.figures if trained is not None else None)
    if not result.right:
        place = recipe.document.place(("answer",))
        raise RecipeError(
            f"{place}: answer kind {recipe.answer.kind!r} finds no answer in any response of the test source; "
            "choose the kind that fits"
        )
    return result


def right_of(directory: Path, arm: str) -> dict[str, bool]:
    """Return by test id whether an arm's answer is right, from a finished run; rows without a reference answer are left out."""
    rows = reading.rows(directory, f"evaluation/{arm}.jsonl")
    return {row["id"]: row["right"] for row in rows if row["reference"] is not None}


def arm_results(directory: Path, arms: Mapping[str, Mapping[str, Any]]) -> dict[str, ArmResult]:
    """Return the results of a run's arms; ``arms`` are their figures in metrics.json."""
    out = {}
    for name, figures in arms.items():
        right = right_of(directory, name)
        unanswered = round(figures["unanswered"] * len(right))
        out[name] = ArmResult(name, right, unanswered, figures["training"])
    return out


def variables(recipe: Recipe, sample: Sample, ctx: RunContext) -> dict[str, Any]:
    """Return the variables of a sample for an evaluation template."""
    system = next((m.content for m in sample.context if m.role == "system"), "")
    turns = [m for m in sample.context if m.role != "system"]
    return {
        "query": sample.query,
        "system": system,
        "history": [{"role": m.role, "content": m.content} for m in turns[:-1]],
        "options": ctx.answers.options(sample),
        "kind": recipe.answer.kind,
    }
