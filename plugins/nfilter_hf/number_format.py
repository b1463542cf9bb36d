"""The number format of weights on a CPU where none is named: bfloat16 where this processor is much faster with it.

It is measured, on a product of the size that the model's own layers make, since what a processor promises says little:
with instructions for bfloat16 it is two to four times as fast, without them several times slower. The answer is kept
beside the digests of files, so that a run that goes on finds the format that it began with.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nfilter_hf.fingerprint import default_digests
from nfilter_hf.memory import Sizes, sizes_of
from nfilter_hf.remembered import recall, remember

SMALLEST = 20_000_000
"""Parameters under which a model stays in float32: there is little to gain, and small models feel the rounding."""
MARGIN = 1.5
"""How many times as fast bfloat16 has to be."""
_TOKENS = 256
_ROUNDS = 7

Measure = Callable[[int, int], float]
"""From the two sizes of a linear layer to how many times as fast as float32 bfloat16 is."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A number format, and why it was chosen, for people."""

    dtype: str
    reason: str


def cpu_format(
    settings: Mapping[str, Any] | None,
    measure: Measure | None = None,
    remembered: Path | None = None,
) -> Choice:
    """The format for a model with this config.json on this machine's CPU.

    ``remembered`` is a file that holds earlier measurements, by processor, torch and sizes; ``measure`` makes new ones.
    """
    sizes = sizes_of(settings) if settings is not None else None
    if sizes is None:
        return Choice("float32", "float32: the sizes of this model's layers are not known")
    if sizes.parameters < SMALLEST:
        return Choice(
            "float32",
            f"float32: a model of {sizes.parameters / 1e6:.1f} million parameters is small",
        )
    times = _times(sizes, measure or measured, remembered or remembered_formats())
    chosen = "bfloat16" if times >= MARGIN else "float32"
    return Choice(
        chosen,
        f"{chosen}: on this processor bfloat16 does the products of this model's layers at {times:.1f} times the speed "
        f"of float32 (it is taken from {MARGIN} on; `dtype` of the model overrides it)",
    )


def measured(inputs: int, outputs: int) -> float:
    """How many times as fast as float32 bfloat16 is in a product with a weight of these sizes, on one thread.

    Processor time, the least of several rounds that alternate: what else runs on the machine is left out.
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


def remembered_formats() -> Path:
    """Where measurements are kept between runs."""
    return default_digests().with_name("formats.json")


def _times(sizes: Sizes, measure: Measure, file: Path) -> float:
    import torch

    key = f"{_processor()}|torch {torch.__version__}|{sizes.hidden}x{sizes.inner}"
    found = recall(file).items()
    known = {name: float(value) for name, value in found if isinstance(value, int | float)}
    if key not in known:
        known = {**known, key: round(measure(sizes.hidden, sizes.inner), 2)}
        remember(file, known)
    return known[key]


def _processor() -> str:
    # What the kernel says of the first processor names its instructions, which "model name" alone may not.
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
