"""Count what rows contain that changes their meaning and that no sample can represent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from nfilter.api.types import Row, Sample, Unreadable


class NotCarried:
    """Counts rows by what a sample does not represent (``Row.not_carried``)."""

    def __init__(self, rows: Iterable[Row | Unreadable] = ()) -> None:
        self._rows = 0
        self._counts: Counter[str] = Counter()
        for row in rows:
            self.add(row)

    def add(self, row: Row | Unreadable) -> None:
        """Count one row; unreadable rows are not counted."""
        if isinstance(row, Row):
            self._rows += 1
            self._counts.update(set(row.not_carried))

    def counts(self) -> dict[str, int]:
        """Return the number of rows by what is not represented, the most frequent first."""
        return dict(self._counts.most_common())

    def warnings(self) -> list[str]:
        """Return one sentence per kind."""
        return list(warnings_of(self.counts(), self._rows))


def holdings(rows: Iterable[Row | Unreadable]) -> list[str]:
    """Return a sentence about parts that a chat template may not support, and one about turns outside the loss."""
    counts: Counter[str] = Counter()
    total = 0
    for row in rows:
        if isinstance(row, Row):
            total += 1
            counts.update(set(_held(row.sample)))
    said = [f"{name} in {counts[name]} of {total} rows" for name in _ASKED if counts[name]]
    asked = (
        [f"{', '.join(said)}: training drops a row that the model's chat template cannot represent; nfilter lint counts those"]
        if said
        else []
    )  # fmt: skip
    light = counts[_LIGHT]
    return [*asked, *([f"{light} of {total} rows hold {_LIGHT}, which are out of the loss"] if light else [])]  # fmt: skip


_ASKED = ("tools", "tool calls", "thoughts")
_LIGHT = "turns of weight 0"


def _held(sample: Sample) -> Iterator[str]:
    if sample.tools:
        yield "tools"
    for message in sample.messages:
        if message.tool_calls:
            yield "tool calls"
        if message.reasoning:
            yield "thoughts"
        if message.weight == 0:
            yield _LIGHT


def warnings_of(counts: Mapping[str, int], rows: int) -> Iterator[str]:
    """Yield one sentence per kind in ``counts``; ``rows`` is the number of readable rows."""
    for name, count in counts.items():
        have = "row holds" if count == 1 else "rows hold"
        yield (
            f"{count} of {rows} readable {have} {name}, which no model is shown and training does not use; "
            "take such rows out of the data, or remove the field where it does not matter"
        )
