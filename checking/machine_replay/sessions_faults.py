"""Inject the faults of the module Sessions into the machine. Each breaks the same rule as in the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final
from weakref import WeakKeyDictionary

import msgspec

from checking.replay.substitutions import Substitution
from unwedged.machine import OlmMachine, Request, SyncOutcome, SyncPosition, olm, sharing
from unwedged.machine.identifiers import JsonObject, PeerName
from unwedged.machine.records import PEER, WANTED_SESSION, SharedKey
from unwedged.machine.requests import KeysClaim
from unwedged.store import Transaction

_hand_out_claim = olm.hand_out_claim


# M8.3
def _unwedge_races_itself() -> Sequence[Substitution]:
    """The time of a claim is stored when it is answered, not when it is handed out."""

    async def hand_out_claim(transaction: Transaction, now_ms: int) -> KeysClaim | None:
        times = {}
        for name in await transaction.keys(WANTED_SESSION):
            mark, peer = await transaction.get(WANTED_SESSION, name), await transaction.get(PEER, name)
            times[name] = 0 if mark is None else mark.not_before_ms, 0 if peer is None else peer.unwedged_ms
        claim = await _hand_out_claim(transaction, now_ms)
        for name, (not_before_ms, unwedged_ms) in times.items():
            mark, peer = await transaction.get(WANTED_SESSION, name), await transaction.get(PEER, name)
            assert mark is not None  # the mark was listed above
            assert peer is not None  # there is a session
            transaction.put(WANTED_SESSION, name, msgspec.structs.replace(mark, not_before_ms=not_before_ms))
            peer.unwedged_ms = unwedged_ms
            transaction.put(PEER, name, peer)
        return claim

    return [(olm, "hand_out_claim", hand_out_claim)]


# M8.1, M21.1
def _wedged_mark_in_memory() -> Sequence[Substitution]:
    """Only the process that received the message knows that a session is wedged, until it gets a claim."""
    receive_sync_changes, outgoing_requests = OlmMachine.receive_sync_changes, OlmMachine.outgoing_requests
    note_wedged = olm.note_wedged
    known: WeakKeyDictionary[OlmMachine, set[PeerName]] = WeakKeyDictionary()
    receiving: list[OlmMachine] = []

    async def receive(machine: OlmMachine, response: JsonObject, asked_with: SyncPosition) -> SyncOutcome:
        receiving[:] = [machine]
        return await receive_sync_changes(machine, response, asked_with)

    async def remember(transaction: Transaction, name: PeerName) -> None:
        del transaction
        known.setdefault(receiving[0], set()).add(name)

    async def outgoing(machine: OlmMachine) -> list[Request]:
        for name in known.pop(machine, ()):
            await machine._store.run(note_wedged, name)
        return await outgoing_requests(machine)

    return [
        (OlmMachine, "receive_sync_changes", receive),
        (OlmMachine, "outgoing_requests", outgoing),
        (olm, "note_wedged", remember),
    ]


# M8.11
def _shared_set_survives_unwedging() -> Sequence[Substitution]:
    """A room key that was sent over a broken session still counts as sent after the session is replaced."""
    take_claim_answer = olm.take_claim_answer

    async def take(transaction: Transaction, request: KeysClaim, response: JsonObject, now_ms: int) -> None:
        names = [PeerName(claimed.device.user_id, claimed.curve25519) for claimed in request.wanted]
        before = {name: peer.generation for name in names if (peer := await transaction.get(PEER, name)) is not None}
        await take_claim_answer(transaction, request, response, now_ms)
        for name, generation in before.items():
            peer = await transaction.get(PEER, name)
            assert peer is not None  # there was a session before
            peer.generation = generation
            transaction.put(PEER, name, peer)

    return [(olm, "take_claim_answer", take)]


# M8.11
def _earlier_keys_not_resent() -> Sequence[Substitution]:
    """Only the newest room key is sent again over a new session."""

    async def none_lacking(*_: object) -> list[tuple[SharedKey, PeerName]]:
        return []

    return [(sharing, "_earlier_lacking", none_lacking)]


FAULTS: Final[Mapping[str, Callable[[], Sequence[Substitution]]]] = {
    "unwedge-races-itself": _unwedge_races_itself,
    "wedged-mark-in-memory": _wedged_mark_in_memory,
    "shared-set-survives-unwedging": _shared_set_survives_unwedging,
    "earlier-keys-not-resent": _earlier_keys_not_resent,
}
