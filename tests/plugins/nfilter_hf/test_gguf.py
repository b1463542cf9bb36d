"""A GGUF file is the model that was written into it: the same tokens, logits and template, and clear words where it is not."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import gguf_of
import numpy as np
import pytest
import torch
import transformers
from packaging.version import Version

from nfilter import Message, ModelError, Request, Sample, Sampling, Site
from nfilter_hf import checks
from nfilter_hf.backend import HFBackend
from nfilter_hf.config import locate
from nfilter_hf.gguf import model as gguf_model
from nfilter_hf.gguf.header import read_header

REQUEST = Request((Message("user", "what is two plus three ?"),), Sampling(max_tokens=5))
SAMPLE = Sample("a", (Message("user", "name a colour"), Message("assistant", "red, green 12 !")))
ODD = (
    "",
    " ",
    "a  b   12 3",
    "\t\n\n x",
    "naïve café ☃ 你好 🙂",
    "the <|im_end|> fox",
    "0123456789",
    "\r\n",
)

BLANKS_ARE_DECODED = Version(transformers.__version__) >= Version("5.22")
"""Earlier versions of transformers give no text for a lone blank of a GGUF vocabulary."""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's cache that is the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "nfilter" / "gguf"


@pytest.fixture
def folder(checkpoint: Any) -> Path:
    return Path(checkpoint("llama", "chatml"))


@pytest.fixture
def written(folder: Path, tmp_path: Path) -> Callable[..., Path]:
    """``written(kind)``: the checkpoint as a GGUF file, its eos and pad the end of a turn, as SmolLM2 has them."""

    def write(kind: str = "F32", name: str = "model.gguf", **more: Any) -> Path:
        ends = json.loads((folder / "tokenizer.json").read_text())["added_tokens"]
        end = next(token["id"] for token in ends if token["content"] == "<|im_end|>")
        file = tmp_path / "files" / name
        file.parent.mkdir(exist_ok=True)
        gguf_of.write(folder, file, kind=kind, pre="gpt-2", eos=end, pad=end, **more)
        return file

    return write


def backend(model: Path | str, base: Path = Path(), **config: Any) -> HFBackend:
    settings = {"device": "cpu", **config}
    return HFBackend(HFBackend.Config(model=str(model), **settings), Site(base))


def problems(model: Path | str, base: Path = Path(), **config: Any) -> list[str]:
    settings = {"device": "cpu", **config}
    return list(HFBackend.problems(HFBackend.Config(model=str(model), **settings), Site(base)))


def logits(model: HFBackend) -> torch.Tensor:
    ids = torch.arange(3, 60)[None]
    with torch.no_grad():
        found: torch.Tensor = model._load().module(input_ids=ids).logits[0]
    return found


@pytest.mark.parametrize(("kind", "most"), [("F32", 0.0), ("F16", 1e-3), ("Q8_0", 8e-3)])
def test_weights_are_those_that_were_written(
    written: Callable[..., Path], folder: Path, kind: str, most: float
) -> None:
    plain, packed = backend(folder), backend(written(kind))
    wanted = dict(plain._load().module.named_parameters())
    found = dict(packed._load().module.named_parameters())
    assert found.keys() == wanted.keys()
    for name, values in found.items():
        assert values.dtype == torch.float32
        # A block of Q8_0 is 32 values in steps of 1/127 of the largest, so half a step is at most 1/254 of it.
        largest = wanted[name].abs().max()
        assert (values - wanted[name]).abs().max() <= most * largest, name
    one, other = logits(plain), logits(packed)
    assert (most == 0) == torch.equal(one, other)
    assert (one - other).norm() <= 10 * most * one.norm()


def test_a_model_of_a_file_is_plain_weights(written: Callable[..., Path]) -> None:
    module = backend(written("Q8_0"))._load().module
    assert getattr(module.config, "quantization_config", None) is None
    assert not getattr(module, "is_quantized", False)
    assert module.name_or_path.endswith("model.gguf")


def test_the_tokenizer_and_its_template_are_those_that_were_written(
    written: Callable[..., Path], folder: Path
) -> None:
    plain, packed = backend(folder)._open_text(), backend(written())._open_text()
    assert packed.chat.template == plain.chat.template
    assert packed.context == 256
    assert packed.vocabulary == plain.vocabulary
    for text in ODD:
        one, other = (each.tokenizer(text, return_offsets_mapping=True) for each in (plain, packed))
        assert other["input_ids"] == one["input_ids"], text
        # The one trims the blank before a word from its span, the other does not.
        for (start, end), (from_, to) in zip(
            one["offset_mapping"], other["offset_mapping"], strict=True
        ):
            assert text[from_:to].strip() == text[start:end].strip(), text
        if text.strip() or BLANKS_ARE_DECODED:
            assert packed.tokenizer.decode(other["input_ids"]) == text
    end = packed.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert packed.tokenizer("<|im_end|>")["input_ids"] == [end]
    assert packed.tokenizer.eos_token_id == packed.tokenizer.pad_token_id == end
    assert end in packed.chat.encoder.control_ids


def test_the_end_of_a_turn_is_trained_on_though_it_is_the_padding_too(
    written: Callable[..., Path], folder: Path
) -> None:
    packed = backend(written())
    (mine,) = packed.encode([SAMPLE], max_length=99, turns="all")
    (wanted,) = backend(folder).encode([SAMPLE], max_length=99, turns="all")
    np.testing.assert_array_equal(mine.ids, wanted.ids)
    np.testing.assert_array_equal(mine.response, wanted.response)
    assert mine.text == wanted.text
    end = packed._open_text().tokenizer.eos_token_id
    assert mine.ids[mine.response][-1] == end
    assert packed._load().stop_ids == {end}
    assert packed.generate([REQUEST])[0].failure is None


def test_what_lies_beside_a_file_is_not_read(written: Callable[..., Path], checkpoint: Any) -> None:
    file = written()
    alone = backend(file).tokenizer_digest()
    other = checkpoint("llama", "llama3")
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json", "chat_template.jinja"):
        shutil.copy(other / name, file.parent / name)
    shutil.rmtree(gguf_model.cache_folder())
    assert backend(file).tokenizer_digest() == alone


# --- what transformers leaves out ---------------------------------------------------------------------------------


def llama3_divisors(count: int, theta: float, factor: float) -> np.ndarray[Any, Any]:
    """What llama.cpp's converter writes for Llama 3.1 and later (convert_hf_to_gguf.py), value by value."""
    out = []
    for place in range(count):
        length = 2 * np.pi * theta ** (place / count)
        if length < 8192 / 4:
            out.append(1.0)
        elif length > 8192:
            out.append(factor)
        else:
            smooth = (8192 / length - 1) / (4 - 1)
            out.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(out, dtype=np.float32)


