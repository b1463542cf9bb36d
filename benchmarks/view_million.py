"""How quick the page of `nfilter view` is on a large run: `python -m benchmarks.view_million --rows 1000000 --out FOLDER`.

It writes a synthetic run in the format of the store, makes its index, and measures the answers of the server and, where Debian's chromium and
chromium-driver and selenium are installed, the time to the first paint and of a filter in the page.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nfilter.api.notes import Verdict, View
from nfilter.api.types import Message, Sample
from nfilter.store.artefacts import Artefact
from nfilter.store.files import write_json, write_jsonl, write_sealed
from nfilter.store.run_directory import RunDirectory
from nfilter.store.seals import sealed

CHUNK = 2000
_WORDS = [f"word{n:04d}" for n in range(3000)]
_FILTERS = (
    {},
    {"action": "relabelled"},
    {"fate": "dropped", "sort": "check.noise_score", "descending": "yes"},
    {"flagged": "yes", "conflict": "yes"},
    {"score": "check.noise_score", "low": "0.4", "high": "0.6"},
    {"sort": "reasoning.nll"},
    {"sort": "borderline"},
    {"text": "word0042"},
    {"text": "word00"},
    {"text": "wo"},
    {"stage": "02-robustft.review"},
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        _serve(given.out)
        return
    if not (given.out / "manifest.json").exists():
        start = time.perf_counter()
        write_run(given.out, given.rows)
        print(f"written: {given.rows:,} rows in {time.perf_counter() - start:.0f} s")
    size = sum(path.stat().st_size for path in given.out.rglob("*") if path.is_file())
    print(f"run folder: {size / 1e9:.2f} GB")
    measure(given.out)


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


def measure(out: Path) -> None:
    """Start the server in a process of its own, and print what it needs."""
    command = [sys.executable, "-m", "benchmarks.view_million", "--out", str(out), "--serve"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            address = server.stdout.readline().strip()
            _measure(address, server.pid)
        finally:
            server.terminate()


def _measure(address: str, pid: int) -> None:
    base, _, token = address.partition("/#")
    ask = _Asker(base, token.strip("/"))
    start = time.perf_counter()
    (run,) = ask("runs")["runs"]
    key = run["key"]
    print(f"list of runs: {time.perf_counter() - start:.2f} s")
    print(f"overview: {_timed(lambda: ask(f'runs/{key}')):.2f} s")
    start = time.perf_counter()
    while not ask(f"runs/{key}/index")["ready"]:
        time.sleep(0.5)
    print(f"index made or opened: {time.perf_counter() - start:.1f} s")
    print(f"memory of the server: {_memory(pid):.0f} MB, at most {_memory(pid, 'VmHWM'):.0f} MB")
    print(f"histogram: {_timed(lambda: ask(f'runs/{key}/histogram')):.2f} s")
    for query in _FILTERS:
        text = "&".join(f"{name}={value}" for name, value in query.items())
        seconds = _timed(lambda text=text: ask(f"runs/{key}/rows?{text}"))  # type: ignore[misc]
        total = ask(f"runs/{key}/rows?{text}")["total"]
        print(f"filter {text or 'none'}: {total:,} rows in {seconds:.3f} s")
    deep = _timed(lambda: ask(f"runs/{key}/rows?offset={run['rows'] - 50}"))
    print(f"last page: {deep:.3f} s")
    middle = ask(f"runs/{key}/rows?offset={run['rows'] // 2}")["rows"][0]["id"]
    print(f"a row: {_timed(lambda: ask(f'runs/{key}/row?id={middle}')):.3f} s")
    print(f"next rows to review: {_timed(lambda: ask(f'runs/{key}/review')):.3f} s")
    print(f"memory of the server: {_memory(pid):.0f} MB, at most {_memory(pid, 'VmHWM'):.0f} MB")
    _browser(address, key)


class _Asker:
    def __init__(self, base: str, token: str) -> None:
        self._base, self._token = base, token

    def __call__(self, path: str) -> Any:
        from urllib.request import Request, urlopen

        request = Request(f"{self._base}/api/{path}", headers={"X-Nfilter-Token": self._token})
        with urlopen(request) as answer:
            return json.load(answer)


def _timed(ask: Any) -> float:
    start = time.perf_counter()
    ask()
    return time.perf_counter() - start


def _memory(pid: int, name: str = "VmRSS") -> float:
    """Megabytes of a process that are in memory; mapped files count as far as they are."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 1000
    return 0.0


def _browser(address: str, key: str) -> None:
    try:
        from selenium import webdriver
        from selenium.webdriver.support.ui import WebDriverWait
    except ModuleNotFoundError:
        return
    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu"):
        options.add_argument(argument)
    driver = webdriver.Chrome(
        options=options, service=webdriver.ChromeService("/usr/bin/chromedriver")
    )
    try:
        for screen, wanted in (("", ".strip"), ("/rows", ".vbody .badge")):
            driver.get("about:blank")
            start = time.perf_counter()
            driver.get(f"{address}run/{key}{screen}")
            WebDriverWait(driver, 60, 0.01).until(
                lambda d, w=wanted: d.find_elements("css selector", w)
            )  # type: ignore[misc]
            paint = driver.execute_script(
                "return performance.getEntriesByType('paint').map((e) => [e.name, e.startTime])"
            )
            print(
                f"browser, screen {screen or 'overview'}: content after {time.perf_counter() - start:.2f} s, {paint}"
            )
        script = """
            const done = arguments[0], select = document.getElementById("f-action"), count = document.querySelector(".count");
            const start = performance.now(), before = count.textContent;
            new MutationObserver(() => { if (count.textContent !== before) done(performance.now() - start); })
              .observe(count, { childList: true, subtree: true, characterData: true });
            select.value = "dropped"; select.dispatchEvent(new Event("change"));
        """
        print(f"browser, filter: {driver.execute_async_script(script):.0f} ms to the new count")
    finally:
        driver.quit()


def _serve(out: Path) -> None:
    from nfilter_view.server import serve

    serve(out, 0, "", lambda address: print(address, flush=True))


if __name__ == "__main__":
    main()
