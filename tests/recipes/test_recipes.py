"""The recipes that ship pass the check and run, each on the embedded model and a small file."""

from __future__ import annotations

import json
import re
import statistics
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = sorted((ROOT / "nfilter" / "recipes").glob("*.yaml"))
ARC = ROOT.parent / "shared" / "data" / "robustft" / "arc" / "noisy" / "noisy30.csv"


def in_place_of_hub_and_file(tools: Any, recipe: str, data: Path) -> list[str]:
    """``tiny`` for every model that a hub would have to give, and ``data`` for the file."""
    if recipe.startswith("quickstart") or recipe == "chained":
        return []
    source = "jsonl" if data.suffix == ".jsonl" else "csv"
    encoder = "models.words=student" if recipe == "classes" else "models.encoder=student"
    models = ["models.student.model=tiny", encoder]
    return tools.sets(*models, f"source={{use: {source}, path: {data}}}")


@pytest.fixture(scope="module")
def sums_file(tools: Any, sums: list[dict[str, str]], tmp_path_factory: Any) -> Path:
    rows = [{key: row[key] for key in ("id", "prompt", "response")} for row in sums]
    return tools.write_lines(tmp_path_factory.mktemp("sums") / "sums.jsonl", rows)


def pairs_file(tools: Any, folder: Path) -> Path:
    rows = [
        {"prompt": f"{n}+6", "chosen": str(n + 6), "rejected": str(n + 7)} for n in range(40, 64)
    ]
    return tools.write_lines(folder / "pairs.jsonl", rows)


def test_the_recipes_that_ship() -> None:
    names = {
        "chained",
        "classes",
        "entp",
        "preferences",
        "quickstart",
        "quickstart-text",
        "quickstart-tokens",
        "robustft",
        "robustft-official",
    }
    assert {path.stem for path in SHIPPED} == names


@pytest.mark.parametrize("recipe", SHIPPED, ids=lambda path: path.stem)
def test_every_recipe_passes_the_check(
    recipe: Path, tools: Any, sums_file: Path, questions: Path, tmp_path: Path
) -> None:
    data = questions if recipe.stem == "robustft-official" else sums_file
    if recipe.stem == "preferences":
        data = pairs_file(tools, tmp_path)
    changes = in_place_of_hub_and_file(tools, recipe.stem, data)
    done = tools.call("check", str(recipe), "--json", *changes, cwd=tmp_path)
    report = json.loads(done.out)
    assert (done.code, report["faults"]) == (0, [])
    trained = any("about" in fact and "of memory" in fact for fact in report["facts"])
    assert trained == (recipe.stem != "preferences")


@pytest.mark.parametrize("recipe", ["robustft", "robustft-official", "entp"])
def test_a_recipe_whose_file_is_not_there_says_so(recipe: str, tools: Any, tmp_path: Path) -> None:
    models = tools.sets("models.student.model=tiny", "models.encoder=student")
    file = str(tools.recipes / f"{recipe}.yaml")
    done = tools.call("check", file, *models, cwd=tmp_path)
    assert done.code == 2
    assert ("noisy30.csv" if recipe == "robustft-official" else "data.jsonl") in done.err


def test_quickstart_ends_in_four_arms_and_an_adapter(quickstart: Any, tools: Any) -> None:
    metrics, path = quickstart.metrics, quickstart.path
    assert metrics["samples"]["read"] == 48
    assert set(metrics["arms"]) == {"vanilla", "raw", "cleaned", "truth"}
    assert {arm["rows"] for arm in metrics["arms"].values()} == {40}
    kept = len(tools.lines(path / "cleaned.jsonl"))
    assert kept == metrics["samples"]["kept"]
    assert kept + len(tools.lines(path / "dropped.jsonl")) == 48
    for arm in ("raw", "cleaned", "truth"):
        assert (path / "adapters" / arm / "adapter_model.safetensors").is_file()
    assert "<html" in (path / "report.html").read_text()
    # On so few rows the labels are the measure: most of what was wrong is gone from what was kept.
    assert metrics["relabel"]["labels_before"] == 0.5
    assert metrics["relabel"]["labels_after"] > 0.85


def test_free_text_is_repaired_where_its_wording_is_free(tools: Any, tmp_path: Path) -> None:
    """Sixty sentences, half of them wrong; what is kept says what the truth says, day first or day last."""
    smaller = tools.sets("source.rows=60", "train.epochs=1", "arms=[cleaned]", "evaluate.limit=40")
    file = str(tools.recipes / "quickstart-text.yaml")
    run = tmp_path / "run"
    done = tools.call("run", file, "--out", "run", *smaller, cwd=tmp_path)
    metrics = tools.ran(run, done).metrics
    truth = {row["id"]: row["truth"] for row in tools.lines(run / "truth.jsonl")}
    kept = tools.lines(run / "cleaned.jsonl")
    same = [
        sorted(re.findall(r"\w+", row["answer"])) == sorted(re.findall(r"\w+", truth[row["id"]]))
        for row in kept
    ]
    assert metrics["relabel"]["labels_before"] == 0.5
    assert metrics["relabel"]["labels_after"] == pytest.approx(sum(same) / len(same))
    assert metrics["relabel"]["labels_after"] > 0.8
    assert any(row["answer"] != truth[row["id"]] for row in kept)
    asked = metrics["calls"]["by_stage"]
    assert asked["01-robustft.reason"]["calls"] == 60
    assert asked["02-robustft.relabel"]["calls"] < 30
    assert metrics["detection"]["f1"] > 0.85


