"""The tools of a recipe's stages: whether each can work here, and may."""

from __future__ import annotations

from nfilter.api.tools import ToolSite
from nfilter.recipe.checking import Checking
from nfilter.recipe.uses import stage_tools


def check_tools(checking: Checking) -> None:
    """Check what each tool reports about its settings: a missing file, an allowance that a person has to give."""
    site = ToolSite(checking.recipe.base_dir, allow=checking.recipe.allow)
    for use in checking.uses():
        for tool in stage_tools(use, checking.plugins):
            for problem in tool.item.cls.problems(tool.config, site):
                checking.fault(tool.where, problem)
