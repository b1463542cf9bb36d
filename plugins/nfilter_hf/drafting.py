"""One conversation in the form that a template takes: its text, and where in it each answer lies.

Answers are found by rendering the conversation up to each of them with the generation prompt, so a template needs no
marks of its own. What a model is shown as a prompt is always the beginning of the rendered conversation.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from nfilter_hf.habits import ChatError, Habits, Renderer
from nfilter_hf.turns import THOUGHTS, Turn, marked, write

_STAND_IN: Final = "Ans7StandsHere"
_CLOSED: Final = "a response has no thought, and the prompt opens one: it is closed, empty, before the response and out of the loss"
_THOUGHTLESS: Final = "the chat template leaves out the thoughts of a turn before the last"
_SYSTEMLESS: Final = "the chat template leaves out the system text"
_TEXTLESS: Final = (
    "the chat template leaves out the text beside a tool call of a turn before the last"
)


@dataclass(frozen=True, slots=True)
class Answer:
    """One assistant turn: characters [start, end) from its first character to its end-of-turn token.

    ``asked`` is where the prompt ends that asks for it: before ``start`` where the prompt opens a thought and the answer
    has none.
    """

    message: int
    start: int
    end: int
    asked: int


@dataclass(frozen=True, slots=True)
class Rendered:
    """A rendered conversation. ``mark`` is the character that breaks control tokens and stands for nothing.

    ``ends[i]`` is where message ``i`` ends in ``text``. ``remarks`` say what the template did to the conversation.
    """

    text: str
    mark: str
    answers: tuple[Answer, ...]
    ends: tuple[int, ...]
    remarks: tuple[str, ...] = ()

    @property
    def cuts(self) -> tuple[int, ...]:
        """Where tokens must not span: the end of each prompt, and the start of each answer."""
        return tuple(sorted({at for answer in self.answers for at in (answer.asked, answer.start)}))


class Draft:
    """The turns of one conversation on their way through one template."""

    def __init__(
        self,
        render: Renderer,
        habits: Habits,
        mark: str,
        tools: Sequence[Mapping[str, Any]],
        eos: str,
    ) -> None:
        self._write = render
        self._habits = habits
        self._mark = mark
        self._tools = tools
        self._eos = eos

    def _render(self, turns: Sequence[Turn], *, ask: bool) -> str:
        form = self._habits.form
        return self._write([write(turn, form) for turn in turns], ask=ask, tools=self._tools)

    def prompt(self, turns: Sequence[Turn]) -> Rendered:
        """What a model is shown after ``turns``. Raises ChatError."""
        text = self._render(turns, ask=True)
        answers: list[Answer] = []
        ends: list[int] = []
        reached = 0
        for index, turn in enumerate(turns):
            if turn.role == "assistant":
                asked, start, end = self._earlier_answer(text, turns, index, reached)
                answers.append(Answer(turn.message, start, end, asked))
            else:
                end = self._end_of(text, turns[: index + 1], turn.content.strip(), reached)
            reached = max(reached, end)
            ends.append(reached)
        told = self._checked(text, turns, answers)
        return Rendered(text, self._mark, tuple(answers), tuple(ends), told)

    def conversation(self, turns: Sequence[Turn]) -> Rendered:
        """Turns of which the last is an assistant's, to the end of that one. Raises ChatError."""
        last, context = turns[-1], turns[:-1]
        head = self.prompt(context) if context else Rendered("", self._mark, (), ())
        full = self._render(turns, ask=False)
        content = last.content.strip()
        if not context:
            head = replace(head, text=full[: max(0, full.find(content))])
        start = len(head.text)
        pair = _opened(head.text)
        tail = full[start:] if full.startswith(head.text) else self._tail(full, turns)
        before = ""
        if pair is not None:
            before, tail = self._inside(head.text, tail, last, pair)
        elif tail is None:
            # The generation prompt holds something that the finished turn does not.
            kept = last.content if last.content in full else content
            tail = self._habits.lead + kept + (self._habits.end_of_turn or self._eos)
        end, tail = self._close(tail, last, content)
        self._complete(tail[:end], last)
        begins = start + len(before)
        answer = Answer(last.message, begins, begins + end, start)
        text = head.text + before + tail
        told = tuple(dict.fromkeys((*head.remarks, *((_CLOSED,) if before else ()))))
        return Rendered(text, self._mark, (*head.answers, answer), (*head.ends, len(text)), told)

    # --- the last answer -------------------------------------------------------------------------------------

    def _tail(self, full: str, turns: Sequence[Turn]) -> str | None:
        """The last turn in ``full`` where the prompt is not its beginning: what takes another text's place.

        A template may write a system text with the last of all messages, so that the finished conversation has it no
        longer where the prompt had it, or at all.
        """
        try:
            shown = self._render([*turns[:-1], turns[-1].saying(_STAND_IN)], ask=False)
        except ChatError:
            return None
        before, found, _ = shown.partition(_STAND_IN)
        base = before.removesuffix(self._habits.lead)
        return full[len(base) :] if found and full.startswith(base) else None

    def _inside(
        self, head: str, tail: str | None, last: Turn, pair: tuple[str, str]
    ) -> tuple[str, str]:
        """What stands between a prompt that opens a thought and the response, and the response.

        What the prompt has opened is not written again. A thought that the template left out is put back. Where there is
        none, the open one is closed, empty: what the answer is not inside of, and what no model learns to write.
        """
        opening, closing = pair
        blanks = head[len(head.rstrip()) :]
        ends = self._habits.end_of_turn or self._eos
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
        given = marked(last.said, pair) if last.said.reasoning else last.content
        said, closed, rest = given.partition(closing)
        if closed:
            said = said.lstrip().removeprefix(opening).removeprefix(blanks)
            gap = rest[: len(rest) - len(rest.lstrip())] or "\n\n"
            return "", said + closing + gap + tail.lstrip()
        if last.content.lstrip().startswith(opening):  # a thought that never ends
            return "", tail
        return "\n\n".removeprefix(blanks) + closing + "\n\n", tail.lstrip("\n")

    def _close(self, tail: str, last: Turn, content: str) -> tuple[int, str]:
        """Where the answer ends in ``tail``, its end token included, and ``tail`` with one if it had none."""
        end = self._habits.end_of_turn
        if not last.plain:
            found = _last_of(tail, self._habits.ends)
            if found is not None:
                return found, tail
            tail = tail.rstrip() + self._eos
            return len(tail), tail
        # The content cannot hold an end token, so the first one is this turn's.
        if end and end in tail:
            return tail.index(end) + len(end), tail
        at = tail.find(content)
        after = at + len(content) if at >= 0 else 0
        if tail[after:].strip():
            return len(tail.rstrip()), tail
        return after + len(self._eos), tail[:after] + self._eos

    # --- earlier turns ---------------------------------------------------------------------------------------

    def _earlier_answer(
        self, text: str, turns: Sequence[Turn], index: int, reached: int
    ) -> tuple[int, int, int]:
        """Where the prompt of an answer ends, where the answer begins, and where it ends."""
        content = turns[index].content.strip()
        before = turns[:index]
        try:
            asked = self._render(before, ask=True) if before else text[: max(0, text.find(content))]
        except ChatError:
            asked = text[:reached]
        pair = _opened(asked)
        if not text.startswith(asked):
            asked = _unopened(asked, self._habits.opened)
        begins = len(asked) if text.startswith(asked) else self._place(text, turns, index)
        known = begins is not None and begins >= reached
        first = begins if begins is not None and known else max(reached, shared(asked, text))
        start = first
        if pair is not None and pair[1] not in content:
            start = _past_empty(text, first, pair)
        limit = self._limit(text, turns, index)
        if not turns[index].plain:
            end = None if limit is None else _last_of(text[start:limit], self._habits.ends)
            stop = self._alone(text, turns[: index + 1]) if end is None else start + end
            if stop > start:
                return first, start, stop
        at = text.find(content, start)
        if at < 0:
            # The template rewrites what was said before: without its thoughts, say.
            found = _first_of(text, start, self._habits.ends)
            return first, start, found if found is not None else start
        end = at + len(content)
        start = start if known else at
        return min(first, start), start, self._skip_end(text, end) or end

    def _alone(self, text: str, turns: Sequence[Turn]) -> int:
        """Where the last of ``turns`` ends in ``text``, as far as it is written like the end of a conversation."""
        try:
            return shared(self._render(turns, ask=False).rstrip(), text)
        except ChatError:
            return 0

    def _place(self, text: str, turns: Sequence[Turn], index: int) -> int | None:
        """Where the answer ``index`` begins in ``text``: where another text would stand in its place.

        A template may move what is before an answer once more turns follow it, the system text to the last of the
        user's turns, say; the prompt of that answer is then not the beginning of the conversation.
        """
        return self._before(text, turns, index, self._habits.lead)

    def _limit(self, text: str, turns: Sequence[Turn], index: int) -> int | None:
        """Where the text of the turn after ``index`` begins; the end of all where there is none."""
        if index + 1 == len(turns):
            return len(text)
        return self._before(text, turns, index + 1)

    def _before(self, text: str, turns: Sequence[Turn], index: int, lead: str = "") -> int | None:
        """How long what is before a turn is, and before the ``lead`` to its text: found by another text in its place."""
        other = [*turns[:index], turns[index].saying(_STAND_IN), *turns[index + 1 :]]
        try:
            shown = self._render(other, ask=True)
        except ChatError:
            return None
        head, found, _ = shown.partition(_STAND_IN)
        head = head.removesuffix(lead)
        return len(head) if found and text.startswith(head) else None

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
        return next((token for token in self._habits.ends if text.startswith(token, at)), "")

    # --- whether all of it is there --------------------------------------------------------------------------

    def _checked(
        self, text: str, turns: Sequence[Turn], answers: Sequence[Answer]
    ) -> tuple[str, ...]:
        """Refuse what lost a tool, a call or a text; say what earlier turns lost by the template's own rule."""
        whole = _squeezed(text)
        self._nothing_lost(whole, turns)
        told: dict[str, None] = {}
        if any(answer.asked < answer.start for answer in answers):
            told[_CLOSED] = None
        if any(turn.role == "system" and not _holds(whole, turn.content) for turn in turns):
            told[_SYSTEMLESS] = None
        spans = {answer.message: text[answer.start : answer.end] for answer in answers}
        for turn in turns:
            if turn.said.role == "assistant" and not turn.plain:
                shown = spans.get(turn.message, text)
                self._calls_are_in(shown, turn)
                told |= _left_out(_squeezed(shown), turn)
        return tuple(told)

    def _nothing_lost(self, whole: str, turns: Sequence[Turn]) -> None:
        for tool in self._tools:
            if not _holds(whole, str(tool["function"]["name"])):
                raise ChatError("the chat template leaves out a tool")
        for turn in turns:
            if turn.said.role == "tool" and not _holds(whole, turn.content):
                raise ChatError("the chat template leaves out the result of a tool")
            if turn.said.role == "user" and not _holds(whole, turn.content):
                raise ChatError("the chat template leaves out the text of a user's turn")

    def _calls_are_in(self, shown: str, turn: Turn) -> None:
        names = [call.name for call in turn.said.tool_calls]
        if any(shown.count(name) < names.count(name) for name in names):
            raise ChatError(
                f"the chat template leaves out a call of a turn with {len(names)} tool calls"
            )

    def _complete(self, shown: str, last: Turn) -> None:
        if last.plain:
            learned = shown.removesuffix(self._habits.end_of_turn or self._eos)
            if last.content.strip() and not learned.strip():
                raise ChatError("the chat template leaves out the text of the response")
            return
        self._calls_are_in(shown, last)
        lost = _left_out(_squeezed(shown), last)
        if _TEXTLESS in lost:
            raise ChatError("the chat template leaves out the text beside a tool call")
        if lost:
            raise ChatError("the chat template leaves out the thoughts of the response")


