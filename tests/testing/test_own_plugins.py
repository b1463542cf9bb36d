"""The plugins of this distribution pass the checks that it asks of others."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nfilter import (
    Exported,
    Judged,
    JudgedTokens,
    Message,
    MetricInput,
    Request,
    Row,
    Sample,
    Sampling,
    Site,
    TokenMetricInput,
)
from nfilter.registry.loading import Plugins, load
from nfilter.testing import (
    FakeTokenizer,
    check_backend,
    check_class,
    check_exporter,
    check_metric,
    check_source,
)

PLUGINS: Plugins = load(block=())
SAMPLES = [
    Sample(str(n), (Message("user", f"{n}+1"), Message("assistant", str(n + 1)))) for n in range(4)
]
RUN = Exported(SAMPLES, FakeTokenizer().encode(SAMPLES), ())


def of(kind: str) -> list[Any]:
    return [pytest.param(item, id=f"{kind} {item.name}") for item in PLUGINS.of_kind(kind)]


@pytest.mark.parametrize("item", [each for kind in ("stage", "loss", "trainer", "backend", "tool") for each in of(kind)])  # fmt: skip
def test_classes_are_complete(item: Any) -> None:
    check_class(item.kind, item.cls)


FILES = {
    "jsonl": ("rows.jsonl", '{"prompt": "1+1", "response": "2"}\n{"prompt": "2+1", "response": "3"}\n'),
    "json": ("rows.json", '[{"instruction": "1+1", "input": "", "output": "2"}]'),
    "csv": ("rows.csv", "question,answer\n1+1,2\n2+1,3\n"),
}  # fmt: skip


@pytest.mark.parametrize("name", list(FILES))
def test_sources_read_twice_the_same_and_put_rows_back(name: str, tmp_path: Path) -> None:
    file, text = FILES[name]
    (tmp_path / file).write_text(text, encoding="utf-8")
    cls = PLUGINS.get("source", name).cls
    rows = check_source(cls, cls.Config(path=file), tmp_path)
    assert all(isinstance(row, Row) for row in rows)


def test_the_source_of_the_embedded_world_does(tmp_path: Path) -> None:
    cls = PLUGINS.get("source", "tiny").cls
    assert len(check_source(cls, cls.Config(split="train", rows=8), tmp_path)) == 8


@pytest.mark.parametrize("item", of("exporter"))
def test_exporters_write_the_same_twice(item: Any, tmp_path: Path) -> None:
    pairs = item.name == "trl_dpo"
    samples = [
        replace(sample, rejected=Message("assistant", "0")) if pairs else sample
        for sample in SAMPLES
    ]
    run = replace(RUN, samples=samples)
    said = check_exporter(item.cls, item.cls.Config(), run, tmp_path / "encoded")
    assert said[0].startswith("train.jsonl: 4 ")
    if getattr(item.cls, "takes_rows", False):
        rows = Exported(samples, (), (), encoded=False)
        check_exporter(item.cls, item.cls.Config(), rows, tmp_path / "rows")
        lines = (tmp_path / "rows" / "first" / "train.jsonl").read_text().splitlines()
        column = "chosen" if pairs else "messages"
        assert [json.loads(line)[column][-1]["content"] for line in lines] == list("1234")


@pytest.mark.parametrize("item", of("metric"))
def test_metrics_give_figures_that_a_file_can_hold(item: Any) -> None:
    noted = [
        sample.note("check", {"flagged": n == 1, "noise_score": n / 4, "agree": {}}).note(
            "view", {"answer": sample.response}
        )
        for n, sample in enumerate(SAMPLES)
    ]
    judged = [Judged(a, b, a.response, n != 1, True) for n, (a, b) in enumerate(zip(SAMPLES, noted, strict=True))]  # fmt: skip
    right: dict[str, dict[str, bool | None]] = {"view": {sample.id: True for sample in SAMPLES}}
    whole = MetricInput(judged, 4, ["check"], ["view"], [], right, {"01-x": 4}, {"01-x": 40}, 0)
    empty = MetricInput([], 4, [], [], [], {}, {}, {}, 0)
    tokens = [
        JudgedTokens(sample, sample.response, {"filler": sample.response}) for sample in RUN.tokens
    ]
    found = 0
    for method, data in (
        ("compute", whole),
        ("compute", empty),
        ("compute_tokens", TokenMetricInput(tokens, (), 0)),
    ):
        if hasattr(item.cls, method):
            check_metric(item.cls, data)
            found += 1
    assert found


def test_the_local_backend_gives_one_answer_for_each_thing_asked(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    cls = PLUGINS.get("backend", "hf").cls
    requests = [
        Request(sample.messages[:1], sampling=Sampling(max_tokens=4), logprobs=True)
        for sample in SAMPLES
    ]
    able = check_backend(
        cls,
        cls.Config(model="tiny"),
        Site(tmp_path, PLUGINS.models),
        requests=requests,
        texts=["a heron", "an otter"],
        samples=SAMPLES,
    )
    assert able.logprobs
