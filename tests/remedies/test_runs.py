"""What the commands over a run say to type is typed, and they go on."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nfilter.cli import entry

RULES = """\
answer: exact
models: {student: {use: hf, model: tiny}}
source: {use: jsonl, path: rows.jsonl}
samples: [{use: entp.purge}]
arms: []
"""
ADDER = """\
answer: number
models: {student: {use: example.adder}}
source: {use: example.qa, path: rows.qa}
samples: [{use: example.ask, llm: student, into: view}]
arms: []
"""


class Shell:
    """The command line in this process, in a folder of its own."""

    def __init__(self, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.home = home
        self._capsys = capsys

    def __call__(self, *words: str, code: int = 0) -> str:
        """Everything that the command printed; it has to end with ``code``."""
        ended = entry(list(words))
        out, err = self._capsys.readouterr()
        assert ended == code, out + err
        return " ".join((out + err).split())


@pytest.fixture
def shell(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Shell:
    monkeypatch.chdir(tmp_path)
    rows = [{"question": f"what is {n}", "answer": "a good answer to the question"} for n in range(8)]  # fmt: skip
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "r.yaml").write_text(RULES)
    return Shell(tmp_path, capsys)


@pytest.mark.types("add a section tokens: or arms: [cleaned] to the recipe")
@pytest.mark.parametrize(
    "section", ["tokens: [{use: tokens.random, k: 0.5}]\n", "arms: [cleaned]\ntrain: {use: hf.lora, model: student, max_steps: 1}\n"]
)  # fmt: skip
def test_tokens_for_an_export(shell: Shell, section: str) -> None:
    shell("run", "r.yaml", "--out", "out")
    said = shell("export", "out", "--format", "spans", "--out", "spans", code=7)
    assert "add a section tokens: or arms: [cleaned] to the recipe and run it again" in said
    written = RULES.replace("arms: []\n", "") + "encode: {model: student}\n" + section
    Path("r.yaml").write_text(written)
    shell("run", "r.yaml", "--out", "out")
    shell("export", "out", "--format", "spans", "--out", "spans")


@pytest.mark.types("`nfilter explain «» ID` say why for each row")
def test_the_command_that_explains_why_nothing_is_left(shell: Shell) -> None:
    rows = [{"question": f"what is {n}", "answer": " "} for n in range(3)]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    trains = "arms: [cleaned]\nencode: {model: student}\ntrain: {use: hf.lora, model: student}\n"
    Path("r.yaml").write_text(RULES.replace("arms: []\n", trains))
    said = shell("run", "r.yaml", "--out", "my run", code=6)
    command = re.search(r"`nfilter (explain .*?) ID` say why", said)
    assert command is not None
    lines = Path("my run/dropped.jsonl").read_text().splitlines()
    assert len(lines) == 3
    for line in lines:
        assert "entp.purge" in shell(*shlex.split(command[1]), json.loads(line)["id"])


@pytest.mark.types("add a stage that flags wrong labels")
def test_a_stage_that_checks_labels_makes_a_run_that_can_be_audited(shell: Shell) -> None:
    shell("run", "r.yaml", "--out", "out")
    said = shell("audit", "out", code=7)
    assert "add a stage that flags wrong labels" in said
    stages = "[{use: robustft.answer, llm: student, into: base, max_tokens: 4}, {use: robustft.check, views: [base]}]"
    Path("r.yaml").write_text(RULES.replace("[{use: entp.purge}]", stages))
    shell("run", "r.yaml", "--out", "out")
    shell("audit", "out")


@pytest.mark.types(
    "no model called student; give --model to another",
    "no model called expert; give --expert to another",
)
@pytest.mark.parametrize(
    ("option", "value"), [("--model", "tiny"), ("--expert", "openai/gpt-4o-mini")]
)
def test_another_template_takes_the_model(
    shell: Shell, option: str, value: str, plugin_recipe: None
) -> None:
    said = shell("init", "--template", "bare", "--out", "new.yaml", option, value, code=2)
    assert f"give {option} to another template" in said
    shell("init", "--template", "robustft", "--out", "new.yaml", option, value)
    assert value in Path("new.yaml").read_text()


@pytest.fixture
def plugin_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A template without models, as a plugin may bring one."""
    from nfilter.recipe import init as scaffold

    folder = tmp_path / "brought"
    folder.mkdir()
    (folder / "bare.yaml").write_text("source: {use: jsonl, path: rows.jsonl}\n")
    found = scaffold.templates
    monkeypatch.setattr(scaffold, "templates", lambda plugins: {**found(plugins), "bare": folder / "bare.yaml"})  # fmt: skip


@pytest.mark.types("(or begin anew with `«» --data FILE`)")
def test_init_begins_anew_with_the_data(shell: Shell) -> None:
    said = shell("init", "--out", "new.yaml", "--model", "tiny")
    command = re.search(r"begin anew with `nfilter (.*?) FILE`", said)
    assert command is not None
    shell(*shlex.split(command[1]), "rows.jsonl")
    assert "rows.jsonl" in Path("new.yaml").read_text()
    shell("check", "new.yaml")


