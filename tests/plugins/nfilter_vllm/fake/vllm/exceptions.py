"""The errors of vLLM 0.33."""


class VLLMValidationError(Exception):
    """No ValueError, as in vLLM."""
