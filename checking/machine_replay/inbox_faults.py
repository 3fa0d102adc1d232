"""Inject the faults of the module Inbox into the machine. Each breaks the same rule as in the model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, TypeVar

from checking.replay.substitutions import Substitution
from unwedged.machine import OlmMachine, SyncOutcome, SyncPosition, devices, inbox, olm, rooms
from unwedged.machine.errors import MessageUnreadable
from unwedged.machine.identifiers import Curve25519Key, GroupSessionName, JsonObject, PeerName, TransactionId, UserId
from unwedged.machine.ratchets import Account, OlmMessage, OlmSession
from unwedged.machine.records import (
    ACCOUNT,
    INBOUND,
    OUTDATED,
    PEER,
    PUT_ASIDE,
    SYNC,
    TRACKED,
    InboundSession,
    Peer,
    PutAside,
)
from unwedged.machine.sync import SyncChanges, changes_of
from unwedged.store import RecordKind, Transaction

Key = TypeVar("Key")
Value = TypeVar("Value")

_receive = inbox.receive
_decrypt = olm.decrypt
_note_wedged = olm.note_wedged
_keep_better = rooms.keep_better
_try_again = inbox.try_again


# M5.2
def _stale_sync_response() -> Sequence[Substitution]:
    """A response is applied even if its request had another token."""

    async def receive(
        transaction: Transaction, changes: SyncChanges, asked_with: SyncPosition, now_ms: int
    ) -> tuple[SyncOutcome, bool]:
        class AsAsked(Transaction):
            async def get(self, kind: RecordKind[Key, Value], key: Key) -> Value | None:
                if kind.name != SYNC.name:
                    return await super().get(kind, key)
                token = asked_with.token
                return None if token is None else kind.value.decode(SYNC.value.encode(token))

        return await _receive(AsAsked(transaction._operation), changes, asked_with, now_ms)

    return [(inbox, "receive", receive)]


# M7.5
def _hash_after_failure() -> Sequence[Substitution]:
    """A message that can't be decrypted sets a mark without a check whether it is a repetition."""

    def decrypt(
        account: Account, peer: Peer, sender_key: Curve25519Key, message: OlmMessage, earlier: bytes = b""
    ) -> bytes:
        known, peer.digests = peer.digests, []
        try:
            return _decrypt(account, peer, sender_key, message, earlier)
        finally:
            peer.digests = known + peer.digests

    return [(olm, "decrypt", decrypt)]


# M7.4
def _failed_decrypt_mutates() -> Sequence[Substitution]:
    """A failed decryption changes the live session. The changed session is stored, and sends.

    Later messages are read by the session from before the attempt.
    """
    before_attempt: dict[str, str] = {}

    def decrypt(
        account: Account, peer: Peer, sender_key: Curve25519Key, message: OlmMessage, earlier: bytes = b""
    ) -> bytes:
        before = {each.session_id: before_attempt.get(each.session_id, each.pickle()) for each in peer.sessions}
        peer.sessions = list(map(OlmSession.from_pickle, before.values()))
        live = [(session, session._unpickled()) for session in peer.sessions]
        before_attempt.clear()
        try:
            return _decrypt(account, peer, sender_key, message, earlier)
        except MessageUnreadable:
            for session, attempted in live:
                session._session, session._pickle = attempted, None
            before_attempt.update(before)
            raise

    async def note_wedged(transaction: Transaction, name: PeerName) -> None:
        peer = await transaction.get(PEER, name)
        if peer is not None:
            transaction.put(PEER, name, peer)
        await _note_wedged(transaction, name)

    return [(olm, "decrypt", decrypt), (olm, "note_wedged", note_wedged)]


# M5.1
def _device_flag_lost() -> Sequence[Substitution]:
    """The token is stored, but the changes of device lists in the same response are not marked."""

    async def note_nobody(transaction: Transaction, user_ids: Iterable[UserId]) -> None:
        del transaction, user_ids

    return [(devices, "note_changed", note_nobody)]


def _better_key_lost_in_batch() -> Sequence[Substitution]:
    """A room key is compared with the one that was stored before the commit, not with one of the same commit."""
    before: dict[tuple[Transaction, GroupSessionName], InboundSession | None] = {}

    async def keep_better(transaction: Transaction, name: GroupSessionName, offered: InboundSession) -> bool:
        now = await transaction.get(INBOUND, name)
        stored = before.setdefault((transaction, name), now)
        if stored is not None:
            transaction.put(INBOUND, name, stored)
        elif now is not None:
            transaction.delete(INBOUND, name)
        return await _keep_better(transaction, name, offered)

    return [(rooms, "keep_better", keep_better)]


