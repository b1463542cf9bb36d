"""``entp.rate``: rate a sample's rarity, complexity and informativeness from 1 to 10, by a model or from a column (ENTP; DS2)."""

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
    Needs,
    PromptName,
    ReplyTokens,
    Request,
    Retries,
    RetryTemperature,
    Sample,
    Sampling,
    StageConfig,
    State,
    Template,
    excerpt,
    is_number,
    question_variables,
)
from nfilter_entp.purging import rules_form
from nfilter_entp.purging.texts import Text

ASPECTS = ("rarity", "complexity", "informativeness", "overall")
LEAST, MOST = 1, 10
CLASSES = 6

_LOW = 4  # ratings up to this are class 0, ratings of 9 and 10 class 5
_ITEM = re.compile(
    r"[\s{,;*\"'|-]*+(?P<name>[a-z]{2,20})[\"'*]*+[ \t]*+(?:[:=][ \t]*+)?[\"'*]*+"
    r"(?P<sign>-?)(?P<number>[0-9]{1,4})(?!\d|\.\d|,\d)(?:[ ]?/[ ]?10(?!\d))?[\"'*]*+",
    re.IGNORECASE,
)
_REST = re.compile(r"[\s}.*;|]*")
_STATED = re.compile(r"^[^\w\n]*rating[^\w\n]*:", re.IGNORECASE | re.MULTILINE)


class RateConfig(StageConfig):
    """``llm`` rates; or ``column`` names a data column with an overall rating, and no model is called.

    After a reply without a rating the call is repeated at ``retry_temperature``, up to ``retries`` times.
    """

    llm: Annotated[str | None, Needs(Generates)] = Field(
        default=None, description="The model that rates; null with column."
    )
    column: str | None = Field(
        default=None, description="A column with ratings, in place of a model."
    )
    into: str = Field(default="rating", description="The note with the rating.")
    prompt: PromptName = "entp/rate"
    max_tokens: ReplyTokens = 256
    retries: Retries = 1
    retry_temperature: RetryTemperature = 0.7

    @model_validator(mode="after")
    def _check_origin(self) -> RateConfig:
        if self.llm is None and self.column is None:
            raise ValueError(
                "ratings come from a model or from a data column; name one: llm: NAME, or column: NAME"
            )
        if self.llm is not None and self.column is not None:
            raise ValueError(
                f"ratings come from a model or from a column, not from both; leave out llm: {self.llm} or"
                f" column: {self.column}"
            )
        return self


class Rate:
    """Writes ``{"rarity", "complexity", "informativeness", "overall", "label", "failure", "by", "text", "calls", "tokens"}``.

    Ratings are integers from 1 to 10, or null if they cannot be read; ``failure`` is the reason. ``label`` is clip(overall, 4, 9) - 4, a
    class from 0 to 5. ``by`` is ``model``, ``column`` or ``rule``: a response that ``entp.purge`` calls empty (no letter, digit or
    symbol) gets 1 for all ratings without a call.
    """

    name: ClassVar[str] = "entp.rate"
    Config: ClassVar[type[StageConfig]] = RateConfig

    def __init__(self, config: RateConfig) -> None:
        self.config = config

    @classmethod
    def contract(cls, config: RateConfig) -> Contract:
        writes = frozenset({config.into})
        if config.llm is None:
            return Contract(writes=writes)
        calls = Calls(
            config.llm, config.prompt, config.max_tokens, least=0, usual=1, most=1 + config.retries
        )
        return Contract(
            writes=writes,
            prompts=frozenset({config.prompt}),
            calls=(calls,),
        )

    def process(self, chunk: Sequence[Sample], state: State, ctx: Context) -> list[Sample]:
        if self.config.column is not None:
            notes = {each.id: _rate_by_column(each, self.config.column) for each in chunk}
        else:
            by_rule = {each.id: note for each in chunk if (note := _rate_by_rule(each)) is not None}
            notes = by_rule | self._ask_model(
                [each for each in chunk if each.id not in by_rule], ctx
            )
        return [sample.note(self.config.into, notes[sample.id]) for sample in chunk]

    def _ask_model(self, samples: Sequence[Sample], ctx: Context) -> dict[str, Mapping[str, JSON]]:
        if self.config.llm is None or not samples:
            return {}
        template = ctx.prompt(self.config.prompt)
        cases = [_Case(sample) for sample in samples]
        active = cases
        for attempt in range(self.config.retries + 1):
            requests = [self._request(case, template, attempt, ctx) for case in active]
            replies = ctx.model(self.config.llm).generate(requests) if requests else []
            for case, request, reply in zip(active, requests, replies, strict=True):
                case.receive(request, reply)
            active = [case for case in active if case.pending]
        return {case.sample.id: case.note() for case in cases}

    def _request(self, case: _Case, template: Template, attempt: int, ctx: Context) -> Request:
        sample = case.sample
        temperature = self.config.retry_temperature if attempt else 0.0
        seed = ctx.rng(f"{sample.id}\x1f{attempt}").getrandbits(31) if attempt else 0
        return Request(
            messages=template.render(**case.prompt_variables, fence=case.fence.code),
            sampling=Sampling(self.config.max_tokens, temperature, seed=seed),
            sample_id=sample.id,
            draw=attempt,
        )


