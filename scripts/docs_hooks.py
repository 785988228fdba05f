"""What the documentation's build adds to mkdocs: generated pages, links into the repository, and checks.

A page may link to any file of the repository (`../fairseq/frames.py`), as GitHub shows it; the site, which has no
source files, shows the name alone. The build fails for such a link to a file that does not exist, for an
inline `fairseq.some.name`, config key or path that does not exist, and for a script, style or image that the browser
would load from another host.
"""

from __future__ import annotations

import importlib
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))
import docs_reference  # noqa: E402

# pages of the site that lie outside of docs/
FROM_ROOT = {"contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}
_LINK = re.compile(r"(?<!!)\[(?P<text>[^\]]*)\]\((?P<target>[^)#\s]+)(?P<anchor>#[^)\s]*)?\)")
_FENCE = re.compile(r"^[ ]*```.*?^[ ]*```", re.MULTILINE | re.DOTALL)
_NAME = re.compile(r"`(fairseq(?:_cli)?(?:\.\w+)+)(?:\(.*?\))?`")
_PATH = re.compile(r"`((?:fairseq|fairseq_cli|hydra_plugins|examples|benchmarks|tests|docs|scripts)/[\w./-]*)`")
_KEY = re.compile(r"`([a-z_]+\.[a-z_.]+)(?:=[^`]*)?`")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages, and those that lie in the repository's root."""
    for path, markdown in docs_reference.pages().items():
        files.append(File.generated(config, path, content=markdown))
    for path, source in FROM_ROOT.items():
        files.append(File.generated(config, path, content=(ROOT / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Check the names that a page mentions, and turn links into the repository into what the site can show.

    Raises:
        PluginError: a file, name or config key does not exist; lists all of them.
    """
    source = page.file.src_uri
    folder = ROOT if source in FROM_ROOT else (ROOT / "docs" / source).parent
    missing = [] if source.startswith("reference/") else missing_names(markdown)

    def shown(match: re.Match[str]) -> str:
        text, target, anchor = match["text"], match["target"], match["anchor"] or ""
        if urlparse(target).scheme or target.startswith("#"):
            return match[0]
        path = (folder / target).resolve()
        if path.is_relative_to(ROOT / "docs"):
            inside = path.relative_to(ROOT / "docs").as_posix()
            return f"[{text}]({inside}{anchor})" if source in FROM_ROOT else match[0]
        for page_here, original in FROM_ROOT.items():
            if path == ROOT / original:
                return f"[{text}]({page_here}{anchor})"
        if not path.exists():
            missing.append(target)
        return f"`{path.relative_to(ROOT)}`" if path.is_relative_to(ROOT) else match[0]

    markdown = _LINK.sub(shown, markdown)
    if missing:
        raise PluginError(f"{source} names what does not exist: {', '.join(missing)}")
    return markdown if source.startswith("reference/") else _with_links_to_keys(markdown)


def _with_links_to_keys(markdown: str) -> str:
    """The same page with each config key in inline code linked to its place in the reference."""
    known = docs_reference.known_keys()

    def linked(match: re.Match[str]) -> str:
        key = match[1]
        if key not in known:
            return match[0]
        group = key.partition(".")[0]
        return f"[{match[0]}]({docs_reference.CONFIG_FOLDER}/{group}.md#{key})"

    pieces = re.split(f"({_FENCE.pattern}|^#[^\\n]*$)", markdown, flags=re.MULTILINE | re.DOTALL)
    return "".join(piece if i % 2 else _KEY.sub(linked, piece) for i, piece in enumerate(pieces))


def missing_names(markdown: str) -> list[str]:
    """Python names, paths and config keys in inline code that do not exist."""
    text = _FENCE.sub("", markdown)
    missing = [name for name in _NAME.findall(text) if not _exists(name)]
    missing += [path for path in _PATH.findall(text) if not (ROOT / path).exists()]
    keys = docs_reference.known_keys()
    groups = {key.partition(".")[0] for key in keys}
    holders = {key.rpartition(".")[0] for key in keys}  # task.augment holds task.augment.speed
    for key in _KEY.findall(text):
        group, _, name = key.partition(".")
        if group in groups and key not in keys | holders and name.rpartition(".")[2] not in docs_reference.FILE_ENDINGS:
            missing.append(key)
    return missing


def _exists(name: str) -> bool:
    """Whether a dotted name is a module, or an attribute of one."""
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:cut]))
        except ImportError:
            continue
        for part in parts[cut:]:
            if not hasattr(found, part):
                return part in getattr(found, "__dataclass_fields__", {})
            found = getattr(found, part)
        return True
    return False


class _Loads(HTMLParser):
    """Collects what a browser would load for a page from other hosts."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        address = values.get("src") or (values.get("href") if tag == "link" else None)
        if address and urlparse(address).netloc and values.get("rel") != "canonical":
            self.found.append(address)


def on_post_build(config: MkDocsConfig) -> None:
    """Check that every page is complete without a network.

    Raises:
        PluginError: a page loads something from another host.
    """
    for path in sorted(Path(config.site_dir).rglob("*.html")):
        loads = _Loads()
        loads.feed(path.read_text(encoding="utf-8"))
        if loads.found:
            raise PluginError(f"{path} loads from elsewhere: {', '.join(sorted(set(loads.found)))}")
