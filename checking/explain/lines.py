"""The lines of a trace, as data. ``spec/trace.schema.json`` is made of these types; what is optional has a default.

A reader takes what it knows and ignores other fields (T1.8).
"""

from __future__ import annotations

import json
from typing import Annotated, Final, Literal, TypeAlias

import msgspec

FORMAT: Final = 1
LARGEST: Final = 2**53 - 1
"""The largest number that every reader of JSON has (T1.10)."""
SCHEMA: Final = "https://json-schema.org/draft/2020-12/schema"

# In Python, unlike in JSON Schema, "$" also matches before a line feed at the end. Hence "(?!\n)" after it.
Pseudonym: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{16}$(?!\n)")]
NameOrNone: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"^([0-9a-f]{16}|none)$(?!\n)")]
RecordName: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"^.+/[0-9a-f]{16}$(?!\n)")]
"""The name of a kind, and the pseudonym of a key."""
Digest: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"^([0-9a-f]{16}|absent|unread)$(?!\n)")]
Number: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=LARGEST)]
Positive: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=LARGEST)]
Time: TypeAlias = Annotated[int, msgspec.Meta(ge=-LARGEST, le=LARGEST)]
"""A time or a duration, in milliseconds."""
Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0)]
"""How many there are, as the homeserver says."""
CountOrNone: TypeAlias = Count | Literal["none"]
Word: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z][A-Za-z0-9_.]*$(?!\n)", max_length=60)]


class Head(msgspec.Struct, frozen=True, kw_only=True, tag_field="step"):
    """The fields of every line."""

    format: Annotated[int, msgspec.Meta(ge=FORMAT, le=FORMAT)]
    store: Pseudonym
    instance: Pseudonym
    line: Positive
    at_ms: Time | None = None
    """For people only (T1.9)."""


class Open(Head, frozen=True, kw_only=True, tag="open"):
    """A process instance has opened the store."""

    version: Number
    program: Pseudonym | None = None
    lease_ms: Positive | None = None
    turn_ms: Number | None = None
    overdue_after_ms: Positive | None = None
    library: str | None = None


class Acquire(Head, frozen=True, kw_only=True, tag="acquire"):
    """It has taken the lease."""

    epoch: Positive


class Want(Head, frozen=True, kw_only=True, tag="want"):
    """It was refused the lease, and the lease row says that a process waits."""

    epoch: Number
    left_ms: Time | None = None


class Sync(Head, frozen=True, kw_only=True, tag="sync"):
    """Its cache is up to date, and the guard exists."""

    epoch: Positive
    since: Number
    version: Number
    floor: Number = 0
    changed: list[RecordName] = []
    changed_in: list[Number] = []
    dropped: list[RecordName] = []
    unlisted: Number = 0
    kept: Number | None = None


class Renew(Head, frozen=True, kw_only=True, tag="renew"):
    """It has renewed the lease."""

    epoch: Positive
    wanted: bool | None = None
    held_ms: Time | None = None
    draining_ms: Number | None = None


class LoseGuard(Head, frozen=True, kw_only=True, tag="lose_guard"):
    """Its guard is dead, and it did not release the lease."""

    epoch: Positive
    why: Word | None = None


class Release(Head, frozen=True, kw_only=True, tag="release"):
    """It has released the lease."""

    epoch: Positive


class OfOperation(Head, frozen=True, kw_only=True):
    """The fields of the lines of an operation (T3.1)."""

    operation: Positive
    epoch: Number
    """0 if it ran without a lease, which is forbidden."""
    snapshot: Number
    mode: Word | None = None
    began_after: Number | None = None
    failure: str | None = None

    def __post_init__(self) -> None:
        if self.began_after is not None and self.began_after >= self.line:
            raise ValueError(f"`began_after` is {self.began_after}: an operation begins before its own lines")


class Load(OfOperation, frozen=True, kw_only=True, tag="load"):
    """It has read a record from the database into its snapshot."""

    record: RecordName
    found: bool | None = None
    version: Number | None = None
    floor: Number = 0


class ListKeys(OfOperation, frozen=True, kw_only=True, tag="list"):
    """It has listed the keys of a kind."""

    kind: str
    found: Number | None = None


class Outdated(OfOperation, frozen=True, kw_only=True, tag="outdated"):
    """A record that it needed has changed after its snapshot, so it can't go on."""

    version: Number


class Commit(OfOperation, frozen=True, kw_only=True, tag="commit"):
    """It has committed, and made a version."""

    version: Positive
    records: list[RecordName]
    based_on: list[Digest] = []
    made: list[Digest] = []
    unlisted: Number = 0
    wanted: bool | None = None
    held_ms: Time | None = None
    released: bool | None = None
    left_ms: Time | None = None


