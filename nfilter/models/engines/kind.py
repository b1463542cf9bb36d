"""An inference engine as its plugin describes it."""

from __future__ import annotations

from dataclasses import dataclass, field

from nfilter.models.engines.adapters import AdapterSupport


@dataclass(frozen=True, slots=True)
class EngineKind:
    """An inference engine, for all of its models.

    Attributes:
        name: The name of the backend, of the engine's package on the index, and of nfilter's extra.
        label: The engine's name in messages.
        least: The oldest version whose interface is known to fit.
        reader: The name of the backend that encodes requests and decodes answers for it (``EncodesRequests``). Messages name it
            for what the engine does not do.
        adapters: What the engine applies of adapters.
    """

    name: str
    label: str
    least: tuple[int, ...]
    reader: str
    adapters: AdapterSupport = field(default_factory=AdapterSupport)
