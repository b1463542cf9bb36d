"""Rule on responses without an answer: they state that there is none, refuse, or request missing input."""

from __future__ import annotations

import re

from pydantic import Field

from nfilter import StageConfig
from nfilter_entp.purging.query_kinds import head_and_tail
from nfilter_entp.purging.texts import Text

_MEDIA = r"(?:images?|pictures?|photos?|photographs?|drawings?|paintings?|illustrations?|sketch(?:es)?|videos?|audio|recordings?|animations?|gifs?|screenshots?|charts?|graphs?|diagrams?|files?|attachments?)"
_INPUT = (
    r"(?:input|text|texts|sentences?|paragraphs?|passages?|articles?|data|information|context|details|documents?|stor(?:y|ies)|poem|lists?|numbers?|words?|questions?|code"
    rf"|emails?|content|links?|urls?|examples?|instructions?|titles?|quotes?|reviews?|tables?|equations?|{_MEDIA})"
)
_MODEL = (
    r"(?:(?:an?|the|this|any|our) )?(?:(?:gpt|ai|artificial intelligence|(?:large )?language|text[- ]based|machine learning|nlp|text)[- ]?(?:\d\S{0,4} )?"
    r"(?:model|assistant|system|bot|program|agent)s?|gpt(?:-?\d\S{0,3})?|ai|(?:language )?model|assistant|chatbot)"
)
_ACTIONS = (
    r"(?:answer|respond|reply|help|assist|comply|fulfil{1,2}|complete|perform|execute|process|do (?:this|that|so|it)|generate|create|draw|paint|sketch|design|display|show|view|see|look at"
    r"|access|open|browse|visit|play|listen|hear|watch|provide|produce|record|upload|download|attach|edit|take|scan|print|physically|directly|currently|actually|visually|experience|feel|have|understand|recogni[sz]e|identify)"
)
_TASK = r"(?:instruction|task|request|question|prompt|command|query|assignment|activity|problem|type of (?:instruction|task|request|question|problem))"
_SORRY = r"(?:(?:(?:i'm|i am|we're|we are) )?(?:very |so |really )?(?:sorry|afraid)|i apologi[sz]e|my apologies|apologies|unfortunately|regrettably|regretfully)"
_NOT = r"(?:can ?not|can't|could not|couldn't|(?:is|am|are|was)(?:n't| not) (?:able|capable|possible|suitable|designed|supported|intended|meant|applicable|equipped|something|within)|(?:is|am|are) (?:unable|incapable|impossible)|do(?:es)?(?:n't| not))"
_START = rf"\A\W{{0,3}}(?:(?:output|response|answer|result|note|a)\W{{1,4}})?(?:{_SORRY}[^a-z]{{0,3}}(?:but |that |because |however,? )?)?"

