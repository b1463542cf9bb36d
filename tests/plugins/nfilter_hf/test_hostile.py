"""Checkpoints that try to run code, or to read what is not theirs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from nfilter import Message, ModelError, Request, Sampling, Site
from nfilter_hf.backend import HFBackend

REQUEST = Request((Message("user", "what"),), Sampling(max_tokens=2))


@pytest.fixture
def folder(checkpoint: Any, tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoint(), tmp_path / "model"))


def backend(folder: Path) -> HFBackend:
    return HFBackend(HFBackend.Config(model=folder.name, device="cpu"), Site(folder.parent, {}))


def problems(folder: Path) -> list[str]:
    config = HFBackend.Config(model=folder.name, device="cpu")
    return list(HFBackend.problems(config, Site(folder.parent, {})))


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize("shard", ["../outside.safetensors", "/etc/passwd", "a\\..\\x.safetensors"])
def test_an_index_that_leads_out_of_the_folder_is_refused(folder: Path, shard: str) -> None:
    (folder / "model.safetensors").rename(folder / "x.safetensors")
    index = {
        "metadata": {},
        "weight_map": {"model.norm.weight": shard, "lm_head.weight": "x.safetensors"},
    }
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (found,) = problems(folder)
    assert f"names the shard {shard!r} in another folder" in found
    with pytest.raises(ModelError, match="in another folder"):
        backend(folder).generate([REQUEST])


def test_a_tokenizer_is_read_from_the_folder_whatever_its_settings_name(folder: Path) -> None:
    mine = backend(folder).tokenizer_digest()
    other = json.loads((folder / "tokenizer.json").read_text())
    other["added_tokens"][-1]["content"] = "<elsewhere>"
    (folder.parent / "other.json").write_text(json.dumps(other))
    for path in ("../other.json", str(folder.parent / "other.json")):
        edit(folder / "tokenizer_config.json", tokenizer_file=path, vocab_file=path)
        assert backend(folder).tokenizer_digest() == mine


def test_code_for_the_tokenizer_is_never_run(folder: Path) -> None:
    marker = folder / "ran"
    (folder / "own.py").write_text(f"open({str(marker)!r}, 'w')\nclass Own: pass\n")
    edit(
        folder / "tokenizer_config.json",
        auto_map={"AutoTokenizer": ["own.Own", None]},
        tokenizer_class="Own",
    )
    with pytest.raises(ModelError, match="the tokenizer cannot be loaded"):
        backend(folder).generate([REQUEST])
    assert not marker.exists()


@pytest.mark.parametrize(
    "template", ["{{ ''.__class__.__mro__[1].__subclasses__() }}", "{% include '/etc/passwd' %}"]
)
def test_a_chat_template_reaches_nothing(folder: Path, template: str) -> None:
    for path in folder.glob("chat_template*"):
        path.unlink()
    edit(folder / "tokenizer_config.json", chat_template=template)
    with pytest.raises(ModelError, match="chat template"):
        backend(folder).generate([REQUEST])


def test_a_header_of_a_size_that_nothing_has_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes((2**62).to_bytes(8, "little") + b"{}")
    with pytest.raises(ModelError, match="the weights cannot be loaded"):
        backend(folder).generate([REQUEST])