def test_positions_are_stretched_as_the_file_says(
    written: Callable[..., Path], folder: Path, tmp_path: Path
) -> None:
    config = json.loads((folder / "config.json").read_text())
    theta = 1e6
    config["rope_parameters"]["rope_theta"] = theta
    divisors = llama3_divisors(config["head_dim"] // 2, theta, 8.0)
    assert divisors.min() == 1 < divisors.max() == 8
    stretched = Path(shutil.copytree(folder, tmp_path / "stretched"))
    llama3 = {
        "rope_type": "llama3", "rope_theta": theta, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }  # fmt: skip
    (stretched / "config.json").write_text(json.dumps({**config, "rope_parameters": llama3}))
    file = tmp_path / "l.gguf"
    gguf_of.write(stretched, file, pre="gpt-2", tensors={"rope_freqs.weight": divisors})
    assert torch.equal(logits(backend(file)), logits(backend(stretched)))
    gguf_of.write(stretched, file, pre="gpt-2")
    assert not torch.equal(logits(backend(file)), logits(backend(stretched)))
    gguf_of.write(
        stretched, file, pre="gpt-2", tensors={"rope_freqs.weight": divisors[::-1].copy()}
    )
    with pytest.raises(
        ModelError, match=r"its RoPE scaling \(rope_freqs\.weight\) is not supported"
    ):
        backend(file).generate([REQUEST])
    for named, known in (("linear", True), ("yarn", True), ("longrope", False)):
        keys: dict[str, Any] = {"type": named, "factor": 4.0, "original_context_length": 64}
        keys = {f"llama.rope.scaling.{key}": value for key, value in keys.items()}
        model = backend(written(more=keys))
        if known:
            rope = model._load().module.config.rope_parameters
            assert (rope["rope_type"], rope["factor"]) == (named, 4.0)
        else:
            with pytest.raises(
                ModelError, match=r"\(rope\.scaling\.type longrope\) is not supported.*safetensors"
            ):
                model._load()


def test_text_is_split_as_the_file_says(folder: Path, tmp_path: Path) -> None:
    """In pieces that no token crosses, which shows as where blanks before digits, and letters, are cut."""
    text = "it's  12345\n\nX"

    def pieces(pre: str) -> list[str]:
        file = tmp_path / f"{pre}.gguf"
        gguf_of.write(folder, file, pre=pre)
        splitter = backend(file)._open_text().tokenizer.backend_tokenizer.pre_tokenizer
        return [text[start:end] for _, (start, end) in splitter.pre_tokenize_str(text)]

    assert pieces("gpt-2") == ["it", "'s", " ", " 12345", "\n", "\n", "X"]
    assert pieces("smollm") == ["it", "'s", "  ", "1", "2", "3", "4", "5", "\n", "\n", "X"]
    assert pieces("llama-bpe") == ["it", "'s", " ", " ", "123", "45", "\n\n", "X"]
    assert pieces("qwen2") == ["it", "'s", " ", " ", "1", "2", "3", "4", "5", "\n\n", "X"]
    with pytest.raises(
        ModelError,
        match=r"'own-way' of its vocabulary \(tokenizer\.ggml\.pre\) is not supported.*\*\.safetensors",
    ):
        pieces("own-way")


def test_weights_without_a_place_are_not_dropped(written: Callable[..., Path]) -> None:
    file = written(tensors={"blk.0.attn_q.bias": np.ones(32, dtype=np.float32)})
    with pytest.raises(
        ModelError, match=r"has [\d,]+ weights, and the llama model of transformers has"
    ):
        backend(file)._load()


# --- where it is -------------------------------------------------------------------------------------------------


@pytest.mark.types("Name one of them, as in model:")
def test_a_file_is_named_by_its_path_or_by_a_folder_with_it(
    written: Callable[..., Path], tmp_path: Path
) -> None:
    file = written()
    for model in ("files/model.gguf", "./files/model.gguf", "files", str(file)):
        assert problems(model, tmp_path) == []
        assert locate(model, Site(tmp_path)).gguf == file
    assert locate("mine", Site(tmp_path, {"mine": file})).gguf == file
    shutil.copy(file, file.parent / "b.gguf")
    (found,) = problems("files", tmp_path)
    assert "has 2 GGUF files: b.gguf, model.gguf" in found
    assert "model: files/b.gguf" in found
    assert problems("files/b.gguf", tmp_path) == []


def test_safetensors_weights_come_before_a_file_beside_them(
    written: Callable[..., Path], folder: Path, tmp_path: Path
) -> None:
    both = Path(shutil.copytree(folder, tmp_path / "both"))
    shutil.copy(written(), both)
    assert locate("both", Site(tmp_path)).gguf is None
    assert problems("both", tmp_path) == []


@pytest.mark.types("Give its path relative to the recipe, or a file on the hub")
def test_files_that_are_not_there(written: Callable[..., Path], tmp_path: Path) -> None:
    (found,) = problems("gone/x.gguf", tmp_path)
    assert f"there is no file {tmp_path / 'gone/x.gguf'}" in found
    assert "org/name:file.gguf" in found
    for name in ("org/name:../../x.gguf", "org/name:/x.gguf", "C:/x.gguf", "org/name:a/..\\x.gguf"):
        (found,) = problems(name, tmp_path)
        assert "there is no file" in found, name
    (tmp_path / "x.bin").write_bytes(b"x")
    (found,) = problems("./x.bin", tmp_path)
    assert "does not end in .gguf" in found
    assert problems(written().relative_to(tmp_path), tmp_path) == []
    assert problems("org/name:file.gguf", tmp_path) == []


def test_a_file_on_the_hub(written: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    snapshot = written().parent.rename(Path(gguf_model.cache_folder()).parent.parent / "0123abcd")
    asked: list[Any] = []

    def download(hub_id: str, file: str, revision: str | None = None) -> str:
        asked.append((hub_id, file, revision))
        return str(snapshot / file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    name = "org/name:model.gguf"
    assert problems(name) == []
    model = backend(name, revision="v1")
    assert model.generate([REQUEST])[0].failure is None
    assert asked == [("org/name", "model.gguf", "v1")]
    assert model._load().module.name_or_path == name
    assert model._find().commit == "0123abcd"


def test_a_hub_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def unreachable(*args: Any, **kwargs: Any) -> str:
        raise LocalEntryNotFoundError("no")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", unreachable)
    with pytest.raises(ModelError, match=r"'hf download org/name x\.gguf'.*or give a local file"):
        backend("org/name:x.gguf").fingerprint()


# --- what is said before anything loads -----------------------------------------------------------------------------


@pytest.mark.types("download it again, or give a folder")
def test_a_file_that_is_no_whole_gguf_file(written: Callable[..., Path], tmp_path: Path) -> None:
    whole = written().read_bytes()
    header = read_header(tmp_path / "files" / "model.gguf").size
    broken = tmp_path / "broken.gguf"
    for content, said in (
        (b"", "is empty: copy or download it again"),
        (b"PK\x03\x04" + whole[4:], "is not a GGUF file: it begins with b'PK"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS.*git lfs pull"),
        (whole[:20], "ends within its header"),
        (whole[: header // 2], "ends within its header"),
        (whole[: header - 1], "ends within its header"),
        (whole[:-1], f"has {len(whole) - 1:,} bytes, and its weights end at byte {len(whole):,}"),
        (whole[:4] + struct.pack("<I", 1) + whole[8:], "of GGUF version 1"),
        (whole[:4] + struct.pack(">I", 3) + whole[8:], "for big-endian machines"),
        (whole[:16] + struct.pack("<Q", 2**60) + whole[24:], "broken.gguf"),
    ):
        broken.write_bytes(content)
        with pytest.raises(ModelError, match=said) as caught:
            read_header(broken)
        assert problems(broken) == [str(caught.value)]
        with pytest.raises(ModelError, match=said):
            backend(broken).fingerprint()
    broken.write_bytes(whole)  # downloaded again
    assert problems(broken) == []


def test_no_cut_or_flipped_header_is_an_accident(written: Callable[..., Path]) -> None:
    file = written()
    whole, size = file.read_bytes(), read_header(file).size
    for at in range(0, size, 97):
        for content in (whole[:at], whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :]):
            file.write_bytes(content)
            with suppress(ModelError):
                read_header(file)


@pytest.mark.types("load_in_4bit takes safetensors weights")
def test_models_that_cannot_be_used(
    written: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = written()
    (found,) = problems(file, max_length=999)
    assert "at most 256" in found
    (found,) = problems(file, revision="v1")
    assert "is a file here: remove 'revision'" in found
    found = problems(file, load_in_4bit=True)[0]
    assert "load_in_4bit takes safetensors weights" in found
    assert problems(file) == []
    monkeypatch.setattr(checks, "find_spec", lambda name: None)
    assert (
        "a GGUF model needs the package gguf, which is not installed: pip install 'nfilter[local]'"
        in problems(file)
    )
    monkeypatch.undo()
    whole = file.read_bytes()
    file.write_bytes(whole.replace(b"llama", b"rwkv9"))
    (found,) = problems(file)
    assert "architecture 'rwkv9', which the installed transformers cannot read from GGUF" in found
    file.write_bytes(whole.replace(b"tokenizer.ggml.tokens", b"tokenizer.ggml.tokenz"))
    (found,) = problems(file)
    assert "has no tokenizer (tokenizer.ggml.tokens)" in found


# --- what is remembered ---------------------------------------------------------------------------------------------


def test_the_fingerprint_is_of_the_content(written: Callable[..., Path]) -> None:
    file = written()
    base = backend(file).fingerprint()
    moved = file.rename(file.parent.parent / "other.gguf")
    assert backend(moved).fingerprint() == base
    content = moved.read_bytes()
    moved.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert backend(moved).fingerprint() != base


def test_what_was_converted_is_kept_and_made_again_where_it_is_damaged(
    written: Callable[..., Path], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = written()
    made: list[Path] = []
    plain = gguf_model._convert
    monkeypatch.setattr(gguf_model, "_convert", lambda path: made.append(path) or plain(path))
    first = backend(file).tokenizer_digest()
    assert backend(file).tokenizer_digest() == first
    assert made == [file]
    (kept,) = cache.iterdir()
    for name in ("tokenizer.json", "config.json", "digests.json"):
        (kept / name).write_text("{}x")
        made.clear()
        assert backend(file).tokenizer_digest() == first
        assert made == [file], name
    written(more={"general.name": "another"})
    made.clear()
    assert backend(file).tokenizer_digest() == first
    assert made == [file]
    shutil.rmtree(cache)
    cache.write_text("a file where the folder would be")
    assert backend(file).tokenizer_digest() == first


def test_loading_draws_no_bar_and_gives_the_reader_back(
    written: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import modeling_gguf_pytorch_utils as reading

    bar = reading.tqdm
    backend(written())._load()
    assert capsys.readouterr() == ("", "")
    assert reading.tqdm is bar
