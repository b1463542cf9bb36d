"""What a base that is spread over processes asks for; that it trains as a whole one is in test_distributed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lent_llama import Lender, llama, sample

from nfilter import ModelError
from nfilter.testing import FakeContext
from nfilter_hf.lora.distributed import Launch
from nfilter_hf.lora.settings import LoraSettings
from nfilter_hf.lora.shard import sharded
from nfilter_hf.lora.trainer import LoraTrainer


@pytest.mark.types("or remove train.shard")
def test_one_process_cannot_spread_a_base(tmp_path: Path) -> None:
    module = llama()
    before = {name: type(child) for name, child in module.named_modules()}
    samples = [sample(i) for i in range(8)]
    settings = LoraSettings(rank=4, epochs=1, shard=True)
    with pytest.raises(
        ModelError,
        match="and this is the only one: type torchrun --nproc-per-node N -m nfilter run",
    ):
        LoraTrainer(settings).train(samples, Lender(module), tmp_path / "a", FakeContext())
    assert {name: type(child) for name, child in module.named_modules()} == before
    left = LoraSettings(**settings.model_dump(exclude={"shard"}))
    assert (
        LoraTrainer(left).train(samples, Lender(module), tmp_path / "b", FakeContext()).steps == 2
    )


@pytest.mark.types("remove load_in_4bit from this model, or train.shard")
def test_packed_weights_are_not_spread() -> None:
    module = llama()
    packed = torch.nn.Parameter(torch.zeros(4, dtype=torch.uint8), requires_grad=False)
    module.model.layers[0].register_parameter("packed", packed)
    with (
        pytest.raises(ModelError, match="needs weights of 16 or 32 bits: remove load_in_4bit"),
        sharded(module, Launch(0, 2)),
    ):
        pass
