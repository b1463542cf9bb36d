"""The notes that stages of different plugins share: views, verdicts and proposals, with their JSON forms.

A stage writes ``sample.note(name, View(...).to_json())``; a later one reads ``View.of(sample, name)``. Keys that a type
does not name are kept in ``more``, in their order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Final, TypeGuard, TypeVar

from nfilter.api.errors import NoteError
from nfilter.api.types import JSON, Sample

_NONE: Mapping[str, Any] = MappingProxyType({})
_Note = TypeVar("_Note")


@dataclass(frozen=True, slots=True)
class _Form:
    """The values that a field may have: a test, and its description for errors."""

    accepts: Callable[[Any], bool]
    description: str


def is_number(value: Any) -> TypeGuard[int | float]:
    """Whether ``value`` is a number and not a bool."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_interval(value: Any) -> bool:
    if not isinstance(value, list | tuple) or len(value) != 2:
        return False
    return all(is_number(end) for end in value) and 0.0 <= value[0] <= value[1] <= 1.0


def _is_agreement(value: Any) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(key, str) and (each is None or isinstance(each, bool))
        for key, each in value.items()
    )


_TEXT: Final = _Form(lambda value: isinstance(value, str), "a text")
_TEXT_OR_NONE: Final = _Form(
    lambda value: value is None or isinstance(value, str), "a text or None"
)
_NUMBER_OR_NONE: Final = _Form(lambda value: value is None or is_number(value), "a number or None")
_COUNT: Final = _Form(_is_count, "a whole number of at least 0")
_BOOL: Final = _Form(lambda value: isinstance(value, bool), "True or False")
_SHARE: Final = _Form(
    lambda value: is_number(value) and 0.0 <= value <= 1.0, "a number from 0 to 1"
)
_WEAK: Final = _Form(lambda value: isinstance(value, str | bool), "a text, True or False")
_AGREE: Final = _Form(_is_agreement, "an object of True, False or None by view")

_INTERVAL: Final = _Form(_is_interval, "two numbers from 0 to 1, the smaller one first")

_VIEW: Final = {
    "answer": _TEXT_OR_NONE,
    "text": _TEXT,
    "reasoning": _TEXT_OR_NONE,
    "nll": _NUMBER_OR_NONE,
    "tokens": _COUNT,
    "calls": _COUNT,
    "rounds": _COUNT,
    "failure": _TEXT_OR_NONE,
}
_VIEW_MORE: Final = {
    "skipped": _TEXT_OR_NONE,
    "weak": _WEAK,
    "saved": _COUNT,
    "length": _COUNT,
    "agreement": _NUMBER_OR_NONE,
}
_VERDICT: Final = {"flagged": _BOOL, "noise_score": _SHARE}
_VERDICT_OPTIONAL: Final = {"agree": _AGREE, "vote": _TEXT_OR_NONE, "interval": _INTERVAL}
_PROPOSAL: Final = {"answer": _TEXT_OR_NONE}


