"""Faults of recipes: all at once, each with its line and a remedy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from nfilter import RecipeError, StageConfig
from nfilter.recipe.model import Recipe, load
from nfilter.registry.loading import Plugins
from tests.recipe.odd_stage import GOOD, Odd


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
        ("name: sums", "name: NO", "r.yaml:1: name: a name is a word that can name a folder, not False (YAML reads it so; a word in quotes is text)"),
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


@pytest.mark.types(
    "missing; write {use: «», ...}, with the settings beside it",
    "missing; it stands under «»; write {use: «», ...}",
)
@pytest.mark.parametrize(
    ("written", "fault", "remedy"),
    [
        ("{example.agree: {}}", "missing; write {use: example.agree, ...}, with the settings beside it", "{use: example.agree}"),
        ("{type: example.agree}", "missing; it stands under 'type'; write {use: example.agree, ...}", "{use: example.agree}"),
        ("{use:example.agree}", "'use:example.agree' is one word to YAML; a colon needs a blank behind it: {use: example.agree, ...}", "{use: example.agree}"),
        ("{use = example.agree}", "'use = example.agree' is one word to YAML; a colon needs a blank behind it: {use: example.agree, ...}", "{use: example.agree}"),
        ("{use: EXAMPLE.Agree}", "unknown stage 'EXAMPLE.Agree'; did you mean 'example.agree'?", "{use: example.agree}"),
    ],
)  # fmt: skip
def test_a_plugin_written_in_another_form_gets_the_right_one(
    folder: Callable[..., Path],
    catalogue: Callable[..., Plugins],
    faults: Callable[..., list[str]],
    written: str,
    fault: str,
    remedy: str,
) -> None:
    stage = "samples:\n  - "
    recipe = "source: {use: example.qa, path: x}\n"
    (found,) = faults(f"{recipe}{stage}{written}\n")
    assert found == f"r.yaml:3: samples[0].use: {fault}"
    file = folder({"r.yaml": f"{recipe}{stage}{remedy}\n"}) / "r.yaml"
    assert [use.name for use in load(file, catalogue()).samples] == ["example.agree"]
