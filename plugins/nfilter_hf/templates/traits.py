"""Learn the traits of a chat template by rendering short conversations, because a template is a program without metadata."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any, Final

from nfilter_hf.templates.turns import THOUGHTS, Arguments, Form

USER, ANSWER, SYSTEM, RESULT, THOUGHT = "Usr7", "Ans7", "Sys7", "Res7", "Tht7"
_NAME, _KEY, _VALUE, _ID = "Fun7", "Key7", "Val7", "Call70000"
_ASKED: Final = {"role": "user", "content": USER}
_ANSWERED: Final = {"role": "assistant", "content": ANSWER}
TOOL: Final[Mapping[str, Any]] = {
    "type": "function",
    "function": {
        "name": _NAME,
        "description": "Dsc7",
        "parameters": {
            "type": "object",
            "properties": {_KEY: {"type": "string", "description": "Prm7"}},
            "required": [_KEY],
        },
    },
}
"""An example tool for rendering."""

_THOUGHT_KEYS: Final = ("reasoning_content", "reasoning", "thinking")
# Roles of tool results, the usual one first.
_TOOL_ROLES: Final = ("tool", "ipython", "observation", "function", "tool_response", "tool_results")  # fmt: skip
_DAY: Final = date(2024, 7, 26)
# Templates receive data but no functions, so a macro writes the date.
_DATED: Final = (
    "{% macro strftime_now(form) %}{{ form"
    + "".join(f" | replace('%{code}', '{_DAY.strftime('%' + code)}')" for code in "YmdBbAaHMSyjeI")
    + " }}{% endmacro %}{{ '' }}"
)


class ChatError(Exception):
    """A conversation that the chat template rejects; caught inside this plugin."""


class Renderer:
    """A chat template with the tokenizer that runs it. The date in a template is constant."""

    def __init__(
        self, tokenizer: Any, template: str, more: Mapping[str, Any], *, tools: bool = False
    ) -> None:
        """``tools``: the template is only for conversations with tools."""
        self._always = tools
        self._parts = False
        self._tokenizer = tokenizer
        self.template = template
        self._more = dict(more)
        self._run = template
        if "date_string" in template:
            self._more["date_string"] = "26 Jul 2024"
        if "strftime_now" in template:
            self._run = _DATED + template

    def __call__(
        self,
        turns: Sequence[Mapping[str, Any]],
        *,
        ask: bool,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> str:
        """Return the text of ``turns``; with ``ask``, followed by the generation prompt.

        Raises:
            ChatError: if the template rejects the turns.
        """
        from jinja2 import TemplateError

        try:
            text = self._tokenizer.apply_chat_template(
                [_in_parts(turn) for turn in turns] if self._parts else list(turns),
                tools=list(tools) if tools else None,
                chat_template=self._run,
                tokenize=False,
                add_generation_prompt=ask,
                **self._more,
            )
        except (TemplateError, TypeError, ValueError, LookupError, AttributeError) as error:
            raise ChatError(f"the chat template rejects the conversation: {error}") from error
        return str(text)

    def choose_content_form(self) -> None:
        """Determine whether the template needs content as a text or as a list of parts.

        Raises:
            ChatError: if it renders neither.
        """
        problem = ChatError("the chat template omits the text of a user's turn")
        for self._parts in (False, True):
            try:
                if USER in self((_ASKED,), ask=True, tools=[TOOL] if self._always else None):
                    return
            except ChatError as error:
                problem = problem if self._parts else error
        self._parts = False
        raise problem

    def tried(
        self, turns: Sequence[Mapping[str, Any]], *, ask: bool, tools: bool = False
    ) -> str | None:
        """Return the text, or None if the template rejects the turns."""
        try:
            return self(turns, ask=ask, tools=[TOOL] if tools or self._always else None)
        except ChatError:
            return None


def _in_parts(turn: Mapping[str, Any]) -> Mapping[str, Any]:
    content = turn["content"]
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    return {**turn, "content": parts}


@dataclass(frozen=True, slots=True)
class TemplateTraits:
    """The traits of a template.

    ``opened`` is text at the end of a prompt that a finished turn lacks, ``lead`` the text before an answer in its turn. ``ends``
    are texts of one or more tokens that end an assistant's turn, ``end_of_turn`` ends the last one. ``inner`` are tokens around
    calls, results, tools and reasoning that open no turn.
    """

    takes_system: bool
    opened: str = ""
    lead: str = ""
    end_of_turn: str | None = None
    ends: frozenset[str] = frozenset()
    form: Form = field(default_factory=Form)
    inner: tuple[str, ...] = ()


def learn(render: Renderer, added: re.Pattern[str]) -> TemplateTraits:
    """Learn the traits of a template. ``added`` matches any added token of the tokenizer."""
    shown = render.tried(({"role": "system", "content": SYSTEM}, _ASKED), ask=True)
    opened, lead, end, middle = _answer(render, added)
    arguments, null, call_text = _calls(render)
    called = bool(call_text)
    ends = {token for token in (end, middle) if token}
    if call_text and not _token_after(call_text, _VALUE, ends):
        ends |= _call_end(added, call_text)
    thoughts, marks = _thoughts(render, opened)
    role, result_text = _tool_role(render, called=called, null=null, arguments=arguments)
    if end is None and middle and call_text and result_text:
        ends |= _next_turn(added, call_text, result_text)
    tools_text = render.tried((_ASKED,), ask=True, tools=True) or ""
    form = Form(role, arguments, null, _NAME in tools_text, thoughts, marks)
    inner = (_around(added, call_text, _VALUE) | _around(added, result_text, RESULT)) - ends
    # Reasoning in a separate field is plain text.
    inner |= {mark for pair in THOUGHTS for mark in pair} if thoughts or marks else set()
    return TemplateTraits(
        shown is not None and SYSTEM in shown,
        opened,
        lead,
        end,
        frozenset(ends),
        form,
        tuple(sorted(inner)),
    )


def _answer(render: Renderer, added: re.Pattern[str]) -> tuple[str, str, str | None, str | None]:
    """The traits ``opened`` and ``lead``, and the texts that end the last answer and earlier ones."""
    prompt = render.tried((_ASKED,), ask=True)
    text = render.tried((_ASKED, _ANSWERED), ask=False)
    at = -1 if prompt is None or text is None else text.rfind(ANSWER)
    if prompt is None or text is None or at < 0:
        return "", "", None, None
    opened = prompt[at:] if prompt.startswith(text[:at]) else ""
    lead = text[len(prompt) : at] if text.startswith(prompt) else ""
    more = (_ASKED, _ANSWERED, {"role": "user", "content": "Nxt7"})
    last, middle = _run(added, text), _run(added, render.tried(more, ask=True) or "")
    # Their common part is the end of the turn; the rest ends the conversation or begins the next turn.
    common = [one for one, other in zip(last, middle, strict=False) if one == other]
    # A template may write the beginning of the next answer without being asked to.
    unasked = render.tried((_ASKED, _ANSWERED), ask=True) == text
    openers = set(added.findall(prompt[: prompt.find(USER)]))
    while unasked and len(common) > 1 and common[-1] in openers:
        common.pop()
    same = "".join(common)
    if last[:1] == middle[:1] and same:
        return opened, lead, same, same
    return opened, lead, last[0] if last else None, middle[0] if middle else None


def _run(added: re.Pattern[str], text: str) -> list[str]:
    """The added tokens right after the last answer, ignoring white space before them."""
    at = text.rfind(ANSWER)
    rest = text[at + len(ANSWER) :].lstrip() if at >= 0 else ""
    tokens: list[str] = []
    while match := added.match(rest):
        tokens.append(match.group())
        rest = rest[match.end() :]
    return tokens


def _call_end(added: re.Pattern[str], text: str) -> set[str]:
    """The token that ends only the turn of a call, unless it is the closing one of a pair."""
    tokens = added.findall(text[text.rfind(_VALUE) :])
    last = tokens[-1] if tokens else ""
    pairs = (last.replace("/", ""), last.replace("end", "begin"))
    return {last} if last and not any(pair != last and pair in text for pair in pairs) else set()


def _next_turn(added: re.Pattern[str], call_text: str, result_text: str) -> set[str]:
    """The token that begins a result, where turns end with the beginning of the next one."""
    after = added.findall(result_text[result_text.rfind(_VALUE) :])
    return set(next(([token] for token in after if token not in call_text), []))


def _token_after(text: str, what: str, tokens: set[str]) -> bool:
    return any(token in text[text.rfind(what) :] for token in tokens)


def _calls(render: Renderer) -> tuple[Arguments | None, bool, str]:
    """The form of calls, whether the text of their turn must be null, and an example text."""
    ways: tuple[Arguments, ...] = ("object", "text")
    for null in (False, True):
        for way in ways:
            turn = _calling(way, null=null)
            for tools in (False, True):
                text = render.tried((_ASKED, turn), ask=False, tools=tools)
                if text is not None and _written(text, tools=tools):
                    return way, null, text
    return None, False, ""


def _written(text: str, *, tools: bool) -> bool:
    # The description of the tool also contains the names.
    least = 2 if tools else 1
    present = text.count(_NAME) >= least and text.count(_KEY) >= least and _VALUE in text
    return present and f"'{_KEY}'" not in text and f'\\"{_KEY}' not in text


def _calling(way: Arguments, *, null: bool) -> dict[str, Any]:
    arguments = {_KEY: _VALUE}
    given: Any = arguments if way == "object" else json.dumps(arguments)
    call = {"id": _ID, "type": "function", "function": {"name": _NAME, "arguments": given}}
    return {"role": "assistant", "content": None if null else "", "tool_calls": [call]}


def _thoughts(render: Renderer, opened: str) -> tuple[str | None, tuple[str, str] | None]:
    """The template's key of reasoning, else the marks with which it recognises reasoning in a text."""
    for key in _THOUGHT_KEYS:
        if key in render.template:
            text = render.tried((_ASKED, {**_ANSWERED, key: THOUGHT}), ask=False) or ""
            if text.count(THOUGHT) == 1:
                return key, None
    for pair in THOUGHTS:
        if opened.strip().endswith(pair[0]):
            return None, pair
        if pair[1] in render.template:
            # A template that recognises reasoning in a text omits it in earlier turns.
            turn = {**_ANSWERED, "content": f"{pair[0]}\n{THOUGHT}\n{pair[1]}\n\n{ANSWER}"}
            text = render.tried((_ASKED, turn, _ASKED), ask=True) or THOUGHT
            if THOUGHT not in text and ANSWER in text:
                return None, pair
    return None, None


