"""Every message that tells a person what to type has a test that types it, or a reason why none can."""

from __future__ import annotations

import ast
from pathlib import Path

from tests.remedies.sources import ROOT, Remedy, remedies

# What no test can type, by words of the message, and why.
CANNOT: dict[str, str] = {
    "needs the package «», which is not installed: pip install": "pip needs a package index",
    "cannot be downloaded from the hub": "the hub needs a network",
    "Run 'hf download «»' with network access": "the hub needs a network",
    "pip install --upgrade transformers": "pip needs a package index",
    "type: pip install 'litellm<1.111'": "pip needs a package index",
    "onvert the model again with a current llama.cpp": "llama.cpp is not installed here",
    "type: chat_template, which computes the loss": "a setting of axolotl, which is not installed here",
    "belongs to a run with other settings; delete it": "training the embedded model takes hours",
}


# What a test could type, and none does yet.
OPEN = (
    "which is not under models; add it, e.g. models:", "«» not used. Move «» away to draw again",
    "`nfilter audit RUN` or trusted labels determine it", "«»; name the base with --model", "each has its own adapter: name one, like",
    "type `encoding: latin-1` (or cp1252) under source", "type «» in its folder and name rows.json",
    "this view gives no answer; leave «» out of the recipe",
)  # fmt: skip


def typed() -> dict[str, list[str]]:
    """The words in each ``@pytest.mark.types(...)`` of the tests, with the tests that bear it."""
    found: dict[str, list[str]] = {}
    for file in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                for words in _marked(node):
                    found.setdefault(words, []).append(f"{file.relative_to(ROOT)}::{node.name}")
    return found


def _marked(node: ast.FunctionDef | ast.ClassDef) -> list[str]:
    calls = [each for each in node.decorator_list if isinstance(each, ast.Call)]
    return [
        str(ast.literal_eval(argument))
        for call in calls
        if ast.unparse(call.func) == "pytest.mark.types"
        for argument in call.args
    ]


def without(found: list[Remedy]) -> list[str]:
    """The remedies of ``found`` that nobody types and that nobody says why."""
    words = [*typed(), *CANNOT, *OPEN]
    return [
        f"{remedy.where}: {remedy.text}"
        for remedy in found
        if not any(each in remedy.text for each in words)
    ]


def test_every_remedy_is_typed_by_a_test() -> None:
    left = without(remedies())
    assert not left, "\n".join((f"{len(left)} remedies are typed by no test:", *left))


def test_no_mark_and_no_reason_is_left_over() -> None:
    texts = [remedy.text for remedy in remedies()]
    stale = [
        words for words in (*typed(), *CANNOT, *OPEN) if not any(words in text for text in texts)
    ]
    assert stale == []


def test_what_is_typed_is_not_among_what_cannot_be() -> None:
    texts = [remedy.text for remedy in remedies()]
    both = [
        text
        for text in texts
        if any(words in text for words in CANNOT) and any(words in text for words in typed())
    ]
    assert both == []


def test_messages_are_found_as_they_are_written(tmp_path: Path) -> None:
    from tests.remedies.sources import messages, names_a_remedy

    source = (
        'def f(x):\n    """Docs: set x: 1, or write y."""\n'
        '    raise ValueError(\n        f"bad {x!r} was given; set limit: {x} or "\n        "remove it")\n'
    )
    assert list(messages(source)) == [(4, "bad «» was given; set limit: «» or remove it")]
    for text in ("bad; set x: 1", "a; type `x`", "use «»", "x; run nfilter check", "; leave out one of the two"):  # fmt: skip
        assert names_a_remedy(text), text
    for text in ("the set of x: 1", "it has x.y and no type", "keep: «» keeps all", "give another"):
        assert not names_a_remedy(text), text
