"""What encoding tells of itself: its tokenizer, what ids say, ids that the model does not have, and no weights loaded."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nfilter import Message, ModelError, Sample
from nfilter.engine.lint import lint
from nfilter.recipe.sections import EncodeConfig

TALK = (Message("user", "name a colour"), Message("assistant", "red , or blue"))


def copy(folder: Path, to: Path, **settings: Any) -> Path:
    """A checkpoint of its own, with values of its tokenizer_config.json replaced."""
    shutil.copytree(folder, to)
    file = to / "tokenizer_config.json"
    value = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**value, **settings}), encoding="utf-8")
    return to


def test_the_digest_is_of_the_tokenizer_and_of_the_template(
    checkpoint: Any, open_backend: Any, tmp_path: Path
) -> None:
    folder = checkpoint("llama", "llama3")
    first = open_backend(folder)
    digest = first.tokenizer_digest()
    assert (len(digest.tokenizer), len(digest.template)) == (64, 64)
    # Padding and truncation of a call are no part of it, nor are the weights.
    first._load().tokenizer(["a", "b c d"], padding=True, truncation=True, max_length=2)
    again = open_backend(copy(folder, tmp_path / "again"))
    first._digest = None
    assert first.tokenizer_digest() == again.tokenizer_digest() == digest
    assert open_backend(checkpoint("gpt2", "llama3")).tokenizer_digest() == digest
    plain = open_backend(folder, chat_template="none").tokenizer_digest()
    assert plain.tokenizer == digest.tokenizer
    assert plain.template != digest.template
    ends = open_backend(copy(folder, tmp_path / "ends", eos_token="</s>")).tokenizer_digest()
    assert ends.template != digest.template, "the template writes eos_token"
    state = tmp_path / "again" / "tokenizer.json"
    value = json.loads(state.read_text(encoding="utf-8"))
    merges = value["model"]["merges"]
    merges[-1], merges[-2] = merges[-2], merges[-1]
    state.write_text(json.dumps(value), encoding="utf-8")
    other = open_backend(tmp_path / "again").tokenizer_digest()
    assert other.tokenizer != digest.tokenizer
    assert other.template == digest.template


def test_encoding_loads_no_weights(checkpoint: Any, open_backend: Any, tmp_path: Path) -> None:
    folder = copy(checkpoint("llama", "chatml"), tmp_path / "text")
    whole = open_backend(folder)
    want = whole.encode([Sample("a", TALK)], max_length=99, turns="all")[0]
    whole._load()
    for file in folder.glob("*.safetensors"):
        file.write_bytes(b"not weights")
    text = open_backend(folder)
    got = text.encode([Sample("a", TALK)], max_length=99, turns="all")[0]
    assert got.ids.tolist() == want.ids.tolist()
    assert text.decode([got.ids[got.response]]) == ["red , or blue<|im_end|>"]
    assert text.tokenizer_digest() == whole.tokenizer_digest()
    with pytest.raises(ModelError, match="the weights cannot be loaded"):
        text._load()


def test_a_token_that_the_model_does_not_have_is_an_error(
    checkpoint: Any, open_backend: Any, tmp_path: Path
) -> None:
    folder = copy(checkpoint("llama", "chatml"), tmp_path / "small")
    file = folder / "config.json"
    settings = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**settings, "vocab_size": 100}), encoding="utf-8")
    with pytest.raises(ModelError, match=r"sample 'a': the tokenizer writes token \d+, and the model has embeddings for 100"):  # fmt: skip
        open_backend(folder).encode([Sample("a", TALK)], max_length=99, turns="all")


@pytest.mark.parametrize("style", ["chatml", "llama3", "gemma", "tulu", "none", "inst"])
@pytest.mark.parametrize("kind", ["bytes", "pieces"])
def test_the_lint_of_ordinary_rows_is_clean(backend: Any, style: str, kind: str) -> None:
    model = backend("llama", style, kind)
    said = ["red", " five\n", "\n\n yes <|im_end|> no", "", "   "]
    samples = [
        Sample(str(n), (*TALK, Message("user", "more ?"), Message("assistant", text)))
        for n, text in enumerate(said)
    ]
    encoded = model.encode(samples, max_length=256, turns="all")
    found = lint(EncodeConfig(max_length=256), samples, encoded, model.decode)
    assert found.warnings == []
    assert len(found.kept) == len(samples)


def test_the_lint_finds_what_a_template_and_a_tokenizer_do_to_responses(backend: Any) -> None:
    thinking = backend("llama", "thinking")
    thought = Message("assistant", "<think>hm</think>\nred")
    samples = [Sample("a", (TALK[0], thought, TALK[0], thought))]
    config = EncodeConfig(max_length=256)
    encoded = thinking.encode(samples, max_length=256, turns="all")
    found = lint(config, samples, encoded, thinking.decode)
    assert found.figures["mask"] == {
        "prompt": 0, "rewritten": 1, "opened": 0, "followed": 0, "unended": 0,
    }  # fmt: skip
    last = thinking.encode(samples, max_length=256, turns="last")
    assert lint(config, samples, last, thinking.decode).warnings == []
    # Compatibility characters are normalised by a tokenizer of that kind: another text is learned.
    pieces = backend("llama", "chatml", "pieces")
    samples = [Sample("n", (TALK[0], Message("assistant", "ﬁve ２")))]
    encoded = pieces.encode(samples, max_length=256, turns="all")
    assert lint(config, samples, encoded, pieces.decode).figures["decoded_otherwise"] == 1
    assert lint(config, samples, encoded, backend("llama", "chatml").decode).figures["decoded_otherwise"] == 1  # fmt: skip


@pytest.mark.types("set chat_template: none for the model")
def test_a_conversation_that_the_template_refuses_says_so(tokenizer_of: Any) -> None:
    from nfilter_hf.encoding import encode
    from nfilter_hf.loading import Text
    from nfilter_hf.templates.chat import Chat

    tokenizer = tokenizer_of("gemma")
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "{{ bos_token }}", "{{ bos_token }}{% if messages | length > 2 %}{{ raise_exception('one question') }}{% endif %}"
    )  # fmt: skip
    text = Text(tokenizer, Chat(tokenizer), context=256, vocabulary=1000)
    samples = [Sample("long", (*TALK, *TALK)), Sample("short", TALK)]
    encoded = encode(text, samples, max_length=99, turns="all")
    found = lint(EncodeConfig(), samples, encoded, lambda ids: None)
    assert found.dropped == [
        (
            "long",
            (
                "the chat template rejects its turns (user, assistant, user, assistant): "
                "the chat template rejects the conversation: one question"
            ),
        )
    ]
    with pytest.raises(ModelError):
        encode(replace(text, vocabulary=3), samples, max_length=99, turns="all")
    assert any("set chat_template: none for the model" in said for said in found.warnings)
    plain = replace(text, chat=Chat(tokenizer, plain=True))
    again = encode(plain, samples, max_length=99, turns="all")
    assert lint(EncodeConfig(), samples, again, lambda ids: None).dropped == []
