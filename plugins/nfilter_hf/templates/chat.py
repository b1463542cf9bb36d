"""Render conversations with a chat template, and locate each answer in the text."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, Final

from nfilter import JSON, Message, ModelError, strings_in
from nfilter_hf.templates.drafting import Answer, Draft, Rendered, shared
from nfilter_hf.templates.traits import TOOL, ChatError, Renderer, learn
from nfilter_hf.templates.turns import (
    Turn,
    all_ends,
    fold_system,
    merge,
    renumbered,
    shielded,
    shielded_tools,
)
from nfilter_hf.tokens import TextEncoder

__all__ = ["TULU_TEMPLATE", "Answer", "Chat", "ChatError", "Rendered"]

TULU_TEMPLATE: Final = (
    "{{ bos_token }}{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] }}"
    "{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}"
    "{% if not loop.last %}{{ '\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '\n<|assistant|>\n' }}{% endif %}"
)
"""Role markers of Tulu (Wang et al. 2023, arXiv:2306.04751), for a model without a template."""

_REMEDY: Final = (
    "set chat_template: none for this model, or repair chat_template.jinja in its folder"
)
_TULU_MARKERS: Final = ("<|system|>", "<|user|>", "<|assistant|>", "<|tool|>")
_AS_USER: Final = (
    "the result of a tool is written as a user's turn, because the chat template has no role for it"
)
_RENUMBERED: Final = (
    "the ids of tool calls are replaced, because the chat template requires nine letters and digits"
)
Tools = Sequence[Mapping[str, JSON]]
Plan = tuple[list[Turn], tuple[str, ...]]


class Chat:
    """The chat template of one tokenizer, with its traits, which are learned by rendering short conversations.

    A tokenizer may have a second template for conversations with tools; ``with_tools`` is the chat of that one.

    Raises:
        ModelError: if the template renders nothing.
    """

    def __init__(self, tokenizer: Any, *, plain: bool = False, tools: bool = False) -> None:
        self._tokenizer = tokenizer
        self.tulu = plain or not tokenizer.chat_template
        self.template: str = TULU_TEMPLATE if self.tulu else _own_template(tokenizer, tools=tools)
        bare = self.tulu and not _adds_bos(tokenizer)
        self._render = Renderer(
            tokenizer, self.template, {"bos_token": ""} if bare else {}, tools=tools
        )
        try:
            self._render.choose_content_form()
        except ChatError as error:
            if not tools:
                raise ModelError(f"{error}; {_REMEDY}") from error
        added = sorted((t.content for t in tokenizer.added_tokens_decoder.values()), key=len)
        self._added = re.compile("|".join(map(re.escape, reversed(added))) or r"(?!)")
        self.traits = learn(self._render, self._added)
        markers = _TULU_MARKERS if self.tulu else ()
        self.encoder = TextEncoder(tokenizer, markers, self._role_tokens())

    @property
    def takes_system(self) -> bool:
        """Whether the template has a system role."""
        return self.traits.takes_system

    @property
    def end_of_turn(self) -> str | None:
        """The last token of the text that ends an answer, or None."""
        tokens = self._added.findall(self.traits.end_of_turn or "")
        return tokens[-1] if tokens else None

    @cached_property
    def with_tools(self) -> Chat:
        """The chat that renders tools: this one, unless the tokenizer has a separate template for them."""
        if self.tulu or _own_template(self._tokenizer, tools=True) == self.template:
            return self
        return Chat(self._tokenizer, tools=True)

    def prompt(self, messages: Sequence[Message], tools: Tools = ()) -> Rendered:
        """Render the prompt for the next assistant turn. If the last message is an assistant's, the model continues it.

        Raises:
            ChatError: if the template rejects the conversation.
        """
        if tools and self.with_tools is not self:
            return self.with_tools.prompt(messages, tools)
        if messages and messages[-1].role == "assistant":
            return self._continued(messages, tools)
        return self._attempt(messages, tools, lambda draft, turns: draft.prompt(turns))

    def conversation(self, messages: Sequence[Message], tools: Tools = ()) -> Rendered:
        """Render a conversation; one that does not end with an assistant turn is rendered as a prompt.

        Raises:
            ChatError: if the template rejects the conversation.
        """
        if not messages or messages[-1].role != "assistant":
            return self.prompt(messages, tools)
        if tools and self.with_tools is not self:
            return self.with_tools.conversation(messages, tools)
        return self._attempt(messages, tools, lambda draft, turns: draft.conversation(turns))

    def _continued(self, messages: Sequence[Message], tools: Tools) -> Rendered:
        whole = self.conversation(messages, tools)
        start = whole.answers[-1].start
        content = self.encoder.shield(messages[-1].content, whole.mark).rstrip()
        text = whole.text[:start] + content
        last = replace(whole.answers[-1], end=len(text))
        answers, ends = (*whole.answers[:-1], last), (*whole.ends[:-1], len(text))
        return Rendered(text, whole.mark, answers, ends, whole.remarks)

    # --- attempts: templates accept different forms of a conversation -------------------------------------

    def _attempt(
        self,
        messages: Sequence[Message],
        tools: Tools,
        build: Callable[[Draft, Sequence[Turn]], Rendered],
    ) -> Rendered:
        self._check_supported(messages, tools)
        every = [text for message in messages for text in message.texts()]
        mark = self.encoder.break_for([*every, *(text for tool in tools for text in strings_in(tool))])  # fmt: skip
        inner = self.traits.inner
        listed = shielded_tools(self.encoder, tools, mark, inner)
        draft = Draft(self._render, self.traits, mark, listed, str(self._tokenizer.eos_token or ""))
        problem = "the conversation is empty"
        for plan, remarks in self._plans(shielded(self.encoder, messages, mark, inner)):
            try:
                done = build(draft, plan)
            except ChatError as error:
                problem = str(error)
            else:
                ends = all_ends(done.ends, plan, len(messages))
                return replace(done, ends=ends, remarks=(*done.remarks, *remarks))
        raise ChatError(problem)

    def _check_supported(self, messages: Sequence[Message], tools: Tools) -> None:
        """Raise ChatError for content that the template cannot represent, so that nothing is omitted silently."""
        form = self.traits.form
        if tools and not form.tools:
            raise ChatError(
                "the chat template does not support tools; choose a model whose template does, or remove 'tools' from the row"
            )
        if form.arguments is None and any(message.tool_calls for message in messages):
            raise ChatError(
                "the chat template does not support tool calls; choose a model whose template does, or remove such rows"
            )
        reasoned = bool(messages) and messages[-1].reasoning
        if reasoned and form.thoughts is None and form.marks is None:
            raise ChatError(
                "the chat template does not support reasoning; put it into the text of the turn, or remove it from the row"
            )

    def _plans(self, turns: Sequence[Turn]) -> Iterator[Plan]:
        """The forms of a conversation to try, each with remarks about its changes."""
        role = self.traits.form.tool_role
        results = any(turn.role == "tool" for turn in turns)
        called = results or any(turn.message.tool_calls for turn in turns)
        if role or not results:
            for plan in self._without_system_turns(_with_role(turns, role or "tool")):
                yield plan, ()
                if called and role:
                    yield renumbered(plan), (_RENUMBERED,)
        if results:
            # A template without tools may render a tool's result as an answer.
            for plan in self._without_system_turns(_with_role(turns, "user")):
                yield plan, (_AS_USER,)

    def _without_system_turns(self, turns: list[Turn]) -> Iterator[list[Turn]]:
        folded = fold_system(turns)
        plans = [turns, folded, merge(folded)] if self.takes_system else [folded, merge(folded)]
        return filter(None, plans)

    # --- traits of the template ----------------------------------------------------------------------------

    def _role_tokens(self) -> set[str]:
        """Added tokens that open or close a turn, including those that the tokenizer does not mark as special."""
        tokens = {token for end in self.traits.ends for token in self._added.findall(end)}
        asked = ({"role": "user", "content": "Usr7"},)
        shown = self._render.tried(asked, ask=False)
        if shown is not None:
            tokens.update(m.group() for m in self._added.finditer(shown))
        text = self._render.tried(asked, ask=True)
        if text is not None and (first := self._added.search(text, shared(shown or "", text))):
            tokens.add(first.group())
        return {token for token in tokens if not token.isspace()}


def _with_role(turns: Sequence[Turn], role: str) -> list[Turn]:
    """The turns with ``role`` as the role of tool results."""
    return [replace(turn, role=role) if turn.role == "tool" else turn for turn in turns]


def _own_template(tokenizer: Any, *, tools: bool) -> str:
    try:
        return str(tokenizer.get_chat_template(tools=[dict(TOOL)] if tools else None))
    except ValueError as error:
        raise ModelError(f"the model's chat template cannot be used: {error}; {_REMEDY}") from error


def _adds_bos(tokenizer: Any) -> bool:
    bos = tokenizer.bos_token_id
    return bos is not None and tokenizer("a", verbose=False)["input_ids"][:1] == [bos]
