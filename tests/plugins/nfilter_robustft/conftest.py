"""Samples and scripted models for the stages that ask for answers."""

import re
from collections import defaultdict
from dataclasses import replace

import pytest

from nfilter import Completion, Message, Sample
from nfilter.testing import FakeContext, FakeGenerator, view


@pytest.fixture
def sample():
    """Builds a sample; ``views`` are note names to answers (or whole notes), ``flagged`` adds a verdict."""

    def build(key, query="What is it?", response="A", *, views=None, flagged=None, **more):
        notes = {
            name: dict(answer) if isinstance(answer, dict) else view(answer)
            for name, answer in (views or {}).items()
        }
        if flagged is not None:
            notes["check"] = {
                "flagged": flagged, "noise_score": 0.5, "agree": {"base": not flagged}, "vote": "all",
            }  # fmt: skip
        messages = (Message("user", query), Message("assistant", response))
        return Sample(str(key), messages, notes=notes, **more)

    return build


@pytest.fixture
def scripted():
    """A model that gives each sample its replies in turn: ``{id: [text or Completion, ...]}``."""

    def build(replies):
        asked = defaultdict(int)

        def answer(request):
            turn = asked[request.sample_id]
            asked[request.sample_id] += 1
            return replies[request.sample_id][turn]

        return FakeGenerator(answer)

    return build


@pytest.fixture
def code_of():
    """The code that a prompt has beside its data; "" where its template has none."""

    def find(request):
        found = re.search(r"^BEGIN ([0-9a-f]{8,64})$", request.messages[-1].content, re.MULTILINE)
        return found[1] if found else ""

    return find


@pytest.fixture
def obedient(code_of):
    """A model that writes the call's code where the prompt asks for it: "Answer: B" becomes "Answer CODE: B"."""

    def coded(model):
        answer = model.answer

        def reply(request):
            said = answer(request)
            text = said.text if isinstance(said, Completion) else said
            code = code_of(request)
            for word in ("Answer", "Verdict"):
                if code and f"{word} {code}" in request.messages[-1].content:
                    text = re.sub(rf"(?im)^(\W*){word}:", rf"\1{word} {code}:", text)
            return replace(said, text=text) if isinstance(said, Completion) else text

        model.answer = reply
        return model

    return coded


@pytest.fixture
def context():
    """A context with the model ``m``, and an encoder ``e`` where one is given."""

    def build(model=None, encoder=None, *, answers="choice", seed=0, prompts=()):
        models = {"m": model, "e": encoder}
        return FakeContext(models=models, answers=answers, seed=seed, prompts=prompts)

    return build
