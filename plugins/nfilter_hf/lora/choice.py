"""Batch, epochs and learning rate of a LoRA training where the recipe leaves them open (``auto``).

The rule, and where each part of it comes from:

- ``batch_size``: the largest of 4, 8, 16 and 32 with which an epoch over the rows of the run has 50 optimiser steps or
  more; 4 where none has. LoRA loses by large batches, whatever its rank (Schulman et al., LoRA Without Regret, 2025);
  LLaMA-Factory, TRL, axolotl and Unsloth begin with 4 to 16.
- ``epochs``: 2, as in the RobustFT paper (Unsloth: 1 to 3), or as many as 100 steps over the rows of the run take, at most 10.
  OpenAI's guide to fine-tuning takes more epochs for few rows as well, until 100 examples are seen, at a batch size of 1 or so.
- ``lr``: 2e-4 at a hidden size of 2048, the value with which TRL, axolotl and Unsloth begin; ``(2048 / hidden) ** 0.781``
  times that for others, the exponent that LoRA Without Regret fitted to Llama models of 1 to 70 billion parameters (its
  LoRA rate is ten times that of full fine-tuning); from 5e-5 to 1e-3. 8 billion parameters (4096): 1.2e-4; 135 million
  (576): 5.4e-4. It does not depend on the rows, so that all trainings of a run have one.

The arms of a run have the rows of the run in common, so that batch size and epochs are the same: an arm that lost rows takes fewer
steps. Where these would be under 60, it takes more epochs, at most 10. A training that a stage asks for (a warm-up reference)
follows the same rule with its own rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from nfilter import JSON, Foretold
from nfilter_hf.lora.data import step_count
from nfilter_hf.lora.settings import LoraSettings

BATCHES: Final = (4, 8, 16, 32)
EPOCH_STEPS: Final = 50
STEPS: Final = 100
ARM_STEPS: Final = 60
EPOCHS: Final = (2, 10)
FEW: Final = 20
"""Optimiser steps under which an adapter has hardly begun to learn: a warning."""

_LR: Final = (2e-4, 2048, 0.781)
_LR_RANGE: Final = (5e-5, 1e-3)


@dataclass(frozen=True, slots=True)
class Choice:
    """How one training goes: ``steps`` optimiser steps of ``batch_size`` samples, ``lr`` at its peak.

    ``open`` names the settings that the recipe left to this rule.
    """

    batch_size: int
    epochs: int
    lr: float
    steps: int
    open: tuple[str, ...]

    def settings(self) -> dict[str, JSON]:
        """The three settings as numbers."""
        return {"batch_size": self.batch_size, "epochs": self.epochs, "lr": self.lr}


def open_settings(config: LoraSettings) -> tuple[str, ...]:
    """The names of the settings that are ``auto``."""
    return tuple(name for name in ("batch_size", "epochs", "lr") if getattr(config, name) == "auto")


def choose(config: LoraSettings, samples: int, hidden: int | None, rows: int | None) -> Choice:
    """How ``samples`` are trained on; ``rows`` are those of the run for an arm of it, None for any other training.

    ``hidden`` is the model's hidden size, None where it is not known. What the recipe sets stays as it is.
    """
    batch = choose_batch(rows or samples) if config.batch_size == "auto" else config.batch_size
    epochs = choose_epochs(samples, batch, rows) if config.epochs == "auto" else config.epochs
    lr = choose_lr(hidden) if config.lr == "auto" else config.lr
    steps = step_count(samples, batch, epochs, config.max_steps)
    return Choice(batch, epochs, lr, steps, open_settings(config))


def choose_batch(rows: int) -> int:
    """Samples of an optimiser step, by the rule above."""
    return max((size for size in BATCHES if rows >= EPOCH_STEPS * size), default=BATCHES[0])


def choose_epochs(samples: int, batch_size: int, rows: int | None) -> int:
    """Epochs, by the rule above; ``rows`` are those of the run for an arm of it."""
    least, most = EPOCHS
    of_all = _epochs(rows or samples, batch_size, STEPS)
    return min(most, max(least, of_all, _epochs(samples, batch_size, ARM_STEPS)))


def _epochs(samples: int, batch_size: int, steps: int) -> int:
    """The epochs that so many steps take."""
    return -(-steps // max(1, -(-samples // batch_size)))


def choose_lr(hidden: int | None) -> float:
    """The peak learning rate for a hidden size, with two digits; where that is not known, the one of 2048."""
    lr, at, exponent = _LR
    scaled = lr * (at / hidden) ** exponent if hidden else lr
    return float(f"{min(max(scaled, _LR_RANGE[0]), _LR_RANGE[1]):.1e}")


def hidden_size(config: Any) -> int | None:
    """The hidden size that a model's configuration names: an object of transformers or what config.json holds."""
    if isinstance(config, Mapping):
        inner = config.get("text_config")
        named = config.get("hidden_size", config.get("n_embd"))
        found = inner.get("hidden_size") if named is None and isinstance(inner, Mapping) else named
    else:
        text = getattr(config, "get_text_config", None)
        found = getattr(text() if callable(text) else config, "hidden_size", None)
    return found if isinstance(found, int) and not isinstance(found, bool) and found > 0 else None


