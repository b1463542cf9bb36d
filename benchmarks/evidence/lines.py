"""What each line of the tables does: sample stages, made from the base recipe's own and from nothing else.

Models, prompts and lengths are always those of the base recipe, so that the tables follow it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

Stage = dict[str, Any]
Stages = list[Stage]

KEPT: Final = "kept"
"""Stands for the number of rows that another cell kept, known only when that cell has run."""

SURE: Final = "sure"
VOTES: Final = ("all", "any", "probability", SURE)
"""``sure``: the first view votes alone where it is sure, elsewhere any of the others."""
VIEW_SETS: Final = (
    ("base",),
    ("reasoning",),
    ("base", "reasoning"),
    ("neighbors",),
    ("base", "neighbors"),
    ("reasoning", "neighbors"),
    ("base", "reasoning", "neighbors"),
)

LINES: Final[Mapping[str, str]] = {
    "vanilla": "the model as it is, not trained",
    "raw": "trained on all rows with their labels as they are",
    "official": "the stages of robustft-official.yaml (temperature 1, one reasoning call, strict AND of both views, the "
    "reviewer always asked, selection strictly under the median) with this model's prompts and lengths, for it follows its own short "
    "formats alone, in the review too",
    "robustft": "RobustFT, the stages of the base recipe",
    "clean": "clean rows only: flagged rows leave, nothing is relabelled",
    "relabel-all": "every row takes the reasoning view's answer: no check, no review, no selection",
    "random": "raw rows drawn at random, as many as RobustFT keeps",
    "neighbors": "neighbour view only: it alone flags, flagged rows take its answer, no selection",
    "truth": "trained on all rows with their true labels",
    "truth-size": "true labels of rows drawn at random, as many as RobustFT keeps",
}
CONTROLS: Final = ("clean", "relabel-all", "random", "neighbors", "official")
ABLATIONS: Final[Mapping[str, str]] = {
    "no-checker": "without checker: every row is answered anew, reviewed and ranked",
    "no-relabel": "without relabel: the review has the reasoning view alone, which also ranks",
    "no-reasoning": "without reasoning: check and review have one view less",
    "no-review": "without review: flagged rows take the context view's answer",
    "no-selection": "without selection: all flagged rows stay",
}
_ASKS: Final = (
    "use", "llm", "into", "prompt", "reflect_prompt", "rounds", "max_tokens", "temperature", "logprobs",
)  # fmt: skip
_INTO: Final = {
    "robustft.answer": "base",
    "robustft.reason": "reasoning",
    "robustft.check": "check",
    "robustft.relabel": "context",
}


def stages_of(recipe: Mapping[str, Any]) -> Stages:
    """The sample stages of a recipe's value that are not skipped."""
    return [
        {key: value for key, value in stage.items() if key != "skip"}
        for stage in recipe.get("samples", [])
        if not stage.get("skip")
    ]


def first(stages: Iterable[Stage], use: str) -> Stage:
    """The first stage of that name.

    Raises:
        LookupError: when there is none; the tables cannot be made from such a recipe.
    """
    for stage in stages:
        if stage["use"] == use:
            return stage
    raise LookupError(f"the base recipe has no stage {use}; the tables are made from it")


def into(stages: Iterable[Stage], use: str) -> str:
    """The name of the note that the first stage of that name writes."""
    return str(first(stages, use).get("into", _INTO[use]))


def without(stages: Sequence[Stage], use: str) -> Stages:
    """All stages but those of one name."""
    return [stage for stage in stages if stage["use"] != use]


def changed(stages: Sequence[Stage], use: str, **settings: Any) -> Stages:
    """The stages with settings of one of them replaced."""
    return [{**stage, **settings} if stage["use"] == use else stage for stage in stages]


