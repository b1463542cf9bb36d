"""The run directory: what is published is whole, and a fingerprint says what it is of."""

from __future__ import annotations

import fcntl
import hashlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfilter import Sample, StoreError
from nfilter.store.artefacts import fingerprint_of
from nfilter.store.files import (
    canonical,
    digest,
    publishing,
    read_json,
    read_jsonl,
    write_json,
    write_jsonl,
)
from nfilter.store.locks import locked, other_process
from nfilter.store.run_directory import RunDirectory, set_aside
from nfilter.store.samples import open_samples
from nfilter.store.seals import damaged

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


def test_canonical_json_has_one_form() -> None:
    assert (
        canonical({"b": 1, "a": [1.5, None, True, "é\n"]}) == '{"a":[1.5,null,true,"é\\n"],"b":1}'
    )
    assert (
        digest({"b": 1, "a": 2})
        == digest({"a": 2, "b": 1})
        == hashlib.sha256(b'[{"a":2,"b":1}]').hexdigest()
    )
    assert digest("a", "b") != digest("ab") != digest(["a", "b"])
    for bad in (math.nan, math.inf):
        with pytest.raises(ValueError, match="not JSON compliant"):
            digest(bad)


@given(st.lists(values, max_size=4))
def test_what_is_written_is_read(rows: list[Any]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "deep" / "x.jsonl"
        seal = write_jsonl(path, rows)
        data = path.read_bytes()
        assert seal == (len(data), hashlib.sha256(data).hexdigest())
        assert list(read_jsonl(path)) == rows
        write_json(path.with_suffix(".json"), rows)
        assert read_json(path.with_suffix(".json")) == rows
        assert sorted(item.name for item in path.parent.iterdir()) == ["x.json", "x.jsonl"]


def failing() -> Iterator[int]:
    yield 1
    raise RuntimeError("in the middle")


@pytest.mark.parametrize("before", [None, "old\n"])
def test_a_failure_leaves_what_was_there_and_nothing_else(
    tmp_path: Path, before: str | None
) -> None:
    path = tmp_path / "x.jsonl"
    if before is not None:
        path.write_text(before)
    with pytest.raises(RuntimeError, match="in the middle"):
        write_jsonl(path, failing())
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_jsonl(path, [1, math.nan])

    def interrupted() -> None:
        with publishing(path) as out:
            out.write("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [item.read_text() for item in tmp_path.iterdir()] == ([before] if before else [])


def test_nothing_is_seen_at_its_place_before_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    with publishing(path) as out:
        out.write("half")
        out.flush()
        assert not path.exists()
    assert path.read_text() == "half"


def test_files_that_are_missing_or_broken_are_named(tmp_path: Path) -> None:
    with pytest.raises(
        StoreError, match=r"x\.json: does not exist; is .* the directory of a finished run\?"
    ):
        read_json(tmp_path / "x.json")
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(StoreError, match=r"x\.json:1: not JSON"):
        read_json(tmp_path / "x.json")


def test_the_life_of_an_artefact(tmp_path: Path) -> None:
    artefact = open_samples(tmp_path / "01-a")
    one = {"input": "x", "config": {"k": 1}}
    assert artefact.begin(one) == ("new", "")
    artefact.write_chunk(0, [Sample("a", ())], [{"id": "a"}])
    assert open_samples(tmp_path / "01-a").begin(one) == ("resumed", "")
    assert artefact.has_chunk(0)
    assert not artefact.has_chunk(1)
    artefact.write_chunk(1, [], [])
    artefact.finish({"kept": 1})
    again = open_samples(tmp_path / "01-a")
    assert again.begin(one) == ("reused", "")
    assert again.summary() == {"kept": 1}
    assert [sample.id for sample in again.samples()] == ["a"]
    assert list(again.decisions()) == [{"id": "a"}]
    assert again.fingerprint() == fingerprint_of(one)
    assert again.begin({**one, "config": {"k": 2}, "more": 1}) == ("changed", "config, more")
    assert list(again.samples()) == []
    artefact.remove()
    assert not artefact.directory.exists()
    artefact.remove()


def test_stages_that_a_recipe_does_not_have_are_discarded(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    for number, name in enumerate(("source", "a", "b", "c")):
        run.stage(number, name).begin({"of": "f"})
    (tmp_path / "tokens").mkdir()
    assert [name for name, _ in run.stages()] == ["source", "a", "b", "c"]
    assert run.discard_except({"00-source", "01-a"}) == ["02-b", "03-c"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00-source", "01-a", "tokens"]


def test_one_holder_at_a_time_in_one_process_too(tmp_path: Path) -> None:
    import os

    run = RunDirectory(tmp_path / "run")
    with (
        run.held(),
        pytest.raises(StoreError, match=f"process {os.getpid()} is running in it"),
        run.held(),
    ):
        pass
    with run.held():
        pass


@contextmanager
def running_in(folder: Path) -> Iterator[None]:
    """Another process runs in ``folder``."""
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write("4711")
        lock.flush()
        yield


def moving(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    """Let another process move ``path`` aside between the opening of its lock file and the lock."""
    moved: list[Path] = []

    def soon(lock: IO[str]) -> bool:
        if not moved:
            moved.append(path.rename(path.with_name(f"{path.name}.old-1")))
        return locked(lock)

    monkeypatch.setattr("nfilter.store.run_directory.locked_soon", soon)


def test_the_lock_is_that_of_the_folder_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunDirectory(tmp_path / "x")
    moving(monkeypatch, run.path)
    with run.held():
        assert (run.path / ".lock").read_text()
        with pytest.raises(StoreError, match="is running in it"), run.held():
            pass
        with RunDirectory(tmp_path / "x.old-1").held():
            pass


def test_of_two_that_move_a_run_aside_neither_moves_onto_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "x"
    (out / "00-source").mkdir(parents=True)
    moving(monkeypatch, out)
    assert set_aside(out) == tmp_path / "x.old-2"
    assert (tmp_path / "x.old-1" / "00-source").is_dir()


def test_the_process_that_runs_is_known_to_others_alone(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "x")
    assert other_process(run.path) is None
    with run.held():
        assert other_process(run.path) is None
    assert other_process(run.path) is None
    with running_in(run.path):
        assert other_process(run.path) == "4711"


def test_what_a_run_is_replacing_is_not_called_damaged_alone(tmp_path: Path) -> None:
    assert "; run the command that made it again" in str(
        damaged(tmp_path / "a", "is missing", tmp_path)
    )
    with running_in(tmp_path):
        assert str(damaged(tmp_path / "a", "is missing", tmp_path)) == (
            f"{tmp_path / 'a'}: is missing; process 4711 is running in {tmp_path} and may be replacing it: wait for it"
        )


@pytest.mark.types("rank «» of a run is running in it; stop it, or choose another --out")
def test_a_run_with_a_rank_in_it_is_not_moved(tmp_path: Path) -> None:
    out = tmp_path / "x"
    (out / "00-source").mkdir(parents=True)
    (out / "ranks" / "1").mkdir(parents=True)
    with (out / "ranks" / "1" / "lock").open("w") as lock:
        assert locked(lock)
        with pytest.raises(StoreError, match="rank 1 of a run is running in it; stop it"):
            set_aside(out)
    assert set_aside(out) == tmp_path / "x.old-1"


@pytest.mark.types("not the folder of a run, so it is not moved")
def test_a_run_is_moved_aside_whole_and_nothing_else_is(tmp_path: Path) -> None:
    out = tmp_path / "runs" / "x"
    assert set_aside(out) is None
    for number in (1, 2):
        (out / "00-source").mkdir(parents=True)
        (out / "journal.db").write_text(str(number))
        assert set_aside(out) == tmp_path / "runs" / f"x.old-{number}"
        assert not out.exists()
    assert [(tmp_path / "runs" / f"x.old-{n}" / "journal.db").read_text() for n in (1, 2)] == ["1", "2"]  # fmt: skip
    (out / "seed-0").mkdir(parents=True)
    with (
        RunDirectory(out / "seed-0").held(),
        pytest.raises(StoreError, match=r"seed-0: process \d+ is running in it"),
    ):
        set_aside(out)
    assert set_aside(out) == tmp_path / "runs" / "x.old-3"
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("x")
    with pytest.raises(StoreError, match="not the folder of a run, so it is not moved"):
        set_aside(mine)
    assert (mine / "thesis.txt").exists()
    with RunDirectory(tmp_path / "another").held():
        assert (tmp_path / "another").is_dir()
