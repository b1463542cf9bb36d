"""``robustft.neighbors``: votes, calibration, trusted labels, and uninformative neighbours."""

import numpy as np
import pytest
from pydantic import ValidationError

from nfilter import ContractError, Embeds, Message, ModelNeed, Sample
from nfilter.recipe.uses import model_needs
from nfilter.testing import FakeContext, FakeEncoder, check_sample_stage
from nfilter_robustft.check import Check
from nfilter_robustft.check_settings import CheckConfig
from nfilter_robustft.neighbors import Neighbors, NeighborsConfig

OPTIONS = ["sad", "calm", "glad"]


def blobs(n, rho, seed=0, spread=1.0, trusted=0):
    """Three classes in 40 dimensions that differ in a plane of low variance."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(3, size=n)
    vectors = rng.normal(size=(n, 40)) * np.linspace(2, 1, 40)
    centres = np.array([[3.0, 0.0], [-1.5, 2.6], [-1.5, -2.6]])
    vectors[:, -2:] = centres[truth] + rng.normal(size=(n, 2)) * spread
    label = np.where(rng.random(n) < rho, (truth + rng.integers(1, 3, size=n)) % 3, truth)
    sure = np.zeros(n, dtype=bool)
    sure[:trusted] = True
    label = np.where(sure, truth, label)
    rows = [
        Sample(
            f"s{i}",
            (Message("user", f"row {i}"), Message("assistant", "ABC"[label[i]])),
            meta={"options": OPTIONS, "sure": bool(sure[i])},
        )
        for i in range(n)
    ]
    encoder = FakeEncoder(lambda text: vectors[int(text.split()[1])])
    return rows, truth, label, encoder


def run(rows, encoder, answers="choice", seed=0, **config):
    ctx = FakeContext(models={"encoder": encoder}, answers=answers, seed=seed)
    stage = Neighbors(NeighborsConfig(**config))
    state = stage.fit(iter(rows), ctx)
    return stage.process(rows, state, ctx), state, ctx


def notes(samples):
    return [s.notes["neighbors"] for s in samples]


def right(samples, truth):
    return np.mean(
        [note["answer"] == "ABC"[t] for note, t in zip(notes(samples), truth, strict=True)]
    )


def test_learned_metric_beats_similarity_and_recovers_the_rate():
    rows, truth, label, encoder = blobs(600, 0.4, spread=0.7)
    learned, state, _ = run(rows, encoder, k=50)
    plain, _, _ = run(rows, encoder, weighting="similarity")
    figures = state.values["report"]["neighbors"]
    assert figures["metric"] == "discriminant"
    assert figures["informative"]
    assert figures["nll"] < figures["nll_of_frequencies"]
    assert figures["noise_rate"] == pytest.approx(np.mean(label != truth), abs=0.06)
    assert right(learned, truth) > 0.9
    assert right(learned, truth) > right(plain, truth) + 0.02


def test_votes_are_calibrated():
    rows, truth, label, encoder = blobs(600, 0.2, spread=1.6)
    out, _, _ = run(rows, encoder, k=50)
    for note, code in zip(notes(out), label, strict=True):
        assert note["calibrated"] is True
        assert sum(note["votes"].values()) == pytest.approx(1.0, abs=1e-4)
        assert note["answer"] == max(note["votes"], key=note["votes"].get)
        assert note["support"] == pytest.approx(note["votes"]["ABC"[code]], abs=1e-5)
    top = np.array([max(note["votes"].values()) for note in notes(out)])
    hit = np.array([n["answer"] == "ABC"[t] for n, t in zip(notes(out), truth, strict=True)])
    assert hit.mean() == pytest.approx(top.mean(), abs=0.08)


def test_check_uses_the_view():
    rows, truth, label, encoder = blobs(600, 0.5, spread=0.7)
    out, fitted, ctx = run(rows, encoder, k=50)
    stage = Check(CheckConfig(views=["neighbors"], vote="probability"))
    state = stage.fit(out, ctx)
    wrong = label != truth
    rate = state.values["report"]["estimated_noise_rate"]
    assert rate["low"] <= wrong.mean() <= rate["high"]
    assert rate["if_independent"]["estimate"] == pytest.approx(wrong.mean(), abs=0.06)
    figures = fitted.values["report"]["neighbors"]
    assert figures["noise_rate_low"] < wrong.mean() < figures["noise_rate_high"]
    flagged = np.array([s.notes["check"]["flagged"] for s in stage.process(out, state, ctx)])
    f1 = 2 * (flagged & wrong).sum() / (flagged.sum() + wrong.sum())
    assert f1 > 0.85


def test_label_has_no_vote_for_itself():
    # Flipping one row's label changes its own votes only through the fit.
    rows, _, label, encoder = blobs(300, 0.2)
    other = "ABC"[(label[7] + 1) % 3]
    flipped = [
        s if i != 7 else Sample(s.id, (s.messages[0], Message("assistant", other)), meta=s.meta)
        for i, s in enumerate(rows)
    ]
    a, _, _ = run(rows, encoder, k=15)
    b, _, _ = run(flipped, encoder, k=15)
    votes, after = (notes(x)[7]["votes"] for x in (a, b))
    assert max(abs(votes[x] - after.get(x, 0)) for x in votes) < 0.1


def test_uninformative_labels_give_no_answer_and_warn():
    rows, _, _, encoder = blobs(300, 2 / 3)
    out, state, ctx = run(rows, encoder, k=30)
    assert not state.values["informative"]
    assert {note["answer"] for note in notes(out)} == {None}
    assert "do not predict" in notes(out)[0]["failure"]
    assert any(kind == "warning" and "trusted: COLUMN" in text for kind, text in ctx.log.lines)


@pytest.mark.parametrize("vote", ["all", "any", "probability"])
def test_uninformative_neighbours_flag_nothing(vote):
    rows, _, _, encoder = blobs(300, 2 / 3)
    out, _, _ = run(rows, encoder, k=30)
    ctx = FakeContext(answers="choice")
    check = Check(CheckConfig(views=["neighbors"], vote=vote))
    out = check.process(out, check.fit(iter(out), ctx), ctx)
    assert not any(s.notes["check"]["flagged"] or s.dropped for s in out)
    assert "neighbors is no better than chance and has no vote" in out[0].why
    assert any("No label can be flagged" in text for _, text in ctx.log.lines)


def test_trusted_labels_allow_most_labels_to_be_wrong():
    rows, truth, _, encoder = blobs(600, 0.7, trusted=90)
    rest = np.arange(90, 600)
    out, state, _ = run(rows, encoder, trusted="sure", k=50)
    assert state.values["report"]["neighbors"]["trusted"] == 90
    assert state.values["report"]["neighbors"]["noise_rate"] == pytest.approx(0.7, abs=0.08)
    answers = np.array([note["answer"] for note in notes(out)])
    assert np.mean(answers[rest] == np.array(list("ABC"))[truth[rest]]) > 0.8


def test_trusted_column_without_marks_warns():
    rows, _, _, encoder = blobs(300, 0.2)
    _, _, ctx = run(rows, encoder, trusted="sure")
    assert any("column 'sure' marks no label as right" in text for _, text in ctx.log.lines)


def test_samples_beyond_the_reference_have_answers():
    rows, truth, _, encoder = blobs(600, 0.3)
    out, state, _ = run(rows, encoder, reference=300, k=30)
    assert len(state.arrays["probabilities"]) == 600
    assert right(out, truth) > 0.85


def test_votes_depend_on_the_seed_only():
    rows, _, _, encoder = blobs(200, 0.3)
    for config in ({}, {"weighting": "similarity"}):
        out, state, ctx = run(rows, encoder, **config)
        again, _, _ = run(rows, encoder, **config)
        assert out == again
        stage = Neighbors(NeighborsConfig(**config))
        parts = [s for i in range(0, 200, 33) for s in stage.process(rows[i : i + 33], state, ctx)]
        assert parts == out


def test_options_are_identified_by_text():
    rows, truth, _, encoder = blobs(300, 0.2)
    turned = []
    for i, s in enumerate(rows):
        shift = i % 3
        options = OPTIONS[shift:] + OPTIONS[:shift]
        letter = "ABC"[("ABC".index(s.response) - shift) % 3]
        messages = (s.messages[0], Message("assistant", letter))
        turned.append(Sample(s.id, messages, meta={"options": options}))
    out, _, _ = run(turned, encoder, k=30)
    answers = [s.meta["options"]["ABC".index(s.notes["neighbors"]["answer"])] for s in out]
    assert np.mean([a == OPTIONS[t] for a, t in zip(answers, truth, strict=True)]) > 0.85


# --- similarity ----------------------------------------------------------------------------------------------


def line(name, query, response):
    return Sample(name, (Message("user", query), Message("assistant", response)))


def place(x, y, axis=None):
    vector = np.zeros(12)
    vector[:2] = x, y
    if axis is not None:
        vector[2 + axis] = 1
    return vector


PLACES = {
    "p0": place(1, 0), "p1": place(1, 0.1), "p2": place(1, 0.2), "p3": place(1, 0.3), "far": place(0, 1),
    **{f"{i} of {axis}": place(0, i / 10, axis) for axis in range(10) for i in range(4)},
}  # fmt: skip
OPEN = [line(k, k, v) for k, v in zip(PLACES, ["x", "y", "y", "x", "z"], strict=False)]
# Four rows with the same answer in each of ten other directions: neighbours' labels are informative.
ALIKE = [line(key, key, f"10{key.split()[-1]}") for key in PLACES if " of " in key]


def test_similarity_votes_are_a_weighted_plurality():
    out, state, _ = run([*OPEN, *ALIKE], FakeEncoder(PLACES.get), answers="exact", k=3)
    tau = state.values["temperature"]
    unit = {k: v / np.linalg.norm(v) for k, v in PLACES.items()}
    weight = {k: np.exp(unit["p0"] @ unit[k] / tau) for k in ("p1", "p2", "p3")}
    expected = (weight["p1"] + weight["p2"]) / sum(weight.values())
    first = notes(out)[0]
    assert first["answer"] == "y"
    assert first["votes"]["y"] == pytest.approx(expected, abs=1e-4)
    assert first["support"] == pytest.approx(1 - expected, abs=1e-4)
    assert first["neighbors"] == ["p1", "p2", "p3"]
    assert first["calibrated"] is False


def test_samples_with_the_same_query_do_not_vote():
    rows = [line("a", "p0", "x"), line("copy", "p0", "x"), *OPEN[1:3], *ALIKE]
    out, _, _ = run(rows, FakeEncoder(PLACES.get), answers="exact", k=2)
    assert notes(out)[0]["neighbors"] == ["p1", "p2"]
    assert notes(out)[0]["support"] == 0.0


def test_votes_of_equal_numbers_are_summed():
    rows = [line(k, k, v) for k, v in zip(PLACES, ["3", "1000", "1,000.0", "7", "9"], strict=False)]
    out, _, _ = run([*rows, *ALIKE], FakeEncoder(PLACES.get), answers="number", k=3)
    assert notes(out)[0]["answer"] == "1000"


def test_k_is_chosen_by_held_out_likelihood():
    # Groups of four near copies in many directions: only the three nearest neighbours are informative.
    rng = np.random.default_rng(0)
    base = rng.normal(size=(150, 20))
    vectors = np.repeat(base, 4, axis=0) + rng.normal(size=(600, 20)) * 0.05
    rows = [line(f"s{i}", f"q {i}", f"answer {i // 4}") for i in range(600)]
    encoder = FakeEncoder(lambda text: vectors[int(text.split()[1])])
    out, state, _ = run(rows, encoder, answers="exact")
    assert state.values["k"] == 3
    assert np.mean([n["support"] for n in notes(out)]) > 0.95


@pytest.mark.parametrize(
    "rows", [[], OPEN[:1], [line("a", "p0", "")], [line("a", "p0", ""), line("b", "p1", "x")]]
)
def test_few_rows(rows):
    out, _, _ = run(rows, FakeEncoder(PLACES.get), answers="exact")
    assert len(out) == len(rows)
    if rows:
        assert notes(out)[0]["answer"] in (None, "x")


def test_discriminant_falls_back_to_similarity():
    _, state, ctx = run(OPEN, FakeEncoder(PLACES.get), answers="exact", weighting="discriminant")
    assert state.values["mode"] == "similarity"
    assert any("vote by similarity instead" in text for _, text in ctx.log.lines)


def test_neighbours_no_better_than_frequencies_give_no_answer():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(300, 5))
    rows = [line(f"s{i}", f"q {i}", str(rng.integers(40))) for i in range(300)]
    encoder = FakeEncoder(lambda text: vectors[int(text.split()[1])])
    out, state, ctx = run(rows, encoder, answers="exact", weighting="similarity")
    figures = state.values["report"]["neighbors"]
    assert not figures["informative"]
    assert figures["nll"] > figures["nll_of_frequencies"] - 0.02
    assert {note["answer"] for note in notes(out)} == {None}
    assert any("give it another encoder" in text for kind, text in ctx.log.lines)


def test_neighbours_answer_at_half_noise_with_many_answers():
    # Groups of six; half of the labels are wrong, each differently, so that neighbours do not predict them.
    rng = np.random.default_rng(0)
    vectors = np.repeat(rng.normal(size=(60, 20)), 6, axis=0) + rng.normal(size=(360, 20)) * 0.05
    wrong = rng.random(360) < 0.5
    labels = [f"no {i}" if wrong[i] else f"answer {i // 6}" for i in range(360)]
    rows = [line(f"s{i}", f"q {i}", label) for i, label in enumerate(labels)]
    encoder = FakeEncoder(lambda text: vectors[int(text.split()[1])])
    out, state, _ = run(rows, encoder, answers="exact")
    assert state.values["informative"]
    assert np.mean([n["answer"] == f"answer {i // 6}" for i, n in enumerate(notes(out))]) > 0.7


# --- frequencies without answers ------------------------------------------------------------------------------


def uneven(n, rho, trusted=0):
    """Classes of 70, 20 and 10%, and an uninformative encoder."""
    rng = np.random.default_rng(0)
    truth = rng.choice(3, size=n, p=[0.7, 0.2, 0.1])
    label = np.where(rng.random(n) < rho, (truth + rng.integers(1, 3, size=n)) % 3, truth)
    label[:trusted] = truth[:trusted]
    vectors = rng.normal(size=(n, 10))
    rows = [
        Sample(
            f"s{i}",
            (Message("user", f"row {i}"), Message("assistant", "ABC"[label[i]])),
            meta={"options": OPTIONS, "sure": i < trusted},
        )
        for i in range(n)
    ]
    return rows, label != truth, FakeEncoder(lambda text: vectors[int(text.split()[1])])


def auc(score, wrong):
    above = score[wrong][:, None] - score[~wrong][None, :]
    return np.mean((above > 0) + 0.5 * (above == 0))


@pytest.mark.parametrize("trusted", [0, 200])
def test_frequencies_rank_labels_without_view_answers(trusted):
    rows, wrong, encoder = uneven(600, 0.3, trusted)
    config = {"trusted": "sure"} if trusted else {}
    out, state, _ = run(rows, encoder, k=15, **config)
    assert not state.values["informative"]
    assert {note["answer"] for note in notes(out)} == {None}
    shares = notes(out)[0]["votes"]
    if trusted:
        right_ones = [s.response for s in rows[:trusted]]
        expected = {letter: right_ones.count(letter) / trusted for letter in "ABC"}
        assert shares == pytest.approx(expected, abs=0.02)
    else:  # frequencies of the noisy labels
        assert shares["A"] == pytest.approx(0.7 * 0.7 + 0.15 * 0.3, abs=0.04)
    stage = Check(CheckConfig(views=["neighbors"], vote="none", **config))
    fitted = stage.fit(out, ctx := FakeContext(answers="choice"))
    verdicts = [s.notes["check"] for s in stage.process(out, fitted, ctx)]
    score = np.array([verdict["noise_score"] for verdict in verdicts])
    rest = np.arange(trusted, 600)
    assert auc(score[rest], wrong[rest]) > 0.7  # 0.5 without frequencies
    # Frequencies do not identify the rate: they would explain every label as right.
    rate = fitted.values["report"]["estimated_noise_rate"]
    assert (rate["low"], rate["high"]) == (0.0, 1.0)


# --- interface -----------------------------------------------------------------------------------------------


def test_conformance_and_contract():
    rows, _, _, encoder = blobs(120, 0.2)
    config = NeighborsConfig(into="near")
    ctx = FakeContext(models={"encoder": encoder}, answers="choice")
    out = check_sample_stage(Neighbors, config, rows, ctx)
    keys = {"answer", "text", "reasoning", "nll", "tokens", "calls", "rounds", "failure"}
    assert keys <= set(out[0].notes["near"])
    contract = Neighbors.contract(config)
    assert contract.views == contract.writes == {"near"}
    assert model_needs(config) == [ModelNeed("encoder", Embeds, field="encoder")]


def test_lettered_options_are_not_embedded():
    embedded = []

    def vector(text):
        embedded.append(text)
        return [1.0, float(len(text))]

    lines = "\nA. sad\nB. calm\nC. glad"
    messages = (Message("user", "How is it?" + lines), Message("assistant", "A"))
    run([Sample("a", messages, meta={"options": OPTIONS})], FakeEncoder(vector))
    assert set(embedded) == {"How is it?"}


def test_unknown_sample_raises():
    rows, _, _, encoder = blobs(120, 0.2)
    _, state, ctx = run(rows, encoder)
    with pytest.raises(ContractError, match="'new' was absent when"):
        Neighbors(NeighborsConfig()).process([line("new", "row 3", "A")], state, ctx)


@pytest.mark.parametrize(
    "bad", [{"k": 0}, {"k": "many"}, {"weighting": "best"}, {"reference": 3}, {"ks": 1}]
)
def test_invalid_configs_raise(bad):
    with pytest.raises(ValidationError):
        NeighborsConfig(**bad)


@pytest.mark.types(
    "leave it out of the recipe, or give it another encoder", "name their column: trusted: COLUMN"
)
def test_other_encoder_or_trusted_rows_give_answers():
    random = np.random.default_rng(0).normal(size=(300, 5))
    kinds = [f"kind {i % 6}" for i in range(300)]
    informative = np.eye(6)[[i % 6 for i in range(300)]] + 0.01 * np.random.default_rng(1).normal(
        size=(300, 6)
    )
    rows = [line(f"s{i}", f"q {i}", kinds[i]) for i in range(300)]
    results = []
    for vectors in (random, informative):
        encoder = FakeEncoder(lambda text, of=vectors: of[int(text.split()[1])])
        _, state, ctx = run(rows, encoder, answers="exact", weighting="similarity")
        warned = any("another encoder" in text for _, text in ctx.log.lines)
        results.append((state.values["informative"], warned))
    assert results == [(False, True), (True, False)]
    # Three letters in three groups, two thirds of the labels wrong: only trusted rows identify the answers.
    rng = np.random.default_rng(0)
    group = rng.integers(3, size=600)
    label = (group + rng.integers(3, size=600)) % 3
    near = np.eye(3)[group] + 0.05 * rng.normal(size=(600, 3))
    encoder = FakeEncoder(lambda text: near[int(text.split()[1])])
    results = []
    for trusted in (0, 300):
        marked = [
            Sample(
                f"s{i}",
                (
                    Message("user", f"row {i}"),
                    Message("assistant", "ABC"[(group if i < trusted else label)[i]]),
                ),
                meta={"options": OPTIONS, "sure": i < trusted},
            )
            for i in range(600)
        ]
        _, state, ctx = run(marked, encoder, k=15, **({"trusted": "sure"} if trusted else {}))
        warned = any("trusted: COLUMN" in text for _, text in ctx.log.lines)
        results.append((state.values["informative"], warned))
    assert results == [(False, True), (True, False)]
