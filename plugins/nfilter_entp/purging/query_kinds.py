"""What a query asks for, if that determines the form of a correct response: prose, symbols, verse, repetition, code."""

from __future__ import annotations

import re

_PART_LENGTH = 300
_SYMBOLS = re.compile(
    r"\b(?:morse|braille|punctuat\w*|symbols?|signs?|(?:question|exclamation|quotation) marks?|emoticons?|emojis?|smiley|ascii|regex(?:es|p)?|regular expressions?|patterns?"
    r"|operators?|characters?|brackets?|parenthes[ei]s|asterisks?|dots?|dash(?:es)?|hyphens?|underscores?|draw\w*|sketch|shapes?|triangle|pyramid|diamond|grid|maze"
    r"|encod\w*|decod\w*|encrypt\w*|decrypt\w*|cipher|ciphertext|passwords?|barcode|brainf\w*|delimiters?)\b"
)
_VERSE = re.compile(
    r"\b(?:poems?|poetry|verses?|song|songs|lyrics?|chorus|refrain|rap|rhymes?|haiku|limerick|sonnet|ballad|ode|villanelle|pantoum|sestina|lullaby|nursery|chants?|mantra|hymn|anthem|carol|jingle|prayer|litany|psalm|anaphora)\b"
)
_REPETITIVE = re.compile(
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
# A title, a name or a letter of the alphabet is no prose.
_FRAGMENTS = re.compile(
    r"\b(?:titles?|names?|headlines?|slogans?|taglines?|subject lines?|keywords?|hashtags?|topics?|themes?|synonyms?|antonyms?|words?|rhymes?|capital letters?|first letter|last letter|letters? (?:words?|in|that|of the))\b"
)
_BRIEF = re.compile(
    r"\b(?:\d+|one|single|two|three|four|five|six|seven|few|short(?:est)?|brief(?:ly)?|only)[ -](?:\w+ )?(?:words?|letters?|phrase)"
    r"|\bbriefly\b|\byes or no\b|\bemojis?\b|\btrue or false\b"
)


_CODE = re.compile(
    r"\b(?:escap\w*|strings?|code|coding|program\w*|scripts?|function|class|regex\w*|json|csv|xml|latex|print|paths?|files?|python|java|javascript|sql|bash|shell|c\+\+|unicode|encod\w*|newlines?|backslash\w*)\b"
)


def head_and_tail(plain_query: str) -> str:
    """Return the first and last part of a query, where the request is; the middle is input."""
    return (
        plain_query
        if len(plain_query) <= 2 * _PART_LENGTH
        else f"{plain_query[:_PART_LENGTH]}\n{plain_query[-_PART_LENGTH:]}"
    )


def requests_prose(query: str) -> str | None:
    """Return the words of a query that request whole sentences, or None."""
    plain_query = head_and_tail(query.casefold())
    match = _PROSE.search(plain_query)
    if not match or _BRIEF.search(plain_query) or _FRAGMENTS.search(match[0]):
        return None
    return match[0].strip(".!?: \n")


def requests_symbols(plain_query: str) -> bool:
    """Return whether the answer may be symbols without letters: Morse, patterns, drawings, punctuation."""
    return _SYMBOLS.search(head_and_tail(plain_query)) is not None


def requests_verse(plain_query: str) -> bool:
    """Return whether the query requests a text with a refrain."""
    return _VERSE.search(head_and_tail(plain_query)) is not None


def allows_repetition(plain_query: str) -> bool:
    """Return whether the answer may repeat one element, such as letters of a string or rows of a table."""
    return _REPETITIVE.search(head_and_tail(plain_query)) is not None


def requests_code(plain_query: str) -> bool:
    """Return whether the query requests a program or text with escapes."""
    return _CODE.search(head_and_tail(plain_query)) is not None
