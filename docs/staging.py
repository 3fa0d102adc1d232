"""Write the pages that Sphinx reads: the rewritten files of the project, and the pages that are made from programs."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Final

from checking.models.manifest import Manifest, read_manifest
from docs import api_blocks, models, pages
from docs.markdown import Places, Rewriting, Targets, embedded, note_places
from docs.pages import EXAMPLES, MODELS, TRACK_RECORD, Page, Site
from docs.pictures import commits, ladder, sequence

MACHINE: Final = PurePosixPath("spec/machine.md")
SHOWN_ELSEWHERE: Final = {
    PurePosixPath("reference/unwedged"): "/docs/api/store.md",
    PurePosixPath("tla/models"): "/tla/index.md",
    PurePosixPath("spec"): "/spec/protocol.md",
    PurePosixPath("spec/conformance"): "/spec/conformance/index.md",
}
"""Folders that are targets of links, with the pages that show their content."""

WITHOUT_CONTENTS: Final = "---\nhide-toc: true\n---\n\n"
"""The beginning of a page that leaves the room of its table of contents to wide drawings."""


def stage(root: Path, staged: Path) -> None:
    """Write the rewritten pages and their pictures from the clone ``root`` into the folder ``staged``."""
    site = pages.find(root)
    manifest = read_manifest(root / "tla" / "models" / "manifest.toml")
    sources = {page: _read(root, page.source) for page in site.pages() if page.source.suffix == ".md"}
    places = Places()
    for page in sources:
        note_places(page.source, sources[page], places)
    bugs = {page.source.stem: f"/{page.file}" for page in site.below[TRACK_RECORD]}
    names = bugs | _names(root, site, manifest)
    targets = Targets(_pages(root, site), names, api_blocks.aliases(), places, lambda path: (root / path).exists())
    for page in site.pages():
        if page.source == EXAMPLES:
            text = _examples(root)
        elif page.source.suffix == ".tla":
            text = _module(root, site, page, manifest, bugs)
        else:
            text = Rewriting(page.source, targets, _blocks(page)).page(_with_picture(page.source, sources[page]))
        if page in site.below[TRACK_RECORD]:
            text = WITHOUT_CONTENTS + text
        path = staged / page.file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + pages.navigation(site, page), encoding="utf-8")
    for picture in (root / "spec").rglob("*.svg"):
        copy = staged / picture.relative_to(root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(picture, copy)


def _read(root: Path, source: PurePosixPath) -> str:
    return (root / source).read_text(encoding="utf-8")


def _blocks(page: Page) -> Mapping[str, Callable[[str], str]]:
    """Return the functions that replace special blocks of a page, by the block's language."""
    title = f"A sequence diagram of the page {page.name}; its steps are told in the text"
    return {
        "mermaid": lambda text: embedded(sequence.draw(sequence.parse(text), title)),
        "picture": lambda name: embedded(PICTURES[name.strip()]()),
        "api": api_blocks.block,
        "exceptions": api_blocks.exceptions,
    }


PICTURES: Final = {"ladder": ladder.draw}
"""The pictures that a page shows by name."""


def _with_picture(source: PurePosixPath, text: str) -> str:
    """Return the text with the picture of the commits above the table that it is drawn from."""
    if source != MACHINE:
        return text
    heading = f"\n## {commits.HEADING}\n"
    return text.replace(heading, f"{heading}\n{embedded(commits.draw(text))}\n", 1)


def _pages(root: Path, site: Site) -> dict[PurePosixPath, str]:
    """Return the address of each file or folder that the site shows, by its path."""
    shown = dict(SHOWN_ELSEWHERE)
    for page in site.pages():
        shown[page.source] = f"/{page.file}"
        if page.source.name == "README.md":
            shown.setdefault(page.source.parent, f"/{page.file}")
    for file in _example_files(root):
        shown[file] = f"/{Page(EXAMPLES).file}#{_example_anchor(file)}"
        if file.parent != EXAMPLES:
            shown.setdefault(file.parent, shown[file])
    return shown


def _names(root: Path, site: Site, manifest: Manifest) -> dict[str, str]:
    """Return the address of each model, module and definition, by its name."""
    names = {model.name: f"#{models.model_anchor(model.name)}" for model in manifest.models}
    for page in site.below[MODELS]:
        module = page.source.stem
        names[module] = names.get(module, f"/{page.file}")
        names |= {f"{module}!{each}": f"/{page.file}" for each in models.definitions(_read(root, page.source))}
    return names


def _module(root: Path, site: Site, page: Page, manifest: Manifest, bugs: Mapping[str, str]) -> str:
    modules = {each.source.stem: _read(root, each.source) for each in site.below[MODELS]}
    checked = [model for model in manifest.models if model.specification == page.source.name]
    return models.module_page(page.source.stem, modules, checked, bugs)


def _example_files(root: Path) -> list[PurePosixPath]:
    files = (PurePosixPath(path.relative_to(root)) for path in sorted((root / EXAMPLES).rglob("*.py")))
    return [file for file in files if file.name != "__init__.py"]


def _example_anchor(file: PurePosixPath) -> str:
    return "-".join(file.with_suffix("").parts).replace("_", "-").replace("--main--", "main")


def _examples(root: Path) -> str:
    parts = (
        f"({_example_anchor(file)})=\n## {file}\n\n```python\n{_read(root, file).rstrip()}\n```\n"
        for file in _example_files(root)
    )
    return "\n".join(("# Examples\n\nEach example is a program that you can run.\n", *parts))
