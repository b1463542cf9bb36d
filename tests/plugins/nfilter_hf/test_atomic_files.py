"""What this plugin writes survives a kill: the old file stays whole, and a new one is on the disk with its folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from nfilter import StoreError
from nfilter_hf.cached_values import recall, remember
from nfilter_hf.lora.adapter import write_json
from nfilter_hf.tensor_files import save_tensors

WRITERS = {
    "write_json": "from nfilter_hf.lora.adapter import write_json; write_json(path, {'new': 1})",
    "remember": "from nfilter_hf.cached_values import remember; remember(path, {'new': 1})",
    "save_tensors": (
        "import torch; from nfilter_hf.tensor_files import save_tensors; save_tensors({'new': torch.ones(2)}, path, {})"
    ),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_kill_between_write_and_rename_leaves_the_old_file(writer: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    code = f"from pathlib import Path; path = Path({str(path)!r}); {WRITERS[writer]}"
    ended = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "NFILTER_FAILPOINT": "publish.synced:1"},
        capture_output=True,
        check=False,
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert path.read_text() == "old"


@pytest.mark.parametrize(
    "write",
    [
        lambda path: write_json(path, {"a": 1}),
        lambda path: remember(path, {"a": 1}),
        lambda path: save_tensors({"a": torch.ones(2)}, path, {"format": "pt"}),
    ],
)
def test_the_file_is_synced_before_the_rename_and_its_folder_after(
    write: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = []
    fsync = os.fsync

    def sync(handle: int) -> None:
        synced.append((Path(f"/proc/self/fd/{handle}").readlink().name, path.exists()))
        fsync(handle)

    path = tmp_path / "new" / "file"
    monkeypatch.setattr(os, "fsync", sync)
    write(path)
    (part, before), (folder, after) = synced
    assert part.startswith(".file.")
    assert (before, folder, after) == (False, "new", True)
    assert [each.name for each in path.parent.iterdir()] == ["file"]


def test_what_is_written_is_read_and_has_the_rights_of_any_file(tmp_path: Path) -> None:
    mask = os.umask(0o022)
    try:
        save_tensors({"a": torch.arange(3.0)}, tmp_path / "t", {"format": "pt"})
        remember(tmp_path / "home" / "r", {"a": 1})
    finally:
        os.umask(mask)
    assert load_file(tmp_path / "t")["a"].tolist() == [0, 1, 2]
    assert recall(tmp_path / "home" / "r") == {"a": 1}
    # safetensors itself would leave 0600.
    assert (tmp_path / "t").stat().st_mode & 0o777 == 0o644


def test_a_full_disk_is_an_error_that_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise SafetensorError("I/O error: No space left on device")

    (tmp_path / "t").write_text("old")
    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(StoreError, match=r"t: cannot be written \(I/O error: No space left"):
        save_tensors({"a": torch.ones(1)}, tmp_path / "t", {})
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [("t", "old")]


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file")
    remember(tmp_path / "home" / "r", {"a": 1})
    assert recall(tmp_path / "home" / "r") == {}
