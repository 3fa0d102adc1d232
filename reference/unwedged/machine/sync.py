"""The parts of a sync response that the machine uses, in both forms of sync (pure).

Classic sync has one token, which covers to-device messages and device lists. Simplified sliding sync has two: ``pos``
of one connection, and ``since`` of the device's to-device messages. A missing count means 0 in classic sync, and an
unchanged count in sliding sync (M3.3, M3.4).
"""

from __future__ import annotations

from typing import Final

import msgspec

from unwedged.machine.errors import MalformedResponse
from unwedged.machine.identifiers import ONE_TIME_KEY, JsonObject, UserId
from unwedged.machine.unshown import Unshown
from unwedged.machine.wire import is_storable, parsed

TO_DEVICE: Final = "to_device"
"""The name of the position that all sliding connections of a device share."""


class SyncPosition(msgspec.Struct, frozen=True):
    """What a sync is asked with. The caller passes it back with the response."""

    connection: str
    """The caller's name for the connection."""
    token: str | None
    """``since`` in classic sync, ``pos`` in sliding sync; ``None`` for a first sync."""
    to_device_token: str | None
    """``since`` of the to-device extension; in classic sync the same as ``token``."""
    sliding: bool
    serial: int
    """The serial of this device's offers when the sync was asked (M3.1)."""


class SyncChanges(Unshown, msgspec.Struct, frozen=True):
    """The content of one response that the machine uses."""

    next_token: str
    to_device: list[object]
    next_to_device_token: str | None
    """``None`` if the response has no part for to-device messages."""
    changed: list[UserId]
    left: list[UserId]
    one_time_keys: int | None
    """How many the homeserver holds; ``None`` if the response does not say."""
    unused_fallback_types: list[str] | None


class _DeviceLists(msgspec.Struct):
    changed: list[UserId] = []
    left: list[UserId] = []


class _Events(Unshown, msgspec.Struct):
    events: list[object] = []


class _Classic(msgspec.Struct):
    next_batch: str
    to_device: _Events = msgspec.field(default_factory=_Events)
    device_lists: _DeviceLists = msgspec.field(default_factory=_DeviceLists)
    device_one_time_keys_count: dict[str, int] = {}
    device_unused_fallback_key_types: list[str] | None = None


class _SlidingToDevice(Unshown, msgspec.Struct):
    next_batch: str
    events: list[object] = []


class _SlidingE2ee(msgspec.Struct):
    device_lists: _DeviceLists = msgspec.field(default_factory=_DeviceLists)
    device_one_time_keys_count: dict[str, int] | None = None
    device_unused_fallback_key_types: list[str] | None = None


class _Extensions(msgspec.Struct):
    to_device: _SlidingToDevice | None = None
    e2ee: _SlidingE2ee = msgspec.field(default_factory=_SlidingE2ee)


class _Sliding(msgspec.Struct):
    pos: str
    extensions: _Extensions = msgspec.field(default_factory=_Extensions)


def changes_of(response: JsonObject, asked_with: SyncPosition) -> SyncChanges:
    """Parse a response (M3.3). Raises ``MalformedResponse``, whose text has no part of it."""
    what = "the response to a sync"
    if asked_with.sliding:
        changes = _of_sliding(parsed(response, _Sliding, what, MalformedResponse))
    else:
        changes = _of_classic(parsed(response, _Classic, what, MalformedResponse))
    # Each event is checked by itself, later.
    if not is_storable(msgspec.structs.replace(changes, to_device=[])):
        raise MalformedResponse(f"{what} has a name that no record can keep")
    return changes


def _of_classic(response: _Classic) -> SyncChanges:
    lists = response.device_lists
    # A missing count means that there are none (Matrix specification, /sync).
    count = response.device_one_time_keys_count.get(ONE_TIME_KEY, 0)
    unused = response.device_unused_fallback_key_types
    token = response.next_batch
    return SyncChanges(token, response.to_device.events, token, lists.changed, lists.left, count, unused)


def _of_sliding(response: _Sliding) -> SyncChanges:
    to_device, e2ee = response.extensions.to_device, response.extensions.e2ee
    counts = e2ee.device_one_time_keys_count
    return SyncChanges(
        next_token=response.pos,
        to_device=[] if to_device is None else to_device.events,
        next_to_device_token=None if to_device is None else to_device.next_batch,
        changed=e2ee.device_lists.changed,
        left=e2ee.device_lists.left,
        # Here a missing count means that the count is unchanged.
        one_time_keys=None if counts is None else counts.get(ONE_TIME_KEY, 0),
        unused_fallback_types=e2ee.device_unused_fallback_key_types,
    )
