"""Rules on a response's outer form: empty, length, characters, script."""

from __future__ import annotations

import re

from pydantic import Field

from nfilter import StageConfig
from nfilter_entp.rules_end import code_marks
from nfilter_entp.texts import Text, scripts_of

_BRACKETS = re.compile(r"[()\[\]{}<>/\\&|^$+=]")


class Empty(StageConfig):
    """The response has no letter, digit or symbol, and is not a piece of code such as ``[]``. No settings."""


def empty(text: Text, rule: Empty) -> str | None:  # noqa: ARG001
    """Nothing, white space, or punctuation alone."""
    if not text.response.strip():
        return "the response is empty"
    seen = text.characters
    if seen.content + seen.replacements == 0 or (
        seen.letters + seen.digits == 0 and seen.symbols < 1
    ):
        shown = text.response.strip()[:20]
        if _BRACKETS.search(shown) and len(shown) <= 4:
            return None
        return f"the response has no letter, digit or symbol: {shown!r}"
    return None


class Length(StageConfig):
    """Words of the response: under ``least`` or over ``most``.

    ``least_asked`` holds where the query asks for prose in so many words (explain, describe, write a story, ...).
    """

    least: int = Field(default=1, ge=0)
    least_asked: int = Field(default=3, ge=0)
    most: int = Field(default=4000, ge=1)


_PROSE = re.compile(
    r"(?:^|[.!?:\n]\s*|\bplease )(?:explain|describe|elaborate|summari[sz]e|brainstorm|discuss"
    r"|(?:write|compose|draft|create|generate|tell me|give me)\b.{0,60}?\b"
    r"(?:essay|story|stories|poem|paragraphs?|article|blog post|letter|email|speech|summary|scene|review|guide|tutorial|explanation))\b"
)
_BRIEF = re.compile(
    r"\b(?:one|single|two|1|2|few|short(?:est)?|brief(?:ly)?|only)[ -](?:\w+ )?(?:words?|letters?|phrase)"
    r"|\bbriefly\b|\byes or no\b|\bemojis?\b"
)


def length(text: Text, rule: Length) -> str | None:
    """Too short or too long, in words."""
    count = len(text.words)
    if count > rule.most:
        return f"{count} words, more than {rule.most}"
    # A formula or an emoji has no words and is an answer.
    if text.characters.content == 0:
        return None
    if count < rule.least and text.characters.symbols == 0:
        return f"{count} words, fewer than {rule.least}"
    if (
        count >= rule.least_asked
        or text.characters.symbols > text.characters.letters
        or text.fenced
    ):
        return None
    # Its first and last part say what is asked; what lies between is given.
    asked = text.query.casefold()
    asked = asked if len(asked) <= 600 else f"{asked[:300]}\n{asked[-300:]}"
    found = _PROSE.search(asked)
    if found and not _BRIEF.search(asked):
        return f"{count} words, fewer than {rule.least_asked}, where {found[0].strip('.!?: ')[:40]!r} is asked"
    return None


class CharactersRule(StageConfig):
    """What the visible characters are, in texts of ``least`` and more.

    ``content``: the smallest share of letters, marks, digits and symbols. ``broken``: the largest share of replacement
    characters (U+FFFD), control characters, and UTF-8 that was read as another code (``Ã©``). ``mashed``: the
    largest share of Latin words that nobody can say (six consonants in a row, or none of a dozen letters a vowel).
    """

    least: int = Field(default=12, ge=1)
    content: float = Field(default=0.3, ge=0, le=1)
    broken: float = Field(default=0.01, ge=0, le=1)
    mashed: float = Field(default=0.3, ge=0, le=1)


_MISREAD = re.compile(
    "[\u00c2\u00c3][\u0080-\u00bf\u20ac\u201a\u0192\u201e\u2026\u2020\u2021\u02c6\u2030\u0160\u2039\u0152\u017d]"
    "|\u00e2(?:\u20ac|\u0080).|\u00f0\u0178.."
)
_MASHED = re.compile(r"[^\W\d_aeiouyáàâäãåæéèêëíìîïóòôöõøúùûüýœ]{6}")
_LATIN = re.compile(r"[a-z\u00df-\u024f]+")


