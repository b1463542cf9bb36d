"""Which number format a CPU takes for a model, and that the answer stays."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from nfilter import Site
from nfilter_hf import backend as backend_module
from nfilter_hf import number_format
from nfilter_hf.backend import HFBackend
from nfilter_hf.number_format import cpu_format, measured

LARGE = {
    "model_type": "llama", "hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9,
    "num_key_value_heads": 3, "num_hidden_layers": 30, "vocab_size": 49152, "tie_word_embeddings": True,
}  # fmt: skip


def says(times: float) -> Callable[[int, int], float]:
    return lambda _inputs, _outputs: times


@pytest.mark.parametrize(
    ("times", "wanted"), [(4.4, "bfloat16"), (1.5, "bfloat16"), (1.49, "float32"), (0.2, "float32")]
)
def test_it_takes_what_is_faster_by_a_clear_margin(
    tmp_path: Path, times: float, wanted: str
) -> None:
    choice = cpu_format(LARGE, says(times), tmp_path / "formats.json")
    assert choice.dtype == wanted
    assert choice.reason.startswith(f"{wanted}: ")
    assert f"{times:.1f} times the speed" in choice.reason


def test_a_small_model_and_an_unknown_one_stay_in_float32_unmeasured(tmp_path: Path) -> None:
    def never(_inputs: int, _outputs: int) -> float:
        raise AssertionError

    small = {**LARGE, "hidden_size": 144, "intermediate_size": 256, "vocab_size": 500}
    choice = cpu_format(small, never, tmp_path / "formats.json")
    assert choice.dtype == "float32"
    assert "bfloat16 is not faster for a model of" in choice.reason
    for settings in (None, {"model_type": "mamba"}):
        assert cpu_format(settings, never, tmp_path / "formats.json").dtype == "float32"


def test_a_measurement_is_remembered_by_sizes(tmp_path: Path) -> None:
    asked: list[tuple[int, int]] = []

    def once(inputs: int, outputs: int) -> float:
        asked.append((inputs, outputs))
        return 3.0 if len(asked) == 1 else 0.5

    file = tmp_path / "new" / "formats.json"
    first = cpu_format(LARGE, once, file)
    assert cpu_format(LARGE, once, file) == first
    assert asked == [(576, 1536)]
    other = cpu_format({**LARGE, "intermediate_size": 2048}, once, file)
    assert (other.dtype, asked[-1]) == ("float32", (576, 2048))
    assert sorted(json.loads(file.read_text()).values()) == [0.5, 3.0]


@pytest.mark.parametrize("content", ["", "[1]", "{"])
def test_a_damaged_memory_is_measured_anew(tmp_path: Path, content: str) -> None:
    file = tmp_path / "formats.json"
    file.write_text(content)
    assert cpu_format(LARGE, says(2.0), file).dtype == "bfloat16"
    assert list(json.loads(file.read_text()).values()) == [2.0]


def test_a_memory_that_cannot_be_written_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert cpu_format(LARGE, says(2.0), tmp_path / "file" / "formats.json").dtype == "bfloat16"


def test_it_measures_and_leaves_the_threads_as_they_are() -> None:
    before, state = torch.get_num_threads(), torch.get_rng_state()
    assert measured(64, 96) > 0
    assert torch.get_num_threads() == before
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("faster", [True, False])
def test_a_backend_loads_and_records_what_was_chosen(
    checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, faster: bool
) -> None:
    monkeypatch.setattr(number_format, "SMALLEST", 0)
    monkeypatch.setattr(
        backend_module,
        "cpu_format",
        lambda found: cpu_format(found, says(2.0 if faster else 1.0), tmp_path / "formats.json"),
    )
    folder = checkpoint()

    def opened(**more: Any) -> HFBackend:
        config = HFBackend.Config(model=str(folder), device="cpu", **more)
        return HFBackend(config, Site(base_dir=tmp_path))

    auto = opened()
    named = opened(dtype="bfloat16" if faster else "float32")
    other = opened(dtype="float32" if faster else "bfloat16")
    with auto.lend() as lent:
        wanted = torch.bfloat16 if faster else torch.float32
        assert {p.dtype for p in lent.module.parameters()} == {wanted}
        assert "times the speed" in str(lent.format_reason)
    # A model whose format is named as it was chosen is the same model.
    assert auto.fingerprint() == named.fingerprint() != other.fingerprint()
    with named.lend() as lent:
        assert lent.format_reason is None
