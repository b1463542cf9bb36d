"""The page: complete, inert, and safe to open whatever the data says."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nfilter.api.types import TokenSample
from nfilter.report import html as subject
from nfilter.report.histogram import HEIGHT, histogram
from nfilter.report.token_page import LONGEST, ROWS
from nfilter.store.tokens import write_tokens

RUN, GROUP = Path("runs/sums"), Path("runs/group")
_VOID = {"meta", "rect"}


class Page(HTMLParser):
    """What a page is made of: tags with attributes, texts by tag; unbalanced tags are an error."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def metrics_of(path: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((path / "metrics.json").read_text())
    return value


def page_of(path: Path) -> tuple[str, Page]:
    written = subject.write_report(path, metrics_of(path))
    assert written == path / "report.html"
    source = written.read_text(encoding="utf-8")
    return source, Page(source)


def inert(source: str, page: Page) -> None:
    allowed = {
        "html", "head", "meta", "title", "style", "body", "h1", "h2", "table", "caption", "tr", "th", "td", "div",
        "p", "span", "svg", "g", "rect", "line", "text",
    }  # fmt: skip
    assert {tag for tag, _ in page.tags} <= allowed
    names = {name for _, attrs in page.tags for name in attrs}
    assert not names & {"href", "src", "style", "srcset", "action", "xlink:href"}
    assert not {name for name in names if name.startswith("on")}
    policies = [
        attrs["content"]
        for tag, attrs in page.tags
        if attrs.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]
    assert "url(" not in source
    assert "@import" not in source


def test_the_page_has_figures_stages_scores_and_examples(world):
    source, page = page_of(RUN)
    inert(source, page)
    told = " ".join(" ".join(page.texts).split())
    for words in (
        "Label noise", "estimated 35.0% (95% interval 21.0% to 52.0%)", "arm cleaned", "Stages",
        "03-story.mend", "Noise scores", "flagged (8)", "not flagged (18)", "8 of 8 new labels", "5 of 5 dropped rows",
        "the view's answer stands in for a wrong label", "a new label with an even sum is not trusted",
        "no token of the response is left: it begins at token", "1 of 1 unreadable lines",
        "no 'question => answer' in this line",
    ):  # fmt: skip
        assert words in told, words
    assert "None" not in told


def test_the_stage_table_is_what_the_artefacts_say(world):
    _, page = page_of(RUN)
    told = [text for text in page.texts if text.strip()]
    at = told.index("05-story.select")
    done = json.loads((RUN / "05-story.select" / "done.json").read_text())
    assert told[at + 1 : at + 4] == [str(done["kept"]), str(done["dropped"]), str(done["changed"])]


@pytest.mark.parametrize(
    "hostile",
    [
        "<script>alert(1)</script>",
        '"><img src=x onerror=alert(1)>',
        "{{ 7 * 7 }}{% raw %}",
        "</td></table><h1>",
    ],
)
def test_hostile_text_is_shown_and_does_nothing(hostile, world, written):
    inside = json.dumps(hostile)[1:-1]
    for path in [*RUN.glob("*/*.jsonl"), RUN / "dropped.jsonl", RUN / "quarantine.jsonl"]:
        text = path.read_text()
        for part in ('"2+4"', '"3+4"', "nothing to learn here", "a new label with an even sum"):
            quote = '"' if part.startswith('"') else ""
            text = text.replace(part, f"{quote}{inside}{quote}")
        path.write_text(text)
    written(RUN)
    metrics = metrics_of(RUN)
    metrics["name"] = hostile
    written_page = subject.write_report(RUN, metrics).read_text(encoding="utf-8")
    page = Page(written_page)
    inert(written_page, page)
    assert hostile in "".join(page.texts)
    assert "<script" not in written_page
    assert "49" not in [text.strip() for text in page.texts]


def test_control_characters_are_visible(world, written):
    path = RUN / "quarantine.jsonl"
    row = {"line": 9, "error": "bad\x00byte", "raw": "a\x1b[31m\x07\u202eb\ud800\x85"}
    path.write_text(json.dumps(row) + "\n")
    written(RUN)
    source, _ = page_of(RUN)
    assert "bad\\x00byte" in source
    assert r"a\x1b[31m\x07\u202eb\ud800\x85" in source
    assert not [c for c in source if ord(c) < 32 and c not in "\n\t"]


def test_long_texts_are_cut(world, written):
    row = {"line": 9, "error": "e", "raw": "x" * 100_000}
    (RUN / "quarantine.jsonl").write_text(
        "\n".join(json.dumps({**row, "line": i}) for i in range(500)) + "\n"
    )
    written(RUN)
    source, page = page_of(RUN)
    assert len(source) < 60_000
    assert "20 of 500 unreadable lines" in "".join(page.texts)


