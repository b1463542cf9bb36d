"""Where a recipe may send data: this machine, a provider's own hosts, and what a person named outside of the recipe.

A recipe may come from a stranger. An address in it is a wish, and the one who runs it grants it.
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
    """The hosts in ``named`` and those of the environment, with commas between them.

    Raises:
        RecipeError: for what is no name of a host.
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
    """An address that every parser reads alike: ``base`` in full, with ``host`` in lower case."""

    scheme: str
    host: str
    port: int | None
    path: str

    @property
    def base(self) -> str:
        """The address as text."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port is None else f":{self.port}"
        return f"{self.scheme}://{host}{port}{self.path}"


def parse_address(text: str) -> Address:
    """Read ``http(s)://host[:port][/path]``, once, by a grammar that leaves nothing to the taste of a parser.

    Raises:
        ValueError: for all else: white space, control characters, backslashes, letters beyond ASCII, a user, a query, a
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
    """What keeps ``text`` from being an address that all parsers read alike."""
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
    """A character that is not plain printable ASCII, for an error: its code and, where it has one, its name."""
    name = unicodedata.name(character, "")
    return f"the character U+{ord(character):04X}" + (f" ({name})" if name else "")


@dataclass(frozen=True, slots=True)
class AllowedHosts:
    """Where connections may be made: this machine, ``names``, and names that match one of ``patterns`` as a whole."""

    names: frozenset[str] = frozenset()
    patterns: tuple[re.Pattern[str], ...] = ()

    def __contains__(self, host: object) -> bool:
        if not isinstance(host, str):
            return False
        plain = _plain(host)
        # A name with anything else in it is none, whatever a library makes of it.
        if host != host.strip() or not _NAME.fullmatch(plain):
            return False
        if plain in self.names or is_here(plain):
            return True
        return any(pattern.fullmatch(plain) for pattern in self.patterns)


def strangers(backend: Any, config: Any, allowed: Iterable[str]) -> list[str]:
    """The hosts that ``config`` leads to and nobody allowed, in order.

    Every address in the config counts, whatever its field is called, and what the class method ``hosts(config)`` of
    the backend adds. The backend's ``own_hosts``, its providers' own, are always allowed.
    """
    # The environment counts for whoever calls, the command line or a program.
    led = dict.fromkeys(_plain(host) for host in (*addressed(config), *_told(backend, config)))
    fine = {*allowed, *granted(()), *getattr(backend, "own_hosts", ())}
    return [host for host in led if host not in fine and not is_here(host)]


def addressed(config: Any) -> Iterator[str]:
    """The host of every address (``https://host:port/path``) in any text of ``config``."""
    for text in _texts(config.model_dump(mode="json")):
        for reading in dict.fromkeys((text, _as_parsers_read(text))):
            yield from _places(reading)


def _as_parsers_read(text: str) -> str:
    """``text`` as the most lenient parsers read it: letters in their plain form, nothing that does not show."""
    plain = unicodedata.normalize("NFKC", text)
    return "".join(c for c in plain if unicodedata.category(c) not in ("Cc", "Cf"))


def _places(text: str) -> Iterator[str]:
    for found in _PLACE.finditer(text):
        named = found[0][:1] not in "/\\" or _SCHEME.search(
            text[max(0, found.start() - 32) : found.start()]
        )
        if not named:
            continue
        # Some libraries take a backslash for the end of the host: then both readings count.
        for place in dict.fromkeys((found[1].partition("\\")[0], found[1])):
            yield _without_port(place.rsplit("@", 1)[-1])


def is_here(host: str) -> bool:
    """Whether ``host`` is this machine: ``localhost``, or a loopback or unspecified address. Other names may lie."""
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None) or address
    return bool(mapped.is_loopback or mapped.is_unspecified)


def allow_host(*hosts: str, recipe: str = "RECIPE") -> str:
    """What to type to allow ``hosts``; ``recipe`` is the recipe's file, quoted, with the options that go with it."""
    options = " ".join(f"--allow-host {host}" for host in hosts)
    return f"nfilter run {recipe} {options}, or export {VARIABLE}={','.join(hosts)}"


def _told(backend: Any, config: Any) -> Iterable[str]:
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


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, each in value.items():
            yield from _texts(key)
            yield from _texts(each)
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each)
