"""Inserts junk of known kinds into clean rows, to measure which of it a purge finds. Everything is seeded."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping
from dataclasses import replace

from nfilter import Message, Sample

_REFUSALS = (
    "As an AI language model, I am not able to browse the internet.",
    "As an AI, I do not have personal opinions on that.",
    "I'm just an AI language model and cannot do this.",
    "<no input>",
    "No output needed.",
    "Lorem ipsum dolor sit amet, consectetur adipiscing elit, sed do eiusmod tempor.",
    "[insert answer here]",
    "[Your response here]",
    "### Response: [INST]",
)
_ECHOED = ("{0}", "{0} {0}", "Sure. {0}", "Here is the answer: {0}", "{0}\n\nAnswer:")
_CHINESE = "根据目前可以得到的资料这个问题没有简单的回答需要考虑很多不同的因素以及具体的情况才能得出可靠的结论"
_RUSSIAN = "По имеющимся данным на этот вопрос нет простого ответа нужно учитывать много разных причин и обстоятельств"


def answered(sample: Sample, response: str, name: str) -> Sample:
    """Return a copy with another response and id."""
    return replace(sample, id=name, messages=(*sample.context, Message("assistant", response)))


def _prompted(sample: Sample, prompt: str) -> Sample:
    return replace(sample, messages=(Message("user", prompt), *sample.messages[-1:]))


def edited(text: str, rng: random.Random, share: float) -> str:
    """Return the text with a ``share`` of its words dropped, doubled, misspelt or swapped; numbers are unchanged."""
    words = re.split(r"(\s+)", text)
    places = [n for n in range(0, len(words), 2) if words[n].isalpha()]
    for place in rng.sample(places, min(len(places), round(share * len(places)))):
        word = words[place]
        middle = rng.randrange(len(word))
        words[place] = rng.choice(
            [word + " " + word, word[:middle] + word[middle + 1 :], word.upper(), word + ","]
        )
    return "".join(words)


def _near(sample: Sample, rng: random.Random) -> Sample | None:
    if len(sample.response.split()) < 8:
        return None
    copy = _prompted(sample, edited(sample.query, rng, 0.05))
    return answered(copy, edited(sample.response, rng, 0.06), sample.id)


def _exact(sample: Sample, rng: random.Random) -> Sample:
    prompt = sample.query if rng.random() < 0.5 else sample.query.upper() + "  "
    return _prompted(sample, prompt)


def _empty(sample: Sample, rng: random.Random) -> Sample:
    return answered(
        sample,
        rng.choice(["", "   ", "\n", "...", "?", "-", "***", "\u200b", "!!!", "。"]),
        sample.id,
    )


def _length(sample: Sample, rng: random.Random) -> Sample:
    if rng.random() < 0.5:
        words = sample.response.split() + sample.query.split()
        return answered(sample, " ".join(rng.choice(words) for _ in range(6000)), sample.id)
    task = rng.choice(["Write a short story about", "Explain", "Write an essay on", "Describe"])
    return answered(_prompted(sample, f"{task} the following: {sample.query}"), rng.choice(["Sure.", "Ok", "Yes", "It is"]), sample.id)  # fmt: skip


def _repeats(sample: Sample, rng: random.Random) -> Sample:
    words = sample.response.split()
    size = rng.randint(1, 12)
    start = rng.randrange(max(1, len(words) - size))
    block = " ".join(words[start : start + size])
    if not any(c.isalpha() for c in block):
        block = "and so on"
    times = rng.randint(8, 40)
    kept = " ".join(words[: start + size])
    return answered(
        sample, (kept + " " if rng.random() < 0.5 else "") + " ".join([block] * times), sample.id
    )


def _characters(sample: Sample, rng: random.Random) -> Sample:
    text = sample.response
    kind = rng.randrange(4)
    if kind == 0:
        text = (
            "".join(rng.choice("\ufffd\x00\x07") if rng.random() < 0.1 else c for c in text)
            + "\ufffd"
        )
    elif kind == 1:
        text = "".join(rng.choice("#@%&*!?/;:_-") for _ in range(max(20, len(text))))
    elif kind == 2:
        text = re.sub("e", "é", text + " eeee").encode().decode("cp1252", "replace")
    else:
        text = " ".join("".join(rng.choice("bcdfghjklmnpqrstvwxz") for _ in range(rng.randint(6, 12))) for _ in range(12))  # fmt: skip
    return answered(sample, text, sample.id)


def _script(sample: Sample, rng: random.Random) -> Sample:
    size = rng.randint(24, len(_CHINESE))
    text = _CHINESE[:size] + "。" if rng.random() < 0.5 else _RUSSIAN + "."
    return answered(sample, text, sample.id)


def _template(sample: Sample, rng: random.Random) -> Sample:
    if rng.random() < 0.25:
        text = "<div class='a'><p>" + sample.response + "</p><br></div>&nbsp;"
    else:
        junk = rng.choice(_REFUSALS)
        text = junk if rng.random() < 0.6 or junk in _REFUSALS[3:5] else f"{junk} {sample.response}"
    return answered(sample, text, sample.id)


def _truncated(sample: Sample, rng: random.Random) -> Sample | None:
    text = sample.response
    if len(text.split()) < 25:
        return None
    return answered(sample, text[: rng.randint(len(text) // 2, len(text) - 8)], sample.id)


def _fence(sample: Sample, rng: random.Random) -> Sample:
    return answered(sample, f"{sample.response}\n\n```python\nfor n in range({rng.randint(2, 9)}):\n    print(n", sample.id)  # fmt: skip


def _copied(sample: Sample, rng: random.Random) -> Sample | None:
    if len(sample.query.split()) < 6:
        return None
    # What opens with the question and goes on answers it: only an echo is junk.
    text = rng.choice(_ECHOED).format(sample.query)
    return answered(sample, text, sample.id)


Make = Callable[[Sample, random.Random], Sample | None]
KINDS: dict[str, Make] = {
    "exact_duplicates": _exact,
    "near_duplicates": _near,
    "empty": _empty,
    "length": _length,
    "characters": _characters,
    "script": _script,
    "repeats": _repeats,
    "template": _template,
    "copied": _copied,
    "truncated": _truncated,
    "truncated code": _fence,
}
"""Each makes a row into junk, or returns None if it cannot. Duplicates are added to the rows; others replace a row."""


def planted(
    samples: list[Sample], share: float, seed: int = 0, more: Mapping[str, Make] | None = None
) -> tuple[list[Sample], dict[str, str]]:
    """Return the rows with a ``share`` of junk of each kind, and the kind by id, without the replaced rows."""
    rng = random.Random(f"junk {seed}")
    order = rng.sample(range(len(samples)), len(samples))
    junk: dict[str, str] = {}
    out = list(samples)
    each = max(1, round(share * len(samples)))
    for kind, make in {**KINDS, **(more or {})}.items():
        made = 0
        while made < each and order:
            place = order.pop()
            if (row := make(samples[place], rng)) is None:
                continue
            made += 1
            if kind.endswith("duplicates"):
                row = replace(row, id=f"{row.id}-copy")
                out.append(row)
            else:
                out[place] = row
            junk[row.id] = kind
    rng.shuffle(out)
    return out, junk
