"""Masks where the words of an answer stand elsewhere too, or where a template writes more or less than the turns say."""

from __future__ import annotations

from chat_styles import Style
from test_published import marked
from test_templates import tokenizer_of

from nfilter import Message, Sample, TokenSample, ToolCall
from nfilter_hf.encoding import encode
from nfilter_hf.loading import Text
from nfilter_hf.templates.chat import Chat

ASK = Message("user", "red ?")

# A system text of its own, as in SmolLM3, Phi-4-reasoning and Granite 3.3.
OWN_SYSTEM = (
    "{{ '<|im_start|>system\\nThis is Phi. Write <think> thoughts </think> first.<|im_end|>\\n' }}"
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
# The header of the next answer is always written, as in the first release of Llama 3.
ALWAYS_ASKS = (
    "{{ bos_token }}{% for m in messages %}"
    "{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\\n\\n' + m.content | trim + '<|eot_id|>' }}{% endfor %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}"
)
# Reasoning in a text is cut off, as in DeepSeek V3.1.
CUTS = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '<|user|>' + m.content }}{% else %}"
    "{{ '<|assistant|></think>' + m.content.split('</think>')[-1] + '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|></think>' }}{% endif %}"
)
# Turns have no end, and reasoning is written in another form, as in GLM 4.6.
NO_END = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ '<|user|>\\n' + m.content }}{% else %}"
    "{% set parts = m.content.split('</think>') %}{{ '<|assistant|>\\n<think>' }}"
    "{% if parts | length > 1 %}{{ parts[0].replace('<think>', '').strip() }}{% endif %}"
    "{{ '</think>' }}{% if parts[-1].strip() %}{{ '\\n' + parts[-1].strip() }}{% endif %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
# The same with calls and results, as in GLM 4.6.
NO_END_TOOLS = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ '<|user|>\n' + m.content }}"
    "{% elif m.role == 'tool' %}{{ '<|observation|>\n<tool_response>\n' + m.content + '\n</tool_response>' }}"
    "{% else %}{{ '<|assistant|>\n' + (m.content or '') }}{% for c in m.tool_calls or [] %}{{ '<tool_call>' + c.function.name }}"
    "{% for k, v in c.function.arguments.items() %}{{ '<arg_key>' + k + '</arg_key><arg_value>' + v | string + '</arg_value>' }}{% endfor %}"
    "{{ '</tool_call>' }}{% endfor %}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
STYLES = {
    "system": Style("system", OWN_SYSTEM, lambda turns: iter(()), ("<|im_start|>", "<|im_end|>"), eos="<|im_end|>", bos=None),
    "asks": Style("asks", ALWAYS_ASKS, lambda turns: iter(()), ("<|begin|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"), eos="<|eot_id|>", bos="<|begin|>"),
    "cuts": Style("cuts", CUTS, lambda turns: iter(()), ("<s>", "<|user|>", "<|assistant|>", "<|end|>"), eos="<|end|>", soft=("<think>", "</think>")),
    "no end, tools": Style("no end, tools", NO_END_TOOLS, lambda turns: iter(()), ("<|user|>", "<|assistant|>", "<|observation|>", "<|endoftext|>"), eos="<|endoftext|>", bos=None, soft=("<tool_call>", "</tool_call>", "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>", "<tool_response>", "</tool_response>")),
    "no end": Style("no end", NO_END, lambda turns: iter(()), ("<|user|>", "<|assistant|>", "<|endoftext|>"), eos="<|endoftext|>", bos=None, soft=("<think>", "</think>")),
}  # fmt: skip


def encoded(name: str, *messages: Message) -> TokenSample:
    tokenizer = tokenizer_of(STYLES[name])
    text = Text(tokenizer, Chat(tokenizer), context=4096, vocabulary=4000)
    return encode(text, [Sample("a", messages)], max_length=4096, turns="all")[0]


def said(text: str) -> Message:
    return Message("assistant", text)


def test_an_answer_that_nothing_is_before_is_not_found_in_the_system_text() -> None:
    for first in ("hi", "Write", "i"):
        alone = f"<|im_start|>assistant\n«{first}<|im_end|>»\n"
        assert marked(encoded("system", said(first))).endswith(f"first.<|im_end|>\n{alone}")
        both = marked(encoded("system", said(first), ASK, said("red")))
        assert f"first.<|im_end|>\n{alone}<|im_start|>user" in both
        assert both.count("«") == 2


def test_the_beginning_of_the_next_turn_is_not_learned() -> None:
    text = marked(encoded("asks", ASK, said("red"), ASK, said("blue")))
    head = "<|start_header_id|>assistant<|end_header_id|>\n\n"
    assert f"{head}«red<|eot_id|>»<|start_header_id|>user" in text
    assert f"{head}«blue<|eot_id|>»" in text
    assert text.count("«") == 2


def test_reasoning_in_a_text_is_not_lost_in_silence() -> None:
    thought = said("<think>\nhmm\n</think>\n\nred")
    last = encoded("cuts", ASK, thought)
    assert (len(last.ids), last.remarks) == (
        0,
        ("the chat template omits the reasoning of the response",),
    )
    assert encoded("cuts", ASK, said("red")).remarks == ()


def test_a_turn_without_an_end_gets_one_whatever_it_says() -> None:
    for text, shown in (
        ("red", "\n<think></think>\nred"),
        ("<think>\nhmm\n</think>\n\nred", "\n<think>hmm</think>\nred"),
        ("", "\n<think></think>"),
    ):
        sample = encoded("no end", ASK, said(text))
        assert marked(sample) == f"<|user|>\nred ?<|assistant|>«{shown}<|endoftext|>»"
        assert sample.remarks == ()


def test_a_call_ends_with_the_beginning_of_its_result_where_turns_have_no_other_end() -> None:
    call = Message("assistant", "", tool_calls=(ToolCall("add", '{"a": 1}'),))
    written = "\n<tool_call>add<arg_key>a</arg_key><arg_value>1</arg_value></tool_call>"
    result = "\n<tool_response>\nfive\n</tool_response><|assistant|>"
    sample = encoded("no end, tools", ASK, call, Message("tool", "five"), said("5"), ASK, said("6"))
    assert marked(sample) == (
        f"<|user|>\nred ?<|assistant|>«{written}<|observation|>»{result}«\n5<|user|>»\nred ?<|assistant|>«\n6<|endoftext|>»"
    )
    alone = encoded("no end, tools", ASK, call)
    assert marked(alone) == f"<|user|>\nred ?<|assistant|>«{written}<|endoftext|>»"
