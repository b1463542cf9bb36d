"""recipe.lock.yaml: the resolved recipe, with hashes and versions of everything it names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from nfilter.engine.ingest import data_digest
from nfilter.engine.versions import versions
from nfilter.models.pool import ModelPool
from nfilter.recipe.file_hints import PLUGIN_FILES, record
from nfilter.recipe.model import Recipe
from nfilter.recipe.prompts import Prompts
from nfilter.recipe.uses import Use, model_needs, stage_needs, stage_tools, tool_needs
from nfilter.registry.loading import Registered
from nfilter.registry.provenance import core_code
from nfilter.store.files import publishing


def write_lock(path: Path, recipe: Recipe, prompts: Prompts, pool: ModelPool) -> None:
    """Publish the lock file."""
    value = {
        **recipe.dump(),
        "lock": {"base_dir": str(recipe.base_dir), **named_by(recipe, prompts, pool)},
    }
    with publishing(path) as out:
        yaml.safe_dump(value, out, sort_keys=False, allow_unicode=True)


def named_by(recipe: Recipe, prompts: Prompts, pool: ModelPool) -> dict[str, Any]:
    """Return hashes and versions of what a recipe names; a model's hash is the one that keys its answers and adapters."""
    files = recipe.plugins.files
    return {
        "versions": versions(),
        "data": {
            section: data_digest(used, recipe.base_dir)
            for section, used in (("source", recipe.source), ("evaluate", recipe.test))
            if used is not None
        },
        **({PLUGIN_FILES: record(files)} if files else {}),
        "plugins": {item.name: item.origin for item in _items(recipe)},
        "code": {"nfilter": core_code(), **{item.name: item.code for item in _items(recipe)}},
        "models": {name: pool.backend(name).fingerprint() for name in _models(recipe)},
        "prompts": {name: prompts.get(name).digest for name in _prompts(recipe)},
    }


def answer_prompts(recipe: Recipe) -> set[str]:
    """Return the template of the model that compares answers; empty if there is none."""
    return {recipe.answer.prompt} if recipe.answer.judge is not None else set()


def _items(recipe: Recipe) -> Iterator[Registered]:
    """Every class of a plugin that the run uses."""
    for use in _uses(recipe):
        yield use.item
        yield from (tool.item for tool in stage_tools(use, recipe.plugins))


def _uses(recipe: Recipe) -> Iterator[Use]:
    """Every entry of the recipe that names a plugin."""
    yield from recipe.models.values()
    yield recipe.source.use
    yield from (*recipe.samples, *recipe.tokens)
    if recipe.train is not None:
        yield recipe.train
        if recipe.train.loss is not None:
            yield recipe.train.loss
    if recipe.test is not None:
        yield recipe.test.use


def _models(recipe: Recipe) -> list[str]:
    """The models that the run will use, without aliases; a model that is only listed is not built."""
    needs = model_needs(recipe.answer)
    for use in (*recipe.samples, *recipe.tokens):
        needs += stage_needs(use)
        needs += tool_needs(stage_tools(use, recipe.plugins))
    names = {need.model for need in needs}
    if recipe.arms or recipe.encodes:
        names.add(recipe.encode.model)
        if recipe.train is not None:
            names.add(recipe.train.config.model)
    real = {recipe.aliases.get(name, name) for name in names}
    return sorted(real & set(recipe.models))


def _prompts(recipe: Recipe) -> list[str]:
    names = {
        name
        for use in (*recipe.samples, *recipe.tokens)
        for name in use.item.cls.contract(use.config).prompts
    }
    names |= answer_prompts(recipe)
    if recipe.evaluate is not None and recipe.evaluate.prompt is not None:
        names.add(recipe.evaluate.prompt)
    return sorted(names)
