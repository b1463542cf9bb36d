"""Data at addresses: which hosts a recipe may read from, and what a run does when the data changes."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Container, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import pytest
from click.testing import CliRunner

from nfilter import RecipeError, SourceError, StageConfig
from nfilter.cli import entry, main
from nfilter.engine import run as engine
from nfilter.recipe.fetching import fetch_all
from nfilter.recipe.hosts import allowed_source_hosts, unlisted_source_hosts
from nfilter.recipe.model import load
from nfilter.registry import loading
from nfilter.store.files import read_jsonl
from tests.plugins.nfilter_io.file_server import Answer, Files, serving

RECIPE = """\
name: away
source: {{use: jsonl, path: "{source}"}}
samples: [{{use: entp.purge}}]
"""
TESTED = """\
name: away
answer: exact
models: {{student: {{use: hf, model: tiny}}}}
source: {{use: jsonl, path: rows.jsonl}}
arms: [vanilla]
encode: {{model: student}}
evaluate: {{metric: accuracy, source: {{use: csv, path: "{source}"}}}}
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("NFILTER_ALLOW_HOSTS", raising=False)
    (tmp_path / "rows.jsonl").write_bytes(lines(3))
    return tmp_path


@pytest.fixture
def files() -> Iterator[Files]:
    with serving() as served:
        yield served


def lines(count: int) -> bytes:
    rows = [{"prompt": f"What is {n} plus one?", "response": str(n + 1)} for n in range(count)]
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def checked(*words: str) -> str:
    """What ``nfilter check`` says of r.yaml, at exit code 0 or not."""
    return CliRunner().invoke(main, ["check", "r.yaml", *words]).output


@pytest.mark.parametrize(
    ("text", "line", "section"), [(RECIPE, 2, "source"), (TESTED, 7, "evaluate.source")]
)
def test_a_host_of_data_has_to_be_allowed(
    text: str, line: int, section: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "r.yaml").write_text(text.format(source="https://data.example.invalid/rows.jsonl"))
    with pytest.raises(RecipeError) as caught:
        main.main(["check", "r.yaml"], standalone_mode=False)
    host = "data.example.invalid"
    assert str(caught.value) == (
        f"r.yaml:{line}: {section}: this would read from {host}, which only the recipe names; if you trust it, type: "
        f"nfilter run r.yaml --allow-host {host}, or export NFILTER_ALLOW_HOSTS={host}"
    )
    for verb in ("run", "plan", "lint"):
        assert entry([verb, "r.yaml"]) == 2
    assert not (home / "runs").exists()
    assert entry(["check", "r.yaml", "--allow-host", "example.invalid"]) == 2
    # Allowed, it is asked: the name does not exist.
    with pytest.raises(
        SourceError, match=r"rows\.jsonl: cannot be fetched: .*data\.example\.invalid"
    ):
        main.main(["check", "r.yaml", "--allow-host", host], standalone_mode=False)
    monkeypatch.setenv("NFILTER_ALLOW_HOSTS", host)
    assert entry(["run", "r.yaml"]) == 4


def test_a_bucket_is_allowed_by_its_host(home: Path) -> None:
    (home / "r.yaml").write_text(RECIPE.format(source="s3://their-bucket/rows.jsonl"))
    with pytest.raises(RecipeError, match=r"--allow-host their-bucket\.s3\.amazonaws\.com,"):
        main.main(["check", "r.yaml"], standalone_mode=False)


def test_a_folder_at_an_address_is_refused_whatever_host_is_allowed(home: Path) -> None:
    (home / "r.yaml").write_text(RECIPE.format(source="s3://their-bucket/folder"))
    words = ["check", "r.yaml", "--set", "source.use=datasets"]
    with pytest.raises(RecipeError, match="folders are read from this machine only; name one"):
        main.main(words, standalone_mode=False)


def test_a_program_that_checks_nothing_is_held_back_too(home: Path, files: Files) -> None:
    plugins = loading.load()
    (home / "r.yaml").write_text(RECIPE.format(source="https://data.example.invalid/rows.jsonl"))
    recipe = load(home / "r.yaml", plugins, [])
    with pytest.raises(RecipeError, match=r"r\.yaml:2: source: this would read from data\.example"):
        fetch_all(recipe)
    with pytest.raises(RecipeError, match=r"this would read from data\.example"):
        engine.run(recipe, plugins, home / "out")
    assert not (home / "out").exists()


def test_a_run_reads_an_address_and_notices_changed_data(home: Path, files: Files) -> None:
    (home / "r.yaml").write_text(RECIPE.format(source=f"{files.url}/rows.jsonl"))
    files.answers["/rows.jsonl"] = Answer(lines(20), {"ETag": '"1"'})
    cleaned = home / "runs" / "away" / "cleaned.jsonl"
    assert entry(["run", "r.yaml"]) == 0
    rows = list(read_jsonl(cleaned))
    assert [row["prompt"] for row in rows] == [f"What is {n} plus one?" for n in range(20)]
    assert files.replied == [200, 304]
    again = CliRunner().invoke(main, ["run", "r.yaml"])
    assert "from an earlier run" in again.output
    files.answers["/rows.jsonl"] = Answer(lines(25), {"ETag": '"2"'})
    assert entry(["run", "r.yaml"]) == 0
    assert len(list(read_jsonl(cleaned))) == 25


