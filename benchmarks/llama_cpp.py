"""llama.cpp as a way of ``model_speed.py``: its server inside a Python of its own, which has ``xllamacpp`` (wheels of llama.cpp).

    python3 -m venv llama && llama/bin/pip install xllamacpp
    python -m benchmarks.model_speed --model model.gguf ... --ways nfilter llama.cpp --llama-python llama/bin/python

As a script it answers lines of JSON on standard input: a list of prompts as token ids, all at once, with llama.cpp's continuous
batching; per line it prints the tokens generated, and the seconds of processor time and of wall time.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any


def serve(settings: dict[str, Any]) -> None:
    """Answer the lines of standard input with a model."""
    import xllamacpp  # type: ignore[import-not-found]

    params = xllamacpp.CommonParams()
    params.model.path = settings["model"]
    for pool in (params.cpuparams, params.cpuparams_batch):
        pool.n_threads = settings["threads"]
        # Threads that wait do not spin: processor time is measured.
        pool.poll = 0
    params.n_parallel = settings["parallel"]
    params.n_ctx = settings["parallel"] * settings["context"]
    params.cache_prompt = False
    params.cache_ram_mib = 0
    params.n_gpu_layers = 0
    params.warmup = True
    params.verbosity = 0
    server = xllamacpp.Server(params)
    print(json.dumps({"build": str(xllamacpp.BUILD_INFO)}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        wall, work = time.perf_counter(), time.process_time()
        # One call per prompt: a call with several reports the tokens of the first alone.
        calls = [
            {"prompt": ids, "max_tokens": asked["new"], "temperature": 0.0, "cache_prompt": False}
            for ids in asked["prompts"]
        ]
        with ThreadPoolExecutor(len(calls)) as threads:
            found = list(threads.map(server.handle_completions, calls))
        work, wall = time.process_time() - work, time.perf_counter() - wall
        tokens = sum(each["usage"]["completion_tokens"] for each in found)
        print(json.dumps({"tokens": tokens, "work": work, "wall": wall}), flush=True)


class LlamaCpp:
    """The script in its own process, with a model; each call answers the same prompts."""

    def __init__(
        self, python: Path, model: Path, prompts: list[list[int]], *, new: int, threads: int
    ) -> None:
        context = max(map(len, prompts)) + new + 8
        settings = {"model": str(model), "threads": threads, "parallel": len(prompts), "context": context}  # fmt: skip
        self._process = subprocess.Popen(
            [str(python), __file__, json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._asked = json.dumps({"prompts": prompts, "new": new}) + "\n"
        self.build = self._line()["build"]

    def run(self) -> tuple[int, float, float]:
        """Return the tokens generated, and the seconds of processor time and of wall time."""
        assert self._process.stdin is not None
        self._process.stdin.write(self._asked)
        self._process.stdin.flush()
        done = self._line()
        return done["tokens"], done["work"], done["wall"]

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()

    def _line(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                return dict(json.loads(line))
        raise RuntimeError("llama.cpp has ended; what it said is on standard error")


def unpacked(model: Path, folder: Path) -> Path:
    """Write a GGUF file with the same weights in bfloat16, which is how nfilter computes with them."""
    import numpy as np
    from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter, LlamaFileType
    from gguf.quants import dequantize, quantize

    reader = GGUFReader(model)
    architecture = reader.fields["general.architecture"].contents()
    out = folder / f"{model.stem}.bf16.gguf"
    writer = GGUFWriter(out, architecture)
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        value = LlamaFileType.MOSTLY_BF16 if name == "general.file_type" else field.contents()
        inner = field.types[-1] if field.types[0] == GGUFValueType.ARRAY else None
        writer.add_key_value(name, value, field.types[0], sub_type=inner)
    for tensor in reader.tensors:
        values = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        if values.ndim < 2:
            writer.add_tensor(tensor.name, values)
        else:
            kind = GGMLQuantizationType.BF16
            writer.add_tensor(tensor.name, quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out


if __name__ == "__main__":
    serve(json.loads(sys.argv[1]))
