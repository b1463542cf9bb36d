"""A model behind an engine: it is read by the backend that the engine names, and its faults are told before the engine starts."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from nfilter import (
    Checkpoint,
    Completion,
    EngineAdapter,
    EngineKind,
    EngineModel,
    EngineOutput,
    EngineScores,
    ModelError,
    ModelRef,
    PromptTokens,
    Request,
    Sampling,
    Site,
    engine_problems,
    engine_tool_problems,
)

KIND = EngineKind("numpy", "E", least=(1, 2), reader="text")
CONFIG = SimpleNamespace(
    model="m", revision=None, dtype="auto", max_length=64, chat_template="auto"
)


class Reader:
    """A backend that reads and writes numbers; it can do nothing else."""

    def __init__(self, config: Any, site: Site) -> None:
        self.config = config
        self.place = Path("/weights")

    @classmethod
    def text_config(cls, **values: Any) -> Mapping[str, Any]:
        return values

    @classmethod
    def problems(cls, config: Any, site: Site) -> list[str]:
        return [] if config["model"] != "odd" else ["the model is odd"]

    @classmethod
    def tool_problems(cls, config: Any, site: Site) -> list[str]:
        return [f"no tools with {config['model']}"]

    def fingerprint(self) -> str:
        return str(sorted(self.config.items(), key=str))

    def checkpoint(self) -> Checkpoint:
        return Checkpoint(self.place, 64, frozenset({0}))

    def encode_request(self, request: Request) -> PromptTokens:
        return PromptTokens((1, 2, 3), 4)

    def decode_answer(
        self,
        request: Request,
        prompt: PromptTokens,
        ids: Sequence[int],
        logprobs: Sequence[float] | None,
        finish: str,
    ) -> Completion:
        return Completion(" ".join(map(str, ids)))

    def close(self) -> None: ...


class Scripted:
    """An engine that answers ``7 7`` and has room for adapters up to a rank."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.calls: list[Any] = []
        self.closed = False

    def load(self, adapter: EngineAdapter) -> bool:
        return adapter.rank <= self.room

    def add(self, call: Any, adapter: str | None) -> str:
        assert not isinstance(call, EngineScores)
        self.calls.append((call, adapter))
        return str(len(self.calls))

    def wait(self, keys: Collection[str]) -> Iterator[tuple[str, EngineOutput]]:
        for key in list(keys):
            yield key, EngineOutput("stop", [7, 7])

    def abort(self, keys: Collection[str]) -> None:
        assert not keys

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path, backends={"text": Reader})


def opened(site: Site, room: int = 8) -> tuple[EngineModel, list[Scripted]]:
    """A model, and the engines that it has started. None starts with an adapter of a rank above 99."""
    started: list[Scripted] = []

    def start(place: Checkpoint, adapters: Sequence[EngineAdapter]) -> Scripted:
        if any(each.rank > 99 for each in adapters):
            raise ModelError("E cannot start")
        started.append(Scripted(room))
        return started[-1]

    return EngineModel(KIND, CONFIG, site, start), started


def adapter(folder: Path, rank: int) -> ModelRef:
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": rank}))
    save_file({"base_model.model.q.lora_A.weight": np.zeros((1, 1), np.float32)}, folder / "adapter_model.safetensors")  # fmt: skip
    return ModelRef(str(folder), "adapter", "base", "1" * 64)


def test_the_backend_that_the_engine_names_reads_its_requests_and_answers(
    site: Site, tmp_path: Path
) -> None:
    model, started = opened(site)
    request = Request((), Sampling(max_tokens=4))
    assert model.generate([request, request]) == [Completion("7 7")] * 2
    assert model.reader.config == {"model": "m", "revision": None, "max_length": 64, "chat_template": "auto"}  # fmt: skip
    ref = adapter(tmp_path / "a", 8)
    with model.adapted(ref) as adapted:
        assert adapted.generate([request]) == [Completion("7 7")]
    (engine,) = started
    assert [(call.ids, name) for call, name in engine.calls] == [
        ((1, 2, 3), name) for name in (None, None, ref.digest)
    ]
    model.close()
    assert engine.closed


@pytest.mark.types("use it inside 'with model.adapted(ref) as adapted:'")
def test_an_adapter_cannot_be_used_after_its_scope(site: Site, tmp_path: Path) -> None:
    model, _ = opened(site)
    with model.adapted(adapter(tmp_path / "a", 8)) as adapted:
        assert adapted.generate([]) == []
    with pytest.raises(ModelError, match="is no longer attached: use it inside 'with"):
        adapted.generate([])


