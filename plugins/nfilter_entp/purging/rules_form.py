"""Rules on a response's form: empty, length, characters, script."""

from __future__ import annotations

import re

from pydantic import Field

from nfilter import Proportion, Share, StageConfig
from nfilter_entp.purging.query_kinds import requests_code, requests_prose, requests_symbols
from nfilter_entp.purging.rules_truncated import code_marks
from nfilter_entp.purging.texts import Text, scripts_of

_BRACKETS = re.compile(r"[()\[\]{}<>/\\&|^$+=]")
_MORSE = re.compile(r"[.·•\-–—−_/|\s]+")


class Empty(StageConfig):
    """The response has no letter, digit or symbol, or is an empty code block.

    Morse code, code such as ``[]``, and symbols that the query asks for are answers. No settings.
    """


def empty(text: Text, rule: Empty) -> str | None:  # noqa: ARG001
    """Return the reason if the response is blank or punctuation only."""
    whole = text.response.strip()
    if not whole:
        return "the response is empty"
    if _EMPTY_BLOCK.fullmatch(whole):
        return f"the response is an empty code block: {whole[:20]!r}"
    counts = text.characters
    if counts.content + counts.replacements == 0 or (
        counts.letters + counts.digits == 0 and counts.symbols < 1
    ):
        if _symbols_are_answer(whole) or requests_symbols(text.plain_query):
            return None
        return f"the response has no letter, digit or symbol: {whole[:20]!r}"
    return None


_EMPTY_BLOCK = re.compile(r"(?:```|~~~)[\w+-]{0,20}\s*(?:```|~~~)?")


def _symbols_are_answer(whole: str) -> bool:
    """Return whether the text is a short piece of code, or Morse code: groups of dots and dashes."""
    if len(whole) <= 4 and _BRACKETS.search(whole):
        return True
    dots, dashes = set(".·•") & set(whole), set("-–—−_") & set(whole)
    return bool(dots and dashes and len(whole) > 3 and _MORSE.fullmatch(whole))


class Length(StageConfig):
    """The response has fewer than ``least`` or more than ``most`` words.

    ``least_asked`` replaces ``least`` if the query explicitly asks for prose (explain, describe, write a story, ...).
    """

    least: int = Field(default=1, ge=0, description="Words of a response, at least.")
    least_asked: int = Field(
        default=3,
        ge=0,
        description="Words of a response, at least, where the query asks for prose.",
    )
    most: int = Field(default=4000, ge=1, description="Words of a response, at most.")


def length(text: Text, rule: Length) -> str | None:
    """Return the reason if the word count is out of range."""
    count = len(text.words)
    if count > rule.most:
        return f"{count} words, more than {rule.most}"
    # A formula or an emoji has no words but is an answer.
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
    if prose := requests_prose(text.query):
        return f"{count} words, fewer than {rule.least_asked}; the query asks for {prose[:40]!r}"
    return None


class CharactersRule(StageConfig):
    """Characters that form no text, in responses of at least ``least`` visible characters.

    ``content``: smallest share of letters, marks, digits and symbols. ``broken``: largest share of replacement characters (U+FFFD),
    control characters and UTF-8 decoded with another encoding (``Ã©``). ``mashed``: largest share of unpronounceable Latin words (six
    consonants in a row). At most one escape sequence (``\\n``, ``\\u2019``) is allowed outside code. Symbols, ciphers and code that
    the query asks for are exempt.
    """

    least: int = Field(
        default=12, ge=1, description="Visible characters of a response that is judged, at least."
    )
    content: Proportion = Field(
        default=0.3, description="Share of letters, marks, digits and symbols, at least, 0 to 1."
    )
    broken: Proportion = Field(
        default=0.01,
        description="Share of replacement and control characters and wrongly decoded text, at most, 0 to 1.",
    )
    mashed: Proportion = Field(
        default=0.3, description="Share of unpronounceable words, at most, 0 to 1."
    )


_MISREAD = re.compile(
    "[\u00c2\u00c3][\u0080-\u00bf\u20ac\u201a\u0192\u201e\u2026\u2020\u2021\u02c6\u2030\u0160\u2039\u0152\u017d]"
    "|\u00e2(?:\u20ac|\u0080).|\u00f0\u0178.."
)
_UNPRONOUNCEABLE = re.compile(r"[^\W\d_aeiouyáàâäãåæéèêëíìîïóòôöõøúùûüýœ]{6}")
_ESCAPES = re.compile(r"\\(?:u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}|r\\n|[nt](?![a-z])|\")")
# LaTeX commands.
_LATEX = re.compile(r"\$|\\[\[(\\]|\\(?![nt][A-Z])[a-zA-Z]{3}")
_LATIN = re.compile(r"[a-z\u00df-\u024f]+")


def characters(text: Text, rule: CharactersRule) -> str | None:
    """Return the reason if too many characters form no text in any script."""
    if not text.characters.visible:
        return None
    if reason := _broken_characters(text, rule):
        return reason
    # Code, patterns, drawings and ciphers consist of symbols and unpronounceable letters.
    if text.fenced or code_marks(text.response) > 1 or requests_symbols(text.plain_query):
        return None
    return _escaped(text) or _too_many_symbols(text, rule) or _unpronounceable(text, rule)


