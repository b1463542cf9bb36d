"""SGLang does not run without a GPU, so tests use a stand-in with its signatures (``fake/sglang``)."""

from __future__ import annotations

import importlib
import json
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from nfilter import Site
from nfilter.registry.loading import Plugins, load
from nfilter_sglang import host
from nfilter_sglang.backend import SGLangBackend

FAKE = Path(__file__).parent / "fake"


def forget() -> None:
    for name in [each for each in sys.modules if each.split(".")[0] == "sglang"]:
        del sys.modules[name]


class ThreadChannel:
    """The process's own code in a thread of this one, over pipes as well, so that tests see the engine."""

    def __init__(self) -> None:
        read, to = os.pipe()
        back, write = os.pipe()
        self.messages, self.results = os.fdopen(to, "wb"), os.fdopen(back, "rb")
        self.thread = threading.Thread(target=self._run, args=(read, write))
        self.thread.start()

    def _run(self, read: int, write: int) -> None:
        with os.fdopen(read, "rb") as messages, os.fdopen(write, "wb") as results:
            host.run(messages, results)

    def send(self, message: Mapping[str, Any]) -> None:
        with suppress(BrokenPipeError):
            self.messages.write(json.dumps(message).encode() + b"\n")
            self.messages.flush()

    def receive(self) -> dict[str, Any] | None:
        line = self.results.readline()
        return json.loads(line) if line else None

    def close(self) -> None:
        with suppress(BrokenPipeError):
            self.messages.close()
        self.thread.join(60)
        assert not self.thread.is_alive()
        self.results.close()


@pytest.fixture
def importable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The stand-in can be imported as ``sglang``, here and in processes that are started."""
    forget()
    monkeypatch.syspath_prepend(str(FAKE))
    monkeypatch.setenv("PYTHONPATH", str(FAKE))
    importlib.invalidate_caches()
    yield
    forget()


@pytest.fixture
def sglang(importable: None, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The stand-in, each test its own; engines run in a thread."""
    monkeypatch.setenv("SGLANG_RETURN_ORIGINAL_LOGPROB", "1")
    monkeypatch.setattr("nfilter_sglang.backend.ProcessChannel", ThreadChannel)
    return importlib.import_module("sglang")


@pytest.fixture(scope="session")
def plugins() -> Plugins:
    return load(block=())


@pytest.fixture
def site(plugins: Plugins, tmp_path: Path) -> Site:
    return Site(tmp_path, plugins.models, backends=plugins.backends)


@pytest.fixture
def opened(sglang: Any, site: Site) -> Iterator[Callable[..., SGLangBackend]]:
    """``opened(model="tiny", ...)`` opens a model with the stand-in, which is closed at the end."""
    made = []

    def make(**config: Any) -> SGLangBackend:
        made.append(SGLangBackend(SGLangBackend.Config(**{"model": "tiny", **config}), site))
        return made[-1]

    yield make
    for backend in made:
        backend.close()


@pytest.fixture(scope="session")
def hf(plugins: Plugins) -> Any:
    """The same model with transformers."""
    cls = plugins.backends["hf"]
    config = cls.Config(model="tiny", device="cpu", dtype="float32")
    return cls(config, Site(Path(), plugins.models))
