"""``python -m benchmarks.peers setup DIR``: one virtual environment per tool, with the versions pinned here."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from benchmarks.peers.running import ENVIRONMENTS, interpreter, requirements


def setup(folder: Path, environments: list[str]) -> None:
    for environment in environments:
        python = interpreter(folder, environment)
        if not python.is_file():
            subprocess.run([sys.executable, "-m", "venv", str(folder / environment)], check=True)
        install = [
            str(python),
            "-m",
            "pip",
            "install",
            "--quiet",
            "-r",
            str(requirements(environment)),
        ]
        subprocess.run(install, check=True)
        print(python)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    verbs = parser.add_subparsers(required=True)
    making = verbs.add_parser(
        "setup", help="make the environments, or bring them to the pinned versions"
    )
    making.add_argument("folder", type=Path, metavar="DIR")
    making.add_argument("--only", default=",".join(ENVIRONMENTS), help="some, with commas")
    options = parser.parse_args()
    setup(options.folder, options.only.split(","))


if __name__ == "__main__":
    main()
