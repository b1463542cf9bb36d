"""Real model servers on this machine, started by the tests, and one recipe over them.

They are opt-in: ``pip install -e '.[test,servers]'`` brings what `transformers serve` needs, and llama.cpp's server is a
program of its own. What is missing is named in the reason of a skipped test.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from nfilter import Completion, Message, Request, Sampling, Site
from nfilter.engine.run import run
from nfilter.recipe.model import load as load_recipe
from nfilter.registry.loading import load
from nfilter.store.samples import open_samples
from nfilter_litellm.backend import LiteLLMBackend
from nfilter_litellm.config import LiteLLMConfig

START = 120.0  # seconds in which a server has to be ready
SERVE = "NFILTER_TRANSFORMERS_SERVE"
LLAMA = "NFILTER_LLAMA_SERVER"


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    """All tests of this folder are slow ones, and need a server."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.slow)
            item.add_marker(pytest.mark.servers)


@pytest.fixture(scope="session")
def tiny() -> Path:
    """The folder of the embedded model: a plain checkpoint."""
    return Path(load().models["tiny"])


@pytest.fixture
def line(tiny: Path, request: pytest.FixtureRequest) -> Callable[..., str]:
    """``line("llama_server", logprobs="false")``: the model behind that server, as a recipe has it."""

    def model(server: str, **more: str) -> str:
        url = request.getfixturevalue(server)
        # `transformers serve` knows the checkpoint by its folder.
        name = f"openai/{tiny}" if server == "transformers_serve" else "openai/tiny"
        said = "".join(f", {key}: {value}" for key, value in more.items())
        return f'{{use: litellm, model: "{name}", api_base: "{url}"{said}}}'

    return model


@pytest.fixture
def ask() -> Iterator[Callable[..., list[Completion]]]:
    """``ask(MODEL, URL, requests, concurrency=1)``: the completions of a backend with those settings."""
    made: list[LiteLLMBackend] = []

    def completions(
        model: str, url: str, requests: Sequence[Request], **more: Any
    ) -> list[Completion]:
        config = LiteLLMConfig.model_validate({"model": model, "api_base": url, **more})
        made.append(LiteLLMBackend(config, Site(Path())))
        return made[-1].generate(requests)

    yield completions
    for one in made:
        one.close()


@pytest.fixture
def question() -> Callable[..., Request]:
    """``question(TEXT, logprobs=True, max_tokens=5)``: a request of one turn."""

    def build(
        text: str = "mip 37\nsteps:", *, logprobs: bool = False, draw: int = 0, **sampling: Any
    ) -> Request:
        return Request((Message("user", text),), Sampling(**sampling), logprobs, draw=draw)

    return build


@contextmanager
def started(command: Sequence[str], port: int, log: Path) -> Iterator[None]:
    """A server for as long as the block runs. It is ready when /health says so."""
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, env=env, start_new_session=True
        )
    try:
        _wait(process, f"http://127.0.0.1:{port}/health", log)
        yield
    finally:
        _end(process)


def _wait(process: subprocess.Popen[bytes], address: str, log: Path) -> None:
    until = time.monotonic() + START
    while time.monotonic() < until and process.poll() is None:
        try:
            with urllib.request.urlopen(address, timeout=5) as reply:
                if reply.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise AssertionError(f"no server at {address}: {log.read_text(errors='replace')[-2000:]}")


def _end(process: subprocess.Popen[bytes]) -> None:
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sign)
            process.wait(timeout=10)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue
    process.wait()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.fixture(scope="session")
def transformers_serve(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The ``api_base`` of ``transformers serve`` with tiny's checkpoint."""
    command = shlex.split(os.environ.get(SERVE, ""))
    if not command:
        missing = [name for name in ("fastapi", "uvicorn") if find_spec(name) is None]
        if missing:
            pytest.skip(
                f"transformers serve needs {' and '.join(missing)}: pip install 'transformers[serving]', or set {SERVE} "
                "to a command such as '/other/venv/bin/transformers serve'"
            )
        command = [sys.executable, "-m", "transformers.cli.transformers", "serve"]
    port = free_port()
    command += [str(tiny), "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    with started(command, port, tmp_path_factory.mktemp("serve") / "log"):
        yield f"http://127.0.0.1:{port}/v1"


@pytest.fixture(scope="session")
def llama_server(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The ``api_base`` of llama.cpp's server with tiny's weights in float32."""
    program = os.environ.get(LLAMA) or shutil.which("llama-server")
    if not program:
        pytest.skip(
            f"no llama-server on PATH: build llama.cpp (cmake --build build --target llama-server), and set {LLAMA} to it"
        )
    if find_spec("gguf") is None:
        pytest.skip("llama.cpp reads GGUF files: pip install gguf")
    from tests.servers.gguf_of import write

    folder = tmp_path_factory.mktemp("llama")
    write(tiny, folder / "tiny.gguf")
    port = free_port()
    command = [
        *shlex.split(program), "--model", str(folder / "tiny.gguf"), "--alias", "tiny", "--host", "127.0.0.1",
        "--port", str(port), "--ctx-size", "2048", "--parallel", "2", "--threads", "1", "--jinja",
        # In float32 all through, so that log-probabilities can be compared; flash attention rounds in half of it.
        "--cache-type-k", "f32", "--cache-type-v", "f32", "--flash-attn", "off",
    ]  # fmt: skip
    with started(command, port, folder / "log"):
        yield f"http://127.0.0.1:{port}/v1"


@pytest.fixture(scope="session")
def notes_of(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str, str], Mapping[str, Mapping[str, Any]]]:
    """``notes_of(RECIPE, MODEL)``: by sample, its notes after RECIPE, in which {model} is MODEL, its label, and whether
    it was kept."""
    made: dict[tuple[str, str], dict[str, Mapping[str, Any]]] = {}
    plugins = load()

    def notes(recipe: str, model: str) -> Mapping[str, Mapping[str, Any]]:
        if (recipe, model) not in made:
            home = tmp_path_factory.mktemp("run")
            (home / "recipe.yaml").write_text(recipe.replace("{model}", model), encoding="utf-8")
            run(load_recipe(home / "recipe.yaml", plugins), plugins, home / "out")
            *_, last = sorted(home.glob("out/[0-9][0-9]-*"))
            made[recipe, model] = {
                s.id: {**s.notes, "label": s.response, "kept": s.dropped is None}
                for s in open_samples(last).samples()
            }
        return made[recipe, model]

    return notes


@pytest.fixture(scope="session")
def compared() -> Callable[..., tuple[float, list[str]]]:
    """``compared(one, other)``: the share of samples with the same answers, verdict and label, and a line for each
    other one. ``drawn`` is a view that is left out."""

    def verdict(notes: Mapping[str, Any]) -> tuple[Any, ...]:
        views = ("base", "reasoning", "context", "review")
        answers = [notes[view]["answer"] for view in views if view in notes]
        return (*answers, notes["check"]["flagged"], notes["label"])

    def compare(one: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[float, list[str]]:
        assert set(one) == set(other)
        differences = [
            f"{key}: {verdict(one[key])} and {verdict(other[key])}"
            for key in sorted(one)
            if verdict(one[key]) != verdict(other[key])
        ]
        print("\n".join(differences) or "no difference")  # pytest -rP shows it
        return 1 - len(differences) / len(one), differences

    return compare
