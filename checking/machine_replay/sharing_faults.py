"""Inject the faults of the module Sharing into the machine. Each breaks the same rule as in the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec

from checking.replay.substitutions import Substitution
from unwedged.machine import OlmMachine, Sharing, sharing
from unwedged.machine.identifiers import Device, JsonObject, PeerName, RoomId, TransactionId, UserId
from unwedged.machine.ratchets import OutboundGroup
from unwedged.machine.records import OUTBOUND, OutboundSession, RoomSettings, SharedKey
from unwedged.store import Transaction

_encrypt = sharing.encrypt
_share = sharing.share


class _SaveFailed(Exception):
    """Makes a commit fail."""


# M10.2
def _send_before_persist() -> Sequence[Substitution]:
    """A message is sent before its index is stored. The process dies before the commit of the index."""

    async def encrypt(
        transaction: Transaction,
        room_id: RoomId,
        shared: Sharing,
        event_type: str,
        content: Mapping[str, object],
        now_ms: int,
    ) -> JsonObject:
        outbound = await transaction.get(OUTBOUND, room_id)
        stored = None if outbound is None else outbound.session.pickle()
        encrypted = await _encrypt(transaction, room_id, shared, event_type, content, now_ms)
        assert outbound is not None  # the key was shared before
        assert stored is not None
        before = msgspec.structs.replace(outbound, session=OutboundGroup.from_pickle(stored))
        transaction.put(OUTBOUND, room_id, before)
        return encrypted

    return [(sharing, "encrypt", encrypt)]


# M10.2
def _save_error_ignored() -> Sequence[Substitution]:
    """The commit of an index fails, but the message is sent."""

    async def encrypt(
        machine: OlmMachine, room_id: str, shared: Sharing, event_type: str, content: Mapping[str, object]
    ) -> JsonObject:
        encrypted: list[JsonObject] = []

        async def fail(transaction: Transaction) -> None:
            names = RoomId(room_id), shared, event_type
            encrypted.append(await _encrypt(transaction, *names, content, machine._clock.now()))
            raise _SaveFailed

        try:
            await machine._store.run(fail)
        except _SaveFailed:
            return encrypted[0]
        raise AssertionError

    return [(OlmMachine, "encrypt_room_event", encrypt)]


# M9.1, M21.1, M21.2
def _requests_in_memory() -> Sequence[Substitution]:
    """The store says that a device has a key, but the request that sends the key is not stored."""

    def send(transaction: Transaction, event_type: str, contents: Mapping[Device, JsonObject]) -> TransactionId:
        del transaction, event_type, contents
        return TransactionId("in memory")

    return [(sharing, "send", send)]


def _shared_then_invalidated() -> Sequence[Substitution]:
    """The requests that send a key are stored, but the session of the key is not."""

    async def share(
        transaction: Transaction, room_id: RoomId, user_ids: frozenset[UserId], now_ms: int
    ) -> Sharing | None:
        shared = await _share(transaction, room_id, user_ids, now_ms)
        transaction.delete(OUTBOUND, room_id)
        return shared

    return [(sharing, "share", share)]


# M9.4, M9.7
def _left_member_kept() -> Sequence[Substitution]:
    """The machine does not check whether a device with the key may still read messages."""

    def must_rotate(
        outbound: OutboundSession,
        shared: SharedKey,
        settings: RoomSettings,
        recipients: frozenset[PeerName],
        now_ms: int,
    ) -> bool:
        del shared, recipients
        return sharing.is_used_up(outbound, settings, now_ms)

    return [(sharing, "must_rotate", must_rotate)]


FAULTS: Final[Mapping[str, Callable[[], Sequence[Substitution]]]] = {
    "send-before-persist": _send_before_persist,
    "save-error-ignored": _save_error_ignored,
    "requests-in-memory": _requests_in_memory,
    "shared-then-invalidated": _shared_then_invalidated,
    "left-member-kept": _left_member_kept,
}
