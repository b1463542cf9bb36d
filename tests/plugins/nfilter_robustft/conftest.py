"""Fixtures: samples and scripted models."""

import re
from collections import defaultdict
from dataclasses import replace

import pytest

from nfilter import Completion, Message, Sample
from nfilter.testing import FakeContext, FakeGenerator, view


@pytest.fixture
def sample():
    """Builder of samples; ``views`` maps note names to answers or whole notes, ``flagged`` adds a verdict."""

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
    """Builder of a model with scripted replies per sample: ``{id: [text or Completion, ...]}``."""

    def build(replies):
        calls = defaultdict(int)

        def answer(request):
            turn = calls[request.sample_id]
            calls[request.sample_id] += 1
            return replies[request.sample_id][turn]

        return FakeGenerator(answer)

    return build


@pytest.fixture
def code_of():
    """Function that returns the fence code of a request's prompt, or ""."""

    def find(request):
        match = re.search(r"^BEGIN ([0-9a-f]{8,64})$", request.messages[-1].content, re.MULTILINE)
        return match[1] if match else ""

    return find


@pytest.fixture
def obedient(code_of):
    """Wrapper of a model that adds the code that the prompt asks for: "Answer: B" becomes "Answer CODE: B"."""

    def with_code(model):
        answer = model.answer

        def reply(request):
            completion = answer(request)
            text = completion.text if isinstance(completion, Completion) else completion
            code = code_of(request)
            for word in ("Answer", "Verdict"):
                if code and f"{word} {code}" in request.messages[-1].content:
                    text = re.sub(rf"(?im)^(\W*){word}:", rf"\1{word} {code}:", text)
            return replace(completion, text=text) if isinstance(completion, Completion) else text

        model.answer = reply
        return model

    return with_code


@pytest.fixture
def context():
    """Builder of a context with the model ``m`` and the encoder ``e``."""

    def build(model=None, encoder=None, *, answers="choice", seed=0, prompts=()):
        models = {"m": model, "e": encoder}
        return FakeContext(models=models, answers=answers, seed=seed, prompts=prompts)

    return build
