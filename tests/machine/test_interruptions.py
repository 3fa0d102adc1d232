"""A call that is interrupted at any point leaves nothing half done or used twice, and the other process can continue.

A call is cancelled at its first await, at its second, and so on until it succeeds: before the awaited event, and after
it. Likewise its first database access fails, then its second, and so on: with an error that says that nothing was
written, or with an error after which the outcome is unknown.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Final, ParamSpec, TypeVar

import pytest

from checking.machine_replay.homeserver import Json
from checking.machine_replay.room_key import RoomKey
from tests.machine.backups import create, first_indices, is_on, marks
from tests.machine.scene import ALICE, BOB, HOUR_MS, MEGOLM, ROOM, Scene, must_be_sound
from tests.machine.test_cross_signing import AUTH, bootstrap, signing_keys_uploads
from tests.machine.test_inputs import ask_for_keys, own
from tests.store.stores import CancelledAt
from unwedged.machine import (
    BackupUpload,
    KeysClaim,
    KeysQuery,
    KeysUpload,
    LocalTrust,
    OlmMachine,
    Phase,
    SharingStrategy,
    SignatureUpload,
    SigningKeysUpload,
    ToDevice,
    WrongPhase,
    inbox,
)
from unwedged.machine.identifiers import FlowId, PeerName, UserId
from unwedged.machine.records import (
    BACKLOG,
    INBOUND,
    PRIVATE_IDENTITY,
    UNPROCESSED,
    WANTED_SESSION,
    Backlog,
    WantedSession,
)
from unwedged.store import StorageFailed, StoreBusy, Transaction, Version

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

Call = Callable[[OlmMachine], Coroutine[object, None, object]]


async def nothing() -> None:
    """Check nothing more."""


@dataclass(frozen=True)
class Work:
    """A call, made in both processes, and the check after both calls."""

    call: Call
    check: Callable[[], Awaitable[None]] = nothing


# The calls, each with work to do


async def want_session(scene: Scene) -> None:
    async def want(transaction: Transaction) -> None:
        name = PeerName(UserId(BOB), scene.bob.machine.curve25519)
        transaction.put(WANTED_SESSION, name, WantedSession(wedged=True))

    await scene.app.machine._store.run(want)


async def outgoing_requests(scene: Scene) -> Work:
    await ask_for_keys(scene.app)
    await want_session(scene)
    return Work(lambda machine: machine.outgoing_requests())


async def upload(scene: Scene) -> tuple[KeysUpload, Json]:
    await ask_for_keys(scene.app)
    (request,) = [each for each in await scene.app.machine.outgoing_requests() if isinstance(each, KeysUpload)]
    return request, scene.app.call(request.method, request.path, request.body)


async def an_upload_is_answered(scene: Scene) -> Work:
    request, answer = await upload(scene)

    async def is_known() -> None:
        assert (await own(scene.app)).count is not None

    return Work(lambda machine: machine.mark_sent(request, answer), is_known)


async def an_upload_fails(scene: Scene) -> Work:
    request, _ = await upload(scene)
    return Work(lambda machine: machine.mark_failed(request, status=None))


async def a_query_is_answered(scene: Scene) -> Work:
    scene.server._changed.append((scene.server._tick(), BOB))
    await scene.app.sync()
    (request,) = [each for each in await scene.app.machine.outgoing_requests() if isinstance(each, KeysQuery)]
    answer = scene.app.call(request.method, request.path, request.body)

    async def is_settled() -> None:
        assert not [each for each in await scene.app.machine.outgoing_requests() if isinstance(each, KeysQuery)]

    return Work(lambda machine: machine.mark_sent(request, answer), is_settled)


async def a_claim_is_answered(scene: Scene) -> Work:
    await want_session(scene)
    (request,) = [each for each in await scene.app.machine.outgoing_requests() if isinstance(each, KeysClaim)]
    answer = scene.app.call(request.method, request.path, request.body)

    async def one_dummy_is_sent() -> None:
        assert len([each for each in await scene.app.machine.outgoing_requests() if isinstance(each, ToDevice)]) == 1

    return Work(lambda machine: machine.mark_sent(request, answer), one_dummy_is_sent)


async def to_device(scene: Scene) -> ToDevice:
    await scene.app.machine.discard_room_key(ROOM)
    await scene.app.machine.share_room_key(ROOM, [ALICE, BOB])
    (request,) = [each for each in await scene.app.machine.outgoing_requests() if isinstance(each, ToDevice)]
    return request


async def a_message_is_answered(scene: Scene) -> Work:
    request = await to_device(scene)
    answer = scene.app.call(request.method, request.path, request.body)

    async def is_settled() -> None:
        assert request not in await scene.app.machine.outgoing_requests()

    return Work(lambda machine: machine.mark_sent(request, answer), is_settled)


async def a_message_is_refused(scene: Scene) -> Work:
    request = await to_device(scene)
    return Work(lambda machine: machine.mark_failed(request, status=413))


async def receive_sync_changes(scene: Scene) -> Work:
    events = []
    for number in range(2):  # each event is a separate part, see below
        await scene.bob.machine.discard_room_key(ROOM)
        events.append(await scene.bob.say(ROOM, f"{number}"))
    position = await scene.app.machine.sync_position()
    response = scene.app.ask(position)

    async def all_is_read() -> None:
        await scene.app.machine.work_off_backlog()
        for client in (scene.app, scene.extension):
            assert [await client.read(ROOM, event) for event in events] == ["0", "1"]

    return Work(lambda machine: machine.receive_sync_changes(response, position), all_is_read)


async def work_off_backlog(scene: Scene) -> Work:
    events: list[Json] = [{"type": "org.other", "sender": BOB, "content": {"number": number}} for number in range(2)]

    async def leave(transaction: Transaction) -> None:
        for number, event in enumerate(events):
            transaction.put(UNPROCESSED, number, [event])
        transaction.put(BACKLOG, None, Backlog(0, len(events)))

    await scene.app.machine._store.run(leave)

    async def nothing_is_left() -> None:
        assert not (await scene.extension.machine.work_off_backlog()).applied

    return Work(lambda machine: machine.work_off_backlog(), nothing_is_left)


async def forget_sync_position(scene: Scene) -> Work:
    await scene.extension.sync("other", sliding=True)
    position = await scene.app.machine.sync_position("other", sliding=True)

    async def is_forgotten() -> None:
        assert (await scene.app.machine.sync_position("other", sliding=True)).token is None

    return Work(lambda machine: machine.forget_sync_position(position), is_forgotten)


async def share_room_key(scene: Scene) -> Work:
    await scene.app.machine.discard_room_key(ROOM)
    return Work(lambda machine: machine.share_room_key(ROOM, [ALICE, BOB]))


async def encrypt_room_event(scene: Scene) -> Work:
    shared = await scene.app.share(ROOM, [ALICE, BOB])
    sent: list[Json] = []

    async def encrypt(machine: OlmMachine) -> None:
        sent.append(await machine.encrypt_room_event(ROOM, shared, "m.room.message", {"body": f"{len(sent)}"}))

    async def all_is_read() -> None:
        await scene.bob.sync()
        for number, content in enumerate(sent):
            assert await scene.bob.read(ROOM, scene.app.post(ROOM, content)) == f"{number}"

    return Work(encrypt, all_is_read)


async def decrypt_room_events(scene: Scene) -> Work:
    event = await scene.bob.say(ROOM, "hello")
    await scene.app.sync()

    async def is_read() -> None:
        assert await scene.app.read(ROOM, event) == "hello"

    return Work(lambda machine: machine.decrypt_room_events(ROOM, [event]), is_read)


async def set_trust(scene: Scene) -> Work:
    (device,) = (await scene.app.machine.devices_of(BOB)).values()
    trust = LocalTrust.UNSET if device.trust is LocalTrust.VERIFIED else LocalTrust.VERIFIED
    return Work(lambda machine: machine.set_trust(BOB, "LAPTOP", device.ed25519, trust))


async def track_users(scene: Scene) -> Work:
    user = f"@user{len(scene.server.arrivals)}:example.org"
    return Work(lambda machine: machine.track_users([user]))


async def set_room_encryption(scene: Scene) -> Work:
    content: Json = {"algorithm": MEGOLM, "rotation_period_msgs": 100 + len(scene.server.arrivals)}
    return Work(lambda machine: machine.set_room_encryption(ROOM, content))


async def set_sharing_strategy(scene: Scene) -> Work:
    strategies = itertools.cycle((SharingStrategy.ALL_DEVICES, SharingStrategy.REFUSE_UNVERIFIED))
    await scene.app.machine.set_sharing_strategy(ROOM, next(strategies))
    strategy = next(strategies)

    async def is_set_back() -> None:
        await scene.app.machine.set_sharing_strategy(ROOM, next(strategies))

    return Work(lambda machine: machine.set_sharing_strategy(ROOM, strategy), is_set_back)


async def set_history_visibility(scene: Scene) -> Work:
    await scene.app.machine.set_history_visibility(ROOM, {"history_visibility": "joined"})
    return Work(lambda machine: machine.set_history_visibility(ROOM, {"history_visibility": "shared"}))


async def discard_room_key(scene: Scene) -> Work:
    await scene.app.share(ROOM, [ALICE, BOB])
    return Work(lambda machine: machine.discard_room_key(ROOM))


async def import_room_keys(scene: Scene) -> Work:
    await scene.bob.machine.discard_room_key(ROOM)
    event = await scene.bob.say(ROOM, "hello")
    exported = await scene.bob.machine.export_room_keys()

    async def is_read() -> None:
        assert await scene.extension.read(ROOM, event) == "hello"

    return Work(lambda machine: machine.import_room_keys(exported), is_read)


async def settle(scene: Scene) -> None:
    """Deliver all messages between the two devices."""
    while sum([len(await client.send_all()) for client in (scene.app, scene.bob)]):
        for client in (scene.app, scene.bob):
            await client.sync()


async def compared(scene: Scene) -> tuple[FlowId, FlowId]:
    """Let Alice's device and Bob's show the same short string; return each device's id of the verification."""
    (device,) = (await scene.app.machine.devices_of(BOB)).values()
    await scene.app.machine.set_trust(BOB, "LAPTOP", device.ed25519, LocalTrust.UNSET)
    ours = await scene.app.machine.verifications.request(BOB)
    await settle(scene)
    theirs = (await scene.bob.machine.verifications.get_all())[-1].flow_id
    await scene.bob.machine.verifications.accept(theirs)
    await settle(scene)
    await scene.bob.machine.verifications.start_sas(theirs)
    await settle(scene)
    return ours, theirs


