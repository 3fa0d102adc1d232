"""Define which files of the project are pages of the site, and the order in which the site lists them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

START: Final = PurePosixPath("README.md")
MODELS: Final = PurePosixPath("tla/README.md")
TRACK_RECORD: Final = PurePosixPath("spec/track-record/README.md")
EXAMPLES: Final = PurePosixPath("examples")
"""A folder whose files are shown on one page."""

NAVIGATION: Final = {
    "Guides": ("docs/applications.md", "docs/implementers.md", "examples"),
    "Specification": (
        "spec/protocol.md",
        "spec/machine.md",
        "spec/state.md",
        "spec/trace.md",
        "spec/conformance/README.md",
        "spec/**/*.md",
    ),
    "Evidence": (
        "spec/guarantees.md",
        "spec/demands.md",
        "spec/track-record/README.md",
        "tla/README.md",
        "proofs/README.md",
        "spec/trace-faults.md",
        "spec/mutants.md",
        "spec/benchmarks.md",
    ),
    "API": ("docs/api/store.md", "docs/api/machine.md", "docs/api/trace.md", "docs/api/protocol.md"),
    "Project": ("CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"),
}
"""The navigation of the site. A pattern stands for the files that are not named elsewhere."""

TITLES: Final = {
    "spec/state.md": "State",
    "spec/guarantees.md": "Guarantees",
    "tla/README.md": "Models",
    "spec/benchmarks.md": "Benchmarks",
}
"""The titles in the navigation of pages whose own titles are too long or not clear there."""

BELOW: Final = {
    MODELS: ("tla/*.tla", "tla/models/*.tla"),
    TRACK_RECORD: ("spec/track-record/*.md",),
}
"""The pages that are listed on another page instead of the navigation, because there are many of them."""


class PageMissing(Exception):
    """The navigation names a file that does not exist."""


@dataclass(frozen=True, slots=True)
class Page:
    """A page of the site, and the file or folder that it is made from."""

    source: PurePosixPath

    @property
    def name(self) -> str:
        """Return Sphinx's name of the page: its address without the suffix."""
        if self.source == START:
            return "index"
        if self.source.name == "README.md":
            return f"{self.source.parent}/index"
        if self.source == EXAMPLES:
            return "examples/index"
        return str(self.source.with_suffix(""))

    @property
    def file(self) -> str:
        """Return the file that Sphinx reads."""
        return f"{self.name}.md"


@dataclass(frozen=True, slots=True)
class Site:
    """All pages: the pages of each part of the navigation, and the pages that are listed on another page."""

    parts: dict[str, list[Page]]
    below: dict[PurePosixPath, list[Page]]

    def pages(self) -> Iterator[Page]:
        """Yield every page once."""
        yield Page(START)
        for pages in (*self.parts.values(), *self.below.values()):
            yield from pages


def find(root: Path) -> Site:
    """Find the pages in a clone. Raises ``PageMissing``."""
    named = {pattern for patterns in (*NAVIGATION.values(), *BELOW.values()) for pattern in patterns}
    taken = {PurePosixPath(pattern) for pattern in named if "*" not in pattern}

    def matching(patterns: tuple[str, ...]) -> Iterator[Page]:
        for pattern in patterns:
            if "*" not in pattern:
                if not (root / pattern).exists():
                    raise PageMissing(pattern)
                yield Page(PurePosixPath(pattern))
            else:
                for path in sorted(root.glob(pattern), key=lambda path: path.stem.lower()):
                    if (source := PurePosixPath(path.relative_to(root))) not in taken:
                        taken.add(source)
                        yield Page(source)

    below = {above: list(matching(patterns)) for above, patterns in BELOW.items()}
    return Site({caption: list(matching(patterns)) for caption, patterns in NAVIGATION.items()}, below)


def navigation(site: Site, page: Page) -> str:
    """Return the block in which a page lists other pages; empty for most pages."""
    if page.source == START:
        return "".join(_list(pages, f":caption: {caption}\n:hidden:\n") for caption, pages in site.parts.items())
    if page.source in site.below:
        return _list(site.below[page.source], ":hidden:\n")
    return ""


def _list(pages: list[Page], options: str) -> str:
    return f"\n```{{toctree}}\n{options}\n" + "".join(map(_entry, pages)) + "```\n"


def _entry(page: Page) -> str:
    title = TITLES.get(str(page.source))
    return f"{title} </{page.name}>\n" if title else f"/{page.name}\n"
