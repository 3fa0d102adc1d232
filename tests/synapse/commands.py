"""Define the commands of a device's process, and its answers. Each is a line of JSON."""

from __future__ import annotations

from enum import Enum

import msgspec

from checking.machine_replay.homeserver import Json


class Place(Enum):
    """The place in a store operation at which a process is interrupted."""

    BEFORE_COMMIT = "before_commit"
    AFTER_COMMIT = "after_commit"


class Interruption(msgspec.Struct, frozen=True):
    """The process is suspended or killed in an operation of the store."""

    killed: bool
    place: Place
    operation: str | None = None
    """The operation's name; ``None`` means any."""
    number: int = 1
    """Which of these operations since the command began: the first, the second, ..."""


class Command(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """A command."""

    interruption: Interruption | None = None


class Track(Command, frozen=True, tag=True):
    """Follow the device lists of users."""

    users: list[str]


class Sync(Command, frozen=True, tag=True):
    """Sync once."""


class Send(Command, frozen=True, tag=True):
    """Send the pending requests of the machine."""


class Say(Command, frozen=True, tag=True):
    """Send an encrypted message, unless a device can't be given its key."""

    room: str
    text: str


class Read(Command, frozen=True, tag=True):
    """Decrypt events; return the text of each, or the code of its error."""

    room: str
    events: list[Json]


class Verify(Command, frozen=True, tag=True):
    """Note that another device of the same user is verified."""

    device: str


class AskForKeys(Command, frozen=True, tag=True):
    """Request the room keys of events from the user's other devices."""

    room: str
    events: list[Json]


class MakeBackup(Command, frozen=True, tag=True):
    """Create a version of the backup of room keys."""


class UseBackup(Command, frozen=True, tag=True):
    """Use the current version of the backup with its decryption key, and restore its room keys."""

    key: bytes


class Advance(Command, frozen=True, tag=True):
    """Move the clock of this process forward."""

    duration_ms: int


AnyCommand = Track | Sync | Send | Say | Read | Verify | AskForKeys | MakeBackup | UseBackup | Advance


class Answer(msgspec.Struct, frozen=True):
    """The result of a command."""

    failed: str | None = None
    """The name of a network exception; the process continues."""
    texts: list[str] = []
    problems: list[str] = []
    """The codes of to-device events that could not be used, or of messages that could not be read."""
    event_id: str | None = None
    decryption_key: bytes = b""
    """The decryption key of a created backup version."""
    restored: int = 0
    """The number of room keys restored from the backup."""
    applied: bool = False


class Settings(msgspec.Struct, frozen=True):
    """The settings of a process."""

    address: str
    access_token: str
    user: str
    device: str
    label: str
    store: str
    sliding: bool
    added_ms: int = 0
    """The time by which its clock is ahead."""


STOPPED = b"stopped\n"
"""The line that a process writes before it suspends itself."""
