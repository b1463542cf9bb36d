"""What remains of a run, for other trainers: TRL, axolotl, LLaMA-Factory, and token spans for anything else."""

from __future__ import annotations

from nfilter import hookimpl


@hookimpl
def nfilter_exporters() -> list[type]:
    """All formats."""
    from nfilter_export.labels import Axolotl, Spans, Trl
    from nfilter_export.messages import LlamaFactory, Messages

    return [Messages, Trl, Axolotl, LlamaFactory, Spans]
