"""What a run says: where, to whom, and never as markup."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from nfilter.progress import LineReporter, QuietReporter, RunLog, TerminalReporter, reporter_for

MARKUP = "[bold red]not markup[/] [/x] {x} é"


def test_lines_elsewhere_and_warnings_alone_when_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = reporter_for()
    assert isinstance(reporter, LineReporter)
    reporter.info("one")
    reporter.warning("two")
    assert capsys.readouterr() == ("", "one\nwarning: two\n")
    quiet = reporter_for(quiet=True)
    assert type(quiet) is QuietReporter
    quiet.info("one")
    quiet.warning("two")
    with quiet.progress(3, "work") as bar:
        bar.advance()
    assert capsys.readouterr() == ("", "warning: two\n")


def test_bars_on_a_terminal_nest_and_read_no_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.console import Console

    reporter = TerminalReporter()
    shown = io.StringIO()
    reporter.console = Console(file=shown, force_terminal=True, width=120, color_system=None)
    with reporter.progress(2, MARKUP) as outer:
        outer.advance()
        with reporter.progress(None, "inner") as inner:
            inner.advance(5)
            reporter.info(MARKUP)
        outer.advance()
    reporter.warning(MARKUP)
    text = shown.getvalue()
    assert text.count(MARKUP) >= 3
    assert f"warning: {MARKUP}" in text
    with reporter.progress(1, "again") as bar:
        bar.advance()


def test_a_bar_ends_with_what_was_raised_under_it() -> None:
    reporter = TerminalReporter()
    with pytest.raises(RuntimeError, match="inside"), reporter.progress(2, "work"):
        raise RuntimeError("inside")
    with reporter.progress(2, "work"):
        pass


def test_the_log_keeps_what_is_said(tmp_path: Path) -> None:
    log = RunLog(QuietReporter(io.StringIO()), tmp_path / "run.log")
    log.info("one")
    log.warning("two")
    lines = (tmp_path / "run.log").read_text(encoding="utf-8").splitlines()
    assert [line.split(" ", 1)[1] for line in lines] == ["info one", "warning two"]
    assert all(len(line.split(" ")[0]) == len("2026-01-31T00:00:00Z") for line in lines)
