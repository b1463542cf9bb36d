"""Recipes: every name resolved, every value checked, all faults at once, each with its line and a remedy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import Field

from nfilter import Contract, Embeds, Generates, Needs, RecipeError, StageConfig
from nfilter.recipe.model import Recipe, load
from nfilter.recipe.uses import model_needs
from nfilter.registry.loading import Plugins

GOOD = """\
name: sums
seed: 3
answer: number
chunk: 10
models:
  student: {use: example.adder}
  expert: student
  wise: expert
source: {use: example.qa, path: sums.qa, truth: true}
samples:
  - {use: example.ask, llm: expert, into: view}
  - {use: example.agree, view: view}
arms: [raw, cleaned]
encode: {model: student, max_length: 64, turns: last}
tokens:
  - {use: example.first, keep: 3}
train: {use: example.memory, model: student}
evaluate: {metric: accuracy, limit: 5, source: {use: example.qa, path: test.qa}}
"""


class OddConfig(StageConfig):
    """One field of each kind."""

    count: int = 1
    share: float = 0.5
    maybe: int | None = None
    tight: Annotated[int | None, "a mark"] = None
    switch: bool = False
    word: str = ""
    either: Literal["all", "any"] = "all"
    both: bool | int = 0
    deep: dict[str, int] = Field(default_factory=dict)


class Odd:
    """Takes everything."""

    name = "odd.stage"
    Config = OddConfig

    def __init__(self, config: OddConfig) -> None: ...

    @classmethod
    def contract(cls, config: OddConfig) -> Contract:
        return Contract()

    def process(self, chunk: Any, state: Any, ctx: Any) -> Any:
        return chunk


@pytest.fixture
def plugins(catalogue: Callable[..., Plugins]) -> Plugins:
    return catalogue(stages=[Odd])


@pytest.fixture
def reading(folder: Callable[..., Path], plugins: Plugins) -> Callable[..., Recipe]:
    def read(text: str, *assignments: str, name: str = "r.yaml") -> Recipe:
        return load(folder({name: text}) / name, plugins, assignments)

    return read


@pytest.fixture
def faults(reading: Callable[..., Recipe], tmp_path: Path) -> Callable[..., list[str]]:
    """The faults of a recipe, the folder cut off their places."""

    def find(text: str, *assignments: str) -> list[str]:
        with pytest.raises(RecipeError) as caught:
            reading(text, *assignments)
        return [fault.replace(f"{tmp_path}/", "") for fault in caught.value.faults]

    return find


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


def test_all_faults_at_once_each_at_its_line(faults: Callable[..., list[str]]) -> None:
    text = """\
seed: -1
modles: {}
answer: chioce
models:
  student: {use: example.addr}
  loop: pool
  pool: loop
source: {use: example.qa, path: x, thruth: true}
samples:
  - {use: example.aks}
  - {use: example.first}
  - {use: example.agree, view: 3}
  - just text
  - {view: x}
  - {use: odd.stage, skip: maybe}
