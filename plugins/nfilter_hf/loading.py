"""Load models onto a device: local folders and hub models, safetensors or GGUF."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nfilter import MARKS, ModelError, Site, missing_package
from nfilter_hf.checks import folder_problems, header_problems, read_json
from nfilter_hf.config import HFConfig, locate
from nfilter_hf.gguf import model as gguf_model
from nfilter_hf.gguf.corrections import refuse_left_out
from nfilter_hf.gguf.header import read_header
from nfilter_hf.gguf.weights import unpacked
from nfilter_hf.templates.chat import Chat

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_UNBOUNDED = 2**20
_FROM_HUB = ("*.json", "*.safetensors", "*.jinja", "*.txt", "*.model", "*.tiktoken")


@dataclass(frozen=True, slots=True)
class Source:
    """A checkpoint's folder, the hub id and commit that it came from, and its GGUF ``file``, if it is one."""

    folder: Path
    hub_id: str | None = None
    commit: str | None = None
    file: str | None = None

    @property
    def place(self) -> Path:
        """The folder, or the GGUF file."""
        return self.folder / self.file if self.file else self.folder

    @property
    def base(self) -> str:
        """The name of the base in an adapter's config: a hub id rather than a folder of the local cache."""
        if self.hub_id is None:
            return str(self.place)
        return f"{self.hub_id}:{self.file}" if self.file else self.hub_id


