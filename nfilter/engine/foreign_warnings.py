"""Warnings of other libraries during a run: each is shown once, and run.log has all of them."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_UNHANDLED = logging.NOTSET - 1  # below the level of every handler


@contextmanager
def shown_once(show: Callable[[str], None], keep: Callable[[str], None]) -> Iterator[None]:
    """In the block, pass every warning to ``keep``, and the first of each text to ``show``.

    The first log record of each text is shown by the library's own log handlers; its repetitions are suppressed.
    """
    seen: set[tuple[str, str]] = set()

    def first(origin: str, text: str) -> bool:
        keep(f"{origin}: {text}")
        new = (origin, text) not in seen
        seen.add((origin, text))
        return new

    def showwarning(
        message: Any, category: type[Warning], filename: str, *_: Any, **__: Any
    ) -> None:
        text = f"{category.__name__}: {' '.join(str(message).split())}"
        if first(_package(filename), text):
            show(f"{_package(filename)}: {text}")

    factory = logging.getLogRecordFactory()

    def record(*arguments: Any, **named: Any) -> logging.LogRecord:
        made = factory(*arguments, **named)
        if made.levelno >= logging.WARNING and not first(made.name, _message(made)):
            made.levelno = _UNHANDLED
        return made

    shown = warnings.showwarning
    warnings.showwarning = showwarning
    logging.setLogRecordFactory(record)
    try:
        yield
    finally:
        logging.setLogRecordFactory(factory)
        warnings.showwarning = shown


def _package(filename: str) -> str:
    """The package of a source file: the folder after the last ``site-packages``, else the file's name."""
    parts = Path(filename).parts
    if "site-packages" in parts[:-1]:
        return parts[len(parts) - parts[::-1].index("site-packages")].removesuffix(".py")
    return Path(filename).stem


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # noqa: BLE001 (an error in the library's log call; its handler reports it)
        return str(record.msg)
