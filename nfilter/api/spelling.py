"""The spelling of an answer: answers are compared in lower case, and labels are written as people write them."""

from __future__ import annotations

import unicodedata


def spelled_in(text: str, answer: str) -> str:
    """Return the last occurrence of the case-folded ``answer`` in ``text`` as it is spelled there; ``answer`` without one."""
    plain = " ".join(unicodedata.normalize("NFKC", text).split())
    folded = plain.casefold()
    if not answer or len(folded) != len(plain):  # a letter became two, and positions differ
        return answer
    at = folded.rfind(answer)
    while at >= 0:
        end = at + len(answer)
        inside = (at > 0 and folded[at - 1].isalnum() and answer[0].isalnum()) or (
            end < len(folded) and folded[end].isalnum() and answer[-1].isalnum()
        )
        if not inside and plain[at:end].casefold() == answer:
            return plain[at:end]
        at = folded.rfind(answer, 0, end - 1)
    return answer
