"""Rules on a response's outer form: empty, length, characters, script."""

from __future__ import annotations

import re

from pydantic import Field

from nfilter import StageConfig
from nfilter_entp.asks import for_code, for_prose, for_signs
from nfilter_entp.rules_end import code_marks
from nfilter_entp.texts import Text, scripts_of

_BRACKETS = re.compile(r"[()\[\]{}<>/\\&|^$+=]")
_MORSE = re.compile(r"[.·•\-–—−_/|\s]+")


class Empty(StageConfig):
    """The response has no letter, digit or symbol, or is a code block with nothing in it.

    Morse code, a piece of code such as ``[]``, and signs that the query asks for are answers. No settings.
    """


def empty(text: Text, rule: Empty) -> str | None:  # noqa: ARG001
    """Nothing, white space, or punctuation alone."""
    whole = text.response.strip()
    if not whole:
        return "the response is empty"
    if _BLOCK.fullmatch(whole):
        return f"the response is a code block with nothing in it: {whole[:20]!r}"
    seen = text.characters
    if seen.content + seen.replacements == 0 or (
        seen.letters + seen.digits == 0 and seen.symbols < 1
    ):
        if _signs_answer(whole) or for_signs(text.asked):
            return None
        return f"the response has no letter, digit or symbol: {whole[:20]!r}"
    return None


_BLOCK = re.compile(r"(?:```|~~~)[\w+-]{0,20}\s*(?:```|~~~)?")


def _signs_answer(whole: str) -> bool:
    """A piece of code of some signs, or Morse code: groups of dots and dashes."""
    if len(whole) <= 4 and _BRACKETS.search(whole):
        return True
    dots, dashes = set(".·•") & set(whole), set("-–—−_") & set(whole)
    return bool(dots and dashes and len(whole) > 3 and _MORSE.fullmatch(whole))


class Length(StageConfig):
    """Words of the response: under ``least`` or over ``most``.

    ``least_asked`` holds where the query asks for prose in so many words (explain, describe, write a story, ...).
    """

    least: int = Field(default=1, ge=0)
    least_asked: int = Field(default=3, ge=0)
    most: int = Field(default=4000, ge=1)


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
    if found := for_prose(text.query):
        return f"{count} words, fewer than {rule.least_asked}, where {found[:40]!r} is asked"
    return None


class CharactersRule(StageConfig):
    """What the visible characters are, in texts of ``least`` and more.

    ``content``: the smallest share of letters, marks, digits and symbols. ``broken``: the largest share of replacement
    characters (U+FFFD), control characters, and UTF-8 that was read as another code (``Ã©``). ``mashed``: the
    largest share of Latin words that nobody can say (six consonants in a row, or none of a dozen letters a vowel). Two escapes
    of a program (``\\n``, ``\\u2019``) in a text that is none are too many. What the query asks of signs, ciphers or code is
    left alone.
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
_ESCAPES = re.compile(r"\\(?:u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}|r\\n|[nt](?![a-z])|\")")
# Formulas.
_COMMAND = re.compile(r"\$|\\[\[(\\]|\\(?![nt][A-Z])[a-zA-Z]{3}")
_LATIN = re.compile(r"[a-z\u00df-\u024f]+")


def characters(text: Text, rule: CharactersRule) -> str | None:
    """Too much of what is no text in any script."""
    if not text.characters.visible:
        return None
    if found := _broken(text, rule):
        return found
    # Programs, patterns, drawings and ciphers are made of signs, and of letters that nobody can say.
    if text.fenced or code_marks(text.response) > 1 or for_signs(text.asked):
        return None
    return _escaped(text) or _of_signs(text, rule) or _mashed(text, rule)


def _broken(text: Text, rule: CharactersRule) -> str | None:
    seen = text.characters
    visible = seen.visible
    broken = seen.replacements + seen.controls
    if broken and broken / visible > rule.broken:
        return f"{broken} of {visible} characters are replacement or control characters, more than {rule.broken:g}"
    misread = len(_MISREAD.findall(text.response))
    if misread > 1 and misread / visible > rule.broken / 2:
        return f"{misread} characters of UTF-8 read as another code, in {visible}"
    return None


def _of_signs(text: Text, rule: CharactersRule) -> str | None:
    seen = text.characters
    share = seen.content / seen.visible
    if seen.visible < rule.least or share >= rule.content or _signs_answer(text.response.strip()):
        return None
    return f"{share:.2f} of {seen.visible} characters are letters, digits or symbols, less than {rule.content:g}"


def _escaped(text: Text) -> str | None:
    """What a program writes for a line feed or a quote, in a text that is none."""
    if "\\" not in text.response or for_code(text.asked) or _COMMAND.search(text.response):
        return None
    found = _ESCAPES.findall(text.response)
    return (
        f"{len(found)} escapes such as {found[0]!r} stand in the text" if len(found) > 1 else None
    )


def _mashed(text: Text, rule: CharactersRule) -> str | None:
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
