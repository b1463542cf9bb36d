"""``nfilter schema``: the JSON Schema accepts the recipes that load, and refuses those with faults at the same places."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from pydantic import ConfigDict

from nfilter import Contract, StageConfig
from nfilter.cli import entry
from nfilter.recipe.init import scaffold, templates
from nfilter.recipe.model import load as load_recipe
from nfilter.recipe.schema import DIALECT, FILE, editor_line, schema_of
from nfilter.registry.loading import Plugins, load

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = sorted(
    path
    for folder in ("nfilter/recipes", "plugins", "benchmarks")
    for path in (ROOT / folder).rglob("*.yaml")
)


@pytest.fixture(scope="module")
def plugins() -> Plugins:
    return load(block=())


@pytest.fixture(scope="module")
def schema(plugins: Plugins) -> dict[str, Any]:
    return schema_of(plugins)


@pytest.fixture(scope="module")
def found(schema: dict[str, Any]) -> Callable[[Any], list[str]]:
    """The places and messages of what the schema refuses in a recipe."""
    validator = Draft202012Validator(schema)

    def find(recipe: Any) -> list[str]:
        return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(recipe)]

    return find


def test_it_is_a_schema_of_2020_12(schema: dict[str, Any]) -> None:
    assert schema["$schema"] == DIALECT == Draft202012Validator.META_SCHEMA["$id"]
    Draft202012Validator.check_schema(schema)
    json.dumps(schema, allow_nan=False)


def test_every_reference_leads_somewhere(schema: dict[str, Any]) -> None:
    def references(value: Any) -> Iterator[str]:
        if isinstance(value, dict):
            yield from (value[key] for key in value if key == "$ref")
        if isinstance(value, dict | list):
            for part in value.values() if isinstance(value, dict) else value:
                yield from references(part)

    seen = set(references(schema))
    assert len(seen) > 50
    assert {name.removeprefix("#/$defs/") for name in seen} <= set(schema["$defs"])


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_recipe_that_ships_is_valid_as_written_and_written_out(
    plugins: Plugins, found: Callable[[Any], list[str]], path: Path
) -> None:
    assert found(yaml.safe_load(path.read_text(encoding="utf-8"))) == []
    assert found(load_recipe(path, plugins).dump()) == []


def test_every_default_fits_its_own_setting(schema: dict[str, Any]) -> None:
    seen = 0
    for name, definition in schema["$defs"].items():
        parts = definition.get("anyOf", [definition])
        for key, setting in parts[-1].get("properties", {}).items():
            if "default" in setting:
                seen += 1
                errors = list(
                    Draft202012Validator({**setting, "$defs": schema["$defs"]}).iter_errors(
                        setting["default"]
                    )
                )
                assert errors == [], f"{name}.{key}"
    assert seen > 200


def _quickstart() -> dict[str, Any]:
    path = ROOT / "nfilter" / "recipes" / "quickstart.yaml"
    value: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return value


# Where; what is put there; where the schema refuses it; a part of what it says.
PLANTED = [
    ("sede", 1, "$", "'sede' was unexpected"),
    ("seed", -1, "$.seed", "less than the minimum of 0"),
    ("seed", "one", "$.seed", "not of type 'integer'"),
    ("answer", "exakt", "$.answer", "not one of ['choice'"),
    ("answer", {"kind": "number", "tolerence": 1}, "$.answer", "'tolerence' was unexpected"),
    ("budget", {"usd": 0}, "$.budget", "not valid"),
    ("models.student.use", "hff", "$.models.student.use", "'hff' is not one of"),
    ("models.student.dtype", "float8", "$.models.student.dtype", "'float8' is not one of"),
    ("models.student.thoughts", "x", "$.models.student.thoughts", "not of type 'array'"),
    ("models.expert", 3, "$.models.expert", "not of type 'object', 'string'"),
    ("source.use", "jsonlines", "$.source.use", "'jsonlines' is not one of"),
    ("source.rowss", 3, "$.source", "'rowss' was unexpected"),
    ("source.noise", 1.5, "$.source.noise", "not valid"),
    ("samples", {}, "$.samples", "not of type 'array'"),
    ("samples.0.use", None, "$.samples[0].use", "None is not one of"),
    ("samples.0.use", "tokens.random", "$.samples[0].use", "'tokens.random' is not one of"),
    ("samples.0.into", 3, "$.samples[0].into", "not of type 'string'"),
    ("samples.0.inot", "x", "$.samples[0]", "'inot' was unexpected"),
    ("samples.0.skip", "yes", "$.samples[0].skip", "not of type 'boolean'"),
    ("samples.2.sure", {"veiw": "x"}, "$.samples[2].sure", "not valid"),
    ("arms", ["cleand"], "$.arms[0]", "'cleand' is not one of"),
    ("encode.max_length", 1, "$.encode.max_length", "less than the minimum of 2"),
    ("train.lr", "fast", "$.train.lr", "not valid"),
    ("train.loss", {"use": "dtf"}, "$.train.loss", "not valid"),
    ("train", {"use": "adopt"}, "$.train", "'from' is a required property"),
    ("evaluate.metric", "f1", "$.evaluate", "not valid"),
    ("evaluate.source.use", "tinny", "$.evaluate", "not valid"),
]  # fmt: skip


@pytest.mark.parametrize(("where", "value", "place", "says"), PLANTED)
def test_a_planted_fault_is_refused_where_it_stands(
    plugins: Plugins,
    found: Callable[[Any], list[str]],
    folder: Callable[..., Path],
    where: str,
    value: Any,
    place: str,
    says: str,
) -> None:
    recipe = _quickstart()
    here: Any = recipe
    *steps, last = where.split(".")
    for step in steps:
        here = here[int(step)] if isinstance(here, list) else here[step]
    here[last] = value
    (error,) = found(recipe)
    assert error.startswith(f"{place}: ")
    assert says in error
    # What the schema refuses, nfilter refuses.
    file = folder({"r.yaml": yaml.safe_dump(recipe)}) / "r.yaml"
    with pytest.raises(Exception, match=r"r\.yaml:"):
        load_recipe(file, plugins)


@pytest.mark.parametrize("section", ["source", "use"])
def test_what_is_missing_is_named(found: Callable[[Any], list[str]], section: str) -> None:
    recipe = _quickstart()
    del (recipe if section == "source" else recipe["samples"][0])[section]
    (error,) = found(recipe)
    assert f"'{section}' is a required property" in error


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("samples.0", {"use": "not.installed", "skip": True}),
        ("answer", {"kind": "number", "tolerance": 0.1}),
        ("train", {"use": "adopt", "from": "tokens.self_evolve", "with": {"use": "hf.lora", "loss": "dft"}}),
        ("samples.0", {"use": "entp.purge", "rules": ["empty", "media"]}),
        ("samples.0", {"use": "entp.purge", "rules": {"empty": {}, "media": None}}),
        ("samples.0", {"use": "robustft.classifier", "encoder": "encoder"}),
        ("samples.2", {"use": "robustft.check", "views": ["a"], "budget_of_flags": "5%"}),
        ("samples.2", {"use": "robustft.check", "views": ["a"], "budget_of_flags": 0.05}),
        ("source.noise", 0.3),
    ],
)  # fmt: skip
def test_every_form_of_a_setting_is_valid(
    plugins: Plugins,
    found: Callable[[Any], list[str]],
    folder: Callable[..., Path],
    where: str,
    value: Any,
) -> None:
    recipe = deepcopy(_quickstart())
    here: Any = recipe
    *steps, last = where.split(".")
    for step in steps:
        here = here[int(step)] if isinstance(here, list) else here[step]
    here[int(last) if isinstance(here, list) else last] = value
    assert found(recipe) == []
    load_recipe(folder({"r.yaml": yaml.safe_dump(recipe)}) / "r.yaml", plugins)


class _OpenConfig(StageConfig):
    model_config = ConfigDict(arbitrary_types_allowed=True)

    anything: Callable[[], int] = int


class _Open:
    """Takes a setting that JSON Schema cannot describe."""

    name = "open.stage"
    Config = _OpenConfig

    @classmethod
    def contract(cls, config: _OpenConfig) -> Contract:
        return Contract()

    def __init__(self, config: _OpenConfig) -> None: ...

    def process(self, chunk: Any, state: Any, ctx: Any) -> Any:
        return chunk


def test_a_plugin_without_a_schema_leaves_the_others_theirs(
    catalogue: Callable[..., Plugins],
) -> None:
    validator = Draft202012Validator(schema_of(catalogue(stages=[_Open])))
    source = {"use": "example.qa", "path": "x"}
    stages = [{"use": "open.stage", "anything": 3}, {"use": "example.agree", "veiw": "x"}]
    errors = list(validator.iter_errors({"source": source, "samples": stages}))
    assert {error.json_path for error in errors} == {"$.samples[1]"}, errors
    assert any("'veiw' was unexpected" in error.message for error in errors)


def test_init_writes_the_schema_that_the_first_line_of_the_recipe_names(
    plugins: Plugins, schema: dict[str, Any], tmp_path: Path
) -> None:
    for template in templates(plugins):
        said = scaffold(plugins, template, None, None, tmp_path / "r.yaml", force=True)
        first = (tmp_path / "r.yaml").read_text(encoding="utf-8").splitlines()[0]
        assert first == editor_line() == f"# yaml-language-server: $schema={FILE}"
    assert json.loads((tmp_path / FILE).read_text(encoding="utf-8")) == schema
    assert any(
        line.endswith(f"after installing a plugin: nfilter schema --out {tmp_path / FILE}")
        for line in said
    )


def test_the_command_prints_the_schema_or_writes_it(
    schema: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert entry(["schema"]) == 0
    assert json.loads(capsys.readouterr().out) == schema
    out = tmp_path / "my.json"
    assert entry(["schema", "--out", str(out)]) == 0
    assert json.loads(out.read_text(encoding="utf-8")) == schema
    line = "# yaml-language-server: $schema=my.json"
    assert capsys.readouterr().out == f"wrote {out}; recipes in its folder begin with: {line}\n"
    assert entry(["schema", "--out", str(tmp_path)]) == 7
