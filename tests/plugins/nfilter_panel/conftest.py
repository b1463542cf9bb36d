"""Rows and scripted reviewers."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from nfilter import Completion, Message, Request, Sample
from nfilter.testing import FakeContext, FakeGenerator, check_sample_stage
from nfilter_panel.config import PanelConfig
from nfilter_panel.review import Review

_CODE = re.compile(r"^BEGIN ([0-9a-f]{8,64})$", re.MULTILINE)
_VOICE = re.compile(r"^You are (\w+)\.$", re.MULTILINE)


def phase_of(request: Request) -> str:
    """Return the phase that a prompt belongs to."""
    text = request.messages[0].content
    return {"Answer": "alone", "You": "exchange", "Reviewers": "chair"}[text.split()[0]]


def code_of(request: Request) -> str:
    """Return the code between whose lines data stands."""
    found = _CODE.search(request.messages[0].content)
    assert found is not None
    return found[1]


def voice_of(request: Request) -> str:
    """Return who is asked, by the instructions of the prompt."""
    found = _VOICE.search(request.messages[0].content)
    assert found is not None
    return found[1]


Say = str | Completion


class Panel:
    """Runs a panel whose members say what ``said[who, phase]`` has: "84" is a readable reply, a longer text is a whole reply."""

    def __init__(
        self,
        said: Mapping[tuple[str, str], Any] | Callable[[Request], Any],
        who: Sequence[str] = ("ann", "bob", "cid"),
        answers: str = "number",
        **config: Any,
    ) -> None:
        self.said = said
        self.turns: dict[tuple[str, str, str], int] = {}
        self.generator = FakeGenerator(self._answer)
        self.ctx = FakeContext(models={"m": self.generator}, answers=answers)
        chair = {"llm": "m", "instructions": "You are eva."}
        more = {"chair": chair} if config.get("decide") == "chair" else {}
        reviewers = [{"llm": "m", "name": each, "instructions": f"You are {each}."} for each in who]
        self.config = PanelConfig.model_validate({"reviewers": reviewers, **more, **config})

    def run(self, *samples: Sample) -> list[Sample]:
        return check_sample_stage(Review, self.config, samples, self.ctx)

    def asked(self) -> list[tuple[str, str]]:
        """Who was asked in which phase, in order."""
        return [(voice_of(each), phase_of(each)) for each in self.generator.requests]

    def _answer(self, request: Request) -> Completion:
        if callable(self.said):
            given = self.said(request)
        else:
            key = (voice_of(request), phase_of(request))
            given = self.said[key]
            if isinstance(given, list):
                turn = self.turns.get((request.sample_id, *key), 0)
                self.turns[request.sample_id, *key] = turn + 1
                given = given[turn]
        if isinstance(given, str):
            given = Completion(given, completion_tokens=3)
        text = given.text
        if re.fullmatch(r"[\w.]{1,9}", text):
            text = f"Because.\nAnswer: {text}"
        return replace(given, text=re.sub(r"(?m)^Answer:", f"Answer {code_of(request)}:", text))


def row(
    label: str = "90", key: str = "r1", query: str = "How much is 12 * 7?", **more: Any
) -> Sample:
    """Return a row with a label."""
    return Sample(key, (Message("user", query), Message("assistant", label)), **more)


@pytest.fixture
def panel() -> type[Panel]:
    return Panel


@pytest.fixture
def make_row() -> Callable[..., Sample]:
    return row


def alone(*answers: Any, who: Sequence[str] = ("ann", "bob", "cid")) -> dict[tuple[str, str], Any]:
    """Return first answers by reviewer."""
    return {(each, "alone"): answer for each, answer in zip(who, answers, strict=True)}


def exchange(
    *answers: Any, who: Sequence[str] = ("ann", "bob", "cid")
) -> dict[tuple[str, str], Any]:
    """Return answers after the exchange by reviewer."""
    return {(each, "exchange"): answer for each, answer in zip(who, answers, strict=True)}


@pytest.fixture
def said() -> Callable[..., dict[tuple[str, str], Any]]:
    """``said(["84", "85", "84"], ["84", "84", "84"])``: first answers, and answers after the exchange."""

    def build(
        first: Sequence[Any], then: Sequence[Any] = (), chair: Any = None
    ) -> dict[tuple[str, str], Any]:
        found = alone(*first)
        if then:
            found |= exchange(*then)
        return found | ({("eva", "chair"): chair} if chair is not None else {})

    return build
