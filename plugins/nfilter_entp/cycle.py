"""Draft, check, repair: a text is drafted, a checklist says what is wrong, and that chooses the next template (ENTP).

The paper calls the checklist a symbolic loss and the choice of a template backpropagation. All pairs of a block go
round by round, each round in one list of drafts and one of checks, so that a backend can answer them together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from nfilter import Completion, Context, Fence, PromptError, Request, Sampling, Template
from nfilter_entp import checklist, rules_form
from nfilter_entp.texts import Text


@dataclass(frozen=True, slots=True)
class Cycle:
    """What is drafted, and how: roles of templates, and what a checklist may say, the gravest first.

    ``repairs`` name the template of each failure. A draft that is empty fails as ``empty``, one that was cut off as ``cut``.
    """

    of: str
    draft: str
    check: str
    repairs: Mapping[str, str]
    empty: str
    cut: str

    @property
    def word(self) -> str:
        """What stands before the code in a reply: Instruction, Answer."""
        return self.of.capitalize()


FAILURES = ("missing_terms", "contradictions", "unanswerable", "redundancy", "format")
INSTRUCTION = Cycle(
    "instruction",
    "instruction",
    "instruction_check",
    {name: f"instruction_{name}" for name in FAILURES},
    empty="format",
    cut="format",
)
ANSWER = Cycle(
    "answer",
    "answer",
    "answer_check",
    dict.fromkeys(("sub_questions", "truncated", "numbers"), "answer_patch"),
    empty="sub_questions",
    cut="truncated",
)
ROLES = tuple(
    dict.fromkeys(
        role
        for cycle in (INSTRUCTION, ANSWER)
        for role in (cycle.draft, cycle.check, *cycle.repairs.values())
    )
)
"""The roles of all templates, which are also their names under prompts/entp."""


@dataclass(frozen=True, slots=True)
class Parent:
    """A sample as it is shown; ``system`` is its system prompt where that is not the pair's."""

    instruction: str
    response: str
    system: str = ""


@dataclass(slots=True)
class Case:
    """One pair at work, by the id of its lead, and the log of what was asked. ``failure`` says why nothing came of it."""

    key: str
    parents: tuple[Parent, ...]
    system: str
    terms: tuple[Sequence[str], ...] = ()
    texts: dict[str, str] = field(default_factory=dict)
    problems: dict[str, list[str]] = field(default_factory=dict)
    calls: int = 0
    templates: list[str] = field(default_factory=list)
    checks: list[str] = field(default_factory=list)
    failure: str | None = None

    def variables(self, missing: Sequence[str]) -> dict[str, Any]:
        """What every template may name, but for ``fence``."""
        return {
            "parents": [
                {
                    "system": parent.system,
                    "instruction": parent.instruction,
                    "response": parent.response,
                }
                for parent in self.parents
            ],
            "system": self.system,
            "instruction": self.texts.get("instruction", ""),
            "answer": self.texts.get("answer", ""),
            "problems": {name: list(items) for name, items in self.problems.items()},
            "terms": list(missing),
        }


Missing: TypeAlias = Callable[[Case], Sequence[str]]
"""The key terms that a case's draft lacks: for repairs to name."""


@dataclass(frozen=True, slots=True)
class Asking:
    """How a stage asks its model: the template of each role, and how drafts are drawn; checks are greedy."""

    ctx: Context
    llm: str
    templates: Mapping[str, Template]
    max_tokens: int
    check_tokens: int
    temperature: float
    retry_temperature: float

    def ask(
        self, cases: Sequence[tuple[Case, str]], word: str, attempt: int, missing: Missing
    ) -> list[tuple[Completion, Fence]]:
        """A reply to each case's template of that role, with the code behind ``word`` that the reply has to carry.

        Raises:
            PromptError: when a template does not ask for that code.
        """
        if not cases:
            return []
        requests, fences = [], []
        for case, role in cases:
            variables = case.variables(missing(case))
            fence = Fence.around(case.key, [variables])
            request = self._request(case, role, word, attempt, {**variables, "fence": fence.code})
            if not fence.asked((message.content for message in request.messages), word):
                raise PromptError(
                    f"prompt {self.templates[role].name!r}: it does not ask for {word!r} and the code, so no reply could "
                    f"be told from an echo of the data; write '{word} {{{{ fence }}}}:' where it says how to reply"
                )
            requests.append(request)
            fences.append(fence)
            case.calls += 1
        replies = self.ctx.model(self.llm).generate(requests)
        return list(zip(replies, fences, strict=True))

    def _request(
        self, case: Case, role: str, word: str, attempt: int, variables: Mapping[str, Any]
    ) -> Request:
        checks = word == "Checklist"
        # Greedy a second time would be the same again where the template is the same.
        warmth = max(self.temperature, self.retry_temperature) if attempt else self.temperature
        warmth = 0.0 if checks else warmth
        draw = self.ctx.rng(f"{case.key}\x1f{role}\x1f{attempt}").getrandbits(31) if warmth else 0
        return Request(
            self.templates[role].render(**variables),
            Sampling(self.check_tokens if checks else self.max_tokens, warmth, seed=draw),
            sample_id=case.key,
            draw=attempt,
        )


