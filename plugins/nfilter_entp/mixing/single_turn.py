"""Single-turn samples, the only ones that can be paired and mixed: one instruction, a system prompt, a response."""

from __future__ import annotations

from nfilter import Sample


def instruction_of(sample: Sample) -> str:
    """Return the instruction: the last user turn."""
    return sample.query


def system_of(sample: Sample) -> str:
    """Return the system prompt; several system turns are joined by blank lines."""
    return "\n\n".join(turn.content for turn in sample.context if turn.role == "system")


def unfit(sample: Sample) -> str | None:
    """Return the reason a sample cannot be mixed, or None. Only system turns may precede the user turn.

    A new sample would lose tools, and turns of a longer conversation depend on each other.
    """
    turns = [turn for turn in sample.context if turn.role != "system"]
    if not any(character.isalnum() for character in sample.query):
        return "it has no instruction"
    if sample.tools or sample.calls_tools:
        return "it has tools, which a new sample would lose"
    if len(turns) > 1:
        return f"it is a conversation of {len(turns)} turns before the response"
    return None
