"""Files and folders that may not be read or written: every command says which one, and what to type."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nfilter import NfilterError, StoreError
from nfilter.api.file_errors import access_error, accessing, file_advice, write_error

ROOT = Path(__file__).resolve().parents[2]
# What each command says: label, command line, what is closed with its mode, exit code, and words of the message.
CASES: list[tuple[str, list[str], tuple[str, int] | None, int, str]] = [
    ("stage folder", ["run", "r.yaml", "--out", "RUN"], ("RUN/01-entp.purge", 0), 7,
     r"RUN/01-entp.purge/fingerprint: cannot be used \(Permission denied\); type: chmod -R u\+rwX RUN/01-entp.purge, and run the same command again"),
    ("source folder", ["run", "r.yaml", "--out", "RUN"], ("RUN/00-source", 0), 7, r"type: chmod -R u\+rwX RUN/00-source, and"),
    ("state folder", ["run", "r.yaml", "--out", "RUN"], ("RUN/01-entp.purge/state", 0), 7, r"RUN/01-entp.purge(/state)?: .*type: chmod -R u\+rwX RUN/01-entp.purge/state"),
    ("fresh", ["run", "r.yaml", "--out", "RUN", "--fresh"], ("RUN", 0), 7, r"RUN/00-source: .*type: chmod -R u\+rwX RUN, and"),
    ("journal", ["run", "r.yaml", "--out", "RUN"], ("RUN/journal.db", 0), 7, r"RUN/journal.db: cannot be written \(Permission denied\); .*type: chmod u\+rw RUN/journal.db, and"),
    ("log", ["run", "r.yaml", "--out", "RUN"], ("RUN/run.log", 0), 7, r"RUN/run.log: .*type: chmod u\+rw RUN/run.log, and"),
    ("explain", ["explain", "RUN", "x"], ("RUN/01-entp.purge", 0), 7, r"type: chmod -R u\+rwX RUN/01-entp.purge, and"),
    ("audit", ["audit", "RUN"], ("RUN/00-source", 0), 7, r"type: chmod -R u\+rwX RUN/00-source"),
    ("export", ["export", "RUN", "--format", "trl", "--out", "new"], ("RUN/01-entp.purge", 0), 7, r"type: chmod -R u\+rwX RUN/01-entp.purge"),
    ("push", ["push", "RUN", "--to", "new", "--license", "mit"], ("RUN/00-source", 0), 7, r"type: chmod -R u\+rwX RUN/00-source"),
    ("compare", ["compare", "RUN", "RUN"], ("RUN", 0), 7, r"RUN/metrics.json: .*type: chmod -R u\+rwX RUN, and"),
    ("run directory", ["explain", "RUN", "x"], ("RUN", 0), 7, r"type: chmod -R u\+rwX RUN, and"),
    ("unwritable run", ["run", "r.yaml", "--out", "RUN", "--limit", "3"], ("RUN", 0o555), 7, r"RUN/.*Permission denied.*type: chmod u\+rwX RUN, and"),
    ("unwritable parent", ["run", "r.yaml", "--out", "closed/x"], ("closed", 0o555), 7, r"closed/x: cannot be written \(Permission denied\); choose another --out"),
    ("hidden parent", ["run", "r.yaml", "--out", "closed/x"], ("closed", 0), 7,
     # Python 3.13 says of a folder that cannot be looked into that it is not there.
     r"closed/x: .*(type: chmod -R u\+rwX closed, and|cannot be written \(Permission denied\); choose another --out)"),
    ("export into it", ["export", "RUN", "--format", "trl", "--out", "closed/x"], ("closed", 0), 7, r"closed/x: .*type: chmod -R u\+rwX closed, and"),
    ("a file is there", ["run", "r.yaml", "--out", "rows.jsonl"], None, 7, r"rows.jsonl: cannot be written \(File exists\); choose another --out"),
    ("a file above", ["export", "RUN", "--format", "trl", "--out", "rows.jsonl/x"], None, 7,
     r"rows.jsonl is a file, and a folder is needed: choose another place, or move it away"),
    ("init", ["init", "--data", "rows.jsonl", "--out", "new.yaml"], ("rows.jsonl", 0), 2, r"rows.jsonl: Permission denied; type: chmod u\+r rows.jsonl"),
    ("no data", ["init", "--data", "none.jsonl"], None, 2, r"none.jsonl: No such file or directory; give the path of a file that exists"),
    ("check", ["check", "r.yaml"], ("rows.jsonl", 0), 2, r"cannot be opened: Permission denied; type: chmod u\+r \S*rows.jsonl"),
    ("data folder", ["check", "deep.yaml"], ("data", 0), 2, r"rows.jsonl: Permission denied; type: chmod -R u\+rX \S*data"),
    ("recipe", ["check", "r.yaml"], ("r.yaml", 0), 2, r"r.yaml: cannot be read \(Permission denied\); type: chmod u\+r r.yaml"),
    ("plugin", ["run", "r.yaml", "--plugin", "closed/p.py"], ("closed", 0), 3, r"closed/p.py: cannot be read \(Permission denied\); type: chmod -R u\+rX closed"),
]  # fmt: skip
SCRIPT = """
import contextlib, io, json, os, shutil, sys
from pathlib import Path
from nfilter.cli import entry

def call(argv):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = entry(argv)
    return code, err.getvalue()

assert call(["run", "r.yaml", "--out", "whole"])[0] == 0
done = {}
for label, argv, closed, *_ in json.load(open("cases.json")):
    shutil.rmtree("RUN", ignore_errors=True)
    shutil.copytree("whole", "RUN")
    if closed:
        kept = os.stat(closed[0]).st_mode
        os.chmod(closed[0], closed[1])
    try:
        done[label] = call(argv)
    finally:
        if closed:
            os.chmod(closed[0], kept)
    shutil.rmtree("new", ignore_errors=True)
