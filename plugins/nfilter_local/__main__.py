"""One rank in a process of its own: the job comes on standard input, and how it ended goes to the file descriptor that is named."""

from __future__ import annotations

import json
import os
import signal
import sys

from nfilter import run_rank


def main() -> None:
    """Run the rank."""
    # A process that a shell started in the background ignores the interrupt that ends this one.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    asked = json.load(sys.stdin)
    try:
        end = run_rank(asked["job"], asked["rank"])
    except KeyboardInterrupt:
        sys.exit(130)
    with os.fdopen(int(sys.argv[1]), "w", encoding="utf-8") as out:
        json.dump(end, out)


if __name__ == "__main__":
    main()
