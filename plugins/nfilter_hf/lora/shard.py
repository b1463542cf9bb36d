"""A frozen base whose weights are spread over the devices of a launch, layer by layer (FSDP2)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from nfilter import ModelError
from nfilter_hf.adapters import Snapshot
from nfilter_hf.lora.distributed import Launch


@contextmanager
def sharded(module: Any, launch: Launch) -> Iterator[None]:
    """Inside, each process holds its share of the weights of ``module``, and all of a layer while it computes.

    Weights that are trained stay whole, in every process, on its device. The shares are on the devices that accelerate
    gave the processes; weights that were on the CPU stay there too, and are what is given back. Every process must run
    the same number of forward and backward passes.

    Raises:
        ModelError: where this process is alone, or the weights are packed in fewer bits.
    """
    if launch.size == 1:
        raise ModelError(
            "train.shard spreads the base over several processes, and this is one: type torchrun --nproc-per-node N -m "
            "nfilter run RECIPE, or leave train.shard out"
        )
    if any(not p.is_floating_point() for p in module.parameters()):
        raise ModelError(
            "train.shard spreads weights of 16 or 32 bits: leave load_in_4bit out for this model, or train.shard"
        )
    from accelerate import PartialState
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    before = Snapshot(module)
    classes = [(child, type(child)) for child in module.modules()]
    device = PartialState().device
    trained = {parameter for parameter in module.parameters() if parameter.requires_grad}
    mesh = init_device_mesh(device.type, (launch.size,))
    try:
        for parameter in trained:
            parameter.data = parameter.data.to(device)
        for part in [*_layers(module), module]:
            whole = [(p, p.data) for p in part.parameters() if p not in trained]
            fully_shard(part, mesh=mesh, ignored_params=trained)
            # It moves a part to the device before it cuts it: what is kept for later goes back to where it was.
            for parameter, data in whole:
                if type(parameter.data) is type(data):
                    parameter.data = data
        yield
    finally:
        for child, kind in classes:
            child.__class__ = kind
        before.restore()


def _layers(module: Any) -> list[Any]:
    """The layers that transformers keeps on one device each; none where an architecture names none."""
    names = set(getattr(module, "_no_split_modules", None) or ())
    return [child for child in module.modules() if type(child).__name__ in names]
