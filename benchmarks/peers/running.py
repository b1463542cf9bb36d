"""Start a tool's client, bound its time, and hold its answers to what the server said."""

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
    """A client: the distribution behind it, the environment that it runs in, and what sets it apart from another."""

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
    """How a process ended: ``trouble`` is empty where it ended well; ``said`` is its last line on standard output."""

    trouble: str
    said: str = ""


def interpreter(folder: Path, environment: str) -> Path:
    """The Python of an environment."""
    return folder.absolute() / environment / "bin" / "python"


def requirements(environment: str) -> Path:
    return HERE / f"requirements-{environment}.txt"


def name(tool: str) -> str:
    """A tool as the tables name it, with its pinned version."""
    peer = PEERS[tool]
    file = requirements(peer.environment)
    for line in file.read_text(encoding="utf-8").splitlines():
        distribution, _, pinned = line.partition("==")
        if distribution.replace("_", "-") == peer.distribution:
            return f"{peer.distribution} {pinned}{peer.how}"
    raise ValueError(f"{file} has no line {peer.distribution}==VERSION")


def missing(folder: Path, tools: list[str]) -> str:
    """What to type where an environment is not there; empty where all are."""
    needed = dict.fromkeys(PEERS[tool].environment for tool in tools)
    for environment in needed:
        if not (python := interpreter(folder, environment)).is_file():
            return f"{python} is not there; make it by: python -m benchmarks.peers setup {folder}"
    return ""


def command(
    folder: Path, tool: str, url: str, calls: int, level: int, out: Path, warm: str = ""
) -> list[str]:
    """The command line of one run of a tool."""
    client = [str(interpreter(folder, PEERS[tool].environment)), str(HERE / f"ask_{tool}.py")]
    return [*client, url, str(calls), str(level), str(out), *(["--warm", warm] if warm else [])]


def begin(words: list[str], home: Path, env: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start a process in a group of its own; what it says lies in ``home``, which is also its home directory."""
    home.mkdir(parents=True, exist_ok=True)
    with (home / "stdout").open("wb") as out, (home / "stderr").open("wb") as err:
        return subprocess.Popen(
            words, cwd=ROOT, env={**env, "HOME": str(home)}, stdin=subprocess.DEVNULL, stdout=out, stderr=err,
            start_new_session=True,
        )  # fmt: skip


def environment() -> dict[str, str]:
    """The variables of a peer's process: those of this one, without our modules on its path."""
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return {**inherited, "PYTHONWARNINGS": "ignore"}


def kill(process: subprocess.Popen[bytes]) -> None:
    """``kill -9`` to a process and to all that it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def end(process: subprocess.Popen[bytes], home: Path, seconds: float) -> Ended:
    """Wait for a process, no longer than that; none of its children is left."""
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
    """How many of the questions the file answers as the server did."""
    if not file.is_file():
        return 0
    lines = file.read_text(encoding="utf-8").splitlines()
    given = dict(json.loads(line) for line in lines)
    return sum(
        (given.get(text) or "").strip() == answer([{"content": text}]) for text in questions(calls)
    )
