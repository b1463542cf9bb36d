"""SelfLabel, SelfSelect and the scheme of NoiseAL: every case by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from nfilter import Completion, Encodes, Failure, Message, Request, Sample, Scores, Verdict, View
from nfilter.testing import FakeContext, FakeGenerator, FakeTokenizer, check_sample_stage
from nfilter_selflabel.noiseal import NoiseAL, NoiseALConfig
from nfilter_selflabel.relabel import Relabel, RelabelConfig
from nfilter_selflabel.select import Select, SelectConfig


def pair(name: str, label: str, notes: dict[str, View] | None = None, **more: Any) -> Sample:
    messages = (Message("user", f"question {name}?"), Message("assistant", label))
    sample = Sample(name, messages, **more)
    for key, view in (notes or {}).items():
        sample = sample.note(key, view.to_json())
    return sample


def view(answer: str | None, text: str | None = None, **more: Any) -> View:
    return View(answer, text=answer or "" if text is None else text, **more)


ROWS = [
    pair("same", "It is 4", {"base": view("4", "four: 4")}),
    pair("other", "5", {"base": view("4", " The answer is 4. ")}),
    pair("silent", "5", {"base": View(None, text="well", failure=None)}),
    pair("failed", "5", {"base": View(None, failure="server: gone")}),
    pair("weak", "4", {"base": view("4").with_more(skipped="no better than chance")}),
    pair("missing", "4"),
    pair("pinned", "5", {"base": view("4")}, pinned=True),
]


def numbers(**models: Any) -> FakeContext:
    return FakeContext(answers="number", models=models)


def test_self_label_replaces_every_label_by_the_own_answer() -> None:
    done = {s.id: s for s in check_sample_stage(Relabel, RelabelConfig(), ROWS, numbers())}
    assert {name: sample.response for name, sample in done.items() if not sample.dropped} == {
        "same": "It is 4", "other": "4", "pinned": "5",
    }  # fmt: skip
    assert {name: sample.dropped for name, sample in done.items() if sample.dropped} == {
        "silent": "the model has no own answer: no answer can be read from the reply",
        "failed": "the model has no own answer: server: gone",
        "weak": "the model has no own answer: no better than chance",
        "missing": "the model has no own answer: there is no view 'base'",
    }
    assert done["other"].why == "the own answer replaces the label"


@pytest.mark.parametrize(
    ("write", "kind", "label"),
    [
        ("reply", "number", "The answer is 4."), ("answer", "number", "4"), ("auto", "number", "4"),
        ("auto", "text", "The answer is 4."), ("answer", "text", "4"),
    ],
)  # fmt: skip
def test_the_answer_or_the_whole_reply_is_written(write: Any, kind: str, label: str) -> None:
    read = numbers().answers
    answers: Any = SimpleNamespace(kind=kind, parse=read.parse, agree=read.agree)
    ctx = FakeContext(answers=answers)
    (done,) = check_sample_stage(Relabel, RelabelConfig(write=write), ROWS[1:2], ctx)
    assert done.response == label


def test_a_response_that_calls_tools_is_not_replaced_by_a_text() -> None:
    from nfilter import ToolCall

    called = Message("assistant", "", tool_calls=(ToolCall("add", "{}", "1"),))
    row = Sample("a", (Message("user", "q"), called)).note("base", view("4").to_json())
    (done,) = check_sample_stage(Relabel, RelabelConfig(), [row], numbers())
    assert done.dropped == "the response calls tools, and the own answer cannot replace it"


def test_self_select_keeps_labels_that_the_model_gives_itself() -> None:
    done = {s.id: s for s in check_sample_stage(Select, SelectConfig(), ROWS, numbers())}
    assert [name for name, sample in done.items() if sample.dropped is None] == ["same", "pinned"]
    assert [sample.response for sample in done.values()] == [row.response for row in ROWS]
    verdicts = {name: Verdict.of(sample, "check") for name, sample in done.items()}
    found = {name: (v.flagged, v.noise_score) for name, v in verdicts.items() if v}
    assert found == {
        row.id: (row.id not in ("same", "pinned"), float(row.id != "same")) for row in ROWS
    }
    assert done["other"].dropped == "the own answer differs from the label"
    assert str(done["failed"].dropped).endswith("server: gone")
    assert Select.contract(SelectConfig(view="v")).reads == {"v"}


class Table(FakeTokenizer):
    """Losses by the response's first character; the response has an end token."""

    def score(self, samples: Any, adapter: Any = None) -> Any:
        out = []
        for one in samples:
            losses = np.where(one.predicted, np.float32(0), np.float32("nan"))
            losses[np.flatnonzero(one.response)[:-1]] = float(
                chr(one.ids[np.flatnonzero(one.response)[0]])
            )
            out.append(losses.astype(np.float32))
        return out


