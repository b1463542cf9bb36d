"""Tokenize text with character spans, so that dataset text cannot create control tokens.

A control token is one that the tokenizer matches in text before anything else, e.g. end of turn or a role header. Inside a
message it is broken with a character that occurs nowhere else, so it is tokenized as plain text, and the tokens of that
character are removed. Text without control tokens is tokenized unchanged.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

Span = tuple[int, int]

# Private use characters: no normaliser changes them and no merge joins them with others.
_BREAKS = tuple(chr(code) for code in range(0xF8E0, 0xF8FF))
_ROUNDS = 8


@dataclass(frozen=True, slots=True)
class Encoded:
    """Token ids, and for each token its characters [start, end) in the text."""

    ids: list[int]
    spans: list[Span]


class TextEncoder:
    """A tokenizer with its control tokens and further strings (role markers) that are treated like them."""

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
        """Return a character that occurs in none of ``texts``."""
        used = set().union(*map(set, texts))
        return next((char for char in _BREAKS if char not in used), _BREAKS[0])

    def shield(self, text: str, mark: str, more: Iterable[str] = ()) -> str:
        """Return ``text`` with every control string, and each of ``more``, broken by ``mark`` after its first character."""
        # Lone surrogates cannot be tokenized.
        text = text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")
        text = _all_broken(self._pattern, text, mark)
        more = sorted({*more} - {""}, key=len, reverse=True)
        return _all_broken(re.compile("|".join(map(re.escape, more))), text, mark) if more else text

    def encode(self, text: str, mark: str = "", *, special: bool = False) -> Encoded:
        """Return the tokens of ``text`` without those of ``mark``; spans are offsets in the text without marks.

        ``special`` adds the tokens that the tokenizer puts around plain text (e.g. beginning of sequence).
        """
        allowed = {m.span() for m in self._pattern.finditer(text)}
        encoded = self._raw(text, special)
        if not mark:
            return encoded
        local = text
        for _ in range(_ROUNDS):
            # A normaliser may create control tokens (full-width brackets, case).
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
        """Return the tokens of ``text``, none of which spans a cut, and the number of tokens before each cut.

        The tokens before a cut depend only on the text before it: the prompt of a model is the beginning of the tokens that it
        is scored or trained on. ``cuts`` are ascending character offsets.
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
        # A tokenizer that marks the start of text with a space does so only at the start.
        newline = self.encode("\n", mark).ids
        led = self.encode("\n" + text, mark)
        if newline and led.ids[: len(newline)] == newline:
            spans = [(max(0, s - 1), max(0, e - 1)) for s, e in led.spans[len(newline) :]]
            return Encoded(led.ids[len(newline) :], spans)
        # A newline may merge with newlines at the beginning of the text; a mark merges with nothing, and is removed.
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
    """``encoded`` without the tokens of ``mark``, with spans in the text without marks."""
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
