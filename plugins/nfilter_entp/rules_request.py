"""Rules on requests that no text can meet: what they speak of is not there, or they ask for an image, a sound or a link."""

from __future__ import annotations

import re
from dataclasses import dataclass

from nfilter import StageConfig
from nfilter_entp.asks import for_code
from nfilter_entp.rules_end import code_marks
from nfilter_entp.texts import Text

_LONG = 400
"""Characters of an instruction: a longer one is likely to hold what it speaks of."""

_NO_INPUT = re.compile(
    r"\n\s*\W{0,3}(?:no ?(?:additional |further )?input(?: (?:needed|required|provided|given|necessary))?|n/a|not applicable|none|null|empty|blank)\W{0,3}\Z",
    re.IGNORECASE,
)
_NOUN = (
    r"(?:sentences?|paragraphs?|passages?|articles?|texts?|essays?|e-?mails?|letters?|poems?|stor(?:y|ies)|excerpts?|extracts?|quotes?|quotations?|phrases?|words?|lists?|numbers?|statements?|questions?"
    r"|conversations?|dialogues?|dialogs?|transcripts?|speech|reviews?|comments?|tweets?|posts?|headlines?|titles?|news|reports?|documents?|data(?: ?sets?)?|tables?|equations?|expressions?|problems?|code(?: snippets?)?"
    r"|snippets?|lines?|items?|objects?|terms?|names?|options?|choices?|scenarios?|situations?|cases?|information|facts?|input|strings?|arrays?|recipes?|lyrics|songs?|argument|claims?|instructions?|examples?"
    r"|animals?|foods?|ingredients?|products?|topics?|characters?|clues?|riddles?|puzzles?|proverbs?|idioms?|verses?|abstract|blog(?: posts?)?|resumes?|graphs?|charts?|diagrams?|figures?)"
)
_TEXTUAL = (
    r"(?:sentences?|paragraphs?|passages?|articles?|texts?|essays?|e-?mails?|excerpts?|phrases?|poem|story|list|numbers?|statement|conversation|dialogue|transcript|speech|review|document|equation|expression|code|snippet"
    r"|data|word|words|report|blog post|quote)"
)
_POINTED = rf"(?<!which of )(?<!each of )\b(?:the|this|these|those|my|your)(?: (?:two|three|four|five))? (?:following|given(?! names?\b)|provided|supplied|attached|enclosed|below|above|above-mentioned)(?: (?!{_NOUN}\b|(?:is|are|was|were|an?|the|that|if)\b)[\w'-]+){{0,2}}? {_NOUN}"
_PLACED = rf"\b(?:the|this|these|those) (?:[\w'-]+ )?{_NOUN} (?:below|above|provided|given|attached|that follows?)"
_EDITS = (
    r"(?:summari[sz]e|paraphrase|rewrite|re-write|rephrase|reword|edit|proofread|correct|fix|translate|classify|categori[sz]e|shorten|condense|simplify|revise|punctuate|capitali[sz]e|reverse|sort|rearrange"
    r"|reorder|complete|convert|analy[sz]e|read|improve|restate|debug|format)"
)
_FOLLOWED = r"(?=\s*(?:[.?!:]\s*\Z|\Z|[.,;]\s|\b(?:in|into|to|so|that|using|for|by|with|as|and|or|without|from|based|according|is|are|has|have|was|were|if|which|who|on|of|at|where|then|per|under|within|\w+ly)\b))"
_STRICT = r"(?=\s*(?:[.?!:]\s*\Z|\Z|,? ?\b(?:in|into|to|so|using|for|by|with|as|and|without|based|according)\b[^,:;()\"“”]{0,60}\Z))"
_MISSING = (
    re.compile(rf"(?:{_POINTED}|{_PLACED}){_FOLLOWED}"),
    re.compile(r"\bthe following(?=\s*(?:[.:?!]?\s*\Z| (?:into|in order|as|from)\b[^,]{0,60}\Z))"),
    re.compile(rf"\A(?:please |can you |could you )?{_EDITS} (?:the|this|these) (?:[\w'-]+ ){{0,1}}?{_TEXTUAL}{_STRICT}"),
    re.compile(rf"\b(?:in|of|from) (?:this|these) (?!sentence|question|word){_TEXTUAL}{_STRICT}"),
)  # fmt: skip
# A passage that a question is about; the question may have names, numbers and commas of its own.
_SOURCED = re.compile(
    r"\b(?:given|from|in|using|based on|according to|as per|per|with|of|about) (?:(?:this|these) (?:(?:reference|following|given|provided|above|below|short) )*|the (?:(?:reference|following|given|provided|above|below) )+|the (?=\w+ (?:provided|below|above|given)\b)|(?:given|provided|following) )"
    r"(?:paragraphs?|passages?|articles?|texts?|excerpts?|documents?|reports?|transcripts?)\b(?: (?:provided|below|above|given|about [^,.?:]{1,60}?))?(?=\s*(?:[,.?;]|\Z| (?:please |note |and |list |extract |find |identify |tell |give |what |who |when |where |how |which |in |into |as |using |to |along )))"
)
_QUOTES = re.compile(r"[:=]\s*\S|[\"“”«»`]|(?<!\w)'[^']{2,}'|\n")
# "Given a list" and "the given number" are the words of programming tasks, which name no text.
_PROGRAM = re.compile(
    r"\b(?:functions?|programs?|algorithms?|scripts?|methods?|quer(?:y|ies)|class|regex\w*|sql|python|java|javascript|html|css|api|c\+\+|formula|template|format|structure)\b"
)
# What stands in the instruction itself: a quotation, a list, a number, something behind a colon.
_HELD = re.compile(r"[:=]\s*\S|[\"“”«»`]|(?<!\w)'[^']{2,}'|,[^,]*,|\([^)]{3,}\)|\d|\n|https?://")
_AMOUNT = re.compile(
    r"\b\d+(?:[ -]to[ -]|-)?\d*[ -](?:\w+ )?(?:words?|sentences?|paragraphs?|lines?|points?|bullets?|steps?|syllables?|characters?|years?|ways|examples?|keywords?|questions?|items?)\b|\((?:[\w-]+ ?){1,4}\)"
)
_PROPER = re.compile(r"(?<=[\w,] )(?!I\b)[A-Z][\w'-]*")
_NAMED = re.compile(
    r"\b(?:English|Spanish|French|German|Italian|Chinese|Mandarin|Japanese|Korean|Portuguese|Russian|Arabic|Hindi|Latin|Dutch|Swedish|Greek|Turkish|American|British|Shakespear\w+|MLA|APA|JSON|XML|CSV|HTML|SQL|Celsius|Fahrenheit|Roman|GPT\S*|AI|ASCII|Morse)\b"
)
_STANDS_FOR = re.compile(
    rf"\A(?:[\[(<{{]+\s*(?:insert |enter |your |the |an? |see |attached |some |full |entire )*(?:{_NOUN}|content|file|attachment)(?: (?:text|content|here|goes|body|about|on|of|from|link|url)\b[^\])>}}\n]{{0,50}})?\s*[\])>}}]+"
    r"|(?:the |an? )?(?:text|content|transcript|body|copy) of (?:the |an? |your )?(?:article|text|passage|document|e-?mail|speech|essay|story|paper|book|page|poem|report|blog post)|(?:please )?(?:see|refer to|find)?(?: the)? ?attach(?:ed|ment)(?: (?:file|document|text|article))?)\W{0,3}\Z",
    re.IGNORECASE,
)
_PAGE = re.compile(
    r"(?:https?://|www\.)[\w.-]+/[^\s<>\"]*\w[^\s<>\"]*|\b(?:https?://)?(?:[\w-]+\.)+(?:com|org|net|edu|gov|io)/[^\s<>\"]*\w[^\s<>\"]*"
)
_FILE = re.compile(r"(?<![\w/.])[\w-]{1,60}\.(?:jpe?g|png|gif|bmp|tiff|mp3|mp4|wav|avi|mov|pdf|docx?|pptx?|xlsx?)\b", re.IGNORECASE)  # fmt: skip
_READS = re.compile(
    r"\b(?:summari[sz]e|summary|describe|description|analy[sz]e|read|extract|transcribe|caption|translate|find|identify|tell|what|who|when|review|list|explain|rewrite|paraphrase|count|detect|determine|recogni[sz]e|edit|crop"
    r"|convert|main|key points?|takeaways?|evaluate|critique|watch|listen|classify|categori[sz]e)\b"
)
_OF_ADDRESS = re.compile(
    r"\b(?:urls?|uri|domain|subdomain|parse|shorten\w*|protocol|valid\w*|regex|hyperlink|html|cit(?:e|ation)\w*|bibliograph\w+|referenc\w+|format|path|slug|encode|decode|filename|file ?names?|extension|command|code|program|script|function|rename)\b"
)


