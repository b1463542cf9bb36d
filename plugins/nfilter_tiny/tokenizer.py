"""Tokenizer of ``tiny``: single digits, the world's words, and all bytes, so that any UTF-8 text round-trips."""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING, Final

from nfilter_tiny.formats import draw_example
from nfilter_tiny.world.words import WORDS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SPECIAL: Final = ("<pad>", "<s>", "</s>", "<unk>", "<|system|>", "<|user|>", "<|assistant|>")
CHAT_TEMPLATE: Final = (
    "{{ bos_token }}{% for m in messages %}{{ '<|' + m['role'] + '|>' }}"
    "{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] + eos_token }}{% endgeneration %}"
    "{% else %}{{ m['content'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
# Frequent English words, so that other text is not encoded byte by byte.
ENGLISH: Final = Path(__file__).with_name("english.txt")


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Train the tokenizer on a seeded sample of the world and a list of English words."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\p{N}|\p{L}+|\s|[^\s\p{L}\p{N}]"), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    rng = random.Random("nfilter-tiny tokenizer 2")
    texts = [" ".join(WORDS)] * 50
    for _ in range(500):
        example = draw_example(rng)
        texts += [text for _, text in example.turns] + [example.reply]
    trainer = trainers.BpeTrainer(
        vocab_size=1280,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator([*texts, ENGLISH.read_text(encoding="utf-8")], trainer=trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        **dict(zip(("pad_token", "bos_token", "eos_token", "unk_token"), SPECIAL, strict=False)),
        additional_special_tokens=list(SPECIAL[4:]),
        model_max_length=1024,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
