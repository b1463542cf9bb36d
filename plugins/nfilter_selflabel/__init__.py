"""Baselines that clean labels by models' own answers: SelfLabel, SelfSelect, and the scheme of NoiseAL (arXiv 2504.02901)."""

from __future__ import annotations

from nfilter import hookimpl


@hookimpl
def nfilter_stages() -> list[type]:
    """Return the stages."""
    from nfilter_selflabel.noiseal import NoiseAL
    from nfilter_selflabel.relabel import Relabel
    from nfilter_selflabel.select import Select

    return [Relabel, Select, NoiseAL]
