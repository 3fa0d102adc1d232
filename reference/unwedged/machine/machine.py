"""One Matrix device that any number of processes share.

Each call is one operation on the store, or a few in a row (M20.1). Callers deal with no lock. The object itself keeps
nothing that another process could change, so it is never out of date. It does not use the network: it returns requests
and takes responses, in the JSON of the client-server API (M20.3).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from types import TracebackType

from unwedged.machine import (
    account,
    backup,
    cross_signing,
    devices,
    gossip,
    identities,
    inbox,
    key_requests,
    olm,
    outbox,
    rooms,
    secrets,
    sharing,
    tracing,
    verifications,
)
from unwedged.machine.cross_signing import CrossSigning
from unwedged.machine.errors import InvalidArgument, MachineError, MalformedResponse
from unwedged.machine.exports import ExportedSession
from unwedged.machine.identifiers import (
    Curve25519Key,
    Device,
    DeviceId,
    Ed25519Key,
    GroupSessionName,
    JsonObject,
    RoomId,
    UserId,
)
from unwedged.machine.inbox import SyncOutcome
from unwedged.machine.key_backup import KeyBackup
from unwedged.machine.records import (
    DEVICES,
    INBOUND,
    KINDS,
    OWN_DEVICE,
    KeySource,
    KnownDevice,
    LocalTrust,
    SharingStrategy,
)
from unwedged.machine.repair import RepairedStore
from unwedged.machine.requests import (
    BackupUpload,
    BackupVersionCreate,
    BackupVersionQuery,
    KeysClaim,
    KeysQuery,
    KeysUpload,
    Request,
    RoomMessage,
    SignatureUpload,
    SigningKeysUpload,
    ToDevice,
    must_be_request,
)
from unwedged.machine.rooms import KEYS_IN_A_COMMIT, DecryptedEvent
from unwedged.machine.secret_sharing import SecretSharing
from unwedged.machine.sharing import Sharing
from unwedged.machine.sync import SyncPosition, changes_of
from unwedged.machine.verifications import Verifications
from unwedged.store import (
    Clock,
    CryptoStore,
    Existence,
    LeaseTimes,
    Opening,
    Statistics,
    StoreMark,
    Subscription,
    Transaction,
    View,
)
from unwedged.store.arguments import text_of, whole_of
from unwedged.store.clock import SystemClock
from unwedged.trace import Tracer

RETRIED_STATUSES = frozenset({401, 408, 429})
"""The same request may succeed later."""
RETRY_MS = 1_000
"""How long to wait after the first failure. The wait doubles with each further failure."""
LONGEST_RETRY_MS = 300_000
DAY_MS = 86_400_000
GONE_STATUSES = frozenset({403, 404})
"""The homeserver does not have this version of the backup, or another version is current."""


class OlmMachine:
    """A device, opened by one process. Use ``open`` to make one."""

    def __init__(self, store: CryptoStore, device: Device, keys: JsonObject, clock: Clock) -> None:
        """Use ``open`` instead."""
        self._store = store
        self._clock = clock
        self._failures = 0
        """How many requests have failed since the last one that was answered."""
        self.device = device
        own = KnownDevice(keys)
        self.curve25519: Curve25519Key = own.curve25519
        """The key that names this device in Olm."""
        self.ed25519: Ed25519Key = own.ed25519
        """The key that signs for this device."""
        self.cross_signing = CrossSigning(store)
        """Cross-signing: the identity of this device's user, and those of other users."""
        self.verifications = Verifications(store, clock)
        """Verifications of other devices and users."""
        self.key_backup = KeyBackup(store)
        """The backup of room keys."""
        self.secrets = SecretSharing(store)
        """Secrets that this user's devices exchange."""

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        user_id: str,
        device_id: str,
        label: str,
        passphrase: str | None = None,
        key: bytes | None = None,
        expect: Existence = Existence.ANY,
        not_before: StoreMark | None = None,
        cache_limit_bytes: int | None = None,
        times: LeaseTimes | None = None,
        clock: Clock | None = None,
        tracer: Tracer | None = None,
    ) -> Opening[OlmMachine]:
        """Open the device's store, or make it with a new account (M1.1). Use it with ``await`` or ``async with``.

        All arguments but the user id and the device id are those of ``CryptoStore.open``. A program that has logged in
        before passes ``expect=Existence.EXISTING``: then a file that is gone raises ``StoreMissing``, and the device
        gets no second identity. A store that exists and has no account yet gets one.

        Raises ``AnotherDevice`` if the store belongs to another user or device, and the exceptions of
        ``CryptoStore.open``.
        """

        async def open_machine() -> OlmMachine:
            (user,) = _users([user_id])
            device = Device(user, DeviceId(text_of(device_id, "a device id")))
            if not device_id:
                raise InvalidArgument("a device id is not empty")
            time = SystemClock() if clock is None else clock
            store = await RepairedStore.open(
                path,
                passphrase=passphrase,
                key=key,
                label=label,
                kinds=KINDS,
                expect=expect,
                not_before=not_before,
                cache_limit_bytes=cache_limit_bytes,
                times=times,
                clock=time,
                tracer=tracer,
            )
            try:
                own = await store.run(account.open_account, device)
                return cls(store, device, own.keys, time)
            except BaseException:
                await store.close()
                raise

        return Opening(open_machine)

    async def __aenter__(self) -> OlmMachine:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self, *, timeout_seconds: float | None = None) -> None:
        """Wait for running operations, release the lease and close the store. See ``CryptoStore.close``.

        Raises ``OperationsAbandoned`` if some have not ended after ``timeout_seconds``; the store is closed then too.
        """
        await self._store.close(timeout_seconds=timeout_seconds)

    async def pause(self, *, timeout_seconds: float | None = None) -> None:
        """Close every file and release the lease, before the system suspends this process. See ``CryptoStore.pause``.

        ``resume()`` or the next call reopens the store. Raises ``OperationsAbandoned`` if some operations have not
        ended after ``timeout_seconds``; the store is paused then too (P19.2).
        """
        await self._store.pause(timeout_seconds=timeout_seconds)

    async def resume(self) -> None:
        """Open the store again after ``pause()``, as the next call would (P19.4).

        Raises ``StoreReplaced``, ``AnotherStore``, ``StoreRolledBack`` or ``StoreMissing`` if the file is no longer the
        one that was open, or is an older copy of it (P19.5). Then the store stays paused.
        """
        await self._store.resume()

    async def change_secret(self, *, passphrase: str | None = None, key: bytes | None = None) -> None:
        """Change the store's secret: from now on, only this ``passphrase`` or ``key`` opens it (P22.12).

        Processes that have it open are not disturbed. Raises ``SecretChanged`` if another process has changed the
        secret since the machine was opened. See ``CryptoStore.change_secret``.
        """
        await self._store.change_secret(passphrase=passphrase, key=key)

    def mark(self) -> StoreMark:
        """Return which store this is, and the newest version of it that this process knows (P17.9).

        Keep it where it is not restored together with the file. A later ``open`` takes it as ``not_before``, and then
        refuses an older copy, in which keys and message indices would be used again.
        """
        return self._store.mark()

    def statistics(self) -> Statistics:
        """Return what the store holds in memory and has done so far, in this process."""
        return self._store.statistics()

    def __repr__(self) -> str:
        return f"<OlmMachine {self.device.device_id!r} {self._store!r}>"

    # Sync

    async def sync_position(self, connection: str = "main", *, sliding: bool = False) -> SyncPosition:
        """Return the position to ask the next sync of a connection with. A device may have several connections.

        ``connection`` is the caller's name for it. Raises ``InvalidArgument`` if that is no text.
        """
        text_of(connection, "the name of a connection")

        async def read(view: View) -> SyncPosition:
            own = await view.get(OWN_DEVICE, None)
            assert own is not None  # made when the machine was opened
            return await inbox.position(view, connection, own.serial, sliding=sliding)

        return await self._store.query(read)

    async def receive_sync_changes(self, response: JsonObject, asked_with: SyncPosition) -> SyncOutcome:
        """Apply the response to a sync. A response that is stale, or that comes again, changes nothing (M5.1, M5.2).

        Its tokens and everything that it changes are written in one commit. If it has more than
        ``inbox.EVENTS_IN_A_COMMIT`` to-device events, they become records in that commit, and are processed in further
        commits. Raises ``MalformedResponse``; then nothing has changed.
        """
        _must_be_position(asked_with)
        changes = changes_of(response, asked_with)
        outcome, backlog = await self._store.run(inbox.receive, changes, asked_with, self._clock.now())
        if backlog:
            outcome.add(await self._work_off())
        return outcome

    async def work_off_backlog(self) -> SyncOutcome:
        """Process the events that were received and not processed yet (M5.7, M5.12). Call it after opening the machine.

        These are the rest of large batches, in order, also of those that another process began; and events that met a
        fault of this program or of an older version, which are tried once more.
        """
        total = await self._work_off()
        names = await self._store.query(inbox.put_aside)
        for start in range(0, len(names), inbox.EVENTS_IN_A_COMMIT):
            part = names[start : start + inbox.EVENTS_IN_A_COMMIT]
            total.add(await self._store.run(inbox.try_again, part, self._clock.now()))
        return total

    async def _work_off(self) -> SyncOutcome:
        total = SyncOutcome()
        while (outcome := await self._store.run(inbox.work_off, self._clock.now())) is not None:
            total.add(outcome)
        return total

    async def forget_sync_position(self, asked_with: SyncPosition) -> None:
        """Begin a sliding connection anew, after the homeserver has answered ``M_UNKNOWN_POS`` (M5.5).

        If the connection has a newer position by now, nothing changes.
        """
        _must_be_position(asked_with)
        if not asked_with.sliding:
            raise InvalidArgument("only a position of a sliding connection is forgotten")
        await self._store.run(inbox.forget_position, asked_with)

    # Requests

    # M13.2, M13.3
    async def outgoing_requests(self) -> list[Request]:
        """Return the requests to send. Pass each with its response to ``mark_sent``, or to ``mark_failed``.

        Messages to devices, events of verifications, queries, and the uploads of cross-signing and of the backup are
        listed in every process until they are answered. An upload of the device's keys, and a claim, are listed once.
        """

        async def collect(transaction: Transaction) -> list[Request]:
            now_ms = self._clock.now()
            await verifications.pass_time(transaction, now_ms)
            requests: list[Request] = []
            await gossip.work_off(transaction)
            upload = await account.hand_out_offer(transaction, now_ms)
            claim = await olm.hand_out_claim(transaction, now_ms)
            if upload is not None:
                requests.append(upload)
            if claim is not None:
                requests.append(claim)
            requests += await devices.queries(transaction)
            requests += await cross_signing.uploads(transaction)
            requests += await backup.uploads(transaction)
            requests += await outbox.waiting(transaction)
            tracing.handed_out(transaction, requests, now_ms)
            return requests

        return await self._store.run(collect)

    async def mark_sent(self, request: Request, response: JsonObject) -> None:
        """Apply the response to a request, in any process (M20.4). A late or repeated response changes nothing (M21.4).

        Raises ``MalformedResponse``; then nothing has changed. Raises ``InvalidArgument`` for another type.
        """

        async def take(transaction: Transaction) -> None:
            match request:
                case KeysUpload():
                    await account.take_upload_answer(transaction, request, response, self._clock.now())
                case KeysQuery():
                    await devices.take_query_answer(transaction, request, response)
                case KeysClaim():
                    await olm.take_claim_answer(transaction, request, response, self._clock.now())
                case ToDevice():
                    await outbox.sent(transaction, request)
                case RoomMessage():
                    await verifications.take_answer(transaction, request, response)
                case SigningKeysUpload():
                    await cross_signing.take_keys_answer(transaction, request)
                case SignatureUpload():
                    await cross_signing.take_signatures_answer(transaction, request, response)
                case BackupVersionCreate():
                    await backup.mark_created(transaction, request, response)
                case BackupVersionQuery():
                    await backup.mark_version(transaction, request, response)
                    await secrets.use_backup_key(transaction)
                case BackupUpload():
                    await backup.mark_uploaded(transaction, request, response)
            tracing.answered(transaction, request, response)

        must_be_request(request)
        if not isinstance(response, dict):
            raise MalformedResponse("the response to a request is a JSON object")
        await self._store.run(take)
        self._failures = 0

    async def mark_failed(
        self, request: Request, *, status: int | None, retry_after_ms: int | None = None
    ) -> int | None:
        """Note that a request failed; return in how many milliseconds to call ``outgoing_requests`` again (M13.4).

        ``status`` is the HTTP status of the answer, or ``None`` if there was no answer. ``retry_after_ms`` is how long
        the homeserver asked to wait, as its answer says: what is not a number of milliseconds within a day is ignored.
        The result ``None`` means that the homeserver has refused the request for good (a
        status from 400 to 499 other than 401, 408 and 429): it is not listed again. Key queries, and uploads to the
        backup, stay listed. But 403 or 404 for an upload to the backup means that its version was changed: nothing
        more is uploaded, and the result is ``None``.

        An upload of keys or a claim whose outcome is unknown is not listed again either. The next sync says how many
        keys the homeserver holds. A claim is made again after a while. Raises ``InvalidArgument`` for other types.
        """
        must_be_request(request)
        if status is not None:
            whole_of(status, "an HTTP status")
        if isinstance(request, KeysUpload):
            await self._store.run(account.abandon_offer, request)
        if status is None or not 400 <= status < 500 or status in RETRIED_STATUSES:
            self._failures += 1
            wait_ms = min(RETRY_MS << min(self._failures - 1, 10), LONGEST_RETRY_MS)
            if isinstance(retry_after_ms, int) and retry_after_ms <= DAY_MS:
                wait_ms = max(retry_after_ms, wait_ms)
            return wait_ms
        match request:
            case ToDevice():
                await self._store.run(olm.take_refusal, request)
            case RoomMessage():
                await self._store.run(outbox.sent, request)
            case SigningKeysUpload():
                await self._store.run(cross_signing.take_keys_refusal, request)
            case SignatureUpload():
                await self._store.run(cross_signing.take_signatures_refusal, request)
            case KeysQuery():
                return LONGEST_RETRY_MS  # the marks stay: no other homeserver knows these devices
            case KeysUpload() | KeysClaim():
                pass  # they are listed once
            case BackupUpload() | BackupVersionQuery() if status in GONE_STATUSES:
                await self._store.run(backup.mark_refused, request)
            case BackupUpload():
                return LONGEST_RETRY_MS  # the marks stay
            case BackupVersionCreate() | BackupVersionQuery():
                pass  # the application asks for them again
        return None

    # Users and devices

    async def track_users(self, user_ids: Iterable[str]) -> None:
        """Follow the device lists of users. Pass all members of encrypted rooms, so that senders' devices are known.

        ``share_room_key`` follows the users that it shares with.
        """
        users = _users(user_ids)
        while not await self._store.run(devices.track, users):
            pass

    async def devices_of(self, user_id: str) -> dict[DeviceId, KnownDevice]:
        """Return the known devices of a user."""

        async def read(view: View) -> dict[DeviceId, KnownDevice]:
            return await view.get(DEVICES, UserId(user_id)) or {}

        return await self._store.query(read)

    async def set_trust(self, user_id: str, device_id: str, ed25519: str, trust: LocalTrust) -> None:
        """Note that the owner of this device has verified or blocked the device that has this Ed25519 key (M15.8).

        Raises ``InvalidArgument`` if no such device is known.
        """
        names = UserId(user_id), DeviceId(device_id), Ed25519Key(ed25519)
        await self._store.run(identities.set_trust, *names, trust)

    # Rooms

    async def set_room_encryption(self, room_id: str, content: JsonObject) -> None:
        """Note how a room is encrypted, from the content of its ``m.room.encryption`` event.

        Raises ``MalformedMessage`` (also for an unknown algorithm), and ``EncryptionDowngrade`` if an encrypted room
        would stop being encrypted or change its algorithm (M9.12).
        """
        await self._store.run(sharing.set_encryption, RoomId(room_id), content)

    async def set_sharing_strategy(self, room_id: str, strategy: SharingStrategy) -> None:
        """Choose which devices get the keys of a room, in every process and from the next message on (M9.9).

        The default is all devices of all members. Raises ``NotEncrypted``.
        """
        if not isinstance(strategy, SharingStrategy):
            raise InvalidArgument(f"a strategy is a SharingStrategy, and no {type(strategy).__name__}")
        await self._store.run(sharing.set_strategy, RoomId(room_id), strategy)

    async def set_history_visibility(self, room_id: str, content: JsonObject) -> None:
        """Note who may read a room's history, from the content of its ``m.room.history_visibility`` event.

        If users who join later may read it, the next message gets another room key, which is marked as shared history:
        devices may give such a key to users that are invited (M18.7). Call ``set_room_encryption`` first. Raises
        ``NotEncrypted``.
        """
        await self._store.run(sharing.set_history_visibility, RoomId(room_id), content)

    async def share_room_key(self, room_id: str, user_ids: Iterable[str]) -> Sharing:
        """Share the key of the next messages with the devices of ``user_ids``, which are all members of the room (M9).

        Users who left, and devices that were removed or blocked, can't read the next messages. Send the outgoing
        requests and call it again until the result ``reaches_all``. Raises ``NotEncrypted``, and
        ``UnverifiedRecipients`` if the room's strategy forbids to share the key.
        """
        members = frozenset(_users(user_ids))
        while True:
            shared = await self._store.run(sharing.share, RoomId(room_id), members, self._clock.now())
            if shared is not None:
                return shared

    async def encrypt_room_event(
        self, room_id: str, shared: Sharing, event_type: str, content: Mapping[str, object]
    ) -> JsonObject:
        """Return the content of an ``m.room.encrypted`` event, for the devices that the key was ``shared`` with.

        ``shared`` is what ``share_room_key`` returned, in this process or in another one. The commit of this call uses
        up the event's message index (M10). Raises ``NotEncrypted``, and ``RoomKeyNotShared`` if the key was shared
        with other members meanwhile, was replaced, or was not shared with a device that is known now. Then share it
        again.
        """
        if not isinstance(shared, Sharing):
            raise InvalidArgument(f"a room key is shared by share_room_key, which makes no {type(shared).__name__}")
        return await self._store.run(sharing.encrypt, RoomId(room_id), shared, event_type, content, self._clock.now())

    async def discard_room_key(self, room_id: str) -> None:
        """Encrypt the next message of a room with a new key."""
        await self._store.run(sharing.discard, RoomId(room_id))

    async def decrypt_room_events(
        self, room_id: str, events: Iterable[JsonObject]
    ) -> list[DecryptedEvent | MachineError]:
        """Decrypt events of one room. For each, return the event or the reason why it can't be read (M12.3).

        The first reading of an event is a commit. So pass many events at once.
        """
        return await self._store.run(rooms.decrypt, RoomId(room_id), list(events))

    async def decrypt_room_event(self, room_id: str, event: JsonObject) -> DecryptedEvent:
        """Decrypt one event. Raises the ``MachineError`` that says why it can't be read."""
        (result,) = await self.decrypt_room_events(room_id, [event])
        if isinstance(result, MachineError):
            raise result
        return result

    async def request_room_keys(self, room_id: str, events: Iterable[JsonObject]) -> int:
        """Ask this user's verified devices for the keys of events that can't be read; return how many keys these are.

        Each key is requested once, whichever process calls. ``room_keys_received_stream`` tells of keys that arrive.
        Raises ``MalformedMessage`` and ``UnsupportedAlgorithm``.
        """
        return await self._store.run(key_requests.request, RoomId(room_id), list(events))

    async def export_room_keys(self) -> list[ExportedSession]:
        """Return all room keys, for ``exports.encrypt_export``."""

        async def names(view: View) -> tuple[GroupSessionName, ...]:
            return await view.keys(INBOUND)

        every = await self._store.query(names)
        exported: list[ExportedSession] = []
        for start in range(0, len(every), KEYS_IN_A_COMMIT):
            exported += await self._store.query(rooms.export_keys, every[start : start + KEYS_IN_A_COMMIT])
        return exported

    async def import_room_keys(self, sessions: Sequence[ExportedSession]) -> int:
        """Keep the room keys of ``exports.decrypt_export`` that are better than those here; return how many these are.

        Nobody vouches for the sender of a message that such a key decrypts.
        """
        kept = 0
        for start in range(0, len(sessions), KEYS_IN_A_COMMIT):
            kept += await self._store.run(
                rooms.import_keys, sessions[start : start + KEYS_IN_A_COMMIT], KeySource.IMPORT
            )
        return kept

    # Streams

    def room_keys_received_stream(self) -> AbstractAsyncContextManager[Subscription[GroupSessionName]]:
        """Iterate over the room keys that arrive or are replaced by better ones, whichever process receives them."""
        return self._store.subscribe(INBOUND)

    def devices_stream(self) -> AbstractAsyncContextManager[Subscription[UserId]]:
        """Iterate over the users whose devices change, whichever process receives the change."""
        return self._store.subscribe(DEVICES)


def _must_be_position(value: object) -> None:
    if not isinstance(value, SyncPosition):
        raise InvalidArgument(f"a sync is asked with a sync_position, not with a {type(value).__name__}")


def _users(user_ids: Iterable[str]) -> list[UserId]:
    """Return users. Raises ``InvalidArgument`` for a single text, over which Python would iterate."""
    if isinstance(user_ids, str) or not isinstance(user_ids, Iterable):
        raise InvalidArgument(f"users are several, such as a list of ids, not a {type(user_ids).__name__}")
    users = [UserId(text_of(user_id, "a user id")) for user_id in user_ids]
    if not all(user_id.startswith("@") and ":" in user_id for user_id in users):
        raise InvalidArgument("a user id is such as @user:example.org")
    return users
