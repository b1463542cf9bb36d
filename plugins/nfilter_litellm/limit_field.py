"""Name of the request field that limits the answer's tokens, and the fallback if a server rejects the name."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Literal

from nfilter import Completion
from nfilter_litellm.failures import CallError, text_rejects

LimitName = Literal["max_tokens", "max_completion_tokens"]

_OTHER_NAME: dict[LimitName, LimitName] = {
    "max_tokens": "max_completion_tokens",
    "max_completion_tokens": "max_tokens",
}


class LimitField:
    """Limit field of one model; the value is the same under either name.

    The name starts as ``default``. ``fixed``, the name that the user set, never changes; otherwise the server's first
    rejection of a name changes it for all later calls. Such a rejection is a 400 and is not billed.
    """

    def __init__(self, default: LimitName, fixed: LimitName | None = None) -> None:
        self.default: LimitName = default
        self.name: LimitName = fixed or default
        self._fixed = fixed is not None

    async def call(self, attempt: Callable[[LimitName], Awaitable[Completion]]) -> Completion:
        """Return the result of ``attempt`` with the name that the server accepts, after at most two attempts.

        Raises:
            CallError: as ``attempt``; with the setting to write if the name is rejected and fixed.
        """
        name = self.name
        try:
            return await attempt(name)
        except CallError as fault:
            error = self.with_remedy(fault, name)
            if not error.retry or error is fault:
                raise error from None
        other = _OTHER_NAME[name]
        try:
            answer = await attempt(other)
        except CallError as fault:
            if rejects(fault, other):
                raise neither_accepted(fault) from None
            self.name = other
            raise
        self.name = other
        return answer

    def with_remedy(self, fault: CallError, name: LimitName) -> CallError:
        """Return ``fault``; if it rejects ``name``, an error with the setting to write, and ``retry`` if the name may change."""
        if not rejects(fault, name):
            return fault
        return _rejection(f"{fault.detail}; {remedy(name)}", retry=not self._fixed)


def remedy(name: LimitName) -> str:
    """Return the setting to write for a server that rejects ``name``."""
    return f"write limit_as on the model: models: {{NAME: {{..., limit_as: {_OTHER_NAME[name]}}}}}"


def other_name(name: LimitName) -> LimitName:
    """Return the other of the two names."""
    return _OTHER_NAME[name]


def rejects(fault: CallError, name: LimitName) -> bool:
    """Return whether the server rejects the field ``name``, as opposed to its value."""
    return fault.status in (400, 422) and text_rejects(fault.detail, name)


def neither_accepted(fault: CallError) -> CallError:
    """Return the error for a server that accepts neither name, so no call to it can be limited."""
    return _rejection(
        "the server accepts neither max_tokens nor max_completion_tokens, and calls are not made without a limit; choose "
        f"another server or model: {fault.detail}",
        retry=False,
    )


def _rejection(detail: str, *, retry: bool) -> CallError:
    fault = CallError("server", detail, retry=retry, shared=True, may_be_billed=False)
    fault.status = 400
    return fault
