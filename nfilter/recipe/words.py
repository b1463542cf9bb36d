"""The words for faults in a recipe: what was needed, and what to write for names that other tools use."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Any

from nfilter.api.errors import also_known, did_you_mean

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
        "train: {use: hf.lora, model: student}",
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
    "int_parsing": "a whole number is needed",
    "int_type": "a whole number is needed",
    "int_from_float": "a whole number is needed",
    "float_parsing": "a number is needed",
    "float_type": "a number is needed",
    "string_type": "text is needed (put it in quotes)",
    "bool_parsing": "true or false is needed",
    "bool_type": "true or false is needed",
}
"""pydantic's types of faults, in a recipe's words."""


def field_for(model: Any, key: str, fields: Sequence[str]) -> str:
    """What to write for a key that a config does not have."""
    known = also_known(getattr(model, "also_known", {}), key)
    if known in fields:
        return f"; it is called {known!r} here"
    if known is not None:
        return f"; {known}"
    return did_you_mean(key, fields) or f"; known: {', '.join(fields)}"


def near_literal(detail: dict[str, Any], given: Any) -> str:
    """``"; did you mean 'x'?"`` where another word than those allowed was given."""
    expected = str(detail.get("ctx", {}).get("expected", ""))
    if detail["type"] != "literal_error" or not isinstance(given, str):
        return ""
    near = difflib.get_close_matches(
        given, [word for word in expected.split("'") if word.isidentifier()], n=1
    )
    return f"; did you mean {near[0]!r}?" if near else ""


def kind_of(value: Any) -> str:
    """What a value is, with its article."""
    names: Iterable[tuple[type, str]] = (
        (dict, "a mapping"), (list, "a list"), (str, f"the text {value!r:.60}"), (bool, f"{value}"),
        (int, f"the number {value!r:.40}"), (float, f"the number {value!r}"),
    )  # fmt: skip
    return next((text for kind, text in names if isinstance(value, kind)), "nothing")
