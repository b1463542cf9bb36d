"""The server of the page: who it answers, and what it says of the rows of a run."""

from __future__ import annotations

import gc
import json
import re
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

pytest.importorskip("starlette")

from starlette.testclient import TestClient

from nfilter import NfilterError, RunReader
from nfilter.cli import entry
from nfilter_view.index import Index, _order
from nfilter_view.library import Library, key_of
from nfilter_view.overview import overview
from nfilter_view.server import PAGE, application, serve

from .conftest import HOSTILE

TOKEN = "a-token-of-32-characters-or-more"
BASE = "http://127.0.0.1:8123"
ODD = [0.0, -0.0, 1.0, -1.0, float("nan"), -float("nan"), float("inf"), -float("inf")]


class Page:
    """The server as the page asks it."""

    def __init__(self, root: Path) -> None:
        self.client = TestClient(
            application(Library(root), token=TOKEN, port=8123, who="ann"), base_url=BASE
        )
        self.headers = {"X-Nfilter-Token": TOKEN}

    def get(self, path: str, **query: Any) -> Any:
        answer = self.client.get(f"/api/{path}", params=query, headers=self.headers)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def post(self, path: str, value: Any) -> Any:
        answer = self.client.post(f"/api/{path}", json=value, headers=self.headers)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def fault(self, path: str, **query: Any) -> str:
        answer = self.client.get(f"/api/{path}", params=query, headers=self.headers)
        assert answer.status_code == 400, answer.text
        return str(answer.json()["error"])

    def indexed(self, key: str) -> Any:
        for _ in range(200):
            found = self.get(f"runs/{key}/index")
            if found["ready"]:
                return found
            time.sleep(0.05)
        raise AssertionError("no index")


@pytest.fixture
def page(runs: Callable[..., Any]) -> Page:
    runs()
    return Page(Path("runs"))


@pytest.fixture
def key(page: Page) -> str:
    (run,) = page.get("runs")["runs"]
    page.indexed(run["key"])
    return str(run["key"])


def test_the_api_wants_the_token_in_a_header(page):
    for headers in ({}, {"X-Nfilter-Token": "other"}, {"Cookie": f"token={TOKEN}"}):
        answer = page.client.get("/api/runs", headers=headers)
        assert answer.status_code == 403
        assert "the token is missing or wrong" in answer.text
    assert page.client.get(f"/api/runs?token={TOKEN}").status_code == 403
    assert page.client.get("/api/runs", headers=page.headers).status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example:8123"}, 400),
        ({"Host": "127.0.0.1:9999"}, 400),
        ({"Host": "127.0.0.1.evil.example"}, 400),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "https://127.0.0.1:8123"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Origin": BASE, "Sec-Fetch-Site": "same-origin"}, 200),
        ({"Host": "localhost:8123", "Origin": "http://localhost:8123"}, 200),
    ],
)
def test_other_names_and_origins_are_refused_with_the_right_token_too(page, headers, status):
    for path in ("/api/runs", "/", "/static/app.js"):
        answer = page.client.get(path, headers={**page.headers, **headers})
        assert answer.status_code == status, path
        assert "access-control-allow-origin" not in answer.headers


def test_no_preflight_is_answered(page):
    headers = {"Origin": "http://evil.example", "Access-Control-Request-Headers": "x-nfilter-token"}
    answer = page.client.options("/api/runs", headers=headers)
    assert answer.status_code == 403
    assert page.client.options("/api/runs").status_code == 405
    assert page.client.delete("/api/runs", headers=page.headers).status_code == 405


def test_every_answer_has_the_policy_and_the_page_holds_no_token(page):
    for path in ("/", "/static/app.js", "/api/runs", "/nothing"):
        answer = page.client.get(path)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self';" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cache-control"] == "no-store"
        assert TOKEN not in answer.text
    assert page.client.get("/static/app.js").headers["content-type"].startswith("text/javascript")


