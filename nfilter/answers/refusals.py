"""Replies that say that there is no answer: their numbers and letters are none."""

from __future__ import annotations

import re
from unicodedata import normalize

_LAST = 2000  # characters looked at, from the end

_REFUSES = re.compile(
    normalize(
        "NFKC",
        r"""(?<!\w)(?:
      (?:can(?:not|['’]t|[ ]not)|unable[ ]to|not[ ]able[ ]to)[ ](?:answer|help[ ](?:with|you)|assist|choose|solve|be[ ](?:determined|answered|computed))
    | can['’]t[ ]help[.!]?\Z
    | i(?:['’]m|[ ]am)[ ]not[ ]sure | i[ ](?:do[ ]not|don['’]t)[ ]know | as[ ]an?[ ]ai(?!\w)
    | (?:not[ ]enough|insufficient)[ ](?:information|data)
    | no[ ](?:puedo|hay[ ]suficiente) | ne[ ]peux[ ]pas | pas[ ]assez[ ]d['’] | kann[ ][^.!?\n]{0,40}?nicht[ ](?:beantworten|lösen|sagen)
    | не[ ](?:могу|знаю) | لا[ ](?:أستطيع|يمكنني|أعرف)
    )
    | नहीं[ ](?:दे[ ]सकता|बता[ ]सकता) | 无法(?:回答|选择|确定) | 無法(?:回答|選擇|確定) | 我不知道 | 信息不足
    | 答えられません | 分かりません | わかりません | (?:답|알|풀)[^.!?\n]{0,6}수[ ]없습니다 | 모르겠""",
    ),
    re.IGNORECASE | re.VERBOSE,
)


def refuses(text: str) -> bool:
    """Whether ``text`` says that its writer cannot answer, in one of the languages that are known here."""
    return _REFUSES.search(text[-_LAST:]) is not None
