"""`nfilter new-plugin`: what it writes installs, passes its own tests, keeps this project's rules, and runs its recipe."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nfilter.api.errors import StoreError
from nfilter.cli import entry
from nfilter.testing.new_plugin import KINDS, new_plugin

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def installed(tmp_path: Path) -> dict[str, str]:
    """The environment of a process that finds the plugin as if it were installed, without installing it."""
    path = os.pathsep.join([str(tmp_path / "site"), str(tmp_path / "made")])
    return {**os.environ, "PYTHONPATH": path}


def made(tmp_path: Path, kind: str) -> Path:
    """Write it, and record it as an installer would."""
    out = tmp_path / "made"
    package = f"nfilter_my_{kind.replace('-', '_')}"
    assert entry(["new-plugin", package.replace("_", "-"), "--kind", kind, "--out", str(out)]) == 0
    info = tmp_path / "site" / f"{package}-0.1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {package.replace('_', '-')}\nVersion: 0.1.0\n"
    )
    (info / "entry_points.txt").write_text(f"[nfilter]\n{package} = {package}\n")
    return out


def ran(folder: Path, env: dict[str, str], *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning", *words],
        cwd=folder, env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.types("pytest, nfilter run recipe.yaml")
@pytest.mark.parametrize("kind", KINDS)
def test_its_tests_pass_and_its_recipe_runs(
    tmp_path: Path, installed: dict[str, str], kind: str
) -> None:
    folder = made(tmp_path, kind)
    ran(folder, installed, "-m", "pytest", "-q", "-p", "no:cacheprovider")
    ran(folder, installed, "-m", "nfilter", "run", "recipe.yaml")
    listed = ran(folder, installed, "-m", "nfilter", "plugins")
    assert "nfilter-my-" in listed


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_is_formatted_and_lint_free(tmp_path: Path, kind: str) -> None:
    pytest.importorskip("ruff")
    folder = made(tmp_path, kind)
    ruff = [sys.executable, "-m", "ruff"]
    select = ["--isolated", "--select", "E,F,I,UP,B", "--line-length", "100"]
    for words in (["check", *select], ["format", "--check", "--isolated", "--line-length", "100"]):
        done = subprocess.run(
            [*ruff, *words, "."], cwd=folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", ["Short", "../x", "a b", "1x", "class", "x/y", "é", ""])
def test_a_name_that_is_none(tmp_path: Path, name: str) -> None:
    with pytest.raises(StoreError, match=r"is no name of a distribution.*like nfilter-short"):
        new_plugin(name, "stage", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    new_plugin("nfilter-short", "stage", tmp_path / "out")


@pytest.mark.types(
    "there is no such kind; type one of: ",
    "it is there already; name another one, or give another folder with --out",
)
def test_what_it_refuses(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="type one of: stage, token-stage, backend"):
        new_plugin("short", "staeg", tmp_path / "out")
    new_plugin("short", "stage", tmp_path / "out")
    with pytest.raises(StoreError, match="is there already; name another one"):
        new_plugin("short", "stage", tmp_path / "out")
    new_plugin("short", "stage", tmp_path / "other")
