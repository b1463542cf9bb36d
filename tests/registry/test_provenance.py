"""Which code a result was made by: every file of the package counts, and nothing beside it."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import nfilter_hf.lora.trainer
from nfilter.registry import provenance
from nfilter.registry.loading import load
from nfilter.registry.provenance import backend_code, code_of, core_code

Digest = Callable[[], str]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package with a module of its own inside a package, imported."""
    root = tmp_path / "madeup"
    (root / "deep").mkdir(parents=True)
    (root / "__init__.py").write_text("")
    (root / "helper.py").write_text("X = 1\n")
    (root / "table.json").write_text("{}")
    (root / "deep" / "__init__.py").write_text("")
    (root / "deep" / "stage.py").write_text("class Stage:\n    pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield root
    for name in [name for name in sys.modules if name.partition(".")[0] == "madeup"]:
        del sys.modules[name]


@pytest.fixture
def digest(package: Path) -> Digest:
    cls = importlib.import_module("madeup.deep.stage").Stage

    def now() -> str:
        provenance._tree.cache_clear()
        return code_of(cls)

    return now


def test_every_file_of_the_package_counts(package: Path, digest: Digest) -> None:
    seen = {digest()}
    for name, text in (
        ("helper.py", "X = 2\n"), ("table.json", "[]"), ("deep/stage.py", "class Stage:\n    x = 1\n"), ("new.txt", ""),
    ):  # fmt: skip
        (package / name).write_text(text)
        seen.add(digest())
    (package / "new.txt").rename(package / "other.txt")
    seen.add(digest())
    (package / "other.txt").unlink()
    seen.add(digest())
    assert len(seen) == 6  # the last is the third again


def test_what_python_compiled_and_what_lies_beside_do_not_count(
    package: Path, digest: Digest
) -> None:
    before = digest()
    (package / "__pycache__").mkdir(exist_ok=True)
    (package / "__pycache__" / "helper.cpython-311.pyc").write_bytes(b"x")
    (package / ".hidden").write_text("x")
    (package.parent / "beside.py").write_text("x")
    assert digest() == before


def test_a_package_is_read_once_a_process(package: Path, digest: Digest) -> None:
    before = digest()
    (package / "helper.py").write_text("X = 3\n")
    assert code_of(sys.modules["madeup.deep.stage"].Stage) == before


def test_a_module_without_a_package_counts_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lonely_plugin.py").write_text("class Stage:\n    pass\n")
    (tmp_path / "other.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    cls = importlib.import_module("lonely_plugin").Stage
    before = code_of(cls)
    (tmp_path / "other.py").write_text("x = 1")
    provenance._tree.cache_clear()
    assert code_of(cls) == before
    (tmp_path / "lonely_plugin.py").write_text("class Stage:\n    x = 1\n")
    provenance._tree.cache_clear()
    assert code_of(cls) != before
    del sys.modules["lonely_plugin"]


def test_a_class_without_a_file_has_the_digest_of_nothing() -> None:
    made = type("Made", (), {"__module__": "nowhere"})
    assert code_of(made) == code_of(type("Other", (), {"__module__": "elsewhere"}))


def test_plugins_that_ship_have_digests_of_their_own() -> None:
    plugins = load()
    codes = {item.plugin: item.code for item in plugins.registered.values()}
    assert len(set(codes.values())) == len(codes) > 8
    assert codes["nfilter_hf"] == code_of(nfilter_hf.lora.trainer.LoraTrainer)


def test_pages_and_screens_are_no_part_of_the_core_that_makes_results(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[str] = []
    plain = provenance._digest

    def noting(files: Any) -> str:
        pairs = list(files)
        seen.extend(name for name, _ in pairs)
        return plain(pairs)

    monkeypatch.setattr(provenance, "_digest", noting)
    core_code.cache_clear()
    core_code()
    core_code.cache_clear()
    assert {"engine/samples.py", "api/types.py", "answers/number.py", "__init__.py"} <= set(seen)
    assert not [name for name in seen if name.startswith(("report/", "testing/", "cli/"))]  # fmt: skip


def test_code_of_the_backends_that_one_is_built_on_counts() -> None:
    class Reader:
        pass

    class Engine:
        built_on = (Reader(),)

    class Around:
        built_on = (Engine(),)

    alone = backend_code(Reader())
    assert alone == code_of(Reader)
    assert len({alone, backend_code(Engine()), backend_code(Around())}) == 3
    assert backend_code(Around()) == backend_code(Around())
