"""The values that flow through a run: each field, frozen, copied, and refused where it breaks a rule."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfilter import (
    Completion,
    Failure,
    Message,
    ModelRef,
    Request,
    Row,
    Sample,
    Sampling,
    TokenSample,
    ToolCall,
    Unreadable,
    hash_of,
)
from nfilter.store.samples import sample_from_json, sample_to_json

CONVERSATION = (
    Message("system", "be brief"),
    Message("user", "first"),
    Message("assistant", "one"),
    Message("user", "second"),
    Message("assistant", "two"),
)


def sample(**more: Any) -> Sample:
    return Sample("a", CONVERSATION, **more)


def tokens(**more: Any) -> TokenSample:
    """Six tokens, the last four of which are the response."""
    values: dict[str, Any] = {
        "id": "a",
        "ids": np.arange(6, dtype=np.int64),
        "response": np.array([False, False, True, True, True, True]),
        "turn": np.array([0, 0, 1, 1, 1, 1], dtype=np.int16),
        "spans": np.stack([np.arange(6), np.arange(6) + 1], axis=1).astype(np.int32),
        "weights": np.array([0, 0, 1, 1, 1, 1], dtype=np.float32),
    }
    return TokenSample(**{**values, **more})


FIELDS = {
    Message: ("role", "content", "reasoning", "tool_calls", "name", "call_id", "weight"),
    Sample: (
        "id",
        "messages",
        "notes",
        "meta",
        "parents",
        "weight",
        "pinned",
        "dropped",
        "why",
        "tools",
        "rejected",
    ),
    TokenSample: (
        "id",
        "ids",
        "response",
        "turn",
        "spans",
        "weights",
        "scores",
        "reasons",
        "text",
        "cut",
        "remarks",
    ),
    Sampling: ("max_tokens", "temperature", "top_p", "seed", "stop"),
    Request: (
        "messages",
        "sampling",
        "logprobs",
        "sample_id",
        "draw",
        "tools",
        "tool_choice",
        "response_schema",
        "extra",
    ),
    Failure: ("kind", "detail"),
    Completion: (
        "text",
        "finish",
        "logprobs",
        "prompt_tokens",
        "completion_tokens",
        "failure",
        "cached",
        "usd",
        "reasoning",
        "tool_calls",
    ),
    ModelRef: ("path", "kind", "base", "digest"),
    Row: ("sample", "truth", "noise", "not_carried"),
    Unreadable: ("line", "error", "raw"),
}
VALUES = [
    CONVERSATION[0],
    sample(),
    tokens(),
    Sampling(),
    Request(CONVERSATION),
    Failure("timeout", "after 60 s"),
    Completion("x"),
    ModelRef("p", "adapter", "b", "d"),
    Row(sample()),
    Unreadable(3, "bad", "raw"),
]


@pytest.mark.parametrize("cls", FIELDS, ids=lambda cls: cls.__name__)
def test_the_fields_are_the_published_ones_in_order(cls: type) -> None:
    assert tuple(field.name for field in dataclasses.fields(cls)) == FIELDS[cls]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_no_field_can_be_set_and_none_added(value: Any) -> None:
    for field in dataclasses.fields(value):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(value, field.name, getattr(value, field.name))
    with pytest.raises((AttributeError, TypeError)):
        value.something_else = 1


def test_defaults() -> None:
    plain = sample()
    assert (plain.notes, plain.meta, plain.parents) == ({}, {}, ())
    assert (plain.weight, plain.pinned, plain.dropped, plain.why) == (1.0, False, None, None)
    assert Request(CONVERSATION) == Request(
        CONVERSATION, Sampling(256, 0.0, 1.0, 0, ()), False, "", 0
    )
    assert Completion("x") == Completion("x", "stop", None, 0, 0, None, False)
    assert Row(plain).truth is None


def test_a_made_samples_id_depends_on_stage_parents_and_draw_alone() -> None:
    said = (Message("user", "q"), Message("assistant", "a"))
    made = Sample.made("03-entp.mix", ["a", "b"], said, "mixed")
    assert (made.parents, made.messages, made.why) == (("a", "b"), said, "mixed")
    assert made.id == Sample.made("03-entp.mix", ("a", "b"), said[:1], "else").id
    others = [
        Sample.made("03-entp.mix", ["b", "a"], said, "mixed"),
        Sample.made("03-entp.mix", ["a", "b"], said, "mixed", draw=1),
        Sample.made("04-entp.mix", ["a", "b"], said, "mixed"),
    ]
    assert len({made.id, *(other.id for other in others)}) == 4
    with pytest.raises(ValueError, match="reason"):
        Sample.made("s", ["a"], said, " ")


def test_response_context_and_query_of_a_conversation() -> None:
    assert sample().response == "two"
    assert sample().context == CONVERSATION[:-1]
    assert sample().query == "second"


@pytest.mark.parametrize(
    ("messages", "response", "query", "context"),
    [
        ((), "", "", 0),
        ((Message("user", "q"),), "", "q", 1),
        ((Message("assistant", "a"),), "a", "", 0),
        ((Message("user", "q"), Message("assistant", "a"), Message("tool", "t")), "", "q", 3),
    ],
)
def test_conversations_without_one_of_the_parts(
    messages: tuple[Message, ...], response: str, query: str, context: int
) -> None:
    value = Sample("a", messages)
    assert (value.response, value.query, len(value.context)) == (response, query, context)


def test_a_note_is_added_to_a_copy_and_replaced_in_a_copy() -> None:
    before = sample()
    once = before.note("view", {"answer": "2"})
    twice = once.note("view", None).note("other", 1)
    assert before.notes == {}
    assert once.notes == {"view": {"answer": "2"}}
    assert twice.notes == {"view": None, "other": 1}
    for value in (before, once, twice):
        with pytest.raises(TypeError):
            value.notes["sneaked"] = 1  # type: ignore[index]


def test_relabel_changes_the_response_alone() -> None:
    before = sample()
    after = before.relabel("three", "two views agree on three")
    assert after.messages == (*CONVERSATION[:-1], Message("assistant", "three"))
    assert after.why == "two views agree on three"
    assert dataclasses.replace(after, messages=before.messages, why=None) == before
    asked = Sample("a", (Message("user", "q"),)).relabel("x", "there was none")
    assert asked.messages == (Message("user", "q"), Message("assistant", "x"))


PAIR = Sample(
    "p",
    (Message("user", "q"), Message("assistant", "good", reasoning="thought", weight=0.5)),
    rejected=Message("assistant", "bad", tool_calls=(ToolCall("f", "{}"),)),
)


def test_a_swap_exchanges_the_responses_of_a_pair_and_leaves_the_weight_in_place() -> None:
    after = PAIR.swap("flipped")
    assert after.messages == (
        Message("user", "q"),
        Message("assistant", "bad", tool_calls=(ToolCall("f", "{}"),), weight=0.5),
    )
    assert after.rejected == Message("assistant", "good", reasoning="thought")
    assert after.why == "flipped"
    assert dataclasses.replace(after.swap("back"), why=None) == PAIR


def test_a_pair_is_relabelled_to_its_rejected_response_and_to_no_other_text() -> None:
    assert PAIR.relabel("bad", "why") == PAIR.swap("why")
    assert PAIR.relabel("good", "why").messages == PAIR.messages
    with pytest.raises(ValueError, match="preference pair: its response can be exchanged"):
        PAIR.relabel("other", "why")


@pytest.mark.parametrize(
    "no_pair",
    [sample(), dataclasses.replace(PAIR, messages=PAIR.messages[:1])],
)
def test_what_is_no_pair_is_not_swapped(no_pair: Sample) -> None:
    with pytest.raises(ValueError, match="is no preference pair"):
        no_pair.swap("why")


def test_a_pair_survives_the_disk() -> None:
    assert sample_from_json(sample_to_json(PAIR)) == PAIR


def test_drop_weigh_and_keep_change_one_thing_and_say_why() -> None:
    before = sample()
    dropped, lighter, kept = before.drop("wrong"), before.weigh(0.25, "unsure"), before.keep("fine")
    assert (dropped.dropped, dropped.why) == ("wrong", "wrong")
    assert (lighter.weight, lighter.why) == (0.25, "unsure")
    assert kept == dataclasses.replace(before, why="fine")
    assert dataclasses.replace(dropped, dropped=None, why=None) == before
    assert dataclasses.replace(lighter, weight=1.0, why=None) == before


@pytest.mark.parametrize("reason", ["", " ", "\n\t"])
@pytest.mark.parametrize("action", ["relabel", "drop", "weigh", "keep", "swap"])
def test_no_decision_without_a_reason(action: str, reason: str) -> None:
    arguments = {"relabel": ("x",), "weigh": (0.5,)}.get(action, ())
    with pytest.raises(ValueError, match="needs a reason"):
        getattr(sample(), action)(*arguments, reason)


@pytest.mark.parametrize("weight", [-0.1, math.inf, -math.inf, math.nan])
def test_a_weight_is_finite_and_not_negative(weight: float) -> None:
    with pytest.raises(ValueError, match="finite and not negative"):
        sample().weigh(weight, "why not")


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
plain_text = st.text(st.characters(exclude_categories=["Cs"]))


@given(
    notes=st.dictionaries(plain_text, json_values, max_size=3),
    content=plain_text,
    weight=st.floats(0, 10),
    pinned=st.booleans(),
    dropped=st.none() | plain_text,
)
def test_a_sample_survives_the_disk(
    notes: dict[str, Any], content: str, weight: float, pinned: bool, dropped: str | None
) -> None:
    value = Sample(
        "a", (Message("user", content),), notes, {"column": [1]}, ("p",), weight, pinned, dropped
    )
    assert sample_from_json(sample_to_json(value)) == value


def test_a_sample_from_disk_cannot_be_changed_in_place_either() -> None:
    value = sample_from_json(sample_to_json(sample(notes={"a": 1}, meta={"b": 2})))
    for mapping in (value.notes, value.meta):
        with pytest.raises(TypeError):
            mapping["sneaked"] = 1  # type: ignore[index]


# --- tokens ------------------------------------------------------------------------------------------------


def test_reasons_start_empty_and_as_long_as_the_tokens() -> None:
    value = tokens()
    assert value.reasons.dtype == np.uint32
    np.testing.assert_array_equal(value.reasons, np.zeros(6))


@pytest.mark.parametrize("name", ["response", "turn", "weights", "reasons", "spans"])
def test_every_array_is_as_long_as_the_tokens(name: str) -> None:
    wrong = getattr(tokens(), name)[:-1]
    with pytest.raises(ValueError, match=f"'a': {name} has shape"):
        tokens(**{name: wrong})


def test_a_score_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="score 'loss' has shape"):
        tokens().score("loss", np.zeros(5, dtype=np.float32))


@pytest.mark.parametrize("weight", [1.0, -1.0, math.nan])
def test_a_weight_outside_the_response_is_refused(weight: float) -> None:
    weights = np.array([0, weight, 1, 1, 1, 1], dtype=np.float32)
    with pytest.raises(ValueError, match="outside the response"):
        tokens(weights=weights)
    with pytest.raises(ValueError, match="outside the response"):
        dataclasses.replace(tokens(), weights=weights)


def test_a_score_is_added_to_a_copy_as_float32() -> None:
    before = tokens()
    after = before.score("loss", np.arange(6, dtype=np.float64))  # type: ignore[arg-type]
    assert before.scores == {}
    assert after.scores["loss"].dtype == np.float32
    np.testing.assert_array_equal(after.scores["loss"], np.arange(6))


def test_a_mask_takes_response_tokens_out_of_the_loss_and_says_who_did() -> None:
    before = tokens()
    first = before.mask(np.array([True, False, True, False, False, False]), 0)
    second = first.mask(np.array([False, True, True, False, False, True]), 3)
    np.testing.assert_array_equal(before.weights, [0, 0, 1, 1, 1, 1])
    np.testing.assert_array_equal(before.reasons, np.zeros(6))
    np.testing.assert_array_equal(first.weights, [0, 0, 0, 1, 1, 1])
    np.testing.assert_array_equal(first.reasons, [0, 0, 1, 0, 0, 0])
    np.testing.assert_array_equal(second.weights, [0, 0, 0, 1, 1, 0])
    np.testing.assert_array_equal(second.reasons, [0, 0, 1 | 8, 0, 0, 8])
    assert (second.weights.dtype, second.reasons.dtype) == (np.float32, np.uint32)


def test_the_last_bit_is_usable() -> None:
    assert tokens().mask(np.ones(6, dtype=np.bool_), 31).reasons[-1] == 2**31


# --- models ------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(-50, 0), min_size=1, max_size=40))
def test_nll_is_equation_7(logprobs: list[float]) -> None:
    # H = -1/N sum_i log p_i, here with numpy's own mean instead of a sum over a count.
    assert Completion("x", logprobs=tuple(logprobs)).nll == pytest.approx(
        -float(np.mean(logprobs)), abs=1e-12
    )


def test_nll_of_known_probabilities() -> None:
    halves = Completion("x", logprobs=(math.log(0.5), math.log(0.5), math.log(0.25)))
    assert halves.nll == pytest.approx(4 / 3 * math.log(2))


@pytest.mark.parametrize("logprobs", [None, ()])
def test_no_logprobs_no_nll(logprobs: tuple[float, ...] | None) -> None:
    assert Completion("x", logprobs=logprobs).nll is None


def test_the_hash_of_an_id_is_64_bits_of_sha256() -> None:
    # The first 16 hex digits of the digest that FIPS 180-2 prints for "abc".
    assert hash_of("abc") == 0xBA7816BF8F01CFEA
    assert hash_of("\ud800") < 2**64
    assert len({hash_of(f"row-{n}") for n in range(1000)}) == 1000


@pytest.mark.parametrize("levels", [101, 700, 5000])
def test_arguments_that_are_too_deep_for_a_change_are_refused(levels: int) -> None:
    def nested(count: int) -> str:
        return '{"a": ' + "[" * (count - 1) + "]" * (count - 1) + "}"

    with pytest.raises(ValueError, match="the arguments of 'f' have more than 100 levels"):
        ToolCall("f", nested(levels))
    assert ToolCall("f", nested(100)).mapped(str.upper).arguments == nested(100).replace("a", "A")
