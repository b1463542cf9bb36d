"""What users of other tools would type: the error names the right word, and the right word is accepted."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from nfilter import RecipeError
from nfilter.answers import AnswerConfig
from nfilter.recipe.model import Recipe, load
from nfilter.recipe.sections import EncodeConfig, EvaluateConfig
from nfilter.registry.loading import Plugins
from nfilter.registry.loading import load as load_plugins

GOOD: dict[str, Any] = {
    "answer": "exact",
    "models": {"student": {"use": "hf", "model": "tiny"}},
    "source": {"use": "jsonl", "path": "data.jsonl"},
    "encode": {"model": "student"},
    "train": {"use": "hf.lora", "model": "student"},
    "evaluate": {"source": {"use": "jsonl", "path": "data.jsonl"}},
}
SECTION = {"backend": ("models", "student"), "source": ("source",), "trainer": ("train",)}


@pytest.fixture(scope="module")
def plugins() -> Plugins:
    return load_plugins(block=())


@pytest.fixture
def read(tmp_path: Path, plugins: Plugins) -> Any:
    def reading(changes: dict[str, Any]) -> Recipe:
        file = tmp_path / "r.yaml"
        file.write_text(yaml.safe_dump({**GOOD, **changes}, sort_keys=False))
        return load(file, plugins)

    return reading


def _fault(read: Any, changes: dict[str, Any]) -> str:
    with pytest.raises(RecipeError) as error:
        read(changes)
    return str(error.value)


def _within(path: tuple[str, ...], value: Any) -> dict[str, Any]:
    for name in reversed(path):
        value = {name: value}
    return dict(value)


@pytest.mark.parametrize(
    ("section", "key", "says"),
    [
        ("train", "learning_rate", "it is called 'lr' here"),
        ("train", "learning-rate", "it is called 'lr' here"),
        ("train", "lora_r", "it is called 'rank' here"),
        ("train", "r", "it is called 'rank' here"),
        ("train", "lora_alpha", "it is called 'alpha' here"),
        ("train", "num_train_epochs", "it is called 'epochs' here"),
        ("train", "per_device_train_batch_size", "it is called 'batch_size' here"),
        ("train", "gradient_accumulation_steps", "micro_batch_tokens"),
        ("train", "max_seq_length", "encode: {model: student, max_length: 2048}"),
        ("encode", "cutoff_len", "it is called 'max_length' here"),
        ("encode", "train_on_inputs", "turns: all"),
        ("answer", "type", "it is called 'kind' here"),
        ("evaluate", "dataset", "source: {use: jsonl, path: test.jsonl}"),
        ("train", "lrr", "did you mean 'lr'?"),
    ],
)
def test_a_field_of_another_tool_gets_the_right_one(
    read: Any, section: str, key: str, says: str
) -> None:
    config = GOOD[section] if isinstance(GOOD[section], dict) else {"kind": GOOD[section]}
    fault = _fault(read, {section: {**config, key: 1}})
    assert f"{section}.{key}: unknown key {key!r}" in fault
    assert says in fault


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("dataset", "write source: {use: jsonl, path: data.jsonl}"),
        ("datasets", "write source: {use: jsonl, path: data.jsonl}"),
        ("base_model", "write models: {student: {use: hf, model: NAME}}"),
        ("learning_rate", "hf.lora has it as 'lr', under train"),
        ("lora_r", "hf.lora has it as 'rank', under train"),
        ("num_train_epochs", "hf.lora has it as 'epochs', under train"),
        ("rank", "hf.lora has it as 'rank', under train"),
        ("sequence_len", "write encode: {model: student, max_length: 2048}"),
        ("output_dir", "nfilter run RECIPE --out DIR"),
        ("sampels", "did you mean 'samples'?"),
        ("zzz", "known: name, extends, seed"),
    ],
)
def test_a_section_of_another_tool_gets_the_right_one(read: Any, key: str, says: str) -> None:
    fault = _fault(read, {key: {}})
    assert f"{key}: unknown section; " in fault
    assert says in fault


@pytest.mark.parametrize(
    ("path", "name", "says"),
    [
        (("models", "student"), "openai", "write {use: litellm, model: openai/NAME}"),
        (("models", "student"), "tgi", 'write {use: litellm, model: NAME, api_base: "http://localhost:8000/v1"}'),
        (("models", "student"), "huggingface", "write {use: hf, model: NAME}"),
        (("models", "student"), "lm-studio", 'api_base: "http://localhost:1234/v1"'),
        (("models", "student"), "sbert", "write {use: sentence-transformers, "),
        (("source",), "huggingface", "write {use: hub, path: OWNER/NAME, split: train}"),
        (("source",), "tsv", "write {use: csv, path: data.csv}"),
        (("train",), "qlora", "write {use: hf.lora, model: student}"),
    ],
)  # fmt: skip
def test_a_plugin_of_another_tool_gets_the_right_one(
    read: Any, path: tuple[str, ...], name: str, says: str
) -> None:
    fault = _fault(read, _within(path, {"use": name}))
    assert (
        f"unknown {'backend' if path[0] == 'models' else path[0].replace('train', 'trainer')} {name!r}"
        in fault
    )
    assert says in fault


def _every_config(plugins: Plugins) -> Iterator[Any]:
    yield from (EncodeConfig, EvaluateConfig, AnswerConfig)
    for item in plugins.registered.values():
        if item.kind != "metric":
            yield item.cls.Config


def test_what_is_named_is_a_field_or_a_sentence_with_one_that_works(plugins: Plugins) -> None:
    seen = 0
    for config in _every_config(plugins):
        fields = {info.alias or name for name, info in config.model_fields.items()}
        for other, to in config.also_known.items():
            seen += 1
            assert other not in fields, f"{config.__name__}.{other} is a field itself"
            assert to in fields or " " in to, (
                f"{config.__name__}: {other} leads to {to!r}, which is no field"
            )
    assert seen > 100


@pytest.mark.types("; write «»")
def test_every_line_that_is_named_for_a_plugin_is_read(read: Any, plugins: Plugins) -> None:
    seen = 0
    for kind, path in SECTION.items():
        for item in plugins.of_kind(kind):
            for other, to in getattr(item.cls, "also_known", {}).items():
                assert (kind, other) not in plugins.registered
                found = re.match(r"\{.*?\}(?=$|,)", to)
                assert found is not None, to
                recipe = read(_within(path, yaml.safe_load(found[0])))
                assert recipe is not None
                seen += 1
    assert seen > 30


@pytest.mark.parametrize("key", ["dataset", "model", "training", "eval", "max_length", "seeds"])
def test_every_line_that_is_named_for_a_section_is_read(read: Any, key: str) -> None:
    fault = _fault(read, {key: {}})
    line = fault.split("; write ", 1)[1].split(" (", 1)[0]
    assert read(yaml.safe_load(line)) is not None


@pytest.mark.parametrize("key", ["max_tokens", "max_new_tokens"])
def test_how_much_a_local_model_writes_is_set_where_it_is_asked(read: Any, key: str) -> None:
    student = {"use": "hf", "model": "tiny"}
    fault = _fault(read, {"models": {"student": {**student, key: 99}}})
    assert "max_tokens: 256 on the stage, or under evaluate" in fault
    assert "batch_tokens" not in fault
    asks = [{"use": "robustft.answer", "llm": "student", "into": "base", "max_tokens": 256}]
    tests = {**GOOD["evaluate"], "max_tokens": 256}
    assert read({"samples": asks, "evaluate": tests}).evaluate.max_tokens == 256
