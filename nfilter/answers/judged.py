"""Read texts that discuss every option: one marked right among wrong ones, or only a list of options."""

from __future__ import annotations

import re
from collections.abc import Sequence

from nfilter.answers.reading import fold

_LINE = re.compile(
    r"[\W_]{0,4}(?:(?i:option|choice)\s)?[(\[]?(?P<letter>[A-Z])[)\].:]+\s*(?P<rest>.*)"
)
_WORD = r"(?:correct|right|true|yes|accurate|✓|✔|✅|☑)"
_WRONG_WORD = r"(?:incorrect|wrong|false|no|inaccurate|not\s(?:correct|right|true)|✗|✘|❌)"
_RIGHT = re.compile(
    rf"[\W_]{{0,3}}{_WORD}(?!\w)|.*(?:[:–—(=-]|->|→|\b(?:is|are)|\bthis\sis)\s?(?:the\s)?{_WORD}(?:\s(?:answer|option|choice))?[\W_]*$"
    r"|.*[✓✔✅☑]",
    re.IGNORECASE,
)
_WRONG = re.compile(
    rf"[\W_]{{0,3}}{_WRONG_WORD}(?!\w)|.*(?:[:–—(=-]|->|→|\b(?:is|are)|\bthis\sis)\s?{_WRONG_WORD}[\W_]*$|.*[✗✘❌]",
    re.IGNORECASE,
)
_LABEL = re.compile(r"(?:^|(?<=[\s(\[,;/|]))[(\[]?(?P<letter>[A-Z])[)\].:]")


def judged_right(lines: Sequence[str], letters: str, texts: Sequence[str]) -> str | None:
    """The letter of the only line marked as right, if the lines of other options are marked as wrong.

    ``texts`` are the options, folded: what repeats an option's text judges nothing.
    """
    right, wrong = set(), set()
    for line in lines:
        match = _LINE.match(line[:500])
        if match is None or match["letter"] not in letters:
            continue
        letter, said = match["letter"], match["rest"]
        place = letters.index(letter)
        own = texts[place] if place < len(texts) else None
        if own is not None and " ".join(fold(said).split()).strip(" .") == own:
            continue
        if _WRONG.match(said):
            wrong.add(letter)
        elif _RIGHT.match(said):
            right.add(letter)
    return right.pop() if len(right) == 1 and wrong and not right & wrong else None


def lists_all(line: str, letters: str) -> bool:
    """Whether ``line`` contains the labels of all of three or more options: "A) red B) green C) blue"."""
    labels = {match["letter"] for match in _LABEL.finditer(line)}
    return 3 <= len(letters) < 26 and labels >= set(letters)
