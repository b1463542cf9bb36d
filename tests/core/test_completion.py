"""What a shell completes, asked for as a shell asks: through click, by the environment of the program."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete

from nfilter.cli import main


def completed(*words: str) -> list[str]:
    """The completions of the last word."""
    shell = ShellComplete(main, {}, "nfilter", "_NFILTER_COMPLETE")
    *before, last = words
    return [item.value for item in shell.get_completions(before, last)]


def run_at(path: Path) -> None:
    path.mkdir(parents=True)
    (path / "manifest.json").write_text(json.dumps({}))


def test_formats_of_all_plugins_are_completed() -> None:
    assert completed("export", "runs/a", "--format", "") == [
        "axolotl", "llamafactory", "messages", "spans", "swift", "trl", "trl_dpo"
    ]  # fmt: skip
    assert completed("export", "runs/a", "--format", "tr") == ["trl", "trl_dpo"]


def test_templates_are_completed() -> None:
    assert completed("init", "--template", "quick") == [
        "quickstart", "quickstart-text", "quickstart-tokens"
    ]  # fmt: skip


def test_names_of_stages_and_others_are_completed() -> None:
    assert completed("plugins", "show", "robustft.re") == [
        "robustft.reason", "robustft.relabel", "robustft.review"
    ]  # fmt: skip
    assert "jsonl" in completed("plugins", "show", "js")
    assert completed("plugins", "show", "nothing") == []


@pytest.mark.parametrize("command", ["explain", "audit", "compare", "export"])
def test_run_directories_are_completed_folder_by_folder(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run_at(tmp_path / "runs" / "first")
    run_at(tmp_path / "runs" / "second")
    (tmp_path / "rubbish").mkdir()
    (tmp_path / "runs" / "notes").mkdir()
    assert completed(command, "ru") == ["runs/"]
    assert completed(command, "./ru") == ["./runs/"]
    assert completed(command, "runs/") == ["runs/first", "runs/second"]
    assert completed(command, "runs/s") == ["runs/second"]
    assert completed(command, "nowhere/x") == []


def test_a_name_that_would_steer_the_shell_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run_at(tmp_path / "good")
    run_at(tmp_path / "bad\nrm")
    assert completed("audit", "") == ["good"]
