"""The pages of the site that are made from the code have every stage, hook and exit code; links of documents lead to pages."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from packaging.version import Version

import nfilter
from nfilter import RunFinished, RunStarted, StageFinished
from nfilter.api.hookspecs import REGISTRATIONS
from nfilter.cli import entry as run_command
from nfilter.cli import main
from nfilter.recipe.model import SECTIONS
from nfilter.registry.catalogue import settings_of
from nfilter.registry.given_files import given_files
from nfilter.registry.loading import Plugins, load

ARGUMENTS_ARE_LISTED = Version(version("click")) >= Version("8.5.1")
"""Earlier versions of click list options alone."""
ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "docs"))

from site_pages import example_plugin, hooks, markdown, reference  # noqa: E402
from site_pages.links import DOCUMENTS, REPOSITORY, relinked  # noqa: E402


@pytest.fixture(scope="module")
def plugins() -> Plugins:
    return load(block=())


@pytest.fixture(scope="module")
def pages(plugins: Plugins) -> dict[str, str]:
    return reference.pages(plugins)


def headings(text: str) -> list[str]:
    return re.findall(r"^#+ (.+)$", text, re.MULTILINE)


def entry(text: str, heading: str) -> str:
    """What stands under a heading, up to the next one."""
    return re.split(rf"^#+ {re.escape(heading)}$", text, flags=re.MULTILINE)[1].split("\n#")[0]


def test_every_installed_plugin_has_its_entry_with_all_settings(
    pages: dict[str, str], plugins: Plugins
) -> None:
    seen = 0
    for kind in REGISTRATIONS.values():
        page = pages["reference/stages.md" if kind == "stage" else "reference/plugins.md"]
        for item in plugins.of_kind(kind):
            text = entry(page, item.name)
            config = getattr(item.cls, "Config", None)
            for name, _, _, what in settings_of(config) if config is not None else ():
                assert f"| `{name}` |" in text
                assert " ".join(markdown.prose(what).split()) in text
            seen += 1
    assert seen >= 50


def test_stages_stand_under_what_they_see(pages: dict[str, str]) -> None:
    samples, tokens = pages["reference/stages.md"].split("## Stages over tokens\n")
    assert "### robustft.check\n" in samples
    assert "### xtf.novelty\n" in tokens
    assert "### xtf.novelty\n" not in samples


def test_every_section_of_a_recipe_has_its_entry(pages: dict[str, str]) -> None:
    page = pages["reference/recipe.md"]
    assert headings(page) == ["Recipe", *(name for name in SECTIONS if name != "lock"), "noise"]
    assert "| `max_length` | `int` | `2048` |" in entry(page, "encode")
    assert entry(page, "seed").rstrip().endswith("Default: `0`")


def test_every_exit_code_and_every_error_has_its_entry(pages: dict[str, str]) -> None:
    page = pages["reference/errors.md"]
    classes = reference.error_classes()
    codes = {0, 1, 130, *(cls.exit_code for cls in classes)}
    rows = dict(re.findall(r"^\| `(\d+)` \| ([^|]*\S) \|", page, re.MULTILINE))
    assert {int(code) for code in rows} == codes
    assert all(re.search("[a-z]{4}", what) for what in rows.values())
    for cls in classes:
        assert entry(page, cls.__name__).strip().startswith(f"Exit code {cls.exit_code}")
    assert "left to train on" in rows["6"]
    assert "| `NothingLeftError` |" in page


def test_every_command_and_option_has_its_entry(pages: dict[str, str]) -> None:
    page = pages["reference/commands.md"]
    context = click.Context(main, info_name="nfilter")
    for name in main.list_commands(context):
        command = main.get_command(context, name)
        assert command is not None
        text = entry(page, f"nfilter {name}")
        for param in command.params:
            if isinstance(param, click.Argument) and not ARGUMENTS_ARE_LISTED:
                continue
            shown = param.metavar if isinstance(param, click.Argument) else param.opts[-1]
            assert f"| `{shown or str(param.name).upper()}" in text
    assert "`nfilter plugins show [OPTIONS] NAME`" in page


def test_every_hook_has_its_entry_and_an_example_that_works(
    pages: dict[str, str], point: Any
) -> None:
    page = pages["reference/hooks.md"]
    names = hooks.hook_names()
    assert len(names) == 15
    for name in names:
        text = entry(page, name)
        assert f"@hookimpl\ndef {name}(" in text
        language, use = hooks.USES[name]
        assert f"```{language}\n{use}\n```" in text
    found = Plugins([point("house", example_plugin, "house")])
    assert found.failed == ()
    assert {name for kind, name in found.registered if kind == "stage"} >= {"example.ask"}
    assert "example.adder" in {name for kind, name in found.registered if kind == "backend"}
    assert found.model_names() == ["house"]


def uses(language: str) -> dict[str, str]:
    return {name: use for name, (kind, use) in hooks.USES.items() if kind == language}


def test_the_example_of_every_hook_does_what_its_use_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One run with ``--plugin house.py``: the parts of recipes that the page shows, the commands, and what is written."""
    monkeypatch.chdir(tmp_path)
    Path("house.py").write_text(hooks.EXAMPLE.read_text(encoding="utf-8"), encoding="utf-8")
    Path("sums.qa").write_text("2+3 => 5 | 5\n2+4 => 7 | 6\n")
    Path("prompts/house").mkdir(parents=True)
    (template,) = uses("jinja").values()
    Path("prompts/house/ask.jinja").write_text(template)
    parts = uses("yaml")
    names = ("stages", "backends", "trainers", "sources", "executors")
    whole = "".join(f"{parts.pop(f'nfilter_{name}')}\n" for name in names)
    whole += "answer: number\narms: [cleaned]\nencode: {model: adder}\n"
    Path("recipes").mkdir()
    Path("recipes/house.yaml").write_text(whole)
    commands = uses("")
    assert main_of(commands["nfilter_recipes"]) == 0
    # The recipe that was copied, under the name that the page has; prompts are found beside the plugin's file.
    Path("away").mkdir()
    Path("mine.yaml").rename("away/house.yaml")
    Path("sums.qa").rename("away/sums.qa")
    capsys.readouterr()
    assert main_of("nfilter run away/house.yaml --plugin house.py --quiet") == 0
    printed = capsys.readouterr().out + Path("runs/house/house.log").read_text()
    timeless = re.sub(r"\d\.\d s", "0.0 s", printed).splitlines()
    assert [line for line in uses("text").values() if line not in timeless] == []
    assert main_of(commands["nfilter_exporters"]) == 0
    assert Path("exported/lines.txt").read_text() == "'5'\n"
    figures = json.loads(Path("runs/house/metrics.json").read_text())
    (shown,) = uses("json").values()
    assert json.loads(shown).items() <= figures.items()
    # The loss: a recipe that is checked, and its weights.
    loss = parts.pop("nfilter_losses")
    Path("away/loss.yaml").write_text(
        f"models: {{student: {{use: hf, model: tiny}}}}\nsource: {{use: example.qa, path: sums.qa}}\n{loss}\n"
    )
    assert main_of("nfilter check away/loss.yaml --plugin house.py") == 0
    torch = pytest.importorskip("torch")
    flat = example_plugin.Flat(example_plugin.FlatConfig(weight=0.5))
    stats = flat.stats(torch.zeros(2, 3), torch.tensor([0, 1]))
    assert flat.weigh(stats, {}, 0).tolist() == [0.5, 0.5]
    # The model: its folder where it is there, else the line for pip.
    model = parts.pop("nfilter_models")
    Path("away/model.yaml").write_text(f"{model}\nsource: {{use: example.qa, path: sums.qa}}\n")
    assert main_of("nfilter check away/model.yaml --plugin house.py") != 0
    assert "pip install 'house-weights'" in capsys.readouterr().err
    (tmp_path / "house-model").mkdir()
    found = load(files=given_files(["house.py"]))
    assert found.model_folder("house") == tmp_path / "house-model"
    assert parts == {}
    for use in uses("python").values():
        exec(use, {**vars(example_plugin), "nfilter": nfilter})


