"""Putting an adapter on shared weights, and giving the weights back exactly as they were."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nfilter import ModelError, ModelRef

_NAME = "nfilter"
_WEIGHTS = "adapter_model.safetensors"
_Saved = list[tuple[Any, dict[str, Any], dict[str, Any]]]


class Snapshot:
    """What a module tree is made of: its children, parameters, hooks, flags and configuration.

    ``restore`` puts all of it back, whatever was wrapped, injected, hooked, frozen or cast since. Values that were
    written into a parameter in place are not undone.
    """

    def __init__(self, module: Any) -> None:
        self._objects = [_save(child) for child in module.modules()]
        configs = [getattr(module, "config", None), getattr(module, "generation_config", None)]
        self._objects += [_save(config) for config in configs if config is not None]
        self._parameters = [(p, p.data, p.requires_grad, p.grad) for p in module.parameters()]

    def restore(self) -> None:
        """Make the tree what it was."""
        for thing, attributes, contents in self._objects:
            thing.__dict__.clear()
            thing.__dict__.update(attributes)
            for key, content in contents.items():
                # In place: handles of hooks refer to the dictionary that they were put into.
                attributes[key].clear()
                attributes[key].update(content)
        for parameter, data, wanted, grad in self._parameters:
            if parameter.dtype != data.dtype or parameter.data_ptr() != data.data_ptr():
                parameter.data = data
            parameter.requires_grad_(wanted)
            parameter.grad = grad


def _save(thing: Any) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    attributes = dict(thing.__dict__)
    contents = {k: v.copy() for k, v in attributes.items() if isinstance(v, dict | set)}
    return thing, attributes, contents


@contextmanager
def scoped(module: Any, start: Snapshot | None = None) -> Iterator[None]:
    """Give ``module`` back as it is now, however the scope ends. With ``start``, it begins as that."""
    before = Snapshot(module)
    try:
        if start is not None:
            start.restore()
        yield
    finally:
        before.restore()


def attach(module: Any, ref: ModelRef) -> None:
    """Put the adapter of ``ref`` on ``module``, in place. Raises ModelError where it does not fit."""
    import torch
    from peft import PeftConfig, inject_adapter_in_model, set_peft_model_state_dict
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = _folder(ref)
    try:
        config = PeftConfig.from_pretrained(str(folder))
        weights = load_file(str(folder / _WEIGHTS))
    except (ValueError, TypeError, KeyError, OSError, SafetensorError) as error:
        raise ModelError(f"the adapter in {folder} cannot be read: {error}") from error
    config.inference_mode = True
    prefix = "base_model.model."
    weights = {key.removeprefix(prefix): value for key, value in weights.items()}
    try:
        # The first values are drawn and then replaced; the caller's generator stays where it was.
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


def _folder(ref: ModelRef) -> Path:
    folder = Path(ref.path)
    if ref.kind != "adapter":
        raise ModelError(
            f"{folder} holds whole weights, not an adapter: name it as a model of its own, "
            f"models: {{NAME: {{use: hf, model: {folder}}}}}"
        )
    if not (folder / "adapter_config.json").is_file():
        raise ModelError(
            f"{folder} holds no adapter_config.json; give the folder that training wrote"
        )
    try:
        json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{folder / 'adapter_config.json'} is not JSON: {error}") from error
    if not (folder / _WEIGHTS).is_file():
        raise ModelError(
            f"{folder} holds no {_WEIGHTS}; pickled adapters are never loaded: save it again as safetensors"
        )
    return folder