class CommitFails(OfOperation, frozen=True, kw_only=True, tag="commit_fails"):
    """The fence has stopped its commit, or the outcome of the commit is unknown."""

    why: Word
    records: list[RecordName] = []
    based_on: list[Digest] = []
    made: list[Digest] = []
    unlisted: Number = 0


class Validate(OfOperation, frozen=True, kw_only=True, tag="validate"):
    """It wrote nothing, and its epoch was still the current one when it ended. So its answer counts."""

    row_epoch: Number | None = None
    wanted: bool | None = None
    held_ms: Time | None = None


class Lose(OfOperation, frozen=True, kw_only=True, tag="lose"):
    """The fence has stopped a read of it, or its end."""

    why: Word | None = None


class Rerun(Head, frozen=True, kw_only=True, tag="rerun"):
    """An operation that was interrupted is run again."""

    attempt: Positive
    why: Word


class Subscribe(Head, frozen=True, kw_only=True, tag="subscribe"):
    """A subscription of this process has begun. It receives what is committed after this version."""

    version: Number
    subscriptions: Positive | None = None
    """How many there are now."""


class Unsubscribe(Head, frozen=True, kw_only=True, tag="unsubscribe"):
    """A subscription of this process has ended."""

    subscriptions: Number


class Publish(Head, frozen=True, kw_only=True, tag="publish"):
    """Subscribers received all changes up to a version, or were informed that they may have missed some."""

    since: Number
    version: Number
    lagged: bool | None = None


class Truncate(Head, frozen=True, kw_only=True, tag="truncate"):
    """It has truncated the change log."""

    floor: Number


class Pause(Head, frozen=True, kw_only=True, tag="pause"):
    """It has paused the store."""

    version: Number | None = None


class Resume(Head, frozen=True, kw_only=True, tag="resume"):
    """It has resumed the store."""


class Close(Head, frozen=True, kw_only=True, tag="close"):
    """It has closed the store."""


class OfMachine(Head, frozen=True, kw_only=True):
    """The fields of all lines of the machine: the operation with which the step took effect."""

    operation: Positive


class OpenMachine(OfMachine, frozen=True, kw_only=True, tag="open_machine"):
    """A process has opened the machine of this device."""

    user: Pseudonym
    device: Pseudonym
    peer: Pseudonym | None = None


class Batch(OfMachine, frozen=True, kw_only=True, tag="batch"):
    """The response to a sync has come. Each of its two parts was applied, or was stale."""

    connection: Pseudonym
    asked: NameOrNone
    next: NameOrNone
    lists_applied: bool
    events_applied: bool
    events: Number
    asked_events: NameOrNone = "none"
    next_events: NameOrNone = "none"
    sliding: bool = False
    serial: Number | None = None
    one_time_keys: CountOrNone | None = None
    fallback: Word | None = None
    changed: list[RecordName] = []


class Receive(OfMachine, frozen=True, kw_only=True, tag="receive"):
    """A to-device event was processed."""

    sender: NameOrNone
    type: Word
    outcome: Word


class DecryptOlm(OfMachine, frozen=True, kw_only=True, tag="decrypt_olm"):
    """An Olm message was decrypted, or could not be."""

    peer: Pseudonym
    outcome: Word
    message: Pseudonym | None = None
    ratchet: Pseudonym | None = None
    index: Number | None = None
    begins_session: bool = False
    mark: RecordName | None = None


class DecryptMegolm(OfMachine, frozen=True, kw_only=True, tag="decrypt_megolm"):
    """A room message was decrypted, or could not be."""

    outcome: Word
    session: Pseudonym | None = None
    room: Pseudonym | None = None
    sender: Pseudonym | None = None
    event: Pseudonym | None = None
    index: Number | None = None


class EncryptOlm(OfMachine, frozen=True, kw_only=True, tag="encrypt_olm"):
    """A message was encrypted with an index of an Olm ratchet."""

    peer: Pseudonym
    ratchet: Pseudonym
    index: Number
    device: Pseudonym | None = None
    request: Pseudonym | None = None


class EncryptMegolm(OfMachine, frozen=True, kw_only=True, tag="encrypt_megolm"):
    """A message was encrypted with an index of a Megolm session."""

    session: Pseudonym
    index: Number
    room: Pseudonym | None = None


class RoomKey(OfMachine, frozen=True, kw_only=True, tag="room_key"):
    """A room key has come or was made. It was kept if it was better than the stored one."""

    session: Pseudonym
    first_index: Number
    kept: bool
    source: Word | None = None
    sender: NameOrNone = "none"
    room: Pseudonym | None = None


