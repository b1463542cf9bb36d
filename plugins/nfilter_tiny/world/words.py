"""The words of the world, each used in one role only, and their facts."""

from __future__ import annotations

import random
from typing import Final

from nfilter_tiny.world.problem import Kind, made_up_word

_RESERVED: Final = frozenset({
    "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
    "mon", "tue", "wed", "thu", "fri", "sat", "sun", "low", "mid", "high", "hue", "say", "from",
    "red", "the", "lamp", "ladder", "kettle", "basket", "letter", "mirror", "radio", "carpet", "bucket",
    "violin", "candle", "hammer",
})  # fmt: skip


def _draw_words(n: int) -> tuple[str, ...]:
    """Return ``n`` distinct made-up words, always the same."""
    rng = random.Random("nfilter-tiny words 2")
    words: dict[str, None] = {}
    while len(words) < n:
        word = made_up_word(rng)
        if word not in _RESERVED:
            words[word] = None
    return tuple(words)


_ALL: Final = _draw_words(98)
SHIFT_KNOWN: Final = _ALL[0:12]
SHIFT_REASONED: Final = _ALL[12:18]
SHIFT_NEW: Final = _ALL[18:20]
HUE_KNOWN: Final = _ALL[20:39]
HUE_NEW: Final = _ALL[39:44]
PLACE_KNOWN: Final = _ALL[44:52]
PLACE_REASONED: Final = _ALL[52:56]
PLACE_NEW: Final = _ALL[56:58]
NODES: Final = _ALL[58:98]

COLORS: Final = ("amber", "black", "blue", "coral", "green", "ivory", "pink", "silver")
PLACES: Final = (
    "under the old bridge", "to the market", "behind the barn", "into the cellar", "across the river",
    "up the hill", "near the station", "onto the roof", "through the garden", "beside the well",
    "out of the village", "down to the harbor", "past the mill", "inside the chapel", "over the wall",
    "along the canal",
)  # fmt: skip
PEOPLE: Final = (
    "anna", "boris", "clara", "david", "elena", "felix", "greta", "henry", "ivana", "jonas", "laura", "oscar",
)  # fmt: skip
THINGS: Final = (
    "lamp", "ladder", "kettle", "basket", "letter", "mirror", "radio", "carpet", "bucket", "violin", "candle", "hammer",
)  # fmt: skip
DAYS: Final = {
    "mon": "monday", "tue": "tuesday", "wed": "wednesday", "thu": "thursday", "fri": "friday", "sat": "saturday",
    "sun": "sunday",
}  # fmt: skip
MONTHS: Final = {
    "jan": 31, "feb": 28, "mar": 31, "apr": 30, "may": 31, "jun": 30,
    "jul": 31, "aug": 31, "sep": 30, "oct": 31, "nov": 30, "dec": 31,
}  # fmt: skip


def _draw_facts() -> tuple[dict[str, int], dict[str, str], dict[str, str]]:
    """Return the fact of each word, always the same."""
    rng = random.Random("nfilter-tiny facts 2")
    shift = (*SHIFT_KNOWN, *SHIFT_REASONED, *SHIFT_NEW)
    hue = (*HUE_KNOWN, *HUE_NEW)
    place = (*PLACE_KNOWN, *PLACE_REASONED, *PLACE_NEW)
    colors = [COLORS[i % len(COLORS)] for i in range(len(hue))]
    rng.shuffle(colors)
    return (
        dict(zip(shift, rng.sample(range(12, 99), len(shift)), strict=True)),
        dict(zip(hue, colors, strict=True)),
        dict(zip(place, rng.sample(PLACES, len(place)), strict=True)),
    )


OFFSETS, HUES, PLACE_OF = _draw_facts()
OF_KIND: Final[dict[str, dict[Kind, tuple[str, ...]]]] = {
    "shift": {"known": SHIFT_KNOWN, "reasoned": SHIFT_REASONED, "new": SHIFT_NEW},
    "hue": {"known": HUE_KNOWN, "new": HUE_NEW},
    "say": {"known": PLACE_KNOWN, "reasoned": PLACE_REASONED, "new": PLACE_NEW},
}
# Words with a token of their own: all but the new words, which are encoded in syllables.
WORDS: Final = (
    *(w for w in _ALL if w not in (*SHIFT_NEW, *HUE_NEW, *PLACE_NEW)),
    *COLORS, *PEOPLE, *THINGS, *DAYS, *DAYS.values(), *MONTHS, "low", "mid", "high", "hue", "say", "from",
)  # fmt: skip


def kind_of(family: str, word: str) -> Kind:
    """Return what pretraining shows of the word's fact."""
    return next(kind for kind, words in OF_KIND[family].items() if word in words)


def word_of(family: str, rng: random.Random, kinds: tuple[Kind, ...]) -> str:
    """Return a random word of the family with a fact of one of ``kinds``."""
    return rng.choice([w for kind in kinds for w in OF_KIND[family].get(kind, ())])


def novel_word(rng: random.Random) -> str:
    """Return a made-up word that is not part of this world."""
    while True:
        word = made_up_word(rng)
        if word not in _RESERVED and word not in _ALL:
            return word
