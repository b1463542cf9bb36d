"""What reports cost before they are used."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import nfilter.report

HEAVY = ("numpy", "pydantic", "rich", "yaml", "jinja2", "pluggy", "click")


def test_importing_a_report_loads_nothing_heavy():
    folder = Path(nfilter.report.__file__).parent
    names = sorted(
        f"nfilter.report.{path.stem}" for path in folder.glob("*.py") if path.stem != "__init__"
    )
    assert "nfilter.report.explain" in names
    program = f"import sys, {', '.join(names)}; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": str(folder.parent.parent)},
    )  # fmt: skip
    assert done.stdout.strip() == "[]"
