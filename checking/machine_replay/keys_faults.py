"""Inject the faults of the module Keys into the machine. Each breaks the same rule as in the model."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, TypeVar, TypeVarTuple, cast

import msgspec

from checking.replay.substitutions import Substitution
from unwedged.machine import account, inbox
from unwedged.machine.account import hand_out_offer, open_account, own_account, own_device, take_upload_answer
from unwedged.machine.errors import MessageUnreadable
from unwedged.machine.identifiers import Curve25519Key, Device, JsonObject, PeerName, TransactionId, UserId
from unwedged.machine.ratchets import Account
from unwedged.machine.records import ACCOUNT, OFFER, OWN_DEVICE, OwnDevice, ReportedKeys
from unwedged.machine.repair import RepairedStore
from unwedged.machine.requests import KeysUpload
from unwedged.machine.sync import SyncPosition
from unwedged.machine.unpadded_base64 import to_unpadded, unpadded
from unwedged.store import RecordKind, Transaction
from unwedged.store.crypto_store import MOST_ATTEMPTS

Key = TypeVar("Key")
Value = TypeVar("Value")
Arguments = TypeVarTuple("Arguments")

_ONE_TIME_KEY: Final = slice(3, 35)
"""The position of the one-time key in a pre-key message: after the version, the field's tag and its length."""


# M3.4
def _count_absent_two_meanings() -> Sequence[Substitution]:
    """A count that sliding sync leaves out counts as 0."""
    reported_now = account.reported_now

    def zero(own: OwnDevice, asked_with: SyncPosition, said: ReportedKeys) -> ReportedKeys:
        reported = reported_now(own, asked_with, said)
        return msgspec.structs.replace(reported, one_time_keys=said.one_time_keys or 0)

    return [(account, "reported_now", zero)]


# M1.1
def _account_fork_at_creation() -> Sequence[Substitution]:
    """The account is looked for in one operation, and created in another operation."""
    run = RepairedStore.run

    async def make(transaction: Transaction, device: Device) -> OwnDevice:
        transaction.delete(OWN_DEVICE, None)
        return await open_account(transaction, device)

    async def run_apart(
        store: RepairedStore,
        operation: Callable[[Transaction, *Arguments], Awaitable[object]],
        *arguments: *Arguments,
        attempts: int = MOST_ATTEMPTS,
    ) -> object:
        if operation.__name__ != "open_account":
            return await run(store, operation, *arguments, attempts=attempts)
        (device,) = cast("tuple[Device]", arguments)
        return await run(store, Transaction.get, OWN_DEVICE, None) or await run(store, make, device)

    return [(RepairedStore, "run", run_apart)]


# M2.1
def _upload_before_persist() -> Sequence[Substitution]:
    """An offer is sent without being stored."""

    class Unsaved(Transaction):
        """Writes nothing, and returns copies of what it reads."""

        async def get(self, kind: RecordKind[Key, Value], key: Key) -> Value | None:
            value = await super().get(kind, key)
            return None if value is None else kind.value.decode(kind.value.encode(value))

        def put(self, kind: RecordKind[Key, Value], key: Key, value: Value) -> None:
            pass

        def delete(self, kind: RecordKind[Key, Value], key: Key) -> None:
            pass

    async def make(transaction: Transaction, now_ms: int) -> KeysUpload | None:
        return await hand_out_offer(Unsaved(transaction._operation), now_ms)

    return [(account, "hand_out_offer", make)]


# M2.2, M2.3
def _handed_out_again() -> Sequence[Substitution]:
    """Each process that asks for requests gets the open offer."""
    made: list[KeysUpload] = []

    async def make(transaction: Transaction, now_ms: int) -> KeysUpload | None:
        if await transaction.get(OFFER, None) is not None:
            return made[-1]
        upload = await hand_out_offer(transaction, now_ms)
        if upload is not None:
            made.append(upload)
        return upload

    return [(account, "hand_out_offer", make)]


# M3.2
def _stale_count() -> Sequence[Substitution]:
    """A count is used even if an offer is open, or if an offer was made since the request of the sync."""
    note_counts = account.note_counts

    class WithoutOffer(Transaction):
        async def get(self, kind: RecordKind[Key, Value], key: Key) -> Value | None:
            value = await super().get(kind, key)
            return None if kind.name == OFFER.name else value

    async def note(transaction: Transaction, asked_with: SyncPosition, said: ReportedKeys) -> None:
        serial = (await own_device(transaction)).serial
        await note_counts(
            WithoutOffer(transaction._operation), msgspec.structs.replace(asked_with, serial=serial), said
        )

    return [(account, "note_counts", note)]


