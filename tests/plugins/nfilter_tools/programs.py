"""Programs with tests: right ones, wrong ones with a planted fault each, and wrong ones that try to pass all the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Case:
    """A program, its tests, and whether it is wrong."""

    name: str
    program: str
    tests: Any
    wrong: bool


# name: a right program, its tests, and wrong variants as (what is replaced, by what).
TASKS: dict[str, tuple[str, Any, list[tuple[str, str]]]] = {
    "prime": (
        "def f(n):\n    return n > 1 and all(n % d for d in range(2, int(n ** 0.5) + 1))",
        ["assert f(2) is True", "assert f(9) == False", "assert not f(1)", "assert f(97)"],
        [("+ 1", "+ 0"), ("n > 1", "n > 0")],
    ),
    "fibonacci": (
        "def f(n):\n    a, b = 0, 1\n    for _ in range(n):\n        a, b = b, a + b\n    return a",
        "assert f(0) == 0\nassert f(1) == 1\nassert f(90) == 2880067194370816120",
        [("range(n)", "range(n + 1)"), ("a + b", "a - b")],
    ),
    "sorting": (
        "def f(x):\n    return sorted(x, key=lambda v: (-v[1], v[0]))",
        ["assert f([('b', 1), ('a', 1), ('c', 2)]) == [('c', 2), ('a', 1), ('b', 1)]"],
        [("-v[1]", "v[1]"), ("(-v[1], v[0])", "-v[1]")],
    ),
    "merge": (
        "def f(a, b):\n    return {**a, **b}",
        ["assert f({'x': 1}, {'x': 2, 'y': None}) == {'x': 2, 'y': None}", "assert f({}, {}) == {}"],
        [("{**a, **b}", "{**b, **a}")],
    ),
    "words": (
        "from collections import Counter\ndef f(s):\n    return Counter(s.lower().split())",
        ["assert f('A a b') == {'a': 2, 'b': 1}", "assert f('') == {}"],
        [(".lower()", ""), (".split()", "")],
    ),
    "mean": (
        "def f(x):\n    return sum(x) / len(x) if x else 0.0",
        "import math\nassert math.isclose(f([1, 2, 4]), 7 / 3)\nassert f([]) == 0",
        [(" if x else 0.0", ""), ("sum(x) /", "sum(x) //")],
    ),
    "reverse": (
        "print(input()[::-1])",
        [{"input": "abc\n", "output": "cba\n"}, {"input": "ab c", "output": "c ba"}],
        [("[::-1]", ""), ("print(", "print('>', ")],
    ),
    "sums": (
        "import sys\nfor line in sys.stdin:\n    print(sum(map(int, line.split())))",
        [{"input": "1 2\n3 4\n", "output": "3\n7"}, {"input": "", "output": ""}],
        [("int,", "lambda v: int(v) + 1,")],
    ),
    "checked": (
        "def add(a, b):\n    return a + b",
        "def check(g):\n    assert g(1, 2) == 3\n    assert g('a', 'b') == 'ab'\n\ncheck(add)",
        [("a + b", "b + a")],
    ),
    "set": (
        "def f(x):\n    return {v for v in x if x.count(v) > 1}",
        ["assert f([1, 1, 2]) == {1}", "assert f([]) == set()"],
        [("> 1", ">= 1")],
    ),
}  # fmt: skip

RIGHT_TOO = {
    "prints": ("def f(x):\n    print('noise' * 100)\n    return x", ["assert f(1) == 1"]),
    "main": ("def f(x):\n    return x\nif __name__ == '__main__':\n    raise SystemExit(3)", ["assert f(1) == 1"]),
    "big": ("def f(n):\n    return 7 ** n", ["assert f(1000) % 10 ** 6 == 7 ** 1000 % 10 ** 6", "assert f(3) == 343"]),
    "float": ("def f():\n    return 0.1 + 0.2", ["assert f() == 0.30000000000000004", "assert f() != 0.3"]),
    "library": ("import json, re, math, decimal, hashlib\ndef f():\n    return hashlib.sha256(b'').hexdigest()[:8]", ["assert f() == 'e3b0c442'"]),
    "raises": ("def f(x):\n    raise ValueError(x)", ["try:\n    f(1)\n    assert False\nexcept ValueError:\n    pass"]),
}  # fmt: skip

# None of these does the task, f(x) = x + 1; each tries to look as if it did.
CHEATS = {
    "exits": "import sys\nsys.exit(0)",
    "exits at once": "import os\nos._exit(0)",
    "exits in the call": "import os\ndef f(x):\n    os._exit(0)",
    "says that it passes": "print('2 of 2 tests pass')\ndef f(x):\n    return None",
    "equals everything": "class E:\n    __eq__ = lambda s, o: True\n    __hash__ = None\ndef f(x):\n    return E()",
    "number that equals everything": "class E(int):\n    __eq__ = lambda s, o: True\n    __hash__ = None\ndef f(x):\n    return E(0)",
    "does not end": "def f(x):\n    while True:\n        pass",
    "is no Python": "def f(x)\n    return x + 1",
}

CASES = [
    *(Case(name, program, tests, wrong=False) for name, (program, tests, _) in TASKS.items()),
    *(Case(name, program, tests, wrong=False) for name, (program, tests) in RIGHT_TOO.items()),
    *(
        Case(f"{name}: {old} to {new}", program.replace(old, new), tests, wrong=True)
        for name, (program, tests, changes) in TASKS.items()
        for old, new in changes
    ),
    *(Case(name, text, ["assert f(1) == 2", "assert f(5) == 6"], wrong=True) for name, text in CHEATS.items()),
]  # fmt: skip
