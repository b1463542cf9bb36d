"""Chat templates of the styles that are in use, told twice: role markers and their order.

Once as a template, in which ``{% generation %}`` marks what an assistant writes, and once as a function that lays the
same conversation out piece by piece.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass

Turn = tuple[str, str]


@dataclass(frozen=True)
class Piece:
    """Text, or one control token; ``of`` is the message whose answer it belongs to."""

    text: str
    control: bool = False
    of: int | None = None


@dataclass(frozen=True)
class Style:
    """A template and its renderer; ``controls`` are special tokens, ``soft`` added ones that are not."""

    name: str
    template: str | None
    pieces: Callable[[list[Turn]], Iterator[Piece]]
    controls: tuple[str, ...]
    kind: str = "bytes"
    eos: str = "</s>"
    bos: str | None = "<s>"
    soft: tuple[str, ...] = ()
    rstrip: bool = False
    roles: frozenset[str] = frozenset({"system", "user", "assistant"})


def C(text: str, of: int | None = None) -> Piece:
    return Piece(text, control=True, of=of)


def T(text: str, of: int | None = None) -> Piece:
    return Piece(text, of=of)


# --- the styles, piece by piece ----------------------------------------------------------------------------------


def chatml(turns: list[Turn]) -> Iterator[Piece]:
    """Qwen2.5: a system text of its own where there is none; a tool's results in a user's turn."""
    if turns[0][0] != "system":
        yield from (C("<|im_start|>"), T("system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant."), C("<|im_end|>"), T("\n"))  # fmt: skip
    for at, (role, text) in enumerate(turns):
        if role == "tool":
            if turns[at - 1][0] != "tool":
                yield from (C("<|im_start|>"), T("user"))
            yield from (T("\n"), T("<tool_response>"), T(f"\n{text}\n"), T("</tool_response>"))
            if at + 1 == len(turns) or turns[at + 1][0] != "tool":
                yield from (C("<|im_end|>"), T("\n"))
            continue
        of = at if role == "assistant" else None
        yield from (C("<|im_start|>"), T(f"{role}\n"), T(text, of), C("<|im_end|>", of), T("\n"))


CHATML = """\
{%- if messages[0].role != 'system' %}{{- '<|im_start|>system\\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\\n' }}{%- endif %}
{%- for m in messages %}
  {%- if m.role == 'tool' %}
    {%- if loop.first or messages[loop.index0 - 1].role != 'tool' %}{{- '<|im_start|>user' }}{%- endif %}
    {{- '\\n<tool_response>\\n' + m.content + '\\n</tool_response>' }}
    {%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{- '<|im_end|>\\n' }}{%- endif %}
  {%- elif m.role == 'assistant' %}
    {{- '<|im_start|>assistant\\n' }}{%- generation %}{{- m.content + '<|im_end|>' }}{%- endgeneration %}{{- '\\n' }}
  {%- else %}{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""


def qwen3(turns: list[Turn]) -> Iterator[Piece]:
    """Qwen3: thoughts before the last query are left out, after it there is always a think block."""
    asked = max((i for i, (role, _) in enumerate(turns) if role == "user"), default=-1)
    for at, (role, text) in enumerate(turns):
        if role == "tool":
            if turns[at - 1][0] != "tool":
                yield from (C("<|im_start|>"), T("user"))
            yield from (T("\n"), T("<tool_response>"), T(f"\n{text}\n"), T("</tool_response>"))
            if at + 1 == len(turns) or turns[at + 1][0] != "tool":
                yield from (C("<|im_end|>"), T("\n"))
            continue
        of = at if role == "assistant" else None
        said = text
        if role == "assistant":
            thought = ""
            if "</think>" in text:
                thought = text.split("</think>")[0].rstrip("\n").split("<think>")[-1].lstrip("\n")
                said = text.split("</think>")[-1].lstrip("\n")
            if at > asked and (at + 1 == len(turns) or thought):
                shown = "<think>\n" + thought.strip("\n") + "\n</think>\n\n"
                said = shown + said.lstrip("\n")
        yield from (C("<|im_start|>"), T(f"{role}\n"), T(said, of), C("<|im_end|>", of), T("\n"))


QWEN3 = """\
{%- set ns = namespace(asked=-1) %}
{%- for m in messages %}{%- if m.role == 'user' %}{%- set ns.asked = loop.index0 %}{%- endif %}{%- endfor %}
{%- for m in messages %}
  {%- if m.role == 'tool' %}
    {%- if loop.first or messages[loop.index0 - 1].role != 'tool' %}{{- '<|im_start|>user' }}{%- endif %}
    {{- '\\n<tool_response>\\n' + m.content + '\\n</tool_response>' }}
    {%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{- '<|im_end|>\\n' }}{%- endif %}
  {%- elif m.role == 'assistant' %}
    {%- set thought = '' %}{%- set said = m.content %}
    {%- if '</think>' in said %}
      {%- set thought = said.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
      {%- set said = said.split('</think>')[-1].lstrip('\\n') %}
    {%- endif %}
    {{- '<|im_start|>assistant\\n' }}{%- generation %}
    {%- if loop.index0 > ns.asked and (loop.last or thought) %}
      {{- '<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' + said.lstrip('\\n') }}
    {%- else %}{{- said }}{%- endif %}
    {{- '<|im_end|>' }}{%- endgeneration %}{{- '\\n' }}
  {%- else %}{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""


def llama2(turns: list[Turn]) -> Iterator[Piece]:
    """Llama 2: the system text inside the first user turn; a space before and after an answer."""
    system = turns[0][1] if turns[0][0] == "system" else None
    for at, (role, text) in enumerate(turns):
        if role == "user":
            first = system is not None and at == 1
            said = f"<<SYS>>\n{system}\n<</SYS>>\n\n{text}" if first else text
            yield from (C("<s>"), T(f"[INST] {said.strip()} [/INST]"))
        elif role == "assistant":
            yield from (T(f" {text.strip()} ", at), C("</s>", at))


LLAMA2 = """\
{%- set off = 1 if messages[0].role == 'system' else 0 %}
{%- for m in messages[off:] %}
  {%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{- raise_exception('roles must alternate') }}{%- endif %}
  {%- if m.role == 'user' %}
    {%- set said = '<<SYS>>\\n' + messages[0].content + '\\n<</SYS>>\\n\\n' + m.content if off and loop.first else m.content %}
    {{- bos_token + '[INST] ' + said | trim + ' [/INST]' }}
  {%- else %}{%- generation %}{{- ' ' + m.content | trim + ' ' + eos_token }}{%- endgeneration %}{%- endif %}
{%- endfor %}"""


def llama31(turns: list[Turn]) -> Iterator[Piece]:
    """Llama 3.1: a system turn with dates, always; a tool's results as a JSON string from ``ipython``."""

    def head(role: str) -> Iterator[Piece]:
        yield from (C("<|start_header_id|>"), T(role), C("<|end_header_id|>"), T("\n\n"))

    system = turns[0][1] if turns[0][0] == "system" else ""
    yield C("<|begin_of_text|>")
    yield from head("system")
    yield T("Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n" + system.strip())
    yield C("<|eot_id|>")
    for at, (role, text) in enumerate(turns):
        if role == "system":
            continue
        of = at if role == "assistant" else None
        yield from head("ipython" if role == "tool" else role)
        yield T(json.dumps(text, ensure_ascii=False) if role == "tool" else text.strip(), of)
        yield C("<|eot_id|>", of)


LLAMA31 = """\
{%- if not date_string is defined %}{%- set date_string = '1 Jan 2030' %}{%- endif %}
{{- bos_token + '<|start_header_id|>system<|end_header_id|>\\n\\n' }}
{{- 'Cutting Knowledge Date: December 2023\\nToday Date: ' + date_string + '\\n\\n' }}
{%- if messages[0].role == 'system' %}{{- messages[0].content | trim }}{%- set messages = messages[1:] %}{%- endif %}
{{- '<|eot_id|>' }}
{%- for m in messages %}
  {%- if m.role == 'tool' %}{{- '<|start_header_id|>ipython<|end_header_id|>\\n\\n' + m.content | tojson + '<|eot_id|>' }}
  {%- elif m.role == 'assistant' %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
    {%- generation %}{{- m.content | trim + '<|eot_id|>' }}{%- endgeneration %}
  {%- else %}{{- '<|start_header_id|>' + m.role + '<|end_header_id|>\\n\\n' + m.content | trim + '<|eot_id|>' }}{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}"""


def mistral(turns: list[Turn], space: str = " ") -> Iterator[Piece]:
    """Mistral v3: control tokens around instructions; the system text goes to the last user turn."""
    system = turns[0][1] if turns[0][0] == "system" else None
    asked = max(i for i, (role, _) in enumerate(turns) if role == "user")
    yield C("<s>")
    for at, (role, text) in enumerate(turns):
        if role == "user":
            said = f"{system}\n\n{text}" if system is not None and at == asked else text
            yield from (C("[INST]"), T(space + said), C("[/INST]"))
        elif role == "tool":
            yield from (C("[TOOL_RESULTS]"), T(space + text), C("[/TOOL_RESULTS]"))
        elif role == "assistant":
            yield from (T(space + text.strip() if space else text, at), C("</s>", at))


def tekken(turns: list[Turn]) -> Iterator[Piece]:
    """The same with a tekken vocabulary: no spaces at all."""
    return mistral(turns, "")


MISTRAL = """\
{{- bos_token }}
{%- set ns = namespace(asked=-1) %}
{%- for m in messages %}{%- if m.role == 'user' %}{%- set ns.asked = loop.index0 %}{%- endif %}{%- endfor %}
{%- for m in messages %}
  {%- if m.role == 'user' %}
    {%- if loop.index0 == ns.asked and messages[0].role == 'system' %}{{- '[INST] ' + messages[0].content + '\\n\\n' + m.content + '[/INST]' }}
    {%- else %}{{- '[INST] ' + m.content + '[/INST]' }}{%- endif %}
  {%- elif m.role == 'tool' %}{{- '[TOOL_RESULTS] ' + m.content + '[/TOOL_RESULTS]' }}
  {%- elif m.role == 'assistant' %}{%- generation %}{{- ' ' + m.content | trim + eos_token }}{%- endgeneration %}{%- endif %}
{%- endfor %}"""
TEKKEN = (
    MISTRAL.replace("[INST] '", "[INST]'").replace("[TOOL_RESULTS] '", "[TOOL_RESULTS]'")
    .replace("' ' + m.content | trim", "m.content")
)  # fmt: skip


def gemma2(turns: list[Turn]) -> Iterator[Piece]:
    """Gemma 2: no system role (its text goes before the user's), and the assistant is ``model``."""
    yield C("<bos>")
    system = turns[0][1] if turns[0][0] == "system" else None
    for at, (role, text) in enumerate(turns):
        if role == "system":
            continue
        of = at if role == "assistant" else None
        said = f"{system}\n\n{text}" if system is not None and at == 1 else text
        name = "model" if of is not None else role
        yield from (C("<start_of_turn>"), T(f"{name}\n"), T(said.strip(), of), C("<end_of_turn>", of), T("\n"))  # fmt: skip


GEMMA2 = """\
{{- bos_token }}
{%- if messages[0].role == 'system' %}{{- raise_exception('System role not supported') }}{%- endif %}
{%- for m in messages %}
  {%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{- raise_exception('Conversation roles must alternate') }}{%- endif %}
  {%- if m.role == 'assistant' %}{{- '<start_of_turn>model\\n' }}{%- generation %}{{- m.content | trim + '<end_of_turn>' }}{%- endgeneration %}{{- '\\n' }}
  {%- else %}{{- '<start_of_turn>' + m.role + '\\n' + m.content | trim + '<end_of_turn>\\n' }}{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<start_of_turn>model\\n' }}{%- endif %}"""


def phi3(turns: list[Turn]) -> Iterator[Piece]:
    """Phi-3: markers that swallow the space behind them, and an end of text after the whole conversation."""
    for at, (role, text) in enumerate(turns):
        of = at if role == "assistant" else None
        yield from (C(f"<|{role}|>"), T("\n"), T(text, of), C("<|end|>", of), T("\n"))
    yield C("<|endoftext|>")


PHI3 = """\
{%- for m in messages %}
  {%- if m.role == 'assistant' %}{{- '<|assistant|>\\n' }}{%- generation %}{{- m.content + '<|end|>' }}{%- endgeneration %}{{- '\\n' }}
  {%- else %}{{- '<|' + m.role + '|>\\n' + m.content + '<|end|>\\n' }}{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|assistant|>\\n' }}{%- else %}{{- eos_token }}{%- endif %}"""


def zephyr(turns: list[Turn]) -> Iterator[Piece]:
    """Zephyr: role markers that are ordinary text, and an end token after every turn."""
    for at, (role, text) in enumerate(turns):
        of = at if role == "assistant" else None
        yield from (T(f"<|{role}|>\n"), T(text, of), C("</s>", of), T("\n"))


ZEPHYR = """\
{%- for m in messages %}
  {{- '<|' + m.role + '|>\\n' }}
  {%- if m.role == 'assistant' %}{%- generation %}{{- m.content + eos_token }}{%- endgeneration %}{{- '\\n' }}
  {%- else %}{{- m.content + eos_token + '\\n' }}{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|assistant|>\\n' }}{%- endif %}"""


def tulu3(turns: list[Turn]) -> Iterator[Piece]:
    """Tulu 3: an end token after answers alone, and no newline after the last."""
    for at, (role, text) in enumerate(turns):
        of = at if role == "assistant" else None
        yield from (T(f"<|{role}|>\n"), T(text, of))
        if of is not None:
            yield C("<|end_of_text|>", of)
        if of is None or at + 1 < len(turns):
            yield T("\n")


TULU3 = """\
{%- for m in messages %}
  {{- '<|' + m.role + '|>\\n' }}
  {%- if m.role == 'assistant' %}{%- generation %}{{- m.content + eos_token }}{%- endgeneration %}{%- if not loop.last %}{{- '\\n' }}{%- endif %}
  {%- else %}{{- m.content + '\\n' }}{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|assistant|>\\n' }}{%- endif %}"""


def deepseek2(turns: list[Turn]) -> Iterator[Piece]:
    """DeepSeek-V2: roles in plain words; the prompt ends before the space that an answer begins with."""
    yield C("<｜begin▁of▁sentence｜>")
    for at, (role, text) in enumerate(turns):
        if role == "assistant":
            yield from (T("Assistant:"), T(f" {text}", at), C("<｜end▁of▁sentence｜>", at))
        else:
            yield T(f"User: {text}\n\n" if role == "user" else f"{text}\n\n")


DEEPSEEK2 = """\
{{- bos_token }}
{%- for m in messages %}
  {%- if m.role == 'assistant' %}{{- 'Assistant:' }}{%- generation %}{{- ' ' + m.content + eos_token }}{%- endgeneration %}
  {%- elif m.role == 'user' %}{{- 'User: ' + m.content + '\\n\\n' }}
  {%- else %}{{- m.content + '\\n\\n' }}{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- 'Assistant:' }}{%- endif %}"""


def deepseek3(turns: list[Turn]) -> Iterator[Piece]:
    """DeepSeek-V3: no marker between a tool's results and the answer to them."""
    yield C("<｜begin▁of▁sentence｜>")
    yield T("\n\n".join(text for role, text in turns if role == "system"))
    for at, (role, text) in enumerate(turns):
        after = at > 0 and turns[at - 1][0] == "tool"
        if role == "user":
            yield from (C("<｜User｜>"), T(text))
        elif role == "tool":
            if not after:
                yield C("<｜tool▁outputs▁begin｜>")
            else:
                yield T("\n")
            yield from (C("<｜tool▁output▁begin｜>"), T(text), C("<｜tool▁output▁end｜>"))
        elif role == "assistant":
            yield C("<｜tool▁outputs▁end｜>" if after else "<｜Assistant｜>")
            yield from (T(text, at), C("<｜end▁of▁sentence｜>", at))


DEEPSEEK3 = """\
{{- bos_token }}
{%- for m in messages %}{%- if m.role == 'system' %}{{- ('\\n\\n' if not loop.first else '') + m.content }}{%- endif %}{%- endfor %}
{%- set ns = namespace(tool=false) %}
{%- for m in messages %}
  {%- if m.role == 'user' %}{%- set ns.tool = false %}{{- '<｜User｜>' + m.content }}
  {%- elif m.role == 'tool' %}
    {{- ('\\n' if ns.tool else '<｜tool▁outputs▁begin｜>') + '<｜tool▁output▁begin｜>' + m.content + '<｜tool▁output▁end｜>' }}
    {%- set ns.tool = true %}
  {%- elif m.role == 'assistant' %}
    {{- '<｜tool▁outputs▁end｜>' if ns.tool else '<｜Assistant｜>' }}
    {%- generation %}{{- m.content + eos_token }}{%- endgeneration %}{%- set ns.tool = false %}
  {%- endif %}
{%- endfor %}
{%- if ns.tool %}{{- '<｜tool▁outputs▁end｜>' }}{%- elif add_generation_prompt %}{{- '<｜Assistant｜>' }}{%- endif %}"""


def command_r(turns: list[Turn]) -> Iterator[Piece]:
    """Command-R: a token for the turn and one for the role, and no newline anywhere."""
    names = {"system": "SYSTEM", "user": "USER", "assistant": "CHATBOT"}
    yield C("<BOS_TOKEN>")
    for at, (role, text) in enumerate(turns):
        of = at if role == "assistant" else None
        said = text if role == "system" else text.strip()
        yield from (C("<|START_OF_TURN_TOKEN|>"), C(f"<|{names[role]}_TOKEN|>"), T(said, of), C("<|END_OF_TURN_TOKEN|>", of))  # fmt: skip


COMMAND_R = """\
{{- bos_token }}
{%- for m in messages %}
  {%- if m.role == 'system' %}{{- '<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>' + m.content + '<|END_OF_TURN_TOKEN|>' }}
  {%- elif m.role == 'user' %}{{- '<|START_OF_TURN_TOKEN|><|USER_TOKEN|>' + m.content.strip() + '<|END_OF_TURN_TOKEN|>' }}
  {%- elif m.role == 'assistant' %}{{- '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' }}{%- generation %}{{- m.content.strip() + '<|END_OF_TURN_TOKEN|>' }}{%- endgeneration %}{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' }}{%- endif %}"""


def vicuna(turns: list[Turn]) -> Iterator[Piece]:
    """Vicuna 1.5: no control token but the end; everything on one line."""
    system = "A chat between a curious user and an artificial intelligence assistant."
    if turns[0][0] == "system":
        system = turns[0][1]
    yield from (C("<s>"), T(f"{system} "))
    for at, (role, text) in enumerate(turns):
        if role == "user":
            yield T(f"USER: {text} ")
        elif role == "assistant":
            yield from (T("ASSISTANT:"), T(f" {text}", at), C("</s>", at))


VICUNA = """\
{%- if messages[0].role == 'system' %}{{- bos_token + messages[0].content + ' ' }}
{%- else %}{{- bos_token + 'A chat between a curious user and an artificial intelligence assistant. ' }}{%- endif %}
{%- for m in messages %}
  {%- if m.role == 'user' %}{{- 'USER: ' + m.content + ' ' }}
  {%- elif m.role == 'assistant' %}{{- 'ASSISTANT:' }}{%- generation %}{{- ' ' + m.content + eos_token }}{%- endgeneration %}{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- 'ASSISTANT:' }}{%- endif %}"""


def none(turns: list[Turn]) -> Iterator[Piece]:
    """No template: Tulu's roles, and what the tokenizer puts before text."""
    yield C("<s>")
    yield from tulu2(turns)


def tulu2(turns: list[Turn]) -> Iterator[Piece]:
    for at, (role, text) in enumerate(turns):
        of = at if role == "assistant" else None
        yield from (T(f"<|{role}|>\n"), T(text, of))
        if of is not None:
            yield C("</s>", of)
        if at + 1 < len(turns):
            yield T("\n")


PLAIN = frozenset({"system", "user", "assistant"})
TOOLS = PLAIN | {"tool"}
IM = ("<|im_start|>", "<|im_end|>")
DS = ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>")
DS_TURNS = (
    "<｜User｜>", "<｜Assistant｜>", "<｜tool▁outputs▁begin｜>", "<｜tool▁outputs▁end｜>", "<｜tool▁output▁begin｜>",
    "<｜tool▁output▁end｜>",
)  # fmt: skip
HEADERS = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
COHERE = (
    "<BOS_TOKEN>", "<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>", "<|SYSTEM_TOKEN|>", "<|USER_TOKEN|>",
    "<|CHATBOT_TOKEN|>",
)  # fmt: skip
PHI = ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<|endoftext|>")
INST = ("<s>", "</s>", "[INST]", "[/INST]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]")
SENTENCE = ("<s>", "</s>")
STYLES = [
    Style("qwen2.5", CHATML, chatml, IM, eos=IM[1], bos=None, soft=("<tool_response>", "</tool_response>"), roles=TOOLS),
    Style("qwen3", QWEN3, qwen3, IM, eos=IM[1], bos=None, roles=TOOLS,
          soft=("<think>", "</think>", "<tool_response>", "</tool_response>")),
    Style("llama-2", LLAMA2, llama2, SENTENCE, kind="legacy"),
    Style("llama-3.1", LLAMA31, llama31, HEADERS, eos="<|eot_id|>", bos=HEADERS[0], roles=TOOLS),
    Style("mistral-v0.3", MISTRAL, mistral, INST, kind="legacy", roles=TOOLS),
    Style("mistral-tekken", TEKKEN, tekken, INST, roles=TOOLS),
    Style("gemma-2", GEMMA2, gemma2, ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"), kind="pieces", eos="<eos>", bos="<bos>"),
    Style("phi-3", PHI3, phi3, PHI, kind="pieces", eos="<|endoftext|>", bos=None, rstrip=True),
    Style("zephyr", ZEPHYR, zephyr, SENTENCE, kind="legacy"),
    Style("tulu-3", TULU3, tulu3, ("<|end_of_text|>",), eos="<|end_of_text|>", bos=None),
    Style("deepseek-v2", DEEPSEEK2, deepseek2, DS, eos=DS[1], bos=DS[0]),
    Style("deepseek-v3", DEEPSEEK3, deepseek3, (*DS, *DS_TURNS), eos=DS[1], bos=DS[0], roles=TOOLS),
    Style("command-r", COMMAND_R, command_r, COHERE, eos=COHERE[2], bos=COHERE[0]),
    Style("vicuna", VICUNA, vicuna, SENTENCE, kind="pieces"),
    Style("none", None, none, SENTENCE, kind="pieces"),
]  # fmt: skip
