"""What an optimiser is given."""

from __future__ import annotations

from typing import Any

import pytest
import torch


@pytest.fixture
def gradients(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The gradients that each optimiser step is given, one after another."""
    seen: list[Any] = []
    real = torch.optim.AdamW.step

    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        seen.extend(
            None if p.grad is None else p.grad.clone()
            for group in self.param_groups
            for p in group["params"]
        )
        return real(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    return seen
