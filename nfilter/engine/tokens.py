"""The loop over token stages, and the token store: flat memory-mappable arrays with offsets."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nfilter.context import RunContext
from nfilter.engine.invariants import check_tokens
from nfilter.recipe import Recipe
from nfilter.stages import EMPTY_STATE, Contract, FitsTokens, State
from nfilter.store import read_json, read_jsonl, write_json, write_jsonl
from nfilter.types import TokenSample

Gone = list[tuple[str, str]]
Contexts = Callable[[str, str], RunContext]
"""The context of a stage, by its label and the name of its random numbers."""


@dataclass(frozen=True, slots=True)
class TokenRun:
    """What the token stages left: samples with a weight, reason bits by name, who left and why, and figures.

    ``every`` has the samples that left too, as they were then.
    """

    samples: list[TokenSample]
    every: list[TokenSample]
    reasons: list[str]
    gone: Gone
    figures: dict[str, Any]


def run_token_stages(
    recipe: Recipe, samples: Sequence[TokenSample], contexts: Contexts
) -> TokenRun:
    """Run the recipe's token stages in order.

    Raises:
        ContractError: when a stage breaks an invariant.
    """
    current = list(samples)
    names = [use.name for use in recipe.tokens]
    stages: dict[str, Any] = {}
    for bit, use in enumerate(recipe.tokens):
        stage = use.item.cls(use.config)
        # Random numbers go by name, so that a stage put in before this one does not redraw it.
        stream = f"{use.name}#{names[:bit].count(use.name)}"
        ctx = contexts(use.name, stream)
        contract: Contract = use.item.cls.contract(use.config)
        state = stage.fit_tokens(current, ctx) if isinstance(stage, FitsTokens) else EMPTY_STATE
        done: list[TokenSample] = []
        for start in range(0, len(current), recipe.chunk):
            chunk = current[start : start + recipe.chunk]
            returned = list(stage.process_tokens(chunk, state, ctx, bit))
            check_tokens(use.name, contract, chunk, returned, bit)
            done += returned
        stages[f"{bit + 1}-{use.name}"] = {**_lost(current, done), **_report(state)}
        current = done
    kept = [sample for sample in current if sample.weights.any()]
    gone = [
        (sample.id, f"no token has a weight left after {', '.join(_who(sample, names))}")
        for sample in current
        if not sample.weights.any()
    ]
    figures = {
        "response": sum(int(sample.response.sum()) for sample in samples),
        "in_loss": sum(int(np.count_nonzero(sample.weights)) for sample in kept),
        "stages": stages,
    }
    return TokenRun(kept, current, names, gone, figures)


def _lost(before: Sequence[TokenSample], after: Sequence[TokenSample]) -> dict[str, int]:
    """How many tokens a stage took out of the loss, and how many samples lost their last one."""
    counts = [
        (np.count_nonzero(was.weights), np.count_nonzero(now.weights))
        for was, now in zip(before, after, strict=True)
    ]
    return {
        "masked": int(sum(was - now for was, now in counts)),
        "samples_emptied": sum(bool(was) and not now for was, now in counts),
    }


def _report(state: State) -> Mapping[str, Any]:
    report = state.values.get("report")
    return report if isinstance(report, Mapping) else {}


def _who(sample: TokenSample, names: Sequence[str]) -> list[str]:
    bits = int(np.bitwise_or.reduce(sample.reasons)) if len(sample.reasons) else 0
    return [name for bit, name in enumerate(names) if bits >> bit & 1] or ["encoding"]


def write_tokens(directory: Path, samples: Sequence[TokenSample], reasons: Sequence[str]) -> None:
    """Publish ids, weights, response mask, spans, reasons and scores as flat arrays; ``offsets`` cuts them by sample.

    ``texts.jsonl`` has the rendered conversations, in the same order.
    """
    part = directory.with_name(f".{directory.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    lengths = [len(sample.ids) for sample in samples]
    arrays = {
        "offsets": np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        "ids": _flat([sample.ids for sample in samples], np.int64),
        "response": _flat([sample.response for sample in samples], np.bool_),
        "turn": _flat([sample.turn for sample in samples], np.int16),
        "spans": _flat([sample.spans for sample in samples], np.int32),
        "weights": _flat([sample.weights for sample in samples], np.float32),
        "reasons": _flat([sample.reasons for sample in samples], np.uint32),
    }
    names = sorted({name for sample in samples for name in sample.scores})
    for name in names:
        parts = [
            sample.scores.get(name, np.full(len(sample.ids), np.nan, np.float32))
            for sample in samples
        ]
        arrays[f"score-{name}"] = _flat(parts, np.float32)
    for name, values in arrays.items():
        np.save(part / f"{name}.npy", values, allow_pickle=False)
    write_jsonl(part / "texts.jsonl", ({"id": s.id, "text": s.text} for s in samples))
    write_json(
        part / "index.json",
        {"samples": [sample.id for sample in samples], "reasons": list(reasons), "scores": names},
    )
    # Renamed only when it is whole, so that no array of an earlier run stands among these.
    shutil.rmtree(directory, ignore_errors=True)
    part.rename(directory)


def read_tokens(directory: Path) -> tuple[list[TokenSample], list[str]]:
    """What ``write_tokens`` published: samples over memory-mapped arrays, and the names of the reason bits."""
    index = read_json(directory / "index.json")
    names = ["offsets", "ids", "response", "turn", "spans", "weights", "reasons"]
    arrays = {
        name: np.load(directory / f"{name}.npy", mmap_mode="r", allow_pickle=False)
        for name in (*names, *(f"score-{name}" for name in index["scores"]))
    }
    file = directory / "texts.jsonl"
    texts = [row["text"] for row in read_jsonl(file)] if file.is_file() else []
    out = []
    for place, name in enumerate(index["samples"]):
        start, end = arrays["offsets"][place : place + 2]
        row = {key: values[start:end] for key, values in arrays.items() if key != "offsets"}
        out.append(
            TokenSample(
                id=name,
                ids=row["ids"],
                response=row["response"],
                turn=row["turn"],
                spans=row["spans"],
                weights=row["weights"],
                scores={key: row[f"score-{key}"] for key in index["scores"]},
                reasons=row["reasons"],
                text=texts[place] if texts else "",
            )
        )
    return out, list(index["reasons"])


def _flat(parts: Sequence[npt.NDArray[Any]], kind: type) -> npt.NDArray[Any]:
    return np.concatenate(parts).astype(kind) if parts else np.zeros(0, dtype=kind)
