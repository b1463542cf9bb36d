"""Adapters over shared weights, lending, and that both leave no trace."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nfilter import Message, ModelError, ModelRef, Request, Sample, Sampling

# PEFT reads an attribute that transformers has renamed.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"
)

REQUESTS = [
    Request((Message("user", text),), Sampling(max_tokens=8), logprobs=True)
    for text in ("what", "red , green", "a")
]


def make_adapter(base: Path, out: Path, seed: int, **config: Any) -> ModelRef:
    """An adapter made with PEFT alone, both of its matrices random."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    module = AutoModelForCausalLM.from_pretrained(base)
    settings = {
        "r": 4,
        "lora_alpha": 8,
        "target_modules": ["q_proj", "v_proj", "down_proj"],
        **config,
    }
    wrapped = get_peft_model(module, LoraConfig(task_type="CAUSAL_LM", **settings))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    wrapped.save_pretrained(out, save_embedding_layers=False)
    return ModelRef(str(out), "adapter", str(base), "0" * 64)


@pytest.fixture(scope="module")
def refs(checkpoint: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelRef, ModelRef]:
    folder = tmp_path_factory.mktemp("adapters")
    return (
        make_adapter(checkpoint(), folder / "a", 1),
        make_adapter(
            checkpoint(), folder / "b", 2, r=2, target_modules=["q_proj", "o_proj", "lm_head"]
        ),
    )


def state(module: Any) -> dict[str, Any]:
    return {
        "weights": {name: (t.data_ptr(), t.clone()) for name, t in module.state_dict().items()},
        "modules": {name: (id(child), type(child)) for name, child in module.named_modules()},
        "grads": {name: (p.requires_grad, p.grad) for name, p in module.named_parameters()},
        "training": {name: child.training for name, child in module.named_modules()},
        "attributes": {name: sorted(vars(child)) for name, child in module.named_modules()},
        "hooks": {
            name: [
                len(v)
                for k, v in sorted(vars(child).items())
                if "hook" in k and isinstance(v, dict)
            ]
            for name, child in module.named_modules()
        },
        "config": module.config.to_dict(),
        "generation_config": module.generation_config.to_dict(),
    }


def assert_same(before: dict[str, Any], after: dict[str, Any]) -> None:
    for key, value in before.items():
        assert key == "weights" or after[key] == value, key
    assert list(after["weights"]) == list(before["weights"])
    for name, (pointer, tensor) in before["weights"].items():
        assert after["weights"][name][0] == pointer
        assert torch.equal(after["weights"][name][1], tensor)


