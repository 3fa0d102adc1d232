"""Read the bugs of the track record from ``spec/track-record/bugs.toml``."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Final

import msgspec

from checking.errors import TrackRecordInvalid

FOLDER: Final = Path("spec") / "track-record"

REPOSITORIES: Final = {
    "matrix-rust-sdk": "matrix-org/matrix-rust-sdk",
    "matrix-js-sdk": "matrix-org/matrix-js-sdk",
    "matrix-spec": "matrix-org/matrix-spec",
    "matrix-nio": "matrix-nio/matrix-nio",
    "element-x-ios": "element-hq/element-x-ios",
    "element-ios": "element-hq/element-ios",
    "element-web": "element-hq/element-web",
    "element-meta": "element-hq/element-meta",
    "synapse": "element-hq/synapse",
    "robrix": "project-robius/robrix",
    "riot-android": "vector-im/riot-android",
    "mautrix-go": "mautrix/go",
    "mautrix-python": "mautrix/python",
    "libQuotient": "quotient-im/libQuotient",
    "pantalaimon": "matrix-org/pantalaimon",
    "convos-ios": "xmtplabs/convos-ios",
    "filelock": "tox-dev/filelock",
    "peewee": "coleifer/peewee",
    "codex": "openai/codex",
    "sqlite-migrate": "simonw/sqlite-migrate",
    "home-assistant-ios": "home-assistant/iOS",
    "litestream": "benbjohnson/litestream",
    "Conversations": "iNPUTmice/Conversations",
}
"""The GitHub repository in which a project keeps its issues."""


_DATE: Final = r"^(\d{4}(-\d{2}(-\d{2})?)?)?$(?!\n)"


class Area(Enum):
    """The part of the system that a bug is in."""

    LOCK = "L"
    STORE = "S"
    MACHINE = "M"
    SYSTEM = "O"


class Source(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a bug was reported or found."""

    at: str
    """An issue or a pull request, as ``project#number``; or a description of another source."""
    date: Annotated[str, msgspec.Meta(pattern=_DATE)] = ""
    """The date, as exactly as it is known. With ``until``, the earliest possible date."""
    until: Annotated[str, msgspec.Meta(pattern=_DATE)] = ""
    """The latest possible date, if the date is not known."""
    shown_by: str = ""
    """The evidence for the date, if the source does not give it."""
    url: str = ""
    """The address of a source that is not an issue."""

    def __post_init__(self) -> None:
        """Raise ``ValueError`` for a source without a date, or for a range of dates without evidence."""
        if not (self.date or self.until):
            raise ValueError(f"the source {self.at} has no date")
        if self.until and not self.shown_by:
            raise ValueError(f"the source {self.at} has a range of dates, but no shown_by")

    @property
    def link(self) -> str:
        """The address of the source, or an empty text. Raises ``TrackRecordInvalid`` for an unknown project."""
        project, mark, number = self.at.partition("#")
        if not mark:
            return self.url
        if project not in REPOSITORIES:
            raise TrackRecordInvalid(f"the project of {self.at} is not in REPOSITORIES")
        return f"https://github.com/{REPOSITORIES[project]}/issues/{number}"

    @property
    def is_report(self) -> bool:
        """Whether somebody reported it to a project."""
        return "#" in self.at or self.at.startswith("CVE-")


class Act(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A step of an interleaving that a person wrote."""

    who: str
    does: str
    to: str = ""


class Bug(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One bug. The fields are the keys of the file."""

    slug: Annotated[str, msgspec.Meta(pattern=r"^[a-z]+(-[a-z]+)+$(?!\n)")]
    """Its name in the models, the tests and the documents."""
    layer: Area
    title: str
    """What goes wrong, as a headline."""
    seen: str
    """The effect that a user sees, or would see."""
    story: str
    """How it happens."""
    sources: tuple[Source, ...]
    properties: tuple[str, ...] = ()
    """The properties that it violates in the models, as ``Module!Property``."""
    clauses: tuple[Annotated[str, msgspec.Meta(pattern=r"^[PM]\d+\.\d+$(?!\n)")], ...]
    """The clauses of the specification that prevent it."""
    instead: str = ""
    """For a bug of the operating system or the storage: the effect that the store lets a user see instead."""
    tests: tuple[str, ...] = ()
    acts: tuple[Act, ...] = ()
    """The steps, if no model has the bug, or if its counterexample does not show which process takes each step."""
    ending: str = ""
    """The result of these steps."""

    @property
    def is_reported(self) -> bool:
        """Whether somebody reported it to a project."""
        return any(source.is_report for source in self.sources)

    @property
    def is_met(self) -> bool:
        """Whether it was observed: reported to a project, or measured."""
        return self.is_reported or any(source.at.startswith("measured") for source in self.sources)


class _Content(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The content of the file."""

    bug: tuple[Bug, ...]


def read_bugs(root: Path) -> tuple[Bug, ...]:
    """Read the bugs in the order of the file. Raises ``TrackRecordInvalid``."""
    path = root / FOLDER / "bugs.toml"
    try:
        bugs = msgspec.toml.decode(path.read_bytes(), type=_Content).bug
    except (msgspec.DecodeError, OSError) as error:
        raise TrackRecordInvalid(f"{path}: {error}") from error
    slugs = [bug.slug for bug in bugs]
    twice = sorted({slug for slug in slugs if slugs.count(slug) > 1})
    if twice:
        raise TrackRecordInvalid(f"{path}: these bugs are listed twice: {', '.join(twice)}")
    return bugs
