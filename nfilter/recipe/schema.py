"""`nfilter schema`: the JSON Schema of a recipe, with the settings of the installed plugins."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel
from pydantic.errors import PydanticInvalidForJsonSchema

from nfilter.api.hookspecs import REGISTRATIONS
from nfilter.api.tool_settings import NAMED_TOOL
from nfilter.noise.labels import NoiseConfig
from nfilter.recipe.extends import EXTENDS
from nfilter.recipe.model import Recipe
from nfilter.recipe.sections import ADOPT, PART, AdoptConfig
from nfilter.recipe.uses import LOSS, NOISE, SKIP, THOUGHTS, ThoughtsConfig
from nfilter.registry.catalogue import BESIDE, summary
from nfilter.registry.loading import Plugins, Registered
from nfilter.store.files import publishing

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
FILE: Final = "nfilter.schema.json"
"""The name of the schema beside a recipe that ``nfilter init`` writes."""
_MEMBERS: Final = {"sample_stage": "process", "token_stage": "process_tokens"}


def schema_of(plugins: Plugins) -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of a recipe. All plugins are imported.

    Values that name a plugin are described under ``$defs`` by kind and ``use``. The kinds "exporter" and "metric", which a recipe does
    not have, are included for other programs.
    """
    definitions: dict[str, Any] = {}
    recipe = _object(Recipe, "", definitions)
    beside = _beside(definitions)
    for kind in REGISTRATIONS.values():
        items = plugins.of_kind(kind)
        if kind == "stage":
            for name, member in _MEMBERS.items():
                having = [item for item in items if hasattr(item.cls, member)]
                _define(name, having, beside.get(kind, {}), definitions)
        else:
            _define(kind, items, beside.get(kind, {}), definitions)
    definitions["model"] = {
        "type": ["object", "string"], "if": {"type": "object"}, "then": {"$ref": "#/$defs/backend"}
    }  # fmt: skip
    names = [item.name for item in plugins.of_kind("tool")]
    definitions[NAMED_TOOL] = {
        "type": ["object", "string"], "if": {"type": "object"}, "then": {"$ref": "#/$defs/tool"}, "else": {"enum": names}
    }  # fmt: skip
    definitions["train"] = _train(definitions)
    answer = recipe["properties"]["answer"]
    kinds = definitions["AnswerConfig"]["properties"]["kind"]
    recipe["properties"]["answer"] = {
        "if": {"type": "string"}, "then": {"enum": kinds["enum"]}, "else": {"$ref": answer["$ref"]},
        "default": kinds["default"], "description": answer["description"],
    }  # fmt: skip
    return {
        "$schema": DIALECT,
        "title": "nfilter recipe",
        "description": "A recipe of nfilter.",
        "type": "object",
        "if": {"required": [EXTENDS]},
        "then": _changes(recipe, definitions),
        "else": recipe,
        "$defs": definitions,
    }


