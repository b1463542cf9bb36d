"""API models: any OpenAI-compatible server and every provider that litellm supports. Imports neither aiohttp nor litellm."""

from __future__ import annotations

from nfilter import hookimpl


@hookimpl
def nfilter_backends() -> tuple[type, ...]:
    """Return the backend ``litellm``."""
    from nfilter_litellm.backend import LiteLLMBackend

    return (LiteLLMBackend,)
