"""``pairs.judge``: a view from a model that compares the two responses, asked in both orders.

Judges prefer a position whatever stands there (Zheng et al., arXiv 2306.05685, section 3.3); a preference counts if it is the same
response in both orders.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Final

from pydantic import Field

from nfilter import (
    Calls,
    Completion,
    Context,
    Contract,
    Fence,
    Generates,
    Needs,
    Request,
    Sample,
    Sampling,
    StageConfig,
    State,
    View,
)
from nfilter_pairs.letters import A, B, Pair, pair_of

_ORDERS: Final = ((A, B), (B, A))
_TIE: Final = "tie"
_STATED: Final = re.compile(r"\banswer:", re.IGNORECASE)


class JudgeConfig(StageConfig):
    """``llm`` is asked twice per pair. A tie, or another preference in the other order, is no answer."""

    llm: Annotated[str, Needs(Generates)] = Field(
        default="expert", description="The model that compares the responses."
    )
    prompt: str = Field(
        default="pairs/judge", description="The template of the judge, folder/name."
    )
    max_tokens: int = Field(default=512, ge=1, description="Tokens per reply, at most.")
    into: str = Field(default="judge", description="The note with the view.")


class Judge:
    """Stage that writes a view: the response that a model prefers in both orders.

    A template that asks for "Verdict CODE: A" is answered by such a last line and nothing else. For any other template the
    text after the last "Answer:" has to be one of the two responses (small models that answer rather than compare). Greedy
    decoding. The judge never sees which response is chosen.
    """

    name: ClassVar[str] = "pairs.judge"
    Config: ClassVar[type[StageConfig]] = JudgeConfig

    def __init__(self, config: JudgeConfig) -> None:
        self.config = config

    @classmethod
    def contract(cls, config: JudgeConfig) -> Contract:
        """Write a view; two calls per pair."""
        return Contract(
            writes=frozenset({config.into}),
            views=frozenset({config.into}),
            prompts=frozenset({config.prompt}),
            calls=(Calls(config.llm, config.prompt, config.max_tokens, 2.0, 2.0, 2.0),),
        )

    def process(self, chunk: Sequence[Sample], state: State, ctx: Context) -> list[Sample]:
        """Ask about each pair in both orders."""
        pairs = [pair_of(sample, ctx, self.name) for sample in chunk]
        asked = [
            self._request(pair, order, draw, ctx)
            for pair in pairs
            for draw, order in enumerate(_ORDERS)
        ]
        completions = ctx.model(self.config.llm).generate([request for request, _ in asked])
        done = []
        for at, pair in enumerate(pairs):
            replies = [
                _read(completions[2 * at + draw], asked[2 * at + draw][1], pair, order)
                for draw, order in enumerate(_ORDERS)
            ]
            both = completions[2 * at : 2 * at + 2]
            done.append(pair.sample.note(self.config.into, _view(replies, both).to_json()))
        return done

    def _request(
        self, pair: Pair, order: Sequence[str], draw: int, ctx: Context
    ) -> tuple[Request, Fence | None]:
        """Return the request with the responses in ``order``, and its fence if the template asks for the code."""
        variables = _variables(pair, order)
        fence = Fence.around(pair.sample.id, variables)
        messages = ctx.prompt(self.config.prompt).render(**variables, fence=fence.code)
        request = Request(
            messages=messages,
            sampling=Sampling(max_tokens=self.config.max_tokens),
            sample_id=pair.sample.id,
            draw=draw,
        )
        asked = fence.asked((message.content for message in messages), "Verdict")
        return request, fence if asked else None


def _variables(pair: Pair, order: Sequence[str]) -> dict[str, Any]:
    turns = pair.sample.context
    last = max((at for at, turn in enumerate(turns) if turn.role == "user"), default=None)
    texts = {A: pair.a.shown(), B: pair.b.shown()}
    return {
        "query": pair.sample.query,
        "system": "\n\n".join(turn.content for turn in turns if turn.role == "system"),
        "history": [
            {"role": turn.role, "content": turn.shown()}
            for at, turn in enumerate(turns)
            if turn.role != "system" and at != last
        ],
        "candidates": [{"answer": texts[letter], "reasoning": None} for letter in order],
        "kind": "preference",
        "options": None,
    }


def _read(
    completion: Completion, fence: Fence | None, pair: Pair, order: Sequence[str]
) -> tuple[str | None, str | None]:
    """Return the preferred letter (or ``tie``) and the failure, one of which is None."""
    if completion.failure is not None:
        return None, f"{completion.failure.kind}: {completion.failure.detail}"
    if completion.finish == "length":
        return None, "cut off at max_tokens"
    if fence is not None:
        verdict = fence.verdict(completion.text, "Verdict", (A, B, _TIE))
        if verdict is None:
            return None, "no verdict could be read"
        # The letters of the prompt are positions.
        return _TIE if verdict == _TIE else order[0 if verdict == A.lower() else 1], None
    stated = [match.end() for match in _STATED.finditer(completion.text)]
    answer = completion.text[stated[-1] if stated else 0 :].strip()
    named = [
        letter for letter, turn in ((A, pair.a), (B, pair.b)) if turn.content.strip() == answer
    ]
    return (named[0], None) if named else (None, "the reply is neither response")


def _view(
    replies: Sequence[tuple[str | None, str | None]], completions: Sequence[Completion]
) -> View:
    letters = [letter for letter, _ in replies]
    failure = next((failure for _, failure in replies if failure is not None), None)
    if failure is None and _TIE in letters:
        failure = "a tie"
    elif failure is None and letters[0] != letters[1]:
        failure = "the preference depends on the order of the responses"
    first, second = letters
    return View(
        first if failure is None else None,
        text=completions[0].text,
        tokens=sum(completion.completion_tokens for completion in completions),
        calls=2,
        failure=failure,
        more={"orders": [first, second]},
    )
