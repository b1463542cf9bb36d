"""A capital letter that belongs to a name ("vitamin C", "plan B", "C. difficile") and is no option."""

from __future__ import annotations

import re

_BEFORE = 200  # characters looked at before a letter
_SURE = (
    r"(?:therefore|thus|hence|then|clearly|definitely|certainly|obviously|probably|likely|most\slikely|actually|really|indeed|simply|"
    r"just|only|also|still)"
)
_ANSWER = (
    "answer|option|choice|alternative|selection|pick|guess|vote|response|solution|statement|sentence|description|explanation|"
    "interpretation|conclusion|inference|ending|continuation|completion|candidate|one"
)
_BEGINS = (
    r"(?:^|[.;:,!?\n—–(]\s*|(?<!\w)(?:so|thus|therefore|hence|then|and|but|or|because|since|as|that|conclude|means|sure|confident|certain|think|believe|guess|"
    r"say|one\?)\s)"
)
_NOUN = (
    rf"(?:(?:the|my|our|your|this|that|a|an)\s)?(?:[\w'-]+\s){{0,4}}(?:(?:{_ANSWER})|(?:correct|right|best|final|answer|my)\sletter|(?:best|closest)\s(?:match|fit))"
    r"(?:\s(?:here|then|left|now|out|above|below|remaining|available)|\s(?:I|we)(?:['’]d|\swould)?\s(?:choose|chose|pick|select|give)|,\s(?:then|I\s(?:think|believe|guess)),|\s(?:to|for|of|among|from|in|that|which|with)\s[^.;:!?\n]{1,80}?)?"
)
_MODAL = r"(?:must|should|would|will|could|can|may|might|has\sto|have\sto|had\sto|needs?\sto|can\sonly|could\sonly)"
_IS = rf"(?:['’]s|\s(?:{_SURE}\s|{_MODAL}\s){{0,3}}(?:is|was|be))(?:\s{_SURE}){{0,2}}"
_NAMES = (
    "vitamin|hepatitis|influenza|grade|mark|type|group|class|category|rating|score|plan|team|level|key|note|chord|drive|"
    "appendix|exhibit|section|part|person|patient|player|point|vertex|vector|set|gate|element|symbol|variable|phase|stage|strain|"
    "series|model|language|rank|tier|size"
)
_JUDGED = rf"the\s(?:single\s|one\s)?(?:correct|right|best|likeliest|missing|most\s\w+)(?:\s(?!(?:{_NAMES}|blood|chromosome|gene|name|letter)s?(?!\w))[\w'-]+){{1,5}}"
_CHOOSE = (
    r"(?:choose|chosen?|pick(?:ed)?|select(?:ed)?|say|mark|answer(?:\swith)?|(?:go|going|went|stick|stay|answering)\swith|"
    r"(?:opt|go|going|vote|settle)\sfor|vote|guess|suspect|(?:lean|leaning)\stowards?|(?:stick|sticking)\sto|bet\son|"
    r"(?<=ll\s)take|(?<=['’]d\s)take|settl(?:e|ing)\son|choosing|picking|selecting)"
)
_PERSON = rf"(?:(?:I|we|you)(?:['’](?:d|ll|m|re|ve))?|let['’]?s|let\sme|let\sus)\s(?:(?:{_SURE}|{_MODAL}|am|are|have|do)\s){{0,3}}"
_LEFT = (
    r"(?:(?:that|this)\s(?:only\s)?leaves|(?:(?:it|which)\s)?(?:leaves|leaving)(?=\s(?:us|me|only|just|option)(?!\w))|"
    r"(?:I|we)(?:\sam|\sare|['’]m|['’]re)\sleft(?=\swith))(?:\s(?:us|me))?(?:\swith)?(?:\s(?:only|just))?"
)
_ANSWERED = re.compile(
    rf"{_BEGINS}(?:(?:(?:it|that|this|which|{_NOUN}|{_JUDGED}){_IS}(?:\snot\s[A-Z]\sbut)?|(?:{_PERSON}|(?:please\s|just\s)?){_CHOOSE}|{_LEFT})"
    r"(?:\s(?:the\s)?(?:option|choice|letter|answer))?|option|choice)\Z|\Ais\s(?:option|choice)\Z",
    re.IGNORECASE,
)
_LEADS = re.compile(
    r"(?:\A|[^\w\s'’%°]|(?<!\w)(?:so|thus|therefore|hence|then|because|since|as|that|while|whereas|although|though|but|or|not|only|if|when|"
    r"is|are|option|choice|letter|answer|alternative|means|think|believe|say|conclude|see|than|between|eliminate[sd]?|choose|chose|pick|select|"
    r"with|clearly|(?<![A-Za-z]\s)and))\s?\Z",
    re.IGNORECASE,
)
_VERB = re.compile(rf"(?:['’]s|(?<!\w)(?:is|was|be))(?:\s{_SURE}){{0,2}}\s?\Z", re.IGNORECASE)
_NAMED = re.compile(rf"(?<!\w)(?:{_NAMES}):\Z", re.IGNORECASE)
_REASON = re.compile(
    r"\s(?:because|since|as|for|is|was|would|given|here|and|but|so|in|due|based|by|from|which|that|this|it|its|the|are|if|when|while|where|"
    r"I|we|you|overall|again|under|above|among|of\sthe|(?:all|none)\sof|who|whose|not|rather|only|too|then|therefore|thus|with|without|although|though|according|after|before|per|via|through|"
    r"porque|ya|pues|weil|da|denn|und|parce|car|et|puisque|perché|poiché|pois|y|e|è|est|ist|es|karena|vì|çünkü|bo|ponieważ|gdyż|omdat|"
    r"потому|так|и)(?!\w)|\s[^\w\s]",
    re.IGNORECASE,
)
_WORD_BEHIND = re.compile(
    "\\s[A-Za-z\u00c0-\u024f]"
)  # other scripts write a verb behind the letter
_SPECIES = re.compile(
    r"\.\s(?:thaliana|baumannii|fumigatus|niger|aegypti|gambiae|mellifera|lumbricoides|duodenale|tumefaciens|subtilis|cereus|anthracis|"
    r"burgdorferi|pertussis|fragilis|henselae|thuringiensis|melitensis|abortus|mallei|taurus|difficile|diff|elegans|albicans|botulinum|"
    r"tetani|perfringens|diphtheriae|jejuni|trachomatis|pneumoniae|neoformans|auris|glabrata|freundii|burnetii|familiaris|immitis|"
    r"intestinalis|reinhardtii|melanogaster|rerio|discoideum|radiodurans|coli|faecalis|faecium|histolytica|cloacae|granulosus|"
    r"vermicularis|tularensis|nucleatum|hepatica|lamblia|vaginalis|pylori|influenzae|sapiens|ducreyi|erectus|habilis|"
    r"neanderthalensis|capsulatum)(?!\w)"
)