@dataclass(frozen=True, slots=True)
class Text:
    """The tokenizer and chat template of a model, without weights.

    ``vocabulary`` is the model's number of token ids, ``settings`` its configuration; ``marks`` as in ``Loaded``.
    """

    tokenizer: Any
    chat: Chat
    context: int
    vocabulary: int
    settings: Any = None
    marks: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model in memory. ``context`` is its maximum sequence length; ``stop_ids`` are the tokens that end an answer.

    ``marks`` are the special tokens that mark reasoning, by id: they are part of the answer's text.
    """

    module: Any
    tokenizer: Any
    chat: Chat
    device: torch.device
    context: int
    stop_ids: frozenset[int]
    pad_id: int
    marks: Mapping[int, str] = field(default_factory=dict)

    def padded(self, rows: Sequence[list[int]], *, left: bool = False) -> tuple[Tensor, Tensor]:
        """Return the token ids of rows, padded on the right or ``left``, and their mask: int64 [n, longest], on the device."""
        import torch

        longest = max(map(len, rows))
        ids = torch.full((len(rows), longest), self.pad_id)
        mask = torch.zeros(len(rows), longest, dtype=torch.long)
        for number, row in enumerate(rows):
            place = slice(longest - len(row), None) if left else slice(len(row))
            ids[number, place] = torch.tensor(row)
            mask[number, place] = 1
        return ids.to(self.device), mask.to(self.device)


def find(config: HFConfig, site: Site) -> Source:
    """Return the location of the checkpoint, downloaded from the hub if necessary.

    Raises:
        ModelError: if it does not exist or cannot be loaded.
    """
    place = locate(config.model, site)
    if place.problem:
        raise ModelError(place.problem)
    if place.folder is not None:
        source = Source(place.folder.resolve(), file=place.file)
    else:
        assert place.hub_id is not None
        source = _fetch(place.hub_id, config.revision, place.file)
    if source.file is not None:
        problems = list(header_problems(source.place, read_header(source.place)))
    else:
        problems = list(folder_problems(source.folder))
    if problems:
        raise ModelError("\n".join(problems))
    return source


def choose_device(config: HFConfig) -> str:
    """Return ``cuda``, ``mps`` or ``cpu``: the configured device, else the first that is available.

    Raises:
        ModelError: if the configured device is not available.
    """
    import torch

    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if config.device == "auto":
        device = next(name for name, here in available.items() if here)
    elif available[config.device]:
        device = config.device
    else:
        have = ", ".join(name for name, here in available.items() if here)
        raise ModelError(
            f"device {config.device} is not available (available: {have}): set device to auto, or install the torch build for it"
        )
    if config.load_in_4bit and device != "cuda":
        raise ModelError(f"load_in_4bit needs a CUDA device, not {device}: remove load_in_4bit")
    return device


def choose_dtype(config: HFConfig, device: str) -> str:
    """Return the number format of the weights: the configured one, else bfloat16 on a GPU that supports it, float32 on a CPU.

    On a CPU, ``HFBackend`` calls ``cpu_format`` instead.
    """
    if config.dtype != "auto":
        return config.dtype
    if device == "cpu":
        return "float32"
    if device == "cuda":
        import torch

        return "bfloat16" if torch.cuda.is_bf16_supported() else "float16"
    return "bfloat16"


def open_text(config: HFConfig, source: Source) -> Text:
    """Load only the tokenizer and its chat template.

    Raises:
        ModelError: if they cannot be loaded; the message has the remedy.
    """
    with _quiet():
        settings, tokenizer = settings_and_tokenizer(source)
    known = getattr(settings.get_text_config(), "vocab_size", None)
    return Text(
        tokenizer=tokenizer,
        chat=Chat(tokenizer, plain=config.chat_template == "none"),
        context=_context(config, settings, tokenizer),
        vocabulary=known if isinstance(known, int) and known > 0 else _UNBOUNDED,
        settings=settings,
        marks=_marks(tokenizer),
    )


def end_ids(source: Source, text: Text) -> frozenset[int]:
    """Return the tokens that end an answer, as ``Loaded.stop_ids``, without loading weights."""
    generation = read_json(source.folder / "generation_config.json") or {}
    named = [generation.get("eos_token_id"), getattr(text.settings, "eos_token_id", None)]
    return _stop_ids(named, text.tokenizer, text.chat)


def settings_and_tokenizer(source: Source) -> tuple[Any, Any]:
    """Return the model's transformers configuration and tokenizer.

    Raises:
        ModelError: if one cannot be loaded, or the model is not a causal language model.
    """
    if source.file is not None:
        settings, tokenizer = gguf_model.settings_and_tokenizer(source.place)
        _refuse_other_kinds(source, settings)
        return settings, tokenizer
    settings = _settings(source)
    _refuse_other_kinds(source, settings)
    return settings, _tokenizer(source)


def load(config: HFConfig, source: Source, text: Text) -> Loaded:
    """Load the weights.

    Raises:
        ModelError: if they cannot be loaded; the message has the remedy.
    """
    import torch

    device = choose_device(config)
    with _quiet():
        settings = text.settings or _settings(source)
        module = _weights(config, source, settings, device)
    module.name_or_path = source.base
    module.eval()
    tokenizer = text.tokenizer
    return Loaded(
        module=module,
        tokenizer=tokenizer,
        chat=text.chat,
        device=torch.device(next(module.parameters()).device),
        context=text.context,
        stop_ids=_stop_ids(_named_ends(module), tokenizer, text.chat),
        pad_id=_first_id(tokenizer.pad_token_id, tokenizer.eos_token_id),
        marks=text.marks,
    )


def _marks(tokenizer: Any) -> dict[int, str]:
    known = {mark for pair in MARKS for mark in pair}
    added = tokenizer.added_tokens_decoder.items()
    return {key: token.content for key, token in added if token.special and token.content in known}


def _fetch(hub_id: str, revision: str | None, file: str | None = None) -> Source:
    try:
        from huggingface_hub import hf_hub_download, snapshot_download
        from huggingface_hub.errors import (
            HfHubHTTPError,
            HFValidationError,
            LocalEntryNotFoundError,
        )
    except ImportError as error:
        raise ModelError(f"hf {missing_package('huggingface_hub', 'nfilter[local]')}") from error
    what = f"model {hub_id!r}" + (f" at revision {revision!r}" if revision else "")
    what = f"{file} of {what}" if file else what
    try:
        if file:
            path = Path(hf_hub_download(hub_id, file, revision=revision))
            # In the cache, a commit's folder is above the file's own folders.
            commit = path.parents[file.count("/")]
            return Source(commit, hub_id, commit.name, file)
        folder = snapshot_download(
            hub_id,
            revision=revision,
            allow_patterns=list(_FROM_HUB),
            ignore_patterns=["*/*", "consolidated*"],
        )
    except HfHubHTTPError as error:
        raise ModelError(
            f"{what} cannot be downloaded from the hub: {str(error).splitlines()[0]}. Check the name; for a gated model, "
            "accept its terms on its page and run 'hf auth login'"
        ) from error
    except (LocalEntryNotFoundError, OSError, HFValidationError) as error:
        kind = "file" if file else "folder"
        words = f"{hub_id} {file}" if file else hub_id
        raise ModelError(
            f"{what} is not a local {kind}, is not in the local cache, and the hub cannot be reached. Run 'hf download "
            f"{words}' with network access, or give a local {kind}"
        ) from error
    path = Path(folder)
    return Source(path, hub_id, path.name)


def _settings(source: Source) -> Any:
    try:
        from transformers import AutoConfig
    except ImportError as error:
        raise ModelError(
            f"hf {missing_package('transformers', 'nfilter[local]')} ({error})"
        ) from error
    try:
        settings = AutoConfig.from_pretrained(
            str(source.folder), local_files_only=True, trust_remote_code=False
        )
    except (ValueError, OSError, KeyError, TypeError) as error:
        raise ModelError(
            f"{source.folder}: transformers cannot use config.json: {error}. If the model is newer than the installed "
            "transformers: pip install --upgrade transformers"
        ) from error
    return settings


def _refuse_other_kinds(source: Source, settings: Any) -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    if settings.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise ModelError(
            f"{source.place}: a {settings.model_type} model is not a causal language model of transformers; "
            "give one that generates text"
        )


def _tokenizer(source: Source) -> Any:
    from transformers import AutoTokenizer

    # This file is used even if tokenizer_config.json names another, which transformers 5.10 would read.
    own = source.folder / "tokenizer.json"
    named = {"tokenizer_file": str(own)} if own.is_file() else {}
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            str(source.folder),
            local_files_only=True,
            trust_remote_code=False,
            use_fast=True,
            **named,
        )
    except (ValueError, OSError, KeyError, TypeError, ImportError, AttributeError) as error:
        raise ModelError(
            f"{source.folder}: the tokenizer cannot be loaded: {error}. Save it again as tokenizer.json, or install "
            "the package that it needs"
        ) from error
    if not getattr(tokenizer, "is_fast", False):
        raise ModelError(
            f"{source.folder}: the tokenizer has no tokenizer.json, which character offsets need; convert it with "
            "AutoTokenizer.from_pretrained(...).save_pretrained(...)"
        )
    return tokenizer


def open_whole(source: Source) -> tuple[Any, Any]:
    """Return the model in float32 on the CPU, and its tokenizer.

    Raises:
        ModelError: if it cannot be loaded.
    """
    with _quiet():
        settings, tokenizer = settings_and_tokenizer(source)
        config = HFConfig(model=source.base, device="cpu", dtype="float32")
        module = _weights(config, source, settings, "cpu")
    return module, tokenizer


def _weights(config: HFConfig, source: Source, settings: Any, device: str) -> Any:
    import torch

    options: dict[str, Any] = {"dtype": getattr(torch, choose_dtype(config, device))}
    if config.load_in_4bit:
        options["quantization_config"] = _four_bit(options["dtype"])
    if device == "cuda":
        # Directly to the device, so that the host need not hold the full model.
        options["device_map"] = {"": torch.cuda.current_device()}
    try:
        module, info = _read_weights(source, settings, options)
        if device != "cuda":
            module = module.to(device)
    except torch.OutOfMemoryError as error:
        raise ModelError(
            f"{source.place} does not fit on {device}: {'set load_in_4bit: true, or' if source.file is None else 'set'} "
            "device: cpu, or use a smaller model"
        ) from error
    except Exception as error:
        # Loaders raise errors of any type, all of them about the checkpoint.
        raise ModelError(f"{source.place}: the weights cannot be loaded: {error}") from error
    missing = sorted(info.get("missing_keys") or ())
    if missing:
        raise ModelError(
            f"{source.place}: {len(missing)} weights are missing from the checkpoint, such as {missing[0]}; they "
            "would be random: copy the checkpoint again"
        )
    if source.file is not None:
        refuse_left_out(module, read_header(source.place), source.place)
    return module


def _read_weights(source: Source, settings: Any, options: dict[str, Any]) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForCausalLM

    common = {"config": settings, "trust_remote_code": False, "output_loading_info": True}
    if source.file is None:
        return tuple(
            AutoModelForCausalLM.from_pretrained(
                str(source.folder), use_safetensors=True, local_files_only=True, **common, **options
            )
        )

    def exact() -> Any:
        module, info = _unpack(source, common | {"dtype": torch.float32})
        return None if info.get("missing_keys") else module

    cached = unpacked(source.place, exact)
    if cached is None:
        return _unpack(source, common | options)
    return tuple(
        AutoModelForCausalLM.from_pretrained(
            str(cached), use_safetensors=True, local_files_only=True, **common, **options
        )
    )


def _unpack(source: Source, options: dict[str, Any]) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM

    unpacking = gguf_model.unpacking()
    with gguf_model.alone(source.place) as (folder, file):
        return tuple(AutoModelForCausalLM.from_pretrained(folder, **file, **unpacking, **options))


def _four_bit(dtype: Any) -> Any:
    from importlib.util import find_spec

    if find_spec("bitsandbytes") is None:
        raise ModelError(
            "load_in_4bit needs bitsandbytes: pip install 'nfilter[quant]', or remove load_in_4bit"
        )
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def _context(config: HFConfig, settings: Any, tokenizer: Any) -> int:
    limits = [config.max_length]
    limits.append(getattr(settings.get_text_config(), "max_position_embeddings", None))
    known = [limit for limit in limits if isinstance(limit, int) and limit > 0]
    return min(known) if known else min(int(tokenizer.model_max_length), _UNBOUNDED)


def _named_ends(module: Any) -> list[Any]:
    """The end tokens that a model's configurations name."""
    holders = (getattr(module, "generation_config", None), module.config)
    return [getattr(holder, "eos_token_id", None) for holder in holders]


def _stop_ids(named: Iterable[Any], tokenizer: Any, chat: Chat) -> frozenset[int]:
    """The end tokens that the checkpoint names, and the one that its template writes after an answer."""
    numbers: set[int] = set()
    for ids in named:
        if ids is not None:
            numbers.update(ids if isinstance(ids, list | tuple) else [ids])
    if tokenizer.eos_token_id is not None:
        numbers.add(tokenizer.eos_token_id)
    if chat.end_of_turn:
        numbers.add(tokenizer.convert_tokens_to_ids(chat.end_of_turn))
    return frozenset(int(number) for number in numbers)


def _first_id(*candidates: int | None) -> int:
    return next((int(number) for number in candidates if number is not None), 0)


@contextmanager
def _quiet() -> Iterator[None]:
    # Progress bars of loading would overwrite the run's.
    try:
        from transformers.utils import logging
    except ImportError as error:
        raise ModelError(
            f"hf {missing_package('transformers', 'nfilter[local]')} ({error})"
        ) from error
    shown = logging.is_progress_bar_enabled()
    if not shown:
        yield
        return
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.enable_progress_bar()