@dataclass(frozen=True, slots=True)
class View:
    """The answer of one model, or of a sample's neighbours, to a sample.

    Attributes:
        answer: In canonical form; None if no answer could be parsed, which differs from a wrong answer.
        text: The raw completion.
        reasoning: The text that led to the answer.
        nll: The mean negative log-likelihood of the tokens of ``text``, in nats.
        tokens: Generated tokens, of all calls.
        calls: Calls to a model.
        rounds: Completed rounds of reflection.
        failure: Why there is no answer.
        more: Further keys. The properties below name those that have the same meaning in every plugin.
    """

    answer: str | None
    text: str = ""
    reasoning: str | None = None
    nll: float | None = None
    tokens: int = 0
    calls: int = 1
    rounds: int = 0
    failure: str | None = None
    more: Mapping[str, JSON] = field(default_factory=lambda: _NONE)

    @property
    def skipped(self) -> str | None:
        """Why no model was called for this sample; None if one was."""
        value = self.more.get("skipped")
        return value if isinstance(value, str) and value else None

    @property
    def weak(self) -> bool:
        """Whether the view is no better than chance on its first rows, and so has no vote."""
        return bool(self.more.get("weak"))

    @property
    def asked(self) -> bool:
        """Whether the view has a vote: it is neither skipped nor weak. ``answer`` may still be None."""
        return self.skipped is None and not self.weak

    @property
    def saved(self) -> int:
        """The number of calls that were not needed."""
        value = self.more.get("saved", 0)
        return value if isinstance(value, int) else 0

    @property
    def length(self) -> int:
        """The number of tokens that ``nll`` is the mean of."""
        value = self.more.get("length", self.tokens)
        return value if isinstance(value, int) else self.tokens

    @property
    def agreement(self) -> float | None:
        """The share of several drawn answers that agree with ``answer``; None for a single draw."""
        value = self.more.get("agreement")
        return float(value) if isinstance(value, int | float) else None

    def with_more(self, **more: JSON) -> View:
        """Return the view with further keys."""
        return replace(self, more={**self.more, **more})

    def to_json(self) -> dict[str, JSON]:
        """Return the note that ``Sample.note`` writes."""
        return {**{name: getattr(self, name) for name in _VIEW}, **self.more}

    @classmethod
    def from_json(cls, value: JSON) -> View:
        """Read a note. Only ``answer`` is required; a count that is absent is 0.

        Raises:
            ValueError: if a field has another form; the message names it.
        """
        note = _checked(value, {**_VIEW, **_VIEW_MORE}, required=("answer",))
        fields = {"calls": 0, **{name: note[name] for name in _VIEW if name in note}}
        return cls(
            **fields,
            more={name: item for name, item in note.items() if name not in _VIEW},
        )

    @classmethod
    def of(cls, sample: Sample, name: str) -> View | None:
        """Read the view ``name`` of ``sample``; None if no stage wrote one.

        Raises:
            NoteError: if the note has another form; the message names sample, note and field.
        """
        return _parsed(sample, name, "view", cls.from_json) if name in sample.notes else None


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the label of a sample is wrong.

    Attributes:
        flagged: True for a label that counts as wrong.
        noise_score: The probability that the label is wrong, from 0 to 1.
        agree: Whether each view agrees with the label; None for a view without an answer or that was not asked.
        vote: The rule that decided.
        more: Further keys.
        interval: The lowest and the highest probability that the data leave possible; 0 and 1 if they tell nothing. None if the
            stage gives none; the noise score then stands for both.
    """

    flagged: bool
    noise_score: float
    agree: Mapping[str, bool | None] | None = None
    vote: str | None = None
    more: Mapping[str, JSON] = field(default_factory=lambda: _NONE)
    interval: tuple[float, float] | None = None

    @property
    def ends(self) -> tuple[float, float]:
        """The interval, or the noise score twice if there is none."""
        return self.interval or (self.noise_score, self.noise_score)

    def to_json(self) -> dict[str, JSON]:
        """Return the note that ``Sample.note`` writes; ``agree``, ``vote`` and ``interval`` only if they are set."""
        note: dict[str, JSON] = {"flagged": self.flagged, "noise_score": self.noise_score}
        if self.agree is not None:
            note["agree"] = dict(self.agree)
        if self.vote is not None:
            note["vote"] = self.vote
        if self.interval is not None:
            note["interval"] = list(self.interval)
        return {**note, **self.more}

    @classmethod
    def from_json(cls, value: JSON) -> Verdict:
        """Read a note with ``flagged`` and ``noise_score``.

        Raises:
            ValueError: if a field has another form; the message names it.
        """
        forms = {**_VERDICT, **_VERDICT_OPTIONAL}
        note = _checked(value, forms, required=tuple(_VERDICT))
        fields = {name: note[name] for name in forms if name in note}
        if "interval" in fields:
            fields["interval"] = tuple(fields["interval"])
        return cls(
            **fields,
            more={name: item for name, item in note.items() if name not in forms},
        )

    @classmethod
    def of(cls, sample: Sample, name: str) -> Verdict | None:
        """Read the verdict ``name`` of ``sample``; None if no stage wrote one.

        Raises:
            NoteError: if the note has another form; the message names sample, note and field.
        """
        return _parsed(sample, name, "verdict", cls.from_json) if name in sample.notes else None

    @classmethod
    def last_of(cls, sample: Sample) -> tuple[str, Verdict] | None:
        """Return the name and value of the last note with ``flagged`` and ``noise_score``; None if there is none.

        Raises:
            NoteError: if a value has another form; the message names sample, note and field.
        """
        for name in reversed(list(sample.notes)):
            note = sample.notes[name]
            if isinstance(note, Mapping) and note.keys() >= _VERDICT.keys():
                return name, _parsed(sample, name, "verdict", cls.from_json)
        return None


@dataclass(frozen=True, slots=True)
class Proposal:
    """An answer that may replace a flagged label. A view or a verdict can be a proposal too.

    ``answer`` is in canonical form; None if there is none.
    """

    answer: str | None

    def to_json(self) -> dict[str, JSON]:
        """Return the note that ``Sample.note`` writes."""
        return {"answer": self.answer}

    @classmethod
    def from_json(cls, value: JSON) -> Proposal:
        """Read the ``answer`` of a note.

        Raises:
            ValueError: if it is missing or has another form.
        """
        return cls(_checked(value, _PROPOSAL, required=("answer",))["answer"])

    @classmethod
    def of(cls, sample: Sample, name: str) -> Proposal | None:
        """Read the proposal ``name`` of ``sample``; None if no stage wrote one.

        Raises:
            NoteError: if the note has another form; the message names sample, note and field.
        """
        return _parsed(sample, name, "proposal", cls.from_json) if name in sample.notes else None


def _parsed(sample: Sample, name: str, kind: str, from_json: Callable[[JSON], _Note]) -> _Note:
    """Read the note ``name`` of ``sample``, which has one."""
    try:
        return from_json(sample.notes[name])
    except ValueError as error:
        raise NoteError(f"sample {sample.id!r}: note {name!r} is not a {kind}: {error}") from error


def _checked(
    value: JSON, forms: Mapping[str, _Form], *, required: tuple[str, ...]
) -> dict[str, Any]:
    """Check the fields of a note against ``forms``.

    Raises:
        ValueError: if a field is missing or has another form; the message names the first.
    """
    if not isinstance(value, Mapping):
        raise ValueError(f"it is {value!r:.80}, not an object")  # noqa: TRY004 - a fault of form
    for name in required:
        if name not in value:
            raise ValueError(f"{name} is missing, {forms[name].description}")
    for name, form in forms.items():
        if name in value and not form.accepts(value[name]):
            raise ValueError(f"{name} is {value[name]!r:.80}, not {form.description}")
    return dict(value)