def is_answered(before: str) -> bool:
    """Whether the words before a letter say that it is the answer: "it must be", "I would go with", not "the vitamin is"."""
    return _ANSWERED.search(before[-_BEFORE:].rstrip(" ([\"'“‘")) is not None


def stands_free(before: str, own: str | None = None) -> bool:
    """Whether a letter after ``before`` is not the end of a name: "so C", "(C)", not "vitamin C" and not "carbon (C)".

    ``own`` is the folded text of its option: the letter may stand behind it.
    """
    line = before[-_BEFORE:].rpartition("\n")[2].rstrip(" ([\"'“‘")
    if own and re.sub(r"\W+\Z", "", line).casefold().endswith(own):
        return True
    if _VERB.search(line):
        return is_answered(line)
    return _LEADS.search(line) is not None


def continues(rest: str) -> bool:
    """Whether the word behind a letter makes a name of both: "C major", "B cells", not "C because"."""
    return _WORD_BEHIND.match(rest) is not None and not _REASON.match(rest)


def is_species(behind: str) -> bool:
    """Whether what is behind a letter makes it the short name of a genus: "C. difficile"."""
    return _SPECIES.match(behind) is not None


def names_something(heading: str) -> bool:
    """Whether a line is the heading of something that letters name: "Vitamin:"."""
    return _NAMED.search(heading) is not None
