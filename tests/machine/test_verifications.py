"""A device in two processes verifies other devices.

The process changes before each step.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from itertools import count
from typing import TypeVar

import pytest

from checking.machine_replay.client import Client
from checking.machine_replay.homeserver import Device, Json
from tests.machine.scene import ALICE, BOB, MINUTE_MS, ROOM, Scene
from unwedged.machine import (
    DeviceTrust,
    LocalTrust,
    MalformedMessage,
    MalformedQrCode,
    MalformedResponse,
    OlmMachine,
    RoomMessage,
    ToDevice,
    TooManyVerifications,
    UnknownDevice,
    UnknownVerification,
    WrongPhase,
    WrongQrCode,
)
from unwedged.machine.errors import InvalidArgument
from unwedged.machine.identifiers import FlowId
from unwedged.machine.outbox import MOST_UNSENT
from unwedged.machine.records import OUTBOX, ROOM_OUTBOX, VERIFICATION, Method, Phase
from unwedged.machine.requests import Request, decode, encode
from unwedged.machine.verifications import FLOWS_OF_A_USER, FLOWS_OF_OTHERS, Verification
from unwedged.store import View

T = TypeVar("T")

PREFIX = "m.key.verification."
ALL = tuple(Method)


class End:
    """One end of a verification: a device with one or more processes that take turns."""

    def __init__(self, *processes: Client) -> None:
        self.processes = processes
        self._calls = count()
        self.read = 0
        """The number of events of the room that it has read."""

    @property
    def next(self) -> Client:
        """The process that makes the next call."""
        return self.processes[next(self._calls) % len(self.processes)]

    @property
    def machine(self) -> OlmMachine:
        return self.next.machine

    @property
    def user(self) -> str:
        return self.processes[0].device.user

    async def flow(self) -> Verification:
        """Return the newest verification."""
        return (await self.machine.verifications.get_all())[-1]

    async def act(self, action: Callable[[OlmMachine, FlowId], Awaitable[T]]) -> T:
        flow = await self.flow()
        return await action(self.machine, flow.flow_id)

    async def accept(self, methods: tuple[Method, ...] = (Method.SAS,)) -> None:
        await self.act(lambda machine, flow_id: machine.verifications.accept(flow_id, methods=methods))

    async def start_sas(self) -> None:
        await self.act(lambda machine, flow_id: machine.verifications.start_sas(flow_id))

    async def confirm(self) -> None:
        await self.act(lambda machine, flow_id: machine.verifications.confirm(flow_id))

    async def mismatch(self) -> None:
        await self.act(lambda machine, flow_id: machine.verifications.mismatch(flow_id))

    async def cancel(self) -> None:
        await self.act(lambda machine, flow_id: machine.verifications.cancel(flow_id))

    async def phase(self) -> Phase:
        return (await self.flow()).phase

    async def code(self) -> str | None:
        cancellation = (await self.flow()).cancellation
        return None if cancellation is None else cancellation.code

    async def sync(self) -> list[str]:
        """Sync to-device messages and the events of the room. Return the codes of the problems."""
        client = self.next
        outcome = await client.sync()
        events = client.server.events(ROOM)
        for event in events[self.read :]:
            told = client.server._with_transaction(event, client.device)
            decrypted = None
            if event["type"] == "m.room.encrypted":
                decrypted = await self.machine.decrypt_room_event(ROOM, event)
            await self.machine.verifications.receive_room_event(ROOM, told, decrypted)
        self.read = len(events)
        return [problem.code for problem in outcome.problems]

    async def send(self) -> int:
        """Send all requests, each from a different process than the one that listed it. Return their number."""
        sent = 0
        while requests := await self.machine.outgoing_requests():
            for request in requests:
                await self.next.send(decode(encode(request)))
            sent += len(requests)
        return sent


async def settle(*ends: End) -> None:
    """Let all messages arrive."""
    while True:
        sent = sum([await end.send() for end in ends])
        for end in ends:
            assert await end.sync() == []
        if not sent:
            return


async def trust_of(end: End, user: str, device: str) -> LocalTrust:
    trusts = {(await process.machine.devices_of(user))[device].trust for process in end.processes}  # type: ignore[index]
    (trust,) = trusts
    return trust


class Devices:
    """Alice's phone, in two processes, and her tablet; Bob's laptop."""

    def __init__(self, scene: Scene, tablet: Client) -> None:
        self.scene = scene
        self.phone = End(scene.app, scene.extension)
        self.tablet = End(tablet)
        self.laptop = End(scene.bob)


@pytest.fixture
async def devices(alice_and_bob: Scene) -> Devices:
    scene = alice_and_bob
    scene.server.sign_in(Device(ALICE, "TABLET"))
    tablet = await scene.open(ALICE, "TABLET", "tablet")
    await tablet.machine.set_room_encryption(ROOM, {"algorithm": "m.megolm.v1.aes-sha2"})
    await tablet.machine.track_users([ALICE, BOB])
    made = Devices(scene, tablet)
    await settle(made.phone, made.tablet, made.laptop)
    return made


async def restarted(end: End, scene: Scene) -> None:
    """Restart all processes of a device."""
    for process in end.processes:
        await process.machine.close()
    end.processes = tuple(
        [await scene.open(*process.device, f"process {number}") for number, process in enumerate(end.processes)]
    )


@pytest.fixture(params=["to devices", "in a room"])
def ends(request: pytest.FixtureRequest, devices: Devices) -> tuple[End, End]:
    """The phone and the device that it verifies: the tablet by to-device messages, or Bob's laptop in the room."""
    return devices.phone, devices.tablet if request.param == "to devices" else devices.laptop


