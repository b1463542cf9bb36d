"""Every setting has a description: one text, which ``plugins show``, its JSON and the schema of recipes repeat."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from io import StringIO
from typing import Any, get_args

import pytest
from pydantic import BaseModel, Field
from rich.console import Console

from nfilter import Contract, StageConfig
from nfilter.cli import entry
from nfilter.noise.labels import NoiseConfig
from nfilter.recipe.model import Recipe
from nfilter.recipe.reference import reference
from nfilter.recipe.schema import schema_of
from nfilter.recipe.uses import ThoughtsConfig
from nfilter.registry.catalogue import show_one
from nfilter.registry.loading import Plugins, load
from nfilter.store.artefacts import fingerprint_of


@pytest.fixture(scope="module")
def plugins() -> Plugins:
    return load(block=())


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models(part)


def _with_nested(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    yield model
    for info in model.model_fields.values():
        for nested in _models(info.annotation):
            yield from _with_nested(nested)


def _all(plugins: Plugins) -> list[type[BaseModel]]:
    configs = [getattr(item.cls, "Config", None) for item in plugins.registered.values()]
    roots = [Recipe, NoiseConfig, ThoughtsConfig, *(each for each in configs if each is not None)]
    return list(dict.fromkeys(model for root in roots for model in _with_nested(root)))


def test_every_setting_has_a_description(plugins: Plugins) -> None:
    models = _all(plugins)
    fields = [
        (f"{model.__module__}.{model.__name__}.{name}", info.description)
        for model in models
        for name, info in model.model_fields.items()
    ]
    assert [name for name, text in fields if not text] == []
    # A sentence, and no page: what is longer belongs into the docstring.
    assert [name for name, text in fields if text and not text.endswith(".")] == []
    assert [name for name, text in fields if text and len(text) > 170] == []
    assert len(models) > 60
    assert len(fields) > 350


def test_it_is_the_same_text_everywhere(plugins: Plugins) -> None:
    definitions = schema_of(plugins)["$defs"]
    seen = 0
    for item in plugins.registered.values():
        config = getattr(item.cls, "Config", None)
        kind = item.kind if item.kind != "stage" else "sample_stage" if hasattr(item.cls, "process") else "token_stage"  # fmt: skip
        settings = definitions[f"{kind}.{item.name}"]["properties"]
        out, listed = StringIO(), StringIO()
        show_one(plugins, item.name, Console(file=out, width=2000), as_json=False)
        show_one(plugins, item.name, Console(file=listed), as_json=True)
        described = {each["kind"]: each for each in json.loads(listed.getvalue())}[item.kind]
        for name, info in config.model_fields.items() if config else ():
            seen += 1
            key = info.alias or name
            assert settings[key]["description"] == info.description
            assert described["schema"]["properties"][key]["description"] == info.description
            assert f" {info.description}" in out.getvalue()
    assert seen > 250


def test_a_setting_inside_a_setting_is_listed_with_what_it_needs(plugins: Plugins) -> None:
    out = StringIO()
    show_one(plugins, "robustft.check", Console(file=out, width=300), as_json=False)
    lines = [line.split() for line in out.getvalue().splitlines()]
    (line,) = [line for line in lines if line[:1] == ["sure.probability"]]
    assert line[1:3] == ["float", "0.5"]
    out = StringIO()
    show_one(plugins, "robustft.answer", Console(file=out, width=300), as_json=False)
    assert "The model that is asked. (Needs a model that answers.)" in out.getvalue()


def test_a_description_changes_no_fingerprint() -> None:
    class Plain(StageConfig):
        least: int = 3

    class Described(StageConfig):
        least: int = Field(default=3, description="Characters, at least.")

    plain, described = (cls().model_dump(mode="json") for cls in (Plain, Described))
    assert fingerprint_of({"config": plain}) == fingerprint_of({"config": described})


@pytest.mark.types("leave --markdown out, or redirect the page: > FILE")
def test_the_page_of_all_settings_has_the_same_texts(
    plugins: Plugins, capsys: pytest.CaptureFixture[str]
) -> None:
    assert entry(["schema", "--markdown"]) == 0
    page = capsys.readouterr().out
    lines = {line.replace("\\", "") for line in page.splitlines()}
    assert "| `samples` | tuple[Use, ...] | () | The stages that see samples, in order. |" in lines
    assert "| `encode.max_length` | int | 2048 | Tokens per sample, at least 2; what is longer is cut. |" in lines  # fmt: skip
    assert "| `threshold` | float | 0.5 | Noise score, 0 to 1, up to which vote: probability calls a label reliable. |" in lines  # fmt: skip
    assert {f"### `{item.name}`" for item in plugins.registered.values()} <= lines
    assert entry(["schema", "--markdown", "--out", "x.json"]) == 2


def test_a_plugin_writes_no_markup_into_the_page(catalogue: Callable[..., Plugins]) -> None:
    page = reference(catalogue(stages=[Marked]))
    assert "### `marked.stage`\n\nDrops \\<b\\>all\\</b\\> \\[rows\\](x) \\| or none.\n" in page


class Marked:
    """Drops <b>all</b> [rows](x) | or none."""

    name = "marked.stage"
    Config = StageConfig

    @classmethod
    def contract(cls, config: StageConfig) -> Contract:
        return Contract()

    def __init__(self, config: StageConfig) -> None: ...

    def process(self, chunk: Any, state: Any, ctx: Any) -> Any:
        return chunk
