"""Exporters of a run's cleaned data: messages, TRL (also preference pairs), axolotl, LLaMA-Factory, ms-swift and token spans."""

from __future__ import annotations

from nfilter import hookimpl


@hookimpl
def nfilter_exporters() -> list[type]:
    """Return the exporters of this plugin."""
    from nfilter_export.conversation_formats import LlamaFactory, Messages, Swift
    from nfilter_export.preference_formats import TrlDpo
    from nfilter_export.token_formats import Axolotl, Spans, Trl

    return [Messages, Trl, TrlDpo, Axolotl, LlamaFactory, Swift, Spans]