async def ask(one: End, other: End, methods: tuple[Method, ...] = (Method.SAS,)) -> None:
    if one.user == other.user:
        device_id = other.processes[0].device.device
        await one.machine.verifications.request(one.user, [device_id], methods=methods)
    else:
        await one.machine.verifications.request_in_room(ROOM, other.user, methods=methods)


# M16.1
@pytest.mark.parametrize("asks", [0, 1], ids=["the phone asks", "the other asks"])
async def test_two_devices_verify_each_other(ends: tuple[End, End], devices: Devices, asks: int) -> None:
    """Before each step the processes of the phone are restarted."""

    async def step() -> None:
        await settle(*ends)
        await restarted(devices.phone, devices.scene)

    await ask(ends[asks], ends[1 - asks])
    await step()
    assert await ends[1 - asks].phase() is Phase.REQUESTED
    await ends[1 - asks].accept()
    await step()
    assert [await end.phase() for end in ends] == [Phase.READY] * 2
    await ends[1 - asks].start_sas()
    await step()
    flows = [await end.flow() for end in ends]
    assert [flow.phase for flow in flows] == [Phase.KEYS_EXCHANGED] * 2
    assert flows[0].decimals is not None
    assert (flows[0].emoji, flows[0].decimals) == (flows[1].emoji, flows[1].decimals)
    await ends[0].confirm()
    await step()
    assert await ends[0].phase() is Phase.CONFIRMED
    assert await trust_of(ends[0], ends[1].user, ends[1].processes[0].device.device) is LocalTrust.UNSET
    await ends[1].confirm()
    await step()
    assert [await end.phase() for end in ends] == [Phase.DONE] * 2
    for end, other in (ends, ends[::-1]):
        assert await trust_of(end, other.user, other.processes[0].device.device) is LocalTrust.VERIFIED


