"""Conditions into cells, and cells into recipes that nfilter takes."""

from __future__ import annotations

import copy
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.evidence.cli import RECIPES
from benchmarks.evidence.lines import LINES, detection, direct, fewer, line, rules, stages_of
from benchmarks.evidence.plan import Scope, plan
from benchmarks.evidence.recipes import WRONG, base_value, recipe_of, source_of, write_recipe
from nfilter.engine.lookup import prompts_of, site_of
from nfilter.recipe.check import check
from nfilter.recipe.model import load as load_recipe
from nfilter.registry.loading import load

QUICKSTART = RECIPES / "quickstart.yaml"
OFFICIAL = RECIPES / "robustft-official.yaml"


def whole():
    return plan(Scope(), base_value(QUICKSTART), base_value(OFFICIAL))


def test_every_figure_has_one_cell_and_no_cell_is_there_twice():
    made = whole()
    by_key = {cell.key: cell for cell in made.cells}
    assert len(by_key) == len(made.cells)
    assert set(made.of.values()) | set(made.detection.values()) <= set(by_key)
    levels = 2 * 3 * 3
    assert len({place for place in made.of if place[0] in LINES}) == levels * len(LINES)
    # vanilla is one cell, truth one a seed, truth-size one a level: its size is that level's.
    count = Counter(made.of[place].rpartition("-")[2] for place in made.of if place[0] == "truth")
    assert len({made.of[p] for p in made.of if p[0] == "vanilla"}) == 1
    assert count["truth"] == levels
    assert len({made.of[p] for p in made.of if p[0] == "truth"}) == 3
    assert len({made.of[p] for p in made.of if p[0] == "truth-size"}) == levels


def test_the_centre_of_a_sweep_is_the_main_run(planned):
    made = planned()
    for seed in (0, 1, 2):
        main = made.of["robustft", "uniform", 50, seed]
        assert made.of["beta=0.5", "uniform", 50, seed] == main
        assert made.of["k=3", "uniform", 50, seed] == main
        assert made.of["beta=0.4", "uniform", 50, seed] != main
    assert len({made.of[f"k={k}", "own", 50, 0] for k in range(1, 9)}) == 8


def test_what_a_cell_needs_comes_before_it(planned):
    made = planned()
    before: set[str] = set()
    for cell in made.cells:
        assert set(cell.after) <= before, cell.key
        before.add(cell.key)


def test_the_main_table_comes_first_then_detection_ablations_and_sweeps(planned):
    parts = [cell.part for cell in planned().cells]
    assert list(dict.fromkeys(parts)) == ["shared", "main", "detection", "ablation", "sweep"]
    assert parts == sorted(parts, key=["shared", "main", "detection", "ablation", "sweep"].index)


def test_quick_is_one_seed_one_level_and_the_main_table():
    made = plan(Scope.small(), base_value(QUICKSTART), base_value(OFFICIAL))
    assert {cell.part for cell in made.cells} == {"shared", "main", "detection"}
    assert {(percent, seed) for _, _, percent, seed in made.of} == {(50, 0)}
    assert {noise for _, noise, _, _ in made.of} == {"uniform", "own"}


def test_the_same_size_is_that_of_the_same_seed_and_level(planned):
    made = planned()
    by_key = {cell.key: cell for cell in made.cells}
    for line_name in ("random", "truth-size"):
        cell = by_key[made.of[line_name, "own", 70, 2]]
        assert cell.size_of == made.of["robustft", "own", 70, 2]
        value = recipe_of({"source": {"use": "tiny"}, "evaluate": {}}, cell, kept=7)
        assert value["samples"] == [{"use": "robustft.random", "keep": 7}]
        assert ("noise" in value["source"]) is (line_name == "random")
    with pytest.raises(LookupError, match="not known yet"):
        recipe_of({"source": {}}, cell)


def test_noise_replaces_the_recipes_own():
    base = {"source": {"use": "tiny", "rows": 8, "noise": 0.1, "wrong": "uniform"}}
    assert source_of(base, "none", 0) == {"use": "tiny", "rows": 8}
    for noise in ("uniform", "own"):
        assert source_of(base, noise, 30) == {
            "use": "tiny", "rows": 8, "wrong": noise, "noise": {"ratio": 0.3, "wrong": "wrong"}
        }  # fmt: skip


def uses(stages):
    return [stage["use"].removeprefix("robustft.") for stage in stages]


