"""Conformance checks of sources, exporters and metrics."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nfilter.api.metrics import MetricInput, TokenMetricInput
from nfilter.api.stages import Exported
from nfilter.api.types import JSON, Row, Sample, Unreadable
from nfilter.registry.contracts import check_figures
from nfilter.testing.conformance import check_class
from nfilter.testing.replay import with_own_randomness


def check_source(source: type[Any], config: Any, base_dir: Path) -> list[Row | Unreadable]:
    """Read a source twice and put every row back in its own shape. Returns what was read.

    Raises:
        AssertionError: when the class lacks a member, or a rule is broken.
    """
    check_class("source", source)
    name = source.name
    problems = list(source.problems(config, base_dir))
    assert not problems, (
        f"{name}: problems gives {problems}; check_source wants data that can be read"
    )
    columns = source.columns(config, base_dir)
    assert isinstance(columns, Mapping), f"{name}: columns gives a mapping of roles to columns"
    found = with_own_randomness(name, lambda: list(source(config, base_dir).read()))
    again = list(source(config, base_dir).read())
    assert found, f"{name}: no row was read"
    for row in found:
        assert isinstance(row, Row | Unreadable), (
            f"{name}: read gave {row!r:.60}, no Row or Unreadable"
        )
    rows = [row for row in found if isinstance(row, Row)]
    ids = Counter(row.sample.id for row in rows)
    twice = [key for key, count in ids.items() if count > 1 or not isinstance(key, str) or not key]
    assert not twice, f"{name}: the id {twice[0]!r} is empty, no text, or that of two rows"
    same = [row.sample.id for row in again if isinstance(row, Row)] == list(ids)
    assert same, f"{name}: a second reading gave other ids, or another order"
    built = source(config, base_dir)
    for row in rows:
        _check_restored(name, built, row.sample)
    return found


def _check_restored(name: str, built: Any, sample: Sample) -> None:
    assert sample.dropped is None, f"{name}: row {sample.id!r} comes dropped"
    assert not sample.notes, (
        f"{name}: row {sample.id!r} comes with notes; what a source knows goes into meta"
    )
    restored = built.restore(sample)
    _check_json(name, f"restore of {sample.id!r}", restored)
    assert restored.get("id") == sample.id, f"{name}: restore gives no 'id': {sample.id!r}"
    mark = (
        "7319"  # in shapes where a response is one of several options, only such a one comes back
    )
    try:
        changed = built.restore(sample.relabel(mark, "a test"))
    except ValueError:
        return
    held = json.dumps(changed, ensure_ascii=False)
    assert mark in held or held != json.dumps(restored, ensure_ascii=False), (
        f"{name}: restore of {sample.id!r} does not put the sample's response back in place"
    )


def check_exporter(exporter: type[Any], config: Any, run: Exported, out: Path) -> list[str]:
    """Export ``run`` twice, into two folders under ``out``. Returns what the exporter said.

    Raises:
        AssertionError: when the class lacks a member, writes nothing or other files each time, or says nothing.
    """
    check_class("exporter", exporter)
    said: list[str] = []
    written: list[dict[str, bytes]] = []
    for number in ("first", "second"):
        folder = out / number
        folder.mkdir(parents=True)
        said = list(exporter(config).export(run, folder))
        written.append(
            {
                path.relative_to(folder).as_posix(): path.read_bytes()
                for path in sorted(folder.rglob("*"))
                if path.is_file()
            }
        )
    assert written[0], f"{exporter.name}: it wrote no file into the folder that it was given"
    assert written[0] == written[1], (
        f"{exporter.name}: the same run gave other files the second time"
    )
    assert said, f"{exporter.name}: export returns a line on each file"
    assert all(isinstance(line, str) for line in said), f"{exporter.name}: export returns texts"
    return said


def check_metric(metric: type[Any], data: MetricInput | TokenMetricInput) -> Mapping[str, JSON]:
    """Compute a metric twice. Returns its figures.

    Raises:
        AssertionError: when the class lacks a member, or gives other figures the second time.
        ContractError: when its figures are not JSON values by name.
    """
    check_class("metric", metric)
    method = "compute" if isinstance(data, MetricInput) else "compute_tokens"
    assert hasattr(metric, method), f"{metric.name}: it has no {method}"
    figures, again = with_own_randomness(
        metric.name,
        lambda: [check_figures(metric.name, getattr(metric(), method)(data)) for _ in range(2)],
    )
    assert json.dumps(figures) == json.dumps(again), (
        f"{metric.name}: the same data gave other figures the second time"
    )
    return figures


def _check_json(name: str, what: str, value: object) -> None:
    assert isinstance(value, Mapping), f"{name}: {what} gave {value!r:.60}, no mapping"
    try:
        json.dumps(dict(value), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise AssertionError(f"{name}: {what} is no JSON: {error}") from error
