"""Online token losses: weights computed from the current model at each step, ``train: {use: hf.lora, loss: dft}``."""

from __future__ import annotations

from nfilter import hookimpl


@hookimpl
def nfilter_losses() -> list[type]:
    """Return DFT, EAFT and Rho-1."""
    from nfilter_losses.dft import Dft
    from nfilter_losses.eaft import Eaft
    from nfilter_losses.rho1 import Rho1

    return [Dft, Eaft, Rho1]
