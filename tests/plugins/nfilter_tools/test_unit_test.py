"""Programs against the tests of a row: what is judged right and wrong, what is counted, and who has to allow it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nfilter import Message, Sample, ToolCall, ToolError, ToolSite, answer_tool_call
from nfilter.testing import check_tool
from nfilter_tools import sandbox
from nfilter_tools.row_tests import checks_of
from nfilter_tools.sandbox import Limits, missing
from nfilter_tools.unit_test import UnitTest, UnitTestArgs, UnitTestConfig
from tests.plugins.nfilter_tools.programs import CASES, Case

CONFINED = missing(Limits(5, 256))
needs_linux = pytest.mark.skipif(CONFINED is not None, reason=str(CONFINED))
SITE = ToolSite(Path(), allow=frozenset({"programs"}))
ON = UnitTestConfig(allow=True, seconds=5)


def row(program: str, tests: Any) -> Sample:
    messages = (Message("user", "Write it."), Message("assistant", program))
    return Sample("r", messages, meta={"tests": tests})


def data(program: str, tests: Any, config: UnitTestConfig = ON) -> Any:
    return UnitTest(config, SITE).call(UnitTestArgs(), row(program, tests)).data


@needs_linux
def test_planted_wrong_programs_are_found_and_right_ones_are_not() -> None:
    """A program is flagged where its tests do not pass. Precision and recall over the planted programs are both 1."""
    flagged = {case.name: not data(case.program, case.tests)["passed"] for case in CASES}
    wrong = {case.name for case in CASES if case.wrong}
    found = {name for name, is_flagged in flagged.items() if is_flagged}
    hits = len(found & wrong)
    precision, recall = hits / len(found), hits / len(wrong)
    assert (len(wrong), len(CASES) - len(wrong)) == (24, 16)
    assert (precision, recall) == (1.0, 1.0), sorted(found ^ wrong)


@needs_linux
def test_an_answer_is_compared_outside_of_the_process() -> None:
    """A program that writes results itself, or makes everything equal, does not pass; what is judged inside is counted."""
    forged = 'import os\nfor n in range(3, 10):\n    try:\n        os.write(n, b\'{"value": ["int", "0x1"]}\\n\' * 9)\n    except OSError:\n        pass\nos._exit(0)'
    assert data(forged, ["assert f(2) == 4"])["tests_passed"] == 0
    equal = "class E:\n    def __eq__(self, other):\n        return True\ndef f(x):\n    return E()"
    assert data(equal, ["assert f(2) == 4", "assert f(3) == 9"])["tests_passed"] == 0
    # An assertion that is no comparison with a literal is computed inside, and that is said.
    told = data(equal, ["assert f(2) == f(1)", "assert f(2) == 4"])
    assert (told["judged_inside"], told["tests_passed"], told["tests"]) == (1, 1, 2)


@needs_linux
def test_the_result_says_what_failed() -> None:
    tool = UnitTest(ON, SITE)
    sample = row(
        "```python\ndef f(x):\n    return x + 1\n```", "assert f(1) == 2\nassert f(2) == 4, 'no'"
    )
    result = tool.call(UnitTestArgs(), sample)
    assert result.text == "1 of 2 tests pass\nfails: f(2) == 4: got 3"
    assert result.untrusted
    assert tool.call(UnitTestArgs(program="def f(x): return 2 * x"), sample).text.startswith(
        "2 of 2"
    )
    assert tool.call(UnitTestArgs(program="def f(x:"), sample).text.startswith(
        "0 of 2 tests pass\nthe program itself fails: SyntaxError"
    )
    same = check_tool(UnitTest, ON, SITE, {"program": "def f(x): return x + 1"}, sample)
    assert (same.text, same.data) == (result.text, result.data)


@needs_linux
def test_a_program_that_runs_too_long_is_ended() -> None:
    told = data(
        "while True:\n    pass", ["assert f(1) == 2"], UnitTestConfig(allow=True, seconds=0.5)
    )
    assert (told["passed"], told["ended"]) == (False, "time")


@pytest.mark.types(
    "unit_test runs programs of the data and is off; set allow: true",
    "no recipe can allow that; type --allow programs, or export NFILTER_ALLOW_PROGRAMS=1",
)
@needs_linux
def test_it_is_off_until_the_setting_and_a_person_allow_it(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Any] = []
    real = sandbox.subprocess.Popen
    monkeypatch.setattr(
        sandbox.subprocess, "Popen", lambda *a, **k: started.append(a) or real(*a, **k)
    )
    monkeypatch.delenv("NFILTER_ALLOW_PROGRAMS", raising=False)
    sample = row("def f(x): return x", ["assert f(1) == 1"])
    closed = ToolSite(Path())

    def told(config: UnitTestConfig, site: ToolSite) -> str:
        tool = {"unit_test": UnitTest(config, site)}
        return answer_tool_call(tool, ToolCall("unit_test", "{}"), sample).text

    assert "set allow: true where you trust its sandbox, and run with --allow programs" in told(UnitTestConfig(), SITE)  # fmt: skip
    assert "type --allow programs, or export NFILTER_ALLOW_PROGRAMS=1" in told(
        UnitTestConfig(allow=True), closed
    )
    assert any("export NFILTER_ALLOW_PROGRAMS=1" in text for text in UnitTest.problems(UnitTestConfig(allow=True), closed))  # fmt: skip
    monkeypatch.setenv("NFILTER_ALLOW_PROGRAMS", "1")
    assert "set allow: true" in told(UnitTestConfig(), closed)
    assert started == []
    assert told(UnitTestConfig(allow=True), closed) == "1 of 1 tests pass"
    assert len(started) == 1
    assert list(UnitTest.problems(UnitTestConfig(allow=True), closed)) == []


def test_where_a_protection_is_missing_nothing_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Each protection is taken away in turn: the process notices, says which one, and the program does not run."""
    script = Path(sandbox.__file__).with_name("confined.py").read_text()
    sample = row("def f(x): return x", ["assert f(1) == 1"])
    for gone, says in (
        ("        _landlock()\n", "a file can be read"),
        ("        _seccomp()\n", "a process can be started"),
        ("    version = _libc.syscall(create, None, 0, 1)\n", "the kernel has no Landlock"),
        ("    machine = platform.machine()\n", "no list of system calls for the processor vax"),
    ):
        assert gone in script
        put = {"    version": "    version = -1\n", "    machine": "    machine = 'vax'\n"}.get(
            gone[:11], ""
        )
        weak = tmp_path / "weak.py"
        weak.write_text(script.replace(gone, put))
        monkeypatch.setattr(sandbox, "_SCRIPT", weak)
        with pytest.raises(ToolError) as caught:
            UnitTest(ON, SITE).call(UnitTestArgs(), sample)
        assert says in str(caught.value)
        assert str(caught.value).endswith("nothing was run")
        assert says in next(iter(UnitTest.problems(ON, SITE)))
    monkeypatch.setattr(sandbox.sys, "platform", "darwin")
    with pytest.raises(
        ToolError, match="confined by the Linux kernel, and this is darwin; nothing"
    ):
        UnitTest(ON, SITE).call(UnitTestArgs(), sample)


@pytest.mark.parametrize(
    "tests", [None, "", [], 3, {}, "def t(): pass", "x = (", [{"input": 1}], ["1 = "], [3]]
)
def test_tests_that_cannot_be_read_are_said_so(tests: Any) -> None:
    with pytest.raises(ToolError, match=r"a list of \{input: TEXT, output: TEXT\}"):
        checks_of(tests)


def test_expected_values_are_not_among_the_steps() -> None:
    checks = checks_of(
        "import math\nassert f(2) == [1, {'a': -2.5}]\nassert 'xyz' == g()\nassert h() is None"
    )
    assert [check.kind for check in checks] == ["setup", "equal", "equal", "same"]
    assert [check.step["code"] for check in checks] == ["import math", "f(2)", "g()", "h()"]
    assert [check.expected for check in checks[1:]] == [[1, {"a": -2.5}], "xyz", None]
    assert "xyz" not in json.dumps([dict(check.step) for check in checks])


def test_the_cases_are_distinct() -> None:
    assert len({case.name for case in CASES}) == len(CASES)
    assert all(isinstance(case, Case) for case in CASES)
