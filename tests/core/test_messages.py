"""What a turn holds beside its text: on disk, in keys of calls, in requests to servers, under the engine's rules."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from nfilter import ContractError, Message, Request, Row, Sample, ToolCall, Unreadable
from nfilter.api.stages import Contract
from nfilter.engine.invariants import check_samples, decide
from nfilter.models.control_tokens import neutral
from nfilter.recipe.not_carried import NotCarried
from nfilter.store.journal import call_key
from nfilter.store.samples import sample_from_json, sample_to_json

CALL = ToolCall("weather", '{"city": "Rome"}', "c1")
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
TALK = (
    Message("user", "Rome?", name="ann"),
    Message("assistant", "", reasoning="look it up", tool_calls=(CALL,), weight=0.5),
    Message("tool", "20 C", name="weather", call_id="c1"),
    Message("assistant", "20 degrees", reasoning="it says 20 C", weight=2.0),
)


def test_a_sample_survives_disk() -> None:
    sample = Sample("a", TALK, tools=(TOOL,))
    assert sample_from_json(json.loads(json.dumps(sample_to_json(sample)))) == sample
    plain = Sample("a", (Message("user", "x"), Message("assistant", "y")))
    assert sample_to_json(plain)["messages"] == [["user", "x"], ["assistant", "y"]]
    assert "tools" not in sample_to_json(plain)


@pytest.mark.parametrize(
    "arguments",
    [
        "",
        "[1]",
        '"x"',
        "{'city': 'Rome'}",
        '{"x": 1, "x": 2}',
        '{"x": NaN}',
        '{"x": [{"y": 1e999}]}',
    ],
)
def test_arguments_are_an_object(arguments: str) -> None:
    says = r"not a JSON object|Expecting|stands twice|is not JSON|too large"
    with pytest.raises(ValueError, match=says):
        ToolCall("weather", arguments)


def test_the_key_of_a_call_holds_what_a_model_is_shown() -> None:
    request = Request(TALK[:3])
    keys = {
        call_key("m", request),
        call_key("m", replace(request, tools=(TOOL,))),
        call_key("m", Request((*TALK[:2], replace(TALK[2], call_id="c2")))),
        call_key("m", Request((TALK[0], replace(TALK[1], tool_calls=()), TALK[2]))),
    }
    assert len(keys) == 4
    lighter = Request((TALK[0], replace(TALK[1], weight=0.0), TALK[2]))
    assert call_key("m", lighter) == call_key("m", request)


BAD = "<|im_end|>"


@pytest.mark.parametrize(
    "message",
    [
        Message("assistant", "", reasoning=BAD),
        Message("assistant", "", tool_calls=(ToolCall("f", json.dumps({"a": [BAD]})),)),
        Message("assistant", "", tool_calls=(ToolCall("f", json.dumps({BAD: 1})),)),
        Message("assistant", "", tool_calls=(ToolCall("f", '{"a": "\\u003c|im_end|\\u003e"}'),)),
        Message("assistant", "", tool_calls=(ToolCall(BAD, "{}"),)),
        Message("tool", "x", name=BAD),
        Message("tool", "x", call_id=BAD),
    ],
)
def test_control_tokens_are_broken_wherever_they_stand(message: Message) -> None:
    done = neutral(Request((message,)))
    assert done.broken == (BAD,)
    assert BAD not in "\n".join(done.request.messages[0].texts())


def test_control_tokens_are_broken_in_tools() -> None:
    tool = {"type": "function", "function": {"name": "f", "description": f"x {BAD}"}}
    done = neutral(Request((Message("user", "x"),), tools=(tool,)))
    assert BAD not in json.dumps(done.request.tools)
    assert neutral(Request(TALK, tools=(TOOL,))).request == Request(TALK, tools=(TOOL,))


def test_another_text_has_no_reasoning_and_keeps_the_weight() -> None:
    sample = Sample("a", TALK)
    assert sample.relabel("21", "better").messages[-1] == Message("assistant", "21", weight=2.0)
    assert sample.relabel("20 degrees", "the same").messages == TALK
    kept, decision = decide("s", sample, sample.relabel("21", "better"))
    assert kept.response == "21"
    assert decision is not None
    assert decision["reasoning_before"] == "it says 20 C"


def test_no_text_takes_the_place_of_a_call() -> None:
    sample = Sample("a", TALK[:2])
    kept, decision = decide("s", sample, sample.relabel("20", "so I guess"))
    assert kept.messages == TALK[:2]
    assert decision is not None
    assert (decision["action"], "calls a tool" in decision["reason"]) == ("refused", True)
    dropped, _ = decide("s", sample, sample.drop("bad call"))
    assert dropped.dropped == "bad call"


def test_a_stage_changes_nothing_beside_the_text() -> None:
    sample = Sample("a", TALK, tools=(TOOL,))
    other = replace(sample, messages=(*TALK[:3], replace(TALK[3], weight=0.0)), why="lighter")
    with pytest.raises(ContractError, match="other fields than its text"):
        check_samples("s", Contract(), [sample], [other])
    with pytest.raises(ContractError, match="tools was changed"):
        check_samples("s", Contract(), [sample], [replace(sample, tools=(), why="fewer")])


def test_what_is_not_carried_is_counted_once_a_row() -> None:
    sample = Sample("a", TALK)
    rows = [
        Row(sample, not_carried=("images", "images", "refusal")),
        Row(sample, not_carried=("images",)),
        Row(sample),
        Unreadable(4, "not JSON", ""),
    ]
    found = NotCarried(rows)
    assert found.counts() == {"images": 2, "refusal": 1}
    first, second = found.warnings()
    assert first.startswith("2 of 3 readable rows hold images, which")
    assert second.startswith("1 of 3 readable row holds refusal, which")


def test_a_person_sees_all_that_a_turn_holds() -> None:
    assert TALK[1].shown() == '(thought: look it up)\n(calls weather {"city": "Rome"})'
    assert TALK[2].shown() == "20 C"
