"""A run with known truth: what metrics.json holds, that no stage sees the truth, and that a run goes on."""

from __future__ import annotations

import json
import math
import shutil
import statistics
from pathlib import Path
from typing import Any

import pytest

from nfilter import ModelError

ARMS = ("vanilla", "raw", "cleaned", "truth")


@pytest.mark.parametrize("kind", ["quickstart", "group"])
def test_every_figure_that_a_run_with_known_truth_owes_is_there(
    kind: str, request: pytest.FixtureRequest
) -> None:
    metrics = request.getfixturevalue(kind).metrics
    for name in ("precision", "recall", "f1", "roc_auc"):
        assert 0 <= metrics["detection"][name] <= 1, name
    for name in ("before", "after", "kept"):
        assert 0 <= metrics["relabel"][name] <= 1, name
    assert tuple(metrics["arms"]) == ARMS
    seeds = [0] if kind == "quickstart" else [0, 1]
    for arm in metrics["arms"].values():
        assert 0 <= arm["mean"] <= 1
        assert arm["n"] == len(seeds)
        assert arm["sd"] is None if len(seeds) == 1 else arm["sd"] >= 0
    for name in ("recovered", "recovered_vanilla", "gain"):
        assert metrics[name] is None or math.isfinite(metrics[name])
    assert 1 <= metrics["calls_per_sample"] < 2  # reasoning for all, context for few
    assert metrics["seeds"] == seeds


def test_detection_is_what_the_flags_and_the_truth_say(quickstart: Any, tools: Any) -> None:
    """Counted anew from what the check wrote, the labels as they came and truth.jsonl."""
    path = quickstart.path
    truth = {row["id"]: row["truth"] for row in tools.lines(path / "truth.jsonl")}
    rows = tools.lines(path / "03-robustft.check" / "chunk-000000.jsonl")
    wrong = {row["id"]: row["messages"][-1][1] != truth[row["id"]] for row in rows}
    assert sum(wrong.values()) == 24
    flagged = {row["id"]: row["notes"]["check"]["flagged"] for row in rows}
    score = {row["id"]: row["notes"]["check"]["noise_score"] for row in rows}
    hits = sum(flagged[key] and wrong[key] for key in wrong)
    precision, recall = hits / sum(flagged.values()), hits / sum(wrong.values())
    above = [
        1.0 if score[a] > score[b] else 0.5 if score[a] == score[b] else 0.0
        for a in wrong if wrong[a] for b in wrong if not wrong[b]
    ]  # fmt: skip
    figures = quickstart.metrics["detection"]
    assert figures["precision"] == pytest.approx(precision)
    assert figures["recall"] == pytest.approx(recall)
    assert figures["f1"] == pytest.approx(2 * hits / (sum(flagged.values()) + sum(wrong.values())))
    assert figures["roc_auc"] == pytest.approx(statistics.mean(above))


def test_relabel_and_arms_are_what_the_files_say(quickstart: Any, tools: Any) -> None:
    path, metrics = quickstart.path, quickstart.metrics
    truth = {row["id"]: row["truth"] for row in tools.lines(path / "truth.jsonl")}
    reviewed = {
        row["id"]: row["messages"][-1][1]
        for row in tools.lines(path / "05-robustft.review" / "chunk-000000.jsonl")
        if row["notes"]["check"]["flagged"]
    }
    kept = {row["id"] for row in tools.lines(path / "cleaned.jsonl")} & set(reviewed)
    right = {row_id for row_id, label in reviewed.items() if label == truth[row_id]}
    assert metrics["relabel"]["before"] == pytest.approx(len(right) / len(reviewed))
    assert metrics["relabel"]["after"] == pytest.approx(len(right & kept) / len(kept))
    assert metrics["relabel"]["kept"] == pytest.approx(len(kept) / len(reviewed))
    for arm in ARMS:
        rows = tools.lines(path / "evaluation" / f"{arm}.jsonl")
        mean = sum(row["answer"] == row["reference"] for row in rows) / len(rows)
        assert metrics["arms"][arm]["mean"] == pytest.approx(mean), arm


