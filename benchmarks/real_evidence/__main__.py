"""``python -m benchmarks.real_evidence``."""

import sys

from benchmarks.real_evidence.cli import main

if __name__ == "__main__":
    sys.exit(main())
