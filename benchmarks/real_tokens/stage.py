"""``evidence.truth_mask``: masks inserted noise by its true positions, for this benchmark only.

No stage of nfilter can see what was planted. What bounds them all is written here by the runner, into a file of the cell.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np

from nfilter import Context, Contract, StageConfig, State, TokenSample, hookimpl
from nfilter.api.types import NoiseSpan, Row
from nfilter.metrics.tokens import judge_sample
from nfilter.registry.loading import GROUP, Plugins, load
from nfilter.store.files import publishing
from nfilter.store.samples import sample_from_json, sample_to_json

NAME: Final = "evidence.truth_mask"


class TruthMaskConfig(StageConfig):
    """``path``: the file that ``write_truth`` wrote for the same rows."""

    path: Path


class TruthMask:
    """Masks each token with more than half of its characters in inserted noise, like the metrics."""

    name: ClassVar[str] = NAME
    Config: ClassVar[type[StageConfig]] = TruthMaskConfig

    def __init__(self, config: TruthMaskConfig) -> None:
        self._path = config.path

    @classmethod
    def contract(cls, config: TruthMaskConfig) -> Contract:
        """Reads and writes no score."""
        return Contract()

    def process_tokens(
        self, chunk: Sequence[TokenSample], state: State, ctx: Context, bit: int
    ) -> list[TokenSample]:
        """Mask the noise of each sample; a sample without a row in the file is unchanged."""
        del state, ctx
        truths = json.loads(self._path.read_text(encoding="utf-8"))
        return [
            sample.mask(_noise(sample, truths[sample.id]), bit) if sample.id in truths else sample
            for sample in chunk
        ]


def _noise(tokens: TokenSample, truth: Any) -> Any:
    spans = [NoiseSpan(start, end, kind) for start, end, kind in truth["noise"]]
    hits = judge_sample(tokens, sample_from_json(truth["sample"]), spans).noise.values()
    return np.logical_or.reduce([*hits, np.zeros(len(tokens.ids), dtype=np.bool_)])


def write_truth(rows: Iterable[Row], file: Path) -> None:
    """Write the spans of noise in the responses of rows."""
    truths = {
        row.sample.id: {
            "sample": sample_to_json(row.sample),
            "noise": [[span.start, span.end, span.kind] for span in row.noise],
        }
        for row in rows
        if row.noise is not None
    }
    with publishing(file) as out:
        json.dump(truths, out, ensure_ascii=False)


@hookimpl
def nfilter_stages() -> tuple[type[Any], ...]:
    """The stage."""
    return (TruthMask,)


def with_truth() -> Plugins:
    """Return the catalogue with this stage."""
    return load((*entry_points(group=GROUP), EntryPoint("evidence-tokens", __name__, GROUP)))
