"""The import rules hold, and each of them would notice a breach."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip(
    "importlinter", reason="the import rules are checked where the dev extra is installed"
)
ROOT = Path(__file__).resolve().parents[2]


def lint(home: Path) -> subprocess.CompletedProcess[str]:
    code = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    paths = os.pathsep.join((str(home), str(home / "plugins")))
    return subprocess.run(
        [sys.executable, "-c", code, "--no-cache"],
        capture_output=True, text=True, cwd=home, check=False, timeout=120,
        env={**os.environ, "PYTHONPATH": paths, "COLUMNS": "200", "NO_COLOR": "1"},
    )  # fmt: skip


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The sources without their data."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for name in ("nfilter", "plugins"):
        for file in (ROOT / name).rglob("*.py"):
            target = tmp_path / file.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, target)
    return tmp_path


def test_the_rules_hold() -> None:
    done = lint(ROOT)
    assert done.returncode == 0, done.stdout
    assert "6 kept, 0 broken" in done.stdout


@pytest.mark.parametrize(
    ("file", "line", "contract"),
    [
        ("nfilter/api/types.py", "import nfilter.recipe.model", "The core imports downward only"),
        ("nfilter/store/run_directory.py", "def late():\n    from nfilter.engine import run", "The core imports downward only"),
        ("nfilter/api/errors.py", "def late():\n    import nfilter.api.hookspecs", "No modules of one room import each other in a circle"),
        ("nfilter/engine/run.py", "def late():\n    import nfilter_io", "The core imports no plugin"),
        ("plugins/nfilter_hf/config.py", "import nfilter_io", "No plugin imports another"),
        ("plugins/nfilter_hf/config.py", "from nfilter.store.run_directory import digest", "Plugins import the public names of nfilter"),
        ("plugins/nfilter_io/config.py", "from nfilter import recipe", "Plugins import the public names of nfilter"),
        ("nfilter/store/run_directory.py", "def late():\n    import torch", "The core imports no model library"),
    ],
)  # fmt: skip
def test_a_breach_is_noticed(copy: Path, file: str, line: str, contract: str) -> None:
    with (copy / file).open("a") as out:
        out.write(f"\n\n{line}\n")
    done = lint(copy)
    assert done.returncode == 1
    assert any(
        contract in shown and shown.rstrip().endswith("BROKEN")
        for shown in done.stdout.splitlines()
    )


def test_a_new_module_needs_a_place_among_the_layers(copy: Path) -> None:
    (copy / "nfilter" / "somewhere.py").write_text('"""New."""\n')
    done = lint(copy)
    assert done.returncode == 1
    assert "nfilter.somewhere" in done.stdout
