"""A small stand-in for vLLM 0.33 on a CPU: its signatures, checks, ids and outputs, computed by transformers and PEFT.

A wrong keyword fails as it does in vLLM. Requests end in the reverse of the order in which they came, one per step.
"""

from __future__ import annotations

import json
import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from vllm.exceptions import VLLMValidationError
from vllm.sampling_params import SamplingParams

__version__ = "0.33.0"

# The names of the arguments of vllm.LLM, among them those of vllm.EngineArgs.
ARGUMENTS = frozenset((Path(__file__).parent / "arguments.txt").read_text().split())
PROMPT_KEYS = frozenset({
    "multi_modal_data", "media_io_kwargs", "mm_processor_kwargs", "multi_modal_uuids", "cache_salt", "prompt_token_ids", "prompt",
    "token_type_ids", "prompt_token_offsets",
})  # fmt: skip
LAYERS = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj"}
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)


class TokensPrompt(dict[str, Any]):
    """A dictionary, as in vLLM."""


@dataclass
class Logprob:
    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


@dataclass
class CompletionOutput:
    index: int
    text: str
    token_ids: Sequence[int]
    cumulative_logprob: float | None
    logprobs: list[dict[int, Logprob]] | None
    finish_reason: str | None = None
    stop_reason: int | str | None = None


@dataclass
class RequestOutput:
    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    prompt_logprobs: list[dict[int, Logprob] | None] | None
    outputs: list[CompletionOutput]
    finished: bool
    num_cached_tokens: int = 0


@dataclass
class _Waiting:
    number: str
    ids: list[int]
    params: SamplingParams
    adapter: Any


@dataclass
class _Core:
    """What vLLM runs in a process of its own."""

    stopped: bool = False

    def shutdown(self, timeout: float | None = None) -> None:
        self.stopped = True


@dataclass
class LLMEngine:
    llm: LLM
    engine_core: _Core = field(default_factory=_Core)
    waiting: dict[str, _Waiting] = field(default_factory=dict)
    loaded: list[int] = field(default_factory=list)

    def add_lora(self, lora_request: Any) -> bool:
        """Load an adapter. An error of the engine's process has this form, and the engine goes on."""
        try:
            self.llm.load(lora_request)
        except ValueError as error:
            raise Exception(f"Call to add_lora method failed: {error}") from None  # noqa: TRY002
        self.loaded.append(lora_request.lora_int_id)
        return True

    def has_unfinished_requests(self) -> bool:
        return bool(self.waiting)

    def abort_request(self, request_ids: list[str], internal: bool = False) -> None:
        assert internal, "the keys of enqueue are internal ids"
        for key in request_ids:
            self.waiting.pop(key, None)

    def step(self) -> list[RequestOutput]:
        if self.engine_core.stopped:
            raise RuntimeError(
                "EngineCore encountered an issue. See stack trace (above) for the root cause."
            )
        _, request = self.waiting.popitem()
        return [self.llm.answered(request)]


