"""The pure flow of a verification marks only compared keys as verified, for any messages in any order."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import replace

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from unwedged.machine import sas, verification
from unwedged.machine.errors import MachineError, MalformedMessage, UnknownDevice, UnsupportedVerification, WrongPhase
from unwedged.machine.identifiers import Device, DeviceId, Ed25519Key, EventId, JsonObject, RoomId, UserId
from unwedged.machine.qr import Mode
from unwedged.machine.records import VERIFICATION, Method, Phase, VerificationFlow
from unwedged.machine.unpadded_base64 import to_unpadded
from unwedged.machine.verification import Context, FlowStep, Outgoing, Verified

PHONE = Device(UserId("@alice:example.org"), DeviceId("PHONE"))
TABLET = Device(UserId("@alice:example.org"), DeviceId("TABLET"))
LAPTOP = Device(UserId("@bob:example.org"), DeviceId("LAPTOP"))
ALL = tuple(Method)
NAME = "name"
MINUTE_MS = 60_000


def key(name: str) -> Ed25519Key:
    return Ed25519Key(to_unpadded(name.encode().ljust(32, b".")))


def context(own: Device, other: Device, now_ms: int = 0) -> Context:
    return Context(
        own,
        key(own.device_id),
        key(own.user_id),
        trusts_own_master_key=True,
        their_key=key(other.device_id),
        their_master_key=key(other.user_id),
        now_ms=now_ms,
        random=secrets.token_bytes(32),
    )


def misled(known: Context, *names: str) -> Context:
    """Return the knowledge of a device whose homeserver has shown it other keys under these names."""
    wrong = key("x")
    return replace(
        known,
        own_master_key=wrong if "own_master_key" in names else known.own_master_key,
        their_key=wrong if "their_key" in names else known.their_key,
        their_master_key=wrong if "their_master_key" in names else known.their_master_key,
    )


def kept(flow: VerificationFlow) -> VerificationFlow:
    """Return a flow as another process decodes it."""
    return VERIFICATION.decode_value(VERIFICATION.encode_value(flow))


class Pair:
    """Two devices and their flow. Messages arrive immediately and in order."""

    def __init__(self, one: Device = PHONE, other: Device = LAPTOP, *, methods: tuple[Method, ...] = ALL) -> None:
        self.devices = [one, other]
        self.contexts = [context(one, other), context(other, one)]
        self.verified: list[Verified | None] = [None, None]
        asked = verification.request(self.contexts[0], other.user_id, [other.device_id], methods, NAME)
        flow = verification.requested(self.contexts[1], one.user_id, NAME, asked.outgoing[0].content)
        assert flow is not None
        self.flows = [asked.flow, flow]
        self.methods = methods

    def take(self, side: int, step: FlowStep) -> tuple[Outgoing, ...]:
        self.flows[side] = kept(step.flow)
        self.verified[side] = step.verified or self.verified[side]
        return step.outgoing

    def act(self, side: int, action: Callable[[VerificationFlow, Context], FlowStep]) -> None:
        self.carry(side, self.take(side, action(self.flows[side], self.contexts[side])))

    def carry(self, side: int, messages: tuple[Outgoing, ...]) -> None:
        other = 1 - side
        for message in messages:
            if self.devices[other].device_id in message.device_ids:
                self.carry(other, self.deliver(other, message.event_type, message.content))

    def deliver(self, side: int, event_type: str, content: JsonObject) -> tuple[Outgoing, ...]:
        return self.take(side, verification.receive(self.flows[side], event_type, content, self.contexts[side]))

    def accept(self) -> None:
        self.act(1, lambda flow, known: verification.accept(flow, self.methods, known))

    def strings(self) -> list[sas.ShortString | None]:
        return [verification.short_string(self.flows[side], self.devices[side]) for side in (0, 1)]

    @property
    def phases(self) -> list[Phase]:
        return [flow.phase for flow in self.flows]

    @property
    def codes(self) -> list[str | None]:
        return [None if flow.cancellation is None else flow.cancellation.code for flow in self.flows]


def compared(one: Device = PHONE, other: Device = LAPTOP, *, started_by: int = 0) -> Pair:
    """Return a pair whose short strings can be compared."""
    pair = Pair(one, other)
    pair.accept()
    pair.act(started_by, verification.start_sas)
    assert pair.phases == [Phase.KEYS_EXCHANGED] * 2
    return pair


# M16.11
@pytest.mark.parametrize("started_by", [0, 1])
@pytest.mark.parametrize("other", [LAPTOP, TABLET], ids=["another user", "an own device"])
def test_equal_strings_verify_both_keys(started_by: int, other: Device) -> None:
    pair = compared(other=other, started_by=started_by)
    one, same = pair.strings()
    assert one is not None
    assert one == same
    assert len(one.emoji) == 7
    pair.act(0, verification.confirm)
    assert pair.phases == [Phase.CONFIRMED, Phase.KEYS_EXCHANGED]
    assert pair.verified == [None, None]
    pair.act(1, verification.confirm)
    assert pair.phases == [Phase.DONE] * 2
    assert pair.verified == [
        Verified(key(other.device_id), key(other.user_id)),
        Verified(key(PHONE.device_id), key(PHONE.user_id)),
    ]


# M16.9
@pytest.mark.parametrize(("own", "other"), [(PHONE, LAPTOP), (PHONE, TABLET), (LAPTOP, PHONE), (TABLET, PHONE)])
def test_of_two_starts_that_of_the_smaller_name_counts(own: Device, other: Device) -> None:
    pair = Pair(own, other)
    pair.accept()
    sent = [pair.take(side, verification.start_sas(pair.flows[side], pair.contexts[side])) for side in (0, 1)]
    answers = [pair.deliver(side, verification.START, sent[1 - side][0].content) for side in (0, 1)]
    for side in (0, 1):
        pair.carry(side, answers[side])
    assert pair.phases == [Phase.KEYS_EXCHANGED] * 2
    we_started = [flow.sas is not None and flow.sas.we_started for flow in pair.flows]
    assert we_started == [own < other, other < own]
    assert pair.strings()[0] == pair.strings()[1]


def test_two_starts_of_different_methods_cancel() -> None:
    pair = Pair()
    pair.accept()
    pair.act(1, verification.show_qr_code)
    assert pair.flows[1].shown is not None
    scanned = verification.scan(pair.flows[0], pair.flows[1].shown, pair.contexts[0])
    sent = pair.take(0, scanned)
    pair.act(1, verification.start_sas)
    pair.carry(0, sent)
    assert pair.codes == ["m.unexpected_message"] * 2
    assert pair.verified == [None, None]


def test_two_scans_at_once_are_one_verification() -> None:
    pair = Pair()
    pair.accept()
    sent = []
    for side in (0, 1):
        pair.act(side, verification.show_qr_code)
    for side in (0, 1):
        shown = pair.flows[1 - side].shown
        assert shown is not None
        sent.append(pair.take(side, verification.scan(pair.flows[side], shown, pair.contexts[side])))
    for side in (0, 1):
        pair.carry(side, sent[side])
    assert pair.phases == [Phase.RECIPROCATED, Phase.SCANNED]
    pair.act(1, verification.confirm)
    assert pair.phases == [Phase.DONE] * 2
    assert pair.verified == [Verified(master_key=key(LAPTOP.user_id)), Verified(master_key=key(PHONE.user_id))]


# M16.13
@pytest.mark.parametrize("shown_by", [0, 1])
@pytest.mark.parametrize("trusting", [0, 1, None], ids=["the first trusts", "the second trusts", "other users"])
def test_a_qr_code_verifies_what_it_is_for(shown_by: int, trusting: int | None) -> None:
    pair = Pair(PHONE, LAPTOP if trusting is None else TABLET)
    for side in (0, 1):
        if trusting is not None:
            trusts = side == trusting
            pair.contexts[side] = replace(pair.contexts[side], trusts_own_master_key=trusts)
    pair.accept()
    pair.act(shown_by, verification.show_qr_code)
    shown, scanner = pair.flows[shown_by].shown, 1 - shown_by
    assert shown is not None
    pair.act(scanner, lambda flow, known: verification.scan(flow, shown, known))
    assert pair.phases[shown_by] is Phase.SCANNED
    assert pair.phases[scanner] is Phase.RECIPROCATED
    pair.act(shown_by, verification.confirm)
    assert pair.phases == [Phase.DONE] * 2
    masters = [Verified(master_key=key(pair.devices[1 - side].user_id)) for side in (0, 1)]
    if trusting is not None:
        masters[trusting] = Verified(device_key=key(pair.devices[1 - trusting].device_id))
    assert pair.verified == masters


# M16.13
@pytest.mark.parametrize("changed", ["their_master_key", "own_master_key"])
def test_a_qr_code_with_another_key_verifies_nothing(changed: str) -> None:
    pair = Pair()
    pair.accept()
    pair.act(1, verification.show_qr_code)
    shown = pair.flows[1].shown
    assert shown is not None
    pair.contexts[0] = misled(pair.contexts[0], changed)
    pair.act(0, lambda flow, known: verification.scan(flow, shown, known))
    assert pair.codes == ["m.key_mismatch"] * 2
    assert pair.verified == [None, None]


# M16.12
def test_whoever_does_not_trust_its_own_master_key_has_nobody_sign_it() -> None:
    pair = compared()
    pair.contexts[0] = replace(pair.contexts[0], trusts_own_master_key=False)
    pair.act(0, verification.confirm)
    pair.act(1, verification.confirm)
    assert pair.verified[1] == Verified(key(PHONE.device_id), None)
    by_code = Pair()
    by_code.accept()
    by_code.contexts[0] = replace(by_code.contexts[0], trusts_own_master_key=False)
    with pytest.raises(UnsupportedVerification):
        by_code.act(0, verification.show_qr_code)
    by_code.act(1, verification.show_qr_code)
    shown = by_code.flows[1].shown
    assert shown is not None
    by_code.act(0, lambda flow, known: verification.scan(flow, shown, known))
    assert by_code.codes == ["m.key_mismatch"] * 2


def test_a_qr_code_for_one_s_own_devices_verifies_no_other_user() -> None:
    pair = Pair()
    pair.accept()
    pair.act(1, verification.show_qr_code)
    shown = pair.flows[1].shown
    assert shown is not None
    odd = msgspec.structs.replace(shown, mode=Mode.OWN_TRUSTED)
    pair.act(0, lambda flow, known: verification.scan(flow, odd, known))
    assert pair.codes == ["m.user_mismatch"] * 2


def test_a_scanner_that_is_through_before_a_person_confirms_is_awaited() -> None:
    """The test follows the behaviour of mautrix-go."""
    pair = Pair()
    pair.accept()
    pair.act(1, verification.show_qr_code)
    shown = pair.flows[1].shown
    assert shown is not None
    pair.act(0, lambda flow, known: verification.scan(flow, shown, known))
    assert pair.deliver(1, verification.DONE, {"transaction_id": NAME}) == ()
    assert pair.phases[1] is Phase.SCANNED
    pair.act(1, verification.confirm)
    assert pair.phases == [Phase.DONE] * 2


def test_another_device_begins_nothing_in_a_verification() -> None:
    pair = Pair()
    pair.accept()
    (start,) = pair.take(0, verification.start_sas(pair.flows[0], pair.contexts[0]))
    assert pair.deliver(1, start.event_type, {**start.content, "from_device": "TABLET"}) == ()
    assert pair.phases[1] is Phase.READY
    pair.carry(0, (start,))
    assert pair.phases == [Phase.KEYS_EXCHANGED] * 2


def test_two_proofs_are_one_too_many() -> None:
    pair = compared()
    pair.act(1, verification.confirm)
    (cancel,) = pair.deliver(0, verification.MAC, {"mac": {}, "keys": "", "transaction_id": NAME})
    assert cancel.content["code"] == "m.unexpected_message"


def test_a_wrong_secret_of_a_scanner_is_noticed() -> None:
    pair = Pair()
    pair.accept()
    pair.act(1, verification.show_qr_code)
    start: JsonObject = {"from_device": "PHONE", "method": "m.reciprocate.v1", "secret": "AAAA", "transaction_id": NAME}
    pair.carry(1, pair.deliver(1, verification.START, start))
    assert pair.codes == ["m.key_mismatch"] * 2


# M16.13
def test_a_person_who_sees_no_success_after_a_scan_verifies_nothing() -> None:
    pair = Pair()
    pair.accept()
    pair.act(1, verification.show_qr_code)
    shown = pair.flows[1].shown
    assert shown is not None
    pair.act(0, lambda flow, known: verification.scan(flow, shown, known))
    pair.act(1, verification.mismatch)
    assert pair.codes == ["m.key_mismatch"] * 2
    assert pair.verified == [None, None]
    assert [(flow.shown, flow.scanned) for flow in pair.flows] == [(None, None)] * 2


# M16.11
def test_strings_that_differ_verify_nothing() -> None:
    pair = compared()
    pair.act(0, verification.mismatch)
    assert pair.codes == ["m.mismatched_sas"] * 2
    assert pair.verified == [None, None]


# M16.11
@pytest.mark.parametrize("side", [0, 1])
def test_another_key_than_the_one_compared_is_not_verified(side: int) -> None:
    """The homeserver has shown one side another device key."""
    pair = compared()
    pair.contexts[side] = replace(pair.contexts[side], their_key=key("x"))
    pair.act(0, verification.confirm)
    pair.act(1, verification.confirm)
    assert pair.codes[side] == "m.key_mismatch"
    assert pair.verified[side] is None


def test_a_master_key_that_is_not_known_is_left_out() -> None:
    pair = compared()
    pair.contexts[0] = replace(pair.contexts[0], their_master_key=key("x"))
    pair.act(0, verification.confirm)
    pair.act(1, verification.confirm)
    assert pair.verified[0] == Verified(key(LAPTOP.device_id), None)


# M16.12
def test_a_device_whose_id_equals_a_key_proves_no_key() -> None:
    """The MAC of the one would be valid for the other."""
    master = key(LAPTOP.user_id)
    odd = Device(LAPTOP.user_id, DeviceId(master))
    pair = compared(PHONE, odd)
    pair.contexts[1] = replace(pair.contexts[1], own_key=master)
    pair.act(0, verification.confirm)
    pair.act(1, verification.confirm)
    assert pair.codes[0] == "m.key_mismatch"
    assert pair.verified[0] is None


# M16.13
def test_keys_that_change_after_a_scan_are_not_verified() -> None:
    pair = Pair()
    pair.accept()
    pair.act(1, verification.show_qr_code)
    shown = pair.flows[1].shown
    assert shown is not None
    pair.act(0, lambda flow, known: verification.scan(flow, shown, known))
    pair.contexts[1] = replace(pair.contexts[1], their_master_key=key("x"))
    pair.act(1, verification.confirm)
    assert pair.codes == ["m.key_mismatch"] * 2


# M16.10
def test_an_ephemeral_key_that_its_device_was_not_committed_to_is_noticed() -> None:
    pair = Pair()
    pair.accept()
    start = pair.take(0, verification.start_sas(pair.flows[0], pair.contexts[0]))
    (accept,) = pair.deliver(1, verification.START, start[0].content)
    pair.deliver(0, verification.ACCEPT, accept.content)
    content: JsonObject = {"key": sas.public_key(secrets.token_bytes(32)), "transaction_id": NAME}
    (cancel,) = pair.deliver(0, verification.KEY, content)
    assert (cancel.event_type, cancel.content["code"]) == (verification.CANCEL, "m.mismatched_commitment")


# M16.8
@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"key_agreement_protocols": ["curve25519"]}, "m.unknown_method"),
        ({"hashes": []}, "m.unknown_method"),
        ({"message_authentication_codes": ["hkdf-hmac-sha256"]}, "m.unknown_method"),
        ({"short_authentication_string": ["other"]}, "m.unknown_method"),
        ({"method": "org.other"}, "m.unknown_method"),
        ({"hashes": "sha256"}, "m.invalid_message"),
        ({"fraction": 0.5}, "m.invalid_message"),
        ({"from_device": 5}, "m.invalid_message"),
        ({"method": "m.reciprocate.v1", "secret": "AAAA"}, "m.unknown_method"),
    ],
)
def test_a_start_that_can_not_be_taken_is_answered(change: JsonObject, code: str) -> None:
    pair = Pair()
    pair.accept()
    (start,) = pair.take(0, verification.start_sas(pair.flows[0], pair.contexts[0]))
    pair.carry(1, pair.deliver(1, start.event_type, start.content | change))
    assert pair.codes == [code] * 2


# M16.8
@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"key_agreement_protocol": "curve25519"}, "m.unknown_method"),
        ({"hash": "sha512"}, "m.unknown_method"),
        ({"message_authentication_code": "hkdf-hmac-sha256"}, "m.unknown_method"),
        ({"short_authentication_string": []}, "m.unknown_method"),
        ({"commitment": None}, "m.invalid_message"),
    ],
)
def test_an_accept_that_can_not_be_taken_is_answered(change: JsonObject, code: str) -> None:
    pair = Pair()
    pair.accept()
    start = pair.take(0, verification.start_sas(pair.flows[0], pair.contexts[0]))
    (accept,) = pair.deliver(1, verification.START, start[0].content)
    (cancel,) = pair.deliver(0, accept.event_type, accept.content | change)
    assert cancel.content["code"] == code


def test_only_the_forms_that_both_know_are_shown() -> None:
    pair = Pair()
    pair.accept()
    (start,) = pair.take(0, verification.start_sas(pair.flows[0], pair.contexts[0]))
    content = start.content | {"short_authentication_string": ["decimal"]}
    assert pair.flows[0].sas is not None
    pair.flows[0] = msgspec.structs.replace(
        pair.flows[0], sas=msgspec.structs.replace(pair.flows[0].sas, start=content)
    )
    pair.carry(0, (replace(start, content=content),))
    one, same = pair.strings()
    assert one is not None
    assert one == same
    assert (one.emoji, len(one.decimals)) == ((), 3)


IN_ORDER = {
    Phase.REQUESTED: {verification.CANCEL, verification.READY, verification.START},  # no answer yet
    Phase.READY: {verification.CANCEL, verification.START},
    Phase.STARTED: {verification.CANCEL, verification.ACCEPT, verification.START},
    Phase.ACCEPTED: {verification.CANCEL, verification.KEY},
    Phase.KEYS_EXCHANGED: {verification.CANCEL, verification.MAC},
    Phase.CONFIRMED: {verification.CANCEL, verification.MAC},
}


# M16.7
@pytest.mark.parametrize("event_type", ["ready", "start", "accept", "key", "mac", "done", "other"])
@pytest.mark.parametrize("phase", IN_ORDER, ids=lambda phase: phase.value)
def test_what_comes_out_of_order_cancels(phase: Phase, event_type: str) -> None:
    if verification.PREFIX + event_type in IN_ORDER[phase]:
        return
    pair = Pair()
    if phase is not Phase.REQUESTED:
        pair.accept()
    if phase is Phase.STARTED:
        pair.take(0, verification.start_sas(pair.flows[0], pair.contexts[0]))
    if phase is Phase.ACCEPTED:
        (start,) = pair.take(1, verification.start_sas(pair.flows[1], pair.contexts[1]))
        pair.deliver(0, start.event_type, start.content)
    if phase in (Phase.KEYS_EXCHANGED, Phase.CONFIRMED):
        pair.act(0, verification.start_sas)
    if phase is Phase.CONFIRMED:
        pair.act(0, verification.confirm)
    assert pair.phases[0] is phase
    content: JsonObject = {"from_device": "LAPTOP", "method": "m.sas.v1", "methods": [], "transaction_id": NAME}
    (cancel,) = pair.deliver(0, verification.PREFIX + event_type, content)
    assert cancel.content["code"] == "m.unexpected_message"


# M16.14
def test_the_first_device_that_answers_takes_part_and_the_others_are_told() -> None:
    devices = [DeviceId("TABLET"), DeviceId("WATCH"), DeviceId("CAR")]
    own = context(PHONE, TABLET)
    asked = verification.request(own, PHONE.user_id, devices, ALL, NAME)
    assert asked.outgoing[0].device_ids == tuple(devices)
    ready: JsonObject = {"from_device": "WATCH", "methods": ["m.sas.v1"], "transaction_id": NAME}
    step = verification.receive(asked.flow, verification.READY, ready, own)
    (told,) = step.outgoing
    assert (told.event_type, told.content["code"]) == (verification.CANCEL, "m.accepted")
    assert told.device_ids == ("TABLET", "CAR")
    assert (step.flow.device_id, step.flow.phase) == ("WATCH", Phase.READY)
    for late in ("TABLET", "stranger"):
        after = verification.receive(step.flow, verification.READY, {**ready, "from_device": late}, own)
        assert (after.outgoing, after.flow.phase) == ((), Phase.READY)


def test_a_stranger_answers_no_request() -> None:
    own = context(PHONE, TABLET)
    asked = verification.request(own, PHONE.user_id, [DeviceId("TABLET")], ALL, NAME)
    ready: JsonObject = {"from_device": "stranger", "methods": ["m.sas.v1"], "transaction_id": NAME}
    step = verification.receive(asked.flow, verification.READY, ready, own)
    assert (step.outgoing, step.flow.phase, step.flow.device_id) == ((), Phase.REQUESTED, None)


# M16.14
def test_one_device_declines_for_all() -> None:
    own = context(PHONE, TABLET)
    asked = verification.request(own, PHONE.user_id, [DeviceId("TABLET"), DeviceId("WATCH")], ALL, NAME)
    step = verification.receive(asked.flow, verification.CANCEL, {"code": "m.user", "transaction_id": NAME}, own)
    (told,) = step.outgoing
    assert (told.content["code"], told.device_ids) == ("m.user", ("TABLET", "WATCH"))
    assert step.flow.cancellation == ("m.user", False)


def test_a_request_without_a_method_in_common_is_answered_by_a_person_only() -> None:
    pair = Pair(methods=(Method.SCAN_QR_CODE,))
    assert verification.demanded(pair.flows[1]) == (Method.SHOW_QR_CODE,)
    with pytest.raises(UnsupportedVerification):
        verification.accept(pair.flows[1], (Method.SAS, Method.SCAN_QR_CODE), pair.contexts[1])
    pair.act(1, verification.cancel)
    assert pair.codes == ["m.user"] * 2


def test_an_answer_without_a_method_in_common_cancels() -> None:
    pair = Pair()
    ready: JsonObject = {"from_device": "LAPTOP", "methods": ["m.qr_code.scan.v1"], "transaction_id": NAME}
    pair.carry(0, pair.deliver(0, verification.READY, ready))
    assert pair.codes == ["m.unknown_method"] * 2


def test_a_method_that_one_side_lacks_is_refused() -> None:
    pair = Pair(methods=(Method.SAS, Method.SHOW_QR_CODE))
    pair.accept()
    assert [verification.usable(flow) for flow in pair.flows] == [(Method.SAS,)] * 2
    with pytest.raises(UnsupportedVerification):
        pair.act(0, verification.show_qr_code)


def test_what_its_owner_does_at_the_wrong_time_is_refused() -> None:
    pair = Pair()
    with pytest.raises(WrongPhase):
        verification.accept(pair.flows[0], ALL, pair.contexts[0])
    for action in (verification.start_sas, verification.confirm, verification.mismatch, verification.show_qr_code):
        with pytest.raises(WrongPhase):
            pair.act(0, action)
    pair.accept()
    with pytest.raises(UnknownDevice):
        verification.start_sas(pair.flows[0], replace(pair.contexts[0], their_key=None))
    with pytest.raises(UnknownDevice):
        verification.show_qr_code(pair.flows[0], replace(pair.contexts[0], their_master_key=None))
    pair.act(0, verification.cancel)
    with pytest.raises(WrongPhase):
        pair.act(0, verification.cancel)


@pytest.mark.parametrize("age_ms", [-5 * MINUTE_MS, 10 * MINUTE_MS])
def test_a_request_from_another_time_is_ignored(age_ms: int) -> None:
    own, other = context(LAPTOP, PHONE), context(PHONE, LAPTOP)
    (asked,) = verification.request(other, LAPTOP.user_id, [LAPTOP.device_id], ALL, NAME).outgoing
    for wrong, late_ms in ((True, age_ms), (False, age_ms + (1 if age_ms < 0 else -1))):
        flow = verification.requested(replace(own, now_ms=late_ms), PHONE.user_id, NAME, asked.content)
        assert (flow is None) is wrong


def test_a_request_of_this_very_device_is_ignored() -> None:
    own = context(PHONE, TABLET)
    (asked,) = verification.request(own, PHONE.user_id, [PHONE.device_id], ALL, NAME).outgoing
    assert verification.requested(own, PHONE.user_id, NAME, asked.content) is None
    start = {**asked.content, "method": "m.sas.v1"}
    with pytest.raises(MalformedMessage):
        verification.started_without_request(own, PHONE.user_id, NAME, start)


# M16.15, M16.16
def test_time_ends_a_verification() -> None:
    pair = Pair()
    early, late = 2 * MINUTE_MS - 1, 2 * MINUTE_MS
    assert not verification.time_out(pair.flows[1], replace(pair.contexts[1], now_ms=early)).flow.is_over
    dropped = verification.time_out(pair.flows[1], replace(pair.contexts[1], now_ms=late))
    assert (dropped.flow.cancellation, dropped.outgoing) == (("m.timeout", True), ())
    pair.accept()
    for side in (0, 1):
        flow, known = pair.flows[side], pair.contexts[side]
        assert not verification.time_out(flow, replace(known, now_ms=10 * MINUTE_MS - 1)).flow.is_over
        ended = verification.time_out(flow, replace(known, now_ms=10 * MINUTE_MS))
        assert [message.content["code"] for message in ended.outgoing] == ["m.timeout"]
        assert not verification.is_forgotten(ended.flow, 20 * MINUTE_MS - 1)
        assert verification.is_forgotten(ended.flow, 20 * MINUTE_MS)


# M16.15
def test_a_time_that_a_wrong_clock_has_noted_is_over() -> None:
    own = context(PHONE, LAPTOP, now_ms=10**12)
    asked = verification.request(own, LAPTOP.user_id, [LAPTOP.device_id], ALL, NAME)
    assert verification.time_out(asked.flow, replace(own, now_ms=0)).flow.is_over


def test_a_start_without_a_request_waits_for_a_person() -> None:
    pair = Pair()
    pair.accept()
    (start,) = pair.take(0, verification.start_sas(pair.flows[0], pair.contexts[0]))
    step = verification.started_without_request(pair.contexts[1], PHONE.user_id, NAME, start.content)
    assert (step.flow.phase, step.outgoing) == (Phase.REQUESTED, ())
    pair.flows[1] = step.flow
    assert pair.deliver(1, start.event_type, start.content) == ()
    pair.accept()
    assert pair.phases == [Phase.KEYS_EXCHANGED] * 2
    assert pair.strings()[0] == pair.strings()[1]


def test_a_start_without_a_request_and_of_another_method_is_answered() -> None:
    start: JsonObject = {"from_device": "PHONE", "method": "org.other", "transaction_id": NAME}
    step = verification.started_without_request(context(LAPTOP, PHONE), PHONE.user_id, NAME, start)
    assert [message.content["code"] for message in step.outgoing] == ["m.unknown_method"]


# M16.3
def test_messages_in_a_room_name_the_event_that_asked() -> None:
    room, event_id = RoomId("!room:example.org"), EventId("$asked")
    own, other = context(PHONE, LAPTOP), context(LAPTOP, PHONE)
    asked = verification.request_in_room(own, LAPTOP.user_id, room, ALL)
    (message,) = asked.outgoing
    assert message.event_type == "m.room.message"
    flow = verification.requested_in_room(other, room, PHONE.user_id, event_id, 0, message.content)
    assert flow is not None
    ready = verification.accept(flow, ALL, other).outgoing[0]
    assert ready.content["m.relates_to"] == {"rel_type": "m.reference", "event_id": event_id}
    assert "transaction_id" not in ready.content
    step = verification.named(asked.flow, event_id)
    assert verification.named(step.flow, EventId("$other")).flow.transaction_id == event_id
    assert verification.receive(step.flow, ready.event_type, ready.content, own).flow.phase is Phase.READY
    assert verification.requested_in_room(own, room, LAPTOP.user_id, event_id, 0, message.content) is None


def test_a_request_in_a_room_that_is_cancelled_before_it_has_an_id_is_cancelled_later() -> None:
    own = context(PHONE, LAPTOP)
    asked = verification.request_in_room(own, LAPTOP.user_id, RoomId("!room:example.org"), ALL)
    cancelled = verification.cancel(asked.flow, own)
    assert cancelled.outgoing == ()
    (cancel,) = verification.named(cancelled.flow, EventId("$asked")).outgoing
    assert cancel.content["code"] == "m.user"


@pytest.mark.parametrize(
    ("event_type", "content", "code"),
    [
        (verification.READY, {"from_device": "TABLET"}, "m.accepted"),
        (verification.READY, {"from_device": "LAPTOP"}, None),
        (verification.CANCEL, {}, "m.user"),
        (verification.KEY, {}, None),
    ],
)
def test_another_own_device_may_answer_in_a_room(event_type: str, content: JsonObject, code: str | None) -> None:
    own, room = context(LAPTOP, PHONE), RoomId("!room:example.org")
    (asked,) = verification.request_in_room(context(PHONE, LAPTOP), LAPTOP.user_id, room, ALL).outgoing
    flow = verification.requested_in_room(own, room, PHONE.user_id, EventId("$asked"), 0, asked.content)
    assert flow is not None
    step = verification.receive_from_own_user(flow, event_type, content, own)
    assert step.outgoing == ()
    assert (None if step.flow.cancellation is None else step.flow.cancellation.code) == code
    accepted = verification.accept(flow, ALL, own).flow
    assert verification.receive_from_own_user(accepted, event_type, content, own).flow == accepted


# M16.2
def test_no_secret_is_shown_and_none_outlives_the_flow() -> None:
    pair = compared()
    flow = pair.flows[0]
    assert flow.sas is not None
    for shown in (repr(flow), repr(flow.sas), repr(pair.contexts[0])):
        assert repr(flow.sas.secret)[2:-1] not in shown
        assert repr(pair.contexts[0].random)[2:-1] not in shown
    pair.act(0, verification.confirm)
    pair.act(1, verification.confirm)
    for ended in pair.flows:
        assert (ended.sas, ended.shown, ended.scanned) == (None, None, None)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.sampled_from(["", "m.sas.v1", "PHONE", "LAPTOP", "sha256"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["a", "ed25519:PHONE"]), inner),
    max_leaves=3,
)
TYPES = [verification.PREFIX + each for each in ("ready", "start", "accept", "key", "mac", "done", "cancel", "x")]


class Attacked(RuleBasedStateMachine):
    """Two honest people. Their devices receive whatever the network delivers, and know the keys that it names.

    The two people see both screens. They accept strings only if these are equal, and confirm a scan only if the other
    device shows that it succeeded.
    """

    def __init__(self) -> None:
        super().__init__()
        self.attacker = secrets.token_bytes(32)

    @initialize(
        own=st.booleans(),
        lies=st.lists(st.sampled_from(["device", "master", "own master"]), max_size=1),
        steps=st.integers(0, 4),
        first=st.integers(0, 1),
        by_code=st.booleans(),
    )
    def begin(self, steps: int, first: int, lies: list[str], *, own: bool, by_code: bool) -> None:
        """Begin with some undisturbed steps of a verification, perhaps with false keys from the homeserver."""
        self.pair = Pair(PHONE, TABLET if own else LAPTOP)
        self.real = [(key(device.device_id), key(device.user_id)) for device in self.pair.devices]
        self.sent: list[list[Outgoing]] = [[], []]
        self.delivered = [0, 0]
        self.confirmed = [False, False]
        masters = ("their_master_key", "own_master_key")
        names = {"device": ("their_key",), "master": masters if own else masters[:1], "own master": masters}
        for lie in lies:
            known = misled(self.pair.contexts[0], *names[lie])
            self.pair.contexts[0] = replace(known, trusts_own_master_key=lie == "device" or not own)
        undisturbed: list[Callable[[], None]] = [
            lambda: self.accept(1, list(Method)),
            lambda: self.choose(first, verification.show_qr_code if by_code else verification.start_sas),
            lambda: self.scan(1 - first) if by_code else None,
            lambda: self.compare(first),
        ]
        for step in undisturbed[:steps]:
            step()
            while self.delivered != [len(self.sent[1]), len(self.sent[0])]:
                for side in (0, 1):
                    self.deliver_next(side)

    def step(self, side: int, action: Callable[[VerificationFlow, Context], FlowStep]) -> None:
        known = replace(self.pair.contexts[side], random=secrets.token_bytes(32))
        try:
            step = action(self.pair.flows[side], known)
        except MachineError:
            return
        if step.verified is not None:
            assert step.flow.phase is Phase.DONE
            assert self.confirmed[side]
            device, master = self.real[1 - side]
            assert step.verified.device_key in (None, device)
            assert step.verified.master_key in (None, master)
            assert step.verified != Verified()
        if self.pair.flows[side].is_over:
            assert step.flow == self.pair.flows[side]
        self.sent[side] += self.pair.take(side, step)

    @rule(side=st.integers(0, 1), methods=st.lists(st.sampled_from(Method), min_size=1, unique=True))
    def accept(self, side: int, methods: list[Method]) -> None:
        self.step(side, lambda flow, known: verification.accept(flow, methods, known))

    @rule(side=st.integers(0, 1), action=st.sampled_from([verification.start_sas, verification.show_qr_code]))
    def choose(self, side: int, action: Callable[[VerificationFlow, Context], FlowStep]) -> None:
        self.step(side, action)

    @rule(side=st.integers(0, 1))
    def cancel(self, side: int) -> None:
        self.step(side, verification.cancel)

    @rule(side=st.integers(0, 1))
    def scan(self, side: int) -> None:
        shown = self.pair.flows[1 - side].shown
        if shown is not None:
            self.confirmed[side] = True
            self.step(side, lambda flow, known: verification.scan(flow, shown, known))

    @rule(side=st.integers(0, 1))
    def compare(self, side: int) -> None:
        strings = self.pair.strings()
        if self.pair.flows[side].phase is Phase.SCANNED:
            other = self.pair.flows[1 - side]
            equal = other.phase is Phase.RECIPROCATED and other.scanned == self.pair.flows[side].shown
        else:
            equal = strings[0] is not None and strings[0] == strings[1]
        self.confirmed[side] |= equal
        self.step(side, verification.confirm if equal else verification.mismatch)

    @rule(side=st.integers(0, 1), data=st.data())
    def deliver(self, side: int, data: st.DataObject) -> None:
        """Deliver a sent message to either side, perhaps again."""
        sent = self.sent[1 - side] + self.sent[side]
        if sent:
            message = data.draw(st.sampled_from(sent))
            self.step(side, lambda flow, known: verification.receive(flow, message.event_type, message.content, known))

    @rule(side=st.integers(0, 1))
    def deliver_next(self, side: int) -> None:
        if self.delivered[side] < len(self.sent[1 - side]):
            message = self.sent[1 - side][self.delivered[side]]
            self.delivered[side] += 1
            self.step(side, lambda flow, known: verification.receive(flow, message.event_type, message.content, known))

    @rule(side=st.integers(0, 1), data=st.data())
    def change(self, side: int, data: st.DataObject) -> None:
        if self.sent[1 - side]:
            message = data.draw(st.sampled_from(self.sent[1 - side]))
            field = data.draw(st.sampled_from(sorted(message.content)))
            content = {**message.content, field: data.draw(JSON)}
            self.step(side, lambda flow, known: verification.receive(flow, message.event_type, content, known))

    @rule(side=st.integers(0, 1))
    def stand_between(self, side: int) -> None:
        content: JsonObject = {"key": sas.public_key(self.attacker), "transaction_id": NAME}
        self.step(side, lambda flow, known: verification.receive(flow, verification.KEY, content, known))

    @rule(side=st.integers(0, 1), event_type=st.sampled_from(TYPES), content=st.dictionaries(st.text(), JSON))
    def invent(self, side: int, event_type: str, content: JsonObject) -> None:
        self.step(side, lambda flow, known: verification.receive(flow, event_type, content, known))

    @precondition(lambda self: hasattr(self, "pair"))
    @invariant()
    def nothing_is_kept_of_what_is_over(self) -> None:
        for flow in self.pair.flows:
            assert kept(flow) == flow
            if flow.is_over:
                assert (flow.sas, flow.shown, flow.scanned) == (None, None, None)
                assert (flow.cancellation is None) == (flow.phase is Phase.DONE)


TestAttacked = Attacked.TestCase
TestAttacked.settings = settings(max_examples=100, stateful_step_count=15, deadline=None)
