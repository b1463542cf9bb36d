"""A model without log-probabilities: ``init`` ranks by agreement, ``check`` names every line, and each line helps."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from nfilter import RecipeError
from nfilter.cli import main
from nfilter.engine.lookup import prompts_of, site_of
from nfilter.recipe.check import check
from nfilter.recipe.measures import rewrites
from nfilter.recipe.model import load
from nfilter.registry import loading as plugins
from tests.model_server.faults import Script, add
from tests.model_server.server import ModelServer

EXPERT = "anthropic/claude-sonnet-4-5"
MODELS = "models:\n  student: {use: hf, model: tiny}\n  expert: {use: litellm, model: EXPERT}\n  encoder: student\n"
ROWS = 12


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-none-of-anybody")
    rows = [{"prompt": f"{10 + n}+{n}", "response": str(10 + 2 * n + (n % 3 == 0))} for n in range(ROWS)]  # fmt: skip
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def faults(path: Path) -> list[str]:
    """What check has against a recipe, a text each."""
    found = plugins.load()
    try:
        recipe = load(path, found)
        report = check(recipe, found, site_of(recipe, found), prompts_of(recipe, found))
    except RecipeError as error:
        return str(error).splitlines()
    return [str(fault) for fault in report.faults]


def init(*words: str) -> str:
    done = CliRunner().invoke(main, ["init", "--data", "train.jsonl", "--model", "tiny", *words])
    assert done.exit_code == 0, done.output
    return done.output


def test_init_writes_a_recipe_that_ranks_by_agreement(home: Path) -> None:
    said = init("--expert", EXPERT)
    text = (home / "recipe.yaml").read_text()
    assert f"expert: {{use: litellm, model: {EXPERT}}}" in text
    assert "rank: agreement" in text
    assert "robustft.select ranks by the nll of 'context'" in said
    assert not faults(home / "recipe.yaml")
    assert not rewrites(load(home / "recipe.yaml", plugins.load()))


def test_init_leaves_the_nll_where_the_model_gives_log_probabilities(home: Path) -> None:
    init("--expert", "openai/gpt-4o-mini")
    assert "rank: agreement" not in (home / "recipe.yaml").read_text()


def test_what_init_wrote_runs(home: Path, command: Callable[..., Any]) -> None:
    init("--expert", EXPERT)
    with ModelServer(Script(answer=add, logprobs=False)) as server:
        model = f'{{use: litellm, model: x, api_base: "{server.url}", logprobs: false}}'
        text = (
            (home / "recipe.yaml").read_text().replace(f"{{use: litellm, model: {EXPERT}}}", model)
        )
        text = re.sub(r"(?m)^(arms|encode|train):.*$", "", text) + "arms: []\n"
        (home / "recipe.yaml").write_text(text)
        done = command("run", "recipe.yaml", "--out", "out", cwd=home)
    assert done.returncode == 0, done.stderr
    dropped = [json.loads(line) for line in (home / "out" / "dropped.jsonl").read_text().splitlines()]  # fmt: skip
    assert len(dropped) == ROWS // 3 // 2
    assert all("by draws agreement 1;" in row["reason"] for row in dropped)


def with_expert(home: Path, template: str = "robustft") -> Path:
    """The shipped recipe with the expert of README's first example, and all else as it was."""
    init("--template", template)
    path = home / "recipe.yaml"
    text = re.sub(r"(?m)^models:\n(  .*\n)+", MODELS.replace("EXPERT", EXPERT), path.read_text())
    path.write_text(text)
    return path


@pytest.mark.parametrize("template", ["robustft", "robustft-official"])
def test_check_names_every_line_at_once_and_each_helps(home: Path, template: str) -> None:
    path = with_expert(home, template)
    told = faults(path)
    assert len(told) == 2
    assert "robustft.relabel needs log-probabilities" in told[0]
    assert "robustft.select ranks by the nll of 'context'" in told[1]
    lines = path.read_text().splitlines()
    for each in reversed(told):
        number = int(re.search(r"recipe\.yaml:(\d+)", each)[1])  # type: ignore[index]
        assert re.match(r"\s*- \{use: robustft\.(relabel|select)", lines[number - 1])
        lines[number - 1 : number] = [f"  {item}" for item in re.findall(r"`(- .*?)`", each)]
    path.write_text("\n".join(lines) + "\n")
    assert not faults(path)


@pytest.mark.parametrize(
    ("stages", "told"),
    [
        (["answer, llm: expert, into: base"], "robustft.select ranks by the nll of 'base'"),
        (["answer, llm: expert, into: base, logprobs: false"], "ranks by the nll of 'base'"),
    ],
)
def test_a_ranking_that_would_be_one_by_id_is_refused(
    home: Path, stages: list[str], told: str
) -> None:
    listed = "".join(f"  - {{use: robustft.{stage}}}\n" for stage in stages)
    text = (
        f"name: r\nanswer: number\n{MODELS.replace('EXPERT', EXPERT)}source: {{use: jsonl, path: train.jsonl}}\n"
        f"samples:\n{listed}  - {{use: robustft.check, views: [base]}}\n  - {{use: robustft.select, by: base, keep: 0.5}}\narms: []\n"
    )
    path = home / "recipe.yaml"
    path.write_text(text)
    (fault,) = faults(path)
    assert told in fault
    path.write_text(text.replace("by: base, keep: 0.5", "by: base, keep: 0.5, rank: agreement"))
    (fault,) = faults(path)
    assert "ranks by the agreement of 'base'" in fault
    path.write_text(text.replace("by: base, keep: 0.5", "by: base, keep: 1"))
    assert not faults(path)
    path.write_text(text.replace("llm: expert", "llm: student").replace(", logprobs: false", ""))
    assert not faults(path)