async def a_verification_is_confirmed(scene: Scene) -> Work:
    ours, theirs = await compared(scene)
    await scene.bob.machine.verifications.confirm(theirs)
    await settle(scene)

    async def confirm(machine: OlmMachine) -> None:
        with contextlib.suppress(WrongPhase):  # if the other process has confirmed
            await machine.verifications.confirm(ours)

    async def both_are_verified() -> None:
        await settle(scene)
        for client, flow_id, user in ((scene.extension, ours, BOB), (scene.bob, theirs, ALICE)):
            flow = await client.machine.verifications.get(flow_id)
            assert flow is not None
            assert flow.phase is Phase.DONE
            (device,) = (await client.machine.devices_of(user)).values()
            assert device.trust is LocalTrust.VERIFIED

    return Work(confirm, both_are_verified)


async def a_verification_is_proven(scene: Scene) -> Work:
    """A sync delivers the other device's MAC, which completes the verification."""
    ours, theirs = await compared(scene)
    await scene.app.machine.verifications.confirm(ours)
    await settle(scene)
    await scene.bob.machine.verifications.confirm(theirs)
    await scene.bob.send_all()
    position = await scene.app.machine.sync_position()
    response = scene.app.ask(position)

    async def is_verified() -> None:
        flow = await scene.extension.machine.verifications.get(ours)
        assert flow is not None
        assert flow.phase is Phase.DONE
        (device,) = (await scene.extension.machine.devices_of(BOB)).values()
        assert device.trust is LocalTrust.VERIFIED

    return Work(lambda machine: machine.receive_sync_changes(response, position), is_verified)


