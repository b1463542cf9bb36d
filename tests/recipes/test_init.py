"""``nfilter init`` on a file of each shape and format: the recipe that it writes passes the check, and runs."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.model_server.faults import Script
from tests.model_server.server import ModelServer

ROOT = Path(__file__).resolve().parents[2]
FORMATS = ("jsonl", "csv", "parquet")


def prompt(question: str, answer: str) -> dict[str, Any]:
    return {"prompt": question, "response": answer}


def alpaca(question: str, answer: str) -> dict[str, Any]:
    return {"instruction": question, "input": "", "output": answer}


def messages(question: str, answer: str) -> dict[str, Any]:
    turns = (("user", question), ("assistant", answer))
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def sharegpt(question: str, answer: str) -> dict[str, Any]:
    return {"conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]}  # fmt: skip


def choice(question: str, answer: str) -> dict[str, Any]:
    options = [answer, str(int(answer) + 1), str(int(answer) + 2)]
    return {"question": question, "options": options, "answer": "A"}


SHAPES = {make.__name__: make for make in (prompt, alpaca, messages, sharegpt, choice)}


def write(rows: list[dict[str, Any]], file: Path) -> None:
    """The rows as a file of the format that its name ends in; lists in a table's cells are JSON text."""
    if file.suffix == ".jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif file.suffix == ".csv":
        with file.open("w", newline="") as out:
            table = csv.DictWriter(out, list(rows[0]))
            table.writeheader()
            for row in rows:
                cells = {
                    key: value if isinstance(value, str) else json.dumps(value)
                    for key, value in row.items()
                }
                table.writerow(cells)
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(rows), file)


@pytest.fixture
def made(tools: Any, sums: list[dict[str, str]], tmp_path: Path) -> Callable[[str, str], Any]:
    """``made("alpaca", "csv")``: the file, and what ``init`` said about it."""

    def make(shape: str, suffix: str) -> Any:
        rows = [SHAPES[shape](row["prompt"], row["response"]) for row in sums[:24]]
        write(rows, tmp_path / f"data.{suffix}")
        return tools.call("init", "--data", f"data.{suffix}", "--model", "tiny", cwd=tmp_path)

    return make


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_recipe_passes_the_check(
    shape: str, suffix: str, made: Callable[[str, str], Any], tools: Any, tmp_path: Path
) -> None:
    done = made(shape, suffix)
    assert done.code == 0, done.err
    assert f"read as {suffix}; guessed columns: shape = '{shape}'" in done.out
    kind = "choice" if shape == "choice" else "number"
    assert f"answer kind: {kind} (guessed" in done.out
    recipe = yaml.safe_load((tmp_path / "recipe.yaml").read_text())
    assert recipe["source"] == {"use": suffix, "path": f"data.{suffix}"}
    assert recipe["models"]["student"] == {"use": "hf", "model": "tiny"}
    checked = tools.call("check", "recipe.yaml", cwd=tmp_path)
    assert checked.code == 0, checked.err
    assert f"source: columns shape = '{shape}'" in checked.out
    assert "recipe.yaml: no faults" in checked.out


@pytest.mark.parametrize(("shape", "suffix"), [("alpaca", "csv"), ("messages", "parquet")])
def test_the_recipe_runs_and_gives_the_rows_back_in_their_shape(
    shape: str, suffix: str, made: Callable[[str, str], Any], tools: Any, tmp_path: Path
) -> None:
    """The templates of the embedded model stand in a folder ``prompts`` beside the recipe, which is looked into first."""
    shutil.copytree(ROOT / "prompts" / "tiny", tmp_path / "prompts" / "robustft")
    assert made(shape, suffix).code == 0
    arguments = ("run", "recipe.yaml", "--limit", "8", *tools.sets("train.epochs=1"))
    done = tools.call(*arguments, cwd=tmp_path)
    run = tmp_path / "runs" / "robustft"
    assert tools.ends(run, done, 8) == "adapter"
    for row in tools.lines(run / "cleaned.jsonl"):
        columns = {key: value for key, value in row.items() if key != "id"}
        turns = columns.get("messages") or [
            {"role": "user", "content": columns["instruction"]},
            {"role": "assistant", "content": columns["output"]},
        ]
        question, answer = (turn["content"] for turn in turns)
        assert columns == SHAPES[shape](question, answer)
        left, right = question.split("+")
        assert int(answer) == int(left) + int(right)


