"""Rules on a response's words: repetition, template leftovers, copied instructions."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from nfilter import Share, StageConfig
from nfilter_entp.purging.query_kinds import allows_repetition, requests_symbols, requests_verse
from nfilter_entp.purging.texts import Text, plain, word_hashes, words_of

_PRIME = np.uint64(0x9E3779B97F4A7C15)


class Repeats(StageConfig):
    """Words that repeat.

    ``times``: consecutive repeats of a block that has at least ``least`` words in all and makes up a share ``run`` of the response.
    ``cover``: largest share of words, in responses of at least ``least_covered``, inside runs of eight words that occur at least
    ``often`` times. ``letters``: number of characters filled by one repeated group of one to four letters. Requested verse, code,
    tables and sequences repeat legitimately: there a loop needs ``by_right`` repeats and most of the response.
    """

    times: int = Field(
        default=4,
        ge=2,
        description="Consecutive repeats of a block of words that are too many, at least 2.",
    )
    least: int = Field(
        default=12, ge=2, description="Words that these repeats have together, at least."
    )
    run: Share = Field(
        default=0.25,
        description="Share of the response that these repeats make up, at least, above 0, at most 1.",
    )
    often: int = Field(
        default=5,
        ge=2,
        description="Occurrences of a run of eight words that are too many, at least 2.",
    )
    cover: Share = Field(
        default=0.5, description="Share of the words inside such runs, at most, above 0, at most 1."
    )
    least_covered: int = Field(
        default=40, ge=1, description="Words of a response to which cover applies, at least."
    )
    letters: int = Field(
        default=40,
        ge=2,
        description="Characters that one repeated group of one to four letters fills, too many from here on.",
    )
    by_right: int = Field(
        default=16,
        ge=2,
        description="Repeats that are too many in verse, code, tables and sequences.",
    )


def _grams(ids: npt.NDArray[np.int64], n: int) -> npt.NDArray[np.uint64]:
    """Return a hash of every run of ``n`` words, uint64 [len(ids) - n + 1]."""
    total = np.zeros(len(ids) - n + 1, np.uint64)
    for start in range(n):
        total = (
            total + ids[start : len(ids) - n + 1 + start].astype(np.uint64) + np.uint64(1)
        ) * _PRIME
        total ^= total >> np.uint64(29)
    return total


def repeats(text: Text, rule: Repeats) -> str | None:
    """Return the reason if words loop or phrases recur too often."""
    legitimate = _may_repeat(text)
    if not legitimate and (reason := _letter_loop(text, rule)):
        return reason
    words = text.words
    if len(words) < rule.least:
        return None
    ids = word_hashes(words)
    # Shortcut: most texts have no three-word run that occurs often enough.
    grams = np.sort(_grams(ids, min(3, len(ids))))
    fewest = min(rule.times, rule.often) - 1
    if not (grams[fewest - 1 :] == grams[: len(grams) - fewest + 1]).any():
        return None
    worded = np.array([any(c.isalpha() for c in word) for word in words])
    if legitimate:
        strict = rule.model_copy(update={"times": max(rule.times, rule.by_right), "run": max(rule.run, 0.6)})  # fmt: skip
        return _word_loop(words, ids, worded, strict) if len(ids) >= strict.times else None
    return _word_loop(words, ids, worded, rule) or _recurring_runs(words, ids, worded, rule)


def _may_repeat(text: Text) -> bool:
    """Return whether repetition is legitimate: requested verse or a sequence, code, a table."""
    if (
        text.fenced
        or requests_verse(text.plain_query)
        or allows_repetition(text.plain_query)
        or requests_symbols(text.plain_query)
    ):
        return True
    lines = [line for line in text.response[:20_000].splitlines() if line.strip()]
    coded = sum(_CODED.search(line[:400]) is not None for line in lines)
    return coded > 0 and 2 * coded >= len(lines)


def _letter_loop(text: Text, rule: Repeats) -> str | None:
    long = max(text.plain.split(), key=len, default="")
    return _repeated_letters(text.plain, rule) if len(long) >= rule.letters else None


def _recurring_runs(
    words: list[str], ids: npt.NDArray[np.int64], worded: npt.NDArray[np.bool_], rule: Repeats
) -> str | None:
    # Lists repeat a few words around their items. In scripts without spaces a character is a word and carries less.
    n = 8 if sum(map(len, words)) > 2 * len(words) else 16
    if len(words) < max(rule.least_covered, n):
        return None
    _, inverse, counts = np.unique(_grams(ids, n), return_inverse=True, return_counts=True)
    covered = np.zeros(len(ids), bool)
    for start in range(n):
        covered[start : len(ids) - n + 1 + start] |= counts[inverse.ravel()] >= rule.often
    covered &= worded
    share = float(covered.sum()) / len(ids)
    if share > rule.cover:
        return f"{share:.2f} of {len(ids)} words are in runs of {n} words that occur {rule.often} times or more, more than {rule.cover:g}"
    return None


# A line of code, a table or a pattern.
_CODED = re.compile(
    r"[;{}]\s*$|\w\(.*\)|^\s*(?:def|class|import|from|return|for|if|elif|else|while|function|var|let|const|select|insert|public|private)\b.*[:({;]|\|.*\||\t.*\t"
    r"|\w = \S|</\w|\\[dwsb]|\[[^\]\s]{1,20}-[^\]\s]{1,20}\]|[*+?]\)|\{\d,?\d?\}",
    re.IGNORECASE,
)


def _word_loop(
    words: list[str], ids: npt.NDArray[np.int64], worded: npt.NDArray[np.bool_], rule: Repeats
) -> str | None:
    """Return the reason for the longest stretch with a period of up to 100 words."""
    for period in range(1, min(100, len(ids) // rule.times) + 1):
        start, size = _longest_stretch(ids, period)
        if size // period < rule.times or size < max(rule.least, rule.run * len(ids)):
            continue
        # Repeated rows of numbers are data.
        if worded[start : start + period].mean() < 0.25:
            continue
        block = " ".join(words[start : start + min(period, 6)])[:60]
        return f"{block!r} occurs {size // period} times in a row, {size} of {len(ids)} words"
    return None


def _longest_stretch(items: npt.NDArray[Any], period: int) -> tuple[int, int]:
    """Return the start and the length of the longest stretch of ``items`` ([n]) with the period; length 0 if nothing repeats."""
    same = np.concatenate([[False], items[period:] == items[:-period], [False]])
    edges = np.flatnonzero(same[1:] != same[:-1])
    if not len(edges):
        return 0, 0
    sizes = edges[1::2] - edges[::2]
    best = int(np.argmax(sizes))
    return int(edges[::2][best]), int(sizes[best]) + period


def _repeated_letters(text: str, rule: Repeats) -> str | None:
    """Return the reason if one to four letters repeat over many characters."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    for period in range(1, 5):
        start, size = _longest_stretch(codes, period)
        block = text[start : start + period]
        if size >= max(rule.letters, rule.run * len(text)) and any(c.isalpha() for c in block):
            return f"{block!r} fills {size} of {len(text)} characters"
    return None


