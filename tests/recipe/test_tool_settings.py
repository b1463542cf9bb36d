"""The setting ``tools:`` of a stage: names, settings, faults with their lines, models and allowances of tools."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, ClassVar

import jsonschema
import pytest
from pydantic import Field

from nfilter import (
    Contract,
    Embeds,
    Generates,
    Needs,
    RecipeError,
    Sample,
    StageConfig,
    Tools,
    ToolSite,
    ToolUse,
)
from nfilter.api.tool_settings import build_tool, tool_uses
from nfilter.engine.lookup import prompts_of, site_of
from nfilter.recipe.check import check
from nfilter.recipe.model import Recipe, load
from nfilter.recipe.schema import schema_of
from nfilter.recipe.uses import model_needs, stage_tools


class Judge(StageConfig):
    """One of several models, with tools."""

    llm: Annotated[str, Needs(Generates)] = Field(default="student", description="The model.")
    tools: Tools = Field(default=(), description="Its tools.")


class ToolsConfig(StageConfig):
    """Tools at two places."""

    tools: Tools = Field(default=(), description="The tools.")
    judges: tuple[Judge, ...] = Field(default=(), description="Several.")


class Uses:
    """A stage with tools."""

    name: ClassVar[str] = "extra.uses"
    Config: ClassVar[type[StageConfig]] = ToolsConfig

    @classmethod
    def contract(cls, config: ToolsConfig) -> Contract:
        return Contract()

    def __init__(self, config: ToolsConfig) -> None:
        self.config = config

    def process(self, chunk: Any, state: Any, ctx: Any) -> Any:
        return chunk


class PeekConfig(StageConfig):
    """A model and a number."""

    encoder: Annotated[str, Needs(Embeds)] = Field(default="encoder", description="A model.")
    k: int = Field(default=3, ge=1, description="A number.")


def tool(name: str, reads: frozenset[str] = frozenset(), problem: str = "") -> type:
    """A tool that keeps its site."""

    def build(self: Any, config: Any, site: ToolSite) -> None:
        self.config, self.site = config, site

    members = {
        "name": name,
        "description": "Looks.",
        "cost": "free",
        "Config": PeekConfig if name == "peek" else StageConfig,
        "Args": type("Args", (__import__("nfilter").ToolArgs,), {}),
        "reads": classmethod(lambda cls, config: reads),
        "problems": classmethod(lambda cls, config, site: [problem] if problem else []),
        "__init__": build,
        "call": lambda self, args, row: None,
    }
    return type("Peek", (), members)


RECIPE = """\
models:
  student: {use: example.adder}
source: {use: example.qa, path: sums.qa}
samples:
  - use: extra.uses
    tools: TOOLS
    judges:
      - tools: [plain]
      - llm: student
        tools: JUDGE
