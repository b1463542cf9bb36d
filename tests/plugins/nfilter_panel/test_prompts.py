"""The templates of the panel, rendered and compared with reviewed golden files.

``NFILTER_UPDATE_GOLDEN=1 pytest ...`` rewrites the files.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from nfilter import Fence, Message, Sample, question_variables
from nfilter.recipe.prompts import Prompts, shipped_directory
from nfilter.testing import FakeContext

GOLDEN: Final = Path(__file__).resolve().parents[2] / "golden" / "prompts" / "panel"
QUERY: Final = "Which gas do plants take in?\nA. oxygen\nB. carbon dioxide"
PLAIN: Final = Sample(
    "s",
    (Message("user", QUERY), Message("assistant", "SECRET")),
    meta={"options": ["oxygen", "carbon dioxide"]},
)
CHAT: Final = Sample(
    "s",
    (
        Message("system", "You teach biology."), Message("user", "Hello."), Message("assistant", "Hello. What is it?"),
        Message("user", QUERY), Message("assistant", "SECRET"),
    ),
)  # fmt: skip
OWN: Final = {"answer": "A", "reasoning": "Plants make oxygen."}
SILENT: Final = {"answer": None, "reasoning": None}
OTHERS: Final = [{"answer": "B", "reasoning": "They need carbon.\nSo it is B."}, SILENT]
ALONE: Final[dict[str, Any]] = {"candidates": [], "own": None, "others": []}
EXCHANGE: Final[dict[str, Any]] = {**ALONE, "own": OWN, "others": OTHERS}
CHAIR: Final[dict[str, Any]] = {**ALONE, "others": [OWN, *OTHERS]}
SOURCES: Final = [{"answer": "B", "reasoning": None}, {"answer": "A", "reasoning": "By day."}]

CASES: Final[dict[str, tuple[str, Sample, str, dict[str, Any]]]] = {
    **{
        f"{name}.{kind}": (name, PLAIN, kind, shown)
        for name, shown in (("answer", ALONE), ("exchange", EXCHANGE), ("chair", CHAIR))
        for kind in ("choice", "label", "number", "exact", "spans", "text")
    },
    **{
        f"{name}.chat": (name, CHAT, "number", {**shown, "candidates": SOURCES, "instructions": "Check every step."})
        for name, shown in (("answer", ALONE), ("exchange", EXCHANGE), ("chair", CHAIR))
    },
    "exchange.silent": ("exchange", PLAIN, "choice", {**EXCHANGE, "own": SILENT}),
}  # fmt: skip


class Kind:
    """The kind of answers, and the options of a row."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def options(self, sample: Sample) -> Any:
        return sample.meta.get("options")


def rendered(name: str, sample: Sample, kind: str, more: dict[str, Any]) -> str:
    ctx = FakeContext()
    ctx.answers = Kind(kind)  # type: ignore[assignment]
    variables = {**question_variables(sample, ctx.answers), **more}
    instructions = variables.pop("instructions", "")
    fence = Fence.around(sample.id, variables)
    template = Prompts([shipped_directory()]).get(f"panel/{name}")
    messages = template.render(**variables, instructions=instructions, fence=fence.code)
    return "\n".join(f"[{message.role}]\n{message.content}" for message in messages) + "\n"


@pytest.mark.parametrize("case", CASES)
def test_prompt(case: str, golden: Callable[[str, str], None]) -> None:
    text = rendered(*CASES[case])
    golden(f"prompts/panel/{case}.txt", text)
    assert "\n\n\n" not in text
    assert "SECRET" not in text, "a reviewer sees the label"


def test_every_template_has_a_golden_file() -> None:
    names = Prompts([shipped_directory()]).names()
    shipped = {name.split("/")[1] for name in names if name.startswith("panel/")}
    assert shipped == {name for name, *_ in CASES.values()}
    assert {file.stem for file in GOLDEN.glob("*.txt")} == set(CASES)