class MissingInput(StageConfig):
    """The request speaks of a text, a list or the like that it does not hold, so that no response can be about it.

    "Summarize the following article." with nothing behind it; ``[text of the article]`` or the address of a page, or a file's
    name, in its place. English alone, single requests alone; whatever the request could mean by it counts as there. No settings.
    """


def missing_input(text: Text, rule: MissingInput) -> str | None:  # noqa: ARG001
    """What is spoken of and is not there."""
    asked = _Request.of(text)
    if asked is None:
        return None
    if asked.given and _STANDS_FOR.match(asked.given) and "html" not in asked.folded:
        return f"{asked.given[:60]!r} stands where the input belongs"
    return _unread(asked) or (None if asked.given else _unsaid(asked))


def _unsaid(asked: _Request) -> str | None:
    """What a request without an input points to, and does not hold itself."""
    hit = _SOURCED.search(asked.folded)
    if hit and not _QUOTES.search(asked.instruction) and not _around(asked.folded, hit):
        return f"{hit[0].strip()!r} is not in the request"
    if asked.told or _PROGRAM.search(asked.folded):
        return None
    for pattern in _MISSING:
        if (hit := pattern.search(asked.folded)) and not _around(asked.folded, hit):
            return f"{hit[0].strip()!r} is not in the request"
    return None


