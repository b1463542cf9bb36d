"""Token losses for ``train: {use: hf.lora, loss: dft}``, with weights of the current model at each step or of a frozen one."""

from __future__ import annotations

from nfilter import hookimpl


@hookimpl
def nfilter_losses() -> list[type]:
    """Return DFT, EAFT, ProFit, DEFT, PriFT, Rho-1 and ASFT."""
    from nfilter_losses.asft import Asft
    from nfilter_losses.deft import Deft
    from nfilter_losses.dft import Dft
    from nfilter_losses.eaft import Eaft
    from nfilter_losses.prift import Prift
    from nfilter_losses.profit import Profit
    from nfilter_losses.rho1 import Rho1

    return [Dft, Eaft, Profit, Deft, Prift, Rho1, Asft]


@hookimpl
def nfilter_stages() -> list[type]:
    """Return the stage that computes weights of a frozen model."""
    from nfilter_losses.frozen import Frozen

    return [Frozen]