# M16.1
@pytest.mark.parametrize("by", ["short strings", "QR code"])
async def test_the_result_is_signed_in_the_commit_that_ends_it(
    ends: tuple[End, End], devices: Devices, by: str
) -> None:
    everybody = devices.phone, devices.tablet, devices.laptop
    for end in (devices.phone, devices.laptop):
        while not (await end.machine.cross_signing.bootstrap()).is_complete:
            await end.send()
    await settle(*everybody)
    await ask(*ends, ALL)
    await settle(*ends)
    await ends[1].accept(ALL)
    await settle(*ends)
    if by == "short strings":
        await ends[1].start_sas()
        await settle(*ends)
        await ends[1].confirm()
    else:
        shown = await ends[0].act(lambda machine, flow_id: machine.verifications.qr_code(flow_id))
        again = await ends[0].act(lambda machine, flow_id: machine.verifications.qr_code(flow_id))
        assert shown == again
        await ends[1].act(lambda machine, flow_id: machine.verifications.scan_qr_code(flow_id, shown))
    await settle(*ends)
    await ends[0].confirm()
    await settle(*everybody)
    assert [await end.phase() for end in ends] == [Phase.DONE] * 2
    trusts = [await end.machine.cross_signing.trust_of(other.user) for end, other in (ends, ends[::-1])]
    assert [trust.verified for trust in trusts] == [True, True]
    for end in everybody:  # the homeserver has the signatures and shows them to others
        known = (await end.machine.devices_of(ALICE)).values()
        trust = await end.machine.cross_signing.trust_of(ALICE)
        signed = {device.device_id for device in known if trust.of(device) is not DeviceTrust.UNSIGNED}
        expected = {"PHONE", "TABLET"} if ends[1] is devices.tablet else {"PHONE"}
        assert signed == expected - {end.processes[0].device.device if end.user == ALICE else ""}


async def test_a_qr_code_of_another_verification_is_refused(devices: Devices) -> None:
    ends = devices.phone, devices.tablet
    while not (await devices.phone.machine.cross_signing.bootstrap()).is_complete:
        await devices.phone.send()
    await settle(*ends)
    codes: list[bytes] = []
    for _ in range(2):
        if codes:
            await ends[1].cancel()
        await ask(*ends, ALL)
        await settle(*ends)
        await ends[1].accept(ALL)
        await settle(*ends)
        codes.append(await ends[0].act(lambda machine, flow_id: machine.verifications.qr_code(flow_id)))
    with pytest.raises(WrongQrCode):
        await ends[1].act(lambda machine, flow_id: machine.verifications.scan_qr_code(flow_id, codes[0]))
    with pytest.raises(MalformedQrCode):
        await ends[1].act(lambda machine, flow_id: machine.verifications.scan_qr_code(flow_id, b"no code"))
    assert await ends[1].phase() is Phase.READY


# M16.9
async def test_both_begin_at_once(ends: tuple[End, End]) -> None:
    await ask(*ends)
    await settle(*ends)
    await ends[1].accept()
    await settle(*ends)
    for end in ends:
        await end.start_sas()
    await settle(*ends)
    flows = [await end.flow() for end in ends]
    assert flows[0].decimals is not None
    assert flows[0].decimals == flows[1].decimals
    for end in ends:
        await end.confirm()
    await settle(*ends)
    assert [await end.phase() for end in ends] == [Phase.DONE] * 2


async def test_strings_that_differ_end_it(ends: tuple[End, End]) -> None:
    await ask(*ends)
    await settle(*ends)
    await ends[1].accept()
    await settle(*ends)
    await ends[0].start_sas()
    await settle(*ends)
    await ends[1].mismatch()
    await settle(*ends)
    assert [await end.code() for end in ends] == ["m.mismatched_sas"] * 2
    assert await trust_of(ends[0], ends[1].user, ends[1].processes[0].device.device) is LocalTrust.UNSET


async def test_either_cancels_at_any_time(ends: tuple[End, End]) -> None:
    for steps, cancels in zip(range(4), (0, 1, 0, 1), strict=True):
        await ask(*ends)
        await settle(*ends)
        if steps > 0:
            await ends[1].accept()
            await settle(*ends)
        if steps > 1:
            await ends[0].start_sas()
            await settle(*ends)
        if steps > 2:
            await ends[0].confirm()
            await settle(*ends)
        await ends[cancels].cancel()
        await settle(*ends)
        flows = [await end.flow() for end in ends]
        assert [flow.cancellation for flow in flows] == [("m.user", side == cancels) for side in (0, 1)]


# M16.15
async def test_a_verification_that_takes_too_long_ends_on_both_sides(ends: tuple[End, End], devices: Devices) -> None:
    await ask(*ends)
    await settle(*ends)
    await ends[1].accept()
    await settle(*ends)
    devices.scene.clock.added_ms += 10 * MINUTE_MS
    assert await ends[0].phase() is Phase.CANCELLED
    with pytest.raises(WrongPhase):
        await ends[0].start_sas()
    await settle(*ends)
    assert [await end.code() for end in ends] == ["m.timeout"] * 2
    devices.scene.clock.added_ms += 10 * MINUTE_MS + 1_000
    flow_id = (await ends[0].flow()).flow_id
    await settle(*ends)
    for end in ends:
        assert await end.machine.verifications.get_all() == []
    assert await ends[0].machine.verifications.get(flow_id) is None
    with pytest.raises(UnknownVerification):
        await ends[0].machine.verifications.accept(flow_id)