def _broken_characters(text: Text, rule: CharactersRule) -> str | None:
    counts = text.characters
    visible = counts.visible
    broken = counts.replacements + counts.controls
    if broken and broken / visible > rule.broken:
        return f"{broken} of {visible} characters are replacement or control characters, more than {rule.broken:g}"
    misread = len(_MISREAD.findall(text.response))
    if misread > 1 and misread / visible > rule.broken / 2:
        return f"{misread} of {visible} characters are UTF-8 decoded with another encoding"
    return None


def _too_many_symbols(text: Text, rule: CharactersRule) -> str | None:
    counts = text.characters
    share = counts.content / counts.visible
    if (
        counts.visible < rule.least
        or share >= rule.content
        or _symbols_are_answer(text.response.strip())
    ):
        return None
    return f"{share:.2f} of {counts.visible} characters are letters, digits or symbols, less than {rule.content:g}"


def _escaped(text: Text) -> str | None:
    """Return the reason if text that is not code contains escape sequences."""
    if "\\" not in text.response or requests_code(text.plain_query) or _LATEX.search(text.response):
        return None
    escapes = _ESCAPES.findall(text.response)
    return (
        f"the text contains {len(escapes)} escape sequences such as {escapes[0]!r}"
        if len(escapes) > 1
        else None
    )


def _unpronounceable(text: Text, rule: CharactersRule) -> str | None:
    if len(_UNPRONOUNCEABLE.findall(text.plain)) < 3:
        return None
    words = [word for word in text.words if len(word) >= 4 and _LATIN.fullmatch(word)]
    unpronounceable = [word for word in words if _UNPRONOUNCEABLE.search(word)]
    if len(unpronounceable) >= 3 and len(unpronounceable) / len(words) > rule.mashed:
        share = len(unpronounceable) / len(words)
        return f"{share:.2f} of {len(words)} words are unpronounceable ({unpronounceable[0][:20]!r}), more than {rule.mashed:g}"
    return None


class Script(StageConfig):
    """The response uses a script that is rare in the prompt and was not requested.

    The rule fires if a share of at least ``most`` of the response's letters (at least ``letters`` letters) is in one script that makes up
    at most ``hardly`` of the prompt's letters. A query that names a language or mentions translation is exempt.
    """

    letters: int = Field(
        default=20, ge=1, description="Letters of a response that is judged, at least."
    )
    most: Share = Field(
        default=0.8,
        description="Share of the response's letters in the other script from which it is dropped, above 0, at most 1.",
    )
    hardly: Proportion = Field(
        default=0.02, description="Share of the prompt's letters in that script, at most, 0 to 1."
    )


_LANGUAGES = re.compile(
    r"translat|translit|romani[sz]|alphabet|language|pinyin|romaji|kanji|hangul|script\b|tradu|перев[её]д|перевод|язык|翻译|翻譯|翻訳|译|訳|번역"
    r"|अनुवाद|ترجم|תרגם|แปล|μετάφρασ|英文|英语|英語|中文|汉语|漢語|日文|日语|日本語|韩语|영어|한국어|английск|русск"
    r"|\b(?:english|chinese|mandarin|cantonese|japanese|korean|arabic|hebrew|hindi|urdu|bengali|bangla|punjabi|gujarati"
    r"|tamil|telugu|kannada|malayalam|marathi|nepali|thai|lao|khmer|burmese|russian|ukrainian|bulgarian|serbian|greek"
    r"|armenian|georgian|amharic|persian|farsi|pashto|mongolian|tibetan|kazakh|sinhala|sinhalese|yiddish|sanskrit|cyrillic|latin)\b"
)


def script(text: Text, rule: Script) -> str | None:
    """Return the reason if the response leaves the prompt's script."""
    if text.response.isascii() and text.turns.isascii():
        return None
    response_scripts, prompt_scripts = scripts_of(text.response), scripts_of(text.turns)
    total, prompt_total = sum(response_scripts.values()), sum(prompt_scripts.values())
    if total < rule.letters or prompt_total < rule.letters // 2 or text.fenced:
        return None
    name = max(response_scripts, key=lambda key: response_scripts[key])
    share, prompt_share = response_scripts[name] / total, prompt_scripts.get(name, 0) / prompt_total
    if name == "other" or share < rule.most or prompt_share > rule.hardly:
        return None
    main = max(prompt_scripts, key=lambda key: prompt_scripts[key])
    if main == "other" or _LANGUAGES.search(text.turns.casefold()):
        return None
    # English names, formulas and code answer questions in any script; whole sentences do not.
    if name == "Latin" and (len(text.words) < 12 or code_marks(text.response) > 1):
        return None
    return f"{share:.2f} of the response's letters are {name}, {prompt_share:.2f} of the prompt's, which is mainly {main}"