async def forget_private_keys(transaction: Transaction) -> None:
    transaction.delete(PRIVATE_IDENTITY, None)


async def new_signing_keys(scene: Scene) -> SigningKeysUpload:
    """Create an identity, replacing any existing one."""
    await scene.app.machine._store.run(forget_private_keys)
    await scene.app.machine.cross_signing.reset()
    (upload,) = await signing_keys_uploads(scene.app)
    return upload


async def reset(scene: Scene) -> Work:
    await new_signing_keys(scene)
    await scene.app.machine._store.run(forget_private_keys)

    async def one_identity_is_made() -> None:
        (one,), (other,) = [await signing_keys_uploads(client) for client in (scene.app, scene.extension)]
        assert one == other
        await scene.app.machine._store.run(forget_private_keys)

    return Work(lambda machine: machine.cross_signing.reset(), one_identity_is_made)


async def signing_keys_are_answered(scene: Scene) -> Work:
    upload = await new_signing_keys(scene)
    answer = scene.app.call(upload.method, upload.path, upload.body | AUTH)

    async def the_private_keys_are_here() -> None:
        status = await scene.app.machine.cross_signing.status()
        assert (status.master_key, len(status.private_keys), status.pending) == (upload.master_key, 3, False)

    return Work(lambda machine: machine.mark_sent(upload, answer), the_private_keys_are_here)


