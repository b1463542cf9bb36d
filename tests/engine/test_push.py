"""A run as repositories: loaded by other libraries, without paths of this machine, and uploaded as one would by hand."""

from __future__ import annotations

import fcntl
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from nfilter.api.errors import DamageError, NothingLeftError, StoreError
from nfilter.cli import entry
from nfilter.engine.push import push
from nfilter.report.cards import dataset_card
from nfilter.store.files import read_sealed, write_sealed

RECIPE = """
name: pushed
answer: exact
models: {student: {use: hf, model: tiny}}
source: {use: jsonl, path: rows.jsonl}
samples: [{use: entp.purge}]
arms: [cleaned]
encode: {model: student, max_length: 64}
train: {use: hf.lora, model: student, max_steps: 1}
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("push")
    rows = [{"prompt": f"say {n} apples", "response": f"{n} apples, of course"} for n in range(12)]
    rows.append({"prompt": "say nothing", "response": ""})
    (home / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (home / "r.yaml").write_text(RECIPE)
    assert entry(["run", str(home / "r.yaml"), "--out", str(home / "run"), "--quiet"]) == 0
    return home / "run"


def test_a_folder_has_both_and_no_path_of_this_machine(run: Path, tmp_path: Path) -> None:
    made = push(run, str(tmp_path / "out"), licence="cc-by-4.0")
    assert [one.kind for one in made] == ["dataset", "model"]
    kept = (run / "cleaned.jsonl").read_bytes()
    assert (tmp_path / "out" / "dataset" / "train.jsonl").read_bytes() == kept
    card = (tmp_path / "out" / "dataset" / "README.md").read_text()
    assert yaml.safe_load(card.split("---\n")[1])["license"] == "cc-by-4.0"
    read, left = 13, len(kept.splitlines())
    assert f"{left} of {read} rows are kept" in card
    assert "| 01-entp.purge |" in card
    recipe = yaml.safe_load((tmp_path / "out" / "dataset" / "recipe.yaml").read_text())
    assert recipe["source"]["path"] == "rows.jsonl"
    config = json.loads((tmp_path / "out" / "model" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "model"
    here = (str(run.parent), str(Path(__file__).resolve().parents[2]))
    for file in (tmp_path / "out").rglob("*"):
        if file.is_file():
            assert not any(path.encode() in file.read_bytes() for path in here), file


def test_datasets_reads_the_folder(run: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    push(run, str(tmp_path / "out"))
    loaded = datasets.load_dataset(str(tmp_path / "out" / "dataset"), cache_dir=str(tmp_path / "c"))
    rows = [json.loads(line) for line in (run / "cleaned.jsonl").read_text().splitlines()]
    assert loaded["train"].to_list() == rows


def test_without_a_licence_the_card_says_so(run: Path, tmp_path: Path) -> None:
    push(run, str(tmp_path / "out"))
    card = (tmp_path / "out" / "dataset" / "README.md").read_text()
    assert "license" not in yaml.safe_load(card.split("---\n")[1])
    assert "No licence is stated" in card


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
@pytest.mark.parametrize("how", ["removed", "changed"])
def test_a_damaged_adapter_is_named_and_not_left_out(
    run: Path, tmp_path: Path, name: str, how: str
) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    file = copy / "adapters" / "cleaned" / name
    file.unlink() if how == "removed" else file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(DamageError, match=name):
        push(copy, str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


class Api:
    """What of the hub's client is used."""

    calls: list[tuple[Any, ...]]
    refuse: str | None

    def create_repo(self, name: str, *, repo_type: str, private: bool, exist_ok: bool) -> Any:
        self.calls.append(("create", name, repo_type, private, exist_ok))
        return f"https://hub/{repo_type}s/{name}"

    def upload_folder(
        self, *, repo_id: str, repo_type: str, folder_path: Path, commit_message: str
    ) -> Any:
        if self.refuse == repo_type:
            raise OSError("401 Client Error\nAuthorization: Bearer hf_secret")
        files = sorted(file.name for file in folder_path.iterdir())
        self.calls.append(("upload", repo_id, repo_type, files, commit_message))
        return SimpleNamespace()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> type[Api]:
    import huggingface_hub

    Api.calls, Api.refuse = [], None
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    return Api


@pytest.mark.parametrize("public", [False, True])
def test_both_are_uploaded_private_unless_asked(run: Path, hub: type[Api], *, public: bool) -> None:
    made = push(run, "hub:me/clean", public=public)
    assert [one.place for one in made] == [
        "https://hub/datasets/me/clean",
        "https://hub/models/me/clean",
    ]
    created = [call for call in hub.calls if call[0] == "create"]
    assert created == [
        ("create", "me/clean", kind, not public, True) for kind in ("dataset", "model")
    ]
    uploads = {call[2]: call[3] for call in hub.calls if call[0] == "upload"}
    assert uploads["dataset"] == ["README.md", "recipe.yaml", "train.jsonl"]
    assert {"adapter_model.safetensors", "README.md", "tokenizer.json"} <= set(uploads["model"])
    assert "nfilter.json" not in uploads["model"]


def test_a_refusal_says_what_is_there_already(run: Path, hub: type[Api]) -> None:
    hub.refuse = "model"
    with pytest.raises(StoreError) as caught:
        push(run, "hub:me/clean")
    assert "the model cannot be uploaded: 401 Client Error" in str(caught.value)
    assert "https://hub/datasets/me/clean is uploaded" in str(caught.value)
    assert "hf_secret" not in str(caught.value)


def test_what_cannot_be_pushed(run: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="it is there already"):
        push(run, str(tmp_path))
    (tmp_path / "00-source").mkdir()
    with pytest.raises(StoreError, match="the run has not ended"):
        push(tmp_path, str(tmp_path / "out"))


def test_a_run_in_progress_is_named_with_its_process(tmp_path: Path) -> None:
    (tmp_path / "00-source").mkdir()
    with (tmp_path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write("4711")
        lock.flush()
        with pytest.raises(
            StoreError, match="the run has not ended: process 4711 is running in it; wait for it"
        ):
            push(tmp_path, str(tmp_path / "out"))


def test_nothing_is_published_of_files_that_another_run_replaced(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = tmp_path / "run"
    shutil.copytree(run, mine)

    def replaced(*args: Any, **more: Any) -> str:
        record = read_sealed(mine / "manifest.json", mine)
        write_sealed(mine / "manifest.json", {**record, "seconds": -1})
        return dataset_card(*args, **more)

    monkeypatch.setattr("nfilter.engine.push.dataset_card", replaced)
    with pytest.raises(StoreError, match="another run replaced its files while they were read"):
        push(mine, str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    monkeypatch.undo()
    push(mine, str(tmp_path / "out"))


def test_names_of_a_recipe_are_no_markup() -> None:
    metrics = {"samples": {"kept": 1, "read": 2, "relabelled": 0, "dropped": 1}}
    stage = {"stage": "01-a|b<script>", "kept": 1, "dropped": 1, "relabelled": 0}
    card = dataset_card("x\n# y", metrics, [stage], licence=None)
    assert "01-a\\|b&lt;script>" in card
    assert "\n# y" not in card


def test_a_run_without_rows_is_refused(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nfilter.report import reading

    monkeypatch.setattr(reading, "metrics_of", lambda path: {"samples": {"kept": 0}})
    with pytest.raises(NothingLeftError, match=r"dropped\.jsonl says which stage took them"):
        push(run, "hub:me/clean")
