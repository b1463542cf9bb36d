"""Segments that are planted in reasoning are known to the character."""

from __future__ import annotations

from benchmarks.segment_masks import planted

ROWS = [
    {
        "question": f"q{n}",
        "answer": f"add +{n}: 1+{n}={n + 1} 2+{n}={n + 2} 3+{n}={n + 3}\nben: {n}",
    }
    for n in range(8)
]


def test_planted_segments_are_a_share_of_the_reasoning_and_stand_between_own_ones() -> None:
    for row, made in zip(ROWS, planted(ROWS, 0.4, seed=1), strict=True):
        text, places = made["answer"], made["planted"]
        own = row["answer"].rpartition("\n")[0].split(" ")
        wrong = [text[low:high] for low, high in places]
        segments = text.rpartition("\n")[0].split("\n\nWait ")
        assert text.endswith(f"\n{row['answer'].rpartition(chr(10))[2]}")
        assert (segments[0], segments[-1]) == (own[0], own[-1])
        assert len(segments) == len(own) + len(wrong)
        assert 0.4 <= sum(map(len, wrong)) / sum(map(len, segments)) < 0.6
    assert planted(ROWS, 0.4, seed=1) == planted(ROWS, 0.4, seed=1)
