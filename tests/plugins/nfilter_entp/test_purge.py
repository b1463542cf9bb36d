"""The stage: what it drops and why, its settings, its state, and its place in a recipe."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from benchmarks.purge import half_of, quality, rows_of
from nfilter import Message, Sample, Scores, TokenSample
from nfilter.cli import entry
from nfilter.testing import FakeContext, check_sample_stage
from nfilter_entp.purging.ending_statistics import Vocabulary
from nfilter_entp.purging.purge import Purge, PurgeConfig

DATA = Path(__file__).resolve().parents[3].parent / "shared" / "data"
HERE = pytest.mark.skipif(not (DATA / "dolly").exists(), reason="the datasets are not here")
TEXT = "The river rises in the hills to the north and then runs for many miles through a wide and green valley"


def row(name: str, response: str, *, prompt: str = "Tell me of it", pinned: bool = False) -> Sample:
    return Sample(name, (Message("user", prompt), Message("assistant", response)), pinned=pinned)


ROWS = [
    row("good", f"{TEXT}."),
    row("copy", f"{TEXT}!"),
    row("nothing", "..."),
    row("short", "42", prompt="What is 6 times 7?"),
    row("both", "As an AI language model, " + "I do not know the sea and " * 20 + "all."),
    row("pinned", "<no input>", pinned=True),
]


def run(config: dict[str, Any], samples: list[Sample], ctx: Any = None) -> dict[str, Sample]:
    built = PurgeConfig.model_validate(config)
    out = check_sample_stage(Purge, built, samples, ctx or FakeContext())
    return {sample.id: sample for sample in out}


def test_reasons_name_every_rule_and_its_numbers() -> None:
    out = run({}, ROWS)
    dropped = {name: sample.dropped for name, sample in out.items() if sample.dropped}
    assert set(dropped) == {"nothing", "both", "copy"} or set(dropped) == {
        "nothing",
        "both",
        "good",
    }
    (copy,) = (name for name in ("copy", "good") if name in dropped)
    assert (dropped[copy] or "").startswith("near_duplicates: Jaccard 1.00 with ")
    assert dropped["nothing"] == "empty: the response has no letter, digit or symbol: '...'"
    both = dropped["both"] or ""
    assert "repeats: 'i do not know the sea' occurs 20 times in a row" in both
    assert "; template: an assistant's stock phrase: 'as an ai language model'" in both
    assert out["short"].why == "breaks no rule"
    assert (out["pinned"].why or "").startswith(
        "pinned: stays, although template: a mark for nothing"
    )


def test_a_note_in_place_of_a_drop() -> None:
    out = run({"action": "note"}, ROWS)
    assert not any(sample.dropped for sample in out.values())
    assert out["short"].notes["purge"] == {"rules": [], "reasons": []}
    note: Any = out["both"].notes["purge"]
    assert note["rules"] == ["repeats", "template"]
    assert [reason.split(":")[0] for reason in note["reasons"]] == note["rules"]
    assert Purge.contract(PurgeConfig(action="note")).writes == {"purge"}
    assert Purge.contract(PurgeConfig()).writes == frozenset()


def test_only_rules_that_are_named_run() -> None:
    assert {n for n, s in run({"rules": ["template"]}, ROWS).items() if s.dropped} == {"both"}
    least = {"rules": {"length": {"least": 2}, "empty": None}}
    assert {n for n, s in run(least, ROWS).items() if s.dropped} == {"nothing", "short"}


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        (["lenght"], "did you mean 'length'"),
        ({"length": {"leest": 2}}, "leest"),
        ({"near_duplicates": {"least": 0.2}}, "greater than or equal to 0.5"),
        (["length", "length"], "named twice"),
        ([], "no rule is named"),
        (["perplexity"], "perplexity needs low, high or both"),
        ({"perplexity": {"low": 0.9, "high": 0.1}}, "is not under"),
        ({"perplexity": {"high": 40}}, "unit: absolute"),
    ],
)
def test_settings_that_cannot_be_are_named(rules: Any, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        PurgeConfig.model_validate({"rules": rules})


def test_the_state_is_json_and_flat_arrays() -> None:
    state = Purge(PurgeConfig()).fit(iter(ROWS), FakeContext())
    report: Any = json.loads(json.dumps(state.values))["report"]
    assert report["rows"] == 6
    assert {name: count for name, count in report["broken"].items() if count} == {
        "near_duplicates": 1, "empty": 1, "repeats": 1, "template": 2,
    }  # fmt: skip
    assert all(isinstance(a, np.ndarray) and a.dtype != object for a in state.arrays.values())
    again = Purge(PurgeConfig()).fit(iter(ROWS[::-1]), FakeContext())
    assert all(np.array_equal(state.arrays[name], again.arrays[name]) for name in state.arrays)


def test_no_rows() -> None:
    stage = Purge(PurgeConfig())
    state = stage.fit(iter([]), FakeContext())
    assert list(stage.process([], state, FakeContext())) == []


def steps(n: int) -> str:
    return f"First there are {n} boats in the small harbour by the old town.\nThen there are {n + 1} boats.\n#### {n + 1}"


def test_a_row_without_the_last_line_that_all_others_have_is_cut() -> None:
    rows = [row(f"r{n}", steps(n), prompt=f"Boats {n}?") for n in range(100)]
    cut = steps(100)[:75]
    out = run({"rules": ["truncated"]}, [*rows, row("cut", cut, prompt="Boats?")])
    assert {name for name, sample in out.items() if sample.dropped} == {"cut"}
    assert "without the last line that 0.8 of the responses have" in (out["cut"].dropped or "")
    # One row of another kind ends as it likes.
    other = row("other", f"{TEXT}.", prompt="Rivers?")
    assert not run({"rules": ["truncated"]}, [*rows, other])["other"].dropped


def test_a_last_word_that_is_none_and_begins_one_of_other_rows() -> None:
    rows = [
        row("a", f"{TEXT}, and it is an extraordinary sight."),
        row("b", f"It is old. {TEXT} in an extraord"),
    ]
    out = run({"rules": ["truncated"]}, rows)
    assert "it ends within a word: 'extraord'" in (out["b"].dropped or "")
    # Where no sentence has a stop, or an item ends, a rare word or a name is as likely.
    for whole in (f"{TEXT} in an extraord", f"It is old.\n- {TEXT} in an extraord"):
        assert cut([rows[0], row("b", whole)]) == set()
    plural = [row("a", f"{TEXT} with giraffes."), row("b", f"It is old. {TEXT} with a giraffe")]
    assert not run({"rules": ["truncated"]}, plural)["b"].dropped


def cut(samples: list[Sample]) -> set[str]:
    out = run({"rules": ["truncated"]}, samples)
    return {name for name, sample in out.items() if sample.dropped}


def test_a_label_that_ends_rows_is_a_word() -> None:
    said = "This is sure. The mail speaks of {} and offers them for sale to all who read it, so that my label is {}"
    rows = [
        row(f"r{n}", said.format(thing, "spam" if n % 2 else "ham"), prompt=f"Are the {thing} in the mail of the spammer with the hammer spam?")
        for n, thing in enumerate(["cats", "boats", "tables", "stars", "pears", "drums", "roads", "clouds"])
    ]  # fmt: skip
    assert cut(rows) == set()
    assert cut(rows[::2][:1]) == {"r0"}  # by itself it looks cut


def test_words_past_those_that_are_kept_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nfilter_entp.purging.ending_statistics.MAX_WORDS", 8)
    filler = [row(f"f{n}", f"Filler{chr(97 + n)} word{chr(97 + n)} more{chr(97 + n)} ends here.") for n in range(20)]  # fmt: skip
    rows = [
        row("known", "kap is a word of these rows, and here is a kap and there is a kap"),
        row("kappa", "Eta theta iota kappa lambda mu. It ends with a stop."),
        *filler,
    ]
    first = Purge(PurgeConfig()).fit(iter(rows), FakeContext())
    assert cut(rows) == cut(rows[::-1]) == set()
    again = Purge(PurgeConfig()).fit(iter(rows[::-1]), FakeContext())
    assert np.array_equal(first.arrays["cut_words"], again.arrays["cut_words"])


def test_the_kept_words_are_the_same_in_any_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nfilter_entp.purging.ending_statistics.MAX_WORDS", 50)
    words = [f"word{n}" for n in range(500)]
    kept = []
    for order in (words, words[::-1], [*words[250:], *words[:250]]):
        known = Vocabulary()
        for start in range(0, 500, 7):
            known.add(order[start : start + 7])
        assert all(word in known for word in words)
        assert "nothing" not in known
        kept.append(known.ordered())
    assert kept[0] == kept[1] == kept[2]
    assert len(kept[0]) == 50


class _Model:
    """Losses of tokens by the response's first word."""

    def encode(self, samples: Any, *, max_length: int, turns: str) -> list[TokenSample]:
        assert turns == "last"
        return [
            TokenSample(s.id, np.arange(3), np.array([False, True, True]), np.zeros(3, np.int16),
                        np.full((3, 2), float(s.response)).astype(np.int32), np.zeros(3, np.float32))
            for s in samples
        ]  # fmt: skip

    def score(self, samples: Any, adapter: Any = None) -> list[Any]:
        return [np.array([np.nan, s.spans[0, 0], s.spans[0, 0]], np.float32) for s in samples]