# M16.15
async def test_a_request_that_nobody_answers_here_may_be_answered_elsewhere(devices: Devices) -> None:
    await devices.laptop.machine.verifications.request(ALICE)
    await settle(devices.laptop, devices.phone, devices.tablet)
    devices.scene.clock.added_ms += 2 * MINUTE_MS
    await settle(devices.phone)
    assert await devices.phone.code() == "m.timeout"
    await settle(devices.laptop)
    assert await devices.laptop.phase() is Phase.REQUESTED


# M16.14
async def test_the_other_devices_are_told_that_one_has_accepted(devices: Devices) -> None:
    await devices.laptop.machine.verifications.request(ALICE)
    await settle(devices.laptop, devices.phone, devices.tablet)
    await devices.phone.accept()
    await settle(devices.phone, devices.laptop, devices.tablet)
    assert await devices.tablet.code() == "m.accepted"
    assert [await end.phase() for end in (devices.phone, devices.laptop)] == [Phase.READY] * 2


# M16.14
async def test_in_a_room_another_own_device_may_have_accepted(devices: Devices) -> None:
    everybody = (devices.phone, devices.tablet, devices.laptop)
    await devices.laptop.machine.verifications.request_in_room(ROOM, ALICE)
    await settle(*everybody)
    assert await devices.tablet.phase() is Phase.REQUESTED
    await devices.phone.accept()
    await settle(*everybody)
    assert await devices.tablet.code() == "m.accepted"
    await devices.laptop.start_sas()
    await settle(*everybody)
    assert (await devices.phone.flow()).decimals == (await devices.laptop.flow()).decimals is not None
    assert await devices.tablet.phase() is Phase.CANCELLED


# M16.6
async def test_messages_in_an_encrypted_room_are_encrypted(devices: Devices) -> None:
    before = len(devices.scene.server.events(ROOM))
    await ask(devices.phone, devices.laptop)
    await settle(devices.phone, devices.laptop)
    await devices.laptop.accept()
    await settle(devices.phone, devices.laptop)
    sent = devices.scene.server.events(ROOM)[before:]
    assert [event["type"] for event in sent] == ["m.room.encrypted"] * 2


# M16.5
async def test_a_message_that_gets_lost_is_sent_again_and_none_overtakes_it(ends: tuple[End, End]) -> None:
    await ask(*ends)
    await settle(*ends)
    await ends[1].accept()
    await settle(*ends)
    await ends[0].start_sas()
    await settle(*ends)
    await ends[1].confirm()
    await settle(*ends)
    await ends[0].confirm()  # it sends two messages: the MAC, and the end of the verification

    async def listed() -> list[Request]:
        requests = await ends[0].machine.outgoing_requests()
        return [each for each in requests if isinstance(each, ToDevice | RoomMessage) and PREFIX in each.event_type]

    (proof,) = await listed()
    assert await listed() == [proof]
    await ends[0].next.send(proof)
    (done,) = await listed()
    assert [getattr(each, "event_type", None) for each in (proof, done)] == [f"{PREFIX}mac", f"{PREFIX}done"]
    await ends[0].next.machine.mark_sent(proof, {"event_id": "$again"})
    await settle(*ends)
    assert [await end.phase() for end in ends] == [Phase.DONE] * 2


async def test_a_message_that_the_homeserver_refuses_is_abandoned(devices: Devices) -> None:
    await ask(devices.phone, devices.laptop)
    (asked,) = [each for each in await devices.phone.machine.outgoing_requests() if isinstance(each, RoomMessage)]
    with pytest.raises(MalformedResponse):
        await devices.phone.machine.mark_sent(asked, {})
    assert await devices.phone.machine.mark_failed(asked, status=403) is None
    assert await devices.phone.machine.outgoing_requests() == []