def test_the_page_has_no_inline_script_no_other_host_and_never_parses_markup():
    html = (PAGE / "index.html").read_text()
    assert "http" not in html.replace("https://", "http://").replace("http-equiv", "")
    assert " on" not in html.lower().replace(" only", "")
    assert html.count("<script") == 1
    assert 'src="static/app.js"' in html
    for path in PAGE.glob("*.js"):
        text = path.read_text()
        for banned in (
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "srcdoc",
            "https://",
        ):
            assert banned not in text, path.name
        assert "http://" not in text.replace("http://www.w3.org/2000/svg", ""), path.name


@pytest.mark.parametrize(
    "name", ["../server.py", "..%2fserver.py", "%2e%2e/server.py", "index.html"]
)
def test_static_files_are_those_of_the_page_alone(page, name):
    assert page.client.get(f"/static/{name}").status_code == 404


def test_a_run_is_named_by_a_key_and_by_no_path(page):
    assert page.client.get("/api/runs/..%2f..%2fetc", headers=page.headers).status_code == 404
    assert page.client.get("/api/runs/000000000000", headers=page.headers).status_code == 404
    assert key_of(Path("runs/sums")) == page.get("runs")["runs"][0]["key"]


def test_the_overview_counts_what_the_run_counts(page, key):
    found = page.get(f"runs/{key}")
    metrics = json.loads(Path("runs/sums/metrics.json").read_text())
    assert found["samples"] == metrics["samples"]
    assert (found["status"], found["rows"]) == ("done", 25)
    assert [stage["label"] for stage in found["stages"]] == [
        "source", "01-view.ask", "02-view.check", "03-view.mend", "04-view.select",
    ]  # fmt: skip
    assert found["stages"][3]["relabelled"] == 8
    assert found["stages"][4]["dropped"] == metrics["samples"]["dropped"] == 4
    assert found["stages"][1]["calls"] == 24
    stages = sum(stage["seconds"] for stage in found["stages"] if stage["seconds"])
    assert found["rest_seconds"] + stages == pytest.approx(found["seconds"])


def test_the_time_outside_of_stages_is_not_known_where_stages_were_reused(page, key, runs):
    assert page.get(f"runs/{key}")["rest_seconds"] > 0
    runs()
    assert page.get(f"runs/{key}")["rest_seconds"] is None


class _WithClasses:
    """A reader of a run whose metrics.json has these figures under ``classes``."""

    def __init__(self, figures: Any) -> None:
        self._reader = RunReader(Path("runs/sums"))
        self._figures = figures

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reader, name)

    def metrics(self) -> dict[str, Any]:
        return {**self._reader.metrics(), "classes": self._figures}


def test_the_overview_has_right_labels_by_true_answer(page, key):
    # No metric of this catalogue counts them.
    assert page.get(f"runs/{key}")["classes"] is None
    counts = {"n": 24, "right_before": 16, "kept": 20, "right_after": 20, "lost": 0}
    groups = {HOSTILE: counts, "__proto__": {**counts, "n": 3}}
    found = overview(_WithClasses({"by": "answer", "groups": groups}))["classes"]
    assert found["by"] == "answer"
    assert found["groups"] == [{"name": HOSTILE, **counts}, {"name": "__proto__", **counts, "n": 3}]
    for figures in (None, {}, {"by": "form", "groups": {}}, "text"):
        assert overview(_WithClasses(figures))["classes"] is None


def test_filters_count_what_the_rows_say(page, key):
    def total(**query: Any) -> int:
        return int(page.get(f"runs/{key}/rows", **query)["total"])

    facets = page.get(f"runs/{key}/index")
    assert facets["counts"] == {
        "fate": {"kept": 20, "dropped": 4, "unreadable": 1},
        "action": {"unchanged": 16, "relabelled": 4, "dropped": 4, "unreadable": 1},
    }
    assert total() == 25
    assert total(fate="dropped") == total(action="dropped") == total(stage="04-view.select") == 4
    assert total(stage="03-view.mend") == 8
    assert total(flagged="yes") == total(wrong="yes") == 8
    assert total(flagged="no", wrong="yes") == 0
    assert total(score="check.noise_score", low="0.5") == 8
    assert total(text="21+42") == 1
    assert total(text="21+42+9") == 0
    assert total(text="view says") == 4
    odd = next(kind for kind in facets["kinds"] if kind["text"] == "a new label that is odd")
    assert odd["rows"] == total(reason=odd["code"]) == 4
    assert "the view says …" in [kind["text"] for kind in facets["kinds"]]


