"""Hashes of everything that published figures depend on: ``python -m nfilter_tiny.freeze`` writes ``model/frozen.json``.

The file is committed before the first figure. Changing the world, weights, splits or drawn noise needs a new version and new
figures.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Final

from nfilter import publishing
from nfilter_tiny.formats import PROMPTS
from nfilter_tiny.world import DOMAINS, SPLITS, id_of, problems
from nfilter_tiny.world.words import HUES, OFFSETS, PLACE_OF

VERSION: Final = 2
MODEL: Final = Path(__file__).resolve().parent / "model"
PATH: Final = MODEL / "frozen.json"


def hashes() -> dict[str, str | int]:
    """Return SHA-256 hashes of the world (facts, questions, answers, steps), the splits (ids in order), weights, formats and noise."""
    world, splits = hashlib.sha256(), hashlib.sha256()
    world.update(json.dumps([OFFSETS, HUES, PLACE_OF]).encode())
    for split in SPLITS[1:]:
        for domain in DOMAINS:
            for p in problems(split, domain):
                world.update(
                    f"{p.family}\t{p.kind}\t{p.question}\t{p.answer}\t{p.steps}\n".encode()
                )
                splits.update(f"{split}\t{domain}\t{id_of(p)}\n".encode())
    weights = _hash_of_files(sorted((*MODEL.glob("*.safetensors"), *MODEL.glob("tokenizer*.json"))))
    return {
        "version": VERSION,
        "world": world.hexdigest(),
        "splits": splits.hexdigest(),
        "weights": weights,
        "formats": _hash_of_files(sorted(PROMPTS.glob("*.jinja"))),
        "own_wrong": _hash_of_files([MODEL / "own_wrong.json"]),
    }


def _hash_of_files(paths: list[Path]) -> str:
    hasher = hashlib.sha256()
    for path in paths:
        hasher.update(path.name.encode() + b"\0" + path.read_bytes())
    return hasher.hexdigest()


def main() -> None:
    """Write the hashes."""
    with publishing(PATH) as out:
        out.write(json.dumps(hashes(), indent=1) + "\n")


if __name__ == "__main__":
    main()
