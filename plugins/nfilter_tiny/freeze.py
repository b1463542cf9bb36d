"""What the figures rest on, by hash: ``python -m nfilter_tiny.freeze`` writes ``model/frozen.json``.

It is committed before the first figure is reported. A change to the world, the weights, the splits or the drawn noise
is a new version, and the figures start anew.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Final

from nfilter_tiny.formats import PROMPTS
from nfilter_tiny.world import DOMAINS, SPLITS, id_of, problems
from nfilter_tiny.world.words import HUES, OFFSETS, PLACE_OF

VERSION: Final = 2
MODEL: Final = Path(__file__).resolve().parent / "model"
PATH: Final = MODEL / "frozen.json"


def hashes() -> dict[str, str | int]:
    """SHA-256 of the world (facts, questions, answers and steps), the splits (ids in order), weights, formats and noise."""
    world, splits = hashlib.sha256(), hashlib.sha256()
    world.update(json.dumps([OFFSETS, HUES, PLACE_OF]).encode())
    for split in SPLITS[1:]:
        for domain in DOMAINS:
            for p in problems(split, domain):
                world.update(
                    f"{p.family}\t{p.kind}\t{p.question}\t{p.answer}\t{p.steps}\n".encode()
                )
                splits.update(f"{split}\t{domain}\t{id_of(p)}\n".encode())
    weights = _of_files(sorted((*MODEL.glob("*.safetensors"), *MODEL.glob("tokenizer*.json"))))
    return {
        "version": VERSION,
        "world": world.hexdigest(),
        "splits": splits.hexdigest(),
        "weights": weights,
        "formats": _of_files(sorted(PROMPTS.glob("*.jinja"))),
        "own_wrong": _of_files([MODEL / "own_wrong.json"]),
    }


def _of_files(paths: list[Path]) -> str:
    hasher = hashlib.sha256()
    for path in paths:
        hasher.update(path.name.encode() + b"\0" + path.read_bytes())
    return hasher.hexdigest()


def main() -> None:
    """Write the hashes."""
    PATH.write_text(json.dumps(hashes(), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
