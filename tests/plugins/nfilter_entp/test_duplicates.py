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

from nfilter import Message, Sample, hash_of
from nfilter.testing import FakeContext
from nfilter_entp.purging import duplicates
from nfilter_entp.purging.minhash import BANDS, ROWS, Sketcher
from nfilter_entp.purging.purge import Purge, PurgeConfig
from nfilter_entp.purging.row_similarity import (
    Parts,
    Shingled,
    shingles,
    similarity_of,
    without_punctuation,
)
from nfilter_entp.purging.texts import Text, plain

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
                    prompt.rsplit(" ", 1)[0]
                    if edits
                    else prompt,  # another word asks another question
                    edited(response, rng, edits),
                )
            )
    return rows


def true_jaccard(one: Sample, other: Sample) -> float:
    """By sets of eight bytes, of prompts and of responses; the smaller."""

    def sets(sample: Sample) -> list[set[bytes]]:
        texts = (
            without_punctuation(plain("user\x1f" + sample.query)),
            without_punctuation(plain(sample.response)),
        )
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
@settings(max_examples=12)
def test_neither_order_nor_chunks_change_anything(
    seed: int, rng: random.Random, chunk: int
) -> None:
    samples = clusters(seed, groups=6)
    first = purged(samples)
    rng.shuffle(samples)
    assert purged(samples, chunk=chunk) == first


def edits_of_one(kind: str, rows: int, seed: int = 0) -> list[Sample]:
    """Edits of one row: one of 40 words in the question, also one of 60 in the response, or 2 to 40 words of the response alone."""
    rng = random.Random(seed)
    prompt, response = said(rng, 20), said(rng, 60)
    out = []
    for n in range(rows):
        word = f"{rng.choice(WORDS[:40])} "
        asked = prompt if kind == "response" else word + prompt
        edits = {"question": 0, "both": 1, "response": rng.choice([2, 8, 24, 40])}[kind]
        out.append(row(f"{n}", asked, edited(response, rng, edits)))
    return out


def removed_by_comparing_all(samples: Sequence[Sample]) -> set[str]:
    """The same decision without buckets: each row is compared with all rows that stay."""
    stay: list[Shingled] = []
    left = set()
    for sample in sorted(samples, key=lambda s: (-len(s.response), hash_of(s.id))):
        own = Shingled(Parts.of(Text.of(sample)))
        if any(similarity_of(own, other, 0.7) is not None for other in stay):
            left.add(sample.id)
        else:
            stay.append(own)
    return left


@pytest.mark.parametrize("kind", ["question", "both", "response"])
def test_of_many_edits_of_one_row_nearly_all_copies_are_found(kind: str) -> None:
    samples = edits_of_one(kind, 220)
    wanted = removed_by_comparing_all(samples)
    found = set(purged(samples, "near_duplicates"))
    assert len(wanted) > 30
    # A row whose copy was missed stays, so it may be the reason that another row leaves.
    assert len(found & wanted) >= 0.97 * len(wanted)
    assert len(found - wanted) <= 0.03 * len(wanted)


def test_the_number_of_comparisons_per_row_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[int] = []

    def counted(one: Shingled, other: Shingled, least: float) -> float | None:
        compared.append(1)
        return similarity_of(one, other, least)

    monkeypatch.setattr(duplicates, "similarity_of", counted)
    samples = edits_of_one("both", 200)
    purged(samples, "near_duplicates")
    assert 200 < len(compared) <= 200 * 32
    compared.clear()
    stage = Purge(PurgeConfig.model_validate({"rules": {"near_duplicates": {"compared": 3}}}))
    stage.fit(iter(samples), FakeContext())
    assert 200 < len(compared) <= 200 * 3


@given(
    st.randoms(use_true_random=False), st.integers(1, 200), st.sampled_from(["both", "response"])
)
@settings(max_examples=6)
def test_many_edits_of_one_row_do_not_depend_on_order_or_chunks(
    rng: random.Random, chunk: int, kind: str
) -> None:
    samples = edits_of_one(kind, 150)
    first = purged(samples)
    assert first
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


REVIEW = "Classify the sentiment of the following product review as positive, negative or neutral. Review: {}"
RIVER = "The Nile is a major north-flowing river in northeastern Africa. It flows into the Mediterranean Sea and is the longest river in Africa."
WHY = "The capital of Australia has been Canberra since it was founded, as a compromise between the rivals Sydney and Melbourne."