def main_of(line: str) -> int:
    """Run a command of the page and return its exit code."""
    return run_command(shlex.split(line)[1:])


def test_the_examples_of_observing_hooks_write_what_they_say(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    example_plugin.nfilter_run_started(RunStarted("mine", tmp_path, 3))
    example_plugin.nfilter_stage_finished(StageFinished("01-entp.purge", 5, 2, 0, 0.25, False))
    example_plugin.nfilter_run_finished(RunFinished("mine", tmp_path, {"samples": {"kept": 5}}))
    log = (tmp_path / "house.log").read_text()
    assert log == "started mine with seed 3\nfinished mine with 5 rows\n"
    assert capsys.readouterr().out == "01-entp.purge: kept 5, dropped 2, 0.2 s\n"


def test_public_names_have_their_entries(pages: dict[str, str]) -> None:
    import nfilter

    page = pages["reference/api.md"]
    rows = dict(re.findall(r"^\| \[`(\w+)`\]\(#\w+\) \| (.*) \|$", page, re.MULTILINE))
    assert set(nfilter.__all__) <= set(rows)
    assert [name for name, text in rows.items() if not text] == []
    assert set(nfilter.__all__) <= set(headings(page))


def test_an_entry_of_a_public_name_has_what_a_plugin_needs_to_use_it(pages: dict[str, str]) -> None:
    """A signature with defaults, the fields and methods of a protocol with its constructor, the value of an alias."""
    page = pages["reference/api.md"]
    assert "    rounds: int = 4,\n" in entry(page, "Agent")
    assert "- rounds: Calls of the model, at most." in entry(page, "Agent")
    source = entry(page, "Source")
    assert "- `.__init__(self, config: Any, base_dir: Path) -> None`" in source
    assert "- `.read(self) -> Iterator[Row | Unreadable]`: Yield all rows in order" in source
    assert "| `Config` | `ClassVar[type[StageConfig]]` |" in source
    assert "- `@classmethod .of(cls, sample: Sample, name: str) -> View | None`: " in entry(
        page, "View"
    )
    assert "FloatArray = npt.NDArray[np.float32]" in entry(page, "FloatArray")
    assert "ACTIONS = ('accept', 'relabel', 'drop', 'skip')" in entry(page, "ACTIONS")
    assert "class Rewards(Protocol):\n    def reward(" in entry(page, "capability")
    assert "max_tokens" in entry(page, "Request")
    assert "at 0x" not in page


def test_links_to_names_that_differ_in_case_lead_to_their_own_entries(
    pages: dict[str, str],
) -> None:
    page = pages["reference/api.md"]
    anchors = re.findall(r"^\| \[`\w+`\]\(#(\w+)\)", page, re.MULTILINE)
    assert {"view", "view_1"} <= set(anchors)
    assert len(anchors) == len(set(anchors))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a <think> mark", "a &lt;think> mark"),
        ("a*b_c [T] | d", r"a\*b\_c \[T\] \| d"),
        ("``a*b`` and `x_y`", "``a*b`` and `x_y`"),
    ],
)
def test_docstrings_are_shown_as_they_are(text: str, shown: str) -> None:
    assert markdown.prose(text) == shown