# M16.16
async def test_a_request_that_could_not_be_sent_in_time_is_sent_no_more(devices: Devices) -> None:
    await ask(devices.phone, devices.laptop)
    devices.scene.clock.added_ms += 10 * MINUTE_MS
    assert await devices.phone.machine.outgoing_requests() != []
    assert await devices.phone.code() == "m.timeout"
    devices.scene.clock.added_ms += 10 * MINUTE_MS + 1_000
    assert await devices.phone.machine.outgoing_requests() == []
    assert await records(devices.phone) == (0, 0)


async def test_a_request_in_a_room_that_is_given_up_unsent_is_cancelled_when_it_is_sent(devices: Devices) -> None:
    await ask(devices.phone, devices.laptop)
    await devices.phone.cancel()
    await settle(devices.phone, devices.laptop)
    assert await devices.laptop.code() == "m.user"


async def test_an_event_id_that_no_event_has_names_no_verification(devices: Devices) -> None:
    await ask(devices.phone, devices.laptop)
    (asked,) = [each for each in await devices.phone.machine.outgoing_requests() if isinstance(each, RoomMessage)]
    with pytest.raises(MalformedResponse):
        await devices.phone.machine.mark_sent(asked, {"event_id": "$" * 256})


# M16.4
async def test_a_request_in_a_room_is_known_by_its_echo(devices: Devices) -> None:
    """The response to the request is lost, but the event from the room names the request."""
    await ask(devices.phone, devices.laptop)
    (asked,) = [each for each in await devices.phone.machine.outgoing_requests() if isinstance(each, RoomMessage)]
    client = devices.phone.next
    shared = await client.share(ROOM, [ALICE, BOB])
    content = await client.machine.encrypt_room_event(ROOM, shared, asked.event_type, asked.content)
    lost = asked.encrypted(content)
    client.call(lost.method, lost.path, lost.body)
    await settle(devices.laptop)
    await devices.laptop.accept()
    await devices.laptop.send()
    await devices.phone.sync()
    assert await devices.phone.phase() is Phase.READY
    await settle(devices.phone, devices.laptop)
    await devices.phone.start_sas()
    await settle(devices.phone, devices.laptop)
    assert await devices.laptop.phase() is Phase.KEYS_EXCHANGED


# M16.7
async def test_a_message_that_two_connections_bring_counts_once(devices: Devices) -> None:
    ends = devices.phone, devices.tablet

    async def deliver() -> None:
        for end in ends:
            await end.send()
        for connection in ("one", "two"):
            await devices.phone.next.sync(connection)
        await devices.tablet.sync()

    await ask(*ends)
    await devices.phone.send()
    await devices.tablet.sync()
    await devices.tablet.accept()
    await deliver()
    await devices.tablet.start_sas()
    for _ in range(4):
        await deliver()
    assert await devices.phone.phase() is Phase.KEYS_EXCHANGED
    for end in ends:
        await end.confirm()
    for _ in range(3):
        await deliver()
    assert [await end.phase() for end in ends] == [Phase.DONE] * 2


# M14.1
async def test_a_change_is_heard_in_both_processes(devices: Devices) -> None:
    streams = [process.machine.verifications.stream() for process in devices.phone.processes]
    async with streams[0] as here, streams[1] as there:
        await ask(devices.tablet, devices.phone)
        await settle(devices.tablet, devices.phone)
        flow = await devices.phone.flow()
        for stream in (here, there):
            news = await anext(stream)
            assert getattr(news, "key", news) == flow.flow_id


def event(kind: str, **content: object) -> Json:
    return {"type": PREFIX + kind, "sender": BOB, "content": {"transaction_id": "hostile", **content}}


class Inbox:
    """Events from any sender that a homeserver delivers to the phone."""

    def __init__(self, phone: End) -> None:
        self._phone = phone

    async def bring(self, *events: Json) -> list[str]:
        position = await self._phone.machine.sync_position("hostile", sliding=True)
        response: Json = {
            "pos": f"{position.token}+",
            "extensions": {"to_device": {"next_batch": f"{position.to_device_token}+", "events": [*events]}},
        }
        outcome = await self._phone.machine.receive_sync_changes(response, position)
        return [problem.code for problem in outcome.problems]


