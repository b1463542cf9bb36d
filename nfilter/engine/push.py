"""`nfilter push`: publish the cleaned dataset and the adapter of a finished run, each with its card."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from nfilter.api.errors import NothingLeftError, StoreError, first_line, missing_package
from nfilter.api.file_errors import accessing
from nfilter.engine.arms import MARKER
from nfilter.report import reading
from nfilter.report.cards import dataset_card
from nfilter.store.files import check_folder, publishing_folder
from nfilter.store.run_directory import RunDirectory

HUB: Final = "hub:"
DATASET, MODEL = "dataset", "model"
_ADAPTER: Final = "adapters/cleaned"


@dataclass(frozen=True, slots=True)
class Pushed:
    """A written or uploaded repository. ``kind`` is ``dataset`` or ``model``; ``place`` is a folder or a URL."""

    kind: str
    place: str
    files: tuple[str, ...]


def push(
    run_dir: Path, to: str, *, licence: str | None = None, public: bool = False
) -> list[Pushed]:
    """Write the repositories of the run into the new folder ``to``, or upload them to ``hub:OWNER/NAME``.

    The dataset has train.jsonl, recipe.yaml (without local paths) and README.md. If the arm ``cleaned`` was trained, its adapter is the
    model. On the hub both are named OWNER/NAME; new repositories are private unless ``public``.

    Raises:
        NothingLeftError: if the run kept no row.
        DamageError: if a file of it is missing or was changed.
        StoreError: if the run has not finished, ``to`` exists, or the hub rejects the upload.
    """
    reading.open_ended(run_dir)
    if not reading.metrics_of(run_dir)["samples"]["kept"]:
        raise NothingLeftError(
            f"{run_dir}: nothing is left of its rows, so there is none to push; dropped.jsonl says which stage took them"
        )
    if to.startswith(HUB):
        return _upload(run_dir, to.removeprefix(HUB), licence, public=public)
    out = Path(to)
    with accessing(out):
        present = out.exists()
    if present:
        raise StoreError(f"{out}: it is there already; name a folder that is not, or remove it")
    with publishing_folder(out) as part:
        made = _write(run_dir, part, licence, out.name)
    return [Pushed(kind, str(out / kind), files) for kind, files in made]


def _write(
    run_dir: Path, out: Path, licence: str | None, name: str
) -> list[tuple[str, tuple[str, ...]]]:
    """Write the folders of the repositories into ``out``; return each with its files."""
    before = reading.manifest(run_dir)
    dataset = out / DATASET
    dataset.mkdir()
    cleaned = reading.published(run_dir, "cleaned.jsonl")
    assert cleaned is not None  # every finished run has it
    shutil.copyfile(cleaned, dataset / "train.jsonl")
    card = dataset_card(name, reading.metrics_of(run_dir), before["stages"], licence=licence)
    (dataset / "README.md").write_text(card, encoding="utf-8")
    (dataset / "recipe.yaml").write_text(_recipe(run_dir), encoding="utf-8")
    made = [(DATASET, _names(dataset))]
    adapter = run_dir / _ADAPTER
    if adapter.is_dir():
        check_folder(adapter / MARKER, run_dir)
        # The marker is used by this run only, and has local paths.
        shutil.copytree(adapter, out / MODEL, ignore=shutil.ignore_patterns(MARKER))
        _name_base(out / MODEL)
        made.append((MODEL, _names(out / MODEL)))
    reading.refuse_replaced(RunDirectory(run_dir), before)
    return made


def _name_base(adapter: Path) -> None:
    """Replace the local path of the base model by its last part in the adapter's text files."""
    config: Any = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    base = config.get("base_model_name_or_path")
    if not isinstance(base, str) or not Path(base).is_absolute():
        return
    for file in adapter.iterdir():
        if file.suffix in (".json", ".md"):
            told = file.read_text(encoding="utf-8")
            file.write_text(told.replace(base, Path(base).name), encoding="utf-8")


def _names(folder: Path) -> tuple[str, ...]:
    return tuple(
        sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
    )


def _recipe(run_dir: Path) -> str:
    """Return the recipe with all defaults; absolute paths are replaced by their last part."""
    value = reading.locked_recipe(run_dir)
    value.pop("lock", None)
    return yaml.safe_dump(_without_folders(value), sort_keys=False, allow_unicode=True)


def _without_folders(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_folders(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_folders(item) for item in value]
    if isinstance(value, str) and Path(value).is_absolute():
        return Path(value).name
    return value


def _upload(run_dir: Path, name: str, licence: str | None, *, public: bool) -> list[Pushed]:
    import tempfile

    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise StoreError(
            f"{HUB}{name}: uploading {missing_package('huggingface_hub', 'nfilter[datasets]')}"
        ) from error
    api = HfApi()
    done: list[Pushed] = []
    with tempfile.TemporaryDirectory(prefix="nfilter-push-") as folder:
        for kind, files in _write(run_dir, Path(folder), licence, name):
            place = _sent(api, name, kind, Path(folder) / kind, done, public=public)
            done.append(Pushed(kind, place, files))
    return done


def _sent(
    api: Any, name: str, kind: str, folder: Path, done: Sequence[Pushed], *, public: bool
) -> str:
    """Upload one folder in one commit; return its address."""
    try:
        made = api.create_repo(name, repo_type=kind, private=not public, exist_ok=True)
        api.upload_folder(
            repo_id=name, repo_type=kind, folder_path=folder, commit_message="Cleaned with nfilter"
        )
    except Exception as error:
        # The library raises errors of several packages; none of them contains the token.
        before = f" ({', '.join(one.place for one in done)} is uploaded)" if done else ""
        raise StoreError(
            f"{HUB}{name}: the {kind} cannot be uploaded: {first_line(error)}{before}; log in with `hf auth login`, and check that the name is "
            "OWNER/NAME and yours"
        ) from error
    return str(made)
