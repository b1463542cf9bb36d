"""What no stage may break: each refusal names the plugin and the sample, and leaves nothing half published."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from nfilter import Contract, ContractError, Message, PluginError, Sample, TokenSample, ToolCall
from nfilter.engine.invariants import check_samples, check_tokens, decide

Stage = Callable[..., type]
CHUNK = tuple(
    Sample(
        key,
        (Message("user", f"q{key}"), Message("assistant", "old")),
        {"before": [1]},
        {"column": 1},
    )
    for key in "abc"
)
WRITES = Contract(writes=frozenset({"view"}))
GROWS = Contract(writes=frozenset({"view"}), new_samples=True)


def last(change: Callable[[Sample], Sample]) -> list[Sample]:
    """The chunk with its last sample changed."""
    return [*CHUNK[:-1], change(CHUNK[-1])]


def made(**more: Any) -> Sample:
    return Sample(
        "new", (Message("user", "q"), Message("assistant", "a")), **{"parents": ("c",), **more}
    )


def put(**fields: Any) -> Callable[[Sample], Sample]:
    return lambda sample: dataclasses.replace(sample, **fields)


REFUSED: dict[str, tuple[Contract, Sequence[Sample], str]] = {
    "missing": (WRITES, CHUNK[:-1], "sample 'c' is missing"),
    "nothing": (WRITES, (), "sample 'a' is missing"),
    "reordered": (WRITES, CHUNK[::-1], "the order differs"),
    "twice": (WRITES, (*CHUNK, CHUNK[0]), "the order differs"),
    "new": (WRITES, (*CHUNK, made()), "sample 'new' is new, and the contract does not say new_samples"),
    "renamed": (WRITES, last(put(id="d")), "sample 'c' is missing"),
    "new without parents": (GROWS, (*CHUNK, made(parents=())), "new sample 'new' has parents ()"),
    "new of a stranger": (GROWS, (*CHUNK, made(parents=("z",))), "new sample 'new' has parents ('z',)"),
    "new twice": (GROWS, (*CHUNK, made(), made()), "two new samples have the id 'new'"),
    "new and pinned": (GROWS, (*CHUNK, made(pinned=True)), "new sample 'new' is pinned; only a person pins"),
    "new with a stray note": (GROWS, (*CHUNK, made(notes={"stray": 1})), "note 'stray' is neither a parent's nor among"),
    "new with a bad weight": (GROWS, (*CHUNK, made(weight=-1.0)), "new sample 'new': the weight -1.0"),
    "new with a bad note": (GROWS, (*CHUNK, made(notes={"view": math.nan})), "note 'view' is not JSON"),
    "undeclared note": (WRITES, last(lambda s: s.note("veiw", 1)), "sample 'c': note 'veiw' is not among the contract's writes: ['view']"),
    "another's note": (WRITES, last(lambda s: s.note("before", [2])), "sample 'c': note 'before' is not among the contract's writes"),
    "removed note": (WRITES, last(put(notes={})), "sample 'c': note 'before' was removed"),
    "note of NaN": (WRITES, last(lambda s: s.note("view", {"nll": math.nan})), "sample 'c': note 'view' is not JSON"),
    "note of infinity": (WRITES, last(lambda s: s.note("view", math.inf)), "note 'view' is not JSON"),
    "note of an object": (WRITES, last(lambda s: s.note("view", object())), "note 'view' is not JSON"),  # type: ignore[arg-type]
    "note of an array": (WRITES, last(lambda s: s.note("view", np.zeros(2))), "note 'view' is not JSON"),  # type: ignore[arg-type]
    "note of a numpy number": (WRITES, last(lambda s: s.note("view", np.float32(1))), "note 'view' is not JSON"),  # type: ignore[arg-type]
    "note of half a character": (WRITES, last(lambda s: s.note("view", "\ud800")), "note 'view' is not JSON"),
    "response of half a character": (WRITES, last(lambda s: s.relabel("\ud800", "why")), "cannot be encoded as UTF-8"),
    "reason of half a character": (WRITES, last(lambda s: s.keep("\ud800")), "cannot be encoded as UTF-8"),
    "meta": (WRITES, last(put(meta={"column": 2})), "sample 'c': meta was changed"),
    "parents": (WRITES, last(put(parents=("a",))), "sample 'c': parents was changed"),
    "pinned": (WRITES, last(put(pinned=True)), "sample 'c': pinned was changed"),
    "context": (WRITES, last(put(messages=(Message("user", "other"), Message("assistant", "old")))), "messages before the response were changed"),
    "role": (WRITES, last(put(messages=(Message("user", "qc"), Message("user", "old")))), "messages before the response were changed"),
    "relabel without a reason": (WRITES, last(put(messages=(Message("user", "qc"), Message("assistant", "x")))), "changed without a reason"),
    "weight without a reason": (WRITES, last(put(weight=0.5)), "changed without a reason"),
    "drop without a reason": (WRITES, last(put(dropped="x")), "changed without a reason"),
    "drop with an empty reason": (WRITES, last(put(dropped="", why=" ")), "changed without a reason"),
    "drop whose own reason is empty": (WRITES, last(put(dropped="", why="x")), "dropped without a reason"),
    "negative weight": (WRITES, last(put(weight=-0.5, why="x")), "the weight -0.5 is negative or not finite"),
    "weight of NaN": (WRITES, last(put(weight=math.nan, why="x")), "the weight nan is negative or not finite"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_each_breach_is_refused_and_says_whose_it_is(name: str) -> None:
    contract, returned, says = REFUSED[name]
    with pytest.raises(ContractError) as caught:
        check_samples("07-plugin.stage", contract, CHUNK, returned)
    assert str(caught.value).startswith("07-plugin.stage: ")
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("contract", "returned"),
    [
        (Contract(), CHUNK),
        (Contract(), [dataclasses.replace(sample) for sample in CHUNK]),
        (WRITES, last(lambda s: s.note("view", {"answer": None, "list": [1, 2.5, True, "é"]}))),
        (WRITES, last(lambda s: s.note("before", [1]))),
        (Contract(), last(lambda s: s.relabel("new", "why"))),
        (Contract(), last(lambda s: s.drop("why"))),
        (Contract(), last(lambda s: s.weigh(0.0, "why"))),
        (Contract(), last(lambda s: s.keep("why"))),
        (GROWS, (CHUNK[0], made(notes={"before": [1], "view": 2}), *CHUNK[1:])),
    ],
)
def test_what_keeps_the_rules_passes(contract: Contract, returned: Sequence[Sample]) -> None:
    check_samples("07-plugin.stage", contract, CHUNK, returned)


PAIR = Sample(
    "p",
    (Message("user", "q"), Message("assistant", "", tool_calls=(ToolCall("f", "{}"),))),
    rejected=Message("assistant", "no"),
)


@pytest.mark.parametrize(
    "now",
    [
        put(rejected=Message("assistant", "other"), why="w"),
        put(rejected=None, why="w"),
        put(messages=(PAIR.messages[0], Message("assistant", "no")), why="w"),
        put(messages=(PAIR.messages[0], Message("assistant", "new")), why="w"),
    ],
)
def test_the_texts_of_a_preference_pair_stay(now: Callable[[Sample], Sample]) -> None:
    with pytest.raises(ContractError, match=r"'p': a response of the preference pair was changed"):
        check_samples("07-plugin.stage", Contract(), [PAIR], [now(PAIR)])


def test_a_sample_does_not_become_a_pair() -> None:
    with pytest.raises(ContractError, match="a response of the preference pair was changed"):
        check_samples(
            "07-plugin.stage", Contract(), CHUNK, last(put(rejected=Message("assistant", "x")))
        )


@pytest.mark.types("a response of the preference pair was changed; use swap()")
def test_a_swap_is_recorded_as_a_relabel_also_of_a_call_of_a_tool() -> None:
    swapped = PAIR.swap("the judge prefers the other")
    check_samples("07-plugin.stage", Contract(), [PAIR], [swapped])
    done, decision = decide("07-plugin.stage", PAIR, swapped)
    assert done == dataclasses.replace(swapped, why=None)
    assert decision is not None
    assert (decision["action"], decision["before"], decision["after"]) == ("relabel", "", "no")
    pinned = dataclasses.replace(PAIR, pinned=True)
    kept, refused = decide("07-plugin.stage", pinned, pinned.swap("why"))
    assert kept == pinned
    assert refused is not None
    assert refused["action"] == "refused"


def test_a_breach_ends_the_run_and_publishes_nothing_of_its_chunk(kit: Any, stage: Stage) -> None:
    def process(chunk: Sequence[Sample], state: Any, ctx: Any) -> Any:
        return chunk if chunk[0].query == "0+1" else [sample.note("stray", 1) for sample in chunk]

    with pytest.raises(ContractError, match=r"^01-extra\.stage: sample '\w+': note 'stray'"):
        kit.run([stage(process=process)], chunk=4)
    artefact = kit.artefact("01-extra.stage")
    assert (artefact.has_chunk(0), artefact.has_chunk(1)) == (True, False)
    assert not (artefact.directory / "done.json").exists()
    assert not (kit.out / "cleaned.jsonl").exists()


def test_notes_cannot_be_written_past_the_contract_in_place(kit: Any, stage: Stage) -> None:
    def process(chunk: Sequence[Sample], state: Any, ctx: Any) -> Any:
        chunk[0].notes["stray"] = 1  # type: ignore[index]
        return chunk

    with pytest.raises(PluginError, match="mappingproxy"):
        kit.run([stage(process=process)])


def test_a_new_sample_cannot_take_the_id_of_a_dropped_one(kit: Any, stage: Stage) -> None:
    ids: list[str] = []

    def drop_first(chunk: Sequence[Sample], state: Any, ctx: Any) -> Any:
        ids.append(chunk[0].id)
        return [chunk[0].drop("wrong"), *chunk[1:]]

    def revive(chunk: Sequence[Sample], state: Any, ctx: Any) -> Any:
        back = Sample(ids[0], chunk[0].messages, parents=(chunk[0].id,))
        return [*chunk, back]

    with pytest.raises(
        ContractError,
        match=r"02-extra\.revive: new sample '\w+' has the id of an existing sample",
    ):
        kit.run(
            [
                stage("extra.drop", drop_first),
                stage("extra.revive", revive, contract=Contract(new_samples=True)),
            ],
            chunk=10,
        )


# --- pinned ------------------------------------------------------------------------------------------------

PINNED = dataclasses.replace(CHUNK[0], pinned=True)


@pytest.mark.parametrize(
    "now", [PINNED.drop("the stage's reason"), PINNED.relabel("x", "the stage's reason"), PINNED.weigh(0, "the stage's reason")]
)  # fmt: skip
def test_a_pinned_sample_stays_as_it_is_and_the_attempt_is_on_record(now: Sample) -> None:
    kept, decision = decide("s", PINNED, now.note("view", 1))
    assert kept == PINNED.note("view", 1)
    assert decision == {
        "id": "a", "stage": "s", "action": "refused", "reason": "pinned by a person; the stage said: the stage's reason"
    }  # fmt: skip


def test_a_pinned_sample_may_be_kept_and_noted() -> None:
    kept, decision = decide("s", PINNED, PINNED.keep("fine").note("view", 1))
    assert kept == PINNED.note("view", 1)
    assert decision == {"id": "a", "stage": "s", "action": "keep", "reason": "fine"}


def test_a_pinned_row_goes_through_a_run_untouched(
    kit: Any, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nfilter_example.source import QuestionsAndAnswers

    from nfilter import Row

    read = QuestionsAndAnswers.read

    def pinning(self: Any) -> Any:
        for row in read(self):
            assert isinstance(row, Row)
            yield dataclasses.replace(
                row, sample=dataclasses.replace(row.sample, pinned=row.sample.query == "3+1")
            )

    monkeypatch.setattr(QuestionsAndAnswers, "read", pinning)

    def drop_all(chunk: Sequence[Sample], state: Any, ctx: Any) -> Any:
        return [sample.drop("all of them") for sample in chunk]

    def saw(chunk: Sequence[Sample], state: Any, ctx: Any) -> Any:
        assert [sample.query for sample in chunk] == ["3+1"]
        return chunk

    kit.run([stage("extra.drop", drop_all), stage("extra.saw", saw)])
    assert [row["line"] for row in kit.lines("cleaned.jsonl")] == ["3+1 => 4"]
    actions = [row["action"] for row in kit.decisions("01-extra.drop")]
    assert (actions.count("drop"), actions.count("refused")) == (9, 1)


# --- token stages ------------------------------------------------------------------------------------------


def tokens(key: str = "a") -> TokenSample:
    return TokenSample(
        id=key,
        ids=np.arange(5, dtype=np.int64),
        response=np.array([False, True, True, True, True]),
        turn=np.array([0, 1, 1, 1, 1], dtype=np.int16),
        spans=np.stack([np.arange(5), np.arange(5) + 1], axis=1).astype(np.int32),
        weights=np.array([0, 1, 1, 1, 1], dtype=np.float32),
        scores={"loss": np.array([np.nan, 1, 2, 3, 4], dtype=np.float32)},
    )


def replaced(**fields: Any) -> TokenSample:
    return dataclasses.replace(tokens(), **fields)


def forced(**fields: Any) -> TokenSample:
    """A token sample that could not have been made: what a stage that writes into arrays may return."""
    value = replaced()
    for name, item in fields.items():
        object.__setattr__(value, name, item)
    return value


EVERYWHERE = np.ones(5, dtype=np.bool_)
SHORT = replaced(
    ids=np.arange(4), response=np.array([False, True, True, True]), turn=np.zeros(4, np.int16),
    spans=np.zeros((4, 2), np.int32), weights=np.zeros(4, np.float32), scores={}, reasons=np.zeros(4, np.uint32),
)  # fmt: skip
NO_TOKENS: dict[str, tuple[list[TokenSample], str]] = {
    "missing": ([], "not the same samples in the same order"),
    "renamed": ([tokens("b")], "not the same samples in the same order"),
    "ids": ([replaced(ids=np.arange(5)[::-1])], "ids was changed; it is fixed at encoding"),
    "length": ([SHORT], "ids was changed"),
    "response": ([forced(response=EVERYWHERE)], "response was changed"),
    "turn": ([replaced(turn=np.zeros(5, np.int16))], "turn was changed"),
    "spans": ([replaced(spans=np.zeros((5, 2), np.int32))], "spans was changed"),
    "outside": ([forced(weights=np.ones(5, np.float32))], "a weight outside the response is not 0"),
    "negative": (
        [replaced(weights=np.array([0, -1, 1, 1, 1], np.float32))],
        "negative or not finite",
    ),
    "nan": (
        [replaced(weights=np.array([0, np.nan, 1, 1, 1], np.float32))],
        "negative or not finite",
    ),
    "silent": (
        [replaced(weights=np.array([0, 0, 1, 1, 1], np.float32))],
        "set to 0 without a reason; use mask",
    ),
    "another's bit": (
        [tokens().mask(EVERYWHERE, 1)],
        "a reason bit of another stage was set or cleared; this stage's bit is 2",
    ),
    "stray score": (
        [tokens().score("excess", np.zeros(5, np.float32))],
        "score 'excess' is not among the contract's writes",
    ),
    "another's score": (
        [tokens().score("loss", np.zeros(5, np.float32))],
        "score 'loss' is not among the contract's writes",
    ),
    "removed score": ([replaced(scores={})], "score 'loss' was removed"),
}


@pytest.mark.parametrize("name", NO_TOKENS)
def test_each_breach_of_a_token_stage_is_refused(name: str) -> None:
    returned, says = NO_TOKENS[name]
    with pytest.raises(ContractError) as caught:
        check_tokens("plugin.tokens", Contract(), [tokens()], returned, 2)
    assert str(caught.value).startswith("plugin.tokens: ")
    assert says in str(caught.value)


def test_a_token_stage_may_not_clear_an_earlier_stages_reason() -> None:
    before = tokens().mask(EVERYWHERE, 0)
    after = dataclasses.replace(before, reasons=np.zeros(5, np.uint32))
    with pytest.raises(ContractError, match="set or cleared"):
        check_tokens("plugin.tokens", Contract(), [before], [after], 2)


def test_what_a_token_stage_may_do() -> None:
    contract = Contract(writes=frozenset({"loss", "excess"}))
    half = replaced(weights=np.array([0, 0.5, 1, 1, 2], np.float32))
    changed = half.mask(np.array([False, False, True, False, False]), 2)
    changed = changed.score("excess", np.zeros(5, np.float32)).score("loss", np.ones(5, np.float32))
    check_tokens("plugin.tokens", contract, [tokens()], [changed], 2)
    check_tokens("plugin.tokens", Contract(), [tokens()], [replaced()], 2)
