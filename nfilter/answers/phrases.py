"""Short replies around the letter of an option: "Probably B.", "My pick: B", "B, I think.", "Option B makes the most sense."."""

from __future__ import annotations

import re

from nfilter.answers.markers import denied
from nfilter.answers.names import stands_free

_OPTION = r"(?:the\s)?(?:option|choice|answer(?:\s(?:choice|option))?|alternative|letter)"
_LETTER = r"[(\[{\"'“‘]{0,2}(?P<letter>[A-Z])[)\]}\"'”’]{0,2}"
_EDGE = r"[^\w?]*"
_END = r"[)\]}\"'”’*_.!,;:…\s]*"  # not "C++"
_THINK = r"(?:I|we)(?:['’]d|\swould)?\s(?:think|guess|believe|suspect|conclude|suppose|say)"
_CERTAIN = r"(?:probably|(?:most|very)\slikely|likely|definitely|clearly|surely|certainly|obviously|easily|undoubtedly)"
_LEAD = (
    rf"(?:so|thus|hence|therefore|then|{_CERTAIN}|{_THINK}(?:\sthat)?|in\sconclusion|to\sconclude|in\ssummary|in\sshort|overall|"
    r"by\s(?:the\s)?(?:process\sof\s)?elimination|(?:(?:my|the|our)\s)?final(?:\sanswer)?)"
)
_TRAIL = (
    rf"(?:,?\s(?:{_THINK}|{_CERTAIN}|for\ssure|of\scourse|without\s(?:an?y?\s)?doubt)|"
    rf",?\s(?:not|rather\sthan|instead\sof)\s(?:{_OPTION}\s)?[(\[]?(?-i:[A-Z])[)\]]?)"
)
_SAID = re.compile(
    rf"{_EDGE}(?:{_LEAD}[\s,:]++){{1,3}}(?:{_OPTION}\s)?(?-i:{_LETTER}){_TRAIL}?{_END}"
    rf"|{_EDGE}(?:{_OPTION}\s)?(?-i:{_LETTER.replace('letter', 'letter2')}){_TRAIL}{_END}",
    re.IGNORECASE,
)
_HEADED = re.compile(
    rf"{_EDGE}(?:(?:my|the|our)\s)?(?:(?:final|selected|chosen|correct|right|best|most\slikely)\s)?"
    r"(?:answer|ans|option|choice|letter|selection|response|solution|conclusion|verdict|result|pick|guess|vote|final|correct|selected|"
    r"chosen|to\sconclude|by\selimination)(?:\s(?:choice|option|letter))?"
    rf"\s?[.:=–—-]+\s?(?:option\s|choice\s)?[(\[\"'“‘]*(?P<letter>[A-Za-z]){_END}",
    re.IGNORECASE,
)
_RIGHT = r"(?:the\s)?(?:single\s|only\s)?(?:most\s[a-z]+|correct|right|best|answer)(?:\s(?:answer|option|choice|one|fit|match))?"
_BEST = r"(?:fits|matches|describes|explains|answers|captures|represents|suits|works|reflects)"
_SURE = (
    rf"(?:seems|looks|appears|sounds)(?:\sto\sbe)?\s{_RIGHT}|(?:must|should|would|has\sto|will)\sbe\s{_RIGHT}"
    rf"|{_BEST}(?:\s[\w'’-]+){{0,4}}\sbest|best\s{_BEST}(?:\s[\w'’-]+){{1,6}}|makes\s(?:the\s)?most\ssense|it\sis"
    r"|is\smy\s(?:final\s)?(?:answer|choice|pick|guess|selection)|is\swhat\sI(?:['’]d|\swould)\s(?:choose|pick|select|go\swith)"
    rf"|is\sthe\s(?:only\s)?one\sthat\s(?:fits|works|holds|makes\ssense|is\s(?:true|correct|right|valid))"
    r"|is\sthe\smost\s(?:suitable|reasonable|plausible|fitting|sensible|logical|probable|convincing)(?:\s(?:answer|option|choice|one))?"
)
_PLAIN = r"holds(?:\strue)?|fits|works|is\s(?:true|valid|accurate)|remains|is\sthe\sone|is\sbetter"
_JUDGED = re.compile(
    rf"(?<![\w'’])(?:(?P<only>only\s)?(?P<option>(?:option|choice|answer(?:\schoice)?|alternative)\s)?)(?-i:{_LETTER})\s"
    rf"(?:(?:clearly|definitely|probably|likely|also|still|therefore|thus|indeed)\s)?(?:(?P<sure>{_SURE})|(?P<plain>{_PLAIN}))"
    r"(?=[)\]}\"'”’*_.!,;:…\s]*\Z|[,.;:]\s|\s(?:because|since|here)(?!\w)|(?(sure)\s(?:as|for|in|with|given)\s|(?!)))",
    re.IGNORECASE,
)
_SENTENCE = re.compile(r"(?<=[.!?;])\s")
_TURNS = re.compile(
    r"(?<!\w)(?:but|however|though|although|yet|while|whereas|or|unless|if|doubt|unlikely|impossible|false|untrue|wrong|incorrect|disagree|"
    r"given|granted|without|provided|nobody|no\sone|hardly|were)(?!\w)",
    re.IGNORECASE,
)
_SUPPOSED = re.compile(
    r"(?<!\w)(?:if|whether|unless|suppose|supposing|assume|assuming|why|how|first|initially|glance|"
    r"(?:some|many|most|others|they|people|everyone|nobody|one|students?|author|user|he|she|it)\s(?:(?:might|may|would|could|will)\s)?(?:says?|thinks?|believes?|claims?)|it\s(?:may|might|would|could)\sseem)"
    r"(?:\s(?:that|the))?[\s,:]+(?:only\s)?(?:option\s|choice\s|answer\s)?[(\[\"'“‘]*\Z"
    r"|(?<!\w)you\s(?:might|may|could|would)\s(?:say|think|believe)(?:\sthat)?\s(?:option\s)?[(\[\"'“‘]*\Z",
    re.IGNORECASE,
)
_OTHER = re.compile(r"(?<![\w'’])[A-Z](?![\w'’])")
_FAILS = re.compile(
    r"\s(?:(?:is|was|are|seems|looks|appears|sounds|must\sbe|would\sbe)(?:\sto\sbe)?(?:n['’]t|\s(?:clearly\s|also\s|therefore\s|obviously\s)?(?:not(?!\s(?:only|just|wrong|incorrect|false))|"
    r"wrong|incorrect|false|invalid|unlikely|untrue|impossible|eliminated|excluded|out|implausible))"
    r"|(?:does|do|did|ca|could|would|wo|must|should)n['’]t|(?:does|do|did|can|could|would|will|must|should)\s?not|fails|contradicts)(?!\w)",
    re.IGNORECASE,
)


