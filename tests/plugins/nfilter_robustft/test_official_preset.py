"""``preset: official`` compared with the published code of RobustFT (github.com/luo-junyu/RobustFT, robustft.py)."""

from pathlib import Path

import pytest
import yaml

import nfilter_robustft
from nfilter import Completion
from nfilter.testing import FakeEncoder, FakeGenerator, check_sample_stage
from nfilter_robustft.official_preset import apply_official_preset

RECIPE = Path(__file__).resolve().parents[3] / "nfilter" / "recipes" / "robustft-official.yaml"
STAGES = {stage.name: stage for stage in nfilter_robustft.nfilter_stages()}
NEEDED = {
    "robustft.answer": {"llm": "expert"},
    "robustft.reason": {"llm": "expert"},
    "robustft.check": {"views": ["base", "reasoning"]},
    "robustft.relabel": {"llm": "expert", "encoder": "encoder"},
    "robustft.review": {"llm": "expert"},
    "robustft.select": {},
}
"""Settings without a default."""

QUERY, META = "Is it?\nA. yes\nB. no", {"options": ["yes", "no"]}

CALL = {"temperature": 1, "max_tokens": 512, "logprobs": True}
PUBLISHED = {
    # Every sample is answered once, directly.
    "robustft.answer": {**CALL, "samples": 1, "settled": None, "only": None},
    # Every sample is reasoned about once; no reflection of its own.
    "robustft.reason": {**CALL, "rounds": 0, "settled": None, "only": None},
    # Clean where both answers are the label.
    "robustft.check": {"views": ["base", "reasoning"], "vote": "all", "sure": None},
    # Three clean neighbours of the question, which is embedded without its options.
    "robustft.relabel": {**CALL, "k": 3, "embed": "question", "check": "check", "sure": None},
    # Every flagged sample is reviewed once: bare answers, reasoning first. What is written is the answer.
    "robustft.review": {
        **CALL, "views": ("reasoning", "context"), "prompt": "robustft/review_answers", "retries": 0,
        "shuffle": False, "skip_agreed": False, "check": "check", "write": "answer",
    },
    # Strictly below the median nll of the context view (test_select.py).
    "robustft.select": {"by": "context", "rank": "nll", "check": "check", "preset": "official"},
}  # fmt: skip


def differences(config, published):
    found = {name: getattr(config, name) for name in published}
    return {
        name: (found[name], published[name]) for name in found if found[name] != published[name]
    }


def test_preset_sets_the_published_settings():
    assert set(NEEDED) == set(PUBLISHED)
    for name, published in PUBLISHED.items():
        config = STAGES[name].Config(**NEEDED[name], preset="official")
        assert differences(config, published) == {}, name


def test_shipped_recipe_has_the_published_settings():
    stages = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))["samples"]
    assert [stage["use"] for stage in stages] == list(PUBLISHED)
    for stage in stages:
        name = stage["use"]
        config = STAGES[name].Config(**{key: stage[key] for key in stage if key != "use"})
        assert differences(config, PUBLISHED[name]) == {}, name
        assert stage["preset"] == "official"


@pytest.mark.parametrize("name", [name for name in PUBLISHED if "temperature" in PUBLISHED[name]])
def test_explicit_settings_override_the_preset(name):
    own = {"temperature": 0.25, "max_tokens": 64, "logprobs": False}
    config = STAGES[name].Config(**NEEDED[name], preset="official", **own)
    assert {key: getattr(config, key) for key in own} == own
    assert STAGES[name].Config(**NEEDED[name]).temperature == 0
    assert STAGES[name].Config(**NEEDED[name], preset="paper").temperature == 0


def test_non_mapping_is_returned_unchanged():
    assert apply_official_preset(["preset", "official"]) == ["preset", "official"]
    assert apply_official_preset({"preset": "paper"}, rounds=0) == {"preset": "paper"}


def test_options_are_embedded_without_the_preset(sample, context):
    chunk = [sample(1, QUERY, meta=META, flagged=True), sample(2, QUERY, meta=META, flagged=False)]
    for preset, expected in (("paper", QUERY), ("official", "Is it?")):
        embedded = set()

        def vector(text, embedded=embedded):
            embedded.add(text)
            return [1.0]

        ctx = context(FakeGenerator(lambda request: "A"), FakeEncoder(vector))
        config = STAGES["robustft.relabel"].Config(llm="m", encoder="e", preset=preset)
        check_sample_stage(STAGES["robustft.relabel"], config, chunk, ctx)
        assert embedded == {expected}


def rows(sample):
    """Six questions with options; the model's answer agrees with the label of the first two."""
    labels = {"1": "A", "2": "A", "3": "B", "4": "B", "5": "B", "6": "B"}
    return [
        sample(key, f"Question {key}?\nA. yes\nB. no", label, meta={"options": ["yes", "no"]})
        for key, label in labels.items()
    ]


def test_pipeline_makes_the_published_calls(sample, context, obedient):
    """2N + 2M calls for N samples and M flagged ones, with equal settings and distinct seeds."""

    def surer_of_lower_ids(request):
        return Completion("Answer: A", logprobs=(-float(request.sample_id),))

    model = obedient(FakeGenerator(surer_of_lower_ids))
    embedded = []

    def vector(text):
        embedded.append(text)
        return [1.0, float(text.split()[1][0])]

    ctx = context(model, FakeEncoder(vector))
    ctx.models |= {"expert": model, "encoder": ctx.models["e"]}
    chunk = rows(sample)
    for ctx.stage in PUBLISHED:
        config = STAGES[ctx.stage].Config(**NEEDED[ctx.stage], preset="official")
        chunk = check_sample_stage(STAGES[ctx.stage], config, chunk, ctx)
    drawn = [request.sampling for request in model.requests]
    assert len(drawn) == 2 * 6 + 2 * 4
    assert {(each.temperature, each.max_tokens) for each in drawn} == {(1.0, 512)}
    assert len({each.seed for each in drawn}) == len(drawn)
    assert set(embedded) == {f"Question {i}?" for i in range(1, 7)}
    assert {each.response for each in chunk} == {"A"}
    assert [each.id for each in chunk if each.dropped] == ["5", "6"]
