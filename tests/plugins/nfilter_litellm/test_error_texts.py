"""Error texts of servers: prompts that are too long, incomplete answers, unsupported parameters."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from nfilter import Completion, Message, ModelError, Request, Sampling, Site
from nfilter.engine.run import run
from nfilter.recipe.model import load as load_recipe
from nfilter.registry.loading import load as load_plugins
from nfilter.store.samples import open_samples
from nfilter_litellm.backend import LiteLLMBackend
from nfilter_litellm.config import LiteLLMConfig
from nfilter_litellm.failures import from_status

Asked = Mapping[str, Any]
Reply = tuple[int, dict[str, Any]]
OVERFLOWS = {
    "openai": (400, "This model's maximum context length is 128000 tokens. However, your messages resulted in 300012 tokens."),
    "openai responses": (400, "Your input exceeds the context window of this model. Please adjust your input and try again."),
    "openai reasoning": (400, "Input tokens exceed the configured limit of 272000 tokens. Your messages resulted in 509178 tokens."),
    "openai string": (400, "Invalid 'messages[0].content': string too long. Expected a string with maximum length 10485760, but got one with 12000000."),
    "openai rate": (429, "Request too large for gpt-4o in organization on tokens per min (TPM): Limit 30000, Requested 40123."),
    "vllm": (400, "This model's maximum context length is 4096 tokens. However, you requested 5120 tokens (4096 in the messages, 1024 in the completion)."),
    "vllm decoder": (400, "The decoder prompt (length 5012) is longer than the maximum model length of 4096."),
    "vllm rest": (400, "max_tokens must be at least 1, got -160."),
    "vllm answer": (400, "'max_tokens' or 'max_completion_tokens' is too large: 256. This model's maximum context length is 2048 tokens and your request has 2000 input tokens."),
    "sglang": (400, "The input (5000 tokens) is longer than the model's context length (4096 tokens)."),
    "sglang total": (400, "Requested token count exceeds the model's maximum context length of 4096 tokens."),
    "llama.cpp": (400, "request (3003 tokens) exceeds the available context size (1024 tokens), try increasing it"),
    "llama.cpp old": (400, "the request exceeds the available context size. try increasing the context size or enable context shift"),
    "llama.cpp batch": (500, "input is too large to process. increase the physical batch size"),
    "tgi": (422, "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 5000 `inputs` tokens and 256 `max_new_tokens`"),
    "tgi inputs": (422, "Input validation error: `inputs` must have less than 1024 tokens. Given: 3000"),
    "ollama": (400, "the input length exceeds the context length"),
    "ollama prompt": (400, "prompt too long; exceeded max context length by 123 tokens"),
    "lm studio": (400, "Trying to keep the first 5000 tokens when context the overflows. However, the model is loaded with context length of only 4096 tokens."),
    "anthropic": (400, "prompt is too long: 205000 tokens > 200000 maximum"),
    "anthropic both": (400, "input length and `max_tokens` exceed context limit: 179413 + 32768 > 200000, decrease input length or `max_tokens` and try again"),
    "anthropic bytes": (413, "Request exceeds the maximum size"),
    "gemini": (400, "The input token count (1200293) exceeds the maximum number of tokens allowed (1048576)."),
    "vertex": (400, "Unable to submit request because the input token count is 40000 but model only supports up to 32768."),
    "bedrock": (400, "Input is too long for requested model."),
    "bedrock length": (400, "Malformed input request: expected maxLength: 20000, actual: 25000, please reformat your input and try again."),
    "bedrock tokens": (400, "Input Tokens Exceeded: Number of input tokens exceeds maximum length of 8192"),
    "titan": (400, "Too many input tokens. Max input tokens: 8192, request input token count: 9000"),
    "mistral": (400, "Prompt contains 40000 tokens and 0 draft tokens, too large for model with 32768 maximum context length"),
    "cohere": (400, "too many tokens: total number of tokens (prompt and prediction) cannot exceed 4081 - received 8000. Try using a shorter prompt"),
    "together": (422, "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 8193. Given: 9000 `inputs` tokens"),
    "groq": (400, "Please reduce the length of the messages or completion."),
    "groq large": (413, "Request too large for model `llama-3.1-8b-instant`"),
    "deepseek": (400, "This model's maximum context length is 65536 tokens. However, you requested 70000 tokens"),
    "openrouter": (400, "This endpoint's maximum context length is 131072 tokens. However, you requested about 132463 tokens (1463 of text input, 131000 in the output)."),
    "xai": (400, "This model's maximum prompt length is 131072 but the request contains 537812 tokens."),
    "fireworks": (400, "The prompt is too long: 40000, model maximum context length: 32767"),
    "cerebras": (400, "Please reduce the length of the messages or completion. Current length is 9000 while limit is 8192"),
    "watsonx": (400, "the number of input tokens 8000 cannot exceed the total tokens limit 4096 for this model"),
    "moonshot": (400, "Invalid request: Your request exceeded model token limit: 8192"),
    "dashscope": (400, "Range of input length should be [1, 30720]"),
    "zhipu": (400, "Prompt exceeds max length"),
}  # fmt: skip
OTHERS = {
    "parameter": (400, "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."),
    "value": (400, "Unsupported value: 'temperature' does not support 0 with this model. Only the default (1) value is supported."),
    "answer": (400, "max_tokens is too large: 32000. This model supports at most 16384 completion tokens, whereas you provided 32000."),
    "user": (400, "Invalid 'user': string too long. Expected a string with maximum length 64, but got a string with length 80 instead."),
    "least": (400, "max_tokens must be at least 16, got 8"),
    "key": (400, "API key not valid. Please pass a valid API key."),
    "model": (404, "The model `x` does not exist"),
    "schema": (422, "messages.0.role: Input should be 'user' or 'assistant'"),
    "role": (400, "System role not supported"),
    "rate": (429, "Rate limit reached for requests"),
    "broken": (500, "The server had an error while processing your request"),
}  # fmt: skip


@pytest.mark.parametrize("name", OVERFLOWS)
def test_every_server_s_text_for_a_prompt_that_is_too_long(name: str) -> None:
    status, words = OVERFLOWS[name]
    for body in (
        {"error": {"message": words}},
        {"error": words},
        {"message": words},
        {"detail": words},
    ):
        fault = from_status(status, json.dumps(body))
        assert (fault.kind, fault.is_answer, fault.retry, fault.shared) == ("too_long", True, False, False)  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_texts_about_other_limits_are_not_too_long(name: str) -> None:
    status, words = OTHERS[name]
    fault = from_status(status, json.dumps({"error": {"message": words}}))
    assert fault.kind == "server"
    assert not fault.is_answer
    assert fault.maybe_prompt == (status in (400, 422))


def reply(text: str | None, finish: str | None = "stop", **more: Any) -> Reply:
    message = {"role": "assistant", "content": text, **more.pop("message", {})}
    choice = {"index": 0, "message": message, "finish_reason": finish, **more}
    usage = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}
    return 200, {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}  # fmt: skip


def refuses(words: str, status: int = 400) -> Reply:
    return status, {"error": {"message": words, "type": "BadRequestError", "param": None, "code": status}}  # fmt: skip


@contextmanager
def server(answer: Callable[[Asked], Reply]) -> Iterator[tuple[str, list[Asked]]]:
    """Run a server that replies with ``answer``; yield its address and the list of request bodies."""
    asked: list[Asked] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append(body)
            status, value = answer(body)
            text = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: object) -> None: ...

    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=made.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{made.server_port}/v1", asked
    finally:
        made.shutdown()
        made.server_close()


def prompt(asked: Asked) -> str:
    return str(asked["messages"][-1]["content"])


def ask(url: str, texts: list[str], **more: Any) -> list[Completion]:
    config = LiteLLMConfig.model_validate({"model": "x", "api_base": url, "logprobs": False, "concurrency": 1, **more})  # fmt: skip
    made = LiteLLMBackend(config, Site(Path()))
    try:
        return made.generate([Request((Message("user", text),), Sampling(max_tokens=8)) for text in texts])  # fmt: skip
    finally:
        made.close()


@pytest.mark.parametrize("transport", ["aiohttp", "litellm"])
def test_a_400_on_some_prompts_does_not_end_the_run(transport: str) -> None:
    """Any number of them, even as the first calls."""

    def answer(asked: Asked) -> Reply:
        return refuses("unusual words") if prompt(asked).startswith("bad") else reply("4")

    texts = [*(f"bad {n}" for n in range(30)), "good 0", *(f"bad {n}" for n in range(30)), "good 1"]
    with server(answer) as (url, asked):
        done = ask(url, texts, transport=transport)
    assert [one.text for one in done if one.failure is None] == ["4", "4"]
    assert {one.failure.kind for one in done if one.failure is not None} == {"server"}
    assert len(asked) == len(texts) + 1  # plus one probe with a short prompt


@pytest.mark.parametrize("transport", ["aiohttp", "litellm"])
def test_a_400_on_every_prompt_ends_the_run_at_once(transport: str) -> None:
    with (
        server(lambda _: refuses("unusual words")) as (url, asked),
        pytest.raises(ModelError, match=r"3 consecutive calls failed, the last with: 400.*unusual words"),
    ):  # fmt: skip
        ask(url, [f"q {n}" for n in range(50)], transport=transport)
    assert len(asked) == 4


def test_a_request_shape_that_is_rejected_later_ends_the_run() -> None:
    def answer(asked: Asked) -> Reply:
        return refuses("unusual words") if "stop" in asked else reply("4")

    with server(answer) as (url, _):
        config = LiteLLMConfig(model="x", api_base=url, logprobs=False, concurrency=1)
        made = LiteLLMBackend(config, Site(Path()))
        assert made.generate([Request((Message("user", "1"),), Sampling())])[0].text == "4"
        with pytest.raises(ModelError, match="3 consecutive calls"):
            made.generate([Request((Message("user", f"{n}"),), Sampling(stop=("\n",))) for n in range(9)])  # fmt: skip
        made.close()


ENDED = [
    ("stop", "stop"), ("eos_token", "stop"), ("COMPLETE", "stop"), ("end_turn", "stop"), (None, "stop"), ("length", "length"),
    ("model_length", "length"), ("MAX_TOKENS", "length"), ("content_filter", "refused"), ("SAFETY", "refused"), ("error", "server"),
    ("abort", "server"), ("insufficient_system_resource", "server"), ("anything", "server"), (7, "server"),
]  # fmt: skip


@pytest.mark.parametrize(("reason", "end"), ENDED)
def test_finish_reasons(reason: Any, end: str) -> None:
    with server(
        lambda asked: reply("5 because", "stop" if "first" in prompt(asked) else reason)
    ) as (url, asked):
        _, done = ask(url, ["first", "second"], attempts=2)
    if done.failure is None:
        assert (done.text, done.finish) == ("5 because", end)
    else:
        assert done.failure.kind == end
        assert done.text == ""
    assert len(asked) == (3 if end == "server" else 2)


DIED = {"code": 502, "message": "upstream died"}


@pytest.mark.parametrize(
    ("broken", "transport"),
    [
        *((reply("5 because", "error", error=DIED), way) for way in ("aiohttp", "litellm")),
        *((reply("5 because", "error"), way) for way in ("aiohttp", "litellm")),
        *((reply("5 because", "abort"), way) for way in ("aiohttp", "litellm")),
        # litellm drops an error if the reason does not indicate it.
        (reply("5 because", "stop", error=DIED), "aiohttp"),
    ],
)
def test_an_incomplete_answer_is_retried(broken: Reply, transport: str) -> None:
    seen: list[str] = []

    def answer(asked: Asked) -> Reply:
        seen.append(prompt(asked))
        return broken if seen.count("q") == 1 else reply("Answer: 4")

    with server(answer) as (url, _):
        (done,) = ask(url, ["q"], transport=transport)
    assert (done.text, done.failure) == ("Answer: 4", None)


RECIPE = """\
name: words
answer: number
models: {{m: {{use: litellm, model: x, api_base: "{url}", logprobs: false, concurrency: 2}}}}
source: {{use: jsonl, path: data.jsonl}}
samples:
  - {{use: robustft.answer, llm: m, into: base}}
  - {{use: robustft.check, views: [base]}}
