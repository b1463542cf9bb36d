"""API keys: read from the environment, and redacted from all texts."""

from __future__ import annotations

import json
import os
import re
from html import escape
from typing import Any
from urllib.parse import quote

from nfilter import ModelError

_MIN_SECRET_LENGTH = 8
_SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL", re.IGNORECASE)
REDACTED = "***"
# A JSON string may escape any character; JSON writers use these escapes for printable ones.
_JSON_ESCAPE = re.compile(rb"\\[/u\"\\]")


class Secret:
    """A key that can redact itself and ``others`` from texts; its repr shows nothing."""

    __slots__ = ("_secrets", "_value")

    def __init__(self, value: str | None, others: tuple[str, ...] = ()) -> None:
        self._value = value
        # A short placeholder such as EMPTY is no secret and may occur in any answer.
        long = [text for text in (value, *others) if text and len(text) >= _MIN_SECRET_LENGTH]
        # An error page may show a key as addresses and pages write it. The longest spelling first: it may contain another.
        spelled = {
            each
            for text in long
            for each in (text, quote(text, safe=""), quote(text), escape(text))
        }
        self._secrets = tuple(sorted(spelled, key=lambda each: (-len(each), each)))

    def __repr__(self) -> str:
        return "Secret()"

    @property
    def value(self) -> str | None:
        """Return the key, for sending it."""
        return self._value

    def redacted(self, text: str) -> str:
        """Return ``text`` with all keys replaced."""
        for secret in self._secrets:
            text = text.replace(secret, REDACTED)
        return text

    def redacted_bytes(self, body: bytes) -> bytes:
        """Redact a reply's bytes; in JSON, also keys written with escapes."""
        for secret in self._secrets:
            for spelling in (secret, secret.replace("/", "\\/")):
                body = body.replace(spelling.encode(), REDACTED.encode())
        if not self._secrets or not _JSON_ESCAPE.search(body):
            return body
        try:
            value = json.loads(body)
        except (ValueError, RecursionError):
            return body
        clean = self.redacted_value(value)
        return body if clean == value else json.dumps(clean).encode()

    def redacted_value(self, value: Any) -> Any:
        """Redact every text in a JSON value, including field names."""
        if isinstance(value, str):
            return self.redacted(value)
        if isinstance(value, dict):
            return {
                self.redacted_value(key): self.redacted_value(each) for key, each in value.items()
            }
        if isinstance(value, list):
            return [self.redacted_value(each) for each in value]
        return value


def from_environment(name: str | None) -> Secret:
    """Return the key in the environment variable ``name``; an empty secret if ``name`` is None.

    Raises:
        ModelError: the variable is not set, or contains characters that a header cannot.
    """
    if name is None:
        return Secret(None)
    value = os.environ.get(name, "").strip()
    if not value:
        raise ModelError(missing_message(name))
    if not value.isascii() or not value.isprintable():
        raise ModelError(f"the environment variable {name} contains characters that a key cannot contain; set it again")  # fmt: skip
    return Secret(value)


def found_by_litellm() -> Secret:
    """Return a secret for a key that litellm finds itself; it redacts all environment variables named like keys."""
    named = (value.strip() for name, value in os.environ.items() if _SECRET_NAME.search(name))
    return Secret(None, tuple(value for value in named if " " not in value))


def is_set(name: str) -> bool:
    """Return whether the environment variable is set and not blank."""
    return bool(os.environ.get(name, "").strip())


def missing_message(name: str) -> str:
    """Return the error for an environment variable that is not set."""
    return f"the environment variable {name} is not set; type: export {name}=YOUR-KEY"
