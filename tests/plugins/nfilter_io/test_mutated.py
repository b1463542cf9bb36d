"""Sixty corrupted files in each of four formats: rows, unreadable rows or one NfilterError, with little memory.

``python test_mutated.py FOLDER`` reads all of them in a separate process and prints the counts.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import random
import resource
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nfilter import NfilterError, Row, Unreadable
from nfilter_io.sources import Csv, Json, JsonLines, Parquet

FORMATS: dict[str, Any] = {"jsonl": JsonLines, "json": Json, "csv": Csv, "parquet": Parquet}
CASES = 60
ROWS = [
    {"id": f"r{n}", "prompt": f"Wie spät ist {n}?", "response": f"“{n}” o’clock, 時"}
    for n in range(12)
]

Mutation = Callable[[bytes, random.Random], bytes]


def base(kind: str, rows: list[dict[str, Any]] = ROWS) -> bytes:
    """Return the rows as a valid file."""
    if kind == "jsonl":
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode(
            "utf-8", "surrogatepass"
        )
    if kind == "json":
        return json.dumps(rows, ensure_ascii=False, indent=1).encode("utf-8", "surrogatepass")
    if kind == "csv":
        out = io.StringIO()
        writer = csv.DictWriter(out, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
        return out.getvalue().encode("utf-8", "surrogatepass")
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink, row_group_size=4)
    return sink.getvalue()


def _at(data: bytes, rng: random.Random) -> int:
    return rng.randrange(len(data) + 1)


def _put(data: bytes, piece: bytes, rng: random.Random) -> bytes:
    at = _at(data, rng)
    return data[:at] + piece + data[at:]


def _flip(data: bytes, rng: random.Random) -> bytes:
    corrupted = bytearray(data)
    for _ in range(rng.choice([1, 4, 40])):
        corrupted[rng.randrange(len(corrupted))] ^= 1 << rng.randrange(8)
    return bytes(corrupted)


def _swap(data: bytes, rng: random.Random) -> bytes:
    start, end = sorted((_at(data, rng), _at(data, rng)))
    return data[end:] + data[start:end] + data[:start]


def _typed(data: bytes, rng: random.Random) -> bytes:
    values = [
        b"null",
        b"true",
        b"[]",
        b"{}",
        b"-1e999",
        b"NaN",
        b"[1, {}]",
        b"9" * 5000,
        b"1e-400",
        b"0x10",
        b'"\\ud800"',
        b'"\\u0000"',
    ]
    return data.replace(
        rng.choice([b'"r3"', b'"Wie sp', b'"response"', b"r5"]),
        rng.choice(values),
        rng.choice([1, 3]),
    )


def _recoded(data: bytes, rng: random.Random) -> bytes:
    text = data.decode("utf-8", "replace")
    return text.encode(
        rng.choice(["utf-16", "utf-16-le", "utf-32", "latin-1", "shift_jis", "utf-7", "cp037"]),
        "replace",
    )


def _cell(data: bytes, rng: random.Random) -> bytes:
    return data.replace(
        b"o\xe2\x80\x99clock", rng.choice([b"x", b"\xe6\x99\x82", b"\\n"]) * 9_000_000, 1
    )


def _deep(data: bytes, rng: random.Random) -> bytes:
    depth = rng.choice([60, 2_000, 200_000])
    return data.replace(b'"r4"', b"[" * depth + b"]" * depth, 1).replace(b"r6", b'{"a":' * depth, 1)


ANY: list[Mutation] = [
    lambda data, rng: data[: _at(data, rng)],
    _flip,
    lambda data, rng: _put(data, b"\x00" * rng.choice([1, 7, 5000]), rng),
    _swap,
    lambda data, rng: rng.randbytes(rng.choice([0, 1, 4, 5000])),
    lambda data, rng: _put(data, rng.randbytes(30), rng),
    lambda data, rng: data + data[: _at(data, rng)],
    lambda data, rng: gzip.compress(data, mtime=0),
]
TEXT: list[Mutation] = [
    *ANY,
    _recoded,
    _typed,
    _deep,
    _cell,
    lambda data, rng: b"\xef\xbb\xbf" * rng.choice([1, 2]) + data,
    lambda data, rng: b"".join(line + rng.choice([b"\r", b"\n", b"\r\n", b"\n\r"]) for line in data.split(b"\n")),
    lambda data, rng: _put(data, b"\xed\xa0\x80", rng),
    lambda data, rng: data.replace(b'"id"', b'"prompt"', rng.choice([1, 5])).replace(b"id,", b"prompt,", 1),
    lambda data, rng: _put(data, rng.choice([b'"', b'""', b"'", b",", b"{", b"]", b"\\"]), rng),
    lambda data, rng: rng.choice([b"", b" \n\t", b"\n" * 3000, b"\xef\xbb\xbf", b"null", b"[]", b"{}", b",", b'"', b"id,prompt,response\n"]),
    lambda data, rng: data.replace(b"response", b"response\x1b]0;x\x07\xe2\x80\xae", rng.choice([1, 20])),
    lambda data, rng: data.replace(b"id", b",".join(b"c%d" % n for n in range(20_000)), 1),
]  # fmt: skip


def _table(data: bytes, rng: random.Random) -> bytes:
    """Return a valid Parquet file with unsuitable values."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    n = 6
    columns: dict[str, Any] = {
        "prompt": [f"q{i}" for i in range(n)],
        "response": [f"a{i}" for i in range(n)],
    }
    odd: list[Any] = [
        pa.array([b"\xff\xfe"] * n), pa.array([None] * n), pa.array([1.5, float("nan"), float("inf")] * 2),
        pa.array([[{"a": [1]}]] * n), pa.array([2**63 - 1] * n), pa.array([{"x": "y" * 9}] * n),
        pa.array(["x" * 3_000_000] * n), pa.array([253402300800 * 10**6 * 10] * n, pa.timestamp("us")),
        pa.array(["\x00"] * n), pa.array([True] * n), pa.array([b"\xed\xa0\x80"] * n).view(pa.string()),
        pa.array([10**37] * n, pa.decimal128(38, 0)), pa.array([[("k", "v"), ("k", "w")]] * n, pa.map_(pa.string(), pa.string())),
    ]  # fmt: skip
    for name in rng.sample(["prompt", "response", "id", "extra"], rng.choice([1, 2])):
        columns[name] = rng.choice(odd)
    names = list(columns)
    if rng.random() < 0.15:
        names[0] = names[1]
    sink = io.BytesIO()
    kept = 0 if rng.random() < 0.1 else n
    pq.write_table(pa.table(list(columns.values()), names=names).slice(0, kept), sink)
    return sink.getvalue()


