"""Compute the metrics over samples. Only this module, `tokens.py` and the truth arm read the truth."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from nfilter.api.errors import ContractError
from nfilter.api.metrics import Judged, Metric, MetricInput
from nfilter.api.notes import Proposal
from nfilter.api.stages import Contract
from nfilter.api.types import Sample
from nfilter.models.context import RunContext
from nfilter.recipe.model import Recipe
from nfilter.registry.contracts import check_figures
from nfilter.registry.loading import Plugins
from nfilter.store.artefacts import Artefact
from nfilter.store.journal import Journal


def judge(
    recipe: Recipe,
    plugins: Plugins,
    ctx: RunContext,
    source: Artefact[Sample],
    last: Artefact[Sample],
    truth: Mapping[str, str],
    journal: Journal,
) -> dict[str, Any]:
    """Return the figures of every registered metric by name, and ``calls_per_sample``.

    Without a known truth no sample is loaded, and metrics receive only counts.
    """
    contracts: list[Contract] = [use.item.cls.contract(use.config) for use in recipe.samples]
    usage = journal.usage()
    # Calls of sample stages: without those of the evaluation and of a model that compares answers for metrics.
    stages = {label: figures for label, figures in usage.items() if label[:2].isdigit()}
    judged: list[Judged] = []
    right: dict[str, dict[str, bool | None]] = {}
    views = list(dict.fromkeys(name for contract in contracts for name in sorted(contract.views)))
    proposes = list(
        dict.fromkeys(name for contract in contracts for name in sorted(contract.proposes))
    )
    if truth:
        judged = _judged(ctx, source, last, truth)
        for name in dict.fromkeys((*views, *proposes)):
            right[name] = _note_is_right(ctx, name, judged)
    data = MetricInput(
        judged=judged,
        samples=int(source.summary()["read"]),
        verdicts=list(
            dict.fromkeys(name for contract in contracts for name in sorted(contract.verdicts))
        ),
        views=views,
        proposes=proposes,
        answer_is_right=right,
        calls={label: figures["calls"] for label, figures in stages.items()},
        tokens={
            label: figures["prompt_tokens"] + figures["completion_tokens"]
            for label, figures in stages.items()
        },
        seed=recipe.seed,
        warn=ctx.log.warning,
    )
    out = figures_of(plugins, Metric, "compute", data, ctx.log.warning)
    out["calls_per_sample"] = sum(data.calls.values()) / data.samples
    return out


def figures_of(
    plugins: Plugins, kind: type, method: str, data: object, warn: Callable[[str], None]
) -> dict[str, Any]:
    """Return the figures of every registered metric of a kind by name; one that fails is left out with a warning.

    No recipe names a metric, so a failing metric must not end a run.
    """
    out: dict[str, Any] = {}
    for item in plugins.of_kind("metric"):
        try:
            metric = item.cls()
            figures = (
                check_figures(item.name, getattr(metric, method)(data))
                if isinstance(metric, kind)
                else {}
            )
        except Exception as error:  # noqa: BLE001 - another author's metric must not end a run
            message = str(error) if isinstance(error, ContractError) else repr(error)
            warn(
                f"metric {item.name!r} of plugin {item.plugin!r} ({item.origin}) is left out of metrics.json: {message}"
            )
            continue
        if figures:
            out[item.name] = figures
    return out


def _judged(
    ctx: RunContext, source: Artefact[Sample], last: Artefact[Sample], truth: Mapping[str, str]
) -> list[Judged]:
    originals = {sample.id: sample for sample in source.samples() if sample.id in truth}
    finals = {sample.id: sample for sample in last.samples() if sample.id in truth}
    ids = [key for key in originals if key in finals]
    true = {key: ctx.answers.parse(truth[key], originals[key]) for key in ids}

    def label(sample: Sample) -> str | None:
        return ctx.answers.parse(sample.response, sample)

    was = ctx.answers.agree([(label(originals[key]), true[key]) for key in ids])
    now = ctx.answers.agree([(label(finals[key]), true[key]) for key in ids])
    return [
        Judged(
            originals[key],
            finals[key],
            true[key],
            before if true[key] is not None else None,
            after if true[key] is not None else None,
        )
        for key, before, after in zip(ids, was, now, strict=True)
    ]


def _note_is_right(ctx: RunContext, name: str, judged: list[Judged]) -> dict[str, bool | None]:
    """By id, whether a note's answer equals the truth; None without an answer or without a known truth."""
    pairs: list[tuple[str | None, str | None]] = []
    for item in judged:
        proposal = Proposal.of(item.final, name)  # a view has an answer too
        pairs.append((None if proposal is None else proposal.answer, item.truth))
    agree = ctx.answers.agree(pairs)
    return {
        item.final.id: ok if pair[0] is not None and pair[1] is not None else None
        for item, pair, ok in zip(judged, pairs, agree, strict=True)
    }
