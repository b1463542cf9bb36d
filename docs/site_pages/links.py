"""Links of a document of the repository as links of the site."""

from __future__ import annotations

import os.path
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Final

REPOSITORY: Final = "https://github.com/nfilter/nfilter/blob/main"

DOCUMENTS: Final[Mapping[str, str]] = {
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changelog.md",
    "README.md": "index.md",
    "plugins/nfilter_tiny/README.md": "embedded-model.md",
}
"""Documents outside docs/ that the site shows, each with its path there."""

_FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)")


def relinked(text: str, document: str, page: str, root: Path) -> str:
    """Return the Markdown of a document with its links as the site has them.

    A link to a document of the site leads to its page, a link to another file of the repository to that file on GitHub. Links to other
    hosts, and links inside fenced blocks, stay as they are.

    Args:
        text: Markdown.
        document: Path of the file that has the text, from the root of the repository.
        page: Path of its page, from the root of the site.
        root: The root of the repository.

    Raises:
        ValueError: where a link leads to no file; the message has document and link.
    """

    def link(match: re.Match[str]) -> str:
        return f"]({_target(match[1], document, page, root)})"

    parts, end = [], 0
    for fence in _FENCE.finditer(text):
        parts += [_LINK.sub(link, text[end : fence.start()]), fence[0]]
        end = fence.end()
    return "".join([*parts, _LINK.sub(link, text[end:])])


def _target(target: str, document: str, page: str, root: Path) -> str:
    path, mark, anchor = target.partition("#")
    if "://" in target or not path:
        return target
    file = PurePosixPath(os.path.normpath(PurePosixPath(document).parent / path))
    if file.is_relative_to("docs"):
        to = str(file.relative_to("docs"))
    elif str(file) in DOCUMENTS:
        to = DOCUMENTS[str(file)]
    elif (root / file).exists():
        return f"{REPOSITORY}/{file}{mark}{anchor}"
    else:
        raise ValueError(f"{document}: the link {target!r} leads to no file of the repository")
    return f"{os.path.relpath(to, PurePosixPath(page).parent)}{mark}{anchor}"