_TASK = re.compile(
    rf"(?:and |then |also |please )*(?:{_EDITS}|separate|display|note|write|make|answer|use|explain|give|provide|include|identify|find|list|create|your|the (?:response|answer|output|summary|result)|be |do not|don't|you |choose|select|determine|state|add|remove|replace|tell|describe|what is the|keep|ensure)\b"
)


def _around(folded: str, hit: re.Match[str]) -> bool:
    """Whether words outside the sentence of a match may be what it speaks of: all but few before it, and a task behind it."""
    start = max(folded.rfind(stop, 0, hit.start()) for stop in (". ", "? ", "! ")) + 1
    ends = [end + 1 for stop in (". ", "? ", "! ") if (end := folded.find(stop, hit.end())) >= 0]
    behind = folded[min(ends, default=len(folded)) :].strip()
    return len(folded[:start].split()) > 8 or bool(behind and not _TASK.match(behind))


def _unread(asked: _Request) -> str | None:
    """An address or a file in place of its content."""
    whole = f"{asked.instruction} {asked.given}"
    hit = _PAGE.search(whole) or _FILE.search(whole)
    if (
        not hit
        or _OF_ADDRESS.search(asked.folded.replace(hit[0].casefold(), ""))
        or not _READS.search(asked.folded)
    ):
        return None
    if len(whole.replace(hit[0], "").split()) > 25:
        return None
    return f"the content of {hit[0][:60]!r} is not in the request"