def asks(scene: Scene, device: str = "LAPTOP", name: str = "hostile", user: str = BOB) -> Json:
    request = event("request", from_device=device, methods=["m.sas.v1"], timestamp=scene.clock.now())
    request["sender"] = user
    content = request["content"]
    assert isinstance(content, dict)
    content["transaction_id"] = name
    return request


async def records(end: End) -> tuple[int, int]:
    async def read(view: View) -> tuple[int, int]:
        return len(await view.keys(VERIFICATION)), len(await view.keys(OUTBOX)) + len(await view.keys(ROOM_OUTBOX))

    return await end.machine._store.query(read)


async def test_a_malformed_request_is_reported_and_begins_nothing(devices: Devices) -> None:
    bring = Inbox(devices.phone).bring
    codes = await bring(
        event("request", from_device="LAPTOP"),
        event("request", from_device="LAPTOP", methods=["m.sas.v1"], timestamp="now"),
        event("start", method="m.sas.v1"),
        event("ready", from_device=5, methods=[]),
        event("key", transaction_id="x" * 256),
        event("key", transaction_id=5),
        event("mac"),
        event("cancel"),
    )
    assert codes == ["malformed"] * 6 + ["unknown_verification"]
    assert await records(devices.phone) == (0, 0)


async def test_an_answer_to_what_was_never_asked_is_answered(devices: Devices) -> None:
    bring = Inbox(devices.phone).bring
    await bring(
        event("ready", from_device="stranger", methods=[]), event("ready", from_device="LAPTOP", methods=["m.sas.v1"])
    )
    (answer,) = [each for each in await devices.phone.machine.outgoing_requests() if isinstance(each, ToDevice)]
    assert answer.messages[BOB]["LAPTOP"]["code"] == "m.unknown_transaction"  # type: ignore[index]
    assert (await records(devices.phone))[0] == 0


async def test_answers_to_what_was_never_asked_fill_no_store(devices: Devices) -> None:
    bring = Inbox(devices.phone).bring
    for _ in range(2):
        every = range(MOST_UNSENT + 10)
        answers = [event("ready", transaction_id=f"{name}", from_device="LAPTOP", methods=[]) for name in every]
        assert await bring(*answers) == []
        assert await records(devices.phone) == (0, MOST_UNSENT)
        await devices.phone.send()


async def test_a_start_that_no_request_came_before_waits_for_a_person(devices: Devices) -> None:
    start: Json = {
        "from_device": "LAPTOP",
        "method": "m.sas.v1",
        "key_agreement_protocols": ["curve25519-hkdf-sha256"],
        "hashes": ["sha256"],
        "message_authentication_codes": ["hkdf-hmac-sha256.v2"],
        "short_authentication_string": ["decimal"],
    }
    begun = event("start", **start)
    assert await Inbox(devices.phone).bring(begun, begun, event("cancel", transaction_id="unknown")) == []
    assert await devices.phone.phase() is Phase.REQUESTED
    await devices.phone.accept()
    assert await devices.phone.phase() is Phase.ACCEPTED
    (accept,) = [each for each in await devices.phone.machine.outgoing_requests() if isinstance(each, ToDevice)]
    assert (accept.event_type, list(accept.messages[BOB])) == (f"{PREFIX}accept", ["LAPTOP"])  # type: ignore[index]


# M16.18
async def test_of_several_requests_of_one_device_none_counts(devices: Devices) -> None:
    scene, bring = devices.scene, Inbox(devices.phone).bring
    assert await bring(asks(scene), asks(scene), asks(scene, name="second")) == []
    flows = await devices.phone.machine.verifications.get_all()
    assert [flow.cancellation for flow in flows] == [("m.unexpected_message", True)] * 2
    assert await bring(asks(scene, name="third")) == []
    assert await devices.phone.phase() is Phase.REQUESTED


