"""Corrupt a label: replace it by another option, a slightly different number, or the answer of another row."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Sequence
from typing import Final, Literal

from nfilter.api.errors import SourceError

LabelKind = Literal["choice", "label", "number", "exact", "text", "spans", "preference"]

_LETTERS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_NUMBER: Final = re.compile(
    r"[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])(?:\.[0-9]+)?|[0-9]+(?:\.[0-9]+)?|\.[0-9]+"
)
_LONG: Final = 300  # digits beyond which a number is only slipped, never counted with


def answer_pool(labels: Iterable[str]) -> tuple[str, ...]:
    """The distinct answers to draw wrong values from, in an order independent of the row order."""
    return tuple(sorted({label for label in labels if label.strip()}))


def wrong_value(
    label: str,
    kind: LabelKind,
    *,
    seed: int,
    key: str,
    options: Sequence[str] | None = None,
    pool: Sequence[str] = (),
) -> str:
    """Return a wrong value for ``label``, a function of the arguments alone (``key`` is the sample id).

    ``choice``: another letter, each as likely. ``number``: the last number in the label missed by a little or
    with a digit slipped, its sign, separators and decimals as they were; a label without a number takes another
    answer. ``label``, ``exact``, ``text``, ``spans``: another answer of ``pool`` (see ``answer_pool``). Raises SourceError
    where no wrong value is to be had.
    """
    rng = random.Random(f"{seed}:{key}")
    if kind == "choice":
        return _other_letter(label, options, key, rng)
    if kind == "number":
        found = list(_NUMBER.finditer(label))
        if found:
            last = found[-1]
            return label[: last.start()] + missed(last.group(), rng) + label[last.end() :]
    return _other_answer(label, pool, key, rng)


def _other_letter(label: str, options: Sequence[str] | None, key: str, rng: random.Random) -> str:
    n = 0 if options is None else min(len(options), len(_LETTERS))
    letters = [letter for letter in _LETTERS[:n] if letter != label.strip().upper()]
    if n < 2:
        raise SourceError(
            f"sample {key!r} has no options to choose a wrong one from; noise of kind choice needs"
            " multiple-choice rows: try --kind exact"
        )
    return rng.choice(letters)


def _other_answer(label: str, pool: Sequence[str], key: str, rng: random.Random) -> str:
    own = plain(label)
    start = rng.randrange(len(pool)) if pool else 0
    for step in range(len(pool)):
        other = pool[(start + step) % len(pool)]
        if plain(other) != own:
            return other
    raise SourceError(
        f"sample {key!r} cannot get a wrong answer: no other row has an answer that differs from its own"
    )


def plain(text: str) -> str:
    """Normalise to case-folded words separated by single spaces; labels with equal results count as the same."""
    return " ".join(text.casefold().split())


def missed(number: str, rng: random.Random) -> str:
    """Corrupt ``number``: add or subtract 1, 2, 3 or 10 in the last place, replace one digit, or exchange two."""
    whole, _, fraction = number.replace(",", "").partition(".")
    digits = whole + fraction
    way = rng.choice(("near", "slip", "swap"))
    if way == "near" and len(digits) <= _LONG:
        wrong = _near(digits, rng)
    elif way == "swap":
        wrong = _swapped(digits, len(whole), rng) or _slipped(digits, len(whole), rng)
    else:
        wrong = _slipped(digits, len(whole), rng)
    places = len(fraction)
    head, tail = wrong[: len(wrong) - places], wrong[len(wrong) - places :]
    if not whole.startswith("0"):
        head = head.lstrip("0") or ("0" if whole else "")
    if "," in number:
        head = _grouped(head)
    return f"{head}.{tail}" if places else head


def _near(digits: str, rng: random.Random) -> str:
    value, step = int(digits), rng.choice((1, 2, 3, 10)) * rng.choice((1, -1))
    if value + step < 0:
        step = -step
    return str(value + step).zfill(len(digits))


def _slipped(digits: str, whole: int, rng: random.Random) -> str:
    at = rng.randrange(len(digits))
    first = 1 if at == 0 and whole > 1 and digits[0] != "0" else 0  # no leading zero where none was
    other = rng.choice([str(d) for d in range(first, 10) if str(d) != digits[at]])
    return digits[:at] + other + digits[at + 1 :]


def _swapped(digits: str, whole: int, rng: random.Random) -> str | None:
    places = [
        at
        for at in range(len(digits) - 1)
        if digits[at] != digits[at + 1] and not (at == 0 and whole > 1 and digits[1] == "0")
    ]
    if not places:
        return None
    at = rng.choice(places)
    return digits[:at] + digits[at + 1] + digits[at] + digits[at + 2 :]


def _grouped(digits: str) -> str:
    first = len(digits) % 3
    groups = [digits[:first]] if first else []
    groups += [digits[at : at + 3] for at in range(first, len(digits), 3)]
    return ",".join(groups)
