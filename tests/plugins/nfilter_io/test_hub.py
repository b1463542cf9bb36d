"""Datasets of the hub: from a mirror on this machine, and from a folder in the same layout."""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nfilter import Sample, SourceError
from nfilter.store.files import read_jsonl
from nfilter_io.hub import Hub, HubConfig
from tests.plugins.nfilter_io.hub_mirror import Mirror, serving

pytest.importorskip("datasets")


def lines(rows: range, add: int = 1) -> bytes:
    made = [json.dumps({"question": f"{n}+{add}", "answer": str(n + add)}) for n in rows]
    return ("\n".join(made) + "\n").encode()


def folder(tmp_path: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    return tmp_path


FILES = {"data/train-0.jsonl": lines(range(300)), "data/test-0.jsonl": lines(range(3), 2)}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def read(base: Path, **settings: Any) -> list[Sample]:
    source = Hub(HubConfig(**settings), base)
    return [row.sample for row in source.read()]  # type: ignore[union-attr]


@pytest.mark.parametrize("streaming", [False, True])
def test_a_folder_in_the_layout_of_the_hub_is_read(tmp_path: Path, *, streaming: bool) -> None:
    folder(tmp_path / "ds", FILES)
    samples = read(tmp_path, path="ds", split="train", streaming=streaming)
    assert [sample.messages[0].content for sample in samples] == [f"{n}+1" for n in range(300)]
    assert samples[-1].response == "300"
    assert len(read(tmp_path, path="ds", split="test", streaming=streaming)) == 3


def test_a_split_has_to_be_named_where_there_are_several(tmp_path: Path) -> None:
    folder(tmp_path / "ds", FILES)
    with pytest.raises(SourceError, match=r"ds: has several splits.*type `split: "):
        read(tmp_path, path="ds")
    with pytest.raises(SourceError, match=r"has no split 'dev'.*Splits found: 'train', 'test'"):
        read(tmp_path, path="ds", split="dev")


def test_names_of_classes_come_from_the_schema(tmp_path: Path) -> None:
    card = (
        "---\ndataset_info:\n  features:\n  - name: text\n    dtype: string\n  - name: label\n    dtype:\n      class_label:\n"
        "        names:\n          '0': bad\n          '1': good\n---\n"
    )
    rows = "\n".join(json.dumps({"text": f"t{n}", "label": n % 2}) for n in range(40))
    folder(tmp_path / "ds", {"README.md": card.encode(), "train.jsonl": rows.encode()})
    samples = read(tmp_path, path="ds", split="train")
    assert [sample.response for sample in samples[:2]] == ["bad", "good"]


@pytest.mark.parametrize(
    "name", ["pandas", "json", "a/b/c", "../x", "https://example.org/x", "o/n?x"]
)
def test_only_a_name_of_the_hub_or_a_folder_is_taken(tmp_path: Path, name: str) -> None:
    # A bare name would be a builder of the library; that of pandas opens pickles.
    (problem,) = Hub.problems(HubConfig(path=name), tmp_path)
    assert "neither a local folder nor the OWNER/NAME" in problem


def test_code_of_a_dataset_is_not_run(tmp_path: Path) -> None:
    trap = f"open({str(tmp_path / 'ran')!r}, 'w').write('x')\n"
    folder(tmp_path / "ds", {"ds.py": trap.encode(), **FILES})
    with pytest.raises(SourceError, match="cannot be loaded"):
        read(tmp_path, path="ds", split="train")
    assert not (tmp_path / "ran").exists()


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    folder(tmp_path / "ds", {"train.jsonl": b'{"question": "1+1", "ans\n'})
    with pytest.raises(SourceError, match=r"ds: cannot be loaded: .*; check `path`"):
        read(tmp_path, path="ds", split="train")


def test_a_changed_folder_is_other_data(tmp_path: Path) -> None:
    folder(tmp_path / "ds", FILES)
    before = Hub.identity(HubConfig(path="ds"), tmp_path)
    assert Hub.identity(HubConfig(path="ds"), tmp_path) == before
    (tmp_path / "ds" / "data" / "more.jsonl").write_bytes(lines(range(2)))
    assert Hub.identity(HubConfig(path="ds"), tmp_path) != before
    commit = "0123456789abcdef0123456789abcdef01234567"
    assert Hub.identity(HubConfig(path="o/n", revision=commit), tmp_path) == commit


def python(home: Path, url: str, *words: str) -> subprocess.CompletedProcess[str]:
    # HF_ENDPOINT is read when the library is imported.
    env = {**os.environ, "HF_ENDPOINT": url, "HF_HOME": str(home / "hf"), "HF_HUB_OFFLINE": "0"}
    words = (sys.executable, *words)
    return subprocess.run(words, cwd=home, env=env, capture_output=True, text=True, check=False)


def nfilter(home: Path, url: str, *words: str) -> subprocess.CompletedProcess[str]:
    return python(home, url, "-m", "nfilter", *words)


@pytest.mark.types("set `revision` to a commit (40 hexadecimal digits) that was read before")
def test_a_run_reads_from_the_hub_and_notices_a_new_commit(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        "name: h\nsource: {use: hub, path: org/name, split: train}\nsamples: [{use: entp.purge}]\n"
    )
    mirror = Mirror("org/name", {"README.md": b"---\nlicense: mit\n---\n", **FILES})
    with serving(mirror) as url:
        done = nfilter(tmp_path, url, "run", "r.yaml")
        assert done.returncode == 0, done.stderr
        rows = list(read_jsonl(tmp_path / "runs" / "h" / "cleaned.jsonl"))
        assert len(rows) == 300
        assert rows[7]["question"] == "7+1"
        again = nfilter(tmp_path, url, "run", "r.yaml")
        assert "from an earlier run" in again.stdout + again.stderr
        mirror.files["data/train-0.jsonl"] = lines(range(310))
        more = nfilter(tmp_path, url, "run", "r.yaml")
        assert more.returncode == 0, more.stderr
        assert len(list(read_jsonl(tmp_path / "runs" / "h" / "cleaned.jsonl"))) == 310
        commit = mirror.commit
    lost = nfilter(tmp_path, url, "run", "r.yaml")
    assert lost.returncode != 0
    assert re.search(r"org/name: .*(the hub cannot be asked|cannot be loaded)", lost.stderr), (
        lost.stderr
    )
    recipe.write_text(
        recipe.read_text().replace("split: train", f"split: train, revision: {commit}")
    )
    kept = nfilter(tmp_path, url, "run", "r.yaml")
    assert kept.returncode == 0, kept.stderr


@pytest.mark.types("remove the line: code of a dataset is never run")
def test_names_of_other_tools_are_answered(tmp_path: Path) -> None:
    folder(tmp_path / "ds", FILES)
    recipe = tmp_path / "r.yaml"
    start = "name: h\nsource: {use: hub, path: ds, split: train"
    recipe.write_text(start + ", trust_remote_code: true}\n")
    done = nfilter(tmp_path, "http://127.0.0.1:1", "check", "r.yaml")
    assert "remove the line: code of a dataset is never run" in done.stderr
    recipe.write_text(start + "}\n")
    assert nfilter(tmp_path, "http://127.0.0.1:1", "check", "r.yaml").returncode == 0


SHOWN = """
import json
from contextlib import nullcontext
from pathlib import Path
from nfilter_io.hub import Hub, HubConfig

def fetched():
    shown = []

    def progress(total, text):
        steps = []
        shown.append([total, text, steps])
        return nullcontext(type("Bar", (), {"advance": lambda _, n=1: steps.append(n)})())

    Hub.fetch(config, Path(), (), progress)
    return [[total, text, sum(steps)] for total, text, steps in shown]

config = HubConfig(path="org/name", split="train")
first = fetched()
rows = len(list(Hub(config, Path()).read()))
print(json.dumps([first, rows, fetched()]))
"""


def test_the_bytes_of_a_download_are_shown_and_come_once(tmp_path: Path) -> None:
    import huggingface_hub

    if "tqdm_class" not in inspect.signature(huggingface_hub.hf_hub_download).parameters:
        pytest.skip("this version tells nothing of the progress of a file")
    files = {"data/train-0.jsonl": lines(range(3000)), "data/test-0.jsonl": lines(range(3), 2)}
    mirror = Mirror("org/name", {"README.md": b"---\nlicense: mit\n---\n", **files})
    with serving(mirror) as url:
        done = python(tmp_path, url, "-c", SHOWN)
    assert done.returncode == 0, done.stderr
    first, rows, again = json.loads(done.stdout)
    total = sum(map(len, files.values()))
    assert first == [[total, "org/name from the hub", total]]
    assert (rows, again) == (3000, [])
    got = [path for path in mirror.asked if path.startswith("GET") and "train-0" in path]
    assert len(got) == 1, got


def test_what_fails_in_a_download_is_named_once(tmp_path: Path) -> None:
    failed = python(tmp_path, "http://127.0.0.1:1", "-c", SHOWN)
    assert failed.returncode != 0
    assert "nfilter.api.errors.SourceError: org/name: cannot be loaded: " in failed.stderr
