"""Break control tokens of chat templates in messages to models that another program tokenizes.

A server tokenizes "<|im_start|>" in a message as a control token, so a dataset could start a turn. A space after the first
character makes it plain text. Tokens that an answer repeats get their original form back, so that no row changes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from nfilter.api.calls import Completion, Request
from nfilter.api.types import map_strings

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
    """A request without control tokens. ``broken`` are the tokens that were broken, outer before inner."""

    request: Request
    broken: tuple[str, ...] = ()

    def restored(self, answer: Completion) -> Completion:
        """Return ``answer`` with the tokens that it repeats in their original form."""
        if not self.broken:
            return answer
        reasoning = answer.reasoning
        return replace(
            answer,
            text=self._restore(answer.text),
            reasoning=None if reasoning is None else self._restore(reasoning),
            tool_calls=tuple(call.mapped(self._restore) for call in answer.tool_calls),
        )

    def _restore(self, text: str) -> str:
        for token in reversed(self.broken):
            text = text.replace(_apart(token), token)
        return text


def neutral(request: Request) -> Neutral:
    """Return ``request`` with a space in every control token of its messages and tools; unchanged if there is none."""
    tokens: dict[str, None] = {}

    def change(text: str) -> str:
        return _broken(text, tokens)

    messages = tuple(turn.mapped(change) for turn in request.messages)
    tools = tuple(map_strings(tool, change) for tool in request.tools)
    if not tokens:
        return Neutral(request)
    return Neutral(replace(request, messages=messages, tools=tools), tuple(tokens))


def tokens_in(texts: Iterable[str]) -> tuple[str, ...]:
    """Return the control tokens in ``texts``, each once; of overlapping tokens, the one that begins first."""
    return tuple(dict.fromkeys(match[0] for text in texts for match in _CONTROL.finditer(text)))


def broken(text: str) -> str:
    """Return ``text`` with a space after the first character of every control token."""
    return _broken(text, {})


def _broken(text: str, found: dict[str, None]) -> str:
    # A token inside another one, or one that begins where another ends, matches only after the first is broken. A space
    # creates no new token, so this terminates.
    while tokens := tokens_in([text]):
        found |= dict.fromkeys(tokens)
        text = _CONTROL.sub(lambda match: _apart(match[0]), text)
    return text


def _apart(token: str) -> str:
    return f"{token[0]} {token[1:]}"