_IMAGE = r"(?:images?|pictures?|photos?|photographs?|drawings?|paintings?|illustrations?|videos?(?: clips?)?|audio(?: clips?| files?| recordings?)?|animations?|gifs?|screenshots?|memes?|collages?|3d models?|voice recordings?)"
_BETWEEN = r"(?: (?!of\b|for\b|about\b|that\b|to\b|with\b|on\b|from\b|using\b|in\b|and\b|or\b)[\w'-]+){0,4}?"
_PLEASE = r"\A(?:please |kindly |can you |could you |i (?:want|need|would like) you to |you (?:need|are asked) to )?"
_NOT_IMAGE = r"(?! (?:descriptions?|captions?|prompts?|titles?|scripts?|games?|ideas?|concepts?|books?|frames?|classif\w+|recogn\w+|process\w+|data ?sets?|galler\w+|edit(?:or|ing)\w*|essays?|campaigns?|series|tags?|calls?|conferenc\w*|stores?|streaming|platforms?|content|formats?|files? (?:format|name)|caption\w*))"
_MAKES = re.compile(
    rf"{_PLEASE}(?:generate|create|draw|paint|sketch|make|produce|render|show|take|capture|record|film|photograph|edit|crop|resize|rotate|upload|download|insert|attach|play|design|send|display|find|provide|give|share|select|choose|include)"
    rf"(?: me| us)? (?:an?|the|some|this|that|your|\d+|one|two|three){_BETWEEN} {_IMAGE}\b{_NOT_IMAGE}"
)
# What is drawn in words, numbers or signs.
_DRAWS = re.compile(
    rf"{_PLEASE}(?:draw|sketch)(?: me)? an? (?!(?:[\w-]+ ){{0,3}}?(?:conclusions?|comparisons?|parallels?|distinctions?|connections?|inferences?|analog(?:y|ies)|contrasts?|links?|lessons?|outlines?|plans?|scenes?|diagrams?|charts?|graphs?"
    r"|tables?|maps?|trees?|flow ?charts?|timelines?|structures?|models?|plots?|box|line|random|card|sample|name|number)\b)\w"
)
_LINKS = re.compile(
    rf"{_PLEASE}(?:find|give|provide|share|send|get|show|include|add|post)(?: me| us)? (?:an?|the|some|\d+|one|two|three){_BETWEEN} (?:links?|urls?|hyperlinks?)\b(?= (?:to|for|of|about|where|with|from)\b|\W*\Z)"
)
_BROWSES = re.compile(
    rf"{_PLEASE}(?:(?:visit|open|browse|access|go to|navigate to|log ?in to|click on|scrape|crawl)(?: (?:the|this|a|following|given|provided))* (?:websites?|web ?pages?|web pages?|sites?|links?|urls?)\b"
    r"|(?:search|browse|surf) (?:on )?(?:the (?:web|internet)|google|online|youtube|wikipedia)\b|(?:play|listen to|watch) (?:the|this|a|an|some|my)\b[^.?!]{0,30}\b(?:songs?|music|videos?|audio|recording|clips?|podcasts?|movie trailer)\b)"
)
_SEEN = rf"(?:(?:the|this|that|these|those) (?:following |given |provided |attached |uploaded |above |below )|(?:this|these|attached|provided|uploaded) )(?:[\w'-]+ ){{0,2}}?{_IMAGE}\b{_NOT_IMAGE}"
_LOOKS = re.compile(
    rf"\b{_SEEN}{_FOLLOWED}|{_PLEASE}(?:describe|identify|analy[sz]e|caption|label|classify|detect|recogni[sz]e|count|interpret|transcribe|look at|listen to|watch|view|examine|observe|explain|tell me|name|list|find|write|provide|give|generate|create|estimate|what|who|how many|where|which)"
    rf"(?:\b[^.?!:]{{0,50}}\b(?:in|of|on|about|for|from|at|to|describing|using|with))? the {_IMAGE}{_STRICT}"
    rf"|\Agiven (?:an?|the|this) {_IMAGE}\b{_NOT_IMAGE}(?=,| of\b| and\b)"
)
# Said in words, drawn in signs or made by a program, and pictures that are a manner of speech.
_IN_WORDS = re.compile(
    r"\b(?:ascii|emojis?|emoticons?|describ\w+ (?:how|the process|steps)|descriptions?|in words|with words|using words|verbal\w*|sentences?|paragraphs?|vivid|mental|bigger|big picture|clear picture|svg|canvas|matplotlib|opencv|ffmpeg|photoshop|gimp"
    r"|storyboard|script|lesson plan|recipe)\b|\A(?:how|explain how|describe how)\b.{0,20}\b(?:to|do|does|can)\b"
)


