"""A plugin for nfilter with capabilities of its own."""

from collections.abc import Iterable

from nfilter import hookimpl
from nfilter_judges.models import NliModel, RewardModel
from nfilter_judges.stages import Best, Entailed


@hookimpl
def nfilter_backends() -> Iterable[type]:
    """A reward model and an NLI classifier."""
    return [RewardModel, NliModel]


@hookimpl
def nfilter_stages() -> Iterable[type]:
    """Two stages that use them."""
    return [Best, Entailed]
