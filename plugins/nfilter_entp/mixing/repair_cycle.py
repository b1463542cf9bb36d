"""Draft, check, repair: a checklist names what is wrong with a draft and so selects the next template (ENTP).

The paper calls the checklist a symbolic loss and the choice of a template backpropagation. Pairs of a block advance
together, one batch of drafts and one of checks per round, so that a backend can answer them concurrently.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from nfilter import Completion, Context, Fence, PromptError, Request, Sampling, Template
from nfilter_entp.mixing import checklist
from nfilter_entp.purging import rules_form
from nfilter_entp.purging.texts import Text


@dataclass(frozen=True, slots=True)
class Cycle:
    """What is drafted and with which templates (roles), and the checklist's failures, most severe first.

    ``repairs`` maps each failure to a template. An empty draft fails as ``empty``, a truncated one as ``cut``.
    """

    target: str
    draft: str
    check: str
    repairs: Mapping[str, str]
    empty: str
    cut: str

    @property
    def word(self) -> str:
        """The word before the code in a reply: Instruction, Answer."""
        return self.target.capitalize()


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
"""Roles of all templates; also their names under prompts/entp."""


@dataclass(frozen=True, slots=True)
class Parent:
    """A sample as prompts show it; ``system`` is empty if the pair shares a system prompt."""

    instruction: str
    response: str
    system: str = ""


@dataclass(slots=True)
class Case:
    """A pair in progress, keyed by the lead's id, with a log of its calls. ``failure``: the reason it failed."""

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
        """Return the variables of every template, without ``fence``."""
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


MissingTerms: TypeAlias = Callable[[Case], Sequence[str]]
"""Returns the key terms that a case's draft lacks, for repair prompts."""


