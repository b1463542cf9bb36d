"""``check`` and tools: a local model whose chat template has no tools, from the files alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import published_templates
import pytest

from nfilter import Recipe, Site
from nfilter.engine.lookup import prompts_of, site_of
from nfilter.recipe.check import check
from nfilter.recipe.model import load
from nfilter.registry.loading import load as load_plugins
from nfilter_hf.backend import HFBackend
from nfilter_hf.config import HFConfig

PLAIN = "{% for m in messages %}{{ m.content }}{% endfor %}"
WITH = PLAIN + "{% if tools %}{{ tools | tojson }}{% endif %}"

RECIPE = """\
answer: number
models:
  expert: {use: hf, model: MODEL}
  other: {use: hf, model: Qwen/Qwen3-4B}
source: {use: jsonl, path: train.jsonl}
samples:
  - {use: robustft.answer, llm: expert, into: base}
  - {use: robustft.check, views: [base]}
  - use: robustft.review
    llm: LLM
    views: [base]
    tools: [calculator]
  - use: panel.review
    reviewers:
      - {llm: expert, instructions: Compute.}
      - llm: expert
        tools: [calculator]
"""


def problems(folder: Path, **config: Any) -> list[str]:
    return list(HFBackend.tool_problems(HFConfig(model=str(folder), **config), Site(folder)))


@pytest.mark.parametrize(
    ("files", "reported"),
    [
        ({}, True),
        ({"chat_template.jinja": PLAIN}, True),
        ({"chat_template.jinja": WITH}, False),
        ({"chat_template.jinja": "{% include 'chat.jinja' %}"}, False),
        ({"tokenizer_config.json": json.dumps({"chat_template": PLAIN})}, True),
        ({"tokenizer_config.json": json.dumps({"chat_template": WITH})}, False),
        ({"tokenizer_config.json": json.dumps({"chat_template": [{"name": "default", "template": PLAIN}, {"name": "tool_use", "template": WITH}]})}, False),
        ({"chat_template.jinja": PLAIN, "additional_chat_templates/tool_use.jinja": WITH}, False),
        ({"tokenizer_config.json": "{not json"}, True),
    ],
)  # fmt: skip
def test_the_templates_of_a_folder(
    folder: Callable[..., Path], files: dict[str, str], reported: bool
) -> None:
    assert bool(problems(folder(files))) == reported


def test_a_template_that_is_ignored_has_no_tools(folder: Callable[..., Path]) -> None:
    place = folder({"chat_template.jinja": WITH})
    assert problems(place, chat_template="none")
    assert not problems(place)


def test_a_hub_model_is_not_looked_up(tmp_path: Path) -> None:
    assert not HFBackend.tool_problems(HFConfig(model="org/name"), Site(tmp_path))


PUBLISHED = {
    name: text
    for name, text in vars(published_templates).items()
    if name.isupper() and not name.startswith("_") and isinstance(text, str)
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_template_that_renders_tools_is_never_reported(
    folder: Callable[..., Path], name: str
) -> None:
    """Rendered by jinja2: whether the name of a tool stands in the prompt."""
    from transformers.utils.chat_template_utils import render_jinja_template

    tool = {"type": "function", "function": {"name": "Fun7", "description": "d", "parameters": {"type": "object", "properties": {}}}}  # fmt: skip
    try:
        (text,), _ = render_jinja_template(
            conversations=[[{"role": "user", "content": "q"}]], tools=[tool], chat_template=PUBLISHED[name],
            add_generation_prompt=True, bos_token="<s>", eos_token="</s>",
        )  # fmt: skip
    except Exception:  # noqa: BLE001 - a template may take no such turns
        text = ""
    if "Fun7" in text:
        assert not problems(folder({"chat_template.jinja": PUBLISHED[name]}))


@pytest.mark.types("such as {use: hf, model: Qwen/Qwen3-4B}, or remove 'tools'")
def test_check_names_the_line_and_both_remedies_work(folder: Callable[..., Path]) -> None:
    plugins = load_plugins()

    def faults(model: str, llm: str = "expert", without: str = "") -> list[str]:
        text = RECIPE.replace("MODEL", model).replace("LLM", llm)
        text = "".join(
            line for line in text.splitlines(keepends=True) if not without or without not in line
        )
        row = json.dumps({"prompt": "1+1?", "response": "2"})
        home = folder({"r.yaml": text, "train.jsonl": f"{row}\n"})
        recipe = load(home / "r.yaml", plugins)
        report = check(recipe, plugins, site_of(recipe, plugins), prompts_of(recipe, plugins))
        return [fault for fault in report.faults if "tools" in fault]

    first, second = faults("tiny")
    assert "r.yaml:12: samples[2].tools: robustft.review gives tools to the model 'expert'" in first
    assert "r.yaml:17: samples[3].reviewers[1].tools: panel.review gives tools" in second
    assert "the chat template of 'tiny' has no tools" in first
    assert len(faults("tiny", llm="other")) == 1
    assert faults("Qwen/Qwen3-4B") == []
    assert faults("tiny", without="tools:") == []


STAGE = """\
from typing import Annotated, ClassVar

from nfilter import Contract, Generates, Needs, StageConfig, Tools, hookimpl


class DuelConfig(StageConfig):
    left: Annotated[str, Needs(GIVEN)] = "left"
    right: Annotated[str, Needs(GIVEN)] = "right"
    tools: Tools = ()


class Duel:
    name: ClassVar[str] = "duel.judge"
    Config: ClassVar[type[StageConfig]] = DuelConfig

    @classmethod
    def contract(cls, config):
        return Contract()

    def __init__(self, config):
        self.config = config

    def process(self, chunk, state, ctx):
        return chunk


@hookimpl
def nfilter_stages():
    return (Duel,)
"""


@pytest.mark.parametrize(
    ("needs", "count"), [("Generates", 1), ("Generates, tools=False", 0)], ids=["model", "stage"]
)
def test_a_model_is_reported_once_and_not_where_the_stage_itself_calls_the_tools(
    folder: Callable[..., Path], needs: str, count: int
) -> None:
    text = """\
answer: number
models: {student: {use: hf, model: tiny}}
source: {use: jsonl, path: train.jsonl}
samples:
  - {use: duel.judge, left: student, right: student, tools: [calculator]}
"""
    row = json.dumps({"prompt": "1+1?", "response": "2"})
    stage = STAGE.replace("GIVEN", needs)
    home = folder({"r.yaml": text, "train.jsonl": f"{row}\n", "duel.py": stage})
    recipe = Recipe.load(home / "r.yaml", plugins=[home / "duel.py"])
    plugins = recipe.plugins
    report = check(recipe, plugins, site_of(recipe, plugins), prompts_of(recipe, plugins))
    assert len([fault for fault in report.faults if "gives tools" in fault]) == count
