"""Small checkpoints with random weights, and small tokenizers with chat templates of the common kinds."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nfilter import Site
from nfilter_hf.backend import HFBackend

# What several tests share lies beside them.
sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent / "templates"))
sys.path.insert(0, str(Path(__file__).parents[2] / "servers"))

TEXT = (
    "the quick brown fox jumps over the lazy dog . what is two plus three ? it is five . you are a helpful "
    "assistant . name a colour : red , green , blue . yes no maybe user system assistant model answer question "
) * 4

TEMPLATES = {
    "chatml": (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
    "llama3": (
        "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n'"
        " + m['content'] | trim + '<|eot_id|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
    ),
    "inst": (
        "{{ bos_token }}{% for m in messages %}"
        "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('roles must alternate user/assistant') }}{% endif %}"
        "{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
        "{% else %}{{ ' ' + m['content'] + eos_token }}{% endif %}{% endfor %}"
    ),
    "gemma": (
        "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
        "{% endif %}{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('Conversation roles must alternate') }}{% endif %}"
        "{% set role = 'model' if m['role'] == 'assistant' else m['role'] %}"
        "{{ '<start_of_turn>' + role + '\n' + m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
    ),
    # Answers of the past lose their thoughts, and the generation prompt opens one that the finished turn may lack.
    "thinking": (
        "{% for m in messages %}{% set c = m['content'] %}"
        "{% if m['role'] == 'assistant' and '</think>' in c %}{% set c = c.split('</think>')[-1].lstrip('\n') %}"
        "{% endif %}{{ '<|im_start|>' + m['role'] + '\n' }}"
        "{% if m['role'] == 'assistant' and loop.last %}{{ m['content'] }}{% else %}{{ c }}{% endif %}"
        "{{ '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}"
    ),
    "tulu": (
        "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] }}"
        "{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
    ),
    "none": None,
}
SPECIALS = [
    "<s>", "</s>", "<pad>", "<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>",
    "<start_of_turn>", "<end_of_turn>",
]  # fmt: skip
EOS = {
    "chatml": "<|im_end|>", "llama3": "<|eot_id|>", "gemma": "<end_of_turn>", "thinking": "<|im_end|>",
}  # fmt: skip


def make_tokenizer(style: str, kind: str = "bytes") -> Any:
    """A tokenizer of about 400 tokens: ``bytes`` as GPT-2 and Llama 3, ``pieces`` as Llama 2 and Mistral."""
    from tokenizers import (
        Regex,
        Tokenizer,
        decoders,
        models,
        normalizers,
        pre_tokenizers,
        processors,
    )
    from tokenizers.trainers import BpeTrainer
    from transformers import PreTrainedTokenizerFast

    common: dict[str, Any] = {"special_tokens": SPECIALS, "show_progress": False}
    if kind == "bytes":
        backend = Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        if style == "llama3":
            # Newlines before a word stay together, as in vocabularies of that kind.
            words_and_lines = Regex(
                r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+|\s*[\r\n]+|\s+"
            )
            backend.pre_tokenizer = pre_tokenizers.Sequence(
                [
                    pre_tokenizers.Split(words_and_lines, behavior="isolated"),
                    pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
                ]
            )
        backend.decoder = decoders.ByteLevel()
        backend.post_processor = processors.ByteLevel(trim_offsets=True)
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = BpeTrainer(vocab_size=400, initial_alphabet=sorted(alphabet), **common)
    else:
        backend = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
        backend.normalizer = normalizers.NFKC()
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
        backend.decoder = decoders.Sequence(
            [
                decoders.Replace("▁", " "),
                decoders.ByteFallback(),
                decoders.Fuse(),
                decoders.Strip(" ", 1, 0),
            ]
        )
        alphabet = sorted({*TEXT, "\n", "▁", "[", "]", "/", "I", "N", "S", "T", "<", "|", ">", "_"})
        common["special_tokens"] = ["<unk>", *SPECIALS, *(f"<0x{i:02X}>" for i in range(256))]
        trainer = BpeTrainer(vocab_size=700, initial_alphabet=alphabet, **common)
    words = TEXT.split()
    pairs = [" ".join(words[i : i + 2]) for i in range(0, len(words), 2)]
    # Newlines join, as in real vocabularies, so an answer that begins with one could join what is before it.
    backend.train_from_iterator([*pairs, *["\n\n", "\n\n\n"] * 50], trainer)
    if kind != "bytes":
        # Byte tokens are pieces of the vocabulary, not tokens that are cut out of text.
        import json

        state = json.loads(backend.to_str())
        state["added_tokens"] = [
            t for t in state["added_tokens"] if not t["content"].startswith("<0x")
        ]
        backend = Tokenizer.from_str(json.dumps(state))
    if style in ("llama3", "inst", "gemma"):
        bos = backend.token_to_id("<s>")
        backend.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", bos)]
        )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token=EOS.get(style, "</s>"),
        pad_token="<pad>",
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = TEMPLATES[style]
    return tokenizer


def make_model(kind: str, vocabulary: int, context: int = 256, seed: int = 0) -> Any:
    """A random model in float32 whose distributions are far from uniform."""
    import torch
    import transformers as hf

    common = {"vocab_size": vocabulary, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    llama = {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": context, "initializer_range": 0.3,
    }  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if kind == "llama":
            return hf.LlamaForCausalLM(hf.LlamaConfig(**llama, **common)).eval()
        if kind == "qwen2":
            return hf.Qwen2ForCausalLM(
                hf.Qwen2Config(**llama, **common, tie_word_embeddings=True)
            ).eval()
        if kind == "gemma2":
            sized = {**llama, "head_dim": 8, "sliding_window": 8, "query_pre_attn_scalar": 8}
            config = hf.Gemma2Config(**sized, **common, final_logit_softcapping=3.0)
            return hf.Gemma2ForCausalLM(config).eval()
        config = hf.GPT2Config(
            n_embd=32, n_layer=2, n_head=4, n_positions=context, initializer_range=0.3,
            resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, **common,
        )  # fmt: skip
        return hf.GPT2LMHeadModel(config).eval()


Checkpoint = Callable[..., Path]


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """``checkpoint(model, style, tokenizer)`` makes a folder once and returns it."""
    made: dict[tuple[str, str, str, int], Path] = {}

    def make(
        kind: str = "llama", style: str = "chatml", tokens: str = "bytes", context: int = 256
    ) -> Path:
        key = (kind, style, tokens, context)
        if key not in made:
            folder = tmp_path_factory.mktemp("-".join(map(str, key)))
            tokenizer = make_tokenizer(style, tokens)
            model = make_model(kind, len(tokenizer), context)
            model.generation_config.eos_token_id = [tokenizer.eos_token_id, 1]
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            made[key] = folder
        return made[key]

    return make


@pytest.fixture(scope="session")
def backend(checkpoint: Checkpoint) -> Callable[..., HFBackend]:
    """``backend(model, style, tokenizer)`` opens such a checkpoint; one instance serves the session."""
    made: dict[Any, HFBackend] = {}

    def make(
        kind: str = "llama", style: str = "chatml", tokens: str = "bytes", context: int = 256
    ) -> HFBackend:
        key = (kind, style, tokens, context)
        if key not in made:
            made[key] = open_backend(checkpoint(*key))
        return made[key]

    return make


def open_backend(folder: Path, **config: Any) -> HFBackend:
    settings = {"device": "cpu", "dtype": "float32", **config}
    return HFBackend(HFBackend.Config(model=str(folder), **settings), Site(base_dir=Path.cwd()))


@pytest.fixture(name="open_backend")
def open_backend_fixture() -> Callable[..., HFBackend]:
    return open_backend


@pytest.fixture(scope="session")
def templates() -> dict[str, str | None]:
    return TEMPLATES


@pytest.fixture(scope="session")
def tokenizer_of() -> Callable[..., Any]:
    return make_tokenizer
