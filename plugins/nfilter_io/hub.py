"""Datasets of the Hugging Face Hub, or a local folder in the same layout, through the library ``datasets``."""

from __future__ import annotations

import hashlib
import inspect
import json
import re
from collections.abc import Container, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache, partial
from pathlib import Path
from typing import Any, ClassVar, Final

from pydantic import Field

from nfilter import (
    JSON,
    Row,
    Sample,
    ShowsBytes,
    SourceError,
    StageConfig,
    Unreadable,
    first_line,
    missing_package,
)
from nfilter_io.config import ALSO_KNOWN, RowSettings
from nfilter_io.remote import HUB, OWN_HOSTS
from nfilter_io.rows import Rows, remarks_on_rows
from nfilter_io.store_files import silent_bar
from nfilter_io.tables import arrow_rows, choose_split, class_names

_ID: Final = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)
_AT_ONCE: Final = 8
_COMMIT: Final = re.compile(r"[0-9a-f]{40}", re.ASCII)


class HubConfig(RowSettings):
    """Settings of a dataset of the hub. Its data files are read; code in it is never run."""

    also_known: ClassVar[Mapping[str, str]] = {
        **{key: value for key, value in ALSO_KNOWN.items() if key != "name"},
        **dict.fromkeys(("repo", "repo_id", "dataset_name", "hub_id"), "path"),
        **dict.fromkeys(("config", "config_name", "name", "dataset_config", "subset_name"), "subset"),
        **dict.fromkeys(("commit", "branch", "tag", "version"), "revision"),
        **dict.fromkeys(("token", "use_auth_token", "hf_token"), "log in with `hf auth login`, or set HF_TOKEN; no key belongs in a recipe"),
        "trust_remote_code": "remove the line: code of a dataset is never run",
    }  # fmt: skip

    path: str = Field(
        min_length=1, description="OWNER/NAME on the hub, or a local folder with the same layout."
    )
    subset: str | None = Field(
        default=None, description="The configuration of the dataset, for one that has several."
    )
    split: str | None = Field(
        default=None, description="The split to read; needed where there are several."
    )
    revision: str | None = Field(
        default=None,
        description="A commit, tag or branch of the dataset; a commit makes a run repeatable. By default the main branch.",
    )
    streaming: bool = Field(
        default=False,
        description="Read over the network at every pass instead of keeping a copy in the cache.",
    )


class Hub:
    """A dataset of the hub: ``{use: hub, path: openai/gsm8k, subset: main, split: train}``."""

    name: ClassVar[str] = "hub"
    also_known: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("hf", "huggingface", "hf_hub", "load_dataset", "huggingface_hub"),
        "{use: hub, path: OWNER/NAME, split: train}",
    )
    Config: ClassVar[type[StageConfig]] = HubConfig
    own_hosts: ClassVar[frozenset[str]] = OWN_HOSTS
    suffixes: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def problems(cls, config: HubConfig, base_dir: Path) -> Iterable[str]:
        if _local(config, base_dir) is None and not _ID.fullmatch(config.path):
            return [
                f"{config.path}: is neither a local folder nor the OWNER/NAME of a dataset on the hub, like openai/gsm8k"
            ]
        return []

    @classmethod
    def hosts(cls, config: HubConfig) -> Iterable[str]:
        del config
        return (HUB,)

    @classmethod
    def columns(cls, config: HubConfig, base_dir: Path) -> Mapping[str, str]:
        return cls(config, base_dir).rows.layout.describe()

    remarks = classmethod(remarks_on_rows)

    @classmethod
    def identity(cls, config: HubConfig, base_dir: Path) -> str:
        """The commit that is read; of a local folder its files.

        Raises:
            SourceError: the hub cannot be asked, and ``revision`` is no commit.
        """
        folder = _local(config, base_dir)
        if folder is not None:
            files = sorted(item for item in folder.rglob("*") if item.is_file())
            told = [
                [str(f.relative_to(folder)), f.stat().st_size, f.stat().st_mtime_ns] for f in files
            ]
            return hashlib.sha256(json.dumps(told).encode()).hexdigest()
        if config.revision is not None and _COMMIT.fullmatch(config.revision):
            return config.revision
        return _commit(config)

    @classmethod
    def fetch(
        cls, config: HubConfig, base_dir: Path, allowed: Container[str], progress: ShowsBytes
    ) -> None:
        """Copy the files of the dataset into the cache of the hub's library, from which ``datasets`` reads them."""
        del allowed  # the hub's own hosts
        if _local(config, base_dir) is None and not config.streaming:
            _download(config, progress)

    def __init__(self, config: HubConfig, base_dir: Path) -> None:
        load = cache(
            partial(_load, config, base_dir)
        )  # once per source: both passes read the same copy
        self.rows = Rows(
            config,
            lambda: arrow_rows(Path(config.path), load()),
            schema_classes=lambda column: class_names(load(), column),
        )

    def read(self) -> Iterator[Row | Unreadable]:
        return self.rows.read()

    def restore(self, sample: Sample) -> Mapping[str, JSON]:
        return self.rows.restore(sample)


