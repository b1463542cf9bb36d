"""Faults of a recipe: pydantic's errors as a path, what was wrong and what to write instead."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from nfilter.api.errors import also_known, did_you_mean, short
from nfilter.recipe.yaml_lines import Where

T = TypeVar("T")
Config = TypeVar("Config", bound=BaseModel)

_DATA = "source: {use: jsonl, path: data.jsonl}"
_MODEL = "models: {student: {use: hf, model: NAME}}"
_SEED = "seed: 0 (for several, nfilter run RECIPE --seeds 0,1,2)"
SECTIONS_ELSEWHERE = {
    **dict.fromkeys(
        ("dataset", "datasets", "data", "dataset_path", "dataset_name", "data_path", "train_data", "train_file", "training_data",
         "train_dataset", "input", "inputs"), _DATA,
    ),
    **dict.fromkeys(("model", "base_model", "model_name", "model_name_or_path", "llm"), _MODEL),
    **dict.fromkeys(
        ("training", "trainer", "training_args", "training_arguments", "lora", "peft", "adapter", "finetuning", "sft"),
        "train: {use: TRAINER, model: student}",
    ),
    **dict.fromkeys(("stages", "steps", "pipeline", "filters", "process", "operators"), "samples: [{use: STAGE, ...}]"),
    **dict.fromkeys(
        ("eval", "evaluation", "test", "val", "eval_dataset", "test_data", "validation"),
        "evaluate: {metric: accuracy, source: {use: jsonl, path: test.jsonl}}",
    ),
    **dict.fromkeys(
        ("max_length", "max_seq_length", "max_seq_len", "sequence_len", "cutoff_len", "tokenizer", "tokenization", "model_max_length"),
        "encode: {model: student, max_length: 2048}",
    ),
    **dict.fromkeys(("random_seed", "seeds"), _SEED),
    **dict.fromkeys(("output", "output_dir", "out", "save_dir", "run_dir"), "it on the command line: nfilter run RECIPE --out DIR"),
    **dict.fromkeys(("run_name", "project", "experiment", "title"), "name: NAME"),
}  # fmt: skip
"""Names that other tools have at the top of a recipe, and what to write here."""

ENCODE = {
    **dict.fromkeys(
        ("max_seq_length", "max_seq_len", "max_len", "cutoff_len", "sequence_len", "model_max_length", "max_tokens"),
        "max_length",
    ),
    **dict.fromkeys(("tokenizer", "tokenizer_name"), "model"),
    **dict.fromkeys(
        ("train_on_inputs", "assistant_only_loss", "completion_only_loss", "mask_prompt", "train_on_prompt"),
        "only responses are trained on: turns: all takes every answer of a conversation, turns: last the last one",
    ),
}  # fmt: skip
EVALUATE = {
    **dict.fromkeys(("metrics", "metric_name"), "metric"),
    **dict.fromkeys(("max_new_tokens", "max_gen_toks", "max_length"), "max_tokens"),
    **dict.fromkeys(
        ("dataset", "data", "path", "file", "test", "test_file"),
        "the test set is a source: source: {use: jsonl, path: test.jsonl}",
    ),
    **dict.fromkeys(("max_samples", "num_samples", "n"), "limit"),
}
NEEDED = {
    **dict.fromkeys(("int_parsing", "int_type", "int_from_float"), "a whole number is needed"),
    **dict.fromkeys(("float_parsing", "float_type"), "a number is needed"),
    "string_type": "text is needed (put it in quotes)",
    **dict.fromkeys(("bool_parsing", "bool_type"), "true or false is needed"),
}
"""What to write, by pydantic's type of error."""


class FaultsError(ValueError):
    """What is wrong with one part of a recipe: ``found`` has the path inside that part and a text for each fault."""

    def __init__(self, text: str, where: Where = ()) -> None:
        super().__init__(text)
        self.found: list[tuple[Where, str]] = [(where, text)]


class Parts:
    """Reads the parts of one value and reports the faults of all of them at once."""

    def __init__(self) -> None:
        self.found: list[tuple[Where, str]] = []

    def read(self, where: Where, read: Callable[..., T], *arguments: Any) -> T:
        """Call ``read``. After a fault the result is None; ``check`` then raises."""
        try:
            return read(*arguments)
        except FaultsError as faults:
            self.found += [((*where, *path), text) for path, text in faults.found]
            return None  # type: ignore[return-value]

    def check(self) -> None:
        """Raise FaultsError, if any part had one."""
        if self.found:
            faults = FaultsError("")
            faults.found = self.found
            raise faults