@pytest.mark.parametrize(
    ("keep", "names"), [(0.01, ["b"]), (0.5, ["b", "c"]), (0.75, ["a", "b", "c"])]
)
def test_self_select_by_loss_keeps_the_lowest_mean_losses(keep: float, names: list[str]) -> None:
    # Means over the response and its end: a 2, b 0.5, c 0.5, d 6.
    rows = [pair("d", "888"), pair("c", "1"), pair("b", "1"), pair("a", "333")]
    ctx = FakeContext(models={"student": Table()})
    done = check_sample_stage(Select, SelectConfig(by="loss", keep=keep), rows, ctx)
    assert sorted(sample.id for sample in done if sample.dropped is None) == names
    verdicts = {sample.id: Verdict.of(sample, "check") for sample in done}
    scores = {name: each.noise_score for name, each in verdicts.items() if each}
    # Ties are ordered by id.
    assert scores == pytest.approx({"b": 0, "c": 1 / 3, "a": 2 / 3, "d": 1})
    needs = Select.contract(SelectConfig(by="loss", model="m")).needs
    assert [(need.model, need.capability) for need in needs] == [("m", Encodes), ("m", Scores)]


def two(name: str, label: str, small: str | None, large: str | None, **more: Any) -> Sample:
    return pair(name, label, {"small": view(small), "large": view(large)}, **more)


TWO = [
    two("clean1", "1", "1", "1"),
    two("clean2", "2", "2", "2"),
    two("wrong", "9", "3", "3"),
    two("split", "4", "4", "5"),
    two("none", "6", None, None),
    two("pinned", "9", "7", "7", pinned=True),
]


def noiseal(answer: Any, rows: Any = None, **config: Any) -> tuple[dict[str, Sample], Any]:
    llm = FakeGenerator(answer)
    settings = NoiseALConfig(llm="expert", **config)
    done = check_sample_stage(NoiseAL, settings, TWO if rows is None else rows, numbers(expert=llm))
    return {sample.id: sample for sample in done}, llm


def text_of(request: Request) -> str:
    return "\n".join(message.content for message in request.messages)


def test_rows_without_agreement_are_relabelled_with_clean_rows_as_examples() -> None:
    replies = {"wrong": "3", "split": "Answer: 4", "none": "it is 8"}
    done, llm = noiseal(lambda request: replies[request.sample_id], k=2)
    assert {name: sample.response for name, sample in done.items()} == {
        "clean1": "1", "clean2": "2", "wrong": "3", "split": "4", "none": "it is 8", "pinned": "9",
    }  # fmt: skip
    assert all(sample.dropped is None for sample in done.values())
    assert {request.sample_id for request in llm.requests} == {"wrong", "split", "none"}
    shown = text_of(next(each for each in llm.requests if each.sample_id == "wrong"))
    for name, label in (("clean1", "1"), ("clean2", "2")):
        assert f"Question: question {name}?\nResponse: {label}\n" in shown
    assert "question wrong?" in shown
    assert "question split?" not in shown
    assert "9" not in shown.replace(_codes(shown), "")
    verdicts = {name: Verdict.of(sample, "noiseal") for name, sample in done.items()}
    assert {name: (v.flagged, v.noise_score) for name, v in verdicts.items() if v} == {
        "clean1": (False, 0.0), "clean2": (False, 0.0), "wrong": (True, 1.0), "split": (True, 0.5), "none": (True, 1.0),
        "pinned": (False, 1.0),
    }  # fmt: skip
    proposed = {name: v.more["answer"] for name, v in verdicts.items() if v and v.flagged}
    assert proposed == {"wrong": "3", "split": "4", "none": "8"}


def _codes(shown: str) -> str:
    return shown.split("END ", 1)[1].split(maxsplit=1)[0].strip('".')


def test_replies_that_cannot_be_read_drop_the_row() -> None:
    replies = {
        "wrong": Completion("", finish="failed", failure=Failure("server", "gone")),
        "split": Completion("it is 12", finish="length"),
        "none": "no idea",
    }
    done, _ = noiseal(lambda request: replies[request.sample_id])
    assert {name: sample.dropped for name, sample in done.items() if sample.dropped} == {
        "wrong": "the model has no own answer: server: gone",
        "split": "the model has no own answer: cut off at max_tokens",
        "none": "the model has no own answer: no answer can be read from the reply",
    }


def test_without_a_clean_row_the_prompt_has_no_examples() -> None:
    done, llm = noiseal(lambda request: "3", TWO[2:3])
    assert done["wrong"].response == "3"
    assert "BEGIN" not in text_of(llm.requests[0])
    calm, llm = noiseal(lambda request: "3", TWO[:2])
    assert llm.requests == []
    assert all(sample.dropped is None for sample in calm.values())


def test_examples_are_drawn_per_row_and_at_most_k() -> None:
    rows = [two(f"c{i}", f"{i}", f"{i}", f"{i}") for i in range(30)]
    rows += [two(f"w{i}", "99", "1", "2") for i in range(5)]
    _, llm = noiseal(lambda request: "3", rows, k=3)
    found = {request.sample_id: text_of(request) for request in llm.requests}
    assert {text.count("\nResponse: ") - 0 for text in found.values()} == {3}
    drawn = {text[: text.index("question w")].split("END ", 1)[1] for text in found.values()}
    assert len(drawn) == 5