@pytest.mark.parametrize(
    "text",
    [
        "v",
        "vi",
        "vie",
        "view",
        "v 1",
        "view 1",
        "SAYS v",
        "4",
        "21 4",
        "script",
        "zzz",
        "-",
        "o'b",
        'a"b*',
    ],
)
def test_a_search_finds_the_rows_with_its_words_and_the_beginning_of_the_last(page, key, text):
    found = page.get(f"runs/{key}/rows", text=text, limit=200)
    expected = set()
    for outcome in (row for block in RunReader(Path("runs/sums")).outcomes() for row in block):
        told = [outcome.id, outcome.label or "", outcome.reason]
        told += [message.content for message in outcome.sample.messages] if outcome.sample else []
        words = re.findall(r"[^\W_]+", " ".join(told).lower())
        *whole, last = re.findall(r"\w+", text.lower()) or [None]
        if last and set(whole) <= set(words) and any(word.startswith(last) for word in words):
            expected.add(outcome.id)
    assert {row["id"] for row in found["rows"]} == expected
    assert found["total"] == len(expected)
    assert bool(expected) == (text not in ("v 1", "zzz", "-", "o'b"))


def test_sorting_and_pages_agree_with_the_scores(page, key):
    found = page.get(f"runs/{key}/rows", sort="check.noise_score", descending="yes", limit=200)
    scores = [row["scores"].get("check.noise_score") for row in found["rows"]]
    assert scores[:24] == sorted(scores[:24], reverse=True)
    assert scores[24] is None
    part = page.get(
        f"runs/{key}/rows", sort="check.noise_score", descending="yes", offset=5, limit=4
    )
    assert [row["id"] for row in part["rows"]] == [row["id"] for row in found["rows"][5:9]]
    first = page.get(f"runs/{key}/rows", sort="borderline", limit=3)["rows"]
    assert all(row["disagreement"] == 0.5 for row in first)
    cut = page.get(f"runs/{key}/index")["cut"]
    assert 0.325 < cut < 0.6


@given(arrays(np.float32, st.integers(0, 60), elements=st.floats(width=32) | st.sampled_from(ODD)))
def test_the_order_of_scores_is_the_stable_one_with_nan_last(keys):
    assert _order(keys).tolist() == np.argsort(keys, kind="stable").tolist()
    assert _order(-keys).tolist() == np.argsort(-keys, kind="stable").tolist()


def test_histogram_and_calibration_hold_every_scored_row(page, key):
    found = page.get(f"runs/{key}/histogram")
    assert (sum(found["plain"]), sum(found["flagged"])) == (16, 8)
    assert (sum(found["truth"]["right"]), sum(found["truth"]["wrong"])) == (16, 8)
    assert (found["edges"][0], found["edges"][-1], found["log"]) == (0.0, 1.0, False)
    parts = page.get(f"runs/{key}/index")["calibration"]
    assert sum(part["n"] for part in parts) == 24
    assert all(part["wrong"] == (part["score"] > 0.5) for part in parts)
    assert page.fault(f"runs/{key}/histogram", score="nothing")