def characters(text: Text, rule: CharactersRule) -> str | None:  # noqa: PLR0911
    """Too much of what is no text in any script."""
    seen = text.characters
    visible = seen.visible
    if not visible:
        return None
    broken = seen.replacements + seen.controls
    if broken and broken / visible > rule.broken:
        return f"{broken} of {visible} characters are replacement or control characters, more than {rule.broken:g}"
    misread = len(_MISREAD.findall(text.response))
    if misread > 1 and misread / visible > rule.broken / 2:
        return f"{misread} characters of UTF-8 read as another code, in {visible}"
    if visible >= rule.least and not text.fenced:
        share = seen.content / visible
        if share < rule.content:
            return f"{share:.2f} of {visible} characters are letters, digits or symbols, less than {rule.content:g}"
    if text.fenced:
        return None
    if len(_MASHED.findall(text.plain)) < 3:
        return None
    words = [word for word in text.words if len(word) >= 4 and _LATIN.fullmatch(word)]
    mashed = [word for word in words if _MASHED.search(word)]
    if len(mashed) >= 3 and len(mashed) / len(words) > rule.mashed:
        share = len(mashed) / len(words)
        return f"{share:.2f} of {len(words)} words are no words ({mashed[0][:20]!r}), more than {rule.mashed:g}"
    return None


class Script(StageConfig):
    """The response is in a script that the prompt hardly has, and nothing asks for it.

    It fires where ``most`` of at least ``letters`` letters are of one script, of which the prompt's letters have less
    than ``hardly``. A query that names a language or speaks of translating is left alone.
    """

    letters: int = Field(default=20, ge=1)
    most: float = Field(default=0.8, gt=0, le=1)
    hardly: float = Field(default=0.02, ge=0, le=1)


_LANGUAGES = re.compile(
    r"translat|translit|romani[sz]|alphabet|language|pinyin|romaji|kanji|hangul|script\b|tradu|перев[её]д|перевод|язык|翻译|翻譯|翻訳|译|訳|번역"
    r"|अनुवाद|ترجم|תרגם|แปล|μετάφρασ|英文|英语|英語|中文|汉语|漢語|日文|日语|日本語|韩语|영어|한국어|английск|русск"
    r"|\b(?:english|chinese|mandarin|cantonese|japanese|korean|arabic|hebrew|hindi|urdu|bengali|bangla|punjabi|gujarati"
    r"|tamil|telugu|kannada|malayalam|marathi|nepali|thai|lao|khmer|burmese|russian|ukrainian|bulgarian|serbian|greek"
    r"|armenian|georgian|amharic|persian|farsi|pashto|mongolian|tibetan|kazakh|sinhala|sinhalese|yiddish|sanskrit|cyrillic|latin)\b"
)


def script(text: Text, rule: Script) -> str | None:
    """A response that leaves the prompt's script."""
    if text.response.isascii() and text.turns.isascii():
        return None
    answer, asked = scripts_of(text.response), scripts_of(text.turns)
    total, total_asked = sum(answer.values()), sum(asked.values())
    if total < rule.letters or total_asked < rule.letters // 2 or text.fenced:
        return None
    name = max(answer, key=lambda key: answer[key])
    share, there = answer[name] / total, asked.get(name, 0) / total_asked
    if name == "other" or share < rule.most or there > rule.hardly:
        return None
    main = max(asked, key=lambda key: asked[key])
    if main == "other" or _LANGUAGES.search(text.turns.casefold()):
        return None
    # English names, formulas and code answer questions in any script; a text in sentences is another thing.
    if name == "Latin" and (len(text.words) < 12 or code_marks(text.response) > 1):
        return None
    return f"{share:.2f} of the response's letters are {name}, {there:.2f} of the prompt's; that is {main}"