json.dump(done, open("done.json", "w"))
"""


def without_privilege() -> list[str]:
    """Return the command before which permissions count also for root; skip the test if there is none."""
    if os.geteuid() != 0:
        return []
    program = shutil.which("setpriv")
    capabilities = "-dac_override,-dac_read_search"
    command = [str(program), f"--inh-caps={capabilities}", f"--bounding-set={capabilities}"]
    if program is None or subprocess.run([*command, "true"], check=False, capture_output=True).returncode:  # fmt: skip
        pytest.skip("permissions do not count for root, and setpriv cannot change that here")
    return command


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str]]:
    """Run all cases in one process; return exit code and standard error by label."""
    prefix = without_privilege()
    home = tmp_path_factory.mktemp("closed")
    rows = [{"prompt": f"Is {n} even?", "response": f"No, {n} leaves a rest of one."} for n in (1, 3, 5, 7)]  # fmt: skip
    (home / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = "name: closed\nsource: {use: jsonl, path: rows.jsonl}\nsamples:\n  - {use: entp.purge}\narms: []\n"  # fmt: skip
    (home / "r.yaml").write_text(recipe)
    (home / "deep.yaml").write_text(recipe.replace("rows.jsonl", "data/rows.jsonl"))
    for folder in ("closed", "data"):
        (home / folder).mkdir()
    (home / "data" / "rows.jsonl").write_text((home / "rows.jsonl").read_text())
    (home / "cases.json").write_text(json.dumps(CASES))
    roots = os.pathsep.join([str(ROOT), str(ROOT / "plugins"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": roots, "COLUMNS": "300"}
    subprocess.run([*prefix, sys.executable, "-c", SCRIPT], cwd=home, env=environment, check=True)
    done: dict[str, tuple[int, str]] = json.loads((home / "done.json").read_text())
    return done


@pytest.mark.parametrize("case", CASES, ids=[case[0] for case in CASES])
def test_what_is_closed_is_named_with_what_to_type(
    said: dict[str, tuple[int, str]], case: tuple[str, list[str], Any, int, str]
) -> None:
    label, _, _, code, words = case
    assert said[label][0] == code, said[label]
    assert re.search(words, " ".join(said[label][1].split())), said[label][1]
    assert "Traceback" not in said[label][1]


def test_the_advice_depends_on_the_error(tmp_path: Path) -> None:
    place = tmp_path / "x"
    advice = {
        errno.ENOSPC: "free some space",
        errno.EDQUOT: "free some space",
        errno.EROFS: "its file system is read-only: choose a folder on another one",
        errno.EIO: "make it writable",
    }
    for number, words in advice.items():
        error = OSError(number, os.strerror(number), str(place))
        assert file_advice(place, error, write=True) == words
        assert f"{place}: cannot be written ({os.strerror(number)}); earlier files are unchanged: {words}, and run" in str(write_error(place, error))  # fmt: skip
    assert file_advice(place, OSError(errno.EIO, "I/O error")) == "make it readable"


def test_the_owner_is_named_where_this_user_may_not_change_the_mode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "x"
    file.write_text("")
    monkeypatch.setattr(os, "access", lambda place, _: Path(place) != file)
    error = PermissionError(errno.EACCES, "Permission denied", str(file))
    owner = file.stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    assert re.fullmatch(rf"{file} belongs to the user \S+, who can permit it", file_advice(file, error))  # fmt: skip
    monkeypatch.setattr(os, "geteuid", lambda: owner)
    assert file_advice(file, error) == f"type: chmod u+r {file}"
    odd = tmp_path / "a b"
    odd.write_text("")
    monkeypatch.setattr(os, "access", lambda place, _: Path(place) != odd)
    assert file_advice(odd, error, write=True) == f"type: chmod u+rw '{odd}'"


def test_an_error_about_something_else_is_left_as_it_is(tmp_path: Path) -> None:
    other = FileNotFoundError(errno.ENOENT, "missing", str(tmp_path.parent / "other"))
    for error in (other, ConnectionError("reset"), OSError(errno.EIO, "I/O error")):
        assert access_error(tmp_path / "run", error) is None
        with pytest.raises(OSError, match=re.escape(str(error))), accessing(tmp_path / "run"):
            raise error
    # A full disk names no file where a line is appended.
    with (
        pytest.raises(StoreError, match=r"run: cannot be written .*free some space, and run"),
        accessing(tmp_path / "run"),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(("number", "words"), [(errno.EROFS, "read-only: choose"), (errno.ENOSPC, "free some space"), (errno.EDQUOT, "free some space")])  # fmt: skip
def test_a_disk_that_becomes_full_or_read_only_is_an_error_of_the_store(
    kit: Any, monkeypatch: pytest.MonkeyPatch, number: int, words: str
) -> None:
    """Each of the first writes fails in turn, appended lines included."""
    real, opened = Path.open, os.fsync
    left = 0

    def count() -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(number, os.strerror(number))

    def fsync(handle: int) -> None:
        count()
        opened(handle)

    def append(path: Path, mode: str = "r", *args: Any, **more: Any) -> Any:
        if mode == "a":
            count()
        return real(path, mode, *args, **more)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "open", append)
    for moment in range(0, 12, 3):
        left = moment
        with pytest.raises(NfilterError, match=f"{words}, and run|{words} .*and run") as raised:
            kit.run(out=kit.home / f"out-{moment}")
        assert raised.value.exit_code == 7
        left = 10**9
        assert kit.run(out=kit.home / f"out-{moment}").metrics["samples"]["read"] == 10
