"""What is trained and evaluated side by side: one arm at a time, all with the same settings."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from nfilter.api.errors import DamageError, RecipeError, StoreError
from nfilter.api.events import StageFinished
from nfilter.api.stages import ChoosesSettings, TrainingResult
from nfilter.api.types import ModelRef, Request, Row, Sample, Sampling, TokenSample
from nfilter.engine.ingest import rows
from nfilter.engine.lint import lint
from nfilter.metrics.arms import ArmResult
from nfilter.metrics.evaluation import arm_result, judge_answers
from nfilter.models.context import RunContext
from nfilter.recipe.model import Arm, Recipe
from nfilter.recipe.prompts import Prompts
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
    """An arm's samples as tokens, and those that left at encoding: id and reason.

    ``lint`` says what encoding did to the rows, ``figures`` what the token stages did.
    """

    samples: list[TokenSample]
    dropped: list[tuple[str, str]]
    lint: dict[str, Any]
    figures: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Trained:
    """An arm's model: None for the arm that is not trained; ``figures`` say how the training went."""

    ref: ModelRef | None
    figures: dict[str, Any]


def encode(recipe: Recipe, samples: Iterable[Sample], ctx: RunContext, arm: str) -> Encoded:
    """Samples as tokens of the model under ``encode``; what has no token to learn from leaves, with the reason.

    What is odd about them is said at once, before anything is trained on it.
    """
    model = ctx.model(recipe.encode.model)
    items = list(samples)
    encoded = model.encode(items, max_length=recipe.encode.max_length, turns=recipe.encode.turns)
    found = lint(recipe.encode, items, encoded, model.decode)
    for text in found.warnings:
        ctx.log.warning(f"{arm}: {text}")
    tokenizer = model.tokenizer_digest()
    figures = {**found.figures, "tokenizer": asdict(tokenizer) if tokenizer else None}
    return Encoded(found.kept, found.gone, figures)


def nothing_left(
    arm: Arm, encoded: Encoded, finished: Sequence[StageFinished], directory: Path
) -> str:
    """Why an arm has nothing to train on: what each of the ``finished`` stages dropped, and what encoding did."""
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
    why = "; ".join(lost) or "the source gave none"
    return (
        f"arm {arm}: no sample is left to train on ({why}); dropped.jsonl and `nfilter explain "
        f"{shlex.quote(str(directory))} ID` say why for each row"
    )


def train(
    recipe: Recipe, arm: Arm, encoded: Sequence[TokenSample], ctx: RunContext, directory: Path
) -> Trained:
    """Train one arm, or take what an earlier run trained on the same tokens with the same settings."""
    if recipe.train is None:
        place = recipe.located.place(("arms",))
        raise RecipeError(
            f"{place}: arm {arm!r} needs training; add train: {{use: hf.lora, model: student}}"
        )
    return trained(recipe.train, encoded, ctx, directory / "adapters" / arm)


