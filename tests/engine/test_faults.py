"""What goes wrong in a run: whose fault it is, in one sentence, and what the log keeps of it."""

from __future__ import annotations

import operator
import re
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from nfilter import ContractError, ModelError, NothingLeftError, PluginError, Request
from nfilter.engine import run as engine
from nfilter.engine.seeds import run_seeds
from nfilter.recipe.model import load
from nfilter.store.files import read_json

Stage = Callable[..., type]

TRAINED = """
encode: {model: student, max_length: 60}
train: {use: example.memory, model: student}
arms: [cleaned]
"""


def log_of(kit: Any) -> str:
    return str((kit.out / "run.log").read_text(encoding="utf-8"))


def test_what_a_plugin_raises_is_one_sentence_and_the_log_has_the_traceback(
    kit: Any, stage: Stage
) -> None:
    def fails(chunk: Any, state: Any, ctx: Any) -> Any:
        raise KeyError("a plugin's own\nfault")

    with pytest.raises(PluginError) as caught:
        kit.run([stage("extra.fine"), stage("extra.bad", fails)])
    said = str(caught.value)
    assert caught.value.exit_code == 3
    assert "\n" not in said
    assert re.match(r"plugin 'extra' of \S+ 1\.0 raised KeyError: .*\(stage 02-extra\.bad\)", said)
    assert "run the same command to resume" in said
    assert isinstance(caught.value.__cause__, KeyError)
    log = log_of(kit)
    assert f" error {said}\n" in log
    assert "Traceback (most recent call last)" in log
    assert "in fails" in log


