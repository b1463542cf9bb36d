"""Noise: the published rows, nested levels, wrong values that are wrong and look right."""

from __future__ import annotations

import csv
import json
import random
import re
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from nfilter import Message, Row, Sample, SourceError, StoreError, Unreadable
from nfilter.noise.label_corruption import answer_pool, wrong_value
from nfilter.noise.labels import NoiseConfig, flipped, inject, inject_file, listed_options

PUBLISHED = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "robustft"
LEVELS = (30, 50, 70)


def answers(path: Path) -> list[str]:
    with path.open(newline="", encoding="utf-8") as file:
        return [row["answer"] for row in csv.DictReader(file)]


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="the published files are not beside the project")
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", ["arc", "fpb"])
def test_the_rows_are_those_of_the_published_files(name: str, level: int) -> None:
    right = answers(PUBLISHED / name / "labeled.csv")
    noisy = answers(PUBLISHED / name / "noisy" / f"noisy{level}.csv")
    differ = {at for at, (a, b) in enumerate(zip(right, noisy, strict=True)) if a != b}
    assert len(differ) > 400
    assert flipped(len(right), level / 100, seed=0) == differ


def test_the_rule_is_the_published_one_to_the_letter() -> None:
    for n in (1, 2, 10, 100, 1100, 1585, 1778):
        for ratio in (0.0, 0.1, 0.3, 0.5, 0.7, 0.99, 1.0):
            for seed in (0, 7):
                drawn = random.Random(seed).sample(range(n), int(n * ratio))
                assert flipped(n, ratio, seed) == set(drawn)


@given(
    n=st.integers(3, 1500),
    ratios=st.lists(st.floats(0.4, 1), min_size=2, max_size=2).map(sorted),
    seed=st.integers(0, 5),
)
def test_levels_above_a_third_nest(n: int, ratios: list[float], seed: int) -> None:
    low, high = (flipped(n, ratio, seed) for ratio in ratios)
    assert low <= high
    assert len(low) == int(n * ratios[0])


@pytest.mark.parametrize("n", [345, 1000, 1585, 1778, 2337, 7473])
def test_the_usual_levels_nest(n: int) -> None:
    assert flipped(n, 0.3, 0) < flipped(n, 0.5, 0) < flipped(n, 0.7, 0)


def test_another_seed_flips_other_rows() -> None:
    assert flipped(1000, 0.3, 0) != flipped(1000, 0.3, 1)


def test_a_wrong_choice_is_each_other_letter_as_often() -> None:
    drawn = Counter(
        wrong_value("B", "choice", seed=0, key=str(n), options=["w", "x", "y", "z"])
        for n in range(6000)
    )
    assert set(drawn) == {"A", "C", "D"}
    # 2000 expected of each, standard deviation 36.5
    assert all(abs(count - 2000) < 6 * 36.5 for count in drawn.values())


@pytest.mark.parametrize("options", [None, [], ["only"]])
def test_a_choice_without_options_is_an_error(options: list[str] | None) -> None:
    with pytest.raises(SourceError, match="'k' has no options"):
        wrong_value("A", "choice", seed=0, key="k", options=options)


NUMBER = re.compile(r"([-+$€ ]*)([0-9,]*)(\.[0-9]+)?(.*)", re.DOTALL)


@st.composite
def numbers(draw: Any) -> str:
    sign = draw(st.sampled_from(["", "-", "+", "$", "$-"]))
    whole = draw(st.integers(0, 10**12))
    grouped = draw(st.booleans())
    fraction = draw(st.sampled_from(["", ".5", ".25", ".00", ".999", ".1234567"]))
    return sign + (f"{whole:,}" if grouped else str(whole)) + fraction