def config_of(model: type[Config], value: Any, context: Any = None) -> Config:
    """Validate ``value`` as a ``model``.

    Raises:
        FaultsError: with every setting that is unknown, missing or wrong.
    """
    parts = Parts()
    if not isinstance(value, dict):
        raise FaultsError(f"a mapping of settings, not {kind_of(value)}")
    try:
        return model.model_validate(value, context=context)
    except ValidationError as error:
        parts.found += faults_of(model, error, value)
    parts.check()
    raise AssertionError("a ValidationError has at least one fault")


def faults_of(
    model: type[BaseModel],
    error: ValidationError,
    value: Any,
    unknown: Callable[[str], str] | None = None,
) -> Iterator[tuple[Where, str]]:
    """Yield the path and the text of each fault that pydantic found in ``value``.

    ``unknown`` returns the text for a key that ``model`` itself does not have.
    """
    for detail in error.errors(include_url=False):
        path: Where = detail["loc"]
        inner = detail.get("ctx", {}).get("error")
        if isinstance(inner, FaultsError):
            yield from (((*path, *where), text) for where, text in inner.found)
        elif detail["type"] == "extra_forbidden" and unknown is not None and len(path) == 1:
            yield path, unknown(str(path[0]))
        elif detail["type"] == "extra_forbidden":
            key = str(path[-1])
            yield path, f"unknown key {short(repr(key))}{_near_key(_model_at(model, path), key)}"
        elif detail["type"] == "missing":
            owner = _model_at(model, path) or model
            text = f"missing; {owner.__name__.removesuffix('Config')} needs it"
            yield path, getattr(owner, "when_missing", {}).get(path[-1], text)
        elif detail["type"] == "model_type":
            keys = _keys(_model_at(model, (*path, "")))
            yield path, f"a mapping with {', '.join(keys)}, not {kind_of(detail['input'])}"
        else:
            yield _present(value, path), _wrong_value(dict(detail))


def _wrong_value(detail: Mapping[str, Any]) -> str:
    given = detail.get("input")
    plain = isinstance(given, str | int | float | bool | None)
    shown = f", not {short(repr(given))}" if plain else ""
    needed = NEEDED.get(detail["type"], detail["msg"].removeprefix("Value error, "))
    return f"{needed}{shown}{_near_word(detail, given)}"


def _present(value: Any, path: Where) -> Where:
    """Return the part of ``path`` that leads through ``value``: pydantic adds the names of a union's members."""
    for at, step in enumerate(path):
        inside = step in value if isinstance(value, dict) else isinstance(value, list)
        if not inside or (isinstance(value, list) and not isinstance(step, int)):
            return path[: max(at, 1)]
        value = value[step]
    return path


def _model_at(model: type[BaseModel], path: Where) -> type[BaseModel] | None:
    """Return the model whose key the last step of ``path`` is; None where that is not clear."""
    found: type[BaseModel] | None = model
    for step in path[:-1]:
        fields = found.model_fields.values() if found else ()
        named = found.model_fields.get(str(step)) if found else None
        info = named or next((each for each in fields if each.alias == step), None)
        models = list(_models_in(info.annotation)) if info else []
        found = models[0] if len(models) == 1 else None
    return found


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models_in(part)


def _near_key(model: type[BaseModel] | None, key: str) -> str:
    """What to write instead of a key that ``model`` does not have."""
    if model is None:
        return ""
    fields = _keys(model)
    known = also_known(getattr(model, "also_known", {}), key)
    if known in fields:
        return f"; it is called {known!r} here"
    if known is not None:
        return f"; {known}"
    return did_you_mean(key, fields) or f"; known: {', '.join(fields)}"


def _keys(model: type[BaseModel] | None) -> list[str]:
    return [info.alias or name for name, info in model.model_fields.items()] if model else []


def _near_word(detail: Mapping[str, Any], given: Any) -> str:
    """``"; did you mean 'x'?"`` where another word than those of a Literal was given."""
    if detail["type"] != "literal_error" or not isinstance(given, str):
        return ""
    words = [word for word in detail["ctx"]["expected"].split("'") if word.isidentifier()]
    near = difflib.get_close_matches(given, words, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def kind_of(value: Any) -> str:
    """Return the kind of a value in words, with its article."""
    names: Iterable[tuple[type, str]] = (
        (dict, "a mapping"), (list, "a list"), (str, f"the text {value!r:.60}"), (bool, f"{value}"),
        (int, f"the number {value!r:.40}"), (float, f"the number {value!r}"),
    )  # fmt: skip
    return next((text for kind, text in names if isinstance(value, kind)), "nothing")
