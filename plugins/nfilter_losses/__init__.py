"""Token losses for ``train: {use: hf.lora, loss: dft}``, with weights of the current model at each step or of a frozen one.

ASFT (arXiv 2509.23753) is DFT plus 0.1 times the KL divergence between the trained model and a reference over the whole
vocabulary. It is not here: the gradient of that divergence is not a weight on the label's cross-entropy, which is all that a
``TokenLoss`` gives, and a token score holds one number per token, not a reference's distribution.
"""

from __future__ import annotations

from nfilter import hookimpl


@hookimpl
def nfilter_losses() -> list[type]:
    """Return DFT, EAFT, ProFit, DEFT, PriFT and Rho-1."""
    from nfilter_losses.deft import Deft
    from nfilter_losses.dft import Dft
    from nfilter_losses.eaft import Eaft
    from nfilter_losses.prift import Prift
    from nfilter_losses.profit import Profit
    from nfilter_losses.rho1 import Rho1

    return [Dft, Eaft, Profit, Deft, Prift, Rho1]


@hookimpl
def nfilter_stages() -> list[type]:
    """Return the stage that computes weights of a frozen model."""
    from nfilter_losses.frozen import Frozen

    return [Frozen]
