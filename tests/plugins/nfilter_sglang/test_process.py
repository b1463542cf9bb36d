"""The process that has SGLang's engine: it ends with the run, with its own reason, and nothing of it reaches the run's process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nfilter import Message, ModelError, Request, Sampling, Site
from nfilter_sglang.backend import SGLangBackend
from nfilter_sglang.process import ProcessChannel

REQUESTS = [Request((Message("user", text),), Sampling(max_tokens=2), logprobs=True) for text in ("sot 218", "heron")]  # fmt: skip

# An engine that starts at once, and answers with the first tokens of the prompt.
ENGINE = """
import asyncio, os
__version__ = "0.5.23"
class Engine:
    def __init__(self, **settings):
        if settings["mem_fraction_static"] < 0.05:
            raise RuntimeError("Not enough memory. Please try to increase --mem-fraction-static.")
        self.loop = asyncio.new_event_loop()
    async def async_generate(self, *, rid, input_ids, sampling_params, return_logprob):
        if sampling_params["max_new_tokens"] == 1:
            os.kill(os.getpid(), 9)
        raw = float(os.environ["SGLANG_RETURN_ORIGINAL_LOGPROB"])
        made = input_ids[: sampling_params["max_new_tokens"]]
        about = {"finish_reason": {"type": "length"}, "output_token_logprobs": [(-raw, each, None) for each in made]}
        print("a line of SGLang's own")
        return {"output_ids": made, "meta_info": about}
    def shutdown(self):
        self.loop.close()
"""


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``sglang`` in processes that are started is ``ENGINE``."""
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages" / "sglang.py").write_text(ENGINE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "packages"))


@pytest.fixture
def model(small: None, site: Site) -> Iterator[SGLangBackend]:
    backend = SGLangBackend(SGLangBackend.Config(model="tiny"), site)
    yield backend
    backend.close()


def process_of(model: SGLangBackend) -> Any:
    return model._model._engine._channel._process  # type: ignore[union-attr]


def test_answers_come_from_a_process_that_ends_with_the_model(
    model: SGLangBackend,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    # What lies in the folder of the run is not imported.
    (tmp_path / "sglang.py").write_text("raise ImportError('the wrong file')")
    monkeypatch.chdir(tmp_path)
    handler = signal.getsignal(signal.SIGQUIT)
    answers = model.generate(REQUESTS)
    prompts = [model._model.reader.encode_request(each) for each in REQUESTS]
    texts = model.decode([np.array(prompt.ids[:2]) for prompt in prompts])
    assert [answer.completion_tokens for answer in answers] == [2, 2]
    assert all(answer.text in text for answer, text in zip(answers, texts, strict=True))
    # The setting for log-probabilities before temperature reached SGLang.
    assert [answer.logprobs for answer in answers] == [(-1.0, -1.0)] * 2
    process = process_of(model)
    # Ctrl-C goes to the processes of the terminal's session.
    assert os.getsid(process.pid) == process.pid
    assert signal.getsignal(signal.SIGQUIT) == handler
    model.close()
    assert process.returncode == 0
    shown = capfd.readouterr()
    assert "a line of SGLang's own" in shown.err
    assert "a line of SGLang's own" not in shown.out


@pytest.mark.types(
    "run the same command to resume. If memory ran out, lower gpu_memory or max_length"
)
def test_a_process_that_is_killed_ends_the_call_with_the_reason(
    model: SGLangBackend, site: Site
) -> None:
    fatal = replace(REQUESTS[0], sampling=Sampling(max_tokens=1))
    with pytest.raises(ModelError, match="SGLang's engine has stopped: its process has ended"):
        model.generate([fatal])
    # On an engine of its own, with less memory.
    less = SGLangBackend(SGLangBackend.Config(model="tiny", gpu_memory=0.3, max_length=512), site)
    assert less.generate(REQUESTS)[0].failure is None
    less.close()


@pytest.mark.types(
    "If memory is short, raise gpu_memory, set max_length: 8192, or split the weights with gpus: 2"
)
def test_an_engine_that_cannot_start_names_the_settings(small: None, site: Site) -> None:
    short = SGLangBackend(SGLangBackend.Config(model="tiny", gpu_memory=0.01), site)
    with pytest.raises(ModelError, match=r"SGLang cannot start .*tiny.*: Not enough memory\. Please"):  # fmt: skip
        short.generate(REQUESTS)
    short.close()
    wide = SGLangBackend(SGLangBackend.Config(model="tiny", gpu_memory=0.3), site)
    assert wide.generate(REQUESTS)[0].failure is None
    wide.close()


def test_without_the_package_the_start_says_so(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in an environment where `check` was not asked."""
    (tmp_path / "sglang.py").write_text("raise ImportError('libcudart.so.13: cannot open')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    model = SGLangBackend(SGLangBackend.Config(model="tiny"), site)
    with pytest.raises(ModelError, match=r"cannot start .*: libcudart\.so\.13: cannot open"):
        model.generate(REQUESTS)
    model.close()


def test_the_process_ends_when_the_run_is_killed(small: None) -> None:
    code = (
        "import os, signal\n"
        "from nfilter_sglang.process import ProcessChannel\n"
        "channel = ProcessChannel()\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    # The process has this pipe for its error output: `run` returns when both have ended.
    done = subprocess.run(
        [sys.executable, "-c", code], stderr=subprocess.PIPE, check=False, timeout=300
    )
    assert done.returncode == -signal.SIGKILL


def test_a_message_to_a_process_that_has_ended_is_no_error() -> None:
    channel = ProcessChannel()
    channel._process.kill()
    channel._process.wait()
    channel.send({"do": "abort", "keys": []})
    assert channel.receive() is None
    channel.close()
