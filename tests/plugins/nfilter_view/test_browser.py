"""The page in Debian's chromium: every screen, by keyboard, narrow and wide, light and dark, with hostile rows."""

from __future__ import annotations

import json
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette")
pytest.importorskip("selenium")
pytest.importorskip("axe_core_python")

import axe_core_python

from nfilter import RunReader
from nfilter_view.exchange import export_rows, import_rows
from nfilter_view.library import key_of
from nfilter_view.server import serve

from .conftest import HOSTILE

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER), reason="needs Debian's chromium and chromium-driver"
    ),
]
SCREENS = ("", "/rows", "/row", "/review", "compare")
AXE = """
const done = arguments[0];
axe.run().then((found) => done(found.violations.filter((one) => ["serious", "critical"].includes(one.impact))
  .map((one) => `${one.impact}: ${one.id}: ${one.nodes[0].html.slice(0, 200)}`)));
"""


class Browser:
    """Chromium on the page of a folder of runs."""

    def __init__(self, driver: Any, address: str) -> None:
        self.driver = driver
        self.address = address

    def open(self, path: str, *, wide: bool = True, dark: bool = False) -> None:
        size = {
            "width": 1280 if wide else 390,
            "height": 900,
            "deviceScaleFactor": 1,
            "mobile": not wide,
        }
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        self.driver.get("about:blank")
        self.driver.get(f"{self.address}{path}")
        self.wait("return document.querySelector('main h1') && !document.querySelector('progress')")

    def run(self, script: str) -> Any:
        return self.driver.execute_script(script)

    def wait(self, script: str, seconds: float = 15) -> Any:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if found := self.run(script):
                return found
            time.sleep(0.05)
        raise AssertionError(f"{script}: {self.run('return document.body.innerText')[:800]}")

    def faults(self) -> list[str]:
        """What axe-core calls serious or critical, and whether anything is wider than the window."""
        self.run((Path(axe_core_python.__file__).parent / "axe.min.js").read_text(encoding="utf-8"))
        wide = self.run("return document.documentElement.scrollWidth > innerWidth")
        cut = self.run(
            "return [...document.querySelectorAll('.figure')].filter((e) => e.scrollWidth > e.clientWidth).map((e) => e.innerText)"
        )
        return [
            *self.driver.execute_async_script(AXE),
            *(["wider than the window"] if wide else []),
            *(f"{text} is cut off" for text in cut),
        ]

    def picture(self, folder: Path, name: str) -> None:
        """Keep what is shown now as a PNG."""
        folder.mkdir(parents=True, exist_ok=True)
        assert self.driver.save_screenshot(str(folder / f"{name}.png"))

    def press(self, keys: str, *, control: bool = False) -> None:
        from selenium.webdriver.common.action_chains import ActionChains
        from selenium.webdriver.common.keys import Keys

        chain = ActionChains(self.driver)
        if control:
            chain = chain.key_down(Keys.CONTROL).send_keys(keys).key_up(Keys.CONTROL)
        else:
            chain = chain.send_keys(keys)
        chain.perform()

    def quiet(self) -> None:
        """Nothing was refused or failed in the page."""
        told = [
            line["message"] for line in self.driver.get_log("browser") if line["level"] == "SEVERE"
        ]
        assert told == []


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    made = webdriver.Chrome(options=options, service=webdriver.ChromeService(str(DRIVER)))
    yield made
    made.quit()


