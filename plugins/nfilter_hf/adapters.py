"""Attach an adapter to shared weights, and restore the module exactly afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from nfilter import ModelError, ModelRef, adapter_files

_NAME = "nfilter"
_WEIGHTS = "adapter_model.safetensors"
_Saved = list[tuple[Any, dict[str, Any], dict[str, Any]]]


class Snapshot:
    """The structure of a module tree: its children, parameters, hooks, flags and configuration.

    ``restore`` undoes all wrapping, injection, hooks, freezing and casts since then, but not values that were written into a
    parameter in place.
    """

    def __init__(self, module: Any) -> None:
        self._objects = [_save(child) for child in module.modules()]
        configs = [getattr(module, "config", None), getattr(module, "generation_config", None)]
        self._objects += [_save(config) for config in configs if config is not None]
        self._parameters = [(p, p.data, p.requires_grad, p.grad) for p in module.parameters()]

    def restore(self) -> None:
        """Return the module tree to the state that was saved."""
        for thing, attributes, contents in self._objects:
            thing.__dict__.clear()
            thing.__dict__.update(attributes)
            for key, content in contents.items():
                # In place, because handles of hooks refer to the dictionary object.
                attributes[key].clear()
                attributes[key].update(content)
        for parameter, data, wanted, grad in self._parameters:
            if parameter.dtype != data.dtype or parameter.data_ptr() != data.data_ptr():
                parameter.data = data
            parameter.requires_grad_(wanted)
            parameter.grad = grad


def _save(thing: Any) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """An object with its attributes, and copies of its dictionaries and sets."""
    attributes = dict(thing.__dict__)
    contents = {k: v.copy() for k, v in attributes.items() if isinstance(v, dict | set)}
    return thing, attributes, contents


@contextmanager
def scoped(module: Any, start: Snapshot | None = None) -> Iterator[None]:
    """Restore ``module`` to its present state when the scope ends. With ``start``, set it to that state first."""
    before = Snapshot(module)
    try:
        if start is not None:
            start.restore()
        yield
    finally:
        before.restore()


def attach(module: Any, ref: ModelRef) -> None:
    """Attach the adapter of ``ref`` to ``module``, in place.

    Raises:
        ModelError: if the adapter cannot be read or does not fit.
    """
    import torch
    from peft import PeftConfig, inject_adapter_in_model, set_peft_model_state_dict
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder, _ = adapter_files(ref)
    try:
        config = PeftConfig.from_pretrained(str(folder))
        weights = load_file(str(folder / _WEIGHTS))
    except (ValueError, TypeError, KeyError, OSError, SafetensorError) as error:
        raise ModelError(f"the adapter in {folder} cannot be read: {error}") from error
    config.inference_mode = True
    prefix = "base_model.model."
    weights = {key.removeprefix(prefix): value for key, value in weights.items()}
    try:
        # The initial values are random and then replaced; the caller's generator must not change.
        device = next(module.parameters()).device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            inject_adapter_in_model(config, module, adapter_name=_NAME)
        loaded = set_peft_model_state_dict(module, weights, adapter_name=_NAME)
    except (ValueError, RuntimeError, KeyError, AttributeError) as error:
        raise ModelError(
            f"the adapter in {folder} does not fit this model: {error}; use the base that it was trained on, {ref.base}"
        ) from error
    missing = [key for key in getattr(loaded, "missing_keys", ()) if f".{_NAME}." in key]
    unknown = list(getattr(loaded, "unexpected_keys", ()))
    if missing or unknown:
        raise ModelError(
            f"the adapter in {folder} does not fit this model ({len(missing)} tensors missing, {len(unknown)} unknown, "
            f"such as {(missing + unknown)[0]}); use the base that it was trained on, {ref.base}"
        )
    module.eval()
