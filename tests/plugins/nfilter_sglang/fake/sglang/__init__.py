"""A small stand-in for SGLang 0.5.23 on a CPU: its signatures, checks and outputs, computed by transformers and PEFT.

A wrong keyword fails as it does in SGLang. Of the requests that wait, the last one is answered first.
"""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from sglang.sampling_params import SamplingParams

__version__ = "0.5.23"

# The names of the arguments of sglang.Engine, which are those of ServerArgs.
ARGUMENTS = frozenset((Path(__file__).parent / "arguments.txt").read_text().split())


@dataclass
class LoRAUpdateOutput:
    success: bool
    error_message: str | None = None
    loaded_adapters: dict[str, Any] | None = None


@dataclass
class _Request:
    rid: str
    ids: list[int]
    params: SamplingParams
    logprob: bool
    start: int
    adapter: str | None
    done: asyncio.Future[dict[str, Any]]


class _TokenizerManager:
    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def abort_request(self, rid: str = "", abort_all: bool = False) -> None:
        """Abort the requests whose id begins with ``rid``, as SGLang's scheduler does."""
        if not abort_all and not rid:
            return
        for key in [each for each in self.engine.waiting if abort_all or each.startswith(rid)]:
            request = self.engine.waiting.pop(key)
            self.engine.aborted.append(key)
            reason = {"type": "abort", "message": "Abort in waiting queue"}
            about = {"id": key, "finish_reason": reason, "completion_tokens": 0}
            if not request.done.done():
                request.done.set_result({"text": "", "output_ids": [], "meta_info": about})


