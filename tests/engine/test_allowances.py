"""``--allow programs``: what a person allows reaches the tools of a run, and no recipe can allow it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import nfilter
from nfilter import Recipe, RecipeError
from nfilter.api.tools import ALLOWANCES
from nfilter.cli import entry

PLUGIN = """
import nfilter

class Args(nfilter.ToolArgs):
    "None."

class Tool:
    "Tells whether programs may run."
    name = "peek"
    description = "Tells whether programs may run."
    cost = "free"
    Config = nfilter.StageConfig
    Args = Args
    @classmethod
    def reads(cls, config): return frozenset()
    @classmethod
    def problems(cls, config, site):
        return () if site.allows("programs") else ("peek: type --allow programs",)
    def __init__(self, config, site): self.site = site
    def call(self, args, row): return nfilter.ToolResult(str(self.site.allows("programs")))

class Config(nfilter.StageConfig):
    tools: nfilter.Tools = ()

class Stage:
    "Writes what the tool tells."
    name = "my.peek"
    Config = Config
    def __init__(self, config): self.config = config
    @classmethod
    def contract(cls, config): return nfilter.Contract(writes=frozenset({"allowed"}))
    def process(self, chunk, state, ctx):
        told = ctx.tools(self.config.tools)["peek"].call(Args(), None).text
        return [sample.note("allowed", told).keep(told) for sample in chunk]

@nfilter.hookimpl
def nfilter_stages(): return (Stage,)
@nfilter.hookimpl
def nfilter_tools(): return (Tool,)
"""
RECIPE = (
    "name: mine\nsource: {use: jsonl, path: rows.jsonl}\nsamples: [{use: my.peek, tools: [peek]}]\n"
)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NFILTER_ALLOW_PROGRAMS", raising=False)
    Path("rows.jsonl").write_text(json.dumps({"id": "a", "prompt": "?", "response": "b"}) + "\n")
    Path("r.yaml").write_text(RECIPE)
    Path("my.py").write_text(PLUGIN)
    yield tmp_path
    sys.modules.pop("nfilter_file_my", None)


def test_a_person_allows_it_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    given = ["r.yaml", "--plugin", "my.py"]
    for command in ("check", "run"):
        assert entry([command, *given]) == 2
        assert (
            "r.yaml:3: samples[0].tools[0]: peek: type --allow programs\n"
            in capsys.readouterr().err
        )
    assert entry(["check", *given, "--allow", "programs"]) == 0
    assert "`nfilter run r.yaml --allow programs --plugin my.py` runs" in capsys.readouterr().out
    assert entry(["run", *given, "--allow", "programs", "--quiet"]) == 0
    capsys.readouterr()
    assert entry(["explain", "runs/mine", "a"]) == 0
    assert "True" in capsys.readouterr().out


def test_a_person_allows_it_in_python_and_in_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe = Recipe.load("r.yaml", plugins=["my.py"], allow=["programs"])
    assert recipe.allow == {"programs"}
    assert recipe.override("seed", 1).allow == {"programs"}
    nfilter.run(recipe, out="out")
    closed = Recipe.load("r.yaml", plugins=["my.py"])
    assert closed.allow == frozenset()
    with pytest.raises(RecipeError, match="type --allow programs"):
        nfilter.run(closed, out="out")
    monkeypatch.setenv("NFILTER_ALLOW_PROGRAMS", "1")
    nfilter.run(closed, out="out")


@pytest.mark.types("nothing is allowed by this name; type --allow «»")
def test_what_is_no_allowance_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    given = ["check", "r.yaml", "--plugin", "my.py", "--allow"]
    assert entry([*given, "disks"]) == 2
    assert capsys.readouterr().err == (
        "error: --allow disks: nothing is allowed by this name; type --allow programs\n"
    )
    for name in ALLOWANCES:
        assert entry([*given, name]) == 0


@pytest.mark.parametrize("key", ["allow: [programs]", "lock: {allow: [programs]}"])
def test_no_recipe_allows_it(capsys: pytest.CaptureFixture[str], key: str) -> None:
    Path("r.yaml").write_text(f"{RECIPE}{key}\n")
    assert entry(["run", "r.yaml", "--plugin", "my.py"]) == 2
    said = capsys.readouterr().err
    assert "unknown section" in said or "peek: type --allow programs" in said
