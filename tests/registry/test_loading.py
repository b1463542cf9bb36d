"""Finding plugins: order, blocking, failures kept apart, clashes named, listeners that cannot end a run."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from rich.console import Console

from nfilter import Contract, PluginError, RunFinished, RunStarted, StageConfig, hookimpl
from nfilter.api import hookspecs
from nfilter.registry import loading as plugins_module
from nfilter.registry.catalogue import show_one
from nfilter.registry.loading import BLOCK_VARIABLE, Plugins, load

ROOT = Path(__file__).resolve().parents[2]
Point = Callable[..., Any]
Module = Callable[..., ModuleType]


class Complete:
    """Every member that some kind of plugin class needs."""

    name = "x"
    Config = StageConfig
    mean_over = "given"

    def __init__(self, config: Any = None, second: Any = None) -> None: ...

    @classmethod
    def contract(cls, config: Any) -> Contract:
        return Contract()

    @classmethod
    def problems(cls, config: Any, base_dir: Any) -> Iterable[str]:
        return ()

    @classmethod
    def columns(cls, config: Any, base_dir: Any) -> dict[str, str]:
        return {}

    def process(self, chunk: Any, state: Any, ctx: Any) -> Any:
        return chunk

    def compute(self, data: Any) -> Any:
        return {}

    def read(self) -> Any:
        return iter(())

    def restore(self, sample: Any) -> Any:
        return {}


def stage(name: str) -> type:
    return type("Stage", (Complete,), {"name": name})


@pytest.mark.parametrize("name", ["samples", "name", "stages", "arms", "in_loss"])
def test_a_metric_is_not_called_like_a_section_of_the_figures(
    point: Any, module: Any, name: str
) -> None:
    found = load([point("mine", module(metrics=[stage(name)]))], ())
    assert not found.of_kind("metric")
    assert f"metrics.json has figures of the engine's own under '{name}'" in found.failed[0].error
    assert f"like mine_{name}" in found.failed[0].error


def test_plugins_load_by_distribution_then_by_name(point: Point) -> None:
    order: list[str] = []

    def loading(name: str) -> Callable[[], ModuleType]:
        def imported() -> ModuleType:
            order.append(name)
            return ModuleType(name)

        return imported

    points = [
        point("z", loading("b/z"), "b"),
        point("a", loading("c/a"), "c"),
        point("b", loading("a/b"), "a"),
        point("a", loading("b/a"), "b"),
    ]
    plugins = load(points[:3], ())
    assert order == []
    assert plugins.registered == {}
    assert order == ["a/b", "b/z", "c/a"]
    order.clear()
    assert load([points[0], points[3]], ()).registered == {}
    assert order == ["b/a", "b/z"]


def test_what_is_registered_is_known_by_kind_and_name_with_its_origin(
    point: Point, module: Module
) -> None:
    first, second = stage("x.b"), stage("x.a")
    plugins = load(
        [point("x", module(stages=[first, second], metrics=[stage("m")]), "dist-x", "2.1")], ()
    )
    item = plugins.get("stage", "x.b")
    assert (item.cls, item.plugin, item.origin) == (first, "x", "dist-x 2.1")
    assert [one.name for one in plugins.of_kind("stage")] == ["x.a", "x.b"]
    assert [one.name for one in plugins.of_kind("metric")] == ["m"]
    assert plugins.of_kind("source") == []


def test_directories_and_models_are_collected(point: Point, module: Module, tmp_path: Path) -> None:
    plugins = load(
        [
            point("a", module(prompts=[tmp_path / "p"], models={"small": tmp_path / "m"}), "a"),
            point("b", module(prompts=[tmp_path / "q"], recipes=[tmp_path / "r"]), "b"),
        ],
        (),
    )
    assert plugins.prompt_directories == (tmp_path / "p", tmp_path / "q")
    assert plugins.recipe_directories == (tmp_path / "r",)
    assert dict(plugins.models) == {"small": tmp_path / "m"}
    assert "none" not in plugins.models


@pytest.mark.parametrize("by_variable", [False, True])
def test_a_blocked_plugin_is_never_imported(
    point: Point, module: Module, monkeypatch: pytest.MonkeyPatch, *, by_variable: bool
) -> None:
    def imported() -> ModuleType:
        raise AssertionError("a blocked plugin was imported")

    points = [point("bad", imported, "a"), point("good", module(stages=[stage("good.x")]), "b")]
    if by_variable:
        monkeypatch.setenv(BLOCK_VARIABLE, " bad , other,")
        plugins = load(points)
    else:
        plugins = load(points, ["bad"])
    assert plugins.blocked == ("bad",)
    assert plugins.failed == ()
    assert plugins.get("stage", "good.x")
    with pytest.raises(PluginError, match=f"plugin 'bad' is blocked by {BLOCK_VARIABLE}"):
        plugins.get("stage", "bad.x")


@pytest.mark.parametrize(
    "error",
    [ImportError("no left_pad"), RuntimeError("boom"), SyntaxError("bad"), SystemExit(3)],
    ids=repr,
)
def test_a_failing_plugin_breaks_nothing_and_is_named_whenever_something_is_missed(
    point: Point, module: Module, error: BaseException
) -> None:
    good = module(stages=[stage("good.check")])
    plugins = load([point("bad", error, "bad-dist"), point("good", good, "good-dist")], ())
    assert plugins.get("stage", "good.check")
    (failed,) = plugins.failed
    assert (failed.plugin, failed.distribution) == ("bad", "bad-dist")
    for kind, name in (("stage", "bad.x"), ("source", "anything")):
        with pytest.raises(PluginError) as caught:
            plugins.get(kind, name)
        assert f"unknown {kind} {name!r}" in str(caught.value)
        assert f"plugin 'bad' of bad-dist did not load: {type(error).__name__}: {error}" in str(
            caught.value
        )
    with pytest.raises(PluginError, match=r"nothing is called 'bad\.x'") as shown:
        show_one(plugins, "bad.x", Console(), as_json=False)
    assert "plugin 'bad' of bad-dist did not load" in str(shown.value)


def test_an_unknown_name_is_answered_with_the_nearest(point: Point, module: Module) -> None:
    plugins = load([point("x", module(stages=[stage("robust.check"), stage("robust.select")]))], ())
    for wrong in ("robust.chek", "check"):
        assert (
            plugins.unknown("stage", wrong)
            == f"unknown stage {wrong!r}; did you mean 'robust.check'?"
        )
    assert (
        plugins.unknown("stage", "zzz") == "unknown stage 'zzz'; known: robust.check, robust.select"
    )


def test_two_plugins_with_one_name_are_an_error_that_names_both(
    point: Point, module: Module
) -> None:
    points = [
        point("one", module("m1", stages=[stage("x.check")]), "dist-one", "1.0"),
        point("two", module("m2", stages=[stage("x.check")]), "dist-two", "2.0"),
    ]
    plugins = load(points, ())
    with pytest.raises(PluginError) as caught:
        plugins.get("stage", "x.check")
    text = str(caught.value)
    assert plugins.clashes == (text,)
    assert "stage 'x.check' is registered twice" in text
    for part in ("'one' of dist-one 1.0", "'two' of dist-two 2.0", f"{BLOCK_VARIABLE}=two"):
        assert part in text
    assert load(points, ["two"]).get("stage", "x.check").distribution == "dist-one"


def test_one_name_in_two_kinds_is_no_clash(point: Point, module: Module) -> None:
    plugins = load([point("x", module(stages=[stage("x.x")], sources=[stage("x.x")]))], ())
    assert len(plugins.registered) == 2


def test_two_models_with_one_name_are_an_error_that_names_both(
    point: Point, module: Module
) -> None:
    points = [
        point("one", module("m1", models={"tiny": Path("a")}), "dist-one"),
        point("two", module("m2", models={"tiny": Path("b"), "other": Path("c")}), "dist-two"),
    ]
    plugins = load(points, ())
    with pytest.raises(
        PluginError,
        match=r"model 'tiny' is registered twice: by 'one' of dist-one 1\.0 and by 'two' of dist-two",
    ):
        _ = plugins.models["tiny"]
    assert plugins.models["other"] == Path("c")


def test_one_entry_point_name_in_two_distributions_breaks_nothing_but_names_that_clash(
    point: Point, module: Module
) -> None:
    one = module("m1", stages=[stage("a.a"), stage("c.c")])
    points = [
        point("same", one, "one", "1.0"),
        point("same", module("m2", stages=[stage("b.b"), stage("c.c")]), "two", "2.0"),
    ]
    plugins = load(points, ())
    assert plugins.get("stage", "a.a").distribution == "one"
    assert plugins.get("stage", "b.b").distribution == "two"
    with pytest.raises(PluginError, match=r"of one 1\.0 and by 'same' of two 2\.0; uninstall one$"):
        plugins.get("stage", "c.c")
    assert load(points, ["same"]).registered == {}
    # The same module in two distributions: whose it is cannot be known.
    plugins = load([point("a", one, "one"), point("b", one, "two")], ())
    assert plugins.failed == ()
    assert plugins.registered == {}
    assert len(plugins.clashes) == 2


@pytest.mark.parametrize("marked", [True, False])
def test_a_misspelt_hook_is_answered_with_the_nearest(point: Point, *, marked: bool) -> None:
    module = ModuleType("m")

    def nfilter_stage() -> list[type]:
        return []

    module.nfilter_stage = hookimpl(nfilter_stage) if marked else nfilter_stage  # type: ignore[attr-defined]
    (failed,) = load([point("m", module)], ()).failed
    assert failed.error == "no hook is called 'nfilter_stage'; did you mean 'nfilter_stages'?"


@pytest.mark.types("which is not passed; write def «»(«»)")
@pytest.mark.parametrize(
    ("hook", "argument", "writes"),
    [
        ("nfilter_run_started", "started", "nfilter_run_started(event)"),
        ("nfilter_stages", "config", "nfilter_stages()"),
    ],
)
def test_an_argument_that_a_hook_is_not_passed_is_named(
    point: Point, hook: str, argument: str, writes: str
) -> None:
    def loaded(signature: str) -> Plugins:
        module = ModuleType("m")
        code = f"@hookimpl\ndef {signature}: return []\n"
        exec(code, {"hookimpl": hookimpl}, vars(module))
        return load([point("m", module)], ())

    (failed,) = loaded(f"{hook}({argument})").failed
    assert failed.error == (
        f"{hook}: it has the argument {argument!r}, which is not passed; write def {writes}"
    )
    assert loaded(writes).failed == ()


def test_a_hook_without_its_mark_is_said(point: Point) -> None:
    module = ModuleType("m")
    module.nfilter_stages = lambda: [stage("m.x")]  # type: ignore[attr-defined]
    plugins = load([point("m", module)], ())
    (failed,) = plugins.failed
    assert failed.error == "nfilter_stages is not marked; write @nfilter.hookimpl above it"
    assert not plugins.registered


def test_names_that_only_look_like_hooks_do_no_harm(point: Point) -> None:
    module = ModuleType("m")
    module.nfilter_version = "1.0"  # type: ignore[attr-defined]
    assert load([point("m", module)], ()).failed == ()


def test_a_plugin_that_failed_registers_nothing_and_hears_nothing(
    point: Point, module: Module
) -> None:
    heard: list[Any] = []

    def raises() -> list[type]:
        raise RuntimeError("no backends today")

    def listens(event: RunStarted) -> None:
        heard.append(event)

    bad = module(
        "bad",
        stages=[stage("bad.x")],
        backends=raises,
        run_started=listens,
    )
    plugins = load([point("bad", bad)], ())
    assert plugins.registered == {}
    plugins.announce("nfilter_run_started", RunStarted("r", Path(), 0), heard.append)
    assert heard == []


def test_listeners_hear_events_in_order_and_what_one_raises_is_not_fatal(
    point: Point, module: Module
) -> None:
    heard: list[str] = []

    def fails(event: RunStarted) -> None:
        heard.append("a")
        raise RuntimeError("the listener's own fault")

    points = [
        point("c", module("c", run_started=lambda event: heard.append(f"c {event.name}")), "c"),
        point("a", module("a", run_started=fails), "a"),
        point("b", module("b", run_started=lambda: heard.append("b, which takes no event")), "b"),
    ]
    plugins = load(points, ())
    assert plugins.failed == ()
    complaints: list[str] = []
    plugins.announce("nfilter_run_started", RunStarted("name", Path(), 0), complaints.append)
    assert heard == ["a", "b, which takes no event", "c name"]
    assert complaints == [
        "plugin 'a' failed in nfilter_run_started: RuntimeError(\"the listener's own fault\")"
    ]
    plugins.announce("nfilter_run_finished", RunFinished("name", Path(), {}), complaints.append)
    assert len(heard) == 3


def test_a_listener_with_arguments_that_no_event_has_is_refused_at_loading(
    point: Point, module: Module
) -> None:
    (failed,) = load([point("m", module(run_started=lambda event, more: None))], ()).failed
    assert "more" in failed.error


# --- no list of built-ins ----------------------------------------------------------------------------------


def plugin_packages() -> set[str]:
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    groups = pyproject["project"]["entry-points"]
    # A package that brings commands alone has no hooks.
    commands = {target.partition(".")[0] for target in groups["nfilter.commands"].values()}
    return {*groups["nfilter"].values(), *commands}


def test_the_methods_of_nfilter_come_through_the_entry_points() -> None:
    assert plugin_packages() >= {
        path.name for path in (ROOT / "plugins").iterdir() if (path / "__init__.py").is_file()
    }


def test_the_core_names_no_plugin_module_anywhere() -> None:
    packages = plugin_packages() - set(vars(hookspecs))  # nfilter_metrics is a hook's name too
    files = sorted((ROOT / "nfilter").rglob("*.py"))
    assert len(files) > 20
    for file in files:
        text = file.read_text(encoding="utf-8")
        assert not [name for name in packages if re.search(rf"\b{name}\b", text)], file


def test_the_core_compares_with_no_stage_by_name() -> None:
    # Remedies may show `use: hf.lora`; no other text of the core is the name of a stage of ours.
    names = {item.name for item in plugins_module.load(block=()).of_kind("stage")}
    for file in sorted((ROOT / "nfilter").rglob("*.py")):
        texts = [
            node.value
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        ]
        assert not names & set(texts), file


def test_backends_are_found_by_name_and_no_other_kind_is() -> None:
    plugins = load(block=())
    assert plugins.imported_plugins == ()
    hf = plugins.backends["hf"]
    assert hf is plugins.get("backend", "hf").cls
    # Those that mention the name, and no more.
    assert "nfilter_io" not in plugins.imported_plugins
    assert plugins.backends.get("robustft.check") is None
    assert set(plugins.backends) >= {"hf", "litellm", "sglang", "vllm"}
    assert len(plugins.backends) == len(set(plugins.backends))
    assert load(block=["nfilter_hf"]).backends.get("hf") is None
