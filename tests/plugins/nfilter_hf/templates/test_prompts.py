"""Requests as token ids and generated ids as completions, without weights (``nfilter.EncodesRequests``)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from nfilter import Completion, EncodesRequests, Message, PromptTokens, Request, Sampling

ASKED = (Message("user", "red , green"),)


@pytest.mark.parametrize("style", ["chatml", "llama3", "gemma", "tulu", "none"])
def test_prompts_and_end_tokens_are_those_of_the_loaded_model(backend: Any, style: str) -> None:
    model = backend("llama", style)
    assert isinstance(model, EncodesRequests)
    place, loaded = model.checkpoint(), model._load()
    assert place.path == model._find().folder
    assert (place.context, place.end_ids) == (loaded.context, loaded.stop_ids)
    request = Request(ASKED, Sampling(max_tokens=5), logprobs=True)
    prompt = model.encode_request(request)
    (answer,) = model.generate([request])
    assert isinstance(prompt, PromptTokens)
    assert (len(prompt.ids), prompt.room) == (answer.prompt_tokens, 5)


def test_what_cannot_be_asked_is_a_completion(backend: Any) -> None:
    model = backend()
    long = Request((Message("user", "red , " * 300),), Sampling(max_tokens=5))
    none = Request(ASKED, Sampling(max_tokens=0))
    for request in (long, none):
        asked = model.encode_request(request)
        assert isinstance(asked, Completion)
        assert [asked] == model.generate([request])
    near = Request((Message("user", "red , " * 115),), Sampling(max_tokens=999))
    prompt = model.encode_request(near)
    assert isinstance(prompt, PromptTokens)
    assert len(prompt.ids) + prompt.room == 256


def test_the_end_token_counts_and_the_first_stop_string_ends_the_text(
    backend: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = backend()
    tokenizer, (end, *_) = model._open_text().tokenizer, sorted(model.checkpoint().end_ids)
    ids = tokenizer("red , green , blue")["input_ids"]
    prompt = PromptTokens((1, 2, 3), 99)

    def read(ids: list[int], finish: Any, **sampling: Any) -> Completion:
        done = model.decode_answer(Request(ASKED, Sampling(**sampling)), prompt, ids, None, finish)
        assert isinstance(done, Completion)
        return done

    whole = read([*ids, end], "stop")
    assert (whole.text, whole.finish) == ("red , green , blue", "stop")
    assert (whole.prompt_tokens, whole.completion_tokens) == (3, len(ids) + 1)
    assert read(ids, "length").text == whole.text
    assert read(ids, "stop", stop=("blue", "green")).text == "red , "
    assert read([], "length").text == ""
    # An end token need not be special to the tokenizer.
    monkeypatch.setattr(
        model, "_checkpoint", replace(model.checkpoint(), end_ids=frozenset({ids[-1]}))
    )
    assert read(ids, "stop").text == tokenizer.decode(ids[:-1])
