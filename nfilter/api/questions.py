"""What a template shows of a sample's question."""

from __future__ import annotations

from typing import Any

from nfilter.api.stages import AnswerKind
from nfilter.api.types import Sample


def question_variables(sample: Sample, answers: AnswerKind | None = None) -> dict[str, Any]:
    """Return the template variables ``query``, ``system`` and ``history``; with ``answers``, also ``options`` and ``kind``.

    The response is excluded, so a model that is asked for its own answer never sees the label.
    """
    turns = list(sample.context)
    last = max((i for i, turn in enumerate(turns) if turn.role == "user"), default=None)
    variables: dict[str, Any] = {
        "query": sample.query,
        "system": "\n\n".join(turn.content for turn in turns if turn.role == "system"),
        "history": [
            {"role": turn.role, "content": turn.content}
            for i, turn in enumerate(turns)
            if turn.role != "system" and i != last
        ],
    }
    if answers is not None:
        options = answers.options(sample)
        variables |= {
            "options": None if options is None else list(options),
            "kind": answers.kind,
        }
    return variables
