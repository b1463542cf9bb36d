"""The choice of batch size, epochs and learning rate for settings that are ``auto``.

The rule and its sources:

- ``batch_size``: the largest of 4, 8, 16 and 32 that gives an epoch over the rows of the run at least 50 optimiser
  steps; otherwise 4. Large batches lower the accuracy of LoRA at any rank (Schulman et al., LoRA Without Regret,
  2025); the defaults of LLaMA-Factory, TRL, axolotl and Unsloth are 4 to 16.
  On 1,385 rows and SmolLM2-135M, batches of 4 to 16 were within a standard error (docs/benchmarks.md).
- ``epochs``: 2, as in the RobustFT paper (Unsloth: 1 to 3), or the number that gives 100 steps over the rows of the
  run, at most 10. OpenAI's guide to fine-tuning also increases the epochs for few rows.
- ``lr``: 2e-4 at a hidden size of 2048, the default of TRL, axolotl and Unsloth; for other sizes multiplied by
  ``(2048 / hidden) ** 0.781``, the exponent that LoRA Without Regret fitted to Llama models of 1 to 70 billion
  parameters (its LoRA rate is ten times that of full fine-tuning); limited to 5e-5 to 1e-3. 8 billion parameters
  (4096): 1.2e-4; 135 million (576): 5.4e-4. It does not depend on the rows, so all trainings of a run have the same.

All arms of a run use the rows of the run for this rule, so their batch size and epochs are equal: an arm with fewer
rows has fewer steps. If it would have fewer than 60 steps, it has more epochs, at most 10. A training that a stage
requests (a warm-up reference) applies the rule to its own rows.
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
"""Fewer optimiser steps than this raise a warning: the adapter hardly differs from its initial values."""

_LR: Final = (2e-4, 2048, 0.781)
_LR_RANGE: Final = (5e-5, 1e-3)


@dataclass(frozen=True, slots=True)
class Choice:
    """The settings of one training: ``steps`` optimiser steps of ``batch_size`` samples, with the peak rate ``lr``.

    ``open`` names the settings that are ``auto`` in the recipe.
    """

    batch_size: int
    epochs: int
    lr: float
    steps: int
    open: tuple[str, ...]

    def settings(self) -> dict[str, JSON]:
        """Return the three settings as numbers."""
        return {"batch_size": self.batch_size, "epochs": self.epochs, "lr": self.lr}


def open_settings(config: LoraSettings) -> tuple[str, ...]:
    """Return the names of the settings that are ``auto``."""
    return tuple(name for name in ("batch_size", "epochs", "lr") if getattr(config, name) == "auto")


def choose(config: LoraSettings, samples: int, hidden: int | None, rows: int | None) -> Choice:
    """Return the settings for training on ``samples`` samples; settings given in the recipe are not changed.

    ``rows`` is the number of rows of the run for an arm of it, None for another training. ``hidden`` is the model's
    hidden size, None if unknown.
    """
    batch = choose_batch(rows or samples) if config.batch_size == "auto" else config.batch_size
    epochs = choose_epochs(samples, batch, rows) if config.epochs == "auto" else config.epochs
    lr = choose_lr(hidden) if config.lr == "auto" else config.lr
    steps = step_count(samples, batch, epochs, config.max_steps)
    return Choice(batch, epochs, lr, steps, open_settings(config))


def choose_batch(rows: int) -> int:
    """Return the samples per optimiser step, by the rule above."""
    return max((size for size in BATCHES if rows >= EPOCH_STEPS * size), default=BATCHES[0])


def choose_epochs(samples: int, batch_size: int, rows: int | None) -> int:
    """Return the epochs, by the rule above; ``rows`` is the number of rows of the run for an arm of it."""
    least, most = EPOCHS
    of_all = _epochs(rows or samples, batch_size, STEPS)
    return min(most, max(least, of_all, _epochs(samples, batch_size, ARM_STEPS)))


def _epochs(samples: int, batch_size: int, steps: int) -> int:
    """Return the fewest epochs that give ``steps`` optimiser steps."""
    return -(-steps // max(1, -(-samples // batch_size)))


def choose_lr(hidden: int | None) -> float:
    """Return the peak learning rate for a hidden size, to two digits; for None, the rate of 2048."""
    lr, at, exponent = _LR
    scaled = lr * (at / hidden) ** exponent if hidden else lr
    return float(f"{min(max(scaled, _LR_RANGE[0]), _LR_RANGE[1]):.1e}")


def hidden_size(config: Any) -> int | None:
    """Return the hidden size in a configuration of transformers or the content of config.json; None if absent."""
    if isinstance(config, Mapping):
        inner = config.get("text_config")
        named = config.get("hidden_size", config.get("n_embd"))
        found = inner.get("hidden_size") if named is None and isinstance(inner, Mapping) else named
    else:
        text = getattr(config, "get_text_config", None)
        found = getattr(text() if callable(text) else config, "hidden_size", None)
    return found if isinstance(found, int) and not isinstance(found, bool) and found > 0 else None


def choice_text(choice: Choice, samples: int, hidden: int | None) -> str:
    """Return a clause with the chosen settings and the values that determined them."""
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
    """Return the settings that a run of ``rows`` rows would choose; ``rows`` is None before they are counted."""
    if rows is None:
        given = open_settings(config)
        return Foretold(
            f"{_list(given)} {_are(given)} chosen from the rows and the model" if given else ""
        )
    choice = choose(config, rows, hidden, rows)
    parts = []
    later = hidden is None and "lr" in choice.open
    known = tuple(name for name in choice.open if name != "lr" or not later)
    if known:
        parts.append(choice_text(replace(choice, open=known), rows, hidden))
    if later:
        parts.append(
            "lr is chosen from the model's size, which is known after the model is downloaded"
        )
    return Foretold("; ".join(parts), too_few(config, choice, rows) or "")


def too_few(config: LoraSettings, choice: Choice, samples: int) -> str | None:
    """Return a warning for a training of fewer than ``FEW`` steps, with the settings to change; otherwise None."""
    if choice.steps >= FEW:
        return None
    what = (
        f"only {choice.steps} optimiser {_steps(choice.steps)} on {samples:,} {_rows(samples)} (batch_size {choice.batch_size}, "
        f"epochs {choice.epochs}{f', max_steps {config.max_steps}' if config.max_steps else ''}): the adapter will hardly "
        "differ from the untrained model"
    )
    return f"{what}; {_remedy(config, choice, samples)}"


def _remedy(config: LoraSettings, choice: Choice, samples: int) -> str:
    """Return the settings that give a training enough steps."""
    if step_count(samples, choice.batch_size, choice.epochs, None) > choice.steps:
        return f"remove train.max_steps, or raise it to {STEPS}"
    given = [name for name in ("batch_size", "epochs") if name not in choice.open]
    left = config.model_copy(update=dict.fromkeys(given, "auto"))
    better = choose(left, samples, None, None)
    if given and better.steps >= FEW:
        return (
            f"remove {_list([f'train.{name}' for name in given])} (batch_size {better.batch_size} and epochs "
            f"{better.epochs} give {better.steps} steps)"
        )
    epochs = _epochs(samples, better.batch_size, STEPS)
    steps = step_count(samples, better.batch_size, epochs, None)
    size = f", with train.batch_size: {better.batch_size}," if "batch_size" in given else ""
    return f"add rows; with the present rows, train.epochs: {epochs}{size} gives {steps} steps"


def _rows(number: int) -> str:
    return "row" if number == 1 else "rows"


def _steps(number: int) -> str:
    return "step" if number == 1 else "steps"


def _are(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"


def _list(words: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))
