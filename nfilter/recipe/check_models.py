"""The models of a recipe: whether they exist, have what stages need, and may receive the data."""

from __future__ import annotations

from importlib.util import find_spec

from nfilter.api.capabilities import Adapts, Encodes, Generates, Priced, caching, methods_of
from nfilter.api.errors import did_you_mean, missing_package
from nfilter.api.stages import Contract, ModelNeed, Site
from nfilter.recipe.checking import Checking
from nfilter.recipe.fetching import allowing
from nfilter.recipe.hosts import unlisted_hosts
from nfilter.recipe.model import Recipe
from nfilter.recipe.uses import Use, model_needs, stage_needs, stage_tools
from nfilter.recipe.yaml_lines import Where


def model_facts(recipe: Recipe, site: Site) -> list[str]:
    """Return one line per fact that a backend reports, such as the address of its model."""
    found = []
    for name, use in recipe.models.items():
        facts = getattr(use.item.cls, "facts", None)
        found += [f"model {name}: {fact}" for fact in (facts(use.config, site) if facts else ())]
    return found


def check_models(checking: Checking) -> None:
    """Check that every named model exists, has the capabilities it needs, and can be loaded."""
    for use in checking.recipe.models.values():
        for problem in use.item.cls.problems(use.config, checking.site):
            checking.fault(use.where, problem)
        if checking.recipe.budget is not None and isinstance(use.item.cls, Priced):
            _price(checking, use)
        _hosts(checking, use)
    checking.report.facts += model_facts(checking.recipe, checking.site)
    for use in checking.uses():
        _needs_of(checking, use)
    trains = bool(set(checking.recipe.arms) - {"vanilla"})
    if trains or checking.recipe.encodes:
        _need(
            checking,
            ("encode",),
            "encode",
            ModelNeed(checking.recipe.encode.model, Encodes, field="model"),
        )
    if checking.recipe.evaluate is not None:
        name = (
            checking.recipe.train.config.model
            if checking.recipe.train
            else checking.recipe.encode.model
        )
        _need(checking, ("evaluate",), "evaluate", ModelNeed(name, Generates))
        if trains:
            _need(checking, ("evaluate",), "evaluate", ModelNeed(name, Adapts))
    for need in model_needs(checking.recipe.answer):
        _need(checking, ("answer",), "answer", need)


def _needs_of(checking: Checking, use: Use) -> None:
    """Check the packages and models of a stage, and the models of its tools."""
    contract: Contract = use.item.cls.contract(use.config)
    _packages(checking, use, contract)
    for need in stage_needs(use):
        _need(checking, use.where, use.name, need)
    for tool in stage_tools(use, checking.plugins):
        for need in model_needs(tool.config):
            _need(checking, tool.where, f"the tool {tool.item.name}", need)


def _packages(checking: Checking, use: Use, contract: Contract) -> None:
    """Check that the packages of a stage are installed."""
    for name, requirement in contract.packages.items():
        if find_spec(name) is None:
            checking.fault(use.where, f"{use.name} {missing_package(name, requirement)}")


def _hosts(checking: Checking, use: Use) -> None:
    """Check that data goes only to hosts that the user allowed."""
    for host in unlisted_hosts(use.item.cls, use.config, checking.recipe.allow_hosts):
        checking.fault(
            use.where,
            f"this would send data to {host}, which only the recipe names; if you trust it, type: "
            f"{allowing(checking.recipe)}",
        )


def _price(checking: Checking, use: Use) -> None:
    if use.item.cls.price(use.config) is None:
        checking.fault(
            use.where,
            "a budget needs a price, and none is known for this model; set price: {prompt: 0.15, completion: 0.6} "
            "(dollars for a million tokens), or price: {prompt: 0, completion: 0} where it costs nothing",
        )


def _no_model(checking: Checking, name: str) -> str:
    known = [*checking.recipe.models, *checking.recipe.aliases]
    near = did_you_mean(name, known)
    return f"no model {name!r} under models{near or '; add one there'}"


def _need(checking: Checking, where: Where, who: str, need: ModelNeed) -> None:
    place: Where = (*where, *_steps(need.field)) if need.field else where
    use = checking.recipe.model(need.model)
    if use is None:
        checking.fault(place, _no_model(checking, need.model))
        return
    abilities = use.item.cls.abilities(use.config)
    if need.capability not in abilities.capabilities:
        can = ", ".join(sorted(kind.__name__ for kind in abilities.capabilities)) or "nothing"
        able = [name for name, other in checking.recipe.models.items() if _able(other, need)]
        other = f"; use {able[0]!r}" if able else "; use a local model, {use: hf, model: ...}"
        if caching(need.capability) is not None:
            name = need.capability.__name__
            text = f"with the capability {name}, and {need.model!r} ({use.name}) does not have it"
            other = other if able else _backend_with(checking, need.capability)
        else:
            text = f"that {_verb(need.capability)}, and {need.model!r} ({use.name}) cannot"
        checking.fault(place, f"{who} needs a model {text} (it has: {can}){other}")
    elif need.logprobs and not abilities.logprobs and where not in checking.rewritten:
        checking.fault(
            place,
            f"{who} needs log-probabilities of what was generated, and {need.model!r} ({use.name}) gives none; "
            "use a model that does, {use: hf, ...} or a server that gives them",
        )


def _steps(field: str) -> Where:
    """Return the path of a field: ``reviewers.0.llm`` is inside the first item of a list."""
    return tuple(int(step) if step.isdigit() else step for step in field.split("."))


def _backend_with(checking: Checking, capability: type) -> str:
    """Return what to add to a recipe without a model that has a plugin's capability."""
    methods = methods_of(capability)
    for item in checking.plugins.imported:
        if item.kind == "backend" and all(hasattr(item.cls, name) for name in methods):
            return f"; add a model that has it under models: {{NAME: {{use: {item.name}}}}}"
    return "; add a model that has it under models"


def _able(use: Use, need: ModelNeed) -> bool:
    abilities = use.item.cls.abilities(use.config)
    return need.capability in abilities.capabilities and (abilities.logprobs or not need.logprobs)


def _verb(capability: type) -> str:
    name = capability.__name__
    return {"LendsModule": "lends its module", "Adapts": "takes adapters"}.get(name, name.lower())
