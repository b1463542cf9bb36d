"""What every inference engine does as ``use: hf`` does: the requests, samples, adapters and runs by which its tests compare the two."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from nfilter import Completion, Message, ModelRef, Request, Sample, Sampling, TokenSample
from tests.command_line import call

PROMPTS = ["sot 218", "what is a heron?", "mel 4 7", "lun 31"]
SAMPLES = [
    Sample(str(n), (Message("user", text), Message("assistant", f"it is {n}")))
    for n, text in enumerate(PROMPTS)
]
FORM = {"type": "object", "properties": {"a": {"type": "string"}}}


def ask(text: str, *, logprobs: bool = True, **sampling: Any) -> Request:
    asked = Sampling(**{"max_tokens": 12, **sampling})
    return Request((Message("user", text),), asked, logprobs=logprobs)


ADAPTED = [ask(text, max_tokens=6) for text in ("sot 218", "mel 4 7", "heron")]
"""Requests that adapters answer in another way than the base."""


def encoded(model: Any, samples: Sequence[Sample] = SAMPLES) -> list[TokenSample]:
    return list(model.encode(samples, max_length=256, turns="all"))


def logprobs_of(answers: Sequence[Completion]) -> list[float]:
    return [chance for answer in answers for chance in answer.logprobs or ()]


def check_answers(model: Any, hf: Any, tolerance: float = 1e-4) -> None:
    """Greedy answers are those of ``hf``, with log-probabilities that differ by ``tolerance`` at most."""
    requests = [ask(text) for text in PROMPTS]
    requests += [ask("sot 218", stop=("2", "3")), ask("mel 4 7", max_tokens=2)]
    got, wanted = model.generate(requests), hf.generate(requests)
    assert [replace(each, logprobs=None) for each in got] == [replace(each, logprobs=None) for each in wanted]  # fmt: skip
    assert {answer.finish for answer in got} == {"stop", "length"}
    assert logprobs_of(got) == pytest.approx(logprobs_of(wanted), abs=tolerance)
    silent = model.generate([ask(PROMPTS[0], logprobs=False)])
    assert [answer.logprobs for answer in silent] == [None]


def check_scores(
    model: Any, hf: Any, samples: Sequence[TokenSample], tolerance: float = 1e-4
) -> None:
    for got, wanted in zip(model.score(samples), hf.score(samples), strict=True):
        np.testing.assert_allclose(got, wanted, atol=tolerance, equal_nan=True)


def check_seed(model: Any) -> None:
    """The same draw is the same answer."""
    drawn = ask("heron", max_tokens=8, temperature=1.0, seed=3)
    assert model.generate([drawn]) == model.generate([drawn])


def make_adapter(base: Path, out: Path, rank: int, **config: Any) -> ModelRef:
    """An adapter made with PEFT alone, both of its matrices random."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    module = AutoModelForCausalLM.from_pretrained(base)
    settings = {"r": rank, "lora_alpha": 2 * rank, "target_modules": ["q_proj", "v_proj"], **config}
    wrapped = get_peft_model(module, LoraConfig(task_type="CAUSAL_LM", **settings))
    generator = torch.Generator().manual_seed(rank)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    wrapped.save_pretrained(out)
    return ModelRef(str(out), "adapter", str(base), f"{rank:064}")


def with_settings(ref: ModelRef, folder: Path, **config: Any) -> ModelRef:
    """A copy of an adapter in ``folder``, with other values in its adapter_config.json."""
    shutil.copytree(ref.path, folder)
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **config}))
    return replace(ref, path=str(folder))


def check_adapters(model: Any, hf: Any, refs: Sequence[ModelRef]) -> None:
    """With each adapter answers and scores are those of ``hf``, and without one those of the base, before and after."""
    samples = encoded(model)
    plain = model.generate(ADAPTED)
    for ref in refs:
        with model.adapted(ref) as one, hf.adapted(ref) as other:
            got, wanted = one.generate(ADAPTED), other.generate(ADAPTED)
            assert [answer.text for answer in got] == [answer.text for answer in wanted]
            assert logprobs_of(got) == pytest.approx(logprobs_of(wanted), abs=1e-3)
            assert got != plain
            check_scores(one, other, samples, tolerance=1e-3)
    assert model.generate(ADAPTED) == plain


def recipe(name: str, expert: Any) -> dict[str, Any]:
    """A recipe with views, token weights and a trained adapter, in which ``expert`` answers and scores."""
    return {
        "name": name,
        "answer": "exact",
        "models": {
            "student": {"use": "hf", "model": "tiny", "device": "cpu", "dtype": "float32"},
            "expert": expert,
        },
        "source": {"use": "tiny", "split": "train", "rows": 10, "noise": {"ratio": 0.5}},
        "samples": [
            {"use": "robustft.answer", "llm": "expert", "max_tokens": 8, "into": "base"},
            {"use": "robustft.reason", "llm": "expert", "prompt": "tiny/reason", "rounds": 0, "max_tokens": 40, "into": "reasoning"},
            {"use": "robustft.check", "views": ["base", "reasoning"], "vote": "any"},
        ],
        "arms": ["cleaned"],
        "encode": {"model": "student", "max_length": 64},
        "tokens": [{"use": "stm.mask", "model": "expert", "above": 4}],
        "train": {"use": "hf.lora", "model": "student", "rank": 2, "epochs": 1},
    }  # fmt: skip


def check_run(folder: Path, backend: str) -> Path:
    """A run with a backend ends as one with ``hf`` does: the same rows, labels and token weights. Returns its folder."""
    experts = {"hf": "student", backend: {"use": backend, "model": "tiny"}}
    for name, expert in experts.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(recipe(name, expert)))
        done = call("run", f"{name}.yaml", cwd=folder)
        assert done.code == 0, done.err
    one, other = (folder / "runs" / name for name in experts)
    for file in ("cleaned.jsonl", "dropped.jsonl"):
        assert (one / file).read_bytes() == (other / file).read_bytes()
    weights = [np.load(run / "tokens" / "weights.npy") for run in (one, other)]
    assert weights[0].size > 100
    assert (weights[0] == weights[1]).all()
    assert 0 < np.count_nonzero(weights[0]) < weights[0].size
    metrics = [json.loads((run / "metrics.json").read_text()) for run in (one, other)]
    assert [each["tokens"]["in_loss"] for each in metrics] == [np.count_nonzero(weights[0])] * 2
    assert metrics[0]["views"] == metrics[1]["views"]
    return other
