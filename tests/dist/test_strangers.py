"""Distributions of strangers beside ours: slow ones, broken ones, and two with one name, as users meet them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

PLUGIN = """
from pathlib import Path
import heavy_library
import nfilter

with Path(__file__).with_suffix(".imports").open("a") as file:
    file.write("imported\\n")

class Stage:
    name = "{name}"
    Config = nfilter.StageConfig
    def __init__(self, config): ...
    @classmethod
    def contract(cls, config): return nfilter.Contract()
    def process(self, chunk, state, ctx): return chunk

@nfilter.hookimpl
def nfilter_stages():
    return {returns}
"""
RULES = "source: {use: jsonl, path: rows.jsonl}\nsamples:\n  - {use: entp.purge}\n"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder for distributions, with a library whose import takes 100 s by the clock, and a recipe beside it."""
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "heavy_library.py").write_text("import time\nreal = time.perf_counter\ntime.perf_counter = lambda: real() + 100\n")
    row = {"prompt": "What is a heron?", "response": "A wading bird with long legs."}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    (tmp_path / "rules.yaml").write_text(RULES)
    return folder


def install(
    site: Path, package: str, *, name: str, heavy: bool = False, returns: str = "(Stage,)"
) -> None:
    text = PLUGIN.format(name=name, returns=returns)
    (site / f"{package}.py").write_text(text if heavy else text.replace("import heavy_library\n", ""))
    info = site / f"{package}_dist-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}-dist\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[nfilter]\n{package} = {package}\n")


def imports(site: Path, package: str) -> int:
    file = site / f"{package}.imports"
    return len(file.read_text().splitlines()) if file.is_file() else 0


def test_a_slow_stranger_is_imported_for_who_needs_it_and_named(
    site: Path, command: Callable[..., Any], tmp_path: Path
) -> None:
    install(site, "slow", name="slow.stage", heavy=True)
    for arguments in (("--help",), ("check", "rules.yaml"), ("run", "rules.yaml", "--quiet")):
        done = command(*arguments, path=[site], cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
    assert imports(site, "slow") == 0
    listed = command("plugins", "--json", path=[site], cwd=tmp_path)
    assert imports(site, "slow") == 1
    assert "slow.stage" in [item["name"] for item in json.loads(listed.stdout)["plugins"]]
    assert listed.stderr.startswith("note: plugin 'slow' of slow-dist took 10")
    assert f"at top level it imports heavy_library ({site.name}/slow.py:3)" in listed.stderr
    # The remedy that is named.
    text = (site / "slow.py").read_text()
    work = "    def process(self, chunk, state, ctx):"
    mended = text.replace("import heavy_library\n", "").replace(
        work, f"{work}\n        import heavy_library\n       "
    )
    (site / "slow.py").write_text(mended)
    again = command("plugins", "--json", path=[site], cwd=tmp_path)
    assert (again.returncode, again.stderr) == (0, "")
    assert again.stdout == listed.stdout


def test_a_recipe_that_names_the_slow_stranger_imports_it_once(
    site: Path, command: Callable[..., Any], tmp_path: Path
) -> None:
    install(site, "slow", name="slow.stage", heavy=True)
    install(site, "fast", name="fast.stage")
    (tmp_path / "rules.yaml").write_text(RULES + "  - {use: slow.stage}\n")
    done = command("check", "rules.yaml", path=[site], cwd=tmp_path)
    assert done.returncode == 0
    assert "note: plugin 'slow' of slow-dist took " in done.stderr
    assert (imports(site, "slow"), imports(site, "fast")) == (1, 0)


@pytest.mark.types("is registered twice: by «»; uninstall one«»", ", or block it: «»=«»")
def test_a_clash_of_strangers_ends_only_who_uses_the_name(
    site: Path, command: Callable[..., Any], tmp_path: Path
) -> None:
    for package in ("one", "two"):
        install(site, package, name="shared.stage")
    for arguments in (("check", "rules.yaml"), ("plugins",), ("plugins", "show", "entp.purge")):
        done = command(*arguments, path=[site], cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
    listed = command("plugins", path=[site], cwd=tmp_path).stdout
    both = "stage 'shared.stage' is registered twice: by 'one' of one-dist 1.0 and by 'two' of two-dist 1.0; uninstall one"
    assert f"clash: {both}" in listed
    (tmp_path / "rules.yaml").write_text(RULES + "  - {use: shared.stage}\n")
    done = command("check", "rules.yaml", path=[site], cwd=tmp_path)
    assert done.returncode == 2
    assert f"rules.yaml:4: samples[1].use: {both}, or block it: NFILTER_BLOCK_PLUGINS=two" in done.stderr
    shown = command("plugins", "show", "shared.stage", path=[site], cwd=tmp_path)
    assert shown.returncode == 3
    assert both in shown.stderr
    done = command("check", "rules.yaml", path=[site], cwd=tmp_path, NFILTER_BLOCK_PLUGINS="two")
    assert (done.returncode, done.stderr) == (0, "")


def test_what_a_stranger_raises_outside_of_a_run_names_it(
    site: Path, command: Callable[..., Any], tmp_path: Path
) -> None:
    install(site, "raises", name="raises.stage")
    file = site / "raises.py"
    source = file.read_text().replace("return nfilter.Contract()", "return 1 // 0")
    source = source.replace("nfilter_stages", "nfilter_sources").replace("raises.stage", "raises")
    source += """
Stage.problems = classmethod(lambda cls, config, base_dir: 1 // 0)
Stage.columns = classmethod(lambda cls, config, base_dir: {})
Stage.__init__ = lambda self, config, base_dir: None
Stage.read = lambda self: [{"prompt": "x"}]
Stage.restore = lambda self, sample: {}
"""
    file.write_text(source)
    (tmp_path / "rules.yaml").write_text("source: {use: raises}\n")
    done = command("check", "rules.yaml", path=[site], cwd=tmp_path)
    assert done.returncode == 3
    assert (
        "plugin 'raises' of raises-dist 1.0 raised ZeroDivisionError: integer division or modulo by zero at "
        f"{file}:{len(source.splitlines()) - 4} (check). The error is in the plugin" in done.stderr
    )
    file.write_text(source.replace("base_dir: 1 // 0", "base_dir: ()"))
    (tmp_path / "rules.yaml").write_text(
        "source: {use: raises}\nmodels: {student: {use: hf, model: tiny}}\n"
    )
    for verb in ("check", "run", "lint", "plan"):
        done = command(verb, "rules.yaml", path=[site], cwd=tmp_path)
        assert done.returncode == 3, done.stderr
        assert "source 'raises': read gave {'prompt': 'x'} as row 1; write yield Row(Sample(" in done.stderr


def test_a_stranger_with_an_instance_for_a_class_breaks_nothing_else(
    site: Path, command: Callable[..., Any], tmp_path: Path
) -> None:
    install(site, "wrong", name="wrong", returns="(Stage, Stage(None))")
    done = command("check", "rules.yaml", path=[site], cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    (tmp_path / "rules.yaml").write_text(RULES + "  - {use: wrong.stage}\n")
    done = command("check", "rules.yaml", path=[site], cwd=tmp_path)
    assert done.returncode == 2
    for part in (
        "unknown stage 'wrong.stage'",
        "plugin 'wrong' of wrong-dist did not load: its classes cannot be used:",
        "nfilter_stages: wrong.Stage: the name of a stage has the form plugin.stage",
        "is no class; return the class itself, Stage, not Stage(...)",
    ):
        assert part in done.stderr
