"""``entp.rate``: how rare, complex and informative a sample is, from 1 to 10, by a model or from a column (ENTP; DS2)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

from pydantic import Field, model_validator

from nfilter import (
    JSON,
    Calls,
    Completion,
    Context,
    Contract,
    Fence,
    Generates,
    ModelNeed,
    Needs,
    Request,
    Sample,
    Sampling,
    StageConfig,
    State,
    Template,
)
from nfilter_entp import rules_form
from nfilter_entp.texts import Text

ASPECTS = ("rarity", "complexity", "informativeness", "overall")
LEAST, MOST = 1, 10
CLASSES = 6

_LOW = 4  # ratings up to this one are class 0, those from 9 on are class 5
_ITEM = re.compile(
    r"[\s{,;*\"'|-]*+(?P<name>[a-z]{2,20})[\"'*]*+[ \t]*+(?:[:=][ \t]*+)?[\"'*]*+"
    r"(?P<sign>-?)(?P<number>[0-9]{1,4})(?!\d|\.\d|,\d)(?:[ ]?/[ ]?10(?!\d))?[\"'*]*+",
    re.IGNORECASE,
)
_REST = re.compile(r"[\s}.*;|]*")
_STATED = re.compile(r"^[^\w\n]*rating[^\w\n]*:", re.IGNORECASE | re.MULTILINE)


class RateConfig(StageConfig):
    """``llm`` rates, or ``column`` names a column of the data that holds an overall rating, and no model is asked.

    A reply without a rating is asked for again, at ``retry_temperature``, up to ``retries`` times.
    """

    llm: Annotated[str | None, Needs(Generates)] = None
    column: str | None = None
    into: str = "rating"
    prompt: str = "entp/rate"
    max_tokens: int = Field(default=256, ge=1)
    retries: int = Field(default=1, ge=0, le=16)
    retry_temperature: float = Field(default=0.7, gt=0)

    @model_validator(mode="after")
    def _one_of_them(self) -> RateConfig:
        if self.llm is None and self.column is None:
            raise ValueError(
                "ratings come from a model or from a column of the data; name one: llm: NAME, or column: NAME"
            )
        if self.llm is not None and self.column is not None:
            raise ValueError(
                f"ratings come from a model or from a column, not from both; leave out llm: {self.llm} or"
                f" column: {self.column}"
            )
        return self


class Rate:
    """Writes ``{"rarity", "complexity", "informativeness", "overall", "label", "failure", "by", "text", "calls", "tokens"}``.

    Ratings are whole numbers from 1 to 10, or null; ``label`` is clip(overall, 4, 9) - 4, a class from 0 to 5. What
    cannot be read is null, and ``failure`` says why. ``by`` is ``model``, ``column``, or ``rule``: a response that
    ``entp.purge`` calls empty (no letter, digit or symbol) is rated 1 throughout, and no model is asked.
    """

    name: ClassVar[str] = "entp.rate"
    Config: ClassVar[type[StageConfig]] = RateConfig

    def __init__(self, config: RateConfig) -> None:
        self.config = config

    @classmethod
    def contract(cls, config: RateConfig) -> Contract:
        """Writes the ratings; needs a model only where no column has them."""
        writes = frozenset({config.into})
        if config.llm is None:
            return Contract(writes=writes)
        calls = Calls(
            config.llm, config.prompt, config.max_tokens, least=0, usual=1, most=1 + config.retries
        )
        return Contract(
            writes=writes,
            prompts=frozenset({config.prompt}),
            needs=(ModelNeed(config.llm, Generates, field="llm"),),
            calls=(calls,),
        )

    def process(self, chunk: Sequence[Sample], state: State, ctx: Context) -> list[Sample]:
        """Rate every sample of the chunk."""
        if self.config.column is not None:
            notes = {each.id: _of_column(each, self.config.column) for each in chunk}
        else:
            ruled = {each.id: note for each in chunk if (note := _of_rule(each)) is not None}
            notes = ruled | self._asked([each for each in chunk if each.id not in ruled], ctx)
        return [sample.note(self.config.into, notes[sample.id]) for sample in chunk]

    def _asked(self, samples: Sequence[Sample], ctx: Context) -> dict[str, Mapping[str, JSON]]:
        if self.config.llm is None or not samples:
            return {}
        template = ctx.prompt(self.config.prompt)
        cases = [_Case(sample) for sample in samples]
        going = cases
        for attempt in range(self.config.retries + 1):
            requests = [self._request(case, template, attempt, ctx) for case in going]
            replies = ctx.model(self.config.llm).generate(requests) if requests else []
            for case, request, reply in zip(going, requests, replies, strict=True):
                case.hear(request, reply)
            going = [case for case in going if case.again]
        return {case.sample.id: case.note() for case in cases}

    def _request(self, case: _Case, template: Template, attempt: int, ctx: Context) -> Request:
        sample = case.sample
        warmth = self.config.retry_temperature if attempt else 0.0
        seed = ctx.rng(f"{sample.id}\x1f{attempt}").getrandbits(31) if attempt else 0
        return Request(
            messages=template.render(**case.shown, fence=case.fence.code),
            sampling=Sampling(self.config.max_tokens, warmth, seed=seed),
            sample_id=sample.id,
            draw=attempt,
        )


class _Case:
    """A sample while it is rated: what its prompt shows, and what was heard."""

    def __init__(self, sample: Sample) -> None:
        self.sample = sample
        self.shown = shown(sample)
        self.fence = Fence.around(sample.id, self.shown)
        self.ratings: Mapping[str, int] | None = None
        self.failure: str | None = None
        self.again = True
        self.text = ""
        self.calls = 0
        self.tokens = 0

    def hear(self, request: Request, reply: Completion) -> None:
        self.calls += 1
        self.tokens += reply.completion_tokens
        self.text = self.fence.without(reply.text)
        asked = self.fence.asked((message.content for message in request.messages), "Rating")
        if reply.failure is not None:
            self.failure = f"{reply.failure.kind}: {reply.failure.detail}"
        elif reply.finish == "length":
            self.failure = "cut off at max_tokens: no rating could be read"
        else:
            self.ratings, self.failure = read(reply.text, self.fence if asked else None)
        # A call that failed was tried again below already.
        self.again = self.failure is not None and reply.failure is None

    def note(self) -> Mapping[str, JSON]:
        return _note(
            self.ratings,
            self.failure,
            "model",
            text=self.text,
            calls=self.calls,
            tokens=self.tokens,
        )


def shown(sample: Sample) -> dict[str, Any]:
    """What the template may name beside ``fence``: ``query``, ``system``, ``history`` and ``response``."""
    turns = list(sample.context)
    last = max((i for i, turn in enumerate(turns) if turn.role == "user"), default=None)
    return {
        "query": sample.query,
        "system": "\n\n".join(turn.content for turn in turns if turn.role == "system"),
        "history": [
            {"role": turn.role, "content": turn.content}
            for i, turn in enumerate(turns)
            if turn.role != "system" and i != last
        ],
        "response": sample.response,
    }


def read(text: str, fence: Fence | None = None) -> tuple[Mapping[str, int] | None, str | None]:
    """The ratings in a reply, and why there are none: (ratings or None, failure or None).

    With a ``fence``, which the prompt asked for, only what stands behind the last "Rating CODE:" counts. Without one it
    is what stands behind the last "Rating:", or all of the reply. It must be the four aspects and their numbers,
    each once, and nothing else.
    """
    if fence is not None:
        said = fence.behind(text, "Rating")
        if said is None:
            return (
                None,
                f'no line "Rating CODE: ..." with the call\'s code in {_excerpt(text, fence)}',
            )
    else:
        stated = list(_STATED.finditer(text))
        said = text[stated[-1].end() :] if stated else text
    found: dict[str, int] = {}
    place = 0
    while match := _ITEM.match(said, place):
        name, number = match["name"].lower(), int(match["sign"] + match["number"])
        if name not in ASPECTS or name in found:
            break
        found[name], place = number, match.end()
    if len(found) < len(ASPECTS) or not _REST.fullmatch(said, place):
        form = ", ".join(f"{name} N" for name in ASPECTS)
        return None, f'not of the form "{form}": {_excerpt(said, fence)}'
    for name, number in found.items():
        if not LEAST <= number <= MOST:
            return None, f"{name} {number} is not from {LEAST} to {MOST}"
    return {name: found[name] for name in ASPECTS}, None


def label_of(overall: int) -> int:
    """The class of an overall rating: clip(overall, 4, 9) - 4."""
    return min(max(overall, _LOW), _LOW + CLASSES - 1) - _LOW


def _of_rule(sample: Sample) -> Mapping[str, JSON] | None:
    text = rules_form.empty(Text.of(sample), rules_form.Empty())
    if text is None:
        return None
    return _note(dict.fromkeys(ASPECTS, LEAST), None, "rule", text=text)


def _of_column(sample: Sample, column: str) -> Mapping[str, JSON]:
    wanted = f"a whole number from {LEAST} to {MOST} is needed"
    value = sample.meta.get(column)
    if value is None or (isinstance(value, str) and not value.strip()):
        there = "is empty" if column in sample.meta else "is not there"
        return _note(None, f"column {column!r} {there}: {wanted}", "column")
    rating: int | None = None
    if isinstance(value, str) and re.fullmatch(r"\s*\d{1,4}(?:\.0{1,6})?\s*", value, re.ASCII):
        rating = int(float(value))
    elif isinstance(value, int | float) and not isinstance(value, bool) and value % 1 == 0:
        rating = int(value)
    if rating is None or not LEAST <= rating <= MOST:
        held = repr(value)
        return _note(None, f"column {column!r} holds {held[:40]}: {wanted}", "column")
    return _note({"overall": rating}, None, "column")


def _note(
    ratings: Mapping[str, int] | None,
    failure: str | None,
    by: str,
    *,
    text: str = "",
    calls: int = 0,
    tokens: int = 0,
) -> Mapping[str, JSON]:
    known = ratings or {}
    return {
        **{name: known.get(name) for name in ASPECTS},
        "label": label_of(known["overall"]) if "overall" in known else None,
        "failure": failure,
        "by": by,
        "text": text,
        "calls": calls,
        "tokens": tokens,
    }


def _excerpt(text: str, fence: Fence | None, limit: int = 60) -> str:
    flat = " ".join((fence.without(text) if fence else text).split())
    return repr(flat if len(flat) <= limit else flat[: limit - 3] + "...")