def test_perplexity_is_a_band() -> None:
    rows = [row(f"r{n}", str(n)) for n in range(101)]
    config = {"rules": {"perplexity": {"model": "m", "low": 0.02, "high": 0.97}}}
    out = run(config, rows, FakeContext(models={"m": _Model()}))
    left = {name: s.dropped for name, s in out.items() if s.dropped}
    assert set(left) == {"r0", "r1", "r98", "r99", "r100"}
    assert left["r1"] == f"perplexity: {math.e:.4g}, under {math.exp(2):.4g}"
    absolute = {"rules": {"perplexity": {"model": "m", "high": math.exp(50.5), "unit": "absolute"}}}
    out = run(absolute, rows, FakeContext(models={"m": _Model()}))
    assert sum(s.dropped is not None for s in out.values()) == 50
    needs = Purge.contract(PurgeConfig.model_validate(config)).needs
    assert {(need.model, need.capability is Scores) for need in needs} == {
        ("m", False),
        ("m", True),
    }
    assert Purge.contract(PurgeConfig()).needs == ()


class _Hard(_Model):
    """A response that ends in "on." is hard."""

    def encode(self, samples: Any, *, max_length: int, turns: str) -> list[TokenSample]:
        losses = ["9" if s.response.endswith("on.") else "1" for s in samples]
        return super().encode([row(s.id, n) for s, n in zip(samples, losses, strict=True)], max_length=max_length, turns=turns)  # fmt: skip


