"""Conformance checks of tools."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from nfilter.api.tools import (
    MOST_CHARACTERS,
    READS,
    ToolResult,
    ToolSite,
    answer_tool_call,
    tool_schema,
)
from nfilter.api.types import Sample, ToolCall
from nfilter.testing.conformance import check_class
from nfilter.testing.replay import with_own_randomness


def check_tool(
    tool: type[Any], config: Any, site: ToolSite, args: Mapping[str, Any], row: Sample | None
) -> ToolResult:
    """Call a tool twice as a model would, and refuse what would surprise one. Returns the first result.

    Raises:
        AssertionError: when the class lacks a member, the call fails, its second result is another one, the row is
            changed, the tool promises to be pure and reads the row, or its result is no JSON or too long.
    """
    check_class("tool", tool)
    name = tool.name
    reads = tool.reads(config)
    unknown = sorted(set(reads) - set(READS))
    assert not unknown, f"{name}: reads gives {unknown[0]!r}; known: {', '.join(READS)}"
    problems = list(tool.problems(config, site))
    assert not problems, f"{name}: problems gives {problems}; check_tool wants a tool that works"
    schema = json.dumps(tool_schema(tool), allow_nan=False)
    assert name in schema, f"{name}: its schema does not have its name"
    before = repr(row)
    first, again = with_own_randomness(
        name, lambda: [_called(tool, config, site, args, row) for _ in range(2)]
    )
    assert repr(row) == before, f"{name}: the row was changed in place"
    assert (first.text, first.data) == (again.text, again.data), (
        f"{name}: the same call gave another result the second time"
    )
    if "row" not in reads and not reads & {"rows", "labels"}:
        alone = _called(tool, config, site, args, None)
        assert alone.text == first.text, f"{name}: it reads the row; add 'row' to what reads gives"
    wrong = answer_tool_call(
        {name: tool(config, site)}, ToolCall(name, json.dumps({**args, "no_such": 1})), row
    )
    assert wrong.failed, f"{name}: it takes the unknown argument 'no_such'; its Args allow extra"
    return first


def _called(
    tool: type[Any], config: Any, site: ToolSite, args: Mapping[str, Any], row: Sample | None
) -> ToolResult:
    built = tool(config, site)
    result = built.call(tool.Args.model_validate_json(json.dumps(dict(args))), row)
    assert isinstance(result, ToolResult), (
        f"{tool.name}: call returned {type(result).__name__}; return ToolResult(text)"
    )
    assert len(result.text) <= MOST_CHARACTERS, (
        f"{tool.name}: a result of {len(result.text)} characters is cut; bound it in the tool"
    )
    try:
        json.dumps(result.data, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise AssertionError(f"{tool.name}: data is no JSON: {error}") from error
    return result