@pytest.mark.types("«» has no room for the adapter in «»; set use: «» for this model")
def test_an_engine_that_has_no_room_even_when_it_is_started_again_is_named(
    site: Site, tmp_path: Path
) -> None:
    model, started = opened(site, room=8)
    model.generate([Request((), Sampling())])
    with (
        pytest.raises(ModelError, match=r"E has no room for the adapter in .*; set use: text for this model"),
        model.adapted(adapter(tmp_path / "a", 9)) as adapted,
    ):  # fmt: skip
        adapted.generate([Request((), Sampling())])
    assert [engine.closed for engine in started] == [True, False]


def test_an_adapter_with_which_no_engine_starts_is_not_in_the_way_of_other_calls(
    site: Site, tmp_path: Path
) -> None:
    model, started = opened(site)
    request = Request((), Sampling())
    small, odd = adapter(tmp_path / "a", 8), replace(adapter(tmp_path / "b", 100), digest="2" * 64)
    for ref, starts in ((small, 1), (odd, 1), (small, 2)):
        with model.adapted(ref) as adapted:
            if ref is odd:
                with pytest.raises(ModelError, match="E cannot start"):
                    adapted.generate([request])
            else:
                assert adapted.generate([request]) == [Completion("7 7")]
        assert len(started) == starts
    assert model.generate([request]) == [Completion("7 7")]


def problems(site: Site, **config: Any) -> list[str]:
    return list(engine_problems(KIND, SimpleNamespace(**{**vars(CONFIG), **config}), site))


def test_the_faults_of_a_config_are_those_of_its_reader(site: Site) -> None:
    assert problems(site) == []
    assert problems(site, model="odd") == ["the model is odd"]
    assert engine_tool_problems(KIND, CONFIG, site) == ["no tools with m"]


def test_a_missing_package_is_reported_with_the_pip_command(site: Site) -> None:
    absent = EngineKind("nfilter_absent", "E", least=(1,), reader="text")
    assert list(engine_problems(absent, CONFIG, site)) == [
        "nfilter_absent needs the package nfilter_absent, which is not installed: pip install 'nfilter[nfilter_absent]'"
    ]


@pytest.mark.types("and «» is installed: pip install --upgrade '«»>=«»'")
@pytest.mark.parametrize(
    ("installed", "old"),
    [("1.1.9", True), ("0.20.2", True), ("1.2", False), ("1.2.0.post1", False), ("2.0rc1", False), ("dev", False)],
)  # fmt: skip
def test_an_old_version_is_named(
    site: Site, monkeypatch: pytest.MonkeyPatch, installed: str, old: bool
) -> None:
    monkeypatch.setattr("nfilter.models.engines.reader.version", lambda _: installed)
    assert (
        problems(site)
        == [
            f"numpy needs version 1.2 or newer of E, and {installed} is installed: pip install --upgrade 'numpy>=1.2'"
        ]
        * old
    )


@pytest.mark.types("«» runs on Linux only: set use: «» for this model")
def test_another_system_is_told_what_to_use(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nfilter.models.engines.reader.sys.platform", "darwin")
    assert problems(site) == ["numpy runs on Linux only: set use: text for this model"]


@pytest.mark.types(
    "and «» takes a folder or a hub id with safetensors weights: set use: «» for this model",
    "and «» takes a folder with safetensors weights: set use: «» for this model",
)
def test_a_model_in_one_file_is_told_what_to_use(site: Site, tmp_path: Path) -> None:
    file = tmp_path / "m.gguf"
    (said,) = problems(site, model="m.gguf")
    assert said.endswith("safetensors weights: set use: text for this model")
    shipped = replace(site, models={"small": file})
    assert problems(shipped, model="small") == [said.replace("m.gguf", "small")]
    file.write_bytes(b"GGUF")
    model, started = opened(site)
    model.reader.place = file
    with pytest.raises(ModelError, match=r"m\.gguf is one file, and numpy takes .*: set use: text"):
        model.generate([])
    assert not started


def test_without_the_plugin_of_the_reader_the_variable_is_named(site: Site) -> None:
    # Nor is a backend that cannot read for another one.
    for backends in ({}, {"text": Scripted}):
        bare = replace(site, backends=backends)
        assert problems(bare) == [
            "numpy renders prompts with the backend text, whose plugin is not loaded: unset NFILTER_BLOCK_PLUGINS"
        ]
        with pytest.raises(ModelError, match="unset NFILTER_BLOCK_PLUGINS"):
            opened(bare)
    assert opened(site)
