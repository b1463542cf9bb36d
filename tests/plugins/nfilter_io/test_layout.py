"""The shape of a file: guessed if it is unambiguous, else an error asks for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from nfilter import SourceError

CHAT = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
SHARED = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]


@pytest.mark.parametrize(
    ("row", "config", "stated"),
    [
        (
            {"prompt": "a", "response": "b"},
            {},
            {"shape": "prompt", "prompt": "prompt", "response": "response"},
        ),
        (
            {"Prompt": "a", "Completion": "b"},
            {},
            {"shape": "prompt", "prompt": "Prompt", "response": "Completion"},
        ),
        (
            {"id": 1, "q": "a", "answer": "b"},
            {"columns": {"question": "q"}},
            {"shape": "prompt", "prompt": "q", "response": "answer", "id": "id"},
        ),
        (
            {"q": "a", "choices": ["x", "y"], "answer": "B"},
            {"columns": {"question": "q"}},
            {
                "shape": "choice",
                "question": "q",
                "options": "choices",
                "answer": "answer",
                "answer_form": "letter",
            },
        ),
        (
            {"q": "a", "opa": "x", "opb": "y", "cop": 0},
            {"columns": {"question": "q", "options": ["opa", "opb"], "answer": "cop"}},
            {
                "shape": "choice",
                "question": "q",
                "options": "opa, opb",
                "answer": "cop",
                "answer_form": "index from 0",
            },
        ),
        (
            {"question": "a", "options": ["x", "y"], "answer": "B", "gt": "y"},
            {"truth": "gt"},
            {
                "shape": "choice",
                "question": "question",
                "options": "options",
                "answer": "answer",
                "truth": "gt",
                "answer_form": "letter",
            },
        ),
        (
            {"instruction": "a", "input": "", "output": "b", "prompt": "c", "text": "d"},
            {},
            {
                "shape": "alpaca",
                "instruction": "instruction",
                "input": "input",
                "output": "output",
            },
        ),
        (
            {"prompt": "p", "prompt_id": "1", "messages": CHAT},
            {},
            {"shape": "messages", "messages": "messages"},
        ),
        ({"conversations": CHAT}, {}, {"shape": "messages", "messages": "conversations"}),
        ({"conversations": SHARED}, {}, {"shape": "sharegpt", "conversations": "conversations"}),
        (
            {"messages": CHAT, "prompt": "a", "response": "b"},
            {"shape": "prompt"},
            {"shape": "prompt", "prompt": "prompt", "response": "response"},
        ),
        (
            {"dialog": CHAT},
            {"shape": "messages", "columns": {"messages": "dialog"}},
            {"shape": "messages", "messages": "dialog"},
        ),
        # an `options` column without options is an extra column
        (
            {"question": "a", "options": "-v", "answer": "b"},
            {},
            {"shape": "prompt", "prompt": "question", "response": "answer"},
        ),
        # the truth column is no candidate for the response
        (
            {"prompt": "a", "response": "b", "answer": "c"},
            {"truth": "answer"},
            {"shape": "prompt", "prompt": "prompt", "response": "response", "truth": "answer"},
        ),
    ],
)
def test_unambiguous_shapes_are_guessed_and_described(
    row: dict[str, Any], config: dict[str, Any], stated: dict[str, str], make: Any, tmp_path: Path
) -> None:
    source = make("jsonl", [row], **config)
    assert type(source).columns(source.rows._config, tmp_path) == stated
    assert list(type(source).problems(source.rows._config, tmp_path)) == []


@pytest.mark.parametrize(
    ("row", "config", "words"),
    [
        ({"foo": "a", "bar": "b"}, {}, ["'foo'", "'bar'", "shape: prompt", "unknown"]),
        ({"prompt": "a"}, {}, ["'prompt'", "columns: {prompt: COLUMN, response: COLUMN}"]),
        (
            {"prompt": "a", "response": "b", "answer": "c"},
            {},
            ["'response', 'answer'", "ambiguous"],
        ),
        ({"prompt": "a", "question": "b", "answer": "c"}, {}, ["prompt could be 'prompt', 'quest"]),
        ({"messages": CHAT, "prompt": "a", "response": "b"}, {}, ["several shapes"]),
        ({"messages": CHAT, "conversations": SHARED}, {}, ["shape: messages", "shape: sharegpt"]),
        (
            {"question": "a", "options": ["x", "y"], "answer": "A", "label": 0},
            {},
            ["answer could be 'answer', 'label'", "shape: choice"],
        ),
        ({"a": "x", "response": "y"}, {"columns": {"prompt": "aa"}}, ["'aa'", "did you mean 'a'?"]),
        ({"prompt": "x", "response": "y"}, {"columns": {"promt": "prompt"}}, ["mean 'prompt'?"]),
        ({"prompt": "x", "response": "y"}, {"columns": {"prompt": ["prompt"]}}, ["one column"]),
        ({"prompt": "x", "response": "y"}, {"id": "uid"}, ["id names the column 'uid'"]),
        ({"prompt": "x", "response": "y"}, {"truth": "gold"}, ["truth names the column 'gold'"]),
        (
            {"prompt": "x", "response": "y", "z": 1},
            {"id": "z", "truth": "z"},
            ["both id and truth"],
        ),
        (
            {"prompt": "x", "response": "y", "z": "1"},
            {"columns": {"response": "z"}, "truth": "z"},
            ["their own column"],
        ),
        ({"prompt": "x", "response": "y"}, {"truth": "response"}, ["unknown"]),
        ({"prompt": "x", "response": "y"}, {"shape": "alpaca"}, ["instruction: COLUMN"]),
        ({"x\x1b[31m": "x"}, {}, ["x\\x1b[31m"]),
    ],
)
def test_an_ambiguous_layout_is_an_error_with_a_remedy(
    row: dict[str, Any], config: dict[str, Any], words: list[str], make: Any, tmp_path: Path
) -> None:
    source = make("jsonl", [row], **config)
    with pytest.raises(SourceError) as caught:
        list(source.read())
    for word in words:
        assert word in str(caught.value)
    assert "data.jsonl" in str(caught.value)
    assert list(type(source).problems(source.rows._config, tmp_path)) == [str(caught.value)]


def test_one_unusual_first_row_does_not_decide(make: Any) -> None:
    rows = [{"foo": 1}, {"messages": "x"}, *({"prompt": "a", "response": "b"} for _ in range(5))]
    items = list(make("jsonl", rows).read())
    assert [hasattr(item, "sample") for item in items] == [False, False, *[True] * 5]


def test_one_row_of_another_shape_does_not_decide(make: Any) -> None:
    rows: list[dict[str, Any]] = [{"prompt": "a", "response": "b"} for _ in range(5)]
    rows.insert(2, {"messages": CHAT})
    items = list(make("jsonl", rows).read())
    assert [hasattr(item, "sample") for item in items] == [True, True, False, True, True, True]


def test_a_truth_that_only_late_rows_have_is_accepted(make: Any) -> None:
    rows: list[dict[str, Any]] = [{"prompt": f"{n}", "response": "b"} for n in range(300)]
    rows[-1]["gold"] = "c"
    items = list(make("jsonl", rows, truth="gold").read())
    assert [item.truth for item in items[-2:]] == [None, "c"]


def test_reading_and_columns_agree_on_a_long_file(make: Any) -> None:
    # rows after the first 200 must not change the layout
    rows = [{"question": "q", "options": ["x", "y", "z"], "answer": 0} for _ in range(200)]
    rows += [{"question": "q", "options": ["x", "y", "z"], "answer": 3} for _ in range(300)]
    source = make("jsonl", rows)
    read = list(source.read())
    fresh = make("jsonl", rows)
    assert source.rows.layout == fresh.rows.layout
    assert [hasattr(item, "sample") for item in read] == [True] * 200 + [False] * 300


@pytest.mark.types(
    "may count the options from 0 or from 1", "type `index_base: 0` or `index_base: 1`"
)
@pytest.mark.parametrize("base", [0, 1])
def test_indices_that_fit_both_bases_are_not_guessed(make: Any, base: int) -> None:
    rows = [{"question": "q", "options": ["x", "y", "z"], "answer": n} for n in (1, 2, 1)]
    with pytest.raises(SourceError, match="'answer' may count the options from 0 or from 1"):
        list(make("jsonl", rows).read())
    items = list(make("jsonl", rows, index_base=base).read())
    assert [item.sample.response for item in items] == [["B", "C", "B"], ["A", "B", "A"]][base]


def test_the_first_index_can_be_configured(make: Any) -> None:
    rows = [{"question": "q", "options": ["x", "y", "z"], "answer": 1}]
    assert next(make("jsonl", rows, index_base=0).read()).sample.response == "B"
    assert next(make("jsonl", rows, index_base=1).read()).sample.response == "A"


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "parquet", "datasets"])
def test_problems_before_reading(kind: str, make: Any, tmp_path: Any) -> None:
    source = make(kind, [{"prompt": "a", "response": "b"}])
    cls = type(source)
    assert list(cls.problems(source.rows._config, tmp_path)) == []
    missing = cls.Config(path="missing")
    problems = list(cls.problems(missing, tmp_path))
    assert len(problems) == 1
    assert "there is no such" in problems[0]
    (tmp_path / "dir").mkdir()
    (tmp_path / "file").write_text("")
    assert list(cls.problems(cls.Config(path="file" if kind == "datasets" else "dir"), tmp_path))


def test_splits_of_a_dataset(tmp_path: Any) -> None:
    import datasets

    from nfilter_io.sources import Datasets

    one = datasets.Dataset.from_list([{"prompt": "a", "response": "b"}])
    two = datasets.Dataset.from_list([{"prompt": "c", "response": "d"}])
    datasets.DatasetDict({"train": one}).save_to_disk(tmp_path / "single")
    datasets.DatasetDict({"train": one, "test": two}).save_to_disk(tmp_path / "both")
    one.save_to_disk(tmp_path / "plain")

    def read(path: str, split: str | None = None) -> Any:
        source = Datasets(Datasets.Config(path=path, split=split), tmp_path)
        return [row.sample.response for row in source.read()]

    assert read("single") == read("plain") == ["b"]
    assert read("both", "test") == ["d"]
    for path, split, words in (
        ("both", None, "split: train"),
        ("both", "dev", "'train', 'test'"),
        ("plain", "train", "remove `split`"),
    ):
        with pytest.raises(SourceError, match=words):
            read(path, split)


def test_a_selected_and_shuffled_dataset_keeps_its_order(tmp_path: Any) -> None:
    import datasets

    from nfilter_io.sources import Datasets

    data = datasets.Dataset.from_list([{"prompt": f"p{n}", "response": "r"} for n in range(600)])
    order = [int(n * 7 % 600) for n in range(590)]
    data.select(order).save_to_disk(tmp_path / "folder")
    source = Datasets(Datasets.Config(path="folder"), tmp_path)
    assert [row.sample.query for row in source.read()] == [f"p{n}" for n in order]


def test_unknown_settings_are_refused() -> None:
    from nfilter_io.sources import Csv, JsonLines

    for bad in ({"shape": "poem"}, {"colums": {}}, {"max_line_bytes": 0}, {"index_base": 2}):
        with pytest.raises(ValidationError):
            JsonLines.Config(path="x", **bad)
    for delimiter in ("", ",,", '"', "\n"):
        with pytest.raises(ValidationError):
            Csv.Config(path="x", delimiter=delimiter)


def test_delimiters(over: Any, tmp_path: Any) -> None:
    from nfilter_io.sources import Csv

    data = b"prompt;response\na,1;b\n"
    assert [r.sample.query for r in over("csv", data, delimiter=";").read()] == ["a,1"]
    (tmp_path / "data.tsv").write_bytes(b"prompt\tresponse\na,1\tb\n")
    source = Csv(Csv.Config(path="data.tsv"), tmp_path)
    assert [row.sample.query for row in source.read()] == ["a,1"]


def test_the_plugin_registers_its_sources_and_loads_nothing_heavy() -> None:
    import subprocess
    import sys

    code = (
        "import sys, nfilter_io;"
        "names = [s.name for s in nfilter_io.nfilter_sources()];"
        "assert names == ['jsonl', 'json', 'csv', 'parquet', 'datasets', 'hub'], names;"
        "assert not {'pyarrow', 'datasets', 'pandas', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_suffix_has_one_source() -> None:
    from nfilter_io import nfilter_sources

    suffixes = [suffix for source in nfilter_sources() for suffix in source.suffixes]
    assert len(suffixes) == len(set(suffixes))
    assert {".jsonl", ".json", ".csv", ".parquet", "/"} <= set(suffixes)
