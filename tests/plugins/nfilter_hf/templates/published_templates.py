"""Chat templates in the formats of published ones, written anew."""

from __future__ import annotations


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
