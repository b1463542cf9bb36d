"""Every block of the documents is one that a test does; what they name is there; the plugin shown is a plugin."""

from __future__ import annotations

import json
import re
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nfilter.api.types import Message, Sample
from nfilter.recipe.model import SECTIONS
from nfilter.testing import FakeContext, check_sample_stage

ROOT = Path(__file__).resolve().parents[2]
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_every_block_is_of_a_kind_that_is_tested(blocks: list[Any]) -> None:
    assert [str(block) for block in blocks if block.kind is None] == []
    assert len(blocks) >= 9
    kinds = {(block.document, block.kind) for block in blocks if block.kind != "shell"}
    # What is done with the others: test_readme.py (shell, screen), and below (python, toml, diagram).
    assert kinds - {("README.md", "screen")} == {
        ("CONTRIBUTING.md", "python"), ("CONTRIBUTING.md", "toml"),
        ("docs/architecture.md", "diagram"), ("docs/view.md", "shown"),
    }  # fmt: skip
    shells = {block.document for block in blocks if block.kind == "shell"}
    assert shells == {"README.md", "CONTRIBUTING.md"}


def test_every_make_target_named_is_one(blocks: list[Any]) -> None:
    lines = [
        line.split("#")[0]
        for block in blocks
        if block.kind == "shell"
        for line in block.text.splitlines()
        if line.startswith("make ")
    ]
    named = {word for line in lines for word in line.split()[1:]}
    assert named >= {"demo", "test", "lint", "types", "imports"}
    assert named <= TARGETS


def test_pip_installs_what_the_makefile_installs(blocks: list[Any]) -> None:
    (line,) = {
        line
        for block in blocks
        if block.kind == "shell"
        for line in block.text.splitlines()
        if line.startswith("pip ")
    }
    assert line == "pip install '.[all]'"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "all" in project["project"]["optional-dependencies"]
    assert project["project"]["name"] == "nfilter"
    assert project["project"]["scripts"] == {"nfilter": "nfilter.cli:script"}


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", "docs/architecture.md"])
def test_every_link_leads_to_a_file(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        if "://" not in target:
            assert (ROOT / document).parent.joinpath(target).exists(), target


def test_the_diagram_is_the_order_of_a_recipes_sections(blocks: list[Any]) -> None:
    (diagram,) = [block for block in blocks if block.kind == "diagram"]
    steps = diagram.text.splitlines()[0].split(" -> ")
    assert steps == [name for name in SECTIONS if name in steps]
    assert len(steps) == 7


def test_the_rooms_are_all_there_and_all_named() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = text.split("## Rooms")[1].split("\n## ")[0]
    named = {
        name.rstrip("/")
        for row in re.findall(r"^\| (`[^|]*)\|", table, re.MULTILINE)
        for name in re.findall(r"`(.*?)`", row)
    }
    assert {name for name in named if not (ROOT / name).exists()} == set()
    core = {
        f"nfilter/{path.name}"
        for path in (ROOT / "nfilter").iterdir()
        if path.suffix == ".py" or path.is_dir()
    }
    methods = {f"plugins/{path.name}" for path in (ROOT / "plugins").iterdir() if path.is_dir()}
    small = {
        f"nfilter/{name}" for name in ("__init__.py", "__main__.py", "progress.py", "__pycache__")
    }
    assert (core | methods) - small - named == set()


def test_every_file_of_the_core_has_a_line_in_its_room() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    files = text.split("### Files of the core")[1].split("\n## ")[0]
    told: dict[str, list[str]] = {}
    for room, name in re.findall(r"^`(nfilter/\S*)`$|^- `(\w+\.py)`: \S", files, re.MULTILINE):
        if room:
            told[room] = names = []
        else:
            names.append(name)
    there: dict[str, list[str]] = {}
    for path in sorted((ROOT / "nfilter").rglob("*.py")):
        if not path.name.startswith("__"):
            room = f"{path.parent.relative_to(ROOT).as_posix()}/"
            there.setdefault(room, []).append(path.name)
    assert {room: sorted(names) for room, names in told.items()} == there


@pytest.fixture
def contributing(blocks: list[Any]) -> dict[str, str]:
    """The first block of each kind: the plugin and its entry point."""
    own = [block for block in blocks if block.document == "CONTRIBUTING.md"]
    return {block.kind: block.text for block in reversed(own)}


@pytest.fixture
def installed(contributing: dict[str, str], tmp_path: Path) -> Path:
    """The module of the guide with the entry point of the guide, laid out as pip leaves a distribution."""
    site = tmp_path / "site"
    info = site / "my_plugin-1.0.dist-info"
    info.mkdir(parents=True)
    points = tomllib.loads(contributing["toml"])["project"]["entry-points"]
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "".join(
            f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in named.items())
            for group, named in points.items()
        )
    )
    (site / "my_plugin.py").write_text(contributing["python"])
    return site


