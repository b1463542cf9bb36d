"""Rules on a response's words: repeats, template junk, instruction copied."""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt
from pydantic import Field

from nfilter import StageConfig
from nfilter_entp.asks import for_recurrence, for_signs, for_verse
from nfilter_entp.texts import Text, numbered, plain, words_of

_PRIME = np.uint64(0x9E3779B97F4A7C15)


class Repeats(StageConfig):
    """Words that come again and again.

    ``times``: a block repeated so often without a break, of ``least`` words in all and ``run`` of the response. ``cover``: the
    share of ``least_covered`` words or more that lies in runs of eight words which are there ``often`` times. ``letters``:
    one letter, or a few, that fill so many characters. Verse that is asked, code, tables and sequences repeat by right:
    in these a loop has to come ``by_right`` times, and to be most of the response.
    """

    times: int = Field(default=4, ge=2)
    least: int = Field(default=12, ge=2)
    run: float = Field(default=0.25, gt=0, le=1)
    often: int = Field(default=5, ge=2)
    cover: float = Field(default=0.5, gt=0, le=1)
    least_covered: int = Field(default=40, ge=1)
    letters: int = Field(default=40, ge=2)
    by_right: int = Field(default=16, ge=2)


def _grams(ids: npt.NDArray[np.int64], n: int) -> npt.NDArray[np.uint64]:
    """A hash of every run of ``n`` words, uint64 [len(ids) - n + 1]."""
    total = np.zeros(len(ids) - n + 1, np.uint64)
    for place in range(n):
        total = (
            total + ids[place : len(ids) - n + 1 + place].astype(np.uint64) + np.uint64(1)
        ) * _PRIME
        total ^= total >> np.uint64(29)
    return total


def repeats(text: Text, rule: Repeats) -> str | None:
    """Loops, and phrases that return."""
    by_right = _repeats_by_right(text)
    if not by_right and (found := _looped(text, rule)):
        return found
    words = text.words
    if len(words) < rule.least:
        return None
    ids = numbered(words)
    # Most texts have no three words four times over, and are done here.
    grams = np.sort(_grams(ids, min(3, len(ids))))
    some = min(rule.times, rule.often) - 1
    if not (grams[some - 1 :] == grams[: len(grams) - some + 1]).any():
        return None
    worded = np.array([any(c.isalpha() for c in word) for word in words])
    if by_right:
        most = rule.model_copy(update={"times": max(rule.times, rule.by_right), "run": max(rule.run, 0.6)})  # fmt: skip
        return _block(words, ids, worded, most) if len(ids) >= most.times else None
    return _block(words, ids, worded, rule) or _covered(words, ids, worded, rule)


def _repeats_by_right(text: Text) -> bool:
    """Verse or a sequence that is asked; code, with or without a fence; a table."""
    if text.fenced or for_verse(text.asked) or for_recurrence(text.asked) or for_signs(text.asked):
        return True
    lines = [line for line in text.response[:20_000].splitlines() if line.strip()]
    coded = sum(_CODED.search(line[:400]) is not None for line in lines)
    return coded > 0 and 2 * coded >= len(lines)


def _looped(text: Text, rule: Repeats) -> str | None:
    long = max(text.plain.split(), key=len, default="")
    return _letters(text.plain, rule) if len(long) >= rule.letters else None


def _covered(
    words: list[str], ids: npt.NDArray[np.int64], worded: npt.NDArray[np.bool_], rule: Repeats
) -> str | None:
    # Lists repeat a frame of a few words around their items. In some scripts a character is a word, and says less.
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
        return f"{share:.2f} of {len(ids)} words lie in runs of {n} words that are there {rule.often} times or more, more than {rule.cover:g}"
    return None


# A line of code, a table or a pattern.
_CODED = re.compile(
    r"[;{}]\s*$|\w\(.*\)|^\s*(?:def|class|import|from|return|for|if|elif|else|while|function|var|let|const|select|insert|public|private)\b.*[:({;]|\|.*\||\t.*\t"
    r"|\w = \S|</\w|\\[dwsb]|\[[^\]\s]{1,20}-[^\]\s]{1,20}\]|[*+?]\)|\{\d,?\d?\}",
    re.IGNORECASE,
)