def _local(config: HubConfig, base_dir: Path) -> Path | None:
    folder = base_dir / config.path
    return folder if folder.is_dir() else None


def _library(config: HubConfig) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise SourceError(
            f"{config.path}: reading from the hub {missing_package('datasets', 'nfilter[datasets]')}"
        ) from error
    return datasets


def _commit(config: HubConfig) -> str:
    _library(config)
    from huggingface_hub import HfApi

    try:
        return str(HfApi().dataset_info(config.path, revision=config.revision).sha)
    except Exception as error:
        raise SourceError(
            f"{config.path}: the hub cannot be asked which commit {config.revision or 'main'} is ({first_line(error)}); check name and "
            "network, or set `revision` to a commit (40 hexadecimal digits) that was read before"
        ) from error


def _load(config: HubConfig, base_dir: Path) -> Any:
    """The split of the dataset, as ``datasets`` gives it."""
    datasets = _library(config)
    folder = _local(config, base_dir)
    place = str(folder.resolve()) if folder is not None else config.path
    given = {"revision": config.revision} if folder is None else {}
    try:
        with _quiet(datasets):
            data = datasets.load_dataset(place, config.subset, streaming=config.streaming, **given)
    except Exception as error:
        # The library raises errors of many packages here; what they say is for its users.
        raise SourceError(
            f"{config.path}: cannot be loaded: {_cause(error)}; check `path`, `subset` and `revision`"
        ) from error
    return data[choose_split(Path(config.path), list(data), config.split)]


def _download(config: HubConfig, progress: ShowsBytes) -> None:
    """Download the files that ``_load`` reads, with progress; it finds them in the cache, and names what fails here."""
    datasets = _library(config)
    import huggingface_hub

    if "tqdm_class" not in inspect.signature(huggingface_hub.hf_hub_download).parameters:
        return  # older versions tell nothing of the progress of a file
    endpoint = datasets.config.HF_ENDPOINT
    # Whatever fails here fails again in `_load`, which says so; what fails here alone is downloaded there.
    with suppress(Exception), _quiet(datasets):
        builder = datasets.load_dataset_builder(
            config.path, config.subset, revision=config.revision
        )
        if Path(builder.cache_dir).is_dir():
            return  # its rows are kept, and its files are not needed
        system = huggingface_hub.HfFileSystem(endpoint=endpoint)
        named = (builder.config.data_files or {}).values()
        urls = dict.fromkeys(str(url) for each in named for url in each)
        sizes = {url: int(system.info(url)["size"]) for url in urls if url.startswith("hf://")}
        with progress(sum(sizes.values()), f"{config.path} from the hub") as bar:

            def get(url: str) -> None:
                came: list[int] = []

                def advance(count: int) -> None:
                    came.append(count)
                    bar.advance(count)

                there: Any = system.resolve_path(url)
                huggingface_hub.hf_hub_download(
                    there.repo_id, there.path_in_repo, repo_type=there.repo_type, revision=there.revision, endpoint=endpoint,
                    library_name="datasets", tqdm_class=silent_bar(advance),
                )  # fmt: skip
                bar.advance(max(0, sizes[url] - sum(came)))  # what was in the cache

            pool = ThreadPoolExecutor(_AT_ONCE)
            try:
                list(pool.map(get, sizes))
            finally:
                pool.shutdown(cancel_futures=True)


def _cause(error: Exception) -> str:
    """The library hides a broken file behind an error that says nothing of it."""
    inner = error.__cause__
    return first_line(inner if isinstance(inner, Exception) else error)


@contextmanager
def _quiet(datasets: Any) -> Iterator[None]:
    """Without the library's progress bars, which break up the lines of a run."""
    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()