def _left_out(shown: str, turn: Turn) -> dict[str, None]:
    """What of a turn that holds more than text is not in ``shown``, which has no blanks."""
    said = turn.said
    thoughtless = said.reasoning and not _holds(shown, said.reasoning)
    textless = said.tool_calls and not _holds(shown, said.content)
    found = ((_TEXTLESS, textless), (_THOUGHTLESS, thoughtless))
    return {remark: None for remark, lost in found if lost}


def _opened(text: str) -> tuple[str, str] | None:
    """The marks of the thought that ``text`` ends by opening."""
    shown = text.rstrip()
    return next((pair for pair in THOUGHTS if shown.endswith(pair[0])), None)


def _past_empty(text: str, start: int, pair: tuple[str, str]) -> int:
    """Where an answer begins behind a thought that is empty: what the prompt opened, closed again by the template."""
    empty = rf"(?:{re.escape(pair[0])})?\s*{re.escape(pair[1])}\n*"
    found = re.compile(empty).match(text, start)
    return found.end() if found else start


def _unopened(asked: str, opened: str) -> str:
    """A prompt without what it opens and a turn of the past lacks."""
    if opened and asked.endswith(opened):
        return asked.removesuffix(opened)
    pair = _opened(asked)
    return asked.rstrip().removesuffix(pair[0]) if pair else asked


def _holds(squeezed: str, part: str) -> bool:
    """Whether a text without its blanks has ``part`` in it, as it is or as a JSON string has it."""
    return any(_squeezed(each) in squeezed for each in (part, _quoted(part.strip())))


def _squeezed(text: str) -> str:
    return re.sub(r"\s+", "", text)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]


def _last_of(text: str, tokens: frozenset[str]) -> int | None:
    """Where the last of ``tokens`` in ``text`` ends."""
    ends = [text.rfind(token) + len(token) for token in tokens if token in text]
    return max(ends, default=None)


def _first_of(text: str, start: int, tokens: frozenset[str]) -> int | None:
    """Where the first of ``tokens`` after ``start`` ends."""
    found = [(at, len(token)) for token in tokens if (at := text.find(token, start)) >= 0]
    return sum(min(found)) if found else None


def shared(one: str, other: str) -> int:
    """The length of the longest common beginning."""
    if other.startswith(one):
        return len(one)
    return next(
        (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b),
        min(len(one), len(other)),
    )
