"""The hosts that a recipe may reach: this machine, a provider's own hosts, and hosts that the user allowed.

A recipe is untrusted: an address in it is used only if the user allows its host.
"""

from __future__ import annotations

import ipaddress
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from nfilter.api.errors import RecipeError
from nfilter.api.types import strings_in

VARIABLE = "NFILTER_ALLOW_HOSTS"
_PLACE = re.compile(r"(?:[/\\]{2,}|\bhttps?:[/\\]+)([^/?#\s]*)", re.IGNORECASE)
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*:\Z", re.IGNORECASE)
_WHOLE = re.compile(
    r"(?P<scheme>https?)://(?:\[(?P<v6>[0-9a-fA-F:.]+)\]|(?P<name>[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?))"
    r"(?::(?P<port>[0-9]{1,5}))?(?P<path>(?:/[A-Za-z0-9._~!$&'()*+,;=:@-]*)*)"
)
_NUMBER = re.compile(r"(?:[0-9]+|0[xX][0-9a-fA-F]*)")
_NAME = re.compile(r"[a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?|[0-9a-f:.]*:[0-9a-f:.]*")


def granted(named: Iterable[str], environment: Mapping[str, str] = os.environ) -> frozenset[str]:
    """Return the hosts in ``named`` and those of the environment variable, where commas separate them.

    Raises:
        RecipeError: where one is not the name of a host.
    """
    listed = [*named, *environment.get(VARIABLE, "").split(",")]
    hosts = frozenset(_plain(host) for host in listed if host.strip())
    for host in sorted(hosts):
        if not _NAME.fullmatch(host):
            raise RecipeError(
                f"{host!r} is no name of a host; write it as llm.example.org or 10.0.0.5, without scheme, port and path"
            )
    return hosts


@dataclass(frozen=True, slots=True)
class Address:
    """An address that all parsers read in the same way; ``host`` is in lower case."""

    scheme: str
    host: str
    port: int | None
    path: str

    @property
    def base(self) -> str:
        """The whole address as text."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port is None else f":{self.port}"
        return f"{self.scheme}://{host}{port}{self.path}"


def parse_address(text: str) -> Address:
    """Parse ``http(s)://host[:port][/path]`` by a grammar on which all URL parsers agree.

    Raises:
        ValueError: for everything else: white space, control characters, backslashes, letters beyond ASCII, a user, a query, a
            fragment, an escape, a path with ``..``, a number that is no plain IPv4 address. The text is not in the message.
    """
    found = _WHOLE.fullmatch(text)
    if found is None:
        raise ValueError(_why(text))
    host = (found["name"] or found["v6"]).lower()
    port = int(found["port"]) if found["port"] is not None else None
    if port is not None and not 0 < port < 2**16:
        raise ValueError("its port is not in 1..65535")
    if found["v6"] is not None or _NUMBER.fullmatch(host.rsplit(".", 1)[-1]):
        try:
            host = str(ipaddress.ip_address(host))
        except ValueError:
            raise ValueError("its host is a number that is no IP address in plain form") from None
    elif ".." in host:
        raise ValueError("its host has an empty part")
    if any(part in (".", "..") for part in found["path"].split("/")):
        raise ValueError("its path has a part that is . or ..")
    return Address(found["scheme"], host, port, found["path"])


def _why(text: str) -> str:
    """Return why ``text`` is not an address that all parsers read in the same way."""
    odd = next((c for c in text if not "!" <= c <= "~" or c == "\\"), None)
    if odd is not None:
        return f"it holds {odd_name(odd)}"
    after = text.partition("://")[2]
    if "@" in after.split("/", 1)[0]:
        return "it holds a user or a key before the host"
    mark = next((c for c in "?#%" if c in text), None)
    if mark is not None:
        return f"it holds {mark}"
    return "it is not of the form http(s)://host[:port][/path]"


def odd_name(character: str) -> str:
    """Return a character for an error message: its code point and, if it has one, its name."""
    name = unicodedata.name(character, "")
    return f"the character U+{ord(character):04X}" + (f" ({name})" if name else "")


@dataclass(frozen=True, slots=True)
class AllowedHosts:
    """The hosts that connections may go to: this machine, ``names``, and names that fully match one of ``patterns``."""

    names: frozenset[str] = frozenset()
    patterns: tuple[re.Pattern[str], ...] = ()

    def __contains__(self, host: object) -> bool:
        if not isinstance(host, str):
            return False
        plain = _plain(host)
        # Libraries differ in how they read other characters, so such a name is refused.
        if host != host.strip() or not _NAME.fullmatch(plain):
            return False
        if plain in self.names or is_here(plain):
            return True
        return any(pattern.fullmatch(plain) for pattern in self.patterns)


def unlisted_hosts(backend: Any, config: Any, allowed: Iterable[str]) -> list[str]:
    """Return the hosts that ``config`` leads to and that are not allowed, in order.

    Addresses in all fields of the config count, and the hosts that the backend's class method ``hosts(config)`` returns.
    The backend's ``own_hosts``, those of its providers, are always allowed.
    """
    return _unlisted(backend, (*addressed(config), *_reported(backend, config)), allowed)


def unlisted_source_hosts(source: Any, config: Any, allowed: Iterable[str]) -> list[str]:
    """Return the hosts that a source reads from and that are not allowed, in order.

    Those are the hosts that its class method ``hosts(config)`` returns; for a class without it those of all addresses in the config.
    Its ``own_hosts`` are always allowed.
    """
    led = _reported(source, config) if hasattr(source, "hosts") else addressed(config)
    return _unlisted(source, led, allowed)


def allowed_source_hosts(source: Any, allowed: Iterable[str]) -> AllowedHosts:
    """Return the hosts that a source may read from: this machine, ``allowed``, the environment variable's, its ``own_hosts``."""
    return AllowedHosts(_fine(source, allowed))