class Share(OfMachine, frozen=True, kw_only=True, tag="share"):
    """Devices were sent a room key, each from an index on."""

    session: Pseudonym
    devices: list[Pseudonym]
    indices: list[Number] = []
    request: Pseudonym | None = None
    room: Pseudonym | None = None


class Withhold(OfMachine, frozen=True, kw_only=True, tag="withhold"):
    """Devices were told that they don't get a room key."""

    session: Pseudonym
    devices: list[Pseudonym]
    codes: list[Word] = []
    room: Pseudonym | None = None


class ToldWithheld(OfMachine, frozen=True, kw_only=True, tag="told_withheld"):
    """Another device has told this one that it does not get a room key."""

    session: Pseudonym
    code: Word
    sender: Pseudonym | None = None
    room: Pseudonym | None = None


class Offer(OfMachine, frozen=True, kw_only=True, tag="offer"):
    """One-time keys or a fallback key were made and offered."""

    request: Pseudonym
    one_time_keys: Number
    fallback: bool = False
    serial: Number | None = None
    keys: list[Pseudonym] = []
    fallback_key: Pseudonym | None = None
    kept_ms: Number | None = None


class Abandon(OfMachine, frozen=True, kw_only=True, tag="abandon"):
    """An offer was abandoned: it has failed, or no answer has come for a long time."""

    request: Pseudonym


class Send(OfMachine, frozen=True, kw_only=True, tag="send"):
    """Messages to devices were put into the outbox."""

    request: Pseudonym
    type: Word
    devices: list[Pseudonym] = []


class RequestMade(OfMachine, frozen=True, kw_only=True, tag="request"):
    """A request was handed out."""

    request: Pseudonym
    type: Word
    marks: list[RecordName] = []
    lists: list[RecordName] = []


class Answer(OfMachine, frozen=True, kw_only=True, tag="answer"):
    """The answer to a request has come."""

    request: Pseudonym
    type: Word
    one_time_keys: Count | None = None


class Claim(OfMachine, frozen=True, kw_only=True, tag="claim"):
    """A claim was handed out, for these marks."""

    request: Pseudonym
    marks: list[RecordName]
    claimed_ms: Time
    """The time that the commit noted in the marks (M8.3)."""


class MakeSession(OfMachine, frozen=True, kw_only=True, tag="make_session"):
    """A session with a device was made with a key that was claimed."""

    peer: Pseudonym


class Verification(OfMachine, frozen=True, kw_only=True, tag="verification"):
    """A verification has come to a phase, or its record was deleted."""

    record: RecordName
    phase: Word


class Backup(OfMachine, frozen=True, kw_only=True, tag="backup"):
    """The machine has learned of a backup or of its version, or the backup was turned off."""

    request: NameOrNone
    """The name of the request that creates a version with this key."""
    version: NameOrNone


class Give(OfMachine, frozen=True, kw_only=True, tag="give"):
    """Another device was sent what it had asked for, or a refusal."""

    asked: Pseudonym
    device: Pseudonym
    type: Word
    answered: RecordName | None = None


class Repair(OfMachine, frozen=True, kw_only=True, tag="repair"):
    """A record could not be read, and counts as lost."""

    record: RecordName


StoreLine: TypeAlias = (
    Open
    | Acquire
    | Want
    | Sync
    | Renew
    | LoseGuard
    | Release
    | Load
    | ListKeys
    | Outdated
    | Commit
    | CommitFails
    | Validate
    | Lose
    | Rerun
    | Subscribe
    | Unsubscribe
    | Publish
    | Truncate
    | Pause
    | Resume
    | Close
)

MachineLine: TypeAlias = (
    OpenMachine
    | Batch
    | Receive
    | DecryptOlm
    | DecryptMegolm
    | EncryptOlm
    | EncryptMegolm
    | RoomKey
    | Share
    | Withhold
    | ToldWithheld
    | Offer
    | Abandon
    | Send
    | RequestMade
    | Answer
    | Claim
    | MakeSession
    | Verification
    | Backup
    | Give
    | Repair
)

AnyLine: TypeAlias = StoreLine | MachineLine

DECODER: Final[msgspec.json.Decoder[AnyLine]] = msgspec.json.Decoder(AnyLine)


def schema() -> bytes:
    """Return the JSON Schema of a line."""
    title = "A line of a trace (spec/trace.md). Line feeds are before and after it, and empty lines mean nothing"
    made = {"$schema": SCHEMA, "title": title, **msgspec.json.schema(AnyLine)}
    return json.dumps(made, indent=2).encode() + b"\n"
