"""Requests for a sample, and reading of completions and notes, shared by the stages that call a model.

The nll of a view (``nfilter.View``) is that of Eq. 7. A weak view keeps its answer to a pilot row as ``answered``.
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
    question_variables,
)

_STATED = re.compile(
    r"(?<!\w)answer(?:\*|_|\s){0,4}(?:is\b|:)|\\boxed|####|<answer>", re.IGNORECASE
)
_SIGN = re.compile(r"[^\W_]")


@dataclass(frozen=True, slots=True)
class RequestBuilder:
    """Builder of one stage's requests to one model: a template and sampling settings."""

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
        """Return a request for ``sample``; ``variables`` extend the variables of every template.

        The seed depends on the run, the stage, the sample, ``key`` and ``draw``; it is 0 at temperature 0.
        """
        temperature = self.temperature if temperature is None else temperature
        seed = 0
        if temperature > 0:
            seed = self.ctx.rng(f"{sample.id}\x1f{key}\x1f{draw}").getrandbits(31)
        return Request(
            messages=self.template.render(
                **question_variables(sample, self.ctx.answers),
                **variables,
                fence=self.fence(sample, **variables).code,
            ),
            sampling=Sampling(max_tokens=self.max_tokens, temperature=temperature, seed=seed),
            logprobs=self.logprobs,
            sample_id=sample.id,
            draw=draw,
        )

    def fence(self, sample: Sample, **variables: Any) -> Fence:
        """Return the fence around untrusted data in the request for ``sample`` with these ``variables``."""
        return Fence.around(sample.id, [question_variables(sample, self.ctx.answers), variables])


def read_answer(
    ctx: Context, sample: Sample, completion: Completion, *, reasoned: bool
) -> tuple[str | None, str | None]:
    """Return the answer in a completion and the failure, either of which may be None.

    A reply truncated before or within its answer has no answer: the last number of an unfinished calculation is not the
    answer. Exception: a choice that the reply states first and then explains, unless the model was asked to reason
    before it answers (``reasoned``).
    """
    if completion.failure is not None:
        return None, str(completion.failure)
    kind = ctx.answers.kind
    if completion.finish == "length" and (
        kind == "text" or ((reasoned or kind != "choice") and not _is_stated(completion.text, kind))
    ):
        return None, completion.incomplete
    return _parse(ctx, sample, completion.text)


def _is_stated(text: str, kind: str) -> bool:
    """Return whether a truncated text states a complete answer; "Answer: 12" may be the start of 1200."""
    end = None
    for match in _STATED.finditer(text):
        end = match.end()
    if end is None:
        return False
    rest = text[end:]
    if kind == "choice" or re.search(r"\S[ \t]*[\n}<]", rest):
        return True
    return kind == "number" and re.search(r"\d\W*\s\W*[^\W\d]|\d[,.;)]\s", rest) is not None


def read_fenced_answer(
    fence: Fence, ctx: Context, sample: Sample, completion: Completion
) -> tuple[str, str | None, str | None]:
    """Return (text, answer, failure) of the line behind the code that the prompt asked for.

    Other text in the reply, such as an echo of the data, is ignored. A truncated reply has no answer.
    """
    if completion.incomplete is not None:
        return "", None, completion.incomplete
    text = fence.behind(completion.text, "Answer")
    if text is None:
        return "", None, None
    if ctx.answers.kind != "text":
        text = text.strip().split("\n", 1)[0]
    text = f"Answer: {text}"
    return (text, *_parse(ctx, sample, text))


def _parse(ctx: Context, sample: Sample, text: str) -> tuple[str | None, str | None]:
    answer = ctx.answers.parse(text, sample)
    if answer is None and not _SIGN.search(text):
        return None, "the reply is punctuation only" if text.strip() else "the reply is empty"
    return answer, None


def is_bare_answer(text: str, answer: str | None) -> bool:
    """Return whether ``text`` is one line with at most two words more than ``answer``."""
    stripped = text.strip()
    return "\n" not in stripped and len(stripped.split()) <= len((answer or "").split()) + 2


def reasoning_of(text: str, answer: str | None, thoughts: str | None = None) -> str | None:
    """Join the ``thoughts`` before the text and ``text`` itself, unless it is a bare answer."""
    explanation = None if is_bare_answer(text, answer) else text
    return "\n\n".join(part for part in (thoughts, explanation) if part) or None


def verdict_of(sample: Sample, check: str) -> Verdict:
    """Return the verdict of ``sample`` in the note ``check``.

    Raises:
        ContractError: If the note is missing or is not a verdict.
    """
    verdict = Verdict.of(sample, check)
    if verdict is None:
        raise ContractError(
            f"sample {sample.id!r} has no verdict in note {check!r}; "
            "put robustft.check before this stage, or set check to the name of its note"
        )
    return verdict


def is_flagged(sample: Sample, check: str | None) -> bool:
    """Return whether the check flags the label; pinned samples are never flagged. ``check`` None flags every sample."""
    return not sample.pinned and (check is None or verdict_of(sample, check).flagged)


def answer_of(sample: Sample, name: str) -> str | None:
    """Return the answer of the view ``name``, or None without an answer or view."""
    view = View.of(sample, name)
    return None if view is None else view.answer


def was_skipped(view: View | None) -> bool:
    """Return whether the model was not asked because its answer cannot change the verdict."""
    return view is not None and view.skipped is not None and not view.weak


def was_weak(view: View | None) -> bool:
    """Return whether the view is no better than chance and therefore has no vote."""
    return view is not None and view.weak


def add_notes(chunk: Sequence[Sample], into: str, notes: Mapping[str, View]) -> list[Sample]:
    """Return the samples of ``chunk`` with the notes of their ids added under ``into``."""
    return [
        sample.note(into, notes[sample.id].to_json()) if sample.id in notes else sample
        for sample in chunk
    ]