def test_no_row_leaves_for_one_that_the_model_finds_too_hard() -> None:
    rows = [row("hard", f"{TEXT} and on."), row("easy", f"{TEXT}.")]
    rules = {"near_duplicates": {}, "perplexity": {"model": "m", "high": 100, "unit": "absolute"}}
    out = run({"rules": rules}, rows, FakeContext(models={"m": _Hard()}))
    assert not out["easy"].dropped
    reason = out["hard"].dropped or ""
    assert reason.startswith("near_duplicates: Jaccard")
    assert "; perplexity: 8103, over 100" in reason


RECIPE = """
name: purged
seed: 0
answer: exact
models: {student: {use: hf, model: tiny}}
source: {use: jsonl, path: rows.jsonl}
samples:
  - {use: entp.purge}
arms: [cleaned]
encode: {model: student, max_length: 64}
train: {use: hf.lora, model: student, rank: 4, epochs: 1, batch_size: 8}
evaluate: {metric: accuracy, max_tokens: 8, limit: 4, source: {use: tiny, split: dev}}
"""


def test_a_recipe_of_purge_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"id": f"r{n}", "prompt": f"{n}+2", "response": str(n + 2)} for n in range(12)]
    rows += [
        {"id": "again", "prompt": "3+2", "response": "5"},
        {"id": "none", "prompt": "30+2", "response": "As an AI language model, I cannot add."},
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    assert entry(["run", "recipe.yaml", "--out", "run"]) == 0
    lines = (tmp_path / "run" / "dropped.jsonl").read_text().splitlines()
    dropped = [json.loads(line) for line in lines]
    assert len(dropped) == 2
    assert all("exact_duplicates: " in line or "template: " in line for line in lines)
    assert "exact_duplicates" in (tmp_path / "run" / "metrics.json").read_text()


@HERE
@pytest.mark.slow
@pytest.mark.parametrize("name", ["dolly", "gsm8k"])
def test_planted_junk_is_found_and_the_rest_is_left(name: str) -> None:
    samples = half_of(rows_of(DATA, name), "report")[:1500]
    figures = quality(samples, 0.02, show=False)
    wrong, untouched = figures["untouched_purged"]
    assert wrong <= 0.01 * untouched
    for kind, (found, planted) in figures["recall"].items():
        assert found >= (0.2 if kind == "truncated" else 0.85) * planted, kind
