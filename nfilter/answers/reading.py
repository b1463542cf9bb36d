"""What all kinds share: bringing a text into one form, and cleaning it of its markup.

Model output is hostile until shown otherwise: only the end of a text is read, runs of white space are collapsed
first, and no pattern here can take more than time linear in the length of what is left.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

from nfilter.answers.replies import named_answer

TAIL = 20_000
"""Characters of a text that are read, from its end: an answer comes last."""

_LAST = 64  # boxes looked at, from the end
_BOX = 1000  # characters in a box

_ONE_KIND = str.maketrans({**dict.fromkeys("‐‑‒−﹣－", "-"), **dict.fromkeys("’‘ʼ", "'")})
# Direction marks, soft hyphens and variation selectors show nothing. Joiners are part of words in some scripts.
_INVISIBLE = re.compile("[\u00ad\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufe0e\ufe0f\ufeff]+")  # fmt: skip
_SUPERSCRIPT = re.compile("[\u2070\u00b9\u00b2\u00b3\u2074-\u2079\u207a\u207b]+")
_STRUCK = re.compile(
    r"~~[^~\n]{1,200}~~|<(del|s|strike)>[^<\n]{0,200}</\1>|\\(?:[bx]?cancel|sout)\s?\{[^{}]{0,200}\}",
    re.IGNORECASE,
)
_TAGGED = re.compile(r"</?answer>", re.IGNORECASE)
_LATEX_TEXT = re.compile(
    r"\\(?:text(?:bf|it|rm|sf|tt)?|math(?:rm|bf|it|sf|tt)|mbox|operatorname|boldsymbol|bm|emph|underline)\s?"
    r"\{([^{}]*+)\}"
)
_LATEX_MATH = re.compile(r"\\[()\[\]]|\\displaystyle(?![A-Za-z])")
_BOXED = re.compile(r"\\(?:boxed|fbox)\s?\{")
_SIGN = re.compile(r"[-.<>]+$")
_BETWEEN = re.compile(r"(?:[\s,;.$&]|and|or)*+", re.IGNORECASE)
_EMPHASIS = re.compile(
    r"(?<!\w)(?:\*\*++|__++)|(?:\*\*++|__++)(?!\w)|(?<!\S)\*(?=\S)|(?<=\S)\*(?!\S)|`+"
)
_SPACE = re.compile(r"[^\S\n]+")
_LINES = re.compile(r" ?(?:\n ?)+")


def normal(text: str) -> str:
    """Compatibility-normalised, with ``^2`` for a superscript, one kind of hyphen and apostrophe, and nothing that is invisible."""
    text = _SUPERSCRIPT.sub(lambda run: f"^{unicodedata.normalize('NFKC', run[0])}", text)
    return _INVISIBLE.sub("", unicodedata.normalize("NFKC", text)).translate(_ONE_KIND)


def unstruck(text: str) -> str:
    """``text`` without what is struck out, in markdown, HTML or LaTeX."""
    return _STRUCK.sub(" ", text)


def fold(text: str) -> str:
    """Normal and case-folded, so that equal words are equal strings."""
    return unicodedata.normalize("NFKC", normal(text).casefold())


def clean(text: str, box: Callable[[str | None], str] | None = None, *, words: bool = False) -> str:
    """The end of ``text`` without JSON, markdown and LaTeX dressing; boxes and tags become ``Answer:`` lines.

    ``box`` writes what stands in a box, None for a box that never ends; by default an ``Answer:`` line. ``words``: an answer in words
    may be JSON itself, so that only an object that holds nothing but an answer and its reasons is one.
    """
    text = normal(named_answer(unstruck(text[-TAIL:]), alone=words))
    text = _LATEX_MATH.sub("", _LATEX_TEXT.sub(r"\1", text))
    text = _unboxed(text, box or _answer_line)
    text = _TAGGED.sub(lambda tag: "\n" if tag[0].startswith("</") else "\nAnswer: ", text)
    text = _EMPHASIS.sub("", text)
    return _LINES.sub("\n", _SPACE.sub(" ", text)).strip()


def trimmed(text: str, edge: str) -> str:
    """The words of ``text`` without ``edge`` around them, but for the sign or point of a number: -12 is not 12."""
    words = " ".join(text.split())
    bare = words.strip(edge)
    lead = words[: len(words) - len(words.lstrip(edge))]
    sign = _SIGN.search(lead) if bare[:1].isdigit() else None
    return f"{sign[0]}{bare}" if sign else bare


def line_at(text: str, position: int) -> str:
    """What stands at ``position``: the rest of its line, or the next line where that is empty."""
    rest = text[position:].lstrip()
    return rest.split("\n", 1)[0].strip()


def _answer_line(inner: str | None) -> str:
    return "\\boxed{" if inner is None else f"\nAnswer: {inner}\n"


def _unboxed(text: str, box: Callable[[str | None], str]) -> str:
    """``text`` with ``box`` of what stands in each box; boxes in a row are one, unless they say the same."""
    parts: list[str] = []
    done, last = 0, ""
    for opening in list(_BOXED.finditer(text))[-_LAST:]:
        if opening.start() < done:
            continue  # a box in a box
        end = _closing(text, opening.end())
        inner = None if end is None else text[opening.end() : end]
        between = text[done : opening.start()]
        if parts and last and inner is not None and _BETWEEN.fullmatch(between):
            parts.pop()
            inner, between = last if inner == last else f"{last}, {inner}", ""
        parts += [between, box(inner)]
        done = opening.end() if end is None else end + 1
        last = inner or ""
    return "".join(parts) + text[done:]


def _closing(text: str, start: int) -> int | None:
    """Where the brace ends that was opened before ``start``; None where it does not."""
    depth, escaped = 1, False
    for place in range(start, min(len(text), start + _BOX)):
        char = text[place]
        if escaped:
            escaped = False
        elif char == "\\":
            escaped = True
        elif char in "{}":
            depth += 1 if char == "{" else -1
            if depth == 0:
                return place
    return None
