"""Excess loss on the embedded model against losses computed one sample at a time in float64, and a warm-up."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from transformers import AutoModelForCausalLM

from nfilter import Message, ModelRef, RecipeError, Sample, Site
from nfilter.testing import FakeContext, check_token_stage
from nfilter_hf.backend import HFBackend
from nfilter_hf.config import HFConfig
from nfilter_tiny import MODEL_DIR
from nfilter_tokens.excess import ExcessLoss, ExcessLossConfig


@pytest.fixture(scope="module")
def backend():
    built = HFBackend(HFConfig(model=str(MODEL_DIR), batch_tokens=200), Site(MODEL_DIR))
    yield built
    built.close()


@pytest.fixture(scope="module")
def samples(backend):
    rows = [
        ("hue fir 461", "ivory"),
        ("sot 218", "231"),
        ("24 jul +49", "10 sep"),
        ("583+4417", "5000"),
    ]
    texts = [
        Sample(f"s{i}", (Message("user", q), Message("assistant", a)))
        for i, (q, a) in enumerate(rows)
    ]
    return backend.encode(texts, max_length=64, turns="all")


def one_by_one(sample, change=None):
    """Compute the losses by definition: log-softmax of the full logits of one sample in float64."""
    model = AutoModelForCausalLM.from_pretrained(MODEL_DIR, dtype=torch.float64).eval()
    if change:
        change(model)
    with torch.no_grad():
        logits = model(torch.from_numpy(sample.ids)[None]).logits[0].log_softmax(-1)
    out = np.full(len(sample.ids), np.nan)
    for t in np.flatnonzero(sample.response):
        if t:
            out[t] = -float(logits[t - 1, sample.ids[t]])
    return out


def noisy(model):
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))


def test_it_is_the_difference_of_two_losses(backend, samples, tmp_path):
    other = AutoModelForCausalLM.from_pretrained(MODEL_DIR, dtype=torch.float32)
    noisy(other)
    other.save_pretrained(tmp_path)
    for file in MODEL_DIR.glob("*token*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    reference = HFBackend(HFConfig(model=str(tmp_path)), Site(tmp_path))
    config = ExcessLossConfig(reference="teacher")
    ctx = FakeContext(models={"student": backend, "teacher": reference})
    out, _ = check_token_stage(ExcessLoss, config, samples, ctx)
    reference.close()
    saved = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float64).state_dict()
    for before, after in zip(samples, out, strict=True):
        base = one_by_one(before)
        ref = one_by_one(before, lambda model: model.load_state_dict(saved))
        # float32 against float64: the error grows with the loss, and differs between processors
        np.testing.assert_allclose(after.scores["loss.base"], base, rtol=5e-6, atol=1e-5)
        np.testing.assert_allclose(after.scores["loss.reference"], ref, rtol=5e-6, atol=1e-5)
        np.testing.assert_allclose(after.scores["excess"], base - ref, rtol=5e-6, atol=4e-5)
        assert np.array_equal(after.weights, before.weights)


def test_a_warm_up_learns_from_a_seeded_share_and_every_sample_is_scored(samples):
    trained, published = [], []
    ref = ModelRef("adapters/x", "adapter", "base", "d")

    def scores(chunk, adapter=None):
        assert adapter in (None, ref)
        return [
            np.where(s.response, 1.0 if adapter else 3.0, np.nan).astype(np.float32) for s in chunk
        ]

    class Ctx(FakeContext):
        def train(self, part, start=None):
            trained.append([s.id for s in part])
            return ref

        def publish_model(self, model):
            published.append(model)

    for seed in (0, 0, 1, 2, 3):
        ctx = Ctx(models={"student": SimpleNamespace(score=scores)}, seed=seed)
        stage = ExcessLoss(ExcessLossConfig(warmup=0.5))
        out = stage.process_tokens(samples, stage.fit_tokens(samples, ctx), ctx, 0)
        assert all((s.scores["excess"][s.response] == 2).all() for s in out)
    assert trained[0] == trained[1]
    assert len({tuple(part) for part in trained}) > 1
    assert all(len(part) == 2 and part == sorted(part) for part in trained)
    assert published == [ref] * 5


@pytest.mark.parametrize("bad", [{}, {"reference": "x", "warmup": 0.5}])
def test_one_reference_is_named(bad):
    with pytest.raises(ValidationError, match="name one reference"):
        ExcessLossConfig(**bad)


@pytest.mark.types("name a reference with the same tokenizer")
def test_a_reference_with_another_tokenizer_is_refused(backend, samples, tmp_path):
    """Two pieces swap their ids: the vocabularies have the same size and pieces, but the token ids differ."""
    for file in MODEL_DIR.iterdir():
        if file.is_file():
            (tmp_path / file.name).write_bytes(file.read_bytes())
    data = json.loads((tmp_path / "tokenizer.json").read_text())
    vocab = data["model"]["vocab"]
    first, second = sorted(vocab, key=vocab.get)[-2:]
    vocab[first], vocab[second] = vocab[second], vocab[first]
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    other = HFBackend(HFConfig(model=str(tmp_path)), Site(tmp_path))
    ctx = FakeContext(models={"student": backend, "teacher": other})
    stage = ExcessLoss(ExcessLossConfig(reference="teacher"))
    with pytest.raises(RecipeError, match="'teacher' and base 'student' have different tokenizers"):
        stage.fit_tokens(samples, ctx)
    other.close()
    ctx = FakeContext(models={"student": backend, "teacher": backend})
    stage.process_tokens(samples, stage.fit_tokens(samples, ctx), ctx, 0)
    assert ExcessLossConfig(warmup=0.2).reference is None


def test_a_tokenizer_that_cannot_be_compared_is_warned_of(backend, samples):
    remote = SimpleNamespace(score=lambda chunk: [np.zeros(len(s.ids), np.float32) for s in chunk])
    ctx = FakeContext(models={"student": backend, "teacher": remote})
    ExcessLoss(ExcessLossConfig(reference="teacher")).fit_tokens(samples, ctx)
    ((kind, text),) = ctx.log.lines
    assert kind == "warning"
    assert "cannot compare the tokenizers" in text


def test_a_warm_up_does_not_draw_samples_without_a_weight(samples):
    trained = []

    class Ctx(FakeContext):
        def train(self, part, start=None):
            trained.append({s.id for s in part})
            return ModelRef("adapters/x", "adapter", "base", "d")

        def publish_model(self, model):
            pass

    masked = [samples[0].mask(samples[0].response, 0), *samples[1:]]
    for seed in range(8):
        ExcessLoss(ExcessLossConfig(warmup=0.9)).fit_tokens(masked, Ctx(seed=seed))
    assert all(part and samples[0].id not in part for part in trained)
