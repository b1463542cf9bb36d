"""Check the encoded rows of an arm before training: rows without a token in the loss, truncation, wrong response masks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nfilter.api.types import IntArray, Sample, TokenSample
from nfilter.recipe.sections import EncodeConfig

Decode = Callable[[Sequence[IntArray]], list[str] | None]

REASONS = ("truncated", "template", "no_answer", "weight")
"""Why a row has no token in the loss: truncated, rejected by the template, no assistant message, weight 0."""

_REPLACEMENT = "\ufffd"
_MARK = 64  # maximum length in characters of a mark that opens reasoning


@dataclass(frozen=True, slots=True)
class Lint:
    """The rows with a token in the loss, the others as id and reason, figures, and warnings."""

    kept: list[TokenSample]
    dropped: list[tuple[str, str]]
    figures: dict[str, Any]
    warnings: list[str]


@dataclass(slots=True)
class _Counts:
    """Counts of rows by kind of problem, with an example of each."""

    counts: dict[str, int] = field(default_factory=dict)
    example: dict[str, str] = field(default_factory=dict)

    def add(self, kind: str, example: str) -> None:
        self.counts[kind] = self.counts.get(kind, 0) + 1
        self.example.setdefault(kind, example)


def lint(
    config: EncodeConfig, items: Sequence[Sample], encoded: Sequence[TokenSample], decode: Decode
) -> Lint:
    """Check every row once. ``encoded`` has one token sample per sample of ``items``, in the same order.

    ``decode`` returns the text of token ids, or None if the backend cannot decode.
    """
    found, remarks = _Counts(), _Counts()
    kept: list[TokenSample] = []
    dropped: list[tuple[str, str]] = []
    for sample, tokens in zip(items, encoded, strict=True):
        why = _why_masked(config, sample, tokens)
        for remark in dict.fromkeys(tokens.remarks):
            remarks.add(remark, repr(sample.id))
        if why is None:
            kept.append(tokens)
            for kind, detail in _mask_faults(sample, tokens):
                found.add(kind, f"{sample.id!r}{detail}")
        else:
            dropped.append((sample.id, why[1]))
            found.add(why[0], f"{sample.id!r}: {why[1]}")
    for name in _decoded_otherwise(kept, decode):
        found.add("decoded_otherwise", repr(name))
    figures = _figures(config, encoded, found)
    warnings = list(_warnings(config, encoded, figures, found))
    if remarks.counts:
        figures["remarks"] = remarks.counts
    for remark, count in remarks.counts.items():
        warnings.append(f"{_count(count, 'row')}: {remark}; for example {remarks.example[remark]}")
    return Lint(kept, dropped, figures, warnings)


def _why_masked(
    config: EncodeConfig, sample: Sample, tokens: TokenSample
) -> tuple[str, str] | None:
    """Return why a row has no token in the loss: one of ``REASONS`` and a sentence; None if it has a token."""
    if tokens.weights.any():
        return None
    if tokens.response.any():
        return "weight", f"every token has weight 0 (sample weight {sample.weight})"
    if not len(tokens.ids) and not len(tokens.cut):
        roles = ", ".join(message.role for message in sample.messages) or "none"
        why = f": {tokens.remarks[0]}" if tokens.remarks else ""
        return "template", f"the chat template rejects its turns ({roles}){why}"
    if tokens.cut.any():
        first = len(tokens.ids) + int(np.argmax(tokens.cut))
        limit = len(tokens.ids)
        by = "encode.max_length" if limit == config.max_length else "the model's context"
        return "truncated", (
            f"no token of the response is left: it begins at token {first + 1} of {_length(tokens)}, and {by} is {limit}"
        )
    if len(tokens.ids) >= config.max_length and not len(tokens.cut):
        return (
            "truncated",
            f"no token of the response is left within max_length {config.max_length}",
        )
    return _why_no_answer(config, sample)


def _why_no_answer(config: EncodeConfig, sample: Sample) -> tuple[str, str]:
    learned = sample.messages if config.turns == "all" else sample.messages[-1:]
    answers = [message for message in learned if message.role == "assistant"]
    if answers and all(message.weight == 0 for message in answers):
        return "weight", "every assistant turn in the loss has weight 0"
    return "no_answer", "its last message is not an assistant's, so it has no response"


def _length(tokens: TokenSample) -> int:
    return len(tokens.ids) + len(tokens.cut)


def _mask_faults(sample: Sample, tokens: TokenSample) -> Iterator[tuple[str, str]]:
    """Yield kind and detail where the response mask is not the assistant's text and one end-of-turn token.

    Kinds: ``prompt`` (another role), ``rewritten`` (the template changed the text), ``opened`` (text before it), ``followed``
    (more than one token after it), ``unended`` (no end-of-turn token).
    """
    turns = np.unique(tokens.turn[tokens.response]).tolist()
    others = [turn for turn in turns if sample.messages[turn].role != "assistant"]
    if others:
        yield "prompt", f" (a message of the {sample.messages[others[0]].role})"
    if not tokens.text:
        return
    for turn in sorted(set(turns) - set(others)):
        where = np.flatnonzero(tokens.response & (tokens.turn == turn))
        spans = tokens.spans[where]
        shown = tokens.text[int(spans[0, 0]) : int(spans[-1, 1])]
        message = sample.messages[turn]
        if message.tool_calls or message.reasoning:
            continue  # the template also renders calls and reasoning; the backend's remarks name omissions
        content = _without_prefix(message.content.strip(), tokens.text[: int(spans[0, 0])], shown)
        open_end = where[-1] + 1 == len(tokens.ids) and tokens.cut[:1].any()
        at = shown.find(content)
        if at < 0 and open_end:
            # The beginning is present; the missing end is counted as truncation.
            continue
        if at < 0:
            yield "rewritten", ""
            continue
        if shown[:at].strip():
            yield "opened", f" ({shown[:at]!r})"
        after = spans[spans[:, 0] >= spans[0, 0] + at + len(content)]
        pieces = [tokens.text[start:end] for start, end in after.tolist()]
        ends = [piece for piece in pieces if piece.strip()]
        if not ends and not open_end:
            yield "unended", ""
        if len(ends) > 1:
            yield "followed", f" ({''.join(pieces)!r})"


def _without_prefix(content: str, before: str, shown: str) -> str:
    """``content`` without the beginning that the prompt ``before`` it ends with, e.g. the mark that opens reasoning."""
    if content in shown:
        return content
    before = before.rstrip()
    sizes = range(min(len(content), _MARK), 0, -1)
    size = next((size for size in sizes if before.endswith(content[:size])), 0)
    return content[size:].lstrip()


def _decoded_otherwise(kept: Sequence[TokenSample], decode: Decode) -> Iterator[str]:
    """Ids of rows whose response tokens decode to another text than their spans cover, ignoring white space."""
    with_text = [tokens for tokens in kept if tokens.text]
    texts = decode([tokens.ids[tokens.response] for tokens in with_text]) if with_text else None
    for tokens, decoded in zip(with_text, texts or (), strict=False):
        covered: list[str] = []
        done = 0
        for start, end in tokens.spans[tokens.response].tolist():
            covered.append(tokens.text[max(start, done) : end])
            done = max(done, end)
        want, got = ("".join(part.split()) for part in ("".join(covered), decoded))
        if tokens.cut[:1].any():
            # The cut may be inside the bytes of a character.
            got = got.rstrip(_REPLACEMENT)
            want = want[: len(got)]
        if want != got:
            yield tokens.id


def _figures(
    config: EncodeConfig, encoded: Sequence[TokenSample], found: _Counts
) -> dict[str, Any]:
    lengths = np.array([_length(tokens) for tokens in encoded if _length(tokens)], dtype=np.int64)
    cut = [tokens for tokens in encoded if len(tokens.cut)]
    count = found.counts.get
    return {
        "rows": len(encoded),
        "tokens": sum(len(tokens.ids) for tokens in encoded),
        "response_tokens": sum(int(tokens.response.sum()) for tokens in encoded),
        "max_length": config.max_length,
        "lengths": {name: _quantile(lengths, q) for name, q in (("median", 0.5), ("p99", 0.99), ("max", 1.0))},
        "truncated": {
            "rows": len(cut),
            "tokens": sum(len(tokens.cut) for tokens in cut),
            "response_tokens": sum(int(tokens.cut.sum()) for tokens in cut),
            "responses": sum(bool(tokens.cut.any()) for tokens in cut),
            "without_end": sum(bool(tokens.cut[0] and tokens.response[-1:].any()) for tokens in cut),
        },
        "all_masked": {reason: count(reason, 0) for reason in REASONS},
        "mask": {kind: count(kind, 0) for kind in ("prompt", "rewritten", "opened", "followed", "unended")},
        "decoded_otherwise": count("decoded_otherwise", 0),
    }  # fmt: skip


def _quantile(lengths: IntArray, share: float) -> int:
    """The smallest length that at least ``share`` of the rows do not exceed."""
    return int(np.quantile(lengths, share, method="inverted_cdf")) if len(lengths) else 0


def _warnings(
    config: EncodeConfig, encoded: Sequence[TokenSample], figures: dict[str, Any], found: _Counts
) -> Iterator[str]:
    if figures["truncated"]["rows"]:
        yield _truncation(config, encoded, figures)
    turns = "; encode.turns: last leaves earlier turns out" if config.turns == "all" else ""
    for kind, noun, text in (
        ("template", "row", "no token, because the chat template rejects the turns: correct them, or, if they have no tools and no reasoning, set chat_template: none for the model"),
        ("no_answer", "row", "no response, because the last message is not an assistant's"),
        ("prompt", "row", "tokens of a prompt in the loss: the backend of encode.model marks them as a response"),
        ("rewritten", "response", f"text that the chat template changes, and the changed text is learned{turns}"),
        ("opened", "response", "text of the chat template before it in the loss"),
        ("followed", "response", "more than an end-of-turn token after it in the loss"),
        ("unended", "response", "no end-of-turn token, so the model does not learn to stop"),
        ("decoded_otherwise", "row", "tokens that decode to another text than the response: the tokenizer does not cover its characters"),
    ):  # fmt: skip
        if count := found.counts.get(kind):
            have = "has" if count == 1 else "have"
            yield f"{_count(count, noun)} {have} {text}; for example {found.example[kind]}"


def _truncation(
    config: EncodeConfig, encoded: Sequence[TokenSample], figures: dict[str, Any]
) -> str:
    cut, lengths = figures["truncated"], figures["lengths"]
    limit = max(len(tokens.ids) for tokens in encoded if len(tokens.cut))
    lost = [f"{_count(cut['response_tokens'], 'token')} of responses cut off"]
    if cut["without_end"]:
        lost.append(f"{_count(cut['without_end'], 'response')} without an end")
    if emptied := figures["all_masked"]["truncated"]:
        lost.append(f"{_count(emptied, 'row')} without any response, which are dropped")
    if limit < config.max_length:
        remedy = (
            f"the model's context is {limit}: shorten the rows, or choose a model with a longer one"
        )
    else:
        p99, longest = lengths["p99"], lengths["max"]
        remedy = f"encode.max_length: {longest} keeps them whole"
        if config.max_length < p99 < longest:
            remedy = f"encode.max_length: {p99} keeps 99% of the rows whole, {longest} all"
    return (
        f"{cut['rows']} of {figures['rows']} rows are longer than {limit} tokens (the longest has "
        f"{lengths['max']:,}): {', '.join(lost)}; {remedy}"
    )


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' if number != 1 else ''}"
