"""The engine holds contracts: notes that were promised, forms of verdicts, what models and metrics give back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from nfilter_example.model import Adder, AdderConfig
from nfilter_example.tokens import First
from nfilter_example.words import Words

from nfilter import Abilities, Contract, ContractError, Embeds, RecipeError, View
from nfilter.engine.lookup import prompts_of, site_of
from nfilter.recipe.check import check
from nfilter.recipe.model import load

X = frozenset({"x"})
Stage = Callable[..., type]


def noted(chunk: Any, state: Any, ctx: Any) -> Any:
    return [sample.note("x", {"n": 1}) for sample in chunk]


def test_a_note_that_is_promised_and_never_written_is_refused(kit: Any, stage: Stage) -> None:
    promises = stage(contract=Contract(writes=X))
    with pytest.raises(
        ContractError,
        match=r"01-extra\.stage: the contract writes 'x', and none of 10 samples has it",
    ):
        kit.run([promises])
    # Each remedy that is named, and the same command resumes.
    kit.run([stage(contract=Contract())])
    kit.run([stage(contract=Contract(writes=X, sometimes=X))])
    kit.run([stage(process=noted, contract=Contract(writes=X))])


def test_a_note_on_one_sample_of_any_chunk_is_enough(kit: Any, stage: Stage) -> None:
    def last(chunk: Any, state: Any, ctx: Any) -> Any:
        return [s.note("x", 1) if s.query == "9+1" else s for s in chunk]

    kit.run([stage(process=last, contract=Contract(writes=X))], chunk=3)
    assert sum("x" in sample.notes for sample in kit.artefact("01-extra.stage").samples()) == 1


def test_a_note_is_not_owed_where_every_sample_was_dropped_before(kit: Any, stage: Stage) -> None:
    def drop(chunk: Any, state: Any, ctx: Any) -> Any:
        return [sample.drop("all") for sample in chunk]

    kit.run([stage("extra.drop", drop), stage("extra.last", contract=Contract(writes=X))])
    # What an earlier stage wrote on samples that are gone is not this stage's.
    first = stage("extra.first", noted, contract=Contract(writes=X))
    half = stage(
        "extra.half",
        lambda chunk, *_: [s.drop("odd") if int(s.response) % 2 else s for s in chunk],
    )
    kit.run([first, half, stage("extra.last", noted, contract=Contract(writes=X))])


@pytest.mark.parametrize(
    "verdict",
    [{"flagged": 0, "noise_score": 0.5}, {"flagged": True, "noise_score": 2}, {"flagged": True}],
)
def test_a_verdict_of_another_form_is_refused(kit: Any, stage: Stage, verdict: Any) -> None:
    wrong = stage(
        process=lambda chunk, *_: [sample.note("x", verdict) for sample in chunk],
        contract=Contract(writes=X, verdicts=X),
    )
    with pytest.raises(ContractError, match=r"01-extra\.stage: sample '.*': note 'x' is a verdict"):
        kit.run([wrong])


@pytest.mark.parametrize(
    ("kind", "note", "says"),
    [
        ("views", {"answer": "A", "nll": "low"}, "nll is 'low', not a number or None; write"),
        ("views", {"answer": "A", "calls": -1}, "calls is -1, not a whole number of at least 0; write"),
        ("proposes", {"answer": 3}, "answer is 3, not a text or None; write"),
        ("verdicts", {"flagged": True, "noise_score": 2}, "noise_score is 2, not a number from 0 to 1; write"),
    ],
)  # fmt: skip
def test_the_field_of_a_note_that_has_another_form_is_named(
    kit: Any, stage: Stage, kind: str, note: Any, says: str
) -> None:
    wrong = stage(
        process=lambda chunk, *_: [sample.note("x", note) for sample in chunk],
        contract=Contract(writes=X, **{kind: X}),
    )
    with pytest.raises(ContractError) as error:
        kit.run([wrong])
    assert str(error.value).startswith("01-extra.stage: sample ")
    assert "note 'x'" in str(error.value)
    assert says in str(error.value)


def test_the_stage_that_reads_a_note_of_another_form_is_named(kit: Any, stage: Stage) -> None:
    """A note that its writer did not declare as a view is first looked at by the stage that reads it as one."""
    writer = stage(
        "extra.writer",
        lambda chunk, *_: [sample.note("x", {"answer": 3}) for sample in chunk],
        contract=Contract(writes=X),
    )

    def read(chunk: Any, *_: Any) -> Any:
        return [sample.keep(f"says {View.of(sample, 'x')}") for sample in chunk]

    reader = stage("extra.reader", read, contract=Contract(reads=X))
    with pytest.raises(ContractError) as error:
        kit.run([writer, reader])
    assert str(error.value).startswith("02-extra.reader: sample ")
    assert str(error.value).endswith("note 'x' is not a view: answer is 3, not a text or None")


def test_a_score_that_is_promised_and_never_written_is_refused(kit: Any) -> None:
    class Silent(First):
        """Says that it writes a score."""

        name = "extra.silent"

        def process_tokens(self, chunk: Any, state: Any, ctx: Any, bit: int) -> Any:
            return chunk

    class Forgets(First):
        """Has a fit that returns nothing."""

        name = "extra.forgets"

        def fit_tokens(self, stream: Any, ctx: Any) -> Any:
            list(stream)

    with pytest.raises(
        ContractError, match=r"extra\.silent: the contract writes 'position', and none of 10"
    ):
        kit.run([Silent], text=kit.recipe_text([], "tokens:\n  - {use: extra.silent}\n"))
    with pytest.raises(ContractError, match=r"fit_tokens did not return a State"):
        kit.run([Forgets], text=kit.recipe_text([], "tokens:\n  - {use: extra.forgets}\n"))


@pytest.mark.parametrize(
    ("figures", "says"),
    [
        (lambda self, data: {"x": float("inf")}, "returned values that are not JSON"),
        (lambda self, data: ["x"], "returned a list; return a mapping"),
        (lambda self, data: 1 / 0, "ZeroDivisionError"),
    ],
)
def test_a_metric_that_fails_is_named_and_left_out_and_ends_no_run(
    kit: Any, figures: Any, says: str
) -> None:
    broken = type("Broken", (Words,), {"name": "broken", "compute": figures})
    metrics = kit.run(hooks={"metrics": [broken]}).metrics
    assert "broken" not in metrics
    assert metrics["samples"]["kept"] == 10
    (said,) = [text for text in kit.reporter.warnings if "metric 'broken'" in text]
    assert said.startswith(
        "metric 'broken' of plugin 'extra' (extra 1.0) is left out of metrics.json: "
    )
    assert says in said


@pytest.mark.parametrize(
    ("contract", "says"),
    [
        (None, "contract returned None; write return Contract(...)"),
        (Contract(verdicts=X), "'x' is among verdicts and not among writes"),
        (Contract(writes="x"), "writes is 'x', not a set of names"),  # type: ignore[arg-type]
        (Contract(needs=("expert",)), "needs is ('expert',), not a tuple of ModelNeed"),  # type: ignore[arg-type]
    ],
)
def test_check_refuses_a_contract_that_is_none(
    kit: Any, stage: Stage, contract: Any, says: str
) -> None:
    made = stage()
    made.contract = classmethod(lambda cls, config: contract)  # type: ignore[attr-defined]
    (kit.home / "rows.qa").write_text("1+1 => 2\n")
    (kit.home / "r.yaml").write_text(kit.recipe_text([made]))
    plugins = kit.catalogue(stages=[made])
    recipe = load(kit.home / "r.yaml", plugins)
    (fault,) = check(recipe, plugins, site_of(recipe, plugins), prompts_of(recipe, plugins)).faults
    assert fault.startswith(f"{kit.home / 'r.yaml'}:7: samples[0]: extra.stage: contract")
    assert says in fault
    assert fault.endswith("; plugin 'extra' of extra 1.0")
    assert RecipeError(fault).exit_code == 2


@pytest.mark.parametrize(
    ("members", "says"),
    [
        ({"generate": lambda s, r: None}, "generate returned None, not a list"),
        ({"generate": lambda s, r: r}, "generate returned a Request where a Completion belongs"),
        ({"embed": lambda s, t: np.zeros(3)}, r"embed returned \(3,\) for"),
        ({"encode": lambda s, x, **_: []}, "encode returned 0 samples for 10"),
    ],
)
def test_what_a_model_returns_is_counted(
    kit: Any, stage: Stage, members: dict[str, Any], says: str
) -> None:
    from nfilter import Request

    def ask(chunk: Any, state: Any, ctx: Any) -> Any:
        if "embed" in members:
            ctx.model("m").embed(["a", "b"])
        ctx.model("m").generate([Request(sample.messages) for sample in chunk])
        return chunk

    able = Adder.abilities(AdderConfig()).capabilities | ({Embeds} if "embed" in members else set())
    abilities = classmethod(lambda cls, config: Abilities(able))
    backend = type("Made", (Adder,), {"name": "extra.made", "abilities": abilities, **members})
    stages = [] if "encode" in members else [stage(process=ask)]
    more = "models: {m: {use: extra.made}, student: m}\n" + (
        "tokens:\n  - {use: example.first}\n" if "encode" in members else ""
    )
    with pytest.raises(ContractError, match=says):
        kit.run(stages, more=more, hooks={"backends": [backend]})
