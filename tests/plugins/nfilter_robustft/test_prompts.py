"""The shipped templates, rendered and compared with reviewed golden files.

``NFILTER_UPDATE_GOLDEN=1 pytest ...`` rewrites the files.
"""

import os
from pathlib import Path

import pytest

from nfilter import Message, Sample, question_variables
from nfilter.recipe.prompts import Prompts, shipped_directory
from nfilter_robustft.views import RequestBuilder

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "prompts" / "robustft"
KINDS = ("choice", "number", "exact", "spans", "text")
QUERY = "Which gas do plants take in?\nA. oxygen\nB. carbon dioxide"
PLAIN = Sample(
    "s",
    (Message("user", QUERY), Message("assistant", "A")),
    meta={"options": ["oxygen", "carbon dioxide"]},
)
CHAT = Sample(
    "s",
    (
        Message("system", "You teach biology."), Message("user", "Hello."), Message("assistant", "Hello. What is it?"),
        Message("user", QUERY), Message("assistant", "A"),
    ),
)  # fmt: skip

ROUND = {"reasoning": "Plants make oxygen.\nAnswer: A", "reflection": "It asks what they take in."}
NEIGHBORS = [
    {"query": "Which gas do animals take in?", "response": "A"},
    {"query": "Which gas do plants give off?", "response": "A"},
]
CANDIDATES = [
    {"answer": "A", "reasoning": None},
    {"answer": "B", "reasoning": "They need carbon.\nAnswer: B"},
]
REVIEWED = [
    {"name": name, **candidate}
    for name, candidate in zip(("reasoning", "context"), CANDIDATES, strict=True)
]
FIRST = {"reasoning": None, "reflection": None}

CASES = {
    **{f"answer.{kind}": ("answer", PLAIN, kind, {}) for kind in KINDS},
    **{f"reason.{kind}": ("reason", PLAIN, kind, FIRST) for kind in KINDS},
    **{f"review.{kind}": ("review", PLAIN, kind, {"candidates": REVIEWED}) for kind in KINDS},
    **{
        f"review_answers.{kind}": ("review_answers", PLAIN, kind, {"candidates": REVIEWED})
        for kind in KINDS
    },
    "answer.chat": ("answer", CHAT, "choice", {}),
    "reason.chat": ("reason", CHAT, "choice", FIRST),
    "reason.again": ("reason", PLAIN, "choice", ROUND),
    "reflect": ("reflect", PLAIN, "choice", {"reasoning": ROUND["reasoning"], "answer": "A"}),
    "reflect.no_answer": ("reflect", CHAT, "choice", {"reasoning": "Hm.", "answer": None}),
    "relabel": ("relabel", PLAIN, "choice", {"neighbors": NEIGHBORS}),
    "relabel.one": ("relabel", PLAIN, "choice", {"neighbors": NEIGHBORS[:1]}),
    "relabel.none": ("relabel", PLAIN, "choice", {"neighbors": []}),
    "relabel.chat": ("relabel", CHAT, "choice", {"neighbors": NEIGHBORS}),
    "review.chat": ("review", CHAT, "choice", {"candidates": REVIEWED}),
    "judge": ("judge", PLAIN, "choice", {"label": "A", "candidates": CANDIDATES}),
    "judge.alone": ("judge", CHAT, "choice", {"label": "A", "candidates": []}),
}  # fmt: skip


class Kind:
    def __init__(self, kind):
        self.kind = kind

    def options(self, sample):
        return sample.meta.get("options")


class Ctx:
    def __init__(self, kind):
        self.answers = Kind(kind)


def rendered(name, sample, kind, more):
    template = Prompts([shipped_directory()]).get(f"robustft/{name}")
    request = RequestBuilder(Ctx(kind), template, 16, 0.0, logprobs=False).request(sample, **more)
    messages = request.messages
    return "\n".join(f"[{message.role}]\n{message.content}" for message in messages) + "\n"


@pytest.mark.parametrize("case", CASES)
def test_prompt(case):
    text = rendered(*CASES[case])
    file = GOLDEN / f"{case}.txt"
    if os.environ.get("NFILTER_UPDATE_GOLDEN"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    assert text == file.read_text(encoding="utf-8")
    assert "\n\n\n" not in text


def test_every_template_has_a_golden_file():
    shipped = {
        name.split("/")[1]
        for name in Prompts([shipped_directory()]).names()
        if name.startswith("robustft/")
    }
    assert shipped == {case[0] for case in CASES.values()}
    assert {file.stem for file in GOLDEN.glob("*.txt")} == set(CASES)


def test_only_judge_prompts_contain_the_label():
    secret = Sample("s", (Message("user", QUERY), Message("assistant", "SECRET")))
    for name, _, kind, more in CASES.values():
        if name != "judge":
            assert "SECRET" not in rendered(name, secret, kind, more)


def test_variables():
    variables = question_variables(CHAT, Ctx("choice").answers)
    assert variables == {
        "query": QUERY,
        "system": "You teach biology.",
        "history": [
            {"role": "user", "content": "Hello."},
            {"role": "assistant", "content": "Hello. What is it?"},
        ],
        "options": None,
        "kind": "choice",
    }
    assert question_variables(PLAIN, Ctx("choice").answers)["options"] == [
        "oxygen",
        "carbon dioxide",
    ]
