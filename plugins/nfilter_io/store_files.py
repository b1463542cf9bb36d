"""Files of stores that fsspec reads: s3, gs, hf, and the memory of the process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from nfilter import first_line, missing_package, plain
from nfilter_io.transfers import COPY_IT, Advance, Remote, TransferError

_PACKAGES: Final = {"s3": "s3fs", "gs": "gcsfs", "hf": "huggingface_hub"}
# What file systems call the version of a file, in lower case; the size is compared too, and proves nothing alone.
_VERSIONS: Final = frozenset(
    ("etag", "content-md5", "digest", "last-modified", "lastmodified", "versionid", "md5hash", "crc32c", "generation", "blob_id", "lfs", "created")
)  # fmt: skip


@contextmanager
def stored_file(scheme: str, url: str) -> Iterator[Remote]:
    """Yield the file of a store at ``url``.

    Raises:
        TransferError: the file cannot be had.
    """
    key = url.partition("://")[2]
    with _asking(scheme):
        import fsspec

        # With no answers of earlier ones.
        system = fsspec.filesystem(scheme, skip_instance_cache=True)
        system.invalidate_cache()
        told = _told_of(system, key)
    version = _version(told)
    size = str(told.get("size"))

    def save(path: Path, advance: Advance) -> None:
        with _asking(scheme):
            system.get_file(key, str(path), callback=_callback(scheme, advance))
            after = _version(_told_of(system, key))
        # Some file systems continue a download that broke off, and not all of them with the same version.
        if after != version:
            raise TransferError("changed while it was copied; run the same command again")
        came = path.stat().st_size
        # Some stores name a size of 0 where they know none.
        if size.isdecimal() and int(size) not in (0, came):
            raise TransferError(
                f"{came} bytes came of the {int(size)} that the store names; run the same command again, or {COPY_IT}"
            )

    yield Remote(version, int(size) if size.isdecimal() else None, save)


def _told_of(system: Any, key: str) -> dict[str, Any]:
    """Return what a file system says of a file, by names in lower case."""
    told = {name.lower(): value for name, value in system.info(key).items()}
    if told.get("type") == "directory":
        raise IsADirectoryError(key)
    return told


def _version(told: dict[str, Any]) -> dict[str, str] | None:
    found = {name: str(told[name]) for name in sorted(_VERSIONS & set(told)) if told[name]}
    return {**found, "size": str(told.get("size"))} if found else None


def _callback(scheme: str, advance: Advance) -> Any:
    """Return fsspec's callback that counts bytes."""
    from fsspec.callbacks import Callback, TqdmCallback

    if scheme == "hf":
        bar = silent_bar(advance)
        # The hub's file system has its fast ways for this callback alone, and without one it shows a bar of its own.
        return TqdmCallback(tqdm_cls=lambda **_: bar())

    class Counted(Callback):  # type: ignore[misc]
        def relative_update(self, inc: int = 1) -> None:
            advance(inc)

    return Counted()


def silent_bar(advance: Advance) -> Any:
    """Return a class of tqdm's bars that shows nothing and counts to ``advance``: the hub's libraries take one."""
    from tqdm import tqdm  # type: ignore[import-untyped]

    class Bar(tqdm):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(disable=True)

        def update(self, n: float | None = 1) -> None:
            self.n += int(n or 0)
            advance(int(n or 0))

    return Bar


@contextmanager
def _asking(scheme: str) -> Iterator[None]:
    """Raise what a file system raises as TransferError."""
    try:
        yield
    except ImportError as error:
        needs = missing_package(_PACKAGES.get(scheme, "fsspec"), "nfilter[remote]")
        raise TransferError(f"reading it {needs}") from error
    except TransferError:
        raise
    except Exception as error:
        # File systems raise errors of many packages; the cause says more than the last one.
        raise TransferError(_why(list(_causes(error)))) from error


def _causes(error: Exception) -> Iterator[Exception]:
    each: BaseException | None = error
    while isinstance(each, Exception):
        yield each
        each = each.__cause__


def _why(causes: list[Exception]) -> str:
    """Return why a file cannot be copied."""
    response = [getattr(each, "response", None) for each in causes]
    statuses = [getattr(each, "status", None) for each in causes]
    statuses += [getattr(each, "status_code", None) for each in response]
    reason = plain(first_line(causes[0]))
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
            f"login, hf auth login), or {COPY_IT}"
        )
    return f"cannot be fetched: {reason}; check `path` and the network"
