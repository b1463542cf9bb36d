"""A small plugin for nfilter. Its hooks name what it brings; everything else is ordinary Python."""

from collections.abc import Iterable
from pathlib import Path

from nfilter import hookimpl
from nfilter_example.model import Adder, Memory
from nfilter_example.source import QuestionsAndAnswers
from nfilter_example.stages import Agree, Ask, Lengths
from nfilter_example.tokens import First
from nfilter_example.words import Words

HERE = Path(__file__).resolve().parent


@hookimpl
def nfilter_sources() -> Iterable[type]:
    """One source."""
    return [QuestionsAndAnswers]


@hookimpl
def nfilter_stages() -> Iterable[type]:
    """Stages over samples and over tokens; which is which shows in their methods."""
    return [Ask, Agree, Lengths, First]


@hookimpl
def nfilter_backends() -> Iterable[type]:
    """One model that needs no weights."""
    return [Adder]


@hookimpl
def nfilter_trainers() -> Iterable[type]:
    """One trainer."""
    return [Memory]


@hookimpl
def nfilter_metrics() -> Iterable[type]:
    """One metric."""
    return [Words]


@hookimpl
def nfilter_prompts() -> Iterable[Path]:
    """The folder that holds ``example/ask.jinja``."""
    return [HERE / "prompts"]


@hookimpl
def nfilter_recipes() -> Iterable[Path]:
    """The folder that holds ``example.yaml``."""
    return [HERE / "recipes"]
