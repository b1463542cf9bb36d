"""The rank of a process: typed, or set by a scheduler; and the stages that ranks share, as ``check`` lists them."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from nfilter import Recipe, RecipeError
from nfilter.cli import entry
from nfilter.engine.ranks import division
from nfilter.engine.ranks.place import Place

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs/howto/scale.md").read_text(encoding="utf-8")


def test_a_typed_rank() -> None:
    assert Place.of(None, None, {"SLURM_PROCID": "3", "SLURM_NTASKS": "4"}) == Place(0, 1)
    assert Place.of("1", 3, {"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}) == Place(1, 3)


@pytest.mark.parametrize(
    ("world", "environment", "place"),
    [
        (None, {"SLURM_PROCID": "3", "SLURM_NTASKS": "4"}, Place(3, 4)),
        (4, {"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}, Place(0, 4)),
        (5, {"JOB_COMPLETION_INDEX": "4"}, Place(4, 5)),
    ],
)
def test_a_scheduler_sets_the_rank(
    world: int | None, environment: dict[str, str], place: Place
) -> None:
    assert Place.of("auto", world, environment) == place


@pytest.mark.types("add --rank 0 or --rank auto")
@pytest.mark.types("add --world 2")
@pytest.mark.types("start it with srun or in an indexed Job, or write --rank 0")
@pytest.mark.types("leave out --world, or start srun --ntasks=«»")
@pytest.mark.types("write --rank 0 --world 2")
@pytest.mark.parametrize(
    ("rank", "world", "environment", "message"),
    [
        (None, 2, {}, "--world 2 needs a rank; add --rank 0 or --rank auto"),
        ("1", None, {}, "--rank 1 needs the number of ranks; add --world 2"),
        ("2", 2, {}, "--rank 2 --world 2: not a rank; .* write --rank 0 --world 2"),
        ("-1", 2, {}, "not a rank"),
        ("one", 2, {}, "--rank one --world 2: not a rank"),
        ("auto", 2, {}, "--rank auto: none of SLURM_PROCID, JOB_COMPLETION_INDEX is set"),
        ("auto", None, {"JOB_COMPLETION_INDEX": "1"}, "nothing tells the number of ranks; add --world 2"),
        ("auto", 3, {"SLURM_PROCID": "1", "SLURM_NTASKS": "2"}, "SLURM_NTASKS is 2, and --world is 3; leave out --world"),
        ("auto", None, {"SLURM_PROCID": "x", "SLURM_NTASKS": "2"}, "SLURM_PROCID=x with 2 ranks: not a rank"),
    ],
)  # fmt: skip
def test_no_place(
    rank: str | None, world: int | None, environment: dict[str, str], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        Place.of(rank, world, environment)
    # What the messages say.
    for typed in (("0", 2, {}), ("auto", 2, {"JOB_COMPLETION_INDEX": "1"})):
        assert Place.of(*typed).world == 2


def test_check_lists_the_stages_that_ranks_share(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NFILTER_ALLOW_HOSTS", "127.0.0.1")
    (tmp_path / "rows.jsonl").write_text('{"prompt": "1+1", "response": "2"}\n')

    def facts(price: str) -> list[str]:
        (tmp_path / "r.yaml").write_text(
            "answer: number\n"
            "models:\n"
            f"  expert: {{use: litellm, model: test/x, api_base: 'http://127.0.0.1:9/v1'{price}}}\n"
            "source: {use: jsonl, path: rows.jsonl}\n"
            "samples:\n"
            "  - {use: entp.purge}\n"
            "  - {use: robustft.answer, llm: expert, into: base}\n"
        )
        assert entry(["check", str(tmp_path / "r.yaml"), "--world", "4"]) == 0
        lines = capsys.readouterr().out.splitlines()
        return [line for line in lines if line.startswith(("01-", "02-"))]

    shared = "01-entp.purge: shared by 4 ranks"
    unknown = "02-robustft.answer: on rank 0 alone, because the price of model 'expert' is unknown"
    paid = "02-robustft.answer: on rank 0 alone, because model 'expert' costs money"
    assert facts("") == [shared, unknown]
    assert facts(", price: {prompt: 1, completion: 2}") == [shared, paid]
    free = facts(", price: {prompt: 0, completion: 0}")
    assert free == [shared, "02-robustft.answer: shared by 4 ranks"]


def test_a_tool_that_costs_money_is_called_by_rank_0(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = Recipe.from_dict(
        {"source": {"use": "jsonl", "path": "x"}, "samples": [{"use": "entp.purge"}]}
    )
    for cost, reason in (("local", None), ("paid", "tool shop costs money")):
        tool = SimpleNamespace(item=SimpleNamespace(name="shop", cls=SimpleNamespace(cost=cost)))
        monkeypatch.setattr(division, "stage_tools", lambda *_, tool=tool: [tool])
        assert division.alone(recipe, recipe.samples[0]) == reason


def fenced(words: str) -> str:
    return next(
        text
        for text in re.findall(r"^```\w*\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
        if words in text
    )


def test_the_job_of_the_page_starts_as_many_ranks_as_it_tells_them() -> None:
    job: Any = yaml.safe_load(fenced("kind: Job"))
    spec = job["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    command = container["command"]
    assert spec["completionMode"] == "Indexed"
    assert spec["completions"] == spec["parallelism"] == int(command[command.index("--world") + 1])
    assert Place.of(
        command[command.index("--rank") + 1], spec["completions"], {"JOB_COMPLETION_INDEX": "3"}
    ) == Place(3, 4)
    (line,) = [line for line in fenced("#SBATCH").splitlines() if line.startswith("srun")]
    assert line.endswith("--rank auto")
