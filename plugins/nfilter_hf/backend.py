"""The backend ``hf``: one set of weights that generates, embeds, scores and is lent for training."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from nfilter import (
    Abilities,
    Adapts,
    Attends,
    Attributes,
    Checkpoint,
    Completion,
    CutCounter,
    CutTexts,
    Embeds,
    Encodes,
    FloatArray,
    Generates,
    IntArray,
    LendsModule,
    ModelError,
    ModelRef,
    PromptTokens,
    Request,
    Sample,
    Scores,
    Site,
    Streams,
    TokenizerDigest,
    Tokenizes,
    TokenSample,
)
from nfilter_hf.adapters import Snapshot, attach, scoped
from nfilter_hf.attention import Reduce, read_attention
from nfilter_hf.attribution import Select, read_attributions
from nfilter_hf.batching import Budget, release
from nfilter_hf.checks import config_problems, tool_problems
from nfilter_hf.config import HFConfig, scoring_tokens
from nfilter_hf.decoding.generation import generate, stream
from nfilter_hf.embedding import embed
from nfilter_hf.encoding import decode, encode, tokenizer_digest
from nfilter_hf.fingerprint import default_digests, fingerprint
from nfilter_hf.loading import (
    Loaded,
    Source,
    Text,
    choose_device,
    choose_dtype,
    end_ids,
    find,
    load,
    open_text,
)
from nfilter_hf.lora.distributed import current
from nfilter_hf.memory import model_settings
from nfilter_hf.number_format import Choice, cpu_format
from nfilter_hf.scoring import score
from nfilter_hf.spread import adapted_everywhere, score_spread, stream_spread
from nfilter_hf.templates.chat import ChatError
from nfilter_hf.templates.prompts import decode_answer, encode_request

_PROMPT_END = 256  # characters


@dataclass(frozen=True, slots=True)
class Lent:
    """A lent module with its tokenizer. Changes to its structure are undone when the scope ends.

    ``format_reason`` is why its weights have their number format, if the config names none. ``job_values`` identify the model
    for the other processes of a launch.
    """

    module: Any
    tokenizer: Any
    format_reason: str | None = None
    job_values: Mapping[str, Any] | None = None


class HFBackend:
    """Any causal language model of transformers, by hub id, folder or GGUF file. Weights are loaded at first use."""

    name: ClassVar[str] = "hf"
    also_known: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("huggingface", "transformers", "local", "hub", "pretrained", "automodel", "peft", "torch"), "{use: hf, model: NAME}"
    )  # fmt: skip
    # TextEncoder breaks exactly the control tokens of this tokenizer, and removes the breaks afterwards.
    shields: ClassVar[bool] = True
    Config: ClassVar[type[HFConfig]] = HFConfig

    @classmethod
    def abilities(cls, config: HFConfig) -> Abilities:
        able = frozenset(
            {
                Generates,
                Streams,
                Embeds,
                Scores,
                Attends,
                Attributes,
                Encodes,
                Tokenizes,
                LendsModule,
                Adapts,
            }
        )
        return Abilities(able, logprobs=True)

    @classmethod
    def problems(cls, config: HFConfig, site: Site) -> Iterable[str]:
        return list(config_problems(config, site))

    @classmethod
    def tool_problems(cls, config: HFConfig, site: Site) -> Iterable[str]:
        """Yield why this model cannot be given tools, as far as its files tell before it is loaded."""
        return list(tool_problems(config, site))

    @classmethod
    def text_config(
        cls, *, model: str, revision: str | None, max_length: int | None, chat_template: str
    ) -> HFConfig:
        """Return the config of an instance that is used without weights: device and dtype have no effect."""
        values = {"model": model, "revision": revision, "max_length": max_length}
        return HFConfig.model_validate(
            {**values, "chat_template": chat_template, "device": "cpu", "dtype": "float32"}
        )

    def __init__(self, config: HFConfig, site: Site) -> None:
        self._config = config
        self._site = site
        self._source: Source | None = None
        self._text: Text | None = None
        self._checkpoint: Checkpoint | None = None
        self._loaded: Loaded | None = None
        self._base: Snapshot | None = None
        self._fingerprint: str | None = None
        self._digest: TokenizerDigest | None = None
        self._chosen: Choice | None = None
        # One set of weights: a thread that trains or has an adapter attached needs exclusive access.
        self._lock = threading.RLock()
        self._generating = Budget(config.batch_tokens)
        self._embedding = Budget(config.batch_tokens)
        self._scoring: Budget | None = None
        self._cut = CutCounter(config.embed_window, "embed_window")

    def fingerprint(self) -> str:
        """Return the SHA-256 of weights, tokenizer, template and settings; for a hub model, of the commit and settings."""
        with self._lock:
            if self._fingerprint is None:
                source = self._find()
                device = choose_device(self._config)
                settings = {
                    "hub": f"{source.base}@{source.commit}" if source.hub_id else None,
                    "device": device,
                    "dtype": self._format(device).dtype,
                    "4bit": self._config.load_in_4bit,
                    "max_length": self._config.max_length,
                    "chat_template": self._config.chat_template,
                    "embed_layer": self._config.embed_layer,
                }
                if self._config.embed_window != "head":
                    settings["embed_window"] = self._config.embed_window
                # A commit already identifies its files.
                place = None if source.hub_id else source.place
                self._fingerprint = fingerprint(place, settings, default_digests())
            return self._fingerprint

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """Return one completion per request, in order; see ``generation.generate``. All processes of a launch take part."""
        if current().size == 1:
            return self.generate_here(requests)
        answers = dict(self.stream(requests))
        return [answers[index] for index in range(len(requests))]

    def generate_here(self, requests: Sequence[Request]) -> list[Completion]:
        """Generate in this process only."""
        with self._ready() as loaded:
            return generate(loaded, requests, self._generating)

    def stream(self, requests: Sequence[Request]) -> Iterator[tuple[int, Completion]]:
        """Yield completions with their request's index as they come; see ``generation.stream``."""
        launch = current()
        if launch.size > 1:
            yield from stream_spread(launch, self._job_values(), requests, self.generate_here)
            return
        with self._ready() as loaded:
            yield from stream(loaded, requests, self._generating)

    def prompt_end(self, request: Request) -> str:
        """Return the end of the prompt that the template renders; empty if it rejects the request."""
        with self._lock:
            try:
                return (
                    self._open_text()
                    .chat.prompt(request.messages, request.tools)
                    .text[-_PROMPT_END:]
                )
            except ChatError:
                return ""

    def checkpoint(self) -> Checkpoint:
        """Return the model's place on this machine, without loading weights."""
        with self._lock:
            if self._checkpoint is None:
                source, text = self._find(), self._open_text()
                self._checkpoint = Checkpoint(source.place, text.context, end_ids(source, text))
            return self._checkpoint

    def encode_request(self, request: Request) -> PromptTokens | Completion:
        """Return the prompt of a request as token ids, without loading weights; see ``prompts.encode_request``."""
        with self._lock:
            return encode_request(self._open_text(), request)

    def decode_answer(
        self,
        request: Request,
        prompt: PromptTokens,
        ids: Sequence[int],
        logprobs: Sequence[float] | None,
        finish: Literal["stop", "length"],
    ) -> Completion:
        """Return the completion of generated ids, without loading weights; see ``prompts.decode_answer``."""
        with self._lock:
            text, ends = self._open_text(), self.checkpoint().end_ids
            return decode_answer(text, ends, request, prompt, ids, logprobs, finish)

    def embed(self, texts: Sequence[str]) -> FloatArray:
        """Return float32 [n, d]: the mean of a layer's hidden states over each text's tokens, by default of the last layer."""
        with self._ready() as loaded:
            config = self._config
            embedded = embed(
                loaded, texts, self._embedding, config.embed_layer, config.embed_window
            )
            self._cut.add(embedded.longer, len(texts), loaded.context)
            return embedded.vectors

    def take_cut_texts(self) -> CutTexts | None:
        """Return the count of embedded texts that were longer than the context since the last call."""
        return self._cut.take()

    def encode(
        self, samples: Sequence[Sample], *, max_length: int, turns: str
    ) -> list[TokenSample]:
        """Encode samples with the model's template, without loading weights; see ``encoding.encode``."""
        with self._lock:
            return encode(self._open_text(), samples, max_length=max_length, turns=turns)

    def decode(self, ids: Sequence[IntArray]) -> list[str]:
        """Return the text of each list of ids; see ``encoding.decode``."""
        with self._lock:
            return decode(self._open_text(), ids)

    def tokenizer_digest(self) -> TokenizerDigest:
        """Return the digest of tokenizer and chat template; see ``encoding.tokenizer_digest``."""
        with self._lock:
            if self._digest is None:
                self._digest = tokenizer_digest(self._open_text())
            return self._digest

    def score(
        self, samples: Sequence[TokenSample], adapter: ModelRef | None = None
    ) -> list[FloatArray]:
        """Return per-token losses, float32 [T] per sample, of the base or with ``adapter``; see ``scoring.score``.

        All processes of a launch take part.
        """
        if adapter is not None:
            with self.adapted(adapter) as model:
                return model.score(samples)
        launch = current()
        if launch.size > 1:
            return score_spread(launch, self._job_values(), samples, self.score_here)
        return self.score_here(samples)

    def score_here(self, samples: Sequence[TokenSample]) -> list[FloatArray]:
        """Score in this process only."""
        with self._ready() as loaded:
            if self._scoring is None:
                self._scoring = Budget(scoring_tokens(self._config, loaded.device.type))
            return score(loaded, samples, self._scoring)

    def attention(
        self, samples: Sequence[TokenSample], reduce: Reduce, layers: slice = slice(None)
    ) -> Iterator[list[FloatArray]]:
        """Yield the reduced attention weights of each sample's layers; see ``nfilter.Attends``."""
        with self._ready() as loaded:
            yield from read_attention(loaded.module, samples, reduce, layers)

    def attributions(
        self, samples: Sequence[TokenSample], select: Select, steps: int
    ) -> Iterator[FloatArray]:
        """Yield the attributions of each sample's sources; see ``nfilter.Attributes``."""
        with self._ready() as loaded:
            yield from read_attributions(loaded.module, samples, select, steps)

    @contextmanager
    def lend(self) -> Iterator[Lent]:
        """Lend module and tokenizer; structure, flags, hooks and eval mode are restored when the scope ends."""
        with self._lock:
            loaded = self._load()
            with scoped(loaded.module):
                chosen = self._format(loaded.device.type)
                values = self._job_values() if current().size > 1 else None
                yield Lent(loaded.module, loaded.tokenizer, chosen.reason or None, values)

    @contextmanager
    def adapted(self, ref: ModelRef) -> Iterator[Adapted]:
        """Return the same weights with the adapter ``ref``, with exclusive access while the scope is open.

        The adapter is attached in all processes of a launch.
        """
        launch = current()
        with self.adapted_here(ref) as model:
            if launch.size == 1:
                yield model
                return
            with adapted_everywhere(launch, self._job_values(), ref):
                yield model

    @contextmanager
    def adapted_here(self, ref: ModelRef) -> Iterator[Adapted]:
        """Attach the adapter in this process only."""
        with self._lock:
            loaded = self._load()
            with scoped(loaded.module, self._base):
                attach(loaded.module, ref)
                model = Adapted(self, ref)
                try:
                    yield model
                finally:
                    model.closed = True

    def close(self) -> None:
        """Release the weights and their memory; a later call loads them again."""
        with self._lock:
            if self._loaded is not None:
                self._loaded = self._base = None
                release()

    def _job_values(self) -> dict[str, Any]:
        """The values from which another process of a launch builds the same model: settings with the number format."""
        dtype = self._format(choose_device(self._config)).dtype
        config = self._config.model_copy(update={"dtype": dtype})
        return {"config": config.model_dump(mode="json"), "fingerprint": self.fingerprint()}

    def _find(self) -> Source:
        if self._source is None:
            self._source = find(self._config, self._site)
        return self._source

    def _open_text(self) -> Text:
        if self._text is None:
            self._text = open_text(self._config, self._find())
        return self._text

    def _format(self, device: str) -> Choice:
        """The number format of the weights; on a CPU with ``dtype: auto`` it is measured once."""
        if self._chosen is None:
            if self._config.dtype == "auto" and device == "cpu":
                self._chosen = cpu_format(model_settings(self._config, self._site))
            else:
                self._chosen = Choice(choose_dtype(self._config, device), "")
        return self._chosen

    def _load(self) -> Loaded:
        if self._loaded is None:
            source, text = self._find(), self._open_text()
            dtype = self._format(choose_device(self._config)).dtype
            config = self._config.model_copy(update={"dtype": dtype})
            self._loaded = load(config, source, text)
            self._base = Snapshot(self._loaded.module)
        return self._loaded

    @contextmanager
    def _ready(self) -> Iterator[Loaded]:
        """Yield the model in eval mode, also while it is lent for training."""
        with self._lock:
            loaded = self._load()
            training = [module for module in loaded.module.modules() if module.training]
            loaded.module.eval()
            try:
                yield loaded
            finally:
                for module in training:
                    module.training = True


