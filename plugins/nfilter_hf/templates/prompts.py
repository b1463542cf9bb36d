"""Requests as token ids, and generated ids as completions. No weights are needed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from nfilter import Completion, Failure, PromptTokens, Request
from nfilter_hf.loading import Loaded, Text
from nfilter_hf.templates.chat import ChatError
from nfilter_hf.templates.tool_calls import with_tool_calls


def prompt_ids(model: Loaded | Text, request: Request) -> list[int]:
    """Return the prompt tokens of a request.

    Raises:
        ChatError: if the template rejects it.
    """
    rendered = model.chat.prompt(request.messages, request.tools)
    encoded, _ = model.chat.encoder.encode_cut(rendered.text, rendered.cuts, rendered.mark)
    return encoded.ids


def encode_request(model: Loaded | Text, request: Request) -> PromptTokens | Completion:
    """Return the prompt, or the completion if nothing is to be generated; see ``nfilter.EncodesRequests``."""
    try:
        ids = prompt_ids(model, request)
    except ChatError as error:
        return Completion("", "failed", failure=Failure("refused", str(error)))
    room = min(request.sampling.max_tokens, model.context - len(ids))
    if len(ids) >= model.context or not ids:
        detail = f"the prompt has {len(ids)} tokens; the model's context holds {model.context}"
        kind: Literal["too_long", "refused"] = "too_long" if ids else "refused"
        return Completion("", "failed", prompt_tokens=len(ids), failure=Failure(kind, detail))
    if room <= 0:
        return Completion("", "length", () if request.logprobs else None, prompt_tokens=len(ids))
    return PromptTokens(tuple(ids), room)


def decode_answer(
    model: Text,
    end_ids: frozenset[int],
    request: Request,
    prompt: PromptTokens,
    ids: Sequence[int],
    logprobs: Sequence[float] | None,
    finish: Literal["stop", "length"],
) -> Completion:
    """Return the completion of generated ``ids``; see ``nfilter.EncodesRequests``."""
    said = ids[:-1] if ids and ids[-1] in end_ids else ids
    text = text_of(model, said)
    cut = first_stop(text, request.sampling.stop)
    chances = tuple(logprobs) if logprobs is not None else None
    done = Completion(text[:cut], finish, chances, len(prompt.ids), len(ids))
    return with_tool_calls(done, request)


def text_of(model: Loaded | Text, ids: Sequence[int]) -> str:
    """Return the text of ids without special tokens, except the marks of reasoning."""
    if not any(key in model.marks for key in ids):
        return _decoded(model, ids)
    parts: list[str] = []
    start = 0
    for index, key in enumerate(ids):
        if key in model.marks:
            parts += [_decoded(model, ids[start:index]), model.marks[key]]
            start = index + 1
    return "".join((*parts, _decoded(model, ids[start:])))


def first_stop(text: str, stops: Iterable[str]) -> int | None:
    """Return the place of the first stop string in a text, else None."""
    starts = [text.find(stop) for stop in stops if stop and stop in text]
    return min(starts) if starts else None


def _decoded(model: Loaded | Text, ids: Sequence[int]) -> str:
    text = model.tokenizer.decode(
        list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    return str(text)
