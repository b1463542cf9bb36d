"""What stands around a number: whether it is a number of its own, in which unit, and times what."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from nfilter.answers.locales import UNREADABLE
from nfilter.answers.markers import DENIES
from nfilter.answers.quantity import CURRENCY, read

_BEFORE = 48  # characters looked at
_BEHIND = 160

_SCALES: Mapping[str, int] = {
    "hundred": 10**2, "thousand": 10**3, "million": 10**6, "millions": 10**6, "lakh": 10**5, "lakhs": 10**5, "crore": 10**7,
    "crores": 10**7, "millionen": 10**6, "millón": 10**6, "millones": 10**6, "milhão": 10**6, "milhões": 10**6,
    "milione": 10**6, "milioni": 10**6, "milyon": 10**6, "juta": 10**6, "triệu": 10**6, "миллион": 10**6, "миллиона": 10**6,
    "миллионов": 10**6, "тысяч": 10**3, "тысяча": 10**3, "тыс": 10**3, "млн": 10**6, "млрд": 10**9, "тысячи": 10**3, "tausend": 10**3, "ribu": 10**3, "nghìn": 10**3,
    "milliard": 10**9, "milliards": 10**9, "milliarde": 10**9, "milliarden": 10**9, "miliardi": 10**9, "milyar": 10**9,
    "миллиард": 10**9, "миллиарда": 10**9, "миллиардов": 10**9, "लाख": 10**5, "करोड़": 10**7, "हज़ार": 10**3, "हजार": 10**3,
    "مليون": 10**6, "مليار": 10**9, "ألف": 10**3, "هزار": 10**3, "میلیون": 10**6, "میلیارد": 10**9,
    "百": 10**2, "千": 10**3, "万": 10**4, "萬": 10**4, "億": 10**8, "亿": 10**8, "백": 10**2, "천": 10**3, "만": 10**4,
    "억": 10**8,
}  # fmt: skip
_RUN_ON_SCALE = re.compile(r"[百千万萬億亿백천만억](?![分])")
_ENGLISH_SCALES = {"billion": 10**9, "billions": 10**9, "trillion": 10**12, "trillions": 10**12}
# Words and letters whose factor differs by country or by what is measured, and names of what is no unit.
_UNCLEAR = frozenset(
    {
        "k", "kk", "m.", "mm.", "mn", "mio", "mio.", "mln", "mrd", "mrd.", "bn", "tn", "b", "t", "mil", "mille", "bin", "tỷ",
        "billón", "billones", "bilhão", "bilhões", "billionen", "thousandth", "thousandths", "hundredth", "hundredths", "tenth",
        "tenths", "half", "halves", "third", "thirds", "quarter", "quarters", "fourth", "fourths", "fifth", "fifths", "sixth",
        "sixths", "eighth", "eighths", "分之", "割", "兆", "조",
        "dozen", "dozens", "pi", "sqrt", "log", "ln", "sin", "cos", "tan", "exp", "mod", "choose", "plus", "minus", "over", "divided",
        "multiplied", "squared", "cubed", "root", "infinity", "factorial",
    }
)  # fmt: skip
_LETTER_UNITS = frozenset("mgshlLNJWVACFdΩµ")
_OR = (
    r"(?:up\s)?to|or|and|bis|oder|und|until|till|through|thru|in|of(?:\s(?:the|every))?|for|per|by|against|vs\.?|versus|less|"
    r"o|ou|e|y|et|en|eller|lub|albo|veya|atau|hoặc|och|og|i|a|à|tot|do|ile|dan|sampai|hingga|đến|tới|s[iș]|sau|ja|és|"
    r"или|и|до|और|या|से|तक|أو|و|إلى|یا|تا|או|עד"
)
_RUN_ON_OR = "至|到|或|和|から|または|と|부터|에서|또는|ถึง|หรือ"
_MORE_OR_LESS = (
    r"under|below|above|(?:más|menos|mais|plus|moins)\sde|(?:mehr|weniger)\sals|(?:meer|minder)\sdan|(?:più|meno)\sdi|больше|меньше|более|менее|"
    r"свыше|(?:lebih|kurang)\sdari|أكثر\sمن|أقل\sمن|超过|超過|不到|不足|少于|少於|多于|多於|大于|大於|小于|小於"
)
_FOR_EXAMPLE = (
    r"e\.g\.|for\s(?:example|instance)|such\sas|z\.\s?B\.|zum\sBeispiel|par\sexemple|por\se(?:jemplo|xemplo)|per\sesempio|например|例如|比如|例えば|たとえば|"
    r"예를\s들어|مثلاً?"
)
_UNIT = re.compile(
    rf"\s?(?P<name>%|‰|°\s?[CFK]?(?![^\W\d_])|{CURRENCY}|µ?[^\W\d_]++(?:[\u0300-\u036f\u0900-\u0d7f\u0e31-\u0e4e]|[^\W\d_])*+)"
    r"(?P<rest>(?:(?<=m)[23](?!\w))?(?:\s?\^\s?\{?\s?[-–]?\d++\s?\}?)?(?:\s?[/·]\s?[^\W\d_]++(?:\s?\^\s?\{?\s?[-–]?\d++\s?\}?)?){0,3})"
)
_MONTH = (
    "January|February|March|April|May|June|July|August|September|October|November|December|"
    r"(?:Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec)\b\.?"
)
_MONTH_BEHIND = re.compile(rf"(?:st|nd|rd|th)?\s(?:of\s)?(?:{_MONTH})(?!\w)")
_DECADE = re.compile(r"(?<!\d)(?:1\d|20)\d0s\Z")
_DENIED = re.compile(
    DENIES
    + r"|\s(?:[^\W\d_]+\s)?(?:(?:is|was|are|were)(?:n['’]t|\s(?:not|wrong|incorrect|false|impossible))|(?:degrees?\s)?below\szero)(?!\w)"
    + r"|,?\s(?:which|but\s(?:that|this|it))\s(?:is|was)(?:n['’]t|\s(?:not|wrong|incorrect|false))(?!\w)|\s(?:can['’]t|cannot)\sbe(?!\w)"
    + r"|\s?(?:未満|より|미만|초과)|\s?\(?(?:in\s)?(?:base[\s-]?\d+|binary|octal|hex(?:adecimal)?)(?!\w)",
    re.IGNORECASE,
)
_POWER_OF_UNIT = re.compile(r"\s?\^\s?\{?\s?[-–]?\d")
_JOINED = re.compile(
    rf"\s?\(\s?or\s|\s?(?:->|→|=>|⇒|\|)\s?[-–]?\d|(?:\s?[,;]\s?|\s)(?:(?:and|or|und|oder|et|ou|y|o|e|и|или|&)\s)?(?:[-–+±]\s?)?{CURRENCY}?\s?[\d{UNREADABLE}√∞]"
    r"|[\s,;]+(?:(?:and|or)\s)?[A-Za-z](?:_?\{?\d\}?)?\s?="
    r"|\.?,?\s\d+(?:\.\d+)?\s?(?:in|oz|min|sec)(?![^\W_])|\s?(?-i:[NSEW]),?\s?\d",
    re.IGNORECASE,
)
_RANGE = re.compile(
    rf"\s?(?:(?:up\s)?to|through|thru|until|till|vs\.?|versus|or|and|bis|oder|und|a|à|ou|et|o|y|(?:out\s)?of\s(?:the|every)|out\sof|\.{{2,3}}|…"
    rf"|~|～|〜|до|или|и|至|到|或|和)\s?[-–+]?{CURRENCY}?\s?[\d{UNREADABLE}]"
    r"|[\s,]*and\s(?:a|one|two|three)[\s-](?:half|third|quarter|fourth|fifth|tenth|halves|thirds|quarters)",
    re.IGNORECASE,
)
_WORKED = re.compile(
    rf"[)\]}}]*\s?(?:[\u0300-\u036f\u20d0-\u20ff\^_√π∞±<>≤≥≠{UNREADABLE}α-ωΑ-Ω]|[*×·・÷]|\\[A-Za-z]|\.\(\d|/\s?[-–]?[\d({{√]|[:∶]\s?\d|['\"′″]\s?\d|['’]s(?!\w)|!\s?[=*/+)]|%\s?[\^*×]"
    r"|\.\s?\\|\.\d|\s?x\s?\d)"
    r"|\s?\+\s?[\w$(√\\{.]|\s?[-–]\s?(?:[\d(√\\{$.]|[A-Za-z](?![A-Za-z]))|\s?[-–]\s*\Z|[({\[]\s?[-–+]?[\d√]",
)
_OPERAND = rf"[\d)\]}}%°!{UNREADABLE}]"
_TIED = re.compile(
    rf"""(?: {_OPERAND}\s?[-–—+*/×÷·・^:∶_]?\s?
    | [\w]\s?[-–+*/×÷·・^_]\s?
    | \d\s?[xX]\s?
    | (?:[√^_±<≤≥≠\\π∛⌊⌈]|(?<![=-])>)\s?[({{\[]*\s?
    | \\[A-Za-z]+\s?[({{\[]*\s?
    | (?<![A-Za-z])(?:sqrt|log|ln|sin|cos|tan|exp|mod|plus|minus|times|over|(?:divided|multiplied)\sby|half\sof|twice|double|triple|than)(?:\s?[({{\[]\s?|\s)
    | (?<![^\W\d_])instead\sof\s{CURRENCY}?
    | [A-Za-z]\(\s?
    | \d\.?\(\s?
    | (?<![A-Za-z])out\sof\s(?:the\s)?
    | (?<![A-Za-z])(?:table|figure|fig\.|step|question|item|problem|page|chapter|row|equation|eq\.|section|line|case)\s\(?
    | [-–+]\s?[({{\[]\s?
    | (?<![-|])[-–+]\|\s?
    | (?-i:{_MONTH})\s(?:\d{{1,2}}(?:st|nd|rd|th)?,?\s)?
    | (?:\A|\s),
    | \d['’′]\s?
    | [∞]\s?[,;]\s?
    | [-–]\s?(?-i:[A-Z]{{1,3}})\s?
    | [\d{UNREADABLE}]\s?(?:{_OR})\s{CURRENCY}?
    | [\d{UNREADABLE}]\s?(?:\.{{2,3}}|…|~|～|〜|{_RUN_ON_OR})\s?{CURRENCY}?
    | (?<![^\W\d_])(?:{_MORE_OR_LESS}|{_FOR_EXAMPLE})[\s,:]*{CURRENCY}?
    | [<>]=\s?
    | \d\s?[^\W\d_]+(?:\s?/\s?[^\W\d_]+)?,?\s(?:or|and|in|of|for|per|every|after|before|within|during|from)\s{CURRENCY}?
    | \d[,;]?\s(?:(?:or|and)\s)?[A-Za-z](?:_?\{{?\d\}}?)?\s?=\s?
    | [(\[{{]\s?[-–+]?[\d.{UNREADABLE}]+\s?[,;]\s?
    | \d\s?(?:hours?|hrs?|h|min(?:ute)?s?|sec(?:ond)?s?|feet|foot|ft|yards?|yd|pounds?|lbs?|years?|months?|weeks?|days?|dollars?|
        euros?|pesos?|m|km|kg|degrees?|dozens?|hundred|thousand|lakh|crore|million|billion|trillion|万|千|億|亿|시간|시|분|小时|時間|时|時|点|點|分|年|月|日)\s?,?\s?(?:and\s)?
    )\Z""",
    re.VERBOSE | re.IGNORECASE,
)
_SENTENCE = re.compile(r"[.;!?]\s")
_RESULT = re.compile(rf"[=≈]\s?(?=[-–]?{CURRENCY}?\s?[-–]?[.\d{UNREADABLE}])")
_EQUALS = re.compile(r"[=≈]\s?\Z")
_NEXT_CLAUSE = re.compile(
    r"[,;:=]\s|(?<![A-Za-z])(?:so|because|since|which|meaning|therefore|then|thus|and|but|or|means)(?![A-Za-z])",
    re.IGNORECASE,
)
_EXPONENT = re.compile(r"\s?\^\s?\{?\s?[-–\d]")
_ARTICLE = re.compile(r" an? [^\W\d_]{2}")
_LIST = re.compile(rf"[\d{UNREADABLE}]\s?[,;、،]\s?\Z")
_WORD = re.compile(r"[^\W\d_]{2}")


@dataclass(frozen=True, slots=True)
class Behind:
    """What follows a number: its ``unit``, the ``scale`` of a word like million, and where the rest begins."""

    unit: str | None
    scale: int
    end: int


def is_tied(match: re.Match[str], text: str) -> bool:
    """Whether what stands before the number makes it a part of something: an operand, a list, the base of a root."""
    before = text[max(0, match.start() - _BEFORE) : match.start()].rpartition("\n")[2]
    if match["sign"] is not None:
        spaced = bool(match["gap"])
        # "covid-19", "10 - 5", and a bullet or dash of prose: whose sign it is cannot be told.
        if re.search(r"[\w)\]}%°]\Z", before) or re.search(r"[-–+±/]\s?\Z", before):
            return True
        if spaced and not re.search(r"[=(≈]\s?\Z", before):
            return True
    if (
        match["sign"] is not None
        and before.count("|") == 1
        and re.match(r"\s?\|[^|\n]*(?:\n|\Z)", text[match.end() :])
    ):
        return before.rstrip().endswith("|")  # the absolute value, and no cell of a table
    if before.endswith("—") and not re.search(r"[^\W\d_]—\Z", before):
        return True
    if _TIED.search(before):
        return True
    return _LIST.search(before) is not None and _WORD.search(text) is None


def worked_out(match: re.Match[str], text: str) -> int | None:
    """Where the result stands that the sentence of a number has worked out before it: "4 + 5 = 9 points in 40 minutes".

    None where there is no such result, or where the number is itself one. Raises ValueError where it cannot be told which
    of the two is meant: "= 16.75 bags, so she buys 17".
    """
    start = max(0, match.start() - _BEHIND)
    line = text[start : match.start()].rpartition("\n")[2]
    sentence = _SENTENCE.split(line)[-1]
    results = list(_RESULT.finditer(sentence))
    if not results or _EQUALS.search(sentence):
        return None
    if _NEXT_CLAUSE.search(sentence, results[-1].end()):
        raise ValueError("two numbers may be meant")
    return match.start() - len(sentence) + results[-1].end()


def is_exponent(between: str) -> bool:
    """Whether what stands between a unit and the next number, its first character included, makes that the unit's power."""
    return _EXPONENT.fullmatch(between) is not None


def behind(
    match: re.Match[str], text: str, factors: Mapping[str, float], *, english: bool
) -> Behind | None:
    """What follows the number; None where that makes it a part of something else, or of a scale that is not clear."""
    end = match.start("unit") if match["unit"] else match.end()
    while end > match.start() and text[end - 1] == " ":
        end -= 1
    rest = text[end : end + _BEHIND].partition("\n")[0]
    endless = "." in (match["decimal"] or "") and re.match(r"\.{2,}|…", rest)
    found = _UNIT.match(rest)
    if endless or _goes_on(rest):
        return None
    if found is None or _ARTICLE.match(rest):
        return Behind(None, 1, end)
    unit, after = found["name"], rest[found.end() :]
    next_unit = _UNIT.match(after)
    if _MONTH_BEHIND.match(rest) or _DECADE.search(
        text[max(0, match.start() - 1) : end + found.end()]
    ):
        return None
    scale = 1 if unit in factors else _scale(unit, english=english)
    powered = scale != 1 and (
        _POWER_OF_UNIT.match(found["rest"])
        or (next_unit is not None and _scale(next_unit["name"], english=english) != 1)
    )
    if scale is None or powered or re.match(r"[\d√]", after) or _goes_on(after):
        return None
    return Behind(unit, scale, end + found.end())


def _goes_on(rest: str) -> bool:
    """Whether ``rest`` makes what is before it an operand, one of several numbers, or an end of a range."""
    return any(pattern.match(rest) for pattern in (_WORKED, _JOINED, _RANGE, _DENIED))


def sized(match: re.Match[str], found: Behind, factors: Mapping[str, float]) -> Fraction | None:
    """The value of the number with the scale and the factors of its units."""
    number = read(match)
    if number is None:
        return None
    number *= found.scale
    for mark in (match["currency"], found.unit):
        if mark is not None and mark in factors:
            number *= Fraction(str(factors[mark]))
    return number


def _scale(unit: str, *, english: bool) -> int | None:
    """What a unit multiplies by: 1 for most, None for what is no unit, or one whose factor is not clear."""
    name = unit.lower()
    if name in _ENGLISH_SCALES:
        return _ENGLISH_SCALES[name] if english else None
    if name in _UNCLEAR or unit.startswith("分之"):
        return None
    if _RUN_ON_SCALE.match(unit):
        return None if _RUN_ON_SCALE.match(unit[1:2]) else _SCALES[unit[0]]
    single = len(unit) == 1 and unit.isalpha() and (unit.isascii() or "α" <= name <= "ω")
    if single and unit not in _LETTER_UNITS:
        return None
    return _SCALES.get(name, 1)