class _Case:
    """A sample being rated: its prompt variables and the last reply."""

    def __init__(self, sample: Sample) -> None:
        self.sample = sample
        self.prompt_variables = prompt_variables(sample)
        self.fence = Fence.around(sample.id, self.prompt_variables)
        self.ratings: Mapping[str, int] | None = None
        self.failure: str | None = None
        self.pending = True
        self.text = ""
        self.calls = 0
        self.tokens = 0

    def receive(self, request: Request, reply: Completion) -> None:
        self.calls += 1
        self.tokens += reply.completion_tokens
        self.text = self.fence.without(reply.text)
        asked = self.fence.asked((message.content for message in request.messages), "Rating")
        if reply.failure is not None:
            self.failure = str(reply.failure)
        elif reply.finish == "length":
            self.failure = "cut off at max_tokens: no rating could be read"
        else:
            self.ratings, self.failure = read(reply.text, self.fence if asked else None)
        # Failed calls were already retried by the backend.
        self.pending = self.failure is not None and reply.failure is None

    def note(self) -> Mapping[str, JSON]:
        return _rating_note(
            self.ratings,
            self.failure,
            "model",
            text=self.text,
            calls=self.calls,
            tokens=self.tokens,
        )


def prompt_variables(sample: Sample) -> dict[str, Any]:
    """Return the template variables except ``fence``: ``query``, ``system``, ``history`` and ``response``."""
    return {**question_variables(sample), "response": sample.response}


def read(text: str, fence: Fence | None = None) -> tuple[Mapping[str, int] | None, str | None]:
    """Parse a reply; return (ratings or None, failure or None).

    With a ``fence`` that the prompt asked for, only the text after the last "Rating CODE:" counts; otherwise the text after the last
    "Rating:", or the whole reply. It must contain the four aspects with their numbers, each once, and nothing else.
    """
    if fence is not None:
        ratings_text = fence.behind(text, "Rating")
        if ratings_text is None:
            return (
                None,
                f'no line "Rating CODE: ..." with the call\'s code in {_excerpt(text, fence)}',
            )
    else:
        stated = list(_STATED.finditer(text))
        ratings_text = text[stated[-1].end() :] if stated else text
    ratings: dict[str, int] = {}
    position = 0
    while match := _ITEM.match(ratings_text, position):
        name, number = match["name"].lower(), int(match["sign"] + match["number"])
        if name not in ASPECTS or name in ratings:
            break
        ratings[name], position = number, match.end()
    if len(ratings) < len(ASPECTS) or not _REST.fullmatch(ratings_text, position):
        form = ", ".join(f"{name} N" for name in ASPECTS)
        return None, f'not of the form "{form}": {_excerpt(ratings_text, fence)}'
    for name, number in ratings.items():
        if not LEAST <= number <= MOST:
            return None, f"{name} {number} is not from {LEAST} to {MOST}"
    return {name: ratings[name] for name in ASPECTS}, None


def class_of(overall: int) -> int:
    """Return the class of an overall rating: clip(overall, 4, 9) - 4."""
    return min(max(overall, _LOW), _LOW + CLASSES - 1) - _LOW


def _rate_by_rule(sample: Sample) -> Mapping[str, JSON] | None:
    text = rules_form.empty(Text.of(sample), rules_form.Empty())
    if text is None:
        return None
    return _rating_note(dict.fromkeys(ASPECTS, LEAST), None, "rule", text=text)


def _rate_by_column(sample: Sample, column: str) -> Mapping[str, JSON]:
    required = f"an integer from {LEAST} to {MOST} is required"
    value = sample.meta.get(column)
    if value is None or (isinstance(value, str) and not value.strip()):
        problem = "is empty" if column in sample.meta else "is missing"
        return _rating_note(None, f"column {column!r} {problem}: {required}", "column")
    rating: int | None = None
    if isinstance(value, str) and re.fullmatch(r"\s*\d{1,4}(?:\.0{1,6})?\s*", value, re.ASCII):
        rating = int(float(value))
    elif is_number(value) and value % 1 == 0:
        rating = int(value)
    if rating is None or not LEAST <= rating <= MOST:
        text = repr(value)
        return _rating_note(None, f"column {column!r} contains {text[:40]}: {required}", "column")
    return _rating_note({"overall": rating}, None, "column")


def _rating_note(
    ratings: Mapping[str, int] | None,
    failure: str | None,
    by: str,
    *,
    text: str = "",
    calls: int = 0,
    tokens: int = 0,
) -> Mapping[str, JSON]:
    values = ratings or {}
    return {
        **{name: values.get(name) for name in ASPECTS},
        "label": class_of(values["overall"]) if "overall" in values else None,
        "failure": failure,
        "by": by,
        "text": text,
        "calls": calls,
        "tokens": tokens,
    }


def _excerpt(text: str, fence: Fence | None) -> str:
    return excerpt(fence.without(text) if fence else text)