def _unlisted(cls: Any, led: Iterable[str], allowed: Iterable[str]) -> list[str]:
    fine = _fine(cls, allowed)
    plain = dict.fromkeys(_plain(host) for host in led)
    return [host for host in plain if host not in fine and not is_here(host)]


def _fine(cls: Any, allowed: Iterable[str]) -> frozenset[str]:
    # The environment variable also applies to programs that call these functions.
    return frozenset({*allowed, *granted(()), *getattr(cls, "own_hosts", ())})


def addressed(config: Any) -> Iterator[str]:
    """Yield the host of every address (``https://host:port/path``) in the texts of ``config``."""
    for text in strings_in(config.model_dump(mode="json")):
        for reading in dict.fromkeys((text, _as_parsers_read(text))):
            yield from _places(reading)


def _as_parsers_read(text: str) -> str:
    """Return ``text`` as the most lenient parsers read it: compatibility forms replaced, invisible characters removed."""
    plain = unicodedata.normalize("NFKC", text)
    return "".join(c for c in plain if unicodedata.category(c) not in ("Cc", "Cf"))


def _places(text: str) -> Iterator[str]:
    for found in _PLACE.finditer(text):
        named = found[0][:1] not in "/\\" or _SCHEME.search(
            text[max(0, found.start() - 32) : found.start()]
        )
        if not named:
            continue
        # Some libraries end the host at a backslash and others do not: both readings count.
        for place in dict.fromkeys((found[1].partition("\\")[0], found[1])):
            yield _without_port(place.rsplit("@", 1)[-1])


def is_here(host: str) -> bool:
    """Return whether ``host`` is this machine: ``localhost``, or a loopback or unspecified address. Other names are not resolved."""
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None) or address
    return bool(mapped.is_loopback or mapped.is_unspecified)


def allow_host(*hosts: str, recipe: str = "RECIPE") -> str:
    """Return the command that allows ``hosts``; ``recipe`` is the quoted file of the recipe with its options."""
    return f"nfilter run {recipe} {allow_option(*hosts)}"


def allow_option(*hosts: str) -> str:
    """Return the options of a command that allow ``hosts``, and the environment variable that does."""
    options = " ".join(f"--allow-host {host}" for host in hosts)
    return f"{options}, or export {VARIABLE}={','.join(hosts)}"


def _reported(backend: Any, config: Any) -> Iterable[str]:
    tell = getattr(backend, "hosts", None)
    return tell(config) if tell is not None else ()


def _plain(host: str) -> str:
    plain = host.strip().lower().strip("[]").rstrip(".")
    try:
        return str(ipaddress.ip_address(plain)) if ":" in plain else plain
    except ValueError:
        return plain


def _without_port(place: str) -> str:
    if place.startswith("["):
        return place[1:].split("]", 1)[0]
    return place.split(":", 1)[0]
