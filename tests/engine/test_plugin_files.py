"""``--plugin FILE`` and ``--recipe-plugins``: runs with plugins that are not installed, and what names them afterwards."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import nfilter
from nfilter import PluginError, Recipe, RecipeError
from nfilter.cli import entry

STAGE = """
import nfilter

class Stage:
    "Drops responses of less than two words."
    name = "{name}"
    Config = nfilter.StageConfig
    def __init__(self, config): ...
    @classmethod
    def contract(cls, config): return nfilter.Contract()
    def process(self, chunk, state, ctx):
        return [s.keep("long") if len(s.response.split()) > 1 else s.drop("short") for s in chunk]

@nfilter.hookimpl
def nfilter_stages(): return (Stage,)
"""
EXPORTER = """
class Exporter:
    "Writes nothing."
    name = "my.format"
    Config = nfilter.StageConfig
    takes_rows = True
    def __init__(self, config): ...
    def export(self, run, out):
        (out / "n").write_text(str(len(run.samples)))
        return ["n"]

@nfilter.hookimpl
def nfilter_exporters(): return (Exporter,)
"""
RECIPE = """\
name: mine
source: {use: jsonl, path: rows.jsonl}
samples:
  - {use: my.stage}
"""


@pytest.fixture(autouse=True)
def _modules() -> Iterator[None]:
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("nfilter_file_"):
            del sys.modules[name]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    rows = [{"id": str(n), "prompt": "?", "response": text} for n, text in enumerate(("a", "b c"))]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("r.yaml").write_text(RECIPE)
    Path("my.py").write_text(STAGE.format(name="my.stage") + EXPORTER)
    return tmp_path


def said(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    capsys.readouterr()
    assert entry(list(words)) == code, capsys.readouterr()
    out, err = capsys.readouterr()
    return out + err


def test_a_run_with_a_file_and_its_record(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "`nfilter run r.yaml --plugin my.py` runs 1 stage" in said(
        capsys, "check", "r.yaml", "--plugin", "my.py"
    )
    said(capsys, "run", "r.yaml", "--plugin", "my.py", "--quiet")
    (kept,) = Path("runs/mine/cleaned.jsonl").read_text().splitlines()
    assert json.loads(kept)["id"] == "1"
    lock = yaml.safe_load(Path("runs/mine/recipe.lock.yaml").read_text())["lock"]
    sha256 = hashlib.sha256(Path("my.py").read_bytes()).hexdigest()
    assert lock["plugin_files"] == [
        {"path": str(here / "my.py"), "sha256": sha256, "flag": "--plugin"}
    ]
    assert lock["plugins"]["my.stage"] == "my.py"
    assert lock["code"]["my.stage"] == sha256


@pytest.mark.parametrize("words", [["plan"], ["lint"], ["pilot", "--rows", "1", "--quiet"]])
def test_every_command_that_reads_a_recipe_takes_a_file(
    here: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    if words == ["lint"]:
        Path("r.yaml").write_text(RECIPE + "models: {student: {use: hf, model: tiny}}\n")
    command, *more = words
    text = said(capsys, command, "r.yaml", *more, code=2)
    assert "unknown stage 'my.stage'" in text
    said(capsys, command, "r.yaml", *more, "--plugin", "my.py")


def test_commands_without_a_recipe_take_a_file(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listed = json.loads(said(capsys, "plugins", "--plugin", "my.py", "--json"))["plugins"]
    (item,) = [item for item in listed if item["name"] == "my.stage"]
    assert item["distribution"] == "my.py"
    assert "my.stage  (my.py)" in said(capsys, "plugins", "show", "my.stage", "--plugin", "my.py")
    assert '"my.stage"' in said(capsys, "schema", "--plugin", "my.py")
    assert '"my.stage"' not in said(capsys, "schema")
    text = said(capsys, "init", "--data", "rows.jsonl", "--model", "tiny", "--plugin", "my.py")
    assert text.endswith("both commands need --plugin my.py\n")


def test_an_edited_file_makes_its_stage_run_again_and_a_moved_one_does_not(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ["run", "r.yaml", "--plugin"]
    said(capsys, *run, "my.py")
    Path("moved").mkdir()
    Path("my.py").rename("moved/other.py")
    text = said(capsys, *run, "moved/other.py")
    assert "01-my.stage: 1 kept, 1 dropped so far, 0 relabelled (from an earlier run)" in text
    edited = Path("moved/other.py").read_text().replace("> 1", "> 0")
    Path("moved/other.py").write_text(edited)
    text = said(capsys, *run, "moved/other.py")
    assert "01-my.stage: running again, because its inputs changed: plugin code" in text
    assert "2 kept, 0 dropped" in text


def test_the_folder_of_a_recipe_is_loaded_by_its_flag_alone(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("plugins").mkdir()
    Path("my.py").rename("plugins/my.py")
    Path("plugins/other.py").write_text(STAGE.format(name="other.stage"))
    text = said(capsys, "run", "r.yaml", code=2)
    assert text == (
        "error: r.yaml:4: samples[0].use: unknown stage 'my.stage'\n"
        "  plugins/my.py has this name and is not loaded; type --recipe-plugins\n"
    )
    assert "nfilter_file_my" not in sys.modules
    text = said(capsys, "check", "r.yaml", "--recipe-plugins")
    assert "`nfilter run r.yaml --recipe-plugins` runs" in text
    said(capsys, "run", "r.yaml", "--recipe-plugins")
    lock = yaml.safe_load(Path("runs/mine/recipe.lock.yaml").read_text())["lock"]
    assert [(Path(file["path"]).name, file["flag"]) for file in lock["plugin_files"]] == [
        ("my.py", "--recipe-plugins"),
        ("other.py", "--recipe-plugins"),
    ]


def test_a_file_beside_the_recipe_that_has_an_unknown_name_is_told_with_its_flag(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("notes.py").write_text("'another.stage'")
    Path(".hidden.py").write_text("'my.stage'")
    text = said(capsys, "check", "r.yaml", code=2)
    assert "  my.py has this name and is not loaded; type --plugin my.py\n" in text
    assert text.count("has this name") == 1
    assert "nfilter_file_my" not in sys.modules
    said(capsys, "check", "r.yaml", "--plugin", "my.py")


@pytest.mark.types(
    "has this name and is not loaded; type «»", "which is not loaded; type «»",
    "which cannot be read any more; put it back and type «», or type --plugin FILE",
)  # fmt: skip
def test_a_resumed_run_and_an_export_name_the_file_and_the_flag(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said(capsys, "run", "r.yaml", "--plugin", "my.py")
    file = f"runs/mine/recipe.lock.yaml was made with the plugin file {here}/my.py, which is not loaded; type --plugin {here}/my.py\n"
    assert said(capsys, "run", "r.yaml", code=2).endswith(f"unknown stage 'my.stage'\n  {file}")
    export = ["export", "runs/mine", "--format", "my.format", "--out", "out"]
    assert said(capsys, *export, code=3).endswith(f"\n  {file}")
    assert file in said(capsys, "check", "runs/mine/recipe.lock.yaml", code=2)
    # What is typed: the flag with the path.
    said(capsys, *export, "--plugin", str(here / "my.py"))
    assert Path("out/n").read_text() == "1"
    # A format that ships works without the file, and names it.
    shipped = ["export", "runs/mine", "--format", "messages", "--out", "shipped"]
    assert file in said(capsys, *shipped)
    Path("my.py").write_text(Path("my.py").read_text() + "# edited\n")
    assert "; it was changed since, so its stages run again\n" in said(
        capsys, "run", "r.yaml", code=2
    )
    Path("my.py").rename("copy.py")
    text = said(capsys, "run", "r.yaml", code=2)
    sha256 = yaml.safe_load(Path("runs/mine/recipe.lock.yaml").read_text())["lock"]["plugin_files"]
    assert (
        f"my.py, which cannot be read any more; put it back and type --plugin {here}/my.py, or type --plugin FILE for a "
        f"copy (its SHA-256 was {sha256[0]['sha256']})"
    ) in text
    said(capsys, "run", "r.yaml", "--plugin", "copy.py")
    # With the flag of the folder, and with seeds.
    Path("plugins").mkdir()
    Path("copy.py").rename("plugins/my.py")
    said(capsys, "run", "r.yaml", "--recipe-plugins", "--seeds", "0,1", "--out", "group")
    text = said(capsys, "run", "r.yaml", "--out", "group", code=2)
    assert "group/seed-0/recipe.lock.yaml was made with" in text
    assert "which is not loaded; type --recipe-plugins\n" in text


def test_a_run_without_the_file_of_an_earlier_one_says_so(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file with listeners alone has no name in the recipe that would be missed."""
    Path("r.yaml").write_text(RECIPE.replace("my.stage", "entp.purge"))
    said(capsys, "run", "r.yaml", "--plugin", "my.py")
    assert f"{here}/my.py, which is not loaded; type --plugin" in said(capsys, "run", "r.yaml")


