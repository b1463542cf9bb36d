"""Texts as a reader takes them: without characters that nobody sees, and with lookalikes of ASCII characters as these."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

_ESCAPE: Final = re.compile(r"\\u([0-9a-fA-F]{4})")
_UNSEEN: Final = frozenset({"Cf", "Mn", "Me"})
"""Categories of characters that take no room: formats such as a zero-width space, and marks over other characters."""
_LOOKALIKES: Final = str.maketrans(
    # Cyrillic, Greek, Armenian and Latin letters that fonts draw like the ASCII letter.
    "аАвВсСԁеЕһНіІјЈкКӏмМоОрРԛѕЅтТуУԝхХьαΑΒϲερΡικΚνοΟΤυΥχΧΖΜΝΕΗΙցհոսıɡɑ"
    # Signs of arithmetic, dashes, quotes.
    "×∙·÷∕−‐‑‒–—’‘“”",
    "aAbBcCdeEhHiIjJkKlmMoOpPqsStTyYwxXbaABcepPikKvoOTuYxXZMNEHIghnuiga***//------''\"\"",
)


def visible(text: str) -> str:
    r"""Return ``text`` with single blanks, compatibility forms and lookalikes as ASCII, without characters that take no room.

    Escapes of JSON (``\u0063``) are read. Letters of other scripts without a lookalike stay.
    """
    if "\\u" in text:
        text = _ESCAPE.sub(lambda match: chr(int(match[1], 16)), text)
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
        text = "".join(each for each in text if unicodedata.category(each) not in _UNSEEN)
        text = text.translate(_LOOKALIKES)
    return " ".join(text.split())