class Template(StageConfig):
    """Leftovers of a template, a web page or a refusing assistant.

    ``tags``: number of HTML tags or entities that is too many. ``goes_on``: number of further words that excuses an assistant's stock
    phrase, or a placeholder in a letter or similar text.
    """

    tags: int = Field(default=2, ge=1, description="HTML tags or entities that are too many.")
    goes_on: int = Field(
        default=20, ge=1, description="Further words that excuse a stock phrase or a placeholder."
    )


_PHRASES = (
    ("an assistant's stock phrase", re.compile(
        r"\bas an? (?:(?:ai|artificial intelligence|large) language model\b"
        r"|(?:ai|artificial intelligence|large language model|ai[- ]powered|machine learning)(?: model| assistant| chatbot| system)?(?:,|,? (?:i|my)\b))"
        r"|\bi(?:'m| am) (?:just |only )?an? (?:ai|large) language model\b|\bmy knowledge cut-?off\b|\bmy last knowledge update\b")),
    ("a mark for nothing", re.compile(
        r"[<\[({]\s{0,3}(?:no|empty)[ _-]?(?:input|output|response|answer|content|text)(?: (?:needed|required|provided|given))?\s*[>\])}]")),
    ("filler text", re.compile(r"\blorem ipsum\b|\bdolor sit amet\b|\bconsectetur adipiscing\b")),
    ("a placeholder", re.compile(
        r"[\[<{](?:please )?(?:insert|enter|fill in|placeholder|to ?do|tbd)\b[^\]>}\n\[<{]{0,60}[\]>}](?!\()"
        r"|[\[<{](?:your|the) (?:answer|response|text|output|content|solution|explanation)\b[^\]>}\n\[<{]{0,40}[\]>}](?!\()"
        r"|\[[^\[\]\n]{1,50} here\](?!\()|\binsert [a-z ]{1,30} here\b")),
    # A single letter in double braces is mathematics, and so are longer names beside a backslash or a dollar sign.
    ("a placeholder", re.compile(r"\{\{ ?[a-z][\w .-]{1,38}\}\}")),
    ("another task", re.compile(r"^(?:\d+[.)]\s*)?\W{0,3}instruction ?\d*:", re.MULTILINE)),
    ("a mark of a chat format", re.compile(
        r"<\|[a-z_]{1,20}\|>|\[/?inst\]|<</?sys>>|^#{2,3} ?(?:instruction|response|input|output):|</s>", re.MULTILINE)),
)  # fmt: skip
_ECHOES = re.compile(
    r"\b(?:repeat|copy|proofread|correct|fix|punctuat\w*|spell\w*|capitali[sz]e|(?:upper|lower) ?case|grammar|quote|echo|say|translate|format)\b"
)
# These match whole, short responses; long ones are skipped to avoid backtracking over punctuation.
_WHOLE = (
    ("a mark for nothing", re.compile(
        r"\A\W*(?:no[ _](?:input|output|response|answer provided|content)(?: (?:needed|required|provided|given|available))?|noinput|nooutput|n/a|not applicable|tbd|todo|idk"
        r"|i don'?t know|placeholder|test test|asdf|\[?deleted\]?|\[?removed\]?)\W*\Z")),
    ("a service's error", re.compile(
        r"\A\W*(?:error|exception)?\W*(?:\d{3} )?(?:rate limit(?: exceeded| reached)|request timed out|internal server error|too many requests"
        r"|an error occurred|service unavailable|bad gateway|something went wrong)\b[^\n]{0,120}\Z")),
)  # fmt: skip
_SHORT = 300
_CODES = re.compile(r"\b(?:https?|status|errors?|exceptions?|codes?|[45]\d\d)\b")
_ROOM = re.compile(
    r"\b(?:templates?|placeholders?|fill|blanks?|lorem|filler|html|xml|jinja|mustache|handlebars|vue|format)\b"
)
# Texts to be sent or spoken, which may have a placeholder for a name.
_FILLED_IN = re.compile(
    r"\b(?:letters?|e-?mails?|messages?|texts?|notes?|invit\w+|speech(?:es)?|toast|contracts?|agreements?|resumes?|cv|applications?|announce\w*|introduc\w+|bios?|greetings?|cards?|scripts?|posts?|tweets?"
    r"|ads?|advertis\w*|statements?|memos?|proposals?|surveys?|questionnaires?|forms?|repl(?:y|ies)|thank\w*|dialog(?:ue)?s?|conversations?|press release|voicemail|pitch|prompts?|welcome|draft|write|compose)\b"
)
# Questions that an assistant's statements about itself answer.
_TO_ASSISTANT = re.compile(
    r"\b(?:are|do|did|have|can|could|would|were|will) you\b|\byour (?!own)|\byourself\b|\bif you were\b|\byou (?:feel|think|like|prefer|are|have)\b"
)
_TAG = re.compile(
    r"</?(?:div|span|p|br|a|table|tbody|tr|td|th|font|img|script|style|ul|ol|li|body|head|html|h[1-6]|b|i|u|em|strong|center|iframe|meta|link|form|input|button|nav|footer|section)"
    r"(?:\s[^<>]{0,300})?/?>"
    r"|(?<![a-z])&amp;|&amp;(?![a-z])|&(?:nbsp|lt|gt|quot|apos|mdash|ndash|rsquo|lsquo|ldquo|rdquo|hellip|#\d{2,5}|#x[0-9a-f]{2,5});"
)
_WEB = re.compile(
    r"\b(?:html?|xml|css|web|website|webpage|page|markup|tags?|entit(?:y|ies)|code|coding|program|script|function|javascript|jsx?|tsx|php|react|vue|angular|svg|"
    r"browser|jinja|django|escap\w*|element|python|regex|parse\w*|markdown|bootstrap|button|form|link|hyperlink)\b|</?[a-z]"
)
_INLINE = re.compile(r"(?ms)^[ \t]{0,3}(```|~~~).*?^[ \t]{0,3}\1|`[^`\n]{1,300}`")


