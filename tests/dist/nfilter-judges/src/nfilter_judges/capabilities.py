"""The capabilities: protocols that backends of any plugin can implement, and stages of any plugin can require."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from nfilter import capability


@capability(cached=True)
class Rewards(Protocol):
    """Scores texts with a reward model."""

    def reward(self, texts: Sequence[str]) -> list[float]:
        """Return one score per text; higher is better."""
        ...


@capability(cached=True)
class Entails(Protocol):
    """Classifies pairs of texts by natural language inference."""

    def entail(self, pairs: Sequence[tuple[str, str]]) -> npt.NDArray[np.floating[Any]]:
        """Return the probabilities of entailment, neutrality and contradiction for each (premise, hypothesis), [n, 3]."""
        ...