def test_robustft_repairs_sums(
    tools: Any, sums_file: Path, sums: list[dict[str, str]], tmp_path: Path
) -> None:
    changes = in_place_of_hub_and_file(tools, "robustft", sums_file)
    more = tools.sets("answer=number", "train.epochs=1", *tools.tiny_prompts, *tools.short)
    file = str(tools.recipes / "robustft.yaml")
    done = tools.call("run", file, "--out", "run", *changes, *more, cwd=tmp_path)
    run = tmp_path / "run"
    assert tools.ends(run, done, 40) == "adapter"
    truth = {row["id"]: row["truth"] for row in sums}
    kept = tools.lines(run / "cleaned.jsonl")
    right = sum(row["response"] == truth[row["id"]] for row in kept) / len(kept)
    assert right > 0.9  # three in four were right as they came
    repaired = [row for row in kept if int(row["id"].split("-")[1]) % 4 == 0]
    assert repaired
    assert all(set(row) == {"id", "prompt", "response"} for row in kept)


def test_the_official_recipe_ends_as_it_may(tools: Any, questions: Path, tmp_path: Path) -> None:
    changes = in_place_of_hub_and_file(tools, "robustft-official", questions)
    tokens = [value.split("=")[0] + "=8" for value in tools.short]
    file = str(tools.recipes / "robustft-official.yaml")
    done = tools.call("run", file, "--out", "run", *changes, *tools.sets(*tokens), cwd=tmp_path)
    assert tools.ends(tmp_path / "run", done, 16) == "nothing left"
    # A model that answers in digits agrees with no letter: all are flagged, and no view has a letter to give.
    reasons = [row["reason"] for row in tools.lines(tmp_path / "run" / "dropped.jsonl")]
    assert all("no view has an answer" in reason for reason in reasons)
    again = tools.call("run", file, "--out", "run", *changes, *tools.sets(*tokens), cwd=tmp_path)
    assert (again.code, again.err.splitlines()[-1]) == (6, done.err.splitlines()[-1])


def test_the_official_recipe_on_sums_ends_in_an_adapter(
    tools: Any, sums_file: Path, tmp_path: Path
) -> None:
    """Its rules on data that the model knows: one reasoning call a row, a selection strictly below the median."""
    changes = in_place_of_hub_and_file(tools, "robustft-official", sums_file)
    prompts = [value for value in tools.tiny_prompts if "samples.4" not in value]
    more = tools.sets("answer=number", "train.epochs=1", *prompts, *tools.short)
    review = tools.sets("samples.4.preset=paper", "samples.4.prompt=tiny/review")
    file = str(tools.recipes / "robustft-official.yaml")
    done = tools.call("run", file, "--out", "run", *changes, *more, *review, cwd=tmp_path)
    assert tools.ends(tmp_path / "run", done, 40) == "adapter"
    metrics = tools.ran(tmp_path / "run", done).metrics
    assert metrics["calls"]["by_stage"]["02-robustft.reason"]["calls"] == 40
    chunk = tools.lines(tmp_path / "run" / "05-robustft.review" / "chunk-000000.jsonl")
    nll = {
        row["id"]: row["notes"]["context"]["nll"]
        for row in chunk
        if row["notes"]["check"]["flagged"] and row["dropped"] is None
    }
    middle = statistics.median(nll.values())
    below = {row_id for row_id, value in nll.items() if value < middle}
    stays = {row["id"] for row in tools.lines(tmp_path / "run" / "cleaned.jsonl")}
    assert stays & set(nll) == below != set()


@pytest.mark.skipif(
    not ARC.is_file(), reason="the published noisy ARC file is not beside the checkout"
)
@pytest.mark.slow
def test_a_model_that_cannot_read_the_questions_ends_as_it_may(tools: Any, tmp_path: Path) -> None:
    """ARC on the embedded model, as `init` writes the recipe, with short answers: its quality is no claim."""
    made = tools.call(
        "init", "--data", str(ARC), "--model", "tiny", "--out", "arc.yaml", cwd=tmp_path
    )
    assert made.code == 0, made.err
    assert "answer kind: choice" in made.out
    tokens = tools.sets(*(value.split("=")[0] + "=8" for value in tools.short))
    rounds = tools.sets("samples.1.rounds=1", "train.epochs=1")
    arguments = ("run", "arc.yaml", "--limit", "64", "--out", "run", *tokens, *rounds)
    done = tools.call(*arguments, cwd=tmp_path)
    assert tools.ends(tmp_path / "run", done, 64) in {"adapter", "nothing left"}


