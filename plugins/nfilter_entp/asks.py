"""What a query asks for, where that decides what a right response looks like: prose, signs, verse, repetition."""

from __future__ import annotations

import re

_ENDS = 300
_SIGNS = re.compile(
    r"\b(?:morse|braille|punctuat\w*|symbols?|signs?|(?:question|exclamation|quotation) marks?|emoticons?|emojis?|smiley|ascii|regex(?:es|p)?|regular expressions?|patterns?"
    r"|operators?|characters?|brackets?|parenthes[ei]s|asterisks?|dots?|dash(?:es)?|hyphens?|underscores?|draw\w*|sketch|shapes?|triangle|pyramid|diamond|grid|maze"
    r"|encod\w*|decod\w*|encrypt\w*|decrypt\w*|cipher|ciphertext|passwords?|barcode|brainf\w*|delimiters?)\b"
)
_VERSE = re.compile(
    r"\b(?:poems?|poetry|verses?|song|songs|lyrics?|chorus|refrain|rap|rhymes?|haiku|limerick|sonnet|ballad|ode|villanelle|pantoum|sestina|lullaby|nursery|chants?|mantra|hymn|anthem|carol|jingle|prayer|litany|psalm|anaphora)\b"
)
_RECURS = re.compile(
    r"\b(?:strings?|sequences?|characters?|letters?|digits?|dna|rna|genome|repeat\w*|times over|\d+ times|matrix|matrices|tables?|grid|multiplication|schedule|calendar|roster"
    r"|timetable|conjugat\w*|declension|pattern|drum|chords?|onomatopoeia|laugh\w*|echo)\b"
)
_PLAIN_VERB = r"(?:^|[.!?:\n]\s*|\bplease )"
_PROSE = re.compile(
    rf"{_PLAIN_VERB}(?:explain|elaborate|summari[sz]e|discuss|describe (?:how|why|the (?:process|steps|plot|history|main|differen\w+|impact|effects?|role)))\b"
    rf"|{_PLAIN_VERB}(?:write|compose|draft|create|generate|tell me|give me)(?: me| us)?(?: an?| the| some| one| two| three| \d)?(?: [\w-]+,?){{0,4}}? "
    r"(?:essay|story|stories|poem|paragraphs?|article|blog post|letter|email|e-mail|speech|summary|scene|review|guide|tutorial|explanation)"
    r"(?=[.!?:;,\n]|\Z| (?:about|on|of|for|to|that|which|with|describing|explaining|using|in|from|by|arguing|based|where|how|discussing|expressing|between|detailing)\b)"
)
# An article's title, a story's name and a letter of the alphabet are no prose.
_PARTS = re.compile(
    r"\b(?:titles?|names?|headlines?|slogans?|taglines?|subject lines?|keywords?|hashtags?|topics?|themes?|synonyms?|antonyms?|words?|rhymes?|capital letters?|first letter|last letter|letters? (?:words?|in|that|of the))\b"
)
_BRIEF = re.compile(
    r"\b(?:\d+|one|single|two|three|four|five|six|seven|few|short(?:est)?|brief(?:ly)?|only)[ -](?:\w+ )?(?:words?|letters?|phrase)"
    r"|\bbriefly\b|\byes or no\b|\bemojis?\b|\btrue or false\b"
)


_ESCAPED = re.compile(
    r"\b(?:escap\w*|strings?|code|coding|program\w*|scripts?|function|class|regex\w*|json|csv|xml|latex|print|paths?|files?|python|java|javascript|sql|bash|shell|c\+\+|unicode|encod\w*|newlines?|backslash\w*)\b"
)


def ends_of(asked: str) -> str:
    """First and last part of a query, which say what is asked; what lies between is given."""
    return asked if len(asked) <= 2 * _ENDS else f"{asked[:_ENDS]}\n{asked[-_ENDS:]}"


def for_prose(query: str) -> str | None:
    """The words of a query that ask for whole sentences, or None."""
    asked = ends_of(query.casefold())
    found = _PROSE.search(asked)
    if not found or _BRIEF.search(asked) or _PARTS.search(found[0]):
        return None
    return found[0].strip(".!?: \n")


def for_signs(asked: str) -> bool:
    """Whether signs without a letter may be the answer: Morse, patterns, drawings, punctuation."""
    return _SIGNS.search(ends_of(asked)) is not None


def for_verse(asked: str) -> bool:
    """Whether a text with a refrain is asked."""
    return _VERSE.search(ends_of(asked)) is not None


def for_recurrence(asked: str) -> bool:
    """Whether the answer may be one thing again and again, such as letters of a string or rows of a table."""
    return _RECURS.search(ends_of(asked)) is not None


def for_code(asked: str) -> bool:
    """Whether a program, or text as a program holds it, is asked."""
    return _ESCAPED.search(ends_of(asked)) is not None
