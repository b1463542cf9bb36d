"""The one atomic write: a file or a folder appears whole and on the disk, or not at all."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nfilter import StoreError, publishing_file, publishing_folder
from nfilter.store.files import write_array
from nfilter.store.run_directory import RunDirectory


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What is synced and renamed, in order, by name."""
    done: list[tuple[str, str]] = []
    fsync, replace = os.fsync, Path.replace

    def synced(handle: int) -> None:
        done.append(("sync", Path(f"/proc/self/fd/{handle}").readlink().name))
        fsync(handle)

    def renamed(self: Path, target: Any) -> Path:
        done.append(("rename", self.name))
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", renamed)
    return done


def test_a_file_is_synced_before_it_is_renamed_and_its_folder_after(
    tmp_path: Path, steps: list[tuple[str, str]]
) -> None:
    path = tmp_path / "deep" / "x.bin"
    with publishing_file(path) as part:
        assert part.parent == path.parent
        part.write_bytes(b"new")
        assert not path.exists()
    assert path.read_bytes() == b"new"
    assert steps == [("sync", part.name), ("rename", part.name), ("sync", "deep")]
    assert [each.name for each in path.parent.iterdir()] == ["x.bin"]


def test_all_of_a_folder_is_synced_before_it_is_renamed(
    tmp_path: Path, steps: list[tuple[str, str]]
) -> None:
    path = tmp_path / "out"
    path.mkdir()
    (path / "old").write_text("old")
    with publishing_folder(path) as part:
        (part / "inside").mkdir()
        (part / "inside" / "a").write_text("a")
        (part / "b").write_text("b")
        assert (path / "old").exists()
    assert sorted(each.name for each in path.rglob("*")) == ["a", "b", "inside"]
    rename = steps.index(("rename", part.name))
    assert {name for _, name in steps[:rename]} == {"a", "b", "inside", part.name}
    assert steps[rename + 1 :] == [("sync", tmp_path.name)]


@pytest.mark.parametrize("publish", [publishing_file, publishing_folder])
def test_a_failure_leaves_what_was_there_and_nothing_else(tmp_path: Path, publish: Any) -> None:
    path = tmp_path / "x"
    path.write_text("old")

    def failing(error: BaseException) -> None:
        with publish(path):
            raise error

    with pytest.raises(KeyboardInterrupt):
        failing(KeyboardInterrupt())
    with pytest.raises(StoreError, match=r"x: cannot be written \(no space"):
        failing(OSError("no space left on device"))
    with (
        pytest.raises(
            StoreError,
            match=r"x: cannot be written \(Permission denied\).*type: chmod u\+rw \S*x, and run the same command",
        ),
        publish(path) as part,
    ):
        raise PermissionError(errno.EACCES, "Permission denied", str(part))
    with pytest.raises(
        StoreError, match=r"\(No space left\).*free some space, and run the same command"
    ):
        failing(OSError(errno.ENOSPC, "No space left"))
    # One that names a file is of another file.
    with pytest.raises(FileNotFoundError):
        failing(FileNotFoundError(2, "missing", "other"))
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [("x", "old")]


def test_what_a_killed_process_began_is_removed_and_what_a_running_one_writes_is_not(
    tmp_path: Path,
) -> None:
    code = f"import os, signal, nfilter as n; from pathlib import Path\nwith n.publishing_folder(Path({str(tmp_path / 'x')!r})): os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", code], check=False)
    (killed,) = tmp_path.iterdir()
    host = os.uname().nodename
    (running := tmp_path / f".x.{host}-{os.getppid()}.part").mkdir()
    (elsewhere := tmp_path / f".x.other{host}-{2**22 + 1}.part").mkdir()
    with publishing_folder(tmp_path / "x") as part:
        assert set(tmp_path.iterdir()) == {running, elsewhere, part}
    assert killed.name.startswith(f".x.{host}-")


def test_others_may_read_what_the_umask_lets_them(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with publishing_file(tmp_path / "x") as part:
            part.write_text("x")
    finally:
        os.umask(before)
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o640


def test_an_array_is_read_as_it_was_written(tmp_path: Path) -> None:
    values = np.arange(5, dtype=np.uint16)
    seal = write_array(tmp_path / "x.npy", values)
    assert seal.size == (tmp_path / "x.npy").stat().st_size
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy", allow_pickle=False), values)


def test_what_a_kill_left_half_written_is_removed_by_the_next_run(tmp_path: Path) -> None:
    (tmp_path / "01-a.b").mkdir()
    for name in (".metrics.json.1f2e.part", "01-a.b/.chunk-000000.npz.9.part"):
        (tmp_path / name).write_text("half")
    (tmp_path / ".tokens.12.part").mkdir()
    (tmp_path / ".tokens.12.part" / "ids.npy").write_text("half")
    (tmp_path / "01-a.b" / "kept").write_text("whole")
    with RunDirectory(tmp_path).held():
        pass
    assert sorted(each.name for each in tmp_path.rglob("*")) == [".lock", "01-a.b", "kept"]
