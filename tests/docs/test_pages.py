"""Every block of the pages under docs/start, docs/howto and docs/methods is done: recipes are checked, commands and Python run.

A page is one folder with the README's files, its blocks in order. A block after ``<!-- not run: why -->`` is not run; the recipes
it names are checked. A model of the hub is the embedded one here.
"""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from nfilter.registry.loading import load

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for room in ("start", "howto", "methods")
    for path in (ROOT / "docs" / room).glob("*.md")
)
SMALL = ("source.rows=24", "train.epochs=1", "evaluate.limit=10")
MODELS = ("meta-llama/Llama-3.2-3B-Instruct", "smollm2")
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
BEFORE = {"docs/howto/python.md": "nfilter init --template quickstart --out recipe.yaml"}
"""What was typed before a page's first block."""


@pytest.fixture(scope="module")
def page_blocks(blocks_of: Callable[[str], list[Any]]) -> list[Any]:
    return [block for page in PAGES for block in blocks_of(page)]


@pytest.mark.parametrize("page", PAGES)
def test_the_blocks_of_a_page_are_done(
    page: str,
    blocks_of: Callable[[str], list[Any]],
    furnish: Callable[[Path], None],
    cli: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY"):
        monkeypatch.setenv(name, "none")
    furnish(tmp_path)
    if page in BEFORE:
        command(BEFORE[page], cli, tmp_path)
        recipe = yaml.safe_load((tmp_path / "recipe.yaml").read_text())
        recipe["source"]["rows"], recipe["train"]["epochs"], recipe["arms"] = 24, 1, ["cleaned"]
        recipe["evaluate"]["limit"] = 10
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    printed = ""
    for block in blocks_of(page):
        printed += do(block, printed, cli, tmp_path)


def do(block: Any, printed: str, cli: Callable[..., Any], folder: Path) -> str:
    """Do what a block says and return what it printed."""
    match block.kind:
        case "yaml":
            recipe_block(block, cli, folder)
        case "shell":
            return "".join(command(line, cli, folder) for line in block.text.splitlines())
        case "output":
            assert [word for word in labels(block.text) if word not in printed] == []
        case "python" if file := re.search(r"`([\w-]+\.py)`:\s*$", block.after):
            (folder / file[1]).write_text(block.text)
        case "python":
            exec(compile(block.text, str(block), "exec"), {"__name__": "page"})
        case "json":
            row = json.dumps(json.loads(block.text))
            (folder / named(block, "jsonl")).write_text(f"{row}\n")
        case "shown" | "math":
            pass
        case _:
            pytest.fail(f"{block}: no test does a block of this kind")
    return ""


def named(block: Any, ending: str) -> str:
    """The file that the text before a block names last."""
    return str(re.findall(rf"([\w-]+\.{ending})\b", block.after)[-1])


def recipe_block(block: Any, cli: Callable[..., Any], folder: Path) -> None:
    """Write the recipe, or a part of one with what is missing, and check it."""
    recipe = yaml.safe_load(embedded(block.text))
    names = re.findall(r"([\w-]+\.yaml)\b", block.after)
    whole = "source" in recipe
    file = folder / (names[-1] if whole and names else "part.yaml")
    base = {
        "answer": "number",
        "models": {"student": {"use": "hf", "model": "tiny"}},
        "source": {"use": "jsonl", "path": "train.jsonl"},
        "train": {"use": "hf.lora", "model": "student"},
    }
    file.write_text(yaml.safe_dump(recipe if whole else {**base, **recipe}, sort_keys=False))
    done = cli("check", file.name, cwd=folder)
    assert done.code == 0, f"{block}: {done.err}{done.out}"


def embedded(text: str) -> str:
    for model in MODELS:
        text = re.sub(rf"(model: ){re.escape(model)}\b", r"\1tiny", text)
    return text


def labels(screen: str) -> list[str]:
    """The words at the left of the rows of a screen, and its headings."""
    rows = re.findall(r"^ {0,5}(\S.*?)(?: {2,}|$)", screen, re.MULTILINE)
    assert len(rows) >= 3
    return rows


def command(line: str, cli: Callable[..., Any], folder: Path) -> str:
    """Run a line of ``nfilter`` and return what it printed; check that a line of pip names extras that exist."""
    words = shlex.split(line, comments=True)
    if words[:1] == ["pip"]:
        extras = re.findall(r"\[([\w,]+)\]", line)
        assert set(",".join(extras).split(",")) - {""} <= set(EXTRAS), line
    if words[:1] != ["nfilter"]:
        return ""
    words = ["tiny" if word in MODELS else word for word in words[1:]]
    if "ID" in words:
        dropped = (folder / words[words.index("ID") - 1] / "dropped.jsonl").read_text()
        words[words.index("ID")] = json.loads(dropped.splitlines()[0])["id"]
    if words[0] == "run" and words[1] == "quickstart.yaml":
        words += [word for value in SMALL for word in ("--set", value)]
    done = cli(*words, cwd=folder)
    assert done.code == 0, f"{line}: {done.err}{done.out}"
    return str(done.out)


def test_equations_are_latex(page_blocks: list[Any]) -> None:
    blocks = [block for block in page_blocks if block.language == "math"]
    assert len(blocks) >= 15
    convert = pytest.importorskip("latex2mathml.converter").convert
    for block in blocks:
        for line in block.text.splitlines():
            made = convert(line, display="block")
            assert "\\" not in made, f"{block}: {line}"


def test_every_page_has_a_title() -> None:
    for page in PAGES:
        assert (ROOT / page).read_text(encoding="utf-8").startswith("# "), page


def test_the_settings_shown_with_the_methods_are_those_of_installed_plugins() -> None:
    told = " ".join(
        found
        for page in PAGES
        for found in re.findall(r"^<!-- settings: (.*) -->$", (ROOT / page).read_text(), re.MULTILINE)
    ).split()  # fmt: skip
    plugins = load(block=())
    named = [item.name for kind in ("stage", "loss") for item in plugins.of_kind(kind)]
    assert len(told) >= 30
    assert set(told) <= set(named)
    assert len(set(told)) == len(told)
