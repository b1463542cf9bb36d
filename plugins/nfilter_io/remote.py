"""Files at addresses (https, s3, gs, hf): the hosts that they come from, and local copies of them.

A file is copied once and copied again when its version at the address (entity tag, checksum, modification time) has
changed. Everything else reads the copy.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from nfilter import (
    AllowedHosts,
    SourceError,
    allow_host,
    first_line,
    missing_package,
    odd_name,
    parse_address,
    plain,
    publishing,
    publishing_file,
)

Item = TypeVar("Item")

HUB: Final = "huggingface.co"
OWN_HOSTS: Final = frozenset({HUB})
"""Every recipe may read from the hub."""
_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_PLACE: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
_PATH: Final = re.compile(r"(?:/[A-Za-z0-9._~!$&'()+,;=@ -]+)+")
_STORES: Final = {"s3": "s3.amazonaws.com", "gs": "storage.googleapis.com"}
_PACKAGES: Final = {"s3": "s3fs", "gs": "gcsfs", "hf": "huggingface_hub", "https": "aiohttp", "http": "aiohttp"}  # fmt: skip
_OTHER_NAMES: Final = {
    **{name: f"{name}://" for name in ("https", "http", "s3", "gs", "hf")},
    "gcs": "gs://",
    "s3a": "s3://",
    "s3n": "s3://",
    "file": "the path alone",
}
_READ: Final = (
    "https://HOST/FILE, s3://BUCKET/FILE, gs://BUCKET/FILE or hf://datasets/OWNER/NAME/FILE"
)
# What file systems call the version of a file, in lower case; the size is compared too, and proves nothing alone.
_VERSIONS: Final = frozenset(
    ("etag", "content-md5", "digest", "last-modified", "lastmodified", "versionid", "md5hash", "crc32c", "generation", "blob_id", "lfs", "created")
)  # fmt: skip
_RECORD: Final = "copy.json"


@dataclass(frozen=True, slots=True)
class Address:
    """The address of a file; ``host`` serves it, None for memory; ``name`` is the last part of its path."""

    url: str
    scheme: str
    host: str | None
    name: str


def is_address(path: str) -> bool:
    """Return whether ``path`` is an address (``scheme://...``) and not a path of this machine."""
    return _SCHEME.match(path) is not None


def parse(path: str) -> Address:
    """Return the address in ``path``.

    Raises:
        SourceError: where it is not one that can be read, or several programs would read it in several ways.
    """
    found = _SCHEME.match(path)
    scheme = found[1] if found else ""
    host: str | None
    try:
        if scheme in ("http", "https"):
            address = parse_address(path)
            host, rest = address.host, address.path
        elif scheme in (*_STORES, "hf", "memory"):
            host, rest = _object(scheme, path)
        else:
            other = _OTHER_NAMES.get(scheme.lower())
            if other is not None:
                raise SourceError(f"{_shown(path)}: {scheme}:// is not read; type {other} instead")
            raise SourceError(
                f"{_shown(path)}: {scheme}:// is not read. Addresses of files are {_READ}; copy any other file to this machine"
            )
        name = rest.rsplit("/", 1)[-1]
        if not name:
            raise ValueError("it names no file")
    except ValueError as error:
        raise SourceError(
            f"{_shown(path)}: is not an address that can be read: {error}. Addresses of files are {_READ}, without "
            "queries, escapes and keys"
        ) from error
    return Address(path, scheme, host, name)


def _shown(path: str) -> str:
    """Return an address for a message, without a user, a key and a query."""
    return plain(
        re.sub(r"[?#].*", "?***", re.sub(r"(://)[^/]*@", r"\1***@", path), flags=re.DOTALL)
    )


def _object(scheme: str, path: str) -> tuple[str | None, str]:
    """Return the host and the path of an object in a store; raise ValueError."""
    place, slash, rest = path.partition("://")[2].partition("/")
    if not _PLACE.fullmatch(place) or ".." in place:
        hidden = re.sub(".*@", "***@", place)
        raise ValueError(f"{hidden!r} is not the name of a bucket" if scheme != "hf" else _HF)
    if not _PATH.fullmatch(slash + rest):
        odd = next((c for c in rest if not _PATH.fullmatch(f"/{c}") and c != "/"), None)
        raise ValueError(f"it holds {odd_name(odd)}" if odd else "it names no file")
    if any(part in (".", "..") for part in rest.split("/")):
        raise ValueError("its path has a part that is . or ..")
    if scheme == "hf":
        if place != "datasets" or rest.count("/") < 2:
            raise ValueError(_HF)
        return HUB, rest
    return (f"{place}.{_STORES[scheme]}".lower() if scheme in _STORES else None), rest


_HF: Final = "a file of the hub is hf://datasets/OWNER/NAME/FILE"


def hosts_of(path: str) -> tuple[str, ...]:
    """Return the hosts that a file comes from: none for a path of this machine and for an address that cannot be read."""
    try:
        host = parse(path).host if is_address(path) else None
    except SourceError:
        return ()
    return (host,) if host is not None else ()


def fetch(path: str, allowed: Container[str]) -> None:
    """Copy the file at an address to this machine, if there is no copy of its present version; a path is left alone.

    Raises:
        SourceError: the address cannot be read, the file is not there, or it leads to a host that is not ``allowed``.
        StoreError: the copy cannot be written.
    """
    if not is_address(path):
        return
    address = parse(path)
    if address.host is not None and address.host not in allowed:
        raise SourceError(f"{path}: {_not_allowed(address.host)}")
    copy = Copy.of(address)
    with _asking(address, copy):
        system = _system(address, allowed)
    try:
        with _asking(address, copy):
            version = _version(system, address)
        if version is None or not copy.intact or copy.record.get("version") != version:
            _copy(system, address, copy, version)
    finally:
        _close(system)


def _copy(system: Any, address: Address, copy: Copy, version: Mapping[str, str] | None) -> None:
    with suppress(OSError):  # which publishing reports
        copy.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with publishing_file(copy.data) as part:
        with _asking(address, copy):
            system.get_file(_key(address), str(part))
            after = _version(system, address)
        if after != version:
            raise SourceError(
                f"{address.url}: changed while it was copied; run the same command again"
            )
        size = part.stat().st_size
        named = (version or {}).get("size", "")
        # Some servers name a size of 0 where they know none.
        if named.isdecimal() and int(named) not in (0, size):
            raise SourceError(
                f"{address.url}: {size} bytes came of the {int(named)} that the server names; run the same command again, or copy "
                "the file to this machine and name it in `path`"
            )
    with publishing(copy.folder / _RECORD) as out:
        json.dump({"url": address.url, "version": version, "size": size}, out)


def local_path(path: str, base_dir: Path) -> Path:
    """Return the file that is read for ``path``: below ``base_dir``, or for an address its copy.

    Raises:
        SourceError: an address has no copy.
    """
    if not is_address(path):
        return base_dir / path
    copy = Copy.of(parse(path))
    if not copy.intact:
        raise SourceError(
            f"{path}: there is no copy of it on this machine; type nfilter check RECIPE, which makes one"
        )
    return copy.data


def read_local(path: str, base_dir: Path, read: Callable[[Path], Iterator[Item]]) -> Iterator[Item]:
    """Yield what ``read`` yields for the file; errors name an address and not its copy."""
    file = local_path(path, base_dir)
    if not is_address(path):
        yield from read(file)
        return
    try:
        yield from read(file)
    except SourceError as error:
        raise SourceError(str(error).replace(str(file), path)) from error


def identity_of(path: str, base_dir: Path) -> str:
    """Return the SHA-256 of the file's bytes, in hex; empty if there is none."""
    file = local_path(path, base_dir)
    if not file.is_file():
        return ""
    with file.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()


def _system(address: Address, allowed: Container[str]) -> Any:
    """Return fsspec's file system for an address, with no answers of earlier ones."""
    import fsspec

    given = {}
    if address.scheme in ("http", "https"):
        given = _http_settings(allowed, here=address.host in AllowedHosts())
    system = fsspec.filesystem(address.scheme, skip_instance_cache=True, **given)
    system.invalidate_cache()
    return system


def _http_settings(allowed: Container[str], *, here: bool) -> dict[str, Any]:
    """Return settings of the HTTP client: no request, redirects included, goes to a host that is not allowed.

    ``here``: whether the address is of this machine; another machine cannot redirect to this one.
    """
    import aiohttp

    async def guard(request: Any, handler: Any) -> Any:
        host = request.url.host
        if host not in allowed or (not here and host in AllowedHosts()):
            raise _RefusedHostError(str(host))
        return await handler(request)

    # By default the client ends every download after five minutes.
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=60)
    headers = {"Accept-Encoding": "identity"}
    return {"client_kwargs": {"middlewares": (guard,), "timeout": timeout, "headers": headers}}


