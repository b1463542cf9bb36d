"""Remedies in errors about files: each is typed and works."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command_line import call


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("key", ["data", "it's"])
def test_the_rows_of_an_object_can_be_extracted(key: str) -> None:
    rows = [{"prompt": f"What is {i} + 1?", "response": str(i + 1)} for i in range(3)]
    Path("d.json").write_text(json.dumps({"version": 1, key: rows, "more": rows[:1]}))
    code, _, err = call("init", "--data", "d.json", "--out", "r.yaml")
    assert code == 4
    assert (
        f"d.json: is one JSON object, not a list; to extract the rows of its key {key!r} (or of 'more')"
        in err
    )
    command = shlex.split(err.split(", type ")[1].split(" in its folder")[0])
    assert command[:2] == ["python", "-c"]
    subprocess.run([sys.executable, *command[1:]], check=True)
    assert "name rows.json" in err
    assert call("init", "--data", "rows.json", "--out", "r.yaml")[0] == 0
    assert json.loads(Path("rows.json").read_text()) == rows


def test_json_lines_with_the_wrong_suffix_can_be_read() -> None:
    Path("d.json").write_text('{"prompt": "a", "response": "b"}\n' * 2)
    code, _, err = call("init", "--data", "d.json", "--out", "r.yaml")
    assert code == 4
    assert "d.json: is not a JSON list of objects; type `use: jsonl` for one object per line" in err
    Path("r.yaml").write_text("source: {use: jsonl, path: d.json}\nsamples: [{use: entp.purge}]\n")
    assert call("check", "r.yaml")[0] == 0


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("empty.jsonl", "empty.jsonl: it has no rows; write some to it, or name another file"),
        (
            "empty.json",
            "empty.json: is empty: it has no rows; write a JSON list of objects to it",
        ),
        ("empty.csv", "empty.csv: is empty; a CSV file starts with a line of column names"),
    ],
)
def test_an_empty_file_is_reported(name: str, expected: str) -> None:
    Path(name).write_bytes(b"\n" if name == "empty.jsonl" else b"")
    code, _, err = call("init", "--data", name, "--out", "r.yaml")
    assert code == 4
    assert expected in err


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("d.csv", "prompt,response\nd\u00e9j\u00e0,vu\n"),
        ("d.csv", "pr\u00e9nom,answer\nvu,vu\n"),
        ("d.jsonl", '{"prompt": "d\u00e9j\u00e0", "response": "vu"}\n'),
    ],
)
def test_a_file_in_another_encoding_can_be_read(name: str, text: str) -> None:
    Path(name).write_bytes(text.encode("latin-1"))
    code, _, err = call("init", "--data", name, "--out", "r.yaml")
    assert code == 4
    assert "type `encoding: latin-1` (or cp1252) under source:" in err
    columns = ", columns: {question: pr\u00e9nom}" if "nom," in text else ""
    Path("r.yaml").write_text(
        f"source: {{use: {name[2:]}, path: {name}, encoding: latin-1{columns}}}\nsamples: [{{use: entp.purge}}]\n",
        encoding="utf-8",
    )
    code, out, err = call("check", "r.yaml")
    assert (code, err) == (0, "")
    assert "its one row can be read" in out


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b'{"prompt": "a\tb"}', "the line is not JSON: Invalid control character at character 14"),
        (b'{"prompt": "a', "the line is not JSON: Unterminated string starting at character 12"),
        (b'{"prompt": "\\q"}', "the line is not JSON: Invalid \\escape at character 13"),
        (b'{"prompt" "a"}', "the line is not JSON: Expecting ':' delimiter at character 11"),
    ],
)
def test_a_position_in_a_line_is_reported_once(line: bytes, expected: str) -> None:
    Path("d.jsonl").write_bytes(line)
    assert expected in call("init", "--data", "d.jsonl", "--out", "r.yaml")[2]


def test_a_missing_column_is_reported_with_a_suggestion_and_the_columns() -> None:
    Path("d.jsonl").write_text('{"question": "a", "answer": "b"}\n')
    for name, expected in (
        (
            "answr",
            "which does not exist; did you mean 'answer'? Columns found: 'answer', 'question'",
        ),
        ("xyz", "which does not exist. Columns found: 'answer', 'question'"),
    ):
        recipe = f"source: {{use: jsonl, path: d.jsonl, columns: {{response: {name}}}}}\nsamples: [{{use: entp.purge}}]\n"
        Path("r.yaml").write_text(recipe)
        err = call("check", "r.yaml")[2]
        assert (
            expected in err
            or expected.replace("'answer', 'question'", "'question', 'answer'") in err
        )


def test_lint_without_a_model_says_what_to_write() -> None:
    Path("d.jsonl").write_text('{"question": "a", "answer": "b"}\n')
    text = "source: {use: jsonl, path: d.jsonl}\nsamples: [{use: entp.purge}]\n"
    Path("r.yaml").write_text(text)
    code, _, err = call("lint", "r.yaml")
    assert code == 2
    assert "encode.model: lint encodes rows with 'student', which is not under models" in err
    assert "models: {student: {use: BACKEND, model: NAME}}" in err
    Path("r.yaml").write_text(text + "models: {student: {use: hf, model: tiny}}\n")
    assert call("lint", "r.yaml")[0] == 0
    Path("r.yaml").write_text(
        text + "models: {mine: {use: hf, model: tiny}}\nencode: {model: mine}\n"
    )
    assert call("lint", "r.yaml")[0] == 0


@pytest.mark.parametrize(
    ("name", "setting"), [("litellm", "thoughts"), ("hf.lora", "loss"), ("jsonl", "noise")]
)
def test_settings_beside_a_plugins_own_are_listed(name: str, setting: str) -> None:
    code, out, _ = call("plugins", "show", name)
    assert code == 0
    assert any(line.split()[:1] == [setting] for line in out.splitlines())
    (described,) = json.loads(call("plugins", "show", name, "--json")[1])
    assert described["beside"]["setting"] == setting


@pytest.mark.parametrize("path", ["~/d.jsonl", "$HOME/d.jsonl"])
def test_a_path_is_not_expanded_and_says_so(path: str) -> None:
    Path("r.yaml").write_text(
        f"source: {{use: jsonl, path: {path}}}\nsamples: [{{use: entp.purge}}]\n"
    )
    code, _, err = call("check", "r.yaml")
    assert code == 2
    assert f"{path}: there is no such file; check `path`; ~ and variables are not expanded" in err
