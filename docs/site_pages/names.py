"""The reference page of the Python names: every public name with its signature, its docstring, its fields and its methods."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import is_dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Final, get_args, get_origin

from pydantic import BaseModel

from site_pages.markdown import code, paragraphs, prose, table

MODULES: Final = ("nfilter", "nfilter.testing")
INTRODUCTION: Final = "This page is made from the code of the installed version. Plugins import these names and no others of nfilter."


def names_page() -> str:
    """Return the page: a list of all names of a module, then an entry for each."""
    parts = ["# Python names", INTRODUCTION]
    anchors: Counter[str] = Counter()
    for module in MODULES:
        found = importlib.import_module(module)
        origins = _origins(found)
        rows, entries = [], []
        for name in sorted(found.__all__):
            value = getattr(found, name)
            text = doc_of(name, value, origins[name])
            anchor = name.lower()
            number = anchors[anchor]
            anchors[anchor] += 1
            rows.append(
                (
                    f"[{code(name)}](#{anchor}{f'_{number}' if number else ''})",
                    prose(" ".join(text.split("\n\n")[0].split())),
                )
            )
            entries += [
                f"### {name}",
                *_shown(name, value, origins[name]),
                paragraphs(text),
                *_members(value),
            ]
        parts += [f"## {module}", table(("name", "what it is"), rows), *entries]
    return "\n\n".join(part for part in parts if part) + "\n"


def doc_of(name: str, value: Any, origin: str) -> str:
    """Return the docstring of a public name; of a value that has none of its own, the string that follows its assignment."""
    if inspect.isclass(value) or inspect.isroutine(value):
        return inspect.getdoc(value) or ""
    described = [each.description for each in get_args(value) if getattr(each, "description", None)]
    return _assigned(origin).get(name, ("", ""))[1] or " ".join(described)


def _origins(module: Any) -> dict[str, str]:
    """Return the name of the defining module of every public name."""
    stub = Path(str(module.__file__)).with_suffix(".pyi")
    text = (stub if stub.is_file() else Path(str(module.__file__))).read_text(encoding="utf-8")
    found = {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.ImportFrom):
            base = module.__name__ + "." if node.level else ""
            for each in node.names:
                found[each.asname or each.name] = base + (node.module or "")
    return found


@lru_cache
def _assigned(module: str) -> dict[str, tuple[str, str]]:
    """Return, for each name that a module assigns a value, the source of the value and the string after it."""
    source = inspect.getsource(importlib.import_module(module))
    body = ast.parse(source).body
    found = {}
    for node, after in zip(body, [*body[1:], None], strict=True):
        if isinstance(node, ast.Assign):
            target, value = node.targets[0], node.value
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            target, value = node.target, node.value
        else:
            continue
        if isinstance(target, ast.Name):
            text = ""
            if (
                isinstance(after, ast.Expr)
                and isinstance(after.value, ast.Constant)
                and isinstance(after.value.value, str)
            ):
                text = inspect.cleandoc(after.value.value)
            found[target.id] = (ast.unparse(value), text)
    return found


def _shown(name: str, value: Any, origin: str) -> Iterator[str]:
    """Yield the signature of a function or a class, or the value of a constant."""
    assigned = _assigned(origin).get(name)
    if assigned is not None:
        called = isinstance(value, tuple | frozenset) and "(" in assigned[0]
        yield f"```python\n{name} = {value if called else assigned[0]!s}\n```"
    elif inspect.isclass(value):
        kind = "protocol" if getattr(value, "_is_protocol", False) else "class"
        bases = [base.__name__ for base in value.__bases__ if base.__module__.startswith("nfilter")]
        yield f"A {kind}{', a kind of ' + ', '.join(map(code, bases)) if bases else ''}."
        signature = _signature(value)
        if kind == "class" and signature not in {"", "()", "(*args, **kwargs)"}:
            yield f"```python\n{name}{signature}\n```"
    elif (signature := _signature(value)) != "":
        yield f"```python\n{name}{signature}\n```"


def _signature(value: Any) -> str:
    """Return the signature of a callable as text, one line per parameter if it is long; empty if there is none."""
    if inspect.isclass(value) and (
        issubclass(value, BaseModel)
        or (issubclass(value, BaseException) and not is_dataclass(value))
    ):
        return ""
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError):
        return ""
    text = _annotations(str(signature))
    if len(text) <= 100:
        return text
    parts = [_annotations(str(each)) for each in signature.parameters.values()]
    returned = text[text.rindex(")") + 1 :] if ") -> " in text else ""
    if ") -> " in text:
        returned = " -> " + text.rpartition(") -> ")[2]
    return "(\n" + "".join(f"    {part},\n" for part in parts) + ")" + returned


def _annotations(text: str) -> str:
    """Return a signature whose annotations are as in the source: they are strings at run time."""
    text = re.sub(r"(: |-> )'([^']*)'", r"\1\2", text)
    text = re.sub(r"<factory>|<object object at 0x[0-9a-f]+>", "...", text)
    return re.sub(
        r"<function (?:\w+\.)*<lambda> at 0x[0-9a-f]+>|<function (\w+) at 0x[0-9a-f]+>", r"\1", text
    )


def _members(value: Any) -> Iterator[str]:
    """Yield the fields of a class without own signature, and its public methods and properties."""
    if not inspect.isclass(value):
        return
    yield table(("field", "type", "default", "what it is"), _fields(value))
    for name, member in vars(value).items():
        if name.startswith("_") and not _builds(value, name):
            continue
        function = getattr(member, "__func__", member)
        if isinstance(member, property):
            kind = getattr(member.fget, "__annotations__", {}).get("return", "")
            yield f"- `.{name}: {kind}`: {_line(member)}".removesuffix(": ")
        elif inspect.isfunction(function):
            mark = "@classmethod " if isinstance(member, classmethod) else ""
            shown = " ".join(_signature(function).split())
            yield f"- `{mark}.{name}{shown}`: {_line(function)}".removesuffix(": ")


def _builds(value: type, name: str) -> bool:
    """Return whether the method is the constructor that a protocol asks for."""
    own = getattr(vars(value).get(name), "__qualname__", "") == f"{value.__qualname__}.__init__"
    return name == "__init__" and own and getattr(value, "_is_protocol", False)


def _line(member: Any) -> str:
    text = inspect.getdoc(member) or ""
    return prose(" ".join(text.split()))


def _fields(value: type) -> Sequence[Sequence[str]]:
    if issubclass(value, BaseModel):
        return [
            (
                code(name),
                code(_type(each.annotation)),
                _default(each),
                prose(each.description or ""),
            )
            for name, each in value.model_fields.items()
        ]
    if getattr(value, "_is_protocol", False):
        notes = inspect.get_annotations(value)
        return [
            (code(name), code(str(kind)), "", "") for name, kind in notes.items() if name[0] != "_"
        ]
    return []


def _type(annotation: Any) -> str:
    if get_origin(annotation) is Annotated:
        return _type(get_args(annotation)[0])
    return str(getattr(annotation, "__name__", annotation))


def _default(info: Any) -> str:
    return (
        "required"
        if info.is_required()
        else code(repr(info.get_default(call_default_factory=True)))
    )
