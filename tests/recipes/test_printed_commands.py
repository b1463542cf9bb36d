"""What the screen tells a person to type, typed where it is told."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

RULES = """\
answer: exact
models: {student: {use: hf, model: tiny}}
source: {use: jsonl, path: rows.jsonl}
samples: [{use: entp.purge}]
arms: []
"""
ROWS = [{"question": f"what is {n}", "answer": "a good answer to the question"} for n in range(8)]


def commands(text: str) -> list[list[str]]:
    """Every command that stands in a text: in back quotes, or at the beginning of a line."""
    found = re.findall(r"`(nfilter [^`]+)`", text)
    found += re.findall(r"^ *(nfilter .*?)(?: {2,}#.*)?$", text, re.MULTILINE)
    words = [shlex.split(command)[1:] for command in found]
    return [typed for typed in words if not {"RUN", "ID", "RECIPE"} & set(typed)]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "a folder"
    folder.mkdir()
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (folder / "my recipe.yaml").write_text(RULES)
    return folder


def test_the_commands_of_a_run_without_verdicts_work(home: Path, tools: Any) -> None:
    done = tools.call("run", "my recipe.yaml", "--out", "my run", cwd=home)
    assert done.code == 0, done.err
    assert "audit" not in done.out
    assert "not measured: no stage of the recipe flags labels" in " ".join(done.out.split())
    for words in commands(done.out):
        again = tools.call(*words, cwd=home)
        assert again.code == 0, (words, again.err)


@pytest.mark.types("no faults«»; `«»` runs", "`nfilter audit «»` estimates it")
def test_the_commands_of_a_run_with_verdicts_work(home: Path, tools: Any) -> None:
    samples = "[{use: robustft.answer, llm: student, into: base, max_tokens: 4}, {use: robustft.check, views: [base]}]"
    sets = tools.sets(f"samples={samples}")
    checked = tools.call("check", "my recipe.yaml", *sets, cwd=home)
    assert checked.code == 0, checked.err
    ((*words,),) = commands(checked.out)
    # The command that check names has the overrides that it was called with.
    done = tools.call(*words, cwd=home)
    assert done.code == 0, done.err
    typed = commands(done.out)
    assert ["audit", "runs/my recipe"] in typed
    for words in typed:
        again = tools.call(*words, cwd=home)
        assert again.code == 0, (words, again.err)
    drawn = tools.call("audit", "runs/my recipe", cwd=home)
    assert "nfilter audit 'runs/my recipe'" in drawn.out


@pytest.mark.types("`«»` writes a recipe that runs", "`«» --force` writes a recipe")
@pytest.mark.parametrize("content", [None, "", "# nothing\n"])
def test_the_command_for_a_recipe_that_is_not_there_writes_one_that_is_sound(
    tmp_path: Path, tools: Any, content: str | None
) -> None:
    if content is not None:
        (tmp_path / "my recipe.yaml").write_text(content)
    done = tools.call("check", "my recipe.yaml", cwd=tmp_path)
    assert done.code == 2
    ((*words,),) = commands(done.err)
    made = tools.call(*words, cwd=tmp_path)
    assert made.code == 0, made.err
    assert tools.call("check", "my recipe.yaml", cwd=tmp_path).code == 0


def test_init_names_the_next_commands_and_what_is_missing(home: Path, tools: Any) -> None:
    made = tools.call("init", "--out", "new one.yaml", "--model", "tiny", cwd=home)
    assert "reads data.jsonl, and there is no such file; name yours under source:" in made.out
    made = tools.call("init", "--data", "rows.jsonl", "--model", "tiny", "--out", "new one.yaml", "--force", cwd=home)  # fmt: skip
    assert "wrote new one.yaml; next: nfilter check 'new one.yaml', then nfilter run" in made.out
    assert tools.call("check", "new one.yaml", cwd=home).code == 0


def test_all_hosts_of_a_recipe_are_allowed_by_one_command(home: Path, tools: Any) -> None:
    models = "models: {one: {use: litellm, model: x, api_base: 'https://a.example/v1'}, two: {use: litellm, model: x, api_base: 'https://b.example/v1'}, student: {use: hf, model: tiny}}"
    (home / "hosts.yaml").write_text(
        RULES.replace("models: {student: {use: hf, model: tiny}}", models)
    )
    done = tools.call("check", "hosts.yaml", "--set", "seed=3", cwd=home)
    assert done.code == 2
    told = set(re.findall(r"type: nfilter (run .*?), or export", done.err))
    (command,) = told
    words = shlex.split(command)
    assert words == ["run", "hosts.yaml", "--set", "seed=3", "--allow-host", "a.example", "--allow-host", "b.example"]  # fmt: skip
    again = tools.call("check", *words[1:], cwd=home)
    assert again.code == 0, again.err
    assert f"`nfilter {command}`" in again.out


def test_warnings_of_a_run_stand_in_its_figures_and_on_its_page(home: Path, tools: Any) -> None:
    bad = {"question": "x", "answer": None}
    (home / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*ROWS, bad, bad]))
    for _ in range(2):  # what an earlier run did is taken as it is, with its warnings
        done = tools.call("run", "my recipe.yaml", "--out", "run", cwd=home)
        assert done.code == 0, done.err
        (warning,) = json.loads((home / "run" / "metrics.json").read_text())["warnings"]
        why = "2 because the field 'answer' is missing (lines 9, 10)"
        assert warning == {
            "stage": "source",
            "text": f"source: 2 of 10 rows cannot be read (quarantine.jsonl): {why}",
            "times": 1,
        }
        page = (home / "run" / "report.html").read_text()
        assert "<h2>Warnings</h2>" in page
        assert "2 of 10 rows cannot be read" in page
        assert "1 warning" in done.out
    (home / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    done = tools.call("run", "my recipe.yaml", "--out", "run", cwd=home)
    assert "warnings" not in json.loads((home / "run" / "metrics.json").read_text())
    assert "<h2>Warnings</h2>" not in (home / "run" / "report.html").read_text()
    (home / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*ROWS, bad]))
    done = tools.call("run", "my recipe.yaml", "--out", "seeds", "--seeds", "0,1", cwd=home)
    (warning,) = json.loads((home / "seeds" / "metrics.json").read_text())["warnings"]
    assert (warning["seeds"], warning["times"]) == ([0, 1], 2)
    assert "1 of 9 rows cannot be read" in (home / "seeds" / "report.html").read_text()
