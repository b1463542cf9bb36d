"""``unit_test``: a candidate program against the row's tests, in a confined process."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest
from typing import Any, ClassVar

from pydantic import Field

from nfilter import Sample, StageConfig, ToolArgs, ToolCost, ToolError, ToolResult, ToolSite
from nfilter_tools.row_tests import Check, checks_of, fault_of
from nfilter_tools.sandbox import Limits, Outcome, missing, run_confined

_BLOCK = re.compile(r"^```[ \t]*(?:python|py)?[ \t]*\n(.*?)^```", re.DOTALL | re.MULTILINE)
MOST_PROGRAM = 100_000
_SHOWN = 10


class UnitTestConfig(StageConfig):
    """Settings of ``unit_test``. A recipe alone cannot run programs: the environment has to allow it too."""

    allow: bool = Field(
        default=False,
        description="Whether programs of the data may run; a person has to allow it too: --allow programs, or NFILTER_ALLOW_PROGRAMS=1.",
    )
    column: str = Field(default="tests", description="The column of the row that holds its tests.")
    seconds: float = Field(default=5.0, gt=0, le=60, description="Seconds per program, up to 60.")
    memory: int = Field(
        default=256, ge=64, le=4096, description="MiB of address space per program, 64 to 4096."
    )


class UnitTestArgs(ToolArgs):
    """One program."""

    program: str | None = Field(
        default=None,
        max_length=MOST_PROGRAM,
        description="Python source that defines what the tests use; null for the row's own response.",
    )


class UnitTest:
    """Runs a Python program against the row's tests in a process without files, network, other processes or environment.

    It is off unless ``allow: true`` is set and a person allows it (``--allow programs``, or NFILTER_ALLOW_PROGRAMS=1). Programs may
    import only Python's standard library. Expected values of ``assert CALL == VALUE`` and of printed output stay outside of the
    process.
    """

    name: ClassVar[str] = "unit_test"
    description: ClassVar[str] = (
        "Runs a Python program against the tests of this row and says which fail. It has no network, no files and "
        "little time and memory."
    )
    cost: ClassVar[ToolCost] = "local"
    Config: ClassVar[type[StageConfig]] = UnitTestConfig
    Args: ClassVar[type[ToolArgs]] = UnitTestArgs

    @classmethod
    def reads(cls, config: UnitTestConfig) -> frozenset[str]:
        """Return what the tool reads: the row with its response and tests."""
        return frozenset({"row"})

    @classmethod
    def problems(cls, config: UnitTestConfig, site: ToolSite) -> Iterable[str]:
        """Report what forbids the tool, and what is missing to confine a program."""
        forbidden = list(_forbidden(config, site))
        yield from forbidden
        if not forbidden and (why := missing(_limits(config))) is not None:
            yield f"unit_test: {why}"

    def __init__(self, config: UnitTestConfig, site: ToolSite) -> None:
        self._config = config
        self._site = site

    def call(self, args: UnitTestArgs, row: Sample | None) -> ToolResult:
        """Return how many tests pass, and the results of the first failing ones.

        Raises:
            ToolError: if programs are not allowed or cannot be confined (nothing was run), or the row has no tests.
        """
        for text in _forbidden(self._config, self._site):
            raise ToolError(text)
        if row is None:
            raise ToolError("there is no row, and so there are no tests")
        checks = checks_of(row.meta.get(self._config.column))
        program = _code(row.response) if args.program is None else args.program
        stdio = any(check.kind == "printed" for check in checks)
        first: list[Mapping[str, Any]] = [] if stdio else [{"kind": "program"}]
        outcome = run_confined(
            program, [*first, *(check.step for check in checks)], _limits(self._config)
        )
        return _result(checks, outcome, len(first))


def _forbidden(config: UnitTestConfig, site: ToolSite) -> Iterable[str]:
    if not config.allow:
        yield (
            "unit_test runs programs of the data and is off; set allow: true where you trust its sandbox, and run with "
            "--allow programs"
        )
    elif not site.allows("programs"):
        yield (
            "unit_test runs programs of the data, and no recipe can allow that; type --allow programs, or export NFILTER_ALLOW_PROGRAMS=1"
        )


def _limits(config: UnitTestConfig) -> Limits:
    return Limits(config.seconds, config.memory)


def _code(response: str) -> str:
    """Return the program in a response: its code blocks, else the whole text."""
    blocks = _BLOCK.findall(response)
    return "\n".join(blocks) if blocks else response


def _result(checks: Sequence[Check], outcome: Outcome, first: int) -> ToolResult:
    lines = list(outcome.lines)
    broken = str(lines[0]["error"])[:300] if first and lines and "error" in lines[0] else None
    faults: list[tuple[str, str]] = []
    total = passed = inside = 0
    for check, line in zip_longest(checks, lines[first : first + len(checks)]):
        fault = broken or fault_of(check, line)
        if check.kind == "setup":
            if fault is not None and broken is None:
                faults.append((check.text, fault))
            continue
        total += 1
        inside += check.kind in ("true", "ran")
        passed += fault is None
        if fault is not None:
            faults.append((check.text, fault))
    clean = not faults and outcome.ended == "done"
    data = {
        "passed": clean,
        "tests": total,
        "tests_passed": passed,
        "judged_inside": inside,
        "ended": outcome.ended,
        "network_namespace": outcome.network_namespace,
    }
    return ToolResult("\n".join(_told(faults, broken, passed, total, outcome.ended)), data)


def _told(
    faults: list[tuple[str, str]], broken: str | None, passed: int, total: int, ended: str
) -> Iterable[str]:
    yield f"{passed} of {total} tests pass"
    if ended != "done":
        yield f"the program was ended at its limit of {ended}"
    if broken is not None:
        yield f"the program itself fails: {broken}"
        return
    for text, fault in faults[:_SHOWN]:
        yield f"fails: {text[:200]}: {fault}"
    if len(faults) > _SHOWN:
        yield f"and {len(faults) - _SHOWN} more"
