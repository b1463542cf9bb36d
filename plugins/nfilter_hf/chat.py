"""Conversations to text with a chat template, and where in the text each answer lies.

Answers are found by rendering the conversation up to each of them with the generation prompt, so a template needs no
marks of its own. What a model is shown as a prompt is always the beginning of the rendered conversation.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from nfilter import Message, ModelError
from nfilter_hf.tokens import TextEncoder

TULU_TEMPLATE: Final = (
    "{{ bos_token }}{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] }}"
    "{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}"
    "{% if not loop.last %}{{ '\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '\n<|assistant|>\n' }}{% endif %}"
)
"""Roles as Tulu writes them (Wang et al. 2023, arXiv:2306.04751), for a model without a template."""

_REMEDY: Final = (
    "set chat_template: none for this model, or repair chat_template.jinja in its folder"
)
_STAND_IN: Final = "Ans7StandsHere"
_TULU_MARKERS: Final = ("<|system|>", "<|user|>", "<|assistant|>", "<|tool|>")


class ChatError(Exception):
    """A conversation that the chat template cannot render; caught inside this plugin."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One assistant turn: characters [start, end) from its first character to its end-of-turn token."""

    message: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Rendered:
    """A rendered conversation. ``mark`` is the character that breaks control tokens and stands for nothing.

    ``ends[i]`` is where message ``i`` ends in ``text``; ``prompt`` is where a model's turn begins, if one does.
    """

    text: str
    mark: str
    answers: tuple[Answer, ...]
    ends: tuple[int, ...]

    @property
    def cuts(self) -> tuple[int, ...]:
        """Where tokens must not span: the start of each answer."""
        return tuple(answer.start for answer in self.answers)


@dataclass(frozen=True, slots=True)
class _Turn:
    role: str
    content: str
    message: int


