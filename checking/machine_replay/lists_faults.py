"""Inject the faults of the module Lists into the machine. Each breaks the same rule as in the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from checking.replay.substitutions import Substitution
from unwedged.machine import devices
from unwedged.machine.devices import device_list
from unwedged.machine.identifiers import JsonObject, UserId
from unwedged.machine.records import DEVICES, OUTDATED
from unwedged.machine.requests import KeysQuery, objects
from unwedged.store import Transaction


# M6.2
def _late_response_wins() -> Sequence[Substitution]:
    """A device list is taken from any response. Only the mark is compared by its number."""

    async def take(transaction: Transaction, request: KeysQuery, response: JsonObject) -> None:
        await _take_lists(transaction, response)
        for user_id, number in request.users.items():
            if await transaction.get(OUTDATED, user_id) == number:
                transaction.delete(OUTDATED, user_id)

    return [(devices, "take_query_answer", take)]


# M6.2
def _query_clears_newer_flag() -> Sequence[Substitution]:
    """A response settles every mark of its users."""

    async def take(transaction: Transaction, request: KeysQuery, response: JsonObject) -> None:
        await _take_lists(transaction, response)
        for user_id in request.users:
            transaction.delete(OUTDATED, user_id)

    return [(devices, "take_query_answer", take)]


# M5.4
def _posless_sync_drops_lists() -> Sequence[Substitution]:
    """A sync without a token marks no user."""

    async def mark_nobody(transaction: Transaction) -> None:
        del transaction

    return [(devices, "note_all_changed", mark_nobody)]


async def _take_lists(transaction: Transaction, response: JsonObject) -> None:
    for name, answer in objects(response, "device_keys").items():
        user_id = UserId(name)
        before = await transaction.get(DEVICES, user_id) or {}
        transaction.put(DEVICES, user_id, device_list(user_id, before, answer, {}))


FAULTS: Final[Mapping[str, Callable[[], Sequence[Substitution]]]] = {
    "late-response-wins": _late_response_wins,
    "query-clears-newer-flag": _query_clears_newer_flag,
    "posless-sync-drops-lists": _posless_sync_drops_lists,
}
