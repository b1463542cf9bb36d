"""Under which name a request says how much may be generated, and what follows where a server refuses that name."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Literal

from nfilter import Completion
from nfilter_litellm.failures import CallError

Name = Literal["max_tokens", "max_completion_tokens"]

_OTHER: dict[Name, Name] = {
    "max_tokens": "max_completion_tokens",
    "max_completion_tokens": "max_tokens",
}
_UNKNOWN = r"unsupported|unrecogni[sz]ed|unknown|unexpected|extra"
_NOT_TAKEN = (
    rf"{_UNKNOWN}|not supported|not permitted|not allowed|not accepted|deprecated|forbidden"
)


class Limit:
    """The name of the limit for one model, the same number under either name.

    It begins as ``usual``. ``fixed`` is the name that a person has set, which nothing changes; without one, a server's first
    refusal of a name changes it for all calls that follow. Such a refusal is a 400, for which nobody is billed.
    """

    def __init__(self, usual: Name, fixed: Name | None = None) -> None:
        self.usual: Name = usual
        self.name: Name = fixed or usual
        self._fixed = fixed is not None

    async def tried(self, once: Callable[[Name], Awaitable[Completion]]) -> Completion:
        """What ``once`` returns with the name that the server takes: it is made twice at most.

        Raises:
            CallError: as ``once``; where the name is refused and nothing can be changed here, with the line to write.
        """
        name = self.name
        try:
            return await once(name)
        except CallError as fault:
            refused = self.judged(fault, name)
            if not refused.again or refused is fault:
                raise refused from None
        other = _OTHER[name]
        try:
            answer = await once(other)
        except CallError as fault:
            if refuses(fault, other):
                raise neither(fault) from None
            self.name = other
            raise
        self.name = other
        return answer

    def judged(self, fault: CallError, name: Name) -> CallError:
        """``fault``; where it refuses ``name``, one with the line to write. ``again`` then says whether another name may help."""
        if not refuses(fault, name):
            return fault
        return _final(f"{fault.detail}; {remedy(name)}", again=not self._fixed)


def remedy(name: Name) -> str:
    """The line to write for a server that refuses ``name``."""
    return f"write limit_as on the model: models: {{NAME: {{..., limit_as: {_OTHER[name]}}}}}"


def other_than(name: Name) -> Name:
    """The other name of the two."""
    return _OTHER[name]


def refuses(fault: CallError, name: Name) -> bool:
    """Whether a server says that it does not take the field ``name``; that a number is too large is another matter."""
    return fault.status in (400, 422) and names(fault.detail, name)


def names(text: str, name: Name) -> bool:
    """Whether an error's words say that the field ``name`` is not taken."""
    before, after = rf"({_UNKNOWN})[^.]{{0,80}}\b{name}\b", rf"\b{name}\b[^.]{{0,40}}({_NOT_TAKEN})"
    return re.search(f"{before}|{after}", text, re.IGNORECASE) is not None


def neither(fault: CallError) -> CallError:
    """A server that takes neither name: no call to it can be bounded."""
    return _final(
        "the server takes neither max_tokens nor max_completion_tokens, and a call without a limit is not made; choose "
        f"another server or model: {fault.detail}",
        again=False,
    )


def _final(detail: str, *, again: bool) -> CallError:
    fault = CallError("server", detail, again=again, stops=True, worked=False)
    fault.status = 400
    return fault
