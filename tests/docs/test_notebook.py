"""The notebook of the documentation: its cells run in order, and it is stored without outputs."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "docs" / "notebook.ipynb"
ROWS = 40
"""Rows in place of those that the notebook names, so that the test is quick."""


def cells(kind: str) -> list[str]:
    found = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in found if cell["cell_type"] == kind]


def run_cell(source: str, names: dict[str, Any]) -> Any:
    """Run a cell as a kernel does: the value of a last line that is an expression is the result."""
    body = ast.parse(source).body
    last = body.pop() if isinstance(body[-1], ast.Expr) else None
    exec(compile(ast.Module(body, []), str(NOTEBOOK), "exec"), names)
    if not isinstance(last, ast.Expr):
        return None
    return eval(compile(ast.Expression(last.value), str(NOTEBOOK), "eval"), names)


def test_the_cells_run_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("torch", "transformers", "faiss", "datasets"):
        pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "__main__"}
    sources = [
        re.sub(r"^(ROWS = )\d+", rf"\g<1>{ROWS}", each, flags=re.MULTILINE)
        for each in cells("code")
    ]
    ran = [run_cell(source, names) for source in sources]
    assert names["ROWS"] == ROWS
    stages, result, detection, classes, rows, reason, kept = [
        each for each in ran if each is not None
    ]
    assert (stages[0], stages[-1]) == ("robustft.neighbors", "robustft.select")
    assert "<table>" in result._repr_html_()
    assert detection["noise_rate"] == 0.5
    counted = [
        re.fullmatch(r".+: \d+ of (\d+) labels right before, \d+ of \d+ after", each)
        for each in classes
    ]
    assert sum(int(found[1]) for found in counted if found) == ROWS
    assert len(rows) == 3
    assert reason
    assert kept[0.25] < kept[0.5] < ROWS


def test_it_is_stored_without_outputs_and_as_the_format_says() -> None:
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids)
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None)


def test_its_links_and_commands_are_right() -> None:
    text = "\n".join(cells("markdown"))
    for link in re.findall(r"\]\(([^)]+)\)", text):
        assert (NOTEBOOK.parent / link).is_file(), link
