"""What is loaded, what is refused and with which words, and what is known before anything loads."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from nfilter import (
    Adapts,
    Attends,
    Attributes,
    Embeds,
    Encodes,
    Generates,
    LendsModule,
    Message,
    ModelError,
    Request,
    Sampling,
    Scores,
    Site,
    Streams,
    Tokenizes,
)
from nfilter.testing import check_backend
from nfilter_hf import checks, fingerprint
from nfilter_hf.backend import HFBackend
from nfilter_hf.loading import choose_dtype

REQUEST = Request((Message("user", "what"),), Sampling(max_tokens=4))


def backend_of(
    model: str, base: Path, shipped: dict[str, Path] | None = None, **config: Any
) -> HFBackend:
    settings = {"device": "cpu", **config}
    return HFBackend(HFBackend.Config(model=model, **settings), Site(base, shipped or {}))


def problems(
    model: str, base: Path, shipped: dict[str, Path] | None = None, **config: Any
) -> list[str]:
    settings = {"device": "cpu", **config}
    return list(
        HFBackend.problems(HFBackend.Config(model=model, **settings), Site(base, shipped or {}))
    )


@pytest.fixture
def folder(checkpoint: Any, tmp_path: Path) -> Path:
    """A copy of a checkpoint that a test may spoil."""
    return Path(shutil.copytree(checkpoint(), tmp_path / "model"))


def edit(path: Path, **changes: Any) -> None:
    settings = json.loads(path.read_text())
    path.write_text(json.dumps({**settings, **changes}))


def test_the_conformance_check_passes() -> None:
    config = HFBackend.Config(model="x")
    abilities = check_backend(HFBackend, config)
    assert abilities.logprobs
    assert abilities.capabilities == {
        Generates,
        Streams,
        Embeds,
        Scores,
        Attends,
        Attributes,
        Encodes,
        Tokenizes,
        LendsModule,
        Adapts,
    }
    backend = HFBackend(config, Site(Path()))
    assert all(isinstance(backend, capability) for capability in abilities.capabilities)


def test_importing_loads_neither_torch_nor_transformers() -> None:
    code = (
        "import sys, json; from pathlib import Path; import nfilter_hf; from nfilter import Site\n"
        "(backend,) = nfilter_hf.nfilter_backends(); (trainer,) = nfilter_hf.nfilter_trainers()\n"
        "config = backend.Config(model='gone/', device='mps', load_in_4bit=True)\n"
        "found = list(backend.problems(config, Site(Path('.'))))\n"
        "assert found; backend.abilities(config); backend(config, Site(Path('.')))\n"
        "heavy = {'torch', 'transformers', 'peft', 'huggingface_hub', 'accelerate'} & set(sys.modules)\n"
        "print(json.dumps([backend.name, trainer.name, sorted(heavy)]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ}
    )
    assert json.loads(done.stdout) == ["hf", "hf.lora", []]


@pytest.mark.parametrize("name", ["model", "./model", "shipped"])
def test_a_model_is_a_shipped_name_or_a_folder(folder: Path, name: str) -> None:
    backend = backend_of(name, folder.parent, {"shipped": folder})
    assert problems(name, folder.parent, {"shipped": folder}) == []
    assert backend.generate([REQUEST])[0].failure is None
    assert problems(str(folder), Path("/")) == []


def test_weights_load_once_and_at_first_use(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = backend_of("model", folder.parent)
    assert backend._loaded is None
    backend.generate([REQUEST])
    first = backend._loaded
    backend.embed(["a"])
    with backend.lend() as lent:
        assert lent.module is first.module
    assert backend._loaded is first
    backend.close()
    assert backend._loaded is None
    backend.close()
    assert backend.generate([REQUEST])[0].failure is None


def test_what_is_loaded_is_what_was_saved(folder: Path) -> None:
    from safetensors.torch import load_file

    loaded = backend_of("model", folder.parent)._load()
    saved = load_file(folder / "model.safetensors")
    state = loaded.module.state_dict()
    for name, tensor in saved.items():
        assert torch.equal(state[name], tensor)
    assert not loaded.module.training
    assert {p.dtype for p in loaded.module.parameters()} == {torch.float32}
    half = backend_of("model", folder.parent, dtype="bfloat16")._load()
    assert {p.dtype for p in half.module.parameters()} == {torch.bfloat16}


def test_number_formats_follow_the_device() -> None:
    assert choose_dtype(HFBackend.Config(model="x"), "cpu") == "float32"
    assert choose_dtype(HFBackend.Config(model="x"), "mps") == "bfloat16"
    assert choose_dtype(HFBackend.Config(model="x", dtype="float16"), "cpu") == "float16"


def refused(folder: Path, match: str, *, early: bool = True) -> None:
    with pytest.raises(ModelError, match=match):
        backend_of("model", folder.parent).generate([REQUEST])
    found = problems("model", folder.parent)
    assert bool(found) == early
    if early:
        assert any(__import__("re").search(match, problem) for problem in found)


@pytest.mark.types("has only pickled weights")
def test_pickled_weights_are_refused(folder: Path) -> None:
    weights = torch.load  # what must not be called
    marker = folder / "ran"

    class Bomb:
        def __reduce__(self) -> Any:
            return (Path.touch, (marker,))

    import pickle

    whole = folder.parent / "whole.safetensors"
    (folder / "model.safetensors").rename(whole)
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))
    refused(folder, r"only pickled weights.*save_pretrained")
    assert not marker.exists()
    assert torch.load is weights
    (folder / "pytorch_model.bin").unlink()
    shutil.copy(whole, folder / "model.safetensors")
    module = (
        HFBackend(HFBackend.Config(model="model", device="cpu"), Site(folder.parent))._load().module
    )
    torch.save(module.state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    refused(folder, r"save_pretrained\('NEW_FOLDER'\), and use NEW_FOLDER")
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_pretrained(str(folder)).save_pretrained(folder.parent / "NEW_FOLDER")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(folder / name, folder.parent / "NEW_FOLDER" / name)
    assert problems("NEW_FOLDER", folder.parent) == []
    assert backend_of("NEW_FOLDER", folder.parent).generate([REQUEST])[0].failure is None


def test_code_in_a_checkpoint_is_refused_and_never_run(folder: Path) -> None:
    marker = folder / "ran"
    (folder / "modeling_own.py").write_text(
        f"open({str(marker)!r}, 'w')\nclass Own: pass\nclass OwnConfig: pass\n"
    )
    auto = {"AutoConfig": "modeling_own.OwnConfig", "AutoModelForCausalLM": "modeling_own.Own"}
    edit(folder / "config.json", auto_map=auto, model_type="own_model", architectures=["Own"])
    refused(folder, r"auto_map.*never executed; use a model whose architecture")
    assert not marker.exists()
    # Of an architecture that transformers has, its own class is used and the checkpoint's code is not.
    edit(folder / "config.json", model_type="llama", architectures=["LlamaForCausalLM"])
    assert backend_of("model", folder.parent).generate([REQUEST])[0].failure is None
    assert not marker.exists()


def test_trust_remote_code_is_no_setting() -> None:
    with pytest.raises(ValidationError, match="trust_remote_code"):
        HFBackend.Config(model="x", trust_remote_code=True)


def test_a_folder_without_weights_or_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    refused(folder, r"has no tokenizer")
    (folder / "model.safetensors").unlink()
    refused(folder, r"has no \*\.safetensors weights")
    (folder / "config.json").write_text("[1")
    refused(folder, r"not a JSON object")
    (folder / "config.json").unlink()
    refused(folder, r"no config\.json")
    (folder / "adapter_config.json").write_text("{}")
    refused(folder, r"an adapter, not a full model.*nfilter merge")


def test_weights_that_are_missing_or_broken(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    weights.pop("model.norm.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    refused(folder, r"1 weights are missing.*model\.norm\.weight", early=False)
    (folder / "model.safetensors").write_bytes(b"\x08\x00\x00")
    refused(folder, "the weights cannot be loaded", early=False)


def test_a_model_that_does_not_generate(folder: Path) -> None:
    edit(folder / "config.json", model_type="t5", architectures=["T5ForConditionalGeneration"])
    refused(folder, "not a causal language model", early=False)


@pytest.mark.types("is a «»: remove 'revision'", "Give a folder with config.json")
def test_names_that_lead_nowhere(folder: Path) -> None:
    shipped = {"tiny": folder}
    assert problems("tyny", folder, shipped) == ["model 'tyny' is not known; did you mean 'tiny'?"]
    with pytest.raises(ModelError, match="did you mean 'tiny'"):
        backend_of("tyny", folder, shipped).generate([REQUEST])
    for name in ("./gone", "../gone", "/gone/away", "a/b/c", "~/gone-away"):
        (found,) = problems(name, folder, shipped)
        assert "there is no folder" in found
        assert "hub id" in found
    assert problems("gpt2", folder, shipped) == []
    assert problems("meta-llama/Llama-3.2-3B-Instruct", folder, shipped) == []
    (found,) = problems("model", folder.parent, revision="main")
    assert "remove 'revision'" in found
    assert problems("model", folder.parent) == []


def test_max_length_past_the_context(folder: Path) -> None:
    (found,) = problems("model", folder.parent, max_length=999)
    assert "at most 256" in found
    assert problems("model", folder.parent, max_length=256) == []


def test_devices_that_are_not_there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "_may_have_cuda", lambda: False)
    monkeypatch.setattr(sys, "platform", "linux")
    assert "macOS" in problems("model", folder.parent, device="mps")[0]
    assert "no CUDA device" in problems("model", folder.parent, device="cuda")[0]
    assert problems("model", folder.parent, device="auto") == []
    assert (
        "needs a CUDA device, not device cpu"
        in problems("model", folder.parent, load_in_4bit=True)[0]
    )
    none = problems("model", folder.parent, device="auto", load_in_4bit=True)
    assert "this machine has none" in none[0]
    monkeypatch.setattr(checks, "find_spec", lambda name: None)
    missing = problems("model", folder.parent)
    assert "pip install 'nfilter[local]'" in missing[0]
    monkeypatch.setattr(checks, "_may_have_cuda", lambda: True)
    found = problems("model", folder.parent, device="cuda", load_in_4bit=True)
    assert any("pip install 'nfilter[quant]'" in problem for problem in found)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_missing_device_is_an_error_when_loading(folder: Path) -> None:
    with pytest.raises(
        ModelError, match=r"device cuda is not available \(available: .*cpu\): set device to auto"
    ):
        backend_of("model", folder.parent, device="cuda").generate([REQUEST])
    with pytest.raises(ModelError, match="load_in_4bit needs a CUDA device"):
        backend_of("model", folder.parent, load_in_4bit=True).generate([REQUEST])


def test_hub_models_are_fetched_without_pickles_and_named_by_commit(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    snapshot = folder.parent / "0123abcd"
    folder.rename(snapshot)
    asked: dict[str, Any] = {}

    def download(repo: str, **options: Any) -> str:
        asked.update(options, repo=repo)
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    backend = backend_of("org/name", folder.parent, revision="v1")
    assert backend.generate([REQUEST])[0].failure is None
    assert (asked["repo"], asked["revision"]) == ("org/name", "v1")
    assert not any("bin" in pattern or pattern == "*" for pattern in asked["allow_patterns"])
    assert backend._load().module.name_or_path == "org/name"
    first = backend.fingerprint()
    other = folder.parent / "9999ffff"
    snapshot.rename(other)
    snapshot = other
    assert backend_of("org/name", folder.parent, revision="v1").fingerprint() != first


def test_a_hub_that_cannot_be_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def unreachable(*args: Any, **kwargs: Any) -> str:
        raise LocalEntryNotFoundError("no")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(ModelError, match="hf download org/name"):
        backend_of("org/name", tmp_path).fingerprint()


def test_the_fingerprint_is_of_the_contents(folder: Path) -> None:
    def of(**config: Any) -> str:
        return backend_of("model", folder.parent, **config).fingerprint()

    base = of()
    assert len(base) == 64
    assert of() == base
    assert of(batch_tokens=7) == base, "a batch's size changes no answer"
    assert len({base, of(dtype="bfloat16"), of(max_length=99), of(chat_template="none")}) == 4
    moved = Path(shutil.copytree(folder, folder.parent / "elsewhere"))
    assert backend_of("elsewhere", folder.parent).fingerprint() == base
    (moved / "README.md").write_text("words")
    assert backend_of("elsewhere", folder.parent).fingerprint() == base
    for name in ("tokenizer.json", "config.json", "model.safetensors", "chat_template.jinja"):
        path = moved / name
        old = path.read_bytes()
        last = bytes([old[-1] ^ 1]) if name.endswith(".safetensors") else old[-1:] + b"\n"
        path.write_bytes(old[:-1] + last)
        assert backend_of("elsewhere", folder.parent).fingerprint() != base, name
        path.write_bytes(old)
    assert backend_of("elsewhere", folder.parent).fingerprint() == base


def test_digests_of_large_files_are_remembered(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fingerprint, "_LARGE", 1)
    hashed: list[str] = []
    plain = fingerprint.file_sha256
    monkeypatch.setattr(
        fingerprint, "file_sha256", lambda path: hashed.append(path.name) or plain(path)
    )
    store = folder.parent / "cache" / "digests.json"
    first = fingerprint.fingerprint(folder, {}, store)
    assert "model.safetensors" in hashed
    hashed.clear()
    assert fingerprint.fingerprint(folder, {}, store) == first
    assert hashed == []
    weights = folder / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(weights, ns=(1, 1))
    assert fingerprint.fingerprint(folder, {}, store) != first
    assert hashed == ["model.safetensors"]
    store.write_text("{broken")
    assert fingerprint.fingerprint(folder, {}, store) == fingerprint.fingerprint(folder, {}, None)


def test_other_threads_wait_while_the_weights_are_lent(folder: Path) -> None:
    backend = backend_of("model", folder.parent)
    free: list[bool] = []

    def look() -> None:
        free.append(backend._lock.acquire(blocking=False))
        if free[-1]:
            backend._lock.release()

    def look_elsewhere() -> bool:
        worker = threading.Thread(target=look)
        worker.start()
        worker.join()
        return free[-1]

    assert look_elsewhere()
    with backend.lend():
        assert not look_elsewhere()
        assert backend.generate([REQUEST])[0].failure is None, "the borrower itself may go on"
    assert look_elsewhere()


def test_a_lent_model_still_scores_in_eval_mode(folder: Path) -> None:
    backend = backend_of("model", folder.parent)
    wanted = backend.embed(["fox"])
    with backend.lend() as lent:
        lent.module.train()
        np.testing.assert_array_equal(backend.embed(["fox"]), wanted)
        assert lent.module.training
        assert lent.module.model.layers[0].training


@pytest.mark.types(
    "not device «»: remove load_in_4bit",
    "needs a CUDA device, not «»: remove load_in_4bit",
    "and this machine has none: remove load_in_4bit",
    "needs bitsandbytes: pip install",
)
def test_without_four_bits_the_model_loads(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "_may_have_cuda", lambda: False)
    for device in ("cpu", "auto"):
        found = problems("model", folder.parent, device=device, load_in_4bit=True)
        assert any(
            "needs a CUDA device" in each and "remove load_in_4bit" in each for each in found
        )
        assert problems("model", folder.parent, device=device) == []
    monkeypatch.setattr(checks, "find_spec", lambda name: None if name == "bitsandbytes" else True)
    found = problems("model", folder.parent, device="cuda", load_in_4bit=True)
    assert any(
        "needs bitsandbytes: pip install 'nfilter[quant]', or remove" in each for each in found
    )
    with pytest.raises(ModelError, match="needs a CUDA device, not cpu: remove load_in_4bit"):
        backend_of("model", folder.parent, load_in_4bit=True).generate([REQUEST])
    assert backend_of("model", folder.parent).generate([REQUEST])[0].failure is None


@pytest.mark.types("the tokenizer has no tokenizer.json", "Save it again as tokenizer.json")
def test_a_tokenizer_is_saved_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoTokenizer

    whole = AutoTokenizer.from_pretrained(str(folder))
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match=r"cannot be loaded.*Save it again as tokenizer\.json"):
        backend_of("model", folder.parent).generate([REQUEST])
    whole.save_pretrained(folder)
    assert backend_of("model", folder.parent).generate([REQUEST])[0].failure is None
    load = AutoTokenizer.from_pretrained

    def slow(*args: Any, **more: Any) -> Any:
        found = load(*args, **more)
        if not (folder / "converted").exists():
            monkeypatch.setattr(type(found), "is_fast", property(lambda self: False))
        return found

    with monkeypatch.context() as patch:
        patch.setattr(AutoTokenizer, "from_pretrained", slow)
        with pytest.raises(ModelError, match=r"convert it with AutoTokenizer\.from_pretrained"):
            backend_of("model", folder.parent).generate([REQUEST])
    monkeypatch.undo()
    AutoTokenizer.from_pretrained(str(folder)).save_pretrained(folder)
    assert backend_of("model", folder.parent).generate([REQUEST])[0].failure is None