def test_a_group_takes_its_examples_from_a_child(world):
    source, page = page_of(GROUP)
    inert(source, page)
    assert "Stages, scores and examples are those of seed-0" in " ".join(page.texts)
    assert "8 of 8 new labels" in " ".join(page.texts)


def test_a_run_that_stopped_half_way_has_a_page(world):
    (RUN / "05-story.select" / "done.json").unlink()
    for name in ("dropped.jsonl", "manifest.json"):
        (RUN / name).unlink()
    source, page = page_of(RUN)
    inert(source, page)
    assert "not finished" in page.texts
    assert "Dropped" not in page.texts


def test_the_template_ships_beside_the_code():
    from importlib.resources import files

    assert files("nfilter.report").joinpath("report.html.jinja").is_file()


def test_histogram_counts_every_score_once():
    scores = [(0.0, False), (0.02, True), (0.5, False), (1.0, True), (0.999, True)]
    chart = histogram(scores)
    assert (chart.count, chart.flagged, chart.most) == (5, 3, 2)
    assert chart.bars[0].title == "0.00 to 0.05: 1 not flagged, 1 flagged"
    assert chart.bars[10].title == "0.50 to 0.55: 1 not flagged, 0 flagged"
    assert chart.bars[-1].title == "0.95 to 1.00: 0 not flagged, 2 flagged"
    area = sum(bar.plain_height + bar.flagged_height for bar in chart.bars)
    assert area == pytest.approx(5 * HEIGHT / 2)
    for bar in chart.bars:
        assert bar.flagged_y + bar.flagged_height == pytest.approx(bar.plain_y)
        assert bar.plain_y + bar.plain_height == pytest.approx(HEIGHT)
    assert [(at, words) for at, words, _ in chart.ticks] == [
        (0, "0"), (160, "0.25"), (320, "0.5"), (480, "0.75"), (640, "1"),
    ]  # fmt: skip
    assert histogram([]) is None


def test_a_new_label_says_whether_its_row_is_kept(world):
    source, _ = page_of(RUN)
    dropped = [json.loads(line)["id"] for line in (RUN / "dropped.jsonl").read_text().splitlines()]
    table = source.partition("<h2>Relabelled</h2>")[2].partition("</table>")[0]
    rows = re.findall(r'<td class="id">([^<]*)</td>.*?<td>(kept|dropped)</td>', table)
    assert len(rows) == 8
    assert {end for _, end in rows} == {"kept", "dropped"}
    assert all(end == ("dropped" if name in dropped else "kept") for name, end in rows)


HOSTILE = '</span><script>alert("1")</script> \' onload=x {{ 7*7 }}\x1b[2J'


def encoded(name: str, pieces: list[str]) -> TokenSample:
    """A token a piece, of which the first is no response."""
    ends = np.cumsum([len(piece) for piece in pieces])
    response = np.arange(len(pieces)) > 0
    return TokenSample(
        id=name, ids=np.arange(len(pieces)), response=response, turn=np.zeros(len(pieces), np.int16),
        spans=np.stack([ends - [len(piece) for piece in pieces], ends], 1).astype(np.int32),
        weights=response.astype(np.float32), text="".join(pieces),
    )  # fmt: skip


def test_hostile_tokens_are_shown_and_do_nothing(world, written):
    pieces = [f"ask {HOSTILE}", "a", HOSTILE, '" title="', "<b>"]
    one = encoded(f"id {HOSTILE}", pieces).mask(np.arange(5) == 2, 0)
    one = one.score("s <b>{{ 7*7 }}", np.arange(5, dtype=np.float32))
    write_tokens(RUN / "tokens", [one], [f"st {HOSTILE}"])
    written(RUN)
    source = subject.write_report(RUN, metrics_of(RUN)).read_text(encoding="utf-8")
    page = Page(source)
    inert(source, page)
    assert "<script" not in source
    assert "\x1b" not in source
    told = "".join(page.texts)
    assert told.count("</span><script>alert") == 5  # stage, often masked, id, prompt, token
    titles = [str(attrs["title"]) for tag, attrs in page.tags if tag == "span" and "title" in attrs]
    assert len(titles) == 4
    assert titles[1].startswith("masked by st </span><script>")
    assert "49" not in told


def test_the_page_has_the_section_and_stays_small(world, written):
    source = subject.write_report(RUN, metrics_of(RUN)).read_text(encoding="utf-8")
    inert(source, Page(source))
    assert "<h2>Tokens</h2>" in source
    long = [
        encoded(f"row-{number}", ["word "] * 2001).mask(np.arange(2001) % 3 == 1, 0)
        for number in range(30)
    ]
    write_tokens(RUN / "tokens", long, ["a.one"])
    written(RUN)
    source = subject.write_report(RUN, metrics_of(RUN)).read_text(encoding="utf-8")
    inert(source, Page(source))
    assert len(source) < 100 * ROWS * LONGEST
