"""Conformance checks of sources, exporters and metrics."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nfilter.api.data import Exported
from nfilter.api.metrics import MetricInput, TokenMetricInput
from nfilter.api.types import JSON, Row, Sample, Unreadable
from nfilter.registry.contracts import check_figures
from nfilter.testing.conformance import check_class
from nfilter.testing.replay import with_own_randomness


def check_source(source: type[Any], config: Any, base_dir: Path) -> list[Row | Unreadable]:
    """Read a source twice and restore every row to its original shape; return the rows.

    Raises:
        AssertionError: if the class lacks a member, or breaks a rule.
    """
    check_class("source", source)
    name = source.name
    problems = list(source.problems(config, base_dir))
    assert not problems, f"{name}: problems returned {problems}; check_source needs readable data"
    columns = source.columns(config, base_dir)
    assert isinstance(columns, Mapping), (
        f"{name}: columns must return a mapping of roles to columns"
    )
    items = with_own_randomness(name, lambda: list(source(config, base_dir).read()))
    again = list(source(config, base_dir).read())
    assert items, f"{name}: no row was read"
    for row in items:
        assert isinstance(row, Row | Unreadable), (
            f"{name}: read yielded {row!r:.60}, not a Row or Unreadable"
        )
    rows = [row for row in items if isinstance(row, Row)]
    ids = Counter(row.sample.id for row in rows)
    twice = [key for key, count in ids.items() if count > 1 or not isinstance(key, str) or not key]
    assert not twice, f"{name}: the id {twice[0]!r} is empty, not a text, or not unique"
    same = [row.sample.id for row in again if isinstance(row, Row)] == list(ids)
    assert same, f"{name}: a second reading yields other ids, or another order"
    built = source(config, base_dir)
    for row in rows:
        _check_restored(name, built, row.sample)
    return items


def _check_restored(name: str, built: Any, sample: Sample) -> None:
    assert sample.dropped is None, f"{name}: row {sample.id!r} is already dropped"
    assert not sample.notes, (
        f"{name}: row {sample.id!r} has notes; put the source's values into meta"
    )
    restored = built.restore(sample)
    _check_json(name, f"restore of {sample.id!r}", restored)
    assert restored.get("id") == sample.id, f"{name}: restore returns no 'id': {sample.id!r}"
    mark = "7319"
    try:
        changed = built.restore(sample.relabel(mark, "a test"))
    except ValueError:  # a multiple-choice shape can only restore one of its options
        return
    text = json.dumps(changed, ensure_ascii=False)
    assert mark in text or text != json.dumps(restored, ensure_ascii=False), (
        f"{name}: restore of {sample.id!r} does not contain the sample's response"
    )


def check_exporter(exporter: type[Any], config: Any, run: Exported, out: Path) -> list[str]:
    """Export ``run`` twice, into two folders under ``out``; return the exporter's messages.

    Raises:
        AssertionError: if the class lacks a member, writes no file or different files each time, or returns no message.
    """
    check_class("exporter", exporter)
    messages: list[str] = []
    written: list[dict[str, bytes]] = []
    for number in ("first", "second"):
        folder = out / number
        folder.mkdir(parents=True)
        messages = list(exporter(config).export(run, folder))
        written.append(
            {
                path.relative_to(folder).as_posix(): path.read_bytes()
                for path in sorted(folder.rglob("*"))
                if path.is_file()
            }
        )
    assert written[0], f"{exporter.name}: it wrote no file into its folder"
    assert written[0] == written[1], (
        f"{exporter.name}: the second export of the same run has other files"
    )
    assert messages, f"{exporter.name}: the method export must return a line per file"
    assert all(isinstance(line, str) for line in messages), (
        f"{exporter.name}: the method export must return texts"
    )
    return messages


def check_metric(metric: type[Any], data: MetricInput | TokenMetricInput) -> Mapping[str, JSON]:
    """Compute a metric twice; return its figures.

    Raises:
        AssertionError: if the class lacks a member, or returns other figures the second time.
        ContractError: if its figures are not JSON values by name.
    """
    check_class("metric", metric)
    method = "compute" if isinstance(data, MetricInput) else "compute_tokens"
    assert hasattr(metric, method), f"{metric.name}: it has no {method}"
    figures, again = with_own_randomness(
        metric.name,
        lambda: [check_figures(metric.name, getattr(metric(), method)(data)) for _ in range(2)],
    )
    assert json.dumps(figures) == json.dumps(again), (
        f"{metric.name}: the second computation on the same data returns other figures"
    )
    return figures


def _check_json(name: str, what: str, value: object) -> None:
    assert isinstance(value, Mapping), f"{name}: {what} returned {value!r:.60}, not a mapping"
    try:
        json.dumps(dict(value), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise AssertionError(f"{name}: {what} is not JSON: {error}") from error
