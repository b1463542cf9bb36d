"""Files at addresses: which are read, from which hosts, and when their copies are made anew."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nfilter import AllowedHosts, Row, SourceError, is_address, show_no_bytes
from nfilter.store.files import read_jsonl
from nfilter_io.remote import Copy, fetch, hosts_of, local_path, parse
from nfilter_io.sources import Datasets, JsonLines
from tests.plugins.nfilter_io.conftest import SOURCES, write_rows
from tests.plugins.nfilter_io.file_server import Answer, Files, serving
from tests.plugins.nfilter_io.hub_mirror import Mirror
from tests.plugins.nfilter_io.hub_mirror import serving as mirroring

fsspec = pytest.importorskip("fsspec")

ROWS = [{"prompt": f"{n}+1?", "response": str(n + 1)} for n in range(30)]
HERE = AllowedHosts()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("NFILTER_ALLOW_HOSTS", raising=False)
    return tmp_path / "cache"


@pytest.fixture
def files() -> Iterator[Files]:
    with serving() as served:
        yield served


def lines(rows: list[dict[str, str]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def prompts(source: Any) -> list[str]:
    return [row.sample.messages[0].content for row in source.read() if isinstance(row, Row)]


@pytest.mark.parametrize(
    ("path", "host"),
    [
        ("https://data.example.org/a/rows.jsonl", "data.example.org"),
        ("http://[::1]:8000/rows.jsonl", "::1"),
        ("s3://my-bucket/a/rows.jsonl", "my-bucket.s3.amazonaws.com"),
        ("gs://my.bucket/rows of May.csv", "my.bucket.storage.googleapis.com"),
        ("hf://datasets/owner/name@v1/data/rows.parquet", "huggingface.co"),
        ("memory://folder/rows.jsonl", None),
    ],
)
def test_the_host_of_an_address(path: str, host: str | None) -> None:
    assert parse(path).host == host
    assert hosts_of(path) == ((host,) if host else ())


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("https://data.example.org/", "it names no file"),
        ("https://data.example.org/rows.jsonl?key=x", "it holds ?"),
        ("https://key@data.example.org/rows.jsonl", "it holds a user or a key before the host"),
        ("https://a.org\\@b.org/rows.jsonl", "the character U+005C"),
        ("s3://bucket", "it names no file"),
        ("s3://bucket/../rows.jsonl", "a part that is . or .."),
        ("s3://bucket/*.jsonl", "the character U+002A"),
        ("s3://bucket/rows.jsonl?versionId=3", "the character U+003F"),
        ("s3://user:key@bucket/rows.jsonl", "is not the name of a bucket"),
        ("s3://a::https/rows.jsonl", "is not the name of a bucket"),
        ("hf://owner/name/rows.jsonl", "is hf://datasets/OWNER/NAME/FILE"),
        ("hf://datasets/owner/name", "is hf://datasets/OWNER/NAME/FILE"),
        ("gcs://bucket/rows.jsonl", "type gs:// instead"),
        ("HTTPS://a.org/rows.jsonl", "type https:// instead"),
        ("file:///etc/passwd", "type the path alone instead"),
        (
            "sftp://a.org/rows.jsonl",
            "sftp:// is not read. Addresses of files are https://HOST/FILE",
        ),
        ("reference://x/rows.jsonl", "reference:// is not read"),
    ],
)
def test_an_address_that_cannot_be_read_reaches_no_host(path: str, why: str) -> None:
    assert is_address(path)
    assert hosts_of(path) == ()
    with pytest.raises(SourceError, match=re.escape(why)):
        fetch(path, HERE)


@pytest.mark.parametrize(
    "path",
    [
        "https://me:canary@data.example.org/rows.jsonl",
        "https://bucket.s3.amazonaws.com/rows.jsonl?X-Amz-Signature=canary&X-Amz-Date=1",
        "s3://me:canary@bucket/rows.jsonl",
        "sftp://me:canary@host/rows.jsonl",
        "HTTPS://host/rows.jsonl#canary",
    ],
)
def test_a_key_in_an_address_is_not_shown(path: str) -> None:
    with pytest.raises(SourceError, match=r"\*\*\*") as caught:
        parse(path)
    assert "canary" not in str(caught.value)


@pytest.mark.types(":// is not read; type «» instead")
def test_the_form_that_an_error_names_is_read() -> None:
    for wrong in ("gcs://bucket/rows.jsonl", "S3://bucket/rows.jsonl", "s3a://bucket/rows.jsonl"):
        with pytest.raises(SourceError, match=r"type \w+:// instead") as caught:
            parse(wrong)
        right = str(caught.value).split("type ")[1].removesuffix(" instead")
        assert parse(right + "bucket/rows.jsonl").name == "rows.jsonl"


@pytest.mark.parametrize("path", ["rows.jsonl", "/data/rows.jsonl", "a:b", "../x//y", "zip::s3"])
def test_a_path_is_no_address(path: str, tmp_path: Path, cache: Path) -> None:
    assert not is_address(path)
    assert hosts_of(path) == ()
    fetch(path, HERE)
    assert local_path(path, tmp_path) == tmp_path / path
    assert not cache.exists()


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "parquet"])
def test_every_format_is_read_from_an_address_as_from_a_path(
    kind: str, files: Files, tmp_path: Path
) -> None:
    local = write_rows(tmp_path, kind, ROWS)
    files.answers[f"/{local.name}"] = Answer(local.read_bytes(), {"ETag": '"1"'})
    cls = SOURCES[kind]
    there = cls.Config(path=f"{files.url}/{local.name}")
    here = cls.Config(path=local.name)
    cls.fetch(there, tmp_path, HERE, show_no_bytes)
    assert not list(cls.problems(there, tmp_path))
    assert cls.columns(there, tmp_path) == cls.columns(here, tmp_path)
    assert list(cls(there, tmp_path).read()) == list(cls(here, tmp_path).read())
    row = next(item for item in cls(there, tmp_path).read() if isinstance(item, Row))
    assert cls(there, tmp_path).restore(row.sample) == cls(here, tmp_path).restore(row.sample)
    digest = hashlib.sha256(local.read_bytes()).hexdigest()
    assert cls.identity(there, tmp_path) == cls.identity(here, tmp_path) == digest


@pytest.mark.parametrize("named", ["ETag", "Last-Modified", "Content-MD5"])
def test_a_copy_is_made_anew_only_when_the_version_at_the_address_changes(
    named: str, files: Files, tmp_path: Path
) -> None:
    config = JsonLines.Config(path=f"{files.url}/rows.jsonl")
    files.answers["/rows.jsonl"] = Answer(lines(ROWS), {named: "1"})
    JsonLines.fetch(config, tmp_path, HERE, show_no_bytes)
    first = JsonLines.identity(config, tmp_path)
    assert prompts(JsonLines(config, tmp_path)) == [row["prompt"] for row in ROWS]
    written = local_path(config.path, tmp_path).stat()
    files.replied.clear()
    JsonLines.fetch(config, tmp_path, HERE, show_no_bytes)
    assert files.replied == ([304] if named == "ETag" else [200])
    assert local_path(config.path, tmp_path).stat() == written
    # Other content of the same size.
    other = [{**row, "response": row["response"][::-1]} for row in ROWS]
    files.answers["/rows.jsonl"] = Answer(lines(other), {named: "2"})
    assert len(lines(other)) == len(lines(ROWS))
    assert JsonLines.identity(config, tmp_path) == first
    JsonLines.fetch(config, tmp_path, HERE, show_no_bytes)
    assert JsonLines.identity(config, tmp_path) != first
    assert len(list(Copy.of(parse(config.path)).folder.rglob("*.jsonl"))) == 1


def test_without_a_version_the_file_is_copied_each_time(files: Files, tmp_path: Path) -> None:
    config = JsonLines.Config(path=f"{files.url}/rows.jsonl")
    for rows in (ROWS, [{**row, "response": row["response"][::-1]} for row in ROWS]):
        files.answers["/rows.jsonl"] = Answer(lines(rows))
        JsonLines.fetch(config, tmp_path, HERE, show_no_bytes)
        assert local_path(config.path, tmp_path).read_bytes() == lines(rows)


def test_a_copy_that_was_cut_is_made_anew(files: Files, tmp_path: Path) -> None:
    config = JsonLines.Config(path=f"{files.url}/rows.jsonl")
    files.answers["/rows.jsonl"] = Answer(lines(ROWS), {"ETag": "1"})
    JsonLines.fetch(config, tmp_path, HERE, show_no_bytes)
    copy = local_path(config.path, tmp_path)
    copy.write_bytes(lines(ROWS)[:100])
    with pytest.raises(SourceError, match="there is no copy of it on this machine"):
        local_path(config.path, tmp_path)
    JsonLines.fetch(config, tmp_path, HERE, show_no_bytes)
    assert copy.read_bytes() == lines(ROWS)


def test_files_in_the_memory_of_the_process(tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    config = JsonLines.Config(path="memory://nfilter-test/rows.jsonl")
    memory.pipe("/nfilter-test/rows.jsonl", lines(ROWS))
    JsonLines.fetch(config, tmp_path, HERE, show_no_bytes)
    before = JsonLines.identity(config, tmp_path)
    assert len(prompts(JsonLines(config, tmp_path))) == 30
    memory.pipe("/nfilter-test/rows.jsonl", lines(ROWS[::-1]))
    JsonLines.fetch(config, tmp_path, HERE, show_no_bytes)
    assert JsonLines.identity(config, tmp_path) != before
    with pytest.raises(SourceError, match=r"missing\.jsonl: there is no such file; check `path`"):
        fetch("memory://nfilter-test/missing.jsonl", HERE)
    memory.pipe("/nfilter-test/folder/rows.jsonl", b"")
    with pytest.raises(SourceError, match=r"folder: is a folder, and one file is read"):
        fetch("memory://nfilter-test/folder", HERE)
    memory.rm("/nfilter-test", recursive=True)


@pytest.mark.types("there is no copy of it on this machine; type nfilter check RECIPE")
def test_nothing_but_fetch_connects(files: Files, tmp_path: Path) -> None:
    config = JsonLines.Config(path=f"{files.url}/rows.jsonl")
    files.answers["/rows.jsonl"] = Answer(lines(ROWS), {"ETag": "1"})
    for read in (
        lambda: list(JsonLines(config, tmp_path).read()),
        lambda: JsonLines.columns(config, tmp_path),
        lambda: JsonLines.identity(config, tmp_path),
    ):
        with pytest.raises(SourceError, match="there is no copy of it on this machine"):
            read()
    (problem,) = JsonLines.problems(config, tmp_path)
    assert "type nfilter check RECIPE, which makes one" in problem
    assert files.asked == []
    JsonLines.fetch(config, tmp_path, HERE, show_no_bytes)
    assert not list(JsonLines.problems(config, tmp_path))


def test_a_host_that_is_not_allowed_is_not_asked(files: Files) -> None:
    with pytest.raises(SourceError, match="that host is not allowed"):
        fetch(f"{files.url}/rows.jsonl", frozenset())
    assert files.asked == []


@pytest.mark.types("or name the copy of an earlier run: path:")
def test_without_the_server_an_error_names_the_earlier_copy(tmp_path: Path) -> None:
    with serving() as files:
        url = f"{files.url}/rows.jsonl"
        with pytest.raises(SourceError, match="there is no such file"):
            fetch(url, HERE)
        files.answers["/rows.jsonl"] = Answer(lines(ROWS), {"ETag": "1"})
        fetch(url, HERE)
    with pytest.raises(
        SourceError, match=r"cannot be fetched: .*check `path` and the network; or name"
    ) as caught:
        fetch(url, HERE)
    copy = str(caught.value).rsplit("path: ", 1)[1]
    assert len(prompts(JsonLines(JsonLines.Config(path=copy), tmp_path))) == 30


@pytest.mark.types("that the store names; run the same command again")
def test_a_store_that_sends_another_file_than_it_names_leaves_no_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A download that broke off may be continued in another version of the file."""
    memory, url = fsspec.filesystem("memory"), "memory://nfilter-odd/rows.jsonl"
    memory.pipe("/nfilter-odd/rows.jsonl", lines(ROWS))
    real = type(memory).get_file

    def half(self: Any, key: str, path: str, **kwargs: Any) -> None:
        real(self, key, path, **kwargs)
        Path(path).write_bytes(lines(ROWS)[:200])

    def changing(self: Any, key: str, path: str, **kwargs: Any) -> None:
        real(self, key, path, **kwargs)
        memory.pipe("/nfilter-odd/rows.jsonl", lines(ROWS[:3]))

    whole = len(lines(ROWS))
    for odd, why in ((half, f"200 bytes came of the {whole} that the store names"), (changing, "changed while it was copied")):  # fmt: skip
        with monkeypatch.context() as patch:
            patch.setattr(type(memory), "get_file", odd)
            with pytest.raises(SourceError, match=why):
                fetch(url, HERE)
        with pytest.raises(SourceError, match="there is no copy"):
            local_path(url, tmp_path)
    fetch(url, HERE)
    assert local_path(url, tmp_path).read_bytes() == lines(ROWS[:3])
    memory.rm("/nfilter-odd", recursive=True)


