"""Choose the number format of weights on a CPU: bfloat16 if this processor is much faster with it.

The speed is measured on a product of the size of the model's layers, because the instruction set alone predicts little: with
bfloat16 instructions it is two to four times as fast, without them several times slower. The result is cached in the same
folder as the digests of files, so that a resumed run has the same format.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nfilter_hf.cached_values import recall, remember
from nfilter_hf.fingerprint import default_digests
from nfilter_hf.memory import Sizes, sizes_of

SMALLEST = 20_000_000
"""Models with fewer parameters stay in float32: they gain little, and rounding affects them more."""
MARGIN = 1.5
"""The minimum speedup of bfloat16 for choosing it."""
_TOKENS = 256
_ROUNDS = 7

Measure = Callable[[int, int], float]
"""From the input and output size of a linear layer to the speedup of bfloat16 over float32."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A number format, and the reason as text."""

    dtype: str
    reason: str


def cpu_format(
    settings: Mapping[str, Any] | None,
    measure: Measure | None = None,
    cache_file: Path | None = None,
) -> Choice:
    """Return the format for a model with this config.json on this machine's CPU.

    ``cache_file`` is a file with earlier measurements by processor, torch version and sizes; ``measure`` makes new ones.
    """
    sizes = sizes_of(settings) if settings is not None else None
    if sizes is None:
        return Choice("float32", "float32: the sizes of this model's layers are unknown")
    if sizes.parameters < SMALLEST:
        return Choice(
            "float32",
            f"float32: bfloat16 is not faster for a model of {sizes.parameters / 1e6:.1f} million parameters",
        )
    times = _times(sizes, measure or measured, cache_file or formats_file())
    chosen = "bfloat16" if times >= MARGIN else "float32"
    return Choice(
        chosen,
        f"{chosen}: on this processor bfloat16 computes the products of this model's layers at {times:.1f} times the speed "
        f"of float32 (it is used from {MARGIN} on; `dtype` of the model overrides it)",
    )


def measured(inputs: int, outputs: int) -> float:
    """Return the speedup of bfloat16 over float32 in a product with a weight of these sizes, on one thread.

    It uses the minimum processor time of several alternating rounds, which excludes other load of the machine.
    """
    import torch
    from torch.nn.functional import linear

    threads = torch.get_num_threads()
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(_TOKENS, inputs, generator=generator)
    weight = torch.randn(outputs, inputs, generator=generator)
    best: dict[torch.dtype, float] = {}
    torch.set_num_threads(1)
    try:
        for dtype in (torch.float32, torch.bfloat16) * _ROUNDS:
            one, other = x.to(dtype), weight.to(dtype)
            linear(one, other)
            began = time.thread_time()
            for _ in range(3):
                linear(one, other)
            spent = time.thread_time() - began
            best[dtype] = min(spent, best.get(dtype, spent))
    finally:
        torch.set_num_threads(threads)
    return best[torch.float32] / max(best[torch.bfloat16], 1e-9)


def formats_file() -> Path:
    """Return the file that caches measurements."""
    return default_digests().with_name("formats.json")


def _times(sizes: Sizes, measure: Measure, file: Path) -> float:
    import torch

    key = f"{_processor()}|torch {torch.__version__}|{sizes.hidden}x{sizes.inner}"
    cached = recall(file).items()
    known = {name: float(value) for name, value in cached if isinstance(value, int | float)}
    if key not in known:
        known = {**known, key: round(measure(sizes.hidden, sizes.inner), 2)}
        remember(file, known)
    return known[key]


def _processor() -> str:
    # The kernel's flags name the instruction set, which "model name" alone may not determine.
    import torch

    name = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    native = "bf16" if _native() else "no bf16"
    return f"{name} {torch.backends.cpu.get_cpu_capability()} {native}"


def _native() -> bool:
    try:
        words = Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("\n\n")[0].split()
    except OSError:
        return False
    return bool({"avx512_bf16", "amx_bf16", "avx_ne_convert", "bf16"} & set(words))