class Adapted:
    """A model with an adapter. It can only be used while its scope is open."""

    def __init__(self, backend: HFBackend, ref: ModelRef) -> None:
        self._backend = backend
        self._ref = ref
        self.closed = False

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """Return one completion per request, in order, of the adapted model."""
        return self._open().generate(requests)

    def stream(self, requests: Sequence[Request]) -> Iterator[tuple[int, Completion]]:
        """Yield completions with their request's index as they come."""
        return self._open().stream(requests)

    def score(
        self, samples: Sequence[TokenSample], adapter: ModelRef | None = None
    ) -> list[FloatArray]:
        """Return per-token losses of the adapted model, or with ``adapter`` instead."""
        return self._open().score(samples, adapter)

    def embed(self, texts: Sequence[str]) -> FloatArray:
        """Return embeddings of the adapted model."""
        return self._open().embed(texts)

    def encode(
        self, samples: Sequence[Sample], *, max_length: int, turns: str
    ) -> list[TokenSample]:
        """Encode samples; independent of the adapter."""
        return self._open().encode(samples, max_length=max_length, turns=turns)

    def decode(self, ids: Sequence[IntArray]) -> list[str]:
        """Return the text of ids; independent of the adapter."""
        return self._open().decode(ids)

    def tokenizer_digest(self) -> TokenizerDigest:
        """Return the tokenizer's digest; independent of the adapter."""
        return self._open().tokenizer_digest()

    def _open(self) -> HFBackend:
        if self.closed:
            raise ModelError(
                f"the adapter {self._ref.path} is no longer attached: use it inside 'with model.adapted(ref) as adapted:'"
            )
        return self._backend
