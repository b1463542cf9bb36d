"""Formats of published chat templates, with tools, thoughts and system turns, written anew: what each renders is a fact of it.

Each template stands beside conversations as its model family expects them, laid out by hand: ``«`` and ``»`` enclose what an
assistant writes, and thus what is learned. A reason in place of a text says why the template refuses the conversation.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

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


def _qwen_tools(text: str) -> str:
    """A loop over the calls of ``m``, as Qwen and Hermes write them; ``text`` stands before the first."""
    return (
        "{%- for c in m.tool_calls %}{{- " + text + " + '<tool_call>\\n{\"name\": \"' + c.function.name + '\", \"arguments\": ' "
        "+ c.function.arguments | tojson + '}\\n</tool_call>' }}{%- endfor %}{{- '<|im_end|>\\n' }}"
    )  # fmt: skip


_CALLS = _qwen_tools("'\\n'")
_RESULTS = """\
{%- if loop.first or messages[loop.index0 - 1].role != 'tool' %}{{- '<|im_start|>user' }}{%- endif %}
{{- '\\n<tool_response>\\n' + m.content + '\\n</tool_response>' }}
{%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{- '<|im_end|>\\n' }}{%- endif %}"""
_SIGNATURES = "{%- for t in tools %}{{- '\\n' + t | tojson }}{%- endfor %}{{- '\\n</tools>' }}"
_ASK_IM = "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"

QWEN25 = f"""\
{{{{- '<|im_start|>system\\n' + (messages[0].content if messages[0].role == 'system' else 'You are Qwen.') }}}}
{{%- if tools %}}{{{{- '\\n\\n# Tools\\n<tools>' }}}}{_SIGNATURES}{{%- endif %}}{{{{- '<|im_end|>\\n' }}}}
{{%- for m in messages %}}
  {{%- if m.role == 'tool' %}}{_RESULTS}
  {{%- elif m.role == 'assistant' and m.tool_calls %}}{{{{- '<|im_start|>assistant' }}}}
    {{%- if m.content %}}{{{{- '\\n' + m.content }}}}{{%- endif %}}{_CALLS}
  {{%- elif m.role != 'system' or not loop.first %}}{{{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}}}{{%- endif %}}
{{%- endfor %}}{_ASK_IM}"""

QWEN3 = f"""\
{{%- if tools %}}{{{{- '<|im_start|>system\\n' + (messages[0].content + '\\n\\n' if messages[0].role == 'system' else '') + '# Tools\\n<tools>' }}}}
  {_SIGNATURES}{{{{- '<|im_end|>\\n' }}}}
{{%- elif messages[0].role == 'system' %}}{{{{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}}}{{%- endif %}}
{{%- set ns = namespace(asked=-1) %}}
{{%- for m in messages %}}{{%- if m.role == 'user' %}}{{%- set ns.asked = loop.index0 %}}{{%- endif %}}{{%- endfor %}}
{{%- for m in messages %}}
  {{%- if m.role == 'tool' %}}{_RESULTS}
  {{%- elif m.role == 'assistant' %}}
    {{%- set said = m.content %}}{{%- set thought = '' %}}
    {{%- if m.reasoning_content is defined and m.reasoning_content is not none %}}{{%- set thought = m.reasoning_content %}}
    {{%- elif '</think>' in said %}}
      {{%- set thought = said.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}}
      {{%- set said = said.split('</think>')[-1].lstrip('\\n') %}}
    {{%- endif %}}
    {{{{- '<|im_start|>assistant\\n' }}}}
    {{%- if loop.index0 > ns.asked and (loop.last or thought) %}}{{{{- '<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' + said.lstrip('\\n') }}}}
    {{%- else %}}{{{{- said }}}}{{%- endif %}}
    {{%- for c in m.tool_calls %}}
      {{%- if said or not loop.first %}}{{{{- '\\n' }}}}{{%- endif %}}
      {{{{- '<tool_call>\\n{{"name": "' + c.function.name + '", "arguments": ' + c.function.arguments | tojson + '}}\\n</tool_call>' }}}}
    {{%- endfor %}}{{{{- '<|im_end|>\\n' }}}}
  {{%- elif m.role == 'user' or not loop.first %}}{{{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}}}{{%- endif %}}
{{%- endfor %}}{_ASK_IM}"""

# QwQ: the prompt opens a thought, earlier turns lose theirs, the last keeps what it holds.
QWQ = f"""\
{{%- if tools %}}{{{{- '<|im_start|>system\\n' + (messages[0].content if messages[0].role == 'system' else '') + '\\n\\n# Tools\\n<tools>' }}}}
  {_SIGNATURES}{{{{- '<|im_end|>\\n' }}}}
{{%- elif messages[0].role == 'system' %}}{{{{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}}}{{%- endif %}}
{{%- for m in messages %}}
  {{%- set said = m.content if loop.last else m.content.split('</think>')[-1].lstrip('\\n') %}}
  {{%- if m.role == 'tool' %}}{_RESULTS}
  {{%- elif m.role == 'assistant' and m.tool_calls %}}{{{{- '<|im_start|>assistant' }}}}
    {{%- if m.content %}}{{{{- '\\n' + said }}}}{{%- endif %}}{_CALLS}
  {{%- elif m.role == 'assistant' %}}{{{{- '<|im_start|>assistant\\n' + said + '<|im_end|>\\n' }}}}
  {{%- elif m.role == 'user' or not loop.first %}}{{{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}}}{{%- endif %}}
{{%- endfor %}}
{{%- if add_generation_prompt %}}{{{{- '<|im_start|>assistant\\n<think>\\n' }}}}{{%- endif %}}"""

# DeepSeek-R1-Distill: calls only where the content is null, their arguments as text; no end after one call.
R1 = """\
{%- set ns = namespace(out=false, first=true) %}
{{- bos_token }}{%- for m in messages %}{%- if m.role == 'system' %}{{- m.content }}{%- endif %}{%- endfor %}
{%- for m in messages %}
  {%- if m.role == 'user' %}{%- set ns.out = false %}{{- '<｜User｜>' + m.content }}
  {%- elif m.role == 'assistant' and m.content is none %}{%- set ns.out = false %}
    {%- for c in m.tool_calls %}
      {{- '<｜Assistant｜><｜tool▁calls▁begin｜>' if loop.first else '\\n' }}
      {{- '<｜tool▁call▁begin｜>' + c.type + '<｜tool▁sep｜>' + c.function.name + '\\n```json\\n' + c.function.arguments + '\\n```<｜tool▁call▁end｜>' }}
      {%- if not loop.first %}{{- '<｜tool▁calls▁end｜><｜end▁of▁sentence｜>' }}{%- endif %}
    {%- endfor %}
  {%- elif m.role == 'assistant' and ns.out %}{%- set ns.out = false %}{{- '<｜tool▁outputs▁end｜>' + m.content + '<｜end▁of▁sentence｜>' }}
  {%- elif m.role == 'assistant' %}{{- '<｜Assistant｜>' + m.content.split('</think>')[-1] + '<｜end▁of▁sentence｜>' }}
  {%- elif m.role == 'tool' %}
    {{- ('<｜tool▁outputs▁begin｜>' if ns.first else '\\n') + '<｜tool▁output▁begin｜>' + m.content + '<｜tool▁output▁end｜>' }}
    {%- set ns.out = true %}{%- set ns.first = false %}
  {%- endif %}
{%- endfor %}
{%- if ns.out %}{{- '<｜tool▁outputs▁end｜>' }}{%- elif add_generation_prompt %}{{- '<｜Assistant｜><think>\\n' }}{%- endif %}"""

LLAMA31 = """\
{%- if date_string is not defined %}{%- set date_string = '1 Jan 2030' %}{%- endif %}
{%- set given = messages[0].content | trim if messages[0].role == 'system' else '' %}
{%- if messages[0].role == 'system' %}{%- set messages = messages[1:] %}{%- endif %}
{{- bos_token + '<|start_header_id|>system<|end_header_id|>\\n\\n' }}
{%- if tools is not none %}{{- 'Environment: ipython\\n' }}{%- endif %}
{{- 'Today Date: ' + date_string + '\\n\\n' + given + '<|eot_id|>' }}
{%- if tools is not none %}
  {{- '<|start_header_id|>user<|end_header_id|>\\n\\n' }}{%- for t in tools %}{{- t | tojson(indent=4) + '\\n\\n' }}{%- endfor %}
  {{- messages[0].content | trim + '<|eot_id|>' }}{%- set messages = messages[1:] %}
{%- endif %}
{%- for m in messages %}
  {%- if m.role == 'ipython' or m.role == 'tool' %}
    {{- '<|start_header_id|>ipython<|end_header_id|>\\n\\n' + m.content | tojson + '<|eot_id|>' }}
  {%- elif 'tool_calls' in m %}
    {%- if m.tool_calls | length != 1 %}{{- raise_exception('This model only supports single tool-calls at once!') }}{%- endif %}
    {%- set c = m.tool_calls[0].function %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n{"name": "' + c.name + '", "parameters": ' + c.arguments | tojson + '}<|eot_id|>' }}
  {%- else %}{{- '<|start_header_id|>' + m.role + '<|end_header_id|>\\n\\n' + m.content | trim + '<|eot_id|>' }}{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}"""

# Mistral: the system text goes with the last message of all, the tools with the last of the user's; ids have nine letters.
_MISTRAL = """\
{%- set given = messages[0].content if messages[0].role == 'system' else none %}
{%- set turns = messages[1:] if given is not none else messages %}
{%- set asked = turns | selectattr('role', 'equalto', 'user') | list %}
{%- set ns = namespace(at=0) %}
{%- for m in turns %}{%- if m.role != 'tool' and not (m.tool_calls is defined and m.tool_calls is not none) %}
  {%- if (m.role == 'user') != (ns.at % 2 == 0) %}{{- raise_exception('conversation roles must alternate') }}{%- endif %}{%- set ns.at = ns.at + 1 %}
{%- endif %}{%- endfor %}
{{- bos_token }}
{%- for m in turns %}
  {%- if m.role == 'user' %}
    {%- if tools is not none and m == asked[-1] %}{{- '[AVAILABLE_TOOLS]_[' }}{%- for t in tools %}{{- t | tojson }}{%- endfor %}{{- '][/AVAILABLE_TOOLS]' }}{%- endif %}
    {{- '[INST]_' + (given + '\\n\\n' if loop.last and given is not none else '') + m.content + '[/INST]' }}
  {%- elif m.tool_calls is defined and m.tool_calls is not none %}
    {{- '[TOOL_CALLS]_[' }}
    {%- for c in m.tool_calls %}
      {%- if c.id is not defined or c.id | length != 9 %}{{- raise_exception('Tool call IDs should be alphanumeric strings with length 9!') }}{%- endif %}
      {{- (c.function | tojson)[:-1] + ', "id": "' + c.id + '"}' + (', ' if not loop.last else '') }}
    {%- endfor %}{{- ']' + eos_token }}
  {%- elif m.role == 'assistant' %}{{- '_' + m.content + eos_token }}
  {%- elif m.role == 'tool' %}
    {%- if m.tool_call_id is not defined or m.tool_call_id | length != 9 %}{{- raise_exception('Tool call IDs should be alphanumeric strings with length 9!') }}{%- endif %}
    {{- '[TOOL_RESULTS]_{"content": ' + m.content + ', "call_id": "' + m.tool_call_id + '"}[/TOOL_RESULTS]' }}
  {%- endif %}
{%- endfor %}"""
MISTRAL3 = _MISTRAL.replace("]_", "] ").replace("'_'", "' '")
NEMO = _MISTRAL.replace("]_", "]").replace("'_' + ", "")

_GEMMA_TURNS = """\
{%- for m in messages %}
  {%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{- raise_exception('Conversation roles must alternate') }}{%- endif %}
  {{- '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\\n' + BEFORE m.content | trim + '<end_of_turn>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<start_of_turn>model\\n' }}{%- endif %}"""
GEMMA2 = (
    "{{- bos_token }}{%- if messages[0].role == 'system' %}{{- raise_exception('System role not supported') }}{%- endif %}"
    + _GEMMA_TURNS.replace("BEFORE ", "")
)
GEMMA3 = (
    "{{- bos_token }}{%- set first = '' %}{%- if messages[0].role == 'system' %}{%- set first = messages[0].content + '\\n\\n' %}"
    "{%- set messages = messages[1:] %}{%- endif %}" + _GEMMA_TURNS.replace("BEFORE ", "(first if loop.first else '') + ")
)  # fmt: skip

PHI3 = """\
{%- for m in messages %}{%- if m.role in ['system', 'user', 'assistant'] %}{{- '<|' + m.role + '|>\\n' + m.content + '<|end|>\\n' }}{%- endif %}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|assistant|>\\n' }}{%- else %}{{- eos_token }}{%- endif %}"""

# Phi-4-mini, as its tool format goes: calls behind the text of a turn, results of a role of their own.
PHI4_MINI = """\
{%- if messages[0].role == 'system' or tools %}
  {{- '<|system|>' + (messages[0].content if messages[0].role == 'system' else '') }}
  {%- for t in tools or [] %}{{- '<|tool|>' + t.function | tojson + '<|/tool|>' }}{%- endfor %}{{- '<|end|>' }}
{%- endif %}
{%- for m in messages %}
  {%- if m.role == 'tool' %}{{- '<|tool_response|>' + m.content | tojson + '<|end|>' }}
  {%- elif m.role != 'system' %}{{- '<|' + m.role + '|>' + m.content }}
    {%- for c in m.tool_calls or [] %}{{- '<|tool_call|>' + c.function | tojson + '<|/tool_call|>' }}{%- endfor %}{{- '<|end|>' }}
  {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|assistant|>' }}{%- else %}{{- eos_token }}{%- endif %}"""

ZEPHYR = """\
{%- for m in messages %}
  {%- if m.role == 'user' %}{{- '<|user|>\\n' + m.content + eos_token + '\\n' }}
  {%- elif m.role == 'system' %}{{- '<|system|>\\n' + m.content + eos_token + '\\n' }}
  {%- elif m.role == 'assistant' %}{{- '<|assistant|>\\n' + m.content + eos_token + '\\n' }}{%- endif %}
  {%- if loop.last and add_generation_prompt %}{{- '<|assistant|>\\n' }}{%- endif %}
{%- endfor %}"""

SMOLLM2 = (
    """\
{%- for m in messages %}
  {%- if loop.first and m.role != 'system' %}{{- '<|im_start|>system\\nYou are SmolLM.<|im_end|>\\n' }}{%- endif %}
  {{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}
{%- endfor %}"""
    + _ASK_IM
)

# Granite 3: every role by name, tools in a turn of their own, and no calls.
GRANITE = """\
{%- set off = 1 if messages[0].role == 'system' else 0 %}
{{- '<|start_of_role|>system<|end_of_role|>' + (messages[0].content if off else 'Today: ' + strftime_now('%B %d, %Y') + '.') + '<|end_of_text|>\\n' }}
{%- if tools %}{{- '<|start_of_role|>available_tools<|end_of_role|>' + tools | tojson(indent=4) + '<|end_of_text|>\\n' }}{%- endif %}
{%- for m in messages[off:] %}{{- '<|start_of_role|>' + m.role + '<|end_of_role|>' + m.content + '<|end_of_text|>\\n' }}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_of_role|>assistant<|end_of_role|>' }}{%- endif %}"""

# Hermes: one template without tools and one with, in which a result has the role tool.
HERMES = (
    "{%- for m in messages %}{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{%- endfor %}"
    + _ASK_IM
)
HERMES_TOOLS = f"""\
{{{{- '<|im_start|>system\\nYou call functions. <tools>' }}}}{_SIGNATURES}{{{{- '<|im_end|>\\n' }}}}
{{%- for m in messages %}}
  {{%- if m.role == 'assistant' and m.tool_calls is defined %}}{{{{- '<|im_start|>assistant' }}}}{_CALLS}
  {{%- elif m.role == 'tool' %}}
    {{%- if loop.previtem and loop.previtem.role != 'tool' %}}{{{{- '<|im_start|>tool\\n' }}}}{{%- endif %}}
    {{{{- '<tool_response>\\n' + m.content + '\\n</tool_response>' + ('\\n' if not loop.last else '') }}}}
    {{%- if loop.last or loop.nextitem.role != 'tool' %}}{{{{- '<|im_end|>' }}}}{{%- endif %}}
  {{%- else %}}{{{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}}}{{%- endif %}}
{{%- endfor %}}{_ASK_IM}"""

# Command R7B: thoughts and calls in one turn, results in a system turn, ids by their number.
COMMAND_R = """\
{{- bos_token + '<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|># Tools\\n' }}
{%- for t in tools or [] %}{{- '{"name": "' + t.function.name + '"}\\n' }}{%- endfor %}
{%- if messages[0].role == 'system' %}{{- '# Developer Preamble\\n' + messages[0].content }}{%- endif %}{{- '<|END_OF_TURN_TOKEN|>' }}
{%- for m in messages %}
  {%- if m.role == 'user' %}{{- '<|START_OF_TURN_TOKEN|><|USER_TOKEN|>' + m.content + '<|END_OF_TURN_TOKEN|>' }}
  {%- elif m.role == 'assistant' %}{{- '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' }}
    {%- if m.tool_calls %}
      {{- '<|START_THINKING|>' + (m.reasoning_content or '') + '<|END_THINKING|><|START_ACTION|>[' }}
      {%- for c in m.tool_calls %}{{- '{"tool_call_id": "' ~ loop.index0 ~ '", "tool_name": "' + c.function.name + '", "parameters": ' + c.function.arguments | tojson + '}' + (',' if not loop.last else '') }}{%- endfor %}
      {{- ']<|END_ACTION|><|END_OF_TURN_TOKEN|>' }}
    {%- else %}{{- '<|START_RESPONSE|>' + m.content + '<|END_RESPONSE|><|END_OF_TURN_TOKEN|>' }}{%- endif %}
  {%- elif m.role == 'tool' %}{{- '<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|><|START_TOOL_RESULT|>' + m.content | tojson + '<|END_TOOL_RESULT|><|END_OF_TURN_TOKEN|>' }}{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' }}{%- endif %}"""

# gpt-oss: channels; the last turn ends otherwise than others, a call otherwise than both; earlier thoughts are left out.
GPT_OSS = """\
{{- '<|start|>system<|message|>Current date: ' + strftime_now('%Y-%m-%d') + '<|end|>' }}
{%- set given = messages[0].content if messages[0].role in ['developer', 'system'] else '' %}
{%- if given or tools %}{{- '<|start|>developer<|message|>' }}
  {%- if given %}{{- '# Instructions\\n\\n' + given + '\\n\\n' }}{%- endif %}
  {%- if tools %}{{- '# Tools\\n\\n' }}{%- for t in tools %}{{- 'type ' + t.function.name + ' = () => any;\\n' }}{%- endfor %}{%- endif %}{{- '<|end|>' }}
{%- endif %}
{%- set ns = namespace(called=none) %}
{%- for m in (messages[1:] if given else messages) %}
  {%- if m.role == 'assistant' and 'tool_calls' in m %}
    {%- set c = m.tool_calls[0].function %}
    {%- if m.content and m.thinking %}{{- raise_exception('Cannot pass both content and thinking') }}{%- endif %}
    {%- if m.content or m.thinking %}{{- '<|start|>assistant<|channel|>analysis<|message|>' + (m.content or m.thinking) + '<|end|>' }}{%- endif %}
    {{- '<|start|>assistant to=functions.' + c.name + '<|channel|>commentary json<|message|>' + c.arguments | tojson + '<|call|>' }}
    {%- set ns.called = c.name %}
  {%- elif m.role == 'assistant' and loop.last and not add_generation_prompt %}
    {%- if 'thinking' in m %}{{- '<|start|>assistant<|channel|>analysis<|message|>' + m.thinking + '<|end|>' }}{%- endif %}
    {{- '<|start|>assistant<|channel|>final<|message|>' + m.content + '<|return|>' }}
  {%- elif m.role == 'assistant' %}{{- '<|start|>assistant<|channel|>final<|message|>' + m.content + '<|end|>' }}{%- set ns.called = none %}
  {%- elif m.role == 'tool' %}
    {%- if ns.called is none %}{{- raise_exception('Message has tool role, but there was no previous assistant message with a tool call!') }}{%- endif %}
    {{- '<|start|>functions.' + ns.called + ' to=assistant<|channel|>commentary<|message|>' + m.content | tojson + '<|end|>' }}
  {%- elif m.role == 'user' %}{{- '<|start|>user<|message|>' + m.content + '<|end|>' }}{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start|>assistant' }}{%- endif %}"""

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


# Nemotron 3: each turn has its thoughts, an empty one where there are none, and the prompt opens one.
NEMOTRON = """\
{%- for m in messages %}
  {%- if m.role == 'assistant' %}
    {{- '<|im_start|>assistant\\n' + ('<think>\\n' + m.reasoning_content + '\\n</think>\\n' if m.reasoning_content else '<think></think>') + m.content + '<|im_end|>\\n' }}
  {%- else %}{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n<think>\\n' }}{%- endif %}"""

# SmolVLM: texts are parts of a list, and a role is a word.
SMOLVLM = """\
{%- for m in messages %}
  {{- m.role | capitalize + ': ' }}
  {%- for part in m.content %}{%- if part.type == 'text' %}{{- part.text }}{%- endif %}{%- endfor %}{{- '<end_of_utterance>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- 'Assistant:' }}{%- endif %}"""
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