def template(text: Text, rule: Template) -> str | None:
    """Return the reason if a leftover matches and the query does not mention it."""
    response = text.response.casefold().replace("’", "'").strip()
    asked = text.query.casefold().replace("’", "'")
    for name, pattern in (*_PHRASES, *(_WHOLE if len(response) <= _SHORT else ())):
        match = pattern.search(response)
        if not match or (phrase := match[0].strip()) in asked:
            continue
        if phrase.startswith("{{") and ("\\" in response or "$" in response):
            continue
        if (
            name == "an assistant's stock phrase"
            and len(_words_after(response, match.end())) >= rule.goes_on
        ):
            continue
        if not _excused(name, asked, text, rule):
            return f"{name}: {phrase[:60]!r}"
    if ("<" in response or "&" in response) and not _WEB.search(asked):
        tags = _TAG.findall(_INLINE.sub(" ", response) if "`" in response else response)
        if len(tags) >= rule.tags:
            return f"{len(tags)} HTML tags or entities, the first {tags[0][:30]!r}, at least {rule.tags}"
    return None


def _excused(name: str, asked: str, text: Text, rule: Template) -> bool:
    """Return whether the query mentions this leftover or asks for a text that contains it legitimately."""
    if name == "an assistant's stock phrase":
        return _TO_ASSISTANT.search(asked) is not None
    if name == "a service's error":
        return _CODES.search(asked) is not None
    if name in {"a placeholder", "filler text", "a mark for nothing"} and _ROOM.search(asked):
        return True
    if name == "a placeholder" and len(text.words) >= rule.goes_on and _FILLED_IN.search(asked):
        return True
    marks = {"a placeholder", "another task", "a mark of a chat format"}
    return name in marks and (text.fenced or _WEB.search(asked) is not None)


