"""The whole pipeline on a small dataset with known truth and scripted models."""

import pytest

from nfilter import EMPTY_STATE, Message, Sample
from nfilter.testing import FakeContext, FakeEncoder, FakeGenerator
from nfilter_robustft import nfilter_stages

LETTERS = "ABCD"
STAGES = {stage.name: stage for stage in nfilter_stages()}


def dataset(n=40):
    """Sample i has the truth ``LETTERS[i % 4]``; a quarter of the labels is the next letter instead."""
    samples, truth = [], {}
    for i in range(n):
        true = LETTERS[i % 4]
        label = LETTERS[(i + 1) % 4] if i % 4 == (i // 4) % 4 else true
        turns = (Message("user", f"question {i} of group {true}"), Message("assistant", label))
        samples.append(Sample(f"s{i}", turns, meta={"options": ["one", "two", "three", "four"]}))
        truth[f"s{i}"] = true
    return samples, truth


def run(line, samples, models, seed=0):
    for name, config in line:
        stage = STAGES[name]
        built = stage(stage.Config(**config))
        ctx = FakeContext(models=models, answers="choice", seed=seed, stage=name)
        state = built.fit(samples, ctx) if hasattr(built, "fit") else EMPTY_STATE
        samples = list(built.process(samples, state, ctx))
        samples = [sample for sample in samples if sample.dropped is None]
    return samples


def line(**preset):
    return [
        ("robustft.answer", {"llm": "m"}),
        ("robustft.reason", {"llm": "m", **preset}),
        ("robustft.check", {"views": ["base", "reasoning"], "vote": "all"}),
        ("robustft.relabel", {"llm": "m", "encoder": "e"}),
        ("robustft.review", {"llm": "m", **preset}),
        ("robustft.select", {"by": "context", "keep": 0.5}),
    ]


@pytest.mark.parametrize("preset", [{}, {"preset": "official"}])
def test_pipeline_corrects_wrong_labels_and_keeps_half(preset, obedient):
    samples, truth = dataset()
    wrong = {sample.id for sample in samples if sample.response != truth[sample.id]}
    model = obedient(FakeGenerator(lambda request: f"Answer: {truth[request.sample_id]}"))
    out = run(line(**preset), samples, {"m": model, "e": FakeEncoder()})
    assert len(wrong) == 10
    assert len(out) == 30 + 5
    assert all(sample.response == truth[sample.id] for sample in out)
    assert {s.id for s in out if "context" in s.notes} < wrong
    reasoning = 1 if preset else 3
    reviews = 10 if preset else 0  # otherwise both views agree, and no call is needed
    assert len(model.requests) == 40 + 40 * reasoning + 10 + reviews


def test_pipeline_with_a_silent_model_drops_everything():
    samples, _ = dataset(8)
    model = FakeGenerator(lambda request: "I cannot say")
    assert run(line(), samples, {"m": model, "e": FakeEncoder()}) == []


def test_stages_are_registered_in_recipe_order():
    names = (
        "answer",
        "reason",
        "neighbors",
        "classifier",
        "check",
        "settle",
        "relabel",
        "review",
        "select",
        "random",
    )
    assert list(STAGES) == [*(f"robustft.{name}" for name in names), "views.column"]
