"""What all kinds share: cleaning a text of its markup, and finding where it states its answer.

Model output is hostile until shown otherwise: only the end of a text is read, runs of white space are collapsed
first, and no pattern here can take more than time linear in the length of what is left.
"""

from __future__ import annotations

import re
import unicodedata

TAIL = 20_000
"""Characters of a text that are read, from its end: an answer comes last."""

_LAST = 64  # markers looked at, from the end

DASHES = str.maketrans(dict.fromkeys("‐‑‒−﹣－", "-"))
_BOXED = re.compile(r"\\(?:boxed|fbox)\s?\{((?:[^{}]|\{[^{}]*+\}){0,300}+)\}")
_TAGGED = re.compile(r"</?answer>", re.IGNORECASE)
_LATEX_TEXT = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mbox)\s?\{([^{}]*+)\}")
_EMPHASIS = re.compile(
    r"(?<!\w)(?:\*\*++|__++)|(?:\*\*++|__++)(?!\w)|(?<!\S)\*(?=\S)|(?<=\S)\*(?!\S)|`+"
)
_SPACE = re.compile(r"[^\S\n]+")
_LINES = re.compile(r" ?(?:\n ?)+")

_STATES = re.compile(
    r"""(?<!\w)
    (?: answers? | (?:correct|right|best|final)[ ](?:option|choice|letter) )
    (?: [ ](?:to|for)[ ][^.:;\n]{1,80}? )?
    (?: (?P<says> \s?(?:is|are|was|should[ ]be|would[ ]be|must[ ]be|will[ ]be)(?!\w) ) \s?:?
      | \s?(?: : | => | -> | → | = )
      | \s?[-–—](?=\s)
      | [ ]?(?=\n) )""",
    re.IGNORECASE | re.VERBOSE,
)


def fold(text: str) -> str:
    """Compatibility-normalised and case-folded, so that equal words are equal strings."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


def clean(text: str) -> str:
    """The end of ``text`` without markdown and LaTeX dressing; boxes and tags become ``Answer:`` lines."""
    text = unicodedata.normalize("NFKC", text[-TAIL:].translate(DASHES))
    text = _LATEX_TEXT.sub(r"\1", text)
    text = _BOXED.sub(r"\nAnswer: \1\n", text)
    text = _TAGGED.sub(lambda tag: "\n" if tag[0].startswith("</") else "\nAnswer: ", text)
    text = _EMPHASIS.sub("", text)
    return _LINES.sub("\n", _SPACE.sub(" ", text)).strip()


def statements(text: str) -> list[tuple[int, bool]]:
    """Where cleaned ``text`` states an answer: the position after each of the last markers, in order.

    The flag says that the marker is a heading or has a colon ("Answer:"), not a verb ("the answer is").
    """
    return [(match.end(), match["says"] is None) for match in _STATES.finditer(text)][-_LAST:]


def line_at(text: str, position: int) -> str:
    """What stands at ``position``: the rest of its line, or the next line where that is empty."""
    rest = text[position:].lstrip()
    return rest.split("\n", 1)[0].strip()
