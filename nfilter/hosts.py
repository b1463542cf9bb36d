"""Where a recipe may send data: this machine, a provider's own hosts, and what a person named outside of the recipe.

A recipe may come from a stranger. An address in it is a wish, and the one who runs it grants it.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from nfilter.errors import RecipeError

VARIABLE = "NFILTER_ALLOW_HOSTS"
_ADDRESS = re.compile(r"://+([^/?#\s]*)")
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
        for found in _ADDRESS.finditer(text):
            # Some libraries take a backslash for the end of the host: then both readings count.
            for place in {found[1], found[1].partition("\\")[0]}:
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


def remedy(host: str, recipe: str = "RECIPE") -> str:
    """What to type to allow ``host``."""
    return f"nfilter run {recipe} --allow-host {host}, or export {VARIABLE}={host}"


def _told(backend: Any, config: Any) -> Iterable[str]:
    tell = getattr(backend, "hosts", None)
    return tell(config) if tell is not None else ()


def _plain(host: str) -> str:
    return host.strip().lower().strip("[]").rstrip(".")


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
