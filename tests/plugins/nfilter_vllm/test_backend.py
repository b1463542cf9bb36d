"""``use: vllm`` with a stand-in for vLLM that computes with transformers: answers and scores are those of ``use: hf``."""

from __future__ import annotations

import os
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
    Request,
    Sample,
    Sampling,
    Site,
)
from nfilter.models.proxy import JournaledModel
from nfilter.registry.provenance import backend_code, code_of
from nfilter.store.journal import Journal
from nfilter.testing import check_backend
from nfilter_vllm.backend import VLLMBackend
from tests.engine_cases import FORM, PROMPTS, SAMPLES, ask, check_answers, check_scores, encoded

Open = Callable[..., VLLMBackend]


def test_the_conformance_kit_accepts_the_backend(vllm: Any, site: Site) -> None:
    requests = [ask(text) for text in PROMPTS]
    config = VLLMBackend.Config(model="tiny")
    able = check_backend(VLLMBackend, config, site, requests=requests, samples=SAMPLES)
    assert able.logprobs
    assert [engine.llm_engine.engine_core.stopped for engine in vllm.LLM.started] == [True]


def test_greedy_answers_and_their_log_probabilities_are_those_of_hf(opened: Open, hf: Any) -> None:
    check_answers(opened(), hf)


def test_the_prompt_of_a_request_is_that_of_hf(opened: Open, hf: Any, vllm: Any) -> None:
    talk = (Message("system", "be short"), Message("user", "sot 218"), Message("assistant", "it"))
    requests = [Request(talk[1:2], Sampling(max_tokens=1)), Request(talk[1:], Sampling(max_tokens=1))]  # fmt: skip
    opened().generate(requests)
    sent = [tuple(each.ids) for each in vllm.LLM.started[0].requests]
    assert sent == [hf.encode_request(request).ids for request in requests]
    assert sent[1][: len(sent[0])] == sent[0]


def test_every_sampling_parameter_is_given_and_seeds_depend_on_the_draw(
    opened: Open, vllm: Any
) -> None:
    model = opened()
    requests = [ask("a", temperature=0.7, top_p=0.9, seed=seed) for seed in (0, 0, 1)]
    requests.append(replace(requests[0], draw=1))
    answers = model.generate(requests)
    params = [each.params for each in vllm.LLM.started[0].requests]
    assert {(p.temperature, p.top_p, p.top_k, p.min_p, p.repetition_penalty) for p in params} == {
        (0.7, 0.9, 0, 0.0, 1.0)
    }
    seeds = [p.seed for p in params]
    assert seeds[0] == seeds[1]
    assert len(set(seeds)) == 3
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert answers[0] == answers[1]
    model.generate([ask("a", seed=5)])
    assert vllm.LLM.started[0].requests[-1].params.seed is None


def test_the_engine_is_started_once_with_the_settings_of_the_recipe(
    opened: Open, vllm: Any, site: Site
) -> None:
    model = opened(dtype="float32", gpu_memory=0.3, gpus=2, eager=True, max_length=512)
    model.generate([ask("a")])
    model.generate([ask("b")])
    (engine,) = vllm.LLM.started
    assert engine.base == str(site.models["tiny"])
    assert engine.settings == {
        "tokenizer_mode": "hf", "load_format": "safetensors", "trust_remote_code": False, "dtype": "float32",
        "max_model_len": 512, "gpu_memory_utilization": 0.3, "tensor_parallel_size": 2, "enforce_eager": True,
        "generation_config": "vllm", "logprobs_mode": "raw_logprobs", "use_tqdm_on_load": False,
    }  # fmt: skip
    assert os.environ["VLLM_NO_USAGE_STATS"] == "1"
    assert os.environ["VLLM_WORKER_MULTIPROC_METHOD"] == "spawn"
    model.close()
    assert engine.llm_engine.engine_core.stopped
    model.generate([ask("a")])
    assert len(vllm.LLM.started) == 2


def test_what_the_user_has_set_for_vllm_stays(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "DEBUG")
    opened().generate([ask("a")])
    assert os.environ["VLLM_LOGGING_LEVEL"] == "DEBUG"


def test_a_prompt_that_cannot_be_answered_is_a_failure_and_the_others_are_answered(
    opened: Open,
) -> None:
    model = opened(max_length=64)
    system = Request((Message("tool", "x"),), Sampling(max_tokens=4))
    requests = [ask("heron " * 200), ask("sot 218"), ask("a", temperature=3.0), ask("b", max_tokens=0)]  # fmt: skip
    long, right, hot, none = model.generate(requests)
    assert long.failure is not None
    assert long.failure.kind == "too_long"
    assert "the model's context holds 64" in long.failure.detail
    assert right.failure is None
    assert hot.failure is not None
    assert str(hot.failure) == (
        "refused: vLLM refuses the request: temperature must be in [0, 2], got 3.0."
    )
    assert (none.text, none.finish, none.logprobs) == ("", "length", ())
    assert model.generate([system])[0] == model._model.reader.generate([system])[0]