@given(label=numbers(), seed=st.integers(0, 50), key=st.text(max_size=5))
def test_a_wrong_number_is_wrong_and_of_the_same_format(label: str, seed: int, key: str) -> None:
    wrong = wrong_value(label, "number", seed=seed, key=key)
    before, after = (NUMBER.fullmatch(text) for text in (label, wrong))
    assert before is not None
    assert after is not None
    assert after[1] == before[1]  # sign and currency
    assert len(after[3] or "") == len(before[3] or "")  # decimals

    def value(match: re.Match[str]) -> Fraction:
        return Fraction(match[2].replace(",", "") + (match[3] or ""))

    assert value(after) != value(before)
    if "," in before[2] and value(after) >= 1000:
        assert after[2] == f"{int(value(after)):,}"
    if "," not in before[2]:
        assert "," not in after[2]
        assert after[2] == str(int(value(after)))  # no leading zero came in


def test_wrong_numbers_are_near_or_a_slip_away() -> None:
    values = {wrong_value("4825", "number", seed=0, key=str(n)) for n in range(2000)}
    near = {str(4825 + step) for step in (1, 2, 3, 10, -1, -2, -3, -10)}
    swaps = {"8425", "4285", "4852"}
    slips = {
        "4825"[:at] + str(digit) + "4825"[at + 1 :]
        for at in range(4)
        for digit in range(at == 0, 10)
    } - {"4825"}
    assert values == near | swaps | slips


def test_a_slip_does_not_lose_a_digit() -> None:
    values = {wrong_value("20", "number", seed=0, key=str(n)) for n in range(1000)}
    assert {len(value) for value in values} == {2}


@pytest.mark.parametrize(
    ("label", "pattern"),
    [
        (
            "48/2 = <<48/2=24>>24 clips.\n48+24 = 72.\n#### 72",
            r"48/2 = <<48/2=24>>24 clips\.\n48\+24 = 72\.\n#### \d+",
        ),
        ("The answer is 1,234.50 dollars.", r"The answer is [\d,]+\.\d\d dollars\."),
        ("007", r"\d{3}"),
        ("0.05", r"\d\.\d\d"),
        (".5", r"\d?\.\d"),
        ("-3", r"-\d+"),
        ("3/4", r"3/\d+"),
        ("12 %", r"\d+ %"),
        ("9" * 5000, r"\d{5000}"),
    ],
)
def test_only_the_last_number_changes(label: str, pattern: str) -> None:
    for n in range(200):
        wrong = wrong_value(label, "number", seed=0, key=str(n))
        assert wrong != label
        assert re.fullmatch(pattern, wrong)


@pytest.mark.parametrize("kind", ["exact", "text", "spans", "number"])
def test_other_wrong_values_are_answers_of_other_samples(kind: Any) -> None:
    pool = answer_pool(["Paris", "paris ", "London", "Rome", "", "Rome"])
    assert pool == ("London", "Paris", "Rome", "paris ")
    drawn = Counter(wrong_value("PARIS", kind, seed=0, key=str(n), pool=pool) for n in range(400))
    assert set(drawn) == {"London", "Rome"}


def test_no_other_answer_is_an_error() -> None:
    for pool in ((), ("same",), ("same", "Same ")):
        with pytest.raises(SourceError, match="differs from its own"):
            wrong_value("same", "text", seed=0, key="k", pool=pool)


def row(n: int, response: str, truth: str | None = None, **meta: Any) -> Row:
    messages = (Message("user", f"q{n}"), Message("assistant", response))
    return Row(Sample(f"id{n}", messages, meta=meta), truth)


def choices(n: int) -> list[Row]:
    return [row(at, "ABCD"[at % 4], options=["w", "x", "y", "z"]) for at in range(n)]


def test_inject_flips_those_rows_and_keeps_the_truth() -> None:
    rows = choices(200)
    noisy = inject(rows, NoiseConfig(ratio=0.5), 3, "choice")
    wrong = {at for at, (a, b) in enumerate(zip(rows, noisy, strict=True)) if a.sample != b.sample}
    assert wrong == flipped(200, 0.5, 3)
    for before, after in zip(rows, noisy, strict=True):
        assert after.truth == before.sample.response
        assert after.sample.context == before.sample.context
        assert after.sample.id == before.sample.id
        assert after.sample.meta == before.sample.meta
        assert after.sample.why is None
        assert (after.sample.response == after.truth) == (after.sample == before.sample)
    assert inject(rows, NoiseConfig(ratio=0.5, seed=3), 99, "choice") == noisy


