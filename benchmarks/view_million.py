"""How quick the page of `nfilter view` is on a large run: `python -m benchmarks.view_million --rows 1000000 --out FOLDER`.

It writes a synthetic run through the store, has a server make its index, and measures in several rounds, each with a new server: the first page, filters,
orders, searches, and the server's memory. Where Debian's chromium and chromium-driver and selenium are installed, it measures the page in a browser too.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from nfilter.api.notes import Verdict, View
from nfilter.api.types import Message, Sample
from nfilter.store.artefacts import Artefact
from nfilter.store.files import write_json, write_jsonl, write_sealed
from nfilter.store.run_directory import RunDirectory
from nfilter.store.seals import sealed

CHUNK = 2000
_WORDS = [f"word{n:04d}" for n in range(3000)]
QUERIES: dict[str, dict[str, str]] = {
    "filter by decision": {"action": "relabelled"},
    "filter by flag and conflict of views": {"flagged": "yes", "conflict": "yes"},
    "filter by a range of a score": {"score": "check.noise_score", "low": "0.4", "high": "0.6"},
    "filter by stage": {"stage": "02-robustft.review"},
    "sort all rows by a score": {"sort": "reasoning.nll"},
    "sort all rows, borderline first": {"sort": "borderline"},
    "filter by fate and sort by a score": {
        "fate": "dropped",
        "sort": "check.noise_score",
        "descending": "yes",
    },
    "search for a word": {"text": "word0042"},
    "search for the beginning of many words": {"text": "word00"},
    "search for two letters that are in every row": {"text": "wo"},
}
"""What is asked of the table of rows, by its name in the result."""
_IN_BROWSER = {
    "filter by decision": ("f-action", "dropped"),
    "sort all rows by a score": ("f-sort", "reasoning.nll"),
    "search for a word": ("f-text", "word0042"),
}
_CHANGE = """
    const [id, value, done] = arguments, element = document.getElementById(id), start = performance.now();
    const shown = () => document.querySelector(".count").textContent + document.querySelector(".vbody .layer").firstChild?.innerText;
    const before = shown();
    const watch = new MutationObserver(() => { if (shown() !== before) { watch.disconnect(); done(performance.now() - start); } });
    watch.observe(document.querySelector(".screen"), { childList: true, subtree: true, characterData: true });
    element.value = value;
    element.dispatchEvent(new Event(element.tagName === "SELECT" ? "change" : "input"));
"""
"""Changes one field of the filters, and waits for other rows or another count of rows. The page draws both in one step."""


@dataclass
class Timings:
    """Seconds of one request over the rounds: until the answer was there, and of the server's processor time."""

    wall: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)
    rows: int | None = None


@dataclass
class Measured:
    """All figures of a run.

    Attributes:
        rows: The rows of the run.
        facts: Figures that are no timings, by name.
        timings: Timings by name.
    """

    rows: int
    facts: dict[str, str] = field(default_factory=dict)
    timings: dict[str, Timings] = field(default_factory=dict)

    def of(self, name: str) -> Timings:
        """Return the timings of this name."""
        return self.timings.setdefault(name, Timings())