arms: [raw, cleand]
encode: {max_length: long}
train: 5
evaluate: {metric: accuracy}
"""
    places = [fault.split(": ")[0] for fault in faults(text)]
    assert sorted(places, key=lambda place: int(place.split(":")[1])) == [
        f"r.yaml:{line}" for line in (1, 2, 3, 5, 6, 7, 8, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19)
    ]


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("seed: 3", "sede: 3", "r.yaml:2: sede: unknown section; did you mean 'seed'?"),
        ("seed: 3", "seed: true", "r.yaml:2: seed: a whole number of at least 0, not True"),
        ("seed: 3", "seed: 1.5", "r.yaml:2: seed: a whole number of at least 0, not 1.5"),
        ("seed: 3", "seed: '3'", "r.yaml:2: seed: a whole number of at least 0, not '3'"),
        ("chunk: 10", "chunk: 0", "r.yaml:4: chunk: a whole number of at least 1, not 0"),
        ("name: sums", "name: ../x", "r.yaml:1: name: a name is a word that can name a folder, not '../x'"),
        ("name: sums", "name: ..", "r.yaml:1: name: a name is a word that can name a folder, not '..'"),
        ("name: sums", "name: 2026", "r.yaml:1: name: a name is a word that can name a folder, not 2026"),
        ("answer: number", "answer: nubmer", "not 'nubmer'; did you mean 'number'?"),
        ("use: example.adder", "use: example.ader", "unknown backend 'example.ader'; did you mean 'example.adder'?"),
        ("use: example.adder", "use: adder", "unknown backend 'adder'; did you mean 'example.adder'?"),
        ("expert: student", "expert: studnet", "r.yaml:7: models.expert: stands for 'studnet', which is no model here; did you mean 'student'?"),
        ("use: example.ask", "use: example.aks", "r.yaml:11: samples[0].use: unknown stage 'example.aks'; did you mean 'example.ask'?"),
        ("into: view}", "inot: view}", "r.yaml:11: samples[0].inot: unknown key 'inot'; did you mean 'into'?"),
        ("{use: example.ask,", "{", "r.yaml:11: samples[0].use: missing; name the stage to use: example.agree, example.ask"),
        ("use: example.agree", "use: example.first", "r.yaml:12: samples[1].use: example.first belongs in the section 'tokens'"),
        ("use: example.first, keep: 3", "use: example.agree", "r.yaml:16: tokens[0].use: example.agree belongs in the section 'samples'"),
        ("[raw, cleaned]", "[raw, claened]", "r.yaml:13: arms[1]: unknown arm 'claened'; did you mean 'cleaned'?"),
        ("[raw, cleaned]", "[raw, [cleaned]]", "r.yaml:13: arms[1]: unknown arm ['cleaned']"),
        ("arms: [raw, cleaned]", "arms: cleaned", "r.yaml:13: arms: a list of vanilla, raw, cleaned, truth, not the text 'cleaned'"),
        ("max_length: 64", "max_length: sixty", "r.yaml:14: encode.max_length: a whole number is needed, not 'sixty'"),
        ("turns: last", "turns: lats", "did you mean 'last'?"),
        ("keep: 3", "keep: 0", "r.yaml:16: tokens[0].keep: Input should be greater than or equal to 1, not 0"),
        ("keep: 3", "keep: true", "r.yaml:16: tokens[0].keep: a number is needed here, not True"),
        ("use: example.memory", "use: example.memroy", "r.yaml:17: train.use: unknown trainer 'example.memroy'; did you mean 'example.memory'?"),
        ("path: sums.qa, ", "", "r.yaml:9: source.path: missing; QuestionsAndAnswers needs it"),
        ("metric: accuracy", "metric: acuracy", "did you mean 'accuracy'?"),
        ("source: {use: example.qa, path: test.qa}", "source: test.qa", "r.yaml:18: evaluate.source: a mapping like {use: NAME, ...}, not the text 'test.qa'"),
    ],
)  # fmt: skip
def test_one_fault_its_place_and_the_remedy(
    faults: Callable[..., list[str]], old: str, new: str, fault: str
) -> None:
    assert GOOD.count(old) >= 1
    (found,) = faults(GOOD.replace(old, new, 1))
    assert fault in found


@pytest.mark.parametrize("text", ["[]", "3", "text", "null", "~"])
def test_a_recipe_is_a_mapping(faults: Callable[..., list[str]], text: str) -> None:
    (fault,) = faults(text)
    assert fault.startswith("r.yaml:1: a recipe is a mapping of sections, not ")


@pytest.mark.parametrize(
    "section",
    ["models", "samples", "arms", "encode", "tokens", "train", "evaluate", "source", "answer"],
)
def test_a_section_of_the_wrong_type_is_one_fault_that_names_it(
    faults: Callable[..., list[str]], section: str
) -> None:
    recipe = yaml.safe_load(GOOD)
    recipe[section] = 7
    found = faults(yaml.safe_dump(recipe, sort_keys=False))
    assert len(found) == 1
    assert f": {section}: " in found[0]
    assert "not the number 7" in found[0]


@pytest.mark.parametrize(
    ("setting", "given", "says"),
    [
        ("count", "yes", "a number is needed here"),
        ("count", "1.5", "a whole number is needed, not 1.5"),
        ("count", "one", "a whole number is needed, not 'one'"),
        ("count", "[1]", "a whole number is needed"),
        ("share", "true", "a number is needed here"),
        ("share", "'nan'", "finite"),
        ("maybe", "false", "a number is needed here"),
        ("tight", "false", "a number is needed here"),
        ("switch", "perhaps", "true or false is needed, not 'perhaps'"),
        ("word", "3", "text is needed (put it in quotes), not 3"),
        ("word", "true", "text is needed (put it in quotes), not True"),
        ("either", "nay", "did you mean 'any'?"),
        ("deep", "{a: b}", "a whole number is needed, not 'b'"),
        ("counts", "1", "did you mean 'count'?"),
    ],
)  # fmt: skip
def test_types_are_not_confused(
    faults: Callable[..., list[str]], setting: str, given: str, says: str
) -> None:
    (fault,) = faults(
        f"source: {{use: example.qa, path: x}}\nsamples:\n  - use: odd.stage\n    {setting}: {given}\n"
    )
    assert fault.startswith(f"r.yaml:4: samples[0].{setting}")
    assert says in fault


@pytest.mark.parametrize(
    ("setting", "given", "value"),
    [
        ("count", "2", 2),
        ("share", "1e-4", 1e-4),
        ("share", "1", 1.0),
        ("maybe", "null", None),
        ("switch", "true", True),
        ("both", "true", True),
        ("word", "2026-01-31", "2026-01-31"),
    ],
)
def test_what_fits_is_taken_as_it_stands(
    reading: Callable[..., Recipe], setting: str, given: str, value: Any
) -> None:
    recipe = reading(
        f"source: {{use: example.qa, path: x}}\nsamples:\n  - {{use: odd.stage, {setting}: {given}}}\n"
    )
    got = getattr(recipe.samples[0].config, setting)
    assert (got, type(got)) == (value, type(value))


class Inner(StageConfig):
    """Settings inside a setting."""

    depth: int = 1
    width: int


class NestingConfig(StageConfig):
    """Nested settings."""

    inner: Inner | None = None


class Nesting(Odd):
    """Takes nested settings."""

    name = "odd.nesting"
    Config = NestingConfig  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ("{width: 1, dept: 2}", "inner.dept: unknown key 'dept'; did you mean 'depth'?"),
        ("{depth: 1}", "inner.width: missing; Inner needs it"),
        ("{width: x}", "inner.width: a whole number is needed, not 'x'"),
        ("7", "inner: a mapping with depth, width, not the number 7"),
    ],
)
def test_a_fault_in_a_nested_setting_names_its_keys(
    folder: Callable[..., Path], catalogue: Callable[..., Plugins], given: str, fault: str
) -> None:
    stage = f"source: {{use: example.qa, path: x}}\nsamples:\n  - use: odd.nesting\n    inner: {given}\n"
    file = folder({"r.yaml": stage}) / "r.yaml"
    with pytest.raises(RecipeError) as caught:
        load(file, catalogue(stages=[Nesting]))
    assert caught.value.faults == (f"{file}:4: samples[0].{fault}",)


def test_a_key_that_is_no_text_is_a_fault_with_its_line(faults: Callable[..., list[str]]) -> None:
    (fault,) = faults('seed: 1\n"\\ud800": 2\n')
    assert fault.startswith("r.yaml:2: the key '?' is not UTF-8; write another name")


def test_faults_stand_in_the_order_of_their_lines(faults: Callable[..., list[str]]) -> None:
    found = faults("samples: 1\nseed: x\nname: ..\nextra: 1\nsource: 3\n")
    assert [fault.split(": ")[0] for fault in found] == [f"r.yaml:{line}" for line in range(1, 6)]


def test_names_that_go_in_a_circle_are_all_named(faults: Callable[..., list[str]]) -> None:
    found = faults("source: {use: example.qa, path: x}\nmodels:\n  a: b\n  b: a\n  c: c\n")
    assert [fault.split(";")[0] for fault in found] == [
        f"r.yaml:{line}: models.{name}: stands for itself in a circle"
        for line, name in ((3, "a"), (4, "b"), (5, "c"))
    ]


def test_a_missing_source_is_said_with_an_example(faults: Callable[..., list[str]]) -> None:
    (fault,) = faults("seed: 1\n")
    assert (
        fault
        == "r.yaml:1: source: missing; write for example source: {use: jsonl, path: data.jsonl}"
    )


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
@settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
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