def _changes(recipe: Mapping[str, Any], definitions: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema of a recipe that extends another one: what names no plugin may be changes to one that does."""
    sections = dict(recipe["properties"])
    for name in ("source", "train"):
        sections[name] = _or_changes(sections[name])
    models = sections["models"]
    sections["models"] = {
        **models,
        "additionalProperties": _or_changes(models["additionalProperties"]),
    }
    test = dict(definitions["EvaluateConfig"])
    del test["required"]
    test["properties"] = {**test["properties"], "source": _or_changes(test["properties"]["source"])}
    sections["evaluate"] = {**sections["evaluate"], "anyOf": [test, {"type": "null"}]}
    return {"properties": sections, "additionalProperties": False}


def _or_changes(schema: dict[str, Any]) -> dict[str, Any]:
    return {"if": {"type": "object", "not": {"required": ["use"]}}, "else": schema}


def write_schema(plugins: Plugins, path: Path) -> str:
    """Write the schema to a file and return the comment by which the editor of a recipe beside it finds the file.

    Raises:
        StoreError: where the file cannot be written.
    """
    with publishing(path) as out:
        out.write(json.dumps(schema_of(plugins), indent=1) + "\n")
    return editor_line(path.name)


def editor_line(name: str = FILE) -> str:
    """Return the comment that tells an editor the schema of a recipe: the file ``name`` in the recipe's folder."""
    return f"# yaml-language-server: $schema={name}"


def _beside(definitions: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the settings that a recipe accepts for every plugin of a kind, in addition to its own."""
    noise = _object(NoiseConfig, f"{NOISE}.", definitions)
    losses = {"anyOf": [{"type": "string"}, {"$ref": "#/$defs/loss"}, {"type": "null"}]}
    ratio = {"type": "number", "minimum": 0, "maximum": 1}
    marks = _object(ThoughtsConfig, f"{THOUGHTS}.", definitions)["properties"][THOUGHTS]
    return {
        "backend": {THOUGHTS: {**marks, "description": BESIDE["backend"][2]}},
        "trainer": {LOSS: {**losses, "description": BESIDE["trainer"][2]}},
        "source": {NOISE: {"anyOf": [ratio, noise], "description": BESIDE["source"][2]}},
        "stage": {SKIP: {"type": "boolean", "default": False, "description": "true leaves the stage out."}},
    }  # fmt: skip


def _define(
    name: str,
    items: Sequence[Registered],
    beside: Mapping[str, Any],
    definitions: dict[str, Any],
) -> None:
    """Add the definition of a value that names one of ``items``, and one of each item's settings."""
    for item in items:
        key = f"{name}.{item.name}"
        config = getattr(item.cls, "Config", None)
        try:
            settings = _object(config, f"{key}.", definitions) if config is not None else {}
        except PydanticInvalidForJsonSchema:
            definitions[key] = {"type": "object", "description": summary(item.cls)}
            continue
        use = {"const": item.name, "description": summary(item.cls)}
        definitions[key] = {
            "type": "object",
            "description": summary(item.cls),
            "properties": {"use": use, **settings.get("properties", {}), **beside},
            "required": ["use", *settings.get("required", [])],
            "additionalProperties": False,
        }
    definitions[name] = _chosen(name, [item.name for item in items])
    if SKIP in beside:
        # A stage that is left out may be one that is not installed.
        left_out = {"properties": {SKIP: {"const": True}}, "required": [SKIP]}
        definitions[name] = {"if": left_out, "then": {"type": "object"}, "else": definitions[name]}


def _chosen(kind: str, names: list[str]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {
            "use": {"enum": names, "description": f"The {kind.replace('_', ' ')} to use."}
        },
        "required": ["use"],
        "allOf": [
            {
                "if": {"properties": {"use": {"const": name}}, "required": ["use"]},
                "then": {"$ref": f"#/$defs/{kind}.{name}"},
            }
            for name in names
        ],
    }


def _train(definitions: dict[str, Any]) -> dict[str, Any]:
    """Return the definition of the section ``train``: nothing, ``{use: adopt, ...}`` or a trainer."""
    settings = _object(AdoptConfig, f"{ADOPT}.", definitions)
    settings["properties"] = {"use": {"const": ADOPT}, **settings["properties"]}
    trainer = definitions["trainer"]
    names = [ADOPT, *trainer["properties"]["use"]["enum"]]
    section = _chosen("trainer", names)
    section["allOf"][0]["then"] = settings
    return {"type": ["object", "null"], "if": {"type": "object"}, "then": section}


def _object(model: type[BaseModel], prefix: str, definitions: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a model; those of the models in it go to ``definitions`` under ``prefix``."""
    schema: dict[str, Any] = _plain(
        model.model_json_schema(ref_template=f"#/$defs/{prefix}{{model}}")
    )
    for name, nested in schema.pop("$defs", {}).items():
        definitions[f"{prefix}{name}"] = nested
    return schema


def _plain(schema: Any) -> Any:
    """Return a schema without the titles that pydantic makes of field names, and with references to the kinds of plugins."""
    if isinstance(schema, list):
        return [_plain(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if isinstance(schema.get("title"), str):
        schema = {key: value for key, value in schema.items() if key != "title"}
    if PART in schema:
        schema = {"$ref": f"#/$defs/{schema[PART]}", **schema}
        del schema[PART]
    named = {"properties", "$defs"}
    return {
        key: {name: _plain(part) for name, part in value.items()} if key in named else _plain(value)
        for key, value in schema.items()
    }