def _close(system: Any) -> None:
    """Close the session of the HTTP client."""
    if hasattr(system, "set_session") and "http" in system.protocol:
        from fsspec.asyn import sync

        sync(system.loop, sync(system.loop, system.set_session).close)


def _version(system: Any, address: Address) -> dict[str, str] | None:
    """Return what tells this version of a file from others; None if the server says nothing that does."""
    told = {key.lower(): value for key, value in system.info(_key(address)).items()}
    if told.get("type") == "directory":
        raise IsADirectoryError(address.url)
    found = {key: str(told[key]) for key in sorted(_VERSIONS & set(told)) if told[key]}
    return {**found, "size": str(told.get("size"))} if found else None


def _key(address: Address) -> str:
    """Return the name of a file for its file system."""
    return address.url if address.scheme in ("http", "https") else address.url.partition("://")[2]


@contextmanager
def _asking(address: Address, copy: Copy) -> Iterator[None]:
    """Raise what a file system raises as SourceError."""
    try:
        yield
    except ImportError as error:
        needs = missing_package(_PACKAGES.get(address.scheme, "fsspec"), "nfilter[remote]")
        raise SourceError(f"{address.url}: reading it {needs}") from error
    except Exception as error:
        # File systems raise errors of many packages; the cause says more than the last one.
        causes = list(_causes(error))
        refused = next((each for each in causes if isinstance(each, _RefusedHostError)), None)
        if refused is not None:
            told = f"leads to {plain(refused.host)}"
            if refused.host in AllowedHosts():
                told += ", this machine, and no other machine may choose an address of this one; check `path`"
            else:
                told += f"; {_not_allowed(address.host, refused.host)}"
        else:
            told = _told(causes)
            if "cannot be fetched" in told and copy.intact:
                told += f"; or name the copy of an earlier run: path: {copy.data}"
        raise SourceError(f"{address.url}: {told}") from error


