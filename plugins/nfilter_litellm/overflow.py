"""Detection of prompts that exceed a model's context, by the error messages of each server."""

from __future__ import annotations

import re

# The comment of each line names the servers that write it.
_PATTERNS = (
    r"context[_ ]length[_ ]exceeded|exceed_context_size|request_too_large",  # codes of OpenAI, Groq, llama.cpp, Anthropic
    r"maximum (context|prompt|input|sequence) (length|size|window)|max(imum)?[_ ](model|context|seq|sequence|input)[_ ]?len(gth)?\b",  # OpenAI, vLLM, xAI, DeepSeek, Mistral, OpenRouter
    r"(exceed(s|ed|ing)?|over(flow)?s?|longer than|too (large|long) for|larger than|beyond|fit(s)? in(to)?) [^.]{0,60}\bcontext\b",  # OpenAI, llama.cpp, Ollama, LM Studio, SGLang, Mistral
    r"context[_ ](length|window|size|limit)s? (is |was )?(exceeded|overflow|full)|context the overflows",  # Groq, Together, LM Studio
    r"exceeds? (the )?(configured |token |context |input |model('s)? |total )*(token )?limit",  # OpenAI, Anthropic, watsonx, MiniMax
    r"(prompt|input|request|messages?|conversation|text)s? (is|are|was|were) too (long|large)|(prompt|input) too (long|large)",  # Anthropic, Bedrock, Fireworks, llama.cpp
    r"too many (input |prompt |total )*(tokens|text bytes)",  # Cohere, Titan
    r"(input|prompt)( token)? (count|length|tokens?)[^.]{0,60}(exceed|is greater than|is longer than|is too large|only supports? up to|cannot exceed|must be)",  # Gemini, Ollama, watsonx, TGI
    r"number of (input|prompt|total)? ?tokens[^.]{0,80}(exceed|greater|cannot|maximum)",  # watsonx, Bedrock, LM Studio
    r"`?inputs`? (tokens \+ `?max_new_tokens`?|must have less than)",  # TGI, Together
    r"input tokens exceeded|input tokens exceed",  # Bedrock, OpenAI
    r"current length is \d+ while limit is",  # Cerebras
    r"max(_completion|_new)?_tokens`?'?\"? must be (at least|greater than|positive)[^.]{0,20}(got|but) -\d+",  # vLLM: what is left for the answer
    r"expected maxlength: \d+, actual|string too long\. expected a string with maximum length|string_above_max_length",  # Bedrock, OpenAI
    r"(reduce|shorten) the length of (the |your )?(messages|prompt|input)|(use|using|try) a shorter (prompt|input)",  # OpenAI, Groq, Cohere
    r"range of input length should be|prompt exceeds max length|exceeded model token limit",  # DashScope, Zhipu, Moonshot
)
_OVERFLOW = re.compile("|".join(_PATTERNS), re.IGNORECASE)
# These concern the answer's limit or another field: every call fails equally, whatever its prompt.
_NOT_THE_PROMPT = re.compile(
    r"supports at most \d+ (completion|output) tokens|maximum (allowed )?number of (output|completion) tokens|'user'|user_id|metadata|tools?\[",
    re.IGNORECASE,
)
_REQUEST_TOO_LARGE = re.compile(r"request too large", re.IGNORECASE)
_TOO_LARGE_TO_PROCESS = re.compile(r"input is too large to process", re.IGNORECASE)


def is_overflow(status: int, text: str) -> bool:
    """Return whether an error says that the prompt is too long for the model or for one request."""
    if status == 413:
        return True
    if status in (400, 422):
        return bool(_OVERFLOW.search(text)) and not _NOT_THE_PROMPT.search(text)
    if status == 429:  # waiting does not help: one request exceeds the tokens per minute
        return bool(_REQUEST_TOO_LARGE.search(text))
    return status == 500 and bool(_TOO_LARGE_TO_PROCESS.search(text))