def test_a_store_that_denies_access(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*args: Any, **kwargs: Any) -> None:
        raise PermissionError("Forbidden")

    monkeypatch.setattr(type(fsspec.filesystem("memory")), "info", denied)
    with pytest.raises(
        SourceError, match=r"access is denied \(Forbidden\); log in with the program"
    ):
        fetch("memory://nfilter/rows.jsonl", HERE)
    (tmp_path / "rows.jsonl").write_bytes(lines(ROWS))
    assert not list(JsonLines.problems(JsonLines.Config(path="rows.jsonl"), tmp_path))


def test_errors_name_the_address_and_not_the_copy(files: Files, tmp_path: Path) -> None:
    config = JsonLines.Config(path=f"{files.url}/rows.jsonl")
    files.answers["/rows.jsonl"] = Answer(b"PAR1 and more", {"ETag": "1"})
    JsonLines.fetch(config, tmp_path, HERE, show_no_bytes)
    (problem,) = JsonLines.problems(config, tmp_path)
    assert problem == f"{config.path}: is a Parquet file; type `use: parquet`"


@pytest.mark.types("name one file, with use: parquet or use: jsonl")
def test_a_folder_has_no_address(tmp_path: Path) -> None:
    (problem,) = Datasets.problems(Datasets.Config(path="s3://bucket/folder"), tmp_path)
    assert "folders are read from this machine only; name one file, with use: parquet" in problem
    memory = fsspec.filesystem("memory")
    memory.pipe("/nfilter-folder/rows.jsonl", lines(ROWS))
    config = JsonLines.Config(path="memory://nfilter-folder/rows.jsonl")
    JsonLines.fetch(config, tmp_path, HERE, show_no_bytes)
    assert not list(JsonLines.problems(config, tmp_path))
    memory.rm("/nfilter-folder", recursive=True)


