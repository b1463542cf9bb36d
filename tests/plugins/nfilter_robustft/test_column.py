"""``views.column``: single answers, lists of draws, numbers, and cells without an answer."""

import pytest
from pydantic import ValidationError

from nfilter import Message, RecipeError, Sample, View
from nfilter.testing import FakeContext, check_sample_stage
from nfilter_robustft.check import Check
from nfilter_robustft.check_settings import CheckConfig
from nfilter_robustft.column import Column, ColumnConfig
from nfilter_robustft.confidence import probability_of


def row(name="a", label="4", **meta):
    return Sample(name, (Message("user", "2+2?"), Message("assistant", label)), meta=meta)


def note_of(sample, answers="number", **config):
    config = ColumnConfig(column="gpt4", **config)
    ctx = FakeContext(answers=answers)
    (out,) = check_sample_stage(Column, config, [sample], ctx)
    return out.notes[config.into]


@pytest.mark.parametrize(
    ("cell", "answer"),
    [
        ("The answer is 5.", "5"),
        ("<think>Is it 9? No.</think>The answer is 5.", "5"),
        (5, "5"),
        (0, "0"),
        (["5"], "5"),
        (["4", "5", "5.0"], "5"),
        (["no idea", "5", None], "5"),
        ([4, 5], "4"),  # ties: the first draw
        ("no idea", None),
    ],
)
def test_answer_of_a_cell(cell, answer):
    note = note_of(row(gpt4=cell))
    assert note["answer"] == answer
    assert note["failure"] is None
    assert note["calls"] == 0


@pytest.mark.parametrize(
    ("cell", "failure"),
    [
        (None, "column 'gpt4' is empty in this row"),
        ("  ", "column 'gpt4' is empty in this row"),
        ([], "column 'gpt4' is empty in this row"),
        (True, "column 'gpt4' contains no string or number: 'True'"),
        ({"a": "5"}, "column 'gpt4' contains no string or number"),
    ],
)
def test_cell_without_an_answer_has_a_failure(cell, failure):
    note = note_of(row(gpt4=cell))
    assert note["answer"] is None
    assert note["failure"].startswith(failure)


def test_majority_draw_determines_nll_and_length():
    sample = row(gpt4=["4", "5", "the answer is 5"], nll=[0.1, 0.2, 0.3], n=[1, 2, 3])
    note = note_of(sample, nll="nll", length="n")
    assert (note["answer"], note["text"], note["nll"], note["length"]) == ("5", "5", 0.2, 2)
    assert (note["agreement"], note["samples"]) == (pytest.approx(2 / 3), 3)
    assert probability_of(View.from_json(note)) == pytest.approx(0.670320, abs=1e-6)


@pytest.mark.parametrize(
    ("cell", "nll", "expected"),
    [
        ("5", 0.25, 0.25),
        ("5", "0.25", 0.25),
        ("5", 0, 0.0),
        ("5", [0.25], 0.25),
        ("5", None, None),
        ("5", -0.5, None),
        ("5", "nan", None),
        ("5", "low", None),
        ("5", True, None),
        (["5", "5"], 0.25, None),  # one number for two draws
        (["5", "5"], [0.25], None),
    ],
)
def test_valid_and_invalid_nll(cell, nll, expected):
    assert note_of(row(gpt4=cell, nll=nll), nll="nll")["nll"] == expected


def test_option_is_parsed_like_a_reply():
    sample = Sample(
        "a", (Message("user", "?"), Message("assistant", "A")),
        meta={"options": ["red", "green"], "gpt4": "I think it is B."},
    )  # fmt: skip
    assert note_of(sample, "choice")["answer"] == "B"


def test_check_uses_columns_as_views():
    rows = [row(f"s{i}", gpt4="5" if i % 4 == 0 else "4", qwen=["4", "4"]) for i in range(40)]
    ctx = FakeContext(answers="number")
    for name in ("gpt4", "qwen"):
        rows = check_sample_stage(Column, ColumnConfig(column=name), rows, ctx)
    out = check_sample_stage(Check, CheckConfig(views=["gpt4", "qwen"], vote="all"), rows, ctx)
    assert [s.notes["check"]["flagged"] for s in out] == [i % 4 == 0 for i in range(40)]


def test_missing_column_raises_with_suggestion():
    stage = Column(ColumnConfig(column="gpt-4"))
    with pytest.raises(
        RecipeError, match="column: no row has a column 'gpt-4'; did you mean 'gpt4'"
    ):
        stage.fit([row(gpt4="5")], FakeContext())
    stage = Column(ColumnConfig(column="gpt4", nll="loss"))
    with pytest.raises(RecipeError, match="nll: no row has a column 'loss'"):
        stage.fit([row(gpt4="5")], FakeContext())


def test_rows_with_a_value_are_counted():
    ctx = FakeContext()
    state = Column(ColumnConfig(column="gpt4")).fit(
        [row(gpt4="5"), row("b"), row("c", gpt4="")], ctx
    )
    assert state.values["report"] == {"view_column": {"rows": 3, "with_a_value": 1}}
    assert ctx.log.lines == [("info", "1 of 3 rows have an answer in column 'gpt4'")]
    assert Column(ColumnConfig(column="gpt4")).fit([], ctx).values["report"]


def test_contract_and_config():
    contract = Column.contract(ColumnConfig(column="gpt4"))
    assert contract.writes == contract.views == {"gpt4"}
    assert not contract.needs
    assert Column.contract(ColumnConfig(column="gpt4", into="x")).writes == {"x"}
    with pytest.raises(ValidationError, match="nll: COLUMN"):
        ColumnConfig(column="gpt4", length="n")
    with pytest.raises(ValidationError, match="at least 1 character"):
        ColumnConfig(column="")