"""


@pytest.fixture
def read(folder: Callable[..., Path], catalogue: Callable[..., Any]) -> Callable[..., Recipe]:
    def build(tools: str = "[]", judge: str = "[]", problem: str = "") -> Recipe:
        text = RECIPE.replace("TOOLS", tools).replace("JUDGE", judge)
        home = folder({"r.yaml": text, "sums.qa": "1+1 => 2\n"})
        hooks = {"stages": [Uses], "tools": [tool("peek"), tool("plain", problem=problem)]}
        return load(home / "r.yaml", catalogue(**hooks))

    return build


def test_tools_are_looked_up_and_get_all_their_settings(read: Callable[..., Recipe]) -> None:
    recipe = read("[plain, {use: peek, k: 5}]", "[peek]")
    (use,) = recipe.samples
    assert use.config.tools == (
        ToolUse("plain", {}),
        ToolUse("peek", {"encoder": "encoder", "k": 5}),
    )
    found = stage_tools(use, recipe.plugins)
    assert [(each.item.name, each.where[2:]) for each in found] == [
        ("plain", ("tools", 0)),
        ("peek", ("tools", 1)),
        ("plain", ("judges", 0, "tools", 0)),
        ("peek", ("judges", 1, "tools", 0)),
    ]
    # The lock has the recipe as resolved, and is a recipe.
    dumped = json.loads(json.dumps(recipe.dump()))
    assert dumped["samples"][0]["tools"][1] == {"use": "peek", "encoder": "encoder", "k": 5}
    assert Recipe.from_dict(dumped, recipe.plugins).samples[0].config == use.config


@pytest.mark.parametrize(
    ("tools", "says"),
    [
        ("[plain, peak]", ":6: samples[0].tools[1]: unknown tool 'peak'; did you mean 'peek'?"),
        ("[{use: peek, k: 0}]", ":6: samples[0].tools[0].k: Input should be greater than or equal to 1, not 0"),
        ("[{use: peek, kk: 1}]", ":6: samples[0].tools[0].kk: unknown key 'kk'; did you mean 'k'?"),
        ("plain", ":6: samples[0].tools: a list of tools is needed, such as [calculator, {use: lookup, path: docs}], not 'plain'"),
        ("[plain, plain]", ":6: samples[0].tools: plain is named twice; a model calls a tool by its name, so keep one"),
        ("[3]", ":6: samples[0].tools[0]: the name of a tool is needed, or {use: NAME, ...}, not 3"),
        ("[{k: 3}]", ":6: samples[0].tools[0]: the name of a tool is needed, or {use: NAME, ...}, not {'k': 3}"),
    ],
)  # fmt: skip
def test_a_wrong_tool_is_a_fault_with_its_line(
    read: Callable[..., Recipe], tools: str, says: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        read(tools)
    (fault,) = caught.value.faults
    assert says in fault
    # The same inside a part of the config, in its own line.
    with pytest.raises(RecipeError) as caught:
        read("[]", tools)
    (fault,) = caught.value.faults
    assert says.replace(":6:", ":10:").replace(".tools", ".judges[1].tools") in fault


def faults(recipe: Recipe) -> list[str]:
    plugins = recipe.plugins
    return check(recipe, plugins, site_of(recipe, plugins), prompts_of(recipe, plugins)).faults


def test_the_check_knows_the_models_and_the_problems_of_tools(read: Callable[..., Recipe]) -> None:
    assert faults(read("[plain]")) == []
    (fault,) = faults(read("[plain, peek]"))
    assert ":6: samples[0].tools[1].encoder: no model 'encoder' under models" in fault
    (fault,) = faults(read("[{use: peek, encoder: student}]"))
    assert "the tool peek needs a model that embeds, and 'student' (example.adder) cannot" in fault
    found = faults(read("[plain]", problem="plain may not; type: export X=1"))
    assert [each.partition(": ")[2] for each in found] == [
        "samples[0].tools[0]: plain may not; type: export X=1",
        "samples[0].judges[0].tools[0]: plain may not; type: export X=1",
    ]


def test_models_inside_a_part_of_a_config_are_needs(read: Callable[..., Recipe]) -> None:
    (use,) = read().samples
    assert [(need.model, need.field) for need in model_needs(use.config)] == [
        ("student", "judges.0.llm"),
        ("student", "judges.1.llm"),
    ]


def test_the_schema_takes_what_a_recipe_takes(catalogue: Callable[..., Any]) -> None:
    schema = schema_of(catalogue(stages=[Uses], tools=[tool("peek"), tool("plain")]))
    recipe: dict[str, Any] = {"source": {"use": "example.qa", "path": "a"}}
    for tools, good in (
        (["plain", {"use": "peek", "k": 2}], True),
        (["peak"], False),
        ([{"use": "peek", "k": 0}], False),
        ("plain", False),
    ):
        recipe["samples"] = [{"use": "extra.uses", "tools": tools}]
        assert jsonschema.Draft202012Validator(schema).is_valid(recipe) is good


def test_a_config_made_in_python_takes_names_and_uses() -> None:
    config = ToolsConfig.model_validate({"tools": ["a", ToolUse("b", {"k": 2}), {"use": "c"}]})
    assert [use.dump() for _, use in tool_uses(config)] == [
        {"use": "a"},
        {"use": "b", "k": 2},
        {"use": "c"},
    ]


def test_a_tool_receives_the_rows_that_it_promises_to_read() -> None:
    from nfilter import Message

    row = Sample("a", (Message("user", "q"), Message("assistant", "LABEL")), {"view": "LABEL"})
    site = ToolSite(Path(), [row])

    def given(*reads: str) -> list[Sample]:
        built: Any = build_tool(tool("peek", frozenset(reads)), ToolUse("peek", {"k": 2}), site)
        assert built.config.k == 2
        return list(built.site.rows)

    assert given() == given("row") == []
    assert given("rows", "labels") == [row]
    (seen,) = given("rows")
    assert seen.query == "q"
    assert "LABEL" not in repr(seen)