class LLM:
    """The offline engine. ``started`` has every one that a test has started."""

    started: ClassVar[list[LLM]] = []

    def __init__(self, model: str, **settings: Any) -> None:
        from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

        for name in settings:
            if name not in ARGUMENTS:
                raise TypeError(
                    f"EngineArgs.__init__() got an unexpected keyword argument {name!r}"
                )
        config = AutoConfig.from_pretrained(model)
        self.settings = settings
        self.limit = settings.get("max_model_len") or config.max_position_embeddings
        if self.limit > config.max_position_embeddings:
            raise ValueError(
                f"User-specified max_model_len ({self.limit}) is greater than the derived max_model_len"
            )
        if settings.get("enable_lora") and settings["max_lora_rank"] not in RANKS:
            raise ValueError("max_lora_rank: Input should be " + ", ".join(map(str, RANKS)))
        if settings.get("enable_lora") and settings.get("dtype") == "float32":
            raise RuntimeError("Engine core initialization failed. See root cause above.")
        assert settings.get("logprobs_mode", "raw_logprobs") == "raw_logprobs"
        self.base = model
        self.tokenizer = AutoTokenizer.from_pretrained(model)
        self.module = AutoModelForCausalLM.from_pretrained(model, dtype="float32").eval()
        ends = self.module.generation_config.eos_token_id
        self.ends = {self.tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])}
        self.adapted: dict[int, Any] = {}
        self.llm_engine = LLMEngine(self)
        self.grammar: str | None = None
        self.counter = 0
        self.requests: list[_Waiting] = []
        self.prompts: list[dict[str, Any]] = []
        LLM.started.append(self)

    def enqueue(
        self,
        prompts: Any,
        sampling_params: Any = None,
        lora_request: Any = None,
        priority: Any = None,
        use_tqdm: Any = True,
        tokenization_kwargs: dict[str, Any] | None = None,
        mm_processor_kwargs: dict[str, Any] | None = None,
    ) -> list[str]:
        """Add requests and return their keys, which are not the ``request_id`` of their outputs."""
        assert sampling_params is not None, "the defaults of generation_config.json would be used"
        keys = []
        for prompt in prompts:
            if unknown := set(prompt) - PROMPT_KEYS:
                raise TypeError(f"unknown keys of a prompt: {unknown}")
            request = _Waiting(
                str(self.counter), prompt["prompt_token_ids"], sampling_params, lora_request
            )
            self._check(request)
            self.counter += 1
            keys.append(f"{request.number}-{secrets.token_hex(4)}")
            self.llm_engine.waiting[keys[-1]] = request
            self.requests.append(request)
            self.prompts.append(prompt)
        return keys

    def _check(self, request: _Waiting) -> None:
        size = len(request.ids)
        if size == 0:
            raise VLLMValidationError("The decoder prompt cannot be empty")
        if size >= self.limit:
            raise VLLMValidationError(
                f"The decoder prompt (length {size}) plus the number of requested output tokens is longer"
            )
        if request.adapter is not None and not self.settings.get("enable_lora"):
            raise VLLMValidationError(
                f"Got lora_request {request.adapter} but LoRA is not enabled!"
            )
        form = request.params.structured_outputs
        if form is not None and "patternProperties" in json.dumps(form.json):
            raise VLLMValidationError(
                "The provided JSON schema contains features not supported by xgrammar."
            )

    def answered(self, request: _Waiting) -> RequestOutput:
        """Compute the output of a request, all tokens at once."""
        import torch

        params = request.params
        module = self._module(request.adapter)
        chance = torch.Generator()
        if params.seed is not None:
            chance.manual_seed(params.seed)
        if params.structured_outputs is not None and not self._has_grammar(
            params.structured_outputs.json
        ):
            output = CompletionOutput(0, "", [], None, None, "error")
            return RequestOutput(request.number, None, list(request.ids), None, [output], True)
        ids, made, logprobs = list(request.ids), [], []
        reason, stop = "length", None
        text = ""
        with torch.no_grad():
            given = module(torch.tensor([ids])).logits[0].log_softmax(-1)
            while len(made) < min(params.max_tokens or math.inf, self.limit - len(request.ids)):
                raw = module(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
                token = int(raw.argmax())
                if params.temperature > 0:
                    token = int(
                        torch.multinomial(
                            (raw / params.temperature).softmax(-1), 1, generator=chance
                        )
                    )
                ids.append(token)
                made.append(token)
                logprobs.append({token: Logprob(float(raw[token]), decoded_token=None)})
                if token in self.ends or token in params.stop_token_ids:
                    reason, stop = "stop", None if token == self.tokenizer.eos_token_id else token
                    break
                text = (
                    self.tokenizer.decode(made, skip_special_tokens=True)
                    if params.detokenize
                    else ""
                )
                found = [each for each in params.stop if each in text]
                if found:
                    reason, stop = "stop", found[0]
                    text = text[: text.index(found[0])]
                    break
        shown: list[dict[int, Logprob] | None] | None = None
        if params.prompt_logprobs is not None:
            places = enumerate(request.ids[1:])
            shown = [None, *({token: Logprob(float(given[at, token]))} for at, token in places)]
        output = CompletionOutput(
            0, text, made, None, logprobs if params.logprobs is not None else None, reason, stop
        )
        return RequestOutput(request.number, None, list(request.ids), shown, [output], True)

    def _has_grammar(self, schema: Any) -> bool:
        """Whether the kind of grammar that a schema needs is that of the engine's first one."""
        kind = "guidance" if "multipleOf" in json.dumps(schema) else "xgrammar"
        self.grammar = self.grammar or kind
        return kind == self.grammar

    def _module(self, adapter: Any) -> Any:
        if adapter is None:
            return self.module
        # One that was not loaded before is loaded in the middle of a batch, where an error ends vLLM's engine.
        assert adapter.lora_int_id in self.adapted
        return self.adapted[adapter.lora_int_id]

    def load(self, adapter: Any) -> None:
        """Load an adapter with vLLM's checks of its rank and of the names of its layers."""
        from peft import PeftModel
        from transformers import AutoModelForCausalLM

        config = json.loads((Path(adapter.lora_path) / "adapter_config.json").read_text())
        rank = max([config["r"], *config["rank_pattern"].values()])
        if rank > self.settings["max_lora_rank"]:
            raise ValueError(
                f"LoRA rank {rank} is greater than max_lora_rank {self.settings['max_lora_rank']}."
            )
        if odd := set(config["target_modules"]) - LAYERS:
            raise ValueError(
                f"While loading {adapter.lora_path}, expected target modules in {LAYERS} but received {odd}."
            )
        fresh = AutoModelForCausalLM.from_pretrained(self.base, dtype="float32")
        self.adapted[adapter.lora_int_id] = PeftModel.from_pretrained(
            fresh, adapter.lora_path
        ).eval()
