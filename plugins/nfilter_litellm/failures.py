"""Classification of failed attempts: whether a retry, a recorded failure or the end of the run follows."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Literal

from nfilter import FailureKind, allow_host
from nfilter_litellm.overflow import is_overflow

_MAX_SHOWN = 300
_MAX_READ = 4096  # characters of an error that are classified
_REFUSED = re.compile(
    r"content[_ ]?(filter|policy|management)|responsible ?ai|safety", re.IGNORECASE
)
_NO_QUOTA = re.compile(
    r"insufficient[_ ](quota|balance|funds|credit)|exceeded your current quota|billing|credit balance", re.IGNORECASE
)  # fmt: skip
_WAIT = re.compile(
    r"(?:retry|try again) (?:in|after) ((?:\d+(?:\.\d+)? ?(?:ms|h|m|s)[a-z]* ?)+)", re.IGNORECASE
)
_DURATION = re.compile(r"(\d+(?:\.\d+)?) ?(ms|h|m|s)", re.IGNORECASE)
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_UNKNOWN = r"unsupported|unrecogni[sz]ed|unknown|unexpected|extra|not allowed to"
_NOT_TAKEN = (
    rf"{_UNKNOWN}|not supported|not permitted|not allowed|not accepted|deprecated|forbidden"
)
# What to write on the model for each field that a model may reject.
_WITHOUT = {
    "logprobs": "logprobs: false",
    **{name: f"body: {{{name}: null}}" for name in ("temperature", "top_p", "stop", "seed")},
}

# Statuses sent before a model starts: refused, overloaded, or not reached by the gateway.
_NOT_STARTED = frozenset({501, 503, 505, 511, 521, 522, 523, 525, 526, 529, 530})

_ASSUMED_STATUS = 500  # of an error that names none

Effect = Literal["none", "limited", "strained"]


class CallError(Exception):
    """An attempt without an answer.

    Attributes:
        kind, detail: recorded as the call's failure if there is no further attempt.
        retry: whether another attempt may succeed.
        retry_after: seconds that the server asks to wait before it.
        shared: other calls fail equally, because of the account, the address or the shape of requests.
        maybe_prompt: if ``shared``, the cause may be this prompt alone; another prompt can tell.
        is_answer: the model did answer, and the failure is its answer (a refusal, a prompt that is too long).
        effect: what it says about the server's load: ``limited`` for 429, ``strained`` for 5xx and timeouts.
        may_be_billed: the model may have processed the attempt; ``usd`` is the bound of its cost.
        status: the reply's status if it is not 200.
        tokens: the tokens of the prompt and those generated, as counted by the reply; zeros if it counts none.
    """

    def __init__(
        self,
        kind: FailureKind,
        detail: str,
        *,
        retry: bool = False,
        shared: bool = False,
        maybe_prompt: bool = False,
        is_answer: bool = False,
        retry_after: float | None = None,
        effect: Effect = "none",
        may_be_billed: bool = True,
    ) -> None:
        super().__init__(detail)
        self.kind: FailureKind = kind
        self.detail = detail
        self.retry = retry
        self.shared = shared
        self.maybe_prompt = maybe_prompt
        self.is_answer = is_answer
        self.retry_after = retry_after
        self.effect: Effect = effect
        self.may_be_billed = may_be_billed
        self.usd = 0.0
        self.status: int | None = None
        self.tokens = (0, 0)


def timed_out(seconds: float) -> CallError:
    """Return the error for an attempt without a complete reply within ``seconds``."""
    return CallError("timeout", f"no reply within {seconds:g} s", retry=True, effect="strained")


def broken(detail: str, *, may_be_billed: bool = True) -> CallError:
    """Return the error for a lost connection, or a reply that is not of the protocol."""
    return CallError("server", detail, retry=True, effect="strained", may_be_billed=may_be_billed)


def not_allowed(host: str) -> CallError:
    """Return the error for a connection to a host that is not allowed: nothing was sent."""
    shown = one_line(host)
    return CallError(
        "server",
        f"this model connects to the host {shown!r}, which is not allowed, so no connection was made; if you trust it, type: "
        f"{allow_host(shown)}",
        shared=True,
        may_be_billed=False,
    )


def empty(detail: str) -> CallError:
    """Return the error for a complete reply with an empty answer."""
    return CallError("parse", detail, is_answer=True)


def off_schema(detail: str) -> CallError:
    """Return the error for a complete JSON reply that is not a chat completion."""
    return CallError("parse", f"the reply is not a chat completion: {detail}", retry=True)


def unfinished(detail: str) -> CallError:
    """Return the error for a complete reply with an incomplete answer, as stated by the server."""
    return CallError(
        "server", f"the answer was not finished: {detail}", retry=True, effect="strained"
    )


def refused(detail: str) -> CallError:
    """Return the error for a refusal by the model or its provider."""
    return CallError("refused", detail, is_answer=True)


def without_logprobs() -> CallError:
    """Return the error for a complete reply without the requested log-probabilities."""
    return CallError(
        "server",
        "the reply has no log-probabilities, though they were requested: this server ignores logprobs. Set "
        "logprobs: false on the model, and rank by a model that returns them ({use: hf, ...}) or by self-consistency "
        "(robustft.answer with samples: 5, temperature: 0.7, and robustft.select with rank: agreement)",
        shared=True,
    )


def from_status(status: int, body: str, after: float | None = None) -> CallError:
    """Return the error for a status other than 200; ``body`` is the reply's text, ``after`` its Retry-After in seconds."""
    error = _classify(status, body, after)
    error.may_be_billed = status_may_be_billed(status)
    error.status = status
    return error