def test_parts_of_a_docstring_are_lists() -> None:
    text = "Does a thing\nwell.\n\nRaises:\n    A: where one\n        is.\n    B: never."
    assert (
        markdown.paragraphs(text)
        == "Does a thing well.\n\nRaises:\n\n- A: where one is.\n- B: never."
    )


@pytest.mark.parametrize(
    ("link", "document", "page", "becomes"),
    [
        ("docs/results.md#noise", "README.md", "index.md", "results.md#noise"),
        ("../README.md", "docs/entp.md", "entp.md", "index.md"),
        ("../../CONTRIBUTING.md", "docs/start/a.md", "start/a.md", "../contributing.md"),
        ("../Makefile", "docs/benchmarks.md", "benchmarks.md", f"{REPOSITORY}/Makefile"),
        ("../reference/hooks.md", "docs/start/a.md", "start/a.md", "../reference/hooks.md"),
        ("https://example.org/x", "README.md", "index.md", "https://example.org/x"),
        ("#part", "README.md", "index.md", "#part"),
    ],
)  # fmt: skip
def test_links_lead_to_pages_else_to_the_repository(
    link: str, document: str, page: str, becomes: str
) -> None:
    assert relinked(f"[a]({link})", document, page, ROOT) == f"[a]({becomes})"


def test_links_in_blocks_stay_and_links_to_nothing_are_refused() -> None:
    text = "```python\n[a](nothing.md)\n```"
    assert relinked(text, "README.md", "index.md", ROOT) == text
    with pytest.raises(ValueError, match=r"README.md: the link 'gone.py' leads to no file"):
        relinked("[a](gone.py)", "README.md", "index.md", ROOT)


def test_equations_become_mathml() -> None:
    pytest.importorskip("latex2mathml")
    from xml.etree import ElementTree as ET

    from site_pages.mathml import fence

    made = fence("a = \\frac{1}{2}\nb \\\n= 3", "math", "math", {}, None)
    first, second = re.findall(r"<math.*?</math>", made)
    assert "<mfrac>" in first
    assert "".join(ET.fromstring(second).itertext()) == "b=3"


@pytest.fixture
def nav() -> list[Any]:
    return list(yaml.safe_load((ROOT / ".mkdocs.yml").read_text())["nav"])


def leaves(nav: list[Any]) -> Iterator[str]:
    for item in nav:
        if isinstance(item, str):
            yield item
        else:
            for value in item.values():
                yield from [value] if isinstance(value, str) else leaves(value)


def test_the_menu_has_every_page_once(nav: list[Any], pages: dict[str, str]) -> None:
    rooms = ("start", "howto", "methods")
    docs = ROOT / "docs"
    written = [
        path.relative_to(docs).as_posix() for room in rooms for path in (docs / room).glob("*.md")
    ]
    named = list(leaves(nav))
    assert len(set(named)) == len(named)
    assert {*written, *pages, *DOCUMENTS.values()} <= set(named)
    assert [name for name in named if not (docs / name).exists()] == [
        name for name in named if name in pages or name in DOCUMENTS.values()
    ]