class Chat:
    """The chat template of one tokenizer, with what was learned of it by rendering short conversations.

    Raises ModelError for a template that renders nothing at all.
    """

    def __init__(self, tokenizer: Any, *, plain: bool = False) -> None:
        self._tokenizer = tokenizer
        self.tulu = plain or not tokenizer.chat_template
        self.template: str = TULU_TEMPLATE if self.tulu else _own_template(tokenizer)
        self._extra: dict[str, Any] = {}
        if self.tulu and not _adds_bos(tokenizer):
            self._extra["bos_token"] = ""
        if "date_string" in self.template:
            # Llama 3 templates write today's date; an answer must not depend on the day.
            self._extra["date_string"] = "26 Jul 2024"
        try:
            self._render((_Turn("user", "Usr7", 0),), ask=True)
        except ChatError as error:
            raise ModelError(f"{error}; {_REMEDY}") from error
        added = sorted((t.content for t in tokenizer.added_tokens_decoder.values()), key=len)
        self._added = re.compile("|".join(map(re.escape, reversed(added))) or r"(?!)")
        self.takes_system = self._probe_system()
        self._opened, self._lead, self.end_of_turn = self._probe_answer()
        markers = _TULU_MARKERS if self.tulu else ()
        self.encoder = TextEncoder(tokenizer, markers, self._role_tokens())

    def prompt(self, messages: Sequence[Message]) -> Rendered:
        """What a model is shown so that it writes the next assistant turn.

        Where the last message is an assistant's, the model continues it. Raises ``ChatError``.
        """
        if messages and messages[-1].role == "assistant":
            whole = self.conversation(messages)
            start = whole.answers[-1].start
            content = _shielded(self.encoder, messages, whole.mark)[-1].content.rstrip()
            text = whole.text[:start] + content
            last = replace(whole.answers[-1], end=len(text))
            return Rendered(
                text, whole.mark, (*whole.answers[:-1], last), (*whole.ends[:-1], len(text))
            )
        return self._attempt(messages, self._prompt)

    def conversation(self, messages: Sequence[Message]) -> Rendered:
        """A whole conversation; one that does not end with an assistant turn is rendered as a prompt."""
        if not messages or messages[-1].role != "assistant":
            return self.prompt(messages)
        return self._attempt(messages, self._conversation)

    # --- attempts: a template may refuse what another takes ----------------------------------------------

    def _attempt(self, messages: Sequence[Message], build: Any) -> Rendered:
        mark = self.encoder.break_for([message.content for message in messages])
        turns = _shielded(self.encoder, messages, mark)
        if "tool" not in self.template:
            # A template that knows no tools may take a tool's result for an answer.
            turns = [replace(t, role="user") if t.role == "tool" else t for t in turns]
        plans = [_fold_system(turns)]
        if self.takes_system:
            plans.insert(0, turns)
        plans.append(_merge(plans[-1]))
        problem = "the conversation is empty"
        for plan in plans:
            if not plan:
                continue
            try:
                rendered: Rendered = build(plan, mark)
            except ChatError as error:
                problem = str(error)
            else:
                return replace(rendered, ends=_all_ends(rendered.ends, plan, len(messages)))
        raise ChatError(problem)

    def _render(self, turns: Sequence[_Turn], *, ask: bool) -> str:
        from jinja2 import TemplateError

        try:
            text = self._tokenizer.apply_chat_template(
                [{"role": turn.role, "content": turn.content} for turn in turns],
                chat_template=self.template,
                tokenize=False,
                add_generation_prompt=ask,
                **self._extra,
            )
        except (TemplateError, TypeError, ValueError, LookupError, AttributeError) as error:
            raise ChatError(f"the chat template refuses the conversation: {error}") from error
        return str(text)

    # --- rendering ---------------------------------------------------------------------------------------

    def _prompt(self, turns: Sequence[_Turn], mark: str) -> Rendered:
        text = self._render(turns, ask=True)
        answers, ends = [], []
        reached = 0
        for index, turn in enumerate(turns):
            content = turn.content.strip()
            if turn.role == "assistant":
                start, end = self._earlier_answer(text, turns, index, reached)
                answers.append(Answer(turn.message, start, end))
            else:
                end = self._end_of(text, turns[: index + 1], content, reached)
            reached = max(reached, end)
            ends.append(reached)
        return Rendered(text, mark, tuple(answers), tuple(ends))

    def _conversation(self, turns: Sequence[_Turn], mark: str) -> Rendered:
        last = turns[-1]
        context = turns[:-1]
        head = self._prompt(context, mark) if context else Rendered("", mark, (), ())
        full = self._render(turns, ask=False)
        content = last.content.strip()
        start = len(head.text)
        if not context:
            start = max(0, full.find(content))
            head = replace(head, text=full[:start])
        if full.startswith(head.text):
            tail = full[start:]
        else:
            # The generation prompt holds something that the finished turn does not (an opened thought, say).
            kept = last.content if last.content in full else content
            tail = kept + (self.end_of_turn or str(self._tokenizer.eos_token or ""))
        end, tail = self._close(tail, content)
        answer = Answer(last.message, start, start + end)
        text = head.text + tail
        return Rendered(text, mark, (*head.answers, answer), (*head.ends, len(text)))

    def _close(self, tail: str, content: str) -> tuple[int, str]:
        """Where the answer ends in ``tail``, its end token included, and ``tail`` with one if it had none."""
        # The content cannot hold an end token, so the first one is this turn's.
        if self.end_of_turn and self.end_of_turn in tail:
            return tail.index(self.end_of_turn) + len(self.end_of_turn), tail
        at = tail.find(content)
        after = at + len(content) if at >= 0 else 0
        if tail[after:].strip():
            return len(tail.rstrip()), tail
        eos = str(self._tokenizer.eos_token or "")
        return after + len(eos), tail[:after] + eos

    def _earlier_answer(
        self, text: str, turns: Sequence[_Turn], index: int, reached: int
    ) -> tuple[int, int]:
        content = turns[index].content.strip()
        before = turns[:index]
        try:
            asked = self._render(before, ask=True) if before else text[: max(0, text.find(content))]
        except ChatError:
            asked = text[:reached]
        if not text.startswith(asked):
            asked = asked.removesuffix(self._opened)
        begins = len(asked) if text.startswith(asked) else self._place(text, turns, index)
        known = begins is not None and begins >= reached
        start = begins if begins is not None and known else max(reached, _shared(asked, text))
        at = text.find(content, start)
        if at < 0:
            # The template rewrites what was said before: without its thoughts, say.
            at = text.find(self.end_of_turn, start) if self.end_of_turn else -1
            return start, at + len(self.end_of_turn or "") if at >= 0 else start
        end = at + len(content)
        return start if known else at, self._skip_end(text, end) or end

    def _place(self, text: str, turns: Sequence[_Turn], index: int) -> int | None:
        """Where the answer ``index`` begins in ``text``: where another text would stand in its place.

        A template may move what is before an answer once more turns follow it, the system text to the last of the
        user's turns, say; the prompt of that answer is then not the beginning of the conversation.
        """
        other = [*turns[:index], replace(turns[index], content=_STAND_IN), *turns[index + 1 :]]
        try:
            shown = self._render(other, ask=True)
        except ChatError:
            return None
        head, found, _ = shown.partition(_STAND_IN)
        if not found or not text.startswith(head):
            return None
        return len(head.removesuffix(self._lead))

    def _end_of(self, text: str, turns: Sequence[_Turn], content: str, reached: int) -> int:
        try:
            shown = self._render(turns, ask=False)
        except ChatError:
            shown = ""
        if shown and text.startswith(shown):
            return len(shown)
        at = text.find(content, reached)
        return at + len(content) if at >= 0 else reached

    def _skip_end(self, text: str, after: int) -> int | None:
        if not self.end_of_turn:
            return None
        at = after
        while at < len(text) and text[at].isspace() and not text.startswith(self.end_of_turn, at):
            at += 1
        return at + len(self.end_of_turn) if text.startswith(self.end_of_turn, at) else None

    # --- what the template is like -----------------------------------------------------------------------

    def _probe_system(self) -> bool:
        turns = (_Turn("system", "Sys7", 0), _Turn("user", "Usr7", 1))
        try:
            return "Sys7" in self._render(turns, ask=True)
        except ChatError:
            return False

    def _probe_answer(self) -> tuple[str, str, str | None]:
        """What a prompt opens that a finished turn lacks, what is before an answer's text, and the token after it."""
        asked = (_Turn("user", "Usr7", 0),)
        try:
            prompt = self._render(asked, ask=True)
            text = self._render((*asked, _Turn("assistant", "Ans7", 1)), ask=False)
        except ChatError:
            return "", "", None
        at = text.rfind("Ans7")
        if at < 0:
            return "", "", None
        opened = prompt[at:] if prompt.startswith(text[:at]) else ""
        lead = text[len(prompt) : at] if text.startswith(prompt) else ""
        found = self._added.search(text, at + 4)
        ends = found and not text[at + 4 : found.start()].strip()
        return opened, lead, found.group() if found and ends else None

    def _role_tokens(self) -> set[str]:
        """Added tokens that open or close a turn, whether or not the tokenizer calls them special."""
        found: set[str] = set()
        for ask in (False, True):
            try:
                text = self._render((_Turn("user", "Usr7", 0),), ask=ask)
            except ChatError:
                continue
            if not ask:
                found.update(m.group() for m in self._added.finditer(text))
                shown = text
            elif found_first := self._added.search(text, _shared(shown, text)):
                found.add(found_first.group())
        if self.end_of_turn:
            found.add(self.end_of_turn)
        return {token for token in found if not token.isspace()}