def test_the_rows_of_an_address_are_those_of_a_path(home: Path, files: Files) -> None:
    (home / "rows.jsonl").write_bytes(lines(20))
    files.answers["/rows.jsonl"] = Answer(lines(20), {"ETag": '"1"'})
    for name, source in (("here", "rows.jsonl"), ("there", f"{files.url}/rows.jsonl")):
        (home / "r.yaml").write_text(RECIPE.format(source=source))
        assert entry(["run", "r.yaml", "--out", f"runs/{name}"]) == 0
    here, there = (
        (home / "runs" / name / "cleaned.jsonl").read_bytes() for name in ("here", "there")
    )
    assert here == there


def test_the_check_names_an_address_that_is_wrong(home: Path, files: Files) -> None:
    for source, why in (
        (f"{files.url}/none.jsonl", "there is no such file; check `path`"),
        (f"{files.url}/rows.jsonl?x=1", "it holds ?"),
        ("ftp://a.org/rows.jsonl", "ftp:// is not read"),
    ):
        (home / "r.yaml").write_text(RECIPE.format(source=source))
        with pytest.raises(SourceError, match=rf"^r\.yaml:2: source\.path: .*{re.escape(why)}"):
            main.main(["check", "r.yaml"], standalone_mode=False)
    files.answers["/rows.jsonl"] = Answer(lines(3), {"ETag": '"1"'})
    (home / "r.yaml").write_text(RECIPE.format(source=f"{files.url}/rows.jsonl"))
    assert entry(["check", "r.yaml"]) == 0


class Config(StageConfig):
    path: str = "x"
    note: str = ""


class Plain:
    """A source of another distribution, without ``hosts``."""


class Telling:
    own_hosts: ClassVar[frozenset[str]] = frozenset({"own.example.org"})

    @classmethod
    def hosts(cls, config: Config) -> Iterable[str]:
        return (config.path,)


def test_the_hosts_of_sources_of_other_plugins() -> None:
    config = Config(path="https://a.org/x", note="see http://b.org")
    assert unlisted_source_hosts(Plain, config, ()) == ["a.org", "b.org"]
    assert unlisted_source_hosts(Plain, config, ["b.org"]) == ["a.org"]
    assert unlisted_source_hosts(Plain, Config(path="rows.jsonl"), ()) == []
    assert unlisted_source_hosts(Telling, Config(path="A.org", note="http://b.org"), ()) == [
        "a.org"
    ]
    assert unlisted_source_hosts(Telling, Config(path="own.example.org"), ()) == []
    assert unlisted_source_hosts(Telling, Config(path="127.0.0.1"), ()) == []
    allowed: Container[Any] = allowed_source_hosts(Telling, ["c.org"])
    assert [host in allowed for host in ("c.org", "own.example.org", "localhost", "d.org")] == [
        True,
        True,
        True,
        False,
    ]


SIGNED = """\
name: away
source: {{use: jsonl, path: "{source}", query_env: NFILTER_QUERY}}
samples: [{{use: entp.purge}}]
"""
SIGNATURE = "X-Amz-Credential=AK%2Fx&X-Amz-Signature=canary0815"


def everything(home: Path, *outputs: str) -> str:
    """All that commands wrote and printed."""
    parts = [path.read_bytes() for path in sorted(home.rglob("*")) if path.is_file()]
    return b"\n".join(parts).decode("latin-1") + "".join(outputs)


