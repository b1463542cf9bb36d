"""What is said where a package of an extra is not installed, and what works without any of them."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXTRAS = {
    "aiohttp", "litellm", "faiss", "peft", "safetensors", "sklearn", "sentence_transformers", "torch", "transformers",
    "tokenizers", "pyarrow", "datasets", "huggingface_hub", "accelerate", "vllm", "sglang",
}  # fmt: skip
# Python imports this by itself at its start: nothing finds the packages that are named.
HIDE = f"""\
import sys
HIDDEN = {sorted(EXTRAS)!r}
class Hiding:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in HIDDEN:
            return None
        return self.finder.find_spec(name, path, target)
    def __getattr__(self, name):
        return getattr(self.finder, name)
sys.meta_path[:] = [Hiding(finder) for finder in sys.meta_path]
"""
ROWS = [
    {"prompt": f"What is {n} plus {n}?", "response": f"The sum of both is {n + n}."}
    for n in range(9)
]
SAMPLES = "name: x\nanswer: exact\nsource: {use: jsonl, path: rows.jsonl}\narms: []\n"
NAMED = {
    "local model": (
        SAMPLES.replace("arms: []", "arms: [cleaned]") + "models: {m: {use: hf, model: org/name}}\n"
        "samples:\n  - {use: robustft.answer, llm: m, into: base}\n"
        "encode: {model: m}\ntrain: {use: hf.lora, model: m}\n",
        ["hf needs the package torch", "hf needs the package transformers", "pip install 'nfilter[local]'"],
    ),
    "vLLM": (
        SAMPLES + "models: {m: {use: vllm, model: org/name}}\n"
        "samples:\n  - {use: robustft.answer, llm: m, into: base}\n",
        ["vllm needs the package vllm", "pip install 'nfilter[vllm]'"],
    ),
    "SGLang": (
        SAMPLES + "models: {m: {use: sglang, model: org/name}}\n"
        "samples:\n  - {use: robustft.answer, llm: m, into: base}\n",
        ["sglang needs the package sglang", "pip install 'nfilter[sglang]'"],
    ),
    "API over aiohttp": (
        SAMPLES + 'models: {m: {use: litellm, model: x, api_base: "http://localhost:1/v1"}}\n'
        "samples:\n  - {use: robustft.answer, llm: m, into: base}\n",
        ["litellm needs the package aiohttp", "pip install 'nfilter[api]'"],
    ),
    "API over litellm": (
        SAMPLES + "models: {m: {use: litellm, model: anthropic/claude-sonnet-4-5}}\n"
        "samples:\n  - {use: robustft.answer, llm: m, into: base}\n",
        ["litellm needs the package litellm", "pip install 'nfilter[api]'"],
    ),
    "encoder and index": (
        SAMPLES + "models: {e: {use: sentence-transformers, model: a/b}}\n"
        "samples:\n  - {use: robustft.neighbors, encoder: e, into: near}\n",
        [
            "sentence-transformers needs the package sentence_transformers",
            "robustft.neighbors needs the package faiss",
            "pip install 'nfilter[local]'",
        ],
    ),
    "parquet": (
        SAMPLES.replace("use: jsonl, path: rows.jsonl", "use: parquet, path: rows.parquet")
        + "samples:\n  - {use: entp.purge}\n",
        ["Parquet needs the package pyarrow", "pip install 'nfilter[parquet]'"],
    ),
}  # fmt: skip


@pytest.fixture
def bare(folder: Callable[..., Path], command: Callable[..., Any]) -> Callable[..., Any]:
    """``bare("check", "r.yaml", **files)``: the command line where no package of an extra is found."""

    def call(*args: str, **files: str) -> Any:
        rows = "".join(json.dumps(row) + "\n" for row in ROWS)
        place = folder({"hide/sitecustomize.py": HIDE, "rows.jsonl": rows, **files})
        return command(*args, path=[place / "hide"], cwd=place)

    return call


@pytest.mark.parametrize("case", NAMED)
def test_check_names_the_line_that_installs_what_is_missing(
    bare: Callable[..., Any], case: str
) -> None:
    recipe, wanted = NAMED[case]
    done = bare("check", "r.yaml", **{"r.yaml": recipe, "rows.parquet": "PAR1"})
    assert done.returncode in (2, 4), done.stderr
    assert "Traceback" not in done.stderr
    for text in wanted:
        assert text in done.stderr


def test_rules_alone_need_no_extra(bare: Callable[..., Any], tmp_path: Path) -> None:
    recipe = SAMPLES + "samples:\n  - {use: entp.purge}\n"
    done = bare("run", "r.yaml", "--out", "run", **{"r.yaml": recipe})
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "run" / "cleaned.jsonl").read_text().splitlines()) == len(ROWS)


def test_every_extra_that_an_error_names_exists() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    named = {
        part.partition("nfilter[")[2].partition("]")[0]
        for _, texts in NAMED.values()
        for part in texts
        if "nfilter[" in part
    }
    assert named <= set(extras)
    light = " ".join(project["dependencies"])
    assert not [
        name for name in ("torch", "litellm", "faiss", "sentence-transformers") if name in light
    ]


def test_the_lock_holds_every_requirement_at_a_version_that_fits() -> None:
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    locked = {
        canonicalize_name(name): version
        for name, _, version in (pin.partition("==") for pin in pins)
    }
    assert all("==" in pin and "/" not in pin and ":" not in pin for pin in pins)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    needed = [*project["project"]["dependencies"], *project["build-system"]["requires"]]
    for extra in ("local", "api", "parquet", "datasets", "evidence", "test", "dev"):
        needed += project["project"]["optional-dependencies"][extra]
    for text in needed:
        requirement = Requirement(text)
        name = canonicalize_name(requirement.name)
        if name != "nfilter":
            assert requirement.specifier.contains(locked[name]), text
