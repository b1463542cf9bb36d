"""``entp.purge``: drop samples that break a rule; needs no model (the rules are our own choice, not the paper's)."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from nfilter import Context, Contract, Sample, StageConfig, State, hash_of, place_of
from nfilter_entp.purging.duplicates import RULES, DuplicateCollector, duplicate_of, reason_of
from nfilter_entp.purging.ending_statistics import Ending, EndingStatistics, unusual_reason
from nfilter_entp.purging.perplexity import LossCollector, outside_band, outside_band_reason
from nfilter_entp.purging.rules import DEFAULT, Rules, broken_rules
from nfilter_entp.purging.texts import Text

NOTE = "purge"
_COLUMNS = np.dtype([("id", "<u8"), ("start", "<u4"), ("word", "<u4"), ("broken", "u1")])
_ROW = struct.Struct("<QIIB")


class PurgeConfig(StageConfig):
    """``rules``: names, or a mapping of names to settings; only these run. Default: all rules that need no model.

    ``action: note`` drops nothing and writes note ``purge``, ``{"rules": [name], "reasons": [text]}``, on every sample.
    """

    rules: Rules = Field(
        default_factory=lambda: Rules.model_validate(DEFAULT),
        validate_default=True,
        description="The rules that run: a list of names, or a mapping of names to settings; by default all that need no model.",
    )
    action: Literal["drop", "note"] = Field(
        default="drop",
        description="What happens to samples that break a rule: they are dropped, or every sample gets a note purge.",
    )


class Purge:
    """Drops samples that break a rule. The reason lists all rules that a sample breaks, with the deciding numbers.

    Pinned samples stay. Of duplicates one stays: a pinned one, else one that breaks no other rule, else the longest response.
    """

    name: ClassVar[str] = "entp.purge"
    Config: ClassVar[type[StageConfig]] = PurgeConfig

    def __init__(self, config: PurgeConfig) -> None:
        self.config = config

    @classmethod
    def contract(cls, config: PurgeConfig) -> Contract:
        perplexity = config.rules.perplexity
        return Contract(
            writes=(noted := frozenset({NOTE} if config.action == "note" else ())),
            sometimes=noted,
            needs=perplexity.needs() if perplexity else (),
        )

    def fit(self, stream: Iterable[Sample], ctx: Context) -> State:
        """Read every row once: stores about 170 bytes per row, and the texts in a temporary file until all are read."""
        rules = self.config.rules
        with DuplicateCollector(
            rules.exact_duplicates, rules.near_duplicates, rules.same_response
        ) as duplicates:
            return self._collect(stream, duplicates, ctx)

    def _collect(
        self, stream: Iterable[Sample], duplicates: DuplicateCollector, ctx: Context
    ) -> State:
        rules = self.config.rules
        names = [name for name in type(rules).model_fields if getattr(rules, name) is not None]
        counts = dict.fromkeys(names, 0)
        endings = EndingStatistics(rules.truncated) if rules.truncated else None
        losses = LossCollector(rules.perplexity, ctx) if rules.perplexity else None
        rows = bytearray()
        with ctx.progress(None, f"{self.name}: rows") as bar:
            for sample in stream:
                text = Text.of(sample)
                broken = broken_rules(text, rules)
                for name in broken:
                    counts[name] += 1
                rejected = not _end_undecided(broken)
                ending = endings.add(text, rejected=rejected) if endings else Ending()
                rows += _ROW.pack(hash_of(sample.id), ending.start, ending.word, bool(broken))
                if duplicates.enabled:
                    duplicates.add(sample.id, text, pinned=sample.pinned)
                if losses:
                    losses.add(sample)
                bar.advance()
        rows_seen = np.frombuffer(rows, _COLUMNS)
        flagged, habit, arrays = rows_seen["broken"].astype(bool), 0, dict[str, Any]()
        if endings:
            habit, arrays["cut_words"] = endings.result()
            unusual = np.isin(rows_seen["word"], arrays["cut_words"])
            if habit:
                unusual |= (rows_seen["start"] != 0) & (rows_seen["start"] != habit)
            counts["truncated"] += int(unusual.sum())
            flagged |= unusual
        arrays["flagged"] = np.sort(rows_seen["id"][flagged]).astype(np.uint64)
        band: list[float | None] = []
        if losses:
            loss_arrays, band = losses.result()
            arrays |= loss_arrays
            outside = outside_band(loss_arrays, band)
            counts["perplexity"] = len(outside)
            flagged = flagged | np.isin(rows_seen["id"], outside)
        # Last, so that no row is dropped in favour of one that is dropped itself.
        if duplicates.enabled:
            resolved = duplicates.resolve(flagged)
            arrays |= resolved.arrays
            counts |= {name: resolved.counts[name] for name in RULES if name in counts}
        summary = ", ".join(f"{name} {count}" for name, count in counts.items() if count)
        ctx.log.info(f"rows that break a rule: {summary or 'none'}")
        report: dict[str, Any] = {"rows": len(rows_seen), "broken": counts}
        return State({"habit": habit, "band": band, "report": report}, arrays)

    def process(self, chunk: Sequence[Sample], state: State, ctx: Context) -> list[Sample]:
        return [self._decide(sample, state) for sample in chunk]

    def _decide(self, sample: Sample, state: State) -> Sample:
        broken = self._reasons(sample, state)
        reasons = [f"{name}: {reason}" for name, reason in broken.items()]
        if self.config.action == "note":
            return sample.note(NOTE, {"rules": list(broken), "reasons": reasons})
        if not broken:
            return sample.keep("breaks no rule")
        if sample.pinned:
            return sample.keep(f"pinned: stays, although {'; '.join(reasons)}")
        return sample.drop("; ".join(reasons))

    def _reasons(self, sample: Sample, state: State) -> dict[str, str]:
        rules, values, arrays = self.config.rules, state.values, state.arrays
        reasons: dict[str, str] = {}
        if (duplicate := duplicate_of(sample.id, arrays)) is not None:
            name, reason = reason_of(*duplicate, rules.near_duplicates)
            reasons[name] = reason
        if place_of(arrays["flagged"], sample.id) is not None:
            text = Text.of(sample)
            reasons |= broken_rules(text, rules)
            if rules.truncated and _end_undecided(reasons):
                ending = unusual_reason(text, rules.truncated, values["habit"], arrays)
                reasons |= {"truncated": ending} if ending else {}
        band: Any = values["band"]
        if rules.perplexity and (outside := outside_band_reason(sample.id, arrays, band)):
            reasons["perplexity"] = outside
        return reasons


def _end_undecided(broken: Mapping[str, str]) -> bool:
    """Return whether the row's end still needs to be judged."""
    return "truncated" not in broken and "empty" not in broken