_BY_PROGRAM = re.compile(
    r"\b(?:ascii|svg|canvas|matplotlib|opencv|ffmpeg|photoshop|gimp|storyboard|screenplay)\b|\A(?:how|explain how|describe how)\b.{0,20}\b(?:to|do|does|can)\b"
)
_BRACKETED = re.compile(
    rf"\A[\[(<{{]+\s*(?:insert |an? |the )*{_IMAGE}\b[^\])>}}\n]{{0,80}}[\])>}}]+\Z", re.IGNORECASE
)


class Media(StageConfig):
    """The request asks for an image, a sound, a video or a link, or speaks of one that a text cannot hold.

    Drawings in signs, pictures in words and programs that make them are left alone, and so is a request that describes what is
    to be seen. English alone, single requests alone. No settings.
    """


def media(text: Text, rule: Media) -> str | None:  # noqa: ARG001
    """What no text can give or see."""
    asked = _Request.of(text)
    if asked is None or for_code(asked.folded):
        return None
    if text.fenced or code_marks(text.response) > 1 or _drawn(text):
        return None
    return _asks_for(asked) or _speaks_of(asked)


def _asks_for(asked: _Request) -> str | None:
    if _IN_WORDS.search(asked.folded):
        return None
    for said, pattern in (
        ("for", _MAKES),
        ("for", _DRAWS),
        ("for", _LINKS),
        ("to go to", _BROWSES),
    ):
        if hit := pattern.search(asked.folded):
            return f"the request asks {said} what a text cannot hold: {hit[0].strip()[:60]!r}"
    return None


def _speaks_of(asked: _Request) -> str | None:
    if _BRACKETED.match(asked.given) and "html" not in asked.folded:
        return f"{asked.given[:60]!r} stands where an image or a sound belongs"
    if _BY_PROGRAM.search(asked.folded):
        return None
    told = asked.told or len(asked.given.split()) > 5
    if not told and (hit := _LOOKS.search(asked.folded)):
        return f"the request speaks of what a text cannot hold: {hit[0].strip()[:60]!r}"
    return None


def _drawn(text: Text) -> bool:
    """A response of signs more than of letters and digits."""
    seen = text.characters
    return (seen.letters + seen.digits) * 2 < seen.visible


@dataclass(frozen=True, slots=True)
class _Request:
    """The instruction of a single request, casefolded as well, and the input that stands behind it; "" for none."""

    instruction: str
    folded: str
    given: str

    @classmethod
    def of(cls, text: Text) -> _Request | None:
        """None for a turn of a longer conversation, and for an instruction that is long enough to hold what it speaks of."""
        if "\x1eassistant\x1f" in text.context or "\x1etool\x1f" in text.context:
            return None
        whole = _NO_INPUT.sub("", text.query[: 10 * _LONG].strip())
        instruction, _, given = whole.partition("\n\n")
        if len(instruction) > _LONG:
            return None
        instruction = " ".join(instruction.split(" ")).strip()
        return cls(instruction, instruction.casefold().replace("’", "'"), given.strip())

    @property
    def told(self) -> bool:
        """Whether the instruction holds a quotation, a list, a number, a name or the like itself."""
        plain = _AMOUNT.sub("", self.instruction)
        return bool(_HELD.search(plain) or _PROPER.search(_NAMED.sub("", plain)))
