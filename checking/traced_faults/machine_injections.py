"""Substitutions that give a real process a fault of the machine, by the fault's name in the track record."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Final, TypeVarTuple

import msgspec

from checking.machine_replay import keys_faults
from checking.machine_replay.counterparts import COUNTERPARTS
from checking.replay.substitutions import Substitution, substituted
from checking.traced_faults.processes import say
from unwedged.machine import KeysUpload, OlmMachine, Sharing, account, machine, rooms, sharing
from unwedged.machine.identifiers import JsonObject, RoomId
from unwedged.machine.records import KINDS, OFFER, Reading
from unwedged.machine.repair import RepairedStore
from unwedged.protocol import cache
from unwedged.store import TEXT, Codec, RecordKind, Transaction
from unwedged.store.crypto_store import MOST_ATTEMPTS
from unwedged.trace import Field

Arguments = TypeVarTuple("Arguments")

OFFERED: Final = RecordKind(
    "offered", key=TEXT, value=Codec(msgspec.json.encode, msgspec.json.Decoder(KeysUpload).decode)
)
"""The request of the open offer. Only the faulty machine keeps it."""

_hand_out_offer = account.hand_out_offer
_encrypt = sharing.encrypt


# P2.5, P2.6
def _session_cache_survives() -> Sequence[Substitution]:
    """A process keeps everything that it has in memory, even what other processes have changed."""
    return [(cache, "sync", lambda kept, log: replace(kept, version=log.version))]


# M12.1
def _replay_accepted() -> Sequence[Substitution]:
    """The machine does not check whether a message was read as another event before. No model has this fault."""

    async def note(readings: object, transaction: Transaction, index: int, reading: Reading) -> None:
        del readings, transaction, index, reading

    return [(rooms._Readings, "note", note)]


# M1.1
def _account_fork_at_creation() -> Sequence[Substitution]:
    """Inject the model's fault. A process that has found no account writes a line, and waits before it creates one."""
    run = RepairedStore.run

    async def run_and_wait(
        store: RepairedStore,
        operation: Callable[[Transaction, *Arguments], Awaitable[object]],
        *arguments: *Arguments,
        attempts: int = MOST_ATTEMPTS,
    ) -> object:
        if operation.__name__ == "make":
            say("")
            await asyncio.to_thread(sys.stdin.readline)
        return await run(store, operation, *arguments, attempts=attempts)

    with substituted([(RepairedStore, "run", run_and_wait)]):
        return keys_faults.FAULTS["account-fork-at-creation"]()


# M2.2, M2.3
def _handed_out_again() -> Sequence[Substitution]:
    """An open offer is stored with its request, and each process that asks for requests gets it again."""

    async def make(transaction: Transaction, now_ms: int) -> KeysUpload | None:
        if await transaction.get(OFFER, None) is not None:
            return await transaction.get(OFFERED, "")
        upload = await _hand_out_offer(transaction, now_ms)
        if upload is not None:
            transaction.put(OFFERED, "", upload)
        return upload

    return [(account, "hand_out_offer", make), (machine, "KINDS", (*KINDS, OFFERED))]


# M10.2
def _save_error_ignored() -> Sequence[Substitution]:
    """Inject the model's fault. The program also writes into its trace the steps that it believes to be stored."""

    async def encrypt(
        machine: OlmMachine, room_id: str, shared: Sharing, event_type: str, content: Mapping[str, object]
    ) -> JsonObject:
        encrypted: list[JsonObject] = []
        said: list[tuple[str, dict[str, Field]]] = []

        async def fail(transaction: Transaction) -> None:
            names = RoomId(room_id), shared, event_type
            encrypted.append(await _encrypt(transaction, *names, content, machine._clock.now()))
            operation = transaction._operation.trace
            assert operation is not None
            noted = [each for each in operation.remarks._noted if not isinstance(each, Exception)]
            said.extend((step, {"operation": operation._named["operation"], **fields}) for step, fields in noted)
            raise _SaveFailed

        with suppress(_SaveFailed):
            await machine._store.run(fail)
        trace = machine._store._services.trace
        assert trace is not None
        for step, fields in said:
            trace.write(step, fields)
        return encrypted[0]

    return [(OlmMachine, "encrypt_room_event", encrypt)]


class _SaveFailed(Exception):
    """Makes a commit fail."""


INJECTIONS: Final[Mapping[str, Callable[[], Sequence[Substitution]]]] = {
    **{slug: fault for kind in COUNTERPARTS.values() for slug, fault in kind.faults.items()},
    "account-fork-at-creation": _account_fork_at_creation,
    "one-time-exchange-frozen": _handed_out_again,
    "replay-accepted": _replay_accepted,
    "session-cache-survives": _session_cache_survives,
    "save-error-ignored": _save_error_ignored,
    "upload-repeated": _handed_out_again,
}
