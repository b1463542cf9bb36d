"""Fixtures of all tests: the example plugin, catalogues made by hand, files in a folder, golden files."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import settings

from tests.made_plugins import FakePoint, make_module, make_point

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
EXAMPLE = TESTS / "dist" / "nfilter-example"
JUDGES = TESTS / "dist" / "nfilter-judges"

# The example plugins are imported from their sources here; tests/dist installs them for real.
sys.path[:0] = [str(EXAMPLE / "src"), str(JUDGES / "src")]

# Every run uses the same examples, so that a failure is due to the change; `make fuzz` draws new ones.
# No example has a deadline: the time that it takes depends on the machine.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.register_profile("fuzz", derandomize=False, deadline=None, print_blob=True)
settings.load_profile("repeatable")


def pytest_make_parametrize_id(config: pytest.Config, val: object, argname: str) -> str | None:
    """Bytes are named by their argument: a compressed file has the time in it, and the names of tests may not."""
    return argname if isinstance(val, bytes) else None


@pytest.fixture
def point() -> Callable[..., FakePoint]:
    return make_point


@pytest.fixture
def module() -> Callable[..., ModuleType]:
    return make_module


@pytest.fixture
def catalogue() -> Callable[..., Any]:
    """``catalogue(stages=[...], ...)`` returns the example plugin and a plugin with the given components."""
    from nfilter.registry.loading import load

    def build(**hooks: Any) -> Any:
        points = [
            make_point(
                "nfilter_example", importlib.import_module("nfilter_example"), "nfilter-example"
            )
        ]
        if hooks:
            points.append(make_point("extra", make_module("extra", **hooks), "extra"))
        plugins = load(points, ())
        assert plugins.failed == ()
        return plugins

    return build


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    """``folder({"a.yaml": TEXT})`` writes files in a temporary folder and returns it."""

    def write(files: Mapping[str, str]) -> Path:
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return tmp_path

    return write


@pytest.fixture
def golden() -> Callable[[str, str], None]:
    """``golden("errors/x.txt", TEXT)`` asserts that the file has this text; NFILTER_UPDATE_GOLDEN=1 writes it."""

    def compare(name: str, text: str) -> None:
        path = TESTS / "golden" / name
        if os.environ.get("NFILTER_UPDATE_GOLDEN") == "1":
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        assert path.is_file(), f"{path} is missing; NFILTER_UPDATE_GOLDEN=1 writes it"
        assert text == path.read_text(encoding="utf-8")

    return compare


@pytest.fixture(scope="session")
def example_dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder in which the example distribution is installed by pip from its wheel, without network."""
    return _installed(EXAMPLE, tmp_path_factory.mktemp("example"))


@pytest.fixture(scope="session")
def judges_dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the distribution with its own capabilities, installed in the same way."""
    return _installed(JUDGES, tmp_path_factory.mktemp("judges"))


def _installed(distribution: Path, base: Path) -> Path:
    import shutil
    import subprocess

    source, target = base / "source", base / "site"
    shutil.copytree(
        distribution, source, ignore=shutil.ignore_patterns("__pycache__", "dist", "build")
    )
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "--no-input"]
    offline = ["--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "wheel", *offline, "-w", str(base / "wheels"), str(source)], check=True)
    (wheel,) = (base / "wheels").glob("*.whl")
    subprocess.run([*pip, "install", *offline, "--target", str(target), str(wheel)], check=True)
    return target


@pytest.fixture
def command() -> Callable[..., Any]:
    """``command("check", FILE, path=[DIR])`` runs the command line in a new process."""
    import subprocess

    def call(
        *args: str, path: Iterable[Path] = (), cwd: Path | None = None, **env: str
    ) -> subprocess.CompletedProcess[str]:
        roots = [
            *map(str, path),
            str(ROOT),
            str(ROOT / "plugins"),
            os.environ.get("PYTHONPATH", ""),
        ]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, roots)),
            "COLUMNS": "200",
            **env,
        }
        return subprocess.run(
            [sys.executable, "-m", "nfilter", *args],
            capture_output=True,
            text=True,
            cwd=cwd,
            env=environment,
            check=False,
            timeout=120,
        )

    return call
