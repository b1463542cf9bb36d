"""Claims to calls: each call is claimed once, its answer is read by others, and what a kill or damage leaves is claimed again."""

from __future__ import annotations

import hashlib
import os
import random
import threading
from collections import Counter
from pathlib import Path

import pytest

from nfilter import Completion, Failure, StoreError
from nfilter.store.claims import CLAIMS, ClaimFolder


def key(name: object) -> str:
    return hashlib.sha256(str(name).encode()).hexdigest()


A, B, C = (key(name) for name in "abc")


@pytest.fixture
def two(tmp_path: Path) -> tuple[ClaimFolder, ClaimFolder]:
    return ClaimFolder(tmp_path / "calls", 0), ClaimFolder(tmp_path / "calls", 1)


def test_a_call_is_claimed_once_and_its_answer_read_by_others(
    two: tuple[ClaimFolder, ClaimFolder],
) -> None:
    one, other = two
    assert one.take([A, B])[0] == [A, B]
    mine, looked = other.take([B, C])
    assert (mine, dict(looked.answered), set(looked.awaited)) == ([C], {}, {0})
    failed = Completion("", "failed", failure=Failure("refused", "no"))
    said = Completion("4", logprobs=(-0.5,), prompt_tokens=3, completion_tokens=1, usd=0.2)
    one.settle({A: failed, B: said})
    looked = other.look([A, B])
    assert looked.answered[B] == Completion(
        "4", logprobs=(-0.5,), prompt_tokens=3, completion_tokens=1, usd=0.0, cached=True
    )
    assert looked.answered[A].failure == Failure("refused", "no")
    assert not looked.free
    # Answers stay for those that come later.
    assert set(ClaimFolder(one._folder, 2).take([A, B])[1].answered) == {A, B}


def test_a_call_that_was_given_up_is_claimed_by_another(
    two: tuple[ClaimFolder, ClaimFolder],
) -> None:
    one, other = two
    one.take([A, B])
    one.settle({}, [A])
    assert list(other.look([A, B]).free) == [A]
    assert other.take([A, B])[0] == [A]
    assert set(one.look([A]).awaited) == {1}


def test_a_process_that_comes_again_has_its_own_claims(
    two: tuple[ClaimFolder, ClaimFolder], tmp_path: Path
) -> None:
    one, other = two
    one.take([A, B])
    other.take([C])
    one.settle({A: Completion("a")})
    again = ClaimFolder(tmp_path / "calls", 0)
    assert again.unsettled(2) == [B]
    assert again.take([B, C])[0] == [B]
    # Nobody is rank 1 of a world of one, so rank 0 settles its claims.
    assert sorted(again.unsettled(1)) == sorted([B, C])
    assert ClaimFolder(tmp_path / "calls", 1).unsettled(1) == [C]
    assert ClaimFolder(tmp_path / "none", 1).unsettled(1) == []
    assert not (tmp_path / "none").exists()


def test_a_record_that_a_kill_cut_off_is_no_claim(
    two: tuple[ClaimFolder, ClaimFolder], tmp_path: Path
) -> None:
    one, other = two
    one.take([A])
    with (tmp_path / "calls" / CLAIMS).open("ab") as file:
        file.write(bytes.fromhex(B)[:17])
    assert other.take([B])[0] == [B]
    assert set(one.look([A, B]).awaited) == {0, 1}


def test_a_write_in_parts_is_whole(
    two: tuple[ClaimFolder, ClaimFolder], monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, raw, at: write(file, raw[:50], at))
    one, other = two
    assert one.take([A, B, C])[0] == [A, B, C]
    assert set(other.look([A, B, C]).awaited) == {0}
    assert other.take([key("d")])[0] == [key("d")]
    assert set(one.look([key("d")]).awaited) == {1}


@pytest.mark.parametrize("damage", ["changed", "removed", "of another call"])
def test_a_damaged_answer_is_asked_for_again(
    two: tuple[ClaimFolder, ClaimFolder], tmp_path: Path, damage: str
) -> None:
    one, other = two
    one.take([A, B])
    one.settle({A: Completion("aaaa"), B: Completion("bbbb")})
    path = tmp_path / "calls" / "answers-0"
    raw = path.read_bytes()
    if damage == "removed":
        path.unlink()
    elif damage == "changed":
        path.write_bytes(raw[:20] + bytes([raw[20] ^ 1]) + raw[21:])
    else:
        half = len(raw) // 2
        path.write_bytes(raw[half:] + raw[:half])
    assert A in other.look([A, B]).free
    assert A in other.take([A, B])[0]


def test_of_two_folders_with_one_name_the_newer_counts(
    two: tuple[ClaimFolder, ClaimFolder], tmp_path: Path
) -> None:
    one, other = two
    one.take([A, B])
    other.look([A])
    (tmp_path / "calls" / CLAIMS).unlink()
    assert other.take([A])[0] == [A]
    assert set(one.look([A]).awaited) == {1}


def test_a_random_history_is_that_of_a_table(tmp_path: Path) -> None:
    rng = random.Random(0)
    folders = [ClaimFolder(tmp_path / "calls", rank) for rank in range(3)]
    keys = [key(number) for number in range(60)]
    owner: dict[str, int] = {}
    answers: dict[str, str] = {}
    for step in range(400):
        rank, asked = rng.randrange(3), rng.sample(keys, rng.randint(1, 8))
        folder = folders[rank]
        if rng.random() < 0.6:
            mine, looked = folder.take(asked)
            free = [each for each in asked if each not in answers and owner.get(each, rank) == rank]
            assert mine == free
            assert {each: done.text for each, done in looked.answered.items()} == {
                each: answers[each] for each in asked if each in answers
            }
            assert set(looked.awaited) == {owner[each] for each in asked if each not in answers and each not in free}  # fmt: skip
            owner |= dict.fromkeys(free, rank)
        else:
            own = [each for each in keys if owner.get(each) == rank and each not in answers]
            done = {each: Completion(f"{step} {each}") for each in own[::2]}
            folder.settle(done, own[1::2])
            answers |= {each: answer.text for each, answer in done.items()}
            for each in own[1::2]:
                del owner[each]
    assert len(answers) > 50
    for rank, folder in enumerate(folders):
        pending = {each for each in keys if owner.get(each) == rank and each not in answers}
        assert set(folder.unsettled(3)) == pending


def test_processes_that_claim_at_the_same_time_share_the_calls(tmp_path: Path) -> None:
    keys = [key(number) for number in range(300)]
    taken: list[str] = []

    def claim(rank: int) -> None:
        folder = ClaimFolder(tmp_path / "calls", rank)
        for start in range(0, len(keys), 6):
            taken.extend(folder.take(keys[start : start + 6])[0])

    threads = [threading.Thread(target=claim, args=(rank,)) for rank in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Counter(taken) == Counter(keys)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "calls").write_text("")
    folder = ClaimFolder(tmp_path / "calls", 0)
    with pytest.raises(StoreError, match="cannot be written"):
        folder.take([A])
    (tmp_path / "calls").unlink()
    assert folder.take([A])[0] == [A]