def main() -> None:
    """Write the run where it is absent, measure, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        _serve(given.out)
        return
    if not (given.out / "manifest.json").exists():
        start = time.perf_counter()
        write_run(given.out, given.rows)
        print(f"run written in {time.perf_counter() - start:.0f} s", flush=True)
    print(markdown(measure(given.out, given.rounds)))


def write_run(out: Path, rows: int) -> None:
    """Write a run with three stages: two views, a check that flags every fifth row, a review that relabels half of those."""
    run = RunDirectory(out)
    stages = [
        run.stage(0, "source"),
        run.stage(1, "robustft.check"),
        run.stage(2, "robustft.review"),
    ]
    for artefact in stages:
        artefact.begin({"made by": artefact.directory.name, "rows": rows})
    rng = random.Random(0)
    truths: list[dict[str, str]] = []
    counts = {"kept": 0, "dropped": 0, "changed": 0, "weighed": 0}
    for index, first in enumerate(range(0, rows, CHUNK)):
        made = [_row(number, rng) for number in range(first, min(rows, first + CHUNK))]
        stages[0].write_chunk(index, [row[0] for row in made], [])
        stages[1].write_chunk(index, [row[1] for row in made], [row[3] for row in made])
        stages[2].write_chunk(index, [row[2] for row in made], [row[4] for row in made])
        truths += [{"id": row[0].id, "truth": row[5]} for row in made]
        for row in made:
            counts["dropped" if row[2].dropped else "kept"] += 1
            counts["changed"] += row[4]["action"] == "relabel"
    beside = {
        "quarantine.jsonl": write_jsonl(out / "quarantine.jsonl", []),
        "truth.jsonl": write_jsonl(out / "truth.jsonl", truths),
    }
    stages[0].finish({"read": rows, "unreadable": 0, "with_truth": rows}, beside)
    quiet = {
        "kept": rows,
        "dropped": 0,
        "changed": 0,
        "weighed": 0,
        "samples": rows,
        "seconds": 60.0,
    }
    stages[1].finish(quiet)
    stages[2].finish({**counts, "samples": rows, "seconds": 30.0})
    _publish(out, rows, counts, stages)


def _row(number: int, rng: random.Random) -> tuple[Any, ...]:
    right, other = f"{rng.randrange(1000)}", f"{rng.randrange(1000)}"
    wrong = rng.random() < 0.2
    label = other if wrong else right
    question = f"Question {number}: " + " ".join(rng.choices(_WORDS, k=30))
    sample = Sample(f"row-{number:07d}", (Message("user", question), Message("assistant", label)))
    guess = right if rng.random() < 0.9 else other
    flagged = guess != label
    score = min(1.0, max(0.0, rng.gauss(0.8 if flagged else 0.15, 0.12)))
    reasoning = View(
        guess,
        guess,
        reasoning=" ".join(rng.choices(_WORDS, k=20)),
        nll=rng.expovariate(2),
        tokens=40,
    )
    neighbours = View(right if rng.random() < 0.7 else other, "", nll=None, calls=0)
    verdict = Verdict(flagged, round(score, 4), {"reasoning": not flagged}, "any")
    checked = (
        sample.note("reasoning", reasoning.to_json())
        .note("neighbors", neighbours.to_json())
        .note("check", verdict.to_json())
    )
    about = {
        "id": sample.id,
        "stage": "01-robustft.check",
        "action": "keep",
        "reason": f"noise score {score:.3f}",
    }
    decision: dict[str, Any] = {
        "id": sample.id,
        "stage": "02-robustft.review",
        "action": "keep",
        "reason": "not flagged",
    }
    done = checked
    if flagged and rng.random() < 0.5:
        done = checked.relabel(guess, f"the reasoning says '{guess}'")
        decision |= {"action": "relabel", "reason": done.why, "before": label, "after": guess}
    elif flagged:
        done = checked.drop(f"not selected: score {score:.3f}")
        decision |= {"action": "drop", "reason": done.dropped}
    return sample, checked, done, about, decision, right


def _publish(
    out: Path, rows: int, counts: Mapping[str, int], stages: list[Artefact[Sample]]
) -> None:
    samples = {
        "read": rows,
        "unreadable": 0,
        "kept": counts["kept"],
        "dropped": counts["dropped"],
        "relabelled": counts["changed"],
    }
    write_json(out / "metrics.json", {"name": "synthetic", "seeds": [0], "samples": samples})
    write_jsonl(out / "dropped.jsonl", [])
    names = ["source", "01-robustft.check", "02-robustft.review"]
    prints = {name: artefact.fingerprint() for name, artefact in zip(names, stages, strict=True)}
    files = {name: sealed(out / name) for name in ("metrics.json", "dropped.jsonl")}
    write_sealed(
        out / "manifest.json",
        {
            "files": files,
            "name": "synthetic",
            "fingerprints": prints,
            "runs": [],
            "stages": [],
            "calls": {},
            "seconds": 90.0,
        },
    )


def measure(out: Path, rounds: int, *, browser: bool = True) -> Measured:
    """Make the index of a run anew, then time every request once per round, each round with a new server."""
    shutil.rmtree(out / ".view", ignore_errors=True)
    measured = Measured(0)
    measured.facts["run"] = f"{_bytes(out) / 1e6:,.0f} MB"
    with _server(out) as (address, server):
        ask = _Asker(address)
        (run,) = ask("runs")["runs"]
        measured.rows = run["rows"]
        start = time.perf_counter()
        while not ask(f"runs/{run['key']}/index")["ready"]:
            time.sleep(0.1)
        measured.facts["index, made once"] = f"{time.perf_counter() - start:,.1f} s"
        measured.facts["of it processor time"] = f"{_processor_of_all(server.pid):,.1f} s"
        measured.facts["memory while it is made, at most"] = f"{_memory(server.pid):,.0f} MB"
    measured.facts["size of the index"] = f"{_bytes(out / '.view') / 1e6:,.0f} MB"
    peaks = []
    for _ in range(rounds):
        with _server(out) as (address, server):
            _round(measured, _Asker(address), server.pid, run["key"])
            peaks.append(_memory(server.pid))
            if browser:
                _browse(measured, address, run["key"])
    measured.facts["memory of the server, at most"] = f"{max(peaks):,.0f} MB"
    measured.facts["load of the machine at the end"] = (
        f"{os.getloadavg()[0]:.0f} on {os.cpu_count()} cores"
    )
    return measured


def _round(measured: Measured, ask: _Asker, pid: int, key: str) -> None:
    def timed(name: str, request: Callable[[], Any]) -> Any:
        timings, used, start = measured.of(name), _processor(pid), time.perf_counter()
        answer = request()
        timings.wall.append(time.perf_counter() - start)
        timings.processor.append(_processor(pid) - used)
        return answer

    timed("first byte of the page", ask.first_byte)
    timed("overview", lambda: ask(f"runs/{key}"))
    timed("first page of rows, index opened", lambda: ask(f"runs/{key}/rows"))
    timed("filters with their counts", lambda: ask(f"runs/{key}/index"))
    timed("histogram of a score", lambda: ask(f"runs/{key}/histogram"))
    for name, query in QUERIES.items():
        text = "&".join(f"{word}={value}" for word, value in query.items())
        answer = timed(name, lambda text=text: ask(f"runs/{key}/rows?{text}"))  # type: ignore[misc]
        measured.of(name).rows = answer["total"]
    last = timed("last page", lambda: ask(f"runs/{key}/rows?offset={measured.rows - 50}"))
    timed("one row in full", lambda: ask(f"runs/{key}/row?id={last['rows'][0]['id']}"))
    timed("next rows to review", lambda: ask(f"runs/{key}/review"))


def markdown(measured: Measured) -> str:
    """Return two tables: sizes and memory, and timings as medians of the rounds."""
    lines = [f"{measured.rows:,} rows", "", "| what | figure |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in measured.facts.items()]
    lines += ["", "| request | matching rows | median | slowest | processor time | n |"]
    lines += ["|---|---|---|---|---|---|"]
    for name, found in measured.timings.items():
        rows = "" if found.rows is None else f"{found.rows:,}"
        used = f"{statistics.median(found.processor):.3f} s" if found.processor else ""
        wall = f"{statistics.median(found.wall):.3f} s | {max(found.wall):.3f} s"
        lines.append(f"| {name} | {rows} | {wall} | {used} | {len(found.wall)} |")
    return "\n".join(lines)


class _Asker:
    """Asks one server as the page does."""

    def __init__(self, address: str) -> None:
        self._base, _, token = address.partition("/#")
        self._token = token.strip("/")

    def __call__(self, path: str) -> Any:
        request = Request(f"{self._base}/api/{path}", headers={"X-Nfilter-Token": self._token})
        with urlopen(request) as answer:
            return json.load(answer)

    def first_byte(self) -> None:
        """Ask for the page, and wait for the first byte of it."""
        with urlopen(f"{self._base}/") as answer:
            answer.read(1)


@contextmanager
def _server(out: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The address of a new server, and its process."""
    command = [sys.executable, "-m", "benchmarks.view_million", "--out", str(out), "--serve"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            yield server.stdout.readline().strip(), server
        finally:
            server.terminate()


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _memory(pid: int) -> float:
    """Megabytes of a process that were in memory at most; mapped files count as far as they were."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1000
    return 0.0


def _processor(pid: int) -> float:
    """Seconds of processor time of the threads that a process has, by nanoseconds."""
    paths = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(path.read_text(encoding="ascii").split()[0]) for path in paths) / 1e9


def _processor_of_all(pid: int) -> float:
    """Seconds of processor time of a process, threads that have ended included, by hundredths."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _browse(measured: Measured, address: str, key: str) -> None:
    """Open the overview and the rows in chromium, and change the filters there. Nothing without chromium."""
    chromium, driver_path = shutil.which("chromium"), shutil.which("chromedriver")
    try:
        from selenium import webdriver
        from selenium.webdriver.support.ui import WebDriverWait
    except ModuleNotFoundError:
        return
    if chromium is None or driver_path is None:
        return
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver_path))
    try:
        screens = {"overview": ("", ".strip"), "rows": ("/rows", ".vbody .badge")}
        for name, (path, wanted) in screens.items():
            driver.get("about:blank")
            start = time.perf_counter()
            driver.get(f"{address}run/{key}{path}")
            WebDriverWait(driver, 60, 0.01).until(
                lambda shown, css=wanted: shown.find_elements("css selector", css)
            )
            measured.of(f"browser: content of the {name}").wall.append(time.perf_counter() - start)
            paint = driver.execute_script(
                "return performance.getEntriesByName('first-contentful-paint')[0].startTime"
            )
            measured.of(f"browser: first paint of the {name}").wall.append(paint / 1000)
        for name, (element, value) in _IN_BROWSER.items():
            seconds = driver.execute_async_script(_CHANGE, element, value) / 1000
            measured.of(f"browser: {name}").wall.append(seconds)
            driver.execute_async_script(_CHANGE, element, "")
    finally:
        driver.quit()


def _serve(out: Path) -> None:
    from nfilter_view.server import serve

    serve(out, 0, "", lambda address: print(address, flush=True))


if __name__ == "__main__":
    main()