@pytest.mark.parametrize("kind", ["choice", "number", "exact"])
def test_a_row_is_wrong_in_the_same_way_at_every_level_and_place(kind: Any) -> None:
    rows = choices(100) if kind == "choice" else [row(n, f"answer {n}") for n in range(100)]

    def wrong(rows: list[Row], ratio: float) -> dict[str, str]:
        done = inject(rows, NoiseConfig(ratio=ratio), 0, kind)
        return {r.sample.id: r.sample.response for r in done if r.sample.response != r.truth}

    low, middle, high = (wrong(rows, ratio) for ratio in (0.3, 0.5, 0.7))
    assert (len(low), len(middle), len(high)) == (30, 50, 70)
    assert low.items() <= middle.items() <= high.items()
    turned = wrong(rows[::-1], 1.0)
    assert turned == wrong(rows, 1.0)
    assert high.items() <= turned.items()


def test_no_noise_and_all_noise() -> None:
    rows = choices(10)
    assert [r.sample for r in inject(rows, NoiseConfig(ratio=0), 0, "choice")] == [
        r.sample for r in rows
    ]
    assert all(
        r.sample.response != r.truth for r in inject(rows, NoiseConfig(ratio=1), 0, "choice")
    )
    assert inject([], NoiseConfig(ratio=0.5), 0, "choice") == []


@pytest.mark.types("leave out `truth`, or leave out the noise")
def test_a_truth_that_is_there_is_an_error() -> None:
    with pytest.raises(SourceError, match="'id1' has a true label already"):
        inject([row(0, "A"), row(1, "B", "C")], NoiseConfig(ratio=0.5), 0, "exact")
    assert len(list(inject([row(0, "A"), row(1, "B")], NoiseConfig(ratio=0.5), 0, "exact"))) == 2


