"""Keys come from the environment, and appear nowhere else."""

from __future__ import annotations

import json
import os
import re
from typing import Any

from nfilter import ModelError

_LEAST = 8
_SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL", re.IGNORECASE)
HIDDEN = "***"
# A JSON string may spell any letter as an escape; these two are what writers of JSON use for printable ones.
_ESCAPED = re.compile(rb"\\[/u\"\\]")


class Secret:
    """A key, and what takes it out of a text, and ``others`` with it. It shows itself to nobody."""

    __slots__ = ("_hidden", "_value")

    def __init__(self, value: str | None, others: tuple[str, ...] = ()) -> None:
        self._value = value
        # A placeholder of a few letters, such as EMPTY, is no secret, and may stand in any answer.
        every = (value, *others)
        self._hidden = tuple(text for text in every if text is not None and len(text) >= _LEAST)

    def __repr__(self) -> str:
        return "Secret()"

    @property
    def value(self) -> str | None:
        """The key, for the one place that sends it."""
        return self._value

    def redacted(self, text: str) -> str:
        """``text`` without the keys."""
        for hidden in self._hidden:
            text = text.replace(hidden, HIDDEN)
        return text

    def redacted_bytes(self, body: bytes) -> bytes:
        """The same for a reply's bytes; where they are JSON, for the texts that its escapes spell too."""
        for hidden in self._hidden:
            for spelt in (hidden, hidden.replace("/", "\\/")):
                body = body.replace(spelt.encode(), HIDDEN.encode())
        if not self._hidden or not _ESCAPED.search(body):
            return body
        try:
            value = json.loads(body)
        except (ValueError, RecursionError):
            return body
        clean = self.redacted_value(value)
        return body if clean == value else json.dumps(clean).encode()

    def redacted_value(self, value: Any) -> Any:
        """The same for every text in a JSON value, names of fields among them."""
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
    """The key that the variable ``name`` holds; none without a name.

    Raises:
        ModelError: when the variable is not set, or holds what no header can.
    """
    if name is None:
        return Secret(None)
    value = os.environ.get(name, "").strip()
    if not value:
        raise ModelError(missing(name))
    if not value.isascii() or not value.isprintable():
        raise ModelError(f"the environment variable {name} holds characters that no key has; set it again")  # fmt: skip
    return Secret(value)


def whatever_is_found() -> Secret:
    """No key of ours: the library finds its own. All that the environment calls a key is kept out of texts."""
    named = (value.strip() for name, value in os.environ.items() if _SECRET_NAME.search(name))
    return Secret(None, tuple(value for value in named if " " not in value))


def is_set(name: str) -> bool:
    """Whether the environment has a variable of that name that holds something."""
    return bool(os.environ.get(name, "").strip())


def missing(name: str) -> str:
    """What is said of a variable that is not set."""
    return f"the environment variable {name} is not set; type: export {name}=YOUR-KEY"
