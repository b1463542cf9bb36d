"""Curated ratings: planted flips are found and put right, copies have no say, and doubtful estimates change nothing."""

import json
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from nfilter import ContractError, Embeds, Message, Sample
from nfilter.recipe.uses import model_needs
from nfilter.testing import FakeContext, FakeEncoder, check_sample_stage
from nfilter_entp.neighbours import Collector
from nfilter_entp.rating.curate import Curate, CurateConfig
from nfilter_entp.rating.rate import Rate, RateConfig

sys.path.insert(0, str(Path(__file__).parent))

from rated_kit import CLASSES, clusters, samples_of


def context(points):
    return FakeContext(models={"e": FakeEncoder(lambda text: points[int(text.split("\n")[1])])})


def curated(samples, points, **config):
    """Notes in order, the report, and what was said."""
    ctx, stage = context(points), Curate(CurateConfig(encoder="e", **config))
    state = stage.fit(samples, ctx)
    return stage.process(samples, state, ctx), state.values["report"]["curate"], ctx.log.lines


def columns(out):
    notes = [each.notes["curated"] for each in out]
    return {
        key: np.array([np.nan if note[key] is None else note[key] for note in notes], dtype=float)
        for key in ("given", "label", "confidence", "score")
    }


def f1(said, wrong):
    return 2 * (said & wrong).sum() / (said.sum() + wrong.sum())


def majority(points, rated, k=10):
    """The plain vote of the k nearest by cosine, counted by hand: who is outvoted, and by which class."""
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    likeness = unit @ unit.T
    np.fill_diagonal(likeness, -np.inf)
    near = np.argpartition(-likeness, k, axis=1)[:, :k]
    votes = np.stack([(rated[near] == c).sum(axis=1) for c in range(CLASSES)], axis=1)
    return votes.argmax(axis=1) != rated


# --- planted flips -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "apart", "better"),
    [("uniform", 3, 0.0), ("uniform", 1.0, 0.005), ("up", 2, 0.15), ("up", 1.0, 0.1)],
)
def test_planted_flips_are_found_better_than_by_majority_vote(kind, apart, better):
    ours, theirs = [], []
    for seed in range(3):
        points, true, rated = clusters(seed, apart, kind=kind)
        found = columns(curated(samples_of(rated), points)[0])
        ours.append(f1(found["score"] < 0.5, true != rated))
        theirs.append(f1(majority(points, rated), true != rated))
    assert np.mean(ours) > np.mean(theirs) + better
    assert np.mean(ours) > (0.97 if apart > 1 else 0.8)


