"""The owners of two devices verify them: accept requests, compare short strings, confirm, or cancel."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Final

import msgspec

from chaos.room import DIRECT
from unwedged.machine import DeviceTrust, OlmMachine
from unwedged.machine.errors import UnknownDevice, UnknownVerification, WrongPhase, WrongQrCode
from unwedged.machine.identifiers import FlowId
from unwedged.machine.records import VERIFICATION, Method, Phase
from unwedged.machine.verifications import Verification
from unwedged.store import View

OVER: Final = (Phase.DONE, Phase.CANCELLED)
"""The final states of a verification."""


class Shown(msgspec.Struct, frozen=True):
    """A verification as one of the two devices shows it."""

    transaction_id: str
    """The id by which both devices know it. While a request in a room is not answered, a name on this device only."""
    user_id: str
    """The user at the other end."""
    phase: Phase
    decimals: tuple[int, int, int] | None
    """The short string to compare, while there is one."""
    qr_code: bytes | None
    cancelled: str | None
    """The cancellation code, if it was cancelled."""
    trusts: bool
    """Whether this device regards the other one as verified; for another user, whether it regards the user so."""

    @property
    def is_over(self) -> bool:
        """Whether it has reached a final state."""
        return self.phase in OVER


class Request(msgspec.Struct, frozen=True):
    """The device to ask for a verification, and the method. Another user is asked in a room."""

    user_id: str
    device_id: str
    method: Method


class OwnerActs(msgspec.Struct, frozen=True):
    """What the owner does with one device, other than continuing its verifications."""

    other: list[Shown] = []
    """The verifications that the other devices show."""
    requests: list[Request] = []
    cancels: list[str] = []
    """The users with whom the owner cancels every verification."""

    def __add__(self, more: OwnerActs) -> OwnerActs:
        return OwnerActs(self.other + more.other, self.requests + more.requests, self.cancels + more.cancels)


async def act(machine: OlmMachine, acts: OwnerActs) -> list[Shown]:
    """Take the owner's next step in each verification; return what the device shows afterwards."""
    own, verifications = machine.device.user_id, machine.verifications
    for request in acts.requests:
        if request.user_id != own:
            await verifications.request_in_room(DIRECT, request.user_id, methods=[request.method])
            continue
        with suppress(UnknownDevice):  # The device list must be fetched first.
            await verifications.request(own, [request.device_id], methods=[request.method])
    other = {shown.transaction_id: shown for shown in acts.other}
    names = await machine._store.query(_transaction_ids)  # noqa: SLF001 (applications need no name but their own)
    qr_codes: dict[FlowId, bytes | None] = {}
    for flow in await verifications.get_all():
        # The device list is not fetched yet, or the other process was faster, or the QR code is of another flow.
        with suppress(UnknownDevice, UnknownVerification, WrongPhase, WrongQrCode):
            if flow.user_id not in acts.cancels:
                qr_codes[flow.flow_id] = await _go_on(machine, flow, other.get(names.get(flow.flow_id, "")))
            elif flow.phase not in OVER:
                await verifications.cancel(flow.flow_id)
    flows = await verifications.get_all()
    if not flows:
        return []
    trusts = {user: await machine.cross_signing.trust_of(user) for user in {flow.user_id for flow in flows}}
    devices = await machine.devices_of(own)
    verified = {
        name for name, device in devices.items() if own in trusts and trusts[own].of(device) is DeviceTrust.VERIFIED
    }
    return [
        Shown(
            names.get(flow.flow_id, flow.flow_id),
            flow.user_id,
            flow.phase,
            flow.decimals,
            qr_codes.get(flow.flow_id),
            None if flow.cancellation is None else flow.cancellation.code,
            flow.device_id in verified if flow.user_id == own else trusts[flow.user_id].verified,
        )
        for flow in flows
        if flow.flow_id in names or flow.phase not in OVER
    ]


async def _go_on(machine: OlmMachine, flow: Verification, other: Shown | None) -> bytes | None:
    """Take the owner's next step in one verification; return the QR code that the device shows, if any."""
    verifications = machine.verifications
    match flow.phase:
        case Phase.REQUESTED if not flow.requested_by_us:
            await verifications.accept(flow.flow_id, methods=tuple(Method))
        case Phase.READY if Method.SAS in flow.methods:
            await verifications.start_sas(flow.flow_id)
        case Phase.READY if Method.SHOW_QR_CODE in flow.methods:
            return await verifications.qr_code(flow.flow_id)
        case Phase.READY if other is not None and other.qr_code is not None:
            await verifications.scan_qr_code(flow.flow_id, other.qr_code)
        case Phase.KEYS_EXCHANGED if other is not None and other.decimals is not None:
            if other.decimals == flow.decimals:
                await verifications.confirm(flow.flow_id)
            else:
                await verifications.mismatch(flow.flow_id)
        case Phase.SCANNED if other is not None and other.phase is Phase.RECIPROCATED:
            await verifications.confirm(flow.flow_id)
    return None


async def _transaction_ids(view: View) -> Mapping[FlowId, str]:
    names = {}
    for flow_id in await view.keys(VERIFICATION):
        flow = await view.get(VERIFICATION, flow_id)
        if flow is not None and flow.transaction_id is not None:
            names[flow_id] = flow.transaction_id
    return names