def test_a_group_is_the_mean_and_deviation_of_its_seeds(group: Any) -> None:
    children = [
        json.loads((group.path / f"seed-{seed}" / "metrics.json").read_text()) for seed in (0, 1)
    ]
    assert [child["seeds"] for child in children] == [[0], [1]]
    flips = [(group.path / f"seed-{seed}" / "00-source" / "chunk-000000.jsonl").read_bytes() for seed in (0, 1)]  # fmt: skip
    assert flips[0] != flips[1]
    for arm in ARMS:
        means = [child["arms"][arm]["mean"] for child in children]
        assert group.metrics["arms"][arm]["mean"] == pytest.approx(statistics.mean(means))
        assert group.metrics["arms"][arm]["sd"] == pytest.approx(statistics.stdev(means))
    for name in ("precision", "recall", "f1", "roc_auc"):
        values = [child["detection"][name] for child in children]
        assert group.metrics["detection"][name] == pytest.approx(statistics.mean(values))


@pytest.fixture(scope="module")
def judged(tools: Any, sums: list[dict[str, str]], tmp_path_factory: Any) -> dict[str, Any]:
    """The recipe ``robustft`` on sums with a truth column: as it is, and with that column shuffled."""
    runs = {}
    for name in ("right", "shuffled"):
        path = tmp_path_factory.mktemp(name)
        truths = [row["truth"] for row in sums]
        given = truths if name == "right" else truths[7:] + truths[:7]
        rows = [{**row, "truth": truth} for row, truth in zip(sums, given, strict=True)]
        tools.write_lines(path / "sums.jsonl", rows[:24])
        changes = (
            "models.student.model=tiny", "answer=number", "train.epochs=1",
            "source={use: jsonl, path: sums.jsonl, truth: truth}", *tools.tiny_prompts, *tools.short,
        )  # fmt: skip
        text = (tools.recipes / "robustft.yaml").read_text()
        (path / "recipe.yaml").write_text(text)
        done = tools.call("run", "recipe.yaml", "--out", "run", *tools.sets(*changes), cwd=path)
        runs[name] = tools.ran(path / "run", done)
    return runs


def test_scrambling_the_truth_changes_nothing_but_figures(judged: dict[str, Any]) -> None:
    right, shuffled = judged["right"], judged["shuffled"]
    for name in ("cleaned.jsonl", "dropped.jsonl", "quarantine.jsonl"):
        assert (right.path / name).read_bytes() == (shuffled.path / name).read_bytes(), name
    assert (right.path / "cleaned.jsonl").stat().st_size > 0
    assert (right.path / "truth.jsonl").read_bytes() != (shuffled.path / "truth.jsonl").read_bytes()
    assert right.metrics["detection"]["recall"] == 1.0
    assert shuffled.metrics["detection"]["recall"] < 1.0
    for stage in sorted(right.path.glob("0[1-9]-*")):
        for file in sorted(stage.glob("*.jsonl")):
            assert file.read_bytes() == (shuffled.path / stage.name / file.name).read_bytes()


def test_the_truth_stands_in_no_file_that_a_stage_reads(judged: dict[str, Any], tools: Any) -> None:
    """A truth column of words that occur nowhere else is found in truth.jsonl and in no other file of rows."""
    run = judged["right"].path
    for file in run.glob("0*/chunk-*.jsonl"):
        assert all("truth" not in row["meta"] for row in tools.lines(file)), file
    assert all("truth" not in row for row in tools.lines(run / "cleaned.jsonl"))


@pytest.fixture
def copy(quickstart: Any, tmp_path: Path) -> Path:
    shutil.copytree(quickstart.path, tmp_path / "run")
    return tmp_path


