"""Find the markers that introduce an answer: "Answer: 72", "la respuesta es 72", "答案是72", and "wait, actually 72"."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal
from unicodedata import normalize

_LAST = 64  # markers looked at, from the end

# Latin, Greek, Cyrillic, Arabic and Indic scripts separate words by spaces.
_WORDS = (
    "respuestas?|r[ée]ponse|antwort(?:en)?|antwoord|risposta|resposta|svar|cevap|yanıt|jawaban(?:nya)?|đáp[ ]án|"
    "câu[ ]trả[ ]lời|odpowiedź|odpověď|răspuns(?:ul)?|απάντηση|ответ|відповідь|"
    "[وف]?(?:الجواب|ال[إا]جابة|[إا]جابة|جواب)|پاسخ|उत्तर|जवाब|উত্তর|பதில்|సమాధానం|જવાબ|ਜਵਾਬ|ಉತ್ತರ"
)
_QUALIFIED = (
    "correct[ae]|corrett?[ao]|final[ea]?|definitiv[ao]|juste|exacte|richtige|endgültige|الصحيحة?|النهائية?|benar|"
    "akhir|đúng|cuối[ ]cùng"
)
_IS = (
    "es|é|est|ist|lautet|is|è|är|er|равен|равна|равно|это|هو|هي|هى|برابر|است|है|हैं|হল|হলো|হচ্ছে|adalah|ialah|là|"
    "jest|to|este|είναι|será|sera|serait|sería|wäre"
)
# Scripts without spaces between words.
_RUN_ON = "答案|解答|回答|答え|正解|答|こたえ|正确选项|正確選項|正しい選択肢|정답|해답|답|คำตอบ(?:ที่ถูกต้อง)?|ຄຳຕອບ|ចម្លើយ|အဖြေ"
_RUN_ON_IS = "应该是|應該是|应该为|应为|應為|应是|應是|就是|是|为|為|即|等于|等於|は|が|은|는|이|คือ|เท่ากับ|แม่น|គឺ|မှာ"
_MARK = r"\s?(?:[:：]|=>|->|→|=)|\s?[-–—](?=\s)|[ ]?(?=\n)"

# Texts are compared in Unicode compatibility form, in which some letters have two characters.
_STATES = re.compile(
    normalize(
        "NFKC",
        rf"""(?<!\w)(?<!wrong[ ])(?<!worst[ ])(?<!incorrect[ ])(?<!previous[ ])(?<!initial[ ])(?<!given[ ])(?<!original[ ])(?<!old[ ])(?<!earlier[ ])(?<!their[ ])(?<!student[ ])(?<!['’]s[ ])
    (?: answers? | (?:correct|right|best|final)[ ](?:option|choice|letter) )
    (?: [ ](?:to|for)[ ][^.:;\n]{{1,80}}? )?
    (?: (?P<says> \s?(?:is|are|was|should[ ]be|would[ ]be|must[ ]be|will[ ]be)(?!\w) ) \s?:? | {_MARK} )
    | (?<!\w) (?:{_WORDS}) (?!\w) (?:[ ](?:{_QUALIFIED})(?!\w))?
      (?: (?P<says2> [ ](?:{_IS})(?!\w) ) \s?:? | {_MARK} )
    | (?:{_RUN_ON}) [ ]? (?: (?P<says3> {_RUN_ON_IS} ) \s?:? | {_MARK} )
    | (?P<says4> 故选|故選|应选|應選|故答案选 ) \s?:?""",
    ),
    re.IGNORECASE | re.VERBOSE,
)
_REVISES = re.compile(
    r"""(?<!\w) (?P<hard>(?:wait|no(?=[\s]?[,.:;!…])|scratch[ ]that|correction|on[ ](?:second[ ]thoughts?|reflection)|hold[ ]on|oops|sorry|h+mm+|just[ ]kidding|my[ ](?:mistake|bad))(?!\w))?
    (?(hard)(?:[\s,:;!…—]|[.–-](?![\d.$€£¥])){0,8}(?:(?:wait|no|actually|correction|rather|then|so)(?!\w)(?:[\s,:;!…—]|[.–-](?![\d.$€£¥])){0,8}){0,3}
      | (?:actually|or[ ]rather|i[ ]mean)(?!\w)[\s,:]{1,3} )
    (?:(?:i[ ](?:think|believe|mean)|it|that|this|the[ ]answer|make)(?:['’]s|[ ](?:is|it['’]?s?|that|should[ ]be|must[ ]be))*(?!\w)[\s,:]{0,3}){0,3}""",
    re.IGNORECASE | re.VERBOSE,
)
# "No, because ..." may be the answer itself.
_FIRM = re.compile(
    r"wait|scratch|correction|second|reflection|hold|oops|sorry|hmm|kidding|my ", re.IGNORECASE
)


_DENYING = re.compile(
    r"(?:(?<!\w)(?:not|never|cannot|nor|neither|except|excluding|exclude[ds]?|eliminate[ds]?|rule[ds]?[ ]out|(?:all|anything|everything)[ ]but|"
    r"wrong|incorrect|worst|under[ ]no[ ]circumstances|pas|nicht|niet|geen|inte|ikke|ei[ ]ole|nem|není|nu[ ]este|no[ ]es|não|non|не|nie|δεν|bukan|tidak|"
    r"không[ ]phải|ليس|ليست|לא|אינ[הו]|איננ[הו])|n['’]t|ไม่ใช่|不是|不为|不等于|并非|不选|不選)(?![^\W\d_])(?:(?!\sbut\s)[^.,;!?\n]){0,24}\Z",
    re.IGNORECASE,
)


_DENIES = (
    r"\s?(?:では\s?(?:ない|なく|ありません)|じゃない|[이가]\s?아[니닙]|이\s?\(가\)\s?아[니닙]|नहीं|değil|est\sfau|ist\s(?:falsch|nicht)|n['’]est\spas|"
    r"no\ses|es\s(?:incorrect|fals)|неверн|не\sверн|是错|是錯|错|錯|不对|不對|está\serrad|è\ssbagliat|yanlış|خطأ|نیست|गलत|নয়|"
    r"は\s?間違|[은는이가]\s?틀[렸린])"
)
# Texts are read in this form, in which some letters differ.
DENIES: Final = normalize("NFKC", _DENIES)
"""What says behind an answer in other languages than English that it is none."""
_OTHERS = re.compile(
    r"(?<!\w)(?:(?:students?|user|teacher|annotator|author|given|original|old|previous|earlier|initial|wrong|incorrect|their|his|her)(?:['’]s?)?[ ]"
    r"(?:final[ ])?(?:answer|label|response|choice|sentiment|class|category)[ ]?(?:is|was|says|:|=)|(?:the|a)[ ](?:student|user|annotator|teacher)[ ]"
    r"(?:answered|said|chose|picked|wrote|says|answers))[\s:\"'“(]*\Z",
    re.IGNORECASE,
)
_TAKES_BACK = re.compile(
    r"[.!?…)\n]\s*(?:(?:(?P<sure>actually|wait|h+mm+|hold\son|oops|scratch\sthat|never\smind|that\s?(?:['’]s|is|was)(?:\snot\sright|n['’]t\sright|\swrong|\sincorrect)|"
    r"(?:that|this|it)\s(?:can['’]t|cannot|can\snot)\sbe\sright)|no|nope|sorry|but)[\s,.!…]*){1,4}\Z",
    re.IGNORECASE,
)


def denied(before: str) -> bool:
    """Whether ``before`` says of what follows that it is not the answer, or that of another: "I would not choose", "the student's answer is"."""
    near = before[-60:]
    return _DENYING.search(near) is not None or _OTHERS.search(near) is not None


def taken_back(text: str) -> bool:
    """Whether a text ends by taking its answer back without another one: "Wait, that's wrong."."""
    found = _TAKES_BACK.search(text[-120:])
    return found is not None and found["sure"] is not None


@dataclass(frozen=True, slots=True)
class Statement:
    """A marker of an answer: the ``position`` after it, and its ``form``.

    A ``heading`` has a colon or a line of its own ("Answer:"), a ``verb`` has none ("the answer is"); ``revision``
    takes back what was said before ("wait, it is"), and is ``firm`` where it cannot be meant otherwise.
    """

    position: int
    form: Literal["heading", "verb", "revision"]
    firm: bool = True


def statements(text: str) -> list[Statement]:
    """The last answer markers of the cleaned ``text``, in order."""
    found = [
        Statement(match.end(), "heading" if match.lastgroup is None else "verb")
        for match in _STATES.finditer(text)
    ]
    return found[-_LAST:]


def revised(text: str) -> list[Statement]:
    """Like ``statements``, including revisions of an earlier answer."""
    more = [
        Statement(match.end(), "revision", _FIRM.search(match[0]) is not None)
        for match in _REVISES.finditer(text)
    ]
    return sorted([*statements(text), *more], key=lambda each: each.position)[-_LAST:]
