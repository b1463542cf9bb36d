"""The fenced blocks of the documents, and a folder in which their commands are run."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.command_line import Done, call

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def cli() -> Callable[..., Done]:
    return call


def additions(seed: int, n: int) -> list[tuple[str, int]]:
    """Return sums that the embedded model can solve: two numbers of two digits."""
    return [
        (f"{11 + (seed + 7 * i) % 80}+{12 + (seed + 5 * i) % 70}", 23 + (seed + 7 * i) % 80 + (seed + 5 * i) % 70)
        for i in range(n)
    ]  # fmt: skip


@pytest.fixture(scope="session")
def yard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the files that the README names: train.jsonl (every third label wrong), test.jsonl, reviews of two kinds and data.csv.

    ``prompts/robustft`` beside the recipe has the templates of ``prompts/tiny``: the folder of a recipe is searched first, so
    that the recipe can stay as it is shown.
    """
    path = tmp_path_factory.mktemp("yard")
    furnished(path)
    return path


def furnished(path: Path) -> None:
    """Write the files that documents name into a folder."""
    shutil.copytree(ROOT / "prompts" / "tiny", path / "prompts" / "robustft")
    rows = [
        {"prompt": question, "response": str(answer + 100 * (index % 3 == 0))}
        for index, (question, answer) in enumerate(additions(0, 24))
    ]
    test = [{"prompt": question, "response": str(answer)} for question, answer in additions(3, 6)]
    for name, lines in (("train.jsonl", rows), ("test.jsonl", test)):
        (path / name).write_text("".join(json.dumps(row) + "\n" for row in lines))
    reviews = [f"{word} {n}" for n in range(30) for word in ("good", "bad")]
    for name, texts in (("reviews.csv", reviews), ("reviews-test.csv", reviews[:6])):
        lines = "".join(f"{text},{text.split()[0]}\n" for text in texts)
        (path / name).write_text("text,label\n" + lines)
    (path / "data.csv").write_text(
        'q,options,a\n1+1?,"[""2"", ""3""]",A\n2+1?,"[""2"", ""3""]",B\n'
    )


@dataclass(frozen=True)
class Block:
    """One fenced block: its place, the words of its fence and its text."""

    document: str
    line: int
    language: str
    text: str
    after: str

    @property
    def kind(self) -> str | None:
        """How it is tested: as a shell session, a recipe, a plugin, TOML, a screen or a diagram; else None."""
        if self.language in {"yaml", "python", "toml", "json", "math"}:
            return self.language
        if self.language:
            return None
        if "<!-- not run: " in self.after[-60:]:
            return "shown"
        if self.after.endswith("<!-- output -->"):
            return "output"
        words = {line.split()[0] for line in self.text.splitlines() if line.strip()}
        if words <= {"make", "pip", "nfilter"}:
            return "shell"
        if "<!-- demo -->" in self.after:
            return "screen"
        return "diagram" if self.text.startswith("source -> ") else None

    def __str__(self) -> str:
        return f"{self.document}:{self.line}"


_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def fenced(document: str) -> list[Block]:
    """Return the fenced blocks of a document in order; ``after`` is the paragraph before a block."""
    text = (ROOT / document).read_text(encoding="utf-8")
    found = []
    for match in _FENCE.finditer(text):
        before = text[: match.start()].rstrip()
        found.append(
            Block(document, text.count("\n", 0, match.start()) + 1, match[1], match[2], before[-200:])
        )  # fmt: skip
    return found


DOCUMENTS = (
    "README.md",
    "CONTRIBUTING.md",
    *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md")),
)
WRITTEN = (
    "docs/results.md",
    "docs/results-text.md",
    "docs/results-tokens.md",
    "docs/results-real.md",
    "docs/results-real-tokens.md",
)
"""Pages that a program writes: tests/benchmarks holds them to a golden page."""


@pytest.fixture(scope="session")
def blocks() -> list[Block]:
    return [
        block for document in DOCUMENTS if document not in WRITTEN for block in fenced(document)
    ]


@pytest.fixture(scope="session")
def blocks_of() -> Callable[[str], list[Block]]:
    return fenced


@pytest.fixture(scope="session")
def furnish() -> Callable[[Path], None]:
    return furnished
