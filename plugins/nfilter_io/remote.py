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
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from nfilter import (
    ShowsBytes,
    SourceError,
    allow_option,
    is_address,
    odd_name,
    parse_address,
    plain,
    publishing,
    publishing_file,
    show_no_bytes,
)
from nfilter_io.http_files import RefusedHostError, http_file
from nfilter_io.store_files import stored_file
from nfilter_io.transfers import Remote, TransferError

Item = TypeVar("Item")

HUB: Final = "huggingface.co"
OWN_HOSTS: Final = frozenset({HUB})
"""Every recipe may read from the hub."""
_QUERIES: Final = re.compile(r"NFILTER_QUERY[A-Z0-9_]*")
"""The environment variables that may hold the query of an address: a recipe could name others to send their values away."""
_QUERY: Final = re.compile(r"[!$-~]+")
_PLACE: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
_PATH: Final = re.compile(r"(?:/[A-Za-z0-9._~!$&'()+,;=@ -]+)+")
_STORES: Final = {"s3": "s3.amazonaws.com", "gs": "storage.googleapis.com"}
_HTTP: Final = ("http", "https")
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
_RECORD: Final = "copy.json"


@dataclass(frozen=True, slots=True)
class Address:
    """The address of a file; ``host`` serves it, None for memory; ``name`` is the last part of its path."""

    url: str
    scheme: str
    host: str | None
    name: str


def parse(path: str) -> Address:
    """Return the address in ``path``.

    Raises:
        SourceError: where it is not one that can be read, or several programs would read it in several ways.
    """
    scheme = path.partition("://")[0]
    host: str | None
    try:
        if scheme in _HTTP:
            address = parse_address(path)
            host, rest = address.host, address.path
        elif scheme in (*_STORES, "hf", "memory"):
            host, rest = _object(scheme, path)
        else:
            other = _OTHER_NAMES.get(scheme.lower())
            if other is not None:
                raise SourceError(plain(f"{path}: {scheme}:// is not read; type {other} instead"))
            told = f"{path}: {scheme}:// is not read. Addresses of files are {_READ}; copy any other file to this machine"
            raise SourceError(plain(told))
        name = rest.rsplit("/", 1)[-1]
        if not name:
            raise ValueError("it names no file")
    except ValueError as error:
        what = f"{path}: is not an address that can be read: {error}"
        bare, query, _ = path.partition("?")
        if query and scheme in _HTTP:
            raise SourceError(
                plain(
                    f'{what}, and what follows may be a key. Type `path: "{bare}"` and `query_env: NFILTER_QUERY`, and what '
                    "follows the ? in a shell: export NFILTER_QUERY='...'"
                )
            ) from error
        told = f"{what}. Addresses of files are {_READ}, without queries, escapes and keys"
        raise SourceError(plain(told)) from error
    return Address(path, scheme, host, name)


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


def query_problem(path: str, query_env: str) -> str | None:
    """Return why ``query_env`` cannot be beside ``path``, without its value, which may be the query; None if it can."""
    if not _QUERIES.fullmatch(query_env):
        return (
            "query_env is the name of an environment variable that begins with NFILTER_QUERY, in capital letters, and not the query "
            "itself; type query_env: NFILTER_QUERY, and in a shell: export NFILTER_QUERY='...'"
        )
    if path.partition("://")[0] not in _HTTP:
        return "query_env is for addresses https://HOST/FILE; remove it"
    return None


def _query(name: str | None) -> str:
    """Return the query in the environment variable ``name``, without its question mark."""
    if name is None:
        return ""
    text = os.environ.get(name, "").strip().removeprefix("?")
    if not text:
        raise TransferError(
            f"`query_env` names {name}, which is not set; type: export {name}='...' with what follows the ? of the address"
        )
    if is_address(text) or not _QUERY.fullmatch(text):
        what = (
            "a whole address"
            if is_address(text)
            else "a space, a quotation mark, a # or a letter beyond ASCII"
        )
        raise TransferError(
            f"the environment variable {name} holds {what}; type: export {name}='...' with what follows the ? of the address, and no more"
        )
    return text


def hosts_of(path: str) -> tuple[str, ...]:
    """Return the hosts that a file comes from: none for a path of this machine and for an address that cannot be read."""
    try:
        host = parse(path).host if is_address(path) else None
    except SourceError:
        return ()
    return (host,) if host is not None else ()


