"""Online token losses: weights that follow the model as it trains, ``train: {use: hf.lora, loss: dft}``."""

from __future__ import annotations

from nfilter import hookimpl


@hookimpl
def nfilter_losses() -> list[type]:
    """Rho-1, DFT and EAFT."""
    from nfilter_losses.dft import Dft
    from nfilter_losses.eaft import Eaft
    from nfilter_losses.rho1 import Rho1

    return [Dft, Eaft, Rho1]
