"""Faults of the module Keys, injected into the machine. Each breaks the rule that the model of its name breaks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeVar

import msgspec

from checking.replay.substitutions import Substitution
from unwedged.machine import account, sync
from unwedged.machine.account import hand_out_offer, own_device
from unwedged.machine.records import OFFER
from unwedged.machine.requests import KeysUpload
from unwedged.machine.sync import SyncChanges
from unwedged.store import RecordKind, Transaction

Key = TypeVar("Key")
Value = TypeVar("Value")


def _count_absent_two_meanings() -> Sequence[Substitution]:
    """A count that sliding sync leaves out is taken for 0."""
    of_sliding = sync._of_sliding

    def zero(response: sync._Sliding) -> SyncChanges:
        changes = of_sliding(response)
        return msgspec.structs.replace(changes, one_time_keys=changes.one_time_keys or 0)

    return [(sync, "_of_sliding", zero)]


def _upload_before_persist() -> Sequence[Substitution]:
    """An offer leaves, and nothing of it is noted: none but that with which the device begins."""

    class Unsaved(Transaction):
        """Writes nothing, and lets nothing that it reads be changed."""

        def __init__(self, transaction: Transaction) -> None:
            self._transaction = transaction

        async def get(self, kind: RecordKind[Key, Value], key: Key) -> Value | None:
            value = await self._transaction.get(kind, key)
            return None if value is None else kind.value.decode(kind.value.encode(value))

        def put(self, kind: RecordKind[Key, Value], key: Key, value: Value) -> None:
            pass

        def delete(self, kind: RecordKind[Key, Value], key: Key) -> None:
            pass

    async def make(transaction: Transaction, now_ms: int) -> KeysUpload | None:
        begins = not (await own_device(transaction)).published
        return await hand_out_offer(transaction if begins else Unsaved(transaction), now_ms)

    return [(account, "hand_out_offer", make)]


def _handed_out_again() -> Sequence[Substitution]:
    """An open offer is handed out to whoever asks."""
    made: list[KeysUpload] = []

    async def make(transaction: Transaction, now_ms: int) -> KeysUpload | None:
        if await transaction.get(OFFER, None) is not None:
            return made[-1]
        upload = await hand_out_offer(transaction, now_ms)
        if upload is not None:
            made.append(upload)
        return upload

    return [(account, "hand_out_offer", make)]


FAULTS: Final[Mapping[str, Callable[[], Sequence[Substitution]]]] = {
    "count-absent-two-meanings": _count_absent_two_meanings,
    "upload-before-persist": _upload_before_persist,
    "upload-repeated": _handed_out_again,
    "one-time-exchange-frozen": _handed_out_again,
}