def said_alone(line: str) -> str | None:
    """Return the letter of a line that says nothing but an answer: "Probably B.", "My pick: B", "B, not A"; None otherwise."""
    headed = _HEADED.fullmatch(line)
    if headed is not None:
        return headed["letter"].upper()
    said = _SAID.fullmatch(line)
    return (said["letter"] or said["letter2"]) if said is not None else None


def judged_last(line: str) -> set[str]:
    """Return the letters that the last sentence of a line judges right, without a word that takes it back.

    "Option B holds" and "B makes the most sense" are judgements; "B holds", of what may be a statement, is none.
    """
    sentence = _SENTENCE.split(line.strip())[-1]
    if sentence.rstrip().endswith("?") or _TURNS.search(sentence):
        return set()
    others = single_letters(sentence)
    found = set()
    for match in _JUDGED.finditer(sentence):
        start = match.start("letter")
        named = match["option"] or match["only"]
        before = sentence[: match.start()] if named else sentence[:start]
        if not (match["sure"] or named) or denied(before) or is_supposed(before):
            continue
        if before.strip() and not stands_free(before):
            continue
        if others <= {match["letter"]}:
            found.add(match["letter"])
    return found


def single_letters(text: str) -> set[str]:
    """Return the capital letters that stand by themselves, but for the word I."""
    return {each[0] for each in _OTHER.finditer(text)} - {"I"}


def is_supposed(before: str) -> bool:
    """Whether what stands before a letter makes its judgement a condition, a question or a first thought: "if B is correct"."""
    return _SUPPOSED.search(before[-60:]) is not None


def fails(behind: str) -> bool:
    """Whether what stands behind a letter says that it is not the answer: "(B) is false", "(B) does not hold"."""
    return _FAILS.match(behind.lstrip(")]}\"'”’*")) is not None
