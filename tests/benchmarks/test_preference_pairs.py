"""The benchmark of preference pairs: F1 by hand, a control that does not know the flips, pairs that are right."""

from dataclasses import replace

import pytest

from benchmarks.preference_pairs import choose, detection, f1, pairs, shown, split
from nfilter import Row, Verdict, View
from nfilter.noise.labels import NoiseConfig, inject


def test_f1_by_hand():
    assert f1([True, True, False, False], [True, False, True, False]) == 0.5
    assert f1([False, False], [True, False]) == 0.0


def test_the_control_does_not_draw_the_flipped_rows():
    clean = pairs("uniform")[:200]
    rows = inject([Row(sample) for sample in clean], NoiseConfig(ratio=0.2), 0, "preference")
    noisy = [row.sample for row in rows]
    flips = [row.truth != row.sample.response for row in rows]
    done = []
    for sample, flip in zip(noisy, flips, strict=True):
        label = "A" if sample.response < sample.rejected.content else "B"
        other = "B" if label == "A" else "A"
        noted = sample.note("check", Verdict(flip, float(flip)).to_json())
        done.append(noted.note("reward", View(other if flip else label).to_json()))
    figures = detection(noisy, done, flips, seed=0)
    assert (figures["check"], figures["reward"], figures["judge"]) == (1.0, 1.0, 0.0)
    assert figures["random"] == pytest.approx(0.2, abs=0.15)


@pytest.mark.parametrize("kind", ["uniform", "own"])
def test_the_right_answer_is_chosen_and_the_wrong_one_differs(kind):
    made = pairs(kind)
    assert len(made) > 1000
    assert all(sample.rejected.content != sample.response for sample in made)
    assert all(replace(sample, rejected=None).response for sample in made)


def test_figures_have_their_spread():
    assert shown([0.5]) == "0.500"
    assert shown([0.4, 0.6]) == "0.500 ± 0.141"


@pytest.mark.parametrize("kind", ["uniform", "own"])
def test_settings_are_chosen_on_pairs_that_are_neither_trained_on_nor_reported(kind, monkeypatch):
    parts = [{sample.id for sample in part} for part in split(pairs(kind), 400, 400, 400)]
    assert [len(part) for part in parts] == [400, 400, 400]
    assert len(set().union(*parts)) == 1200

    def measured(samples, seed, test, chosen):
        assert test == ["development"]
        return {1e-4: 0.5, 3e-4: 0.8, 1e-3: 0.6}[chosen["learning_rate"]]

    monkeypatch.setattr("benchmarks.preference_pairs.measured", measured)
    assert choose(["pair"], ["development"]) == {"learning_rate": 3e-4, "num_train_epochs": 1}
