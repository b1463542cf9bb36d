"""The core's text names no component of a plugin: it names the kind, or reads the name from the catalogue."""

from __future__ import annotations

import re
from pathlib import Path

from nfilter.registry.loading import load

ROOT = Path(__file__).parents[2]


def test_no_file_of_the_core_names_an_installed_component() -> None:
    names = {item.name for item in load(block=()).registered.values() if "." in item.name}
    assert {"hf.lora", "robustft.check", "tokens.excess_loss"} <= names
    pattern = re.compile(rf"(?<![\w./-])(?:{'|'.join(map(re.escape, sorted(names)))})(?!\w)")
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in sorted((ROOT / "nfilter").rglob("*.py*"))
        if path.suffix in {".py", ".pyi"}
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if pattern.search(line)
    ]
    assert found == []
