"""Samples and scripted models for the stages that ask for answers."""

from collections import defaultdict

import pytest

from nfilter import Message, Sample
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
def context():
    """A context with the model ``m``, and an encoder ``e`` where one is given."""

    def build(model=None, encoder=None, *, answers="choice", seed=0, prompts=()):
        models = {"m": model, "e": encoder}
        return FakeContext(models=models, answers=answers, seed=seed, prompts=prompts)

    return build