def test_the_query_of_an_address_is_written_nowhere(
    home: Path, files: Files, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (home / "r.yaml").write_text(SIGNED.format(source=f"{files.url}/rows.jsonl"))
    files.answers[f"/rows.jsonl?{SIGNATURE}"] = Answer(lines(20), {"ETag": '"1"'})
    assert entry(["run", "r.yaml"]) == 4
    told = capfd.readouterr().err
    assert "r.yaml:2: source.path: " in told
    assert "`query_env` names NFILTER_QUERY, which is not set; type: export NFILTER_QUERY=" in told
    monkeypatch.setenv("NFILTER_QUERY", SIGNATURE)
    assert entry(["run", "r.yaml"]) == 0
    assert entry(["push", "runs/away", "--to", "pushed"]) == 0
    assert len(list(read_jsonl(home / "runs" / "away" / "cleaned.jsonl"))) == 20
    # A signature that has ended, and one that the server does not know, are errors.
    files.answers[f"/rows.jsonl?{SIGNATURE}"] = Answer(SIGNATURE.encode(), {}, 403)
    assert entry(["run", "r.yaml"]) == 4
    found = everything(home, *capfd.readouterr())
    assert "a signed query ends after some time" in found
    assert "NFILTER_QUERY" in (home / "runs" / "away" / "recipe.lock.yaml").read_text()
    assert "canary0815" not in found


@pytest.mark.types("and what follows may be a key. Type `path:")
def test_a_signed_address_in_a_recipe_is_refused_and_shown_nowhere(
    home: Path, files: Files, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    signed = f"{files.url}/rows.jsonl?{SIGNATURE}"
    user = files.url.replace("://", "://me:canary0815@") + "/rows.jsonl"
    (home / "r.yaml").write_text(RECIPE.format(source="rows.jsonl"))
    for wrong in (signed, user):
        setting = f"source.path={wrong}"
        for words in (
            ["run", "r.yaml", "--set", setting],
            ["check", "r.yaml", "--set", setting],
            ["run", "r.yaml", "--set", setting, "--set", "source.use=datasets"],
            ["run", "r.yaml", "--set", setting, "--set", "source.use=hub"],
            ["run", "r.yaml", "--set", setting, "--set", "source.labels=3"],
            ["run", "r.yaml", "--set", f"source={{use:jsonl,path:{wrong}}}"],
            ["run", "r.yaml", "--set", f"source.query_env={SIGNATURE}"],
            ["run", wrong],
            ["explain", wrong],
        ):
            assert entry(words) not in (0, 1), words
        found = CliRunner().invoke(main, ["check", "r.yaml", "--json", "--set", setting])
        assert found.exit_code == 4
        out, told = capfd.readouterr()
        out += found.output
        assert "***" in told
        assert "canary0815" not in out + told
    assert entry(["check", "r.yaml", "--set", f"source.path={signed}"]) == 4
    told = capfd.readouterr().err
    path, name = re.findall(r"Type `path: \"(.*)\"` and `query_env: (\w+)`", told)[0]
    monkeypatch.setenv(name, re.sub(r".*\?", "", signed))
    files.answers[f"/rows.jsonl?{SIGNATURE}"] = Answer(lines(3))
    (home / "r.yaml").write_text(SIGNED.format(source=path))
    assert entry(["check", "r.yaml"]) == 0
    assert "canary0815" not in everything(home)


@pytest.mark.types("type query_env: NFILTER_QUERY, and in a shell: export")
def test_a_recipe_names_no_variable_but_those_of_queries(home: Path, files: Files) -> None:
    for name, path, why in (
        ("OPENAI_API_KEY", f"{files.url}/rows.jsonl", "begins with NFILTER_QUERY, in capital"),
        ("NFILTER_QUERY-a", f"{files.url}/rows.jsonl", "begins with NFILTER_QUERY, in capital"),
        ("NFILTER_QUERY", "rows.jsonl", "query_env is for addresses https://HOST/FILE; remove it"),
        ("NFILTER_QUERY", "s3://b/rows.jsonl", "query_env is for addresses https://HOST/FILE"),
    ):
        text = SIGNED.format(source=path).replace("NFILTER_QUERY", name)
        (home / "r.yaml").write_text(text)
        with pytest.raises(RecipeError, match=rf"^r\.yaml:2: source: .*{re.escape(why)}") as caught:
            main.main(["check", "r.yaml"], standalone_mode=False)
        assert name not in str(caught.value).replace("NFILTER_QUERY", "")
    assert files.asked == []


def on_terminal(home: Path, *words: str) -> str:
    """What ``nfilter`` prints where its output is a terminal."""
    main_end, its_end = pty.openpty()
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "120", "XDG_CACHE_HOME": str(home / "cache")}
    command = [sys.executable, "-m", "nfilter", *words]
    with subprocess.Popen(command, cwd=home, env=env, stdout=its_end, stderr=its_end) as process:
        os.close(its_end)
        told = b""
        with suppress(OSError):  # the terminal is closed at its other end
            while data := os.read(main_end, 1 << 16):
                told += data
    os.close(main_end)
    assert process.returncode == 0, told
    return told.decode()


def test_a_terminal_shows_the_bytes_and_other_output_does_not(
    home: Path, files: Files, capfd: pytest.CaptureFixture[str]
) -> None:
    url = f"{files.url}/rows.jsonl"
    (home / "r.yaml").write_text(RECIPE.format(source=url))
    files.answers["/rows.jsonl"] = Answer(lines(200))  # without a version it is copied each time
    size = f"/{len(lines(200)) / 1000:.1f} kB"
    told = on_terminal(home, "check", "r.yaml")
    assert "rows.jsonl from 127.0.0.1" in told
    assert size in told
    assert size not in on_terminal(home, "check", "r.yaml", "--json")
    assert size not in on_terminal(home, "run", "r.yaml", "--quiet")
    assert entry(["check", "r.yaml"]) == 0
    assert "rows.jsonl from 127.0.0.1" not in "".join(capfd.readouterr())
    assert files.replied == [200, 200, 200, 200, 200]
