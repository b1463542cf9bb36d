"""The Dockerfiles copy files that exist and name versions, extras and a lock that agree with pyproject.toml. They are not built here."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
FILES = ("Dockerfile", "Dockerfile.cuda")


def steps(name: str) -> list[tuple[str, str]]:
    """Instruction and arguments, with continued lines joined."""
    text = re.sub(r"\\\n", " ", (ROOT / name).read_text())
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split()[0], " ".join(line.split()[1:])) for line in lines]


def copied(name: str) -> set[str]:
    return {
        source
        for instruction, arguments in steps(name)
        if instruction == "COPY"
        for source in arguments.split()[:-1]
    }


@pytest.mark.parametrize("name", FILES)
def test_what_is_copied_exists_and_is_not_ignored(name: str) -> None:
    sources = copied(name)
    assert {path for path in sources if not (ROOT / path).exists()} == set()
    ignore = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in ignore
    assert {line[1:] for line in ignore if line.startswith("!")} == sources


@pytest.mark.parametrize("name", FILES)
def test_everything_that_the_build_reads_is_copied(name: str) -> None:
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]
    wheel = tool["build"]["targets"]["wheel"]
    needed = {path.split("/")[0] for path in [*wheel["packages"], *wheel["force-include"]]}
    needed |= {
        fragment["path"] for fragment in tool["metadata"]["hooks"]["fancy-pypi-readme"]["fragments"]
    }
    needed |= {tool["version"]["path"].split("/")[0], "pyproject.toml", *PROJECT["license-files"]}
    assert needed <= copied(name)


@pytest.mark.parametrize("name", FILES)
def test_python_and_extras_are_those_of_the_project(name: str) -> None:
    (image,) = [arguments for instruction, arguments in steps(name) if instruction == "FROM"]
    (version,) = re.findall(r"^python:(\d+\.\d+)-slim$", image)
    assert f"Programming Language :: Python :: {version}" in PROJECT["classifiers"]
    assert PROJECT["requires-python"] == f">={version}"
    (run,) = [arguments for instruction, arguments in steps(name) if instruction == "RUN"]
    extras = re.findall(r"'\.\[([\w,]+)\]'", run)
    assert extras == ["all"]
    assert set(extras) <= set(PROJECT["optional-dependencies"])
    assert run.count("--constraint constraints.txt") == 2
    assert "--build-constraint constraints.txt" in run


@pytest.mark.parametrize("name", FILES)
def test_the_image_ends_as_a_plain_user_at_the_command_line(name: str) -> None:
    last = dict(steps(name))
    assert last["USER"] == "nfilter"
    assert last["WORKDIR"] == "/data"
    assert last["ENTRYPOINT"] == '["nfilter"]'
    assert "nfilter" in PROJECT["scripts"]


def test_only_the_image_for_cpus_takes_the_builds_for_cpus() -> None:
    found = ["https://download.pytorch.org/whl/cpu" in (ROOT / name).read_text() for name in FILES]
    assert found == [True, False]
