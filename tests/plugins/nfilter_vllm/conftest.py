"""vLLM does not run without a GPU, so tests use a stand-in with its signatures (``fake/vllm``)."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nfilter import Site
from nfilter.registry.loading import Plugins, load
from nfilter_vllm.backend import VLLMBackend

FAKE = Path(__file__).parent / "fake"


def forget() -> None:
    for name in [each for each in sys.modules if each.split(".")[0] == "vllm"]:
        del sys.modules[name]


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The stand-in, imported as ``vllm``; each test has its own."""
    forget()
    for name in ("VLLM_NO_USAGE_STATS", "VLLM_WORKER_MULTIPROC_METHOD", "VLLM_LOGGING_LEVEL"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.syspath_prepend(str(FAKE))
    importlib.invalidate_caches()
    yield importlib.import_module("vllm")
    forget()


@pytest.fixture(scope="session")
def plugins() -> Plugins:
    return load(block=())


@pytest.fixture
def site(plugins: Plugins, tmp_path: Path) -> Site:
    return Site(tmp_path, plugins.models, backends=plugins.backends)


@pytest.fixture
def opened(vllm: Any, site: Site) -> Iterator[Callable[..., VLLMBackend]]:
    """``opened(model="tiny", ...)`` opens a model with the stand-in, which is closed at the end."""
    made = []

    def make(**config: Any) -> VLLMBackend:
        made.append(VLLMBackend(VLLMBackend.Config(**{"model": "tiny", **config}), site))
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