def from_code(code: Any, body: str) -> CallError:
    """Return the error for an error in a reply with status 200, as some gateways send; its code may be a status, also as text."""
    number = int(code) if isinstance(code, str) and re.fullmatch("[45][0-9]{2}", code) else code
    if isinstance(number, int) and 400 <= number < 600:
        return from_status(number, body)
    return without_status(body, "the reply has status 200 and an error")


def without_status(body: str, came: str) -> CallError:
    """Return the error for an error that names no HTTP status; ``came`` says in what it came.

    Its cause is unknown, so it counts as a temporary fault of the server.
    """
    message, code = parse_error_body(body, numbers=True)
    detail = one_line(
        ": ".join(each for each in (f"{came} without an HTTP status", code, message) if each)
    )
    if is_overflow(_ASSUMED_STATUS, f"{code} {message}"):
        return CallError("too_long", detail, is_answer=True)
    return broken(detail)


def status_may_be_billed(status: int) -> bool:
    """Return whether a model may have run before a reply with that status, as after a gateway timeout."""
    return status in (408, 499) or (status >= 500 and status not in _NOT_STARTED)


def _classify(status: int, body: str, after: float | None) -> CallError:
    message, code = parse_error_body(body)
    detail = one_line(f"{status} {code}".strip() + (f": {message}" if message else ""))
    text = f"{code} {message}"
    wait = _wait_in(text) if after is None else after
    # Gemini names the quota and the bill in its limits per minute too, but says when to try again.
    if status == 429 and wait is None and _NO_QUOTA.search(text):
        return CallError("server", f"no quota is left ({detail})", shared=True)
    if is_overflow(status, text):
        return CallError("too_long", detail, is_answer=True)
    if status == 429:
        return CallError("server", detail, retry=True, retry_after=wait, effect="limited")
    if status >= 500 or status in (408, 409, 425):
        kind: FailureKind = "timeout" if status in (408, 504, 524) else "server"
        return CallError(kind, detail, retry=True, retry_after=after, effect="strained")
    return _rejected(status, detail, text)


