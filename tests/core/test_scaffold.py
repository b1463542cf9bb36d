"""``nfilter init``: a recipe that loads, whatever the file and the model are called."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from nfilter import ModelError, RecipeError, SourceError
from nfilter.plugins import Plugins, load
from nfilter.recipe import load as load_recipe
from nfilter.scaffold import scaffold, templates

TEMPLATES = (
    "chained", "entp", "quickstart", "quickstart-text", "quickstart-tokens", "robustft", "robustft-official",
)  # fmt: skip


@pytest.fixture(scope="module")
def plugins() -> Plugins:
    found = load(block=())
    assert found.failed == ()
    return found


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text(
        "".join(
            json.dumps({"instruction": f"{n}+1?", "input": "", "output": str(n)}) + "\n"
            for n in range(5)
        )
    )
    return path


def test_every_template_that_ships_loads_as_it_is(plugins: Plugins) -> None:
    found = templates(plugins)
    assert set(TEMPLATES) <= set(found)
    for path in found.values():
        recipe = load_recipe(path, plugins)
        assert recipe.samples or recipe.tokens


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize(
    "model", [None, "meta-llama/Llama-3.2-3B-Instruct", "./my model, {odd}: 'quoted' #1"]
)
def test_every_template_takes_a_file_and_a_model(
    plugins: Plugins, data: Path, tmp_path: Path, template: str, model: str | None
) -> None:
    out = tmp_path / "made" / "recipe.yaml"
    said = scaffold(plugins, template, data, model, out)
    recipe = load_recipe(out, plugins)
    assert (recipe.source.use.name, recipe.source.use.config.path) == ("jsonl", str(data))
    assert recipe.source.noise is None
    assert recipe.answer.kind == "number"
    assert (recipe.arms, recipe.evaluate) == (("cleaned",), None)
    if model is not None:
        assert recipe.models["student"].config.model == model
        assert said[0] == f"model: {model} (the student)"
    assert any("guessed columns: shape = 'alpaca'" in line for line in said)
    assert said[-1] == f"wrote {out}; next: nfilter check {out}, then nfilter run {out}"


def test_a_file_beside_the_recipe_is_named_by_its_name(plugins: Plugins, data: Path) -> None:
    odd = data.with_name("it's odd: #1 {name}.jsonl")
    odd.write_bytes(data.read_bytes())
    scaffold(plugins, "robustft", odd, None, data.with_name("r.yaml"))
    text = yaml.safe_load(data.with_name("r.yaml").read_text())
    assert text["source"] == {"use": "jsonl", "path": odd.name}


@pytest.mark.types("Settings are typed into a recipe")
def test_what_a_file_needs_is_said_with_where_to_type_it(plugins: Plugins, tmp_path: Path) -> None:
    data, out = tmp_path / "odd.csv", tmp_path / "r.yaml"
    data.write_text("q;a\n1+1;2\n")
    with pytest.raises(SourceError, match=r"type `delimiter: ';'` if that parts them") as caught:
        scaffold(plugins, "robustft", data, "tiny", out)
    said = str(caught.value)
    assert f"`nfilter init --template robustft --model tiny --out {out}` writes one" in said
    (wrote,) = scaffold(plugins, "robustft", None, None, out)
    assert f"`nfilter init --template robustft --out {out} --force --data FILE`" in wrote
    wanted = "source: {use: csv, path: odd.csv, ...}"
    assert said.endswith(wanted)
    settings = "delimiter: ';', shape: prompt, columns: {prompt: q, response: a}"
    text = out.read_text().replace(
        "source: {use: jsonl, path: data.jsonl}", wanted.replace("...", settings)
    )
    assert settings in text
    out.write_text(text)
    assert load_recipe(out, plugins).source.use.name == "csv"
    data.write_bytes(b"\xff\xfeq\x00")  # no setting helps here
    with pytest.raises(SourceError) as other:
        scaffold(plugins, "robustft", data, "tiny", tmp_path / "other.yaml")
    assert "Settings are typed" not in str(other.value)


@pytest.mark.types("choose another --out, or give --force")
def test_what_is_there_is_not_overwritten_unasked(plugins: Plugins, tmp_path: Path) -> None:
    out = tmp_path / "r.yaml"
    out.write_text("mine")
    with pytest.raises(
        RecipeError, match=r"r\.yaml is there already; choose another --out, or give --force"
    ):
        scaffold(plugins, "robustft", None, None, out)
    assert out.read_text() == "mine"
    scaffold(plugins, "robustft", None, None, out, force=True)
    assert out.read_text() != "mine"


def test_what_cannot_be_used_is_named_with_what_can(plugins: Plugins, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"no template 'robusft'; did you mean 'robustft'\?"):
        scaffold(plugins, "robusft", None, None, tmp_path / "r.yaml")
    odd = tmp_path / "rows.xyz"
    odd.write_text("")
    with pytest.raises(
        SourceError, match=r"no source reads files that end in '\.xyz'; known: .*\.jsonl"
    ):
        scaffold(plugins, "robustft", odd, None, tmp_path / "r.yaml")
    assert not (tmp_path / "r.yaml").exists()


@pytest.mark.parametrize(
    ("model", "out", "written"),
    [
        ("files/m.gguf", "recipe.yaml", "files/m.gguf"),
        ("./files/m.gguf", "recipe.yaml", "files/m.gguf"),
        ("files", "files/recipe.yaml", "."),
        ("files/m.gguf", "made/recipe.yaml", "HERE/files/m.gguf"),
        ("org/name:m.gguf", "recipe.yaml", "org/name:m.gguf"),
        ("tiny", "recipe.yaml", "tiny"),
    ],
)
def test_a_model_that_is_here_is_found_from_where_the_recipe_is(
    plugins: Plugins,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    model: str,
    out: str,
    written: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("files", "tiny"):
        (tmp_path / name).mkdir()
    (tmp_path / "files" / "m.gguf").write_bytes(b"GGUF")
    scaffold(plugins, "robustft", None, model, Path(out))
    wanted = written.replace("HERE", str(tmp_path))
    assert load_recipe(tmp_path / out, plugins).models["student"].config.model == wanted


def test_a_model_whose_package_is_not_installed_is_named_at_once(
    plugins: Plugins, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> Path:
        raise ModelError(f"model {name!r} needs the package x: pip install 'x'")

    monkeypatch.setattr(plugins, "model_folder", missing)
    said = scaffold(plugins, "robustft", None, "smollm2", tmp_path / "recipe.yaml")
    assert said[1] == "warning: model 'smollm2' needs the package x: pip install 'x'"
    assert "model: smollm2" in (tmp_path / "recipe.yaml").read_text()
