"""Local models with transformers and peft: generate, embed, score, encode, and fine-tune with LoRA.

Importing this package imports neither torch nor transformers.
"""

from __future__ import annotations

from nfilter import hookimpl


@hookimpl
def nfilter_backends() -> tuple[type, ...]:
    """Return the backend ``hf``."""
    from nfilter_hf.backend import HFBackend

    return (HFBackend,)


@hookimpl
def nfilter_trainers() -> tuple[type, ...]:
    """Return the trainer ``hf.lora``."""
    from nfilter_hf.lora.trainer import LoraTrainer

    return (LoraTrainer,)