def test_a_label_set_runs_and_gives_the_rows_back_in_their_shape(
    tools: Any, sums: list[dict[str, str]], tmp_path: Path
) -> None:
    """``text`` and an index of a class, as data sets on the hub have them; the answers are those of the embedded model."""
    given = [{"text": row["prompt"], "label": str(at % 2)} for at, row in enumerate(sums[:6])]
    write(given, tmp_path / "data.csv")
    done = tools.call("init", "--data", "data.csv", "--model", "tiny", cwd=tmp_path)
    assert done.code == 0, done.err
    assert (
        "guessed columns: shape = 'label', text = 'text', label = 'label', classes = '0, 1 ("
        in done.out
    )
    assert "answer kind: label (guessed" in done.out
    samples = "[{use: robustft.answer, llm: expert, into: base, max_tokens: 8}]"
    sets = tools.sets("source.labels=[even, odd]", f"samples={samples}", "arms=[]")
    checked = tools.call("check", "recipe.yaml", *sets, cwd=tmp_path)
    assert checked.code == 0, checked.err
    assert "classes = 'even, odd'" in checked.out
    done = tools.call("run", "recipe.yaml", *sets, cwd=tmp_path)
    assert done.code == 0, done.err
    run = tmp_path / "runs" / "robustft"
    rows = [
        {key: value for key, value in row.items() if key != "id"}
        for row in tools.lines(run / "cleaned.jsonl")
    ]
    assert rows == given


def test_classes_are_listed_in_the_prompt_and_other_answers_are_unreadable(
    tools: Any, tmp_path: Path
) -> None:
    """A model that knows the classes finds the wrong labels; a class that nobody listed is no answer."""
    said = {"fine": "Positive.", "poor": "negative", "odd": "neutral"}
    words = ["fine", "poor"] * 10 + ["odd"]
    given = [
        {"text": f"{word} {at}", "label": int(word != "poor")} for at, word in enumerate(words)
    ]
    wrong = {3, 8}
    for at in wrong:
        given[at]["label"] = 1 - int(given[at]["label"])
    write(given, tmp_path / "data.jsonl")

    def answer(messages: Sequence[Mapping[str, Any]]) -> str:
        asked = "\n".join(message["content"] for message in messages)
        assert "- negative\n- positive" in asked
        assert "one of those listed" in asked
        return said[next(word for word in said if word in asked)]

    with ModelServer(Script(answer=answer)) as server:
        recipe = {
            "answer": "label",
            "models": {"expert": {"use": "litellm", "model": "x", "api_base": server.url}},
            "source": {"use": "jsonl", "path": "data.jsonl", "labels": ["negative", "positive"]},
            "samples": [
                {"use": "robustft.answer", "llm": "expert", "into": "base"},
                {"use": "robustft.check", "views": ["base"]},
            ],
        }
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        done = tools.call("run", "recipe.yaml", "--out", "run", cwd=tmp_path)
    assert done.code == 0, done.err
    rows = tools.lines(tmp_path / "run" / "02-robustft.check" / "chunk-000000.jsonl")
    assert [row["notes"]["base"]["answer"] for row in rows] == [
        {"fine": "positive", "poor": "negative", "odd": None}[word] for word in words
    ]
    kept = [
        {key: value for key, value in row.items() if key != "id"}
        for row in tools.lines(tmp_path / "run" / "cleaned.jsonl")
    ]
    assert kept == given
    flagged = {at for at, row in enumerate(rows) if row["notes"]["check"]["flagged"]}
    assert wrong <= flagged
