"""ssToken (Qin et al., arXiv 2510.18250): tokens by the fall of their loss and by their attention to the prompt."""

from __future__ import annotations

from nfilter import hookimpl


@hookimpl
def nfilter_stages() -> list[type]:
    """Return the stage."""
    from nfilter_sstoken.select import Select

    return [Select]
