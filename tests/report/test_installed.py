"""`nfilter plugins`: everything that plugins bring, each with its origin and load time, and a filter."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest
from rich.console import Console

from nfilter import NotInstalled, PluginError
from nfilter.api.hookspecs import HOOKS, REGISTRATIONS
from nfilter.cli import entry
from nfilter.cli.installed import KINDS, Listing, listing, show_all
from nfilter.cli.plugins import plugins_list
from nfilter.registry.given_files import given_files
from nfilter.registry.loading import Plugins, load


class Metric:
    """Counts words. Of every row."""

    name = "words"

    def compute(self, data: Any) -> Any:
        return {}


@pytest.fixture
def plugins(tmp_path: Path, point: Any, module: Any) -> Iterator[Plugins]:
    (tmp_path / "prompts" / "house").mkdir(parents=True)
    (tmp_path / "prompts" / "house" / "ask.jinja").write_text("{{ x }}")
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "house.yaml").write_text("# Our rows.\n# More. And more.\nname: x\n")
    (tmp_path / "my.py").write_text(
        "import nfilter\nclass Other:\n    'Counts letters.'\n    name = 'letters'\n    def compute(self, data): return {}\n"
        "@nfilter.hookimpl\ndef nfilter_metrics(): return (Other,)\n"
    )
    made = module(
        "house_mod",
        metrics=[Metric],
        models={"small": tmp_path / "small", "big": NotInstalled("big_weights", "big-weights")},
        prompts=[tmp_path / "prompts"],
        recipes=[tmp_path / "recipes"],
        run_started=lambda event: None,
    )
    twice = [point(name, module(name, metrics=[type("M", (Metric,), {"name": "two"})]), name) for name in ("a", "b")]  # fmt: skip
    ticks = iter(range(1000))
    yield load(
        [point("house", made, "house-dist", "2.0"), point("bad", ImportError("no left_pad"), "bad-dist"), *twice],
        ["blocked"],
        files=given_files([tmp_path / "my.py"]),
        clock=lambda: next(ticks) / 4,
    )  # fmt: skip
    sys.modules.pop("nfilter_file_my", None)


def table(found: Listing) -> list[list[str]]:
    out = StringIO()
    show_all(found, Console(file=out, width=300), as_json=False)
    return [line.split() for line in out.getvalue().splitlines()]


def mine(found: Listing) -> list[tuple[str, str, str, float | None, str]]:
    return [
        (each.kind, each.name, each.origin, each.seconds, each.summary)
        for each in found.entries
        if each.plugin in ("house", "my")
    ]


def test_everything_is_listed_with_origin_and_load_time(plugins: Plugins, tmp_path: Path) -> None:
    file = str(tmp_path / "my.py")
    dist = "house-dist 2.0"
    # The clock moves by a quarter of a second per reading, and each import reads it twice.
    assert mine(listing(plugins, {})) == [
        ("metric", "letters", file, 0.25, "Counts letters."),
        ("metric", "words", dist, 0.25, "Counts words. Of every row."),
        ("model", "big", dist, 0.25, "needs the package big_weights, which is not installed: pip install 'big-weights'"),
        ("model", "small", dist, 0.25, str(tmp_path / "small")),
        ("prompt", "house/ask", dist, 0.25, str(tmp_path / "prompts" / "house" / "ask.jinja")),
        ("recipe", "house", dist, 0.25, "Our rows"),
        ("hook", "nfilter_metrics", file, 0.25, "of the plugin my"),
        *(
            ("hook", f"nfilter_{name}", dist, 0.25, "of the plugin house")
            for name in ("metrics", "models", "prompts", "recipes", "run_started")
        ),
    ]  # fmt: skip


def test_what_nfilter_ships_itself_is_listed_without_a_load_time(plugins: Plugins) -> None:
    found = {(each.kind, each.name): each for each in listing(plugins, {}).entries}
    for key in (("recipe", "robustft"), ("prompt", "robustft/answer")):
        assert (found[key].distribution, found[key].seconds) == ("nfilter", None)


def test_commands_are_loaded_and_a_broken_one_hides_no_other() -> None:
    @click.command(help="Say hello. In many words.")
    def hello() -> None: ...

    def broken() -> Any:
        raise ImportError("no left_pad")

    dist = SimpleNamespace(name="d", version="1")
    commands: Any = {
        "hello": [SimpleNamespace(value="m:hello", dist=dist, load=lambda: hello)],
        "bad": [SimpleNamespace(value="m:bad", dist=dist, load=broken)],
    }
    found = listing(load([], ()), commands, kind="command")
    (one,) = found.entries
    assert (one.name, one.plugin, one.origin, one.summary) == (
        "hello",
        "m:hello",
        "d 1",
        "Say hello",
    )
    assert one.seconds is not None
    assert found.failed == (("bad", "d", "ImportError: no left_pad"),)


def test_filters_by_kind_and_by_text_in_name_origin_or_summary(plugins: Plugins) -> None:
    assert [each.name for each in listing(plugins, {}, kind="metric").entries] == [
        "letters",
        "words",
    ]
    for text, names in (("LETTERS", ["letters"]), ("my.py", ["letters"]), ("of every", ["words"])):
        found = listing(plugins, {}, kind="metric", text=text)
        assert [each.name for each in found.entries] == names
    nothing = listing(plugins, {}, kind="metric", text="nothing like it")
    assert table(nothing)[1] == ["nothing", "matches;", "`nfilter", "plugins`", "lists", "all"]
    # No filter hides what is wrong.
    assert len(nothing.clashes) == len(nothing.failed) == 1
    assert "clash: metric 'two' is registered twice" in " ".join(table(nothing)[2])


@pytest.mark.types("there is no such kind; type --kind with one of: ")
def test_a_kind_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert entry(["plugins", "--kind", "promt"]) == 3
    said = capsys.readouterr().err
    assert said.startswith(
        "error: --kind promt: there is no such kind; type --kind with one of: stage, "
    )
    for kind in said.rpartition(": ")[2].split(", "):
        listing(load([], ()), {}, kind=kind.strip())
    with pytest.raises(PluginError):
        listing(load([], ()), {}, kind="stages")


def test_the_help_names_every_kind() -> None:
    (option,) = [each for each in plugins_list.params if each.name == "kind"]
    words = str(getattr(option, "help", "")).removesuffix(".").replace(" or ", ", ")
    assert words.partition(": ")[2].split(", ") == list(KINDS)
    assert set(REGISTRATIONS.values()) < set(KINDS)


def test_as_json_every_kind_has_its_list(plugins: Plugins, tmp_path: Path) -> None:
    out = StringIO()
    show_all(listing(plugins, {}), Console(file=out), as_json=True)
    found = json.loads(out.getvalue())
    keys = {
        "plugins",
        "models",
        "prompts",
        "recipes",
        "commands",
        "hooks",
        "clashes",
        "failed",
        "blocked",
    }
    assert set(found) == keys
    assert found["plugins"][0] == {
        "kind": "metric", "name": "letters", "plugin": "my", "distribution": str(tmp_path / "my.py"), "version": "",
        "file": str(tmp_path / "my.py"), "seconds": 0.25, "summary": "Counts letters.",
    }  # fmt: skip
    assert {each["name"] for each in found["models"]} == {"small", "big"}
    assert "house/ask" in {each["name"] for each in found["prompts"]}
    assert {each["name"] for each in found["hooks"]} <= set(HOOKS)
    assert found["failed"] == [
        {"plugin": "bad", "distribution": "bad-dist", "error": "ImportError: no left_pad"}
    ]


def test_the_command_lists_what_is_installed(capsys: pytest.CaptureFixture[str]) -> None:
    assert entry(["plugins", "list", "--kind", "command", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {each["name"] for each in found["commands"]} >= {"merge", "view", "review"}
    assert found["plugins"] == found["hooks"] == []