def _tool_role(
    render: Renderer, *, called: bool, null: bool, arguments: Arguments | None
) -> tuple[str | None, str]:
    """The template's role of tool results, and the text of an example.

    A role that is rendered like a user's or an assistant's turn does not count: a template without tools may render a result as
    an answer.
    """
    before = _calling(arguments, null=null) if called and arguments else _ANSWERED
    ordinary = {
        render.tried((_ASKED, before, {"role": role, "content": RESULT}), ask=True)
        for role in ("user", "assistant")
    }
    for role in _TOOL_ROLES:
        if role != "tool" and role not in render.template:
            continue
        turn = {"role": role, "content": RESULT, "name": _NAME, "tool_call_id": _ID}
        text = render.tried((_ASKED, before, turn), ask=True)
        if text is not None and RESULT in text and text not in ordinary:
            return role, text
    return None, ""


def _around(added: re.Pattern[str], text: str, last: str) -> set[str]:
    """Added tokens between the user's text and ``last``, or right after it: those around a call or a result."""
    start, end = text.rfind(USER), text.rfind(last)
    if start < 0 or end < 0:
        return set()
    after = added.search(text, end)
    tokens = {match.group() for match in added.finditer(text, start, end)}
    return {
        token for token in tokens | ({after.group()} if after else set()) if not token.isspace()
    }
