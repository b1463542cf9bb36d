"""What a source says to type is typed, and the data is read."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from nfilter import Row, SourceError, Unreadable
from nfilter.registry.loading import Plugins
from nfilter.registry.loading import load as load_plugins

ROW = {"question": "1+1", "answer": "2"}
LINES = "".join(json.dumps({**ROW, "question": f"{n}+1"}) + "\n" for n in range(4))
TURNS = [{"role": "user", "content": "1+1"}, {"role": "assistant", "content": "2"}]


@pytest.fixture(scope="module")
def plugins() -> Plugins:
    return load_plugins(block=())


class Sources:
    """Reads a file with a source by its name, as a recipe would."""

    def __init__(self, plugins: Plugins, folder: Path) -> None:
        self.plugins = plugins
        self.folder = folder

    def read(self, settings: dict[str, Any]) -> list[Row | Unreadable]:
        cls: Any = self.plugins.get("source", settings["use"]).cls
        values = {key: value for key, value in settings.items() if key != "use"}
        config = cls.Config.model_validate(values)
        return list(cls(config, self.folder).read())

    def refused(self, settings: dict[str, Any]) -> str:
        """What is said, of the file or of its first row that cannot be read."""
        try:
            rows = self.read(settings)
        except SourceError as error:
            return str(error)
        return next(row.error for row in rows if isinstance(row, Unreadable))

    def typed(self, settings: dict[str, Any], said: str, *names: str) -> None:
        """Type the first way that stands in back quotes in ``said``; ``names`` take the places of words in capitals."""
        written, left = dict(settings), list(names)
        for part in re.findall(r"`([a-z_]+: [^`]+)`", said.split(", or `", maxsplit=1)[0]):
            filled = re.sub(r"\b[A-Z]+( COLUMN)?\b", lambda _: left.pop(0), part)
            written.update(yaml.safe_load(filled))
        assert written != settings, said
        assert left == []
        rows = self.read(written)
        assert rows
        assert all(isinstance(row, Row) for row in rows), rows


@pytest.fixture
def sources(plugins: Plugins, tmp_path: Path) -> Sources:
    return Sources(plugins, tmp_path)


def _jsonl(*rows: dict[str, Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


CASES: list[tuple[str, str, dict[str, Any], str, list[str]]] = [
    ("rows.json", LINES, {"use": "json"}, "type `use: jsonl` for one object per line", []),
    ("rows.jsonl", f"[{', '.join(LINES.splitlines())}]", {"use": "jsonl"}, "type `use: json` for one list of rows", []),
    ("rows.jsonl", LINES, {"use": "jsonl", "encoding": "utf-88"}, "type `encoding: utf-8`", []),
    ("rows.csv", "question;answer\n1+1;2\n", {"use": "csv"}, "type `delimiter: ';'` if that separates the columns", []),
    ("rows.jsonl", _jsonl({"prompt": "a", "question": "b", "answer": "c"}), {"use": "jsonl"}, "Type `shape: prompt` and `columns: {prompt: COLUMN, response: COLUMN}`", ["question", "answer"]),
    ("rows.jsonl", _jsonl({"left": "1+1", "right": "2"}), {"use": "jsonl"}, "Type `shape: prompt` with `columns: {prompt: COLUMN, response: COLUMN}`", ["left", "right"]),
    ("rows.jsonl", _jsonl({"task": "add", "what": "1+1", "sum": "2"}), {"use": "jsonl", "shape": "alpaca"}, "Type `columns: {instruction: COLUMN, input: COLUMN, output: COLUMN}`", ["task", "what", "sum"]),
    ("rows.jsonl", _jsonl({"messages": TURNS, "prompt": "1+1", "response": "2"}), {"use": "jsonl"}, "Type `shape: messages` or `shape: prompt`", []),
    ("rows.jsonl", _jsonl({"text": "it rained", "title": "rain"}, {"text": "it froze", "title": "ice"}), {"use": "jsonl"}, "`shape: label` with `columns: {text: text, label: COLUMN}`", ["title"]),
    ("rows.jsonl", _jsonl(*({"text": f"text {n}", "label": f"label {n}"} for n in range(1001))), {"use": "jsonl", "shape": "label"}, "type `shape: prompt` and `columns: {prompt: TEXT COLUMN, response: LABEL COLUMN}`", ["text", "label"]),
]  # fmt: skip


@pytest.mark.types(
    "type `use: jsonl` for one object", "type `use: json` for one list", "type `encoding: utf-8`", "type `delimiter:", "Type «».",
    "Type `shape: «»` and `columns: «»`", "have the columns of the shape «». «» Type", "name the column of a label",
    "too many for a label set; type `shape: prompt`",
)  # fmt: skip
@pytest.mark.parametrize(
    ("file", "data", "given", "told", "names"), CASES, ids=[f"{n}-{case[0]}" for n, case in enumerate(CASES)]
)  # fmt: skip
def test_a_setting_that_is_shown_reads_the_file(
    sources: Sources, file: str, data: str, given: dict[str, Any], told: str, names: list[str]
) -> None:
    (sources.folder / file).write_text(data)
    settings = {**given, "path": file}
    said = sources.refused(settings)
    assert told in said
    sources.typed(settings, said.replace("` or `", "`, or `"), *names)


def _table(path: Path, rows: list[dict[str, str]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(rows), path)


@pytest.mark.types("is a Parquet file; type `use: parquet`")
def test_a_parquet_file_under_another_name(sources: Sources) -> None:
    _table(sources.folder / "rows.jsonl", [ROW])
    said = sources.refused({"use": "jsonl", "path": "rows.jsonl"})
    sources.typed({"use": "jsonl", "path": "rows.jsonl"}, said)


@pytest.mark.types("write it as JSON Lines, one object per line")
def test_a_list_that_is_too_large_is_written_as_lines(sources: Sources) -> None:
    rows = json.loads(f"[{', '.join(LINES.split(chr(10))[:-1])}]")
    (sources.folder / "rows.json").write_text(json.dumps(rows))
    settings = {"use": "json", "path": "rows.json", "max_bytes": 40}
    said = sources.refused(settings)
    assert "write it as JSON Lines, one object per line" in said
    (sources.folder / "rows.json").write_text(_jsonl(*rows))
    sources.typed({"use": "json", "path": "rows.json"}, said)


@pytest.mark.types(
    "type `split: «»`", "has no splits; remove `split`", "name the folder that datasets.save_to_disk wrote"
)  # fmt: skip
def test_the_splits_of_a_folder_of_datasets(sources: Sources) -> None:
    from datasets import Dataset, DatasetDict

    one = Dataset.from_list([ROW, ROW])
    one.save_to_disk(str(sources.folder / "one"))
    DatasetDict({"train": one, "test": one}).save_to_disk(str(sources.folder / "two"))
    said = sources.refused({"use": "datasets", "path": "two"})
    sources.typed({"use": "datasets", "path": "two"}, said)
    settings = {"use": "datasets", "path": "one", "split": "train"}
    assert "remove `split`" in sources.refused(settings)
    assert len(sources.read({"use": "datasets", "path": "one"})) == 2
    (sources.folder / "rows.jsonl").write_text(LINES)
    said = sources.refused({"use": "datasets", "path": "rows.jsonl"})
    assert "name the folder that datasets.save_to_disk wrote" in said


@pytest.mark.types("the field «» is «», which «»; give one of «»")
def test_each_answer_that_is_shown_is_one(sources: Sources) -> None:
    def write(answer: str) -> None:
        row = {"question": "Which?", "options": ["red", "blue", "green"], "answer": answer}
        (sources.folder / "rows.jsonl").write_text(_jsonl(row))

    write("yellow")
    said = sources.refused({"use": "jsonl", "path": "rows.jsonl"})
    letters = said.split("give one of ")[1].split(", ")
    assert letters == ["A", "B", "C"]
    for letter in letters:
        write(letter)
        (row,) = sources.read({"use": "jsonl", "path": "rows.jsonl"})
        assert isinstance(row, Row)


@pytest.mark.types(
    "remove the line, and type nfilter run RECIPE --limit 100", "a file contains one split"
)
def test_what_other_tools_call_limit_and_split(
    sources: Sources, capsys: pytest.CaptureFixture[str]
) -> None:
    from nfilter.cli import entry

    home = sources.folder
    (home / "rows.jsonl").write_text(LINES)
    text = "source: {{use: jsonl, path: rows.jsonl{}}}\nsamples: [{{use: entp.purge}}]\n"
    for key in ("limit", "split"):
        (home / "r.yaml").write_text(text.format(f", {key}: 2"))
        assert entry(["check", str(home / "r.yaml")]) == 2
        said = capsys.readouterr().err
        if key == "limit":
            words = re.search(r"type nfilter run RECIPE (--limit) 100", said)
            assert words is not None
            (home / "r.yaml").write_text(text.format(""))
            assert entry(["run", str(home / "r.yaml"), "--out", str(home / "out"), words[1], "2"]) == 0  # fmt: skip
            assert json.loads((home / "out/metrics.json").read_text())["samples"]["read"] == 2
        else:
            from datasets import Dataset, DatasetDict

            assert "or name a folder of save_to_disk with use: datasets" in said
            one = Dataset.from_list([ROW])
            DatasetDict({"train": one, "test": one}).save_to_disk(str(home / "two"))
            settings = {"use": "datasets", "path": "two", "split": "test"}
            assert len(sources.read(settings)) == 1
