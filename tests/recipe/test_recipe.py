"""Recipes: every name resolved, every value checked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nfilter import Embeds, Generates, Needs, RecipeError, StageConfig
from nfilter.recipe.model import Recipe, load
from nfilter.recipe.uses import model_needs
from nfilter.registry.loading import Plugins
from tests.recipe.odd_stage import GOOD


def test_a_whole_recipe(reading: Callable[..., Recipe], tmp_path: Path) -> None:
    recipe = reading(GOOD)
    assert (recipe.name, recipe.seed, recipe.chunk, recipe.answer.kind) == ("sums", 3, 10, "number")
    assert [use.name for use in recipe.samples] == ["example.ask", "example.agree"]
    assert [use.name for use in recipe.tokens] == ["example.first"]
    assert recipe.samples[0].config.into == "view"
    assert recipe.arms == ("raw", "cleaned")
    assert (recipe.encode.max_length, recipe.encode.turns) == (64, "last")
    assert recipe.train is not None
    assert recipe.test is not None
    assert recipe.evaluate is not None
    assert recipe.evaluate.limit == 5
    assert recipe.base_dir == tmp_path
    for name in ("student", "expert", "wise"):
        assert recipe.model(name) is recipe.models["student"]
    assert recipe.model("nobody") is None


def test_what_a_short_recipe_leaves_out(reading: Callable[..., Recipe]) -> None:
    recipe = reading("source: {use: example.qa, path: x}\n", name="short.one.yaml")
    assert (recipe.name, recipe.seed, recipe.chunk, recipe.answer.kind) == (
        "short",
        0,
        256,
        "exact",
    )
    assert (recipe.arms, recipe.samples, recipe.train, recipe.test) == ((), (), None, None)
    assert reading("source: {use: example.qa, path: x}\ntrain: {use: example.memory}\n").arms == (
        "cleaned",
    )


def test_a_recipe_written_out_is_the_same_recipe(reading: Callable[..., Recipe]) -> None:
    once = reading(GOOD)
    text = yaml.safe_dump(once.dump(), sort_keys=False)
    assert reading(text, name="again.yaml").dump() == once.dump()


def test_skip_leaves_a_stage_out_and_everything_else_in_place(
    reading: Callable[..., Recipe],
) -> None:
    skipped = GOOD.replace("use: example.ask,", "use: example.ask, skip: true,")
    recipe = reading(skipped)
    assert [use.name for use in recipe.samples] == ["example.agree"]
    assert recipe.samples[0].where == ("samples", 1)
    kept = reading(skipped.replace("skip: true", "skip: false"))
    assert [use.name for use in kept.samples] == ["example.ask", "example.agree"]
    assert reading(GOOD, "samples.0.skip=true").dump() == recipe.dump()


def test_a_skipped_stage_may_be_one_that_nobody_has(reading: Callable[..., Recipe]) -> None:
    recipe = reading(GOOD.replace("use: example.ask,", "use: not.installed, skip: true,"))
    assert len(recipe.samples) == 1


def test_set_reaches_the_recipe_and_its_faults_name_it(
    reading: Callable[..., Recipe], faults: Callable[..., list[str]]
) -> None:
    recipe = reading(GOOD, "seed=9", "samples.1.view=other", "encode.max_length=32")
    assert (recipe.seed, recipe.samples[1].config.view, recipe.encode.max_length) == (
        9,
        "other",
        32,
    )
    (fault,) = faults(GOOD, "samples.1.veiw=other")
    assert (
        fault
        == "--set samples.1.veiw=other: samples[1].veiw: unknown key 'veiw'; did you mean 'view'?"
    )
    assert faults(GOOD, "seed=x", "chunk=0") == [
        "--set seed=x: seed: a whole number of at least 0, not 'x'",
        "--set chunk=0: chunk: a whole number of at least 1, not 0",
    ]


def test_adopt_takes_the_place_of_a_trainer(
    reading: Callable[..., Recipe], faults: Callable[..., list[str]]
) -> None:
    recipe = reading(
        GOOD.replace(
            "train: {use: example.memory, model: student}",
            "train: {use: adopt, from: example.first}",
        )
    )
    assert recipe.train is None
    assert recipe.adopt is not None
    assert recipe.adopt.stage == "example.first"
    assert recipe.dump()["train"] == {"use": "adopt", "from": "example.first"}
    (fault,) = faults(
        GOOD.replace("train: {use: example.memory, model: student}", "train: {use: adopt}")
    )
    assert "train.from: missing" in fault


def test_what_stages_train_with_stands_beside_what_is_adopted(
    reading: Callable[..., Recipe], faults: Callable[..., list[str]]
) -> None:
    trainer = "train: {use: example.memory, model: student}"
    both = "train: {use: adopt, from: example.first, with: {use: example.memory, model: student}}"
    recipe, plain = reading(GOOD.replace(trainer, both)), reading(GOOD)
    assert recipe.train is not None
    assert plain.train is not None
    assert recipe.adopt is not None
    assert recipe.train.dump() == plain.train.dump()
    assert recipe.dump()["train"] == {
        "use": "adopt", "from": "example.first", "with": plain.train.dump()
    }  # fmt: skip
    (fault,) = faults(GOOD.replace(trainer, both.replace("example.memory", "example.memroy")))
    assert "train.with.use: unknown trainer 'example.memroy'; did you mean" in fault


def test_noise_is_a_number_or_a_section(
    reading: Callable[..., Recipe], faults: Callable[..., list[str]]
) -> None:
    short = reading(GOOD.replace("truth: true}", "noise: 0.3}")).source.noise
    assert short is not None
    assert short.ratio == 0.3
    assert reading(GOOD.replace("truth: true}", "noise: {ratio: 0.3}}")).source.noise == short
    (fault,) = faults(GOOD.replace("truth: true}", "noise: 1.3}"))
    assert fault.startswith("r.yaml:9: source.noise")
    (fault,) = faults(GOOD.replace("truth: true}", "noise: true}"))
    assert "a number is needed here" in fault


def test_needs_are_read_off_the_marks_of_a_config() -> None:
    class Marked(StageConfig):
        llm: Annotated[str, Needs(Generates, logprobs=True)] = "expert"
        encoder: Annotated[str | None, Needs(Embeds)] = None
        judges: Annotated[tuple[str, ...], Needs(Generates)] = ("a", "b")
        plain: str = "not a model"

    needs = [
        (need.model, need.capability, need.logprobs, need.field) for need in model_needs(Marked())
    ]
    assert needs == [
        ("expert", Generates, True, "llm"),
        ("a", Generates, False, "judges"),
        ("b", Generates, False, "judges"),
    ]
    assert [need.model for need in model_needs(Marked(encoder="e", judges=()))] == ["expert", "e"]


def test_a_plugin_that_failed_is_named_where_its_stage_is_missed(
    folder: Callable[..., Path], point: Callable[..., Any], module: Callable[..., Any]
) -> None:
    from nfilter.registry.loading import load as load_plugins

    broken = point("broken", ImportError("no module named left_pad"), "broken-dist")
    file = folder({"r.yaml": "source: {use: some.source}\n"}) / "r.yaml"
    with pytest.raises(
        RecipeError,
        match=r"plugin 'broken' of broken-dist did not load: ImportError: no module named left_pad",
    ):
        load(file, load_plugins([broken], ()))


values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(allow_nan=False) | st.text(max_size=4)
    | st.sampled_from(["example.ask", "example.qa", "example.adder", "example.memory", "student", "raw", "adopt"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["use", "path", "llm", "skip", "noise", "from", "source", "model", "x"]), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


@given(
    st.dictionaries(
        st.sampled_from([*yaml.safe_load(GOOD), "lock", "extra"]), values, min_size=1, max_size=5
    )
)
@settings(max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_mapping_of_sections_raises_anything_but_a_recipe_error(
    reading: Callable[..., Recipe], sections: dict[str, Any]
) -> None:
    text = yaml.safe_dump({**yaml.safe_load(GOOD), **sections}, allow_unicode=True)
    try:
        reading(text)
    except RecipeError as error:
        assert error.faults  # noqa: PT017


@pytest.mark.types("a recipe needs plugins; use Recipe.load or Recipe.from_dict")
def test_a_recipe_that_is_validated_without_plugins_says_what_to_call(
    plugins: Plugins, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sections = {"source": {"use": "example.qa", "path": "x.qa"}, "samples": ({"use": "odd.stage"},)}
    with pytest.raises(TypeError, match=r"use Recipe\.load or Recipe\.from_dict"):
        Recipe.model_validate(sections)
    monkeypatch.chdir(tmp_path)
    recipe = Recipe.from_dict(sections, plugins)
    assert (recipe.base_dir, recipe.name, len(recipe.samples)) == (tmp_path, "recipe", 1)
    with pytest.raises(RecipeError) as caught:
        Recipe.from_dict({**sections, "sede": 1}, plugins)
    assert caught.value.faults == ("recipe: sede: unknown section; did you mean 'seed'?",)


def test_another_value_makes_another_recipe(reading: Callable[..., Recipe]) -> None:
    recipe = reading(GOOD)
    other = recipe.override("samples.1.view", "other").override("encode", {"max_length": 32})
    assert (other.samples[1].config.view, other.encode.max_length) == ("other", 32)
    assert (recipe.samples[1].config.view, recipe.encode.max_length) == ("view", 64)
    with pytest.raises(RecipeError) as caught:
        recipe.override("samples.1.veiw", "x")
    assert "did you mean 'view'?" in caught.value.faults[0]
    with pytest.raises(RecipeError, match=r"nothing stands at 'seed\.x' that could take it"):
        recipe.override("seed.x", 1)