def _causes(error: Exception) -> Iterator[Exception]:
    each: BaseException | None = error
    while isinstance(each, Exception):
        yield each
        each = each.__cause__


def _told(causes: list[Exception]) -> str:
    """Return why a file cannot be fetched."""
    response = [getattr(each, "response", None) for each in causes]
    statuses = [getattr(each, "status", None) for each in causes]
    statuses += [getattr(each, "status_code", None) for each in response]
    # The HTTP file system raises FileNotFoundError for every fault.
    hidden = isinstance(causes[0], FileNotFoundError) and len(causes) > 1
    reason = plain(first_line(causes[1 if hidden else 0]))
    if 404 in statuses or isinstance(causes[-1], FileNotFoundError):
        return "there is no such file; check `path`"
    if isinstance(causes[0], IsADirectoryError):
        return "is a folder, and one file is read; check `path`"
    denied = any(
        isinstance(each, PermissionError) or "Credentials" in type(each).__name__ for each in causes
    )
    if denied or 401 in statuses or 403 in statuses:
        return (
            f"access is denied ({reason}); log in with the program of the store (aws configure, gcloud auth application-default "
            "login, hf auth login), or copy the file to this machine and name it in `path`"
        )
    return f"cannot be fetched: {reason}; check `path` and the network"


class _RefusedHostError(Exception):
    def __init__(self, host: str) -> None:
        super().__init__(host)
        self.host = host


def _not_allowed(*hosts: str | None) -> str:
    """Return the end of the error for an address whose last host is not allowed."""
    names = dict.fromkeys(host for host in hosts if host is not None)
    return f"that host is not allowed; if you trust it, type: {allow_host(*names)}"


@dataclass(frozen=True, slots=True)
class Copy:
    """The copy of a file on this machine, in a folder of its own; ``record`` is empty if there is none."""

    folder: Path
    data: Path
    record: Mapping[str, Any]

    @classmethod
    def of(cls, address: Address) -> Copy:
        """Return the place of a copy, whether it exists or not."""
        base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
        key = hashlib.sha256(address.url.encode()).hexdigest()[:32]
        folder = Path(base) / "nfilter" / "files" / key
        # The copy has the name of the file: messages show it, and its suffix says how a table is delimited.
        return cls(folder, folder / "data" / address.name, _record(folder / _RECORD))

    @property
    def intact(self) -> bool:
        """Whether it exists and has the size that was written."""
        return self.data.is_file() and self.record.get("size") == self.data.stat().st_size


def _record(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}