def fetch(
    path: str,
    allowed: Container[str],
    progress: ShowsBytes = show_no_bytes,
    query_env: str | None = None,
) -> None:
    """Copy the file at an address to this machine, if there is no copy of its present version; a path is left alone.

    Args:
        path: The address, or a path.
        allowed: The hosts that connections may go to.
        progress: Shows the bytes that are copied.
        query_env: The environment variable with the query of the address.

    Raises:
        SourceError: the address cannot be read, the file is not there, or it leads to a host that is not ``allowed``.
        StoreError: the copy cannot be written.
    """
    if not is_address(path):
        return
    address = parse(path)
    if address.host is not None and address.host not in allowed:
        raise SourceError(f"{path}: {_not_allowed(address.host)}")
    copy = Copy.of(address, query_env)
    known = copy.version
    try:
        if address.scheme in _HTTP:
            opened = http_file(path, _query(query_env), allowed, known)
        else:
            opened = stored_file(address.scheme, path)
        with opened as there:
            if there.version is None or there.version != known:
                _copy(there, address, copy, progress)
    except RefusedHostError as error:
        told = f"leads to {plain(error.host)}"
        if error.here:
            told += ", this machine, and no other machine may choose an address of this one; check `path`"
        else:
            told += f"; {_not_allowed(address.host, error.host)}"
        raise SourceError(f"{path}: {told}") from error
    except TransferError as error:
        earlier = f"; or name the copy of an earlier run: path: {copy.data}" if copy.intact else ""
        raise SourceError(f"{path}: {error}{earlier}") from error


def _copy(there: Remote, address: Address, copy: Copy, progress: ShowsBytes) -> None:
    with suppress(OSError):  # which publishing reports
        copy.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    told = f"{address.name} from {address.host or address.scheme}"
    with publishing_file(copy.data) as part, progress(there.size, told) as bar:
        there.save(part, bar.advance)
        size = part.stat().st_size
    with publishing(copy.folder / _RECORD) as out:
        json.dump({"url": address.url, "version": there.version, "size": size}, out)


def local_path(path: str, base_dir: Path, query_env: str | None = None) -> Path:
    """Return the file that is read for ``path``: below ``base_dir``, or for an address its copy.

    Raises:
        SourceError: an address has no copy.
    """
    if not is_address(path):
        return base_dir / path
    copy = Copy.of(parse(path), query_env)
    if not copy.intact:
        raise SourceError(
            f"{path}: there is no copy of it on this machine; type nfilter check RECIPE, which makes one"
        )
    return copy.data


def read_local(path: str, file: Path, read: Callable[[Path], Iterator[Item]]) -> Iterator[Item]:
    """Yield what ``read`` yields for ``file``, the local path of ``path``; errors name an address and not its copy."""
    try:
        yield from read(file)
    except SourceError as error:
        if not is_address(path):
            raise
        raise SourceError(str(error).replace(str(file), path)) from error


def identity_of(path: str, base_dir: Path, query_env: str | None = None) -> str:
    """Return the SHA-256 of the file's bytes, in hex; empty if there is none."""
    file = local_path(path, base_dir, query_env)
    if not file.is_file():
        return ""
    with file.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()


def _not_allowed(*hosts: str | None) -> str:
    """Return the end of the error for an address whose last host is not allowed."""
    names = dict.fromkeys(host for host in hosts if host is not None)
    return f"that host is not allowed; if you trust it, add to the command: {allow_option(*names)}"


@dataclass(frozen=True, slots=True)
class Copy:
    """The copy of a file on this machine, in a folder of its own; ``record`` is empty if there is none."""

    folder: Path
    data: Path
    record: Mapping[str, Any]

    @classmethod
    def of(cls, address: Address, query_env: str | None = None) -> Copy:
        """Return the place of a copy, whether it exists or not.

        It depends on the address and the name of the variable with its query, and not on the query: that may be a signature, which
        is another one each day. Two files at one address, by their queries, have two variables.
        """
        base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
        told = address.url if query_env is None else f"{address.url}?{query_env}"
        folder = Path(base) / "nfilter" / "files" / hashlib.sha256(told.encode()).hexdigest()[:32]
        # The copy has the name of the file: messages show it, and its suffix says how a table is delimited.
        return cls(folder, folder / "data" / address.name, _record(folder / _RECORD))

    @property
    def intact(self) -> bool:
        """Whether it exists and has the size that was written."""
        return self.data.is_file() and self.record.get("size") == self.data.stat().st_size

    @property
    def version(self) -> Mapping[str, str]:
        """The version at the address that it has; empty if it is not intact, or nothing tells its version from others."""
        told = self.record.get("version") if self.intact else None
        return told if isinstance(told, dict) else {}


def _record(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}
