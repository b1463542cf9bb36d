"""Local models with SGLang's offline engine: batched generation and scores on GPUs.

Importing this package imports neither torch nor sglang.
"""

from __future__ import annotations

from nfilter import hookimpl


@hookimpl
def nfilter_backends() -> tuple[type, ...]:
    """Return the backend ``sglang``."""
    from nfilter_sglang.backend import SGLangBackend

    return (SGLangBackend,)
