"""The command line: exit codes, JSON for programs, errors without a traceback, and nothing heavy before it is needed."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from nfilter.api import errors
from nfilter.cli import entry, main

ROOT = Path(__file__).resolve().parents[2]
EXIT_CODES = {
    "NfilterError": 1, "RecipeError": 2, "PromptError": 2, "PluginError": 3, "ContractError": 3, "NoteError": 3,
    "SourceError": 4, "ModelError": 5, "NothingLeftError": 6, "StoreError": 7, "DamageError": 7, "BudgetError": 8, "ToolError": 1,
}  # fmt: skip


def all_errors() -> dict[str, type[errors.NfilterError]]:
    return {
        name: value
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.NfilterError)
    }


def test_every_error_has_its_exit_code_and_the_help_says_which() -> None:
    assert {name: cls.exit_code for name, cls in all_errors().items()} == EXIT_CODES
    shown = CliRunner().invoke(main, ["--help"]).output
    for code in (*EXIT_CODES.values(), 0, 130):
        assert f"{code} " in shown.split("Exit codes:")[1]


@pytest.mark.parametrize("name", EXIT_CODES)
def test_an_error_is_one_line_on_standard_error_and_its_code(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(**more: Any) -> None:
        raise all_errors()[name]("what was wrong")

    monkeypatch.setattr(main.commands["check"], "callback", fails)
    assert entry(["check", "x.yaml"]) == EXIT_CODES[name]
    assert capsys.readouterr() == ("", "error: what was wrong\n")


def test_several_faults_are_counted_and_listed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(**more: Any) -> None:
        raise errors.RecipeError(["r.yaml:1: one", "r.yaml:2: two"])

    monkeypatch.setattr(main.commands["check"], "callback", fails)
    assert entry(["check", "x.yaml"]) == 2
    assert capsys.readouterr().err == "2 faults:\nr.yaml:1: one\nr.yaml:2: two\n"


def test_an_interrupt_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(**more: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(main.commands["check"], "callback", interrupted)
    assert entry(["check", "x.yaml"]) == 130
    assert capsys.readouterr().err.strip() == "interrupted; run the same command to resume"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["chekc"], "did you mean 'check'?"),
        (["explian"], "did you mean 'explain'?"),
        (["check"], "Missing argument 'RECIPE'"),
        (["check", "x.yaml", "--sett", "a=1"], "--set"),
        (["run", "x.yaml", "--limit", "0"], "--limit"),
        (
            ["inject-noise", "nowhere.jsonl", "out.jsonl", "--ratio", "0.5", "--kind", "number"],
            "nowhere.jsonl",
        ),
    ],
)
def test_a_slip_on_the_command_line_is_answered(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert entry(arguments) == 2
    shown = capsys.readouterr()
    assert says in shown.err
    assert shown.out == ""


@pytest.mark.parametrize("seeds", ["0,x", "0,0", "-1", ",", ""])
def test_seeds_are_whole_numbers_each_once(
    seeds: str,
    folder: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(
        folder(
            {
                "d.jsonl": '{"prompt": "q", "response": "a"}\n',
                "r.yaml": "source: {use: jsonl, path: d.jsonl}\n",
            }
        )
    )
    assert entry(["run", "r.yaml", "--seeds", seeds, "--quiet"]) == 2
    said = capsys.readouterr().err
    assert "Invalid value for '--seeds'" in said
    assert repr(seeds) in said
    assert not Path("runs").exists()


def test_a_missing_recipe_says_how_to_get_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert entry(["check", "no-such.yaml"]) == 2
    assert capsys.readouterr().err == (
        "error: no-such.yaml: cannot be read (No such file or directory); `nfilter init --template quickstart --out no-such.yaml` writes a recipe that runs\n"
    )


def test_help_and_version_need_no_more_than_click() -> None:
    code = (
        "import sys; from nfilter.cli import entry; code = entry(sys.argv[1:]);"
        "heavy = {'numpy', 'pydantic', 'rich', 'yaml', 'jinja2', 'torch', 'pluggy'} & set(sys.modules);"
        "print(code, sorted(heavy), file=sys.stderr)"
    )
    for words in (["--help"], ["--version"], ["explain", "--help"], ["audit", "--help"]):
        done = subprocess.run(
            [sys.executable, "-c", code, *words],
            capture_output=True,
            text=True,
            check=True,
            cwd=ROOT,
        )
        assert done.stderr == "0 []\n"
        assert done.stdout


def test_the_help_names_every_command_and_every_command_explains_itself() -> None:
    shown = CliRunner().invoke(main, ["--help"])
    assert shown.exit_code == 0
    for name, command in main.commands.items():
        assert f"  {name}" in shown.output
        assert command.get_short_help_str(70) in shown.output
        assert command.help
        assert CliRunner().invoke(main, [name, "--help"]).exit_code == 0
    # Each command is on one whole line.
    assert "..." not in shown.output.partition("Prepare:")[2]


GOOD = "answer: number\nsource: {use: example.qa, path: sums.qa}\nmodels: {m: {use: example.adder}}\nsamples:\n  - {use: example.ask, llm: m}\n"


@pytest.fixture
def home(folder: Callable[..., Path]) -> Path:
    return folder(
        {
            "r.yaml": GOOD,
            "sums.qa": "1+1 => 2\n2+2 => 5\n",
            "bad.yaml": GOOD + "seed: x\nchunk: 0\n",
        }
    )


def test_json_is_all_that_is_on_standard_output(
    home: Path, example_dist: Path, command: Callable[..., Any]
) -> None:
    for arguments, keys in (
        (["check", "r.yaml", "--json"], {"faults", "facts", "memory"}),
        (["run", "r.yaml", "--json"], {"directory", "samples", "seeds", "calls_per_sample"}),
        (["plugins", "--json"], {"plugins", "models", "failed", "blocked"}),
        (["plugins", "list", "--json"], {"plugins", "models", "failed", "blocked"}),
    ):
        done = command(*arguments, path=[example_dist], cwd=home)
        assert (done.returncode, done.stderr) == (0, "")
        assert keys <= set(json.loads(done.stdout))
    shown = command("plugins", "show", "example.ask", "--json", path=[example_dist], cwd=home)
    (described,) = json.loads(shown.stdout)
    assert set(described["schema"]["properties"]) == {
        "llm",
        "into",
        "prompt",
        "logprobs",
        "max_tokens",
    }


def test_faults_of_a_check_are_json_too_where_they_can_be(
    home: Path, example_dist: Path, command: Callable[..., Any]
) -> None:
    (home / "r.yaml").write_text(GOOD.replace("llm: m", "llm: n"))
    done = command("check", "r.yaml", "--json", path=[example_dist], cwd=home)
    assert done.returncode == 2
    assert json.loads(done.stdout)["faults"] == [
        "r.yaml:5: samples[0].llm: no model 'n' under models; known: m"
    ]
    plain = command("check", "r.yaml", path=[example_dist], cwd=home)
    assert (plain.returncode, plain.stdout) == (2, "")
    assert plain.stderr == "error: r.yaml:5: samples[0].llm: no model 'n' under models; known: m\n"


def test_a_run_through_the_command_line(
    home: Path, example_dist: Path, command: Callable[..., Any]
) -> None:
    done = command(
        "run", "r.yaml", "--set", "name=other", "--limit", "1", path=[example_dist], cwd=home
    )
    assert done.returncode == 0
    assert "source: 1 row\n" in done.stderr
    assert "Traceback" not in done.stderr
    assert len((home / "runs" / "other" / "cleaned.jsonl").read_text().splitlines()) == 1
    wrong = command("run", "bad.yaml", path=[example_dist], cwd=home)
    assert wrong.returncode == 2
    assert wrong.stderr.splitlines()[0] == "2 faults:"
    assert not (home / "runs" / "bad").exists()


@pytest.mark.types("`nfilter plugins` lists all")
def test_unknown_names_are_answered_with_the_nearest(
    home: Path, example_dist: Path, command: Callable[..., Any]
) -> None:
    shown = command("plugins", "show", "example.aks", path=[example_dist], cwd=home)
    assert shown.returncode == 3
    assert (
        shown.stderr
        == "error: nothing is called 'example.aks'; did you mean 'example.ask'? (`nfilter plugins` lists all)\n"
    )
    template = command("init", "--template", "exampel", path=[example_dist], cwd=home)
    assert template.returncode == 2
    assert "did you mean 'example'?" in template.stderr
    assert (
        command(
            "init", "--template", "example", "--out", "r.yaml", path=[example_dist], cwd=home
        ).returncode
        == 2
    )
    assert (home / "r.yaml").read_text() == GOOD
    listed = command("plugins", path=[example_dist], cwd=home)
    assert listed.returncode == 0
    assert "example.ask" in listed.stdout


INTERRUPTED = """\
import os, signal, sys
import nfilter_example.stages as stages
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
def process(self, chunk, state, ctx):
    os.kill(os.getpid(), signal.SIGINT)
    while True:
        pass
