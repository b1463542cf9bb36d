"""Preference pairs: read as two responses, written as they were, swapped, and refused where they say two things."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nfilter import Message, Row, SourceError, Unreadable
from nfilter.noise.labels import NoiseConfig, inject, inject_file
from nfilter_io.sources import Csv, JsonLines

USER = {"role": "user", "content": "2+2?"}
GOOD = {"role": "assistant", "content": "4"}
BAD = {"role": "assistant", "content": "5"}

TEXTS = {"prompt": "2+2?", "chosen": "4", "rejected": "5"}
FORMS: dict[str, dict[str, Any]] = {
    "texts": TEXTS,
    "question": {"question": "2+2?", "chosen": "4", "rejected": "5"},
    "numbers": {"prompt": "2+2?", "chosen": 4, "rejected": 5},
    "turns": {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]},
    "prompt inside": {"chosen": [USER, GOOD], "rejected": [USER, BAD]},
    "prompt repeated as text": {"prompt": "2+2?", "chosen": [USER, GOOD], "rejected": [USER, BAD]},
    "prompt repeated as turns": {"prompt": [USER], "chosen": [USER, GOOD], "rejected": [USER, BAD]},
    "text, then turns": {"prompt": "2+2?", "chosen": [GOOD], "rejected": [BAD]},
    "json text": {"prompt": json.dumps([USER]), "chosen": json.dumps([GOOD]), "rejected": json.dumps([BAD])},
    "sharegpt": {
        "chosen": [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "4"}],
        "rejected": [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "5"}],
    },
    "other columns": {**TEXTS, "messages": [USER, GOOD], "answer": "x", "source": "web"},
    "fields of a turn": {"prompt": "2+2?", "chosen": [{**GOOD, "score": 9}], "rejected": [{**BAD, "score": 1, "id": "r"}]},
}  # fmt: skip


def source(folder: Path, rows: list[Any], **config: Any) -> JsonLines:
    (folder / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return JsonLines(JsonLines.Config.model_validate({"path": "d.jsonl", **config}), folder)


def one(made: Any) -> Row:
    (row,) = made.read()
    assert isinstance(row, Row), row
    return row


def without_id(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key != "id"}


@pytest.mark.parametrize("form", FORMS)
def test_a_pair_is_two_responses_to_one_prompt_and_is_written_as_it_was(
    tmp_path: Path, form: str
) -> None:
    made = source(tmp_path, [FORMS[form]])
    sample = one(made).sample
    assert made.rows.layout.shape == "preference"
    assert sample.messages == (Message("user", "2+2?"), Message("assistant", "4"))
    assert sample.rejected == Message("assistant", "5")
    assert without_id(made.restore(sample)) == FORMS[form]


@pytest.mark.parametrize("form", FORMS)
def test_a_swapped_pair_is_written_with_its_responses_exchanged(tmp_path: Path, form: str) -> None:
    made = source(tmp_path, [FORMS[form]])
    swapped = made.restore(one(made).sample.swap("flipped"))
    given = FORMS[form]
    assert without_id(swapped) == {
        **given,
        "chosen": given["rejected"],
        "rejected": given["chosen"],
    }


@pytest.mark.parametrize("form", FORMS)
def test_meta_does_not_say_which_response_was_chosen(tmp_path: Path, form: str) -> None:
    given = FORMS[form]
    if form == "other columns":
        given = without_id({**given, "messages": None})
    flipped = {**given, "chosen": given["rejected"], "rejected": given["chosen"]}
    first = one(source(tmp_path, [given])).sample
    assert first.meta == one(source(tmp_path, [flipped])).sample.meta


REFUSED = {
    "equal": ({**TEXTS, "rejected": "4 "}, "have the same text"),
    "empty": ({**TEXTS, "rejected": " "}, "'rejected' is empty"),
    "missing": ({**TEXTS, "rejected": None}, "'rejected' is missing"),
    "mixed": ({**TEXTS, "rejected": [BAD]}, "one is text and the other a list of turns"),
    "no list of turns": ({**TEXTS, "chosen": ["4"], "rejected": ["5"]}, "not of turns with role and content"),
    "no assistant": ({**TEXTS, "chosen": [USER], "rejected": [BAD]}, "the last turn of 'chosen' is not an assistant's"),
    "two prompts": ({"prompt": "3+3?", "chosen": [USER, GOOD], "rejected": [USER, BAD]}, "'prompt' is none of the turns before"),
    "other histories": ({"prompt": "2+2?", "chosen": [USER, GOOD], "rejected": [BAD]}, "differ before the last one"),
    "no prompt": ({"prompt": "", "chosen": [GOOD], "rejected": [BAD]}, "no turn of a user"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_one_pair_is_unreadable(tmp_path: Path, name: str) -> None:
    row, says = REFUSED[name]
    made = source(tmp_path, [TEXTS, row])
    _, fault = made.read()
    assert isinstance(fault, Unreadable)
    assert says in fault.error
    assert fault.line == 2


def test_columns_about_one_response_are_reported(tmp_path: Path) -> None:
    row = {**TEXTS, "score_chosen": 9, "score_rejected": 1, "chosen_model": "m"}
    (said,) = one(source(tmp_path, [row])).not_carried
    assert said.startswith("the columns 'score_chosen' and 'score_rejected'")


def test_system_prompt_and_tools_are_read(tmp_path: Path) -> None:
    tool = {"type": "function", "function": {"name": "add", "parameters": {}}}
    row = {**TEXTS, "system": "Be brief.", "tools": [tool]}
    made = source(tmp_path, [row])
    sample = one(made).sample
    assert sample.messages[0] == Message("system", "Be brief.")
    assert sample.tools == (tool,)
    assert without_id(made.restore(sample)) == row


def test_a_table_has_pairs_too(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text("prompt,chosen,rejected\n2+2?,4,5\n")
    sample = one(Csv(Csv.Config(path="d.csv"), tmp_path)).sample
    assert (sample.query, sample.response) == ("2+2?", "4")
    assert sample.rejected == Message("assistant", "5")


@pytest.mark.types("preference pairs (DPO) need their prompts")
def test_pairs_without_prompts_are_refused_with_a_remedy_that_works(tmp_path: Path) -> None:
    row = {"task": "2+2?", "chosen": "4", "rejected": "5"}
    with pytest.raises(SourceError, match="need their prompts") as error:
        source(tmp_path, [row]).rows.layout  # noqa: B018
    assert "`shape: preference` with `columns: {prompt: COLUMN}`" in str(error.value)
    made = source(tmp_path, [row], shape="preference", columns={"prompt": "task"})
    assert one(made).sample.query == "2+2?"


def test_the_chosen_answers_alone_can_be_read(tmp_path: Path) -> None:
    made = source(tmp_path, [TEXTS], columns={"prompt": "prompt", "response": "chosen"})
    sample = one(made).sample
    assert (sample.response, sample.rejected) == ("4", None)
    assert made.restore(sample)["rejected"] == "5"


# --- noise -------------------------------------------------------------------------------------------------------


def many(folder: Path, count: int = 20, **config: Any) -> JsonLines:
    rows = [{"prompt": f"{n}+1?", "chosen": f"{n + 1}", "rejected": f"{n}"} for n in range(count)]
    return source(folder, rows, **config)


def rows_of(made: Any) -> list[Row]:
    return [row for row in made.read() if isinstance(row, Row)]


def test_noise_flips_pairs_and_keeps_the_truth(tmp_path: Path) -> None:
    clean = rows_of(many(tmp_path))
    noisy = inject(clean, NoiseConfig(ratio=0.3), 0, "preference")
    flips = [row for row, before in zip(noisy, clean, strict=True) if row.sample != before.sample]
    assert len(flips) == 6
    for row, before in zip(noisy, clean, strict=True):
        assert row.truth == before.sample.response
        assert row.sample.why is None
        if row in flips:
            assert replace(row.sample.swap("back"), why=None) == before.sample


def test_a_file_of_flipped_pairs_is_read_with_its_truth(tmp_path: Path) -> None:
    counts = inject_file(
        many(tmp_path), tmp_path / "noisy.jsonl", NoiseConfig(ratio=0.5), kind="preference"
    )
    assert (counts.rows, counts.flipped, counts.unreadable) == (20, 10, 0)
    again = rows_of(JsonLines(JsonLines.Config(path="noisy.jsonl", truth="truth"), tmp_path))
    wrong = [row for row in again if row.truth != row.sample.response]
    assert len(wrong) == 10
    assert all(row.sample.rejected == Message("assistant", str(row.truth)) for row in wrong)


def test_the_truth_may_be_a_list_of_turns(tmp_path: Path) -> None:
    row = {**FORMS["turns"], "right": [BAD]}
    assert one(source(tmp_path, [row], truth="right")).truth == "5"


@pytest.mark.types("noise: «» is for rows with one response")
@pytest.mark.parametrize("given", [{"wrong": "other", "ratio": 0.2}, {"tokens": 0.1}])
def test_pairs_have_no_other_noise(tmp_path: Path, given: dict[str, Any]) -> None:
    with pytest.raises(SourceError, match="preference pairs are flipped: leave out") as error:
        inject(rows_of(many(tmp_path)), NoiseConfig.model_validate(given), 0, "preference")
    assert "type ratio: 0.2" in str(error.value)
    assert inject(rows_of(many(tmp_path)), NoiseConfig(ratio=0.2), 0, "preference")
