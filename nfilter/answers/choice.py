"""Multiple choice: the answer is the letter of an option."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from dataclasses import dataclass, field

from nfilter.answers.judged import judged_right, lists_all
from nfilter.answers.markers import DENIES, denied, revised, taken_back
from nfilter.answers.names import (
    continues,
    is_answered,
    is_species,
    names_something,
    stands_free,
)
from nfilter.answers.phrases import fails, is_supposed, judged_last, said_alone, single_letters
from nfilter.answers.reading import clean, fold, line_at, normal, trimmed
from nfilter.answers.refusals import refuses
from nfilter.answers.scripts import apart
from nfilter.api.types import Sample

_NO_WORD = r"(?![\w'’+#%°–-])"
_FILLER = (
    "therefore|thus|then|clearly|definitely|probably|likely|most|the|option|choice|letter|answer|"
    "la|el|le|die|das|opci[oó]n|opção|opzione|letra|lettre|lettera|buchstabe|вариант|буква|"
    "الخيار|विकल्प|选项|選項|选择|選擇|选|選|選択肢|보기"
)
_AT = re.compile(
    rf"[\s\"'“‘(\[{{<$]*+(?:(?i:{_FILLER})[ ,:]+){{0,4}}"
    rf"[\"'“‘(\[{{<$]*+(?P<letter>[A-Za-z]){_NO_WORD}(?P<close>[)\]}}>\"'”’.,:;!$]*)"
)
_MORE = re.compile(
    r"[)\]}\"'”’.]*\s?(?:(?P<strong>/|&|\+|\||–|->|=>|→|(?<=[)\]])\s?(?=[(\[])|(?:(?i:to|through)\s)|,?\s?(?i:or|and|y|o|et|ou|und|oder|e|и|или|和|或|と|또는|및|와|과|و|أو|और|या)(?=[\s(\[\"'A-Z]))"
    r"|(?P<comma>[,;、،]|(?=\s[A-Z][\W_]*$)))\s?(?:(?i:option|choice)\s)?[(\[\"'“‘]*(?P<letter>[A-Za-z])"
    + _NO_WORD
)
_BESIDE = 300  # characters looked at beside a letter, and letters looked at
_NOT = r"(?:is|was)(?:n['’]t|\s(?:not(?!\s(?:wrong|incorrect|false))|wrong|incorrect|false))\b"
_DENIED = re.compile(
    rf"{DENIES}|(?:\s|,?\s?which\s|[^\n.]{{0,80}}[.;]\s(?:but\s)?(?:that|this|it|which)\s){_NOT}",
    re.IGNORECASE,
)
_ENOUGH = re.compile(r"[\W_]*(?:(?:and|or)[\W_]*)?$")  # the list may be cut short
_VERDICT = re.compile(
    r"(?<![\w'’])(?P<letter>[A-Z])[)\].]?\sis\s(?:therefore\s|thus\s|clearly\s|also\s)?(?:the\s(?:only\s)?)?"
    r"(?:correct|right|best|answer|most\s(?:likely|accurate|appropriate))\b"
)
_LONE = re.compile(
    r"[\W_]*+(?:(?:option|choice|answer|letter)\s)?[\W_]*+(?P<letter>[A-Za-z])[\W_]*+",
    re.IGNORECASE,
)
_LABELLED = re.compile(
    r"[(\[]?(?P<letter>[A-Z])(?:[)\].:]+(?=\s|$)|\s(?=[-–—]\s|because\b|since\b))"
)
_BRACKETED = re.compile(r"\((?P<letter>[A-Z])\)")
_ENDS = re.compile(
    r"\s[(\[\"'“‘]?(?P<letter>[A-Z])(?:[)\]\"'”’]?,?\s(?:not|rather\sthan|instead\sof)\s[^.\n]{1,80})?[\W_]*$"
)
_ALSO = re.compile(
    r"(?<![\w'’])[A-Z][)\]]?,?\s(?:or|and|and/or|nor|/|vs\.?)\s(?:(?:option|choice|answer)\s)?[(\[\"'“‘]*\Z",
)  # the letter before is meant too
_CLOSES = re.compile(r"\((?P<letter>[A-Z])\)[\W_]{0,20}$")
_EDGE_BUT_SIGNS = "".join(set(string.punctuation) - set("+-%$")) + string.whitespace + "“”‘’…。"
_EDGE = _EDGE_BUT_SIGNS + "+-%$"


class _Unclear(Exception):  # noqa: N818  (no error: it ends the reading of one text)
    """A stated answer that names no option or more than one."""


@dataclass(slots=True)
class Choice:
    """The letter of an option, validated against the options of the sample if it has them (``meta["options"]``).

    What is stated ("Answer: B", "C is correct") counts before a letter that merely stands by itself; the last
    one counts. A letter of a name ("vitamin C", "E. coli") is no answer. The text of exactly one option stands for its letter.
    """

    kind: str = field(default="choice", init=False)

    def parse(self, text: str, sample: Sample | None = None) -> str | None:
        """Return the capital letter, or None if there is no letter, no such option, or more than one letter."""
        options = self.options(sample) if sample is not None else None
        reader = _Reader(apart(clean(text)), options)
        try:
            if whole := reader.whole():
                return whole
            if taken_back(reader.text):
                return None
            stated = reader.stated()
            return stated if stated or refuses(reader.text) else reader.standing()
        except _Unclear:
            return None

    def agree(self, pairs: Sequence[tuple[str | None, str | None]]) -> list[bool]:
        """Whether both are the same letter."""
        return [left is not None and left == right for left, right in pairs]

    def options(self, sample: Sample) -> tuple[str, ...] | None:
        """``meta["options"]`` as strings."""
        return options_of(sample)


def options_of(sample: Sample) -> tuple[str, ...] | None:
    """The options of ``sample``, or None if ``meta["options"]`` is no list of two or more plain values."""
    options = sample.meta.get("options")
    if isinstance(options, str) or not isinstance(options, Sequence) or len(options) < 2:
        return None
    if not all(isinstance(option, str | int | float) for option in options):
        return None
    return tuple(str(option) for option in options)


class _Reader:
    """A text and the options it may name."""

    def __init__(self, text: str, options: Sequence[str] | None) -> None:
        self.text = text
        self.letters = string.ascii_uppercase[: len(options)] if options else string.ascii_uppercase
        self.known = options is not None
        self.texts = [_bare(option) for option in options or ()][: len(self.letters)]
        self.spelled = [_trimmed(option) for option in options or ()][: len(self.letters)]

    def whole(self) -> str | None:
        """Read a text that consists of one letter or of the text of one option."""
        lone = _LONE.fullmatch(self.text)
        if lone:
            return self._valid(lone["letter"]) or self._by_text(self.text)
        return self._by_text(self.text)

    def stated(self) -> str | None:
        """The last stated answer, or None if the text retracts it without a replacement."""
        places = [(each.position, each) for each in revised(self.text)]
        verdicts = [
            (match.start(), None)
            for match in _VERDICT.finditer(self.text)
            if self._is_judged(self.text[max(0, match.start() - _BESIDE) : match.start()])
        ]
        since = max((position for position, _ in places), default=0)
        judged = {self.text[start] for start, _ in verdicts if start >= since} & set(self.letters)
        taken_back = False
        for position, each in sorted([*places, *verdicts], key=lambda place: -place[0]):
            found = self._stated_at(position) if each else self._valid(self.text[position])
            if found and (taken_back or (each is None and len(judged) > 1)):
                raise _Unclear
            if found:
                return found
            taken_back |= each is not None and each.form == "revision" and each.firm
        return None

    def standing(self) -> str | None:
        """An isolated letter: alone on a line, before the text of an option, in brackets, or at the end."""
        lines = [line.strip() for line in self.text.split("\n")]
        right = judged_right(lines, self.letters, self.texts)
        if right or lists_all(lines[-1], self.letters):
            return right
        alone = {
            match["letter"].upper()
            for heading, line in zip(["", *lines], lines, strict=False)
            if (match := _LONE.fullmatch(line)) and not names_something(heading)
        }
        if (phrased := self._phrase(lines)) is not None:
            alone.add(phrased)
        if alone:
            return self._valid(alone.pop()) if len(alone) == 1 else None
        by_text = {letter for line in lines if (letter := self._by_text(line))}
        if by_text and self._by_text(lines[-1]):
            return by_text.pop() if len(by_text) == 1 else None
        judged = {letter for each in judged_last(lines[-1]) if (letter := self._phrased(each))}
        if judged:
            return judged.pop() if len(judged) == 1 else None
        for pattern in (_LABELLED, _BRACKETED):
            if pattern is _LABELLED:
                found = [match for line in lines if (match := pattern.match(line))]
                found = [each for each in found if self._labels(each)]
            else:
                found = [each for each in pattern.finditer(self.text) if self._stands_free(each)]
            named = {match["letter"] for match in found if self._valid(match["letter"])}
            if len(named) == 1 and (self.known or named <= set("ABCDEFGH")):
                return None if any(map(self._taken_back, found[-_BESIDE:])) else named.pop()
        end = _ENDS.search(self.text)
        if end is None or not self._ends_answered(self.text[: end.start("letter")]):
            end = _CLOSES.search(self.text)
            end = end if end and self._stands_free(end) else None
        return self._valid(end["letter"]) if end and not self._taken_back(end) else None

    @staticmethod
    def _is_judged(before: str) -> bool:
        """Whether "is correct" behind a letter is said of an option, and meant."""
        return stands_free(before) and not is_supposed(before) and not _ALSO.search(before)

    def _stands_free(self, match: re.Match[str]) -> bool:
        """Whether a letter in brackets is more than the symbol of the word before it, which may be its option's text."""
        place = self.letters.find(match["letter"])
        own = self.texts[place] if 0 <= place < len(self.texts) else None
        start = match.start("letter")
        return stands_free(match.string[max(0, start - _BESIDE) : start], own)

    def _taken_back(self, match: re.Match[str]) -> bool:
        """Whether the letter is denied, or stands beside the text of another option."""
        start, end = match.span("letter")
        before = match.string[max(0, start - _BESIDE) : start].rpartition("\n")[2]
        behind = match.string[end : end + _BESIDE].partition("\n")[0]
        beside = self._by_text(behind) or self._by_text(before)
        return denied(before) or fails(behind) or beside not in (None, match["letter"])

    @staticmethod
    def _labels(match: re.Match[str]) -> bool:
        """Whether a letter that begins a line is the label of what follows: not "C. difficile", and not "A: B"."""
        behind = match.string[match.end("letter") :]
        return not is_species(behind) and not _LONE.fullmatch(behind)

    def _phrase(self, lines: Sequence[str]) -> str | None:
        """The letter of a last line that says nothing but an answer, or of such a first line if no other letter follows."""
        last = self._phrased(said_alone(lines[-1]))
        first = self._phrased(said_alone(lines[0])) if last is None and len(lines) > 1 else None
        return last or (first if first and single_letters("\n".join(lines)) <= {first} else None)

    def _phrased(self, letter: str | None) -> str | None:
        """The letter of a phrase, if it is an option; without known options, one of the first eight."""
        known = letter is not None and (self.known or letter in "ABCDEFGH")
        return self._valid(letter) if known and letter is not None else None

    @staticmethod
    def _ends_answered(before: str) -> bool:
        """Whether the letter that ends a text is its answer, and the only one."""
        return is_answered(before) and not _ALSO.search(before)

    def _stated_at(self, position: int) -> str | None:
        line = line_at(self.text, position)
        match = _AT.match(line)
        lone = match is not None and match.end() == len(line) and self._valid(match["letter"])
        if not lone:
            clause = re.split(r"[.;](?:\s|$)", line, maxsplit=1)[0]
            by_text = self._by_text(line) or self._by_text(clause)
            closes = _CLOSES.search(clause)
            if closes and self._by_text(clause[: closes.start()]) not in (None, closes["letter"]):
                raise _Unclear
            if by_text:
                return by_text
        if match is None:
            return None
        letter, rest = match["letter"], line[match.end() :]
        beside = self._by_text(re.split(r"[.;](?:\s|$)", rest, maxsplit=1)[0])
        if beside not in (None, letter.upper()) or self._followed(letter, position, line):
            raise _Unclear
        behind = line[match.end("letter") :]
        if _DENIED.match(behind.lstrip(")]}\"'*")):
            raise _Unclear
        if self._has_second(letter, behind) or lists_all(f"{letter}{behind}", self.letters):
            raise _Unclear
        if not self._is_letter(letter, match["close"], rest):
            return None
        if letter.upper() not in self.letters:
            raise _Unclear
        return letter.upper()

    def _followed(self, letter: str, position: int, line: str) -> bool:
        """Whether the next line is another letter: "Answer: B" and "C"."""
        _, _, after = self.text[position:].partition(line)
        other = _LONE.fullmatch(after.strip().split("\n", 1)[0])
        return other is not None and self._valid(other["letter"]) not in (None, letter.upper())

    def _has_second(self, letter: str, after: str) -> bool:
        """Whether more letters follow: "A or B", "A, B and C"; "A, B" only at the end of the line."""
        seen, strong = set(), False
        while more := _MORE.match(after):
            other = more["letter"]
            if other.islower() != letter.islower() or other.upper() not in self.letters:
                break
            after = after[more.end() :]
            if re.match(r"\s(?:is|are)\b", after):
                break
            strong |= more["strong"] is not None
            seen.add(other)
        return bool(seen - {letter}) and (strong or _ENOUGH.match(after) is not None)

    def _is_letter(self, letter: str, close: str, rest: str) -> bool:
        """Whether the letter names an option, as opposed to a word ("a cat", "I think")."""
        if rest[:1].isalnum() or rest[:1] == "/" or is_species(close + rest):
            return False  # "U.S.", "A/C", "C. difficile"
        if close and (letter != "I" or close[0] != ","):
            return True
        if not rest.strip():
            return True
        if letter.islower():
            return False
        if letter != "I" and not continues(rest):
            return True
        place = self.letters.find(letter)
        return 0 <= place < len(self.texts) and _bare(rest).startswith(self.texts[place])

    def _valid(self, letter: str) -> str | None:
        return letter.upper() if letter.upper() in self.letters else None

    def _by_text(self, text: str) -> str | None:
        """The letter of the only option with that text; case is ignored unless options differ only by case (Rr, RR)."""
        wanted = _bare(text)
        if not wanted:
            return None
        for texts, bare in ((self.spelled, _trimmed(text)), (self.texts, wanted)):
            if texts.count(bare) == 1:
                return self.letters[texts.index(bare)]
        return None


def _trimmed(text: str) -> str:
    return trimmed(apart(normal(text)), _EDGE_BUT_SIGNS)


def _bare(text: str) -> str:
    return trimmed(apart(fold(text)), _EDGE)