@dataclass(frozen=True, slots=True)
class ModelCalls:
    """Calls the model: a template per role, and the sampling of drafts; checks are greedy."""

    ctx: Context
    llm: str
    templates: Mapping[str, Template]
    max_tokens: int
    check_tokens: int
    temperature: float
    retry_temperature: float

    def ask(
        self, cases: Sequence[tuple[Case, str]], word: str, attempt: int, missing: MissingTerms
    ) -> list[tuple[Completion, Fence]]:
        """Return each case's reply to its template, with the code that the reply must carry after ``word``.

        Raises:
            PromptError: if a template does not ask for that code.
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
                    f"prompt {self.templates[role].name!r}: it does not ask for {word!r} and the code, so a reply could not be "
                    f"distinguished from an echo of the data; write '{word} {{{{ fence }}}}:' where it says how to reply"
                )
            requests.append(request)
            fences.append(fence)
            case.calls += 1
        replies = self.ctx.model(self.llm).generate(requests)
        return list(zip(replies, fences, strict=True))

    def _request(
        self, case: Case, role: str, word: str, attempt: int, variables: Mapping[str, Any]
    ) -> Request:
        is_check = word == "Checklist"
        # With the same template, a second greedy call would repeat the first.
        temperature = max(self.temperature, self.retry_temperature) if attempt else self.temperature
        temperature = 0.0 if is_check else temperature
        seed = (
            self.ctx.rng(f"{case.key}\x1f{role}\x1f{attempt}").getrandbits(31) if temperature else 0
        )
        return Request(
            self.templates[role].render(**variables),
            Sampling(self.check_tokens if is_check else self.max_tokens, temperature, seed=seed),
            sample_id=case.key,
            draw=attempt,
        )


def run(
    cycle: Cycle, cases: Sequence[Case], llm: ModelCalls, retries: int, missing: MissingTerms
) -> None:
    """Run ``cases`` through the cycle: at most 1 + ``retries`` drafts, each checked; the rest end with ``failure`` set.

    The most severe failure selects the next template. After an unreadable reply the same template is tried again.
    ``missing(case)`` returns the key terms that the draft lacks.
    """
    active = list(cases)
    role = dict.fromkeys((case.key for case in active), cycle.draft)
    for case in active:
        case.problems = {}
    for attempt in range(retries + 1):
        failures = _round(cycle, active, role, attempt, llm, missing)
        active = [case for case in active if case.key in failures]
        for case in active:
            failure = failures[case.key]
            case.failure = _summary(cycle, failure, attempt + 1)
            if not isinstance(failure, str):
                case.problems = {name: list(items) for name, items in failure.items() if items}
                role[case.key] = next(
                    cycle.repairs[name] for name in cycle.repairs if failure.get(name)
                )
    failed = {case.key for case in active}
    for case in cases:
        if case.key not in failed:
            case.failure = None


def _round(
    cycle: Cycle,
    cases: Sequence[Case],
    role: Mapping[str, str],
    attempt: int,
    llm: ModelCalls,
    missing: MissingTerms,
) -> dict[str, Mapping[str, list[str]] | str]:
    """Draft and check each case once; return the failures by key, or the reason that they are unknown."""
    failures: dict[str, Mapping[str, list[str]] | str] = {}
    drafts = llm.ask([(case, role[case.key]) for case in cases], cycle.word, attempt, missing)
    for case, (completion, fence) in zip(cases, drafts, strict=True):
        case.templates.append(role[case.key])
        failed = _store_draft(cycle, case, completion, fence, llm.max_tokens)
        if failed is not None:
            failures[case.key] = failed
            case.checks.append(_log_line(cycle, " by rule", failed))
    drafted = [case for case in cases if case.key not in failures]
    replies = llm.ask([(case, cycle.check) for case in drafted], "Checklist", attempt, missing)
    for case, (completion, fence) in zip(drafted, replies, strict=True):
        case.templates.append(cycle.check)
        checked = _read_checklist(cycle, completion, fence)
        case.checks.append(_log_line(cycle, "", checked))
        if isinstance(checked, str) or any(checked.values()):
            failures[case.key] = checked
    return failures


def _store_draft(
    cycle: Cycle, case: Case, completion: Completion, fence: Fence, max_tokens: int
) -> Mapping[str, list[str]] | str | None:
    """Store the draft; return its visible failures, or the reason that there is no draft, or None if a check must decide."""
    if completion.failure is not None:
        return f"no draft: {completion.failure}"
    draft = fence.behind(completion.text, cycle.word)
    if draft is None:
        cut = ", and the reply was cut off" if completion.finish == "length" else ""
        return f"no draft: no line starts with {cycle.word} and the code{cut}"
    # "**Answer CODE:** ..." leaves two asterisks after the code.
    draft = checklist.unmarked(draft.removeprefix("**"), fence)
    text = checklist.clean(fence.without(draft)).strip()
    case.texts[cycle.target] = text
    if rules_form.empty(Text(text, "", "", ""), rules_form.Empty()) is not None:
        return {cycle.empty: [f"the {cycle.target} is {'punctuation alone' if text else 'empty'}"]}
    if completion.finish == "length":
        return {cycle.cut: [f"the {cycle.target} was cut off at {max_tokens} tokens; be shorter"]}
    return None


def _read_checklist(
    cycle: Cycle, completion: Completion, fence: Fence
) -> Mapping[str, list[str]] | str:
    if completion.failure is not None:
        return f"no checklist: {completion.failure}"
    if completion.finish == "length":
        return "no checklist: the reply was cut off"
    failures = checklist.read(completion.text, fence, tuple(cycle.repairs))
    return f"no checklist: {failures}" if isinstance(failures, str) else failures


def _log_line(cycle: Cycle, by: str, failures: Mapping[str, list[str]] | str) -> str:
    """Return a log line: "instruction passed", "answer failed: numbers: 3 is not 4"."""
    failed = _format_failures(failures)
    return f"{cycle.target} failed{by}: {failed}" if failed else f"{cycle.target} passed"


def _format_failures(failures: Mapping[str, list[str]] | str) -> str:
    if isinstance(failures, str):
        return failures
    return "; ".join(f"{name}: {', '.join(items)}" for name, items in failures.items() if items)


def _summary(cycle: Cycle, failures: Mapping[str, list[str]] | str, drafts: int) -> str:
    count = f"{drafts} drafts" if drafts > 1 else "1 draft"
    return f"no {cycle.target} passed its check in {count}: {_format_failures(failures)[:300]}"
