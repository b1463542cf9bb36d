"""Pairs and mixes in whole runs: stopped and gone on with, parents in other chunks, and what explain says of it all."""

import io
import json
import re
import sys
from pathlib import Path

import pytest
from rich.console import Console

from nfilter import Abilities, Embeds, Generates, StageConfig
from nfilter.engine.run import run
from nfilter.recipe.model import load
from nfilter.report import explain
from nfilter.testing import FakeEncoder
from nfilter_entp.mixing.mix import Mix
from nfilter_entp.mixing.pair import Pair
from nfilter_entp.mixing.repair_cycle import ROLES

sys.path.insert(0, str(Path(__file__).parent))

from mix_kit import FINE, Scripted, wrong

RECIPE = """
name: mixing
chunk: 2
models: {expert: {use: extra.scripted}, encoder: expert}
source: {use: example.qa, path: rows.qa}
samples:
  - {use: entp.pair, tau: 0.3}
  - {use: entp.mix, gates: {key_terms: 0, likeness: -1, near_duplicate: 1}}
"""
# Two clusters: their rows are far apart in the file, so that pairs cross chunks.
ROWS = [
    f"{what} number {n} of Berlin please => {n}"
    for n in range(4)
    for what in ("apple count", "river length")
]


class Home:
    """A folder with a recipe, and one scripted model for all its runs."""

    def __init__(self, path, catalogue, replies):
        self.path, self.model, self.stop_at = path, Scripted(replies), None
        home = self

        class Backend:
            name = "extra.scripted"
            Config = StageConfig

            @classmethod
            def abilities(cls, config):
                return Abilities(frozenset({Generates, Embeds}))

            @classmethod
            def problems(cls, config, site):
                return ()

            def __init__(self, config, site):
                pass

            def fingerprint(self):
                return "scripted"

            def close(self):
                pass

            def embed(self, texts):
                return FakeEncoder(dimensions=256).embed(texts)

            def generate(self, requests):
                if home.stop_at is not None and len(home.model.sizes) >= home.stop_at:
                    raise KeyboardInterrupt
                return home.model.generate(requests)

        self.plugins = catalogue(stages=[Pair, Mix], backends=[Backend])
        (path / "rows.qa").write_text("\n".join(ROWS) + "\n")
        (path / "r.yaml").write_text(RECIPE)

    def run(self, out="out", *assignments):
        return run(
            load(self.path / "r.yaml", self.plugins, assignments), self.plugins, self.path / out
        )

    def lines(self, name, out="out"):
        return [json.loads(line) for line in (self.path / out / name).read_text().splitlines()]


@pytest.fixture
def home(tmp_path, catalogue):
    def build(replies=None):
        tmp_path.mkdir(exist_ok=True)
        return Home(tmp_path, catalogue, replies or {})

    return build


REPAIRED = {
    "instruction_check": [wrong("instruction_check", format="no"), FINE["instruction_check"]]
}


def files(path):
    return {
        str(file.relative_to(path)): re.sub(rb'"seconds": [\d.e-]+', b"", file.read_bytes())
        for file in sorted(path.rglob("*.jsonl"))
    }


def test_pairs_are_mixed_across_chunks(home):
    world = home()
    world.run()
    kept = world.lines("cleaned.jsonl")
    dropped = {row["id"]: row["reason"] for row in world.lines("dropped.jsonl")}
    assert len(kept) == 4
    assert len(dropped) == 8
    assert all(reason.startswith("mixed into made-") for reason in dropped.values())
    metrics = json.loads((world.path / "out" / "metrics.json").read_text())
    assert "4" in json.dumps(metrics)
    notes = [
        json.loads(line)
        for path in sorted((world.path / "out" / "01-entp.pair").glob("chunk-*"))
        for line in path.read_text().splitlines()
    ]
    where = {row["id"]: index // 2 for index, row in enumerate(notes)}
    partners = {row["id"]: row["notes"]["pair"]["with"] for row in notes}
    assert any(where[one] != where[other] for one, other in partners.items())


@pytest.mark.parametrize("stop_at", range(6))
def test_a_run_that_was_stopped_asks_nothing_twice(home, stop_at):
    world = home(REPAIRED)
    world.run("whole")
    whole = [(request.sample_id, request.messages) for request in world.model.requests]
    assert len(world.model.sizes) == 6
    broken = home(REPAIRED)
    broken.stop_at = stop_at
    with pytest.raises(KeyboardInterrupt):
        broken.run("broken")
    asked = len(broken.model.requests)
    broken.stop_at = None
    broken.run("broken")
    both = [(request.sample_id, request.messages) for request in broken.model.requests]
    assert asked == 4 * stop_at
    assert sorted(both, key=repr) == sorted(whole, key=repr)
    assert files(world.path / "whole") == files(world.path / "broken")
    # And a third time nothing at all.
    broken.run("broken")
    assert len(broken.model.requests) == len(whole)


def told(run_dir, name):
    out = io.StringIO()
    console = Console(file=out, width=110, color_system=None, highlight=False)
    explain.render(explain.explain(run_dir, name), console)
    return out.getvalue()


def test_explain_tells_of_parents_templates_checks_and_gates(home):
    world = home(REPAIRED)
    world.run()
    new = world.lines("cleaned.jsonl")[0]["id"]
    found = explain.explain(world.path / "out", new)
    text = told(world.path / "out", new)
    lead, other = found.parents
    assert "kept as created" in " ".join(text.split())
    assert f"made from {lead}, {other}: 6 calls; gates passed" in " ".join(text.split())
    assert "checks instruction failed: format: no, instruction passed, answer passed" in " ".join(
        text.split()
    )
    for word in (
        "instruction_format",
        "key_terms",
        "near_duplicate",
        "value",
        "limit",
        "outcome mixed",
    ):
        assert word in text
    parent = told(world.path / "out", other)
    assert f"mixed into {new} with {lead}" in " ".join(parent.split())
    assert "similarity" in parent


def test_explain_tells_why_a_pair_failed(home):
    world = home({key: [""] for key in ROLES})
    world.run("out", "samples.1.failed=keep")
    leads = [row["id"] for row in world.lines("cleaned.jsonl")]
    assert len(leads) == 8
    texts = [told(world.path / "out", name) for name in leads]
    assert sum("failed: no instruction passed" in " ".join(text.split()) for text in texts) == 8 / 2
    assert all(
        "not mixed: no instruction passed its check in 3 drafts" in " ".join(text.split())
        for text in texts
    )