@pytest.mark.types("needs multiple-choice rows: try --kind exact")
def test_another_kind_of_noise(shell: Shell) -> None:
    rows = [{"question": f"what is {n}", "answer": "ABCD"[n % 4]} for n in range(8)]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ("inject-noise", "rows.jsonl", "noisy.jsonl", "--ratio", "0.5")
    said = shell(*words, "--kind", "choice", code=4)
    typed = re.search(r"try (--kind exact)", said)
    assert typed is not None
    shell(*words, *typed[1].split())
    assert len(Path("noisy.jsonl").read_text().splitlines()) == 8


@pytest.fixture
def adds(catalogue: Callable[..., Any], tmp_path: Path) -> Callable[[str], Any]:
    """``adds(TEXT)``: a run of the recipe with the example plugin."""
    from nfilter.engine.run import run
    from nfilter.recipe.model import load

    (tmp_path / "rows.qa").write_text("1+1 => 2\n2+3 => 6\n")

    def made(text: str = ADDER, **hooks: Any) -> Any:
        plugins = catalogue(**hooks)
        (tmp_path / "r.yaml").write_text(text)
        return run(load(tmp_path / "r.yaml", plugins), plugins, tmp_path / "out")

    return made


@pytest.mark.types("has no calls, and the run made some; restore it from a backup, or move")
@pytest.mark.parametrize("away", [False, True])
def test_a_journal_that_is_empty(adds: Callable[..., Any], tmp_path: Path, away: bool) -> None:
    from nfilter import StoreError

    adds()
    out = tmp_path / "out"
    whole = (out / "journal.db").read_bytes()
    for name in ("journal.db", "journal.db-wal", "journal.db-shm"):
        (out / name).unlink(missing_ok=True)
    with pytest.raises(
        StoreError, match=f"restore it from a backup, or move {out} away and run again"
    ):
        adds()
    if away:
        out.rename(tmp_path / "away")
    else:
        for name in ("journal.db-wal", "journal.db-shm"):
            (out / name).unlink(missing_ok=True)
        (out / "journal.db").write_bytes(whole)
    assert adds().metrics["samples"]["read"] == 2


@pytest.mark.types("trains a model, and the recipe has no trainer", "needs training; add train:")
def test_a_trainer_is_added(adds: Callable[..., Any]) -> None:
    from nfilter_example.tokens import First

    from nfilter import RecipeError

    class Teaches(First):
        """Trains a model of its own."""

        name = "extra.teaches"

        def fit_tokens(self, stream: Any, ctx: Any) -> Any:
            from nfilter import State

            ctx.train(list(stream))
            return State({})

    stage = "encode: {model: student}\ntokens: [{use: extra.teaches}]\n"
    text = ADDER.replace("arms: []\n", stage)
    arms = ADDER.replace("arms: []\n", "encode: {model: student}\narms: [cleaned]\n")
    for recipe in (text, arms):
        with pytest.raises(
            RecipeError,
            match=r"add train: \{use: TRAINER, model: MODEL\}; nfilter plugins lists trainers",
        ):
            adds(recipe, stages=[Teaches])
        assert adds(f"{recipe}train: {{use: example.memory, model: student}}\n", stages=[Teaches])


@pytest.mark.types("remove the line, and type nfilter run RECIPE --out DIR")
def test_where_a_run_goes_is_no_setting(shell: Shell) -> None:
    trains = "arms: [cleaned]\nencode: {model: student}\ntrain: {use: hf.lora, model: student, max_steps: 1, output_dir: x}\n"
    Path("r.yaml").write_text(RULES.replace("arms: []\n", trains))
    said = shell("check", "r.yaml", code=2)
    assert "remove the line, and type nfilter run RECIPE --out DIR" in said
    Path("r.yaml").write_text(RULES.replace("arms: []\n", trains.replace(", output_dir: x", "")))
    shell("run", "r.yaml", "--out", "DIR")
    assert Path("DIR/adapters/cleaned/adapter_model.safetensors").is_file()


@pytest.mark.types("`nfilter plan` counts the rows and says which")
def test_the_plan_says_what_the_rows_choose(shell: Shell) -> None:
    trains = "arms: [cleaned]\nencode: {model: student}\ntrain: {use: hf.lora, model: student}\n"
    Path("r.yaml").write_text(RULES.replace("arms: []\n", trains))
    row = Path("rows.jsonl").read_text().splitlines()[0]
    Path("rows.jsonl").write_text(f"{row}\n" * 3000)
    said = shell("check", "r.yaml")
    assert "`nfilter plan` counts the rows and says which" in said
    assert "are chosen for 3,000 rows" in shell("plan", "r.yaml")
