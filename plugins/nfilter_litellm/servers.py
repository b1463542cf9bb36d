"""Servers that a person runs: they have no address of their own, so ``api_base`` must say where they are.

litellm sends what it has no address for to api.openai.com.
"""

from __future__ import annotations

from typing import Final

_USUAL: Final = {
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
"""Providers that need an ``api_base``, each with the address that its server usually has."""

_DEFAULTED: Final = ("llamafile", "lemonade", "docker_model_runner")
"""Providers for which litellm looks on this machine where no ``api_base`` is given."""

PREFIXES: Final = tuple(f"{name}/" for name in ("openai", *_USUAL, *_DEFAULTED) if name != "triton")
"""Prefixes that the server at an ``api_base`` does not know as a part of a model's name."""


def address_needed(model: str) -> str | None:
    """What to write for a ``model`` without ``api_base`` that has no address of its own; None where it needs none."""
    provider = model.split("/", 1)[0] if "/" in model else ""
    usual = _USUAL.get(provider)
    if usual is None:
        return None
    return f"model {model!r} has no address of its own; add the address of your server, for example api_base: {usual}"


_OWN: Final = '{{use: litellm, model: NAME, api_base: "{}"}}'
ELSEWHERE: Final = {
    **dict.fromkeys(("openai", "gpt", "chatgpt", "api"), "{use: litellm, model: openai/NAME}"),
    **{
        name: f"{{use: litellm, model: {name}/NAME}}"
        for name in ("anthropic", "gemini", "groq", "mistral", "deepseek", "openrouter", "together_ai", "bedrock", "azure", "cohere",
                     "vertex_ai", "fireworks_ai", "xai")
    },
    "claude": "{use: litellm, model: anthropic/NAME}", "google": "{use: litellm, model: gemini/NAME}",
    "together": "{use: litellm, model: together_ai/NAME}",
    **dict.fromkeys(("vllm", "hosted_vllm", "sglang", "tgi", "server", "openai_compatible", "local_server"), _OWN.format(_USUAL["vllm"])),
    **dict.fromkeys(("llama_cpp", "llamacpp", "llama.cpp", "llamafile"), _OWN.format("http://localhost:8080/v1")),
    "ollama": '{use: litellm, model: openai/NAME, api_base: "http://localhost:11434/v1"}',
    **{name: _OWN.format(_USUAL[name]) for name in ("lm_studio", "xinference", "litellm_proxy", "oobabooga")},
}  # fmt: skip
"""What other tools call a model behind an API, and what to write here."""
