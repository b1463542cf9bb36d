"""The tests of a row as steps of a confined process; expected values stay outside of it.

``assert f(2) == 4`` is split: the process computes ``f(2)`` and never sees 4, so a program cannot claim a result that it did
not compute. Other assertions are evaluated inside the process, where a hostile program can make them pass.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from nfilter import JSON, ToolError

MOST_CHARACTERS = 200_000
_HINT = "the tests are a text of Python assertions, a list of them, or a list of {input: TEXT, output: TEXT}"


@dataclass(frozen=True, slots=True)
class Check:
    """One step: ``step`` is sent to the process, ``text`` is shown to people.

    ``kind``: ``equal``, the value equals ``expected``; ``same``, it is the constant ``expected`` (``is``); ``true``, it is
    true inside the process; ``printed``, the output equals ``expected``; ``setup``, not a test.
    """

    step: Mapping[str, JSON]
    kind: Literal["equal", "same", "true", "ran", "printed", "setup"]
    text: str
    expected: Any = None


def checks_of(tests: JSON) -> list[Check]:
    """Return the checks in a row's column of tests.

    Raises:
        ToolError: if there are none, or they are not Python.
    """
    if isinstance(tests, str):
        checks = _from_code(tests)
    elif isinstance(tests, Sequence) and tests and all(isinstance(each, str) for each in tests):
        checks = [check for each in tests for check in _from_code(str(each))]
    elif isinstance(tests, Sequence) and tests:
        checks = [_printed(each) for each in tests]
    else:
        raise ToolError(f"the row has no tests that can be read; {_HINT}")
    if all(check.kind == "setup" for check in checks):
        raise ToolError(f"the row's tests check nothing; {_HINT}")
    return checks


def _printed(case: JSON) -> Check:
    if not isinstance(case, Mapping) or not all(
        isinstance(case.get(key), str) for key in ("input", "output")
    ):
        raise ToolError(f"the row has no tests that can be read; {_HINT}")
    given, expected = str(case["input"]), str(case["output"])
    return Check({"kind": "stdio", "input": given}, "printed", f"input {given[:60]!r}", expected)


def _from_code(code: str) -> list[Check]:
    if len(code) > MOST_CHARACTERS:
        raise ToolError(f"the row's tests have {len(code)} characters, more than {MOST_CHARACTERS}")
    try:
        return [_check(statement) for statement in ast.parse(code).body]
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ToolError(f"the row's tests are no Python: {str(error)[:120]}; {_HINT}") from error


def _check(statement: ast.stmt) -> Check:
    text = ast.unparse(statement)
    if isinstance(statement, ast.Assert):
        return _assertion(statement.test)
    defines = isinstance(
        statement, ast.FunctionDef | ast.ClassDef | ast.Import | ast.ImportFrom | ast.Assign
    )
    holds = any(isinstance(node, ast.Assert) for node in ast.walk(statement))
    is_test = not defines and (holds or isinstance(statement, ast.Expr))
    return Check({"kind": "setup", "code": text}, "ran" if is_test else "setup", text)


def _assertion(test: ast.expr) -> Check:
    text = ast.unparse(test)
    if isinstance(test, ast.Compare) and len(test.ops) == 1:
        left, right = test.left, test.comparators[0]
        if isinstance(test.ops[0], ast.Eq):
            for asked, known in ((left, right), (right, left)):
                if _is_literal(known):
                    step = {"kind": "value", "code": ast.unparse(asked)}
                    return Check(step, "equal", text, ast.literal_eval(known))
        constant = isinstance(right, ast.Constant) and (
            right.value is None or isinstance(right.value, bool)
        )
        if isinstance(test.ops[0], ast.Is) and constant:
            step = {"kind": "value", "code": ast.unparse(left)}
            return Check(step, "same", text, ast.literal_eval(right))
    return Check({"kind": "value", "code": f"not not ({text})"}, "true", text, expected=True)


def _is_literal(node: ast.expr) -> bool:
    try:
        ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return False
    return True


def fault_of(check: Check, line: Mapping[str, Any] | None) -> str | None:
    """Return why ``check`` fails, given the line of the process; None if it passes."""
    if line is None:
        return "the program ended before this test"
    if "error" in line:
        return str(line["error"])[:300]
    if check.kind in ("setup", "ran"):
        return None if line.get("done") is True else "the program ended before this test"
    try:
        value = _read(line["value"])
        return None if _passes(check, value) else f"got {value!r}"[:300]
    except (KeyError, ValueError, TypeError, IndexError, RecursionError, OverflowError):
        return "the value cannot be read"


def _passes(check: Check, value: Any) -> bool:
    if check.kind == "printed":
        return isinstance(value, str) and _lines(value) == _lines(check.expected)
    if check.kind == "equal":
        return bool(value == check.expected)
    return value is check.expected


def _lines(text: str) -> list[str]:
    """Return printed text without white space at the ends of lines and of the text."""
    return [line.rstrip() for line in text.rstrip().splitlines()]


class _Other:
    """A value of another class than plain data; it equals nothing."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return f"an object of {self._name}"


_PLAIN: Mapping[str, Callable[[Any], Any]] = {
    "int": lambda held: int(held, 16),
    "float": float.fromhex,
    "complex": lambda held: complex(*map(float.fromhex, held)),
    "str": str,
    "bytes": bytes.fromhex,
}


def _read(value: Any) -> Any:
    """Read a value as ``confined`` writes it."""
    kind = value[0]
    if kind is None or isinstance(kind, bool):
        return kind
    held = value[1]
    if kind in _PLAIN:
        return _PLAIN[kind](held)
    if kind == "dict":
        return {_read(key): _read(item) for key, item in held}
    kinds: Mapping[str, Any] = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}
    return kinds[kind](map(_read, held)) if kind in kinds else _Other(str(held)[:60])