def _block(
    words: list[str], ids: npt.NDArray[np.int64], worded: npt.NDArray[np.bool_], rule: Repeats
) -> str | None:
    """The longest stretch that a period of up to 100 words explains."""
    for period in range(1, min(100, len(ids) // rule.times) + 1):
        same = np.concatenate([[False], ids[period:] == ids[:-period], [False]])
        edges = np.flatnonzero(same[1:] != same[:-1])
        if not len(edges):
            continue
        starts, ends = edges[::2], edges[1::2]
        best = int(np.argmax(ends - starts))
        start, size = int(starts[best]), int(ends[best] - starts[best]) + period
        if size // period < rule.times or size < max(rule.least, rule.run * len(ids)):
            continue
        # Rows of numbers repeat and are data.
        if worded[start : start + period].mean() < 0.25:
            continue
        shown = " ".join(words[start : start + min(period, 6)])[:60]
        return f"{shown!r} comes {size // period} times in a row, {size} of {len(ids)} words"
    return None


def _letters(text: str, rule: Repeats) -> str | None:
    """A word made of one to four letters over and over."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    for period in range(1, 5):
        same = np.concatenate([[False], codes[period:] == codes[:-period], [False]])
        edges = np.flatnonzero(same[1:] != same[:-1])
        if not len(edges):
            continue
        sizes = edges[1::2] - edges[::2]
        best = int(np.argmax(sizes))
        size, start = int(sizes[best]) + period, int(edges[::2][best])
        block = text[start : start + period]
        if size >= max(rule.letters, rule.run * len(text)) and any(c.isalpha() for c in block):
            return f"{block!r} fills {size} of {len(text)} characters"
    return None


class Template(StageConfig):
    """What a template, a web page or a refusing assistant left in the response.

    ``tags``: so many HTML tags or entities. ``goes_on``: an assistant's stock phrase before so many other words is let be, and so
    are places to fill in, in a letter or the like.
    """

    tags: int = Field(default=2, ge=1)
    goes_on: int = Field(default=20, ge=1)


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
    # One letter in two braces is mathematics, and so is more beside a backslash or a dollar.
    ("a placeholder", re.compile(r"\{\{ ?[a-z][\w .-]{1,38}\}\}")),
    ("another task", re.compile(r"^(?:\d+[.)]\s*)?\W{0,3}instruction ?\d*:", re.MULTILINE)),
    ("a mark of a chat format", re.compile(
        r"<\|[a-z_]{1,20}\|>|\[/?inst\]|<</?sys>>|^#{2,3} ?(?:instruction|response|input|output):|</s>", re.MULTILINE)),
)  # fmt: skip
_ECHOES = re.compile(
    r"\b(?:repeat|copy|proofread|correct|fix|punctuat\w*|spell\w*|capitali[sz]e|(?:upper|lower) ?case|grammar|quote|echo|say|translate|format)\b"
)
# These are all of a short response: a longer one is not searched, as runs of punctuation would be gone over again and again.
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
# Texts to be sent or spoken, which leave room for a name.
_FILLED_IN = re.compile(
    r"\b(?:letters?|e-?mails?|messages?|texts?|notes?|invit\w+|speech(?:es)?|toast|contracts?|agreements?|resumes?|cv|applications?|announce\w*|introduc\w+|bios?|greetings?|cards?|scripts?|posts?|tweets?"
    r"|ads?|advertis\w*|statements?|memos?|proposals?|surveys?|questionnaires?|forms?|repl(?:y|ies)|thank\w*|dialog(?:ue)?s?|conversations?|press release|voicemail|pitch|prompts?|welcome|draft|write|compose)\b"
)
# What an assistant says of itself answers such a question.
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
    """Junk that a pattern knows, where the query does not speak of it."""
    said = text.response.casefold().replace("’", "'").strip()
    asked = text.query.casefold().replace("’", "'")
    for name, pattern in (*_PHRASES, *(_WHOLE if len(said) <= _SHORT else ())):
        found = pattern.search(said)
        if not found or (shown := found[0].strip()) in asked:
            continue
        if shown.startswith("{{") and ("\\" in said or "$" in said):
            continue
        if name == "an assistant's stock phrase" and len(_after(said, found.end())) >= rule.goes_on:
            continue
        if not _excused(name, asked, text, rule):
            return f"{name}: {shown[:60]!r}"
    if ("<" in said or "&" in said) and not _WEB.search(asked):
        tags = _TAG.findall(_INLINE.sub(" ", said) if "`" in said else said)
        if len(tags) >= rule.tags:
            return f"{len(tags)} HTML tags or entities, the first {tags[0][:30]!r}; {rule.tags} are too many"
    return None


def _excused(name: str, asked: str, text: Text, rule: Template) -> bool:
    """Whether the query speaks of such a thing, or asks for a text in which it has its place."""
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


def _after(said: str, place: int) -> set[str]:
    """Different words behind the sentence in which a phrase stands."""
    stop = re.search(r"[.!?\n]", said[place:])
    return set(words_of(plain(said[place + stop.end() :]))) if stop else set()


class Copied(StageConfig):
    """The response is the instruction again, and says nothing of its own.

    ``overlap``: the share of the instruction's runs of three words that the response has. The instruction is the first or last
    paragraph of the query, so that answers which quote a passage are left alone; it has ``least`` words. ``new``: so many words
    outside those runs make an answer, for one that opens with the question and goes on is none the worse; words such as
    "here is the answer" do not count.
    """

    overlap: float = Field(default=0.9, gt=0, le=1)
    least: int = Field(default=6, ge=3)
    new: int = Field(default=1, ge=1)


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
    """Echoes of the query, and of its instruction with next to nothing added."""
    asked = text.asked_words
    if len(asked) >= 3 and asked == text.words and not _ECHOES.search(text.asked):
        return f"the response is the query, all {len(asked)} words of it"
    parts = [part for part in re.split(r"\n\s*\n", text.query.strip()) if part.strip()]
    # The last part may be a passage, which answers quote.
    last = [part for part in parts[-1:] if part.rstrip().endswith(("?", "？", "؟"))]
    # An extract from a passage leaves out what is asked of it, an echo does not.
    whole = [
        text.query for part in parts[:1] if _held(words_of(plain(part)), text.words) >= rule.overlap
    ]
    for part in dict.fromkeys((*parts[:1], *last, *whole)):
        if found := _echoed(part, text, rule):
            return found
    return None


def _echoed(part: str, text: Text, rule: Copied) -> str | None:
    folded = plain(part)
    words = words_of(folded)
    if len(words) < rule.least or _REWRITES.search(folded) or "```" in part:
        return None
    if (share := _held(words, text.words)) < rule.overlap:
        return None
    new = _new(words, text.words)
    if len(new) >= rule.new:
        return None
    return f"{share:.2f} of the instruction's {len(words)} words are in the response in their order ({rule.overlap:g} or more), and {len(new)} new ones, fewer than {rule.new}"


def _new(part: list[str], words: list[str]) -> list[str]:
    """Words of a response that lie in no run of three words of the instruction and are no filler.

    What it takes from a passage behind the instruction is new.
    """
    runs = set(zip(part, part[1:], part[2:], strict=False))
    old = np.zeros(len(words), bool)
    for place, run in enumerate(zip(words, words[1:], words[2:], strict=False)):
        if run in runs:
            old[place : place + 3] = True
    return [w for w, known in zip(words, old, strict=True) if not known and w not in _FILLERS]


def _held(part: list[str], whole: list[str]) -> float:
    """The share of runs of three words of ``part`` that ``whole`` has."""
    if min(len(part), len(whole)) < 3:
        return 0.0
    runs = set(zip(part, part[1:], part[2:], strict=False))
    return len(runs & set(zip(whole, whole[1:], whole[2:], strict=False))) / len(runs)