def direct(base: Mapping[str, Any]) -> Stage:
    """The base recipe's direct answer, else what it would be: the model of its reasoning, the prompt ``answer`` in
    the same folder, and the length that the evaluation gives an answer.
    """
    stages = stages_of(base)
    found = [stage for stage in stages if stage["use"] == "robustft.answer"]
    if found:
        return found[0]
    reasons = first(stages, "robustft.reason")
    folder, slash, _ = str(reasons.get("prompt", "robustft/reason")).rpartition("/")
    most = base.get("evaluate", {}).get("max_tokens", reasons.get("max_tokens", 512))
    asked = {"use": "robustft.answer", "prompt": f"{folder}{slash}answer", "max_tokens": most}
    return {**asked, "llm": reasons["llm"], "into": "base"}


def dropped(stages: Sequence[Stage], *settings: str) -> Stages:
    """The stages without some of their settings."""
    return [{k: v for k, v in stage.items() if k not in settings} for stage in stages]


def views(base: Mapping[str, Any]) -> Stages:
    """The direct and the reasoning answer to every row, with nothing that would save calls."""
    found = (direct(base), first(stages_of(base), "robustft.reason"))
    return [{key: stage[key] for key in _ASKS if key in stage} for stage in found]


def neighbors(stages: Sequence[Stage]) -> Stage:
    """The neighbour view, with the encoder that the base recipe finds neighbours with."""
    encoder = first(stages, "robustft.relabel").get("encoder", "encoder")
    return {"use": "robustft.neighbors", "encoder": encoder, "into": "neighbors"}


def rule(names: Sequence[str], vote: str) -> str:
    """The name of a rule, and of the verdict that it writes."""
    return f"{vote}({'+'.join(names)})"


def detection(base: Mapping[str, Any]) -> Stages:
    """All views, then one check a rule."""
    named = dict(zip(("base", "reasoning"), views(base), strict=True))
    asked = [{**stage, "into": name} for name, stage in named.items()]
    checks = [_check(names, vote) for names, vote in rules()]
    return [*asked, neighbors(stages_of(base)), *checks]


def _check(names: Sequence[str], vote: str) -> Stage:
    voted = {"vote": "any", "sure": {"view": names[0]}} if vote == SURE else {"vote": vote}
    return {"use": "robustft.check", "views": list(names), **voted, "into": rule(names, vote)}


def fewer(stages: Sequence[Stage]) -> Stages | None:
    """The base recipe under ``any`` of the neighbours and the reasoning, which is asked only where the neighbours
    settle nothing; None where the base recipe asks lazily itself.
    """
    reasons = [stage for stage in stages if stage["use"] == "robustft.reason"]
    if len(reasons) != 1 or {"settled", "only"} & set(reasons[0]):
        return None
    near = neighbors(stages)
    others = without(without(stages, near["use"]), "robustft.answer")
    settled = {"vote": "any", "views": [near["into"]]}
    heard = [near["into"], into(stages, "robustft.reason")]
    asked = changed(dropped(others, "sure"), "robustft.reason", settled=settled)
    return [near, *changed(asked, "robustft.check", vote="any", views=heard)]


def rules() -> list[tuple[tuple[str, ...], str]]:
    """Every rule of the detection table: its views and its vote.

    Of one view ``any`` is the same as ``all``, and nobody is left where it is not sure. Who is sure has to be a model.
    """
    return [
        (names, vote)
        for names in VIEW_SETS
        for vote in VOTES
        if len(names) > 1 or vote in ("all", "probability")
    ]


def official(
    stages: Sequence[Stage], published: Mapping[str, Any], prompts: Iterable[str]
) -> Stages:
    """The published preset with the base recipe's models, prompts and lengths.

    ``prompts`` are the templates there are: where the base recipe's review prompt has a variant ``_answers``, which
    shows bare answers as the published code does, it is used.
    """
    known = set(prompts)
    out: Stages = []
    for stage in stages_of(published):
        own = next((each for each in stages if each["use"] == stage["use"]), Stage())
        taken: Stage = {
            key: own[key] for key in ("llm", "encoder", "prompt", "max_tokens") if key in own
        }
        if stage["use"] == "robustft.review" and f"{taken.get('prompt')}_answers" in known:
            taken["prompt"] += "_answers"
        out.append({**stage, **taken})
    return out


