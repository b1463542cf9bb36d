"""Progress and log lines: bars with rate and time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Protocol

from nfilter.api.data import ShowsBytes
from nfilter.api.errors import StoreError
from nfilter.api.file_errors import write_error
from nfilter.api.stages import NoProgress, Progress
from nfilter.store.warnings import RunWarnings

_WIDE = 100  # terminal columns from which whole notes are shown


class Reporter(Protocol):
    """The output of a run: messages and progress bars."""

    def info(self, text: str) -> None: ...

    def warning(self, text: str) -> None: ...

    def progress(
        self,
        total: int | None,
        text: str,
        note: Callable[[], str] | None = None,
        *,
        in_bytes: bool = False,
    ) -> Any: ...


class QuietReporter:
    """Prints only warnings; for library use and ``--quiet``."""

    def __init__(self, stream: IO[str] | None = None) -> None:
        self.stream = stream

    def info(self, text: str) -> None:
        """Print nothing."""

    def warning(self, text: str) -> None:
        """Print one line on standard error."""
        print(f"warning: {text}", file=self.stream or sys.stderr)

    @contextmanager
    def progress(
        self,
        total: int | None,
        text: str,
        note: Callable[[], str] | None = None,
        *,
        in_bytes: bool = False,
    ) -> Iterator[Progress]:
        """Yield a counter that shows nothing."""
        yield NoProgress()


class LineReporter(QuietReporter):
    """Prints one line per message on standard error; for logs and pipes."""

    def info(self, text: str) -> None:
        """Print one line on standard error."""
        print(text, file=self.stream or sys.stderr, flush=True)


class _Bar:
    def __init__(self, bars: Any, task: Any) -> None:
        self.bars = bars
        self.task = task

    def advance(self, n: int = 1) -> None:
        self.bars.advance(self.task, n)


class TerminalReporter:
    """Shows progress bars with rate and time left on a terminal. Text is never parsed as markup."""

    def __init__(self) -> None:
        from rich.console import Console

        self.console = Console(stderr=True)
        self._bars: Any = None

    def info(self, text: str) -> None:
        """Print one line above the bars."""
        self.console.print(text, markup=False, highlight=False)

    def warning(self, text: str) -> None:
        """Print one marked line above the bars."""
        self.console.print(f"warning: {text}", style="yellow", markup=False, highlight=False)

    @contextmanager
    def progress(
        self,
        total: int | None,
        text: str,
        note: Callable[[], str] | None = None,
        *,
        in_bytes: bool = False,
    ) -> Iterator[Progress]:
        """Show a bar in the block; bars may be nested. ``note`` is called whenever the bar is drawn."""
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
        from rich.table import Column

        outermost = self._bars is None
        if outermost:
            self._bars = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=24),
                _count_column(),
                _rate_column(),
                TimeRemainingColumn(table_column=Column(no_wrap=True)),
                _note_column(whole=self.console.width >= _WIDE),
                console=self.console,
                transient=True,
            )
            self._bars.start()
        task = self._bars.add_task(text, total=total, note=note, in_bytes=in_bytes)
        try:
            yield _Bar(self._bars, task)
        finally:
            self._bars.remove_task(task)
            if outermost:
                self._bars.stop()
                self._bars = None


def _count_column() -> Any:
    """The column of what is done, of how much in all; bytes in decimal units."""
    from rich.filesize import decimal
    from rich.progress import DownloadColumn, MofNCompleteColumn, ProgressColumn, Task
    from rich.table import Column
    from rich.text import Text

    class Count(ProgressColumn):
        number = MofNCompleteColumn()
        size = DownloadColumn()

        def render(self, task: Task) -> Text:
            if not task.fields.get("in_bytes"):
                return self.number.render(task)
            if task.total is None:
                return Text(decimal(int(task.completed)))
            return self.size.render(task)

    return Count(Column(no_wrap=True))


def _rate_column() -> Any:
    from rich.filesize import decimal
    from rich.progress import ProgressColumn, Task
    from rich.table import Column
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            speed = task.speed
            if not speed:
                return Text()
            told = decimal(int(speed)) if task.fields.get("in_bytes") else f"{speed:,.1f}"
            return Text(f"{told}/s")

    return Rate(Column(no_wrap=True))


def _note_column(*, whole: bool) -> Any:
    """The column of notes; if not ``whole``, on a narrow terminal, only the text before the first comma."""
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
    """The messages of a run: reported, and written to ``run.log`` with their time; ``warned`` counts the warnings.

    ``at`` is the running step, under which warnings are counted.
    """

    def __init__(
        self, reporter: Reporter, file: Path | None = None, warned: RunWarnings | None = None
    ) -> None:
        self.reporter = reporter
        self.file = file
        self.warned = warned or RunWarnings()
        self.at = ""
        self._listeners: list[list[str]] = []

    def info(self, text: str) -> None:
        """Report and write to run.log."""
        self._keep("info", text)
        self.reporter.info(text)

    def warning(self, text: str) -> None:
        """Report and write to run.log."""
        for collected in self._listeners:
            collected.append(text)
        self.keep(text)
        self.warned.add(self.at, text)
        self.reporter.warning(text)

    @contextmanager
    def collect_warnings(self) -> Iterator[list[str]]:
        """Yield a list that collects the warnings of the block."""
        collected: list[str] = []
        self._listeners.append(collected)
        try:
            yield collected
        finally:
            self._listeners.remove(collected)

    def keep(self, text: str) -> None:
        """Write a warning to ``run.log`` without reporting it."""
        self._keep("warning", text)

    def failed(self, error: BaseException, raised: BaseException | None = None) -> None:
        """Write the error of a run to ``run.log``, and the traceback of ``raised``. The caller reports the error."""
        # A log that cannot be written must not hide the error.
        with suppress(StoreError):
            self._keep("error", str(error) or repr(error))
            if raised is not None:
                self._keep("error", "".join(traceback.format_exception(raised)).rstrip())

    def _keep(self, level: str, text: str) -> None:
        if self.file is not None:
            stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            try:
                with self.file.open("a", encoding="utf-8") as out:
                    out.write(f"{stamp} {level} {text}\n")
            except OSError as error:
                raise write_error(self.file, error) from error


def reporter_for(*, quiet: bool = False) -> Reporter:
    """Return a reporter: bars on a terminal, lines elsewhere, only warnings if ``quiet``."""
    if quiet:
        return QuietReporter()
    return TerminalReporter() if sys.stderr.isatty() else LineReporter()


def bytes_on(reporter: Callable[[], Reporter]) -> ShowsBytes:
    """Return what shows the bytes of a copy on a reporter, which is made when the first copy begins."""
    return lambda total, text: reporter().progress(total, text, in_bytes=True)