def test_noise_inside_responses_is_planted_masked_and_measured(tools: Any, tmp_path: Path) -> None:
    smaller = tools.sets(
        "source.rows=40", "train.epochs=1", "arms=[cleaned, truth]", "evaluate.limit=20"
    )
    file = str(tools.recipes / "quickstart-tokens.yaml")
    done = tools.call("run", file, "--out", "run", *smaller, cwd=tmp_path)
    metrics = tools.ran(tmp_path / "run", done).metrics
    found = metrics["tokens"]["token_noise"]
    rows = tools.lines(tmp_path / "run" / "truth.jsonl")
    answers = {row["id"]: row["answer"] for row in tools.lines(tmp_path / "run" / "cleaned.jsonl")}
    planted = sum(end - start for row in rows for start, end, _ in row["noise"])
    assert planted / sum(map(len, answers.values())) == pytest.approx(0.4, abs=0.05)
    assert all(row["truth"] != answers[row["id"]] for row in rows if row["noise"])
    # Noise surprises the model that has never seen it: most of it is masked, and less of the rest.
    assert found["samples"] == 40
    assert found["noise"] == pytest.approx(0.35, abs=0.07)
    assert found["recall"] > 0.6 > 0.5 > found["signal_dropped"]
    assert "token noise" in done.out


def test_labels_then_tokens_are_cleaned_in_one_recipe(tools: Any, tmp_path: Path) -> None:
    smaller = tools.sets(
        "source.rows=60", "train.epochs=1", "arms=[cleaned]", "evaluate.limit=20", "samples.0.k=3"
    )
    file = str(tools.recipes / "chained.yaml")
    done = tools.call("run", file, "--out", "run", *smaller, cwd=tmp_path)
    metrics = tools.ran(tmp_path / "run", done).metrics
    assert metrics["relabel"]["labels_after"] > metrics["relabel"]["labels_before"]
    stages = metrics["tokens"]["stages"]
    assert [label for label, figures in stages.items() if figures["masked"]] == [
        "2-tokens.keep_top",
        "6-xtf.mask",
    ]
    # What a stage replaced is no longer what noise was planted in: of those rows nothing is known.
    assert 0 < metrics["tokens"]["token_noise"]["samples"] < metrics["samples"]["kept"]


@pytest.fixture
def rated_file(tools: Any, tmp_path: Path) -> Path:
    """Forty-eight questions on twelve animals, each with a rating of its own; those of even number are rated low."""
    animals = ("otter", "heron", "badger", "falcon", "beaver", "lizard",
               "salmon", "turtle", "spider", "walrus", "pigeon", "donkey")  # fmt: skip
    asks = ("Where does the {} sleep in winter?", "What does the {} eat in winter?",
            "How does the {} raise its young?", "Why is the {} rarely seen by day?")  # fmt: skip
    says = ("It makes a bed of {} leaves under old roots near the water.", "Mostly small fish, and {} berries where it finds them.",
            "Both parents bring food for {} weeks until the young can leave.", "It fears people, and looks for food after {} in the evening.")  # fmt: skip
    rows = []
    for number in range(48):
        animal, way = animals[number // 4], number % 4
        asked, said = asks[way].format(animal), says[way].format(f"{animal} {number}")
        quality = 4 + number % 2 * 4
        rows.append({"id": f"r{number}", "prompt": asked, "response": said, "quality": quality})
    return tools.write_lines(tmp_path / "rated.jsonl", rows)


def test_entp_ends_in_an_adapter_though_the_embedded_model_cannot_mix(
    tools: Any, rated_file: Path, tmp_path: Path
) -> None:
    """Ratings are a column's here: a model that follows no such prompt rates nothing and mixes nothing."""
    changes = in_place_of_hub_and_file(tools, "entp", rated_file)
    rated = tools.sets("samples.0.llm=null", "samples.0.column=quality", "samples.1.noise=0")
    mixed = tools.sets(
        "samples.4.failed=keep", "samples.4.max_tokens=8", "samples.4.check_tokens=8"
    )
    file = str(tools.recipes / "entp.yaml")
    done = tools.call(
        "run",
        file,
        "--out",
        "run",
        *changes,
        *rated,
        *mixed,
        "--set",
        "train.epochs=1",
        cwd=tmp_path,
    )
    run = tmp_path / "run"
    assert tools.ends(run, done, 48) == "adapter"
    kept = {row["id"] for row in tools.lines(run / "cleaned.jsonl")}
    assert kept
    assert all(int(name[1:]) % 2 == 0 for name in kept)
    metrics = tools.ran(run, done).metrics
    asked = metrics["calls"]["by_stage"]["05-entp.mix"]["calls"]
    # Three drafts a pair without the code, and no check of what is not there.
    assert asked == 3 * len(kept) / 2
    story = tools.call("explain", "run", min(kept), cwd=tmp_path)
    assert "no draft: no line starts with Instruction and the code" in " ".join(story.out.split())