def line(
    name: str, base: Mapping[str, Any], published: Mapping[str, Any], prompts: Iterable[str] = ()
) -> Stages:
    """The sample stages of one line of the tables; ``beta=0.3`` and ``k=5`` are lines too.

    Raises:
        LookupError: when no line is called so, or the base recipe lacks a stage that it is made from.
    """
    stages = stages_of(base)
    if name == "official":
        asked = direct(base)
        own = stages if asked in stages else [*stages, asked]
        return official(own, published, prompts)
    if name == "relabel-all":
        return _relabel_all(base)
    if name in _MADE:
        return _MADE[name](stages)
    setting, _, value = name.partition("=")
    if setting == "beta":
        return changed(stages, "robustft.select", keep=float(value))
    if setting == "k":
        return changed(stages, "robustft.relabel", k=int(value))
    raise LookupError(f"no line is called {name!r}")


def _nothing(_: Stages) -> Stages:
    return []


def _clean(stages: Stages) -> Stages:
    place = stages.index(first(stages, "robustft.check"))
    check = into(stages, "robustft.check")
    leave = {"use": "robustft.select", "by": "random", "keep": 0.0, "check": check}
    return [*stages[: place + 1], leave]


def _relabel_all(base: Mapping[str, Any]) -> Stages:
    stages, worked = stages_of(base), views(base)[1]
    only = [worked.get("into", _INTO["robustft.reason"])]
    return [worked, {**first(stages, "robustft.review"), "check": None, "views": only}]


def _sized(_: Stages) -> Stages:
    return [{"use": "robustft.random", "keep": KEPT}]


def _neighbors_only(stages: Stages) -> Stages:
    (check,) = dropped([first(stages, "robustft.check")], "sure")
    flags = {**check, "views": ["neighbors"]}
    review = {**first(stages, "robustft.review"), "views": ["neighbors"]}
    return [neighbors(stages), flags, review]


def _no_checker(stages: Stages) -> Stages:
    # What would ask fewer by a verdict asks everybody.
    left = dropped(without(stages, "robustft.check"), "settled", "only")
    for use in ("robustft.relabel", "robustft.review", "robustft.select"):
        left = changed(left, use, check=None)
    return left


def _no_relabel(stages: Stages) -> Stages:
    context, reasoning = into(stages, "robustft.relabel"), into(stages, "robustft.reason")
    others = [view for view in _reviewed(stages) if view != context]
    by = first(stages, "robustft.select").get("by", context)
    left = changed(without(stages, "robustft.relabel"), "robustft.review", views=others)
    return changed(left, "robustft.select", by=reasoning if by == context else by)


def _no_reasoning(stages: Stages) -> Stages:
    reasoning = into(stages, "robustft.reason")
    others = [view for view in _reviewed(stages) if view != reasoning]
    heard = [view for view in first(stages, "robustft.check")["views"] if view != reasoning]
    left = dropped(without(stages, "robustft.reason"), "sure")
    left = changed(left, "robustft.review", views=others)
    return changed(left, "robustft.check", views=heard)


def _no_review(stages: Stages) -> Stages:
    # Nobody else's answer stands, so the context view is asked about every flagged row.
    context = [
        stage if stage["use"] == "robustft.check" else dropped([stage], "sure")[0]
        for stage in stages
    ]
    return changed(context, "robustft.review", views=[into(stages, "robustft.relabel")])


def _no_selection(stages: Stages) -> Stages:
    return without(stages, "robustft.select")


def _reviewed(stages: Stages) -> list[str]:
    usual = (into(stages, "robustft.relabel"), into(stages, "robustft.reason"))
    return list(first(stages, "robustft.review").get("views", usual))


_MADE: Final[Mapping[str, Callable[[Stages], Stages]]] = {
    "vanilla": _nothing,
    "raw": _nothing,
    "robustft": list,
    "clean": _clean,
    "random": _sized,
    "neighbors": _neighbors_only,
    "truth": _nothing,
    "truth-size": _sized,
    "no-checker": _no_checker,
    "no-relabel": _no_relabel,
    "no-reasoning": _no_reasoning,
    "no-review": _no_review,
    "no-selection": _no_selection,
}