def apart(seed, n, classes=CLASSES, d=16):
    """One Gaussian cluster a class, far apart; a fifth of the ratings are wrong."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(classes, d))
    centres *= 3 * np.sqrt(d) / np.linalg.norm(centres, axis=1, keepdims=True)
    true = rng.integers(classes, size=n)
    points = centres[true] + rng.normal(size=(n, d))
    wrong = rng.random(n) < 0.2
    return points, true, np.where(wrong, (true + rng.integers(1, classes, n)) % classes, true)


@pytest.mark.parametrize("n", [150, 240, 300])
def test_a_small_set_of_clear_classes_is_put_right_as_by_the_majority(n):
    ours, theirs = [], []
    for seed in range(4):
        points, true, rated = apart(seed, n)
        out, report, _ = curated(samples_of(rated), points)
        assert report["trusted"] is True
        changed = np.array([each.notes["curated"]["changed"] for each in out])
        ours.append(f1(changed, true != rated))
        theirs.append(f1(majority(points, rated), true != rated))
    assert np.mean(ours) >= np.mean(theirs) - 0.01
    assert min(ours) > 0.96


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("n", [150, 300])
def test_a_small_set_that_the_encoder_does_not_see_stays_as_it_is(seed, n):
    rng = np.random.default_rng(seed)
    _, report, _ = curated(samples_of(rng.integers(6, size=n)), rng.normal(size=(n, 16)))
    assert (report["trusted"], report["changed"]) == (False, 0)


@pytest.mark.types("are not of one class: type for example k: «»")
@pytest.mark.parametrize("seed", range(3))
def test_more_neighbours_than_a_group_has_change_nothing_and_fewer_do(seed):
    """24 groups of six: ten neighbours are of several classes, three are not."""
    points, true, rated = clusters(seed, 3, n=150)
    warning, report = doubted(samples_of(rated), points)
    assert "type for example k: 3" in warning
    consensus = report["consensus"]
    assert consensus["agreement_of_farther_half"] < consensus["agreement_of_two_nearest"] - 0.2
    out, report, _ = curated(samples_of(rated), points, k=3)
    assert report["trusted"] is True
    assert (columns(out)["label"] == true).mean() > (rated == true).mean() + 0.08


@pytest.mark.parametrize(
    ("kind", "n", "apart", "seed"),
    [("uniform", 300, 0.7, 3), ("up", 300, 0.7, 1), ("up", 150, 1.0, 2), ("up", 240, 1.0, 3)],
)
def test_small_sets_whose_classes_overlap_change_nothing(kind, n, apart, seed):
    points, _, rated = clusters(seed, apart, n=n, kind=kind)
    doubted(samples_of(rated), points)


def test_a_suspect_is_a_rating_with_a_score_below_a_half():
    points, true, rated = clusters(0, 1.0)
    out, _, _ = curated(samples_of([None, *rated[1:]]), points)
    notes = [each.notes["curated"] for each in out]
    assert notes[0]["suspect"] is None
    assert all(note["suspect"] is (note["score"] < 0.5) for note in notes[1:])
    suspect = np.array([bool(note["suspect"]) for note in notes])
    changed = np.array([note["changed"] for note in notes])
    # What changes is suspect, and what is not sure enough to change may be.
    assert suspect[changed].all()
    wrong = true != rated
    assert (suspect & wrong).sum() > (changed & wrong).sum()


@pytest.mark.parametrize("kind", ["uniform", "up"])
def test_changed_ratings_are_right_more_often_and_noise_rates_are_known(kind):
    points, true, rated = clusters(0, 2, kind=kind)
    out, report, said = curated(samples_of(rated), points)
    found = columns(out)
    assert (found["label"] == true).mean() > 0.99 > 0.85 > (rated == true).mean()
    assert report["changed"] == (found["label"] != rated).sum()
    assert report["trusted"] is True
    assert not [text for level, text in said if level == "warning"]
    for label in range(CLASSES):
        wrong = (true[rated == label] != label).mean()
        assert report["noise_rate_by_class"][str(label)] == pytest.approx(wrong, abs=0.08)
        for other in range(CLASSES):
            share = (rated[true == label] == other).mean()
            assert report["transition"][label][other] == pytest.approx(share, abs=0.08)
        assert report["prior"][str(label)] == pytest.approx((true == label).mean(), abs=0.03)
    assert report["noise_rate"] == pytest.approx((rated != true).mean(), abs=0.02)
    assert report["before"] == np.bincount(rated, minlength=6).tolist()
    assert report["after"] == np.bincount(found["label"].astype(int), minlength=6).tolist()
    json.dumps(report, allow_nan=False)


def test_the_tail_is_as_long_as_the_noise_rate_says():
    points, true, rated = clusters(0, 2)
    out, report, _ = curated(samples_of(rated), points, method="tail")
    found = columns(out)
    changed = found["label"] != rated
    for label in range(CLASSES):
        most = int(report["noise_rate_by_class"][str(label)] * (rated == label).sum() + 0.5)
        own = changed & (rated == label)
        # Only the worst of a class change, only as many as its rate says, and only where the vote is clear.
        assert 0.8 * most < own.sum() <= most + 1
        stay = (rated == label) & ~changed
        assert found["score"][own].max() <= np.sort(found["score"][stay])[most]
    assert found["confidence"][changed].min() >= 0.5
    assert (found["label"][changed] == true[changed]).mean() > 0.99
    # The score is the cosine of shares and rating.
    assert found["score"].min() >= 0
    assert found["score"].max() <= 1


def test_confidence_is_asked_for():
    points, _, rated = clusters(1, 1.0)
    counts = []
    for confidence in (0.0, 0.5, 0.9, 1.0):
        out, _, _ = curated(samples_of(rated), points, confidence=confidence)
        found = columns(out)
        changed = found["label"] != rated
        assert (found["confidence"][changed] >= confidence - 1e-6).all()
        # Where a rating stands, its confidence is its own.
        np.testing.assert_array_equal(found["confidence"][~changed], found["score"][~changed])
        counts.append(int(changed.sum()))
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > counts[1] > counts[2] > 0


def test_a_posterior_by_hand():
    """Five of one cluster, one of them rated otherwise, with a stated noise rate."""
    turn = np.linspace(0, 0.01, 5)
    points = np.stack([np.cos(turn), np.sin(turn)], axis=1)
    rated = [1, 1, 1, 1, 3]
    out, _, _ = curated(samples_of(rated), points, noise=0.2, k=4)
    # Two classes: p solves (0.8, 0.2) = p T, with T = [[.8, .2], [.2, .8]], so p = (1, 0), held at 1e-3.
    odd = out[4].notes["curated"]
    evidence = np.array([1.0 * 0.2 * 0.8**4, 1e-3 * 0.8 * 0.2**4])
    assert (odd["given"], odd["label"], odd["changed"]) == (3, 1, True)
    assert odd["confidence"] == pytest.approx(evidence[0] / evidence.sum(), abs=1e-5)
    assert odd["score"] == pytest.approx(evidence[1] / evidence.sum(), abs=1e-5)
    assert "label 1 instead of the rated 3" in out[4].why


# --- order, chunks, copies -----------------------------------------------------------------------------------------


def test_neither_order_nor_chunks_change_anything():
    points, _, rated = clusters(2, 1.0, n=600)
    samples = samples_of([None if n % 50 == 0 else label for n, label in enumerate(rated)])
    config = CurateConfig(encoder="e", keep="low", split=3)
    straight = {each.id: each for each in check_sample_stage(Curate, config, samples, context(points))}  # fmt: skip
    mixed = [samples[i] for i in np.random.default_rng(0).permutation(len(samples))]
    stage = Curate(config)
    state = stage.fit(iter(mixed), context(points))
    for size in (1, 7, 600):
        for start in range(0, len(mixed), size):
            for each in stage.process(mixed[start : start + size], state, context(points)):
                other = straight[each.id]
                assert each.notes["curated"] == other.notes["curated"]
                assert (each.dropped, each.why) == (other.dropped, other.why)


def test_copies_do_not_vote():
    """A text that is there fifty times counts once, in the consensus and among the neighbours."""
    points, _, rated = clusters(0, 2, n=900)
    once, report, _ = curated(samples_of(rated), points)
    texts = [*range(900), *[5] * 50]
    more = samples_of([*rated, *[rated[5]] * 50], texts)
    out, again, _ = curated(more, points)
    assert [each.notes["curated"] for each in out[:900]] == [each.notes["curated"] for each in once]
    assert all(each.notes["curated"] == out[5].notes["curated"] for each in out[900:])
    assert again["transition"] == report["transition"]
    assert (again["texts"], again["samples"]) == (900, 950)


def test_a_copy_with_a_rating_of_its_own_keeps_it_apart():
    points, _, rated = clusters(0, 2, n=900, rate=0.1)
    right = int(rated[5])
    other = (right + 1) % CLASSES
    out, _, _ = curated(samples_of([*rated, right, other], [*range(900), 5, 5]), points)
    first, same, odd = (out[n].notes["curated"] for n in (5, 900, 901))
    assert first == same
    assert odd["given"] == other
    assert odd["label"] == first["label"]


@pytest.mark.parametrize("turn", [0, 1, 2, 3])
def test_texts_that_differ_in_case_and_blanks_are_copies(turn):
    """Which of them is embedded does not depend on which came first."""
    responses = ["One  two", "one two", " ONE\ttwo ", "one three"]
    found = []
    for order in (responses, responses[turn:] + responses[:turn], responses[::-1]):
        rows = Collector(FakeContext(models={"e": FakeEncoder()}), "e")
        for response in order:
            rows.add(Sample(response, (Message("user", "Q"), Message("assistant", response))))
        texts = rows.texts()
        assert texts.n == 2
        np.testing.assert_allclose(np.linalg.norm(texts.vectors, axis=1), 1, atol=1e-6)
        found.append(
            {text: texts.vectors[texts.row_text[n]].tolist() for n, text in enumerate(order)}
        )
        assert found[-1]["One  two"] == found[-1]["one two"] == found[-1][" ONE\ttwo "]
        assert found[-1]["one three"] != found[-1]["one two"]
    assert found[0] == found[1] == found[2]


# --- estimates that cannot be trusted ----------------------------------------------------------------------------


def doubted(samples, points, **config):
    out, report, said = curated(samples, points, **config)
    warnings = [text for level, text in said if level == "warning"]
    for each in out:
        note = each.notes["curated"]
        assert note["given"] == note["label"]
        assert note["changed"] is False
        assert note["confidence"] is None
    assert report["changed"] == 0
    assert report["trusted"] is False
    (warning,) = warnings
    assert "noise: 0.2" in warning
    assert "noise: 0)" in warning
    return warning, report


@pytest.mark.types("State the share of wrong ratings (noise: 0.2)")
def test_too_few_samples_change_nothing():
    points, _, rated = clusters(0, 3, n=110)
    warning, _ = doubted(samples_of(rated), points)
    assert "110 distinct rated texts are too few for 6 classes, which need 120" in warning
    # With what the warning says to type it goes on.
    out, report, _ = curated(samples_of(rated), points, noise=0.2)
    assert report["changed"] > 10
    assert report["noise_rate"] == pytest.approx(0.2, abs=0.05)
    out, report, said = curated(samples_of(rated), points, noise=0)
    assert report["changed"] == 0
    assert not [text for level, text in said if level == "warning"]
    assert out[0].why == f"curate: label {rated[0]} as rated"


def test_ratings_that_the_encoder_does_not_see_change_nothing():
    rng = np.random.default_rng(0)
    points, rated = rng.normal(size=(1500, 16)), rng.integers(6, size=1500)
    warning, _ = doubted(samples_of(rated), points)
    assert "% by chance" in warning


def test_an_estimate_that_most_ratings_are_wrong_changes_nothing():
    points, _, rated = clusters(0, 0.45)
    warning, report = doubted(samples_of(rated), points)
    assert "of the ratings would be wrong" in warning
    assert report["noise_rate"] > 0.5


@pytest.mark.parametrize("kind", ["uniform", "up"])
def test_classes_that_overlap_change_nothing(kind):
    """Half of the neighbours are of another class, and the estimate is twice the truth."""
    points, true, rated = clusters(0, 0.7, kind=kind)
    warning, report = doubted(samples_of(rated), points)
    assert "classes overlap" in warning
    assert report["noise_rate"] > 1.5 * (true != rated).mean()
    agreement = report["consensus"]
    assert agreement["agreement_of_nearest_third"] > agreement["agreement_of_farthest_third"] + 0.1


def test_a_matrix_whose_diagonal_does_not_dominate_changes_nothing():
    """Class 0 is rated 1 more often than 0."""
    points, true, _ = clusters(0, 3, classes=3)
    rng = np.random.default_rng(0)
    t = np.array([[0.4, 0.6, 0.0], [0.0, 0.9, 0.1], [0.05, 0.05, 0.9]])
    rated = np.array([rng.choice(3, p=t[y]) for y in true])
    warning, _ = doubted(samples_of(rated), points)
    assert "the most frequent rating is a wrong one" in warning


def test_equal_ratings_change_nothing():
    points, _, _ = clusters(0, 3, n=60)
    warning, _ = doubted(samples_of([3] * 60), points)
    assert "all ratings are the same" in warning


def test_classes_that_never_occur_are_left_out_and_said():
    points, true, rated = clusters(0, 2, classes=3)
    out, report, said = curated(samples_of(2 * rated), points)
    assert report["classes"] == [0, 2, 4]
    assert set(report["noise_rate_by_class"]) == {"0", "2", "4"}
    assert np.shape(report["transition"]) == (3, 3)
    assert ("info", "no sample has rating 1, 3, 5: T and p are estimated for the others") in said
    assert (columns(out)["label"] == 2 * true).mean() > 0.98


# --- what stays --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", ["low", "high"])
def test_a_half_is_kept_with_reasons(keep):
    points, _, rated = clusters(0, 2, n=900)
    ratings = [None if n in (3, 4) else label for n, label in enumerate(rated)]
    out, _, _ = curated(samples_of(ratings, pinned={4, 5, 6}), points, keep=keep, split=3)
    for n, each in enumerate(out):
        note = each.notes["curated"]
        label = note["label"]
        wanted = label is not None and (label < 3) == (keep == "low")
        assert (each.dropped is None) == (wanted or n in (4, 5, 6))
        assert f"keep: {keep} keeps labels {'below' if keep == 'low' else 'from'} 3" in each.why
        assert (f"label {label}" if label is not None else "no rating") in each.why
        if note["changed"]:
            assert f"label {label} instead of the rated {note['given']} (confidence" in each.why
        if n in (4, 5, 6) and not wanted:
            assert each.why.startswith("pinned; ")
    assert set(out[3].notes["curated"].values()) == {None, False}


def test_all_are_kept_by_default():
    points, _, rated = clusters(0, 2, n=900)
    out, _, _ = curated(samples_of([None, *rated[1:]]), points)
    assert not any(each.dropped for each in out)
    assert out[0].why == "curate: no rating"
    assert Counter(each.why.split()[0] for each in out) == {"curate:": 900}


# --- contract and errors -----------------------------------------------------------------------------------------


def test_the_contract():
    config = CurateConfig(encoder="e", by="mine", into="c")
    contract = Curate.contract(config)
    assert (contract.reads, contract.writes) == ({"mine"}, {"c"})
    (need,) = model_needs(config)
    assert (need.model, need.capability, need.field) == ("e", Embeds, "encoder")
    assert contract.calls == ()


@pytest.mark.parametrize("bad", [{"k": 1}, {"noise": 0.5}, {"noise": -0.1}, {"split": 0}, {"split": 6}, {"keep": "some"}, {"confidence": 1.1}])  # fmt: skip
def test_settings_that_make_no_sense(bad):
    with pytest.raises(ValidationError):
        CurateConfig(encoder="e", **bad)


@pytest.mark.types("put entp.rate before «», or set by")
@pytest.mark.parametrize("notes", [{}, {"rating": 3}, {"rating": {"overall": 3}}])
def test_a_sample_without_the_note_says_what_to_put_before(notes):
    sample = Sample("s0", (Message("user", "Q"), Message("assistant", "0")), notes=notes)
    with pytest.raises(ContractError, match=r"'s0' has no rating in note 'rating'; put entp\.rate"):
        Curate(CurateConfig(encoder="e")).fit([sample], context([[1.0]]))
    points, _, rated = clusters(0, 3, n=150)
    whole = samples_of(rated)  # what entp.rate writes
    assert curated(whole, points, noise=0)[1]["changed"] == 0
    moved = [replace(each, notes={"mine": each.notes["rating"]}) for each in whole]
    assert curated(moved, points, noise=0, by="mine")[1]["changed"] == 0


@pytest.mark.parametrize("label", [6, -1, 2.5, "3", True])
def test_a_label_that_is_none_is_named(label):
    sample = Sample("s0", (), notes={"rating": {"label": label}})
    with pytest.raises(ContractError, match="a number from 0 to 5"):
        Curate(CurateConfig(encoder="e")).fit([sample], context([[1.0]]))


def test_no_rating_at_all_is_an_error_that_quotes_the_first():
    samples = [Sample(f"s{n}", (Message("assistant", str(n)),), meta={}) for n in range(3)]
    rated = Rate(RateConfig(column="qualty")).process(samples, None, FakeContext())
    with pytest.raises(ContractError, match=r"none of 3 samples has a rating.*column 'qualty' is missing"):  # fmt: skip
        Curate(CurateConfig(encoder="e")).fit(rated, context(np.eye(3)))


def test_a_sample_that_was_not_there_is_an_error():
    points, _, rated = clusters(0, 2, n=60)
    samples = samples_of(rated)
    stage = Curate(CurateConfig(encoder="e", noise=0.2))
    state = stage.fit(samples[:-1], context(points))
    with pytest.raises(ContractError, match="'s59' was absent"):
        stage.process(samples, state, context(points))
