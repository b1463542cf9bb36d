"""Finished cells on disk: one JSON file each, published whole, valid for the inputs that it was made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nfilter.engine.figures import ArmResult
from nfilter.store import read_json, write_json


@dataclass(frozen=True)
class Cells:
    """The folder of an evidence run. ``inputs`` identifies world, weights, prompts and base recipe.

    A cell that was made from other inputs is not there: it is run again.
    """

    out: Path
    inputs: str

    def folder(self, key: str) -> Path:
        """Where a cell runs."""
        return self.out / "cells" / key

    def file(self, key: str) -> Path:
        """Where its figures are."""
        return self.out / "figures" / f"{key}.json"

    def error_file(self, key: str) -> Path:
        """Where it says why it has none."""
        return self.out / "figures" / f"{key}.error.json"

    def get(self, key: str, recipe: str | None = None) -> dict[str, Any] | None:
        """The figures of a cell, or None; with ``recipe``, only when they are of that recipe (by digest)."""
        file = self.file(key)
        if not file.is_file():
            return None
        value: dict[str, Any] = read_json(file)
        if value.get("inputs") != self.inputs or (recipe and value.get("recipe") != recipe):
            return None
        return value

    def put(self, key: str, value: Mapping[str, Any]) -> None:
        """Publish the figures of a cell."""
        write_json(self.file(key), {**value, "inputs": self.inputs})
        self.error_file(key).unlink(missing_ok=True)

    def fail(self, key: str, error: str) -> None:
        """Say why a cell has no figures; the next run tries it again."""
        write_json(self.error_file(key), {"error": error, "inputs": self.inputs})

    def error(self, key: str) -> str | None:
        """Why a cell has no figures, where that is known."""
        file = self.error_file(key)
        if not file.is_file():
            return None
        value = read_json(file)
        return str(value["error"]) if value.get("inputs") == self.inputs else None


def arm_result(value: Mapping[str, Any], arm: str) -> ArmResult:
    """The answers of a cell's model to the test set, as the engine's figures take them."""
    unanswered = round(value["unanswered"] * len(value["right"]))
    return ArmResult(arm, value["right"], unanswered, value.get("training"))