def test_ablations_leave_out_one_part_and_what_hangs_on_it(planned):
    base, published = base_value(QUICKSTART), base_value(OFFICIAL)
    whole_uses = uses(stages_of(base))
    made = {
        name: line(name, base, published) for name in ("no-checker", "no-relabel", "no-reasoning")
    }
    assert uses(made["no-checker"]) == [use for use in whole_uses if use != "check"]
    assert all(
        s["check"] is None
        for s in made["no-checker"]
        if s["use"][9:] in ("relabel", "review", "select")
    )
    no_relabel = {stage["use"]: stage for stage in made["no-relabel"]}
    assert no_relabel["robustft.review"]["views"] == ["reasoning"]
    assert no_relabel["robustft.select"]["by"] == "review"
    no_reasoning = {stage["use"]: stage for stage in made["no-reasoning"]}
    assert "robustft.reason" not in no_reasoning
    assert no_reasoning["robustft.check"]["views"] == ["neighbors"]
    assert no_reasoning["robustft.review"]["views"] == ["context"]
    assert not any("sure" in stage for stage in made["no-reasoning"])
    # Without a review the context view answers for every flagged row, and the check is as it was.
    no_review = {stage["use"]: stage for stage in line("no-review", base, published)}
    assert no_review["robustft.review"]["views"] == ["context"]
    assert "sure" not in no_review["robustft.relabel"]
    assert "sure" in no_review["robustft.check"]
    assert uses(line("no-selection", base, published)) == whole_uses[:-1]
    with pytest.raises(LookupError, match="no line is called 'k2'"):
        line("k2", base, published)


def test_ranking_by_the_context_view_goes_on_with_the_reasoning_where_there_is_none(planned):
    made = {cell.key: cell for cell in planned().cells}["own-50-s0-no-relabel"]
    assert made.samples[-1]["by"] == "reasoning"


def test_the_direct_answer_is_the_recipes_own_or_made_after_its_reasoning():
    base = base_value(QUICKSTART)
    made = {"use": "robustft.answer", "prompt": "tiny/answer", "max_tokens": 16, "llm": "expert"}
    assert direct(base) == {**made, "into": "base"}
    own = {"use": "robustft.answer", "llm": "other", "prompt": "mine"}
    assert direct({**base, "samples": [*base["samples"], own]}) == own
    # It does not matter to the answers that several lines share whether the recipe asks for them.
    assert detection(base)[0] == {**made, "into": "base"}


def test_fewer_calls_asks_for_reasoning_where_the_neighbours_settle_nothing():
    stages = stages_of(base_value(QUICKSTART))
    made = {stage["use"]: stage for stage in fewer(stages)}
    assert made["robustft.reason"]["settled"] == {"vote": "any", "views": ["neighbors"]}
    assert made["robustft.check"]["views"] == ["neighbors", "reasoning"]
    assert not any("sure" in stage for stage in made.values())
    assert list(made) == [stage["use"] for stage in stages]
    assert fewer([{**stage, "only": "flagged"} for stage in stages]) is None


def test_official_is_the_published_recipe_with_this_models_prompts():
    base, published = base_value(QUICKSTART), base_value(OFFICIAL)
    made = line("official", base, published)
    own = {stage["use"]: stage for stage in [*stages_of(base), direct(base)]}
    for stage, original in zip(made, stages_of(published), strict=True):
        assert stage.get("preset") == original.get("preset")
        assert stage.get("prompt") == own[stage["use"]].get("prompt")
    bare = line("official", base, published, ["tiny/review", "tiny/review_answers"])
    review = next(stage for stage in bare if stage["use"] == "robustft.review")
    assert review["prompt"] == "tiny/review_answers"


def test_one_view_has_no_any_of_its_own():
    made = rules()
    assert len(made) == 3 * 2 + 4 * 4
    assert all(len(views) > 1 for views, vote in made if vote in ("any", "sure"))
    assert not [views for views, vote in made if vote == "sure" and views[0] == "neighbors"]


def test_every_cell_is_a_recipe_without_fault(tmp_path: Path):
    plugins = load()
    base = base_value(QUICKSTART)
    assert WRONG in plugins.get("source", "tiny").cls.Config.model_fields
    seen = set()
    for cell in whole().cells:
        kind = (cell.key.split("-s")[-1][2:], cell.noise)
        if kind in seen:
            continue
        seen.add(kind)
        before = copy.deepcopy(base)
        file = tmp_path / f"{cell.key}.yaml"
        write_recipe(recipe_of(base, cell, 7 if cell.size_of else None), file)
        recipe = load_recipe(file, plugins)
        found = check(
            recipe, plugins, site_of(recipe, plugins), prompts_of(recipe, plugins), data=False
        )
        assert found.faults == [], cell.key
        assert base == before
    assert len(seen) > 30
