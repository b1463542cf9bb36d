"""``use: sglang`` with a stand-in for SGLang that computes with transformers: answers and scores are those of ``use: hf``."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nfilter import (
    Completion,
    Message,
    ModelError,
    Sample,
    Site,
)
from nfilter.registry.provenance import backend_code
from nfilter.testing import check_backend
from nfilter_sglang.backend import SGLangBackend
from tests.engine_cases import FORM, PROMPTS, SAMPLES, ask, check_answers, check_scores, encoded

Open = Callable[..., SGLangBackend]


def test_the_conformance_kit_accepts_the_backend(sglang: Any, site: Site) -> None:
    requests = [ask(text) for text in PROMPTS]
    config = SGLangBackend.Config(model="tiny")
    able = check_backend(SGLangBackend, config, site, requests=requests, samples=SAMPLES)
    assert able.logprobs
    assert [engine.stopped for engine in sglang.Engine.started] == [True]


def test_greedy_answers_and_their_log_probabilities_are_those_of_hf(opened: Open, hf: Any) -> None:
    check_answers(opened(), hf)


def test_every_sampling_parameter_is_given_and_draws_have_seeds_of_their_own(
    opened: Open, sglang: Any
) -> None:
    model = opened(deterministic=True)
    requests = [ask("a", temperature=0.7, top_p=0.9, seed=seed) for seed in (0, 0, 1)]
    requests.append(replace(requests[0], draw=1))
    answers = model.generate(requests)
    (engine,) = sglang.Engine.started
    assert {each.params.given for each in engine.requests} == {(0.7, 0.9, -1, 0.0)}
    assert [each.ids for each in engine.requests] == [list(model._model.reader.encode_request(each).ids) for each in requests]  # fmt: skip
    seeds = [each.params.sampling_seed for each in engine.requests]
    assert seeds[0] == seeds[1]
    assert len(set(seeds)) == 3
    assert answers[0] == answers[1]
    model.generate([ask("a", seed=5)])
    assert engine.requests[-1].params.sampling_seed is None


def test_log_probabilities_of_draws_are_those_before_temperature(
    opened: Open, sglang: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    made: list[int] = []
    answered = sglang.Engine.answered

    def answer(self: Any, request: Any) -> Any:
        output = answered(self, request)
        made[:] = output["output_ids"]
        return output

    monkeypatch.setattr(sglang.Engine, "answered", answer)
    (warm,) = opened().generate([ask("heron", temperature=5.0, max_tokens=4)])
    (engine,) = sglang.Engine.started
    prompt = engine.requests[0].ids
    with torch.no_grad():
        rows = engine.module(torch.tensor([prompt + made])).logits[0, len(prompt) - 1 : -1]
    wanted = rows.log_softmax(-1)[range(len(made)), made].tolist()
    assert list(warm.logprobs or ()) == pytest.approx(wanted, abs=1e-4)


def test_the_engine_is_started_once_with_the_settings_of_the_recipe(
    opened: Open, sglang: Any, site: Site
) -> None:
    model = opened(dtype="float32", gpu_memory=0.3, gpus=2, copies=4, eager=True, max_length=512)
    model.generate([ask("a")])
    model.generate([ask("b")])
    (engine,) = sglang.Engine.started
    assert engine.settings == {
        "model_path": str(site.models["tiny"]), "load_format": "safetensors", "trust_remote_code": False, "dtype": "float32",
        "context_length": 512, "mem_fraction_static": 0.3, "tp_size": 2, "dp_size": 4, "disable_cuda_graph": True,
        "enable_deterministic_inference": False, "allow_auto_truncate": False, "lora_strict_loading": True, "log_level": "error",
    }  # fmt: skip
    model.close()
    assert engine.stopped
    model.generate([ask("a")])
    assert len(sglang.Engine.started) == 2


def test_a_prompt_that_cannot_be_answered_is_a_failure_and_the_others_are_answered(
    opened: Open, sglang: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = opened(max_length=64)
    answered = sglang.Engine.answered

    def answer(self: Any, request: Any) -> Any:
        output = answered(self, request)
        if request.params.max_new_tokens == 3:
            # What SGLang reports of an answer whose probabilities are not finite.
            output["meta_info"]["finish_reason"] = {"type": "stop", "matched": "NaN happened"}
        return output

    monkeypatch.setattr(sglang.Engine, "answered", answer)
    requests = [ask("heron " * 200), ask("sot 218"), ask("a", temperature=float("inf")), ask("b", max_tokens=0), ask("c", max_tokens=3)]  # fmt: skip
    long, right, hot, none, odd = model.generate(requests)
    assert long.failure is not None
    assert long.failure.kind == "too_long"
    assert right.failure is None
    assert str(hot.failure) == (
        "refused: SGLang refuses the request: temperature must be a non-negative finite number, got inf."
    )
    assert (none.text, none.finish, none.logprobs) == ("", "length", ())
    assert str(odd.failure) == "server: SGLang ended the request: NaN happened"


def test_an_error_of_one_request_is_its_failure(
    opened: Open, sglang: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = sglang.Engine.async_generate

    async def generate(self: Any, **arguments: Any) -> Any:
        if arguments["sampling_params"]["max_new_tokens"] == 3:
            raise RuntimeError("out of something")
        output = await asked(self, **arguments)
        if arguments["sampling_params"]["max_new_tokens"] == 4:
            del output["output_ids"]
        return output

    monkeypatch.setattr(sglang.Engine, "async_generate", generate)
    broken, other, right = opened().generate(
        [ask("c", max_tokens=3), ask("c", max_tokens=4), ask("sot 218")]
    )
    assert "SGLang ended the request" in str(other.failure)
    assert str(broken.failure) == "server: SGLang ended the request: out of something"
    assert right.failure is None


def test_two_streams_of_one_engine_take_their_own_answers(opened: Open, sglang: Any) -> None:
    model = opened()
    one = model.open_stream([ask("sot 218"), ask("b")], list)
    other = model.open_stream([ask("lun 31"), ask("heron")], list)
    came: dict[int, dict[int, Completion]] = {0: {}, 1: {}}
    streams = {0: one, 1: other}
    while streams:
        for name, stream in list(streams.items()):
            answer = next(stream, "the end")
            if answer == "the end":
                del streams[name]
            elif isinstance(answer, tuple):
                came[name][answer[0]] = answer[1]
    alone = [model.generate([ask(text)])[0] for text in ("sot 218", "b", "lun 31", "heron")]
    assert [came[0][0], came[0][1], came[1][0], came[1][1]] == alone
    assert not sglang.Engine.started[0].waiting


def test_further_requests_join_a_stream(opened: Open) -> None:
    model = opened()
    waiting = [[ask("mel 4 7")], [ask("lun 31"), ask("heron")]]
    stream = model.open_stream([ask("sot 218"), ask("b")], lambda: waiting.pop() if waiting else [])
    came = dict(each for each in stream if each is not None)
    texts = ["sot 218", "b", "lun 31", "heron", "mel 4 7"]
    assert [came[number] for number in range(5)] == model.generate([ask(text) for text in texts])


def test_a_stream_that_is_left_aborts_its_own_requests_only(opened: Open, sglang: Any) -> None:
    """SGLang aborts every request whose id begins with a given one; here each of ten would be the beginning of others."""
    model = opened()
    kept = model.stream([ask(f"sot {n}", max_tokens=2) for n in range(12)])
    first = next(kept)
    left = model.stream([ask("lun 31"), ask("heron")])
    next(left)
    left.close()
    answers = [first, *kept]
    assert sorted(each[0] for each in answers if each is not None) == list(range(12))
    assert all(each[1].failure is None for each in answers if each is not None)
    (engine,) = sglang.Engine.started
    ends = [request.rid for request in engine.requests[12:]]
    assert set(engine.aborted) <= set(ends)
    assert not model._model._engine._finished  # type: ignore[union-attr]


def test_a_schema_goes_to_sglang_and_one_that_it_cannot_express_is_left_out(
    opened: Open, sglang: Any
) -> None:
    model = opened()
    plain = ask("sot 218")
    odd = {"type": "object", "patternProperties": {"^a": {"type": "string"}}}
    answers = model.generate([replace(plain, response_schema=FORM), replace(plain, response_schema=odd), plain])  # fmt: skip
    forms = [each.params.json_schema for each in sglang.Engine.started[0].requests]
    assert [form and json.loads(form) for form in forms] == [FORM, None, None]
    assert answers[0] == answers[1] == answers[2]


def test_an_error_beside_those_of_requests_ends_the_run_with_the_reason(
    opened: Open, sglang: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Any, rid: str = "", abort_all: bool = False) -> None:
        raise RuntimeError("the socket is closed")

    model = opened()
    stream = model.stream([ask("sot 218"), ask("b")])
    next(stream)
    manager = type(sglang.Engine.started[0].tokenizer_manager)
    monkeypatch.setattr(manager, "abort_request", broken)
    stream.close()
    with pytest.raises(ModelError, match="SGLang's engine has stopped: the socket is closed"):
        model.generate([ask("a")])


def test_log_probabilities_that_are_missing_or_not_finite_are_a_failure(
    opened: Open, sglang: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = opened()
    answered = sglang.Engine.answered

    def broken(change: Callable[[list[Any]], Any]) -> Callable[[Any, Any], Any]:
        def answer(self: Any, request: Any) -> Any:
            output = answered(self, request)
            change(output["meta_info"]["output_token_logprobs"])
            change(output["meta_info"]["input_token_logprobs"])
            return output

        return answer

    def nan(found: list[Any]) -> None:
        found[:] = [(float("nan"), token, None) for _, token, _ in found]

    monkeypatch.setattr(sglang.Engine, "answered", broken(nan))
    assert "is not finite" in str(model.generate([ask("a")])[0].failure)
    with pytest.raises(ModelError, match="a loss is not finite; set dtype: float32"):
        model.score(encoded(model)[:1])

    def shifted(found: list[Any]) -> None:
        found[:] = [(chance, token + 1, text) for chance, token, text in found]

    def doubled(found: list[Any]) -> None:
        found += found[:1]

    for change in (shifted, doubled):
        monkeypatch.setattr(sglang.Engine, "answered", broken(change))
        assert "SGLang returned log-probabilities for 0 of" in str(model.generate([ask("a")])[0].failure)  # fmt: skip
        with pytest.raises(ModelError, match=r"sample '0': SGLang returned log-probabilities for 0 of"):  # fmt: skip
            model.score(encoded(model)[:1])
    monkeypatch.setattr(sglang.Engine, "answered", broken(lambda found: found and found.pop()))
    assert "SGLang returned log-probabilities for" in str(model.generate([ask("a")])[0].failure)
    with pytest.raises(ModelError, match=r"sample '0': SGLang returned log-probabilities for \d+"):
        model.score(encoded(model)[:1])


def test_scores_are_those_of_hf(opened: Open, hf: Any, sglang: Any) -> None:
    model = opened()
    talk = (*SAMPLES[0].messages, Message("user", "and?"), Message("assistant", "no"), Message("user", "b"))  # fmt: skip
    samples = encoded(model, [*SAMPLES, Sample("talk", talk), Sample("none", talk[:1])])
    check_scores(model, hf, samples)
    requests = sglang.Engine.started[0].requests
    # A sample without a response is not sent, and tokens after the last response are not.
    assert len(requests) == 5
    assert len(requests[4].ids) < len(samples[4].ids)
    # Log-probabilities are read from the first response on, so that SGLang may cache what is before it.
    starts = [int(np.flatnonzero(each.predicted)[0]) - 1 for each in samples[:5]]
    assert [each.start for each in requests] == starts
    assert min(starts) > 0


def test_a_sample_of_the_length_of_the_context_is_named(opened: Open) -> None:
    model = opened(max_length=24)
    sample = Sample("a", (Message("user", "b"), Message("assistant", "heron " * 40)))
    (whole,) = model.encode([sample], max_length=99, turns="all")
    with pytest.raises(ModelError, match=r"has 24 tokens, and SGLang scores at most 23"):
        model.score([whole])
    (short,) = model.encode([sample], max_length=23, turns="all")
    assert np.isfinite(model.score([short])[0][short.predicted]).all()


def test_the_fingerprint_is_that_of_the_weights_and_the_dtype(
    opened: Open, hf: Any, plugins: Any, site: Site
) -> None:
    marks = {
        opened(**settings).fingerprint()
        for settings in ({}, {"gpus": 2, "copies": 2, "gpu_memory": 0.9, "eager": True}, {"dtype": "float32"}, {"chat_template": "none"})
    }  # fmt: skip
    assert len(marks) == 3
    vllm = plugins.backends["vllm"]
    assert vllm(vllm.Config(model="tiny"), site).fingerprint() not in marks
    assert backend_code(opened()) != backend_code(hf)


# --- settings ---------------------------------------------------------------------------------------------------


def problems(site: Site, **config: Any) -> list[str]:
    return list(SGLangBackend.problems(SGLangBackend.Config(**{"model": "tiny", **config}), site))


def test_a_recipe_without_faults_has_none(sglang: Any, site: Site) -> None:
    assert problems(site) == []
    config = SGLangBackend.Config(model="tiny", gpus=2, copies=2)
    assert list(SGLangBackend.facts(config, site)) == [
        "SGLang 0.5.23 on 4 GPUs; it takes 50% of the memory until the run ends"
    ]
    assert "is not known" in problems(site, model="tinyy")[0]
    assert any("is one file (GGUF)" in each for each in problems(site, model="m.gguf"))


def test_an_old_version_is_named(sglang: Any, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nfilter.models.engines.reader.version", lambda _: "0.5.9")
    assert problems(site) == [
        "sglang needs version 0.5.23 or newer of SGLang, and 0.5.9 is installed: pip install --upgrade 'sglang>=0.5.23'"
    ]
    monkeypatch.setattr("nfilter.models.engines.reader.version", lambda _: "0.5.23")
    assert problems(site) == []


def test_tools_are_reported_as_for_hf(sglang: Any, site: Site, hf: Any) -> None:
    told = list(SGLangBackend.tool_problems(SGLangBackend.Config(model="tiny"), site))
    assert told == list(type(hf).tool_problems(type(hf).Config(model="tiny"), site))


def test_importing_the_plugin_imports_neither_torch_nor_sglang() -> None:
    import subprocess
    import sys

    code = "import sys, nfilter_sglang.backend, nfilter_sglang.host; print({'torch', 'sglang', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parent)  # fmt: skip
    assert done.stdout.strip() == "set()"