def test_a_model_that_fails_in_a_stage_is_to_blame_not_the_stage(
    kit: Any, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nfilter_example import model

    def asks(chunk: Any, state: Any, ctx: Any) -> Any:
        ctx.model("student").generate([Request(sample.context) for sample in chunk])
        return chunk

    monkeypatch.setattr(model, "_question", None)
    says = r"plugin 'nfilter_example' of .* raised TypeError: .*\(stage 01-extra\.asks\)"
    with pytest.raises(PluginError, match=says):
        kit.run([stage("extra.asks", asks)])


def test_what_no_plugin_raised_stays_what_it_is(
    kit: Any, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "_publish", operator.truediv)
    with pytest.raises(TypeError, match="unsupported operand"):
        kit.run([stage("extra.a")])
    assert " error unsupported operand" in log_of(kit)
    assert "_publish(state, metrics)" in log_of(kit)


def test_a_full_disk_is_not_the_plugins_fault(kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from nfilter.store.journal import Journal

    code = "def full(self, *args): raise sqlite3.OperationalError('database or disk is full')"
    core: dict[str, Any] = {"__name__": "nfilter.store.journal", "sqlite3": sqlite3}
    exec(code, core)
    monkeypatch.setattr(Journal, "commit", core["full"])
    text = kit.recipe_text([]) + "samples:\n  - {use: example.ask, llm: student, into: view}\n"
    with pytest.raises(sqlite3.OperationalError):
        kit.run(text=text)


def test_an_error_with_a_name_of_its_own_keeps_it_and_is_logged(kit: Any, stage: Stage) -> None:
    def fails(chunk: Any, state: Any, ctx: Any) -> Any:
        raise ModelError("the model is out")

    with pytest.raises(ModelError, match="the model is out"):
        kit.run([stage("extra.bad", fails)])
    assert log_of(kit).endswith(" error the model is out\n")


@pytest.mark.parametrize(
    ("returned", "says"),
    [
        (lambda chunk: None, "01-extra.a: process returned None, not a sequence of Sample"),
        (lambda chunk: 3, "process returned a int, not a sequence"),
        (lambda chunk: {"a": 1}, "process returned a dict, not a sequence"),
        (lambda chunk: [*chunk[1:], None], "process returned None as item 3, not a Sample"),
    ],
)
def test_what_is_no_sequence_of_samples_is_refused(
    kit: Any, stage: Stage, returned: Any, says: str
) -> None:
    with pytest.raises(ContractError, match=re.escape(says)):
        kit.run([stage("extra.a", lambda chunk, state, ctx: returned(chunk))])


def test_a_token_stage_returns_samples_too(kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from nfilter_example.tokens import First

    monkeypatch.setattr(First, "process_tokens", lambda *_: None)
    text = (
        "name: test\nanswer: number\nmodels: {student: {use: example.adder}}\n"
        "source: {use: example.qa, path: rows.qa}\ntokens:\n  - {use: example.first, keep: 2}\n"
    )
    says = "process_tokens returned None, not a sequence of TokenSample"
    with pytest.raises(ContractError, match=says):
        kit.run(text=text + TRAINED)


def test_a_generator_will_do(kit: Any, stage: Stage) -> None:
    result = kit.run([stage("extra.a", lambda chunk, state, ctx: (one for one in chunk))])
    assert result.metrics["samples"]["kept"] == 10


def test_the_lock_has_hashes_of_models_and_versions_of_all_plugins(kit: Any) -> None:
    text = (
        "name: test\nanswer: number\n"
        "models: {student: {use: example.adder, off_by: 1}, other: {use: example.adder, off_by: 2}, expert: other, "
        "spare: {use: example.adder}}\n"
        "source: {use: example.qa, path: rows.qa}\n"
        "samples:\n  - {use: example.ask, llm: expert, into: view}\n"
        "tokens:\n  - {use: example.first, keep: 2}\n"
    )
    kit.run(text=text + TRAINED)
    lock = yaml.safe_load((kit.out / "recipe.lock.yaml").read_text())["lock"]
    # The alias is resolved, and a model that nothing uses is not even looked for.
    assert lock["models"] == {
        "other": "example.adder off by 2",
        "student": "example.adder off by 1",
    }
    assert set(lock["plugins"]) == {
        "example.adder", "example.qa", "example.ask", "example.first", "example.memory",
    }  # fmt: skip
    assert all(re.fullmatch(r"\S+ \S+", origin) for origin in lock["plugins"].values())


def seeded(kit: Any, stages: list[type], seeds: list[int]) -> Any:
    (kit.home / "rows.qa").write_text("1+1 => 2\n2+2 => 4\n", encoding="utf-8")
    (kit.home / "r.yaml").write_text(kit.recipe_text(stages, TRAINED), encoding="utf-8")
    plugins = kit.catalogue(stages=stages)
    recipe = load(kit.home / "r.yaml", plugins)
    return run_seeds(recipe, plugins, kit.out, seeds, reporter=kit.reporter)


def test_a_seed_with_nothing_left_does_not_end_the_others(kit: Any, stage: Stage) -> None:
    def drops(chunk: Any, state: Any, ctx: Any) -> Any:
        return [one.drop("an odd seed") if ctx.seed % 2 else one for one in chunk]

    result = seeded(kit, [stage("extra.odd", drops)], [0, 1, 2])
    assert result.metrics["seeds"] == [0, 2]
    assert list(result.metrics["nothing_left"]) == ["1"]
    assert "extra.odd dropped 2" in result.metrics["nothing_left"]["1"]
    assert result.metrics["samples"]["kept"] == 2
    assert read_json(kit.out / "metrics.json")["seeds"] == [0, 2]
    assert any(text.startswith("seed 1: ") for text in kit.reporter.warnings)
    page = Path(kit.out / "report.html").read_text(encoding="utf-8")
    assert "seed 1" in page


def test_where_no_seed_has_anything_left_the_group_fails(kit: Any, stage: Stage) -> None:
    def drops(chunk: Any, state: Any, ctx: Any) -> Any:
        return [one.drop("all of it") for one in chunk]

    with pytest.raises(NothingLeftError, match="no seed has rows left"):
        seeded(kit, [stage("extra.all", drops)], [0, 1])
    assert not (kit.out / "metrics.json").exists()