@pytest.mark.parametrize(
    ("path", "package"), [("s3://b/x.jsonl", "s3fs"), ("gs://b/x.jsonl", "gcsfs")]
)
def test_a_package_that_is_not_installed_is_named(
    path: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    allowed = AllowedHosts(frozenset(hosts_of(path)))
    with pytest.raises(SourceError, match=rf"needs the package {package}.*'nfilter\[remote\]'"):
        fetch(path, allowed)


def test_a_run_reads_a_file_of_the_hub_and_notices_a_new_one(tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub")
    (tmp_path / "r.yaml").write_text(
        'name: h\nsource: {use: jsonl, path: "hf://datasets/org/name/data/rows.jsonl"}\nsamples: [{use: entp.purge}]\n'
    )
    mirror = Mirror("org/name", {"data/rows.jsonl": lines(ROWS)})
    with mirroring(mirror) as url:
        # HF_ENDPOINT is read when the library is imported.
        env = {
            **os.environ,
            "HF_ENDPOINT": url,
            "HF_HOME": str(tmp_path / "hf"),
            "HF_HUB_OFFLINE": "0",
        }
        command = [sys.executable, "-m", "nfilter", "run", "r.yaml"]

        def kept() -> list[Any]:
            done = subprocess.run(
                command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stderr
            return list(read_jsonl(tmp_path / "runs" / "h" / "cleaned.jsonl"))

        assert [row["prompt"] for row in kept()] == [row["prompt"] for row in ROWS]
        mirror.files["data/rows.jsonl"] = lines(ROWS[:20])
        assert len(kept()) == 20
