"""What the stages that ask a model share: a request for a sample, and what is read from its completion and from views.

A view (``nfilter.View``) has the nll of Eq. 7. ``answered`` holds the answers of a weak view to its first rows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nfilter import (
    Completion,
    Context,
    ContractError,
    Fence,
    Request,
    Sample,
    Sampling,
    Template,
    Verdict,
    View,
)

_STATED = re.compile(
    r"(?<!\w)answer(?:\*|_|\s){0,4}(?:is\b|:)|\\boxed|####|<answer>", re.IGNORECASE
)
_SIGN = re.compile(r"[^\W_]")


@dataclass(frozen=True, slots=True)
class Asking:
    """How one stage asks one model: a template, and how completions are drawn."""

    ctx: Context
    template: Template
    max_tokens: int
    temperature: float
    logprobs: bool

    def request(
        self,
        sample: Sample,
        *,
        draw: int = 0,
        key: str = "",
        temperature: float | None = None,
        **variables: Any,
    ) -> Request:
        """A request for ``sample``; ``variables`` join those that every template has, ``fence`` among them.

        Its seed depends on the run, the stage, the sample, ``key`` and ``draw``; it is 0 where nothing is drawn.
        """
        warmth = self.temperature if temperature is None else temperature
        seed = self.ctx.rng(f"{sample.id}\x1f{key}\x1f{draw}").getrandbits(31) if warmth > 0 else 0
        return Request(
            messages=self.template.render(
                **variables_of(sample, self.ctx),
                **variables,
                fence=self.fence(sample, **variables).code,
            ),
            sampling=Sampling(max_tokens=self.max_tokens, temperature=warmth, seed=seed),
            logprobs=self.logprobs,
            sample_id=sample.id,
            draw=draw,
        )

    def fence(self, sample: Sample, **variables: Any) -> Fence:
        """The code that the request for ``sample`` with these ``variables`` has beside its data."""
        return Fence.around(sample.id, [variables_of(sample, self.ctx), variables])


def variables_of(sample: Sample, ctx: Context) -> dict[str, Any]:
    """What every template may name: ``query``, ``system``, ``history``, ``options`` and ``kind``.

    The response is not among them: a model that is asked for its own answer never sees the label.
    """
    turns = list(sample.context)
    last = max((i for i, turn in enumerate(turns) if turn.role == "user"), default=None)
    history = [
        {"role": turn.role, "content": turn.content}
        for i, turn in enumerate(turns)
        if turn.role != "system" and i != last
    ]
    options = ctx.answers.options(sample)
    return {
        "query": sample.query,
        "system": "\n\n".join(turn.content for turn in turns if turn.role == "system"),
        "history": history,
        "options": None if options is None else list(options),
        "kind": ctx.answers.kind,
    }


def read(
    ctx: Context, sample: Sample, completion: Completion, *, reasoned: bool
) -> tuple[str | None, str | None]:
    """The answer in a completion and why there is none: (answer or None, failure or None).

    A reply that was cut off before it stated an answer, or within it, has none: the last number of half a calculation is not
    what the model answers, and half an open-ended text is no answer either. A letter that comes first and is
    then explained at length is one, unless the model was asked to reason (``reasoned``) before it answers.
    """
    if completion.failure is not None:
        return None, f"{completion.failure.kind}: {completion.failure.detail}"
    kind = ctx.answers.kind
    if completion.finish == "length" and (
        kind == "text" or ((reasoned or kind != "choice") and not _is_stated(completion.text, kind))
    ):
        return None, "cut off at max_tokens"
    return _parsed(ctx, sample, completion.text)


def _is_stated(text: str, kind: str) -> bool:
    """Whether a text that was cut off states an answer in full: "Answer: 12" may be the beginning of 1200."""
    end = None
    for match in _STATED.finditer(text):
        end = match.end()
    if end is None:
        return False
    rest = text[end:]
    if kind == "choice" or re.search(r"\S[ \t]*[\n}<]", rest):
        return True
    return kind == "number" and re.search(r"\d\W*\s\W*[^\W\d]|\d[,.;)]\s", rest) is not None


def read_behind(
    fence: Fence, ctx: Context, sample: Sample, completion: Completion
) -> tuple[str, str | None, str | None]:
    """What a completion says behind the code that the prompt asked for: (its words, answer or None, failure or None).

    Whatever else the reply says, an echo of the data for one, is no answer, nor is a reply that was cut off.
    """
    if completion.failure is not None:
        return "", None, f"{completion.failure.kind}: {completion.failure.detail}"
    if completion.finish == "length":
        return "", None, "cut off at max_tokens"
    said = fence.behind(completion.text, "Answer")
    if said is None:
        return "", None, None
    if ctx.answers.kind != "text":
        said = said.strip().split("\n", 1)[0]
    said = f"Answer: {said}"
    return (said, *_parsed(ctx, sample, said))


def _parsed(ctx: Context, sample: Sample, text: str) -> tuple[str | None, str | None]:
    answer = ctx.answers.parse(text, sample)
    if answer is None and not _SIGN.search(text):
        return None, "the reply is punctuation alone" if text.strip() else "the reply is empty"
    return answer, None


def is_bare(text: str, answer: str | None) -> bool:
    """Whether ``text`` is just an answer: one line, with at most two words more than the answer itself."""
    stripped = text.strip()
    return "\n" not in stripped and len(stripped.split()) <= len((answer or "").split()) + 2


def reasoning_of(text: str, answer: str | None, thoughts: str | None = None) -> str | None:
    """What led to the answer: the ``thoughts`` before the text, then ``text`` where it says more than the answer."""
    said = None if is_bare(text, answer) else text
    return "\n\n".join(part for part in (thoughts, said) if part) or None


def verdict_of(sample: Sample, check: str) -> Verdict:
    """The verdict note on ``sample``.

    Raises:
        ContractError: when the note is missing or is no verdict.
    """
    verdict = Verdict.of(sample, check)
    if verdict is None:
        raise ContractError(
            f"sample {sample.id!r} has no verdict in note {check!r}; "
            "put robustft.check before this stage, or set check to the name under which it writes"
        )
    return verdict


def is_flagged(sample: Sample, check: str | None) -> bool:
    """Whether the checker doubts the label; a pinned sample is never doubted, a person decided it.

    Without a checker (``check`` None) every sample counts as flagged.
    """
    return not sample.pinned and (check is None or verdict_of(sample, check).flagged)


def answer_in(sample: Sample, name: str) -> str | None:
    """The answer of the view ``name``; None where it has none, or the stage wrote none for this sample."""
    view = View.of(sample, name)
    return None if view is None else view.answer


def was_skipped(view: View | None) -> bool:
    """Whether a view says that nobody was asked, since the answer could not change the verdict."""
    return view is not None and view.skipped is not None and not view.weak


def was_weak(view: View | None) -> bool:
    """Whether a view says that it is no better than chance, and so has no vote."""
    return view is not None and view.weak


def excerpt(text: str | None, limit: int = 60) -> str:
    """``text`` on one line, quoted and cut, for a reason that people read."""
    if text is None:
        return "no answer"
    flat = " ".join(text.split())
    return repr(flat if len(flat) <= limit else flat[: limit - 3] + "...")


def with_notes(chunk: Sequence[Sample], into: str, notes: Mapping[str, View]) -> list[Sample]:
    """The samples of ``chunk``, those with an id in ``notes`` with their note under ``into``."""
    return [
        sample.note(into, notes[sample.id].to_json()) if sample.id in notes else sample
        for sample in chunk
    ]
