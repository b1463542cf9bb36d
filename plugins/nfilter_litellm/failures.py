"""What went wrong with a call, and what follows from it: another attempt, a failure on record, or the end of the run."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Literal

from nfilter import FailureKind, allow_host
from nfilter_litellm.overflow import is_overflow

_SHOWN = 300
_REFUSED = re.compile(
    r"content[_ ]?(filter|policy|management)|responsible ?ai|safety", re.IGNORECASE
)
_NO_QUOTA = re.compile(
    r"insufficient[_ ](quota|balance|funds|credit)|exceeded your current quota|billing|credit balance", re.IGNORECASE
)  # fmt: skip

# A status that says that no model began: turned away, overloaded, or not reached by the gateway that says so.
_NOT_BEGUN = frozenset({501, 503, 505, 511, 521, 522, 523, 525, 526, 529, 530})

Effect = Literal["none", "limited", "strained"]


class CallError(Exception):
    """One attempt that brought no answer.

    ``kind`` and ``detail`` go on record where no further attempt is made. ``again`` allows another attempt, after
    ``after`` seconds where the server said so. ``stops`` means that other calls will meet it too: the account, the
    address or the request's form; ``own`` that it may as well be this prompt's alone, which another prompt can show. ``spoken``: the model's side did answer, in the protocol, and this is its answer.
    ``effect`` is what it says about the server's load: ``limited`` for a 429, ``strained`` for 5xx and timeouts.
    ``worked``: the model may have worked on it, so that it may be billed; ``usd`` is what that may have cost.
    ``status`` is the reply's, where it was another than 200.
    """

    def __init__(
        self,
        kind: FailureKind,
        detail: str,
        *,
        again: bool = False,
        stops: bool = False,
        own: bool = False,
        spoken: bool = False,
        after: float | None = None,
        effect: Effect = "none",
        worked: bool = True,
    ) -> None:
        super().__init__(detail)
        self.kind: FailureKind = kind
        self.detail = detail
        self.again = again
        self.stops = stops
        self.own = own
        self.spoken = spoken
        self.after = after
        self.effect: Effect = effect
        self.worked = worked
        self.usd = 0.0
        self.status: int | None = None


def timed_out(seconds: float) -> CallError:
    """No whole reply within the time that a call has."""
    return CallError("timeout", f"no reply within {seconds:g} s", again=True, effect="strained")


def broken(what: str, *, worked: bool = True) -> CallError:
    """A reply that is none: the connection ended, or what came is not of the protocol."""
    return CallError("server", what, again=True, effect="strained", worked=worked)


def not_allowed(host: str) -> CallError:
    """A host that nobody allowed: nothing was sent, and nothing will be."""
    shown = one_line(host)
    return CallError(
        "server",
        f"this model leads to the host {shown!r}, which nobody allowed, and no connection was made; if you trust it, type: "
        f"{allow_host(shown)}",
        stops=True,
        worked=False,
    )


def empty(what: str) -> CallError:
    """A whole reply, in which the model said nothing."""
    return CallError("parse", what, spoken=True)


def off_schema(what: str) -> CallError:
    """A whole reply that is JSON and no chat completion."""
    return CallError("parse", f"the reply is no chat completion: {what}", again=True)


def unfinished(what: str) -> CallError:
    """A whole reply in which the server says that the answer has not come to its end."""
    return CallError(
        "server", f"the answer was not finished: {what}", again=True, effect="strained"
    )


def refused(what: str) -> CallError:
    """The model or its provider would not answer."""
    return CallError("refused", what, spoken=True)


def without_logprobs() -> CallError:
    """Log-probabilities were asked for, and the reply is whole but for them."""
    return CallError(
        "server",
        "the reply has none of the log-probabilities that were asked for: this server ignores logprobs. Set "
        "logprobs: false on the model, and rank by a model that gives them ({use: hf, ...}) or by self-consistency "
        "(robustft.answer with samples: 5, temperature: 0.7, and robustft.select with rank: agreement)",
        stops=True,
    )


def from_status(status: int, body: str, after: float | None = None) -> CallError:
    """A reply with another status than 200; ``body`` is its text, ``after`` the seconds of its Retry-After."""
    error = _of_status(status, body, after)
    error.worked = may_be_billed(status)
    error.status = status
    return error


def may_be_billed(status: int) -> bool:
    """Whether a model may have worked before a reply with that status: a gateway gave up waiting, or the server broke."""
    return status in (408, 499) or (status >= 500 and status not in _NOT_BEGUN)


def _of_status(status: int, body: str, after: float | None) -> CallError:
    message, code = described(body)
    told = f"{status} {code}".strip() + (f": {message}" if message else "")
    text = f"{code} {message}"
    if status == 429 and _NO_QUOTA.search(text):
        return CallError("server", f"no quota is left ({told})", stops=True)
    if is_overflow(status, text):
        return CallError("too_long", told, spoken=True)
    if status == 429:
        return CallError("server", told, again=True, after=after, effect="limited")
    if status >= 500 or status in (408, 409, 425):
        kind: FailureKind = "timeout" if status in (408, 504, 524) else "server"
        return CallError(kind, told, again=True, after=after, effect="strained")
    return _of_the_request(status, told, text)


def _of_the_request(status: int, told: str, text: str) -> CallError:
    """A reply that another attempt would bring again."""
    if status in (400, 403, 422) and _REFUSED.search(text):
        return refused(told)
    if 300 <= status < 400:
        told += (
            ": the server sends elsewhere, and redirects are not followed; give the final api_base"
        )
    elif status == 404:
        told += "; check model and api_base"
    # What is left is the account's, the address's, a parameter that the server does not take, or something of the prompt.
    return CallError("server", told, stops=True, own=status in (400, 422))


def described(body: str) -> tuple[str, str]:
    """Message and code of an error's body, in the forms of OpenAI, vLLM, FastAPI and llama.cpp; else its beginning."""
    try:
        value: Any = json.loads(body)
    except (ValueError, RecursionError):
        return one_line(body), ""
    if isinstance(value, Mapping) and "error" in value:
        value = value["error"]
    if not isinstance(value, Mapping):
        return one_line(str(value)), ""
    message = value.get("message") or value.get("detail") or ""
    codes = (value.get("code"), value.get("type"))
    code = next((code for code in codes if isinstance(code, str) and code), "")
    return one_line(message if isinstance(message, str) else json.dumps(message)), one_line(code)


def one_line(text: str) -> str:
    """The beginning of ``text`` on one line, without control characters."""
    flat = " ".join("".join(c if c.isprintable() else " " for c in text[: 4 * _SHOWN]).split())
    return flat if len(flat) <= _SHOWN else flat[: _SHOWN - 3] + "..."


def seconds_of(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """What Retry-After says, in seconds from ``now``: a number, a date, or OpenAI's retry-after-ms; None without one."""
    precise = _number(headers.get("retry-after-ms"))
    if precise is not None:
        return precise / 1000
    given = headers.get("Retry-After") or headers.get("retry-after")
    if given is None:
        return None
    number = _number(given)
    if number is not None:
        return number
    try:
        until = parsedate_to_datetime(given)
    except (OverflowError, TypeError, ValueError):
        return None
    if until.tzinfo is None:
        until = until.replace(tzinfo=UTC)
    return max(0.0, (until - (now or datetime.now(UTC))).total_seconds())


def _number(text: str | None) -> float | None:
    try:
        number = float(text) if text is not None else None
    except ValueError:
        return None
    return number if number is not None and 0 <= number < 1e9 else None