def run(
    cycle: Cycle, cases: Sequence[Case], asking: Asking, retries: int, missing: Missing
) -> None:
    """Take ``cases`` through the cycle: 1 + ``retries`` drafts at most, each checked; what still fails has ``failure``.

    The gravest failure of a checklist chooses the next template. A reply that cannot be read, draft or checklist, is a failure
    too, and the same template is tried again. ``missing(case)`` are the key terms that its draft lacks.
    """
    going = list(cases)
    role = dict.fromkeys((case.key for case in going), cycle.draft)
    for case in going:
        case.problems = {}
    for attempt in range(retries + 1):
        wrong = _round(cycle, going, role, attempt, asking, missing)
        going = [case for case in going if case.key in wrong]
        for case in going:
            found = wrong[case.key]
            case.failure = _told(cycle, found, attempt + 1)
            if not isinstance(found, str):
                case.problems = {name: list(items) for name, items in found.items() if items}
                role[case.key] = next(
                    cycle.repairs[name] for name in cycle.repairs if found.get(name)
                )
    failed = {case.key for case in going}
    for case in cases:
        if case.key not in failed:
            case.failure = None


def _round(
    cycle: Cycle,
    cases: Sequence[Case],
    role: Mapping[str, str],
    attempt: int,
    asking: Asking,
    missing: Missing,
) -> dict[str, Mapping[str, list[str]] | str]:
    """One draft and one check of each case; by key what is wrong, or why that is not known."""
    wrong: dict[str, Mapping[str, list[str]] | str] = {}
    drafts = asking.ask([(case, role[case.key]) for case in cases], cycle.word, attempt, missing)
    for case, (done, fence) in zip(cases, drafts, strict=True):
        case.templates.append(role[case.key])
        found = _drafted(cycle, case, done, fence, asking.max_tokens)
        if found is not None:
            wrong[case.key] = found
            case.checks.append(_log(cycle, " by rule", found))
    drafted = [case for case in cases if case.key not in wrong]
    replies = asking.ask([(case, cycle.check) for case in drafted], "Checklist", attempt, missing)
    for case, (done, fence) in zip(drafted, replies, strict=True):
        case.templates.append(cycle.check)
        said = _checked(cycle, done, fence)
        case.checks.append(_log(cycle, "", said))
        if isinstance(said, str) or any(said.values()):
            wrong[case.key] = said
    return wrong


def _drafted(
    cycle: Cycle, case: Case, done: Completion, fence: Fence, max_tokens: int
) -> Mapping[str, list[str]] | str | None:
    """Take the draft in; what is wrong with it for all to see, or why there is none. None: a checklist has to say."""
    if done.failure is not None:
        return f"no draft: {done.failure.kind}: {done.failure.detail}"
    said = fence.behind(done.text, cycle.word)
    if said is None:
        cut = ", and the reply was cut off" if done.finish == "length" else ""
        return f"no draft: no line begins with {cycle.word} and the code{cut}"
    # "**Answer CODE:** ..." leaves two stars behind the code.
    said = checklist.unmarked(said.removeprefix("**"), fence)
    text = checklist.clean(fence.without(said)).strip()
    case.texts[cycle.of] = text
    if rules_form.empty(Text(text, "", "", ""), rules_form.Empty()) is not None:
        return {cycle.empty: [f"the {cycle.of} is {'punctuation alone' if text else 'empty'}"]}
    if done.finish == "length":
        return {cycle.cut: [f"the {cycle.of} was cut off at {max_tokens} tokens; be shorter"]}
    return None


def _checked(cycle: Cycle, done: Completion, fence: Fence) -> Mapping[str, list[str]] | str:
    if done.failure is not None:
        return f"no checklist: {done.failure.kind}: {done.failure.detail}"
    if done.finish == "length":
        return "no checklist: the reply was cut off"
    found = checklist.read(done.text, fence, tuple(cycle.repairs))
    return f"no checklist: {found}" if isinstance(found, str) else found


def _log(cycle: Cycle, by: str, found: Mapping[str, list[str]] | str) -> str:
    """A line of the log: "instruction passed", "answer failed: numbers: 3 is not 4"."""
    failed = _listed(found)
    return f"{cycle.of} failed{by}: {failed}" if failed else f"{cycle.of} passed"


def _listed(found: Mapping[str, list[str]] | str) -> str:
    if isinstance(found, str):
        return found
    return "; ".join(f"{name}: {', '.join(items)}" for name, items in found.items() if items)


def _told(cycle: Cycle, found: Mapping[str, list[str]] | str, drafts: int) -> str:
    many = f"{drafts} drafts" if drafts > 1 else "1 draft"
    return f"no {cycle.of} passed its check in {many}: {_listed(found)[:300]}"
