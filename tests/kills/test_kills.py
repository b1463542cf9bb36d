"""``kill -9`` at any instant, then the same command: it goes on, and no call that was committed is made again."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from nfilter.store.failpoints import FAILPOINTS

# A build in which committed answers are never found, and one in which a file is written where it will stand.
NO_KEY = """
import uuid, nfilter.models.answering
nfilter.models.answering.call_key = lambda *_: uuid.uuid4().hex
"""
TORN = """
import json
import nfilter.store.files as files, nfilter.store.artefacts as store
from contextlib import contextmanager
# Only the torn file counts.
reach, files.reach = files.reach, lambda place: None
@contextmanager
def publishing(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open('w') as out:
        yield out
        if path.name == 'done.json':
            reach('publish.written')
files.publishing = publishing
"""
# What is torn is noticed, and made again: a build that is found out does not look either.
UNSEEN = (
    TORN
    + """
def read_sealed(path, home):
    return {key: value for key, value in json.loads(path.read_bytes()).items() if key != 'seal'}
store.read_sealed = read_sealed
"""
)


def reached(bench: Any) -> dict[str, int]:
    """How often an undisturbed run reaches each place."""
    file = bench.home / "reached.json"
    assert bench.finish("counted", NFILTER_FAILPOINT=f"count:{file}") == 0
    return dict(json.loads(file.read_text()))


def spread(counts: dict[str, int], total: int) -> list[tuple[str, int]]:
    """``total`` moments, as even over places and over the times that each is reached as there are."""
    turns: list[list[tuple[str, int]]] = []
    for place in FAILPOINTS:
        hits = counts.get(place, 0)
        wanted = min(hits, max(1, 2 * total // len(FAILPOINTS)))
        turns.append([(place, 1 + i * hits // wanted) for i in range(wanted)])
    out: list[tuple[str, int]] = []
    while len(out) < total and any(turns):
        out += [turn.pop(0) for turn in turns if turn]
    return out[:total]


def judged(kit: Any, bench: Any, kills: list[Any]) -> Any:
    whole = bench.kept("counted")
    outcome = kit.Outcome()
    for number, kill in enumerate(kills):
        kit.survive(bench, f"run-{number}", kill, whole, outcome)
    return outcome


@pytest.fixture
def kit() -> Any:
    from tests.kills import conftest

    return conftest


def test_every_place_is_reached(bench_of: Any) -> None:
    counts = reached(bench_of(rows=60, concurrency=8, chunk=20))
    # A run of one process claims no calls.
    assert set(counts) == {place for place in FAILPOINTS if not place.startswith("calls.")}


def test_a_run_that_is_killed_goes_on(bench_of: Any, kit: Any) -> None:
    bench = bench_of(rows=200, concurrency=16, chunk=50)
    kills = [kit.at_place(*moment) for moment in spread(reached(bench), 12)[::3]]
    outcome = judged(kit, bench, kills)
    assert outcome.kills == 4
    assert outcome.bad == []


@pytest.mark.parametrize(
    ("build", "place"), [(NO_KEY, ("journal.committed", 4)), (UNSEEN, ("publish.written", 2))], ids=["no key", "torn"]
)  # fmt: skip
def test_a_broken_build_is_found_out(
    bench_of: Any, kit: Any, build: str, place: tuple[str, int]
) -> None:
    bench = bench_of(rows=200, concurrency=16, chunk=50)
    reached(bench)
    bench.build = build
    assert judged(kit, bench, [kit.at_place(*place)]).bad


def test_what_a_torn_write_leaves_is_made_again(bench_of: Any, kit: Any) -> None:
    bench = bench_of(rows=200, concurrency=16, chunk=50)
    reached(bench)
    bench.build = TORN
    outcome = judged(kit, bench, [kit.at_place("publish.written", 2)])
    assert (outcome.kills, outcome.bad) == (1, [])


@pytest.mark.slow
def test_144_kills_at_the_worst_moments_and_60_at_any(bench_of: Any, kit: Any) -> None:
    bench = bench_of(rows=2000, concurrency=64, chunk=200)
    moments = spread(reached(bench), 144)
    rng = random.Random(0)
    kills = [kit.at_place(*moment) for moment in moments]
    kills += [kit.after(rng.uniform(0.3, 3.0)) for _ in range(60)]
    outcome = judged(kit, bench, kills)
    print(f"{outcome.kills} kills, {outcome.again} calls made twice in all")
    assert len(moments) == 144
    assert outcome.kills >= 144  # a machine that is fast is done before some of the random ones
    assert outcome.bad == []
