"""Rules on requests that a text cannot fulfil: they refer to missing input, or ask for an image, a sound or a link."""

from __future__ import annotations

import re
from dataclasses import dataclass

from nfilter import StageConfig
from nfilter_entp.purging.query_kinds import requests_code
from nfilter_entp.purging.rules_truncated import code_marks
from nfilter_entp.purging.texts import Text

_MAX_INSTRUCTION = 400
"""Maximum characters of an instruction; longer ones probably contain their input."""

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
_POINTER = rf"(?<!which of )(?<!each of )\b(?:the|this|these|those|my|your)(?: (?:two|three|four|five))? (?:following|given(?! names?\b)|provided|supplied|attached|enclosed|below|above|above-mentioned)(?: (?!{_NOUN}\b|(?:is|are|was|were|an?|the|that|if)\b)[\w'-]+){{0,2}}? {_NOUN}"
_POINTER_AFTER = rf"\b(?:the|this|these|those) (?:[\w'-]+ )?{_NOUN} (?:below|above|provided|given|attached|that follows?)"
_EDITS = (
    r"(?:summari[sz]e|paraphrase|rewrite|re-write|rephrase|reword|edit|proofread|correct|fix|translate|classify|categori[sz]e|shorten|condense|simplify|revise|punctuate|capitali[sz]e|reverse|sort|rearrange"
    r"|reorder|complete|convert|analy[sz]e|read|improve|restate|debug|format)"
)
_FOLLOWED = r"(?=\s*(?:[.?!:]\s*\Z|\Z|[.,;]\s|\b(?:in|into|to|so|that|using|for|by|with|as|and|or|without|from|based|according|is|are|has|have|was|were|if|which|who|on|of|at|where|then|per|under|within|\w+ly)\b))"
_STRICT = r"(?=\s*(?:[.?!:]\s*\Z|\Z|,? ?\b(?:in|into|to|so|using|for|by|with|as|and|without|based|according)\b[^,:;()\"“”]{0,60}\Z))"
_MISSING = (
    re.compile(rf"(?:{_POINTER}|{_POINTER_AFTER}){_FOLLOWED}"),
    re.compile(r"\bthe following(?=\s*(?:[.:?!]?\s*\Z| (?:into|in order|as|from)\b[^,]{0,60}\Z))"),
    re.compile(rf"\A(?:please |can you |could you )?{_EDITS} (?:the|this|these) (?:[\w'-]+ ){{0,1}}?{_TEXTUAL}{_STRICT}"),
    re.compile(rf"\b(?:in|of|from) (?:this|these) (?!sentence|question|word){_TEXTUAL}{_STRICT}"),
)  # fmt: skip
# A passage that a question refers to; the question may have names, numbers and commas.
_SOURCE = re.compile(
    r"\b(?:given|from|in|using|based on|according to|as per|per|with|of|about) (?:(?:this|these) (?:(?:reference|following|given|provided|above|below|short) )*|the (?:(?:reference|following|given|provided|above|below) )+|the (?=\w+ (?:provided|below|above|given)\b)|(?:given|provided|following) )"
    r"(?:paragraphs?|passages?|articles?|texts?|excerpts?|documents?|reports?|transcripts?)\b(?: (?:provided|below|above|given|about [^,.?:]{1,60}?))?(?=\s*(?:[,.?;]|\Z| (?:please |note |and |list |extract |find |identify |tell |give |what |who |when |where |how |which |in |into |as |using |to |along )))"
)
_QUOTES = re.compile(r"[:=]\s*\S|[\"“”«»`]|(?<!\w)'[^']{2,}'|\n")
# "Given a list" and "the given number" are phrases of programming tasks and refer to no text.
_PROGRAM = re.compile(
    r"\b(?:functions?|programs?|algorithms?|scripts?|methods?|quer(?:y|ies)|class|regex\w*|sql|python|java|javascript|html|css|api|c\+\+|formula|template|format|structure)\b"
)
# Input inside the instruction: a quotation, a list, a number, text after a colon.
_OWN_INPUT = re.compile(
    r"[:=]\s*\S|[\"“”«»`]|(?<!\w)'[^']{2,}'|,[^,]*,|\([^)]{3,}\)|\d|\n|https?://"
)
_QUANTITY = re.compile(
    r"\b\d+(?:[ -]to[ -]|-)?\d*[ -](?:\w+ )?(?:words?|sentences?|paragraphs?|lines?|points?|bullets?|steps?|syllables?|characters?|years?|ways|examples?|keywords?|questions?|items?)\b|\((?:[\w-]+ ?){1,4}\)"
)
_PROPER = re.compile(r"(?<=[\w,] )(?!I\b)[A-Z][\w'-]*")
_NAMED = re.compile(
    r"\b(?:English|Spanish|French|German|Italian|Chinese|Mandarin|Japanese|Korean|Portuguese|Russian|Arabic|Hindi|Latin|Dutch|Swedish|Greek|Turkish|American|British|Shakespear\w+|MLA|APA|JSON|XML|CSV|HTML|SQL|Celsius|Fahrenheit|Roman|GPT\S*|AI|ASCII|Morse)\b"
)
_PLACEHOLDER = re.compile(
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
_ABOUT_ADDRESS = re.compile(
    r"\b(?:urls?|uri|domain|subdomain|parse|shorten\w*|protocol|valid\w*|regex|hyperlink|html|cit(?:e|ation)\w*|bibliograph\w+|referenc\w+|format|path|slug|encode|decode|filename|file ?names?|extension|command|code|program|script|function|rename)\b"
)


class MissingInput(StageConfig):
    """The request refers to a text, a list or similar input that it does not contain.

    Examples: "Summarize the following article." with nothing after it; a placeholder such as ``[text of the article]``, a page address
    or a file name instead of the input. English single-turn requests only; anything that may be the input counts as input. No settings.
    """


def missing_input(text: Text, rule: MissingInput) -> str | None:  # noqa: ARG001
    """Return the reason if the request refers to missing input."""
    request = _Request.of(text)
    if request is None:
        return None
    if request.body and _PLACEHOLDER.match(request.body) and "html" not in request.folded:
        return f"{request.body[:60]!r} is a placeholder for the input"
    return _unread_source(request) or (None if request.body else _missing_reference(request))


def _missing_reference(request: _Request) -> str | None:
    """Return the reason if a request without input refers to input that the instruction does not contain."""
    match = _SOURCE.search(request.folded)
    if (
        match
        and not _QUOTES.search(request.instruction)
        and not _input_nearby(request.folded, match)
    ):
        return f"{match[0].strip()!r} is not in the request"
    if request.has_own_input or _PROGRAM.search(request.folded):
        return None
    for pattern in _MISSING:
        if (match := pattern.search(request.folded)) and not _input_nearby(request.folded, match):
            return f"{match[0].strip()!r} is not in the request"
    return None


_TASK = re.compile(
    rf"(?:and |then |also |please )*(?:{_EDITS}|separate|display|note|write|make|answer|use|explain|give|provide|include|identify|find|list|create|your|the (?:response|answer|output|summary|result)|be |do not|don't|you |choose|select|determine|state|add|remove|replace|tell|describe|what is the|keep|ensure)\b"
)


def _input_nearby(folded: str, match: re.Match[str]) -> bool:
    """Return whether text outside the sentence of a match may be the input: long text before it, or non-task text after it."""
    start = max(folded.rfind(stop, 0, match.start()) for stop in (". ", "? ", "! ")) + 1
    ends = [end + 1 for stop in (". ", "? ", "! ") if (end := folded.find(stop, match.end())) >= 0]
    after = folded[min(ends, default=len(folded)) :].strip()
    return len(folded[:start].split()) > 8 or bool(after and not _TASK.match(after))


def _unread_source(request: _Request) -> str | None:
    """Return the reason if an address or a file name replaces its content."""
    whole = f"{request.instruction} {request.body}"
    match = _PAGE.search(whole) or _FILE.search(whole)
    if (
        not match
        or _ABOUT_ADDRESS.search(request.folded.replace(match[0].casefold(), ""))
        or not _READS.search(request.folded)
    ):
        return None
    if len(whole.replace(match[0], "").split()) > 25:
        return None
    return f"the content of {match[0][:60]!r} is not in the request"


_IMAGE = r"(?:images?|pictures?|photos?|photographs?|drawings?|paintings?|illustrations?|videos?(?: clips?)?|audio(?: clips?| files?| recordings?)?|animations?|gifs?|screenshots?|memes?|collages?|3d models?|voice recordings?)"
_BETWEEN = r"(?: (?!of\b|for\b|about\b|that\b|to\b|with\b|on\b|from\b|using\b|in\b|and\b|or\b)[\w'-]+){0,4}?"
_PLEASE = r"\A(?:please |kindly |can you |could you |i (?:want|need|would like) you to |you (?:need|are asked) to )?"
_NOT_IMAGE = r"(?! (?:descriptions?|captions?|prompts?|titles?|scripts?|games?|ideas?|concepts?|books?|frames?|classif\w+|recogn\w+|process\w+|data ?sets?|galler\w+|edit(?:or|ing)\w*|essays?|campaigns?|series|tags?|calls?|conferenc\w*|stores?|streaming|platforms?|content|formats?|files? (?:format|name)|caption\w*))"
_MAKES = re.compile(
    rf"{_PLEASE}(?:generate|create|draw|paint|sketch|make|produce|render|show|take|capture|record|film|photograph|edit|crop|resize|rotate|upload|download|insert|attach|play|design|send|display|find|provide|give|share|select|choose|include)"
    rf"(?: me| us)? (?:an?|the|some|this|that|your|\d+|one|two|three){_BETWEEN} {_IMAGE}\b{_NOT_IMAGE}"
)
# Things that can be drawn in words, numbers or symbols.
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
_SHOWN_MEDIA = rf"(?:(?:the|this|that|these|those) (?:following |given |provided |attached |uploaded |above |below )|(?:this|these|attached|provided|uploaded) )(?:[\w'-]+ ){{0,2}}?{_IMAGE}\b{_NOT_IMAGE}"
_VIEWS = re.compile(
    rf"\b{_SHOWN_MEDIA}{_FOLLOWED}|{_PLEASE}(?:describe|identify|analy[sz]e|caption|label|classify|detect|recogni[sz]e|count|interpret|transcribe|look at|listen to|watch|view|examine|observe|explain|tell me|name|list|find|write|provide|give|generate|create|estimate|what|who|how many|where|which)"
    rf"(?:\b[^.?!:]{{0,50}}\b(?:in|of|on|about|for|from|at|to|describing|using|with))? the {_IMAGE}{_STRICT}"
    rf"|\Agiven (?:an?|the|this) {_IMAGE}\b{_NOT_IMAGE}(?=,| of\b| and\b)"
)
# Media described in words, drawn in symbols or made by a program, and figures of speech.
_IN_WORDS = re.compile(
    r"\b(?:ascii|emojis?|emoticons?|describ\w+ (?:how|the process|steps)|descriptions?|in words|with words|using words|verbal\w*|sentences?|paragraphs?|vivid|mental|bigger|big picture|clear picture|svg|canvas|matplotlib|opencv|ffmpeg|photoshop|gimp"
    r"|storyboard|script|lesson plan|recipe)\b|\A(?:how|explain how|describe how)\b.{0,20}\b(?:to|do|does|can)\b"
)


_BY_PROGRAM = re.compile(
    r"\b(?:ascii|svg|canvas|matplotlib|opencv|ffmpeg|photoshop|gimp|storyboard|screenplay)\b|\A(?:how|explain how|describe how)\b.{0,20}\b(?:to|do|does|can)\b"
)
_MEDIA_PLACEHOLDER = re.compile(
    rf"\A[\[(<{{]+\s*(?:insert |an? |the )*{_IMAGE}\b[^\])>}}\n]{{0,80}}[\])>}}]+\Z", re.IGNORECASE
)


class Media(StageConfig):
    """The request asks for an image, a sound, a video or a link, or refers to one that a text cannot contain.

    Exempt: drawings in symbols, pictures in words, programs that draw, and requests that describe the image. English single-turn
    requests only. No settings.
    """


def media(text: Text, rule: Media) -> str | None:  # noqa: ARG001
    """Return the reason if the request needs media."""
    request = _Request.of(text)
    if request is None or requests_code(request.folded):
        return None
    if text.fenced or code_marks(text.response) > 1 or _is_drawing(text):
        return None
    return _requests_media(request) or _refers_to_media(request)


def _requests_media(request: _Request) -> str | None:
    if _IN_WORDS.search(request.folded):
        return None
    for wanted, pattern in (
        ("for media", _MAKES),
        ("for media", _DRAWS),
        ("for a link", _LINKS),
        ("to browse", _BROWSES),
    ):
        if match := pattern.search(request.folded):
            return (
                f"the request asks {wanted}, which a text cannot provide: {match[0].strip()[:60]!r}"
            )
    return None


def _refers_to_media(request: _Request) -> str | None:
    if _MEDIA_PLACEHOLDER.match(request.body) and "html" not in request.folded:
        return f"{request.body[:60]!r} is a placeholder for an image or a sound"
    if _BY_PROGRAM.search(request.folded):
        return None
    has_input = request.has_own_input or len(request.body.split()) > 5
    if not has_input and (match := _VIEWS.search(request.folded)):
        return (
            f"the request refers to media, which a text cannot contain: {match[0].strip()[:60]!r}"
        )
    return None


def _is_drawing(text: Text) -> bool:
    """Return whether the response has more symbols than letters and digits."""
    counts = text.characters
    return (counts.letters + counts.digits) * 2 < counts.visible


@dataclass(frozen=True, slots=True)
class _Request:
    """A single-turn request: the instruction, also casefolded, and the text after it ("" for none)."""

    instruction: str
    folded: str
    body: str

    @classmethod
    def of(cls, text: Text) -> _Request | None:
        """Return None for a later turn of a conversation, and for an instruction long enough to contain its input."""
        if "\x1eassistant\x1f" in text.context or "\x1etool\x1f" in text.context:
            return None
        whole = _NO_INPUT.sub("", text.query[: 10 * _MAX_INSTRUCTION].strip())
        instruction, _, body = whole.partition("\n\n")
        if len(instruction) > _MAX_INSTRUCTION:
            return None
        instruction = " ".join(instruction.split(" ")).strip()
        return cls(instruction, instruction.casefold().replace("’", "'"), body.strip())

    @property
    def has_own_input(self) -> bool:
        """Whether the instruction contains input itself: a quotation, a list, a number or a name."""
        plain = _QUANTITY.sub("", self.instruction)
        return bool(_OWN_INPUT.search(plain) or _PROPER.search(_NAMED.sub("", plain)))
