"""The loop over sample stages: what a stage is shown, what of it is kept, and what the run writes."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from nfilter import Contract, ContractError, Sample, State
from nfilter.metrics.figures import reported

Stage = Callable[..., type]


def number(sample: Sample) -> int:
    """Which row of ROWS a sample is."""
    return int(sample.query.split("+")[0])


def test_each_stage_reports_under_its_own_name(kit: Any, stage: Any) -> None:
    def fit(stream: Any, ctx: Any) -> State:
        report = {"name": ctx.stage, "samples": 1, "shared": ctx.stage[:2]}
        return State({"report": report})

    first, other = stage("extra.a", fit=fit), stage("extra.b", fit=fit)
    metrics = kit.run([first, first, other, stage("extra.c")]).metrics
    assert (metrics["name"], metrics["samples"]["read"]) == ("test", 10)
    assert metrics["stages"] == {
        label: {"name": label, "samples": 1, "shared": label[:2]}
        for label in ("01-extra.a", "02-extra.a", "03-extra.b")
    }
    assert reported(metrics, "shared") == ("03-extra.b", "03")
    assert reported(metrics, "absent") is None


def test_process_sees_chunks_in_order_and_fit_sees_every_sample_once(
    kit: Any, stage: Stage
) -> None:
    chunks: list[list[int]] = []
    fitted: list[int] = []
    states: list[Any] = []

    def fit(stream: Any, ctx: Any) -> State:
        fitted.extend(number(sample) for sample in stream)
        return State(
            {"total": len(fitted)},
            {"squares": np.arange(3.0) ** 2, "none": np.zeros((0, 2)), "one": np.array(5)},
        )

    def process(chunk: Sequence[Sample], state: State, ctx: Any) -> Sequence[Sample]:
        chunks.append([number(sample) for sample in chunk])
        states.append(state)
        return chunk

    kit.run([stage(process=process, fit=fit)], chunk=4)
    assert fitted == list(range(10))
    assert chunks == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    for state in states:
        assert state.values["total"] == 10
        np.testing.assert_array_equal(state.arrays["squares"], [0, 1, 4])
        assert state.arrays["none"].shape == (0, 2)
        assert state.arrays["one"].shape == ()
        assert isinstance(state.arrays["squares"], np.memmap)


def test_no_more_than_a_chunk_is_in_memory_at_a_time(kit: Any, stage: Stage) -> None:
    alive: list[weakref.ref[Any]] = []
    most = 0

    class Tracked(list):  # type: ignore[type-arg]
        """A list that can be referenced weakly: it lives as long as the sample whose note it is."""

    def process(chunk: Sequence[Sample], state: Any, ctx: Any) -> list[Sample]:
        nonlocal most
        notes = [Tracked([number(sample)]) for sample in chunk]
        alive.extend(weakref.ref(value) for value in notes)
        gc.collect()
        most = max(most, sum(ref() is not None for ref in alive))
        return [sample.note("n", value) for sample, value in zip(chunk, notes, strict=True)]

    rows = "".join(f"{n}+1 => {n + 1}\n" for n in range(60))
    contract = Contract(writes=frozenset({"n"}))
    kit.run([stage(process=process, contract=contract)], rows=rows, chunk=5)
    assert len(alive) == 60
    assert most <= 10  # the chunk at work and the one just published


def test_dropped_samples_stay_on_record_and_no_later_stage_sees_them(
    kit: Any, stage: Stage
) -> None:
    seen: dict[str, list[int]] = {"fit": [], "process": []}

    def drop_odd(chunk: Sequence[Sample], state: Any, ctx: Any) -> list[Sample]:
        return [sample.drop("it is odd") if number(sample) % 2 else sample for sample in chunk]

    def fit(stream: Any, ctx: Any) -> State:
        seen["fit"] += [number(sample) for sample in stream]
        return State()

    def look(chunk: Sequence[Sample], state: Any, ctx: Any) -> Sequence[Sample]:
        seen["process"] += [number(sample) for sample in chunk]
        return chunk

    result = kit.run([stage("extra.odd", drop_odd), stage("extra.look", look, fit=fit)])
    assert seen == {"fit": [0, 2, 4, 6, 8], "process": [0, 2, 4, 6, 8]}
    last = list(kit.artefact("02-extra.look").samples())
    assert [number(sample) for sample in last] == list(range(10))
    assert [sample.dropped for sample in last] == [None, "it is odd"] * 5
    assert [row["line"] for row in kit.lines("cleaned.jsonl")] == [
        f"{n}+1 => {n + 1}" for n in range(0, 10, 2)
    ]
    dropped = kit.lines("dropped.jsonl")
    assert [(row["stage"], row["reason"], row["row"]["line"]) for row in dropped] == [
        ("01-extra.odd", "it is odd", f"{n}+1 => {n + 1}") for n in range(1, 10, 2)
    ]
    assert result.metrics["samples"] == {
        "read": 10,
        "unreadable": 0,
        "kept": 5,
        "dropped": 5,
        "relabelled": 0,
    }


def test_a_chunk_with_nothing_left_is_not_shown_at_all(kit: Any, stage: Stage) -> None:
    sizes: list[int] = []

    def drop_first_chunk(chunk: Sequence[Sample], state: Any, ctx: Any) -> list[Sample]:
        return [sample.drop("early") if number(sample) < 4 else sample for sample in chunk]

    def look(chunk: Sequence[Sample], state: Any, ctx: Any) -> Sequence[Sample]:
        sizes.append(len(chunk))
        return chunk

    kit.run([stage("extra.first", drop_first_chunk), stage("extra.look", look)])
    assert sizes == [4, 2]


def test_every_decision_is_recorded_with_its_reason(kit: Any, stage: Stage) -> None:
    def decide(chunk: Sequence[Sample], state: Any, ctx: Any) -> list[Sample]:
        acts: dict[int, Callable[[Sample], Sample]] = {
            0: lambda sample: sample.keep("looked at"),
            1: lambda sample: sample.drop("wrong"),
            2: lambda sample: sample.relabel("42", "two views say 42"),
            3: lambda sample: sample.weigh(0.25, "unsure"),
            4: lambda sample: sample.relabel("43", "first").weigh(0.5, "and unsure"),
            5: lambda sample: sample.relabel("44", "first").drop("then given up"),
        }
        return [acts.get(number(sample), lambda sample: sample)(sample) for sample in chunk]

    kit.run([stage(process=decide)], chunk=3)
    ids = [sample.id for sample in kit.artefact("00-source").samples()]
    label = "01-extra.stage"
    assert kit.decisions(label) == [
        {"id": ids[0], "stage": label, "action": "keep", "reason": "looked at"},
        {"id": ids[1], "stage": label, "action": "drop", "reason": "wrong"},
        {"id": ids[2], "stage": label, "action": "relabel", "reason": "two views say 42", "before": "3", "after": "42"},
        {"id": ids[3], "stage": label, "action": "weigh", "reason": "unsure", "before": 1.0, "after": 0.25},
        {
            "id": ids[4], "stage": label, "action": "relabel", "reason": "and unsure", "before": "5", "after": "43",
            "weight": {"before": 1.0, "after": 0.5},
        },
        {"id": ids[5], "stage": label, "action": "drop", "reason": "then given up", "before": "6", "after": "44"},
    ]  # fmt: skip
    assert all(sample.why is None for sample in kit.artefact(label).samples())
    summary = kit.artefact(label).summary()
    assert {key: summary[key] for key in ("kept", "dropped", "changed", "weighed", "samples")} == {
        "kept": 8, "dropped": 2, "changed": 2, "weighed": 1, "samples": 10,
    }  # fmt: skip
    assert [row["line"] for row in kit.lines("cleaned.jsonl")][:3] == [
        "0+1 => 1",
        "2+1 => 42",
        "3+1 => 4",
    ]


def test_a_reason_is_one_stages_own(kit: Any, stage: Stage) -> None:
    def keep(chunk: Sequence[Sample], state: Any, ctx: Any) -> list[Sample]:
        return [sample.keep("looked at") for sample in chunk]

    def sees_none(chunk: Sequence[Sample], state: Any, ctx: Any) -> Sequence[Sample]:
        assert [sample.why for sample in chunk] == [None] * len(chunk)
        return chunk

    kit.run([stage("extra.keep", keep), stage("extra.look", sees_none)])
    assert kit.decisions("02-extra.look") == []


def test_new_samples_follow_their_chunk_with_parents_on_record(kit: Any, stage: Stage) -> None:
    from nfilter import Message

    def double(chunk: Sequence[Sample], state: Any, ctx: Any) -> list[Sample]:
        out: list[Sample] = []
        for sample in chunk:
            out.append(sample)
            if number(sample) in {1, 5}:
                messages = (
                    Message("user", f"{number(sample)}+1+0"),
                    Message("assistant", sample.response),
                )
                out.append(Sample(f"new-{sample.id}", messages, parents=(sample.id,)))
        return out

    kit.run([stage(process=double, contract=Contract(new_samples=True)), stage("extra.after")])
    queries = [sample.query for sample in kit.artefact("02-extra.after").samples()]
    assert queries[:5] == ["0+1", "1+1", "2+1", "3+1", "1+1+0"]
    assert queries[8] == "7+1"
    assert queries[9] == "5+1+0"
    created = [row for row in kit.decisions("01-extra.stage") if row["action"] == "create"]
    parent = next(
        sample.id for sample in kit.artefact("00-source").samples() if number(sample) == 1
    )
    assert created[0] == {
        "id": f"new-{parent}",
        "stage": "01-extra.stage",
        "action": "create",
        "reason": f"made from {parent}",
    }
    assert len(kit.lines("cleaned.jsonl")) == 12


def pairing(parent: str) -> Callable[[Sequence[Sample], Any, Any], list[Sample]]:
    """A stage that makes a sample from the first of the second chunk and from ``parent``."""

    def process(chunk: Sequence[Sample], state: Any, ctx: Any) -> list[Sample]:
        out = list(chunk)
        first = next((sample for sample in chunk if number(sample) == 5), None)
        if first is not None:
            out.append(Sample.made(ctx.stage, [first.id, parent], first.messages, "why not"))
        return out

    return process


def id_of(kit: Any, wanted: int) -> str:
    return next(s.id for s in kit.artefact("00-source").samples() if number(s) == wanted)


def test_a_new_sample_may_have_parents_in_another_chunk(kit: Any, stage: Stage) -> None:
    kit.run([stage()])
    far = id_of(kit, 1)
    grows = Contract(new_samples=True)
    kit.run([stage("extra.grows", pairing(far), contract=grows)], chunk=4)
    (created,) = (row for row in kit.decisions("01-extra.grows") if row["action"] == "create")
    near = id_of(kit, 5)
    assert created["reason"] == f"made from {near}, {far}: why not"
    made = next(s for s in kit.artefact("01-extra.grows").samples() if s.parents)
    assert (made.id, made.parents, made.why) == (created["id"], (near, far), None)
    with pytest.raises(ContractError, match="name samples that the stage received"):
        kit.run([stage("extra.other", pairing("stranger"), contract=grows)], chunk=4)


def test_a_dropped_sample_is_nobodys_parent(kit: Any, stage: Stage) -> None:
    kit.run([stage()])
    far = id_of(kit, 1)

    def drop(chunk: Sequence[Sample], state: Any, ctx: Any) -> list[Sample]:
        return [s.drop("wrong") if s.id == far else s for s in chunk]

    grows = stage("extra.grows", pairing(far), contract=Contract(new_samples=True))
    with pytest.raises(ContractError, match="name samples that the stage received"):
        kit.run([stage("extra.drop", drop), grows], chunk=4)


def test_a_new_samples_id_is_taken_in_all_chunks(kit: Any, stage: Stage) -> None:
    def same(chunk: Sequence[Sample], state: Any, ctx: Any) -> list[Sample]:
        return [*chunk, Sample("mine", chunk[0].messages, parents=(chunk[0].id,))]

    with pytest.raises(ContractError, match="new sample 'mine' has the id of an existing sample"):
        kit.run([stage(process=same, contract=Contract(new_samples=True))], chunk=4)
    # It went wrong at the second chunk: the first is there, and a second try ends the same way.
    assert kit.artefact("01-extra.stage").has_chunk(0)
    with pytest.raises(ContractError, match="new sample 'mine' has the id of an existing sample"):
        kit.run([stage(process=same, contract=Contract(new_samples=True))], chunk=4)


@pytest.mark.parametrize(
    "state",
    [State({"x": float("nan")}), State({"x": object()}), State({}, {"x": np.array([object()])}), None, {"x": 1}],
    ids=["nan", "object", "array of objects", "none", "dict"],
)  # fmt: skip
def test_what_fit_returns_can_be_kept_on_disk_or_is_refused(
    kit: Any, stage: Stage, state: Any
) -> None:
    with pytest.raises(ContractError, match=r"01-extra\.stage: fit did not return a State"):
        kit.run([stage(fit=lambda stream, ctx: state)])


def test_the_context_gives_each_stage_its_own_reproducible_generator(
    kit: Any, stage: Stage
) -> None:
    drawn: dict[str, list[float]] = {"extra.a": [], "extra.b": []}

    def draws(name: str) -> Callable[..., Sequence[Sample]]:
        def process(chunk: Sequence[Sample], state: Any, ctx: Any) -> Sequence[Sample]:
            drawn[name] += [ctx.rng(sample.id).random() for sample in chunk]
            return chunk

        return process

    stages = [stage(name, draws(name)) for name in drawn]
    kit.run(stages, chunk=4)
    first = {name: list(values) for name, values in drawn.items()}
    assert len(set(first["extra.a"]) | set(first["extra.b"])) == 20
    for values in drawn.values():
        values.clear()
    kit.run(stages, chunk=3, out=kit.home / "other")
    assert drawn == first
    for values in drawn.values():
        values.clear()
    kit.run(stages, out=kit.home / "third", assignments=["seed=1"])
    assert set(drawn["extra.a"]).isdisjoint(first["extra.a"])


def test_events_are_told_in_order_and_a_failing_listener_ends_nothing(
    kit: Any, stage: Stage
) -> None:
    heard: list[Any] = []

    def fails(event: Any) -> None:
        heard.append(event)
        raise RuntimeError("the listener's own fault")

    hooks = dict.fromkeys(("run_started", "stage_finished", "run_finished"), fails)
    result = kit.run([stage("extra.a"), stage("extra.b")], hooks=hooks)
    assert [type(event).__name__ for event in heard] == [
        "RunStarted",
        "StageFinished",
        "StageFinished",
        "RunFinished",
    ]
    assert [event.stage for event in heard[1:3]] == ["01-extra.a", "02-extra.b"]
    assert heard[3].metrics == result.metrics
    assert len([text for text in kit.reporter.warnings if "plugin 'extra' failed in" in text]) == 4


def test_the_run_says_what_it_did(kit: Any, stage: Stage) -> None:
    kit.run([stage("extra.a")], rows="1+1 => 2\nno arrow here\n2+2 => 4\n")
    assert kit.reporter.infos[0] == "source: 2 rows, 1 unreadable (quarantine.jsonl)"
    assert kit.reporter.infos[1].startswith(
        "01-extra.a: 2 kept, 0 dropped so far, 0 relabelled in "
    )
    assert kit.lines("quarantine.jsonl") == [
        {"line": 2, "error": "no 'question => answer' in this line", "raw": "no arrow here"}
    ]
    log = (kit.out / "run.log").read_text(encoding="utf-8").splitlines()
    (warning,) = kit.reporter.warnings
    assert warning == (
        "source: 1 of 3 rows cannot be read (quarantine.jsonl): 1 because no 'question => answer' in this line (line 2)"
    )
    told = [line.split(" ", 2)[1:] for line in log]
    assert [text for level, text in told if level == "info"] == kit.reporter.infos
    assert [text for level, text in told if level == "warning"] == [warning]
    manifest = kit.json("manifest.json")
    assert manifest["stages"][0]["stage"] == "01-extra.a"
    assert manifest["versions"]["numpy"] == np.__version__


def test_a_run_directory_is_its_owners_alone(kit: Any) -> None:
    kit.run()
    assert kit.out.stat().st_mode & 0o777 == 0o700
