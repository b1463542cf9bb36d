"""Duplicates: which rows are copies, who stays, and that neither depends on the order of rows."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pytest
from datasketch import MinHash
from hypothesis import given, settings
from hypothesis import strategies as st

from nfilter import Message, Sample
from nfilter.testing import FakeContext
from nfilter_entp.copies import Parts, Shingled, likeness, shingles, spelled
from nfilter_entp.purge import Purge, PurgeConfig
from nfilter_entp.sketches import BANDS, ROWS, Sketcher, grouped
from nfilter_entp.texts import Text, plain

WORDS = [
    a + b + c for a in "bdfgklmnprst" for b in "aeiou" for c in ("n", "sta", "rek", "lo", "mi")
]


def row(name: str, prompt: str, response: str, *, pinned: bool = False) -> Sample:
    return Sample(name, (Message("user", prompt), Message("assistant", response)), pinned=pinned)


def purged(samples: Sequence[Sample], *rules: str, chunk: int = 1000) -> dict[str, str]:
    names = list(rules or ("exact_duplicates", "near_duplicates"))
    stage, ctx = Purge(PurgeConfig.model_validate({"rules": names})), FakeContext()
    state = stage.fit(iter(samples), ctx)
    out = [
        s
        for start in range(0, len(samples), chunk)
        for s in stage.process(samples[start : start + chunk], state, ctx)
    ]
    return {s.id: s.dropped for s in out if s.dropped}


def said(rng: random.Random, words: int) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(words))


def edited(text: str, rng: random.Random, edits: int) -> str:
    words = text.split()
    for place in rng.sample(range(len(words)), edits):
        words[place] = rng.choice(WORDS)
    return " ".join(words)


def clusters(seed: int, groups: int = 12) -> list[Sample]:
    """Rows alone, and rows with copies that have few edits or many."""
    rng = random.Random(seed)
    rows = []
    for group in range(groups):
        prompt, response = said(rng, 20), said(rng, 60)
        rows.append(row(f"{group}-0", prompt, response))
        for copy in range(1, rng.randint(1, 5)):
            edits = rng.choice([0, 1, 4, 20])
            rows.append(
                row(
                    f"{group}-{copy}",
                    edited(prompt, rng, min(edits, 1)),
                    edited(response, rng, edits),
                )
            )
    return rows


def true_jaccard(one: Sample, other: Sample) -> float:
    """By sets of eight bytes, of prompts and of responses; the smaller."""

    def sets(sample: Sample) -> list[set[bytes]]:
        texts = (spelled(plain("user\x1f" + sample.query)), spelled(plain(sample.response)))
        return [{t.encode()[n : n + 8] for n in range(len(t.encode()) - 7)} for t in texts]

    return min(len(a & b) / len(a | b) for a, b in zip(sets(one), sets(other), strict=True))


@pytest.mark.parametrize("seed", range(5))
def test_planted_copies_are_those_of_brute_force(seed: int) -> None:
    samples = clusters(seed)
    left = purged(samples, "near_duplicates")
    stay = {s.id: s for s in samples if s.id not in left}
    by_id = {s.id: s for s in samples}
    for one, other in combinations(stay.values(), 2):
        assert true_jaccard(one, other) < 0.7
    assert left
    for name, reason in left.items():
        leader = reason.split("'")[1]
        assert leader in stay
        value = true_jaccard(by_id[name], by_id[leader])
        assert value >= 0.7
        assert f"Jaccard {value:.2f} with" in reason


@given(st.integers(0, 10**6), st.randoms(use_true_random=False), st.integers(1, 40))
@settings(max_examples=12, deadline=None)
def test_neither_order_nor_chunks_change_anything(
    seed: int, rng: random.Random, chunk: int
) -> None:
    samples = clusters(seed, groups=6)
    first = purged(samples)
    rng.shuffle(samples)
    assert purged(samples, chunk=chunk) == first


def test_exact_copies_but_for_case_space_and_form() -> None:
    samples = [
        row("a", "What is  it?", "A ﬁsh and a bird"), row("b", "what is it?", "a fish AND a bird"),
        row("c", "What is it?", "A fish and a dog"),
    ]  # fmt: skip
    left = purged(samples, "exact_duplicates")
    assert list(left.values()) in (
        ["exact_duplicates: the same prompt and response as 'a'"],
        ["exact_duplicates: the same prompt and response as 'b'"],
    )


def test_who_stays() -> None:
    prompt, text = "Say something of rivers and of hills", "a river runs from the hills to the far sea " + said(random.Random(1), 40)  # fmt: skip
    short, long = row("short", prompt, text), row("long", prompt, text + " at last.")
    assert set(purged([short, long])) == {"short"}
    pinned = row("short", prompt, text, pinned=True)
    assert set(purged([pinned, long])) == {"long"}
    both = [pinned, row("long", prompt, text + " at last.", pinned=True)]
    assert purged(both) == {}
    # The longest would stay, but what another rule drops keeps nobody out.
    junk = row("junk", prompt, text + " <no input>")
    left = purged([short, junk], "near_duplicates", "template")
    assert set(left) == {"junk"}
    assert left["junk"].startswith("near_duplicates: Jaccard")
    assert "; template: a mark for nothing: '<no input>'" in left["junk"]


def different(one: tuple[str, str], other: tuple[str, str]) -> bool:
    return purged([row("a", *one), row("b", *other)]) == {}


PASSAGE = said(random.Random(3), 200)


def test_the_same_words_about_something_else_are_no_copy() -> None:
    clips = "Natalia sold clips to {} of her friends in April, and then she sold half as many clips in May. How many clips did she sell?"
    steps = "Natalia sold half as many clips in May as in April, so that she sold all in all the sum of both, which is {} clips."
    assert different((clips.format(48), steps.format(72)), (clips.format(50), steps.format(75)))
    assert different(
        ("Name a river in France", "The Seine"), ("Name a river in France", "The Loire")
    )
    assert different((f"Is the town in the north?\n\n{PASSAGE}", "Yes"), (f"Was the king ever married?\n\n{PASSAGE}", "Yes"))  # fmt: skip
    assert different((f"{PASSAGE}\n\nIs the town in the north?", "Yes"), (f"{PASSAGE}\n\nWas the king ever married?", "Yes"))  # fmt: skip
    assert different(("What is 2 - 7?", "-5"), ("What is 2 + 7?", "5"))
    assert different(("法国的首都是哪里？", "巴黎"), ("德国的首都是哪里？", "柏林"))
    earlier = (Message("user", PASSAGE), Message("assistant", "Yes"))
    turns = [
        Sample(name, (*earlier, Message("user", asked), Message("assistant", "Yes, it is.")))
        for name, asked in (("a", "Is it a fish?"), ("b", "Was it ever sold?"))
    ]
    assert purged(turns) == {}


def test_a_number_left_out_is_an_edit() -> None:
    text = "In the year 1889 " + said(random.Random(4), 50)
    assert not different(("When was the tower built?", text), ("When was the tower built?", text.replace("1889 ", "")))  # fmt: skip


def test_the_same_response_to_other_prompts_is_a_rule_of_its_own() -> None:
    text = said(random.Random(5), 30)
    samples = [row("a", "What is a river?", text), row("b", "Who wrote this book?", text)]
    assert purged(samples) == {}
    (reason,) = purged(samples, "same_response").values()
    assert reason.startswith("same_response: the same response as ")
    short = [row("a", "Is it far?", "No"), row("b", "Who is it?", "No")]
    assert purged(short, "same_response") == {}


def test_signatures_are_those_of_minhash_one_value_at_a_time() -> None:
    hashes = shingles(said(random.Random(6), 30))
    slow = MinHash(num_perm=BANDS * ROWS, seed=1, hashfunc=int)
    for value in hashes.tolist():
        slow.update(value)
    sketcher = Sketcher()
    assert sketcher.signature(hashes).tolist() == slow.hashvalues.tolist()
    assert (
        sketcher.signature(hashes).tolist() == slow.hashvalues.tolist()
    )  # nothing is left of the first
    assert (
        sketcher.signature(np.tile(hashes, 40)).tolist() == slow.hashvalues.tolist()
    )  # and in blocks


def test_groups_are_values_that_come_twice() -> None:
    groups = grouped(np.array([5, 3, 5, 9, 3, 1], np.uint32))
    assert groups[0] == groups[2] != groups[1] == groups[4]
    assert groups[[3, 5]].tolist() == [-1, -1]
    assert grouped(np.empty(0, np.uint32)).tolist() == []


@given(st.text(max_size=60), st.text(max_size=60))
@settings(max_examples=60, deadline=None)
def test_any_text_is_packed_and_comes_back(prompt: str, response: str) -> None:
    parts = Parts.of(Text.of(row("a", prompt, response)))
    assert Parts.unpacked(parts.packed()) == parts
    same = Shingled.of(parts)
    assert likeness(same, same, 0.7) == 1.0
