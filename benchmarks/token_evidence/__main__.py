"""``python -m benchmarks.token_evidence``."""

import sys

from benchmarks.token_evidence.cli import main

if __name__ == "__main__":
    sys.exit(main())
