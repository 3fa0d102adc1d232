"""Rewrite one page: its links point to pages, and names of clauses, bugs, models and functions become links.

This module reads and writes no file, and does not change the text of a page.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath

FENCE = re.compile(r"^(?P<fence>```+)(?P<language>[^\n`]*)\n(?P<content>.*?)^(?P=fence)[ ]*$", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^#{1,6} .*$", re.MULTILINE)
CLAUSE = r"[PMST]\d{1,2}(?:\.\d{1,2})?"
RULE_HEADING = re.compile(rf"#+ (?:Rule (?P<rule>\d+)\.|(?P<clause>{CLAUSE})\.?) .*")
SECTION_ROW = re.compile(rf"^\| (?P<section>{CLAUSE}) \| \[[^\]]+\]\((?P<anchor>#[\w-]+)\) \|$", re.MULTILINE)
CLAUSE_BEGUN = re.compile(rf"(?:(?<=\n)|(?<=- )|(?<=\. ))\*\*(?P<own>{CLAUSE})\*\*")
INLINE = re.compile(
    r"!\[(?P<description>[^\]]*)\]\((?P<file>[^)\s]+)\)"
    r"|\[(?P<text>(?:`[^`]*`|[^\[\]`])*)\]\((?P<target>[^)\s]+)\)"
    r"|(?<!`)`(?P<name>[^`]+)`(?!`)"
    rf"|{CLAUSE_BEGUN.pattern}"
    rf"|(?<![\w.*-])(?P<cited>{CLAUSE})(?![\w*-]|\.\d)"
)
PYTHON_NAME = re.compile(r"unwedged(?:\.\w+)+")
ELSEWHERE = ("http://", "https://", "mailto:")


class LinkLeadsNowhere(Exception):
    """A page links to a file that does not exist."""


@dataclass(frozen=True, slots=True)
class Places:
    """The clauses of the specification with their files, and the numbered sections with their addresses."""

    clauses: dict[str, PurePosixPath] = field(default_factory=dict)
    sections: dict[str, str] = field(default_factory=dict)
    """The address of each section, by its number."""


@dataclass(frozen=True, slots=True)
class Targets:
    """The possible targets of links."""

    pages: Mapping[PurePosixPath, str]
    """The address of each file or folder that the site shows, by its path."""
    names: Mapping[str, str]
    """The address of each name that may be set as code: a bug, a model, or a property of a module."""
    documented: Mapping[str, str]
    """The public names of classes and functions, by their names in the defining modules."""
    places: Places
    exists: Callable[[PurePosixPath], bool]
    """Returns whether a file or folder exists."""


def note_places(source: PurePosixPath, text: str, places: Places) -> None:
    """Note the clauses that a page of the specification states, unless an earlier page has stated them."""
    if source.parts[0] != "spec":
        return
    prose = FENCE.sub("", text)
    for heading in HEADING.finditer(prose):
        if found := RULE_HEADING.fullmatch(heading[0]):
            places.clauses.setdefault(found["clause"] or f"P{found['rule']}", source)
    for found in CLAUSE_BEGUN.finditer(prose):
        places.clauses.setdefault(found["own"], source)
    for found in SECTION_ROW.finditer(prose):
        places.sections.setdefault(found["section"], f"/{source}{found['anchor']}")


def clause_anchor(number: str) -> str:
    """Return the anchor of a clause."""
    return number.lower().replace(".", "-")


@dataclass(frozen=True, slots=True)
class Rewriting:
    """The rewriting of one page."""

    source: PurePosixPath
    targets: Targets
    blocks: Mapping[str, Callable[[str], str]]
    """The functions that replace a block by another one, by the block's language."""

    def page(self, text: str) -> str:
        """Return the rewritten page. Raises ``LinkLeadsNowhere``."""
        parts: list[str] = []
        end = 0
        for block in FENCE.finditer(text):
            turn = self.blocks.get(block["language"])
            parts += [self._prose(text[end : block.start()]), turn(block["content"]) if turn else block[0]]
            end = block.end()
        return "".join((*parts, self._prose(text[end:])))

    def _prose(self, text: str) -> str:
        parts: list[str] = []
        end = 0
        for heading in HEADING.finditer(text):
            parts += [INLINE.sub(self._inline, text[end : heading.start()]), self._heading(heading[0])]
            end = heading.end()
        return "".join((*parts, INLINE.sub(self._inline, text[end:])))

    def _heading(self, heading: str) -> str:
        """Return a heading with the anchor of its rule."""
        found = RULE_HEADING.fullmatch(heading)
        return f"({clause_anchor(number)})=\n{heading}" if found and self._states(number := _number(found)) else heading

    def _states(self, number: str) -> bool:
        return self.targets.places.clauses.get(number) == self.source

    def _inline(self, found: re.Match[str]) -> str:
        if found["file"]:
            return f"![{found['description']}](/{self._path(found['file'])})"
        if found["target"]:
            return self._link(found["text"], found["target"])
        if found["name"]:
            return self._name(found["name"])
        if own := found["own"]:
            return f"[**{own}**]{{#{clause_anchor(own)} .clause}}" if self._states(own) else found[0]
        target = self._clause(found["cited"])
        return f"[{found['cited']}]({target})" if target else found["cited"]

    def _clause(self, number: str) -> str | None:
        places = self.targets.places
        return f"#{clause_anchor(number)}" if number in places.clauses else places.sections.get(number)

    def _path(self, target: str) -> PurePosixPath:
        path = PurePosixPath(posixpath.normpath(self.source.parent / target))
        if not self.targets.exists(path):
            raise LinkLeadsNowhere(f"{self.source}: {target}")
        return path

    def _link(self, text: str, target: str) -> str:
        """Return a link to the page of its target, or only its text if the target has no page."""
        if target.startswith((*ELSEWHERE, "#")):
            return f"[{text}]({target})"
        name, _, anchor = target.partition("#")
        page = self.targets.pages.get(self._path(name))
        if page is None:
            return text
        return f"[{text}]({page}#{anchor})" if anchor else f"[{text}]({page})"

    def _name(self, name: str) -> str:
        if target := self._clause(name):
            return f"[`{name}`]({target})"
        if (target := self.targets.names.get(name)) and target != f"/{self.source}":
            return f"[`{name}`]({target})"
        if "/" in name and (page := self.targets.pages.get(PurePosixPath(name))):
            return f"[`{name}`]({page})"
        if PYTHON_NAME.fullmatch(name):
            parts = name.split(".")
            for number in range(len(parts), 1, -1):
                if documented := self.targets.documented.get(".".join(parts[:number])):
                    return f"{{py:obj}}`{name} <{'.'.join((documented, *parts[number:]))}>`"
            return f"{{py:obj}}`{name}`"
        return f"`{name}`"


def _number(found: re.Match[str]) -> str:
    return found["clause"] or f"P{found['rule']}"


def embedded(svg: str) -> str:
    """Return the block that embeds a picture."""
    return f'```{{raw}} html\n<div class="picture" tabindex="0">{svg}</div>\n```'
