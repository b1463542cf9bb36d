"""Local models with vLLM in this process: batched generation and scores on GPUs.

Importing this package imports neither torch nor vllm.
"""

from __future__ import annotations

from nfilter import hookimpl


@hookimpl
def nfilter_backends() -> tuple[type, ...]:
    """Return the backend ``vllm``."""
    from nfilter_vllm.backend import VLLMBackend

    return (VLLMBackend,)
