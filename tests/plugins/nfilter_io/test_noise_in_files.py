"""Noise injected into files: the right label is in the truth column and nowhere else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nfilter import Row
from nfilter.noise.labels import NoiseConfig, flipped, inject, inject_file

OPTIONS = ["iron", "copper", "gold", "tin"]
N = 60
SHAPES: dict[str, tuple[str, list[dict[str, Any]]]] = {
    "letter": ("choice", [{"question": f"q{n}", "options": OPTIONS, "answer": "ABCD"[n % 4]} for n in range(N)]),
    "text": ("choice", [{"question": f"q{n}", "options": OPTIONS, "answer": OPTIONS[n % 4]} for n in range(N)]),
    "index": ("choice", [{"question": f"q{n}", "choices": OPTIONS, "answer": n % 4} for n in range(N)]),
    "number": ("number", [{"question": f"q{n}", "answer": f"so\n#### {n * 7 + 1000}"} for n in range(N)]),
    "exact": ("exact", [{"prompt": f"q{n}", "response": f"answer-{n:03}-end"} for n in range(N)]),
    "chat": ("text", [
        {"messages": [{"role": "user", "content": f"q{n}"}, {"role": "assistant", "content": f"answer-{n:03}-end"}]}
        for n in range(N)
    ]),
}  # fmt: skip


@pytest.mark.parametrize("name", SHAPES)
def test_no_sample_contains_its_right_label(name: str, make: Any) -> None:
    kind, rows = SHAPES[name]
    noisy = inject(list(make("jsonl", rows).read()), NoiseConfig(ratio=0.5), 0, kind)  # type: ignore[arg-type]
    wrong = [row for row in noisy if row.sample.response != row.truth]
    assert len(wrong) == N // 2
    for row in wrong:
        if kind != "choice":  # a single letter occurs anywhere
            assert str(row.truth) not in repr(row.sample)
        assert all(row.sample.meta.get(column) is None for column in ("answer", "response"))


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
@pytest.mark.parametrize("name", SHAPES)
def test_a_noisy_file_is_read_with_its_truth(
    name: str, suffix: str, make: Any, tmp_path: Path
) -> None:
    kind, rows = SHAPES[name]
    source = make("jsonl", rows)
    before = [item.sample for item in source.read() if isinstance(item, Row)]
    out = tmp_path / f"noisy{suffix}"
    done = inject_file(source, out, NoiseConfig(ratio=0.3), seed=1, kind=kind)  # type: ignore[arg-type]
    assert (done.rows, done.flipped, done.unreadable) == (N, 18, 0)
    from nfilter_io.sources import Csv, JsonLines

    cls = Csv if suffix == ".csv" else JsonLines
    again = list(cls(cls.Config(path=out.name, truth="truth"), tmp_path).read())
    assert all(isinstance(row, Row) for row in again)
    assert [row.sample.id for row in again] == [sample.id for sample in before]
    assert [row.truth for row in again] == [sample.response for sample in before]
    differ = {at for at, row in enumerate(again) if row.sample.response != row.truth}
    assert differ == flipped(N, 0.3, 1)
    if suffix == ".jsonl":
        first = json.loads(out.read_text().splitlines()[0])
        assert set(first) == {"id", *rows[0], "truth"}