def test_answers_come_one_by_one_and_further_requests_join_them(opened: Open) -> None:
    model = opened()
    waiting = [[ask("mel 4 7")], [ask("lun 31"), ask("heron")]]
    stream = model.open_stream([ask("sot 218"), ask("b")], lambda: waiting.pop() if waiting else [])
    came = [each for each in stream if each is not None]
    # The stand-in answers the last request first.
    assert came[0][0] == 1
    assert sorted(number for number, _ in came) == [0, 1, 2, 3, 4]
    texts = ["sot 218", "b", "lun 31", "heron", "mel 4 7"]
    alone = model.generate([ask(text) for text in texts])
    assert [answer for _, answer in sorted(came, key=lambda each: each[0])] == alone


def test_two_streams_of_one_engine_take_their_own_answers(opened: Open, vllm: Any) -> None:
    model = opened()
    one = model.open_stream([ask("sot 218"), ask("b")], list)
    other = model.open_stream([ask("lun 31"), ask("heron")], list)
    came = [next(one), next(other), next(one), next(other), next(one)]
    assert [next(each, "the end") for each in (one, other)] == ["the end", "the end"]
    # At the third step the engine answers the other stream's request.
    assert came[2] is None
    alone = [model.generate([ask(text)])[0] for text in ("b", "heron", "lun 31", "sot 218")]
    assert [came[at] for at in (0, 1, 3, 4)] == list(zip((1, 1, 0, 0), alone, strict=True))
    assert not vllm.LLM.started[0].llm_engine.waiting