class Engine:
    """The offline engine. ``started`` has every one of this process."""

    started: ClassVar[list[Engine]] = []

    def __init__(self, **kwargs: Any) -> None:
        from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

        for name in kwargs:
            if name not in ARGUMENTS:
                raise TypeError(f"Unexpected keyword argument {name!r}")
        config = AutoConfig.from_pretrained(kwargs["model_path"])
        self.settings = kwargs
        self.limit = kwargs.get("context_length") or config.max_position_embeddings
        if self.limit > config.max_position_embeddings:
            raise ValueError("User-specified context_length is greater than the derived one")
        if kwargs.get("mem_fraction_static", 0.8) < 0.05:
            raise RuntimeError("Not enough memory. Please try to increase --mem-fraction-static.")
        self.tokenizer_manager = _TokenizerManager(self)
        self.base = kwargs["model_path"]
        self.tokenizer = AutoTokenizer.from_pretrained(self.base)
        self.module = AutoModelForCausalLM.from_pretrained(self.base, dtype="float32").eval()
        ends = self.module.generation_config.eos_token_id
        self.ends = {self.tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])}
        self.adapted: dict[str, Any] = {}
        if kwargs.get("enable_lora"):
            paths = kwargs.get("lora_paths")
            assert paths or (kwargs.get("max_lora_rank") and kwargs.get("lora_target_modules")), (
                "When no initial --lora-paths is provided, you need to specify both --max-lora-rank and --lora-target-modules for LoRA initialization."
            )
            for each in paths or ():
                self._attach(each["lora_name"], each["lora_path"])
        self.waiting: dict[str, _Request] = {}
        self.aborted: list[str] = []
        self.requests: list[_Request] = []
        self.scheduler: asyncio.Task[None] | None = None
        self.stopped = False
        # Last, so that an engine that does not start leaves nothing open.
        self.loop = asyncio.new_event_loop()
        Engine.started.append(self)

    async def async_generate(
        self,
        prompt: list[str] | str | None = None,
        sampling_params: list[dict[str, Any]] | dict[str, Any] | None = None,
        input_ids: list[list[int]] | list[int] | None = None,
        image_data: Any = None,
        audio_data: Any = None,
        video_data: Any = None,
        mm_hashes: Any = None,
        mm_content_hashes: Any = None,
        return_logprob: list[bool] | bool | None = False,
        logprob_start_len: list[int] | int | None = None,
        top_logprobs_num: list[int] | int | None = None,
        token_ids_logprob: Any = None,
        lora_path: Any = None,
        custom_logit_processor: Any = None,
        require_reasoning: bool = False,
        return_hidden_states: Any = False,
        return_routed_experts: bool = False,
        routed_experts_start_len: int = 0,
        stream: bool = False,
        bootstrap_host: Any = None,
        bootstrap_port: Any = None,
        bootstrap_room: Any = None,
        routed_dp_rank: int | None = None,
        disagg_prefill_dp_rank: int | None = None,
        kv_hints: dict[str, Any] | None = None,
        data_parallel_rank: int | None = None,
        external_trace_header: dict[str, Any] | None = None,
        rid: list[str] | str | None = None,
        session_params: dict[str, Any] | None = None,
        priority: int | None = None,
        session_id: str | None = None,
        *,
        cache_salt: list[str] | str | None = None,
    ) -> dict[str, Any]:
        """Answer one request, given as token ids."""
        assert prompt is None
        assert isinstance(rid, str)
        assert not stream
        ids = list(input_ids or ())
        if not ids:
            raise ValueError("input_ids cannot be empty.")
        if lora_path and lora_path not in self.adapted:
            raise ValueError(f"Got LoRA adapter that has never been loaded: {lora_path}")
        assert isinstance(sampling_params, dict)
        if len(ids) >= self.limit:
            raise ValueError(
                f"The input ({len(ids)} tokens) is longer than the model's context length ({self.limit} tokens)."
            )
        if len(ids) + sampling_params["max_new_tokens"] > self.limit:
            raise ValueError("Requested token count exceeds the model's maximum context length")
        params = SamplingParams(**sampling_params)
        params.verify(self.module.config.vocab_size)
        if params.json_schema is not None and "patternProperties" in json.loads(params.json_schema):
            raise ValueError("Failed to compile json grammar: Unimplemented keys")
        start = -1 if logprob_start_len is None else logprob_start_len
        start = len(ids) if start == -1 else start
        done: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        request = _Request(rid, ids, params, bool(return_logprob), start, lora_path, done)
        self.waiting[rid] = request
        self.requests.append(request)
        if self.scheduler is None or self.scheduler.done():
            self.scheduler = asyncio.create_task(self._schedule())
        return await done

    async def async_load_lora_adapter(
        self, lora_name: str, lora_path: str, pinned: bool = False
    ) -> LoRAUpdateOutput:
        assert self.settings.get("dp_size", 1) == 1, (
            "data-parallel replicas are not supported for dynamic lora loading"
        )
        try:
            if not self.settings.get("enable_lora"):
                raise ValueError("LoRA is not enabled. Please set `--enable-lora` to enable LoRA.")
            if lora_name in self.adapted:
                raise ValueError(f"LoRA adapter {lora_name} is already loaded")
            self._attach(lora_name, lora_path)
        except ValueError as error:
            return LoRAUpdateOutput(success=False, error_message=str(error))
        return LoRAUpdateOutput(success=True)

    def shutdown(self) -> None:
        """End the processes of the engine, of which this one has none."""
        self.stopped = True
        if not self.loop.is_closed():
            self.loop.close()

    async def _schedule(self) -> None:
        while self.waiting:
            # What has been sent by now is in the queue.
            await asyncio.sleep(0.02)
            if not self.waiting:
                return
            _, request = self.waiting.popitem()
            output = self.answered(request)
            if not request.done.done():
                request.done.set_result(output)

    def answered(self, request: _Request) -> dict[str, Any]:
        """Compute the output of a request, all tokens at once."""
        import torch

        params, module = request.params, self.adapted.get(request.adapter or "", self.module)
        chance = torch.Generator()
        if self.settings.get("enable_deterministic_inference") and params.sampling_seed is not None:
            chance.manual_seed(params.sampling_seed)
        else:
            chance.seed()
        raw_wanted = os.environ.get("SGLANG_RETURN_ORIGINAL_LOGPROB") == "1"
        ids, made, logprobs = list(request.ids), [], []
        reason: dict[str, Any] = {"type": "length", "length": params.max_new_tokens}
        with torch.no_grad():
            given = module(torch.tensor([ids])).logits[0].log_softmax(-1)
            for _ in range(params.max_new_tokens or 0):
                logits = module(torch.tensor([ids])).logits[0, -1]
                token = int(logits.argmax())
                if params.top_k != 1:
                    chances = (logits / params.temperature).softmax(-1)
                    token = int(torch.multinomial(chances, 1, generator=chance))
                shown = logits if raw_wanted or params.top_k == 1 else logits / params.temperature
                ids.append(token)
                made.append(token)
                logprobs.append((float(shown.log_softmax(-1)[token]), token, None))
                found = [each for each in params.stop if each in self.tokenizer.decode(made)]
                if found:
                    reason = {"type": "stop", "matched": found[0]}
                    break
                if token in self.ends or token in params.stop_token_ids:
                    reason = {"type": "stop", "matched": token}
                    break
        about: dict[str, Any] = {
            "id": request.rid,
            "finish_reason": reason,
            "prompt_tokens": len(request.ids),
            "completion_tokens": len(made),
        }
        if request.logprob:
            first, *rest = [
                None,
                *given[:-1].gather(1, torch.tensor([request.ids[1:]]).T)[:, 0].tolist(),
            ]
            values = [first, *rest][request.start :]
            about["input_token_logprobs"] = [
                (None if at == 0 else value, token, None)
                for at, (value, token) in enumerate(
                    zip(values, request.ids[request.start :], strict=True)
                )
            ]
            about["output_token_logprobs"] = logprobs
        text = self.tokenizer.decode(made, skip_special_tokens=True)
        return {"text": text, "output_ids": made, "meta_info": about}

    def _attach(self, name: str, path: str) -> None:
        from peft import PeftModel
        from transformers import AutoModelForCausalLM

        config = json.loads((Path(path) / "adapter_config.json").read_text())
        known = {"q_proj", "k_proj", "v_proj", "o_proj"}
        if (
            config["r"] > self.settings["max_lora_rank"]
            or not set(config["target_modules"]) <= known
        ):
            raise ValueError(
                f"LoRA adapter {name} with rank {config['r']} is incompatible with the current LoRA memory pool configuration."
            )
        fresh = AutoModelForCausalLM.from_pretrained(self.base, dtype="float32")
        self.adapted[name] = PeftModel.from_pretrained(fresh, path).eval()
