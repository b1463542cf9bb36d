"""Sentence encoders through sentence-transformers. Importing this package loads neither it nor torch."""

from __future__ import annotations

from nfilter import hookimpl


@hookimpl
def nfilter_backends() -> tuple[type, ...]:
    """The backend ``sentence-transformers``."""
    from nfilter_embed.backend import SentenceTransformers

    return (SentenceTransformers,)