def _shared(one: str, other: str) -> int:
    """The length of the longest common beginning."""
    if other.startswith(one):
        return len(one)
    return next(
        (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b),
        min(len(one), len(other)),
    )


def _own_template(tokenizer: Any) -> str:
    try:
        return str(tokenizer.get_chat_template())
    except ValueError as error:
        raise ModelError(f"the model's chat template cannot be used: {error}; {_REMEDY}") from error


def _adds_bos(tokenizer: Any) -> bool:
    bos = tokenizer.bos_token_id
    return bos is not None and tokenizer("a", verbose=False)["input_ids"][:1] == [bos]


def _shielded(encoder: TextEncoder, messages: Sequence[Message], mark: str) -> list[_Turn]:
    return [_Turn(m.role, encoder.shield(m.content, mark), i) for i, m in enumerate(messages)]


def _fold_system(turns: Sequence[_Turn]) -> list[_Turn]:
    """Put each system text before the user's next, for templates that have no system role."""
    out: list[_Turn] = []
    waiting: list[_Turn] = []
    for turn in turns:
        if turn.role == "system":
            waiting.append(turn)
        elif turn.role == "user" and waiting:
            text = "\n\n".join([*(w.content for w in waiting), turn.content])
            out.append(replace(turn, content=text))
            waiting = []
        else:
            out.append(turn)
    if waiting:
        text = "\n\n".join(w.content for w in waiting)
        out.append(_Turn("user", text, waiting[-1].message))
    return out


def _merge(turns: Sequence[_Turn]) -> list[_Turn]:
    """Join neighbours of one role, for templates that want turns to alternate."""
    out: list[_Turn] = []
    for turn in turns:
        if out and out[-1].role == turn.role:
            out[-1] = replace(turn, content=out[-1].content + "\n\n" + turn.content)
        else:
            out.append(turn)
    return out


def _all_ends(ends: Sequence[int], plan: Sequence[_Turn], count: int) -> tuple[int, ...]:
    """Ends by message: one that was folded into another ends where it begins, so its tokens count as the other's."""
    known = dict(zip((turn.message for turn in plan), ends, strict=True))
    out: list[int] = []
    for index in range(count):
        out.append(max(known.get(index, 0), out[-1] if out else 0))
    return tuple(out)
