"""A scripted model for mixing: it knows each prompt's role, and writes the call's code where the prompt asks for it."""

import json
import re
from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import Any

from nfilter import Completion, Message, Sample
from nfilter.engine.invariants import check_samples
from nfilter.testing import FakeContext, FakeEncoder
from nfilter_entp.mixing.mix import Mix, MixConfig
from nfilter_entp.mixing.repair_cycle import FAILURES

OPENINGS = {
    "Fuse two instructions": "instruction",
    "Rewrite an instruction": "instruction",
    "Check a draft": "instruction_check",
    "Answer an instruction": "answer",
    "Check an answer": "answer_check",
    "Repair an answer": "answer_patch",
}
REPAIRS = {
    "It lacks terms": "instruction_missing_terms",
    "Parts of it contradict": "instruction_contradictions",
    "It cannot be answered": "instruction_unanswerable",
    "It repeats itself": "instruction_redundancy",
    "It is not one complete": "instruction_format",
}
FINE = {
    "instruction_check": {key: [] for key in FAILURES},
    "answer_check": {"sub_questions": [], "truncated": [], "numbers": []},
}
ANNA = "How many apples does Anna carry from Berlin?"
BERT = "How many pears does Bert carry from Paris?"
BOTH = "Anna carries 3 apples from Berlin and Bert 4 pears from Paris. How many does each carry?"


def wrong(check, **failed):
    """A checklist in which these keys name a fault."""
    return {**FINE[check], **{name: [text] for name, text in failed.items()}}


def shown(request):
    return "\n".join(message.content for message in request.messages)


def code_of(request):
    return re.search(r"^BEGIN ([0-9a-f]{8,64})$", shown(request), re.MULTILINE)[1]


def role_of(request):
    text = shown(request)
    for opening, role in OPENINGS.items():
        if text.startswith(opening):
            return role
    return next(role for said, role in REPAIRS.items() if said in text.split("\n")[0])


def data_of(request):
    """What stands between the marks, block by block."""
    code = code_of(request)
    return re.findall(
        rf"^BEGIN {code}$\n(.*?)\n^END {code}$", shown(request), re.MULTILINE | re.DOTALL
    )


@dataclass
class Scripted:
    """Replies by role, each role's in turn for each sample; the last one again after that. ``asked`` logs (sample, role)."""

    replies: dict[str, list[Any]] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)
    requests: list[Any] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    turns: Any = field(default_factory=lambda: defaultdict(int))

    def generate(self, requests):
        self.sizes.append(len(requests))
        return [self._one(request) for request in requests]

    def _one(self, request):
        role = role_of(request)
        self.asked.append((request.sample_id, role))
        self.requests.append(request)
        replies = self.replies.get(role) or [self._usual(request, role)]
        turn = self.turns[request.sample_id, role]
        self.turns[request.sample_id, role] += 1
        reply = replies[min(turn, len(replies) - 1)]
        if callable(reply):
            reply = reply(request)
        if isinstance(reply, Completion):
            return replace(reply, text=reply.text.replace("CODE", code_of(request)))
        return Completion(self._coded(role, reply, code_of(request)), completion_tokens=1)

    def _usual(self, request, role):
        if role in FINE:
            return FINE[role]
        parents = data_of(request)[: 2 if "Instruction 2:" in shown(request) else 1]
        return "Both of these. " + " And: ".join(parents) if role == "instruction" else "It is 7."

    def _coded(self, role, reply, code):
        if isinstance(reply, dict):
            return f"I looked.\nChecklist {code}:\n{json.dumps(reply)}"
        if role in FINE:
            return reply.replace("CODE", code)
        word = "Instruction" if role.startswith("instruction") else "Answer"
        return f"Well.\n{word} {code}:\n{reply.replace('CODE', code)}"


def couple(a="a", b="b", one=ANNA, other=BERT, *, more_a=(), more_b=(), **fields):
    """Two samples that their notes pair; the first leads. ``more_a`` and ``more_b`` stand before the user's turn."""
    return [
        Sample(key, (*more, Message("user", text), Message("assistant", "old " + key)), {"pair": note(mate, lead=lead)}, **fields)
        for key, mate, text, more, lead in ((a, b, one, more_a, True), (b, a, other, more_b, False))
    ]  # fmt: skip


def note(mate, *, lead=False, why=None):
    if mate is None:
        return {"with": None, "why": why or "alone", "cluster": 0, "lead": False}
    return {"with": mate, "similarity": 0.8, "cluster": 0, "lead": lead}


def context(model, *, encoder=None, seed=0, prompts=(), stage="05-entp.mix"):
    models = {"expert": model, "encoder": encoder or FakeEncoder(dimensions=256)}
    return FakeContext(models=models, seed=seed, prompts=prompts, stage=stage)


OPEN = {"key_terms": 0, "repetition": 1000, "likeness": -1, "near_duplicate": 1}


def run(samples, model, *, chunk=None, encoder=None, seed=0, **config):
    """All samples by id, new ones too; the report."""
    config = MixConfig(**{"gates": OPEN, **config})
    stage, ctx = Mix(config), context(model, encoder=encoder, seed=seed)
    state = stage.fit(iter(samples), ctx)
    assert json.dumps(state.values)
    given_ids = {each.id: True for each in samples}
    out = []
    size = chunk or max(1, len(samples))
    for start in range(0, len(samples), size):
        part = samples[start : start + size]
        done = stage.process(part, state, ctx)
        check_samples("mix", Mix.contract(config), part, done, given_ids)
        out += done
    return {each.id: each for each in out}, state.values["report"]


def roles(model, key="a"):
    return [role for name, role in model.asked if name == key]


def new_of(out):
    return [each for each in out.values() if each.parents]