def told(choice: Choice, samples: int, hidden: int | None) -> str:
    """What was chosen, and from what, in a sentence part."""
    words = {
        "batch_size": f"batch_size {choice.batch_size}",
        "epochs": f"epochs {choice.epochs}",
        "lr": f"lr {choice.lr:g}",
    }
    fit = [f"{samples:,} {_rows(samples)}"] if {"batch_size", "epochs"} & {*choice.open} else []
    if "lr" in choice.open:
        fit.append(f"the model's hidden size of {hidden}" if hidden else "a model of unknown size")
    return (
        f"{_list([words[name] for name in choice.open])} {_are(choice.open)} chosen for {_list(fit)}: "
        f"{choice.steps:,} optimiser {_steps(choice.steps)}"
    )


def foretell(config: LoraSettings, rows: int | None, hidden: int | None) -> Foretold:
    """What a run of so many rows would train with: None, where nobody has counted them yet."""
    if rows is None:
        given = open_settings(config)
        return Foretold(f"{_list(given)} {_are(given)} chosen by rows and model" if given else "")
    choice = choose(config, rows, hidden, rows)
    said = []
    later = hidden is None and "lr" in choice.open
    known = tuple(name for name in choice.open if name != "lr" or not later)
    if known:
        said.append(told(replace(choice, open=known), rows, hidden))
    if later:
        said.append(
            "lr is chosen by the model's size, which is known once the model is on this machine"
        )
    return Foretold("; ".join(said), too_few(config, choice, rows) or "")


def too_few(config: LoraSettings, choice: Choice, samples: int) -> str | None:
    """Why a training of under ``FEW`` steps is none, and what to type instead; None where there are enough."""
    if choice.steps >= FEW:
        return None
    what = (
        f"only {choice.steps} optimiser {_steps(choice.steps)} on {samples:,} {_rows(samples)} (batch_size {choice.batch_size}, "
        f"epochs {choice.epochs}{f', max_steps {config.max_steps}' if config.max_steps else ''}): the adapter will hardly "
        "differ from the untrained model"
    )
    return f"{what}; {_remedy(config, choice, samples)}"


def _remedy(config: LoraSettings, choice: Choice, samples: int) -> str:
    if step_count(samples, choice.batch_size, choice.epochs, None) > choice.steps:
        return f"leave train.max_steps out, or raise it to {STEPS}"
    given = [name for name in ("batch_size", "epochs") if name not in choice.open]
    left = config.model_copy(update=dict.fromkeys(given, "auto"))
    better = choose(left, samples, None, None)
    if given and better.steps >= FEW:
        return (
            f"leave {_list([f'train.{name}' for name in given])} out (batch_size {better.batch_size} and epochs "
            f"{better.epochs} are {better.steps} steps)"
        )
    epochs = _epochs(samples, better.batch_size, STEPS)
    steps = step_count(samples, better.batch_size, epochs, None)
    size = f", with train.batch_size: {better.batch_size}," if "batch_size" in given else ""
    return f"more rows are better; with these, train.epochs: {epochs}{size} makes {steps} steps"


def _rows(number: int) -> str:
    return "row" if number == 1 else "rows"


def _steps(number: int) -> str:
    return "step" if number == 1 else "steps"


def _are(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"


def _list(words: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))
