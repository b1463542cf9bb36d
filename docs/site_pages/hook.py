"""The hook of mkdocs: adds the generated pages, converts links, and refuses pages that load anything from another host."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[2]
# mkdocs loads this file by its path, not as a part of its package.
sys.path.insert(0, str(ROOT / "docs"))

from nfilter.registry.loading import load  # noqa: E402
from site_pages.links import DOCUMENTS, relinked  # noqa: E402
from site_pages.mathml import fence  # noqa: E402
from site_pages.reference import pages, with_settings  # noqa: E402

PLUGINS = load()
_LOADS = re.compile(
    r"<(?:script|img|iframe|source)\b[^>]*\bsrc=[\"']?(?:https?:)?//[^>]*>"
    r"|<link\b(?=[^>]*\brel=[\"']?(?:stylesheet|preload|preconnect|icon))[^>]*\bhref=[\"']?(?:https?:)?//[^>]*>"
)


def on_config(config: Any) -> Any:
    """Show the blocks ``math`` as equations."""
    fences = [{"name": "math", "class": "math", "format": fence}]
    config.mdx_configs.setdefault("pymdownx.superfences", {})["custom_fences"] = fences
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the pages made from the code, and the documents of the repository that stand outside docs/."""
    for path, text in pages(PLUGINS).items():
        files.append(File.generated(config, path, content=text))
    for document, path in DOCUMENTS.items():
        if files.get_file_from_path(path) is None:
            text = (ROOT / document).read_text(encoding="utf-8")
            files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Convert the links of a page, and put the tables of settings into pages of methods."""
    at = page.file.src_uri
    written = {path: document for document, path in DOCUMENTS.items()}
    generated = page.file.generated_by is not None
    document = written[at] if generated and at in written else f"docs/{at}"
    try:
        return with_settings(relinked(markdown, document, at, ROOT), PLUGINS)
    except ValueError as error:
        raise PluginError(str(error)) from error


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """Refuse a page that a browser would fetch something for from another host."""
    found = _LOADS.search(output)
    if found is not None:
        raise PluginError(f"{page.file.src_uri}: loads from another host: {found[0][:200]}")
    return output
