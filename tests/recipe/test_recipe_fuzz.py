"""From a file to a recipe and its check: whatever stands in it, an error is one of ours and can be read.

NFILTER_FUZZ_RECIPES=10000 tries more recipes than the suite does.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from unicodedata import category

import pytest

from nfilter import NfilterError, RecipeError
from nfilter.cli import entry
from nfilter.engine.lookup import prompts_of, site_of
from nfilter.recipe.check import check
from nfilter.recipe.model import load
from nfilter.registry.loading import Plugins
from nfilter.registry.loading import load as load_plugins
from nfilter.report.text import plain
from tests.recipe.fuzzed_recipes import hostile

COUNT = int(os.environ.get("NFILTER_FUZZ_RECIPES", "100"))


@pytest.fixture(scope="module")
def plugins() -> Plugins:
    return load_plugins(block=())


def _end_of(file: Path, plugins: Plugins, assignments: tuple[str, ...]) -> tuple[str, str]:
    """What loading and checking came to, and all that it told."""
    try:
        recipe = load(file, plugins, assignments)
        report = check(
            recipe, plugins, site_of(recipe, plugins), prompts_of(recipe, plugins), data=False
        )
        recipe.dump()
    except NfilterError as error:
        return type(error).__name__, str(error)
    return "faults" if report.faults else "sound", "\n".join(report.faults)


def test_hostile_recipes_end_in_typed_errors(tmp_path: Path, plugins: Plugins) -> None:
    ends: Counter[str] = Counter()
    file = tmp_path / "r.yaml"
    for number in range(COUNT):
        made = hostile(number)
        file.write_bytes(made.data)
        try:
            end, told = _end_of(file, plugins, made.assignments)
        except Exception as error:
            raise AssertionError(f"recipe {number} of fuzzed_recipes.hostile: {error!r}") from error
        ends[end] += 1
        # As the command line prints it.
        steering = {
            char for char in plain(told) if category(char) in {"Cc", "Cs", "Zl", "Zp"}
        } - set("\n\t")
        assert not steering, (number, steering)
        assert max(map(len, told.split("\n"))) < 4000, number
    # The recipes are no worse than they should be: what lies behind the reading is reached as well.
    assert set(ends) >= {"RecipeError", "faults", "sound"}
    assert ends["sound"] + ends["faults"] >= COUNT / 20


@pytest.mark.parametrize(
    ("assignment", "says"),
    [
        (f"{'a.' * 40}b=1", "the path has more than 32 steps"),
        (f"models.student.{'[' * 5000}x=1", "unknown key"),
        (f"seed=0x{'f' * 5000}", "is larger than a recipe can hold"),
        (f"samples.{'9' * 5000}.k=1", "nothing stands at"),
        (f"a.b={'[' * 32}{']' * 32}", "nested deeper than 32 levels"),
        ("seed=010", "could be decimal or octal"),
        ("seed=[1", "not YAML"),
        ("=1", "write it as path=value"),
        ("...=1", "write it as path=value"),
        ("seed", "write it as path=value"),
        ("\udcff=1", "unknown section"),
        ("name=\udcff", "may not stand in it"),
    ],
)
def test_hostile_assignments(tmp_path: Path, plugins: Plugins, assignment: str, says: str) -> None:
    file = tmp_path / "r.yaml"
    file.write_text("models: {student: {use: hf, model: tiny}}\nsamples: []\nsource: {use: tiny}\n")
    with pytest.raises(RecipeError) as error:
        load(file, plugins, [assignment])
    assert says in str(error.value)
    str(error.value).encode()


@pytest.mark.parametrize(
    "arguments",
    [
        ["check", "r.yaml", "--set", "seed=0x" + "f" * 5000],
        ["check", "r.yaml", "--set", "\udcff=\udcff"],
        ["check", "."],
        ["check", "r.yaml/x"],
        ["check", "n" * 5000],
        ["check", "\udcff.yaml"],
        ["run", "r.yaml", "--seeds", "9" * 5000],
        ["run", "r.yaml", "--seeds", "9" * 30],
        ["run", "r.yaml", "--seeds", "0,"],
        ["run", "r.yaml", "--limit", "9" * 5000],
        ["run", "r.yaml", "--out", "r.yaml"],
        ["run", "r.yaml", "--out", "n" * 5000],
        ["run", "r.yaml", "--allow-host", "http://x"],
        ["run", "r.yaml", "--allow-host", "\udcff"],
        ["init", "--template", "../../etc/passwd"],
        ["init", "--out", "r.yaml"],
        ["init", "--out", "missing/folder/r.yaml", "--template", "x"],
        ["init", "--out", "n" * 5000],
        ["init", "--data", "r.yaml", "--out", "new.yaml"],
        ["init", "--data", ".", "--out", "new.yaml"],
        ["explain", "r.yaml", "x"],
        ["audit", "r.yaml"],
        ["audit", "missing", "--n", "9" * 5000],
        ["export", "missing", "--format", "trl", "--out", "x"],
        ["plugins", "show", "n" * 5000],
        ["plugins", "show", "\udcff"],
        ["inject-noise", "r.yaml", "out.jsonl", "--ratio", "nan", "--kind", "exact"],
        ["inject-noise", "r.yaml", "out.jsonl", "--ratio", "0.5", "--kind", "exact"],
        ["merge", "missing"],
    ],
    ids=lambda arguments: " ".join(arguments)[:40].encode("ascii", "replace").decode(),
)  # fmt: skip
def test_hostile_command_lines(
    arguments: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.yaml").write_text(
        "models: {student: {use: hf, model: tiny}}\nsource: {use: tiny}\n"
    )
    code = entry(arguments)
    told = capsys.readouterr().err
    assert code in {1, 2, 3, 4, 5, 7}, (code, told)
    assert "Traceback" not in told
    assert max(map(len, told.split("\n"))) < 6000


@pytest.mark.parametrize(
    "model", ["a\nb: c", "}", "a'b", "1", "x: y", "#", "\x1b[31m", "null", "1e5", "on", "日本"]
)
def test_init_writes_any_name_of_a_model_so_that_it_is_read_again(
    tmp_path: Path, plugins: Plugins, model: str
) -> None:
    out = tmp_path / "r.yaml"
    assert entry(["init", "--model", model, "--out", str(out)]) == 0
    recipe = load(out, plugins)
    assert recipe.models["student"].config.model == model


LONG = "n" * 300


@pytest.mark.parametrize(
    ("assignment", "says"),
    [
        (f"source={{use: jsonl, path: {LONG}}}", "File name too long"),
        (f"source={{use: jsonl, path: {LONG}/x}}", "File name too long"),
        (f"source={{use: datasets, path: {LONG}}}", "File name too long"),
        (f"models.student.model={LONG}/x/y", "File name too long"),
        (f"models.student={{use: sentence-transformers, model: {LONG}/x/y}}", "File name too long"),
        ("models.student.model='~no-such-user/x'", "there is no folder"),
        (f"samples=[{{use: robustft.answer, llm: student, into: a, prompt: robustft/{LONG}}}]", "is not of the form folder/name"),
    ],
)  # fmt: skip
def test_paths_that_the_system_refuses(
    tmp_path: Path, plugins: Plugins, assignment: str, says: str
) -> None:
    file = tmp_path / "r.yaml"
    file.write_text("models: {student: {use: hf, model: tiny}}\nsource: {use: tiny}\n")
    _, told = _end_of(file, plugins, (assignment,))
    assert says in told
