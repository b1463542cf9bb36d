"""One recipe over the model here and over the same model behind an API, by both transports: the same answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from nfilter import Completion, Message, Request, Sampling, Site
from nfilter.engine.run import run
from nfilter.recipe.model import load as load_recipe
from nfilter.registry.loading import load
from nfilter.store.samples import open_samples
from tests.model_server.faults import Script
from tests.model_server.server import ModelServer

RECIPE = """\
name: backends
answer: exact
models:
  expert: {model}
source: {{use: tiny, rows: 60, noise: 0.5}}
samples:
  - {{use: robustft.answer, llm: expert, prompt: tiny/answer, into: base, max_tokens: 16}}
  - {{use: robustft.reason, llm: expert, prompt: tiny/reason, rounds: 0, into: reasoning, max_tokens: 80}}
  - {{use: robustft.check, views: [base, reasoning], vote: all}}
"""


def answers(out: Path) -> dict[str, Any]:
    """By sample, what both views answered and whether the label was flagged."""
    (last,) = out.glob("03-robustft.check")
    return {
        sample.id: (
            sample.notes["base"]["answer"],  # type: ignore[index, call-overload]
            sample.notes["reasoning"]["answer"],  # type: ignore[index, call-overload]
            sample.notes["check"]["flagged"],  # type: ignore[index, call-overload]
        )
        for sample in open_samples(last).samples()
    }


def likelihoods(out: Path) -> dict[str, float]:
    """By sample, the nll of the reasoning."""
    (last,) = out.glob("03-robustft.check")
    return {s.id: s.notes["reasoning"]["nll"] for s in open_samples(last).samples()}  # type: ignore[index, call-overload]


@pytest.mark.slow
def test_swapping_the_backend_changes_one_line_and_no_answer(tmp_path: Path) -> None:
    plugins = load()
    hf = next(item for item in plugins.of_kind("backend") if item.name == "hf").cls
    served = hf(hf.Config(model="tiny"), Site(tmp_path, plugins.models))

    def answer(messages: Sequence[Mapping[str, Any]]) -> Completion:
        asked = tuple(Message(turn["role"], turn["content"]) for turn in messages)
        steps = str(messages[-1]["content"]).endswith("steps:")
        sampling = Sampling(max_tokens=80 if steps else 16)
        done: list[Completion] = served.generate([Request(asked, sampling, logprobs=True)])
        return done[0]

    found = {}
    with ModelServer(Script(answer=answer)) as server:
        api = f'model: tiny, api_base: "{server.url}"'
        for name, model in {
            "hf": "{use: hf, model: tiny}",
            "aiohttp": f"{{use: litellm, {api}}}",
            "litellm": f"{{use: litellm, {api}, transport: litellm, logprobs: false}}",
        }.items():
            file = tmp_path / f"{name}.yaml"
            file.write_text(RECIPE.format(model=model))
            run(load_recipe(file, plugins), plugins, tmp_path / name)
            found[name] = answers(tmp_path / name)
    served.close()
    assert len(found["hf"]) == 60
    nll = {name: likelihoods(tmp_path / name) for name in ("hf", "aiohttp")}
    assert nll["aiohttp"] == pytest.approx(nll["hf"], abs=1e-5)
    for name in ("aiohttp", "litellm"):
        other = {key for key in found["hf"] if found[name][key] != found["hf"][key]}
        assert len(other) <= 0.01 * 60, other
