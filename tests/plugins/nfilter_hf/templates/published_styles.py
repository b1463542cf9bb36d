"""Formats of published chat templates, with tools, thoughts and system turns, written anew: what each renders is a fact of it.

Each template stands beside conversations as its model family expects them, laid out by hand: ``«`` and ``»`` enclose what an
assistant writes, and thus what is learned. A reason in place of a text says why the template refuses the conversation.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from published_templates import (
    COMMAND_R,
    GEMMA2,
    GEMMA3,
    GPT_OSS,
    GRANITE,
    HERMES,
    HERMES_TOOLS,
    LLAMA31,
    MISTRAL3,
    NEMO,
    NEMOTRON,
    PHI3,
    PHI4_MINI,
    QWEN3,
    QWEN25,
    QWQ,
    R1,
    SMOLLM2,
    SMOLVLM,
    ZEPHYR,
)

TOOL = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Adds.",
        "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}},
    },
}
TJ = json.dumps(TOOL)
FJ = json.dumps(TOOL["function"])


@dataclass(frozen=True)
class Published:
    """A template, its tokens, and what becomes of each conversation. ``tools`` is a template of its own for those."""

    name: str
    template: str
    eos: str
    controls: tuple[str, ...]
    expected: dict[str, str]
    soft: tuple[str, ...] = ()
    bos: str | None = None
    kind: str = "bytes"
    tools: str | None = None
    remarks: dict[str, tuple[str, ...]] = field(default_factory=dict)


NO_TOOLS = "does not support tools"
NO_CALLS = "does not support tool calls"
NO_THOUGHTS = "does not support reasoning"
CLOSED = "empty reasoning is closed"
AS_USER = "as a user's turn"
THOUGHTLESS = "omits the reasoning"
RENUMBERED = "are replaced"
REFUSED = "rejects the conversation"


IM = ("<|im_start|>", "<|im_end|>")
CALL_TOKENS = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
THINK = ("<think>", "</think>")
CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
RESULT = "<|im_start|>user\n<tool_response>\nfive\n</tool_response><|im_end|>\n"
INDENTED = json.dumps(TOOL, indent=4)


def _im(role: str, text: str) -> str:
    return f"<|im_start|>{role}\n{text}<|im_end|>\n"


def _said(text: str) -> str:
    return f"<|im_start|>assistant\n«{text}<|im_end|>»\n"


# Conversations, by name: see TALKS in test_published.py.
STYLES: list[Published] = [
    Published("qwen2.5", QWEN25, IM[1], IM, {
        "system": _im("system", "be red") + _im("user", "red ?") + _said("red") + _im("user", "blue ?") + _said("blue"),
        "tools": _im("system", f"be red\n\n# Tools\n<tools>\n{TJ}\n</tools>") + _im("user", "red ?") + _said(CALL) + RESULT + _said("five"),
        "call": _im("system", f"You are Qwen.\n\n# Tools\n<tools>\n{TJ}\n</tools>") + _im("user", "red ?") + _said(CALL),
        "calls": _im("system", f"You are Qwen.\n\n# Tools\n<tools>\n{TJ}\n</tools>") + _im("user", "red ?") + _said(f"{CALL}\n{CALL}"),
        "thought": NO_THOUGHTS,
        "thoughts": NO_THOUGHTS,
        "result": _im("system", "You are Qwen.") + _im("user", "red ?") + _said("red") + RESULT + _said("five"),
    }, soft=CALL_TOKENS),
    Published("qwen3", QWEN3, IM[1], IM, {
        "system": _im("system", "be red") + _im("user", "red ?") + _said("red") + _im("user", "blue ?") + _said("<think>\n\n</think>\n\nblue"),
        "tools": _im("system", f"be red\n\n# Tools\n<tools>\n{TJ}\n</tools>") + _im("user", "red ?") + _said(CALL) + RESULT + _said("<think>\n\n</think>\n\nfive"),
        "call": _im("system", f"# Tools\n<tools>\n{TJ}\n</tools>") + _im("user", "red ?") + _said(f"<think>\n\n</think>\n\n{CALL}"),
        "calls": _im("system", f"# Tools\n<tools>\n{TJ}\n</tools>") + _im("user", "red ?") + _said(f"<think>\n\n</think>\n\n{CALL}\n{CALL}"),
        "thought": _im("system", "be red") + _im("user", "red ?") + _said("<think>\na red one\n</think>\n\nred"),
        "thoughts": _im("user", "red ?") + _said("red") + _im("user", "blue ?") + _said("<think>\nblue it is\n</think>\n\nblue"),
        "result": _im("user", "red ?") + _said("red") + RESULT + _said("<think>\n\n</think>\n\nfive"),
    }, soft=(*CALL_TOKENS, *THINK), remarks={"thoughts": (THOUGHTLESS,)}),
    Published("qwq", QWQ, IM[1], IM, {
        "system": _im("system", "be red") + _im("user", "red ?") + _said("red") + _im("user", "blue ?")
        + "<|im_start|>assistant\n<think>\n\n</think>\n\n«blue<|im_end|>»\n",
        "tools": _im("system", f"be red\n\n# Tools\n<tools>\n{TJ}\n</tools>") + _im("user", "red ?") + _said(CALL) + RESULT
        + "<|im_start|>assistant\n<think>\n\n</think>\n\n«five<|im_end|>»\n",
        "call": _im("system", f"\n\n# Tools\n<tools>\n{TJ}\n</tools>") + _im("user", "red ?")
        + f"<|im_start|>assistant\n<think>\n\n</think>\n\n«{CALL}<|im_end|>»\n",
        "calls": _im("system", f"\n\n# Tools\n<tools>\n{TJ}\n</tools>") + _im("user", "red ?")
        + f"<|im_start|>assistant\n<think>\n\n</think>\n\n«{CALL}\n{CALL}<|im_end|>»\n",
        "thought": _im("system", "be red") + _im("user", "red ?") + "<|im_start|>assistant\n<think>\n«a red one\n</think>\n\nred<|im_end|>»\n",
        "thoughts": _im("user", "red ?") + _said("red") + _im("user", "blue ?") + "<|im_start|>assistant\n<think>\n«blue it is\n</think>\n\nblue<|im_end|>»\n",
        "result": _im("user", "red ?") + _said("red") + RESULT + "<|im_start|>assistant\n<think>\n\n</think>\n\n«five<|im_end|>»\n",
    }, soft=(*CALL_TOKENS, *THINK), remarks={
        "system": (CLOSED,), "tools": (CLOSED,), "call": (CLOSED,), "calls": (CLOSED,), "result": (CLOSED,), "thoughts": (THOUGHTLESS,),
    }),
    Published("deepseek-r1-distill", R1, "<｜end▁of▁sentence｜>", (
        "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>", "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>",
        "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", "<｜tool▁sep｜>", "<｜tool▁outputs▁begin｜>", "<｜tool▁outputs▁end｜>",
        "<｜tool▁output▁begin｜>", "<｜tool▁output▁end｜>",
    ), {
        "system": "<｜begin▁of▁sentence｜>be red<｜User｜>red ?<｜Assistant｜>«red<｜end▁of▁sentence｜>»<｜User｜>blue ?<｜Assistant｜><think>\n\n</think>\n\n«blue<｜end▁of▁sentence｜>»",
        "tools": NO_TOOLS,
        "call": NO_TOOLS,
        "calls": NO_TOOLS,
        "thought": "<｜begin▁of▁sentence｜>be red<｜User｜>red ?<｜Assistant｜><think>\n«a red one\n</think>\n\nred<｜end▁of▁sentence｜>»",
        "thoughts": "<｜begin▁of▁sentence｜><｜User｜>red ?<｜Assistant｜>«\n\nred<｜end▁of▁sentence｜>»<｜User｜>blue ?<｜Assistant｜><think>\n«blue it is\n</think>\n\nblue<｜end▁of▁sentence｜>»",
        "result": "<｜begin▁of▁sentence｜><｜User｜>red ?<｜Assistant｜>«red<｜end▁of▁sentence｜>»<｜tool▁outputs▁begin｜><｜tool▁output▁begin｜>five<｜tool▁output▁end｜><｜tool▁outputs▁end｜>«five<｜end▁of▁sentence｜>»",
    }, bos="<｜begin▁of▁sentence｜>", soft=THINK, remarks={"system": (CLOSED,), "thoughts": (THOUGHTLESS,)}),
    Published("llama-3.1", LLAMA31, "<|eot_id|>", ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"), {
        name: text.replace("[", "<|start_header_id|>").replace("]", "<|end_header_id|>\n\n").replace("|#", "<|eot_id|>") for name, text in {
            "system": "<|begin_of_text|>[system]Today Date: 26 Jul 2024\n\nbe red|#[user]red ?|#[assistant]«red|#»[user]blue ?|#[assistant]«blue|#»",
            "tools": f"<|begin_of_text|>[system]Environment: ipython\nToday Date: 26 Jul 2024\n\nbe red|#[user]{INDENTED}\n\nred ?|#"
            '[assistant]«{"name": "add", "parameters": {"a": 1}}|#»[ipython]"five"|#[assistant]«five|#»',
            "call": f"<|begin_of_text|>[system]Environment: ipython\nToday Date: 26 Jul 2024\n\n|#[user]{INDENTED}\n\nred ?|#"
            '[assistant]«{"name": "add", "parameters": {"a": 1}}|#»',
            "calls": REFUSED,
            "thought": NO_THOUGHTS,
            "thoughts": NO_THOUGHTS,
            "result": '<|begin_of_text|>[system]Today Date: 26 Jul 2024\n\n|#[user]red ?|#[assistant]«red|#»[ipython]"five"|#[assistant]«five|#»',
        }.items()
    }, bos="<|begin_of_text|>"),
    Published("gemma-2", GEMMA2, "<eos>", ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"), {
        "system": "<bos><start_of_turn>user\nbe red\n\nred ?<end_of_turn>\n<start_of_turn>model\n«red<end_of_turn>»\n<start_of_turn>user\nblue ?<end_of_turn>\n<start_of_turn>model\n«blue<end_of_turn>»\n",
        "tools": NO_TOOLS, "call": NO_TOOLS, "calls": NO_TOOLS, "bare": NO_CALLS, "thought": NO_THOUGHTS, "thoughts": NO_THOUGHTS,
        "result": "<bos><start_of_turn>user\nred ?<end_of_turn>\n<start_of_turn>model\n«red<end_of_turn>»\n<start_of_turn>user\nfive<end_of_turn>\n<start_of_turn>model\n«five<end_of_turn>»\n",
    }, bos="<bos>", kind="pieces", remarks={"result": (AS_USER,)}),
    Published("gemma-3", GEMMA3, "<eos>", ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"), {
        "system": "<bos><start_of_turn>user\nbe red\n\nred ?<end_of_turn>\n<start_of_turn>model\n«red<end_of_turn>»\n<start_of_turn>user\nblue ?<end_of_turn>\n<start_of_turn>model\n«blue<end_of_turn>»\n",
        "tools": NO_TOOLS, "call": NO_TOOLS, "calls": NO_TOOLS, "bare": NO_CALLS, "thought": NO_THOUGHTS, "thoughts": NO_THOUGHTS,
        "result": "<bos><start_of_turn>user\nred ?<end_of_turn>\n<start_of_turn>model\n«red<end_of_turn>»\n<start_of_turn>user\nfive<end_of_turn>\n<start_of_turn>model\n«five<end_of_turn>»\n",
    }, bos="<bos>", kind="pieces", remarks={"result": (AS_USER,)}),
    Published("phi-3", PHI3, "<|endoftext|>", ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<|endoftext|>"), {
        "system": "<|system|>\nbe red<|end|>\n<|user|>\nred ?<|end|>\n<|assistant|>\n«red<|end|>»\n<|user|>\nblue ?<|end|>\n<|assistant|>\n«blue<|end|>»\n<|endoftext|>",
        "tools": NO_TOOLS, "call": NO_TOOLS, "calls": NO_TOOLS, "bare": NO_CALLS, "thought": NO_THOUGHTS, "thoughts": NO_THOUGHTS,
        "result": "<|user|>\nred ?<|end|>\n<|assistant|>\n«red<|end|>»\n<|user|>\nfive<|end|>\n<|assistant|>\n«five<|end|>»\n<|endoftext|>",
    }, remarks={"result": (AS_USER,)}),
    Published("phi-4-mini", PHI4_MINI, "<|endoftext|>", (
        "<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<|endoftext|>", "<|tool|>", "<|/tool|>", "<|tool_call|>", "<|/tool_call|>", "<|tool_response|>",
    ), {
        "system": "<|system|>be red<|end|><|user|>red ?<|end|><|assistant|>«red<|end|>»<|user|>blue ?<|end|><|assistant|>«blue<|end|>»<|endoftext|>",
        "tools": f"<|system|>be red<|tool|>{FJ}<|/tool|><|end|><|user|>red ?<|end|><|assistant|>"
        '«<|tool_call|>{"name": "add", "arguments": {"a": 1}}<|/tool_call|><|end|>»<|tool_response|>"five"<|end|><|assistant|>«five<|end|>»<|endoftext|>',
        "call": f"<|system|><|tool|>{FJ}<|/tool|><|end|><|user|>red ?<|end|><|assistant|>"
        '«<|tool_call|>{"name": "add", "arguments": {"a": 1}}<|/tool_call|><|end|>»<|endoftext|>',
        "calls": f"<|system|><|tool|>{FJ}<|/tool|><|end|><|user|>red ?<|end|><|assistant|>"
        '«<|tool_call|>{"name": "add", "arguments": {"a": 1}}<|/tool_call|><|tool_call|>{"name": "add", "arguments": {"a": 1}}<|/tool_call|><|end|>»<|endoftext|>',
        "thought": NO_THOUGHTS, "thoughts": NO_THOUGHTS,
        "result": '<|user|>red ?<|end|><|assistant|>«red<|end|>»<|tool_response|>"five"<|end|><|assistant|>«five<|end|>»<|endoftext|>',
    }),
    Published("zephyr", ZEPHYR, "</s>", ("<s>", "</s>"), {
        "system": "<|system|>\nbe red</s>\n<|user|>\nred ?</s>\n<|assistant|>\n«red</s>»\n<|user|>\nblue ?</s>\n<|assistant|>\n«blue</s>»\n",
        "tools": NO_TOOLS, "call": NO_TOOLS, "calls": NO_TOOLS, "bare": NO_CALLS, "thought": NO_THOUGHTS, "thoughts": NO_THOUGHTS,
        "result": "<|user|>\nred ?</s>\n<|assistant|>\n«red</s>»\n<|user|>\nfive</s>\n<|assistant|>\n«five</s>»\n",
    }, remarks={"result": (AS_USER,)}),
    Published("smollm2", SMOLLM2, IM[1], IM, {
        "system": _im("system", "be red") + _im("user", "red ?") + _said("red") + _im("user", "blue ?") + _said("blue"),
        "tools": NO_TOOLS, "call": NO_TOOLS, "calls": NO_TOOLS, "bare": NO_CALLS, "thought": NO_THOUGHTS, "thoughts": NO_THOUGHTS,
        "result": _im("system", "You are SmolLM.") + _im("user", "red ?") + _said("red") + _im("tool", "five") + _said("five"),
    }),
    Published("granite-3.3", GRANITE, "<|end_of_text|>", ("<|start_of_role|>", "<|end_of_role|>", "<|end_of_text|>"), {
        name: text.replace("[", "<|start_of_role|>").replace("]", "<|end_of_role|>").replace("|#", "<|end_of_text|>") for name, text in {
            "system": "[system]be red|#\n[user]red ?|#\n[assistant]«red|#»\n[user]blue ?|#\n[assistant]«blue|#»\n",
            "tools": NO_CALLS, "call": NO_CALLS, "calls": NO_CALLS, "bare": NO_CALLS, "thought": NO_THOUGHTS, "thoughts": NO_THOUGHTS,
            "result": "[system]Today: July 26, 2024.|#\n[user]red ?|#\n[assistant]«red|#»\n[tool]five|#\n[assistant]«five|#»\n",
        }.items()
    }),
    Published("hermes", HERMES, IM[1], IM, {
        "system": _im("system", "be red") + _im("user", "red ?") + _said("red") + _im("user", "blue ?") + _said("blue"),
        "tools": _im("system", f"You call functions. <tools>\n{TJ}\n</tools>") + _im("system", "be red") + _im("user", "red ?") + _said(CALL)
        + "<|im_start|>tool\n<tool_response>\nfive\n</tool_response><|im_end|>" + _said("five"),
        "call": _im("system", f"You call functions. <tools>\n{TJ}\n</tools>") + _im("user", "red ?") + _said(CALL),
        "calls": _im("system", f"You call functions. <tools>\n{TJ}\n</tools>") + _im("user", "red ?") + _said(f"{CALL}\n{CALL}"),
        "bare": NO_CALLS, "thought": NO_THOUGHTS, "thoughts": NO_THOUGHTS,
        "result": _im("user", "red ?") + _said("red") + _im("tool", "five") + _said("five"),
    }, tools=HERMES_TOOLS, soft=CALL_TOKENS),
    Published("command-r7b", COMMAND_R, "<|END_OF_TURN_TOKEN|>", (
        "<BOS_TOKEN>", "<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>", "<|SYSTEM_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>", "<|START_RESPONSE|>",
        "<|END_RESPONSE|>", "<|START_THINKING|>", "<|END_THINKING|>", "<|START_ACTION|>", "<|END_ACTION|>", "<|START_TOOL_RESULT|>", "<|END_TOOL_RESULT|>",
    ), {
        name: text.replace("[", "<|START_OF_TURN_TOKEN|><|").replace("]", "_TOKEN|>").replace("|#", "<|END_OF_TURN_TOKEN|>")
        .replace("{{", "<|START_RESPONSE|>").replace("}}", "<|END_RESPONSE|>").replace("((", "[").replace("))", "]")
        for name, text in {
            "system": "<BOS_TOKEN>[SYSTEM]# Tools\n# Developer Preamble\nbe red|#[USER]red ?|#[CHATBOT]«{{red}}|#»[USER]blue ?|#[CHATBOT]«{{blue}}|#»",
            "tools": '<BOS_TOKEN>[SYSTEM]# Tools\n{"name": "add"}\n# Developer Preamble\nbe red|#[USER]red ?|#[CHATBOT]«<|START_THINKING|><|END_THINKING|><|START_ACTION|>'
            '(({"tool_call_id": "0", "tool_name": "add", "parameters": {"a": 1} }))<|END_ACTION|>|#»[SYSTEM]<|START_TOOL_RESULT|>"five"<|END_TOOL_RESULT|>|#[CHATBOT]«{{five}}|#»'.replace("} }", "}\0}"),
            "call": '<BOS_TOKEN>[SYSTEM]# Tools\n{"name": "add"}\n|#[USER]red ?|#[CHATBOT]«<|START_THINKING|><|END_THINKING|><|START_ACTION|>'
            '(({"tool_call_id": "0", "tool_name": "add", "parameters": {"a": 1}\0}))<|END_ACTION|>|#»',
            "calls": '<BOS_TOKEN>[SYSTEM]# Tools\n{"name": "add"}\n|#[USER]red ?|#[CHATBOT]«<|START_THINKING|><|END_THINKING|><|START_ACTION|>'
            '(({"tool_call_id": "0", "tool_name": "add", "parameters": {"a": 1}\0},{"tool_call_id": "1", "tool_name": "add", "parameters": {"a": 1}\0}))<|END_ACTION|>|#»',
            "thought": NO_THOUGHTS, "thoughts": NO_THOUGHTS,
            "result": '<BOS_TOKEN>[SYSTEM]# Tools\n|#[USER]red ?|#[CHATBOT]«{{red}}|#»[SYSTEM]<|START_TOOL_RESULT|>"five"<|END_TOOL_RESULT|>|#[CHATBOT]«{{five}}|#»',
        }.items()
    }, bos="<BOS_TOKEN>"),
    Published("gpt-oss", GPT_OSS, "<|return|>", ("<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|return|>", "<|call|>"), {
        "system": "<|start|>system<|message|>Current date: 2024-07-26<|end|><|start|>developer<|message|># Instructions\n\nbe red\n\n<|end|><|start|>user<|message|>red ?<|end|>"
        "<|start|>assistant«<|channel|>final<|message|>red<|end|>»<|start|>user<|message|>blue ?<|end|><|start|>assistant«<|channel|>final<|message|>blue<|return|>»",
        "tools": "<|start|>system<|message|>Current date: 2024-07-26<|end|><|start|>developer<|message|># Instructions\n\nbe red\n\n# Tools\n\ntype add = () => any;\n<|end|>"
        '<|start|>user<|message|>red ?<|end|><|start|>assistant« to=functions.add<|channel|>commentary json<|message|>{"a": 1}<|call|>»'
        '<|start|>functions.add to=assistant<|channel|>commentary<|message|>"five"<|end|><|start|>assistant«<|channel|>final<|message|>five<|return|>»',
        "call": "<|start|>system<|message|>Current date: 2024-07-26<|end|><|start|>developer<|message|># Tools\n\ntype add = () => any;\n<|end|>"
        '<|start|>user<|message|>red ?<|end|><|start|>assistant« to=functions.add<|channel|>commentary json<|message|>{"a": 1}<|call|>»',
        "calls": "omits a call",
        "thought": "<|start|>system<|message|>Current date: 2024-07-26<|end|><|start|>developer<|message|># Instructions\n\nbe red\n\n<|end|><|start|>user<|message|>red ?<|end|>"
        "<|start|>assistant«<|channel|>analysis<|message|>a red one<|end|><|start|>assistant<|channel|>final<|message|>red<|return|>»",
        "thoughts": "<|start|>system<|message|>Current date: 2024-07-26<|end|><|start|>user<|message|>red ?<|end|><|start|>assistant«<|channel|>final<|message|>red<|end|>»"
        "<|start|>user<|message|>blue ?<|end|><|start|>assistant«<|channel|>analysis<|message|>blue it is<|end|><|start|>assistant<|channel|>final<|message|>blue<|return|>»",
        "result": "<|start|>system<|message|>Current date: 2024-07-26<|end|><|start|>user<|message|>red ?<|end|><|start|>assistant«<|channel|>final<|message|>red<|end|>»"
        "<|start|>user<|message|>five<|end|><|start|>assistant«<|channel|>final<|message|>five<|return|>»",
    }, remarks={"thoughts": (THOUGHTLESS,), "result": (AS_USER,)}),
]  # fmt: skip


def _mistral(name: str, template: str, blank: str, kind: str) -> Published:
    listed = f"[AVAILABLE_TOOLS]{blank}[{TJ}][/AVAILABLE_TOOLS]"
    call = '{"name": "add", "arguments": {"a": 1}, "id": "call70001"}'
    expected = {
        # The system text stands with the question that is asked last, where the prompt has it.
        "system": f"<s>[INST]{blank}red ?[/INST]«{blank}red</s>»[INST]{blank}be red\n\nblue ?[/INST]«{blank}blue</s>»",
        "tools": f"<s>{listed}[INST]{blank}red ?[/INST]«[TOOL_CALLS]{blank}[{call}]</s>»"
        f'[TOOL_RESULTS]{blank}{{"content": five, "call_id": "call70001"}}[/TOOL_RESULTS]«{blank}five</s>»',
        "call": f"<s>{listed}[INST]{blank}red ?[/INST]«[TOOL_CALLS]{blank}[{call}]</s>»",
        "calls": f"<s>{listed}[INST]{blank}red ?[/INST]«[TOOL_CALLS]{blank}[{call}, {call}]</s>»",
        "thought": NO_THOUGHTS,
        "thoughts": NO_THOUGHTS,
    }
    tokens = ("<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_CALLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]")  # fmt: skip
    return Published(name, template, "</s>", tokens, expected, bos="<s>", kind=kind, remarks={"tools": ("omits the system text",)})  # fmt: skip


STYLES += [
    _mistral("mistral-v0.3", MISTRAL3, " ", "legacy"),
    _mistral("mistral-nemo", NEMO, "", "bytes"),
]


EOU = "<end_of_utterance>"

STYLES += [
    Published("nemotron-3", NEMOTRON, IM[1], IM, {
        "system": _im("system", "be red") + _im("user", "red ?") + "<|im_start|>assistant\n<think></think>«red<|im_end|>»\n" + _im("user", "blue ?")
        + "<|im_start|>assistant\n<think>\n\n</think>\n\n«blue<|im_end|>»\n",
        "tools": NO_TOOLS, "call": NO_TOOLS, "calls": NO_TOOLS, "bare": NO_CALLS,
        "thought": _im("system", "be red") + _im("user", "red ?") + "<|im_start|>assistant\n<think>\n«a red one\n</think>\nred<|im_end|>»\n",
        "thoughts": _im("user", "red ?") + "<|im_start|>assistant\n<think>\n«red it is\n</think>\nred<|im_end|>»\n" + _im("user", "blue ?")
        + "<|im_start|>assistant\n<think>\n«blue it is\n</think>\nblue<|im_end|>»\n",
        "result": _im("user", "red ?") + "<|im_start|>assistant\n<think></think>«red<|im_end|>»\n" + _im("tool", "five")
        + "<|im_start|>assistant\n<think>\n\n</think>\n\n«five<|im_end|>»\n",
    }, soft=THINK, remarks={"system": (CLOSED,), "result": (CLOSED,)}),
    Published("smolvlm", SMOLVLM, EOU, (EOU,), {
        "system": f"System: be red{EOU}\nUser: red ?{EOU}\nAssistant:« red{EOU}»\nUser: blue ?{EOU}\nAssistant:« blue{EOU}»\n",
        "tools": NO_TOOLS, "call": NO_TOOLS, "calls": NO_TOOLS, "bare": NO_CALLS, "thought": NO_THOUGHTS, "thoughts": NO_THOUGHTS,
        "result": f"User: red ?{EOU}\nAssistant:« red{EOU}»\nTool: five{EOU}\nAssistant:« five{EOU}»\n",
    }),
]  # fmt: skip


def text_of(style: Published, name: str) -> Any:
    """What is expected, or None where the style says nothing of the conversation."""
    return style.expected[name].replace("\0", "") if name in style.expected else None
