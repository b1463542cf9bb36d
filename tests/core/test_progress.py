"""What a run says: where, to whom, and never as markup."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from nfilter.progress import (
    LineReporter,
    QuietReporter,
    RunLog,
    TerminalReporter,
    bytes_on,
    reporter_for,
)

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


def test_a_note_is_asked_when_the_bar_is_drawn_and_at_no_other_time() -> None:
    reporter, shown, asked = TerminalReporter(), io.StringIO(), [0]
    reporter.console = Console(file=shown, force_terminal=True, width=120, color_system=None)

    def note() -> str:
        asked[0] += 1
        return f"[b]${asked[0]}.00"

    with reporter.progress(5000, "answers", note) as bar:
        for _ in range(5000):
            bar.advance()
    assert "[b]$1.00" in shown.getvalue()
    assert f"[b]${asked[0]}.00" in shown.getvalue()
    assert asked[0] < 500  # as often as it is drawn, not as often as it advances
    with reporter.progress(1, "others"):
        pass
    assert "$" not in shown.getvalue().partition("others")[2]


def test_a_note_is_whole_on_a_wide_terminal_and_its_beginning_on_a_narrow_one() -> None:
    seen = {}
    told = "$12.34 of $50.00, $6.72 held"
    for width in (80, 120):
        reporter, shown = TerminalReporter(), io.StringIO()
        reporter.console = Console(file=shown, force_terminal=True, width=width, color_system=None)
        with reporter.progress(25_600, "01-robustft.answer: expert answers", lambda: told) as bar:
            bar.advance(12_800)
        seen[width] = shown.getvalue()
        assert "/25600" in seen[width]
    assert "$12.34 of $50.00" in seen[80]
    assert "held" not in seen[80]
    assert "$12.34 of $50.00, $6.72 held" in seen[120]


def test_bytes_are_shown_in_their_units() -> None:
    reporter, shown = TerminalReporter(), io.StringIO()
    reporter.console = Console(file=shown, force_terminal=True, width=120, color_system=None)
    shows = bytes_on(lambda: reporter)
    with shows(45_600_000, "rows.jsonl from data.example.org") as bar:
        bar.advance(12_300_000)
        with reporter.progress(30, "rows") as rows:
            rows.advance(12)
            with reporter.progress(1, "a bar that begins draws all"):
                pass
    assert "12.3/45.6 MB" in shown.getvalue()
    assert "12/30" in shown.getvalue()
    with shows(None, "rows.jsonl from data.example.org") as bar:
        bar.advance(2_500)
        with reporter.progress(1, "a bar that begins draws all"):
            pass
    assert "2.5 kB" in shown.getvalue()


def test_bytes_are_shown_on_a_terminal_alone(capsys: pytest.CaptureFixture[str]) -> None:
    for quiet in (False, True):
        with bytes_on(lambda quiet=quiet: reporter_for(quiet=quiet))(10, "rows.jsonl") as bar:
            bar.advance(10)
    assert capsys.readouterr() == ("", "")


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
