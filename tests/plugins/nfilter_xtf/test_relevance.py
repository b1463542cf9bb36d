"""xtf.relevance: known vectors, classes by hand, exempt tokens, and the masks of the other presets."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from nfilter import ModelError, RecipeError
from nfilter.testing import FakeContext
from nfilter_xtf import vectors
from nfilter_xtf.mask import Mask, MaskConfig
from nfilter_xtf.relevance import Relevance, RelevanceConfig

ANGLES = {0: 0.0, 1: 0.1, 2: 0.5, 3: 0.6, 4: 0.9, 5: 1.2, 6: 1.5, 7: 1.55, 8: 1.57, 9: 0.05}
TEXTS = {7: " ", 8: "</s>", 9: "word"}
FREE = {"cap": "none", "words": ("word",)}


class Compass(torch.nn.Module):
    """A model whose last hidden state of token t has length t + 1 and a given angle; token 9 encodes 'word'."""

    def __init__(self, angles):
        super().__init__()
        self.angles = torch.nn.Parameter(torch.tensor([angles[t] for t in sorted(angles)]))
        self.rows = []

    @property
    def base_model(self):
        def run(*, input_ids, use_cache):
            assert input_ids.shape[1] == 1
            self.rows.append(len(input_ids))
            a = self.angles[input_ids]
            states = torch.stack([a.cos(), a.sin()], -1) * (input_ids[..., None] + 1)
            return SimpleNamespace(last_hidden_state=states)

        return run


class Words:
    """A tokenizer: token 7 is a space, 8 ends a turn, and 'word' is token 9."""

    all_special_ids = (8,)

    def decode(self, ids):
        (number,) = ids
        return TEXTS.get(number, f"t{number}")

    def __call__(self, word, add_special_tokens):
        assert not add_special_tokens
        known = {"word": [9], "two": [0, 9]}
        return {"input_ids": known.get(word, [])}


def ctx_of(lender, angles=ANGLES, tokenizer=None):
    return FakeContext(models={"student": lender(Compass(angles), tokenizer or Words())})


def five(tokens, times=3):
    """Return samples of tokens 0 to 8, in five classes by angle from token 9: {0, 1} {2, 3} {4} {5} {6, 7, 8}."""
    return [tokens(f"s{i}", [0, *range(9)], [0, *[1] * 9]) for i in range(times)]


def test_the_score_is_the_cosine_with_the_words_and_white_space_has_none(tokens, lender, run):
    out, report = run(Relevance, RelevanceConfig(**FREE), five(tokens), ctx_of(lender))
    got = out[0].scores["xtf.relevance"]
    wanted = [np.nan, *(np.cos(ANGLES[t] - 0.05) for t in range(7)), np.nan, np.nan]
    np.testing.assert_allclose(got, wanted, atol=1e-6)
    assert (report["distinct_tokens"], report["exempt_tokens"]) == (7, 2)


def test_the_lowest_of_five_classes_is_masked_and_the_cuts_are_between_them(
    tokens, lender, run, lost
):
    out, report = run(Relevance, RelevanceConfig(**FREE), five(tokens), ctx_of(lender))
    assert lost(out) == [[7]] * 3  # only token 6: 7 and 8 are exempt
    c = {t: np.cos(ANGLES[t] - 0.05) for t in range(9)}
    borders = [(c[6] + c[5]) / 2, (c[5] + c[4]) / 2, (c[4] + c[3]) / 2, (c[2] + c[1]) / 2]
    assert report["thresholds"] == pytest.approx(borders, abs=1e-6)


def test_official_masks_the_lowest_class_and_paper_the_second_lowest(tokens, lender, run, lost):
    official = RelevanceConfig(**FREE, preset="official")
    out, _ = run(Relevance, official, five(tokens), ctx_of(lender))
    assert lost(out) == [[7, 8, 9]] * 3
    out, _ = run(Relevance, RelevanceConfig(**FREE, preset="paper"), five(tokens), ctx_of(lender))
    assert lost(out) == [[6]] * 3


def test_official_finds_its_classes_among_prompt_tokens_too(tokens, lender, run, lost):
    """Six distances: a prompt full of the far ones splits them and merges the near ones."""
    c = np.linspace(1, 0, 6)
    angles = dict.fromkeys(range(10), 0.0) | dict(enumerate(np.arccos(c).tolist()))
    prompt = [2, 3, 4, 5] * 50
    sample = tokens("a", [*prompt, *[0, 1, 2, 3] * 20, 4, 5], np.arange(282) >= 200)
    ctx = ctx_of(lender, angles)
    config = {**FREE, "preset": "official"}
    out, report = run(Relevance, RelevanceConfig(**config), [sample], ctx)
    assert report["thresholds"][0] == pytest.approx((c[5] + c[4]) / 2, abs=1e-6)
    assert report["tokens"] == 82
    assert lost(out) == [[281]]
    assert not np.isnan(out[0].scores["xtf.relevance"]).any()
    scored, _ = run(Relevance, RelevanceConfig(**config, mask=False), [sample], ctx)
    union = MaskConfig(attributes=("relevance",), preset="official", cap="none")
    assert lost(run(Mask, union, scored)[0]) == [[281]]
    # Among response tokens alone the rare far ones are merged, and both are masked.
    own, report = run(Relevance, RelevanceConfig(**FREE), [sample], ctx)
    assert report["thresholds"][0] == pytest.approx((c[4] + c[3]) / 2, abs=1e-6)
    assert lost(own) == [[280, 281]]


def test_without_words_the_task_is_the_mean_over_all_response_tokens(tokens, lender, run):
    samples = [tokens("a", [1, 1, 4, 5], [1, 1, 1, 0]), tokens("b", [4, 6, 2, 0])]
    out, _ = run(Relevance, RelevanceConfig(), samples, ctx_of(lender))
    vector = {t: (t + 1) * np.array([np.cos(a), np.sin(a)]) for t, a in ANGLES.items()}
    centre = np.mean([vector[t] for t in (1, 1, 4, 4, 6, 2, 0)], axis=0)
    for sample in out:
        for t, got in zip(sample.ids, sample.scores["xtf.relevance"], strict=True):
            if t == 5:
                assert np.isnan(got)
            else:
                v = vector[int(t)]
                cos = v @ centre / np.linalg.norm(v) / np.linalg.norm(centre)
                assert got == pytest.approx(cos, abs=1e-6)


def test_a_word_counts_once_for_any_number_of_tokens():
    ids, weights = vectors.word_ids(Words(), ["word", "two", "word"])
    assert (ids.tolist(), weights.tolist()) == ([0, 9], [0.5, 2.5])


@pytest.mark.types("a word has no tokens under this model; remove «» from words")
def test_a_word_without_tokens_is_named(tokens, lender, run):
    with pytest.raises(RecipeError, match=r"no tokens.*remove '\?' from words"):
        run(Relevance, RelevanceConfig(words=("?", "word")), five(tokens), ctx_of(lender))
    assert run(Relevance, RelevanceConfig(words=("word",)), five(tokens), ctx_of(lender))


def test_the_classes_are_weighted_by_frequency(tokens, lender, run):
    """Of six distances, the two rare ones are merged."""
    c = np.linspace(1, 0, 6)
    angles = dict.fromkeys(range(10), 0.0) | dict(enumerate(np.arccos(c).tolist()))
    rare_near = [tokens("a", [*[2, 3, 4, 5] * 50, 0, 1])]
    rare_far = [tokens("a", [*[0, 1, 2, 3] * 50, 4, 5])]
    for samples, border in ((rare_near, (c[5] + c[4]) / 2), (rare_far, (c[4] + c[3]) / 2)):
        _, report = run(Relevance, RelevanceConfig(**FREE), samples, ctx_of(lender, angles))
        assert report["thresholds"][0] == pytest.approx(border, abs=1e-6)


def test_official_has_one_vector_per_text(tokens, lender, run):
    class Spaced(Words):
        def decode(self, ids):
            return {3: " t1", 1: "t1"}.get(ids[0], super().decode(ids))

    ctx = ctx_of(lender, tokenizer=Spaced())
    out, _ = run(Relevance, RelevanceConfig(**FREE, preset="official"), five(tokens), ctx)
    scores = out[0].scores["xtf.relevance"]
    assert scores[4] == scores[2] != scores[3]


@pytest.mark.parametrize("batch", [1, 2, 4])
@pytest.mark.parametrize("size", [1, 100])
def test_batches_and_chunks_make_no_difference(batch, size, tokens, lender, run, monkeypatch):
    wanted, first = run(Relevance, RelevanceConfig(cap=0.2), five(tokens), ctx_of(lender))
    monkeypatch.setattr(vectors, "BATCH", batch)
    ctx = ctx_of(lender)
    got, second = run(Relevance, RelevanceConfig(cap=0.2), five(tokens), ctx, size)
    assert max(ctx.models["student"].lent.module.rows) == batch
    assert first == second
    for a, b in zip(wanted, got, strict=True):
        assert np.array_equal(a.weights, b.weights)
        np.testing.assert_allclose(a.scores["xtf.relevance"], b.scores["xtf.relevance"], atol=1e-6)


def test_the_cap_takes_the_least_relevant(tokens, lender, run, lost):
    sample = tokens("a", [*range(6), *[6] * 14, *[0] * 20])
    out, _ = run(Relevance, RelevanceConfig(words=("word",)), [sample], ctx_of(lender))
    assert lost(out) == [[6, 7]]  # 5% of 40; ties are broken by position


def test_few_distinct_tokens_are_warned_of_and_too_few_mask_nothing(tokens, lender, run, lost):
    ctx = ctx_of(lender)
    run(Relevance, RelevanceConfig(**FREE), five(tokens), ctx)
    assert any(
        "only 7 distinct tokens" in text for kind, text in ctx.log.lines if kind == "warning"
    )
    ctx = ctx_of(lender)
    out, report = run(Relevance, RelevanceConfig(**FREE), [tokens("a", [0, 2, 4, 6])], ctx)
    assert any("do not form 5 classes" in text for _, text in ctx.log.lines)
    assert (lost(out), report["thresholds"], report["masked"]) == ([[]], None, 0)


def test_nothing_to_score(tokens, lender, run):
    out, report = run(Relevance, RelevanceConfig(), [tokens("a", [1, 2], [0, 0])], ctx_of(lender))
    assert np.isnan(out[0].scores["xtf.relevance"]).all()
    assert report is None


def test_a_model_without_a_tokenizer_is_refused(tokens, lender, run):
    ctx = FakeContext(models={"student": lender(Compass(ANGLES))})
    with pytest.raises(ModelError, match="'student' provides no tokenizer"):
        run(Relevance, RelevanceConfig(), five(tokens), ctx)
