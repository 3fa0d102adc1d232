"""Check the built site: each internal link has a target, and no page has a path of this computer."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Reader(HTMLParser):
    """Collects the anchors of a page, and the addresses of its links, pictures, styles and scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect the anchor and the address of one element."""
        for name, value in attrs:
            if name == "id" and value:
                self.anchors.add(value)
            elif name in ("href", "src") and value is not None and tag != "base":
                self.links.append(value)


def read(html: str) -> Reader:
    """Read a page."""
    reader = Reader()
    reader.feed(html)
    reader.close()
    return reader


def broken(folder: Path) -> Iterator[str]:
    """Yield each internal link without a target, and its page. Links to other sites are not checked."""
    pages = {path.relative_to(folder).as_posix(): read(path.read_text("utf-8")) for path in folder.rglob("*.html")}
    for name, page in sorted(pages.items()):
        for link in dict.fromkeys(page.links):
            if not _leads_somewhere(folder, pages, name, link):
                yield f"{name}: {link}"


def _leads_somewhere(folder: Path, pages: Mapping[str, Reader], name: str, link: str) -> bool:
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        return parts.scheme in ("https", "http", "mailto", "data")
    path = posixpath.normpath(posixpath.join(posixpath.dirname(name), unquote(parts.path))) if parts.path else name
    anchor = unquote(parts.fragment)
    if path in pages:
        return not anchor or anchor in pages[path].anchors
    return not anchor and not path.startswith(("/", "../")) and (folder / path).is_file()


def naming(folder: Path, text: str) -> Iterator[str]:
    """Yield the pages that contain a text of this computer, such as the path of the clone."""
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".html", ".js", ".svg") and text in path.read_text("utf-8"):
            yield f"{path.relative_to(folder)}: {text}"
