"""Local models through transformers and peft: they generate, embed, score, encode, and are fine-tuned.

Importing this package loads neither torch nor transformers.
"""

from __future__ import annotations

from nfilter import hookimpl


@hookimpl
def nfilter_backends() -> tuple[type, ...]:
    """The backend ``hf``."""
    from nfilter_hf.backend import HFBackend

    return (HFBackend,)


@hookimpl
def nfilter_trainers() -> tuple[type, ...]:
    """The trainer ``hf.lora``."""
    from nfilter_hf.lora.trainer import LoraTrainer

    return (LoraTrainer,)
