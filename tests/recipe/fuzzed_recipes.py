"""Hostile recipes by number: a shipped recipe, mutated in its values, in its text, or by what ``--set`` says."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

SHIPPED = sorted((Path(__file__).resolve().parents[2] / "nfilter" / "recipes").glob("*.yaml"))

_NINES = "9" * 5000
HOSTILE = (
    # numbers that Python takes long for, refuses to print or to hold
    _NINES, "-" + _NINES, "0x" + "f" * 6000, "0o" + "7" * 9000, "0b" + "1" * 20000, "1" + ":59" * 4000, "1:59.5" * 3,
    "1" + ":59" * 4000 + ".5", "1e400", "-1e400", "1e-400", "." + _NINES, _NINES + ".0", "1_000_" + _NINES, "0x", "0b", "0o8",
    "0x_", "1__0", "_1", "+0", "-0.0", ".inf", "-.inf", ".nan", "9223372036854775808", "1e308", "2147483648", "-1", "0",
    # other types
    "null", "~", "true", "yes", "off", "[]", "{}", "[[]]", "[null]", "{null: null}", "{1: 2}", "{true: x}", "{[a]: b}",
    "? [a]\n: b", "2001-01-01", "2001-01-01 00:00:00", "=", "<<", "{<<: {a: 1}}", "!!python/name:os.system x", "!!int x",
    "!!binary aGk=", "!!set {a}", "!!float nan", "!x y", "&a [1]", "*a", "&a [*a]", "%", "%YAML 9.9", "---", "...", "@", "`",
    # text
    "''", "' '", r'"\0"', r'"\ud800"', r'"\uD83D\uDE00"', r'"\U00110000"', r'"\x1b[31m"', r'"a\nb"', r'"\u202e"', "'" + "a" * 5000 + "'",
    "'/'", "'..'", "'../../../x'", "'~'", "'~nobody/x'", "'/dev/null'", "'/proc/self/mem'", "'a/'", "'.'", "con", "'%s'",
    "'{0}'", "'{x}'", "'${HOME}'", "'[link=x]'", "'\\'", "é", "٣", "１２", "½", "∞", "x: y: z", "a: [b", "{a", "a}", "]", ",",
    "- - - x", "[" * 50 + "]" * 50, "{a: " * 50 + "}" * 50, "[" * 3000, "{a: " * 3000,
    "http://[", "http://x:99999/", "http://[::1", "'http://a b/'", "file:///etc/passwd", "x@y:z",
)  # fmt: skip
_FINE = tuple(text for text in HOSTILE if len(text) < 300 and text[0] not in "&*!%@`{}[]?-")
"""Most of those that YAML can read, so that what reads the values after it is reached too."""

KEYS = (
    "", "use", "path", "noise", "ratio", "model", "models", "student", "samples", "lock", "base_dir", "seed", "name", "0", "-1", "1e9",
    "answer", "kind", "units", "columns", "budget", "usd", "evaluate", "source", "loss", "with", "from", "train", "skip",
    "__class__", "<<", "=", "null", "[", "]", "x.y", _NINES, "\u0663", "a b",
)  # fmt: skip


@dataclass(frozen=True)
class Hostile:
    """The text of a recipe, or its bytes where it is none, and what is given with ``--set``."""

    data: bytes
    assignments: tuple[str, ...]


def hostile(number: int) -> Hostile:
    """The recipe of that number; the same number gives the same recipe."""
    rng = random.Random(number)
    text = rng.choice(SHIPPED).read_text(encoding="utf-8")
    for _ in range(rng.randint(0, 3)):
        text = rng.choice((_in_values, _in_values, _in_lines, _in_characters))(text, rng)
    data = text.encode("utf-8", "surrogatepass")
    if rng.random() < 0.05:
        at = rng.randrange(len(data) + 1)
        data = data[:at] + rng.randbytes(rng.randint(1, 4)) + data[at:]
    sets = rng.choice((0, 0, 0, 1, 1, 2))
    return Hostile(data, tuple(_assignment(text, rng) for _ in range(sets)))


def _in_values(text: str, rng: random.Random) -> str:
    """One value is replaced, or one key is added, where YAML can still read the text."""
    try:
        value = yaml.safe_load(text)
    except Exception:  # noqa: BLE001 (what is broken already is broken further)
        return _in_lines(text, rng)
    places = list(_places(value))
    if not places:
        return rng.choice(HOSTILE)
    holder, key = rng.choice(places)
    mark = "HOSTILE-VALUE"
    if isinstance(holder, dict) and rng.random() < 0.25:
        holder[rng.choice(KEYS)] = mark
    elif rng.random() < 0.1:
        del holder[key]
    else:
        holder[key] = mark
    try:
        text = yaml.safe_dump(value, sort_keys=False, default_flow_style=None, allow_unicode=True)
    except ValueError:  # a number of an earlier mutation that Python does not print
        return _in_lines(text, rng)
    return text.replace(mark, rng.choice(_FINE if rng.random() < 0.6 else HOSTILE))


def _places(value: Any, depth: int = 0) -> Iterator[tuple[Any, Any]]:
    items: Any = ()
    if depth < 40:  # an alias may lead back to what it is in
        items = (
            value.items()
            if isinstance(value, dict)
            else enumerate(value)
            if isinstance(value, list)
            else ()
        )
    for key, item in list(items):
        yield value, key
        yield from _places(item, depth + 1)


def _in_lines(text: str, rng: random.Random) -> str:
    lines = text.split("\n")
    at = rng.randrange(len(lines))
    kind = rng.randrange(5)
    if kind == 0:
        lines.insert(at, rng.choice(lines))
    elif kind == 1:
        del lines[at]
    elif kind == 2:
        lines[at] = " " * rng.randint(1, 4) + lines[at]
    elif kind == 3:
        lines.insert(at, f"{rng.choice(KEYS)}: {rng.choice(HOSTILE)}")
    else:
        lines[at] = lines[at].partition(":")[0] + ": " + rng.choice(HOSTILE)
    return "\n".join(lines)


def _in_characters(text: str, rng: random.Random) -> str:
    at = rng.randrange(len(text) + 1)
    piece = rng.choice(
        (*"{}[]:,-#&*!|>'\"%@`?\t\r\x00\x07\x85\u2028\ufeff\ud800", rng.choice(HOSTILE))
    )
    return text[:at] + piece + text[at + rng.choice((0, 0, 1, 5)) :]


def _assignment(text: str, rng: random.Random) -> str:
    steps = []
    try:
        value = yaml.safe_load(text)
    except Exception:  # noqa: BLE001 (as above)
        value = {}
    while isinstance(value, dict | list) and value and rng.random() < 0.8:
        key = rng.choice(list(value)) if isinstance(value, dict) else rng.randrange(len(value))
        steps.append(str(key))
        value = value[key]
    if rng.random() < 0.4:
        steps.append(rng.choice(KEYS))
    if rng.random() < 0.05:
        steps += ["a"] * rng.choice((40, 2000))
    path = rng.choice((".", ".", "..", "[", "].")).join(steps)
    return path + rng.choice(("=", "=", "=", "", "==", " = ")) + rng.choice(HOSTILE)