async def signatures_are_answered(scene: Scene) -> Work:
    upload = await new_signing_keys(scene)
    answer = scene.app.call(upload.method, upload.path, upload.body | AUTH)
    await scene.app.machine.mark_sent(upload, answer)
    requests = await scene.extension.machine.outgoing_requests()
    (signatures,) = [request for request in requests if isinstance(request, SignatureUpload)]
    answer = scene.app.call(signatures.method, signatures.path, signatures.body)

    async def the_device_is_signed() -> None:
        assert (await scene.app.machine.cross_signing.status()).own_device_signed

    return Work(lambda machine: machine.mark_sent(signatures, answer), the_device_is_signed)


async def verify_user(scene: Scene) -> Work:
    await bootstrap(scene.bob)
    await scene.app.sync()
    await scene.app.send_all()
    trust = await scene.app.machine.cross_signing.trust_of(BOB)
    assert trust.master_key is not None
    key: str = trust.master_key
    await scene.app.machine.cross_signing.accept_identity(BOB, key)

    async def is_verified() -> None:
        assert (await scene.app.machine.cross_signing.trust_of(BOB)).verified

    return Work(lambda machine: machine.cross_signing.verify_user(BOB, key), is_verified)


async def create_backup_version(scene: Scene) -> Work:
    await scene.app.machine.key_backup.turn_off()

    async def one_key_is_made() -> None:
        one, other = [await client.machine.key_backup.create_version() for client in (scene.app, scene.extension)]
        assert one == other
        await scene.app.machine.key_backup.turn_off()

    return Work(lambda machine: machine.key_backup.create_version(), one_key_is_made)


async def a_backup_version_is_answered(scene: Scene) -> Work:
    await scene.app.machine.key_backup.turn_off()
    new = await scene.app.machine.key_backup.create_version()
    answer = scene.app.call(new.request.method, new.request.path, new.request.body)

    async def it_is_on() -> None:
        assert await is_on(scene.app)

    return Work(lambda machine: machine.mark_sent(new.request, answer), it_is_on)


async def a_backup_upload_is_answered(scene: Scene) -> Work:
    await create(scene.app)
    (upload,) = [each for each in await scene.app.machine.outgoing_requests() if isinstance(each, BackupUpload)]
    answer = scene.app.call(upload.method, upload.path, upload.body)

    async def is_settled() -> None:
        assert not await marks(scene.app)

    return Work(lambda machine: machine.mark_sent(upload, answer), is_settled)


async def a_backup_upload_is_refused(scene: Scene) -> Work:
    await create(scene.app)
    (upload,) = [each for each in await scene.app.machine.outgoing_requests() if isinstance(each, BackupUpload)]

    async def it_is_off() -> None:
        assert not await is_on(scene.app)
        await scene.app.machine.key_backup.turn_off()

    return Work(lambda machine: machine.mark_failed(upload, status=403), it_is_off)


async def restore(scene: Scene) -> Work:
    await create(scene.app)
    key = RoomKey()
    await scene.app.machine.import_room_keys([key.exported()])
    await scene.app.send_all()
    request = await scene.app.machine.key_backup.download(key.name.room_id, key.name.session_id)
    answer = scene.app.call(request.method, request.path)

    async def forget(transaction: Transaction) -> None:
        transaction.delete(INBOUND, key.name)

    async def restore(machine: OlmMachine) -> None:
        async for progress in machine.key_backup.restore(request, answer):
            assert progress.unreadable == 0

    async def it_is_here_and_not_marked() -> None:
        assert key.name in await first_indices(scene.app)
        assert not await marks(scene.app)
        await scene.app.machine._store.run(forget)

    await scene.app.machine._store.run(forget)
    return Work(restore, it_is_here_and_not_marked)


async def readings(scene: Scene) -> Work:
    async def read(machine: OlmMachine) -> None:
        await machine.sync_position()
        await machine.devices_of(BOB)
        await machine.export_room_keys()
        await machine.cross_signing.status()
        await machine.cross_signing.trust_of(BOB)

    del scene
    return Work(read)


WORKS: Final = (
    outgoing_requests,
    an_upload_is_answered,
    an_upload_fails,
    a_query_is_answered,
    a_claim_is_answered,
    a_message_is_answered,
    a_message_is_refused,
    receive_sync_changes,
    work_off_backlog,
    forget_sync_position,
    share_room_key,
    encrypt_room_event,
    decrypt_room_events,
    set_trust,
    track_users,
    set_room_encryption,
    set_sharing_strategy,
    set_history_visibility,
    discard_room_key,
    import_room_keys,
    a_verification_is_confirmed,
    a_verification_is_proven,
    reset,
    signing_keys_are_answered,
    signatures_are_answered,
    verify_user,
    create_backup_version,
    a_backup_version_is_answered,
    a_backup_upload_is_answered,
    a_backup_upload_is_refused,
    restore,
    readings,
)


