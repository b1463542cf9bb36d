"""A distribution that nfilter does not know: built, installed and run as its users would."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent / "nfilter-example"
SUMS = "".join(f"{n}+1 => {n + 6 if n < 4 else n + 1} | {n + 1}\n" for n in range(10))
TEST = "".join(f"{n}+1 => {n + 1}\n" for n in range(10))


def test_it_imports_nothing_of_nfilter_but_its_public_names() -> None:
    import nfilter

    files = sorted((HERE / "src").rglob("*.py"))
    assert len(files) > 5
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                assert not [
                    alias.name for alias in node.names if alias.name.split(".")[0] == "nfilter"
                ], file
            if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] == "nfilter":
                assert node.module == "nfilter", file
                assert not {alias.name for alias in node.names} - set(nfilter.__all__), file


def test_the_wheel_carries_what_the_plugin_needs(example_dist: Path) -> None:
    package = example_dist / "nfilter_example"
    for name in ("py.typed", "prompts/example/ask.jinja", "recipes/example.yaml", "__init__.py"):
        assert (package / name).is_file()
    entry = (
        next(example_dist.glob("nfilter_example-*.dist-info")) / "entry_points.txt"
    ).read_text()
    assert entry.split() == ["[nfilter]", "nfilter_example", "=", "nfilter_example"]


def test_it_is_listed_with_where_it_comes_from(
    example_dist: Path, command: Callable[..., Any]
) -> None:
    done = command("plugins", "--json", path=[example_dist])
    assert (done.returncode, done.stderr) == (0, "")
    items = {
        item["name"]: item
        for item in json.loads(done.stdout)["plugins"]
        if item["distribution"] == "nfilter-example"
    }
    assert {name: item["kind"] for name, item in items.items()} == {
        "example.adder": "backend", "example.agree": "stage", "example.ask": "stage", "example.first": "stage",
        "example.lengths": "stage", "example.memory": "trainer", "example.qa": "source", "example_words": "metric",
    }  # fmt: skip
    assert all(item["version"] == "1.0.0" for item in items.values())
    assert (
        items["example.first"]["summary"]
        == "Takes all but the first tokens of the response out of the loss."
    )
    shown = command("plugins", "show", "example.ask", path=[example_dist])
    assert shown.returncode == 0
    for part in (
        "stage example.ask  (nfilter-example 1.0.0)",
        "llm",
        "'expert'",
        "a model that answers",
        "max_tokens",
    ):
        assert part in shown.stdout


def test_from_its_own_template_to_an_adapter(
    example_dist: Path, command: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "sums.qa").write_text(SUMS)
    (tmp_path / "test.qa").write_text(TEST)
    for arguments in (
        ("init", "--template", "example", "--out", "example.yaml"),
        ("check", "example.yaml"),
    ):
        done = command(*arguments, path=[example_dist], cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
    done = command("run", "example.yaml", "--json", path=[example_dist], cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    metrics = json.loads(done.stdout)
    assert metrics["directory"] == "runs/example"
    assert {name: arm["mean"] for name, arm in metrics["arms"].items()} == {
        "vanilla": 0.0, "raw": 0.6, "cleaned": 0.6, "truth": 1.0,
    }  # fmt: skip
    assert metrics["example_words"] == {"before": 1.0, "after": 1.0}
    run = tmp_path / "runs" / "example"
    assert len((run / "cleaned.jsonl").read_text().splitlines()) == 6
    lock = (run / "recipe.lock.yaml").read_text()
    assert "example.agree: nfilter-example 1.0.0" in lock


def test_blocked_it_is_not_there_and_the_message_says_why(
    example_dist: Path, command: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "r.yaml").write_text("source: {use: example.qa, path: x}\n")
    done = command(
        "check",
        "r.yaml",
        path=[example_dist],
        cwd=tmp_path,
        NFILTER_BLOCK_PLUGINS="nfilter_example",
    )
    assert done.returncode == 2
    assert "r.yaml:1: source.use: unknown source 'example.qa'" in done.stderr
    assert "plugin 'nfilter_example' is blocked by NFILTER_BLOCK_PLUGINS" in done.stderr


def test_a_broken_neighbour_does_it_no_harm(
    example_dist: Path, command: Callable[..., Any], tmp_path: Path
) -> None:
    site = tmp_path / "site"
    info = site / "broken_dist-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-dist\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[nfilter]\nbroken = broken_plugin\n")
    (site / "broken_plugin.py").write_text("import left_pad_that_nobody_has\n")
    (tmp_path / "sums.qa").write_text(SUMS)
    (tmp_path / "r.yaml").write_text("answer: number\nsource: {use: example.qa, path: sums.qa}\n")
    fine = command("check", "r.yaml", path=[example_dist, site], cwd=tmp_path)
    assert (fine.returncode, fine.stderr) == (0, "")
    (tmp_path / "r.yaml").write_text("source: {use: broken.source}\n")
    missed = command("check", "r.yaml", path=[example_dist, site], cwd=tmp_path)
    assert missed.returncode == 2
    assert (
        "plugin 'broken' of broken-dist did not load: ModuleNotFoundError: No module named 'left_pad_that_nobody_has'"
        in missed.stderr
    )
