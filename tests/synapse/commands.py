"""Define the commands of a device's process, and its answers. Each is a line of JSON."""

from __future__ import annotations

from enum import Enum

import msgspec

from checking.machine_replay.homeserver import Json


class Place(Enum):
    """Where in an operation of the store a process is interrupted."""

    BEFORE_COMMIT = "before_commit"
    AFTER_COMMIT = "after_commit"


class Interruption(msgspec.Struct, frozen=True):
    """A process is suspended or killed in an operation of the store."""

    killed: bool
    place: Place
    operation: str | None = None
    """The operation's name; ``None`` means any."""
    number: int = 1
    """The first such operation since the command came, or the second, ..."""


class Command(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """A command."""

    interruption: Interruption | None = None


class Track(Command, frozen=True, tag=True):
    """Follow the device lists of users."""

    users: list[str]


class Sync(Command, frozen=True, tag=True):
    """Sync once."""


class Send(Command, frozen=True, tag=True):
    """Send what the machine has to send."""


class Say(Command, frozen=True, tag=True):
    """Send an encrypted message, unless a device can't be reached."""

    room: str
    text: str


class Read(Command, frozen=True, tag=True):
    """Decrypt events, each to its text or to the code of the error."""

    room: str
    events: list[Json]


class Verify(Command, frozen=True, tag=True):
    """Note that another device of the same user is verified."""

    device: str


class AskForKeys(Command, frozen=True, tag=True):
    """Ask the user's other devices for the keys of events."""

    room: str
    events: list[Json]


class MakeBackup(Command, frozen=True, tag=True):
    """Make a version of the backup of room keys."""


class UseBackup(Command, frozen=True, tag=True):
    """Use the current version of the backup by its decryption key, and restore what is there."""

    key: bytes


class Advance(Command, frozen=True, tag=True):
    """Move the clock of this process forward."""

    duration_ms: int


AnyCommand = Track | Sync | Send | Say | Read | Verify | AskForKeys | MakeBackup | UseBackup | Advance


class Answer(msgspec.Struct, frozen=True):
    """The result of a command."""

    failed: str | None = None
    """The name of an exception from the network: the process goes on."""
    texts: list[str] = []
    problems: list[str] = []
    """The codes of to-device events that could not be used, or of messages that could not be read."""
    event_id: str | None = None
    decryption_key: bytes = b""
    """Of a version of the backup that was made."""
    restored: int = 0
    """How many room keys the backup has brought."""
    applied: bool = False


class Settings(msgspec.Struct, frozen=True):
    """The user of the process."""

    address: str
    access_token: str
    user: str
    device: str
    label: str
    store: str
    sliding: bool
    added_ms: int = 0
    """How far its clock is ahead, in milliseconds."""


STOPPED = b"stopped\n"
"""What a process writes before it suspends itself."""
