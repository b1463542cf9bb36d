"""The tools of a recipe's stages: whether each can work here, and may, and whether the models that get them can call tools."""

from __future__ import annotations

from nfilter.api.capabilities import Generates
from nfilter.api.tools import ToolSite
from nfilter.recipe.checking import Checking
from nfilter.recipe.uses import Use, model_needs, stage_tools
from nfilter.recipe.yaml_lines import Where


def check_tools(checking: Checking) -> None:
    """Check what each tool reports about its settings: a missing file, an allowance that a person has to give."""
    site = ToolSite(checking.recipe.base_dir, allow=checking.recipe.allow)
    for use in checking.uses():
        given: dict[Where, None] = {}
        for tool in stage_tools(use, checking.plugins):
            for problem in tool.item.cls.problems(tool.config, site):
                checking.fault(tool.where, problem)
            given[tool.where[:-1]] = None
        for where in given:
            _models_of(checking, use, where)


def _models_of(checking: Checking, use: Use, tools: Where) -> None:
    """Check the models that the settings beside the list ``tools`` name: those get the tools."""
    found: dict[str, None] = {}
    for need in model_needs(use.config):
        if not need.tools:
            continue
        place = (*use.where, *(int(s) if s.isdigit() else s for s in need.field.split(".")))
        model = checking.recipe.model(need.model)
        if need.capability is not Generates or place[:-1] != tools[:-1] or model is None:
            continue
        lacks = getattr(model.item.cls, "tool_problems", None)
        for problem in lacks(model.config, checking.site) if lacks else ():
            found[f"{use.name} gives tools to the model {need.model!r}: {problem}"] = None
    for fault in found:
        checking.fault(tools, fault)