_PATTERNS = (
    ("it states that there is no answer", re.compile(
        rf"{_START}(?:n/a|n\.a\.|not applicable|no[ _-]?output|no[ _-]?input|no[ _-]?response|no[ _-]?answer|no result)"
        r"(?:\W{0,3}[(\[:;–—-]|\W{1,3}(?:because|as|since|due to|for|when|where|in this|to this|(?:is|was|can|could|will)(?: be| not)* (?:required|needed|necessary|possible|available|applicable|given|provided|expected|generated|produced|found)|required|needed|necessary|provided|given|available|possible|applicable|this|the|it)\b)")),
    ("it states that there is no answer", re.compile(
        r"\A\W{0,3}(?:output|response|answer|result|note|a)\W{1,4}(?:n/a|n\.a\.|not applicable|no[ _-]?(?:output|input|response|answer|result)|none needed)\W{0,4}\Z")),
    ("it refuses", re.compile(
        rf"{_START}(?:(?:as|being) {_MODEL},? )?(?:i|we)(?: am|'m)? (?:just |only |simply )?(?:can ?not|can't|could not|couldn't|(?:am |'m |are )?(?:unable|not able|incapable|not capable)(?: to| of)?|do not have (?:the )?(?:ability|capability|access)(?: to)?|don't have (?:the )?(?:ability|capability|access)(?: to)?) (?:{_ACTIONS}|{_INPUT})\b")),
    ("it refuses", re.compile(
        rf"{_START}(?:i'm|i am|this is) (?:just |only |simply )?(?:an? )?{_MODEL}\b[^.!?]{{0,60}}\b(?:not|n't|cannot|can't|unable|never|no)\b")),
    ("it refuses", re.compile(
        rf"{_START}(?:(?:unable|not able) to|cannot|can ?not|can't) (?:be (?:done|completed|answered|generated|executed|performed|processed|fulfil{{1,2}}ed|shown|displayed)|{_ACTIONS})\b"
        rf"|{_START}i (?:do not|don't|did not|didn't) understand (?:the|this|that|your|what)\b")),
    ("it states that there is no answer", re.compile(
        rf"{_START}(?:the |this |an? )?(?:output|response|answer|result)s?(?: (?:for|to|of|in) [^.,;:!?]{{1,40}}?)? (?:(?:is|are|was) )?(?:not|(?:cannot|can ?not|can't|could not) be) (?:available|applicable|required|needed|necessary|provided|given|generated|produced|displayed|shown)\b"
        r"|\A\W{0,3}invalid (?:input|instruction|request|question|command|prompt|task)\W{0,4}\Z")),
    ("it states that a model cannot do it", re.compile(
        rf"{_START}[^.!?\n]{{0,60}}\b(?:not (?:something|a task|an instruction)|not possible|not suitable|not feasible|impossible|cannot|can ?not|can't|unable)\b[^.!?\n]{{0,60}}\b(?:gpt[- ]?\d*|(?:ai|gpt|language|text-based) (?:model|assistant|system)s?)\b")),
    ("it states that a model cannot do it", re.compile(rf"{_START}{_MODEL} {_NOT}\b")),
    ("it states that the task cannot be done", re.compile(
        rf"{_START}(?:this|the|that|your)(?: given| above| following)? {_TASK} (?:{_NOT}|is (?:invalid|incomplete|unclear|too vague|not (?:clear|valid|complete|relevant)|missing|outside|beyond)|requires? an? (?:image|picture|video|audio|human|physical))\b")),
    ("it asks for input that the request lacks", re.compile(
        rf"{_START}(?:(?:could|can|would) you )?(?:please |kindly )(?:provide|specify|give|share|send|upload|attach|enter|input|supply|include)(?: me| us)?(?: with)?(?: the| a| an| your| more| some| any)?(?: [\w-]+){{0,3}}? {_INPUT}\b")),
    ("it asks for input that the request lacks", re.compile(
        rf"{_START}(?:there (?:is|was|are|were) no|no|i (?:do not|don't) (?:see|have) an?y?)(?: [\w-]+){{0,2}}? {_INPUT}"
        r"(?: (?:is|was|were|are|has been|have been))? ?(?:provided|given|specified|included|attached|available|to \w+)\b")),
    ("it asks for input that the request lacks", re.compile(
        r"\A\W{0,3}(?:you|the (?:user|prompt|instruction|request)) (?:have not|haven't|did not|didn't|has not|does not|doesn't) (?:provided?|given?|specif(?:y|ied)|include|included|contain|attach|attached)"
        rf"(?: an?| any| the| me)*(?: [\w-]+){{0,2}}? {_INPUT}\b")),
    ("it asks for input that the request lacks", re.compile(
        rf"{_START}the (?:[\w-]+ ){{0,2}}?{_INPUT} (?:is|are|was|were) (?:missing|empty|not (?:provided|given|included|attached|specified|available))\b")),
    ("it is a placeholder for media", re.compile(
        rf"\A\W{{0,3}}[\[(<{{*](?:insert |an? |the |see )?(?:attached )?(?:{_MEDIA})\b[^\])>}}*]{{0,80}}[\])>}}*]\W{{0,3}}\Z")),
)  # fmt: skip
# The query offers these words as a label.
_LABEL_OFFERED = re.compile(
    r"\bn/a\b|\bnot applicable\b|\bno (?:output|answer|response)\b|\b(?:unanswerable|placeholder|captions?|alt text|what does|meaning of)\b"
)
# A rewritten text, a reply to a customer or a line of a play may contain these words legitimately.
_LEGITIMATE = re.compile(
    r"\b(?:rewrite|rephrase|reword|paraphrase|translate|convert|change|transform|correct|edit|proofread|improve|formal\w*|polite\w*|repl(?:y|ies)|respond to|response (?:to|for)|apolog\w+|declin\w+|reject\w*|refus\w+|excuse"
    r"|customers?|e-?mails?|letters?|messages?|dialog(?:ue)?s?|conversations?|scripts?|chatbots?|(?:a|the|stage|short|of the) play|role[- ]?play\w*|pretend|say no|(?:order|feedback|application|contact|web) form|survey|error messages?|notifications?)\b"
)


class NoAnswer(StageConfig):
    """The response, of at most ``most`` words, contains no answer: "N/A (...)", "No output because ...", "This is not something a GPT
    model can do", "Please provide the text", ``[Image of a cat]``.

    The response must begin with such words, and the query must not ask for them. English only.
    """

    most: int = Field(default=60, ge=1, description="Words of a response that is judged, at most.")


def no_answer(text: Text, rule: NoAnswer) -> str | None:
    """Return the reason if a short response only states that there is no answer."""
    if len(text.response) > 12 * rule.most or len(text.words) > rule.most:
        return None
    response = " ".join(text.response.casefold().replace("’", "'").split())
    match = next(
        ((name, hit) for name, pattern in _PATTERNS if (hit := pattern.search(response))), None
    )
    if match is None or _LABEL_OFFERED.search(asked := head_and_tail(text.plain_query)):
        return None
    # An answer may repeat the question, which may contain a request.
    if match[1][0].strip() in asked.replace("’", "'"):
        return None
    if not match[0].startswith("it states") and _LEGITIMATE.search(asked):
        return None
    return f"{match[0]}: {response[:60]!r}"
