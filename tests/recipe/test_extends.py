"""``extends``: a recipe as the changes to another one, with the file and line that each value comes from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from nfilter import RecipeError
from nfilter.engine.lookup import prompts_of, site_of
from nfilter.recipe.check import check
from nfilter.recipe.extends import SHIPPED
from nfilter.recipe.model import Recipe
from nfilter.recipe.schema import schema_of
from nfilter.registry.loading import Plugins, load

BASE = """\
name: base
seed: 3
models:
  student: {use: example.adder, off_by: 1}
  expert: student
source: {use: example.qa, path: sums.qa, truth: true}
samples:
  - {use: example.ask, llm: expert, into: view}
  - {use: example.agree, view: view}
arms: [raw, cleaned]
train: {use: example.memory, model: student}
evaluate: {metric: accuracy, limit: 5, source: {use: example.qa, path: test.qa}}
"""


@pytest.fixture
def plugins(catalogue: Callable[..., Plugins]) -> Plugins:
    return catalogue()


@pytest.fixture
def reading(folder: Callable[..., Path], plugins: Plugins) -> Callable[..., Recipe]:
    """Loads r.yaml, which extends base.yaml."""

    def read(text: str, *assignments: str, base: str = BASE) -> Recipe:
        file = folder({"base.yaml": base, "r.yaml": f"extends: base.yaml\n{text}"}) / "r.yaml"
        return Recipe.load(file, plugins, assignments)

    return read


def test_mappings_merge_and_lists_replace(reading: Callable[..., Recipe]) -> None:
    recipe = reading(
        "models:\n  student: {off_by: 2}\n  other: {use: example.adder}\nsource: {path: more.qa}\n"
        "samples: [{use: example.ask, llm: other, into: view}]\nevaluate: {limit: 2}\n"
    )
    assert recipe.seed == 3
    assert recipe.models["student"].config.off_by == 2
    assert set(recipe.models) == {"student", "other"}
    assert recipe.aliases == {"expert": "student"}
    assert (recipe.source.use.config.path, recipe.source.use.config.truth) == ("more.qa", True)
    assert [use.name for use in recipe.samples] == ["example.ask"]
    assert recipe.evaluate is not None
    assert (recipe.evaluate.limit, recipe.test.use.config.path) == (2, "test.qa")  # type: ignore[union-attr]


def test_a_name_is_not_inherited_and_null_takes_a_section_away(
    reading: Callable[..., Recipe], tmp_path: Path
) -> None:
    recipe = reading("train: null\nevaluate: null\narms: []\n")
    assert (recipe.name, recipe.base_dir) == ("r", tmp_path)
    assert (recipe.train, recipe.evaluate, recipe.arms) == (None, None, ())


def test_another_plugin_takes_none_of_the_settings(reading: Callable[..., Recipe]) -> None:
    recipe = reading("models: {student: {use: example.adder}}\n")
    assert recipe.models["student"].config.off_by == 1
    other = BASE.replace("{use: example.adder, off_by: 1}", "{use: not.installed, unknown: 1}")
    recipe = reading("models: {student: {use: example.adder}}\n", base=other)
    assert recipe.models["student"].name == "example.adder"


def test_the_lock_has_the_recipe_as_resolved(
    reading: Callable[..., Recipe], folder: Callable[..., Path], plugins: Plugins
) -> None:
    recipe = reading("seed: 4\nevaluate: {limit: 2}\n")
    whole = BASE.replace("name: base\nseed: 3", "name: r\nseed: 4").replace("limit: 5", "limit: 2")
    assert recipe.dump() == Recipe.load(folder({"w.yaml": whole}) / "w.yaml", plugins).dump()
    assert "extends" not in recipe.dump()


def test_every_fault_names_the_file_and_the_line_that_it_comes_from(
    faults: Callable[..., list[str]],
) -> None:
    broken = BASE.replace("view: view", "veiw: view").replace("limit: 5", "limit: 0")
    found = faults("seed: x\nmodels: {student: {off: 1}}\n", base=broken)
    places = [fault.split(": ")[:2] for fault in found]
    assert places == [
        ["r.yaml:2", "seed"], ["r.yaml:3", "models.student.off"],
        ["base.yaml:9", "samples[1].veiw"], ["base.yaml:12", "evaluate.limit"],
    ]  # fmt: skip


def test_a_list_that_replaces_another_has_its_own_lines(faults: Callable[..., list[str]]) -> None:
    assert faults("samples:\n  - {use: example.ask, llm: expert, inot: view}\n") == [
        "r.yaml:3: samples[0].inot: unknown key 'inot'; did you mean 'into'?"
    ]


def test_check_names_the_file_of_a_setting_too(reading: Callable[..., Recipe]) -> None:
    recipe = reading("seed: 1\n")
    plugins = recipe.plugins
    report = check(recipe, plugins, site_of(recipe, plugins), prompts_of(recipe, plugins))
    assert any("base.yaml:6: source.path: no file" in fault for fault in report.faults)


def test_set_changes_the_recipe_as_resolved(
    reading: Callable[..., Recipe], faults: Callable[..., list[str]]
) -> None:
    recipe = reading("seed: 4\n", "seed=5", "evaluate.limit=1")
    assert (recipe.seed, recipe.evaluate.limit) == (5, 1)  # type: ignore[union-attr]
    assert faults("", "evaluate.limit=0")[0].startswith("--set evaluate.limit=0: evaluate.limit: ")


@pytest.mark.types("only a recipe's file names what it extends; write it there")
def test_what_is_extended_is_written_into_the_file(
    reading: Callable[..., Recipe], faults: Callable[..., list[str]]
) -> None:
    (fault,) = faults("", "extends=robustft")
    assert fault.startswith("--set extends=robustft: extends: only a recipe's file names")
    assert reading("").seed == 3


def test_a_recipe_in_python_extends_one_too(
    folder: Callable[..., Path], plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder({"base.yaml": BASE}))
    recipe = Recipe.from_dict({"extends": "base.yaml", "seed": 9}, plugins)
    assert (recipe.name, recipe.seed, recipe.chunk) == ("recipe", 9, 256)
    assert recipe.override("chunk", 8).chunk == 8


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("robusft", "r.yaml:1: extends: no recipe 'robusft' ships, and HERE/robusft is no file; did you mean 'robustft'?"),
        ("./none.yaml", "r.yaml:1: extends: no recipe './none.yaml' ships, and HERE/none.yaml is no file"),
        ("3", "r.yaml:1: extends: the name of a shipped recipe, or a path, not 3"),
        ("[a]", "r.yaml:1: extends: the name of a shipped recipe, or a path, not ['a']"),
        ("''", "r.yaml:1: extends: the name of a shipped recipe, or a path, not ''"),
    ],
)  # fmt: skip
def test_what_is_no_recipe_is_named(
    folder: Callable[..., Path], plugins: Plugins, value: str, says: str
) -> None:
    home = folder({"r.yaml": f"extends: {value}\n"})
    with pytest.raises(RecipeError) as caught:
        Recipe.load(home / "r.yaml", plugins)
    (fault,) = caught.value.faults
    assert fault.replace(f"{home}/r.yaml", "r.yaml").replace(str(home), "HERE").startswith(says)


@pytest.mark.types("remove one `extends`")
def test_a_circle_is_named_whole_and_ends_when_one_is_removed(
    folder: Callable[..., Path], plugins: Plugins
) -> None:
    source = "source: {use: example.qa, path: x}\n"
    files = {"a.yaml": "extends: b.yaml\n", "b.yaml": "\nextends: c.yaml\n", "c.yaml": "extends: a.yaml\n"}  # fmt: skip
    home = folder({**files, "self.yaml": "extends: self.yaml\n"})
    with pytest.raises(RecipeError) as caught:
        Recipe.load(home / "a.yaml", plugins)
    assert caught.value.faults == (
        f"{home}/c.yaml:1: extends: a recipe cannot extend itself (a.yaml -> b.yaml -> c.yaml -> a.yaml); remove one `extends`",
    )
    with pytest.raises(RecipeError, match=r"self\.yaml -> self\.yaml"):
        Recipe.load(home / "self.yaml", plugins)
    (home / "c.yaml").write_text(source)
    assert Recipe.load(home / "a.yaml", plugins).source.use.name == "example.qa"


def test_a_base_that_cannot_be_read_is_named_with_its_line(
    folder: Callable[..., Path], plugins: Plugins
) -> None:
    home = folder({"r.yaml": "extends: base.yaml\n", "base.yaml": "seed: 1\nseed: 2\n"})
    with pytest.raises(RecipeError, match=r"base\.yaml:2: the key 'seed' stands here again"):
        Recipe.load(home / "r.yaml", plugins)
    (home / "base.yaml").write_text("[]\n")
    with pytest.raises(RecipeError, match=r"base\.yaml:1: a recipe is a mapping of sections"):
        Recipe.load(home / "r.yaml", plugins)


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_recipe_is_extended_by_its_name(tmp_path: Path, path: Path) -> None:
    plugins = load(block=())
    whole = Recipe.load(path, plugins).dump()
    text = f"extends: {path.stem}\nseed: 7\ntrain: {{epochs: 1}}\nevaluate: {{limit: 3}}\n"
    text = text if "train" in whole else text.replace("train: {epochs: 1}\n", "")
    text = text if "evaluate" in whole else text.replace("evaluate: {limit: 3}\n", "")
    (tmp_path / "mine.yaml").write_text(text)
    recipe = Recipe.load(tmp_path / "mine.yaml", plugins)
    assert recipe.dump() == {
        **whole, "name": "mine", "seed": 7,
        **({"train": {**whole["train"], "epochs": 1}} if "train" in whole else {}),
        **({"evaluate": {**whole["evaluate"], "limit": 3}} if "evaluate" in whole else {}),
    }  # fmt: skip
    assert list(Draft202012Validator(schema_of(plugins)).iter_errors(yaml.safe_load(text))) == []


@pytest.mark.parametrize(
    ("changes", "places"),
    [
        ({"source": {"path": "x"}, "models": {"student": {"dtype": "float32"}}}, []),
        ({"train": {"use": "hf.lora", "model": "student", "lr": 0.1}, "evaluate": None}, []),
        ({"sede": 1}, ["$"]),
        ({"source": {"use": "jsonlines"}}, ["$.source.use"]),
        ({"evaluate": {"limits": 3}}, ["$.evaluate"]),
        ({"extends": 3}, ["$.extends"]),
    ],
)
def test_the_schema_takes_changes_and_still_refuses_faults(
    changes: dict[str, Any], places: list[str]
) -> None:
    validator = Draft202012Validator(schema_of(load(block=())))
    errors = validator.iter_errors({"extends": "robustft", **changes})
    assert [error.json_path for error in errors] == places