def _rejected(status: int, detail: str, text: str) -> CallError:
    """Return the error for a reply that another attempt would repeat."""
    if status in (400, 403, 422) and _REFUSED.search(text):
        return refused(detail)
    field = next((name for name in _WITHOUT if text_rejects(text, name)), None)
    if field is not None:
        detail += f"; if the model does not take {field}, write models: {{NAME: {{..., {_WITHOUT[field]}}}}}"
    if 300 <= status < 400:
        detail += ": the server redirects, and redirects are not followed; set api_base to the final address"
    elif status == 404:
        detail += "; check model and api_base"
    # The remaining causes: the account, the address, an unsupported parameter, or (400, 422) the prompt.
    return CallError("server", detail, shared=True, maybe_prompt=status in (400, 422))


def text_rejects(text: str, name: str) -> bool:
    """Return whether an error's text says that the field ``name`` is not supported."""
    before = rf"({_UNKNOWN})[^.]{{0,80}}\b{name}\b"
    after = rf"\b{name}\b[^.]{{0,40}}({_NOT_TAKEN})"
    return re.search(f"{before}|{after}", text, re.IGNORECASE) is not None


def parse_error_body(body: str, *, numbers: bool = False) -> tuple[str, str]:
    """Return (message, code) of an error in the formats of OpenAI, vLLM, FastAPI, llama.cpp, Gemini or OpenRouter.

    Other bodies are the message. The message has at most ``_MAX_READ`` characters. A code that is a number is usually the
    status again: it is the code only with ``numbers``.
    """
    try:
        value: Any = json.loads(body)
    except (ValueError, RecursionError):
        return _flat(body), ""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, Mapping) and "error" in value:
        value = value["error"]
    if not isinstance(value, Mapping):
        return _flat(str(value)), ""
    message = value.get("message") or value.get("detail") or ""
    text = message if isinstance(message, str) else json.dumps(message)
    codes = (value.get("code"), value.get("type"), value.get("status"))
    texts = [str(code) for code in codes if isinstance(code, str | int) and str(code)]
    code = next((text for text in texts if numbers or text.strip("0123456789")), "")
    # A router's own message says only that a provider failed; the provider's error is beside it.
    metadata = value.get("metadata")
    raw = metadata.get("raw") if isinstance(metadata, Mapping) else None
    if isinstance(raw, str) and raw:
        text = f"{text}: {_inner_message(raw)}"
    return _flat(text), one_line(code)


def _inner_message(raw: str) -> str:
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        return raw
    error = value.get("error", value) if isinstance(value, Mapping) else value
    message = error.get("message") if isinstance(error, Mapping) else error
    return message if isinstance(message, str) else raw


def _wait_in(text: str) -> float | None:
    """Return the seconds of "please retry in 1m2.5s"; None without such words."""
    match = _WAIT.search(text)
    if match is None:
        return None
    parts = _DURATION.findall(match[1])
    return sum(float(number) * _SECONDS[unit.lower()] for number, unit in parts)


def one_line(text: str) -> str:
    """Return the start of ``text`` on one line, without control characters."""
    flat = _flat(text[: 4 * _MAX_SHOWN])
    return flat if len(flat) <= _MAX_SHOWN else flat[: _MAX_SHOWN - 3] + "..."


def _flat(text: str) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in text[:_MAX_READ]).split())


def retry_after_of(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """Return Retry-After in seconds: a number, a date, or OpenAI's retry-after-ms; None without one.

    A date is compared with ``now``, by default the server's own ``Date``: the clock of this machine may be wrong.
    """
    milliseconds = _parse_number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    value = headers.get("Retry-After") or headers.get("retry-after")
    if value is None:
        return None
    number = _parse_number(value)
    if number is not None:
        return number
    until = _parse_date(value)
    if until is None:
        return None
    sent = now or _parse_date(headers.get("Date") or headers.get("date")) or datetime.now(UTC)
    return max(0.0, (until - sent).total_seconds())


def _parse_date(text: str | None) -> datetime | None:
    try:
        date = parsedate_to_datetime(text) if text is not None else None
    except (OverflowError, TypeError, ValueError):
        return None
    return date.replace(tzinfo=UTC) if date is not None and date.tzinfo is None else date


def _parse_number(text: str | None) -> float | None:
    try:
        number = float(text) if text is not None else None
    except ValueError:
        return None
    return number if number is not None and 0 <= number < 1e9 else None