def test_after_an_error_of_the_stage_no_request_goes_into_the_engine(
    opened: Open, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answers of those in it are stored, and the error does not wait for the others."""
    monkeypatch.setattr("nfilter.models.engines.answers._IN_FLIGHT", 2)
    journal = Journal(tmp_path / "journal.db")
    model = JournaledModel("m", opened(), "weights", journal, "01-a", interrupt=site.interrupt)

    def fails(number: int, answer: Completion) -> None:
        raise RuntimeError("the stage fails")

    requests = [ask(f"sot {n}") for n in range(9)]
    with pytest.raises(RuntimeError, match="the stage fails"):
        model.converse(requests, fails)
    assert journal.answers() == 2
    assert len(model.generate(requests)) == journal.answers() == 9
    journal.close()


def test_a_stream_that_is_left_leaves_no_request_in_the_engine(opened: Open, vllm: Any) -> None:
    model = opened()
    stream = model.stream([ask(text) for text in PROMPTS])
    next(stream)
    stream.close()
    assert not vllm.LLM.started[0].llm_engine.waiting
    assert not model._model._engine._finished  # type: ignore[union-attr]


@pytest.mark.types(
    "run the same command to resume. If memory ran out, lower gpu_memory or max_length"
)
def test_an_engine_that_stops_ends_the_run_with_the_reason(opened: Open, vllm: Any) -> None:
    model = opened()
    model.generate([ask("a")])
    vllm.LLM.started[0].llm_engine.engine_core.shutdown()
    with pytest.raises(ModelError, match=r"engine has stopped: EngineCore encountered an issue"):
        model.generate([ask("a")])
    # The same call again, with less memory, on an engine of its own.
    assert opened(gpu_memory=0.3, max_length=512).generate([ask("a")])[0].failure is None


@pytest.mark.types(
    "If memory is short, raise gpu_memory, set max_length: 8192, or split the weights with gpus: 2",
    "lower gpu_memory below what is free",
)
def test_an_engine_that_cannot_start_names_the_settings(
    opened: Open, vllm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = vllm.LLM.__init__

    def short(self: Any, model: str, **settings: Any) -> None:
        if settings["gpu_memory_utilization"] < 0.6 and settings["max_model_len"] > 512:
            raise RuntimeError("Engine core initialization failed.\nSee root cause above.")
        start(self, model, **settings)

    def full(self: Any, model: str, **settings: Any) -> None:
        if settings["gpu_memory_utilization"] > 0.4:
            raise ValueError(
                "Free memory on device cuda:0 (60.0/139.0 GiB) on startup is less than desired GPU memory utilization"
            )
        start(self, model, **settings)

    monkeypatch.setattr(vllm.LLM, "__init__", full)
    with pytest.raises(ModelError, match=r"Free memory on device.*lower gpu_memory below what is free"):  # fmt: skip
        opened().generate([ask("a")])
    assert opened(gpu_memory=0.4).generate([ask("a")])[0].failure is None
    monkeypatch.setattr(vllm.LLM, "__init__", short)
    with pytest.raises(ModelError, match=r"cannot start .*tiny.*: Engine core initialization failed\. The"):  # fmt: skip
        opened().generate([ask("a")])
    for settings in ({"gpu_memory": 0.8}, {"max_length": 512}):
        assert opened(**settings).generate([ask("a")])[0].failure is None


def test_log_probabilities_that_are_missing_or_not_finite_are_a_failure(
    opened: Open, vllm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = opened()
    answered = vllm.LLM.answered

    def broken(value: float | None) -> Callable[[Any, Any], Any]:
        def answer(self: Any, request: Any) -> Any:
            output = answered(self, request)
            (made,) = output.outputs
            if value is None:
                made.logprobs.pop()
            else:
                made.logprobs[0] = {made.token_ids[0]: vllm.Logprob(value)}
            return output

        return answer

    monkeypatch.setattr(vllm.LLM, "answered", broken(float("nan")))
    assert "is not finite" in str(model.generate([ask("a")])[0].failure)
    monkeypatch.setattr(vllm.LLM, "answered", broken(None))
    assert "log-probabilities for" in str(model.generate([ask("a")])[0].failure)


# --- schemas and tools ---------------------------------------------------------------------------------------


def test_a_schema_goes_to_vllm_and_one_that_it_cannot_express_is_left_out(
    opened: Open, vllm: Any
) -> None:
    model = opened()
    plain = ask("sot 218")
    odd = {"type": "object", "patternProperties": {"^a": {"type": "string"}}}
    answers = model.generate([replace(plain, response_schema=FORM), replace(plain, response_schema=odd), plain])  # fmt: skip
    forms = [each.params.structured_outputs for each in vllm.LLM.started[0].requests]
    assert [form and form.json for form in forms] == [FORM, None, None]
    assert answers[0] == answers[1] == answers[2]


def test_a_schema_for_another_kind_of_grammar_is_left_out(opened: Open, vllm: Any) -> None:
    """vLLM takes such a call, and then ends it without a reason."""
    model = opened()
    plain = ask("sot 218")
    other = {"type": "object", "properties": {"a": {"type": "integer", "multipleOf": 3}}}
    asked = [replace(plain, response_schema=FORM), replace(plain, response_schema=other)]
    assert model.generate(asked[:1]) + model.generate(asked[1:]) == model.generate([plain, plain])
    forms = [each.params.structured_outputs for each in vllm.LLM.started[0].requests]
    assert [form and form.json for form in forms] == [FORM, other, None, None, None]


def test_an_answer_that_ends_with_an_error_is_a_failure(
    opened: Open, vllm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = opened()
    answered = vllm.LLM.answered

    def broken(self: Any, request: Any) -> Any:
        output = answered(self, request)
        output.outputs[0].finish_reason = "error"
        return output

    monkeypatch.setattr(vllm.LLM, "answered", broken)
    assert str(model.generate([ask("a")])[0].failure) == "server: vLLM ended the request: error"


def test_a_prompt_that_opens_reasoning_is_sent_without_the_schema(
    opened: Open, vllm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = opened()
    monkeypatch.setattr(model._model.reader, "prompt_end", lambda _: "<|assistant|>\n<think>\n")
    model.generate([replace(ask("a"), response_schema=FORM)])
    assert vllm.LLM.started[0].requests[0].params.structured_outputs is None


# --- scores and adapters --------------------------------------------------------------------------------------


def test_scores_are_those_of_hf(opened: Open, hf: Any, vllm: Any) -> None:
    model = opened()
    talk = (*SAMPLES[0].messages, Message("user", "and?"), Message("assistant", "no"), Message("user", "b"))  # fmt: skip
    samples = encoded(model, [*SAMPLES, Sample("talk", talk), Sample("none", talk[:1])])
    assert [sample.ids.tolist() for sample in samples[:4]] == [s.ids.tolist() for s in encoded(hf)]
    check_scores(model, hf, samples)
    engine = vllm.LLM.started[0]
    # A sample without a response is not sent, and tokens after the last response are not.
    assert len(engine.requests) == 5
    assert len(engine.requests[4].ids) < len(samples[4].ids)
    assert {each.params.prompt_logprobs for each in engine.requests} == {0}
    assert len({prompt["cache_salt"] for prompt in engine.prompts}) == 5


@pytest.mark.types("set encode.max_length to «» or less")
def test_a_sample_of_the_length_of_the_context_is_named(opened: Open) -> None:
    model = opened(max_length=24)
    sample = Sample("a", (Message("user", "b"), Message("assistant", "heron " * 40)))
    (whole,) = model.encode([sample], max_length=99, turns="all")
    with pytest.raises(ModelError, match=r"sample 'a' has 24 tokens, and vLLM scores at most 23"):
        model.score([whole])
    (short,) = model.encode([sample], max_length=23, turns="all")
    assert np.isfinite(model.score([short])[0][short.predicted]).all()


@pytest.mark.types("set dtype: float32 for this model, or check its weights")
def test_scores_that_are_missing_or_not_finite_end_the_run(
    opened: Open, vllm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = opened()
    samples = encoded(model)[:1]
    answered = vllm.LLM.answered

    def without_the_last(self: Any, request: Any) -> Any:
        output = answered(self, request)
        output.prompt_logprobs.pop()
        return output

    def half(self: Any, request: Any) -> Any:
        output = answered(self, request)
        if self.settings["dtype"] != "float32":
            output.prompt_logprobs = [None, *({token: vllm.Logprob(float("nan"))} for token in request.ids[1:])]  # fmt: skip
        return output

    def shifted(self: Any, request: Any) -> Any:
        """Those of the tokens before, or one too many."""
        output = answered(self, request)
        output.prompt_logprobs.insert(1, output.prompt_logprobs[1])
        if self.settings["max_model_len"] < 512:
            output.prompt_logprobs.pop()
        return output

    for broken, chosen in ((without_the_last, model), (shifted, model), (shifted, opened(max_length=256))):  # fmt: skip
        monkeypatch.setattr(vllm.LLM, "answered", broken)
        with pytest.raises(ModelError, match=r"sample '0': vLLM returned log-probabilities for \d+ of"):  # fmt: skip
            chosen.score(samples)
    monkeypatch.setattr(vllm.LLM, "answered", half)
    with pytest.raises(ModelError, match="a loss is not finite"):
        model.score(samples)
    assert np.isfinite(opened(dtype="float32").score(samples)[0][samples[0].predicted]).all()


def test_the_code_that_reads_answers_is_part_of_the_models_code(opened: Open, hf: Any) -> None:
    model = opened()
    assert backend_code(hf) == code_of(type(hf))
    assert backend_code(model) not in (code_of(type(model)), backend_code(hf))


def test_the_fingerprint_is_that_of_the_weights_and_the_dtype(opened: Open, hf: Any) -> None:
    marks = {
        opened(**settings).fingerprint()
        for settings in ({}, {"gpus": 2, "gpu_memory": 0.9, "eager": True}, {"dtype": "float32"}, {"chat_template": "none"})
    }  # fmt: skip
    assert len(marks) == 3
    assert hf.fingerprint() not in marks


# --- settings ---------------------------------------------------------------------------------------------------


def problems(site: Site, **config: Any) -> list[str]:
    return list(VLLMBackend.problems(VLLMBackend.Config(**{"model": "tiny", **config}), site))


def test_a_recipe_without_faults_has_none(vllm: Any, site: Site) -> None:
    assert problems(site) == []
    config = VLLMBackend.Config(model="tiny", gpus=2)
    assert list(VLLMBackend.facts(config, site)) == [
        "vLLM 0.33.0 on 2 GPUs; it reserves 50% of the memory until the run ends"
    ]
    assert "is not known" in problems(site, model="tinyy")[0]


def test_an_old_version_is_named(vllm: Any, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nfilter.models.engines.reader.version", lambda _: "0.32.0")
    assert problems(site) == [
        "vllm needs version 0.33 or newer of vLLM, and 0.32.0 is installed: pip install --upgrade 'vllm>=0.33'"
    ]
    monkeypatch.setattr("nfilter.models.engines.reader.version", lambda _: "0.33.0")
    assert problems(site) == []


def test_a_gguf_file_is_for_hf(vllm: Any, site: Site) -> None:
    (said,) = (each for each in problems(site, model="m.gguf") if "GGUF" in each)
    assert said.endswith("set use: hf for this model")
    hf = site.backends["hf"]
    assert list(hf.problems(hf.Config(model="tiny"), site)) == []  # type: ignore[attr-defined]


def test_tools_are_reported_as_for_hf(vllm: Any, site: Site, hf: Any) -> None:
    told = list(VLLMBackend.tool_problems(VLLMBackend.Config(model="tiny"), site))
    assert told == list(type(hf).tool_problems(type(hf).Config(model="tiny"), site))
