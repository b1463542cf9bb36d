"""Pairs and contexts for the tests of this plugin."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from nfilter import Message, Sample
from nfilter.testing import FakeContext


def _pair(name: str, prompt: str, chosen: str, rejected: str, **more: Any) -> Sample:
    messages = (Message("user", prompt), Message("assistant", chosen))
    return Sample(name, messages, rejected=Message("assistant", rejected), **more)


@pytest.fixture(scope="session")
def pair() -> Callable[..., Sample]:
    """Make a pair: ``pair(name, prompt, chosen, rejected)``."""
    return _pair


@pytest.fixture
def context() -> Callable[..., FakeContext]:
    """Make a context in which answers are preferences; the arguments are its models."""
    return lambda **models: FakeContext(models=models, answers="preference")
