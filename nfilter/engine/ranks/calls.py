"""Calls of a stage that several ranks share: each is made by the rank that claims it, and the others read its answer."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Final

from nfilter.api.calls import Completion
from nfilter.engine.ranks.place import Place
from nfilter.engine.ranks.records import RANKS
from nfilter.engine.ranks.waiting import Waiting
from nfilter.store.claims import ClaimFolder
from nfilter.store.files import remove
from nfilter.store.journal import Journal

_CALLS: Final = "calls"


class SharedCalls:
    """The claims of one rank to the calls of one stage.

    A rank answers what it has claimed before it waits for another, so that ranks never wait for each other in a circle. The
    claims of a rank that was killed stay until it is started again, which publishes the answers that its journal has.
    """

    def __init__(
        self,
        run: Path,
        label: str,
        place: Place,
        waiting: Waiting,
        check: Callable[[Collection[int]], None],
    ) -> None:
        """``check`` raises an error if ranks that are waited for will not answer."""
        self._folder = ClaimFolder(calls_folder(run) / label, place.rank)
        self._place = place
        self._waiting = waiting
        self._check = check

    def resume(self, journal: Journal) -> None:
        """Publish the answers that an earlier process of this rank had before it ended, and give up its other claims.

        Raises:
            StoreError: if the claims cannot be written.
        """
        left = self._folder.unsettled(self._place.world)
        known = journal.find(left)
        rest = [key for key in left if key not in known]
        self._folder.settle(known, rest, self._place.world)

    def take(self, keys: Sequence[str]) -> tuple[Sequence[str], Mapping[str, Completion]]:
        """Claim calls; return the keys of those that this rank makes, and answers of other ranks."""
        if not keys:
            return (), {}
        mine, looked = self._folder.take(keys)
        return mine, looked.answered

    def look(self, keys: Sequence[str]) -> tuple[Collection[str], Mapping[str, Completion]]:
        """Return the keys of calls that no rank makes any more, and answers of other ranks.

        Raises:
            NfilterError: if other ranks make the calls and will not answer.
        """
        looked = self._folder.look(keys)
        if not looked.free and not looked.answered:
            self._check(looked.awaited)
        return looked.free, looked.answered

    def wait(
        self, keys: Sequence[str], check: Callable[[], None]
    ) -> tuple[Collection[str], Mapping[str, Completion]]:
        """Return what ``look`` does, as soon as it is not empty. An error of ``check``, called before each look, ends it."""

        def changed() -> tuple[Collection[str], Mapping[str, Completion]] | None:
            check()
            free, answered = self.look(keys)
            return (free, answered) if free or answered else None

        return self._waiting.until(
            changed, lambda: f"the answers to {len(keys)} calls that other ranks make"
        )

    def settle(self, answers: Mapping[str, Completion], released: Collection[str]) -> None:
        """Publish answers to claimed calls, and give up those of this rank's claims that are ``released``."""
        self._folder.settle(answers, released)


def calls_folder(run: Path) -> Path:
    """Return the folder with the claims of all stages."""
    return run / RANKS / _CALLS


def remove_calls(run: Path, keep: str | None = None) -> None:
    """Remove the claims of all stages but ``keep``."""
    folder = calls_folder(run)
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        if path.name != keep:
            remove(path)
    if keep is None:
        remove(folder)
