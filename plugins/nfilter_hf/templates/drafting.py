"""Render one conversation in the form that a template accepts, and locate each answer in the text.

An answer is located by rendering the conversation before it with the generation prompt, so the template needs no generation
markers. The prompt of an answer is always the beginning of the rendered conversation.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from nfilter_hf.templates.traits import ChatError, Renderer, TemplateTraits
from nfilter_hf.templates.turns import THOUGHTS, Turn, marked, write

_PLACEHOLDER: Final = "Ans7StandsHere"
_CLOSED: Final = "the prompt opens reasoning, and a response has none: empty reasoning is closed before the response, outside the loss"
_THOUGHTLESS: Final = "the chat template omits the reasoning of a turn before the last"
_SYSTEMLESS: Final = "the chat template omits the system text"
_TEXTLESS: Final = "the chat template omits the text of a turn with a tool call before the last"


@dataclass(frozen=True, slots=True)
class Answer:
    """One assistant turn: characters [start, end), from its first character to its end-of-turn token.

    ``asked`` is the end of its prompt: before ``start`` if the prompt opens reasoning and the answer has none.
    """

    message: int
    start: int
    end: int
    asked: int


@dataclass(frozen=True, slots=True)
class Rendered:
    """A rendered conversation. ``mark`` is the character that breaks control tokens and is removed after tokenization.

    ``ends[i]`` is the end of message ``i`` in ``text``. ``remarks`` describe changes that the template made.
    """

    text: str
    mark: str
    answers: tuple[Answer, ...]
    ends: tuple[int, ...]
    remarks: tuple[str, ...] = ()

    @property
    def cuts(self) -> tuple[int, ...]:
        """Positions that no token may span: the end of each prompt, and the start of each answer."""
        return tuple(sorted({at for answer in self.answers for at in (answer.asked, answer.start)}))


@dataclass(eq=False)
class Draft:
    """Renders the turns of one conversation with one template."""

    template: Renderer
    traits: TemplateTraits
    mark: str
    tools: Sequence[Mapping[str, Any]]
    eos: str

    def _render(self, turns: Sequence[Turn], *, ask: bool) -> str:
        form = self.traits.form
        return self.template([write(turn, form) for turn in turns], ask=ask, tools=self.tools)

    def prompt(self, turns: Sequence[Turn]) -> Rendered:
        """Render the prompt after ``turns``.

        Raises:
            ChatError: if the template rejects the turns or omits content.
        """
        text = self._render(turns, ask=True)
        answers: list[Answer] = []
        ends: list[int] = []
        reached = 0
        for index, turn in enumerate(turns):
            if turn.role == "assistant":
                asked, start, end = self._earlier_answer(text, turns, index, reached)
                answers.append(Answer(turn.index, start, end, asked))
            else:
                end = self._end_of(text, turns[: index + 1], turn.content.strip(), reached)
            reached = max(reached, end)
            ends.append(reached)
        remarks = self._checked(text, turns, answers)
        return Rendered(text, self.mark, tuple(answers), tuple(ends), remarks)

    def conversation(self, turns: Sequence[Turn]) -> Rendered:
        """Render turns, of which the last is an assistant's, to the end of that one.

        Raises:
            ChatError: if the template rejects the turns or omits content.
        """
        last, context = turns[-1], turns[:-1]
        head = self.prompt(context) if context else Rendered("", self.mark, (), ())
        full = self._render(turns, ask=False)
        content = last.content.strip()
        if not context:
            head = replace(head, text=full[: self._first(full, turns, ask=False)])
        start = len(head.text)
        pair = _opened(head.text)
        tail = full[start:] if full.startswith(head.text) else self._tail(full, turns)
        before = ""
        if pair is not None:
            before, tail = self._inside(head.text, tail, last, pair)
        elif tail is None:
            # The generation prompt contains text that the finished turn does not.
            kept = last.content if last.content in full else content
            tail = self.traits.lead + kept + (self.traits.end_of_turn or self.eos)
        end, tail = self._close(tail, last, content)
        self._check_shown(tail[:end], last)
        begins = start + len(before)
        answer = Answer(last.index, begins, begins + end, start)
        text = head.text + before + tail
        remarks = tuple(dict.fromkeys((*head.remarks, *((_CLOSED,) if before else ()))))
        return Rendered(text, self.mark, (*head.answers, answer), (*head.ends, len(text)), remarks)

    # --- the last answer -------------------------------------------------------------------------------------

    def _tail(self, full: str, turns: Sequence[Turn]) -> str | None:
        """The last turn in ``full`` if the prompt is not its beginning: the text from the place of a placeholder.

        A template may write the system text with the last message, so that the finished conversation has it elsewhere or not
        at all.
        """
        try:
            shown = self._render([*turns[:-1], turns[-1].saying(_PLACEHOLDER)], ask=False)
        except ChatError:
            return None
        before, present, _ = shown.partition(_PLACEHOLDER)
        base = before.removesuffix(self.traits.lead)
        return full[len(base) :] if present and full.startswith(base) else None

    def _inside(
        self, head: str, tail: str | None, last: Turn, pair: tuple[str, str]
    ) -> tuple[str, str]:
        """The text between a prompt that opens reasoning and the response, and the response.

        The opening mark is not repeated. Reasoning that the template omitted is restored. If there is none, the reasoning is
        closed empty, outside the loss, so that the response is not inside it.
        """
        opening, closing = pair
        blanks = head[len(head.rstrip()) :]
        ends = self.traits.end_of_turn or self.eos
        if tail is None:
            tail = last.content + ends
        if tail.lstrip().startswith(opening):
            tail = tail.lstrip().removeprefix(opening).removeprefix(blanks)
        thought, closed, rest = tail.partition(closing)
        if closed and (thought.strip() or closing in last.content):
            return "", tail
        if closed:
            answer = rest.lstrip("\n")
            return tail[: len(tail) - len(answer)], answer
        given = marked(last.message, pair) if last.message.reasoning else last.content
        thought, closed, rest = given.partition(closing)
        if closed:
            thought = thought.lstrip().removeprefix(opening).removeprefix(blanks)
            gap = rest[: len(rest) - len(rest.lstrip())] or "\n\n"
            return "", thought + closing + gap + tail.lstrip()
        if last.content.lstrip().startswith(opening):  # reasoning that is not closed
            return "", tail
        return "\n\n".removeprefix(blanks) + closing + "\n\n", tail.lstrip("\n")

    def _close(self, tail: str, last: Turn, content: str) -> tuple[int, str]:
        """The end of the answer in ``tail``, including its end token, and ``tail`` with an end token added if it had none."""
        end = self.traits.end_of_turn
        if not last.plain:
            last_end = _last_of(tail, self.traits.ends)
            if last_end is not None:
                return last_end, tail
            tail = tail.rstrip() + self.eos
            return len(tail), tail
        # The content cannot contain an end token, so the first one belongs to this turn.
        if end and end in tail:
            return tail.index(end) + len(end), tail
        at = tail.find(content) if content else -1
        if end is None and at < 0:
            tail = tail.rstrip() + self.eos
            return len(tail), tail
        after = at + len(content) if at >= 0 else 0
        if tail[after:].strip():
            return len(tail.rstrip()), tail
        return after + len(self.eos), tail[:after] + self.eos

    # --- earlier turns ---------------------------------------------------------------------------------------

    def _earlier_answer(
        self, text: str, turns: Sequence[Turn], index: int, reached: int
    ) -> tuple[int, int, int]:
        """The end of the prompt of an answer, and the start and the end of the answer."""
        content = turns[index].content.strip()
        before = turns[:index]
        try:
            first = None if before else self._first(text, turns, ask=True)
            asked = self._render(before, ask=True) if first is None else text[:first]
        except ChatError:
            asked = text[:reached]
        pair = _opened(asked)
        if not text.startswith(asked):
            asked = _unopened(asked, self.traits.opened)
        begins = len(asked) if text.startswith(asked) else self._start(text, turns, index)
        known = begins is not None and begins >= reached
        first = begins if begins is not None and known else max(reached, shared(asked, text))
        start = first
        if pair is not None and pair[1] not in content:
            start = _past_empty(text, first, pair)
        limit = self._limit(text, turns, index)
        if not turns[index].plain:
            end = None if limit is None else _last_of(text[start:limit], self.traits.ends)
            stop = self._alone(text, turns[: index + 1]) if end is None else start + end
            if stop > start:
                return first, start, stop
        at = text.find(content, start)
        if at < 0:
            # The template changes earlier turns, e.g. omits their reasoning.
            found = _first_of(text, start, self.traits.ends)
            return first, start, found if found is not None else start
        end = at + len(content)
        start = start if known else at
        return min(first, start), start, self._skip_end(text, end) or end

    def _alone(self, text: str, turns: Sequence[Turn]) -> int:
        """The end of the last of ``turns`` in ``text``, as far as it is rendered like the end of a conversation."""
        try:
            return shared(self._render(turns, ask=False).rstrip(), text)
        except ChatError:
            return 0

    def _first(self, text: str, turns: Sequence[Turn], *, ask: bool) -> int:
        """The start of an answer that nothing is before, in ``text``, which may also have its words in a system text."""
        other = [turns[0].saying(_PLACEHOLDER), *turns[1:]]
        try:
            head, present, _ = self._render(other, ask=ask).partition(_PLACEHOLDER)
        except ChatError:
            present = ""
        if present and text.startswith(head):
            return len(head)
        return max(0, text.find(turns[0].content.strip()))

    def _start(self, text: str, turns: Sequence[Turn], index: int) -> int | None:
        """The start of the answer ``index`` in ``text``, from rendering a placeholder instead.

        A template may move text before an answer if more turns follow, e.g. the system text to the last user turn; the prompt
        of that answer is then not the beginning of the conversation.
        """
        return self._before(text, turns, index, self.traits.lead)

    def _limit(self, text: str, turns: Sequence[Turn], index: int) -> int | None:
        """The start of the text of the turn after ``index``; the end of the text if it is the last."""
        if index + 1 == len(turns):
            return len(text)
        return self._before(text, turns, index + 1)

    def _before(self, text: str, turns: Sequence[Turn], index: int, lead: str = "") -> int | None:
        """The length of the text before a turn and before the ``lead`` of its text, from rendering a placeholder instead."""
        other = [*turns[:index], turns[index].saying(_PLACEHOLDER), *turns[index + 1 :]]
        try:
            shown = self._render(other, ask=True)
        except ChatError:
            return None
        head, present, _ = shown.partition(_PLACEHOLDER)
        head = head.removesuffix(lead)
        return len(head) if present and text.startswith(head) else None

    def _end_of(self, text: str, turns: Sequence[Turn], content: str, reached: int) -> int:
        try:
            shown = self._render(turns, ask=False)
        except ChatError:
            shown = ""
        if shown and text.startswith(shown):
            return len(shown)
        at = text.find(content, reached)
        return at + len(content) if at >= 0 else reached

    def _skip_end(self, text: str, after: int) -> int | None:
        at = after
        while at < len(text) and text[at].isspace() and not self._ends_at(text, at):
            at += 1
        token = self._ends_at(text, at)
        return at + len(token) if token else None

    def _ends_at(self, text: str, at: int) -> str:
        return next((token for token in self.traits.ends if text.startswith(token, at)), "")

    # --- completeness ----------------------------------------------------------------------------------------

    def _checked(
        self, text: str, turns: Sequence[Turn], answers: Sequence[Answer]
    ) -> tuple[str, ...]:
        """Raise ChatError if a tool, a call or a text is missing; return remarks about intended omissions of earlier turns."""
        whole = _squeezed(text)
        self._nothing_lost(whole, turns)
        remarks: dict[str, None] = {}
        if any(answer.asked < answer.start for answer in answers):
            remarks[_CLOSED] = None
        if any(turn.role == "system" and not _holds(whole, turn.content) for turn in turns):
            remarks[_SYSTEMLESS] = None
        spans = {answer.message: text[answer.start : answer.end] for answer in answers}
        for turn in turns:
            if turn.message.role == "assistant" and not turn.plain:
                shown = spans.get(turn.index, text)
                self._calls_are_in(shown, turn)
                remarks |= _left_out(_squeezed(shown), turn)
        return tuple(remarks)

    def _nothing_lost(self, whole: str, turns: Sequence[Turn]) -> None:
        for tool in self.tools:
            if not _holds(whole, str(tool["function"]["name"])):
                raise ChatError("the chat template omits a tool")
        for turn in turns:
            if turn.message.role == "tool" and not _holds(whole, turn.content):
                raise ChatError("the chat template omits the result of a tool")
            if turn.message.role == "user" and not _holds(whole, turn.content):
                raise ChatError("the chat template omits the text of a user's turn")

    def _calls_are_in(self, shown: str, turn: Turn) -> None:
        names = [call.name for call in turn.message.tool_calls]
        if any(shown.count(name) < names.count(name) for name in names):
            raise ChatError(
                f"the chat template omits a call of a turn with {len(names)} tool calls"
            )

    def _check_shown(self, shown: str, last: Turn) -> None:
        """Raise ChatError if ``shown``, the rendered text of the last turn, lacks a part of the turn."""
        if last.plain:
            learned = shown.removesuffix(self.traits.end_of_turn or self.eos)
            if last.content.strip() and not learned.strip():
                raise ChatError("the chat template omits the text of the response")
            if _thoughtless(_squeezed(shown), last.content):
                raise ChatError("the chat template omits the reasoning of the response")
            return
        self._calls_are_in(shown, last)
        lost = _left_out(_squeezed(shown), last)
        if _TEXTLESS in lost:
            raise ChatError("the chat template omits the text of a turn with a tool call")
        if lost:
            raise ChatError("the chat template omits the reasoning of the response")


def _left_out(shown: str, turn: Turn) -> dict[str, None]:
    """Remarks about the content of a turn that is missing in ``shown``, which has no white space."""
    message = turn.message
    thoughtless = message.reasoning and not _holds(shown, message.reasoning)
    textless = message.tool_calls and not _holds(shown, message.content)
    remarks = ((_TEXTLESS, textless), (_THOUGHTLESS, thoughtless))
    return {remark: None for remark, lost in remarks if lost}


def _thoughtless(shown: str, content: str) -> bool:
    """Whether the reasoning in the text of a turn is missing in ``shown``, which has no white space."""
    for opening, closing in THOUGHTS:
        *thoughts, _ = content.split(closing)
        parts = [part for thought in thoughts for part in thought.split(opening)]
        if any(not _holds(shown, part) for part in parts):
            return True
    return False


def _opened(text: str) -> tuple[str, str] | None:
    """The marks of the reasoning that ``text`` opens at its end, else None."""
    stripped = text.rstrip()
    return next((pair for pair in THOUGHTS if stripped.endswith(pair[0])), None)


def _past_empty(text: str, start: int, pair: tuple[str, str]) -> int:
    """The start of an answer after empty reasoning, which the prompt opens and the template closes."""
    empty = rf"(?:{re.escape(pair[0])})?\s*{re.escape(pair[1])}\n*"
    match = re.compile(empty).match(text, start)
    return match.end() if match else start


def _unopened(asked: str, opened: str) -> str:
    """A prompt without the text that it opens and that earlier turns lack."""
    if opened and asked.endswith(opened):
        return asked.removesuffix(opened)
    pair = _opened(asked)
    return asked.rstrip().removesuffix(pair[0]) if pair else asked


def _holds(squeezed: str, part: str) -> bool:
    """Whether a text without white space contains ``part``, plain or escaped as in a JSON string."""
    return any(_squeezed(each) in squeezed for each in (part, _quoted(part.strip())))


def _squeezed(text: str) -> str:
    return re.sub(r"\s+", "", text)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]


def _last_of(text: str, tokens: frozenset[str]) -> int | None:
    """The end of the last of ``tokens`` in ``text``, else None."""
    ends = [text.rfind(token) + len(token) for token in tokens if token in text]
    return max(ends, default=None)


def _first_of(text: str, start: int, tokens: frozenset[str]) -> int | None:
    """The end of the first of ``tokens`` after ``start``, else None."""
    matches = [(at, len(token)) for token in tokens if (at := text.find(token, start)) >= 0]
    return sum(min(matches)) if matches else None


def shared(one: str, other: str) -> int:
    """Return the length of the longest common prefix."""
    if other.startswith(one):
        return len(one)
    return next(
        (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b),
        min(len(one), len(other)),
    )