def _words_after(response: str, position: int) -> set[str]:
    """Return the distinct words after the sentence that contains a phrase."""
    stop = re.search(r"[.!?\n]", response[position:])
    return set(words_of(plain(response[position + stop.end() :]))) if stop else set()


class Copied(StageConfig):
    """The response repeats the instruction and adds nothing.

    ``overlap``: smallest share of the instruction's three-word runs that the response contains. The instruction is the first or last
    paragraph of the query, so that answers that quote a passage are exempt; it has at least ``least`` words. ``new``: number of words
    outside those runs that makes the response an answer; fillers such as "here is the answer" do not count.
    """

    overlap: Share = Field(
        default=0.9,
        description="Share of the instruction's runs of three words in the response, at least, above 0, at most 1.",
    )
    least: int = Field(
        default=6, ge=3, description="Words of an instruction that is compared, at least 3."
    )
    new: int = Field(
        default=1, ge=1, description="Words outside these runs that make the response an answer."
    )


_FILLERS = frozenset([
    "a", "an", "the", "is", "are", "was", "it", "its", "it's", "this", "that", "and", "of", "to", "for", "in", "on", "by", "or", "so", "i", "you",
    "sure", "ok", "okay", "certainly", "course", "please", "here", "here's", "there", "below", "above", "following", "follows", "as", "my", "your",
    "answer", "answers", "question", "response", "output", "input", "result", "instruction", "task", "query", "prompt", "request", "solution",
])  # fmt: skip
_REWRITES = re.compile(
    r"(?:^|[.!?:;\n]\s*|\b(?:please|can you|could you|now|then|and) )(?:proofread|correct|rewrite|edit|copy|repeat|grammar|fix|format|paraphrase|rephrase|complete|continue|extract|punctuat\w*|spell\w*|capitali[sz]e"
    r"|upper ?case|lower ?case|sort|replace|remove|convert|translate|quote|fill|reverse|insert|identify the error|restate|reword|improve|annotate|tag|underline|bold|highlight)\b"
)


def copied(text: Text, rule: Copied) -> str | None:
    """Return the reason if the response echoes the query or its instruction."""
    asked = text.query_words
    if len(asked) >= 3 and asked == text.words and not _ECHOES.search(text.plain_query):
        return f"the response is the query, all {len(asked)} words of it"
    parts = [part for part in re.split(r"\n\s*\n", text.query.strip()) if part.strip()]
    # The last part may be a passage that answers quote.
    last = [part for part in parts[-1:] if part.rstrip().endswith(("?", "？", "؟"))]
    # An extract from a passage lacks the instruction; an echo of the whole query contains it.
    whole = [
        text.query
        for part in parts[:1]
        if _overlap(words_of(plain(part)), text.words) >= rule.overlap
    ]
    for part in dict.fromkeys((*parts[:1], *last, *whole)):
        if reason := _echo_of(part, text, rule):
            return reason
    return None


def _echo_of(part: str, text: Text, rule: Copied) -> str | None:
    folded = plain(part)
    words = words_of(folded)
    if len(words) < rule.least or _REWRITES.search(folded) or "```" in part:
        return None
    if (share := _overlap(words, text.words)) < rule.overlap:
        return None
    new_words = _new_words(words, text.words)
    if len(new_words) >= rule.new:
        return None
    return f"{share:.2f} of the instruction's {len(words)} words are in the response in order ({rule.overlap:g} or more), with {len(new_words)} new words, fewer than {rule.new}"


def _new_words(part: list[str], words: list[str]) -> list[str]:
    """Return the words of a response outside the instruction's three-word runs, without fillers.

    Words copied from a passage after the instruction are new.
    """
    runs = set(zip(part, part[1:], part[2:], strict=False))
    copied = np.zeros(len(words), bool)
    for index, run in enumerate(zip(words, words[1:], words[2:], strict=False)):
        if run in runs:
            copied[index : index + 3] = True
    return [w for w, known in zip(words, copied, strict=True) if not known and w not in _FILLERS]


def _overlap(part: list[str], whole: list[str]) -> float:
    """Return the share of three-word runs of ``part`` that ``whole`` contains."""
    if min(len(part), len(whole)) < 3:
        return 0.0
    runs = set(zip(part, part[1:], part[2:], strict=False))
    return len(runs & set(zip(whole, whole[1:], whole[2:], strict=False))) / len(runs)
