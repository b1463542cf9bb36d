"""Hosts of each provider, which its models may connect to without permission."""

from __future__ import annotations

import re
from collections.abc import Iterable

from nfilter import AllowedHosts, granted, parse_address
from nfilter_litellm.config import OWN_PROTOCOL, Route

_AWS_REGION = r"[a-z]{2}(?:-[a-z]{2,12}){1,3}-[0-9]{1,2}"
_AWS_END = r"amazonaws\.com(?:\.cn)?"
_STS = rf"sts(?:\.{_AWS_REGION})?\.{_AWS_END}"
_GOOGLE_REGION = r"[a-z]{2,20}(?:-[a-z]{2,20}[0-9]{1,2})?"
_OWN: dict[str, tuple[str, ...]] = {
    "ai21": ("api.ai21.com",),
    "ai21_chat": ("api.ai21.com",),
    "anthropic": ("api.anthropic.com",),
    "cerebras": ("api.cerebras.ai",),
    "codestral": ("codestral.mistral.ai",),
    "cohere": ("api.cohere.ai", "api.cohere.com"),
    "cohere_chat": ("api.cohere.ai", "api.cohere.com"),
    "dashscope": ("dashscope.aliyuncs.com", "dashscope-intl.aliyuncs.com"),
    "deepinfra": ("api.deepinfra.com",),
    "deepseek": ("api.deepseek.com",),
    "featherless_ai": ("api.featherless.ai",),
    "fireworks_ai": ("api.fireworks.ai",),
    "friendliai": ("api.friendli.ai",),
    "gemini": ("generativelanguage.googleapis.com",),
    "groq": ("api.groq.com",),
    "huggingface": ("huggingface.co", "router.huggingface.co"),
    "hyperbolic": ("api.hyperbolic.xyz",),
    "lambda_ai": ("api.lambda.ai",),
    "meta_llama": ("api.llama.com",),
    "minimax": ("api.minimax.io", "api.minimaxi.com"),
    "mistral": ("api.mistral.ai",),
    "moonshot": ("api.moonshot.ai", "api.moonshot.cn"),
    "nebius": ("api.studio.nebius.ai",),
    "novita": ("api.novita.ai",),
    "nscale": ("inference.api.nscale.com",),
    "nvidia_nim": ("integrate.api.nvidia.com",),
    "openai": ("api.openai.com",),
    "openrouter": ("openrouter.ai",),
    "perplexity": ("api.perplexity.ai",),
    "replicate": ("api.replicate.com",),
    "sambanova": ("api.sambanova.ai",),
    "text-completion-openai": ("api.openai.com",),
    "together_ai": ("api.together.xyz", "api.together.ai"),
    "v0": ("api.v0.dev",),
    "vertex_ai": ("aiplatform.googleapis.com", "oauth2.googleapis.com"),
    "volcengine": ("ark.cn-beijing.volces.com",),
    "wandb": ("api.inference.wandb.ai",),
    "watsonx": ("iam.cloud.ibm.com",),
    "xai": ("api.x.ai",),
    "zai": ("api.z.ai",),
}
_REGIONAL: dict[str, tuple[str, ...]] = {
    "bedrock": (rf"bedrock(?:-agent|-agentcore)?(?:-runtime)?\.{_AWS_REGION}\.{_AWS_END}", _STS),
    "sagemaker": (rf"runtime\.sagemaker\.{_AWS_REGION}\.{_AWS_END}", _STS),
    "sagemaker_chat": (rf"runtime\.sagemaker\.{_AWS_REGION}\.{_AWS_END}", _STS),
    "vertex_ai": (rf"{_GOOGLE_REGION}-aiplatform\.googleapis\.com",),
    "watsonx": (r"[a-z]{2}-[a-z]{2,10}\.ml\.cloud\.ibm\.com",),
}


def allowed_hosts_of(route: Route, named: Iterable[str], own: Iterable[str]) -> AllowedHosts:
    """Return the hosts that a model may connect to: this machine, the hosts ``named`` by the user, the provider's hosts.

    An ``api_base`` at one of ``own``, the hosts that every recipe may name, counts as a provider's host.
    """
    hosts = {*named, *granted(())}
    if route.base is not None:
        hosts |= {parse_address(route.base).host} & set(own)
    provider = route.provider
    if route.base is not None and provider not in OWN_PROTOCOL:
        return AllowedHosts(frozenset(hosts))
    if provider not in _OWN and provider not in _REGIONAL:
        provider = _provider_of(route.name)
    patterns = tuple(re.compile(each) for each in _REGIONAL.get(provider, ()))
    return AllowedHosts(frozenset({*hosts, *_OWN.get(provider, ())}), patterns)


def _provider_of(model: str) -> str:
    """Return litellm's provider of a name without prefix, such as claude-sonnet-4-5; empty if unknown."""
    from nfilter_litellm.providers import provider_of

    return provider_of(model)
