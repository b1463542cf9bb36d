"""The remedies that messages name, found in the sources: what a person is told to type, and where that is written."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("nfilter", "plugins")
# The task world of the embedded model has texts of problems, not messages.
NO_MESSAGES = ("plugins/nfilter_tiny/world/",)

VERBS = (
    "add allow block call choose convert copy drop export fix give install leave lower make mark move name "
    "pass pip put raise remove rename repair replace return run save set shorten start state take try "
    "type uninstall unset use write"
)
_VERB = "|".join(VERBS.split())
# A clause that begins with an imperative, and what stands in it to be typed.
_CLAUSE = re.compile(
    rf"(?:^|(?<=[;:.,(] )|(?<=\()|(?<=\bor )|(?<=\band )|(?<=\bthen ))(?:{_VERB}|{_VERB.title()})\b(?!:)"
    rf"|(?<=» )(?:{_VERB.title()})\b"
)
_COMMAND = re.compile(r"`(?:nfilter |«»)[^`]*`")
_TYPED = re.compile(
    r"`[^`]+`"  # in back quotes
    r"|\bnfilter [a-z]+\b|\bpip install\b|\btorchrun\b|\bhf [a-z]+\b|(?<![\w-])--[a-z]"  # a command
    r"|\b[a-z_][\w.\[\]]*: ?[\w{\[\"'(]"  # setting: value
    r"|\{use: "
    r"|\b[a-z]\w*[._][\w.]*\w\b|\bset \w+ to\b|\bone of the two\b|\bit (?:up|out)\b"  # a setting by its name
    r"|[\w}]=\S|\w\(|@\w|\b(?:return|yield|class|def) "  # Python
    r"|'[^' ]+'"  # in quotes
    r"|«"  # what is put in
)


@dataclass(frozen=True)
class Remedy:
    """``text`` is the message as written, «» for what is put in; ``where`` is ``path:line``."""

    where: str
    text: str


def remedies() -> list[Remedy]:
    """Every message of the sources that tells a person what to type, in order."""
    found = []
    for folder in FOLDERS:
        for file in sorted((ROOT / folder).rglob("*.py")):
            place = file.relative_to(ROOT).as_posix()
            if place.startswith(NO_MESSAGES):
                continue
            for line, text in messages(file.read_text(encoding="utf-8")):
                if names_a_remedy(text):
                    found.append(Remedy(f"{place}:{line}", text))
    return found


def names_a_remedy(text: str) -> bool:
    """Whether a message has a command in back quotes, or a clause that begins with an imperative and holds something to type."""
    return _COMMAND.search(text) is not None or any(
        _TYPED.search(text, found.end()) for found in _CLAUSE.finditer(text)
    )


def messages(source: str) -> Iterator[tuple[int, str]]:
    """Each text of three words or more that is no docstring, with its line."""
    tree = ast.parse(source)
    skipped = set(_docstrings(tree))
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        text = _text(node)
        if text is None:
            continue
        # The parts of a joined text are not messages of their own.
        skipped.update(id(part) for part in ast.walk(node) if not isinstance(part, ast.Call))
        if len(text.split()) >= 3:
            yield node.lineno, " ".join(text.split())  # type: ignore[attr-defined]


def _docstrings(tree: ast.AST) -> Iterator[int]:
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            # Those of attributes are plain expressions too.
            yield from (id(each.value) for each in body if isinstance(each, ast.Expr))


def _text(node: ast.AST) -> str | None:
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.JoinedStr):
        return "".join(
            str(part.value) if isinstance(part, ast.Constant) else "«»" for part in node.values
        )
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        sides = [_text(node.left), _text(node.right)]
        return None if sides == [None, None] else "".join(side or "«»" for side in sides)
    return None
