"""The figures of encoding as text, for the closing screen and ``nfilter lint``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nfilter.metrics import figures
from nfilter.report import text

if TYPE_CHECKING:
    from rich.console import Console

_MASKED = {
    "truncated": "truncated",
    "template": "rejected by the template",
    "no_answer": "without an answer at the end",
    "weight": "of weight 0",
    "stages": "masked by token stages",
}


def render(figures_of_arm: Mapping[str, Any], warnings: Sequence[str], console: Console) -> None:
    """Print the figures and warnings of a preview."""
    text.heading(console, "Encoding")
    text.rows(console, lines(figures_of_arm))
    text.heading(console, "Warnings" if warnings else "No warnings")
    for warning in warnings:
        console.print(f"   {text.plain(warning)}", markup=False, highlight=False, soft_wrap=True)


def lines(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the figures of one arm under ``encode`` in metrics.json as pairs of a name and a text."""
    cut, lengths, tokenizer = found["truncated"], found["lengths"], found["tokenizer"]
    masked = {reason: count for reason, count in found["all_masked"].items() if count}
    return [
        ("rows", f"{found['rows']:,}"),
        ("tokens", f"{found['tokens']:,}, {found['response_tokens']:,} of them in responses"),
        ("lengths", f"median {lengths['median']:,} tokens, 99th percentile {lengths['p99']:,}, maximum {lengths['max']:,}"),
        ("truncated", f"{cut['rows']:,} rows at max_length {found['max_length']:,}: {cut['response_tokens']:,} response tokens, {cut['without_end']:,} response ends"),
        ("all masked", ", ".join(f"{count:,} {_MASKED[reason]}" for reason, count in masked.items()) or "no row"),
        ("tokenizer", f"{tokenizer['tokenizer'][:12]}, chat template {tokenizer['template'][:12]}" if tokenizer else "no digest from the model's backend"),
    ]  # fmt: skip


def closing(metrics: Mapping[str, Any]) -> str | None:
    """Return one line on the rows and tokens that encoding lost; None if it lost nothing, or nothing was encoded."""
    arms = metrics.get("encode")
    if not isinstance(arms, Mapping) or not arms:
        return None
    arm = "cleaned" if "cleaned" in arms else next(iter(arms))

    def count(name: str) -> int:
        figure = figures.figure(metrics, f"encode.{arm}.{name}")
        return round(figure.mean) if figure is not None else 0

    parts = []
    if rows := count("truncated.rows"):
        lost = f"{count('truncated.response_tokens'):,} response tokens"
        parts.append(f"{lost} of {rows:,} row{'s' if rows != 1 else ''} truncated")
    empty = sum(count(f"all_masked.{reason}") for reason in ("truncated", "template", "no_answer"))
    if empty:
        parts.append(f"{empty:,} empty response{'s' if empty != 1 else ''}")
    odd = sum(
        count(f"mask.{kind}") for kind in ("prompt", "rewritten", "opened", "followed", "unended")
    )
    if odd:
        parts.append(
            f"{odd:,} response{'s' if odd != 1 else ''} with a wrong response mask (see run.log)"
        )
    return "; ".join(parts) or None
