"""Text to tokens with character spans, such that dataset text cannot write control tokens.

A control token is one that the tokenizer cuts out of text before anything else: end of turn, role headers and the
like. Inside a message it is broken by a character that occurs nowhere else, so it is read as plain text, and the
tokens of that character are taken out again. Text without control tokens is tokenised exactly as it would be.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

Span = tuple[int, int]

# Private use characters: no normaliser touches them and no merge joins them to others.
_BREAKS = tuple(chr(code) for code in range(0xF8E0, 0xF8FF))
_ROUNDS = 8


@dataclass(frozen=True, slots=True)
class Encoded:
    """Token ids, and for each the characters [start, end) of the text that it stands for."""

    ids: list[int]
    spans: list[Span]


class TextEncoder:
    """A tokenizer, its control tokens and the extra strings (role markers) that are treated like them."""

    def __init__(
        self, tokenizer: Any, markers: Iterable[str] = (), controls: Iterable[str] = ()
    ) -> None:
        self.tokenizer = tokenizer
        added = tokenizer.added_tokens_decoder
        wanted = set(controls)
        self.control_ids = {
            int(number): token.content
            for number, token in added.items()
            if (token.special or token.content in wanted) and not token.content.isspace()
        }
        strings = sorted({*self.control_ids.values(), *markers} - {""}, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, strings)) or r"(?!)")

    def break_for(self, texts: Iterable[str]) -> str:
        """A character that occurs in none of ``texts``."""
        used = set().union(*map(set, texts))
        return next((char for char in _BREAKS if char not in used), _BREAKS[0])

    def shield(self, text: str, mark: str, more: Iterable[str] = ()) -> str:
        """``text`` with every control string, and each of ``more``, broken by ``mark`` after its first character."""
        # A lone surrogate cannot be tokenised at all.
        text = text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")
        text = _all_broken(self._pattern, text, mark)
        more = sorted({*more} - {""}, key=len, reverse=True)
        return _all_broken(re.compile("|".join(map(re.escape, more))), text, mark) if more else text

    def encode(self, text: str, mark: str = "", *, special: bool = False) -> Encoded:
        """Tokens of ``text``, in which each ``mark`` stands for nothing; spans count characters without it.

        ``special`` adds what the tokenizer puts around plain text (a beginning-of-sequence token).
        """
        allowed = {m.span() for m in self._pattern.finditer(text)}
        encoded = self._raw(text, special)
        if not mark:
            return encoded
        local = text
        for _ in range(_ROUNDS):
            # A normaliser may make control tokens of what did not look like one (full-width brackets, case).
            forged = [
                span
                for number, span in zip(encoded.ids, encoded.spans, strict=True)
                if number in self.control_ids
                and span[1] > span[0]
                and not any(span[0] <= s < span[1] for s, _ in allowed)
            ]
            if not forged:
                break
            for start, _ in reversed(forged):
                local = local[: start + 1] + mark + local[start + 1 :]
            allowed = {m.span() for m in self._pattern.finditer(local)}
            encoded = self._raw(local, special)
        return _without(encoded, local, mark)

    def encode_cut(self, text: str, cuts: Sequence[int], mark: str) -> tuple[Encoded, list[int]]:
        """Tokens of ``text`` in which no token spans a cut, and the number of tokens before each cut.

        The tokens before a cut are those of the text before it, whatever comes after: what a model was shown as a
        prompt is the beginning of what it is scored or trained on. ``cuts`` are character offsets, ascending.
        """
        edges = [cut for cut in cuts if 0 < cut < len(text)]
        done = Encoded([], [])
        at: dict[int, int] = {0: 0}
        last = 0
        for edge in (*edges, len(text)):
            whole = self.encode(text[:edge], mark)
            size = len(done.ids)
            if whole.ids[:size] == done.ids:
                done = whole
            else:
                base = last - text.count(mark, 0, last)
                tail = self._tail(text[last:edge], mark)
                shifted = [(base + start, base + end) for start, end in tail.spans]
                done = Encoded(done.ids + tail.ids, done.spans + shifted)
            at[edge] = len(done.ids)
            last = edge
        return done, [at[min(max(cut, 0), len(text))] for cut in cuts]

    def _tail(self, text: str, mark: str) -> Encoded:
        # After something else, a tokenizer that marks the start of text with a space does not do so.
        newline = self.encode("\n", mark).ids
        led = self.encode("\n" + text, mark)
        if newline and led.ids[: len(newline)] == newline:
            spans = [(max(0, s - 1), max(0, e - 1)) for s, e in led.spans[len(newline) :]]
            return Encoded(led.ids[len(newline) :], spans)
        # A newline joins those that the text begins with; a mark joins nothing, and is taken out again.
        return self.encode(mark + text, mark)

    def _raw(self, text: str, special: bool) -> Encoded:
        out = self.tokenizer(
            text,
            add_special_tokens=special,
            return_offsets_mapping=True,
            return_attention_mask=False,
            return_token_type_ids=False,
            padding=False,
            truncation=False,
            verbose=False,
        )
        return Encoded(list(out["input_ids"]), [(int(s), int(e)) for s, e in out["offset_mapping"]])


def _all_broken(pattern: re.Pattern[str], text: str, mark: str) -> str:
    while pattern.search(text):
        text = pattern.sub(lambda m: _broken(m.group(), mark), text)
    return text


def _broken(control: str, mark: str) -> str:
    # A control token of one character cannot be broken, so it is replaced.
    return control[0] + mark + control[1:] if len(control) > 1 else "\ufffd"


def _without(encoded: Encoded, text: str, mark: str) -> Encoded:
    """``encoded`` less the tokens that stand for ``mark`` alone, spans counted as if it were not there."""
    if mark not in text:
        return encoded
    before = [0]
    for char in text:
        before.append(before[-1] + (char == mark))
    ids, spans = [], []
    for number, (start, end) in zip(encoded.ids, encoded.spans, strict=True):
        if end > start and before[end] - before[start] == end - start:
            continue
        ids.append(number)
        spans.append((start - before[start], end - before[end]))
    return Encoded(ids, spans)
