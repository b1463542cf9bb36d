"""What is said of plugin classes that cannot be used: all faults at once, each with what to write, and nothing else breaks."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from pydantic import BaseModel

from nfilter import Contract, Sample, StageConfig, ToolArgs
from nfilter.api.hookspecs import REGISTRATIONS
from nfilter.registry.loading import load
from nfilter.registry.registration import KINDS, class_faults

Point = Callable[..., Any]
Module = Callable[..., ModuleType]


class ShortConfig(StageConfig):
    """A setting."""

    least: int = 3


class Short:
    """A stage as CONTRIBUTING shows one."""

    name = "my_plugin.short"
    Config = ShortConfig

    @classmethod
    def contract(cls, config: ShortConfig) -> Contract:
        return Contract()

    def __init__(self, config: ShortConfig) -> None:
        self.config = config

    def process(self, chunk: Any, state: Any, ctx: Any) -> list[Sample]:
        return list(chunk)


class PlainConfig(BaseModel):
    """No StageConfig."""


def _without(member: str) -> type:
    members = {key: value for key, value in vars(Short).items() if key not in (member, "__dict__")}
    return type("Short", (), members)


def _with(**members: Any) -> type:
    return type("Short", (Short,), members)


async def _async_process(self: Any, chunk: Any, state: Any, ctx: Any) -> Any:
    return chunk


SLIPS = [
    (_without("contract"), "it has no method contract; write @classmethod def contract(cls, config)"),
    (_without("Config"), "it has no Config; write class MyConfig(nfilter.StageConfig) with its settings"),
    (_without("process"), "it has no method that does its work; write def process(self, chunk, state, ctx) or def process_tokens"),
    (_without("__init__"), "nfilter builds it as Short(config), and it does not take that; write def __init__(self, config)"),
    (_without("name"), "it has no name; write name = 'my_plugin.short' in the class"),
    (_with(name="short"), "the name of a stage has the form plugin.stage, and 'short' has not; write name = 'my_plugin.short'"),
    (_with(name="my plugin.short"), "the name of a stage has the form plugin.stage"),
    (_with(name=3), "its name is 3, which is no text; write name = 'my_plugin.short'"),
    (_with(name=["a.b"]), "its name is ['a.b'], which is no text"),
    (_with(Config=PlainConfig), "its Config, PlainConfig, is no StageConfig; write class PlainConfig(nfilter.StageConfig)"),
    (_with(Config=ShortConfig()), "which is no class; write Config = ShortConfig"),
    (_with(Config=dict), "its Config, dict, is no StageConfig"),
    (_with(contract=lambda self, config: Contract()), "contract(self, config) is called on the class; write @classmethod above it"),
    (_with(contract=classmethod(lambda cls: Contract())), "it has contract(), and nfilter calls @classmethod def contract(cls, config)"),
    (_with(contract=Contract()), "its contract is Contract, not a method"),
    (_with(process=lambda self, chunk: chunk), "it has process(self, chunk), and nfilter calls def process(self, chunk, state, ctx)"),
    (_with(process=_async_process), "its process is async, and nfilter calls plain functions"),
    (_with(process_tokens=lambda self, chunk, state, ctx: chunk), "nfilter calls def process_tokens(self, chunk, state, ctx, bit)"),
    (_with(fit=lambda self, stream: None), "nfilter calls def fit(self, stream, ctx)"),
    (_with(Config=type("C", (StageConfig,), {"__annotations__": {"use": str}})), "its Config has a setting 'use', a key that recipes use"),
    (_with(Config=type("C", (StageConfig,), {"__annotations__": {"skip": bool}})), "its Config has a setting 'skip'"),
    (Short(ShortConfig()), "is no class; return the class itself, Short, not Short(...)"),
    ("my_plugin.short", "'my_plugin.short' is no class; return classes, like (MyStage,)"),
]  # fmt: skip


def test_a_complete_class_has_no_fault() -> None:
    assert class_faults("stage", Short, "my_plugin") == []
    loose = _with(
        process=lambda self, *args, **more: args[0],
        contract=staticmethod(lambda config: Contract()),
    )
    assert class_faults("stage", loose, "my_plugin") == []


@pytest.mark.parametrize(("cls", "says"), SLIPS, ids=range(len(SLIPS)))
def test_each_slip_is_said_with_its_remedy(
    point: Point, module: Module, cls: Any, says: str
) -> None:
    good = module("good", stages=[_with(name="good.stage")])
    plugins = load(
        [point("my_plugin", module(stages=[cls]), "my-dist"), point("good", good, "good-dist")], ()
    )
    (failed,) = plugins.failed
    assert (failed.plugin, failed.distribution) == ("my_plugin", "my-dist")
    assert says in failed.error
    assert failed.error.count("nfilter_stages: ") == 1
    assert plugins.get("stage", "good.stage")
    assert [item.name for item in plugins.of_kind("stage")] == ["good.stage"]


def test_all_faults_of_a_plugin_are_said_at_once(point: Point, module: Module) -> None:
    bad = type("Bad", (), {"name": "bad"})
    faulty = module(
        stages=[bad, Short], metrics=[type("Empty", (), {"name": "empty"})], sources=[3]
    )
    (failed,) = load([point("m", faulty)], ()).failed
    lines = failed.error.splitlines()
    assert lines[0] == "its classes cannot be used:"
    where = f"{bad.__module__}."
    assert [line.strip().split("; write")[0] for line in lines[1:]] == [
        f"nfilter_stages: {where}Bad: the name of a stage has the form plugin.stage, and 'bad' has not",
        f"nfilter_stages: {where}Bad: it has no Config",
        f"nfilter_stages: {where}Bad: nfilter builds it as Bad(config), and it does not take that",
        f"nfilter_stages: {where}Bad: it has no method contract",
        f"nfilter_stages: {where}Bad: it has no method that does its work",
        "nfilter_sources: 3 is no class; return classes, like (MyStage,)",
        f"nfilter_metrics: {where}Empty: it has no method that does its work",
    ]


@pytest.mark.parametrize(
    ("hook", "value", "says"),
    [
        ("stages", lambda: Short, "nfilter_stages: it returns the class Short; write return (Short,)"),
        ("stages", lambda: None, "nfilter_stages: it returns None, not classes"),
        ("prompts", ["prompts"], "nfilter_prompts: 'prompts' is no pathlib.Path; write Path('prompts')"),
        ("prompts", "prompts", "nfilter_prompts: it returns 'prompts', not folders"),
        ("recipes", [3], "nfilter_recipes: 3 is no pathlib.Path"),
        ("models", {"tiny": "folder"}, "nfilter_models: it returns {'tiny': 'folder'}; write return {'name': Path(...)}"),
        ("stages", [Short, _with()], "stage 'my_plugin.short' is registered twice by this plugin itself"),
    ],
)  # fmt: skip
def test_what_a_hook_returns_is_checked(
    point: Point, module: Module, hook: str, value: Any, says: str
) -> None:
    (failed,) = load([point("m", module(**{hook: value}))], ()).failed
    assert says in failed.error


@pytest.mark.types(
    "no method that does its work; write",
    "it has no name; write",
    "it has no Config; write",
    "it has no method «»; write",
    "its cost is «»; write",
    "which is no ToolArgs; write",
)
@pytest.mark.parametrize("kind", list(KINDS))
def test_a_remedy_that_is_typed_mends_the_fault(kind: str) -> None:
    """A class that has what the faults of an empty one say to write, and nothing else, has no fault."""
    text = "class Made:\n    pass\n"
    scope: dict[str, Any] = {"StageConfig": StageConfig, "ToolArgs": ToolArgs}
    exec(text, scope)
    for _ in range(3):
        faults = class_faults(kind, scope["Made"], "my_plugin")
        lines = []
        for fault in faults:
            written = fault.split("; write ")[1].split(" or ")[0].removesuffix(" in the class")
            if written.startswith("class MyConfig"):
                lines += ["class MyConfig(StageConfig): ...", "Config = MyConfig"]
            elif written.startswith("class MyArgs"):
                lines += ["class MyArgs(ToolArgs): ...", "Args = MyArgs"]
            elif "def " in written:
                mark, _, function = written.rpartition("def ")
                lines += (
                    [mark.strip(), f"def {function}: ..."] if mark else [f"def {function}: ..."]
                )
            else:
                lines.append(written.split(",")[0])
        text += "".join(f"    {line}\n" for line in lines)
        exec(text, scope)
    assert class_faults(kind, scope["Made"], "my_plugin") == []


def test_every_kind_that_is_registered_is_checked() -> None:
    assert set(KINDS) == set(REGISTRATIONS.values())
    assert class_faults("metric", type("M", (), {"name": "samples"}), "mine")[0].endswith(
        "call the metric otherwise, like mine_samples"
    )
