"""Run the stages of a recipe in order: their fingerprints, artefacts, offered models and log lines."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from nfilter.api.calls import ModelRef
from nfilter.api.errors import DamageError
from nfilter.api.events import StageFinished
from nfilter.api.stages import Contract
from nfilter.api.types import Sample, TokenSample
from nfilter.engine.arms import MARKER
from nfilter.engine.lock import answer_prompts
from nfilter.engine.plan_time import model_digest
from nfilter.engine.samples import SampleKind, unread_warning
from nfilter.engine.stages import StageKind, StageRun, T, run_stage
from nfilter.engine.state import RunState
from nfilter.engine.tokens import TokenKind
from nfilter.models.pace import PACES, Pace
from nfilter.recipe.model import Recipe
from nfilter.recipe.uses import Use, model_needs, stage_needs, stage_tools, tool_needs
from nfilter.registry.provenance import backend_code, core_code
from nfilter.store.artefacts import Artefact, fingerprint_of, finished
from nfilter.store.files import check_folder
from nfilter.store.run_directory import ENCODE, REVIEWED, SOURCE, stage_folder


@dataclass(frozen=True, slots=True)
class NumberedStage:
    """A stage of a run: its number, its recipe entry, and the key of its random numbers."""

    number: int
    use: Use
    stream: str

    @property
    def label(self) -> str:
        """The name of the stage in its run and of its folder."""
        return stage_folder(self.number, self.use.name)


def numbered(uses: Sequence[Use], first: int) -> Iterator[NumberedStage]:
    """Number the stages from ``first``. Random numbers depend on the name, so inserting a stage does not change others."""
    names = [use.name for use in uses]
    for index, use in enumerate(uses):
        yield NumberedStage(first + index, use, f"{use.name}#{names[:index].count(use.name)}")


def discard_others(state: RunState) -> None:
    """Remove the artefacts, calls and warnings of stages that the recipe no longer has."""
    recipe = state.recipe
    first = len(recipe.samples) + 1
    labels = {stage_folder(0, SOURCE), *(each.label for each in numbered(recipe.samples, 1))}
    if stage_folder(0, REVIEWED) in state.fingerprints:
        labels.add(stage_folder(0, REVIEWED))
    if recipe.tokens:
        labels |= {stage_folder(first, ENCODE)}
        labels |= {each.label for each in numbered(recipe.tokens, first + 1)}
    for removed in state.directory.discard_except(labels):
        state.log.info(f"{removed}: no longer in the recipe; removed")

    def is_other(stage: str) -> bool:
        return stage[:2].isdigit() and stage.removesuffix(".train") not in labels

    # The calls of a removed stage are not a cost of this recipe.
    state.journal.forget([name for name in state.journal.stages() if is_other(name)])
    state.log.warned.forget(is_other)


def sample_stages(state: RunState, first: Artefact[Sample]) -> Artefact[Sample]:
    """Run the recipe's sample stages in order on ``first``; return the artefact of the last one.

    Raises:
        ContractError: if a stage breaks an invariant.
    """
    reviewed = state.fingerprints.get(stage_folder(0, REVIEWED))
    before, fingerprint = first, reviewed or state.fingerprints[SOURCE]
    for each in numbered(state.recipe.samples, 1):
        after = state.directory.stage(each.number, each.use.name)
        run = StageRun(each.label, each.use, before, after)
        done = _run(state, each, run, SampleKind, stage_parts(state, each, fingerprint))
        state.finished.append(done)
        _announce(
            state,
            done,
            f"{done.kept} kept, {done.dropped} dropped so far, {done.changed} relabelled",
        )
        contract = each.use.item.cls.contract(each.use.config)
        if not done.reused and (warning := unread_warning(each.label, contract, after)) is not None:
            state.log.warning(warning)
        before, fingerprint = after, state.fingerprints[each.label]
    return before


def token_stages(state: RunState, encoded: Artefact[TokenSample]) -> list[Artefact[TokenSample]]:
    """Run the recipe's token stages in order; return the artefact of each.

    Raises:
        ContractError: if a stage breaks an invariant.
    """
    before, fingerprint = encoded, state.fingerprints[encoded.directory.name]
    out = []
    for bit, each in enumerate(numbered(state.recipe.tokens, len(state.recipe.samples) + 2)):
        after = state.directory.token_stage(each.number, each.use.name, before)
        run = StageRun(each.label, each.use, before, after)
        parts = {**stage_parts(state, each, fingerprint), "reason bit": bit}
        done = _run(state, each, run, partial(TokenKind, bit=bit), parts)
        state.tokens_finished.append(done)
        rows = f"{done.dropped} of {done.kept + done.dropped} samples"
        masked = f"{after.summary()['masked']} tokens masked"
        _announce(state, done, f"{masked}, {rows} without a token in the loss so far")
        out.append(after)
        before, fingerprint = after, state.fingerprints[each.label]
    return out


def stage_parts(state: RunState, each: NumberedStage, before: str) -> dict[str, Any]:
    """Return the parts of a stage's fingerprint by name; ``before`` is the fingerprint of its input."""
    use, recipe = each.use, state.recipe
    contract: Contract = use.item.cls.contract(use.config)
    tools = stage_tools(use, state.plugins)
    names = stage_models(recipe, use)
    models = {f"model {name}": model_part(state, name) for name in names}
    named = {*contract.prompts, *answer_prompts(recipe)}
    prompts = {f"prompt {name}": state.prompts.get(name).digest for name in sorted(named)}
    return {
        "input": before,
        "config": use.dump(),
        "plugin": use.item.identity,
        "plugin code": use.item.code,
        "nfilter's code": core_code(),
        **prompts,
        **models,
        "seed": recipe.seed,
        "random numbers": each.stream,
        "answer": recipe.answer.model_dump(mode="json"),
        "thoughts": {name: recipe.thoughts(name).marks for name in names},
        **({"tools": [tool.parts(recipe.base_dir) for tool in tools]} if tools else {}),
        **_trainer(state, contract),
    }


