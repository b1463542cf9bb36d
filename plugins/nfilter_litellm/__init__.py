"""Models behind an API: any OpenAI-compatible server, and every provider that litellm knows. Importing loads neither."""

from __future__ import annotations

from nfilter import hookimpl


@hookimpl
def nfilter_backends() -> tuple[type, ...]:
    """The backend ``litellm``."""
    from nfilter_litellm.backend import LiteLLMBackend

    return (LiteLLMBackend,)
