"""The noise rate as all reports show it: a point, a range, and either narrowed by rows checked by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nfilter.api.errors import StoreError
from nfilter.metrics.figures import Figure, Range, estimate, narrowed
from nfilter.report import audit, compare, rate
from nfilter.report.html import write_report
from nfilter.report.summary import summarise

RUN, GROUP = Path("runs/sums"), Path("runs/group")
AUDITED = Figure(0.3, None, 1, 0.2, 0.4)


def ranged(path: Path, low: float, high: float, written: Any) -> dict[str, Any]:
    """The run's metrics with a range in place of the point that its check estimated."""
    file = path / "metrics.json"
    metrics: dict[str, Any] = json.loads(file.read_text())
    for report in metrics["stages"].values():
        if "estimated_noise_rate" in report:
            report["estimated_noise_rate"].update(estimate=None, low=low, high=high)
    file.write_text(json.dumps(metrics))
    written(path)
    return metrics


@pytest.mark.parametrize(
    ("found", "checked", "expected"),
    [
        (Range(0.1, 0.6), None, Range(0.1, 0.6)),
        (Range(0.1, 0.6), AUDITED, Figure(0.3, None, 1, 0.2, 0.4)),
        (Range(0.25, 0.6), AUDITED, Figure(0.3, None, 1, 0.25, 0.4)),
        (Range(0.35, 0.6), AUDITED, Figure(0.35, None, 1, 0.35, 0.4)),
        (Range(0.5, 0.6), AUDITED, AUDITED),  # the two exclude each other: what a person saw counts
        (Figure(0.1, None, 1, 0.05, 0.15), AUDITED, AUDITED),
        (None, AUDITED, AUDITED),
        (None, None, None),
    ],
)
def test_what_a_check_by_hand_leaves(found, checked, expected):
    assert narrowed(found, checked) == expected


@pytest.mark.parametrize(
    ("found", "rate_text"),
    [
        (Range(0.1, 0.6), "between 10.0% and 60.0%: a range, because views may share errors"),
        (
            Range(0.0, 1.0),
            "unknown: labels and views are consistent with any rate; `nfilter audit RUN`",
        ),
        (Range(0.0, 0.97, 3), "unknown: "),
        (Range(0.0, 0.9), "between 0.0% and 90.0%: a range"),
        (Range(0.1, 0.6, 3), "between 10.0% and 60.0%, means of 3 seeds: a range"),
        (Figure(0.3), "estimated 30.0%"),
        (Figure(0.3, 0.02, 3), "estimated 30.0% ± 2.0"),
        (AUDITED, "estimated 30.0% (95% interval 20.0% to 40.0%)"),
        (None, "unknown"),
    ],
)
def test_words(found, rate_text):
    assert rate.rate_text(found).startswith(rate_text)


@pytest.mark.parametrize(("path", "n"), [(RUN, 1), (GROUP, 2)])
def test_a_range_is_shown_on_screen_page_and_in_comparisons(path, n, world, shown, written):
    metrics = ranged(path, 0.1, 0.62, written)
    assert estimate(metrics) == Range(0.1, 0.62, n)
    over = f", means of {n} seeds" if n > 1 else ""
    rate_text = f"between 10.0% and 62.0%{over}: a range"
    screen = shown(lambda console: summarise(path, metrics, console))
    assert rate_text in " ".join(screen.split())
    assert rate_text in write_report(path, metrics).read_text(encoding="utf-8")
    table = compare.compare([path])
    assert compare.as_json(table)["figures"]["estimated_noise_rate"] == [
        {"mean": None, "sd": None, "low": 0.1, "high": 0.62, "n": n}
    ]
    said = shown(compare.render, table)
    assert "0.100 to 0.620" in said
    assert "None" not in screen + said


@pytest.mark.types(
    "`nfilter audit RUN` or trusted labels narrow it",
    "move it and audit.csv away and check rows again",
)
def test_an_audit_narrows_the_range_everywhere(world, shown, written):
    metrics = ranged(RUN, 0.35, 0.62, written)
    assert rate.noise_rate(RUN, metrics) == Range(0.35, 0.62)
    sheet = RUN / "audit.csv"
    drawn = audit.audit(RUN, n=50)
    assert drawn.narrowed is None
    text = sheet.read_text(encoding="utf-8-sig").splitlines()
    answers = ["n" if place % 2 else "y" for place in range(len(text) - 1)]
    filled = [text[0], *(f"{line}{answer}" for line, answer in zip(text[1:], answers, strict=True))]
    sheet.write_text("\n".join(filled) + "\n", encoding="utf-8")
    result = audit.audit(RUN)
    assert result.narrowed == rate.noise_rate(RUN, metrics)
    assert (result.narrowed.mean, result.narrowed.low) == pytest.approx((0.5, 0.5))
    assert "with the views estimated 50.0%" in " ".join(shown(audit.render, result).split())
    screen = " ".join(shown(lambda console: summarise(RUN, metrics, console)).split())
    assert "estimated 50.0%" in screen
    assert "narrowed by rows checked by hand" in screen
    cell = compare.as_json(compare.compare([RUN]))["figures"]["estimated_noise_rate"][0]
    assert cell["mean"] == pytest.approx(0.5)
    (RUN / "audit.json").write_text((RUN / "audit.json").read_text().replace("0.5", "0.4", 1))
    with pytest.raises(StoreError, match=r"audit.json: has other .* move it and audit.csv away"):
        compare.compare([RUN])
    for name in ("audit.json", "audit.csv"):
        (RUN / name).rename(RUN / f"away-{name}")
    compare.compare([RUN])
    assert audit.audit(RUN, n=50).narrowed is None
