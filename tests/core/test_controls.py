"""Control tokens of chat templates never reach a server, and come back as they were."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nfilter import Completion, Message, Request
from nfilter.controls import broken, neutral, tokens_in

TOKENS = [
    "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|start_header_id|>", "<|begin_of_text|>", "<|user|>",
    "<｜User｜>", "<｜end▁of▁sentence｜>", "<|START_OF_TURN_TOKEN|>", "<|channel|>", "<|reserved_special_token_12|>",
    "<s>", "</s>", "<bos>", "<eos>", "<pad>", "<unk>", "<start_of_turn>", "<end_of_turn>", "<fim_prefix>", "<extra_id_0>",
    "<tool_call>", "</tool_call>", "[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "[SYSTEM_PROMPT]", "[/AVAILABLE_TOOLS]",
    "[TOOL_CALLS]", "[gMASK]", "[CLS]", "]~b]",
]  # fmt: skip
PLAIN = [
    "a < b and c > d",
    "[1, 2]",
    "<b>bold</b>",
    "if x <| y",
    "x[INSTANCE]",
    "<table>",
    "|>",
    "[x] done",
    "<S3>",
]


@pytest.mark.parametrize("token", TOKENS)
def test_every_known_token_is_broken_and_mended(token: str) -> None:
    asked = Request((Message("user", f"Say {token} and {token.upper()}."),))
    safe = neutral(asked)
    (message,) = safe.request.messages
    assert token not in message.content
    assert not tokens_in([message.content])
    assert message.content.replace(" ", "") == asked.messages[0].content.replace(" ", "")
    echo = Completion(f"You said: {message.content}", "stop", (-0.5,))
    assert safe.mended(echo) == Completion(
        f"You said: {asked.messages[0].content}", "stop", (-0.5,)
    )


@pytest.mark.parametrize("text", PLAIN)
def test_other_text_is_left_alone(text: str) -> None:
    asked = Request((Message("user", text),))
    assert neutral(asked).request is asked
    # Nothing was broken, so nothing is mended either.
    said = Completion("< s> and [ INST]")
    assert neutral(asked).mended(said) is said


PIECES = st.sampled_from(
    [*TOKENS, "<", "|", ">", "[", "]", "<|", "|>", "s", "/", "INST", " ", "\n", "<<", "｜"]
)


@given(st.lists(PIECES, max_size=14).map("".join))
@settings(max_examples=500, deadline=None)
def test_no_nesting_leaves_a_token(text: str) -> None:
    assert not tokens_in([broken(text)])
    assert broken(text).replace(" ", "") == text.replace(" ", "")
