"""Records that can't be read: each counts as lost and is replaced (M23). So none of them stops every sync.

A record can't be read if the file was damaged, or if the program that wrote it declares its kind differently.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar, TypeVarTuple

from unwedged.machine import account, backup, devices, olm, tracing
from unwedged.machine.identifiers import MEGOLM, Ed25519Key
from unwedged.machine.records import (
    ACCOUNT,
    BACKLOG,
    BACKUP,
    DEVICES,
    IDENTITY,
    IDENTITY_TRUST,
    INBOUND,
    KINDS,
    LOCAL_TRUST,
    OFFER,
    OUTDATED,
    OWN_DEVICE,
    PEER,
    RECIPIENTS_VERSION,
    ROOM,
    TRACKED,
    UNBACKED,
    UNPROCESSED,
    WANTED_SESSION,
    Backlog,
    LocalTrust,
    Peer,
    RoomSettings,
    Tracked,
)
from unwedged.store import CryptoStore, RecordKind, Transaction, UnreadableRecord, View
from unwedged.store.crypto_store import MOST_ATTEMPTS

Result = TypeVar("Result")
Arguments = TypeVarTuple("Arguments")

IRREPLACEABLE: Final = frozenset({ACCOUNT.name, OWN_DEVICE.name})
"""Without these records there is no device any more."""

_KINDS: Final = {kind.name: kind for kind in KINDS}

logger = logging.getLogger(__name__)


class RepairedStore(CryptoStore):
    """A store that replaces a record that can't be read, and then runs the operation that met it again (M23.1)."""

    async def run(
        self,
        operation: Callable[[Transaction, *Arguments], Awaitable[Result]],
        *arguments: *Arguments,
        attempts: int = MOST_ATTEMPTS,
    ) -> Result:
        """Like ``CryptoStore.run``."""
        while True:
            try:
                return await super().run(operation, *arguments, attempts=attempts)
            except UnreadableRecord as unreadable:
                await self._repair(unreadable)

    async def query(
        self,
        operation: Callable[[View, *Arguments], Awaitable[Result]],
        *arguments: *Arguments,
        attempts: int = MOST_ATTEMPTS,
    ) -> Result:
        """Like ``CryptoStore.query``."""
        while True:
            try:
                return await super().query(operation, *arguments, attempts=attempts)
            except UnreadableRecord as unreadable:
                await self._repair(unreadable)

    async def _repair(self, unreadable: UnreadableRecord) -> None:
        if unreadable.record is None or unreadable.record[0] in IRREPLACEABLE:
            raise unreadable
        await self.run(replace, *unreadable.record)


async def replace(transaction: Transaction, kind_name: str, key: bytes) -> None:
    """If a record can't be read, write its replacement (M23.2)."""
    kind = _KINDS[kind_name]
    assert isinstance(kind, RecordKind)
    name = kind.decode_key(key)
    try:
        await transaction.get(kind, name)
    except UnreadableRecord as unreadable:
        if unreadable.record != (kind_name, key):
            raise
    else:
        return  # another process was faster
    logger.error("a record can't be read, and counts as lost kind=%s", kind_name)
    tracing.repaired(transaction, kind_name, key)
    transaction.delete(kind, name)
    match kind_name:
        case PEER.name:
            # No number may equal one of the lost record.
            peer = PEER.decode_key(key)
            transaction.put(PEER, peer, Peer(generation=_any_number(), claims=_any_number()))
            await olm.note_wedged(transaction, peer)
            await olm.note_new_recipients(transaction)
        case WANTED_SESSION.name:
            await olm.note_wedged(transaction, WANTED_SESSION.decode_key(key))
        case RECIPIENTS_VERSION.name:
            transaction.put(RECIPIENTS_VERSION, None, _any_number())
        case TRACKED.name:
            devices.mark(transaction, TRACKED.decode_key(key), Tracked(_any_number()))
        case OUTDATED.name:
            user_id = OUTDATED.decode_key(key)
            tracked = await transaction.get(TRACKED, user_id)
            devices.mark(transaction, user_id, tracked)
        case DEVICES.name | IDENTITY.name:
            await devices.note_changed(transaction, [DEVICES.decode_key(key)])
            await olm.note_new_recipients(transaction)
        case LOCAL_TRUST.name:
            user_id = LOCAL_TRUST.decode_key(key)
            trust: dict[Ed25519Key, LocalTrust] = {}
            for device in (await transaction.get(DEVICES, user_id) or {}).values():
                trust[device.ed25519] = device.trust
            transaction.put(LOCAL_TRUST, user_id, trust)
        case IDENTITY_TRUST.name:
            identity = await transaction.get(IDENTITY, IDENTITY_TRUST.decode_key(key))
            if identity is not None:
                transaction.put(IDENTITY_TRUST, IDENTITY_TRUST.decode_key(key), identity.trust)
        case ROOM.name:
            transaction.put(ROOM, ROOM.decode_key(key), RoomSettings(MEGOLM))  # an encrypted room stays encrypted
        case OFFER.name:
            await account.lose_offer(transaction)
        case INBOUND.name:
            transaction.delete(UNBACKED, INBOUND.decode_key(key))
        case UNBACKED.name:
            session = UNBACKED.decode_key(key)
            if await transaction.get(INBOUND, session) is not None:
                backup.mark(transaction, session)
        case BACKUP.name:
            await backup.turn_off(transaction)
        case BACKLOG.name:
            left = await transaction.keys(UNPROCESSED)
            if left:
                backlog = Backlog(min(left), max(left) + 1)
                transaction.put(BACKLOG, None, backlog)


def _any_number() -> int:
    return secrets.randbits(40)
