"""``python -m benchmarks.real_tokens``."""

import sys

from benchmarks.real_tokens.cli import main

if __name__ == "__main__":
    sys.exit(main())
