"""The bugs of the track record, as ``spec/track-record/bugs.toml`` has them."""

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
"""Where on GitHub the issues of a project are."""


_DATE: Final = r"^(\d{4}(-\d{2}(-\d{2})?)?)?$"


class Area(Enum):
    """What a bug is a bug of."""

    LOCK = "L"
    STORE = "S"
    MACHINE = "M"
    SYSTEM = "O"


class Source(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a bug was reported or found."""

    at: str
    """An issue or a pull request, as ``project#number``; or other words."""
    date: Annotated[str, msgspec.Meta(pattern=_DATE)] = ""
    """When, as exactly as is known; with ``until``, the earliest day that is possible."""
    until: Annotated[str, msgspec.Meta(pattern=_DATE)] = ""
    """The latest day that is possible, where the day is not known."""
    shown_by: str = ""
    """What shows the date, where the source does not."""
    url: str = ""
    """Where to read about it, if ``at`` is no issue."""

    def __post_init__(self) -> None:
        """Raise ``ValueError`` for a source without a date, or with a range of dates that nothing shows."""
        if not (self.date or self.until):
            raise ValueError(f"of {self.at} there is no date")
        if self.until and not self.shown_by:
            raise ValueError(f"of {self.at} it is not said what shows the dates")

    @property
    def link(self) -> str:
        """Where to read about it, or nothing."""
        project, mark, number = self.at.partition("#")
        if not mark:
            return self.url
        if project not in REPOSITORIES:
            raise TrackRecordInvalid(f"of {self.at} it is not known where its project is")
        return f"https://github.com/{REPOSITORIES[project]}/issues/{number}"

    @property
    def is_report(self) -> bool:
        """Whether somebody reported it to a project."""
        return "#" in self.at or self.at.startswith("CVE-")


class Act(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A step of an interleaving, as a person tells it."""

    who: str
    does: str
    to: str = ""


class Bug(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One bug. The fields are the keys of the file."""

    slug: Annotated[str, msgspec.Meta(pattern="^[a-z]+(-[a-z]+)+$")]
    """The name by which the models, the tests and the documents call it."""
    layer: Area
    title: str
    """What goes wrong, as a headline."""
    seen: str
    """What a user sees, or would see."""
    story: str
    """How it happens."""
    sources: tuple[Source, ...]
    properties: tuple[str, ...] = ()
    """What it violates in the models, as ``Module!Property``."""
    clauses: tuple[Annotated[str, msgspec.Meta(pattern=r"^[PM]\d+\.\d+$")], ...]
    """The clauses of the specification that prevent it."""
    instead: str = ""
    """What is seen instead, where the bug is one of the system below."""
    tests: tuple[str, ...] = ()
    acts: tuple[Act, ...] = ()
    """What happens in which order: where no model says so, or where its counterexample does not say who acts."""
    ending: str = ""
    """What comes of these acts."""

    @property
    def is_reported(self) -> bool:
        """Whether somebody reported it to a project."""
        return any(source.is_report for source in self.sources)

    @property
    def is_met(self) -> bool:
        """Whether somebody has met it, and did not only think of it."""
        return self.is_reported or any(source.at.startswith("measured") for source in self.sources)


class _Content(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file."""

    bug: tuple[Bug, ...]


def read_bugs(root: Path) -> tuple[Bug, ...]:
    """Read the bugs, in the order of the file."""
    path = root / FOLDER / "bugs.toml"
    try:
        bugs = msgspec.toml.decode(path.read_bytes(), type=_Content).bug
    except (msgspec.DecodeError, OSError) as error:
        raise TrackRecordInvalid(f"{path}: {error}") from error
    slugs = [bug.slug for bug in bugs]
    twice = sorted({slug for slug in slugs if slugs.count(slug) > 1})
    if twice:
        raise TrackRecordInvalid(f"{path}: these are there twice: {', '.join(twice)}")
    return bugs
