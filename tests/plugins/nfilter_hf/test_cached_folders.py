"""Folders in the user's cache, which several processes may make at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from nfilter_hf.cached_folders import is_valid, remove_others, store


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def said(folder: Path, text: str) -> None:
    (folder / "weights").write_text(text)


def test_what_another_process_made_in_the_meantime_stays(tmp_path: Path) -> None:
    folder, other = tmp_path / "made" / "now", tmp_path / "made" / "theirs"

    def write(partial: Path) -> None:
        said(partial, "ours")
        assert store(other, lambda p: said(p, "theirs"))
        other.replace(folder)

    assert store(folder, write)
    assert (folder / "weights").read_text() == "theirs"
    assert [path.name for path in folder.parent.iterdir()] == ["now"]


def test_what_is_damaged_is_made_again(tmp_path: Path) -> None:
    folder = tmp_path / "made" / "now"
    assert store(folder, lambda p: said(p, "first"))
    (folder / "weights").write_text("other")
    assert not is_valid(folder)
    assert store(folder, lambda p: said(p, "second"))
    assert (folder / "weights").read_text() == "second"


def test_earlier_versions_are_removed_and_work_of_others_is_not(tmp_path: Path) -> None:
    for name in ("old", "now", ".now.here-123.part"):
        (tmp_path / name).mkdir()
    remove_others(tmp_path / "now")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".now.here-123.part", "now"]
    remove_others(tmp_path / "none" / "now")
