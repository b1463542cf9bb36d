"""``nfilter init``: a recipe that loads, whatever the file and the model are called."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from nfilter import ModelError, RecipeError, SourceError
from nfilter.recipe.init import scaffold, templates
from nfilter.recipe.model import load as load_recipe
from nfilter.registry.loading import Plugins, load

TEMPLATES = (
    "chained", "classes", "entp", "preferences", "quickstart", "quickstart-text", "quickstart-tokens", "robustft", "robustft-official",
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
    trains = template != "preferences"
    assert (recipe.arms, recipe.evaluate) == (("cleaned",) if trains else (), None)
    if model is not None:
        assert recipe.models["student"].config.model == model
        assert said[0] == f"model: {model} (the student)"
    student = recipe.models.get("student")
    shipped = student is None or student.config.model in plugins.models
    told = [line for line in said if line.endswith("--model names another")]
    assert len(told) == (0 if model is not None or shipped else 1)
    assert all(student and str(student.config.model) in line for line in told)
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
    with pytest.raises(SourceError, match="type") as caught:
        scaffold(plugins, "robustft", data, "tiny", out)
    said = str(caught.value)
    assert f"`nfilter init --template robustft --model tiny --out {out}` writes one" in said
    *_, wrote = scaffold(plugins, "robustft", None, None, out)
    assert f"`nfilter init --template robustft --out {out} --force --data FILE`" in wrote
    wanted = 'source: {use: csv, path: odd.csv, delimiter: ";", ...}'
    assert said.endswith(wanted)
    settings = "shape: prompt, columns: {prompt: q, response: a}"
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


@pytest.mark.parametrize(
    ("delimiter", "quote", "ending"),
    [
        (";", "", ".csv"),
        (";", '"', ".csv"),
        ("\t", "", ".csv"),
        ("|", "", ".csv"),
        (",", '"', ".tsv"),
    ],
)
def test_the_delimiter_of_a_table_is_found(
    plugins: Plugins, tmp_path: Path, delimiter: str, quote: str, ending: str
) -> None:
    data, out = tmp_path / f"Übung 1{ending}", tmp_path / "r.yaml"
    rows = [("question", "answer"), *((f"Was ist {n}+1?", f"{n + 1}") for n in range(20))]
    lines = (delimiter.join(f"{quote}{cell}{quote}" for cell in row) for row in rows)
    data.write_bytes(("\ufeff" + "\r\n".join(lines)).encode())
    said = scaffold(plugins, "robustft", data, None, out)
    assert f"read as csv, delimiter {delimiter!r}; guessed columns: " in "\n".join(said)
    source = yaml.safe_load(out.read_text())["source"]
    assert source == {"use": "csv", "path": data.name, "delimiter": delimiter}
    plain = tmp_path / "plain.csv"
    plain.write_text("question,answer\n1+1,2\n")
    assert ", delimiter " not in str(scaffold(plugins, "robustft", plain, None, out, force=True))


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


def labelled(path: Path, answers: tuple[str, ...], n: int, options: bool = True) -> Path:
    """A file of ``n`` texts, each with one of the answers, and the list of them where there are ``options``."""
    rows = [
        {
            "question": f"text {i}",
            "answer": answers[i % len(answers)],
            **({"options": list(answers)} if options else {}),
        }
        for i in range(n)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("options", [True, False])
def test_few_answers_need_no_model_that_answers(
    plugins: Plugins, tmp_path: Path, options: bool
) -> None:
    data = labelled(tmp_path / "d.jsonl", ("sad", "calm", "glad"), 60, options)
    out = tmp_path / "r.yaml"
    said = scaffold(plugins, None, data, "tiny", out)
    recipe = load_recipe(out, plugins)
    assert [use.name for use in recipe.samples] == ["robustft.classifier", "robustft.settle"]
    assert recipe.answer.kind == ("choice" if options else "exact")
    assert said[0].startswith("template: classes, because all rows share 3 answers: ")


@pytest.mark.parametrize(
    ("answers", "n"),
    [(("sad", "calm", "glad"), 20), (tuple(f"a{i}" for i in range(21)), 200), (("1", "2"), 60)],
    ids=["too few rows", "too many answers", "numbers"],
)
def test_other_data_get_the_usual_recipe(
    plugins: Plugins, tmp_path: Path, answers: tuple[str, ...], n: int
) -> None:
    data = labelled(tmp_path / "d.jsonl", answers, n, options=False)
    scaffold(plugins, None, data, "tiny", tmp_path / "r.yaml")
    assert load_recipe(tmp_path / "r.yaml", plugins).name == "robustft"


@pytest.mark.parametrize(("n", "name"), [(300, "classes"), (299, "robustft")])
def test_a_column_of_many_classes_gets_the_classifier_if_there_are_rows_enough(
    plugins: Plugins, tmp_path: Path, n: int, name: str
) -> None:
    data = tmp_path / "d.jsonl"
    rows = [{"text": f"text {i}", "label": f"c{i % 30}"} for i in range(n)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    scaffold(plugins, None, data, "tiny", tmp_path / "r.yaml")
    assert load_recipe(tmp_path / "r.yaml", plugins).name == name


def test_options_in_an_order_of_their_own_are_the_same_answers(
    plugins: Plugins, tmp_path: Path
) -> None:
    orders = (["sad", "calm", "glad"], ["glad", "sad", "calm"], ["calm", "glad", "sad"])
    rows = [{"question": f"text {i}", "options": orders[i % 3], "answer": "A"} for i in range(60)]
    data = tmp_path / "d.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = scaffold(plugins, None, data, "tiny", tmp_path / "r.yaml")
    assert said[0].startswith("template: classes, because all rows share 3 answers: ")


def test_a_remark_of_the_source_is_told(plugins: Plugins, tmp_path: Path) -> None:
    data = labelled(tmp_path / "d.jsonl", ("sad", "calm", "glad"), 60)
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    data.write_text("".join(json.dumps({**row, "label_text": row["answer"]}) + "\n" for row in rows))  # fmt: skip
    said = scaffold(plugins, None, data, "tiny", tmp_path / "r.yaml")
    assert any(line.startswith("warning: the column 'label_text' says the same") for line in said)


def test_options_of_their_own_get_the_usual_recipe(plugins: Plugins, tmp_path: Path) -> None:
    rows = [
        {"question": f"{i}?", "options": [f"{i}", f"{i + 1}"], "answer": "A"} for i in range(60)
    ]
    data = tmp_path / "d.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    scaffold(plugins, None, data, "tiny", tmp_path / "r.yaml")
    assert load_recipe(tmp_path / "r.yaml", plugins).name == "robustft"


def test_a_person_may_choose_otherwise(plugins: Plugins, tmp_path: Path) -> None:
    data = labelled(tmp_path / "d.jsonl", ("sad", "glad"), 60)
    scaffold(plugins, "robustft", data, "tiny", tmp_path / "r.yaml")
    assert load_recipe(tmp_path / "r.yaml", plugins).name == "robustft"
    scaffold(plugins, None, data, "tiny", tmp_path / "e.yaml", expert="openai/gpt-4o")
    assert load_recipe(tmp_path / "e.yaml", plugins).name == "robustft"


def test_rows_to_test_on_bring_the_arms_that_compare(plugins: Plugins, tmp_path: Path) -> None:
    data = labelled(tmp_path / "d.jsonl", ("sad", "glad"), 60)
    test = labelled(tmp_path / "t.jsonl", ("sad", "glad"), 10)
    scaffold(plugins, None, data, "tiny", tmp_path / "r.yaml", test=test)
    recipe = load_recipe(tmp_path / "r.yaml", plugins)
    assert recipe.arms == ("vanilla", "raw", "cleaned")
    assert recipe.test is not None
    assert recipe.test.use.config.path == "t.jsonl"


@pytest.mark.types("give --data")
def test_rows_to_test_on_alone_are_refused(plugins: Plugins, tmp_path: Path) -> None:
    test = labelled(tmp_path / "t.jsonl", ("sad", "glad"), 60)
    with pytest.raises(RecipeError, match="none to train on are named; give --data"):
        scaffold(plugins, None, None, "tiny", tmp_path / "r.yaml", test=test)
    scaffold(plugins, None, test, "tiny", tmp_path / "r.yaml", test=test)


@pytest.mark.parametrize("listed", ["[words, student]", "[student, words]"])
def test_an_encoder_that_is_not_installed_is_left_out_of_several(
    plugins: Plugins, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listed: str
) -> None:
    monkeypatch.setattr("nfilter.recipe.init._not_installed", absent)
    shipped = templates(plugins)["classes"].read_text()
    other = tmp_path / "classes.yaml"
    other.write_text(shipped.replace("[words, student]", listed))
    monkeypatch.setattr("nfilter.recipe.init.templates", lambda _: {"classes": other})
    said = scaffold(plugins, "classes", None, "tiny", tmp_path / "r.yaml")
    recipe = load_recipe(tmp_path / "r.yaml", plugins)
    assert set(recipe.models) == {"student"}
    assert recipe.samples[0].config.encoder == ["student"]
    assert any(line == "left out: encoder 'words'; pip install it" for line in said)


def absent(plugins: Plugins, model: str) -> list[str]:
    return ["warning: pip install it"] if model == "minilm" else []


@pytest.mark.types("and this template trains none; leave out --test")
def test_preference_pairs_get_their_recipe_and_no_test_rows(
    plugins: Plugins, tmp_path: Path
) -> None:
    rows = tmp_path / "pairs.jsonl"
    pairs = [{"prompt": f"{n}+1?", "chosen": str(n + 1), "rejected": str(n)} for n in range(5)]
    rows.write_text("".join(json.dumps(row) + "\n" for row in pairs))
    out = tmp_path / "recipe.yaml"
    with pytest.raises(RecipeError, match="trains none; leave out --test"):
        scaffold(plugins, None, rows, "tiny", out, test=rows)
    said = scaffold(plugins, None, rows, "tiny", out)
    assert any(
        line.startswith("template: preferences, because the rows are preference") for line in said
    )
    recipe = load_recipe(out, plugins)
    assert recipe.answer.kind == "preference"
    assert [use.name for use in recipe.samples] == [
        "pairs.reward", "pairs.neighbours", "pairs.judge", "robustft.check", "pairs.decide"
    ]  # fmt: skip
