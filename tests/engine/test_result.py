"""``nfilter.run`` and ``nfilter.Recipe``: a recipe from Python, and what a run made as objects."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import nfilter
from nfilter import ModelError, Recipe, RecipeError, Result, SourceError, StoreError
from nfilter.engine import result as results

ROWS = [
    {"prompt": "What is 2+3?", "response": "5"},
    {"prompt": "What is <b>2+4</b>?", "response": ""},
    {"prompt": "What is 4+4?", "response": "8"},
]
SECTIONS = {
    "name": "<script>alert(1)",
    "source": {"use": "jsonl", "path": "rows.jsonl", "id": "id"},
    "samples": [{"use": "entp.purge", "rules": ["empty"]}],
}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    lines = (json.dumps({"id": f"r{n}", **row}) + "\n" for n, row in enumerate(ROWS))
    Path("rows.jsonl").write_text("".join(lines), encoding="utf-8")
    return tmp_path


def test_a_run_from_python_gives_what_the_files_hold(home: Path) -> None:
    result = nfilter.run(Recipe.from_dict(SECTIONS), out="out")
    assert result.directory == Path("out")
    assert result.metrics["samples"]["kept"] == 2
    assert result.cleaned.to_list() == [{"id": "r0", **ROWS[0]}, {"id": "r2", **ROWS[2]}]
    (dropped,) = result.dropped.to_list()
    assert (dropped["id"], dropped["stage"], dropped["row"]["prompt"]) == (
        "r1", "01-entp.purge", ROWS[1]["prompt"]
    )  # fmt: skip
    story = result.explain("r1")
    assert (story.status, story.reason) == ("dropped", dropped["reason"])
    with pytest.raises(StoreError, match="r1"):
        result.explain("r11")
    again = Result.open(home / "out")
    assert again.metrics == result.metrics
    assert list(again.rows("dropped.jsonl")) == [dropped]
    assert [row["id"] for row in again.rows()] == ["r0", "r2"]


def test_the_same_call_uses_what_is_there_and_a_limit_takes_the_first_rows(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = Recipe.from_dict({**SECTIONS, "name": "named"})
    assert nfilter.run(recipe).directory == Path("runs/named")
    assert capsys.readouterr() == ("", "")
    nfilter.run(recipe, progress=True)
    assert "(from an earlier run)" in capsys.readouterr().err
    assert nfilter.run(recipe, out="few", limit=1).metrics["samples"]["kept"] == 1


def test_html_of_a_result_shows_no_markup_of_the_run(home: Path) -> None:
    page = nfilter.run(Recipe.from_dict({**SECTIONS, "name": "<b>&"}), out="<i>")._repr_html_()
    assert "&lt;b&gt;&amp; in &lt;i&gt;" in page
    assert "<b>" not in page
    assert "<i>" not in page
    assert "<th>rows read</th><td>3</td>" in page


def test_a_recipe_is_checked_before_it_runs(home: Path) -> None:
    recipe = Recipe.from_dict(SECTIONS).override("source.path", "row.jsonl")
    with pytest.raises(
        RecipeError,
        match=r"^--set source\.path=.*: source\.path: .*row\.jsonl: there is no such file",
    ):
        nfilter.run(recipe, out="out")
    assert not Path("out").exists()


def test_without_datasets_the_error_has_the_line_for_pip(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = nfilter.run(Recipe.from_dict(SECTIONS), out="out")
    monkeypatch.setattr(results, "find_spec", lambda name: None)
    with pytest.raises(ModelError) as caught:
        _ = result.cleaned
    assert str(caught.value) == (
        "a Dataset needs the package datasets, which is not installed: pip install 'nfilter[datasets]'; "
        "the rows are in out/cleaned.jsonl"
    )


@pytest.mark.types("as dicts")
def test_a_column_of_several_types_is_named_with_the_call_that_reads_it(home: Path) -> None:
    rows = ({"id": f"r{n}", "mark": mark, **ROWS[0]} for n, mark in enumerate(("a", 1, [2])))
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = Recipe.from_dict({**SECTIONS, "samples": []})
    result = nfilter.run(recipe, out="out")
    with pytest.raises(
        SourceError, match=r"column 'mark' has values of several types.*write"
    ) as caught:
        _ = result.cleaned
    call = str(caught.value).split("write ")[1].split(" to read")[0]
    found: Any = eval(call, {"result": result})
    assert [row["mark"] for row in found] == ["a", 1, [2]]


def test_importing_the_names_loads_no_library_of_models() -> None:
    code = (
        "import sys, nfilter; light = not {'numpy', 'pydantic'} & set(sys.modules); "
        "from nfilter import Recipe, run; print(light, {'torch', 'transformers', 'datasets', 'pyarrow'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True set()\n"
