"""The tokenizer of ``tiny``: single digits, the world's words, and every byte, so any UTF-8 text round-trips."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final

from nfilter_tiny.formats import draw_example
from nfilter_tiny.world import KNOWN, NEW, NOVEL, REASONED

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SPECIAL: Final = ("<pad>", "<s>", "</s>", "<unk>", "<|system|>", "<|user|>", "<|assistant|>")
CHAT_TEMPLATE: Final = (
    "{{ bos_token }}{% for m in messages %}{{ '<|' + m['role'] + '|>' }}"
    "{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] + eos_token }}{% endgeneration %}"
    "{% else %}{{ m['content'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
# Frequent English, so that text from outside the world is not spelt byte by byte.
_ENGLISH: Final = (
    "the of and to in is that for it as was with be by on not he his but at are this have from or had an "
    "they which one you were all her she there would their we him been has when who will no more if out so "
    "up said what its about than into them can only other time new some could these two may first then do "
    "any like my now over such our man me even most made after also did many off before must well back "
    "through years much where your way down should because long each just state people those too how good "
    "make very year still see own work world question answer options choose correct following true false "
    "yes none number water energy plant animal light sun moon earth food body cell heat force change group"
)  # fmt: skip


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
    rng = random.Random("nfilter-tiny tokenizer 1")
    texts = [" ".join((*KNOWN, *REASONED, *NEW, *NOVEL))] * 50
    for _ in range(500):
        example = draw_example(rng)
        texts += [text for _, text in example.turns] + [example.reply]
    trainer = trainers.BpeTrainer(
        vocab_size=640,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator([*texts, _ENGLISH], trainer=trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        **dict(zip(("pad_token", "bos_token", "eos_token", "unk_token"), SPECIAL, strict=False)),
        additional_special_tokens=list(SPECIAL[4:]),
        model_max_length=1024,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
