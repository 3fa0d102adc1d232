"""Our device and a peer verify each other. Each call is made by the other process, which is restarted before it."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from checking.machine_replay.homeserver import Device
from tests.peers.peer import MATRIX_SDK_CRYPTO, MAUTRIX_GO, Library, Peer, PeersVerification
from tests.peers.scene import ROOM, Scene
from tests.peers.shared_device import SharedDevice, shared_device
from unwedged.machine import DeviceTrust, Method, Phase, Verification
from unwedged.machine.identifiers import DeviceId

OURS = Device("@ours:example.org", "OURS")
ALICE = Device("@alice:example.org", "ALICESPHONE")
TABLET = Device(OURS.user, "TABLET")
ALL = tuple(Method)

EACH = [pytest.param(library, id=library.name) for library in (MATRIX_SDK_CRYPTO, MAUTRIX_GO)]


class Meeting:
    """Our device and a peer, and the steps of their verification."""

    def __init__(self, scene: Scene, ours: SharedDevice, peer: Peer, library: Library) -> None:
        self.scene, self.ours, self.peer = scene, ours, peer
        other_user = peer.device.user != OURS.user
        # mautrix-go 0.32 encrypts its request twice, and treats each event in a room as a separate verification.
        self.in_room = other_user and library != MAUTRIX_GO
        # It also uses its own master key as that of the other user if it is the second to confirm.
        self.peer_may_be_second = not other_user or library != MAUTRIX_GO

    async def settle(self) -> None:
        await self.scene.settle(self.ours, self.peer)

    async def flow(self) -> Verification:
        return (await (await self.ours.machine()).verifications.get_all())[-1]

    async def of_peer(self) -> tuple[str, PeersVerification]:
        """Return a verification that the peer has not cancelled, or else its newest one, with its id."""
        known = (await self.peer.verifications()).items()
        return next(((name, flow) for name, flow in known if flow.phase != "cancelled"), [*known][-1])

    async def we_ask(self, methods: tuple[Method, ...] = ALL) -> None:
        verifications = (await self.ours.machine()).verifications
        if self.in_room:
            await verifications.request_in_room(ROOM, self.peer.device.user, methods=methods)
        else:
            await verifications.request(self.peer.device.user, [self.peer.device.device], methods=methods)
        await self.settle()

    async def they_ask(self) -> None:
        room = ROOM if self.in_room else None
        await self.peer.request_verification(OURS.user, device=OURS.device, room=room)
        await self.settle()

    async def we_accept(self, methods: tuple[Method, ...] = ALL) -> None:
        flow = await self.flow()
        assert flow.phase is Phase.REQUESTED
        await (await self.ours.machine()).verifications.accept(flow.flow_id, methods=methods)
        await self.settle()

    async def they_accept(self) -> None:
        name, theirs = await self.of_peer()
        assert theirs.phase == "requested"
        await self.peer.verify_by("accept_verification", name)
        await self.settle()

    async def we_start(self) -> None:
        await (await self.ours.machine()).verifications.start_sas((await self.flow()).flow_id)

    async def they_start(self) -> None:
        await self.peer.verify_by("start_sas", (await self.of_peer())[0])

    async def strings_are_equal(self) -> None:
        flow, (_, theirs) = await self.flow(), await self.of_peer()
        assert flow.phase in (Phase.KEYS_EXCHANGED, Phase.CONFIRMED)
        assert theirs.phase == "comparing"
        assert flow.decimals == theirs.decimals
        shown = [(each.symbol.rstrip("\ufe0f"), each.description) for each in flow.emoji]
        assert shown == [(symbol.rstrip("\ufe0f"), description) for symbol, description in theirs.emoji or []]

    async def we_confirm(self) -> None:
        await (await self.ours.machine()).verifications.confirm((await self.flow()).flow_id)
        await self.settle()

    async def they_confirm(self) -> None:
        await self.peer.verify_by("confirm_sas", (await self.of_peer())[0])
        await self.settle()

    async def both_confirm(self, *, we_first: bool) -> None:
        we_first &= self.peer_may_be_second
        await (self.we_confirm() if we_first else self.they_confirm())
        await (self.they_confirm() if we_first else self.we_confirm())

    async def is_done(self) -> None:
        assert (await self.flow()).phase is Phase.DONE
        assert (await self.of_peer())[1].phase == "done"
        await self.settle()
        here = await (await self.ours.machine()).cross_signing.trust_of(self.peer.device.user)
        devices = await (await self.ours.machine()).devices_of(self.peer.device.user)
        assert here.verified
        assert here.of(devices[DeviceId(self.peer.device.device)]) is DeviceTrust.VERIFIED
        there = await self.peer.trust(OURS)
        assert (there["verified"], there["trusted"]) == (True, True)


@pytest.fixture(params=["an own device", "another user"])
async def meeting(
    request: pytest.FixtureRequest, scene: Scene, tmp_path: Path, library: Library
) -> AsyncIterator[Meeting]:
    """Create the identities: the peer creates its user's. If our user is another one, our device creates ours."""
    device = TABLET if request.param == "an own device" else ALICE
    peer = await scene.start(library, device)
    async with shared_device(tmp_path, OURS, scene.network, restarts=True, verifies=True) as ours:
        await scene.meet(ours, peer)
        await peer.bootstrap()
        await scene.settle(ours, peer)
        if device.user != OURS.user:
            await ours.bootstrap()
            await scene.settle(ours, peer)
        yield Meeting(scene, ours, peer, library)
        assert ours.problems == set()


