"""The reference page of the hooks: each hook's docstring, and an example from a plugin that uses all of them."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from nfilter.api import hookspecs
from nfilter.api.events import RunFinished, RunStarted, StageFinished
from nfilter.api.hookspecs import REGISTRATIONS
from site_pages.markdown import doc, prose

INTRODUCTION: Final = (
    "This page is made from the code of the installed version. A plugin is a module that is registered under the entry-point "
    "group `nfilter`; [contributing](../contributing.md) has a complete one. Hooks register things and observe things: none changes "
    "data, and the order of steps is in the recipe alone. The examples are one plugin that uses every hook, the file `house.py`, loaded "
    "with `--plugin house.py`; below each is its use. The file begins with:"
)
EXAMPLE: Final = Path(__file__).parent / "example_plugin.py"
USES: Final[Mapping[str, tuple[str, str]]] = {
    "nfilter_stages": (
        "yaml",
        "samples:\n  - {use: example.ask, llm: adder, prompt: house/ask, into: view}\n  - {use: example.agree, view: view}",
    ),
    "nfilter_backends": ("yaml", "models: {adder: {use: example.adder}}"),
    "nfilter_trainers": ("yaml", "train: {use: example.memory, model: adder}"),
    "nfilter_sources": ("yaml", "source: {use: example.qa, path: sums.qa, truth: true}"),
    "nfilter_exporters": (
        "",
        "nfilter export runs/house --format house.lines --out exported --plugin house.py",
    ),
    "nfilter_metrics": ("json", '{"example_words": {"before": 1.0, "after": 1.0}}'),
    "nfilter_losses": (
        "yaml",
        "train: {use: hf.lora, model: student, loss: {use: house.flat, weight: 0.5}}",
    ),
    "nfilter_tools": (
        "python",
        """\
tool = Count(StageConfig(), ToolSite(HERE))
call = nfilter.ToolCall("house_count", '{"text": "one two"}')
result = nfilter.answer_tool_call({tool.name: tool}, call, None)
assert result.text.split() == ["2", "words"]""",
    ),
    "nfilter_executors": ("yaml", "executor: {use: house.here}"),
    "nfilter_models": ("yaml", "models: {student: {use: hf, model: house}}"),
    "nfilter_prompts": ("jinja", "{# variables: query #}\n[user]\nHow many are {{ query }}?"),
    "nfilter_recipes": ("", "nfilter init --template house --out mine.yaml --plugin house.py"),
    "nfilter_run_started": ("text", "started house with seed 0"),
    "nfilter_stage_finished": ("text", "02-example.agree: kept 1, dropped 1, 0.0 s"),
    "nfilter_run_finished": ("text", "finished house with 1 rows"),
}
"""What uses the example of a hook, or what the example writes, by the name of the hook: the language of a block, and its text."""
_ABOVE: Final[Mapping[str, str]] = {
    "": "The command that uses it:",
    "yaml": "In a recipe:",
    "python": "From Python:",
    "json": "In metrics.json of a run:",
    "jinja": "The template `prompts/house/ask.jinja` beside the file:",
    "text": "It writes:",
}


def hook_names() -> list[str]:
    """Return the names of all hooks, in the order of the source."""
    return [name for name in vars(hookspecs) if name.startswith("nfilter_")]


def hooks_page() -> str:
    """Every hook with one example."""
    parts = [
        "# Hooks",
        INTRODUCTION,
        f"```python\n{_preamble()}\n```",
    ]
    examples = _examples()
    for name in hook_names():
        hook: Any = getattr(hookspecs, name)
        kind = REGISTRATIONS.get(name)
        note = f"Registers classes of the kind {kind}." if kind else ""
        language, use = USES[name]
        parts += [f"## {name}", doc(hook), prose(note), f"```python\n{examples[name]}\n```"]
        parts += [_ABOVE[language], f"```{language}\n{use}\n```"]
    for event in (RunStarted, StageFinished, RunFinished):
        fields = ", ".join(f"`{field}`" for field in inspect.signature(event).parameters)
        parts += [f"## {event.__name__}", doc(event), f"Fields: {fields}."]
    return "\n\n".join(part for part in parts if part) + "\n"


def _tree() -> tuple[str, list[ast.stmt]]:
    text = EXAMPLE.read_text(encoding="utf-8")
    return text, ast.parse(text).body


def _preamble() -> str:
    """Return the imports and values before the first hook of the example, without the docstring of the module."""
    text, body = _tree()
    first = next(node for node in body if isinstance(node, ast.FunctionDef))
    lines = text.splitlines()
    begin = (body[0].end_lineno or 0) + 1
    return "\n".join(lines[begin : _start(first) - 1]).strip()


def _examples() -> dict[str, str]:
    """Return the source of every function of the example by its name, with its decorator and the classes before it."""
    text, body = _tree()
    lines = text.splitlines()
    found = {}
    classes: list[ast.ClassDef] = []
    for node in body:
        if isinstance(node, ast.ClassDef):
            classes.append(node)
        elif isinstance(node, ast.FunctionDef):
            begin = classes[0].lineno if classes else _start(node)
            found[node.name] = "\n".join(lines[begin - 1 : node.end_lineno])
            classes = []
    return found


def _start(function: ast.FunctionDef) -> int:
    """Return the first line of a function, with its decorators."""
    return min([function.lineno, *(each.lineno for each in function.decorator_list)])
