"""A plugin is imported when its contents are needed, and its files say beforehand whether they may be."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nfilter import PluginError, RunStarted
from nfilter.registry.loading import Plugins, load
from nfilter.registry.plugin_files import PluginFiles, files_of

STAGE = """
import nfilter
{top}
class Stage:
    "Does nothing."
    name = {name}
    Config = nfilter.StageConfig
    def __init__(self, config): ...
    @classmethod
    def contract(cls, config): return nfilter.Contract()
    def process(self, chunk, state, ctx): return chunk
{hooks}
"""
STAGES = "@nfilter.hookimpl\ndef nfilter_stages(): return (Stage,)\n"


@dataclass
class Site:
    """A folder on the path with plugins in it, each of a distribution of its own."""

    folder: Path
    points: list[EntryPoint]

    def add(
        self, package: str, name: str, *, top: str = "", hooks: str = STAGES, more: str = ""
    ) -> None:
        """A plugin that registers a stage; ``name`` is Python for its name."""
        text = STAGE.format(name=name, top=top, hooks=hooks + more)
        (self.folder / package).mkdir()
        (self.folder / package / "__init__.py").write_text(text)
        point = EntryPoint(package, package, "nfilter")
        dist = SimpleNamespace(name=f"{package}-dist", version="1.0")
        self.points.append(point._for(dist))  # type: ignore[attr-defined]

    def load(self, **more: Any) -> Plugins:
        return load(self.points, (), **more)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield Site(tmp_path, [])
    for name in set(sys.modules) - before:
        if name.startswith(("lazy_", "heavy_")):
            del sys.modules[name]


def test_nothing_is_imported_before_it_is_needed(site: Site) -> None:
    site.add("lazy_a", "'lazy_a.stage'")
    site.add("lazy_b", '"lazy_b.stage"')
    plugins = site.load()
    assert plugins.imported_plugins == ()
    assert plugins.get("stage", "lazy_b.stage").distribution == "lazy_b-dist"
    assert plugins.imported_plugins == ("lazy_b",)
    assert "lazy_a" not in sys.modules
    assert plugins.of_kind("metric") == []
    assert plugins.imported_plugins == ("lazy_b",)
    assert [item.name for item in plugins.of_kind("stage")] == ["lazy_a.stage", "lazy_b.stage"]
    assert plugins.imported_plugins == ("lazy_a", "lazy_b")


def test_a_name_that_no_file_shows_is_found_all_the_same(site: Site) -> None:
    site.add("lazy_a", "'lazy_a.stage'")
    site.add("lazy_parts", "'.'.join(('lazy', 'parts'))")
    plugins = site.load()
    assert plugins.get("stage", "lazy.parts").plugin == "lazy_parts"
    assert plugins.imported_plugins == ("lazy_a", "lazy_parts")


def test_everything_is_imported_before_a_name_is_called_unknown(site: Site) -> None:
    site.add("lazy_a", "'lazy_a.stage'")
    site.add("lazy_bad", "'lazy_bad.stage'", top="import left_pad_that_nobody_has")
    with pytest.raises(PluginError) as caught:
        site.load().get("stage", "lazy_a.stag")
    assert "unknown stage 'lazy_a.stag'; did you mean 'lazy_a.stage'?" in str(caught.value)
    assert "plugin 'lazy_bad' of lazy_bad-dist did not load: ModuleNotFoundError" in str(
        caught.value
    )


def test_a_clash_is_seen_although_one_plugin_would_do_and_troubles_no_other_name(
    site: Site,
) -> None:
    site.add("lazy_a", "'shared.stage'")
    site.add("lazy_b", "'shared.stage'")
    site.add("lazy_c", "'lazy_c.stage'")
    plugins = site.load()
    assert plugins.get("stage", "lazy_c.stage").plugin == "lazy_c"
    assert plugins.imported_plugins == ("lazy_c",)
    with pytest.raises(PluginError) as caught:
        plugins.get("stage", "shared.stage")
    for part in ("'lazy_a' of lazy_a-dist 1.0", "'lazy_b' of lazy_b-dist 1.0", "uninstall one"):
        assert part in str(caught.value)
    # The remedy that is named.
    assert str(caught.value).endswith("NFILTER_BLOCK_PLUGINS=lazy_b")
    assert load(site.points, ["lazy_b"]).get("stage", "shared.stage").plugin == "lazy_a"


def test_listeners_models_and_prompts_are_imported_for_what_they_are(
    site: Site, tmp_path: Path
) -> None:
    hook = "@nfilter.hookimpl\ndef nfilter_{}\n"
    listens = hook.format("run_started(event): event.name.append('heard')")
    site.add("lazy_a", "'lazy_a.stage'")
    site.add("lazy_b", "'lazy_b.stage'", more=listens)
    models = hook.format("models(): import pathlib; return {'little': pathlib.Path('x')}")
    site.add("lazy_c", "'lazy_c.stage'", more=models)
    brings = hook.format(
        "prompts(): import pathlib; return [pathlib.Path(__file__).parent / 'texts']"
    )
    for package in ("lazy_d", "lazy_e"):
        site.add(package, f"'{package}.stage'", more=brings)
        (tmp_path / package / "texts" / package).mkdir(parents=True)
        (tmp_path / package / "texts" / package / "ask.jinja").write_text("[user]\nx\n")
    heard: Any = []
    plugins = site.load()
    plugins.announce("nfilter_run_started", RunStarted(heard, Path(), 0), heard.append)
    assert heard == ["heard"]
    assert plugins.imported_plugins == ("lazy_b",)
    assert plugins.models["little"] == Path("x")
    assert plugins.imported_plugins == ("lazy_b", "lazy_c")
    assert plugins.prompt_directories_with("lazy_e/ask") == (tmp_path / "lazy_e" / "texts",)
    assert plugins.imported_plugins == ("lazy_b", "lazy_c", "lazy_e")


def test_a_slow_plugin_is_named_with_what_it_imports_at_top_level(
    site: Site, tmp_path: Path
) -> None:
    (tmp_path / "heavy_one.py").write_text("")
    (tmp_path / "heavy_two.py").write_text("")
    top = "import json\nimport heavy_one\ntry:\n    from heavy_two import nothing\nexcept ImportError: pass\n"
    inside = "def work():\n    import heavy_three\n"
    site.add("lazy_slow", "'lazy_slow.stage'", top=top, more=inside)
    said: list[str] = []
    times = iter((0.0, 5.7))
    plugins = site.load(say=said.append, clock=lambda: next(times))
    plugins.get("stage", "lazy_slow.stage")
    (note,) = said
    assert note == (
        "plugin 'lazy_slow' of lazy_slow-dist took 5.7 s to import: at top level it imports heavy_one "
        "(lazy_slow/__init__.py:4), heavy_two (lazy_slow/__init__.py:6); with `import heavy_one` inside the functions "
        "that need it, it is fast to list"
    )


@pytest.mark.parametrize(("seconds", "noted"), [(0.9, False), (2.0, False), (3.5, True)])
def test_a_plugin_that_imports_nothing_heavy_is_named_when_it_takes_long(
    site: Site, seconds: float, *, noted: bool
) -> None:
    site.add("lazy_a", "'lazy_a.stage'")
    said: list[str] = []
    times = iter((0.0, seconds))
    site.load(say=said.append, clock=lambda: next(times)).get("stage", "lazy_a.stage")
    assert [text.split(";")[0] for text in said] == (
        [f"plugin 'lazy_a' of lazy_a-dist took {seconds:.1f} s to import"] if noted else []
    )


def test_files_that_cannot_be_read_may_offer_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert files_of("lazy_nowhere") == PluginFiles(None)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "lazy_compiled").mkdir()
    (tmp_path / "lazy_compiled" / "__init__.py").write_text("")
    (tmp_path / "lazy_compiled" / "fast.so").write_bytes(b"")
    unread = files_of("lazy_compiled.plugin")
    assert unread.text is None
    assert unread.mentions("nfilter_stages")
    assert unread.may_name("anything.at_all")
    assert unread.may_hold("folder/name")


def test_a_plugin_of_one_file_is_read_with_the_files_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "lazy_single.py").write_text("from lazy_beside import Stage\n")
    (tmp_path / "lazy_beside.py").write_text("name = 'lazy.beside'\nimport lazy_single\n")
    (tmp_path / "lazy_other.py").write_text("name = 'lazy.other'\n")
    files = files_of("lazy_single")
    assert files.may_name("lazy.beside")
    assert not files.may_name("lazy.other")


def test_every_class_of_this_distribution_is_found_by_the_files_alone() -> None:
    for item in load(block=()).registered.values():
        alone = load(block=())
        assert alone.find(item.kind, item.name) is not None
        assert item.plugin in alone.imported_plugins
        assert len(alone.imported_plugins) <= 4, (item.name, alone.imported_plugins)


def test_a_command_of_two_distributions_is_an_error_only_when_it_is_typed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from nfilter.cli import entry, group

    def points() -> dict[str, list[Any]]:
        return {"twice": [SimpleNamespace(value=f"{name}:command", dist=SimpleNamespace(name=name)) for name in ("one", "two")]}  # fmt: skip

    monkeypatch.setattr(group, "plugin_commands", points)
    assert entry(["--help"]) == 0
    assert entry(["twice"]) == 3
    said = capsys.readouterr().err
    assert (
        "the command 'twice' is provided twice: one:command of one and two:command of two" in said
    )