def test_the_plugin_of_the_guide_works_in_a_recipe(
    installed: Path, command: Callable[..., Any], tmp_path: Path
) -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (line,) = re.findall(r"`(- \{use: [^`]+\})`", text)
    texts = ["yes", "a long one", "four", "fives", ""]
    (tmp_path / "rows.jsonl").write_text(
        "".join(
            json.dumps({"id": str(index), "prompt": f"question {index}", "response": response})
            + "\n"
            for index, response in enumerate(texts)
        )
    )
    recipe = f"answer: exact\nsource: {{use: jsonl, path: rows.jsonl}}\nsamples:\n  {line}\n"
    (tmp_path / "mine.yaml").write_text(recipe)
    done = command("run", "mine.yaml", "--json", path=[installed], cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    run = tmp_path / "runs" / "mine"
    kept = [json.loads(row)["id"] for row in (run / "cleaned.jsonl").read_text().splitlines()]
    dropped = [json.loads(row) for row in (run / "dropped.jsonl").read_text().splitlines()]
    reasons = {row["id"]: row["reason"] for row in dropped}
    readable = {str(index): len(response) for index, response in enumerate(texts) if response}
    assert set(kept) == {key for key, size in readable.items() if size >= 5}
    for key, size in readable.items():
        if size < 5:
            assert reasons[key] == f"the response has {size} characters, fewer than 5"
    shown = command("plugins", "show", "example.short", path=[installed], cwd=tmp_path)
    assert shown.returncode == 0
    assert "my-plugin 1.0" in shown.stdout
    assert re.search(r"least\s+int\s", shown.stdout)


def test_the_plugin_of_the_guide_passes_the_check_that_the_guide_names(
    contributing: dict[str, str],
) -> None:
    module: dict[str, Any] = {"__name__": "my_plugin"}
    exec(compile(contributing["python"], "CONTRIBUTING.md", "exec"), module)
    (stage,) = module["nfilter_stages"]()
    samples = [
        Sample(str(size), (Message("user", "q"), Message("assistant", "x" * size)))
        for size in range(1, 6)
    ]
    out = check_sample_stage(stage, stage.Config(least=4), samples, FakeContext())
    assert [sample.id for sample in out if sample.dropped] == ["1", "2", "3"]


def test_the_tests_of_the_guide_pass(
    blocks: list[Any], installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(installed))
    guide = [b for b in blocks if b.document == "CONTRIBUTING.md" and b.kind == "python"]
    names = []
    for block in guide[1:]:
        module: dict[str, Any] = {"__name__": "test_guide"}
        exec(compile(block.text, "CONTRIBUTING.md", "exec", dont_inherit=True), module)
        for name, function in module.items():
            if name.startswith("test_"):
                names.append(name)
                (tmp_path / name).mkdir()
                takes = "tmp_path" in function.__code__.co_varnames[: function.__code__.co_argcount]
                function(*([tmp_path / name] if takes else []))
    monkeypatch.delitem(sys.modules, "my_plugin")
    assert len(names) == 9


def test_the_names_in_the_guide_are_there() -> None:
    import nfilter.testing

    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    tail = prose.split("`nfilter.testing`: ")[1].split("\n\n")[0]
    helpers = re.findall(r"`(\w+)`", tail)
    assert {"FakeContext", "FakeGenerator", "check_sample_stage"} < set(helpers)
    assert set(helpers) <= set(nfilter.testing.__all__)
    for folder in re.findall(r"`(tests/[\w/]+)`", prose):
        assert (ROOT / folder).is_dir()
