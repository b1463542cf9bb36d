"""Agents: conversations in which a model calls tools, side by side, each bounded in rounds, calls and recorded text.

``run_agents`` holds them over one model or several. Every tool call goes through ``answer_tool_call``, with every untrusted text
that the model has seen, so that data calls no tool.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from nfilter.api.calls import Completion, Request
from nfilter.api.capabilities import OpenStreams
from nfilter.api.fences import Fence
from nfilter.api.interrupt import Interrupted
from nfilter.api.model import Model
from nfilter.api.tools import Tool, ToolResult, answer_tool_call, tool_message, tool_schema
from nfilter.api.types import JSON, Message, Sample, ToolCall

LAST_CALL: Final = (
    "No further tool call is answered. Give your answer now, in the form that was asked for."
)
"""Stands below the last results that an agent receives."""
WITHHELD: Final = "The result is not shown, because it contains the code of this request, which no data has. Decide without it."
_NAME: Final = re.compile(r"[^A-Za-z0-9_-]")


@dataclass(frozen=True, slots=True)
class Agent:
    """A model with tools and a question.

    Attributes:
        request: The first request; the agent adds the tools.
        tools: The tools by name (``ctx.tools``). Without tools the request is sent once, as it is.
        row: The row under question, for the tools; its texts count as shown.
        shown: Further untrusted texts in the request, such as answers of other models.
        rounds: Calls of the model, at most. The last one has to answer: it is asked with ``tool_choice="none"``.
        calls: Tool calls per round, at most; further ones are left out of the conversation.
        fence: The fence of the request, if the reply has to repeat its code. A result with the code in it is withheld: it was not
            among the texts that the fence was put around, and the author of another row can compute the code.
        result_characters: Characters of the results of a round, at most; each call has an equal part, and a longer result is cut.
    """

    request: Request
    tools: Mapping[str, Tool] = field(default_factory=dict)
    row: Sample | None = None
    shown: tuple[str, ...] = ()
    rounds: int = 4
    calls: int = 4
    fence: Fence | None = None
    result_characters: int = 16_000


@dataclass(frozen=True, slots=True)
class ToolStep:
    """One tool call of an agent and its result. ``repeated``: an equal call was answered before, and this is its result."""

    call: ToolCall
    result: ToolResult
    repeated: bool = False

    def to_json(self, most: int) -> dict[str, JSON]:
        """Return the step, texts cut after ``most`` characters."""
        step: dict[str, JSON] = {
            "tool": _cut(self.call.name, most),
            "arguments": _cut(self.call.arguments, most),
            "result": _cut(self.result.text, most),
        }
        step |= {"failed": True} if self.result.failed else {}
        return step | ({"repeated": True} if self.repeated else {})


@dataclass(frozen=True, slots=True)
class Turn:
    """One call of the model: its completion, and the tool calls that were answered."""

    completion: Completion
    steps: tuple[ToolStep, ...] = ()

    def to_json(self, most: int) -> dict[str, JSON]:
        """Return the turn, texts cut after ``most`` characters."""
        failure = self.completion.failure
        turn: dict[str, JSON] = {"text": _cut(self.completion.text, most)}
        if failure is not None:
            turn["failure"] = _cut(str(failure), most)
        if self.steps:
            turn["calls"] = [step.to_json(most) for step in self.steps]
        if unanswered := len(self.completion.tool_calls) - len(self.steps):
            turn["unanswered"] = unanswered
        return turn


@dataclass(frozen=True, slots=True)
class AgentRun:
    """What an agent did: its turns, in order. The last completion is its reply."""

    turns: tuple[Turn, ...]

    @property
    def completion(self) -> Completion:
        """The reply: the completion of the last turn."""
        return self.turns[-1].completion

    @property
    def steps(self) -> tuple[ToolStep, ...]:
        """All tool calls."""
        return tuple(step for turn in self.turns for step in turn.steps)

    @property
    def tokens(self) -> int:
        """Generated tokens of all turns."""
        return sum(turn.completion.completion_tokens for turn in self.turns)

    def to_json(self, most: int = 300) -> list[JSON]:
        """Return the turns for a note, each text cut after ``most`` characters."""
        return [turn.to_json(most) for turn in self.turns]


def run_agents(
    model: Model | Sequence[Model],
    agents: Sequence[Agent],
    again: Callable[[int, AgentRun], Agent | None] | None = None,
) -> list[AgentRun]:
    """Run agents side by side; return the last run of each, in order.

    Args:
        model: ``ctx.model(NAME)``, or one model per agent: the calls of different models run side by side. Every call is
            journaled. An agent goes on as soon as its answer is there if the backend can do that, and otherwise in batches.
        agents: The agents.
        again: Receives the number of an agent and its run, and returns an agent that takes its place, such as a further
            attempt after an unreadable reply; None at the end. What it returns may depend on its own agent only.

    Returns:
        One run per agent. A completion with a failure ends an agent.

    An error of a model or of ``again``, and a first Ctrl-C, is raised when no call of any model is running any more; their answers are
    in the journal.

    Raises:
        ValueError: if there are several models, but not one per agent.
    """
    talks = [_Talk(agent) for agent in agents]

    def reply(number: int, completion: Completion) -> Request | None:
        request = talks[number].next_request(completion)
        if request is None and again is not None:
            following = again(number, talks[number].run())
            if following is not None:
                talks[number] = _Talk(following)
                request = talks[number].request()
        return request

    if not isinstance(model, Sequence):
        model.converse([talk.request() for talk in talks], reply)
        return [talk.run() for talk in talks]
    groups: dict[tuple[str, str], tuple[Model, list[int]]] = {}
    for number, (each, _) in enumerate(zip(model, talks, strict=True)):
        groups.setdefault((each.name, each.fingerprint()), (each, []))[1].append(number)
    # A local model computes in its step: calls of APIs are sent before.
    order = sorted(groups.values(), key=lambda group: not group[0].has(OpenStreams))
    _SideBySide(
        [
            each.conversing(
                [talks[number].request() for number in numbers],
                lambda place, answer, numbers=numbers: reply(numbers[place], answer),  # type: ignore[misc]
            )
            for each, numbers in order
        ]
    ).finish()
    return [talk.run() for talk in talks]


class _SideBySide:
    """Conversations of several models whose steps are taken in turn.

    At the first error the others start no call, and take the answers of their running calls. A second Ctrl-C abandons the calls.
    """

    def __init__(self, conversations: Sequence[Generator[None, None, object]]) -> None:
        self._going = list(conversations)
        self._error: BaseException | None = None

    def finish(self) -> None:
        """Take all steps; raise the first error."""
        try:
            while self._going:
                for each in tuple(self._going):
                    if each in self._going:
                        self._step(each, next)
        finally:
            for each in self._going:
                each.close()
        if self._error is not None:
            raise self._error

    def _step(
        self,
        each: Generator[None, None, object],
        take: Callable[[Generator[None, None, object]], object],
    ) -> None:
        try:
            take(each)
        except StopIteration:
            self._going.remove(each)
        except (Exception, Interrupted) as error:  # noqa: BLE001
            self._going.remove(each)
            self._ended(error)

    def _ended(self, error: BaseException) -> None:
        first = self._error is None
        # The others end with Interrupted, and may do so before the one that had the error.
        if first or (isinstance(self._error, Interrupted) and isinstance(error, Exception)):
            self._error = error
        if first:
            interrupted = Interrupted()
            interrupted.__cause__ = error
            for other in tuple(self._going):
                self._step(other, lambda other: other.throw(interrupted))


class _Talk:
    """The conversation of one agent."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._schemas = tuple(tool_schema(tool) for tool in agent.tools.values())
        self._messages = agent.request.messages
        self._turns: list[Turn] = []
        self._shown = [*_texts_of(agent.row), *agent.shown]
        self._answered: dict[tuple[str, str], ToolResult] = {}
        self._key = agent.request.sample_id or (agent.row.id if agent.row else "")

    def run(self) -> AgentRun:
        return AgentRun(tuple(self._turns))

    def request(self) -> Request:
        """Return the next request."""
        first, given = not self._turns, self._agent.request
        if not self._schemas or (first and self._is_last()):
            return replace(given, messages=self._messages)
        choice = "none" if self._is_last() else given.tool_choice if first else "auto"
        return replace(given, messages=self._messages, tools=self._schemas, tool_choice=choice)

    def next_request(self, completion: Completion) -> Request | None:
        """Add a completion and the results of its tool calls; return the next request, None at the end."""
        calls = tuple(self._named(completion.tool_calls[: self._agent.calls]))
        if completion.failure is not None or not calls or not self._schemas or self._is_last():
            self._turns.append(Turn(completion))
            return None
        steps = tuple(self._step(call) for call in calls)
        self._turns.append(Turn(completion, steps))
        turn = Message("assistant", completion.text, completion.reasoning or "", calls)
        most = self._agent.result_characters // len(steps)
        results = [
            tool_message(_bounded(step.result, most), step.call, self._key) for step in steps
        ]
        remarks = "\n".join(self._remarks(len(completion.tool_calls) - len(calls)))
        if remarks:
            results[-1] = replace(results[-1], content=f"{results[-1].content}\n\n{remarks}")
        self._messages = (*self._messages, turn, *results)
        return self.request()

    def _is_last(self) -> bool:
        return len(self._turns) + 1 >= self._agent.rounds

    def _named(self, calls: Sequence[ToolCall]) -> Iterator[ToolCall]:
        """Yield the calls with names and ids that an API takes back: a model may write anything."""
        ids: set[str] = set()
        for number, call in enumerate(calls):
            name = _NAME.sub("_", call.name)[:64] or "unnamed"
            place = f"call{len(self._turns):02d}{number:03d}"
            yield replace(call, name=name, id=call.id if call.id and call.id not in ids else place)
            ids.add(call.id)

    def _step(self, call: ToolCall) -> ToolStep:
        key = (call.name, json.dumps(call.parsed(), sort_keys=True))
        if key in self._answered:
            return ToolStep(call, self._answered[key], repeated=True)
        result = self._fenced(
            answer_tool_call(self._agent.tools, call, self._agent.row, self._shown)
        )
        self._answered[key] = result
        # A failed result repeats the arguments of the model, which are no request of the data.
        if result.untrusted and not result.failed:
            self._shown.append(result.text)
        return ToolStep(call, result)

    def _fenced(self, result: ToolResult) -> ToolResult:
        fence = self._agent.fence
        if fence is None or not result.untrusted or not fence.stands_in(result.text):
            return result
        return ToolResult(WITHHELD, failed=True)

    def _remarks(self, left_out: int) -> Iterator[str]:
        if left_out:
            most = self._agent.calls
            yield f"{left_out} further calls were left out: at most {most} calls per turn are answered."
        if self._is_last():
            yield LAST_CALL


def _texts_of(row: Sample | None) -> Iterator[str]:
    for message in row.messages if row is not None else ():
        yield from message.texts()


def _bounded(result: ToolResult, most: int) -> ToolResult:
    if len(result.text) <= most:
        return result
    return replace(result, text=f"{result.text[:most]}\n(cut after {most} characters)")


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."
