"""Control tokens of chat templates in text that goes to a model which another program tokenises.

A server cuts "<|im_start|>" out of a message as it would one of its own, and so a dataset could begin a turn. A blank
behind the first character makes text of it. What the answer repeats gets its own form back, so that no row changes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from nfilter.api.types import Completion, Request, map_strings

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
    """A request in which nothing is a control token. ``broken`` are those that were in it, outer before inner."""

    request: Request
    broken: tuple[str, ...] = ()

    def mended(self, answer: Completion) -> Completion:
        """``answer`` with the tokens that it repeats as the data has them."""
        if not self.broken:
            return answer
        reasoning = answer.reasoning
        return replace(
            answer,
            text=self._whole(answer.text),
            reasoning=None if reasoning is None else self._whole(reasoning),
        )

    def _whole(self, text: str) -> str:
        for token in reversed(self.broken):
            text = text.replace(_apart(token), token)
        return text


def neutral(request: Request) -> Neutral:
    """``request`` with a blank in every control token of its messages; the same object where there is none."""
    found: dict[str, None] = {}

    def change(text: str) -> str:
        return _broken(text, found)

    messages = tuple(turn.mapped(change) for turn in request.messages)
    tools = tuple(map_strings(tool, change) for tool in request.tools)
    if not found:
        return Neutral(request)
    return Neutral(replace(request, messages=messages, tools=tools), tuple(found))


def tokens_in(texts: Iterable[str]) -> tuple[str, ...]:
    """The control tokens in ``texts``, each once; of tokens that overlap, the one that begins first."""
    return tuple(dict.fromkeys(match[0] for text in texts for match in _CONTROL.finditer(text)))


def broken(text: str) -> str:
    """``text`` with a blank behind the first character of every control token."""
    return _broken(text, {})


def _broken(text: str, found: dict[str, None]) -> str:
    # A token within another, or one that begins where another ends, shows only once the first is broken. A blank makes
    # no new token, so this ends.
    while tokens := tokens_in([text]):
        found |= dict.fromkeys(tokens)
        text = _CONTROL.sub(lambda match: _apart(match[0]), text)
    return text


def _apart(token: str) -> str:
    return f"{token[0]} {token[1:]}"
