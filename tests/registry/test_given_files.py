"""Plugins given as files: loaded where a person names them, read once, and never from elsewhere."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nfilter import PluginError
from nfilter.registry.given_files import GivenFile, given_files, recipe_files
from nfilter.registry.loading import Plugins, load
from nfilter.registry.provenance import code_of

STAGE = """
import nfilter

class Stage:
    "Does nothing."
    name = {name!r}
    Config = nfilter.StageConfig
    def __init__(self, config): ...
    @classmethod
    def contract(cls, config): return nfilter.Contract()
    def process(self, chunk, state, ctx): return chunk

@nfilter.hookimpl
def nfilter_stages(): return (Stage,)
"""


@pytest.fixture(autouse=True)
def _modules() -> Iterator[None]:
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith(("nfilter_file_", "beside_", "installed_")):
            del sys.modules[name]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path: str, name: str = "my.stage", more: str = "") -> Path:
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(STAGE.format(name=name) + more, encoding="utf-8")
    return file


def loaded(*paths: str | Path, points: Any = (), **more: Any) -> Plugins:
    return load(points, (), files=given_files(paths), **more)


def test_a_file_registers_what_its_hooks_return_and_its_path_is_the_origin(here: Path) -> None:
    file = write("a/my.py")
    item = loaded(file).get("stage", "my.stage")
    assert (item.plugin, item.origin, item.version) == ("my", "a/my.py", "")
    assert item.cls.__module__ == "nfilter_file_my"
    assert sys.modules["nfilter_file_my"].__file__ == str(here / "a" / "my.py")
    assert loaded().find("stage", "my.stage") is None


def test_its_code_is_the_digest_of_what_was_read_and_an_edit_is_another_code(here: Path) -> None:
    file = write("my.py")
    first = loaded(file).get("stage", "my.stage")
    text = file.read_bytes()
    assert first.code == code_of(first.cls) == hashlib.sha256(text).hexdigest()
    # Read again in the same process: the same content is the same class, other content is not.
    assert loaded(here / "my.py").get("stage", "my.stage").cls is first.cls
    file.write_bytes(text + b"# edited\n")
    second = loaded(file).get("stage", "my.stage")
    assert second.code == code_of(second.cls) == hashlib.sha256(file.read_bytes()).hexdigest()
    assert second.cls is not first.cls
    assert code_of(first.cls) == first.code
    # An edit after the file was read counts with the next reading alone.
    file.write_bytes(b"raise RuntimeError")
    assert second.code == code_of(second.cls)


def test_fingerprints_know_a_file_by_its_content_and_not_by_its_place(here: Path) -> None:
    first = loaded(write("a/my.py")).get("stage", "my.stage")
    second = loaded(write("b/other.py")).get("stage", "my.stage")
    assert (first.identity, first.code) == (second.identity, second.code)
    assert first.origin != second.origin


def test_two_files_of_one_name_are_two_plugins_and_a_file_named_twice_is_one(here: Path) -> None:
    first, second = write("a/my.py", "a.stage"), write("b/my.py", "b.stage")
    plugins = loaded(first, second, here / "a" / ".." / "a" / "my.py")
    assert [item.name for item in plugins.of_kind("stage")] == ["a.stage", "b.stage"]
    assert [file.path for file in plugins.files] == [here / "a" / ".." / "a" / "my.py", second]


@pytest.mark.types("is registered twice: by «»; leave out", ", or block the other: «»=«»")
def test_a_name_that_is_installed_too_is_the_error_of_two_plugins(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(here / "site"))
    write("site/installed_one.py")
    file = write("my.py")
    dist = SimpleNamespace(name="one-dist", version="1.0")
    point = EntryPoint("installed_one", "installed_one", "nfilter")._for(dist)  # type: ignore[attr-defined]
    with pytest.raises(PluginError) as caught:
        loaded(file, points=[point]).get("stage", "my.stage")
    assert str(caught.value) == (
        "stage 'my.stage' is registered twice: by 'installed_one' of one-dist 1.0 and by 'my' of my.py; leave out "
        "--plugin my.py, or block the other: NFILTER_BLOCK_PLUGINS=installed_one"
    )
    # Both remedies.
    assert loaded(points=[point]).get("stage", "my.stage").plugin == "installed_one"
    blocked = load([point], ["installed_one"], files=given_files([file]))
    assert blocked.get("stage", "my.stage").plugin == "my"
    with pytest.raises(PluginError, match=r"by 'my' of my\.py and by 'twin' of twin\.py; leave out --plugin twin\.py$"):  # fmt: skip
        loaded(file, write("twin.py")).get("stage", "my.stage")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("import nfilter\n1 +\n", r"^my.py: the plugin did not load: SyntaxError: .* \(my.py:2\)$"),
        ("import nfilter\n\n1 / 0\n", r"ZeroDivisionError: division by zero \(my.py:3\)$"),
        ("import left_pad_that_nobody_has\n", r"No module named 'left_pad_that_nobody_has' \(my.py:1\)$"),
        ("raise SystemExit(0)\n", r"SystemExit: 0 \(my.py:1\)$"),
        ("import nfilter\n@nfilter.hookimpl\ndef nfilter_stage(): ...\n", r"no hook is called 'nfilter_stage'; did you mean"),
        ("def nfilter_stages(): return ()\n", "nfilter_stages is not marked; write @nfilter.hookimpl above it"),
        ("import nfilter\n@nfilter.hookimpl\ndef nfilter_stages(): return (int,)\n", "its classes cannot be used"),
        ("\0", "null byte"),
    ],
)  # fmt: skip
def test_a_file_that_fails_is_an_error_with_its_line(here: Path, text: str, says: str) -> None:
    Path("my.py").write_text(text)
    with pytest.raises(PluginError, match=says):
        loaded("my.py")
    assert "nfilter_file_my" not in sys.modules
    # It is loaded when it is repaired.
    assert loaded(write("my.py")).get("stage", "my.stage")


@pytest.mark.types("it has no hook; write @nfilter.hookimpl above def nfilter_stages()")
def test_a_file_without_a_hook_is_refused(here: Path) -> None:
    Path("my.py").write_text(STAGE.format(name="my.stage").partition("@nfilter.hookimpl")[0])
    with pytest.raises(
        PluginError, match=r"^my.py: the plugin did not load: it has no hook; write @"
    ):
        loaded("my.py")
    assert loaded(write("my.py")).get("stage", "my.stage")


@pytest.mark.types(
    "a folder; name a .py file, or install",
    "there is no such file",
)
def test_what_is_no_python_file_is_refused_with_what_to_type(here: Path) -> None:
    write("made/my.py")
    Path("my.txt").write_text("")
    for path, says in (
        ("made", "--plugin made: a folder; name a .py file, or install the distribution: pip install -e made"),
        ("my.txt", "--plugin my.txt: a plugin is a Python file; name one that ends in .py"),
        ("made/mine.py", "--plugin made/mine.py: there is no such file; did you mean 'my.py'?"),
        ("none/my.py", "--plugin none/my.py: there is no such file"),
    ):  # fmt: skip
        with pytest.raises(PluginError) as caught:
            given_files([path])
        assert str(caught.value) == says
    assert given_files(["made/my.py"])


@pytest.mark.types(
    "which lies beside it, and a plugin file is loaded alone; write it into the file"
)
@pytest.mark.parametrize("line", ["import beside_one", "from beside_one import x", "from . import beside_one", "def later():\n    import beside_one.more"])  # fmt: skip
def test_a_file_that_imports_its_neighbour_is_refused(
    here: Path, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    monkeypatch.syspath_prepend(str(here))
    file = write("my.py", more=f"\n{line}\n")
    Path("beside_one.py").write_text("x = 1\n")
    with pytest.raises(PluginError, match=r"line \d+ imports beside_one, which lies beside it"):
        loaded(file)
    loaded(write("my.py", more="\nx = 1\n"))


def test_a_file_in_a_folder_with_names_of_installed_modules_may_import_them(here: Path) -> None:
    for name in ("nfilter", "json", "pydantic"):
        (here / name).mkdir()
        (here / name / "__init__.py").write_text("raise RuntimeError")
    loaded(write("my.py", more="\nimport json, pydantic\n"))


def test_prompts_recipes_and_models_of_a_file_lie_beside_it(here: Path) -> None:
    more = """