def test_a_row_has_its_story_its_calls_with_prompts_and_its_choices(page, key):
    (row,) = page.get(f"runs/{key}/rows", text="12+24")["rows"]
    found = page.get(f"runs/{key}/row", id=row["id"])
    assert (found["label"], found["label_now"], found["truth"]) == ("37", "36", "36")
    assert found["status"] == "kept"
    (call,) = [call for event in found["events"] for call in event["calls"]]
    assert call["prompt"] == [["user", "12+24"]]
    assert (call["text"], call["prompt_tokens"]) == ("36", 5)
    assert found["events"][0]["notes"]["reasoning"]["reasoning"] == HOSTILE
    assert [choice["label"] for choice in found["choices"]] == ["37", "36", "7"]
    unreadable = page.get(f"runs/{key}/row", id="line:25")
    assert unreadable["status"] == "unreadable"
    assert HOSTILE[:20] in unreadable["raw"]


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ({"sort": "scroe"}, "no score 'scroe'; the run has borderline"),
        ({"stage": "x"}, "no stage 'x'; it is one of source"),
        ({"flagged": "1"}, "write yes or no"),
        ({"low": "nan"}, "not a finite number"),
        ({"offset": "-1"}, "not a whole number of at least 0"),
        ({"reason": "a"}, "not a number"),
    ],
)
def test_a_fault_of_a_filter_says_what_to_write(page, key, query, words):
    assert words in page.fault(f"runs/{key}/rows", **query)


def test_a_search_is_words_and_never_syntax(page, key):
    for text in ('"', "NEAR(", "a OR b", "*", "body:x", "';--", "\u202e", "AND"):
        assert page.get(f"runs/{key}/rows", text=text)["total"] in (0, 25, 1, 8, 16, 24)


def test_the_index_is_made_once_and_again_when_the_run_changes(page, key, runs):
    stamp = Path("runs/sums/.view/mark")
    made = stamp.stat().st_mtime_ns
    other = Page(Path("runs"))
    other.indexed(key)
    assert stamp.stat().st_mtime_ns == made
    (row,) = page.get(f"runs/{key}/rows", text="12+24")["rows"]
    page.post(f"runs/{key}/review/decide", {"id": row["id"], "action": "drop", "why": "odd one"})
    runs()
    again = Page(Path("runs"))
    assert again.indexed(key)["counts"]["fate"]["dropped"] == 5
    assert stamp.stat().st_mtime_ns != made


