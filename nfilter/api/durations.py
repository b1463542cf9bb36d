"""Times and speeds as text."""

from __future__ import annotations


def duration(seconds: float, digits: int = 0) -> str:
    """Return e.g. ``45 s``, ``12 min`` or ``2 h 10 min``; ``digits`` is the number of decimals of seconds."""
    if seconds < 120:
        return f"{seconds:.{digits}f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"


def speed(tokens: float) -> str:
    """Return tokens per second as text: ``310 tokens/s``, with one decimal below 10."""
    return f"{tokens:,.0f} tokens/s" if tokens >= 10 else f"{tokens:.1f} tokens/s"