def test_a_recipe_alone_loads_no_code(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither a key, nor a lock that names a file, nor the folder beside it."""
    trap = Path("plugins/trap.py")
    trap.parent.mkdir()
    trap.write_text("raise SystemExit('loaded')\n" + STAGE.format(name="my.stage"))
    record = {"path": str(trap.resolve()), "sha256": "0" * 64, "flag": "--plugin"}
    lock = {"base_dir": str(here), "plugin_files": [record, 3, {"path": 1}, {"path": "x"}]}
    Path("locked.yaml").write_text(RECIPE + f"lock: {json.dumps(lock)}\n")
    for key in ("plugin: plugins/trap.py", "plugins: [plugins/trap.py]", "plugin_files: []"):
        Path("key.yaml").write_text(f"{RECIPE}{key}\n")
        assert "unknown section" in said(capsys, "check", "key.yaml", code=2)
    for command in ("check", "run", "plan", "pilot"):
        text = said(capsys, command, "locked.yaml", code=2)
        assert "loaded'" not in text
        assert f"type --plugin {trap.resolve()}" in text
    assert "plugins/trap.py" in said(capsys, "run", "locked.yaml", "--recipe-plugins", code=3)


def test_the_folder_is_that_of_the_named_recipe_and_no_lock_moves_it(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("evil/plugins").mkdir(parents=True)
    Path("my.py").rename("evil/plugins/my.py")
    lock = json.dumps({"base_dir": str(here / "evil")})
    Path("locked.yaml").write_text(f"{RECIPE}lock: {lock}\n")
    text = said(capsys, "check", "locked.yaml", "--recipe-plugins", code=3)
    assert "there is no folder plugins" in text


def test_an_exception_in_a_file_names_its_path(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("my.py").write_text(
        STAGE.format(name="my.stage").replace("return [s.keep", "1 / 0; return [s.keep")
    )
    text = said(capsys, "run", "r.yaml", "--plugin", "my.py", code=3)
    assert (
        "plugin 'my' of my.py raised ZeroDivisionError: division by zero (stage 01-my.stage)"
        in text
    )


def test_python_takes_files_too(here: Path) -> None:
    done = nfilter.run("r.yaml", out="out", plugins=["my.py"])
    assert done.metrics["samples"]["kept"] == 1
    recipe = Recipe.load("r.yaml", plugins=["my.py"])
    assert nfilter.run(recipe, out="out").metrics["samples"]["kept"] == 1
    with pytest.raises(RecipeError, match=r"unknown stage 'my.stage'\n  out/.* type --plugin /"):
        nfilter.run("out/recipe.lock.yaml")
    Path("more.py").write_text(STAGE.format(name="more.stage"))
    both = recipe.with_plugins(["more.py"])
    assert [file.path.name for file in both.plugins.files] == ["my.py", "more.py"]
    sections: dict[str, Any] = {"source": {"use": "jsonl", "path": "rows.jsonl"}, "samples": [{"use": "more.stage"}]}  # fmt: skip
    assert Recipe.from_dict(sections, plugins="more.py").samples[0].item.origin == "more.py"
    Path("twin.py").write_text(STAGE.format(name="more.stage"))
    twice = both.with_plugins(["twin.py"]).plugins
    with pytest.raises(PluginError, match=r"leave out --plugin twin\.py$"):
        twice.get("stage", "more.stage")


TRAINER = """
from contextlib import contextmanager
from pathlib import Path

import nfilter

class TrainerConfig(nfilter.StageConfig):
    model: str = "student"

class Trainer:
    "Writes an empty adapter."
    name = "my.trainer"
    Config = TrainerConfig
    def __init__(self, config): ...
    @classmethod
    def contract(cls, config): return nfilter.Contract()
    @classmethod
    def memory(cls, config, model_config, site): return {}
    def train(self, samples, model, out, ctx, start=None):
        (out / "a").write_text("a")
        return nfilter.TrainingResult(nfilter.ModelRef(str(out), "adapter", "b", "d"), 1, 1, (1.0,), 0.0)
    @contextmanager
    def lead(self): yield
    def follow(self, site, loss): Path("followed").write_text(loss.name)

class Loss:
    "Weights of one."
    name = "my.loss"
    mean_over = "given"
    Config = nfilter.StageConfig
    def __init__(self, config): ...
    @classmethod
    def contract(cls, config): return nfilter.Contract()
    def stats(self, logits_chunk, labels): return {}
    def weigh(self, stats, cached, step): return 1

@nfilter.hookimpl
def nfilter_trainers(): return (Trainer,)
@nfilter.hookimpl
def nfilter_losses(): return (Loss,)
"""


def test_every_process_of_a_launch_loads_the_file(here: Path) -> None:
    Path("my.py").write_text(
        TRAINER.replace("nfilter.Contract()", "nfilter.Contract(online_loss=True)", 1)
    )
    Path("r.yaml").write_text(
        "name: two\nmodels: {student: {use: hf, model: tiny}}\nsource: {use: jsonl, path: rows.jsonl}\narms: [raw]\n"
        "train: {use: my.trainer, loss: my.loss}\n"
    )
    command = [sys.executable, "-m", "nfilter", "run", "r.yaml", "--quiet", "--plugin", "my.py"]
    for rank in ("1", "0"):
        env = {**os.environ, "RANK": rank, "WORLD_SIZE": "2"}
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert Path("followed").read_text() == "my.loss"
    assert Path("runs/two/adapters/raw/a").is_file()
