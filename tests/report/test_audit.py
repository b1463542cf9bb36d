"""Checking by hand: the draw, the sheet, and what its answers say."""

from __future__ import annotations

import csv
import itertools
import json
import random
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfilter.api.errors import DamageError, StoreError
from nfilter.cli import entry
from nfilter.metrics.stratified import Checked, estimate
from nfilter.report import audit as subject
from nfilter.report import sheet
from nfilter.report.drawing import Unit, draw, extended
from nfilter.store.files import write_sealed
from nfilter.store.samples import open_samples

RUN = Path("runs/sums")
SHEET = RUN / "audit.csv"


def rows() -> list[dict[str, str]]:
    with SHEET.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def fill(answers: dict[str, str], delimiter: str = ",") -> None:
    """Write the answers as a spreadsheet would."""
    found = rows()
    with SHEET.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, list(found[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows({**row, "label_is_right": answers.get(row["id"], "")} for row in found)


def truth() -> dict[str, str]:
    lines = (RUN / "truth.jsonl").read_text().splitlines()
    return {json.loads(line)["id"]: json.loads(line)["truth"] for line in lines}


def judged() -> dict[str, str]:
    true = truth()
    return {row["id"]: "y" if row["label"] == true[row["id"]] else "n" for row in rows()}


# --- the draw ------------------------------------------------------------------------------------------------


def population(n: int = 1000, share: float = 0.3, seed: int = 0) -> list[Unit]:
    rng = random.Random(seed)
    return [Unit(f"row-{i}", flagged=rng.random() < share, score=rng.random()) for i in range(n)]


def test_strata_are_flags_by_bands_of_the_score():
    units = population()
    strata = draw(units, 50, 0)
    by_id = {unit.id: unit for unit in units}
    assert [stratum.flagged for stratum in strata] == [True] * 3 + [False] * 3
    assert sum(stratum.size for stratum in strata) == 1000
    assert sum(len(stratum.drawn) for stratum in strata) == 50
    assert [sum(len(s.drawn) for s in strata if s.flagged is flag) for flag in (True, False)] == [
        25,
        25,
    ]
    for stratum in strata:
        assert len(set(stratum.drawn)) == len(stratum.drawn)
        for sample_id in stratum.drawn:
            assert by_id[sample_id].flagged is stratum.flagged
            assert stratum.low <= by_id[sample_id].score <= stratum.high
    for left, right in itertools.pairwise(strata):
        if left.flagged is right.flagged:
            assert left.high <= right.low
            assert abs(left.size - right.size) <= 1


def test_the_draw_depends_on_the_seed_and_not_on_the_order():
    units = population()
    shuffled = random.Random(1).sample(units, len(units))
    assert draw(units, 50, 0) == draw(shuffled, 50, 0)
    assert draw(units, 50, 0) != draw(units, 50, 1)


def test_within_a_stratum_every_row_is_as_likely():
    units = [Unit(f"row-{i}", flagged=False, score=0.5) for i in range(20)]
    counts = dict.fromkeys((unit.id for unit in units), 0)
    for seed in range(2000):
        for stratum in draw(units, 3, seed):
            for sample_id in stratum.drawn:
                counts[sample_id] += 1
    # 300 expected each; the standard deviation of a count is 16.
    assert all(300 - 80 < count < 300 + 80 for count in counts.values())


@given(
    st.lists(st.tuples(st.booleans(), st.none() | st.floats(0, 1)), min_size=1, max_size=60),
    st.integers(2, 80),
    st.integers(0, 3),
)
def test_any_population_is_drawn_from(pairs, n, seed):
    units = [Unit(str(i), flagged, score) for i, (flagged, score) in enumerate(pairs)]
    strata = draw(units, n, seed)
    assert sum(stratum.size for stratum in strata) == len(units)
    assert sum(len(stratum.drawn) for stratum in strata) == min(n, len(units))
    for flag in (True, False):
        if any(unit.flagged is flag for unit in units):
            assert any(stratum.drawn for stratum in strata if stratum.flagged is flag)


# --- the estimates -------------------------------------------------------------------------------------------


def test_estimates_are_weighted_by_what_a_row_stands_for():
    strata = [Checked(True, 100, 10, 9), Checked(True, 300, 10, 6), Checked(False, 600, 20, 1)]
    found = estimate(strata)
    weights = [(100 / 10, 9, True), (300 / 10, 6, True), (600 / 20, 1, False)]
    flagged_wrong = sum(w * k for w, k, flagged in weights if flagged)
    wrong = sum(w * k for w, k, _ in weights)
    assert found.precision.value == pytest.approx(flagged_wrong / 400)
    assert found.recall.value == pytest.approx(flagged_wrong / wrong)
    assert found.noise_rate.value == pytest.approx(wrong / 1000)
    for each in (found.precision, found.recall, found.noise_rate):
        assert 0 <= each.low <= each.value <= each.high <= 1


def test_a_census_leaves_nothing_to_guess():
    found = estimate([Checked(True, 10, 10, 8), Checked(False, 40, 40, 2)])
    for each, value in ((found.precision, 0.8), (found.recall, 0.8), (found.noise_rate, 0.2)):
        assert (each.value, each.low, each.high) == pytest.approx((value, value, value))


@pytest.mark.parametrize(
    ("strata", "precision", "recall", "noise"),
    [
        ([Checked(True, 9, 0, 0), Checked(False, 9, 3, 1)], "no flagged row is checked", "no flagged row", "no flagged row"),
        ([Checked(True, 9, 3, 3), Checked(False, 9, 0, 0)], None, "no row without a flag", "no row without a flag"),
        ([Checked(False, 9, 3, 1)], "no row is flagged", None, None),
        ([Checked(True, 9, 3, 3)], None, None, None),
        ([Checked(True, 9, 3, 0), Checked(False, 9, 3, 0)], None, "undefined, because no checked label is wrong", None),
    ],
)  # fmt: skip
def test_what_cannot_be_known_is_none_with_the_reason(strata, precision, recall, noise):
    found = estimate(strata)
    for each, why in (
        (found.precision, precision),
        (found.recall, recall),
        (found.noise_rate, noise),
    ):
        assert (each.value is None) == (why is not None)
        assert (each.why or "").startswith(why or "")


def test_a_stratum_that_nobody_answered_joins_its_group():
    parts = [Checked(True, 50, 10, 9), Checked(True, 50, 0, 0), Checked(False, 100, 10, 1)]
    merged = [Checked(True, 100, 10, 9), Checked(False, 100, 10, 1)]
    assert estimate(parts) == estimate(merged)


def simulate(size: int, flagged: float, precision: float, missed: float, n: int, times: int = 200):
    """Populations whose chance of a wrong label rises with the score; each is drawn from and checked once."""
    rng = random.Random(f"{size} {flagged} {n}")
    units, wrong = [], {}
    for i in range(size):
        flag, score = rng.random() < flagged, rng.random()
        units.append(Unit(str(i), flag, score))
        chance = 1 - (1 - precision) * 2 * (1 - score) if flag else missed * 2 * score
        wrong[str(i)] = rng.random() < chance
    hits = [unit for unit in units if unit.flagged and wrong[unit.id]]
    true = {
        "precision": len(hits) / sum(unit.flagged for unit in units),
        "recall": len(hits) / sum(wrong.values()),
        "noise_rate": sum(wrong.values()) / size,
    }
    covered = dict.fromkeys(true, 0)
    values: dict[str, list[float]] = {name: [] for name in true}
    for seed in range(times):
        checked = [
            Checked(s.flagged, s.size, len(s.drawn), sum(wrong[i] for i in s.drawn))
            for s in draw(units, n, seed)
        ]
        found = estimate(checked, seed)
        for name, value in true.items():
            each = getattr(found, name)
            values[name].append(each.value)
            covered[name] += each.low <= value <= each.high
    return true, values, {name: count / times for name, count in covered.items()}


@pytest.mark.parametrize(
    ("size", "flagged", "precision", "missed", "n"),
    [(1000, 0.5, 0.9, 0.1, 50), (1000, 0.3, 0.8, 0.05, 50), (800, 0.4, 0.7, 0.3, 200)],
)
def test_estimates_are_unbiased_and_intervals_cover(
    size, flagged, precision, missed, n, monkeypatch
):
    import numpy as np

    # Fewer draws make an interval a little rougher, not wider or narrower.
    monkeypatch.setattr(f"{estimate.__module__}._DRAWS", 3000)
    true, values, covered = simulate(size, flagged, precision, missed, n)
    for name, value in true.items():
        error = np.std(values[name], ddof=1) / np.sqrt(len(values[name]))
        # Recall is a ratio: its bias is of the order 1/n, and small beside its interval.
        slack = 0.5 / n if name == "recall" else 0.0
        assert abs(np.mean(values[name]) - value) < 3.5 * error + slack, name
        # 95% of 200 is 190 with a standard deviation of 3.1.
        assert 0.90 <= covered[name] <= 1.0, (name, covered)


def test_naive_shares_would_be_biased():
    """The same populations without weights: the noise rate of the sample is far from the population's."""
    strata = draw([Unit(str(i), i < 100, 0.5) for i in range(2000)], 50, 0)
    checked = [
        Checked(s.flagged, s.size, len(s.drawn), len(s.drawn) if s.flagged else 0) for s in strata
    ]
    unweighted = sum(c.wrong for c in checked) / sum(c.checked for c in checked)
    assert unweighted == pytest.approx(0.5)
    assert estimate(checked).noise_rate.value == pytest.approx(0.05)


# --- the sheet -----------------------------------------------------------------------------------------------


@given(st.text())
def test_guarding_is_reversible_and_leaves_no_formula(text):
    assert sheet.guard(text).removeprefix("'") == text
    assert not sheet.guard(text).startswith(("=", "+", "-", "@", "\t", "\r"))


def test_formulas_are_neutralised_and_their_rows_still_found(tmp_path):
    ids = ["=1+1", "+x", "-5", "@a", "'quoted", "plain", "\tq"]
    path = tmp_path / "audit.csv"
    sheet.write(
        path, ["id", "question", "label_is_right"], [[i, "=HYPERLINK(1)", "y"] for i in ids]
    )
    with path.open(encoding="utf-8-sig", newline="") as file:
        cells = [row[:2] for row in csv.reader(file)][1:]
    assert all(not cell.startswith(("=", "+", "-", "@", "\t")) for row in cells for cell in row)
    assert sheet.answers(path, ids) == dict.fromkeys(ids, True)
    # A spreadsheet that eats the apostrophe still leaves an id that is known.
    path.write_text(path.read_text(encoding="utf-8-sig").replace("'-5", "-5"), encoding="utf-8")
    assert sheet.answers(path, ids)["-5"] is True


def test_a_sheet_that_is_no_csv_is_named(tmp_path):
    path = tmp_path / "audit.csv"
    path.write_text('id,label_is_right\na,"' + "x" * 200_000)
    with pytest.raises(StoreError, match=r"audit\.csv: not CSV \(field larger .* save it as CSV"):
        sheet.answers(path, ["a"])


def test_lines_at_fault_are_all_named(tmp_path):
    path = tmp_path / "audit.csv"
    path.write_text(
        'id,question,label_is_right\na,"two\nlines",y\nb,x,maybe\nzz,x,n\na,x,n\nc,x,\n'
    )
    with pytest.raises(StoreError) as caught:
        sheet.answers(path, ["a", "b", "c"])
    assert str(caught.value).splitlines() == [
        f"{path}:4: label_is_right is 'maybe'; write y or n, or leave it empty",
        f"{path}:5: no drawn row has the id 'zz'; known: a, b, c",
        f"{path}:6: the id 'a' occurs twice; remove one of the lines",
    ]


@pytest.mark.types("the column «» is missing; put it back")
def test_a_lost_column_and_another_encoding_are_errors(tmp_path):
    path = tmp_path / "audit.csv"
    path.write_text("id,question\na,b\n")
    with pytest.raises(StoreError, match="the column 'label_is_right' is missing"):
        sheet.answers(path, ["a"])
    path.write_text("id,question,label_is_right\na,b,y\n")
    assert sheet.answers(path, ["a"]) == {"a": True}
    path.write_bytes("id,label_is_right\nä,y\n".encode("latin-1"))
    with pytest.raises(StoreError, match="save it as CSV UTF-8"):
        sheet.answers(path, ["ä"])


@pytest.mark.parametrize(
    ("said", "right"), [("y", True), ("Yes ", True), ("1", True), ("N", False), ("FALSE", False)]
)
def test_words_for_yes_and_no(said, right, tmp_path):
    path = tmp_path / "audit.csv"
    sheet.write(path, ["id", "label_is_right"], [["a", said]])
    assert sheet.answers(path, ["a"]) == {"a": right}


def test_an_extended_draw_is_the_larger_draw():
    units = population()
    few, many = draw(units, 50, 7), draw(units, 120, 7)
    assert extended(units, 50, 7, 120, few) == many
    assert all(set(a.drawn) < set(b.drawn) for a, b in zip(few, many, strict=True))
    # A draw of few rows keeps its bands, and rows that another version drew stay drawn.
    small = draw(units, 10, 7)
    other = [replace(s, drawn=tuple(sorted(draw_ids(units, s))[: len(s.drawn)])) for s in small]
    after = extended(units, 10, 7, 40, other)
    assert after is not None
    assert [s.name for s in after] == [s.name for s in small]
    assert sum(len(s.drawn) for s in after) == 40
    for s, b in zip(after, other, strict=True):
        assert s.drawn[: len(b.drawn)] == b.drawn
        assert len(set(s.drawn)) == len(s.drawn)
    assert extended(population(seed=1), 50, 7, 120, few) is None
    assert extended(units[1:], 50, 7, 120, few) is None


def draw_ids(units: list[Unit], stratum: Any) -> list[str]:
    return [
        u.id
        for u in units
        if u.flagged == stratum.flagged and stratum.low <= (u.score or 0) <= stratum.high
    ]


def test_rows_of_one_score_are_as_likely_as_the_others_of_their_band():
    # The lower band has rows 0 to 19 and half of those of equal score, which the tie-breaking chose.
    units = [Unit(f"low-{i}", False, i / 1000) for i in range(20)]
    units += [Unit(f"tied-{i}", False, 0.5) for i in range(40)]
    units += [Unit(f"high-{i}", False, 0.9 + i / 1000) for i in range(60)]
    tied = drawn = 0
    for seed in range(400):
        first = draw(units, 12, seed)[0]
        tied += sum(name.startswith("tied") for name in first.drawn)
        drawn += len(first.drawn)
    assert first.size == 40
    # Half of the band; 4 standard deviations of a share of 1,600 rows.
    assert abs(tied / drawn - 0.5) < 4 * 0.5 / drawn**0.5


# --- a run ---------------------------------------------------------------------------------------------------


def test_the_sheet_is_blind(world, shown, golden):
    result = subject.audit(RUN, n=12)
    assert (result.status, result.drawn, result.population, result.flagged) == ("drawn", 12, 26, 8)
    found = rows()
    assert list(found[0]) == ["id", "question", "label", "label_is_right"]
    assert {row["label_is_right"] for row in found} == {""}
    # The label is the one that came, also where a stage put another in its place.
    original = {
        json.loads(line)["id"]: json.loads(line)["messages"][-1][1]
        for path in (RUN / "00-source").glob("chunk-*")
        for line in path.read_text().splitlines()
    }
    assert all(row["label"] == original[row["id"]] for row in found)
    flags = [row["id"] in flagged_ids() for row in found]
    assert flags != sorted(flags)
    assert flags != sorted(flags, reverse=True)
    golden("report/audit-drawn.txt", shown(subject.render, result))


def flagged_ids() -> set[str]:
    return {
        json.loads(line)["id"]
        for path in (RUN / "05-story.select").glob("chunk-*")
        for line in path.read_text().splitlines()
        if json.loads(line)["notes"].get("verdict", {}).get("flagged")
    }


def test_new_samples_are_not_drawn(world):
    subject.audit(RUN, n=50)
    assert len(rows()) == 26
    assert not [row for row in rows() if row["id"].startswith("twin-")]


def test_an_open_sheet_shows_new_label_and_reason(world):
    subject.audit(RUN, n=50, blind=False)
    by_id = {row["id"]: row for row in rows()}
    assert list(next(iter(by_id.values()))) == [
        "id",
        "question",
        "label",
        "new_label",
        "reason",
        "label_is_right",
    ]
    row = next(row for row in by_id.values() if row["question"] == "2+4")
    assert (row["label"], row["new_label"]) == ("7", "6")
    assert row["reason"] == "drop: a new label with an even sum is not trusted"


def test_answers_become_figures(world, shown, golden):
    subject.audit(RUN, n=12)
    fill(judged())
    result = subject.audit(RUN, n=12)
    assert (result.status, result.answered) == ("answered", 12)
    # The flags of this run are exactly the wrong labels.
    assert result.estimates.precision.value == result.estimates.recall.value == 1.0
    assert (result.mistaken, result.missed) == ([], [])
    record = json.loads((RUN / "audit.json").read_text())
    assert record["estimates"]["noise_rate"]["value"] == result.estimates.noise_rate.value
    assert "beta-binomial" in record["method"]
    # The ends of the intervals are draws of numpy's, which may change with its version.
    said = " ".join(shown(subject.render, result).split())
    said = re.sub(r"interval [0-9.]+% to [0-9.]+%", "interval LOW to HIGH", said)
    golden("report/audit-answered.txt", said.replace(". ", ".\n") + "\n")
    # Once more is the same: the record of the draw is still there.
    assert subject.audit(RUN, n=12) == result


def test_a_census_by_hand_finds_the_true_noise_rate(world):
    subject.audit(RUN, n=50)
    fill(judged())
    found = subject.audit(RUN).estimates.noise_rate
    assert (found.value, found.low, found.high) == pytest.approx((8 / 26, 8 / 26, 8 / 26))


def test_wrong_flags_are_named(world):
    subject.audit(RUN, n=50)
    answers = judged()
    flagged = sorted(row["id"] for row in rows() if row["id"] in flagged_ids())
    rest = sorted(set(answers) - set(flagged))
    fill({**answers, flagged[0]: "y", rest[0]: "n"})
    result = subject.audit(RUN)
    assert (result.mistaken, result.missed) == ([flagged[0]], [rest[0]])
    assert result.estimates.precision.value == pytest.approx(7 / 8)
    assert result.estimates.recall.value == pytest.approx(7 / 8)


def test_a_sheet_with_an_answer_is_never_written_again(world):
    subject.audit(RUN, n=12)
    first = rows()[0]["id"]
    fill({first: "y"})
    kept = SHEET.read_bytes()
    result = subject.audit(RUN, n=20, seed=5)
    assert SHEET.read_bytes() == kept
    assert (result.drawn, result.answered) == (12, 1)
    assert result.notes[0] == (
        "the sheet has answers, so it is kept: 12 rows with seed 0; --n 20 and --seed 5 are not used. Move audit.csv "
        "away to draw again"
    )
    assert "11 rows have no answer yet" in result.notes[1]
    assert len(subject.audit(RUN, n=12).notes) == len(subject.audit(RUN).notes) == 1
    assert "--n 5 is not used" in subject.audit(RUN, n=5).notes[0]
    fill({first: "what"})
    kept = SHEET.read_bytes()
    with pytest.raises(StoreError, match="label_is_right is 'what'"):
        subject.audit(RUN, n=20)
    assert SHEET.read_bytes() == kept


@pytest.mark.parametrize("delimiter", [",", ";"])
def test_rows_are_added_to_a_sheet_with_answers(world, delimiter, shown):
    before = subject.audit(RUN, n=12)
    name = subject.drawn_rows(RUN).name
    fill(judged(), delimiter=delimiter)
    kept = SHEET.read_bytes()
    command = re.search(r"narrower intervals +(nfilter audit \S+ --n 24)", shown(subject.render, subject.audit(RUN)))  # fmt: skip
    assert command is not None
    assert entry(command[1].split()[1:]) == 0
    after = subject.audit(RUN)
    assert (after.drawn, after.answered, after.population) == (24, 12, before.population)
    assert SHEET.read_bytes().startswith(kept)
    with SHEET.open(encoding="utf-8-sig", newline="") as file:
        added = list(csv.DictReader(file, delimiter=delimiter))
    assert len({row["id"] for row in added}) == len(added) == 24
    assert [row["id"] for row in added] == list(subject.drawn_rows(RUN).ids)
    assert {row["label_is_right"] for row in added[12:]} == {""}
    assert all(row["question"] and row["label"] for row in added)
    # The order goes on: decisions that name the draw still count.
    assert subject.drawn_rows(RUN).name == name
    whole = SHEET.read_bytes()
    subject.audit(RUN, n=24)
    assert SHEET.read_bytes() == whole
    # A process that was killed before it added the lines.
    SHEET.write_bytes(kept)
    subject.audit(RUN, n=24)
    assert SHEET.read_bytes() == whole
    assert subject.audit(RUN, n=500).drawn == 26
    assert "narrower intervals" not in shown(subject.render, subject.audit(RUN))


def test_the_draw_of_a_changed_run_is_not_extended(world):
    subject.audit(RUN, n=12)
    fill(judged())
    (RUN / "manifest.json").unlink()
    write_sealed(RUN / "05-story.select" / "fingerprint", {"of": "another"})
    found = subject.audit(RUN, n=20)
    assert found.drawn == 12
    assert "--n 20 is not used" in found.notes[0]


def test_an_empty_sheet_is_drawn_anew(world):
    subject.audit(RUN, n=12)
    before = SHEET.read_bytes()
    subject.audit(RUN, n=12)
    assert SHEET.read_bytes() == before
    subject.audit(RUN, n=14)
    assert len(rows()) == 14


def test_semicolons_of_a_spreadsheet_are_read(world):
    subject.audit(RUN, n=12)
    fill(judged(), delimiter=";")
    assert subject.audit(RUN).answered == 12


@pytest.mark.types("of that time. Move «» away")
def test_a_changed_run_is_said_to_have_changed(world):
    subject.audit(RUN, n=12)
    fill(judged())
    artefact = open_samples(RUN / "05-story.select")
    write_sealed(artefact.directory / "fingerprint", {"of": "another"})
    with pytest.raises(
        DamageError, match=r"05-story\.select: is not the artefact of the finished run"
    ):
        subject.audit(RUN)
    (RUN / "manifest.json").unlink()
    assert "the run has changed since the rows were drawn" in subject.audit(RUN).notes[0]
    SHEET.rename(RUN / "away.csv")
    assert subject.audit(RUN, n=12).notes == []


@pytest.mark.types(
    "«»: is missing, and without it the answers", "«»: «», and without it the answers"
)
def test_answers_without_their_draw_are_an_error(world):
    subject.audit(RUN, n=12)
    fill(judged())
    (RUN / "audit.json").unlink()
    with pytest.raises(StoreError, match=r"without it the answers in .* cannot be used"):
        subject.audit(RUN)
    SHEET.rename(RUN / "away.csv")
    subject.audit(RUN, n=12)
    fill(judged())
    (RUN / "audit.json").write_text((RUN / "audit.json").read_text().replace("1", "2", 1))
    with pytest.raises(StoreError, match=r"has other .* or move audit\.csv away to draw again"):
        subject.audit(RUN)
    SHEET.rename(RUN / "away.csv")
    assert subject.audit(RUN, n=12).drawn == 12


def test_no_verdicts_and_groups_are_errors(world, written):
    with pytest.raises(StoreError, match="a group with one run per seed"):
        subject.audit(Path("runs/group"))
    for path in RUN.glob("*/chunk-*.jsonl"):
        path.write_text(path.read_text().replace('"noise_score"', '"other"'))
    written(RUN)
    with pytest.raises(StoreError, match="no stage wrote a verdict"):
        subject.audit(RUN)
    assert not SHEET.exists()
