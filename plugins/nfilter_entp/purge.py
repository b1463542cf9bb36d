"""``entp.purge``: samples that a rule knows for junk leave, without a model (the rules are our own choice)."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from nfilter import Context, Contract, Sample, StageConfig, State, hash_of, place_of
from nfilter_entp.duplicates import RULES, Collected, copy_of, said_of
from nfilter_entp.endings import Ending, Endings, unusual
from nfilter_entp.perplexity import Scored, outsiders, perplexed
from nfilter_entp.rules import DEFAULT, Rules, broken
from nfilter_entp.texts import Text

NOTE = "purge"
_COLUMNS = np.dtype([("id", "<u8"), ("start", "<u4"), ("word", "<u4"), ("found", "u1")])
_ROW = struct.Struct("<QIIB")


class PurgeConfig(StageConfig):
    """``rules``: names, or a mapping of names to settings; those that are named run, by default all that need no model.

    ``action: note`` drops nothing and writes note ``purge``, ``{"rules": [name], "reasons": [text]}``, on every sample.
    """

    rules: Rules = Field(
        default_factory=lambda: Rules.model_validate(DEFAULT), validate_default=True
    )
    action: Literal["drop", "note"] = "drop"


class Purge:
    """Drops samples that break a rule, each with all rules that it breaks and the numbers that decided.

    What a person pinned stays. Of duplicates one stays: pinned, else one that breaks no other rule, else the longest response.
    """

    name: ClassVar[str] = "entp.purge"
    Config: ClassVar[type[StageConfig]] = PurgeConfig

    def __init__(self, config: PurgeConfig) -> None:
        self.config = config

    @classmethod
    def contract(cls, config: PurgeConfig) -> Contract:
        """Reads no note; writes one where nothing is dropped. Only ``perplexity`` needs a model."""
        perplexity = config.rules.perplexity
        return Contract(
            writes=(noted := frozenset({NOTE} if config.action == "note" else ())),
            sometimes=noted,
            needs=perplexity.needs() if perplexity else (),
        )

    def fit(self, stream: Iterable[Sample], ctx: Context) -> State:
        """Look at every row once: some 160 bytes a row are kept, its text in a temporary file until all are seen."""
        rules = self.config.rules
        with Collected(
            rules.exact_duplicates, rules.near_duplicates, rules.same_response
        ) as copies:
            return self._learn(stream, copies, ctx)

    def _learn(self, stream: Iterable[Sample], copies: Collected, ctx: Context) -> State:
        rules = self.config.rules
        names = [name for name in type(rules).model_fields if getattr(rules, name) is not None]
        counts = dict.fromkeys(names, 0)
        endings = Endings(rules.truncated) if rules.truncated else None
        scored = Scored(rules.perplexity, ctx) if rules.perplexity else None
        rows = bytearray()
        with ctx.progress(None, f"{self.name}: rows") as bar:
            for sample in stream:
                text = Text.of(sample)
                found = broken(text, rules)
                for name in found:
                    counts[name] += 1
                judged = not _open_to_endings(found)
                ending = endings.add(text, judged=judged) if endings else Ending()
                rows += _ROW.pack(hash_of(sample.id), ending.start, ending.word, bool(found))
                if copies.wanted:
                    copies.add(sample.id, text, pinned=sample.pinned)
                if scored:
                    scored.add(sample)
                bar.advance()
        seen = np.frombuffer(rows, _COLUMNS)
        flagged, habit, arrays = seen["found"].astype(bool), 0, dict[str, Any]()
        if endings:
            habit, arrays["cut_words"] = endings.settle()
            late = np.isin(seen["word"], arrays["cut_words"])
            if habit:
                late |= (seen["start"] != 0) & (seen["start"] != habit)
            counts["truncated"] += int(late.sum())
            flagged |= late
        arrays["flagged"] = np.sort(seen["id"][flagged]).astype(np.uint64)
        band: list[float | None] = []
        if scored:
            more, band = scored.settle()
            arrays |= more
            far = outsiders(more, band)
            counts["perplexity"] = len(far)
            flagged = flagged | np.isin(seen["id"], far)
        # Last, as no row leaves for one that leaves itself.
        if copies.wanted:
            settled = copies.settle(flagged)
            arrays |= settled.arrays
            counts |= {name: settled.counts[name] for name in RULES if name in counts}
        said = ", ".join(f"{name} {count}" for name, count in counts.items() if count)
        ctx.log.info(f"rows that break a rule: {said or 'none'}")
        report: dict[str, Any] = {"rows": len(seen), "broken": counts}
        return State({"habit": habit, "band": band, "report": report}, arrays)

    def process(self, chunk: Sequence[Sample], state: State, ctx: Context) -> list[Sample]:
        """Drop or keep each sample of the chunk, or write the note."""
        return [self._decide(sample, state) for sample in chunk]

    def _decide(self, sample: Sample, state: State) -> Sample:
        found = self._found(sample, state)
        reasons = [f"{name}: {why}" for name, why in found.items()]
        if self.config.action == "note":
            return sample.note(NOTE, {"rules": list(found), "reasons": reasons})
        if not found:
            return sample.keep("breaks no rule")
        if sample.pinned:
            return sample.keep(f"pinned, though {'; '.join(reasons)}")
        return sample.drop("; ".join(reasons))

    def _found(self, sample: Sample, state: State) -> dict[str, str]:
        rules, values, arrays = self.config.rules, state.values, state.arrays
        found: dict[str, str] = {}
        if (copy := copy_of(sample.id, arrays)) is not None:
            name, why = said_of(*copy, rules.near_duplicates)
            found[name] = why
        if place_of(arrays["flagged"], sample.id) is not None:
            text = Text.of(sample)
            found |= broken(text, rules)
            if rules.truncated and _open_to_endings(found):
                late = unusual(text, rules.truncated, values["habit"], arrays)
                found |= {"truncated": late} if late else {}
        band: Any = values["band"]
        if rules.perplexity and (far := perplexed(sample.id, arrays, band)):
            found["perplexity"] = far
        return found


def _open_to_endings(found: Mapping[str, str]) -> bool:
    """Whether the row's end is still to be judged."""
    return "truncated" not in found and "empty" not in found