def peft_answers(ref: ModelRef, model: Any) -> list[np.ndarray]:
    """Logits of the requests' prompts under PEFT's own loading."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from nfilter_hf.templates.prompts import prompt_ids

    wrapped = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(ref.base), ref.path
    ).eval()
    out = []
    for request in REQUESTS:
        with torch.no_grad():
            logits = (
                wrapped(torch.tensor([prompt_ids(model._load(), request)])).logits[0, -1].double()
            )
        out.append(logits.log_softmax(-1).max().item())
    return out


def first(completions: Any) -> list[float]:
    return [completion.logprobs[0] for completion in completions]


def test_an_adapter_answers_as_in_peft_and_the_base_is_as_before(backend: Any, refs: Any) -> None:
    model = backend()
    base = model.generate(REQUESTS)
    before = state(model._load().module)
    for ref in refs:
        with model.adapted(ref) as adapted:
            got = adapted.generate(REQUESTS)
            assert model.generate(REQUESTS) == got, "the weights are shared while the scope is open"
        np.testing.assert_allclose(first(got), peft_answers(ref, model), atol=1e-5)
        assert max(abs(np.subtract(first(got), first(base)))) > 1e-2
        assert model.generate(REQUESTS) == base
        assert_same(before, state(model._load().module))


def test_scopes_nest_and_do_not_add_up(backend: Any, refs: Any) -> None:
    model = backend()
    base = model.generate(REQUESTS)
    alone = []
    for ref in refs:
        with model.adapted(ref) as adapted:
            alone.append(adapted.generate(REQUESTS))
    before = state(model._load().module)
    with model.adapted(refs[0]) as outer:
        with model.adapted(refs[1]) as inner:
            assert inner.generate(REQUESTS) == alone[1]
        assert outer.generate(REQUESTS) == alone[0]
        with model.adapted(refs[0]) as again:
            assert again.generate(REQUESTS) == alone[0]
        assert outer.generate(REQUESTS) == alone[0]
    assert model.generate(REQUESTS) == base
    assert_same(before, state(model._load().module))


def test_an_error_inside_restores_the_base(backend: Any, refs: Any) -> None:
    model = backend()
    base = model.generate(REQUESTS)
    before = state(model._load().module)
    with pytest.raises(KeyError), model.adapted(refs[0]), model.adapted(refs[1]):
        raise KeyError
    assert_same(before, state(model._load().module))
    assert model.generate(REQUESTS) == base


@pytest.mark.types("use it inside 'with model.adapted(ref) as adapted:'")
def test_an_adapted_model_ends_with_its_scope(backend: Any, refs: Any) -> None:
    with backend().adapted(refs[0]) as adapted:
        pass
    with pytest.raises(ModelError, match="is no longer attached"):
        adapted.generate(REQUESTS)
    with backend().adapted(refs[0]) as adapted:
        assert adapted.generate(REQUESTS)


def test_scores_with_an_adapter(backend: Any, refs: Any) -> None:
    model = backend()
    sample = Sample("a", (Message("user", "what"), Message("assistant", "it is five .")))
    encoded = model.encode([sample], max_length=99, turns="all")
    base = model.score(encoded)[0]
    for ref in refs:
        got = model.score(encoded, adapter=ref)[0]
        with model.adapted(ref) as adapted:
            np.testing.assert_array_equal(adapted.score(encoded)[0], got)
            for other in refs:
                np.testing.assert_array_equal(
                    adapted.score(encoded, other)[0], model.score(encoded, other)[0]
                )
            np.testing.assert_array_equal(adapted.score(encoded)[0], got)
            (again,) = adapted.encode([sample], max_length=99, turns="all")
            np.testing.assert_array_equal(again.ids, encoded[0].ids)
            assert adapted.embed(["a"]).shape == (1, 32)
        assert np.nanmax(abs(got - base)) > 1e-2
    np.testing.assert_array_equal(model.score(encoded)[0], base)


def test_lending_gives_everything_back(backend: Any, refs: Any) -> None:
    from peft import LoraConfig, get_peft_model

    model = backend()
    base = model.generate(REQUESTS)
    before = state(model._load().module)

    def train() -> None:
        with model.lend() as lent:
            module = lent.module
            assert lent.tokenizer.decode(lent.tokenizer("fox")["input_ids"]) == "fox"
            # transformers renamed it.
            enable = getattr(module, "activation_checkpointing_enable", None)
            (enable or module.gradient_checkpointing_enable)()
            module.enable_input_require_grads()
            wrapped = get_peft_model(module, LoraConfig(r=2, target_modules=["q_proj", "up_proj"]))
            wrapped.train()
            module.config.use_cache = False
            module.register_forward_hook(lambda *args: None)
            module.model.layers[0].mlp.gate_proj.weight.requires_grad_(True)
            adapter = [p for name, p in wrapped.named_parameters() if "lora_" in name]
            optimizer = torch.optim.SGD(adapter, lr=1.0)
            for _ in range(2):
                wrapped(torch.tensor([[5, 6, 7]]), labels=torch.tensor([[5, 6, 7]])).loss.backward()
                optimizer.step()
            assert model.generate(REQUESTS) != base, "what is lent is what generates"
            assert module.training, "generating in between leaves train mode on"
            raise InterruptedError

    with pytest.raises(InterruptedError):
        train()
    assert_same(before, state(model._load().module))
    assert model.generate(REQUESTS) == base
    with model.adapted(refs[0]), model.lend() as lent:
        assert any("lora_A" in name for name, _ in lent.module.named_parameters())
        assert not any(child.training for child in lent.module.modules())
    assert_same(before, state(model._load().module))


def test_a_cast_parameter_is_given_back(backend: Any) -> None:
    model = backend()
    before = state(model._load().module)
    with model.lend() as lent:
        for parameter in lent.module.parameters():
            parameter.data = parameter.data.to(torch.bfloat16)
    assert_same(before, state(model._load().module))


def test_the_callers_random_numbers_are_not_used_up(backend: Any, refs: Any) -> None:
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    with backend().adapted(refs[0]):
        pass
    assert torch.equal(torch.rand(3), wanted)


@pytest.mark.types(
    "tensors missing", "name it as a separate model", "does not fit this model: «»; use the base"
)
def test_what_is_no_adapter_is_refused(
    backend: Any, refs: Any, tmp_path: Path, checkpoint: Any
) -> None:
    model = backend()
    base = model.generate(REQUESTS)

    def refuse(path: Path, match: str, kind: Any = "adapter") -> None:
        ref = ModelRef(str(path), kind, "the base", "0" * 64)
        with pytest.raises(ModelError, match=match), model.adapted(ref):
            pytest.fail("the scope opened")
        assert model.generate(REQUESTS) == base

    refuse(tmp_path / "none", r"no adapter_config\.json")
    refuse(checkpoint(), r"full weights, not an adapter: name it as a separate model", "full")
    assert backend().generate(REQUESTS) == base  # that folder, as a model of its own
    pickled = tmp_path / "pickled"
    shutil.copytree(refs[0].path, pickled)
    (pickled / "adapter_model.safetensors").rename(pickled / "adapter_model.bin")
    refuse(pickled, "pickled adapters are never loaded")
    switched = tmp_path / "switched"
    shutil.copytree(refs[0].path, switched)
    config = json.loads((switched / "adapter_config.json").read_text())
    (switched / "adapter_config.json").write_text(
        json.dumps({**config, "alora_invocation_tokens": [5]})
    )
    refuse(switched, r"is switched on by tokens of the prompt \(aLoRA\), which no backend does")
    garbled = tmp_path / "garbled"
    shutil.copytree(refs[0].path, garbled)
    (garbled / "adapter_model.safetensors").write_bytes(b"\x00" * 40)
    refuse(garbled, "cannot be read")
    (garbled / "adapter_config.json").write_text("{")
    refuse(garbled, "is not JSON")
    other = make_adapter(
        checkpoint("gpt2"), tmp_path / "gpt2", 3, target_modules=["c_attn"], fan_in_fan_out=True
    )
    refuse(Path(other.path), "the base that it was trained on, the base")
    wider = tmp_path / "wider"
    shutil.copytree(refs[0].path, wider)
    config = json.loads((wider / "adapter_config.json").read_text())
    config["target_modules"] = [*config["target_modules"], "k_proj"]
    (wider / "adapter_config.json").write_text(json.dumps(config))
    refuse(wider, "does not fit this model")
    for ref in refs:  # with the base that they were trained on
        with model.adapted(ref) as adapted:
            assert adapted.generate(REQUESTS)


def test_what_the_trainer_writes_is_what_answers(
    checkpoint: Any, open_backend: Any, tmp_path: Path
) -> None:
    from nfilter.testing import FakeContext
    from nfilter_hf.lora.trainer import LoraTrainer

    model = open_backend(checkpoint())
    before = state(model._load().module)
    data = [
        Sample(str(i), (Message("user", f"what is {i} ?"), Message("assistant", "red , green")))
        for i in range(8)
    ]
    encoded = model.encode(data, max_length=99, turns="all")
    config = LoraTrainer.Config(rank=8, lr=1e-2, epochs=6, batch_size=4, dropout=0.0)
    result = LoraTrainer(config).train(
        encoded, model, tmp_path / "out", FakeContext(models={"student": model})
    )
    assert_same(before, state(model._load().module))
    base = [float(np.nanmean(values)) for values in model.score(encoded)]
    tuned = [float(np.nanmean(values)) for values in model.score(encoded, result.ref)]
    assert max(tuned) < 0.5 * min(base)
    request = Request(data[0].context, Sampling(max_tokens=12))
    with model.adapted(result.ref) as adapted:
        assert adapted.generate([request])[0].text == "red , green"
    assert model.generate([request])[0].text != "red , green"
    assert_same(before, state(model._load().module))