# The kinds of interruptions


class Interruption:
    """An interruption at a numbered point of a call, from 1, and whether the call reached it."""

    def __init__(self, machine: OlmMachine, at: int) -> None:
        self.machine = machine
        self.at = at
        self.struck = False

    async def run(self, call: Call) -> None:
        raise NotImplementedError


class Cancelled(Interruption):
    """The caller is cancelled."""

    late = False

    async def run(self, call: Call) -> None:
        cancelled = CancelledAt(call(self.machine), self.at, late=self.late)

        async def wait() -> None:
            with contextlib.suppress(asyncio.CancelledError):
                await cancelled

        await asyncio.create_task(wait())
        self.struck = cancelled.struck


class CancelledLate(Cancelled):
    """The caller is cancelled after the awaited event has happened."""

    late = True


class Busy(Interruption):
    """An access to the database fails, and nothing was written."""

    error: Exception = StoreBusy("busy, as the test wants it")
    late = False

    async def run(self, call: Call) -> None:
        backend = self.machine._store._services.backend
        accesses = itertools.count(1)

        def failing(access: Callable[Parameters, Awaitable[Result]]) -> Callable[Parameters, Awaitable[Result]]:
            async def fail(*arguments: Parameters.args, **named: Parameters.kwargs) -> Result:
                strikes = next(accesses) == self.at
                self.struck = self.struck or strikes
                if strikes and not self.late:
                    raise self.error
                result = await access(*arguments, **named)
                if strikes:
                    raise self.error
                return result

            return fail

        with pytest.MonkeyPatch.context() as patch, contextlib.suppress(type(self.error)):
            for name in ("acquire", "check", "changes", "load", "keys", "commit"):
                patch.setattr(backend, name, failing(getattr(backend, name)))
            await call(self.machine)


class DiskFull(Busy):
    """An access to the database fails with an unknown outcome. Nothing was written."""

    error = StorageFailed("full, as the test wants it")


class DiskFailsLate(DiskFull):
    """An access to the database fails with an unknown outcome. Everything was written."""

    late = True


# Checks


async def commits_since(scene: Scene, version: Version) -> list[Counter[str]]:
    """Return the number of records of each kind that each commit wrote."""
    log = await scene.extension.machine._store._services.records.changes(version, None)
    return [
        Counter(change.key.kind for change in of_version)
        for _, of_version in itertools.groupby(log.changes, key=lambda change: change.version)
    ]


async def goes_on(scene: Scene) -> None:
    """Let the other process continue, as if the first had died; then let the first one continue too."""
    scene.clock.added_ms += HOUR_MS
    for author, reader in ((scene.extension, scene.bob), (scene.bob, scene.app)):
        await author.send_all()
        event = await author.say(ROOM, "and on")
        assert {problem.code for problem in (await reader.sync()).problems} <= {"repeated"}
        assert await reader.read(ROOM, event) == "and on"


def is_beginning(some: Sequence[object], of: Sequence[object]) -> bool:
    return some == of[: len(some)]


# M13.1, M20.2, M21.1, S1.3
@pytest.mark.parametrize("interruption", [Cancelled, CancelledLate, Busy, DiskFull, DiskFailsLate])
@pytest.mark.parametrize("prepare", WORKS, ids=lambda prepare: prepare.__name__)
async def test_a_call_that_is_interrupted(
    alice_and_bob: Scene,
    prepare: Callable[[Scene], Awaitable[Work]],
    interruption: type[Interruption],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scene = alice_and_bob
    monkeypatch.setattr(inbox, "EVENTS_IN_A_COMMIT", 1)
    await scene.greet()
    made: list[list[Counter[str]]] = []
    for at in itertools.count(1):
        work = await prepare(scene)
        version = scene.app.machine._store.statistics().version
        interrupted = interruption(scene.app.machine, at)
        await interrupted.run(work.call)
        made.append(await commits_since(scene, version))
        await work.call(scene.extension.machine)
        await work.check()
        await goes_on(scene)
        if not interrupted.struck:
            break
    assert at > 1
    assert all(is_beginning(some, made[-1]) for some in made), made
    must_be_sound(scene.server)