# M16.8, M16.11
@pytest.mark.parametrize("library", EACH)
@pytest.mark.parametrize("started_by_us", [False, True], ids=["they start", "we start"])
@pytest.mark.parametrize("asked_by_us", [False, True], ids=["they ask", "we ask"])
async def test_short_strings(meeting: Meeting, *, asked_by_us: bool, started_by_us: bool) -> None:
    await (meeting.we_ask() if asked_by_us else meeting.they_ask())
    await (meeting.they_accept() if asked_by_us else meeting.we_accept())
    await (meeting.we_start() if started_by_us else meeting.they_start())
    await meeting.settle()
    await meeting.strings_are_equal()
    await meeting.both_confirm(we_first=asked_by_us)
    await meeting.is_done()


# M16.9
@pytest.mark.parametrize("library", EACH)
async def test_both_start_at_once(meeting: Meeting) -> None:
    await meeting.we_ask()
    await meeting.they_accept()
    await meeting.we_start()
    await meeting.they_start()
    await meeting.settle()
    await meeting.strings_are_equal()
    await meeting.both_confirm(we_first=True)
    await meeting.is_done()


@pytest.mark.parametrize("library", EACH)
async def test_cancellations_arrive(meeting: Meeting) -> None:
    await meeting.they_ask()
    await meeting.we_accept()
    await (await meeting.ours.machine()).verifications.cancel((await meeting.flow()).flow_id)
    await meeting.settle()
    theirs = (await meeting.of_peer())[1]
    assert (theirs.phase, theirs.code) == ("cancelled", "m.user")
    await meeting.we_ask()
    await meeting.they_accept()
    await meeting.peer.verify_by("cancel_verification", (await meeting.of_peer())[0])
    await meeting.settle()
    assert (await meeting.flow()).cancellation == ("m.user", False)


# M16.13
@pytest.mark.parametrize("library", EACH)
async def test_they_scan_our_code(meeting: Meeting) -> None:
    await meeting.we_ask()
    await meeting.they_accept()
    shown = await (await meeting.ours.machine()).verifications.qr_code((await meeting.flow()).flow_id)
    await meeting.peer.verify_by("scan_qr_code", (await meeting.of_peer())[0], shown)
    await meeting.settle()
    assert (await meeting.flow()).phase is Phase.SCANNED
    await meeting.we_confirm()
    await meeting.is_done()


# M16.13
@pytest.mark.parametrize("library", EACH)
async def test_we_scan_their_code(meeting: Meeting, library: Library) -> None:
    await meeting.they_ask()
    await meeting.we_accept()
    name, theirs = await meeting.of_peer()
    shown = theirs.qr_code
    if library == MATRIX_SDK_CRYPTO:
        shown = str((await meeting.peer.verify_by("show_qr_code", name))["shown"])
    assert shown is not None
    await (await meeting.ours.machine()).verifications.scan_qr_code((await meeting.flow()).flow_id, b64decode(shown))
    await meeting.settle()
    assert (await meeting.of_peer())[1].phase == "scanned"
    await meeting.peer.verify_by("confirm_scan", name)
    await meeting.settle()
    await meeting.is_done()
