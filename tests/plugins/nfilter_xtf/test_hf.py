"""The stages on the embedded model through the local backend, against direct computations in float64."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

import nfilter_xtf
from nfilter import Message, Sample, Site
from nfilter.testing import FakeContext
from nfilter_hf.backend import HFBackend
from nfilter_hf.config import HFConfig
from nfilter_tiny import MODEL_DIR
from nfilter_xtf.mask import Mask, MaskConfig
from nfilter_xtf.novelty import Novelty, NoveltyConfig
from nfilter_xtf.reasoning import Reasoning, ReasoningConfig
from nfilter_xtf.relevance import Relevance, RelevanceConfig

ROWS = [
    ("hue fir 461", "ivory"),
    ("sot 218", "231"),
    ("24 jul +49", "10 sep"),
    ("583+4417", "5000 and the sum of the two is what was asked for, no more and no less than that"),
    ("say a lot", "one two three four five six seven eight nine ten, and then ten nine eight seven six"),
]  # fmt: skip


@pytest.fixture(scope="module")
def backend():
    built = HFBackend(HFConfig(model=str(MODEL_DIR)), Site(MODEL_DIR))
    yield built
    built.close()


@pytest.fixture(scope="module")
def samples(backend):
    texts = [
        Sample(f"s{i}", (Message("user", q), Message("assistant", a)))
        for i, (q, a) in enumerate(ROWS)
    ]
    return backend.encode(texts, max_length=128, turns="all")


@pytest.fixture(scope="module")
def double():
    return AutoModelForCausalLM.from_pretrained(
        MODEL_DIR, dtype=torch.float64, attn_implementation="eager"
    ).eval()


@pytest.fixture
def ctx(backend):
    return FakeContext(models={"student": backend})


def test_reasoning_equals_the_full_weights_in_float64(backend, samples, double, ctx, run):
    out, _ = run(Reasoning, ReasoningConfig(), samples, ctx)
    for sample in out:
        with torch.no_grad():
            weights = double(torch.from_numpy(sample.ids)[None], output_attentions=True).attentions
        a = torch.cat(weights).mean((0, 1)).numpy()
        n = len(sample.ids)
        for j in np.flatnonzero(sample.response):
            wanted = np.mean([(i + 1) * a[i, j] for i in range(j + 1, n)]) if j < n - 1 else np.nan
            got = sample.scores["xtf.reasoning"][j]
            np.testing.assert_allclose(got, wanted, rtol=1e-4)
    with backend.lend() as lent:
        assert lent.module.config._attn_implementation != "eager"
        assert not any(part._forward_hooks for part in lent.module.modules())


def test_novelty_is_one_minus_the_probability_in_float64(samples, double, ctx, run):
    out, _ = run(Novelty, NoveltyConfig(), samples, ctx)
    for sample in out:
        with torch.no_grad():
            p = double(torch.from_numpy(sample.ids)[None]).logits[0].softmax(-1).numpy()
        for t in np.flatnonzero(sample.response):
            wanted = 1 - p[t - 1, sample.ids[t]]
            assert sample.scores["xtf.novelty"][t] == pytest.approx(wanted, abs=2e-5)


def test_relevance_is_the_cosine_in_float64(backend, samples, double, ctx, run):
    out, report = run(Relevance, RelevanceConfig(words=("five", "six")), samples, ctx)
    with backend.lend() as lent:
        tokenizer = lent.tokenizer

    def vector(number):
        with torch.no_grad():
            return double.model(torch.tensor([[number]])).last_hidden_state[0, 0].numpy()

    words = [tokenizer(w, add_special_tokens=False)["input_ids"] for w in ("five", "six")]
    centre = np.mean([np.mean([vector(n) for n in ids], axis=0) for ids in words], axis=0)
    exempt = set()
    for sample in out:
        for t in np.flatnonzero(sample.response):
            number, got = int(sample.ids[t]), sample.scores["xtf.relevance"][t]
            if not tokenizer.decode([number]).strip() or number in tokenizer.all_special_ids:
                exempt.add(number)
                assert np.isnan(got)
                continue
            v = vector(number)
            cos = v @ centre / np.linalg.norm(v) / np.linalg.norm(centre)
            assert got == pytest.approx(cos, abs=1e-5)
    assert tokenizer.eos_token_id in exempt
    assert report["exempt_tokens"] == len(exempt)


@pytest.mark.parametrize("preset", ["default", "paper", "official"])
def test_the_union_equals_the_stages_run_separately(preset, samples, ctx, run, lost):
    """Without caps, the union equals the union of the three stages' own masks."""
    config = {"preset": preset, "cap": "none"}
    stages = [(Reasoning, ReasoningConfig), (Novelty, NoveltyConfig), (Relevance, RelevanceConfig)]
    scored, alone = samples, []
    for stage, kind in stages:
        out, _ = run(stage, kind(**config), samples, ctx)
        alone.append(lost(out))
        scored, _ = run(stage, kind(**config, mask=False), scored, ctx)
    union, report = run(Mask, MaskConfig(**config), scored, ctx)
    wanted = [sorted({t for part in parts for t in part}) for parts in zip(*alone, strict=True)]
    for sample, where in zip(scored, wanted, strict=True):
        if preset == "default" and len(where) == sample.response.sum():
            where.remove(where[int(np.nanargmax(sample.scores["xtf.reasoning"][where]))])
    assert lost(union) == wanted
    assert report["masked"] == sum(map(len, wanted)) > 0


def test_the_stages_are_registered():
    names = [stage.name for stage in nfilter_xtf.nfilter_stages()]
    assert names == ["xtf.reasoning", "xtf.novelty", "xtf.relevance", "xtf.mask"]
