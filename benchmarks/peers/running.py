"""Starts a tool's client with a time limit, and compares its answers with the server's."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers.asking import questions
from tests.model_server.faults import answer

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]


@dataclass(frozen=True)
class Peer:
    """A client: its distribution, its environment, and a label that distinguishes it from other clients."""

    distribution: str
    environment: str
    how: str = ""


PEERS = {
    "curator": Peer("bespokelabs-curator", "curator"),
    "inspect": Peer("inspect-ai", "inspect", ", an eval set"),
    "inspect_model": Peer("inspect-ai", "inspect", ", its model and cache alone"),
    "distilabel": Peer("distilabel", "distilabel"),
}
ENVIRONMENTS = tuple(dict.fromkeys(peer.environment for peer in PEERS.values()))


@dataclass(frozen=True)
class Ended:
    """The end of a process: ``trouble`` is empty without an error; ``said`` is its last line on standard output."""

    trouble: str
    said: str = ""


def interpreter(folder: Path, environment: str) -> Path:
    """Return the Python of an environment."""
    return folder.absolute() / environment / "bin" / "python"


def requirements(environment: str) -> Path:
    return HERE / f"requirements-{environment}.txt"


def name(tool: str) -> str:
    """Return the tool's name in the tables, with its pinned version."""
    peer = PEERS[tool]
    file = requirements(peer.environment)
    for line in file.read_text(encoding="utf-8").splitlines():
        distribution, _, pinned = line.partition("==")
        if distribution.replace("_", "-") == peer.distribution:
            return f"{peer.distribution} {pinned}{peer.how}"
    raise ValueError(f"{file} has no line {peer.distribution}==VERSION")


def missing(folder: Path, tools: list[str]) -> str:
    """Return the command that creates missing environments; empty if none is missing."""
    needed = dict.fromkeys(PEERS[tool].environment for tool in tools)
    for environment in needed:
        if not (python := interpreter(folder, environment)).is_file():
            return f"{python} is not there; make it by: python -m benchmarks.peers setup {folder}"
    return ""


def command(
    folder: Path, tool: str, url: str, calls: int, level: int, out: Path, warm: str = ""
) -> list[str]:
    """Return the command line of one run of a tool."""
    client = [str(interpreter(folder, PEERS[tool].environment)), str(HERE / f"ask_{tool}.py")]
    return [*client, url, str(calls), str(level), str(out), *(["--warm", warm] if warm else [])]


def begin(words: list[str], home: Path, env: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start a process in its own group; its output is in ``home``, which is also its home directory."""
    home.mkdir(parents=True, exist_ok=True)
    with (home / "stdout").open("wb") as out, (home / "stderr").open("wb") as err:
        return subprocess.Popen(
            words, cwd=ROOT, env={**env, "HOME": str(home)}, stdin=subprocess.DEVNULL, stdout=out, stderr=err,
            start_new_session=True,
        )  # fmt: skip


def environment() -> dict[str, str]:
    """Return the environment variables of a peer: those of this process, without nfilter's modules on its path."""
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return {**inherited, "PYTHONWARNINGS": "ignore"}


def kill(process: subprocess.Popen[bytes]) -> None:
    """``kill -9`` a process and its children."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def end(process: subprocess.Popen[bytes], home: Path, seconds: float) -> Ended:
    """Wait for a process up to a time limit; its children are killed."""
    try:
        code = process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        return Ended(f"hung after {seconds:.0f} s")
    finally:
        kill(process)
    if code:
        lines = (home / "stderr").read_text(encoding="utf-8", errors="replace").split("\n")
        last = [line.strip() for line in lines if line.strip()][-1:]
        return Ended(f"exit code {code}: {' '.join(last)[:200]}")
    said = (home / "stdout").read_text(encoding="utf-8", errors="replace").splitlines()
    return Ended("", said[-1] if said else "")


def right_answers(file: Path, calls: int) -> int:
    """Return the number of questions whose answer in the file equals the server's."""
    if not file.is_file():
        return 0
    lines = file.read_text(encoding="utf-8").splitlines()
    given = dict(json.loads(line) for line in lines)
    return sum(
        (given.get(text) or "").strip() == answer([{"content": text}]) for text in questions(calls)
    )
