"""Numbers: the answer is a quantity, whatever it is dressed in. It is read right, or it is unreadable."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from nfilter.answers.choice import options_of
from nfilter.answers.latex import plain_math
from nfilter.answers.locales import UNREADABLE, has_comma, one_form
from nfilter.answers.markers import Statement, denied, revised, taken_back
from nfilter.answers.quantity import NUMBER, canonical, value
from nfilter.answers.reading import TAIL, clean, line_at, unstruck
from nfilter.answers.refusals import refuses
from nfilter.answers.replies import is_unnamed
from nfilter.answers.scripts import apart, western_digits
from nfilter.answers.surroundings import behind, is_exponent, is_tied, sized, worked_out
from nfilter.api.types import Sample

_BOX = "\ue000"  # before what stood in a box
_WHOLE = 200  # characters of a text that may be one number with its unit
# "#### 3. Compute the total" is a heading.
_HASHES = re.compile(r"^\s{0,3}####\s{0,3}(?=\S)(?!\d{1,2}\.\s[^\W\d_])", re.MULTILINE)
_SUBSCRIPT = re.compile("(?<=[0-9])[\u2080-\u2089]+")  # the base of 101₂
_VULGAR = re.compile(r"(\d?)\s?([\u00bc-\u00be\u2150-\u215e])(?P<more>\s?\d)?")
_GROUPED = re.compile(r"(?<![\d.,])[1-9]\d{0,2}(?:[\u00a0\u2007\u2009\u202f]\d{3})+(?!\d)")
_SPACED = re.compile(
    r"(?P<head>[\s\"'(\[{$€£¥+-]*)(?P<number>[1-9]\d{0,2}(?: \d{3})+)(?!\d)(?!\s?/)(?! \d)"
)
_MINUS = re.compile(
    r"(?:(?<![^\W\d_])(?<!\bo )(?<!\bao )(?<!\blo )(?<!\bpelo )(?<!\bal )(?<!\bau )(?<!\bdu )(?<!\bou )(?<!\bà )(?<!\bni )(?:minus|negative|negativ|moins|menos|meno|минус|سالب|ناقص|منفی|ऋण|माइनस|eksi|âm)[\s-]|(?:マイナス|마이너스|음수|负|負)\s?)"
    r"(?=[$€£¥]?\s?\.?\d)",
    re.IGNORECASE,
)
_PRIVATE = re.compile("[\ue000-\ue0ff]")
_CALCULATED = re.compile(r"<<[^<>\n]{0,120}>>")  # what GSM8K writes beside its results
_FILLED = re.compile(
    r"[\s:(\[{\"'“]*(?:(?:a|the|total|of|about|around|approximately|roughly|exactly|simply|just|only|then|thus|therefore|clearly|"
    r"equal|equals|to)[\s,:]+|\$?\\?[A-Za-z]{1,8}(?:_\{?\w{1,3}\}?)?\s?=[\s,:]*|(?:[≈~→⇒∴]|[=-]>)\s?){0,5}[\s(\[{\"'“=]*",
    re.IGNORECASE,
)
_NAMED = re.compile(r"[^\d=,<>≤≥]{0,40}=\s?")
_ONLY_WORDS = re.compile(
    r"(?:[\s,-]{0,2}(?!(?:or|and|ou|oder|y|et|und)\s)[^\W\d_]{2,}+\.?){0,6}[\s.!,;:)\]}\"'”’$。।]*\Z"
)
_CLAUSE = re.compile(r"[.;!?。](?:\s|\Z)|\n")
_WORDED = re.compile(
    r"(?:zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen|fifteen|sixteen|seventeen|eighteen|"
    r"nineteen|twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety|hundred|half|a\sdozen|a\shundred|no|none|nothing|neither|nobody|"
    r"infinity|infinite(?:ly)?|undefined)(?!\w)",
    re.IGNORECASE,
)
_COMMENT = re.compile(
    r"(?:correct|right|clear|above|verified|complete|given|found|obtained)(?!\w)", re.IGNORECASE
)
_PAIR = re.compile(r"(?<=[(\[{])[-–]?\d{1,3},[-–]?\d{3}(?=[)\]}])")
_STARS = re.compile(r"^([^*\n]*\d\)?)\s?\*\*\s?(?=[-–({]?\d)(?=[^*\n]*$)", re.MULTILINE)
_ASSIGNED = re.compile(r"[,;]\s?[A-Za-z]\w{0,4}\s?\Z")
_ASIDE = re.compile(r"\d[^.;!?()\n]{0,40}\([^()\n]*\Z")
_ITEM = re.compile(r"\d\)\s?\S")
_BULLET = re.compile(r"[-–]\s")
_WORD = re.compile(r"[^\W\d_]{2}")
_PROSE = re.compile(r"(?:[^\W\d_]{2,}+[ ,]+){3,}[^\W\d_]{2,}")


@dataclass(slots=True)
class Number:
    """The last number that is stated ("#### 72", a box, "answer: 72"), or else the last one.

    ``tolerance`` is a share of the larger magnitude, ``absolute`` a distance; either is enough. ``units`` are
    pairs of a unit and its factor; a unit that is not among them is ignored, a percent sign too. ``locale`` says whether
    a comma begins the decimals. What could be more than one number, or a part of something, is not read.
    """

    tolerance: float = 1e-6
    absolute: float = 0.0
    units: tuple[tuple[str, float], ...] = ()
    locale: str | None = None

    kind: str = field(default="number", init=False)

    def parse(self, text: str, sample: Sample | None = None) -> str | None:
        """The number in canonical form ("72", "-0.5", "1/3", "6e23"; "0,5" where the locale has it so), or None."""
        if is_unnamed(text):
            return None
        comma = has_comma(self.locale)
        found = _Text(_prepared(text, comma=comma), dict(self.units), english=not comma).number()
        return None if found is None else canonical(found, comma=comma)

    def agree(self, pairs: Sequence[tuple[str | None, str | None]]) -> list[bool]:
        """Whether the two are within the tolerance of one another."""
        return [self._same(left, right) for left, right in pairs]

    def options(self, sample: Sample) -> tuple[str, ...] | None:
        """``meta["options"]`` as strings."""
        return options_of(sample)

    def _same(self, left: str | None, right: str | None) -> bool:
        if left is None or right is None:
            return False
        comma = has_comma(self.locale)
        one, other = value(left, comma=comma), value(right, comma=comma)
        if one is None or other is None:
            return False
        allowed = max(Fraction(self.absolute), Fraction(self.tolerance) * max(abs(one), abs(other)))
        return abs(one - other) <= allowed


class _Nothing(Exception):  # noqa: N818  (no error: it ends the reading of one place)
    """No number stands here: another place may have one."""


class _Text:
    """One prepared text, and the factors of units."""

    def __init__(self, text: str, factors: Mapping[str, float], *, english: bool) -> None:
        self.text = text
        self.factors = factors
        self.english = english

    def number(self) -> Fraction | None:
        """The number that the text answers with; None where there is none, or none that is clear."""
        if taken_back(self.text):
            return None
        if len(self.text) <= _WHOLE and "\n" not in self.text:
            whole = None if _BULLET.match(self.text) else self._whole(self.text)
            if whole is not None:
                return whole
        for each in reversed(revised(self.text)):
            try:
                return self._stated(each)
            except _Nothing:
                continue
        return None if refuses(self.text) else self._last(self.text)

    def _stated(self, each: Statement) -> Fraction | None:
        line = line_at(self.text, each.position)
        if line.startswith(_BOX):
            return self._whole(line[1:])
        line = _ungrouped(line)
        match = self._begins(line)
        if each.form == "revision":
            return self._revision(line, each)
        if match is not None:
            unclear = self._is_bullet(match, each) or _ITEM.match(line, match.end() - 1)
            return None if unclear else self._number_at_start(line, match)
        filled = _FILLED.match(line)
        if _WORDED.match(line, filled.end() if filled else 0):
            return None
        if each.form == "heading":
            return self._under_heading(each, line)
        return self._after_verb(each, line)

    def _after_verb(self, each: Statement, line: str) -> Fraction | None:
        """The number in a statement that begins with something else; none before it where none follows."""
        clause = _CLAUSE.split(line, maxsplit=1)[0]
        if not line[:1].isalpha() and NUMBER.search(clause):
            return self._last(clause)
        if NUMBER.search(self.text, each.position) or _COMMENT.match(line):
            raise _Nothing
        return None

    def _is_bullet(self, match: re.Match[str], each: Statement) -> bool:
        """Whether a dash may be a sign or the mark of a list: "Answer:" and "- 5" in the next line."""
        rest = self.text[each.position :]
        own_line = "\n" in rest[: len(rest) - len(rest.lstrip())] or each.position == 0
        return own_line and bool(match["sign"] and match["gap"])

    def _under_heading(self, each: Statement, line: str) -> Fraction | None:
        """What the line ends with, or the text behind the heading, where there is no choice; never what is before."""
        behind_it = self._last(self.text[each.position :])
        in_line = self._last(line) if NUMBER.search(line) else behind_it
        return in_line if in_line == behind_it else None

    def _revision(self, line: str, each: Statement) -> Fraction | None:
        """What is put in the place of an answer ends its clause: "wait, it is 6."."""
        number = self._whole(_CLAUSE.split(line, maxsplit=1)[0])
        if number is None and each.firm:
            return self._last(self.text[each.position :])
        if number is None:
            raise _Nothing
        return number

    def _begins(self, line: str) -> re.Match[str] | None:
        """The number at the beginning of a line, but for a few words that say nothing."""
        filled = _FILLED.match(line)
        return NUMBER.match(line, filled.end() if filled else 0) or NUMBER.match(line)

    def _number_at_start(self, line: str, match: re.Match[str]) -> Fraction | None:
        """Return the number that a line begins with, or the result of the calculation that it begins with ("60 + 12 = 72 apples")."""
        found = behind(match, line, self.factors, english=self.english)
        clause = _CLAUSE.split(line[match.start() :], maxsplit=1)[0]
        head, equals, result = clause.rpartition("=")
        if found is not None:
            number = sized(match, found, self.factors)
            if not re.match(r"\s?[=≈]", line[found.end :]):
                return number
            return number if number == self._result(result) else None
        if not equals or _PROSE.search(head) or _ASSIGNED.search(head):
            return None
        return self._result(result)

    def _result(self, text: str) -> Fraction | None:
        text = _ungrouped(text)
        match = self._begins(text)
        found = behind(match, text, self.factors, english=self.english) if match else None
        return sized(match, found, self.factors) if match and found else None

    def _whole(self, text: str) -> Fraction | None:
        """The value of a text that is one number with its unit, and perhaps a name for it: "x = 5 cm"."""
        text = _ungrouped(text.strip())
        named = _NAMED.match(text)
        match = NUMBER.match(text, named.end() if named else 0) or self._begins(text)
        if match is None:
            return None
        found = behind(match, text, self.factors, english=self.english)
        if (
            found is None
            or not _ONLY_WORDS.match(text[found.end :])
            or text[found.end :].startswith("!")
        ):
            return None
        return sized(match, found, self.factors)

    def _last(self, text: str) -> Fraction | None:
        """The last number of prose, where it stands by itself."""
        match = None
        for each in NUMBER.finditer(text):
            if match is None or not (
                match["unit"] and is_exponent(text[match.end() : each.start() + 1])
            ):
                match = each
        if match is None:
            return None
        try:
            result = worked_out(match, text)
        except ValueError:
            return None
        match = match if result is None else NUMBER.match(text, result)
        if match is None or (result is None and is_tied(match, text)):
            return None
        if denied(text[: match.start()]) or _ASIDE.search(text[: match.start()][-_WHOLE:]):
            return None
        found = behind(match, text, self.factors, english=self.english)
        if found is None or (text[found.end :].startswith("!") and not _WORD.search(text)):
            return None
        return sized(match, found, self.factors)


def _prepared(text: str, *, comma: bool) -> str:
    text = _PRIVATE.sub(" ", western_digits(unstruck(text[-TAIL:])))
    text = _SUBSCRIPT.sub(UNREADABLE, text)
    text = _STARS.sub(r"\1^", text)
    text = plain_math(text)
    text = _GROUPED.sub(lambda group: re.sub(r"\D", "", group[0]), text)
    text = _VULGAR.sub(_spelled, text)
    text = _HASHES.sub("Answer: ", text)
    text = _PAIR.sub(UNREADABLE, clean(text, _boxed))
    text = one_form(apart(text), comma=comma)
    return _MINUS.sub("-", _CALCULATED.sub("", text))


def _boxed(inner: str | None) -> str:
    return f"\nAnswer: {_BOX}{'' if inner is None else ' '.join(inner.split())}\n"


def _spelled(match: re.Match[str]) -> str:
    if match["more"]:
        return UNREADABLE
    fraction = unicodedata.normalize("NFKC", match[2]).replace("\u2044", "/")
    return f"{match[1]} {fraction}" if match[1] else fraction


def _ungrouped(text: str) -> str:
    """``text`` without the blanks between the thousands of the number that it begins with."""
    filled = _FILLED.match(text)
    start = filled.end() if filled else 0
    match = _SPACED.match(text, start)
    if match is None:
        return text
    return f"{text[:start]}{match['head']}{match['number'].replace(' ', '')}{text[match.end() :]}"