# M16.17
async def test_others_make_no_more_flows_than_are_allowed(devices: Devices) -> None:
    scene, bring = devices.scene, Inbox(devices.phone).bring
    flood = [asks(scene, f"device {number}", f"{number}") for number in range(20)]
    assert await bring(*flood) == ["too_many_verifications"] * (20 - FLOWS_OF_A_USER)
    for user in range(FLOWS_OF_OTHERS):
        await bring(asks(scene, f"{user}", f"{user}", f"@user{user}:example.org"))
    assert (await records(devices.phone))[0] == FLOWS_OF_OTHERS
    # The limit does not exclude the user's own devices.
    assert await bring(asks(scene, "TABLET", "own", ALICE)) == []
    assert await devices.phone.phase() is Phase.REQUESTED
    scene.clock.added_ms += 20 * MINUTE_MS
    await devices.phone.send()
    scene.clock.added_ms += 10 * MINUTE_MS + 1
    await devices.phone.send()
    assert await records(devices.phone) == (0, 0)


# M16.17
async def test_others_make_no_more_flows_in_rooms_than_are_allowed(devices: Devices) -> None:
    machine = devices.phone.machine

    def asked(number: int) -> Json:
        content = {
            "msgtype": f"{PREFIX}request",
            "to": ALICE,
            "from_device": f"{number}",
            "methods": ["m.sas.v1"],
            "body": "",
        }
        return {
            "type": "m.room.message",
            "event_id": f"$asked{number}",
            "sender": BOB,
            "content": content,
            "origin_server_ts": devices.scene.clock.now(),
        }

    for number in range(FLOWS_OF_A_USER):
        await machine.verifications.receive_room_event(ROOM, asked(number))
    with pytest.raises(TooManyVerifications):
        await machine.verifications.receive_room_event(ROOM, asked(FLOWS_OF_A_USER))
    await machine.verifications.receive_room_event(ROOM, asked(0))
    assert (await records(devices.phone))[0] == FLOWS_OF_A_USER


@pytest.mark.parametrize(
    "change",
    [
        {"type": "m.room.message", "content": {"msgtype": "m.text"}},
        {"type": 5},
        {"content": 5},
        {"type": "m.room.member", "state_key": ALICE},
    ],
)
async def test_events_of_no_verification_are_left_alone(devices: Devices, change: Json) -> None:
    sent = {"type": f"{PREFIX}key", "event_id": "$1", "sender": BOB, "content": {}, "origin_server_ts": 0}
    await devices.phone.machine.verifications.receive_room_event(ROOM, sent | change)
    assert await records(devices.phone) == (0, 0)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"content": {"m.relates_to": {"event_id": 5}}},
        {"content": {"m.relates_to": {"event_id": "$x"}}, "sender": 5},
        {"content": {"m.relates_to": {"event_id": "\ud800"}}},
        {"content": {"m.relates_to": {"event_id": "$x"}}, "event_id": "$" * 256},
    ],
)
async def test_malformed_events_of_a_room_are_refused(devices: Devices, change: Json) -> None:
    sent = {"type": f"{PREFIX}key", "event_id": "$1", "sender": BOB, "content": {}, "origin_server_ts": 0}
    with pytest.raises(MalformedMessage):
        await devices.phone.machine.verifications.receive_room_event(ROOM, sent | change)


async def test_what_an_event_decrypted_to_is_not_taken_for_another(devices: Devices) -> None:
    said = await devices.laptop.processes[0].say(ROOM, "hello")
    await devices.phone.sync()
    decrypted = await devices.phone.machine.decrypt_room_event(ROOM, said)
    with pytest.raises(InvalidArgument):
        await devices.phone.machine.verifications.receive_room_event(ROOM, {**said, "event_id": "$x"}, decrypted)


async def test_what_cannot_be_asked_is_refused_by_name(devices: Devices) -> None:
    verifications = devices.phone.machine.verifications
    with pytest.raises(UnknownDevice):
        await verifications.request("@nobody:example.org")
    with pytest.raises(UnknownDevice):
        await verifications.request(ALICE, ["WATCH"])
    with pytest.raises(InvalidArgument):
        await verifications.request(ALICE, methods=())
    with pytest.raises(InvalidArgument):
        await verifications.scan_qr_code(FlowId("none"), "MATRIX")  # type: ignore[arg-type]
    with pytest.raises(UnknownVerification):
        await verifications.cancel(FlowId("none"))
    assert await records(devices.phone) == (0, 0)
