"""A web page in place of a file, as a server sends for a login with status 200: over HTTP, and as a file that was saved."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from nfilter import SourceError
from nfilter_io.sources import Csv, Json, JsonLines
from nfilter_io.web_pages import is_page
from tests.plugins.nfilter_io.file_server import Answer, Files, serving
from tests.plugins.nfilter_io.test_http_files import BODY, copied, refused

PAGE = b"\xef\xbb\xbf\r\n  <!DOCTYPE HTML>\n<html><body>Sign in</body></html>" + b" " * 2000
HTML = {"Content-Type": "text/html; charset=utf-8"}


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Files]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with serving() as served:
        yield served


@pytest.mark.parametrize(
    "answer",
    [
        Answer(PAGE),
        Answer(b"<html>"),
        Answer(b"<div>Sign in</div>", HTML),
        Answer(PAGE, HTML | {"ETag": "1"}),
    ],
)
def test_a_page_is_no_file(answer: Answer, files: Files) -> None:
    files.answers["/rows.jsonl"] = answer
    assert refused(f"{files.url}/rows.jsonl").endswith(
        "/rows.jsonl: the server sends a web page (HTML) and not the file, as for a login or a notice; open the address in a "
        "browser, and if that shows the file, copy the file to this machine and name it in `path`"
    )


def test_the_page_that_shows_a_file_names_the_address_of_the_file(files: Files) -> None:
    files.answers["/o/n/blob/main/rows.jsonl"] = Answer(PAGE, HTML)
    files.answers["/o/n/raw/main/rows.jsonl"] = Answer(BODY)
    told = refused(f"{files.url}/o/n/blob/main/rows.jsonl")
    assert told.endswith("type /raw/ (GitHub) or /resolve/ (the hub) in its place")
    assert copied(f"{files.url}/o/n/raw/main/rows.jsonl") == BODY


def test_a_file_that_the_server_calls_html_is_read(files: Files) -> None:
    files.answers["/rows.jsonl"] = Answer(BODY, HTML)
    assert copied(f"{files.url}/rows.jsonl") == BODY


@pytest.mark.parametrize("source", [Csv, Json, JsonLines])
def test_a_page_that_was_saved_as_a_file_is_named(source: type, tmp_path: Path) -> None:
    (tmp_path / "rows.txt").write_bytes(PAGE)
    with pytest.raises(SourceError, match=r"rows\.txt: is a web page \(HTML\)"):
        list(source(source.Config(path="rows.txt"), tmp_path).read())  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "text", [b"", b"<", b"<b>bold</b>,x\n", b'{"a": "<html>"}', b"text\n<html>", b"<htm"]
)
def test_what_is_no_page(text: bytes) -> None:
    assert not is_page(text)
    assert not is_page(b'{"a": 1}', "text/html")
