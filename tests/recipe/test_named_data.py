"""Data at addresses that a command names: read as from a path, and no secret of an address shown."""

from __future__ import annotations

import json
import re
import shlex
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from nfilter import SourceError
from nfilter.cli import entry
from nfilter.recipe.named_data import named
from nfilter.recipe.yaml_lines import parse
from nfilter.registry.loading import load
from nfilter.store.files import read_jsonl
from tests.plugins.nfilter_io.file_server import Answer, Files, serving

SIGNATURE = "X-Amz-Signature=canary0815"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("NFILTER_ALLOW_HOSTS", raising=False)
    return tmp_path


@pytest.fixture
def files() -> Iterator[Files]:
    with serving() as served:
        served.answers["/rows.jsonl"] = Answer(lines(12), {"ETag": "1"})
        yield served


def lines(count: int) -> bytes:
    rows = [{"prompt": f"What is {n} plus one?", "response": str(n + 1)} for n in range(count)]
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def test_init_reads_an_address_and_writes_it(
    home: Path, files: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"{files.url}/rows.jsonl"
    (home / "rows.jsonl").write_bytes(lines(12))
    assert (
        entry(["init", "--data", "rows.jsonl", "--test", "rows.jsonl", "--out", "here.yaml"]) == 0
    )
    here = capsys.readouterr().out
    assert entry(["init", "--data", url, "--test", url, "--out", "there.yaml"]) == 0
    assert capsys.readouterr() == (
        here.replace("rows.jsonl", url).replace("here.yaml", "there.yaml"),
        "",
    )
    documents = [parse(Path(name).read_text(), Path(name)).value for name in ("here.yaml", "there.yaml")]  # fmt: skip
    for document, path in zip(documents, ("rows.jsonl", url), strict=True):
        assert document.pop("source") == {"use": "jsonl", "path": path}
        assert document.pop("evaluate") == {"source": {"use": "jsonl", "path": path}}
    assert documents[0] == documents[1]
    assert files.replied == [200, 304]


@pytest.mark.types("that host is not allowed; if you trust it, add to the command: «»")
def test_the_commands_that_init_prints_allow_the_hosts(
    home: Path, files: Files, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *args, **more: real("127.0.0.1", *args, **more))  # fmt: skip
    away = files.url.replace("127.0.0.1", "data.example.org")
    files.answers["/moved.jsonl"] = Answer(
        status=302, headers={"Location": away.replace("data.", "other.") + "/rows.jsonl"}
    )
    words = ["init", "--template", "robustft", "--model", "tiny", "--data", f"{away}/moved.jsonl"]
    assert entry(words) == 4
    told = capsys.readouterr().err
    assert (
        "leads to other.example.org; that host is not allowed; if you trust it, add to the" in told
    )
    options = shlex.split(re.findall(r"add to the command: (.*), or export", told)[0])
    assert options == ["--allow-host", "data.example.org", "--allow-host", "other.example.org"]
    assert entry([*words, *options]) == 0
    command = re.findall(r"next: nfilter (check .*), then", capsys.readouterr().out)[0]
    assert set(shlex.split(command)[2:]) == set(options)
    assert entry(shlex.split(command)) == 0


@pytest.mark.parametrize(
    "words",
    [
        ["init", "--data", "DATA"],
        ["init", "--data", "rows.jsonl", "--test", "DATA"],
        ["inject-noise", "DATA", "noisy.jsonl", "--ratio", "0.5", "--kind", "exact"],
        ["init", "--model", "DATA"],
    ],
)
def test_a_secret_in_an_address_is_not_shown(
    words: list[str], home: Path, files: Files, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "rows.jsonl").write_bytes(lines(12))
    for wrong in (
        f"{files.url}/rows.jsonl?{SIGNATURE}",
        files.url.replace("://", "://me:canary0815@") + "/rows.jsonl",
    ):
        assert entry([wrong if word == "DATA" else word for word in words]) in (2, 4)
        out, told = capsys.readouterr()
        assert "***" in told
        assert "canary0815" not in out + told
    assert not (home / "recipe.yaml").exists()
    assert files.asked == []


def test_a_signed_address_is_written_into_the_recipe_that_init_names(
    home: Path, files: Files, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    files.answers[f"/rows.jsonl?{SIGNATURE}"] = Answer(lines(12))
    words = [
        "init",
        "--template",
        "robustft",
        "--model",
        "tiny",
        "--data",
        f"{files.url}/rows.jsonl?{SIGNATURE}",
    ]
    assert entry(words) == 4
    told = capsys.readouterr().err
    command, source = re.findall(r"`nfilter (.*)` writes one, and there it is source: (.*)", told)[
        0
    ]
    assert entry(shlex.split(command)) == 0
    monkeypatch.setenv("NFILTER_QUERY", SIGNATURE)
    text = (home / "recipe.yaml").read_text()
    named = source.strip().replace("...", "query_env: NFILTER_QUERY")
    (home / "recipe.yaml").write_text(re.sub(r"(?m)^source:.*$", f"source: {named}", text))
    assert entry(["check", "recipe.yaml"]) == 0


def test_noise_is_put_into_rows_at_an_address(home: Path, files: Files) -> None:
    words = ["--ratio", "0.5", "--kind", "exact", "--json"]
    (home / "rows.jsonl").write_bytes(lines(12))
    assert entry(["inject-noise", "rows.jsonl", "here.jsonl", *words]) == 0
    assert entry(["inject-noise", f"{files.url}/rows.jsonl", "there.jsonl", *words]) == 0
    assert list(read_jsonl(home / "here.jsonl")) == list(read_jsonl(home / "there.jsonl"))


def test_data_at_an_address_that_no_source_reads(home: Path, files: Files) -> None:
    plugins = load()
    with pytest.raises(SourceError, match=r"no source reads files that end in '\.xlsx'"):
        named(plugins, f"{files.url}/rows.xlsx?a=.jsonl")
    with pytest.raises(SourceError, match=r"there is no such file; check `path`"):
        named(plugins, f"{files.url}/none.jsonl")
    assert files.asked == ["GET /none.jsonl"]