arms: []
"""


def test_a_run_continues_after_prompts_that_are_too_long_or_rejected(tmp_path: Path) -> None:
    """Rows with good replies, with three servers' texts for a prompt that is too long, and with an unknown error."""
    refusals = {"long 0": OVERFLOWS["openai reasoning"], "long 1": OVERFLOWS["vllm rest"], "long 2": OVERFLOWS["anthropic both"],
                **{f"odd {n}": (400, f"tensor size mismatch {n}") for n in range(6)}}  # fmt: skip
    broken: list[str] = []

    def answer(asked: Asked) -> Reply:
        text = prompt(asked)
        for name, (status, words) in refusals.items():
            if name in text:
                return refuses(words, status)
        if "breaks" in text and not broken:
            broken.append(text)
            return reply("The answer is 5 because", "error", error=DIED)
        return reply("Answer: 4")

    prompts = [*refusals, *(f"item {n}" for n in range(4)), "it breaks"]
    rows = [{"id": text, "prompt": text, "response": "4"} for text in prompts]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with server(answer) as (url, _):
        (tmp_path / "recipe.yaml").write_text(RECIPE.format(url=url))
        plugins = load_plugins()
        run(load_recipe(tmp_path / "recipe.yaml", plugins), plugins, tmp_path / "out")
    samples = {s.id: s for s in open_samples(tmp_path / "out" / "02-robustft.check").samples()}
    for text in prompts:
        base: Any = samples[text].notes["base"]
        if text in refusals:
            kind = "too_long" if text.startswith("long") else "server"
            assert kind in json.dumps(base), base
        else:
            assert base["answer"] == "4"
    assert re.fullmatch("it breaks", prompts[-1])
