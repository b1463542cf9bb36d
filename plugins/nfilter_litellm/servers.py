"""Self-hosted servers: they have no fixed address, so ``api_base`` is required.

litellm sends requests without an address to api.openai.com.
"""

from __future__ import annotations

from typing import Final

_DEFAULT_ADDRESS: Final = {
    "lm_studio": "http://localhost:1234/v1",
    "xinference": "http://localhost:9997/v1",
    "hosted_vllm": "http://localhost:8000/v1",
    "vllm": "http://localhost:8000/v1",
    "litellm_proxy": "http://localhost:4000/v1",
    "oobabooga": "http://localhost:5000/v1",
    "openai_like": "http://localhost:8000/v1",
    "custom_openai": "http://localhost:8000/v1",
    "aiohttp_openai": "http://localhost:8000/v1",
    "custom": "http://localhost:8000/v1",
    "triton": "http://localhost:8000/v2",
}
"""Providers that need an ``api_base``, with the default address of their server."""

_LOCAL_BY_DEFAULT: Final = ("llamafile", "lemonade", "docker_model_runner")
"""Providers for which litellm uses this machine without an ``api_base``."""

PREFIXES: Final = tuple(
    f"{name}/" for name in ("openai", *_DEFAULT_ADDRESS, *_LOCAL_BY_DEFAULT) if name != "triton"
)
"""Provider prefixes that are not part of the model's name on the server."""


def address_needed(model: str) -> str | None:
    """Return the error for a ``model`` that needs an ``api_base``; None if it has an address."""
    provider = model.split("/", 1)[0] if "/" in model else ""
    default = _DEFAULT_ADDRESS.get(provider)
    if default is None:
        return None
    return f"model {model!r} has no default address; add the address of your server, for example api_base: {default}"


_SERVER: Final = '{{use: litellm, model: NAME, api_base: "{}"}}'
ALSO_KNOWN: Final = {
    **dict.fromkeys(("openai", "gpt", "chatgpt", "api"), "{use: litellm, model: openai/NAME}"),
    **{
        name: f"{{use: litellm, model: {name}/NAME}}"
        for name in ("anthropic", "gemini", "groq", "mistral", "deepseek", "openrouter", "together_ai", "bedrock", "azure", "cohere",
                     "vertex_ai", "fireworks_ai", "xai")
    },
    "claude": "{use: litellm, model: anthropic/NAME}", "google": "{use: litellm, model: gemini/NAME}",
    "together": "{use: litellm, model: together_ai/NAME}",
    **dict.fromkeys(("hosted_vllm", "tgi", "server", "openai_compatible", "local_server"), _SERVER.format(_DEFAULT_ADDRESS["vllm"])),
    **dict.fromkeys(("llama_cpp", "llamacpp", "llama.cpp", "llamafile"), _SERVER.format("http://localhost:8080/v1")),
    "ollama": '{use: litellm, model: openai/NAME, api_base: "http://localhost:11434/v1"}',
    **{name: _SERVER.format(_DEFAULT_ADDRESS[name]) for name in ("lm_studio", "xinference", "litellm_proxy", "oobabooga")},
}  # fmt: skip
"""Names of API backends in other tools, with the setting to write here."""