def test_the_list_of_filters_is_computed_with_the_index_and_by_no_later_server(
    page: Page, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = page.get(f"runs/{key}/index")
    assert first["counts"]["fate"] == {"kept": 20, "dropped": 4, "unreadable": 1}
    assert (first["truth"], first["main"]) == (True, "check.noise_score")
    for name in ("counts", "calibration", "cut", "kinds"):
        monkeypatch.delattr(Index, name)
    assert Page(Path("runs")).get(f"runs/{key}/index") == first


def test_a_damaged_run_is_named_and_the_others_are_shown(runs):
    runs("good")
    runs("bad")
    Path("runs/bad/metrics.json").write_text("{}")
    listed = {run["folder"]: run for run in Page(Path("runs")).get("runs")["runs"]}
    assert listed["good"]["status"] == "done"
    assert listed["bad"]["status"] == "damaged"
    assert "metrics.json" in listed["bad"]["error"]


@pytest.mark.types("kind is «»; write one of")
def test_two_runs_are_compared_row_by_row(runs):
    runs("one")
    runs("two", ["samples.3.use=view.check"])
    page = Page(Path("runs"))
    keys = [run["key"] for run in page.get("runs")["runs"]]
    for each in keys:
        page.indexed(each)
    found = page.get("compare", a=keys[0], b=keys[1])
    assert found["counts"] == {
        "same": 21, "kept_to_dropped": 0, "dropped_to_kept": 4, "other_label": 0, "only_first": 0, "only_second": 0,
    }  # fmt: skip
    assert {row["name"]: [cell["mean"] for cell in row["cells"]] for row in found["rows"]}[
        "samples.dropped"
    ] == [4, 0]
    listed = page.get("compare/rows", a=keys[0], b=keys[1], kind="dropped_to_kept")
    assert listed["total"] == 4
    assert {(row["first"]["fate"], row["second"]["fate"]) for row in listed["rows"]} == {
        ("dropped", "kept")
    }
    assert all(row["first"]["id"] == row["second"]["id"] for row in listed["rows"])
    other = Path("sums.qa").read_text(encoding="utf-8").splitlines()[:9]
    Path("sums.qa").write_text("\n".join(other), encoding="utf-8")
    runs("three")
    page = Page(Path("runs"))
    (third,) = [run["key"] for run in page.get("runs")["runs"] if run["folder"] == "three"]
    assert page.get("compare", a=keys[0], b=third)["notes"] == ["the source rows differ"]
    assert "kind is 'x'" in page.fault("compare/rows", a=keys[0], b=keys[1], kind="x")


def test_ctrl_c_ends_the_server_without_an_error(runs, monkeypatch):
    def ended(*given):
        given[-1]("http://127.0.0.1:1/")
        raise KeyboardInterrupt

    runs()
    monkeypatch.setattr("nfilter_view.server.serve", ended)
    assert entry(["view", "runs", "--no-open"]) == 0


@pytest.mark.types("--port 0 takes a free one")
def test_a_port_that_is_taken_names_a_way_out(runs):
    import socket

    runs()
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        with pytest.raises(NfilterError, match="--port 0 takes a free one"):
            serve(Path("runs"), held.getsockname()[1], "ann", print)


def test_the_command_names_the_packages_that_are_not_there(monkeypatch, runs):
    import builtins

    from nfilter_view.commands import view

    real = builtins.__import__

    def absent(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith("nfilter_view.server"):
            raise ModuleNotFoundError("no starlette", name="starlette.applications")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(
        NfilterError, match=r"needs the package starlette.*pip install 'nfilter\[view\]'"
    ):
        view.main(["runs", "--no-open"], standalone_mode=False)


@pytest.mark.parametrize("name", ["view", "review"])
def test_the_commands_are_found_by_their_entry_points(name):
    from importlib.metadata import entry_points

    (point,) = entry_points(group="nfilter.commands", name=name)
    assert point.value == f"nfilter_view.commands:{name}"
    assert point.load().name == name


@pytest.mark.parametrize("text", ["answer: [", "answer: {kind: choice}\n", "\xff"])
def test_a_lock_that_was_changed_is_named(page: Page, key: str, text: str) -> None:
    row = page.get(f"runs/{key}/rows")["rows"][0]["id"]
    (lock,) = Path("runs").rglob("recipe.lock.yaml")
    lock.write_text(text, encoding="latin-1")
    assert "recipe.lock.yaml: has " in page.fault(f"runs/{key}/row", id=row)


def test_the_answer_settings_of_a_run_that_has_not_ended(page: Page, key: str) -> None:
    (lock,) = Path("runs").rglob("recipe.lock.yaml")
    ended = RunReader(lock.parent).answer_settings()
    (lock.parent / "manifest.json").unlink()
    assert RunReader(lock.parent).answer_settings() == ended
    assert ended["kind"]
    lock.write_text("answer: [")
    with pytest.raises(NfilterError, match=r"recipe\.lock\.yaml: cannot be read"):
        RunReader(lock.parent).answer_settings()


def test_a_file_that_cannot_be_opened_is_an_answer(
    page: Page, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(self: RunReader) -> Any:
        raise PermissionError(13, "Permission denied", "review.jsonl")

    monkeypatch.setattr(RunReader, "reviews", refused)
    assert "Permission denied" in page.fault(f"runs/{key}")


@pytest.mark.usefixtures("page")
def test_the_file_of_an_index_that_is_dropped_is_closed(key: str) -> None:
    library = Library(Path("runs"))
    shelf = library.shelf(key)
    assert shelf is not None
    index = library.index(shelf)
    assert index is not None
    texts = index._db
    assert texts.execute("SELECT 1").fetchone() == (1,)
    shelf.index = index = None
    gc.collect()
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        texts.execute("SELECT 1")