@pytest.fixture
def browser(driver: Any, runs: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Browser:
    import uvicorn

    runs("one")
    runs("two", ["samples.3.use=view.check"])
    # A server in a thread has no signals of its own; the process ends it.
    monkeypatch.setattr(uvicorn.Server, "install_signal_handlers", lambda self: None, raising=False)
    opened: list[str] = []
    ready = threading.Event()

    def told(address: str) -> None:
        opened.append(address)
        ready.set()

    root = Path("runs").resolve()
    threading.Thread(target=serve, args=(root, 0, "ann", told), daemon=True).start()
    assert ready.wait(30)
    return Browser(driver, opened[0])


def calls(run: Path) -> list[tuple[str]]:
    with closing(sqlite3.connect(run / "journal.db")) as db, db:
        return db.execute("SELECT key FROM calls ORDER BY key").fetchall()


def key(name: str = "one") -> str:
    return key_of(Path("runs") / name)


def paths() -> dict[str, str]:
    row = json.loads(Path("runs/one/00-source/chunk-000000.jsonl").read_text().splitlines()[0])[
        "id"
    ]
    base = f"run/{key()}"
    return {
        "": base, "/rows": f"{base}/rows", "/row": f"{base}/row?id={row}", "/review": f"{base}/review",
        "compare": f"compare?a={key('one')}&b={key('two')}",
    }  # fmt: skip


def test_every_screen_is_readable_narrow_and_wide_light_and_dark(browser, pytestconfig):
    for screen in SCREENS:
        for wide in (True, False):
            for dark in (False, True):
                browser.open(paths()[screen], wide=wide, dark=dark)
                browser.wait("return document.querySelectorAll('.vrow .badge, .card').length")
                time.sleep(0.3)
                assert browser.faults() == [], (screen, wide, dark)
                name = f"{screen.strip('/') or 'overview'}-{1280 if wide else 390}-{'dark' if dark else 'light'}"
                browser.picture(pytestconfig.rootpath / "build" / "screens", name)
    browser.quiet()


def test_times_are_short_enough_for_their_box(browser):
    browser.open(paths()[""])
    shown = browser.driver.execute_async_script(
        "const done = arguments[1]; import('/static/dom.js').then((m) => done(arguments[0].map(m.seconds)))",
        [0.25, 59.5, 59.99, 119.7, 1857, 3599, 7200, 90000],
    )
    assert shown == [
        "250 ms", "59.5 s", "60.0 s", "2 min 0 s", "31 min", "1 h 0 min", "2 h 0 min", "25 h",
    ]  # fmt: skip


def test_the_figures_of_a_run_lead_to_as_many_rows(browser):
    browser.open(paths()[""])
    shown = browser.run(
        "return [...document.querySelectorAll('a.figure[href*=\"/rows\"]')].map((a) => [a.href, a.querySelector('.value').textContent, a.innerText])"
    )
    assert [words.split("\n")[1] for _, _, words in shown] == [
        "rows read", "kept", "of them relabelled", "dropped", "unreadable",
    ]  # fmt: skip
    for href, value, words in shown[1:]:
        browser.open(href.partition("/#")[2].partition("/")[2])
        text = browser.wait("return document.querySelector('.count').firstChild?.textContent")
        assert text == f"{value} of 25 rows", words


def test_hostile_text_is_shown_and_does_nothing(browser):
    browser.open(paths()["/row"])
    shown = browser.wait("return document.querySelector('.view')?.innerText")
    assert HOSTILE[:40] in shown
    assert "\\x1b[2J\\u202e" in shown
    for screen in SCREENS:
        browser.open(paths()[screen])
        assert (
            browser.run("return document.querySelectorAll('img, iframe, script:not([src])').length")
            == 0
        )
        assert browser.run("return document.title") != "1"
    browser.quiet()


def test_the_policy_stops_what_the_page_itself_would_run(browser):
    browser.open(paths()[""])
    refused = browser.run(
        "try { document.body.innerHTML = '<b>x</b>'; return 'parsed'; } catch (error) { return error.name; }"
    )
    assert refused == "TypeError"
    browser.run(
        "const s = document.createElement('script'); try { s.textContent = 'window.ran = 1'; document.body.append(s); } catch {}"
    )
    assert browser.run("return window.ran") is None
    browser.driver.get_log("browser")


def test_another_origin_gets_neither_token_nor_rows(browser, driver, tmp_path):
    import http.server

    port = browser.address.split(":")[2].split("/")[0]
    (tmp_path / "evil").mkdir()
    (tmp_path / "evil" / "index.html").write_text("<title>evil</title><h1>x</h1>")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given, directory=str(tmp_path / "evil"))

        def log_message(self, *given: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        driver.get(f"http://127.0.0.1:{other.server_address[1]}/")
        script = """
            const done = arguments[1], out = {};
            const base = `http://127.0.0.1:${arguments[0]}/`;
            (async () => {
              for (const [name, options] of [["plain", {}], ["header", { headers: { "X-Nfilter-Token": "x" } }], ["blind", { mode: "no-cors" }]]) {
                try { const r = await fetch(`${base}api/runs`, options); out[name] = `${r.type} ${r.status} ${(await r.text()).length}`; } catch (e) { out[name] = e.name; }
              }
              const frame = document.createElement("iframe");
              frame.src = base;
              document.body.append(frame);
              await new Promise((r) => setTimeout(r, 600));
              try { out.frame = frame.contentWindow.location.href; } catch (e) { out.frame = e.name; }
              const opened = window.open(base);
              await new Promise((r) => setTimeout(r, 600));
              try { out.opened = opened ? opened.location.href : "none"; } catch (e) { out.opened = e.name; }
              done(out);
            })();
        """
        found = driver.execute_async_script(script, port)
        other.shutdown()
    for handle in driver.window_handles[1:]:
        driver.switch_to.window(handle)
        driver.close()
    driver.switch_to.window(driver.window_handles[0])
    assert (found["plain"], found["header"]) == ("TypeError", "TypeError")
    assert found["blind"] in ("TypeError", "opaque 0 0")
    assert found["frame"] == "SecurityError"
    assert found["opened"] in ("SecurityError", "none", "about:blank")
    driver.get_log("browser")


def test_the_loop_of_ten_decisions_by_keyboard_export_import_and_another_run(browser, runs):
    from selenium.webdriver.common.keys import Keys

    browser.open(paths()["/review"])
    done = 0

    def decided() -> int:
        path = Path("runs/one/review.jsonl")
        return len(path.read_text().splitlines()) if path.exists() else 0

    def after(keys: str, *, control: bool = False) -> None:
        nonlocal done
        before = browser.run("return document.querySelector('.turn .text').innerText")
        browser.press(keys, control=control)
        done += 1
        end = time.monotonic() + 15
        while decided() < done and time.monotonic() < end:
            time.sleep(0.02)
        assert decided() == done
        browser.wait(
            f"return document.querySelector('.turn .text')?.innerText !== {json.dumps(before)}"
        )

    for keys in ("a", "2", "d", "1", "a", "d", "2", "a", "s"):
        after(keys)
    browser.press("e")
    browser.wait("return document.activeElement.id === 'editor'")
    browser.run("document.activeElement.select()")
    browser.press("770077")
    after(Keys.ENTER, control=True)
    found = [json.loads(line) for line in Path("runs/one/review.jsonl").read_text().splitlines()]
    assert [row["action"] for row in found] == [
        "accept", "relabel", "drop", "relabel", "accept", "drop", "relabel", "accept", "skip", "relabel",
    ]  # fmt: skip
    assert found[-1]["label"] == "770077"
    assert len({row["id"] for row in found}) == 10
    assert {row["who"] for row in found} == {"ann"}
    browser.press("b")
    browser.wait("return document.querySelector('.turn .text')")
    browser.quiet()
    run = Path("runs/one")
    export_rows(run, Path("out.csv"), "csv")
    (run / "review.jsonl").unlink()
    assert import_rows(run, Path("out.csv"), "csv").startswith("10 new decisions")
    before = calls(run)
    runs("one")
    assert calls(run) == before
    ends = {
        row.id: row.sample.response if row.fate == "kept" and row.sample else None
        for block in RunReader(run).outcomes()
        for row in block
    }
    wanted = {row["id"]: row["label"] for row in found if row["action"] != "skip"}
    assert {name: ends[name] for name in wanted} == wanted


def test_rows_are_filtered_searched_and_walked_by_keyboard(browser):
    from selenium.webdriver.common.keys import Keys

    browser.open(paths()["/rows"])
    browser.wait("return document.querySelector('.count').textContent.startsWith('25 rows')")
    browser.run(
        "const e = document.getElementById('f-action'); e.value = 'dropped'; e.dispatchEvent(new Event('change'))"
    )
    browser.wait("return document.querySelector('.count').textContent.startsWith('4 of 25 rows')")
    assert "action=dropped" in browser.driver.current_url
    browser.run("document.querySelector('.vbox').focus()")
    browser.press(Keys.ARROW_DOWN)
    chosen = browser.wait("return document.querySelector('.vrow.active .question')?.innerText")
    browser.press(Keys.ENTER)
    browser.wait("return document.querySelector('h1.id')")
    assert chosen in browser.run("return document.querySelector('.turn.user .text').innerText")
    browser.press(Keys.ESCAPE)
    browser.wait("return document.querySelector('.count')?.textContent.startsWith('4 of 25 rows')")
    browser.quiet()