stages.Ask.process = process
from nfilter.cli import script
script()
"""


def test_control_c_ends_a_run_with_130_and_no_traceback(home: Path, example_dist: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, "run", "r.yaml", "--quiet"],
        capture_output=True, text=True, cwd=home, timeout=60, check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (example_dist, ROOT, ROOT / "plugins")))},
    )  # fmt: skip
    assert done.returncode == 130
    assert done.stderr.strip() == "interrupted; run the same command to resume"


def test_a_plugins_verb_is_found_and_a_broken_one_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from nfilter.cli import group

    @click.command()
    def hello() -> None:
        """Say hello."""
        click.echo("hello")

    class Point:
        value = "pkg:hello"

        def __init__(self, found: Any) -> None:
            self.found = found

        def load(self) -> Any:
            if isinstance(self.found, Exception):
                raise self.found
            return self.found

    monkeypatch.setattr(
        group,
        "plugin_commands",
        lambda: {"hello": [Point(hello)], "bad": [Point(ImportError("no left_pad"))]},
    )
    assert entry(["hello"]) == 0
    assert capsys.readouterr().out == "hello\n"
    assert entry(["bad"]) == 3
    assert (
        capsys.readouterr().err
        == "error: the command 'bad' (pkg:hello) did not load: ImportError('no left_pad')\n"
    )
    assert entry(["--help"]) == 0
    assert "bad, hello" in capsys.readouterr().out


def test_what_a_plugin_needs_of_a_model_is_said_in_words(
    point: Callable[..., Any], module: Callable[..., Any]
) -> None:
    from typing import Annotated, Literal

    from pydantic import Field
    from rich.console import Console

    from nfilter import CAPABILITIES, Generates, LendsModule, Needs, StageConfig
    from nfilter.registry.catalogue import _ABILITY, show_one
    from nfilter.registry.loading import load

    class Config(StageConfig):
        lent: Annotated[str, Needs(LendsModule)] = "m"
        asked: Annotated[str, Needs(Generates, logprobs=True)] = "m"
        share: Annotated[float, Field(gt=0, le=1)] | Literal["auto"] | None = None
        sizes: tuple[Annotated[int, Field(ge=1)], ...] = ()

    from nfilter_example.stages import Lengths

    cls = type("Stage", (Lengths,), {"name": "x.y", "Config": Config, "__doc__": "Does it."})
    out = io.StringIO()
    show_one(
        load([point("x", module(stages=[cls]))], ()),
        "x.y",
        Console(file=out, width=160),
        as_json=False,
    )
    assert "a model that runs here and lends its network" in out.getvalue()
    assert "a model that answers with logprobs" in out.getvalue()
    assert "float | 'auto' | None  None" in out.getvalue()
    assert "tuple[int, ...]" in out.getvalue()
    assert set(_ABILITY) == set(CAPABILITIES)