def trained(
    use: Use,
    samples: Sequence[TokenSample],
    ctx: RunContext,
    out: Path,
    start: ModelRef | None = None,
) -> Trained:
    """Train into the folder ``out``, or take what stands there, of the same tokens, settings and start.

    What an equal training left there when it was stopped is the trainer's to go on from; all else is removed.
    """
    model = ctx.model(use.config.model)
    made = {
        name: digest(part)
        for name, part in {
            "config": use.dump(),
            "plugin": use.item.origin,
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
    kept = _kept(out, made, ctx)
    if kept is not None:
        return kept
    begun = out / BEGUN
    if (out / MARKER).exists() or _begun_with(begun) != made:
        if begun.exists() and not (out / MARKER).exists():
            ctx.log.info(
                f"{ctx.stage}: its data or settings changed since it was stopped; it trains from the beginning"
            )
        remove(out)
        write_sealed(begun, made)
    with ctx.log.heard() as said:
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
    # The record vouches for what is on the disk.
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
        "warnings": list(dict.fromkeys(said)),
        "files": files,
    }
    write_sealed(out / MARKER, value)
    return Trained(ref, figures)


def _rows(use: Use, ctx: RunContext) -> dict[str, int | None]:
    # Where the trainer chooses by them: other rows of the run may be another training of the same samples.
    trainer = use.item.cls
    able = issubclass(trainer, ChoosesSettings) and trainer.fits_rows(use.config)
    return {"rows of the run": ctx.rows} if able else {}


def _kept(out: Path, made: Mapping[str, str], ctx: RunContext) -> Trained | None:
    """What an earlier run trained on the same, if it is still whole."""
    if not (out / MARKER).exists():
        return None
    try:
        value = check_folder(out / MARKER, out.parent.parent)
    except DamageError as error:
        ctx.log.warning(f"{ctx.stage}: {error.path} {error.what}; it is trained again")
        return None
    if value["made_of"] != made:
        why = differing(value["made_of"], made)
        ctx.log.info(f"{ctx.stage}: training again, as what it is made of changed: {why}")
        return None
    for warning in value.get("warnings", ()):
        ctx.log.warning(warning)
    # Where it lies now: a run's folder may have been moved.
    return Trained(ModelRef(**{**value["ref"], "path": str(out)}), value["figures"])


def _begun_with(begun: Path) -> dict[str, Any] | None:
    try:
        return read_sealed(begun, begun.parent.parent.parent)
    except DamageError:
        return None


def _online(use: Use, samples: Sequence[TokenSample]) -> tuple[str, ...]:
    # What an online loss adds to what an adapter is of: the plugin, and the scores that it reads.
    if use.loss is None:
        return ()
    reads = sorted(use.loss.item.cls.contract(use.loss.config).reads)
    scores = [
        (sample.id, name, hashlib.sha256(sample.scores[name].tobytes()).hexdigest())
        for sample in samples
        for name in reads
        if name in sample.scores
    ]
    return (use.loss.item.origin, use.loss.item.code, digest(scores))


def tokens_digest(samples: Sequence[TokenSample]) -> str:
    """SHA-256 over ids, tokens and weights: what a trained adapter is of."""
    hasher = hashlib.sha256()
    for sample in samples:
        hasher.update(sample.id.encode())
        hasher.update(np.ascontiguousarray(sample.ids).tobytes())
        hasher.update(np.ascontiguousarray(sample.weights).tobytes())
    return hasher.hexdigest()


def read_test(recipe: Recipe) -> list[Sample]:
    """The rows of the test source.

    Raises:
        StoreError: when no row can be read.
    """
    if recipe.test is None or recipe.evaluate is None:
        return []
    found = [
        row for row in rows(recipe.test, recipe, recipe.evaluate.limit) if isinstance(row, Row)
    ]
    if not found:
        place = recipe.located.place(recipe.test.use.where)
        raise StoreError(f"{place}: no row of the test source can be read")
    return [
        row.sample if row.truth is None else row.sample.relabel(row.truth, "the truth")
        for row in found
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
    """Ask the arm's model every test question, greedily; keep its answers in evaluation/ARM.jsonl."""
    if recipe.evaluate is None:
        raise RecipeError(f"{recipe.located.file}: arm {arm!r} needs a section evaluate")
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
        place = recipe.located.place(("answer",))
        raise RecipeError(
            f"{place}: answer kind {recipe.answer.kind!r} finds no answer in any response of the test source; "
            "choose the kind that fits"
        )
    return result


def right_of(directory: Path, arm: str) -> dict[str, bool]:
    """By test id, whether an arm's answer was right, as a run left it; what has no reference answer is not scored."""
    kept = reading.rows(directory, f"evaluation/{arm}.jsonl")
    return {row["id"]: row["right"] for row in kept if row["reference"] is not None}


def answered(directory: Path, arms: Mapping[str, Mapping[str, Any]]) -> dict[str, ArmResult]:
    """The answers of a run's arms, whose figures in metrics.json are ``arms``."""
    out = {}
    for name, figures in arms.items():
        right = right_of(directory, name)
        unanswered = round(figures["unanswered"] * len(right))
        out[name] = ArmResult(name, right, unanswered, figures["training"])
    return out


def variables(recipe: Recipe, sample: Sample, ctx: RunContext) -> dict[str, Any]:
    """What every template may use of a sample."""
    system = next((m.content for m in sample.context if m.role == "system"), "")
    turns = [m for m in sample.context if m.role != "system"]
    return {
        "query": sample.query,
        "system": system,
        "history": [{"role": m.role, "content": m.content} for m in turns[:-1]],
        "options": ctx.answers.options(sample),
        "kind": recipe.answer.kind,
    }
