"""``hf.lora`` in a process of a launch that is not the first: its share of each training's steps."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import islice
from typing import Any, cast

from nfilter import Context, ModelError, TokenLoss
from nfilter_hf.lora.adapter import adapted, adapter_parameters, fingerprint, seeded
from nfilter_hf.lora.data import step_order
from nfilter_hf.lora.settings import LoraSettings
from nfilter_hf.lora.step import StepLoss
from nfilter_hf.lora_ranks import Ranks


def follow(config: LoraSettings, model: Any, loss: TokenLoss | None) -> None:
    """Help with every training of the run, until the first process says that it is over.

    Raises ModelError where this process cannot go on; the first one then ends with what it says.
    """
    ranks = Ranks.join()
    error: BaseException | None = None
    try:
        while (job := ranks.next_job()) is not None:
            _help(job, config, model, loss, ranks)
    except BaseException as found:
        # A first process that failed has said why, and cut this one off.
        if isinstance(found, ModelError) and ranks.over():
            return
        error = found
        raise
    finally:
        ranks.leave(error)


def _help(
    job: dict[str, Any], config: LoraSettings, model: Any, loss: TokenLoss | None, ranks: Ranks
) -> None:
    import torch

    if job["settings"] != config.model_dump(mode="json"):
        raise ModelError(
            "the first process trains with other settings: start every process with the same recipe and --set"
        )
    rows = ranks.rows(job["rows"])
    with model.lend() as lent, seeded(lent.module, job["seed"]):
        module = lent.module
        base = fingerprint(model, module)
        if base != job["base"]:
            raise ModelError(
                f"the first process trains another base than {config.model!r} is here ({base}): give every machine "
                "the same weights, in the same number format"
            )
        with adapted(module, config) as wrapped:
            parameters = adapter_parameters(wrapped)
            aside = cast("Context", _Aside(loss if job["online"] else None))
            step_loss = StepLoss(module, config, parameters[0].device, aside, ranks)
            step_loss.check_head(rows[0])
            step_loss.check_flat(rows[:4])
            wrapped.train()
            order = step_order(len(rows), job["batch_size"], job["steps"], job["seed"])
            for members in islice(order, job["first"], None):
                step = ranks.next_step(parameters)
                if step is None:
                    break
                # A stream of this process's own at each step: what is resumed draws the same dropout.
                torch.manual_seed(stream(job["seed"], ranks.rank, step))
                for parameter in parameters:
                    parameter.grad = None
                step_loss([rows[i] for i in members], step)
                ranks.collect(parameters)
            else:
                ranks.next_step(parameters)
            wrapped.eval()


def stream(seed: int, rank: int, step: int) -> int:
    """The seed of a process's dropout at a step, below 2**63."""
    import hashlib

    drawn = hashlib.sha256(f"dropout {seed} {rank} {step}".encode()).digest()
    return int.from_bytes(drawn[:8], "big") >> 1


class _Mute:
    """What there is to say, the first process says too."""

    def info(self, text: str) -> None:
        pass

    def warning(self, text: str) -> None:
        pass


@dataclass(frozen=True, slots=True)
class _Aside:
    """What a step's loss may reach in a process that helps."""

    loss: TokenLoss | None
    log: _Mute = field(default_factory=_Mute)