def corrupted(kind: str, number: int) -> bytes:
    """Return case ``number`` of a format: the mutations in turn, sometimes two of them."""
    rng = random.Random(f"{kind} {number}")
    mutations = [*ANY, *[_table] * 12] if kind == "parquet" else TEXT
    data = mutations[number % len(mutations)](base(kind), rng)
    if data == base(kind):
        data = _flip(data, rng)
    if data and rng.random() < 0.3:
        data = rng.choice(ANY)(data, rng)
    return data


def outcome(kind: str, number: int, folder: Path) -> Counter[str]:
    """Count the results of a check and a run: samples, unreadable rows, or an NfilterError."""
    cls = FORMATS[kind]
    path = folder / f"{number}{cls.suffixes[0]}"
    path.write_bytes(corrupted(kind, number))
    counts: Counter[str] = Counter()
    try:
        config = cls.Config(path=path.name)
        problems = list(cls.problems(config, folder))
        assert all(isinstance(problem, str) and problem for problem in problems)
        counts["error"] += bool(problems)
        if not problems:
            cls.columns(config, folder)
        for item in cls(config, folder).read():
            counts["samples" if isinstance(item, Row) else "quarantine"] += 1
            if isinstance(item, Row):
                # A sample must be serialisable.
                " ".join(turn.content for turn in item.sample.messages).encode()
                json.dumps(dict(item.sample.meta), allow_nan=False)
            else:
                assert isinstance(item, Unreadable)
                assert item.error
    except NfilterError as error:
        counts["error"] += len(str(error)) > 0
    finally:
        path.unlink()
    assert counts.total(), "no result"
    return counts


@pytest.mark.parametrize("kind", FORMATS)
def test_some_corrupted_files(kind: str, tmp_path: Path) -> None:
    for number in range(0, CASES, 7):
        outcome(kind, number, tmp_path)


def test_the_files_are_reproducible_and_distinct() -> None:
    for kind in ("jsonl", "csv"):
        once = [corrupted(kind, number) for number in range(20, 35)]
        assert once == [corrupted(kind, number) for number in range(20, 35)]
        assert len(set(once)) > 12
        assert base(kind) not in once


@pytest.mark.slow
def test_all_corrupted_files_in_less_than_a_gigabyte(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, __file__, str(tmp_path)],
        env=dict(os.environ), capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads(done.stdout)
    assert report["files"] == CASES * len(FORMATS)
    assert report["bytes"] < 2**30
    for kind in FORMATS:
        assert min(report[kind][what] for what in ("samples", "error")) > 0, report
    assert sum(report[kind].get("quarantine", 0) for kind in FORMATS) > 50


def main(folder: Path) -> None:
    """Read every file; any error other than NfilterError is raised."""
    report: dict[str, Any] = {"files": 0}
    for kind in FORMATS:
        total: Counter[str] = Counter()
        for number in range(CASES):
            try:
                total += outcome(kind, number, folder)
            except Exception as error:
                raise RuntimeError(f"{kind} {number}") from error
            report["files"] += 1
        report[kind] = total
    report["bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps(report))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
