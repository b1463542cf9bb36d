"""Progress and log lines: bars with rate and time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Protocol

from nfilter.api.errors import StoreError
from nfilter.api.stages import Progress
from nfilter.store.files import unwritten
from nfilter.store.warnings import Warned

_WIDE = 100  # columns that leave room for a bar and a whole note


class Reporter(Protocol):
    """Where a run says what it does."""

    def info(self, text: str) -> None: ...

    def warning(self, text: str) -> None: ...

    def progress(
        self, total: int | None, text: str, note: Callable[[], str] | None = None
    ) -> Any: ...


class _Silent:
    def advance(self, n: int = 1) -> None:
        pass


class QuietReporter:
    """Says warnings only; for library use and ``--quiet``."""

    def __init__(self, stream: IO[str] | None = None) -> None:
        self.stream = stream

    def info(self, text: str) -> None:
        """Nothing."""

    def warning(self, text: str) -> None:
        """One line on standard error."""
        print(f"warning: {text}", file=self.stream or sys.stderr)

    @contextmanager
    def progress(
        self, total: int | None, text: str, note: Callable[[], str] | None = None
    ) -> Iterator[Progress]:
        """Counts nothing."""
        yield _Silent()


class LineReporter(QuietReporter):
    """One line a message on standard error; for logs and pipes."""

    def info(self, text: str) -> None:
        """One line on standard error."""
        print(text, file=self.stream or sys.stderr, flush=True)


class _Bar:
    def __init__(self, bars: Any, task: Any) -> None:
        self.bars = bars
        self.task = task

    def advance(self, n: int = 1) -> None:
        self.bars.advance(self.task, n)


class TerminalReporter:
    """Bars with rate and time left, on a terminal's standard error. Text is never read as markup."""

    def __init__(self) -> None:
        from rich.console import Console

        self.console = Console(stderr=True)
        self._bars: Any = None

    def info(self, text: str) -> None:
        """One line above the bars."""
        self.console.print(text, markup=False, highlight=False)

    def warning(self, text: str) -> None:
        """One marked line above the bars."""
        self.console.print(f"warning: {text}", style="yellow", markup=False, highlight=False)

    @contextmanager
    def progress(
        self, total: int | None, text: str, note: Callable[[], str] | None = None
    ) -> Iterator[Progress]:
        """A bar for as long as the block runs; bars may be nested. ``note`` is asked whenever the bar is drawn."""
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )
        from rich.table import Column

        outermost = self._bars is None
        if outermost:
            self._bars = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=24),
                MofNCompleteColumn(table_column=Column(no_wrap=True)),
                _rate_column(),
                TimeRemainingColumn(table_column=Column(no_wrap=True)),
                _note_column(whole=self.console.width >= _WIDE),
                console=self.console,
                transient=True,
            )
            self._bars.start()
        task = self._bars.add_task(text, total=total, note=note)
        try:
            yield _Bar(self._bars, task)
        finally:
            self._bars.remove_task(task)
            if outermost:
                self._bars.stop()
                self._bars = None


def _rate_column() -> Any:
    from rich.progress import ProgressColumn, Task
    from rich.table import Column
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            speed = task.speed
            return Text(f"{speed:,.1f}/s" if speed else "")

    return Rate(Column(no_wrap=True))


def _note_column(*, whole: bool) -> Any:
    """The note; without room for all of it, what stands before its first comma. The bar gives way, and nothing else."""
    from rich.progress import ProgressColumn, Task
    from rich.table import Column
    from rich.text import Text

    class Note(ProgressColumn):
        def render(self, task: Task) -> Text:
            note = task.fields.get("note")
            text: str = note() if note is not None else ""
            return Text(text if whole else text.partition(",")[0])

    return Note(Column(no_wrap=True))


class RunLog:
    """What a run says, also kept in ``run.log`` with the time of each line; ``warned`` has the warnings.

    ``at`` is what is at work, which a warning is counted under.
    """

    def __init__(
        self, reporter: Reporter, file: Path | None = None, warned: Warned | None = None
    ) -> None:
        self.reporter = reporter
        self.file = file
        self.warned = warned or Warned()
        self.at = ""
        self._listeners: list[list[str]] = []

    def info(self, text: str) -> None:
        """Say and keep."""
        self._keep("info", text)
        self.reporter.info(text)

    def warning(self, text: str) -> None:
        """Say and keep."""
        for heard in self._listeners:
            heard.append(text)
        self.keep(text)
        self.warned.add(self.at, text)
        self.reporter.warning(text)

    @contextmanager
    def heard(self) -> Iterator[list[str]]:
        """The warnings that are said within, as they come."""
        found: list[str] = []
        self._listeners.append(found)
        try:
            yield found
        finally:
            self._listeners.remove(found)

    def keep(self, text: str) -> None:
        """Keep a warning in ``run.log`` without saying it."""
        self._keep("warning", text)

    def failed(self, said: BaseException, raised: BaseException | None = None) -> None:
        """Keep what a run ended with, and the traceback of what was ``raised``; saying it is the caller's part."""
        # A log that cannot be written must not hide what went wrong.
        with suppress(StoreError):
            self._keep("error", str(said) or repr(said))
            if raised is not None:
                self._keep("error", "".join(traceback.format_exception(raised)).rstrip())

    def _keep(self, level: str, text: str) -> None:
        if self.file is not None:
            stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            try:
                with self.file.open("a", encoding="utf-8") as out:
                    out.write(f"{stamp} {level} {text}\n")
            except OSError as error:
                raise unwritten(self.file, error) from error


def reporter_for(*, quiet: bool = False) -> Reporter:
    """Bars on a terminal, lines elsewhere, warnings only when ``quiet``."""
    if quiet:
        return QuietReporter()
    return TerminalReporter() if sys.stderr.isatty() else LineReporter()
