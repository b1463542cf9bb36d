"""``robustft.classifier`` and ``robustft.settle``."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from nfilter import ContractError, Embeds, Message, ModelNeed, Sample
from nfilter.recipe.uses import model_needs
from nfilter.report.rate import noise_rate, rate_text
from nfilter.testing import FakeContext, FakeEncoder, check_sample_stage
from nfilter_robustft.classifier import Classifier, ClassifierConfig
from nfilter_robustft.labelled_rows import LabelledRows
from nfilter_robustft.settle import Settle, SettleConfig

OPTIONS = ["sad", "calm", "glad"]
CENTRES = np.array([[3.0, 0.0], [-1.5, 2.6], [-1.5, -2.6]])


def clusters(n=400, rate=0.4, seed=0, distance=1.0, trusted=0, options=True):
    rng = np.random.default_rng(seed)
    truth = rng.integers(3, size=n)
    vectors = np.concatenate(
        [distance * CENTRES[truth] + rng.normal(size=(n, 2)), rng.normal(size=(n, 12))], axis=1
    )
    label = np.where(rng.random(n) < rate, (truth + rng.integers(1, 3, size=n)) % 3, truth)
    label = np.where(np.arange(n) < trusted, truth, label)
    texts = ["A", "B", "C"] if options else OPTIONS
    rows = [
        Sample(
            f"s{i}",
            (Message("user", f"row {i}"), Message("assistant", texts[label[i]])),
            meta={"sure": i < trusted, **({"options": OPTIONS} if options else {})},
        )
        for i in range(n)
    ]
    return rows, truth, label, FakeEncoder(lambda text: vectors[int(text.split()[1])])


def view(rows, encoder, answers="choice", **config):
    ctx = FakeContext(models={"encoder": encoder}, answers=answers, seed=0)
    stage = Classifier(ClassifierConfig(**config))
    state = stage.fit(iter(rows), ctx)
    return stage.process(rows, state, ctx), state, ctx


def settle(rows, ctx, **config):
    stage = Settle(SettleConfig(**config))
    return stage.process(rows, stage.fit(rows, ctx) if hasattr(stage, "fit") else None, ctx)


def codes(samples):
    return np.array(["ABC".index(s.response) for s in samples])


def test_relabelling_corrects_most_noisy_labels():
    rows, truth, label, encoder = clusters()
    viewed, state, ctx = view(rows, encoder)
    figures = state.values["report"]["classifier"]
    assert figures["informative"]
    assert figures["noise_rate"] == pytest.approx(np.mean(label != truth), abs=0.06)
    assert figures["weights"] == {"encoder": pytest.approx(1.0)}
    told = rate_text(noise_rate(Path("no-audit"), {"stages": {"01": state.values["report"]}}))
    assert told.startswith(f"estimated {100 * figures['noise_rate']:.1f}% (95% interval ")
    out = settle(viewed, ctx)
    left = np.array([s.dropped is None for s in out])
    assert left.mean() > 0.9
    assert np.mean(label == truth) < 0.65
    assert np.mean(codes(out)[left] == truth[left]) > 0.9
    wrong = label != truth
    flagged = np.array([s.notes["check"]["flagged"] for s in out])
    assert 2 * (flagged & wrong).sum() / (flagged.sum() + wrong.sum()) > 0.9


def test_votes_exclude_and_posterior_includes_the_own_label():
    rows, _, label, encoder = clusters(900, 0.2, distance=0.6)
    viewed, _, _ = view(rows, encoder)
    for sample, code in zip(viewed, label, strict=True):
        note = sample.notes["classifier"]
        posterior = note["posterior"]
        assert note["calibrated"] is True
        assert sum(note["votes"].values()) == pytest.approx(1.0, abs=1e-4)
        assert note["support"] == pytest.approx(note["votes"]["ABC"[code]], abs=1e-5)
        assert posterior["label"] >= note["support"] - 1e-5
        assert posterior["p"] >= posterior["label"] - 1e-6
        assert posterior["of"] == 3
    mean = np.mean([s.notes["classifier"]["posterior"]["p"] for s in viewed])
    hit = np.mean(
        [
            s.notes["classifier"]["posterior"]["answer"] == "ABC"[t]
            for s, t in zip(viewed, clusters(900, 0.2, distance=0.6)[1], strict=True)
        ]
    )
    assert hit == pytest.approx(mean, abs=0.06)


def posterior(answer, p, label, of=3):
    return {
        "classifier": {
            "answer": answer,
            "posterior": {"answer": answer, "p": p, "label": label, "of": of},
        }
    }


def sample(response="B", pinned=False, weight=1.0, notes=None):
    return Sample(
        "x",
        (Message("user", "q"), Message("assistant", response)),
        notes=notes or posterior("A", 0.9, 0.04),
        meta={"options": OPTIONS},
        pinned=pinned,
        weight=weight,
    )


def one(sample, **config):
    return settle([sample], FakeContext(answers="choice"), **config)[0]


def test_relabelled_sample_has_weight_and_reason():
    out = one(sample(weight=2.0))
    assert out.response == "A"
    assert out.weight == pytest.approx(2 * (3 * 0.9 - 1) / 2)
    assert out.why == (
        "relabelled: classifier gives 'A' probability 0.90 and the label 'B' 0.04; weight 0.85"
    )
    assert out.notes["check"] == {
        "flagged": True,
        "noise_score": 0.96,
        "answer": "A",
        "worth": 0.85,
    }


def test_confirmed_sample_keeps_its_label():
    out = one(sample("A", notes=posterior("A", 0.8, 0.8)))
    assert (out.response, out.weight) == ("A", pytest.approx(0.7))
    assert out.notes["check"]["flagged"] is False
    assert out.why.startswith("confirmed: classifier gives 'A' probability 0.80")


def test_new_answer_keeps_the_format_of_the_old_one():
    assert one(sample("B) calm")).response == "A) sad"
    assert one(sample("calm")).response == "sad"


def test_uncertain_sample_is_dropped():
    out = one(sample(notes=posterior("A", 0.4, 0.35)))
    assert out.dropped == (
        "too uncertain: classifier gives 'A' probability 0.40 and the label 'B' 0.35; worth 0.10, least 0.25"
    )
    assert one(sample(notes=posterior("A", 0.4, 0.35)), least=0).dropped is None


def test_relabel_false_and_weights_none():
    assert one(sample(), relabel=False).dropped.startswith("flagged: classifier gives 'A'")
    hard = one(sample(), weights="none")
    assert (hard.response, hard.weight) == ("A", 1.0)


def many(label, answer, count, p=0.9):
    notes = posterior(answer, p, 0.04)
    return [replace(sample(label, notes=notes), id=f"{label}{answer}{i}{p}") for i in range(count)]


def test_an_answer_that_hardly_any_row_keeps_is_named():
    ctx = FakeContext(answers="choice")
    rows = many("B", "A", 27) + many("B", "B", 2) + many("C", "C", 12) + many("A", "A", 20)
    settle([*rows, *many("B", "B", 9, p=0.4)], ctx)
    warnings = [text for kind, text in ctx.log.lines if kind == "warning"]
    assert len(warnings) == 1
    assert "the answer 'calm' was the label of 38 rows, and 2 are left with it" in warnings[0]


def test_no_answer_is_named_if_it_keeps_rows_or_had_few():
    ctx = FakeContext(answers="choice")
    pinned = [replace(row, pinned=True) for row in many("A", "C", 20, p=0.8)]  # they keep "A"
    settle(many("B", "A", 9) + many("C", "C", 10) + many("C", "B", 90, p=0.8) + pinned, ctx)
    assert not [text for kind, text in ctx.log.lines if kind == "warning"]


def test_pinned_sample_is_not_changed():
    out = one(sample(pinned=True))
    assert (out.response, out.weight, out.dropped) == ("B", 1.0, None)
    assert out.notes["check"]["flagged"] is False


def test_label_is_kept_without_a_posterior():
    silent = {
        "classifier": {
            "answer": None,
            "failure": "it knows nothing",
            "support": 0.3,
            "votes": {"A": 0.3},
        }
    }
    out = one(sample(notes=silent))
    assert (out.response, out.weight, out.dropped) == ("B", 1.0, None)
    assert out.notes["check"] == {"flagged": False, "noise_score": 0.7, "answer": None}
    assert out.why == "label kept: classifier has no answer (it knows nothing)"


def test_uninformative_vectors_keep_labels_and_warn():
    rows, _, label, encoder = clusters(rate=2 / 3)
    viewed, state, ctx = view(rows, encoder)
    assert not state.values["informative"]
    assert "estimated_noise_rate" not in state.values["report"]
    assert any(kind == "warning" and "trusted: COLUMN" in text for kind, text in ctx.log.lines)
    out = settle(viewed, ctx)
    assert all(s.dropped is None and s.weight == 1.0 for s in out)
    assert (codes(out) == label).all()


@pytest.mark.parametrize("trusted", [0, 30])
def test_two_answers_say_that_most_labels_are_assumed_right(trusted):
    """Exchanged answers give the same vectors and labels, so 80% wrong labels look like 20%."""
    rng = np.random.default_rng(4)
    truth = rng.integers(2, size=200)
    label = np.where((rng.random(200) < 0.8) & (np.arange(200) >= trusted), 1 - truth, truth)
    rows = [
        Sample(
            f"s{i}",
            (Message("user", f"row {i}"), Message("assistant", ["no", "yes"][label[i]])),
            meta={"sure": i < trusted},
        )
        for i in range(200)
    ]
    vectors = np.concatenate([5.0 * truth[:, None] + rng.normal(size=(200, 1)), rng.normal(size=(200, 4))], axis=1)  # fmt: skip
    encoder = FakeEncoder(lambda text: vectors[int(text.split()[1])])
    _, state, ctx = view(rows, encoder, answers="exact", trusted="sure" if trusted else None)
    figures = state.values["report"]["classifier"]
    wrong = np.mean((label != truth)[trusted:])
    said = [text for _, text in ctx.log.lines if "two answers" in text]
    if trusted:
        assert figures["noise_rate_low"] <= wrong <= figures["noise_rate_high"]
        assert not said
    else:
        assert figures["noise_rate_low"] <= 1 - wrong <= figures["noise_rate_high"] < 0.5
        assert len(said) == 1
        assert (
            f"a rate of {1 - figures['noise_rate']:.2f} with the answers exchanged fits as well"
            in said[0]
        )


def test_trusted_rows_identify_a_high_noise_rate():
    rows, truth, _, encoder = clusters(rate=0.7, trusted=50)
    viewed, state, ctx = view(rows, encoder, trusted="sure")
    assert state.values["report"]["classifier"]["trusted"] == 50
    assert state.values["report"]["classifier"]["noise_rate"] == pytest.approx(0.7, abs=0.06)
    out = settle(viewed, ctx)
    assert all(s.dropped is None and s.weight == pytest.approx(1.0) for s in out[:50])
    left = np.array([s.dropped is None for s in out])
    assert np.mean(codes(out)[left] == truth[left]) > 0.95
    _, _, ctx = view(clusters()[0], encoder, trusted="sur")
    assert any("column 'sur'" in text for _, text in ctx.log.lines)


def test_answers_without_options():
    rows, truth, _, encoder = clusters(options=False)
    viewed, _, ctx = view(rows, encoder, answers="exact")
    out = [s for s in settle(viewed, ctx) if s.dropped is None]
    right = [s.response == OPTIONS[truth[int(s.id[1:])]] for s in out]
    assert np.mean(right) > 0.9


@pytest.mark.parametrize(
    ("spell", "kind"),
    [(str.title, "exact"), (str.title, "label"), (lambda text: f"Mood: {text.upper()}", "exact")],
)
def test_a_new_label_is_spelled_as_the_others(spell, kind):
    rows, _, _, encoder = clusters(options=False)
    listed = {"options": [spell(option) for option in OPTIONS]} if kind == "label" else {}
    rows = [Sample(s.id, (s.messages[0], Message("assistant", spell(s.response))), meta=listed) for s in rows]  # fmt: skip
    rows[0] = rows[0].relabel(rows[0].response.lower(), "one in another spelling")
    viewed, _, ctx = view(rows, encoder, answers=kind)
    out = settle(viewed, ctx)
    relabelled = {b.response for a, b in zip(rows, out, strict=True) if a.response != b.response}
    assert relabelled == {spell(option) for option in OPTIONS}


def test_a_classifier_takes_more_answers_than_neighbours():
    rows = LabelledRows()
    for i in range(650):
        sample = Sample(f"s{i}", (Message("user", f"row {i}"), Message("assistant", f"a{i % 65}")))
        rows.add(sample, FakeContext(answers="exact"), None)
    assert rows.classes() is None
    assert (rows.are_open(64), rows.are_open(200)) == (True, False)
    assert rows.classes(200) == sorted(f"a{i}" for i in range(65))


def test_too_many_answers_log_a_warning():
    rows = [
        Sample(f"s{i}", (Message("user", f"row {i}"), Message("assistant", str(i))))
        for i in range(50)
    ]
    viewed, state, ctx = view(rows, FakeEncoder(), answers="exact")
    assert not state.values["informative"]
    assert "2 to 200 distinct answers" in viewed[0].notes["classifier"]["failure"]
    assert any("leave robustft.classifier out" in text for _, text in ctx.log.lines)


def test_nothing_is_embedded_if_options_differ_per_row():
    rows = [
        Sample(
            f"s{i}",
            (Message("user", f"row {i}"), Message("assistant", "AB"[i % 2])),
            meta={"options": [f"one {i}", f"other {i}"]},
        )
        for i in range(50)
    ]

    def refuse(text):
        raise AssertionError(f"{text!r} was embedded")

    viewed, state, ctx = view(rows, FakeEncoder(refuse))
    assert not state.values["informative"]
    assert [s.response for s in settle(viewed, ctx)] == [s.response for s in rows]


def test_rows_beyond_the_reference_have_a_view():
    rows, truth, _, encoder = clusters(600)
    viewed, _, _ = view(rows, encoder, reference=300)
    answers = [s.notes["classifier"]["answer"] for s in viewed]
    assert np.mean([a == "ABC"[t] for a, t in zip(answers, truth, strict=True)]) > 0.9


def test_unknown_id_raises():
    rows, _, _, encoder = clusters(100)
    stage = Classifier(ClassifierConfig())
    ctx = FakeContext(models={"encoder": encoder}, answers="choice")
    state = stage.fit(iter(rows[:90]), ctx)
    with pytest.raises(ContractError, match="'s95' was absent when"):
        stage.process(rows[95:96], state, ctx)


def test_one_encoder_or_a_list():
    assert ClassifierConfig(encoder="words").encoder == ["words"]
    assert model_needs(ClassifierConfig(encoder=["words", "student"])) == [
        ModelNeed("words", Embeds, field="encoder"),
        ModelNeed("student", Embeds, field="encoder"),
    ]
    with pytest.raises(ValidationError):
        ClassifierConfig(encoder=[])


def test_classifier_and_settle_conform():
    rows, _, _, encoder = clusters(120)
    ctx = FakeContext(models={"encoder": encoder}, answers="choice")
    viewed = check_sample_stage(Classifier, ClassifierConfig(), rows, ctx)
    check_sample_stage(Settle, SettleConfig(), viewed, ctx)