from pathlib import Path
HERE = Path(__file__).parent
@nfilter.hookimpl
def nfilter_prompts(): return (HERE / "prompts",)
@nfilter.hookimpl
def nfilter_models(): return {"small": HERE / "small"}
"""
    plugins = loaded(write("a/my.py", more=more))
    assert plugins.prompt_directories_with("x/y") == (here / "a" / "prompts",)
    assert plugins.models["small"] == here / "a" / "small"


def test_a_listener_in_a_file_receives_events(here: Path) -> None:
    from nfilter import RunStarted

    more = (
        "\nseen = []\n@nfilter.hookimpl\ndef nfilter_run_started(event): seen.append(event.name)\n"
    )
    plugins = loaded(write("my.py", more=more))
    plugins.announce("nfilter_run_started", RunStarted("n", here, 0), print)
    assert sys.modules["nfilter_file_my"].seen == ["n"]


# --- the folder beside a recipe ----------------------------------------------------------------------------------


def names(files: tuple[GivenFile, ...]) -> list[str]:
    return [str(file.path) for file in files]


def test_the_folder_of_a_recipe_has_its_files_in_order_and_nothing_below(here: Path) -> None:
    for path in ("plugins/b.py", "plugins/a.py", "plugins/.hidden.py", "plugins/data/c.py"):
        write(path)
    Path("plugins/notes.txt").write_text("")
    files = recipe_files(Path("recipe.yaml"))
    assert names(files) == ["plugins/a.py", "plugins/b.py"]
    assert {file.flag for file in files} == {"--recipe-plugins"}


@pytest.mark.types(
    "there is no folder «»; leave the flag out, or type --plugin FILE",
    "has no .py file; leave the flag out, or type --plugin FILE",
)
def test_a_folder_that_cannot_be_meant_is_refused(here: Path) -> None:
    recipe = Path("recipe.yaml")
    with pytest.raises(
        PluginError, match="there is no folder plugins; leave the flag out, or type"
    ):
        recipe_files(recipe)
    Path("plugins").mkdir()
    with pytest.raises(PluginError, match=r"plugins has no .py file; leave the flag out, or type"):
        recipe_files(recipe)
    write("plugins/my.py")
    assert names(recipe_files(recipe)) == ["plugins/my.py"]
    write("plugins/pack/__init__.py")
    with pytest.raises(PluginError, match=r"plugins/pack is a package, and only files are loaded"):
        recipe_files(recipe)


def test_a_pipe_is_refused_and_not_waited_for(here: Path) -> None:
    import os

    write("plugins/my.py")
    os.mkfifo(here / "plugins" / "q.py")
    with pytest.raises(
        PluginError, match=r"plugins/q.py: not a regular file; see --recipe-plugins"
    ):
        recipe_files(Path("recipe.yaml"))


@pytest.mark.types(
    "is a link out of the folder; to load its target, type --plugin «»",
    "nothing is loaded through a link: type --plugin FILE",
)
def test_nothing_is_loaded_through_a_link(here: Path) -> None:
    recipe = Path("recipe.yaml")
    evil = write("elsewhere/evil.py")
    write("plugins/my.py")
    link = Path("plugins/link.py")
    for target in (evil.resolve(), Path("../elsewhere/evil.py")):
        link.symlink_to(target)
        with pytest.raises(PluginError) as caught:
            recipe_files(recipe)
        assert str(caught.value) == (
            "--recipe-plugins: plugins/link.py is a link out of the folder; to load its target, type "
            f"--plugin {here}/elsewhere/evil.py"
        )
        link.unlink()
    assert given_files([here / "elsewhere" / "evil.py"])
    # A link inside the folder leads to a file that is loaded anyway, once.
    link.symlink_to("my.py")
    assert [file.place for file in recipe_files(recipe)] == [here / "plugins" / "my.py"]
    link.unlink()
    link.symlink_to("missing.py")
    with pytest.raises(PluginError, match=r"plugins/link.py: cannot be read \(No such file"):
        recipe_files(recipe)
    Path("plugins").rename("real")
    Path("plugins").symlink_to("real")
    with pytest.raises(
        PluginError, match=f"plugins is a link to {here}/real; nothing is loaded through a link"
    ):
        recipe_files(recipe)
    assert given_files(["real/my.py"])


def test_a_link_that_a_person_names_is_followed_and_shown(here: Path) -> None:
    write("elsewhere/my.py")
    Path("link.py").symlink_to("elsewhere/my.py")
    item = loaded("link.py").get("stage", "my.stage")
    assert item.origin == f"link.py -> {here}/elsewhere/my.py"
