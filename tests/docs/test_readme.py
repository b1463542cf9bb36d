"""What the README and the pages that continue it say is done, with a small file for the data and ``tiny`` for the hub's model."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from nfilter.api import errors
from nfilter.cli import main
from nfilter.metrics.figures import reported
from nfilter.recipe.model import load as load_recipe
from nfilter.registry.loading import Plugins, load

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
GUIDE = (
    "README.md",
    "docs/howto/recipes.md",
    "docs/howto/classification.md",
    "docs/start/no-model.md",
    "docs/methods/robustft.md",
    "docs/methods/tokens.md",
)
"""The documents whose commands are run here one after another, in one folder."""
PAGES = sorted(
    path for room in ("start", "howto", "methods") for path in (ROOT / "docs" / room).glob("*.md")
)
TEXT = "\n".join([README, *(path.read_text(encoding="utf-8") for path in PAGES)])
HUB_MODEL = "meta-llama/Llama-3.2-3B-Instruct"
RUN = "runs/robustft"


@pytest.fixture(scope="module")
def plugins() -> Plugins:
    return load(block=())


@pytest.fixture(scope="module")
def guide(blocks_of: Callable[[str], list[Any]]) -> list[Any]:
    """The blocks of the README and of the pages that continue it."""
    return [block for document in GUIDE for block in blocks_of(document)]


@pytest.fixture(scope="module")
def shell(guide: list[Any]) -> list[str]:
    """The command lines, in order; each once."""
    lines = [line for block in guide if block.kind == "shell" for line in block.text.splitlines()]
    return list(dict.fromkeys(line for line in lines if line.strip()))


@pytest.fixture(scope="module")
def recipes(guide: list[Any]) -> list[dict[str, Any]]:
    """The YAML blocks: first the recipe that ``init`` writes, then what is added to measure the gain."""
    return [yaml.safe_load(block.text) for block in guide if block.kind == "yaml"]


@pytest.fixture(scope="module")
def done(
    shell: list[str], recipes: list[dict[str, Any]], yard: Path, cli: Callable[..., Any]
) -> dict[str, Any]:
    """What each ``nfilter`` line ended in.

    They are typed as they stand, but for three names: models become ``tiny``, ``ID`` a row that is there,
    and the two runs that are compared are copies of the one that was made. Recipes that the text names are files.
    """
    results = {}
    for recipe in recipes:
        if re.search(rf"\b(is|as) `?{recipe.get('name')}\.yaml", TEXT):
            text = yaml.safe_dump(recipe, sort_keys=False).replace(HUB_MODEL, "tiny")
            (yard / f"{recipe['name']}.yaml").write_text(text)
    for line in shell:
        words = shlex.split(line, comments=True)
        if words[0] != "nfilter":
            continue
        if "ID" in words:
            dropped = (yard / RUN / "dropped.jsonl").read_text().splitlines()
            words[words.index("ID")] = json.loads(dropped[0])["id"]
        for name in ("runs/a", "runs/b"):
            if name in words:
                shutil.copytree(yard / RUN, yard / name)
        words = ["tiny" if word in (HUB_MODEL, "smollm2") else word for word in words]
        results[line] = cli(*words[1:], cwd=yard)
    return results


def outcome(done: Mapping[str, Any], command: str) -> Any:
    return next(result for line, result in done.items() if line.startswith(f"nfilter {command}"))


def test_every_command_line_ends_well(done: dict[str, Any]) -> None:
    named = {line.split()[1] for line in done}
    assert named == {
        "init",
        "check",
        "lint",
        "run",
        "explain",
        "audit",
        "compare",
        "merge",
        "export",
    }
    assert {line: (result.code, result.err) for line, result in done.items() if result.code} == {}


def test_init_writes_the_recipe_that_is_shown(
    done: dict[str, Any], recipes: list[dict[str, Any]], yard: Path
) -> None:
    said = outcome(done, "init").out
    assert "guessed columns: shape = 'prompt', prompt = 'prompt', response = 'response'" in said
    text = (yard / "recipe.yaml").read_text().replace("model: tiny", f"model: {HUB_MODEL}")
    assert yaml.safe_load(text) == recipes[0]


def test_few_answers_are_mended_by_a_classifier(done: dict[str, Any], yard: Path) -> None:
    said = done[
        "nfilter init --data reviews.csv --test reviews-test.csv --model smollm2 --out reviews.yaml"
    ].out
    assert "all rows share 2 answers" in said
    metrics = json.loads((yard / "runs" / "classes" / "metrics.json").read_text())
    assert set(metrics["arms"]) == {"vanilla", "raw", "cleaned"}
    assert metrics["samples"]["read"] == 60


def test_check_tells_the_columns_and_the_memory(done: dict[str, Any]) -> None:
    said = outcome(done, "check").out
    assert "prompt = 'prompt'" in said
    assert re.search(r"train: about [\d.]+ MiB of memory", said)


def test_lint_has_nothing_to_warn_of(done: dict[str, Any]) -> None:
    said = outcome(done, "lint").out
    assert "No warnings" in said
    assert "0 rows at max_length 2,048" in said


def test_the_run_repairs_the_wrong_labels_and_keeps_to_the_table_of_files(
    done: dict[str, Any], yard: Path
) -> None:
    assert outcome(done, "run").code == 0
    table = README.split("## What a run writes")[1].split("```")[0]
    named = [
        name for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for name in re.findall(r"`(.*?)`", row)
    ]  # fmt: skip
    assert len(named) >= 9
    run = yard / RUN
    for name in [*named, *re.findall(r"`(\w+\.html)`", table)]:
        pattern = name.rstrip("/").replace("NN-stage", "0[0-9]-*")
        assert list(run.glob(pattern)), f"the README names {name}"
    kept = [json.loads(line) for line in (run / "cleaned.jsonl").read_text().splitlines()]
    right = [eval(row["prompt"]) == int(row["response"]) for row in kept]
    assert sum(right) / len(right) > 16 / 24
    assert {"prompt", "response"} <= set(kept[0])
    dropped = [json.loads(line) for line in (run / "dropped.jsonl").read_text().splitlines()]
    assert len(kept) + len(dropped) == 24
    assert all(row["stage"] and row["reason"] for row in dropped)


def test_explain_audit_compare_and_merge_do_what_is_said(done: dict[str, Any], yard: Path) -> None:
    dropped = json.loads((yard / RUN / "dropped.jsonl").read_text().splitlines()[0])
    flat = " ".join(outcome(done, "explain").out.split())
    assert f"row {dropped['id']} of {RUN}: dropped by {dropped['stage']}" in flat
    assert " ".join(dropped["reason"].split()) in flat
    sheet = (yard / RUN / "audit.csv").read_text().splitlines()
    assert "label_is_right" in sheet[0]
    assert "24 rows" in outcome(done, "audit").out
    assert {"a", "b"} <= set(re.findall(r"\w+", outcome(done, "compare").out))
    merged = Path(outcome(done, "merge").out.strip())
    assert merged == Path(RUN) / "merged" / "cleaned"
    assert list((yard / merged).glob("*.safetensors"))
    assert not (yard / merged / "adapter_config.json").exists()


def test_the_second_block_adds_arms_and_a_test_set(
    done: dict[str, Any], recipes: list[dict[str, Any]], yard: Path, cli: Callable[..., Any]
) -> None:
    assert outcome(done, "run").code == 0
    mine = yaml.safe_load((yard / "recipe.yaml").read_text())
    more = yard / "more.yaml"
    more.write_text(yaml.safe_dump({**mine, **recipes[1]}, sort_keys=False))
    result = cli("run", "more.yaml", "--json", cwd=yard)
    assert result.code == 0, result.err
    metrics = json.loads(result.out)
    assert metrics["directory"] == RUN
    assert {name: arm["rows"] for name, arm in metrics["arms"].items()} == dict.fromkeys(
        recipes[1]["arms"], 6
    )
    log = (yard / RUN / "run.log").read_text()
    assert len(re.findall(r"0\d-robustft\.\w+: .* \(from an earlier run\)", log)) == 6, log


def test_the_block_without_a_model_purges(
    recipes: list[dict[str, Any]], yard: Path, cli: Callable[..., Any]
) -> None:
    recipe = next(each for each in recipes if each.get("name") == "purged")
    rows = [
        {"question": "What is a heron?", "answer": "A wading bird with long legs."},
        {"question": "What is an otter?", "answer": "..."},
    ]
    folder = yard / "purging"
    folder.mkdir()
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "train.jsonl").write_text(lines, encoding="utf-8")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    result = cli("run", "recipe.yaml", "--json", cwd=folder)
    assert result.code == 0, result.err
    metrics = json.loads(result.out)
    assert metrics["samples"] == {
        "read": 2, "unreadable": 0, "kept": 1, "dropped": 1, "relabelled": 0
    }  # fmt: skip
    dropped = (folder / metrics["directory"] / "dropped.jsonl").read_text(encoding="utf-8")
    gone = json.loads(dropped)
    assert gone["reason"].startswith("empty: ")


def test_the_block_with_views_from_columns_flags_what_they_contradict(
    recipes: list[dict[str, Any]], yard: Path, cli: Callable[..., Any]
) -> None:
    recipe = next(each for each in recipes if each.get("name") == "opinions")
    rows = [
        {"prompt": "2+3?", "response": "4", "gpt4": "The answer is 5.", "qwen": ["5", "5", "4"], "qwen_nll": [0.1, 0.2, 1]},
        {"prompt": "2+4?", "response": "6", "gpt4": "The answer is 6.", "qwen": ["7", "8", "7"], "qwen_nll": [0.3, 2, 1]},
        {"prompt": "2+5?", "response": "7", "gpt4": None, "qwen": ["7"], "qwen_nll": [0.1]},
    ]  # fmt: skip
    folder = yard / "opinions"
    folder.mkdir()
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "train.jsonl").write_text(lines, encoding="utf-8")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    result = cli("run", "recipe.yaml", "--json", cwd=folder)
    assert result.code == 0, result.err
    assert json.loads(result.out)["calls_per_sample"] == 0
    chunk = next((folder / "runs" / "opinions").glob("03-robustft.check/chunk-*"))
    samples = [json.loads(line) for line in chunk.read_text(encoding="utf-8").splitlines()]
    notes = [sample["notes"] for sample in samples]
    assert [note["check"]["flagged"] for note in notes] == [True, False, False]
    assert [note["gpt4"]["answer"] for note in notes] == ["5", "6", None]
    assert [note["qwen"]["nll"] for note in notes] == [0.1, 0.3, 0.1]


def test_rows_are_purged_and_exported_without_a_tokenizer(done: dict[str, Any], yard: Path) -> None:
    said = done["nfilter export runs/purged --format messages --out purged    # or trl, axolotl, llamafactory, swift: no tokenizer is needed"]  # fmt: skip
    lines = (yard / "purged" / "train.jsonl").read_text().splitlines()
    kept = (yard / "runs" / "purged" / "cleaned.jsonl").read_text().splitlines()
    assert len(lines) == len(kept) > 0
    assert f"train.jsonl: {len(lines)} conversations" in said.out
    assert not (yard / "runs" / "purged" / "tokens").exists()
    for line, row in zip(map(json.loads, lines), map(json.loads, kept), strict=True):
        assert line["messages"] == [
            {"role": "user", "content": row["prompt"]},
            {"role": "assistant", "content": row["response"]},
        ]


def test_tokens_are_masked_and_exported_without_training(done: dict[str, Any], yard: Path) -> None:
    assert outcome(done, "run masked").code == 0
    run = yard / "runs" / "masked"
    assert not (run / "adapters").exists()
    masked = json.loads((run / "metrics.json").read_text())["tokens"]["stages"]["1-stm.mask"][
        "masked"
    ]
    rows = [json.loads(line) for line in (yard / "masked" / "train.jsonl").read_text().splitlines()]
    labels = [label for row in rows for label in row["labels"]]
    in_loss = json.loads((run / "metrics.json").read_text())["tokens"]["in_loss"]
    assert masked > 0
    assert sum(label != -100 for label in labels) == in_loss > 0


def test_the_block_with_tokens_cleans_them_and_trains(
    recipes: list[dict[str, Any]], yard: Path, cli: Callable[..., Any]
) -> None:
    recipe = next(each for each in recipes if each.get("name") == "tokens")
    student = {"use": "hf", "model": "tiny"}
    file = yard / "tokens.yaml"
    file.write_text(
        yaml.safe_dump({**recipe, "models": {"student": student}}).replace(HUB_MODEL, "tiny")
    )
    result = cli("run", "tokens.yaml", "--json", cwd=yard)
    assert result.code == 0, result.err
    tokens = json.loads(result.out)["tokens"]
    stages = list(tokens["stages"].values())
    assert [stage["masked"] > 0 for stage in stages[:2]] == [False, True]
    assert tokens["in_loss"] == tokens["response"] - sum(stage["masked"] for stage in stages)


def settings() -> list[str]:
    """The pieces of recipes that stand in the text: ``source: {...}``, ``vote: none`` and the like."""
    text = re.sub(r"^```.*?^```$", "", TEXT, flags=re.MULTILINE | re.DOTALL)
    found = dict.fromkeys(re.findall(r"`([a-z_]+: [^`]+)`", text))
    assert len(found) >= 6
    return list(found)


@pytest.mark.parametrize("piece", settings())
def test_every_setting_in_the_text_exists(
    piece: str, recipes: list[dict[str, Any]], yard: Path, plugins: Plugins
) -> None:
    """A section's piece goes into the recipe shown; a stage's goes onto some stage that takes it."""
    ((key, value),) = yaml.safe_load(piece).items()
    recipe = recipes[0]
    if key in recipe:
        part = isinstance(value, dict) and isinstance(recipe[key], dict) and "use" not in value
        changed = [{**recipe, key: {**recipe[key], **value} if part else value}]
    else:
        changed = [
            {**recipe, "samples": [{**stage, **({key: value} if index == at else {})}
                                   for index, stage in enumerate(recipe["samples"])]}
            for at in range(len(recipe["samples"]))
        ]  # fmt: skip
        changed += [{**recipe, key: value}]
        changed += [{**recipe, part: {**recipe[part], key: value}} for part in ("source", "train")]
        changed += [
            _with_component(recipe, kind, item, {key: value})
            for kind in ("stage", "loss", "backend")
            for item in plugins.of_kind(kind)
            if key in item.cls.Config.model_fields
        ]
    faults = []
    for number, candidate in enumerate(changed):
        file = yard / f"piece-{number}.yaml"
        file.write_text(yaml.safe_dump(candidate))
        try:
            load_recipe(file, plugins)
        except errors.RecipeError as error:
            faults.append(str(error))
    assert len(faults) < len(changed), "\n".join(faults)


def _with_component(
    recipe: dict[str, Any], kind: str, item: Any, settings: dict[str, Any]
) -> dict[str, Any]:
    """The recipe with a component of a plugin, its settings, and the other ones that it requires."""
    required = {"llm": "expert", "encoder": "encoder", "model": "tiny", "views": ["base"], "keep": 1,
                "column": "a", "reviewers": [{"llm": "expert"}, {"llm": "expert", "instructions": "Be strict."}]}  # fmt: skip
    fields = item.cls.Config.model_fields
    named = {name: required[name] for name, field in fields.items() if field.is_required()}
    chair = {"chair": {"llm": "expert"}} if settings == {"decide": "chair"} else {}
    use = {"use": item.name, **named, **chair, **settings}
    if kind == "loss":
        return {**recipe, "train": {**recipe["train"], "loss": use}}
    if kind == "backend":
        return {**recipe, "models": {**recipe["models"], "other": use}}
    section = "tokens" if hasattr(item.cls, "process_tokens") else "samples"
    return {**recipe, section: [use]}


def test_columns_are_named_as_the_text_says(yard: Path, cli: Callable[..., Any]) -> None:
    (piece,) = [piece for piece in settings() if "columns: {question" in piece]
    (yard / "columns.yaml").write_text(f"answer: choice\n{piece}\n")
    result = cli("check", "columns.yaml", cwd=yard)
    assert result.code == 0, result.err
    assert "question = 'q'" in result.out
    assert "answer = 'a'" in result.out


def test_classes_are_named_as_the_text_says(tmp_path: Path, cli: Callable[..., Any]) -> None:
    (piece,) = [piece for piece in settings() if "labels: [negative, positive]" in piece]
    (tmp_path / "data.csv").write_text("text,label\nfine,1\npoor,0\ngood,1\n")
    (tmp_path / "labels.yaml").write_text(f"answer: label\n{piece}\n")
    result = cli("check", "labels.yaml", cwd=tmp_path)
    assert result.code == 0, result.err
    assert "classes = 'negative, positive'" in result.out
    assert "all of 3 rows can be read" in result.out


def test_the_stages_named_exist(plugins: Plugins) -> None:
    named = set(re.findall(r"\brobustft\.(?!md\b)\w+", TEXT))
    assert len(named) >= 7
    assert {("stage", name) for name in named} <= set(plugins.registered)


def test_the_command_line_section_is_the_command_lines() -> None:
    section = README.split("## Command line")[1].split("\n## ")[0]
    spans = re.findall(r"`(.*?)`", section.split("Exit codes:")[0].replace("\n", " "))
    run, *others = spans
    assert run.startswith("nfilter run RECIPE ")
    named = {"run", *(word for word in others if not word.startswith("--"))}
    assert named == set(main.list_commands(click.Context(main)))
    options = {opt for param in main.commands["run"].params for opt in param.opts}
    assert set(re.findall(r"--\w+", run)) <= options
    codes = {int(code) for code in re.findall(r"\b(\d+) \w", section.split("Exit codes:")[1])}
    known = {
        value.exit_code
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, errors.NfilterError)
    }
    assert codes == known | {0, 130}


def test_the_figures_explained_are_figures_of_a_run(demo: Any) -> None:
    metrics = demo.metrics
    section = (ROOT / "docs" / "howto" / "figures.md").read_text(encoding="utf-8")
    for name in re.findall(r"\*\*(.*?)\*\*", section):
        known = reported(metrics, name.replace(" ", "_")) is not None or name in metrics
        assert known, name
    assert set(re.findall(r"`(vanilla|raw|cleaned|truth)`", section)) == set(metrics["arms"])


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory, cli: Callable[..., Any]) -> Any:
    """The commands of ``make demo``, on fewer rows and two seeds."""
    from types import SimpleNamespace

    path = tmp_path_factory.mktemp("demo")
    made = cli("init", "--template", "quickstart", "--out", "quickstart.yaml", cwd=path)
    assert made.code == 0, made.err
    smaller = ("source.rows=24", "train.epochs=1", "evaluate.limit=10")
    sets = [word for value in smaller for word in ("--set", value)]
    ran = cli("run", "quickstart.yaml", "--out", "run", "--seeds", "0,1", *sets, cwd=path)
    assert ran.code == 0, ran.err
    metrics = json.loads((path / "run" / "metrics.json").read_text())
    return SimpleNamespace(screen=ran.out, metrics=metrics)


def labels(screen: str) -> tuple[set[str], set[str]]:
    """The headings of a closing screen, and the words at the left of its rows. Its first line and paths are its own."""
    lines = screen.rstrip().splitlines()[1:]
    headings = {re.sub(r" \(.*", "", line) for line in lines if line and not line.startswith(" ")}
    left = {match[1] for line in lines if (match := re.match(r"   (\S.*?)(?:  +\S|$)", line))}
    return headings, {word for word in left if not re.match(r"nfilter |\.?\w*/|run$", word)}


def test_the_demo_screen_has_the_rows_that_a_run_prints(blocks: list[Any], demo: Any) -> None:
    screens = [block for block in blocks if block.kind == "screen"]
    theirs = labels(demo.screen)
    assert {"Label noise", "Cleaning", "Cost"} <= theirs[0]
    assert {
        "rows read",
        "detection",
        "kept",
        "arm raw",
        "arm cleaned",
        "calls per sample",
    } <= theirs[1]
    if not screens:
        pytest.skip("no screen is shown")
    (shown,) = screens
    ours = labels(shown.text)
    assert ours[0] <= theirs[0]
    assert ours[1] <= theirs[1]
    assert len(ours[1]) > 5


def test_the_python_block_runs_on_the_embedded_model(
    blocks_of: Callable[[str], list[Any]],
    cli: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (block,) = [each for each in blocks_of("docs/howto/python.md") if each.kind == "python"]
    made = cli("init", "--template", "quickstart", "--out", "recipe.yaml", cwd=tmp_path)
    assert made.code == 0, made.err
    recipe = yaml.safe_load((tmp_path / "recipe.yaml").read_text())
    recipe["source"]["rows"], recipe["train"]["epochs"], recipe["arms"] = 24, 1, ["cleaned"]
    recipe["evaluate"]["limit"] = 10
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(block.text, str(block), "exec"), names)
    assert names["recipe"].train.config.lr == 1e-4
    dropped = list(names["result"].rows("dropped.jsonl"))
    assert dropped
    printed = capsys.readouterr().out
    assert "Dataset({" in printed
    assert all(row["reason"] in printed for row in dropped)
