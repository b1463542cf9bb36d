"""Warnings of a run and of other libraries: kept, counted, shown once."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import pytest

from nfilter.engine.foreign_warnings import shown_once
from nfilter.progress import QuietReporter, RunLog
from nfilter.store.warnings import RunWarnings


def test_warnings_are_counted_by_stage_and_outlive_the_process(tmp_path: Path) -> None:
    first = RunWarnings(tmp_path / "w.json")
    for stage, text in (("01-a", "x"), ("02-b", "x"), ("01-a", "x"), ("01-a", "y\n\ud800")):
        first.add(stage, text)
    again = RunWarnings(tmp_path / "w.json")
    assert (
        again.rows()
        == first.rows()
        == [
            {"stage": "01-a", "text": "x", "times": 2},
            {"stage": "02-b", "text": "x", "times": 1},
            {"stage": "01-a", "text": "y\n\ud800", "times": 1},
        ]
    )
    again.restart("01-a")
    assert [said["stage"] for said in RunWarnings(tmp_path / "w.json").rows()] == ["02-b"]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{}",
        "[1]",
        '[{"stage": "a"}]',
        "[" * 5000,
        '[{"stage": "a", "text": "b", "times": "x"}]',
    ],
)
def test_a_damaged_file_of_warnings_is_begun_anew(tmp_path: Path, content: str) -> None:
    (tmp_path / "w.json").write_text(content)
    warned = RunWarnings(tmp_path / "w.json")
    assert warned.rows() == []
    warned.add("a", "b")
    assert RunWarnings(tmp_path / "w.json").rows() == [{"stage": "a", "text": "b", "times": 1}]


def test_foreign_warnings_are_shown_once_and_all_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = RunLog(QuietReporter(), tmp_path / "run.log")
    logger = logging.getLogger("a.library")
    handler = logging.StreamHandler()
    logger.addHandler(handler)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            with shown_once(log.reporter.warning, log.keep):
                for _ in range(3):
                    logger.warning("it is %s", "deprecated")
                    logger.info("no warning")
                    warnings.warn("use the other one", FutureWarning, stacklevel=1)
                logger.warning("another thing")
            inside = capsys.readouterr().err
            for _ in range(2):
                logger.warning("behind it")
    finally:
        logger.removeHandler(handler)
    assert inside.count("it is deprecated\n") == 1
    assert inside.count("another thing\n") == 1
    assert inside.count("warning: test_warnings: FutureWarning: use the other one\n") == 1
    kept = (tmp_path / "run.log").read_text()
    assert kept.count("warning a.library: it is deprecated\n") == 3
    assert kept.count("warning test_warnings: FutureWarning: use the other one\n") == 3
    assert "no warning" not in kept
    # Behind the block all is as it was.
    assert capsys.readouterr().err.count("behind it\n") == 2
    assert "behind it" not in (tmp_path / "run.log").read_text()
    assert log.warned.rows() == []
