"""What ``nfilter check`` finds without running anything, in a process of its own and at close range."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nfilter.engine.lookup import prompts_of, site_of
from nfilter.recipe.check import check
from nfilter.recipe.checking import Report
from nfilter.recipe.model import load
from nfilter.registry.loading import Plugins

ROOT = Path(__file__).resolve().parents[2]
GOOD = """\
name: sums
answer: number
models:
  student: {use: example.adder}
  expert: student
source: {use: example.qa, path: sums.qa, truth: true}
samples:
  - {use: example.ask, llm: expert, into: view}
  - {use: example.agree, view: view}
arms: [vanilla, raw, cleaned, truth]
tokens:
  - {use: example.first, keep: 3}
train: {use: example.memory, model: student}
evaluate: {metric: accuracy, source: {use: example.qa, path: test.qa}}
"""
DATA = "1+1 => 2 | 2\n2+3 => 6 | 5\n"
BOMB = "\n".join(
    ["a0: &a0 [x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12))]
)


def changed(old: str, new: str) -> str:
    assert GOOD.count(old) == 1, old
    return GOOD.replace(old, new)


BROKEN = {
    "unknown-key": changed("llm: expert,", "lml: expert,"),
    "unknown-stage": changed("use: example.agree", "use: example.agre"),
    "wrong-type": changed("keep: 3", "keep: three"),
    "missing-file": changed("path: sums.qa", "path: sum.qa"),
    "missing-prompt": changed("llm: expert,", "llm: expert, prompt: example/aks,"),
    "unwritten-view": changed("view: view}", "view: veiw}"),
    "no-logprobs": changed("llm: expert,", "llm: expert, logprobs: true,"),
    "alias-bomb": BOMB,
    "duplicate-key": changed("answer: number\n", "answer: number\nname: sums\n"),
    "empty": "",
}  # fmt: skip
PROBE = """\
import json, sys, time
from nfilter.cli import entry
code = entry(sys.argv[1:])
heavy = {"torch", "transformers", "litellm", "faiss", "peft", "sentence_transformers", "datasets", "pyarrow", "sklearn", "scipy"}
print(json.dumps({"code": code, "cpu": time.process_time(), "heavy": sorted(heavy & set(sys.modules))}))
"""


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_recipe_names_line_and_remedy_at_once_and_loads_nothing(
    name: str, folder: Callable[..., Path], example_dist: Path, golden: Callable[[str, str], None]
) -> None:
    home = folder({"r.yaml": BROKEN[name], "sums.qa": DATA, "test.qa": "1+2 => 3\n"})
    paths = os.pathsep.join(map(str, (example_dist, ROOT, ROOT / "plugins")))
    done = subprocess.run(
        [sys.executable, "-c", PROBE, "check", "r.yaml"],
        capture_output=True,
        text=True,
        cwd=home,
        env={**os.environ, "PYTHONPATH": paths},
        check=True,
        timeout=60,
    )
    result = json.loads(done.stdout)
    assert result["code"] == 2
    assert result["heavy"] == []
    # Half of it on an idle machine; a busy one doubles what a process is charged for.
    assert result["cpu"] < 2.0
    assert "Traceback" not in done.stderr
    said = done.stderr
    for path, word in ((home.resolve(), "FOLDER"), (example_dist, "SITE"), (ROOT, "ROOT")):
        said = said.replace(str(path), word)
    golden(f"errors/{name}.txt", said)


def test_the_same_recipe_unbroken_has_no_fault(
    folder: Callable[..., Path], example_dist: Path, command: Callable[..., Any]
) -> None:
    home = folder({"r.yaml": GOOD, "sums.qa": DATA, "test.qa": "1+2 => 3\n"})
    done = command("check", "r.yaml", "--json", path=[example_dist], cwd=home)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["faults"] == []


# --- at close range ----------------------------------------------------------------------------------------


@pytest.fixture
def checked(
    folder: Callable[..., Path], catalogue: Callable[..., Plugins]
) -> Callable[..., Report]:
    def run(text: str, files: dict[str, str] | None = None, **hooks: Any) -> Report:
        given = {"sums.qa": DATA, "test.qa": "1+2 => 3\n", **(files or {})}
        home = folder({**given, "r.yaml": text})
        plugins = catalogue(**hooks)
        recipe = load(home / "r.yaml", plugins)
        report = check(recipe, plugins, site_of(recipe, plugins), prompts_of(recipe, plugins))
        return Report(
            [fault.replace(f"{home}/", "") for fault in report.faults], report.facts, report.memory
        )

    return run


def test_a_good_recipe_has_facts_and_no_faults(checked: Callable[..., Report]) -> None:
    report = checked(GOOD)
    assert report.faults == []
    assert report.facts == [
        "source: columns prompt = 'before =>', response = 'after =>', truth = 'after |'",
        "source: all of 2 rows can be read",
        "evaluate: columns prompt = 'before =>', response = 'after =>'",
        "evaluate: its one row can be read",
        "evaluate: 0 of 1 test questions are also in the training source",
    ]


def test_shared_questions_are_counted_whatever_their_case_and_spacing(
    checked: Callable[..., Report],
) -> None:
    report = checked(
        GOOD, {"test.qa": "What is   1+1 => 2\n3+3 => 6\n", "sums.qa": "what IS 1+1 => 2\n"}
    )
    assert report.facts[-1].startswith(
        "evaluate: 1 of 2 test questions are also in the training source, for example"
    )


@pytest.mark.parametrize(
    ("old", "new", "faults"),
    [
        (
            "llm: expert,", "llm: exprt,",
            ["r.yaml:8: samples[0].llm: no model 'exprt' under models; did you mean 'expert'?"],
        ),
        (
            "  - {use: example.ask, llm: expert, into: view}\n  - {use: example.agree, view: view}\n",
            "  - {use: example.agree, view: view}\n  - {use: example.ask, llm: expert, into: view}\n",
            ["r.yaml:8: samples[0].view: example.agree reads 'view', which example.ask writes only after it; move it up"],
        ),
        (
            "train: {use: example.memory, model: student}\n", "",
            ["r.yaml:10: arms: arm 'raw' is trained; add train: {use: example.memory, model: student}, or leave arms out: tokens: runs without training"],
        ),
        (
            ", truth: true", "",
            ["r.yaml:10: arms: arm 'truth' needs true labels; name their column: source: {truth: COLUMN}"],
        ),
        (
            "evaluate: {metric: accuracy, source: {use: example.qa, path: test.qa}}\n", "",
            ["r.yaml:10: arms: arm 'vanilla' is only evaluated; add evaluate: {metric: accuracy, source: {...}}"],
        ),
        (
            "train: {use: example.memory, model: student}", "train: {use: adopt, from: example.frist}",
            [
                "r.yaml:10: arms: arm 'raw' cannot adopt a stage's model; leave it out, or name what it trains with: train: {use: adopt, from: example.frist, with: {use: example.memory, model: student}}",
                "r.yaml:13: train.from: no token stage 'example.frist' in the recipe; did you mean 'example.first'?",
            ],
        ),
        (
            "path: test.qa", "path: tset.qa",
            ["r.yaml:14: evaluate.source.path: no file tset.qa; paths start at the recipe's folder"],
        ),
        (
            "answer: number", "answer: {kind: text, encoder: expert}",
            ["r.yaml:2: answer.encoder: answer needs a model that embeds, and 'expert' (example.adder) cannot (it has: Adapts, Encodes, Generates); use a local model, {use: hf, model: ...}"],
        ),
        (
            "answer: number", "answer: {kind: text, judge: jugde}",
            ["r.yaml:2: answer.judge: no model 'jugde' under models; known: expert, student"],
        ),
    ],
)  # fmt: skip
def test_each_fault_names_place_and_remedy(
    checked: Callable[..., Report], old: str, new: str, faults: list[str]
) -> None:
    assert checked(changed(old, new)).faults == faults


def test_a_score_that_no_token_stage_writes_is_a_fault(checked: Callable[..., Report]) -> None:
    from nfilter import Contract, StageConfig

    class ByConfig(StageConfig):
        by: str = "position"

    class By:
        """Reads a score."""

        name = "extra.by"
        Config = ByConfig

        def __init__(self, config: ByConfig) -> None: ...

        @classmethod
        def contract(cls, config: ByConfig) -> Contract:
            return Contract(reads=frozenset({config.by}))

        def process_tokens(self, chunk: Any, state: Any, ctx: Any, bit: int) -> Any:
            return chunk

    before = changed(
        "  - {use: example.first, keep: 3}\n",
        "  - {use: extra.by}\n  - {use: example.first, keep: 3}\n",
    )
    assert checked(before, stages=[By]).faults == [
        "r.yaml:12: tokens[0]: extra.by reads 'position', which example.first writes only after it; move it up"
    ]
    after = changed(
        "  - {use: example.first, keep: 3}\n",
        "  - {use: example.first, keep: 3}\n  - {use: extra.by}\n",
    )
    assert checked(after, stages=[By]).faults == []
    misspelt = changed(
        "  - {use: example.first, keep: 3}\n",
        "  - {use: example.first, keep: 3}\n  - {use: extra.by, by: positon}\n",
    )
    assert checked(misspelt, stages=[By]).faults == [
        "r.yaml:13: tokens[1].by: extra.by reads 'positon', which no stage before it writes; did you mean 'position'?"
    ]


def test_a_model_that_takes_no_adapter_cannot_be_evaluated_after_training(
    checked: Callable[..., Report],
) -> None:
    from nfilter_example.model import Adder

    from nfilter import Abilities, Encodes, Generates

    class Bare(Adder):
        """No adapters."""

        name = "extra.bare"

        @classmethod
        def abilities(cls, config: Any) -> Abilities:
            return Abilities(frozenset({Generates, Encodes}))

    faults = checked(changed("use: example.adder", "use: extra.bare"), backends=[Bare]).faults
    assert any(
        "evaluate needs a model that takes adapters, and 'student' (extra.bare) cannot" in fault
        for fault in faults
    )
    alone = changed("arms: [vanilla, raw, cleaned, truth]", "arms: [vanilla]")
    alone = alone.replace("train: {use: example.memory, model: student}\n", "").replace(
        "use: example.adder", "use: extra.bare"
    )
    assert checked(alone, backends=[Bare]).faults == []


def test_the_recipes_own_prompts_come_first(checked: Callable[..., Report]) -> None:
    broken = "[user]\n{{ query }\n"
    faults = checked(GOOD, {"prompts/example/ask.jinja": broken}).faults
    assert faults == ["r.yaml:8: samples[0]: prompts/example/ask.jinja:2: unexpected '}'"]
    assert checked(GOOD, {"prompts/example/ask.jinja": "[user]\n{{ query }}\n"}).faults == []


def test_the_judge_prompt_of_the_answers_is_looked_for(checked: Callable[..., Report]) -> None:
    answer = "answer: {kind: text, judge: expert, prompt: answers/smae}"
    (fault,) = checked(changed("answer: number", answer)).faults
    assert fault.startswith("r.yaml:2: answer.prompt: no prompt 'answers/smae' under ")
    assert fault.endswith("did you mean 'answers/same'?")
