"""The roles of each shape, and the usual names of their columns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

# The most specific shape first: a shape that shares a column with an earlier match is ignored.
ROLES: Final[Mapping[str, Mapping[str, tuple[str, ...]]]] = {
    "preference": {
        "prompt": ("prompt", "question", "query", "instruction", "input"),
        "chosen": ("chosen", "preferred_output"),
        "rejected": ("rejected", "non_preferred_output"),
        "system": ("system", "system_prompt"),
        "tools": ("tools", "functions"),
    },
    "completion": {
        "prompt": ("prompt", "input", "question", "query"),
        "completion": ("completion", "response", "output", "answer"),
        "system": ("system", "system_prompt"),
        "tools": ("tools", "functions"),
    },
    "messages": {
        "messages": ("messages", "conversations", "conversation"),
        "system": ("system", "system_prompt"),
        "tools": ("tools", "functions"),
    },
    "sharegpt": {
        "conversations": ("conversations", "conversation", "messages"),
        "system": ("system", "system_prompt"),
        "tools": ("tools", "functions"),
    },
    "choice": {
        "question": ("question", "query", "prompt", "input", "ctx"),
        "options": ("options", "choices", "endings"),
        "answer": (
            "answer",
            "answerKey",
            "answer_key",
            "label",
            "correct_answer",
            "correct_option",
            "correct_choice",
            "cop",
            "response",
        ),
        "context": ("context", "passage", "article", "premise"),
        "system": ("system", "system_prompt"),
    },
    "alpaca": {
        "instruction": ("instruction",),
        "input": ("input", "context"),
        "output": ("output", "response", "completion", "answer"),
        "system": ("system", "system_prompt"),
    },
    "prompt": {
        "prompt": ("prompt", "question", "query", "input"),
        "response": ("response", "completion", "answer", "output", "answers", "final_decision"),
        "context": ("context", "passage", "article"),
        "system": ("system", "system_prompt"),
    },
    "label": {
        "text": (
            "text",
            "sentence",
            "review",
            "content",
            "comment",
            "document",
            "tweet",
            "utterance",
            "comment_text",
        ),
        "label": (
            "label",
            "labels",
            "class",
            "category",
            "sentiment",
            "target",
            "intent",
            "topic",
            "label_text",
            "coarse_label",
            "noisy_label",
        ),
        "system": ("system", "system_prompt"),
    },
}
SECONDARY: Final = frozenset(
    {
        "answers", "final_decision", "correct_option", "correct_choice", "cop", "endings", "ctx", "comment_text", "coarse_label",
        "noisy_label",
    }
)  # fmt: skip
"""Names that count only where no other name of the role is there."""
OPTIONAL: Final = frozenset({"system", "input", "context", "tools"})
SHARED: Final = frozenset({"system", "tools"})
EXAMPLES: Final = {
    "preference": "{prompt: COLUMN, chosen: COLUMN, rejected: COLUMN}",
    "completion": "{prompt: COLUMN, completion: COLUMN}",
    "messages": "{messages: COLUMN}",
    "sharegpt": "{conversations: COLUMN}",
    "choice": "{question: COLUMN, options: COLUMN, answer: COLUMN}",
    "alpaca": "{instruction: COLUMN, input: COLUMN, output: COLUMN}",
    "prompt": "{prompt: COLUMN, response: COLUMN}",
    "label": "{text: COLUMN, label: COLUMN}",
}