def stage_models(recipe: Recipe, use: Use) -> list[str]:
    """Return the names of the models of a stage, sorted: those that its settings, its contract, its tools and the answers name."""
    needs = (
        *stage_needs(use),
        *tool_needs(stage_tools(use, recipe.plugins)),
        *model_needs(recipe.answer),
    )
    return sorted({need.model for need in needs})


def model_part(state: RunState, name: str) -> list[str]:
    """Return the fingerprint of a model and the digest of its backend's code."""
    backend = state.pool.backend(name)
    return [backend.fingerprint(), backend_code(backend)]


def _trainer(state: RunState, contract: Contract) -> dict[str, Any]:
    """The trainer of a stage that trains, without the online loss: reference models use the plain loss."""
    if not contract.trains or state.recipe.train is None:
        return {}
    use = replace(state.recipe.train, loss=None)
    model = model_part(state, use.config.model)
    return {"trainer": [use.dump(), use.item.identity, use.item.code, *model]}


def _run(
    state: RunState,
    each: NumberedStage,
    run: StageRun[T],
    kind_of: Callable[[StageRun[T], Contract], StageKind[T]],
    parts: Mapping[str, Any],
) -> StageFinished:
    label, after = each.label, run.after
    fingerprint = state.fingerprints[label] = fingerprint_of(parts)
    if state.journal.may_lack_calls(label) and after.directory.exists():
        state.log.warning(f"{label}: the journal lost some of its calls; it runs again")
        after.remove()
    if after.has_fingerprint(fingerprint):
        _offer_again(state, each, after)
    if not after.has_fingerprint(fingerprint):
        state.journal.forget([label])
        state.log.warned.forget(lambda stage: stage.removesuffix(".train") == label)
    asks = each.use.item.cls.contract(each.use.config).calls
    rows = -(-state.rows // state.division.processes(each.use))
    file, identify = state.directory.path / PACES, partial(model_digest, state.recipe)
    ctx = state.context(
        label,
        each.stream,
        stage_rows=rows_for_tools(run.before),
        pace=Pace(label, rows, asks, state.log, file, identify=identify),
        publish=partial(_offer, state, each, after),
        code=each.use.item.code,
    )
    done = run_stage(run, kind_of, ctx, parts, state.division)
    if not done.reused:
        ctx.finish()
    return done


def rows_for_tools(before: Artefact[Any]) -> Iterator[Sample]:
    """Yield the samples that a sample stage receives, for its tools."""
    return (each for each in before.samples() if isinstance(each, Sample) and each.dropped is None)


def _announce(state: RunState, done: StageFinished, what: str) -> None:
    again = " (from an earlier run)" if done.reused else f" in {done.seconds:.1f} s"
    state.log.info(f"{done.stage}: {what}{again}")
    state.plugins.announce("nfilter_stage_finished", done, state.log.warning)


def _offer(state: RunState, each: NumberedStage, after: Artefact[T], ref: ModelRef) -> None:
    """Offer the model of a stage to later ones, and record it in the stage's artefact."""
    state.published[each.use.name] = ref
    place = Path(os.path.relpath(ref.path, after.home)).as_posix()
    after.write_model({"ref": asdict(ref), "place": place})


def _offer_again(state: RunState, each: NumberedStage, after: Artefact[T]) -> None:
    """Offer the model that the stage offered in an earlier run; if it is damaged, the stage runs again."""
    try:
        record = after.read_model()
        if record is None:
            return
        ref = ModelRef(**{**record["ref"], "path": str(after.home / record["place"])})
        if record["place"].startswith("models/"):
            check_folder(Path(ref.path) / MARKER, after.home)
    except DamageError as error:
        state.log.warning(f"{each.label}: {error.path} {error.what}; it runs again")
        after.remove()
        return
    if not finished(after) and Path(record["ref"]["path"]).resolve() != Path(ref.path).resolve():
        # The stage's state contains the model's old path.
        state.log.info(
            f"{each.label}: the folder of the run was moved before it ended; it runs again"
        )
        after.remove()
        return
    state.published[each.use.name] = ref
