"""Plugins made by a test, in the form in which the registry finds them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any


@dataclass(frozen=True)
class FakePoint:
    """An entry point with the attributes that the registry uses."""

    name: str
    module: Any
    dist: Any
    value: str = "fake"

    def load(self) -> Any:
        if isinstance(self.module, BaseException):
            raise self.module
        return self.module() if callable(self.module) else self.module


def make_point(name: str, module: Any, dist: str = "dist", version: str = "1.0") -> FakePoint:
    """Return an entry point; ``module`` is a module, an exception to raise, or a function to call."""
    return FakePoint(name, module, SimpleNamespace(name=dist, version=version))


def make_module(name: str = "fake", **hooks: Any) -> ModuleType:
    """Return a plugin module: ``stages=[A, B]`` becomes the hook ``nfilter_stages``; a function is used as the hook."""
    from nfilter import hookimpl

    module = ModuleType(name)
    for hook, value in hooks.items():
        function = value if callable(value) else _without_arguments(value)
        setattr(module, f"nfilter_{hook}", hookimpl(function))
    return module


def _without_arguments(value: Any) -> Callable[[], Any]:
    def registered() -> Any:
        return value

    return registered
