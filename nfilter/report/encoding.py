"""What encoding did to the rows, in words: for the closing screen, and for ``nfilter lint``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nfilter.metrics import figures
from nfilter.report import text

if TYPE_CHECKING:
    from rich.console import Console

_MASKED = {
    "truncated": "cut off",
    "template": "refused by the template",
    "no_answer": "without an answer at the end",
    "weight": "of weight 0",
    "stages": "masked by token stages",
}


def render(found: Mapping[str, Any], warnings: Sequence[str], console: Console) -> None:
    """Print the figures of a preview, and what is odd."""
    text.heading(console, "Encoding")
    text.rows(console, lines(found))
    text.heading(console, "Warnings" if warnings else "No warnings")
    for warning in warnings:
        console.print(f"   {text.plain(warning)}", markup=False, highlight=False, soft_wrap=True)


def lines(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The figures of one arm under ``encode`` in metrics.json: what, and the words for it."""
    cut, lengths, made = found["truncated"], found["lengths"], found["tokenizer"]
    masked = {reason: count for reason, count in found["all_masked"].items() if count}
    return [
        ("rows", f"{found['rows']:,}"),
        ("tokens", f"{found['tokens']:,}, {found['response_tokens']:,} of them of responses"),
        ("lengths", f"half of the rows have up to {lengths['median']:,} tokens, 99% up to {lengths['p99']:,}, the longest {lengths['max']:,}"),
        ("cut", f"{cut['rows']:,} rows at max_length {found['max_length']:,}, {cut['response_tokens']:,} response tokens, {cut['without_end']:,} ends of a response"),
        ("all masked", ", ".join(f"{count:,} {_MASKED[reason]}" for reason, count in masked.items()) or "no row"),
        ("tokenizer", f"{made['tokenizer'][:12]}, chat template {made['template'][:12]}" if made else "not told by the model's backend"),
    ]  # fmt: skip


def closing(metrics: Mapping[str, Any]) -> str | None:
    """One line on what encoding lost; None where it lost nothing, or nothing was encoded."""
    arms = metrics.get("encode")
    if not isinstance(arms, Mapping) or not arms:
        return None
    arm = "cleaned" if "cleaned" in arms else next(iter(arms))

    def count(name: str) -> int:
        found = figures.figure(metrics, f"encode.{arm}.{name}")
        return round(found.mean) if found is not None else 0

    parts = []
    if rows := count("truncated.rows"):
        lost = f"{count('truncated.response_tokens'):,} response tokens"
        parts.append(f"{lost} of {rows:,} row{'s' if rows != 1 else ''} cut off")
    left = sum(count(f"all_masked.{reason}") for reason in ("truncated", "template", "no_answer"))
    if left:
        parts.append(f"{left:,} left with none")
    odd = sum(
        count(f"mask.{kind}") for kind in ("prompt", "rewritten", "opened", "followed", "unended")
    )
    if odd:
        parts.append(f"responses learned with other text than their own: {odd:,} (see run.log)")
    return "; ".join(parts) or None