# M2.5
def _publish_marks_too_many() -> Sequence[Substitution]:
    """The response to any offer counts as the response to the open offer."""

    async def take(transaction: Transaction, request: KeysUpload, response: JsonObject, now_ms: int) -> None:
        offer = await transaction.get(OFFER, None)
        answered = request if offer is None else KeysUpload(offer.offer_id, request.body)
        await take_upload_answer(transaction, answered, response, now_ms)

    return [(account, "take_upload_answer", take)]


# M2.9
def _upload_again_same_id() -> Sequence[Substitution]:
    """An abandoned offer takes its keys with it: the account is restored to its state before the offer."""
    make_one_time_keys, abandon_offer = Account.make_one_time_keys, account.abandon_offer
    before: dict[TransactionId, str] = {}
    pickles: list[str] = []

    def make(keys: Account, count: int) -> dict[str, Curve25519Key]:
        pickles.append(keys.pickle())
        return make_one_time_keys(keys, count)

    async def offer(transaction: Transaction, now_ms: int) -> KeysUpload | None:
        pickles.clear()
        upload = await hand_out_offer(transaction, now_ms)
        if upload is not None and pickles:
            before[upload.offer_id] = pickles[0]
        return upload

    async def abandon(transaction: Transaction, request: KeysUpload) -> None:
        is_open = await transaction.get(OFFER, None) is not None
        await abandon_offer(transaction, request)
        if is_open and await transaction.get(OFFER, None) is None and request.offer_id in before:
            transaction.put(ACCOUNT, None, Account.from_pickle(before[request.offer_id]))

    return [
        (Account, "make_one_time_keys", make),
        (account, "hand_out_offer", offer),
        (account, "abandon_offer", abandon),
    ]


# M7.8
def _key_dropped_by_bad_message() -> Sequence[Substitution]:
    """A message that can't be decrypted uses up its one-time key, as if a session had been made with the key."""
    decrypt = inbox._decrypt

    async def decrypt_or_spend(
        transaction: Transaction, sender: UserId, content: inbox._Encrypted, device: OwnDevice
    ) -> tuple[bytes, PeerName | None]:
        try:
            return await decrypt(transaction, sender, content, device)
        except MessageUnreadable:
            own = await own_account(transaction)
            ((_, ciphertext),) = content.ciphertext.items()
            named = unpadded(ciphertext.body)[_ONE_TIME_KEY]
            other = Account()
            message = other.outbound_session(own.curve25519, to_unpadded(named)).encrypt(b"")
            own.inbound_session(other.curve25519, message)
            transaction.put(ACCOUNT, None, own)
            raise

    return [(inbox, "_decrypt", decrypt_or_spend)]


# M4.2
def _fallback_cycled_early() -> Sequence[Substitution]:
    """A fallback key is replaced as soon as the homeserver says that the key was used."""

    def wants(own: OwnDevice, now_ms: int) -> bool:
        del now_ms
        return own.fallback is None or own.fallback_used

    return [(account, "wants_new_fallback", wants)]


# M4.4, M4.5
def _fallback_put_back() -> Sequence[Substitution]:
    """The response to an abandoned offer is ignored, even if the offer had an older fallback key."""

    async def take(transaction: Transaction, request: KeysUpload, response: JsonObject, now_ms: int) -> None:
        offer = await transaction.get(OFFER, None)
        if offer is not None and offer.offer_id == request.offer_id:
            await take_upload_answer(transaction, request, response, now_ms)

    return [(account, "take_upload_answer", take)]


FAULTS: Final[Mapping[str, Callable[[], Sequence[Substitution]]]] = {
    "account-fork-at-creation": _account_fork_at_creation,
    "stale-count": _stale_count,
    "publish-marks-too-many": _publish_marks_too_many,
    "upload-again-same-id": _upload_again_same_id,
    "key-dropped-by-bad-message": _key_dropped_by_bad_message,
    "fallback-cycled-early": _fallback_cycled_early,
    "fallback-put-back": _fallback_put_back,
    "count-absent-two-meanings": _count_absent_two_meanings,
    "upload-before-persist": _upload_before_persist,
    "upload-repeated": _handed_out_again,
    "one-time-exchange-frozen": _handed_out_again,
}
