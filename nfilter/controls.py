"""Control tokens of chat templates in text that goes to a model which another program tokenises.

A server cuts "<|im_start|>" out of a message as it would one of its own, and so a dataset could begin a turn. A blank
behind the first character makes text of it. What the answer repeats gets its own form back, so that no row changes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from nfilter.types import Completion, Message, Request

_CONTROL = re.compile(
    r"""<[|｜][^<>\n]{0,80}?[|｜]>                                      # ChatML, Llama 3, Phi, Command, DeepSeek, gpt-oss
    | </?(?:s|bos|eos|pad|unk|mask|cls|sep|sop|eop|tool_call|tool_response|(?:start|end)_of_(?:turn|image)
        |(?:begin|end)(?:ning)?_of_(?:sentence|text)|fim_\w{1,16}|extra_id_\d{1,4}|special_\d{1,4}|unused\d{1,4})>
    | <</?SYS>>                                                       # Llama 2
    | \[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|TOOL_CONTENT|THINK|CLS|SEP|MASK|PAD|UNK|BOS|EOS
        |[gs]MASK|UNUSED_TOKEN_\d{1,4})\]                             # Mistral, BERT, GLM, InternLM
    | \]~!?b[\[\]]                                                   # MiniMax
    """,
    re.IGNORECASE | re.VERBOSE,
)


@dataclass(frozen=True, slots=True)
class Neutral:
    """A request in which nothing is a control token. ``broken`` are those that were in it."""

    request: Request
    broken: tuple[str, ...] = ()

    def mended(self, answer: Completion) -> Completion:
        """``answer`` with the tokens that it repeats as the data has them."""
        text = answer.text
        for token in self.broken:
            text = text.replace(_apart(token), token)
        return answer if text == answer.text else replace(answer, text=text)


def neutral(request: Request) -> Neutral:
    """``request`` with a blank in every control token of its messages; the same object where there is none."""
    found = tokens_in(message.content for message in request.messages)
    if not found:
        return Neutral(request)
    messages = tuple(Message(turn.role, broken(turn.content)) for turn in request.messages)
    return Neutral(replace(request, messages=messages), found)


def tokens_in(texts: Iterable[str]) -> tuple[str, ...]:
    """The control tokens in ``texts``, each once."""
    return tuple(dict.fromkeys(match[0] for text in texts for match in _CONTROL.finditer(text)))


def broken(text: str) -> str:
    """``text`` with a blank behind the first character of every control token."""
    return _CONTROL.sub(lambda match: _apart(match[0]), text)


def _apart(token: str) -> str:
    return f"{token[0]} {token[1:]}"