def no_answers(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """From here on the local model refuses to answer; the list counts how often it was asked."""
    from nfilter_hf.backend import HFBackend

    asked: list[int] = []

    def refuses(self: Any, requests: Any) -> Any:
        if not requests:
            return []
        asked.append(len(requests))
        raise ModelError("a model was asked")

    for way in ("generate", "stream"):
        monkeypatch.setattr(HFBackend, way, refuses)
    return asked


def again(tools: Any, path: Path, *more: str) -> Any:
    smaller = tools.sets("source.rows=48", "train.epochs=1", "evaluate.limit=40", *more)
    file = str(tools.recipes / "quickstart.yaml")
    return tools.call("run", file, "--out", "run", *smaller, cwd=path)


def without_time(metrics: dict[str, Any]) -> dict[str, Any]:
    text = json.dumps(metrics, sort_keys=True)
    return json.loads(text, object_hook=lambda d: {k: v for k, v in d.items() if k != "seconds"})


def test_a_second_run_asks_no_model_and_has_the_same_figures(
    copy: Path, quickstart: Any, tools: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = no_answers(monkeypatch)
    second = tools.ran(copy / "run", again(tools, copy))
    assert asked == []
    assert second.metrics == quickstart.metrics
    adapter = Path("adapters", "cleaned", "adapter_model.safetensors")
    for name in ("cleaned.jsonl", "dropped.jsonl", adapter):
        assert (copy / "run" / name).read_bytes() == (quickstart.path / name).read_bytes()


def test_a_fresh_run_uses_nothing_of_the_one_before(
    copy: Path, tools: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = no_answers(monkeypatch)
    smaller = tools.sets("source.rows=48", "train.epochs=1", "evaluate.limit=40")
    file = str(tools.recipes / "quickstart.yaml")
    done = tools.call("run", file, "--out", "run", "--fresh", *smaller, cwd=copy)
    assert (done.code, len(asked)) == (5, 1)
    assert (
        "run: renamed to run.old-1, its journal included; the run starts from the beginning"
        in done.err
    )
    assert (copy / "run.old-1" / "cleaned.jsonl").is_file()
    assert not (copy / "run" / "cleaned.jsonl").exists()


def test_stages_that_were_lost_are_made_again_from_the_journal(
    copy: Path, quickstart: Any, tools: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = no_answers(monkeypatch)
    for stage in ("02-robustft.reason", "04-robustft.relabel"):
        shutil.rmtree(copy / "run" / stage)
    for name in ("cleaned.jsonl", "metrics.json"):
        (copy / "run" / name).unlink()
    second = tools.ran(copy / "run", again(tools, copy))
    assert asked == []
    assert without_time(second.metrics) == without_time(quickstart.metrics)
    assert (copy / "run" / "cleaned.jsonl").read_bytes() == (
        quickstart.path / "cleaned.jsonl"
    ).read_bytes()


def test_what_was_not_asked_before_is_asked(
    copy: Path, tools: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The guard of the two tests above does notice a call."""
    asked = no_answers(monkeypatch)
    done = again(tools, copy, "samples.1.max_tokens=81")
    assert done.code == 5
    assert "a model was asked" in done.err
    assert asked


def test_peft_loads_the_adapter(quickstart: Any) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from nfilter_tiny import MODEL_DIR

    base = AutoModelForCausalLM.from_pretrained(MODEL_DIR, dtype=torch.float32).eval()
    ids = torch.arange(3, 13)[None]
    with torch.no_grad():
        before = base(ids).logits
        adapted = PeftModel.from_pretrained(base, quickstart.path / "adapters" / "cleaned").eval()
        after = adapted(ids).logits
        with adapted.disable_adapter():
            torch.testing.assert_close(adapted(ids).logits, before)
    assert torch.isfinite(after).all()
    assert (after - before).abs().max() > 1e-3
    config = adapted.peft_config["default"]
    assert (config.r, config.lora_alpha) == (16, 32)
