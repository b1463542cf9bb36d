"""YAML, strictly: what a recipe may hold, and the line of everything that it may not."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nfilter import RecipeError
from nfilter.recipe.yaml_lines import MAX_BYTES, MAX_DEPTH, YamlDocument, override, parse, read

FILE = Path("r.yaml")


def value_of(text: str) -> Any:
    return parse(text, FILE).value


def fault_of(text: str) -> str:
    with pytest.raises(RecipeError) as caught:
        parse(text, FILE)
    (fault,) = caught.value.faults
    return fault


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1E5", 1e5),
        ("-2e+3", -2000.0),
        ("1.5e4", 15000.0),
        ("1.5e-4", 1.5e-4),
        ("0.1", 0.1),
        ("3", 3),
        ("-3", -3),
        ("1_000", 1000),
        ("9223372036854775807", 2**63 - 1),
        ("-9223372036854775807", 1 - 2**63),
        ("0x10", 16),
        ("-0x7fffffffffffffff", 1 - 2**63),
        (f"0b{'1' * 63}", 2**63 - 1),
        ("0", 0),
        ("-0", 0),
        ("+5", 5),
        ("0o17", "0o17"),
        ("1:30", "1:30"),
        ("1:59:59.5", "1:59:59.5"),
        ("1" + ":59" * 4000, "1" + ":59" * 4000),
        ("2.", 2.0),
        (".5", 0.5),
        ("1.0e-05", 1e-5),
        ("1.5e+4", 15000.0),
        ("true", True),
        ("null", None),
        ("~", None),
        ("2026-01-31", "2026-01-31"),
        ("2026-01-31 10:00:00", "2026-01-31 10:00:00"),
        ("'3'", "3"),
        ('"true"', "true"),
        ("1e", "1e"),
        ("e5", "e5"),
        ("1e5x", "1e5x"),
    ],
)
def test_scalars(text: str, value: Any) -> None:
    got = value_of(f"key: {text}")["key"]
    assert got == value
    assert type(got) is type(value)


def test_keys_are_text_whatever_they_look_like() -> None:
    assert value_of("1: a\ntrue: b\n2026-01-31: c\nno: d") == {
        "1": "a",
        "true": "b",
        "2026-01-31": "c",
        "no": "d",
    }


def test_every_value_has_its_line() -> None:
    document = parse("a: 1\nb:\n  - x\n  - {c: 2,\n     d: 3}\n", FILE)
    assert document.lines == {
        (): 1,
        ("a",): 1,
        ("b",): 2,
        ("b", 0): 3,
        ("b", 1): 4,
        ("b", 1, "c"): 4,
        ("b", 1, "d"): 5,
    }
    assert document.fault(("b", 1, "d"), "wrong") == "r.yaml:5: b[1].d: wrong"
    assert document.place(("b", 1, "missing")) == "r.yaml:4"
    assert document.place(("missing",)) == "r.yaml:1"


@pytest.mark.parametrize(
    ("text", "start", "says"),
    [
        ("", "r.yaml:1", "the file is empty; `nfilter init --template quickstart --out r.yaml --force`"),
        ("# only a comment\n", "r.yaml:1", "the file is empty"),
        ("a: 1\nb: 2\na: 3\n", "r.yaml:3", "the key 'a' stands here again, first in line 1"),
        ("a:\n  b: 1\n  'b': 2\n", "r.yaml:3", "the key 'b' stands here again, first in line 2"),
        ("a: &x 1\nb: *x\n", "r.yaml:2", "the alias *x"),
        ("a: &x {c: 1}\nb:\n  <<: *x\n", "r.yaml:3", "the alias *x"),
        ("a: &x b\n*x : 1\n", "r.yaml:2", "the alias *x"),
        ("a: 1\nb: !!python/name:os.system x\n", "r.yaml:2", "the tag !!python/name:os.system"),
        ("a: !!python/object/apply:os.system ['true']\n", "r.yaml:1", "the tag !!python/object/apply:os.system"),
        ("a: !local 1\n", "r.yaml:1", "the tag !local"),
        ("a: !!binary aGk=\n", "r.yaml:1", "the tag !!binary"),
        ("a: !!timestamp 2026-01-31\n", "r.yaml:1", "the tag !!timestamp"),
        ("a: !!set {x, y}\n", "r.yaml:1", "the tag !!set"),
        ("!!str a: 1\n", "r.yaml:1", "the tag !!str"),
        ("a: 1\n--- \nb: 2\n", "r.yaml:2", "a second document"),
        ("? [a, b]\n: 1\n", "r.yaml:1", "a key that is not a plain word"),
        ("a: [1\nb: 2\n", "r.yaml:2", "not YAML"),
        ("a: 1\n\tb: 2\n", "r.yaml:2", "not YAML"),
        ("a: 1\nb: .nan\n", "r.yaml:2", ".nan is no number that a recipe can hold"),
        ("a: -.inf\n", "r.yaml:1", "-.inf is no number"),
        ("a: 1e999\n", "r.yaml:1", "1e999 is no number"),
        ("a: 1\nb: 0b_\n", "r.yaml:2", "'0b_' cannot be read"),
        ("a: 1\nb: =\n", "r.yaml:2", "'=' cannot be read"),
        (f"a: 1\nb: {'9' * 5000}\n", "r.yaml:2", "is larger than a recipe can hold; write at most 9223372036854775807"),
        (f"a: 0x{'f' * 5000}\n", "r.yaml:1", "is larger than a recipe can hold"),
        (f"a: 0b{'1' * 65}\n", "r.yaml:1", "is larger than a recipe can hold"),
        ("a: 9223372036854775808\n", "r.yaml:1", "is larger than a recipe can hold"),
        ("a: -9223372036854775808\n", "r.yaml:1", "is larger than a recipe can hold"),
        (f"a: 0{'7' * 9000}\n", "r.yaml:1", "could be decimal or octal; write it without the leading 0"),
        ("a: 010\n", "r.yaml:1", "'010' could be decimal or octal"),
        ('a: 1\nb: "\\ud800"\n', "r.yaml:2", "cannot be read"),
        ('a: "\\Uffffffff"\n', "r.yaml:1", "not YAML"),
        ("a: 1\nb: \x07\n", "r.yaml:2", "the character '\\x07' may not stand in it"),
    ],
)  # fmt: skip
def test_what_is_refused_and_where(text: str, start: str, says: str) -> None:
    fault = fault_of(text)
    assert fault.startswith(f"{start}: ")
    assert says in fault


def test_an_alias_bomb_is_refused_at_once() -> None:
    levels = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30)]
    text = "\n".join(["a0: &a0 [x]", *levels])
    start = time.perf_counter()
    fault = fault_of(text)
    assert time.perf_counter() - start < 0.1
    assert fault.startswith("r.yaml:2: the alias *a0; write the value out")


@pytest.mark.parametrize("opening", ["[", "{a: "])
def test_depth_ends_at_the_limit(opening: str) -> None:
    closing = {"[": "]", "{a: ": "}"}[opening]
    fine = opening * MAX_DEPTH + "1" + closing * MAX_DEPTH
    assert value_of(fine) is not None
    assert f"deeper than {MAX_DEPTH} levels" in fault_of(opening + fine + closing)
    assert "deeper than" in fault_of(opening * 50_000)


def test_a_file_past_the_limit_is_not_even_read(tmp_path: Path) -> None:
    path = tmp_path / "big.yaml"
    path.write_text("a: '" + "x" * (MAX_BYTES - 5) + "'")
    assert len(read(path).value["a"]) == MAX_BYTES - 5
    path.write_text("a: '" + "x" * MAX_BYTES + "'")
    with pytest.raises(RecipeError, match=f"a recipe has at most {MAX_BYTES}"):
        read(path)


@pytest.mark.parametrize("content", [b"a: \xff\xfe\n", None])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "odd.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RecipeError, match=r"odd\.yaml"):
        read(path)
    with pytest.raises(RecipeError, match=r"not readable|cannot be read"):
        read(tmp_path)


bits = st.sampled_from([
    "a", "b", ":", ": ", "- ", "-", "\n", "  ", "\t", "[", "]", "{", "}", ",", "&x ", "*x", "!", "!!str ", "!!int ",
    "<<", "?", "|", ">", "%", "@", "`", '"', "'", "#", "---", "...", "\\", "0x", "0b", "1e9", ".inf", "é", "\x00", "\x85",
    "\ufeff", "\ud800", "~", "=", "%YAML 1.9\n", "%TAG ! x\n", "9" * 20,
])  # fmt: skip


@given(st.lists(bits, max_size=25).map("".join) | st.text(max_size=60))
@example("%YAML 1.1\n---\n")
@example("? ")
@example('"\\U00110000"')
@example("- " * 2000)
@settings(max_examples=600)
def test_no_text_raises_anything_but_a_recipe_error(text: str) -> None:
    try:
        document = parse(text, FILE)
    except RecipeError as error:
        assert all(fault.startswith("r.yaml:") for fault in error.faults)  # noqa: PT017
    else:
        assert isinstance(document.value, dict | list | str | int | float | bool | None)


# --- --set -------------------------------------------------------------------------------------------------


def base() -> YamlDocument:
    return parse("seed: 0\nsamples:\n  - {use: a, k: 3}\n  - {use: b}\ntrain: {use: t}\n", FILE)


@pytest.mark.parametrize(
    ("assignment", "path", "value"),
    [
        ("seed=7", ("seed",), 7),
        ("samples.0.k=5", ("samples", 0, "k"), 5),
        ("samples[0].k=5", ("samples", 0, "k"), 5),
        ("samples.1.skip=true", ("samples", 1, "skip"), True),
        ("train.lr=1e-4", ("train", "lr"), 1e-4),
        ("evaluate.source.path=x=y.jsonl", ("evaluate", "source", "path"), "x=y.jsonl"),
        ("arms=[raw, cleaned]", ("arms",), ["raw", "cleaned"]),
        ("train={use: u}", ("train",), {"use": "u"}),
        ("name=", ("name",), None),
    ],
)
def test_set_puts_a_value_in_place_and_is_named_in_its_faults(
    assignment: str, path: tuple[str | int, ...], value: Any
) -> None:
    document = base()
    override(document, [assignment])
    here = document.value
    for step in path:
        here = here[step]
    assert here == value
    assert document.fault(path, "wrong").startswith(f"--set {assignment}: ")
    assert document.fault((*path, "below"), "wrong").startswith(f"--set {assignment}: ")


def test_the_later_set_wins() -> None:
    document = base()
    override(document, ["seed=1", "seed=2"])
    assert document.value["seed"] == 2


@pytest.mark.parametrize(
    ("assignment", "says"),
    [
        ("seed", "write it as path=value"),
        ("=3", "write it as path=value"),
        (".=3", "write it as path=value"),
        ("samples.9.k=1", "nothing stands at 'samples.9.k'"),
        ("samples.-1.k=1", "nothing stands at 'samples.-1.k'"),
        ("samples.first.k=1", "nothing stands at 'samples.first.k'"),
        ("seed.x=1", "nothing stands at 'seed.x'"),
        ("train.use.x=1", "nothing stands at 'train.use.x'"),
        ("seed=[1", "not YAML"),
        ("seed=*x", "alias"),
        ("seed=!!python/name:os.system", "the tag"),
    ],
)
def test_set_refuses_what_leads_nowhere(assignment: str, says: str) -> None:
    document = base()
    with pytest.raises(RecipeError) as caught:
        override(document, [assignment, "also wrong"])
    assert len(caught.value.faults) == 2
    assert caught.value.faults[0].startswith(f"--set {assignment}: ")
    assert says in caught.value.faults[0]
    assert document.value == base().value


def test_the_value_of_a_key_is_not_shown() -> None:
    document = parse("models: {m: {model: x}}", Path("r.yaml"))
    override(document, ["models.m.api_key=sk-canary", "models.m.max_tokens=7"])
    assert document.fault(("models", "m", "api_key"), "unknown") == "--set models.m.api_key=***: models.m.api_key: unknown"  # fmt: skip
    assert "max_tokens=7" in document.fault(("models", "m", "max_tokens"), "wrong")
    with pytest.raises(RecipeError) as caught:
        override(document, ["models.m.model.token=sk-canary"])
    assert "sk-canary" not in str(caught.value)


def test_what_an_assignment_made_is_its_own_and_not_the_files() -> None:
    document = parse("name: x\nsource: {use: jsonl}\n", Path("r.yaml"))
    override(document, ["train.rank=8"])
    assert document.fault(("train", "use"), "missing") == "--set train.rank=8: train.use: missing"
    assert document.fault(("source", "path"), "missing").startswith("r.yaml:2: ")
    assert document.fault(("arms",), "wrong").startswith("r.yaml:1: ")


@pytest.mark.parametrize(
    ("text", "fault", "right"),
    [
        ("a:\n\tb: 1", "r.yaml:2: not YAML: a tab before a key or value; indent with blanks", "a:\n  b: 1"),
        ("a: 1\nb: {c: 'd}\n", "r.yaml:2: not YAML: a quote that is not closed\n    b: {c: 'd}\n           ^", "b: {c: 'd'}"),
        ('a: "C:\\data"', "r.yaml:1: not YAML: found unknown escape character 'd'; a path with backslashes stands in single quotes", "a: 'C:\\data'"),
        ("a:\n  <<: {b: 1}", "r.yaml:2: the key '<<'; copy the keys of the other mapping here", "a:\n  b: 1"),
    ],
)  # fmt: skip
def test_a_frequent_mistake_gets_its_remedy(text: str, fault: str, right: str) -> None:
    assert fault_of(text).startswith(fault)
    assert value_of(right)