def test_a_template_of_labels_is_no_copy() -> None:
    things = "phone camera tablet charger headset speaker printer monitor keyboard laptop router scanner toaster kettle blender"
    rows = [
        row(f"{verb} {thing}", REVIEW.format(f"I really {verb} this {thing}."), "negative" if verb == "hate" else "positive")
        for verb in ("love", "hate", "like") for thing in things.split()
    ]  # fmt: skip
    assert purged(rows) == {}
    asked = (
        "does the nile flow north",
        "is the nile in asia",
        "is it the longest river",
        "does it reach the sea",
    )
    for between in ("\n", " ", "\n\n"):
        rows = [row(q, f"Passage: {RIVER} {RIVER}{between}Question: {q}? Answer yes or no.", "Yes") for q in asked]  # fmt: skip
        assert purged(rows) == {}
    review = "I have used this for a year in my house and in the garden and I do {} it at all, it has all that you need."
    for one, other in (("like", "not like"), ("like", "dislike"), ("like +", "like"), ("dog beats cat", "cat beats dog")):  # fmt: skip
        assert different(
            (REVIEW.format(review.format(one)), "positive"),
            (REVIEW.format(review.format(other)), "positive"),
        )


def test_another_word_in_the_question_is_another_question() -> None:
    asked = "Is it true that the capital of Australia, which is a country in Oceania, is {}? Say yes or no and explain why."
    assert different((asked.format("Canberra"), f"Yes. {WHY}"), (asked.format("Sydney"), f"No. {WHY}"))  # fmt: skip
    assert different((asked, f"Yes. {WHY}"), (asked.replace("is {}", "is not {}"), f"No. {WHY}"))
    assert different((asked, f"Yes. {WHY}"), (asked.replace("it true", "it + true + 2").replace("why", "how"), f"No. {WHY}"))  # fmt: skip
    for one, other in (("I", "II"), ("II", "III"), ("V", "VI"), ("B", "BC")):
        text = (
            "Tell me in a few words of the king or war or class that has the name {} in the books."
        )
        assert different((text.format(one), WHY), (text.format(other), WHY))
    # Both words are in the passage.
    first, second = PASSAGE.split()[3], PASSAGE.split()[90]
    assert different((f"{PASSAGE} Say all of {first}", WHY), (f"{PASSAGE} Say all of {second}", WHY))  # fmt: skip
    # One has words more, yet the last line is another.
    passage = f"Passage: {PASSAGE}\nQuestion: who built it"
    assert different((passage, WHY), (f"{passage} and when was it sold to the town that we know?", WHY))  # fmt: skip


@pytest.mark.parametrize("response", ["Yes", WHY])
def test_spelling_and_doubled_words_are_no_other_question(response: str) -> None:
    asked = "Is it true that the capital of Australia, which is a country in Oceania, is Canberra"
    for one, other in (("country", "contry"), ("country", "coutnry"), ("capital", "cappital"), ("which is", "which is is")):  # fmt: skip
        assert not different((asked, response), (asked.replace(one, other), response))
    # In short words and first letters a letter may make another word.
    for one, other in (("that", "tht"), ("capital", "apital")):
        seen = different((asked, response), (asked.replace(one, other), response))
        assert seen == (response == "Yes")
    assert different((asked, response), (asked.replace(" in ", " n "), response)) == (response == "Yes")  # fmt: skip
    # A word more is another question to a label alone.
    more = asked.replace("which is", "which really is")
    assert different((asked, response), (more, response)) == (response == "Yes")
    free = asked.replace("Is it", "Was it")
    assert different((asked, response), (free, response)) == (response == "Yes")


def test_the_depth_of_lines_of_code_counts_and_the_width_of_a_step_does_not() -> None:
    asked = "Fix the code please"
    code = "def total(rows):\n    n = 0\n    for row in rows:\n        n += row\n    return n"
    inner = code.replace("    return", "        return")
    for one in (code, f"```python\n{code}\n```"):
        other = one.replace("    return", "        return")
        assert different((asked, one), (asked, other))
        assert different((one, "It adds."), (other, "It adds."))
        assert not different((asked, one), (asked, one.replace("    ", "  ")))
        assert not different((asked, one), (asked, one.replace("    ", "\t")))
    assert inner != code
    prose = "It rises in the hills.\n  If it rains, it is wide.\n    It ends in the sea."
    assert not different((asked, "A river. " * 9 + prose), (asked, "A river. " * 9 + prose.replace("  ", "")))  # fmt: skip


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


@given(st.text(max_size=60), st.text(max_size=60))
@settings(max_examples=60)
def test_any_text_is_packed_and_comes_back(prompt: str, response: str) -> None:
    parts = Parts.of(Text.of(row("a", prompt, response)))
    assert Parts.unpacked(parts.packed()) == parts
    same = Shingled(parts)
    assert similarity_of(same, same, 0.7) == 1.0