# M5.11
def _put_aside_decrypted_again() -> Sequence[Substitution]:
    """The plaintext of an event that is put aside is not stored."""

    async def try_again(transaction: Transaction, names: Iterable[TransactionId], now_ms: int) -> SyncOutcome:
        for name in names:
            aside = await transaction.get(PUT_ASIDE, name)
            if aside is not None:
                transaction.put(PUT_ASIDE, name, PutAside(aside.event, None))
        return await _try_again(transaction, names, now_ms)

    return [(inbox, "try_again", try_again)]


class _Parted(Transaction):
    """Writes some kinds of records, and collects the writes of the other kinds. It does not change what it reads."""

    __slots__ = ("_is_first", "_transaction", "rest")

    def __init__(self, transaction: Transaction, is_first: Callable[[str], bool]) -> None:
        super().__init__(transaction._operation)
        self._transaction = transaction
        self._is_first = is_first
        self.rest: list[Callable[[Transaction], None]] = []

    async def get(self, kind: RecordKind[Key, Value], key: Key) -> Value | None:
        value = await self._transaction.get(kind, key)
        return None if value is None else kind.value.decode(kind.value.encode(value))

    async def keys(self, kind: RecordKind[Key, Value]) -> tuple[Key, ...]:
        return await self._transaction.keys(kind)

    def put(self, kind: RecordKind[Key, Value], key: Key, value: Value) -> None:
        if self._is_first(kind.name):
            self._transaction.put(kind, key, value)
        else:
            self.rest.append(lambda transaction: transaction.put(kind, key, value))

    def delete(self, kind: RecordKind[Key, Value], key: Key) -> None:
        if self._is_first(kind.name):
            self._transaction.delete(kind, key)
        else:
            self.rest.append(lambda transaction: transaction.delete(kind, key))


def _two_commits(is_first: Callable[[str], bool]) -> Sequence[Substitution]:
    """Some kinds of records are stored first. The rest is stored when the process continues with the response."""
    half_done: dict[OlmMachine, tuple[_Parted, SyncOutcome]] = {}

    async def receive_sync_changes(machine: OlmMachine, response: JsonObject, asked_with: SyncPosition) -> SyncOutcome:
        async def begin(transaction: Transaction) -> None:
            parted = _Parted(transaction, is_first)
            changes = changes_of(response, asked_with)
            outcome, _ = await inbox.receive(parted, changes, asked_with, machine._clock.now())
            half_done[machine] = parted, outcome

        async def finish(transaction: Transaction) -> SyncOutcome:
            parted, outcome = half_done.pop(machine)
            for write in parted.rest:
                write(transaction)
            return outcome

        if machine in half_done:
            return await machine._store.run(finish)
        await machine._store.run(begin)
        return SyncOutcome(applied=True)

    return [(OlmMachine, "receive_sync_changes", receive_sync_changes)]


# M5.1, M7.7
def _session_before_payload() -> Sequence[Substitution]:
    """A session and the account are stored before the content of the message."""
    return _two_commits(lambda kind: kind in (PEER.name, ACCOUNT.name))


# M5.1
def _two_commits_per_sync() -> Sequence[Substitution]:
    """The account is stored in a second commit, after the session that has used a key of it."""
    return _two_commits(lambda kind: kind != ACCOUNT.name)


# M5.1
def _acknowledged_before_processed() -> Sequence[Substitution]:
    """The token and the marks are stored before the messages are processed."""
    return _two_commits(lambda kind: kind in (SYNC.name, TRACKED.name, OUTDATED.name))


FAULTS: Final[Mapping[str, Callable[[], Sequence[Substitution]]]] = {
    "stale-sync-response": _stale_sync_response,
    "hash-after-failure": _hash_after_failure,
    "session-before-payload": _session_before_payload,
    "two-commits-per-sync": _two_commits_per_sync,
    "device-flag-lost": _device_flag_lost,
    "failed-decrypt-mutates": _failed_decrypt_mutates,
    "acknowledged-before-processed": _acknowledged_before_processed,
    "better-key-lost-in-batch": _better_key_lost_in_batch,
    "put-aside-decrypted-again": _put_aside_decrypted_again,
}
