"""A frozen base sharded over the devices of a launch, layer by layer (FSDP2)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from nfilter import ModelError
from nfilter_hf.adapters import Snapshot
from nfilter_hf.lora.distributed import Launch


@contextmanager
def sharded(module: Any, launch: Launch) -> Iterator[None]:
    """Shard the weights of ``module`` inside the block: each process holds a part, and a full layer while it computes.

    Trained weights are not sharded. The shards are on the devices that accelerate assigned to the processes; weights
    that were on the CPU also stay there and are restored on exit. Every process must run the same number of forward
    and backward passes.

    Raises:
        ModelError: there is one process only, or the weights are quantised.
    """
    if launch.size == 1:
        raise ModelError(
            "train.shard needs several processes, and this is the only one: type torchrun --nproc-per-node N -m "
            "nfilter run RECIPE, or remove train.shard"
        )
    if any(not p.is_floating_point() for p in module.parameters()):
        raise ModelError(
            "train.shard needs weights of 16 or 32 bits: remove load_in_4bit from this model, or train.shard"
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
            # fully_shard moves all parameters of a part to the device: those of later parts go back.
            for parameter, data in whole:
                if type(parameter.data) is type(data):
                    parameter.data = data
        yield
    finally:
        for child, kind in classes:
            child.__class__ = kind
        before.restore()


def _layers(module: Any) -> list[Any]:
    """Return the layers that transformers does not split over devices; empty if the architecture names none."""
    names = set(getattr(module, "_no_split_modules", None) or ())
    return [child for child in module.modules() if type(child).__name__ in names]
