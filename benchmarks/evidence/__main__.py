"""``python -m benchmarks.evidence`` and ``python benchmarks/evidence``."""

import sys
from pathlib import Path

if __package__ in (None, ""):  # run as a folder: the repository's root is then not on the path
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.evidence.cli import main

if __name__ == "__main__":
    sys.exit(main())
