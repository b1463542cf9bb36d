"""What of a conversation can be paired and mixed: one instruction, its system prompt, its response."""

from __future__ import annotations

from nfilter import Sample


def instruction_of(sample: Sample) -> str:
    """What is asked: the content of the last user's turn."""
    return sample.query


def system_of(sample: Sample) -> str:
    """The system prompt; several system turns are one, with a blank line between them."""
    return "\n\n".join(turn.content for turn in sample.context if turn.role == "system")


def unfit(sample: Sample) -> str | None:
    """Why a sample cannot be mixed; None where it can: it has one user's turn and, before it, nothing but system turns.

    Tools do not go into a new sample, so that one with tools is none. The turns of a longer conversation lean on one another, and half of one says little.
    """
    turns = [turn for turn in sample.context if turn.role != "system"]
    if not any(character.isalnum() for character in sample.query):
        return "it has no instruction"
    if sample.tools or sample.calls_tools:
        return "it has tools, which a new sample would not have"
    if len(turns) > 1:
        return f"it is a conversation of {len(turns)} turns before the response"
    return None
