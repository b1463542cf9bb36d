"""Prints the oldest version that pyproject.toml allows of every package it names, as constraints for pip."""

import re
import sys
import tomllib
from pathlib import Path

_LOWER = re.compile(r"([A-Za-z0-9._-]+)(?:\[[^]]*\])?\s*>=\s*([0-9][^,;\s]*)")


def oldest(project: dict[str, object]) -> list[str]:
    """``name==lower bound`` for each dependency with a lower bound, the extras' included, sorted.

    Of two bounds for one package the higher one counts, since both have to hold.
    """
    found: dict[str, str] = {}
    extras = project["optional-dependencies"]
    assert isinstance(extras, dict)
    for requirement in [
        *project["dependencies"],
        *(each for extra in extras.values() for each in extra),
    ]:
        match = _LOWER.match(requirement)
        if match:
            name, version = match[1].lower(), match[2]
            found[name] = max(found.get(name, version), version, key=_parts)
    return sorted(f"{name}=={version}" for name, version in found.items())


def _parts(version: str) -> list[int]:
    return [int(part) for part in version.split(".")]


if __name__ == "__main__":
    print(
        "\n".join(oldest(tomllib.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))["project"]))
    )
