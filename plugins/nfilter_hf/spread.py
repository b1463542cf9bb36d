"""Generation and scoring by all processes of a launch: each takes its share of the rows, with its own copy of the model.

Rank 0 calls ``stream_spread``, ``score_spread`` and ``adapted_everywhere``; the others answer with ``Backends``.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from nfilter import (
    Completion,
    FloatArray,
    ModelError,
    ModelRef,
    Request,
    Site,
    TokenSample,
)
from nfilter_hf.lora.adapter import CONFIG_FILE, WEIGHTS_FILE
from nfilter_hf.lora.data import share_out
from nfilter_hf.lora.distributed import Handler, Launch, Payload, current

if TYPE_CHECKING:
    from nfilter_hf.backend import HFBackend

Answer = Callable[[Sequence[Request]], "list[Completion]"]
Score = Callable[[Sequence[TokenSample]], "list[FloatArray]"]

_GENERATE: Final = "generate"
_SCORE: Final = "score"
_ADAPTER_ON: Final = "adapter on"
_ADAPTER_OFF: Final = "adapter off"
_SLICE: Final = 256
"""Requests per process between two answers: what a kill costs at most."""


def stream_spread(
    launch: Launch, model: Mapping[str, Any], requests: Sequence[Request], answer: Answer
) -> Iterator[tuple[int, Completion]]:
    """Completions with their requests' indices; ``answer`` gives those of this process's share of a slice.

    ``model`` is what ``Backends`` finds the model by.
    """
    for start in range(0, len(requests), _SLICE * launch.size):
        part = requests[start : start + _SLICE * launch.size]
        launch.send_job(
            _GENERATE, {"model": model, "requests": [request.packed() for request in part]}
        )
        for values, _ in launch.together(partial(_answers, launch, part, answer)):
            for index, found in values["answers"]:
                yield start + index, Completion.unpacked(found)


def _answers(launch: Launch, requests: Sequence[Request], answer: Answer) -> Payload:
    # Requests come longest first: one of each in turn makes shares of like size.
    share = range(launch.rank, len(requests), launch.size)
    found = answer([requests[index] for index in share])
    plain = [[index, each.packed()] for index, each in zip(share, found, strict=True)]
    return {"answers": plain}, {}


def score_spread(
    launch: Launch, model: Mapping[str, Any], samples: Sequence[TokenSample], score: Score
) -> list[FloatArray]:
    """Losses float32 [T] of each sample; ``score`` gives those of this process's share."""
    import torch

    arrays = {
        "lengths": np.array([len(sample.ids) for sample in samples], dtype=np.int64),
        "ids": _joined([sample.ids for sample in samples], np.int64),
        "response": _joined([sample.response for sample in samples], np.bool_),
    }
    values = {"model": model, "names": [sample.id for sample in samples]}
    launch.send_job(_SCORE, values, {name: torch.from_numpy(a) for name, a in arrays.items()})
    found = launch.together(lambda: _losses(launch, samples, score))
    owners = share_out([len(sample.ids) for sample in samples], launch.size)
    taken = [0] * launch.size
    losses: list[FloatArray] = []
    for sample, owner in zip(samples, owners, strict=True):
        end = taken[owner] + len(sample.ids)
        losses.append(found[owner][1]["losses"][taken[owner] : end].numpy())
        taken[owner] = end
    return losses


def _losses(launch: Launch, samples: Sequence[TokenSample], score: Score) -> Payload:
    import torch

    owners = share_out([len(sample.ids) for sample in samples], launch.size)
    share = [each for each, owner in zip(samples, owners, strict=True) if owner == launch.rank]
    return {}, {"losses": torch.from_numpy(_joined(score(share) if share else [], np.float32))}


@contextmanager
def adapted_everywhere(launch: Launch, model: Mapping[str, Any], ref: ModelRef) -> Iterator[None]:
    """Put the adapter ``ref``, which this process has on already, on the other processes' model for the scope."""
    import torch

    files = {name: (Path(ref.path) / name).read_bytes() for name in (CONFIG_FILE, WEIGHTS_FILE)}
    arrays = {name: torch.frombuffer(bytearray(d), dtype=torch.uint8) for name, d in files.items()}
    launch.send_job(_ADAPTER_ON, {"model": model, "base": ref.base, "digest": ref.digest}, arrays)
    launch.together(lambda: ({}, {}))
    try:
        yield
    finally:
        launch.send_job(_ADAPTER_OFF, {"model": model})


class Backends:
    """The local models of a process that is not the first; each is built at the first job that names it."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._built: dict[str, HFBackend] = {}
        self._scopes: list[ExitStack] = []

    def of(self, model: Mapping[str, Any]) -> HFBackend:
        """The model that rank 0 names. Its weights load at their first use."""
        from nfilter_hf.backend import HFBackend
        from nfilter_hf.config import HFConfig

        key = repr(sorted(model["config"].items()))
        if key not in self._built:
            self._built[key] = HFBackend(HFConfig.model_validate(model["config"]), self._site)
        return self._built[key]

    def handlers(self) -> dict[str, Handler]:
        """What to do by the name of a job."""
        return {
            _GENERATE: self._generate,
            _SCORE: self._score,
            _ADAPTER_ON: self._adapter_on,
            _ADAPTER_OFF: self._adapter_off,
        }

    def _same(self, model: Mapping[str, Any]) -> HFBackend:
        """The model that rank 0 names. Raises ModelError where its weights are other ones here."""
        backend = self.of(model)
        if backend.fingerprint() != model["fingerprint"]:
            raise ModelError(
                f"{model['config']['model']} is another model here than in the first process: give every machine the "
                "same weights, in the same number format"
            )
        return backend

    def _generate(self, values: dict[str, Any], _: dict[str, Any]) -> None:
        launch = current()
        requests = [Request.unpacked(value) for value in values["requests"]]
        launch.together(
            lambda: _answers(launch, requests, self._same(values["model"]).generate_here)
        )

    def _score(self, values: dict[str, Any], arrays: dict[str, Any]) -> None:
        launch = current()
        ends = np.cumsum(arrays["lengths"].numpy())[:-1]
        parts = [np.split(arrays[name].numpy(), ends) for name in ("ids", "response")]
        samples = [_sample(*each) for each in zip(values["names"], *parts, strict=True)]
        launch.together(lambda: _losses(launch, samples, self._same(values["model"]).score_here))

    def _adapter_on(self, values: dict[str, Any], arrays: dict[str, Any]) -> None:
        scopes = ExitStack()

        def attach() -> Payload:
            folder = Path(scopes.enter_context(tempfile.TemporaryDirectory()))
            for name, data in arrays.items():
                (folder / name).write_bytes(data.numpy().tobytes())
            ref = ModelRef(str(folder), "adapter", values["base"], values["digest"])
            scopes.enter_context(self._same(values["model"]).adapted_here(ref))
            return {}, {}

        with scopes:
            current().together(attach)
            self._scopes.append(scopes.pop_all())

    def _adapter_off(self, values: dict[str, Any], _: dict[str, Any]) -> None:
        self._scopes.pop().close()


def _joined(arrays: Sequence[Any], kind: Any) -> Any:
    return np.concatenate([np.zeros(0, kind), *(np.asarray(array, kind) for array in arrays)])


def _sample(name: str, ids: Any, response: Any) -> TokenSample:
    """What scoring reads of a sample."""
    return TokenSample(
        id=name,
        ids=ids,
        response=response,
        turn=np.zeros(len(ids), dtype=np.int16),
        spans=np.zeros((len(ids), 2), dtype=np.int32),
        weights=np.zeros(len(ids), dtype=np.float32),
    )
