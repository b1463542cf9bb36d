"""Arms end to end with a model that adds and a trainer that learns by heart: every accuracy can be counted."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nfilter import NothingLeftError, RecipeError, Sample, SourceError, StoreError
from nfilter.engine.seeds import run_seeds
from nfilter.recipe.model import load
from nfilter.store.files import read_json, read_jsonl
from nfilter.store.run_directory import set_aside
from tests.made_plugins import make_point

Stage = Callable[..., type]

# Ten sums; the labels of the first four are wrong. The student is off by one, the expert is right.
TRUE = {f"{n}+1": n + 1 for n in range(10)}
ROWS = "".join(f"{q} => {a + 5 if n < 4 else a} | {a}\n" for n, (q, a) in enumerate(TRUE.items()))
TEST = "".join(f"{q} => {a}\n" for q, a in TRUE.items())
RECIPE = """\
name: sums
answer: number
chunk: 4
models:
  student: {use: example.adder, off_by: 1}
  expert: {use: example.adder}
source: {use: example.qa, path: rows.qa, truth: true}
samples:
  - {use: example.ask, llm: expert, into: view}
  - {use: example.agree, view: view}
arms: [vanilla, raw, cleaned, truth]
encode: {model: student}
tokens: []
train: {use: example.memory, model: student}
evaluate: {metric: accuracy, source: {use: example.qa, path: test.qa}}
"""


@pytest.fixture
def sums(kit: Any) -> Callable[..., Any]:
    def run(text: str = RECIPE, rows: str = ROWS, test: str = TEST, **more: Any) -> Any:
        (kit.home / "test.qa").write_text(test)
        return kit.run(text=text, rows=rows, **more)

    return run


def test_four_arms_counted_by_hand(kit: Any, sums: Callable[..., Any]) -> None:
    metrics = sums().metrics
    # vanilla is always off by one; raw learned four wrong sums; cleaned dropped them, and falls back on the base's
    # wrong ones; truth knows all.
    means = {name: figures["mean"] for name, figures in metrics["arms"].items()}
    assert means == {"vanilla": 0.0, "raw": 0.6, "cleaned": 0.6, "truth": 1.0}
    assert metrics["arms"]["raw"]["training"]["samples"] == 10
    assert metrics["arms"]["cleaned"]["training"]["samples"] == 6
    assert metrics["arms"]["vanilla"]["training"] is None
    assert metrics["samples"] == {
        "read": 10,
        "unreadable": 0,
        "kept": 6,
        "dropped": 4,
        "relabelled": 0,
    }
    assert metrics["calls_per_sample"] == 1.0
    assert metrics["gain"] == pytest.approx(0.6)
    assert metrics["recovered"] is None  # truth - raw = .4 is 2.4 standard errors of ten rows
    assert metrics["example_words"] == {"before": 1.0, "after": 1.0}
    assert kit.json("metrics.json") == metrics


def test_what_an_arm_answered_is_kept_row_by_row(kit: Any, sums: Callable[..., Any]) -> None:
    sums()
    rows = kit.lines("evaluation/raw.jsonl")
    assert rows[0] | {"id": None} == {
        "id": None,
        "text": "6",
        "answer": "6",
        "reference": "1",
        "right": False,
    }
    assert rows[9] | {"id": None} == {
        "id": None,
        "text": "10",
        "answer": "10",
        "reference": "10",
        "right": True,
    }


def test_adapters_are_kept_by_arm_and_trained_once(
    kit: Any, sums: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from nfilter_example.model import Memory

    trained: list[int] = []
    train = Memory.train

    def counting(self: Any, samples: Sequence[Any], *rest: Any, **more: Any) -> Any:
        trained.append(len(samples))
        return train(self, samples, *rest, **more)

    monkeypatch.setattr(Memory, "train", counting)
    first = sums()
    assert trained == [10, 6, 10]
    assert sorted(path.name for path in (kit.out / "adapters").iterdir()) == [
        "cleaned",
        "raw",
        "truth",
    ]
    learned = json.loads((kit.out / "adapters" / "truth" / "memory.json").read_text())
    assert learned == {question: str(answer) for question, answer in TRUE.items()}
    assert sums().metrics == first.metrics
    assert trained == [10, 6, 10]
    # What a kill in the middle of training leaves has no marker.
    (kit.out / "adapters" / "raw" / "nfilter.json").unlink()
    again = sums().metrics["arms"]
    assert {name: arm["mean"] for name, arm in again.items()} == {
        name: arm["mean"] for name, arm in first.metrics["arms"].items()
    }
    assert trained == [10, 6, 10, 10]
    sums(rows=ROWS.replace("9+1 => 10 | 10", "9+1 => 11 | 10"))
    assert trained[4:] == [10, 5, 10]


def test_the_evaluations_own_calls_are_not_the_stages(kit: Any, sums: Callable[..., Any]) -> None:
    sums()
    calls = kit.json("manifest.json")["calls"]
    assert {stage: figures["calls"] for stage, figures in calls.items()} == {
        "01-example.ask": 10, "evaluate.cleaned": 10, "evaluate.raw": 10, "evaluate.truth": 10, "evaluate.vanilla": 10,
    }  # fmt: skip


def test_token_stages_shape_the_cleaned_arm_alone(kit: Any, sums: Callable[..., Any]) -> None:
    text = RECIPE.replace("tokens: []", "tokens:\n  - {use: example.first, keep: 1}")
    metrics = sums(text).metrics
    # Of the answers left (5, 6, 7, 8, 9, 10) only the last has two digits, and then its end token never counted.
    assert json.loads((kit.out / "adapters" / "cleaned" / "memory.json").read_text())["9+1"] == "1"
    assert json.loads((kit.out / "adapters" / "raw" / "memory.json").read_text())["9+1"] == "10"
    assert metrics["arms"]["cleaned"]["mean"] == 0.5
    index = kit.json("tokens/index.json")
    assert (index["reasons"], index["scores"]) == (["example.first"], ["position"])
    arrays = {path.stem: np.load(path) for path in (kit.out / "tokens").glob("*.npy")}
    assert list(arrays["offsets"]) == [0, 6, 12, 18, 24, 30, 37]  # "4+1", 0, "5", 0 is six tokens
    assert (
        len(arrays["ids"])
        == arrays["offsets"][-1]
        == len(arrays["weights"])
        == len(arrays["reasons"])
    )
    last = slice(*arrays["offsets"][-2:])
    assert bytes(arrays["ids"][last].astype(np.uint8)) == b"9+1\x0010\x00"
    np.testing.assert_array_equal(arrays["weights"][last], [0, 0, 0, 0, 1, 0, 0])
    np.testing.assert_array_equal(arrays["reasons"][last], [0, 0, 0, 0, 0, 1, 1])
    np.testing.assert_array_equal(arrays["score-position"][last], [np.nan] * 4 + [0, 1, 2])


def test_samples_without_a_token_left_leave_with_their_reason(
    kit: Any, sums: Callable[..., Any], stage: Stage
) -> None:
    def weigh(chunk: Sequence[Sample], state: Any, ctx: Any) -> list[Sample]:
        return [
            sample.weigh(0.0, "worth nothing") if sample.query == "4+1" else sample
            for sample in chunk
        ]

    text = RECIPE.replace("example.agree, view: view}", "extra.weigh}").replace(", vanilla", "")
    text = text.replace("arms: [vanilla, raw, cleaned, truth]", "arms: [cleaned]").replace(
        "encode: {model: student}", "encode: {model: student, max_length: 5}"
    )
    rows = ROWS + "100+1 => 101 | 101\n"
    result = sums(text, rows, stages=[stage("extra.weigh", weigh)])
    gone = {row["row"]["line"]: (row["stage"], row["reason"]) for row in kit.lines("dropped.jsonl")}
    assert gone == {
        "4+1 => 5": ("encode", "every token has weight 0 (sample weight 0.0)"),
        "100+1 => 101": (
            "encode",
            "no token of the response is left: it begins at token 7 of 10, and encode.max_length is 5",
        ),
    }
    assert result.metrics["samples"]["kept"] == 9
    assert len(kit.lines("cleaned.jsonl")) == 9


def test_a_run_with_nothing_left_says_who_dropped_how_many(
    kit: Any, sums: Callable[..., Any]
) -> None:
    text = RECIPE.replace("expert: {use: example.adder}", "expert: {use: example.adder, off_by: 9}")
    text = text.replace("arms: [vanilla, raw, cleaned, truth]", "arms: [cleaned]")
    with pytest.raises(NothingLeftError) as caught:
        sums(text)
    assert (
        "arm cleaned: no sample is left to train on (02-example.agree dropped 10); dropped.jsonl"
        in str(caught.value)
    )
    assert len(kit.decisions("02-example.agree")) == 10


def test_arms_need_what_they_need(kit: Any, sums: Callable[..., Any]) -> None:
    with pytest.raises(NothingLeftError, match="arm truth: no row has a known truth"):
        sums(
            RECIPE.replace("arms: [vanilla, raw, cleaned, truth]", "arms: [truth]"),
            "1+1 => 2\n3+4 => 7\n",
        )
    with pytest.raises(StoreError, match=r"r\.yaml:15: no row of the test source can be read"):
        sums(test="nothing here\n")
    with pytest.raises(
        RecipeError, match=r"r\.yaml:2: answer kind 'number' finds no answer in any response"
    ):
        sums(test="1+1 => two\n")
    with pytest.raises(
        SourceError,
        match=r"none of the 1 rows of rows\.qa can be read.*\n  rows\.qa:1: no 'question",
    ) as caught:
        sums(rows="nothing here\n")
    assert "r.yaml:7" in str(caught.value)
    with pytest.raises(SourceError, match=r"rows\.qa has no rows"):
        sums(rows="")


def test_test_rows_without_a_readable_answer_count_nowhere(
    kit: Any, sums: Callable[..., Any]
) -> None:
    metrics = sums(
        RECIPE.replace("arms: [vanilla, raw, cleaned, truth]", "arms: [truth]"),
        test="1+1 => 2\n2+1 => unknown\n",
    ).metrics
    assert (metrics["arms"]["truth"]["rows"], metrics["arms"]["truth"]["mean"]) == (1, 1.0)
    assert metrics["arms"]["truth"]["unanswered"] == 0.0


def test_limits_count_rows(kit: Any, sums: Callable[..., Any]) -> None:
    from nfilter.engine.run import run

    sums()
    plugins = kit.catalogue()
    recipe = load(kit.home / "r.yaml", plugins, ["evaluate.limit=3"])
    metrics = run(recipe, plugins, kit.home / "limited", limit=5).metrics
    assert metrics["samples"]["read"] == 5
    assert metrics["arms"]["truth"]["rows"] == 3


def test_several_seeds_make_child_runs_and_a_group(kit: Any, sums: Callable[..., Any]) -> None:
    sums()
    plugins = kit.catalogue()
    recipe = load(kit.home / "r.yaml", plugins)
    result = run_seeds(recipe, plugins, kit.home / "group", [0, 3], reporter=kit.reporter)
    children = [read_json(kit.home / "group" / f"seed-{seed}" / "metrics.json") for seed in (0, 3)]
    assert [child["seeds"] for child in children] == [[0], [3]]
    assert result.metrics == read_json(kit.home / "group" / "metrics.json")
    assert result.metrics["seeds"] == [0, 3]
    assert result.metrics["arms"]["raw"]["mean"] == 0.6
    assert (result.metrics["arms"]["raw"]["sd"], result.metrics["arms"]["raw"]["n"]) == (0.0, 2)
    assert [text for text in kit.reporter.infos if text.startswith("seed ")] == ["seed 0", "seed 3"]


@pytest.mark.types("would overwrite its figures; choose another --out")
def test_a_run_and_a_group_of_seeds_do_not_share_a_directory(
    kit: Any, sums: Callable[..., Any]
) -> None:
    from nfilter.engine.run import run

    sums()
    recipe = load(kit.home / "r.yaml", plugins := kit.catalogue())
    single, group = kit.home / "single", kit.home / "group"
    run(recipe, plugins, single)
    run_seeds(recipe, plugins, group, [0])
    before = [(folder / "metrics.json").read_bytes() for folder in (single, group)]
    with pytest.raises(
        StoreError, match=r"single: holds a run of one seed, .* --out, or add --fresh"
    ):
        run_seeds(recipe, plugins, single, [0])
    with pytest.raises(
        StoreError, match=r"group: holds runs with --seeds, .* --out, or add --fresh"
    ):
        run(recipe, plugins, group)
    assert [(folder / "metrics.json").read_bytes() for folder in (single, group)] == before
    # What the error names works.
    assert set_aside(single) == kit.home / "single.old-1"
    assert run_seeds(recipe, plugins, single, [0]).metrics["seeds"] == [0]


# --- the truth -------------------------------------------------------------------------------------------------


def scrambled(rows: str) -> str:
    lines = rows.splitlines()
    truths = [line.split("|")[1] for line in lines]
    return "".join(
        f"{line.split('|')[0]}|{truth}\n"
        for line, truth in zip(lines, truths[1:] + truths[:1], strict=True)
    )


def test_scrambling_the_truth_changes_no_byte_of_what_is_cleaned(
    kit: Any, sums: Callable[..., Any]
) -> None:
    assert scrambled(ROWS) != ROWS
    first = sums().metrics
    cleaned, dropped = (
        (kit.out / name).read_bytes() for name in ("cleaned.jsonl", "dropped.jsonl")
    )
    decisions = list(kit.decisions("02-example.agree"))
    second = sums(rows=scrambled(ROWS)).metrics
    assert (kit.out / "cleaned.jsonl").read_bytes() == cleaned
    assert (kit.out / "dropped.jsonl").read_bytes() == dropped
    assert kit.decisions("02-example.agree") == decisions
    assert second["arms"]["truth"]["mean"] != first["arms"]["truth"]["mean"]
    assert second["arms"]["cleaned"] | {"training": None} == first["arms"]["cleaned"] | {
        "training": None
    }


def test_no_stage_is_shown_the_truth(kit: Any, sums: Callable[..., Any], stage: Stage) -> None:
    seen: list[Sample] = []

    def look(chunk: Sequence[Sample], state: Any, ctx: Any) -> Sequence[Sample]:
        seen.extend(chunk)
        return chunk

    mark = "31415926535"  # long enough that no time or digest holds it by chance
    rows = "".join(f"{n}+1 => {n} | {mark}{n}\n" for n in range(5))
    sums(
        RECIPE.replace("example.agree, view: view}", "extra.look}"),
        rows,
        stages=[stage("extra.look", look)],
    )
    assert len(seen) == 5
    assert mark not in repr(seen)
    holding = {
        path.relative_to(kit.out).as_posix()
        for path in kit.out.rglob("*")
        if path.is_file() and mark.encode() in path.read_bytes()
    }
    # Beside the truth itself: what the truth arm learned and answered, and the journal of those answers.
    holding = {name for name in holding if not name.startswith("journal.db")}
    assert holding == {"truth.jsonl", "adapters/truth/memory.json", "evaluation/truth.jsonl"}


def jsonl(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def test_scrambling_the_truth_of_a_real_source(kit: Any, tmp_path: Path) -> None:
    """The same with nfilter's own JSON Lines source, whose ids must not depend on the truth's column either."""
    import importlib

    from nfilter.engine.run import run
    from nfilter.registry.loading import load as load_plugins

    points = [
        make_point(name, importlib.import_module(name), name)
        for name in ("nfilter_example", "nfilter_io")
    ]
    plugins = load_plugins(points, ())
    assert plugins.failed == ()
    text = RECIPE.replace(
        "{use: example.qa, path: rows.qa, truth: true}",
        "{use: jsonl, path: rows.jsonl, truth: right}",
    )
    (tmp_path / "r.yaml").write_text(text)
    (tmp_path / "test.qa").write_text(TEST)
    rows = [
        {"prompt": q, "response": str(a + 5 if n < 4 else a), "right": str(a), "tag": n}
        for n, (q, a) in enumerate(TRUE.items())
    ]
    outputs = []
    for truths in ([row["right"] for row in rows], [row["right"] for row in rows[3:] + rows[:3]]):
        jsonl(
            tmp_path / "rows.jsonl",
            [{**row, "right": truth} for row, truth in zip(rows, truths, strict=True)],
        )
        out = tmp_path / f"out{len(outputs)}"
        metrics = run(load(tmp_path / "r.yaml", plugins), plugins, out).metrics
        outputs.append(((out / "cleaned.jsonl").read_bytes(), metrics["arms"]["truth"]["mean"]))
    assert outputs[0][0] == outputs[1][0]
    assert len(list(read_jsonl(tmp_path / "out0" / "cleaned.jsonl"))) == 6
    assert outputs[0][1] == 1.0
    assert outputs[1][1] < 1.0


def test_what_a_trainer_warned_of_stays_with_its_adapter(
    kit: Any, sums: Callable[..., Any]
) -> None:
    from nfilter_example.model import Memory

    class Worried(Memory):
        """Warns of the training that it does."""

        name = "extra.worried"

        def train(self, samples: Any, model: Any, out: Path, ctx: Any, start: Any = None) -> Any:
            ctx.log.warning("training stopped early")
            return super().train(samples, model, out, ctx, start)

    text = RECIPE.replace("example.memory", "extra.worried").replace(
        "arms: [vanilla, raw, cleaned, truth]", "arms: [raw]"
    )
    for _ in range(2):  # the second run takes the adapter of the first
        metrics = sums(text, hooks={"trainers": [Worried]}).metrics
        assert kit.reporter.warnings.count("training stopped early") == 1
        assert "training stopped early" in [said["text"] for said in metrics["warnings"]]
