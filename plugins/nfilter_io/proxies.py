"""The proxy that the environment names for an address: HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY, also in small letters."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies_environment, proxy_bypass

from nfilter import AllowedHosts, plain
from nfilter_io.transfers import TransferError

_PORT: Final = 80


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy over HTTP.

    ``variable`` names it in the environment, ``without`` is the host that is asked for through it, and ``headers`` have the user and password,
    which are in no message.
    """

    variable: str
    host: str
    port: int
    headers: Mapping[str, str]
    without: str

    @property
    def advice(self) -> str:
        """What to type where it does not serve."""
        return f"check {self.variable}, or if {plain(self.without)} is reached without it, type: export NO_PROXY={plain(self.without)}"


def proxy_for(target: str) -> Proxy | None:
    """Return the proxy for an address ``http(s)://HOST[:PORT]/...``; None if it is asked directly.

    The user names a proxy in the environment, outside the recipe, so it needs no further permission; the host that is asked for through
    it does. This machine is always asked directly: to a proxy, ``localhost`` is the proxy's own machine.

    Raises:
        TransferError: if the variable does not hold an address of a proxy over HTTP.
    """
    parts = urlsplit(target)
    host = parts.hostname or ""
    named = getproxies_environment()
    kind = parts.scheme if parts.scheme in named else "all"
    if kind not in named or host in AllowedHosts() or proxy_bypass(parts.netloc):
        return None
    variable = f"{kind.upper()}_PROXY"
    text = named[kind] if "://" in named[kind] else f"http://{named[kind]}"
    try:
        found = urlsplit(text)
        port = found.port or _PORT
    except ValueError:
        found, port = urlsplit(""), _PORT
    if found.scheme != "http" or not found.hostname:
        raise TransferError(
            f"{variable} does not hold the address of a proxy over HTTP; type: export {variable}=http://HOST:PORT, or for this host "
            f"alone: export NO_PROXY={plain(host)}"
        )
    login = f"{unquote(found.username or '')}:{unquote(found.password or '')}"
    headers = {"Proxy-Authorization": f"Basic {b64encode(login.encode()).decode()}"}
    return Proxy(variable, found.hostname, port, headers if found.username else {}, host)
