"""Inject the faults of the module Verification into the machine. Each breaks the same rule as in the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, NoReturn

import msgspec

from checking.replay.substitutions import Substitution
from unwedged.machine import OlmMachine, sas, verification, verifications
from unwedged.machine.errors import UnknownVerification
from unwedged.machine.identifiers import Device, DeviceId, Ed25519Key, JsonObject, UserId
from unwedged.machine.records import VERIFICATION, Phase, VerificationFlow
from unwedged.machine.sas import Macs
from unwedged.machine.verification import Context, FlowStep
from unwedged.store import Transaction

_confirm = verification.confirm
_proven = sas.proven
_receive_key = verification._receive_key
_receive_mac = verification._receive_mac
_close = OlmMachine.close


# M16.11
def _trusted_unconfirmed() -> Sequence[Substitution]:
    """A valid MAC ends the flow, even if the person has not confirmed."""

    def receive_mac(flow: VerificationFlow, content: JsonObject, context: Context) -> FlowStep:
        step = _receive_mac(msgspec.structs.replace(flow, phase=Phase.CONFIRMED), content, context)
        waits = flow.phase is Phase.KEYS_EXCHANGED and flow.sas is not None and flow.sas.their_macs is None
        return step if waits and step.verified is not None else _receive_mac(flow, content, context)

    return [(verification, "_receive_mac", receive_mac)]


# M16.11
def _mac_of_another_key() -> Sequence[Substitution]:
    """A valid MAC counts as the MAC of the known keys, even if it is of other keys."""

    def proven(
        shared: bytes, sender: Device, receiver: Device, transaction_id: str, theirs: Macs, known: Mapping[str, str]
    ) -> frozenset[str]:
        names = sender, receiver, transaction_id
        of_ids = sas.macs(shared, *names, dict.fromkeys(theirs.keys, "")).key_ids
        return frozenset(known) if sas.is_equal(theirs.key_ids, of_ids) else _proven(shared, *names, theirs, known)

    return [(sas, "proven", proven)]


# M16.10
def _commitment_unchecked() -> Sequence[Substitution]:
    """Any ephemeral key is accepted, even one that the other device has not committed to."""

    def receive_key(flow: VerificationFlow, content: JsonObject, context: Context) -> FlowStep:
        before = flow.sas
        if flow.phase is not Phase.ACCEPTED or before is None:
            return _receive_key(flow, content, context)
        fitting = msgspec.structs.replace(before, commitment=sas.commitment(str(content["key"]), before.start))
        step = _receive_key(msgspec.structs.replace(flow, sas=fitting), content, context)
        assert step.flow.sas is not None  # the content is a valid key
        after = msgspec.structs.replace(step.flow.sas, commitment=before.commitment)
        return FlowStep(msgspec.structs.replace(step.flow, sas=after), step.outgoing)

    return [(verification, "_receive_key", receive_key)]


# M16.1
def _result_in_second_commit() -> Sequence[Substitution]:
    """The commit that ends a flow does not store its result. The process dies before the second commit."""

    async def note_identity(transaction: Transaction, user_id: UserId, master_key: Ed25519Key) -> None:
        del transaction, user_id, master_key

    async def note_device(transaction: Transaction, user_id: UserId, device_id: DeviceId, ed25519: Ed25519Key) -> None:
        del transaction, user_id, device_id, ed25519

    return [
        (verifications, "note_identity_verified", note_identity),
        (verifications, "note_device_verified", note_device),
    ]


# M16.1
def _confirmed_twice() -> Sequence[Substitution]:
    """Each process takes the person's confirmation, even if the other process has already taken it."""

    def confirm(flow: VerificationFlow, context: Context) -> FlowStep:
        if flow.phase is Phase.CONFIRMED:
            flow = msgspec.structs.replace(flow, phase=Phase.KEYS_EXCHANGED)
        return _confirm(flow, context)

    return [(verification, "confirm", confirm)]


# M16.1, S1.3
def _verification_interrupted() -> Sequence[Substitution]:
    """A flow is an object in memory, and is lost with its process. Then a start of it is ignored, as in the model."""

    def started_without_request(*_: object) -> NoReturn:
        raise UnknownVerification("a start is of a verification that is not known")

    async def forget(transaction: Transaction) -> None:
        for flow_id in await transaction.keys(VERIFICATION):
            flow = await transaction.get(VERIFICATION, flow_id)
            if flow is not None and flow.phase is not Phase.READY:
                transaction.delete(VERIFICATION, flow_id)

    async def close(machine: OlmMachine) -> None:
        await machine._store.run(forget)
        await _close(machine)

    return [
        (OlmMachine, "close", close),
        (verification, "started_without_request", started_without_request),
    ]


FAULTS: Final[Mapping[str, Callable[[], Sequence[Substitution]]]] = {
    "trusted-unconfirmed": _trusted_unconfirmed,
    "mac-of-another-key": _mac_of_another_key,
    "commitment-unchecked": _commitment_unchecked,
    "result-in-second-commit": _result_in_second_commit,
    "confirmed-twice": _confirmed_twice,
    "verification-interrupted": _verification_interrupted,
}