@pytest.mark.parametrize("bad", [{"ratio": -0.1}, {"ratio": 1.1}, {}, {"ratio": 0.5, "rate": 1}])
def test_settings_out_of_range(bad: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        NoiseConfig(**bad)


def test_listed_options() -> None:
    assert listed_options(row(0, "A", options=["x", 2]).sample) == ["x", "2"]
    assert listed_options(row(0, "A", options="xy").sample) is None
    assert listed_options(row(0, "A").sample) is None


class Memory:
    """A source over rows in memory."""

    def __init__(self, items: list[Row | Unreadable]) -> None:
        self._items = items

    def read(self) -> Iterator[Row | Unreadable]:
        return iter(self._items)

    def restore(self, sample: Sample) -> dict[str, Any]:
        extra = {k: v for k, v in sample.meta.items() if k != "options"}
        return {"id": sample.id, "q": sample.query, **extra, "a": sample.response}


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_a_noisy_file(suffix: str, tmp_path: Path) -> None:
    items: list[Row | Unreadable] = [*choices(40), Unreadable(41, "bad", "raw")]
    items.append(row(50, "B", options=["w", "x"], note={"n": 1}))
    out = tmp_path / f"noisy{suffix}"
    done = inject_file(Memory(items), out, NoiseConfig(ratio=0.5), kind="choice")  # type: ignore[arg-type]
    assert (done.rows, done.flipped, done.unreadable) == (41, 20, 1)
    assert [path.name for path in tmp_path.iterdir()] == [out.name]
    if suffix == ".csv":
        with out.open(newline="", encoding="utf-8") as file:
            written = list(csv.DictReader(file))
        assert list(written[0]) == ["id", "q", "a", "note", "truth"]
        assert written[-1]["note"] == '{"n": 1}'
    else:
        written = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
        assert written[-1]["note"] == {"n": 1}
    right = [item for item in items if isinstance(item, Row)]
    assert [r["truth"] for r in written] == [item.sample.response for item in right]
    assert {at for at, r in enumerate(written) if r["a"] != r["truth"]} == flipped(41, 0.5, 0)
    assert [r["q"] for r in written] == [item.sample.query for item in right]


@pytest.mark.parametrize(
    ("items", "name", "column", "words"),
    [
        ([Unreadable(1, "bad", "raw")], "o.jsonl", "truth", "no row"),
        (choices(3), "o.parquet", "truth", ".jsonl or .csv"),
        (choices(3), "o.jsonl", "q", "column 'q' already"),
        ([row(0, "A", "B")], "o.jsonl", "truth", "true label already"),
    ],
)
def test_a_noisy_file_that_cannot_be(
    items: Any, name: str, column: str, words: str, tmp_path: Path
) -> None:
    with pytest.raises(SourceError, match=re.escape(words)):
        inject_file(
            Memory(items), tmp_path / name, NoiseConfig(ratio=0.5), kind="choice", column=column
        )  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_of_a_noisy_file_is_made(tmp_path: Path) -> None:
    out = tmp_path / "new" / "deep" / "o.jsonl"
    inject_file(Memory(choices(3)), out, NoiseConfig(ratio=0.5), kind="choice")  # type: ignore[arg-type]
    assert len(out.read_text(encoding="utf-8").splitlines()) == 3
    assert [path.name for path in out.parent.iterdir()] == ["o.jsonl"]


def test_a_noisy_file_in_a_place_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    out = tmp_path / "file" / "o.jsonl"
    with pytest.raises(
        StoreError,
        match=r"o\.jsonl: cannot be written \(.*file is a file, and a folder is needed: choose another place",
    ):
        inject_file(Memory(choices(3)), out, NoiseConfig(ratio=0.5), kind="choice")  # type: ignore[arg-type]
    assert (tmp_path / "file").read_text() == "kept"


def test_a_failure_leaves_the_old_file(tmp_path: Path) -> None:
    class Failing(Memory):
        def restore(self, sample: Sample) -> dict[str, Any]:
            self.count = getattr(self, "count", 0) + 1
            if self.count > 4:
                raise RuntimeError("broke")
            return super().restore(sample)

    out = tmp_path / "o.jsonl"
    out.write_text("old")
    with pytest.raises(RuntimeError):
        inject_file(Failing([*choices(3)]), out, NoiseConfig(ratio=0.5), kind="choice")  # type: ignore[arg-type]
    assert out.read_text() == "old"
    assert list(tmp_path.iterdir()) == [out]


def given(n: int) -> list[Row]:
    """Rows whose column ``own`` has the true answer (in other letters), an empty one and two wrong ones."""
    return [
        row(at, f"is {at}", own=[f"IS  {at}", " ", f"no {at}", f"never {at}"]) for at in range(n)
    ]


def test_wrong_answers_come_from_a_column_and_the_column_goes() -> None:
    noisy = inject(given(200), NoiseConfig(ratio=0.5, wrong="own"), 3, "exact")
    wrong = {at for at, each in enumerate(noisy) if each.sample.response != each.truth}
    assert wrong == flipped(200, 0.5, 3)
    drawn = [noisy[at].sample.response.split()[0] for at in wrong]
    assert set(drawn) == {"no", "never"}
    assert 30 < drawn.count("no") < 70
    assert not any("own" in each.sample.meta for each in noisy)
    high = inject(given(200), NoiseConfig(ratio=0.7, wrong="own"), 3, "exact")
    assert all(high[at].sample.response == noisy[at].sample.response for at in wrong)


def test_a_row_without_a_wrong_answer_of_its_own_gets_a_made_up_one() -> None:
    rows = [row(0, "8", own="9"), row(1, "8", own=["8"]), row(2, "8", own=None), row(3, "8")]
    noisy = inject(rows, NoiseConfig(ratio=1, wrong="own"), 0, "number")
    plain = inject(rows, NoiseConfig(ratio=1), 0, "number")
    assert noisy[0].sample.response == "9"
    assert [r.sample.response for r in noisy[1:]] == [r.sample.response for r in plain[1:]]


def test_a_column_that_no_row_has_is_named_with_those_there_are() -> None:
    with pytest.raises(SourceError, match=r"no row has a column 'onw'; .* there is: own"):
        inject(given(3), NoiseConfig(ratio=0.5, wrong="onw"), 0, "exact")
    assert inject([], NoiseConfig(ratio=0.5, wrong="own"), 0, "exact") == []
