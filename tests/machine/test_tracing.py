"""The machine traces its steps as ``spec/trace.md`` says, and no text of a message or a key is in a trace."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, get_args

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from checking.explain import lines as trace_lines
from checking.machine_replay.client import Client
from checking.machine_replay.homeserver import Device, Homeserver, Json
from checking.machine_replay.message_keys import decode, inner_message, olm_position
from tests.machine.own_devices import another_device, encrypted_for, receive
from tests.machine.scene import ALICE, BOB, HOUR_MS, MEGOLM, ROOM, Scene, scene
from tests.store.stores import Recorder
from unwedged.machine import (
    KeysUpload,
    LocalTrust,
    MachineError,
    MalformedMessage,
    MissingRoomKey,
    account,
    inbox,
    key_requests,
    rooms,
    tracing,
)
from unwedged.machine.identifiers import OLM
from unwedged.machine.olm_positions import olm_position as position_of
from unwedged.machine.records import KINDS, KeySource, Phase
from unwedged.machine.requests import Request
from unwedged.store import RecordKind, StoreError, Transaction, View
from unwedged.store.sealer import Sealer
from unwedged.trace import Field, Line, Remarks

SHORTEST: Final = 8
"""A text of at least this length does not occur twice by chance."""
WORDS: Final = " ".join(
    [
        *(tracing.KNOWN_TYPES | tracing.KNOWN_CODES),
        *(kind.name for kind in KINDS),
        trace_lines.schema().decode(),
    ]
)
"""What may appear: words of the specification, of the format, and names of kinds."""


def decoded(recorder: Recorder) -> list[trace_lines.AnyLine]:
    made = []
    for line in recorder.lines:
        struct = trace_lines.DECODER.decode(json.dumps(line).encode())
        unknown = line.keys() - {"step", *struct.__struct_fields__}
        assert not unknown, f"{line['step']} has fields that the format does not know: {unknown}"
        made.append(struct)
    return made


def of(recorder: Recorder, step: str) -> list[Line]:
    return [line for line in recorder.lines if line["step"] == step]


async def talk(on: Scene, text: str) -> None:
    """Let both sides send messages. One is replayed as another event, one is not for us, and one is read too early."""
    await on.greet()
    event = await on.app.say(ROOM, text)
    await on.bob.sync()
    assert await on.bob.read(ROOM, event) == text
    with pytest.raises(Exception, match="read before"):
        await on.bob.machine.decrypt_room_event(ROOM, event | {"event_id": "$again"})
    await on.extension.sync()
    event = await on.bob.say(ROOM, text)
    content = msgspec.convert(event["content"], dict[str, object])
    with pytest.raises(MissingRoomKey):
        await on.app.machine.decrypt_room_event(ROOM, event | {"content": content | {"session_id": "another"}})
    [device] = (await on.app.machine.devices_of(BOB)).values()
    await on.app.machine.set_trust(BOB, device.device_id, device.ed25519, LocalTrust.BLOCKED)
    await on.app.say(ROOM, text)
    await on.bob.sync()


async def test_each_step_of_a_conversation(tmp_path: Path) -> None:
    recorder = Recorder()
    async with scene(tmp_path, recorder) as on:
        await talk(on, "hello")
    steps = Counter(str(line["step"]) for line in recorder.lines)
    assert set(steps) >= {
        *("open_machine", "batch", "receive", "decrypt_olm", "decrypt_megolm", "encrypt_olm", "encrypt_megolm"),
        *("room_key", "share", "withhold", "told_withheld", "offer", "send", "request", "answer"),
    }, steps
    decoded(recorder)
    assert {line["outcome"] for line in of(recorder, "decrypt_megolm")} == {"ok", "replayed", "missing_room_key"}
    assert {line["first_index"] for line in of(recorder, "room_key")} == {0}


async def test_each_step_between_the_devices_of_one_user(tmp_path: Path) -> None:
    recorder = Recorder()
    async with scene(tmp_path, recorder) as on:
        tablet = await another_device(on)
        await on.app.share(ROOM, [ALICE])
        made = await on.app.machine.key_backup.create_version()
        answer = on.app.call(made.request.method, made.request.path, made.request.body)
        await on.extension.machine.mark_sent(made.request, answer)
        flow = await on.app.machine.verifications.request(ALICE, ["TABLET"])
        for client in (on.app, tablet):
            await client.send_all()
            await tablet.sync()
        await on.extension.machine.verifications.cancel(flow)
        on.clock.added_ms += HOUR_MS
        await on.app.send_all()
        event = await on.app.say(ROOM, "hello")
        await tablet.sync()
        content = msgspec.convert(event["content"], dict[str, object])
        await tablet.machine.request_room_keys(ROOM, [event | {"content": content | {"session_id": "none"}}])
        await tablet.send_all()
        await on.extension.sync()
        await on.app.send_all()
        await on.app.machine.key_backup.turn_off()
        message = await encrypted_for(tablet, on.app, "m.dummy", {})
        for ciphertext in ciphertexts(message):
            ciphertext["body"] = str(ciphertext["body"])[:-4] + "AAAA"
        assert await receive(on.extension, message) == ["unreadable"]
    decoded(recorder)
    lines = {step: of(recorder, step) for step in ("claim", "make_session", "verification", "backup")}
    phases = [line["phase"] for line in lines["verification"] if line["store"] == lines["backup"][0]["store"]]
    assert phases == ["requested", "cancelled", "forgotten"]
    made_request = next(line for line in of(recorder, "answer") if line["type"] == "BackupVersionCreate")["request"]
    assert [line["request"] for line in lines["backup"]] == [made_request, made_request, "none"]
    assert [line["version"] == "none" for line in lines["backup"]] == [True, False, True]
    unread = of(recorder, "decrypt_olm")[-1]
    [commit] = [line for line in of(recorder, "commit") if place(line) == place(unread)]
    assert unread["mark"] in msgspec.convert(commit["records"], list[str])
    assert {line["request"] for line in lines["claim"]} <= {line["request"] for line in of(recorder, "answer")}
    [given] = of(recorder, "give")
    [commit] = [line for line in of(recorder, "commit") if place(line) == place(given)]
    assert given["type"] == "m.room_key.withheld"
    assert given["answered"] in msgspec.convert(commit["records"], list[str])
    assert len(lines["make_session"]) == sum(len(msgspec.convert(line["marks"], list[str])) for line in lines["claim"])


def place(line: Line) -> tuple[object, object]:
    """Return the operation to which a line belongs."""
    return line["instance"], line["operation"]


async def test_a_stale_batch_says_so(tmp_path: Path) -> None:
    recorder = Recorder()
    async with scene(tmp_path, recorder) as on:
        await on.bob.say(ROOM, "hello")
        position = await on.app.machine.sync_position()
        response = on.app.ask(position)
        await on.app.machine.receive_sync_changes(response, position)
        await on.extension.machine.receive_sync_changes(response, position)
    applied, stale = of(recorder, "batch")[-2:]
    assert (applied["lists_applied"], applied["events_applied"]) == (True, True)
    assert (stale["lists_applied"], stale["events_applied"]) == (False, False)
    assert (applied["asked"], applied["next"]) == (stale["asked"], stale["next"])
    assert applied["instance"] != stale["instance"]


@pytest.mark.parametrize("most", [2, 1], ids=["in one commit", "in parts"])
async def test_each_event_of_a_batch_has_a_line_also_what_is_no_event(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr(inbox, "EVENTS_IN_A_COMMIT", most)
    recorder = Recorder()
    async with scene(tmp_path, recorder) as on:
        position = await on.app.machine.sync_position()
        response = on.app.ask(position) | {"to_device": {"events": [1, {"type": 2}]}}
        await on.app.machine.receive_sync_changes(response, position)
    received = [(line["sender"], line["type"], line["outcome"]) for line in of(recorder, "receive")[-2:]]
    assert received == [("none", "other", "malformed")] * 2
    decoded(recorder)


async def test_the_line_of_an_event_says_who_sent_it_and_what_became_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The type is that of the decrypted event, as soon as it is known."""
    recorder = Recorder()
    async with scene(tmp_path, recorder) as on:
        tablet = await another_device(on)
        await on.app.share(ROOM, [ALICE])
        await tablet.sync()
        await tablet.send_all()
        refused = await encrypted_for(tablet, on.app, "m.forwarded_room_key", {})
        dummy = await encrypted_for(tablet, on.app, "m.dummy", {})
        for_nobody = {"algorithm": OLM, "sender_key": tablet.machine.curve25519, "ciphertext": {}}
        events: list[tuple[Json, str, str]] = [
            ({"type": "m.room_key.withheld", "sender": ALICE, "content": {}}, "m.room_key.withheld", "malformed"),
            ({"type": "m.room.encrypted", "sender": ALICE, "content": {}}, "m.room.encrypted", "malformed"),
            ({"type": "m.room.encrypted", "sender": ALICE, "content": for_nobody}, "m.room.encrypted", "malformed"),
            (refused, "m.forwarded_room_key", "malformed"),
            (dummy, "m.dummy", "ok"),
        ]
        before = len(of(recorder, "receive"))
        codes = await receive(on.app, *(event for event, _, _ in events))
        assert codes == [outcome for _, _, outcome in events if outcome != "ok"]

        def faulty(*_: object) -> None:
            raise ZeroDivisionError

        monkeypatch.setattr(rooms, "note_withheld", faulty)
        monkeypatch.setattr(key_requests, "receive_forwarded", faulty)
        again = await encrypted_for(tablet, on.app, "m.forwarded_room_key", {})
        assert await receive(on.app, events[0][0], again) == ["put_aside", "put_aside"]
    user = next(
        line["user"] for line in of(recorder, "open_machine") if line["store"] == of(recorder, "batch")[-1]["store"]
    )
    lines = of(recorder, "receive")[before:]
    assert {line["sender"] for line in lines} == {user}
    assert [(line["type"], line["outcome"]) for line in lines] == [
        *((event_type, outcome) for _, event_type, outcome in events),
        ("m.room_key.withheld", "put_aside"),
        ("m.forwarded_room_key", "put_aside"),
    ]
    decoded(recorder)


# M7.5, M8.1
async def test_the_line_of_an_olm_message_says_whether_it_began_a_session_and_whether_it_sets_a_mark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a message that begins a session writes the account and causes room keys to be shared again.

    Only messages that may begin one read the account.
    """
    recorder = Recorder()
    async with scene(tmp_path, recorder) as on:
        tablet = await another_device(on)
        await on.app.share(ROOM, [ALICE])
        before = len(of(recorder, "decrypt_olm"))
        await tablet.sync()
        again = await encrypted_for(on.app, tablet, "m.dummy", {})
        broken = await encrypted_for(on.app, tablet, "m.dummy", {})
        for ciphertext in ciphertexts(broken):
            ciphertext["body"] = str(ciphertext["body"])[:-4] + "AAAA"
        unknown = broken | {"sender": BOB}  # a device that is on no list gets no mark
        for event in (again, again, unknown, broken):
            await receive(tablet, event)
        answer = await encrypted_for(tablet, on.app, "m.dummy", {})
        assert await receive(on.app, answer) == []
        normal = await encrypted_for(on.app, tablet, "m.dummy", {})
        assert [ciphertext["type"] for ciphertext in ciphertexts(normal)] == [1]  # a normal message

        async def unread(*_: object) -> None:
            raise AssertionError("the account was read")

        monkeypatch.setattr(account, "own_account", unread)
        assert await receive(tablet, normal) == []
    lines = of(recorder, "decrypt_olm")[before:]
    shown = [(line["outcome"], line["begins_session"], "mark" in line) for line in lines]
    assert shown == [
        ("ok", True, False),
        ("ok", False, False),
        ("repeated", False, False),
        ("unreadable", False, False),
        ("unreadable", False, True),
        ("ok", False, False),
        ("ok", False, False),
    ]
    written = [
        {record.partition("/")[0] for record in msgspec.convert(commit["records"], list[str])}
        for line in lines
        for commit in of(recorder, "commit")
        if place(commit) == place(line)
    ]
    assert ["account" in kinds for kinds in written] == [True, *[False] * 6]
    assert ["recipients_version" in kinds for kinds in written] == [True, *[False] * 6]
    decoded(recorder)


async def test_a_request_and_its_answer_have_one_name_in_all_processes(tmp_path: Path) -> None:
    recorder = Recorder()
    async with scene(tmp_path, recorder) as on:
        await on.app.machine.track_users(["@carol:example.org"])
        [request] = await on.app.machine.outgoing_requests()
        await on.extension.machine.mark_sent(request, on.app.call(request.method, request.path, request.body))
    handed_out, answered = of(recorder, "request")[-1], of(recorder, "answer")[-1]
    assert (handed_out["type"], handed_out["request"]) == (answered["type"], answered["request"])
    assert handed_out["instance"] != answered["instance"]


async def test_an_offer_says_what_it_has_and_what_became_of_it(tmp_path: Path) -> None:
    recorder = Recorder()
    async with scene(tmp_path, recorder) as on:
        device = Device(ALICE, "PHONE")
        offered, answered = of(recorder, "offer")[0], of(recorder, "answer")[0]
        assert (offered["one_time_keys"], offered["fallback"], offered["serial"]) == (50, True, 1)
        assert len(set(msgspec.convert(offered["keys"], list[str]))) == 50
        assert answered["one_time_keys"] == 50
        for _ in range(30):
            on.server.hand_out_first(device, next(iter(on.server.one_time_keys(device))))
            claim: dict[str, object] = {"one_time_keys": {ALICE: {"PHONE": "signed_curve25519"}}}
            on.bob.call("POST", "/_matrix/client/v3/keys/claim", claim)
        await on.app.sync()
        assert of(recorder, "batch")[-1]["one_time_keys"] == 20
        [upload] = [each for each in await on.app.machine.outgoing_requests() if isinstance(each, KeysUpload)]
        await on.extension.machine.mark_failed(upload, status=None)
    again, abandoned = of(recorder, "offer")[-1], of(recorder, "abandon")[-1]
    assert (again["one_time_keys"], again["serial"]) == (30, 3)
    assert not {*msgspec.convert(again["keys"], list[str])} & {*msgspec.convert(offered["keys"], list[str])}
    assert abandoned["request"] == again["request"]
    assert abandoned["instance"] != again["instance"]


async def test_a_question_for_device_lists_names_the_marks_that_were_set(tmp_path: Path) -> None:
    recorder = Recorder()
    async with scene(tmp_path, recorder) as on:
        await on.app.machine.track_users(["@carol:example.org"])
        await on.app.machine.outgoing_requests()
    asked, tracked = of(recorder, "request")[-1], of(recorder, "commit")[-1]
    records = msgspec.convert(tracked["records"], list[str])
    assert asked["marks"] == [record for record in records if record.startswith("outdated/")]
    assert [record.partition("/")[0] for record in msgspec.convert(asked["lists"], list[str])] == ["devices"]


async def test_a_room_event_that_no_text_can_hold_keeps_no_other_from_being_read(tmp_path: Path) -> None:
    recorder = Recorder()
    async with scene(tmp_path, recorder) as on:
        await on.greet()
        event = await on.bob.say(ROOM, "hello")
        await on.app.sync()
        spoilt = event | {"\ud800": 1}
        [malformed, read] = await on.app.machine.decrypt_room_events(ROOM, [spoilt, event])
    assert isinstance(malformed, MalformedMessage)
    assert not isinstance(read, MachineError)
    assert [line["outcome"] for line in of(recorder, "decrypt_megolm")[-2:]] == ["malformed", "ok"]


class FailsAt(Recorder):
    """A tracer that fails at one step, or at every step if ``step`` is ``None``."""

    def __init__(self, step: str | None, failure: BaseException) -> None:
        super().__init__()
        self.refused = 0
        self._step = step
        self._failure = failure

    def write(self, line: Line) -> None:
        if self._step in (None, line["step"]):
            self.refused += 1
            raise self._failure
        super().write(line)


SAID_OF_A_TALK: Final = (
    *("open", "acquire", "sync", "load", "list", "commit", "validate", "release"),
    *("open_machine", "batch", "receive", "decrypt_olm", "decrypt_megolm", "encrypt_olm", "encrypt_megolm"),
    *("room_key", "share", "withhold", "told_withheld", "offer", "send", "request", "answer"),
)


# T1.7
@pytest.mark.parametrize("step", [None, *SAID_OF_A_TALK])
async def test_a_tracer_that_fails_at_a_step_does_no_harm(
    tmp_path: Path, step: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    tracer = FailsAt(step, asyncio.CancelledError() if step is None else OSError())
    async with scene(tmp_path, tracer) as on:
        await talk(on, "hello")
    assert tracer.refused
    reports = [record.getMessage() for record in caplog.records if "tracing" in record.getMessage()]
    assert set(reports) == {f"tracing failed: {type(tracer._failure).__name__}"}
    assert len(reports) <= 3, "an instance has reported it more than once"


# T1.7
async def test_a_fault_in_what_the_machine_says_of_a_step_is_no_fault_of_the_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def faulty(*_: object) -> str:
        raise ZeroDivisionError

    monkeypatch.setattr(Remarks, "pseudonym", faulty)
    recorder = Recorder()
    async with scene(tmp_path, recorder) as on:
        await talk(on, "hello")
    assert not {*recorder.steps} & {*SAID_OF_A_TALK[8:]}
    instances = {line["instance"] for line in recorder.lines}
    for instance in instances:
        numbers = [line["line"] for line in recorder.lines if line["instance"] == instance]
        assert numbers != list(range(1, len(numbers) + 1)), "nothing shows that lines are missing"


# T4.1
async def test_no_line_reports_what_was_rolled_back(tmp_path: Path) -> None:
    recorder = Recorder()
    async with scene(tmp_path, recorder) as on:
        shared = await on.app.share(ROOM, [ALICE, BOB])
        before = len(of(recorder, "encrypt_megolm")), len(of(recorder, "answer"))
        await on.app.machine.discard_room_key(ROOM)
        with pytest.raises(Exception, match="share"):
            await on.app.machine.encrypt_room_event(ROOM, shared, "m.room.message", {})

        async def fail(transaction: Transaction) -> None:
            upload = KeysUpload(msgspec.convert("offer-x", str), {})  # type: ignore[arg-type]
            tracing.answered(transaction, upload, {"one_time_key_counts": {}})
            raise KeyError("for a reason")

        with pytest.raises(KeyError):
            await on.app.machine._store.run(fail)
    assert (len(of(recorder, "encrypt_megolm")), len(of(recorder, "answer"))) == before
    assert of(recorder, "validate")[-1]["failure"] == "KeyError"


async def test_words_of_others_are_not_repeated(tmp_path: Path) -> None:
    recorder = Recorder()
    async with scene(tmp_path, recorder) as on:
        withheld = {"algorithm": MEGOLM, "code": "said.by.bob", "room_id": ROOM, "session_id": "session"}
        for event_type in ("app.of.bob", "m.room_key.withheld"):
            path = f"sendToDevice/{event_type}/{event_type}"
            on.bob.call("PUT", path, {"messages": {ALICE: {"PHONE": withheld}}})
        await on.app.sync()
    assert [line["type"] for line in of(recorder, "receive")] == ["other", "m.room_key.withheld"]
    assert [line["code"] for line in of(recorder, "told_withheld")] == ["other"]
    assert "bob" not in json.dumps(recorder.lines)


async def test_a_position_is_the_one_in_the_message(alice_and_bob: Scene) -> None:
    await alice_and_bob.greet()
    places = []
    for arrival in alice_and_bob.server.arrivals:
        for message in ciphertexts(json.loads(arrival.body)):
            body = decode(message["body"])
            assert position_of(int(str(message["type"])), str(message["body"])) == olm_position(
                inner_message(body) if message["type"] == 0 else body
            )
            places.append(message)
    assert {message["type"] for message in places} == {0, 1}


@given(st.integers(0, 3), st.text())
def test_what_is_no_message_has_no_position(message_type: int, body: str) -> None:
    assert position_of(message_type, body) is None


def ciphertexts(value: object) -> Iterator[dict[str, object]]:
    if isinstance(value, dict):
        if value.keys() == {"type", "body"}:
            yield value
        for each in value.values():
            yield from ciphertexts(each)


def texts(value: object) -> Iterator[str]:
    """Return every text in a value, including keys."""
    match value:
        case str():
            yield value
        case bytes():
            yield value.hex()
        case dict():
            for each in value.items():
                yield from texts(each)
        case list() | tuple():
            for each in value:
                yield from texts(each)


async def everything(on: Scene) -> set[str]:
    """Return every text in a record or in a request to the homeserver."""
    found: set[str] = set()
    for arrival in on.server.arrivals:
        found.update(texts([arrival.path.split("/"), json.loads(arrival.body)]))

    async def read(view: View) -> None:
        for kind in KINDS:
            assert isinstance(kind, RecordKind)
            for key in await view.keys(kind):
                value = await view.get(kind, key)
                found.update(texts([key if isinstance(key, str | tuple) else "", encoded(kind, value)]))

    for client in (on.app, on.bob):
        await client.machine._store.query(read)
    found.update(texts([on.server.events(ROOM), on.app.device, on.bob.device]))
    return {text for text in found if len(text) >= SHORTEST and text not in WORDS}


def encoded(kind: RecordKind[object, object], value: object) -> object:
    octets = kind.encode_value(value)
    try:
        return msgspec.msgpack.decode(octets)
    except msgspec.DecodeError:
        return octets


# T2.3, T2.6
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(text=st.text(st.characters(codec="utf-8"), min_size=SHORTEST))
@example(text="wanted_s")  # part of the name of a record kind
def test_nothing_in_a_trace_comes_from_a_message_or_a_key(text: str) -> None:
    async def run(folder: Path) -> None:
        recorder = Recorder()
        async with scene(folder, recorder) as on:
            await talk(on, text)
            said = {each for each in (text, json.dumps(text)[1:-1]) if each not in WORDS}
            secrets = said | await everything(on)
        trace = json.dumps(recorder.lines, ensure_ascii=False)
        assert len(secrets) > 100
        shown = [secret for secret in secrets if secret in trace]
        assert not shown, shown

    with TemporaryDirectory() as folder:
        asyncio.run(run(Path(folder)))


CANARY: Final = "zqcanaryzq"
"""The text that is used wherever a person may choose a text."""
NAMES: Final = ("alice", "bob", "example.org", "PHONE", "TABLET", "LAPTOP", "!room", CANARY)
PSEUDONYM: Final = re.compile(r"[0-9a-f]{16}")
SPECIFIED: Final = frozenset(
    word
    for text in (WORDS, *(path.read_text() for path in (Path(__file__).parents[2] / "spec").glob("*.md")))
    for word in re.findall(r"[\w.]*\w", text)
)
"""Every word that the specifications define."""


async def do_all(on: Scene) -> None:
    """Let a device take all traced steps, and let others send it malformed messages."""
    await talk(on, CANARY)
    await on.extension.sync(CANARY, sliding=True)
    tablet = await another_device(on)
    for client in (on.app, on.bob):
        while not (await client.machine.cross_signing.bootstrap()).is_complete:
            await client.send_all()
    await verified(on, tablet)
    await tablet.machine.secrets.request(["m.cross_signing.master"])
    event = await on.app.say(ROOM, CANARY)
    content = msgspec.convert(event["content"], dict[str, object])
    await tablet.machine.request_room_keys(ROOM, [event, event | {"content": content | {"session_id": CANARY}}])
    await settled(on.extension, tablet)
    made = await on.app.machine.key_backup.create_version()
    await on.extension.machine.mark_sent(made.request, on.app.call("POST", made.request.path, made.request.body))
    await settled(on.app)
    await on.app.machine.import_room_keys(await on.bob.machine.export_room_keys())
    await on.extension.machine.key_backup.turn_off()
    for event_type in (*sorted(tracing.KNOWN_TYPES), CANARY):
        for said in ({"code": CANARY, "reason": CANARY, "session_id": CANARY, "room_id": ROOM}, hostile()):
            messages = {ALICE: {"PHONE": said | {"transaction_id": CANARY, "algorithm": MEGOLM}}}
            on.bob.call("PUT", f"sendToDevice/{event_type}/{len(on.server.arrivals)}", {"messages": messages})
    await on.app.sync()
    spoilt = [1, {}, event | {"sender": CANARY}, event | {"content": content | {"ciphertext": CANARY}}, hostile()]
    await on.app.machine.decrypt_room_events(ROOM, [msgspec.convert(each, object) for each in spoilt])
    await damaged(on)
    await on.app.machine.decrypt_room_events(ROOM, [event])
    await settled(on.app, on.bob)


async def settled(*clients: Client) -> None:
    """Let all messages arrive."""
    for client in clients:
        await client.sync()
    while [sent for client in clients for sent in await client.send_all()]:
        for client in clients:
            await client.sync()


async def verified(on: Scene, tablet: Client) -> None:
    """Let two devices verify each other by short strings."""
    flow = await on.app.machine.verifications.request(ALICE, ["TABLET"])
    await settled(on.extension, tablet)
    [theirs] = await tablet.machine.verifications.get_all()
    await tablet.machine.verifications.accept(theirs.flow_id)
    await settled(on.app, tablet)
    await on.extension.machine.verifications.start_sas(flow)
    await settled(on.app, tablet)
    await on.extension.machine.verifications.confirm(flow)
    await tablet.machine.verifications.confirm(theirs.flow_id)
    await settled(on.app, tablet)


async def damaged(on: Scene) -> None:
    """Make records unreadable."""
    for client in (on.app, on.extension):
        await client.machine.close()
    damage = "UPDATE record SET value = zeroblob(100) WHERE kind IN ('inbound_group_session', 'peer')"
    program = "import sqlite3, sys; file = sqlite3.connect(sys.argv[1]); file.execute(sys.argv[2]); file.commit()"
    damaging = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, str(on.folder / "PHONE.db"), damage
    )  # in another process: closing the file in this one would drop the locks that its store holds
    assert await damaging.wait() == 0
    on.app = await on.open(ALICE, "PHONE", CANARY)


def hostile() -> dict[str, object]:
    """Return a value whose fields all have a text that a person chose."""
    names = ("algorithm", "sender_key", "ciphertext", "session_id", "from_device", "method", "action", "name", "type")
    return dict.fromkeys(names, CANARY)


class Witness:
    """Records every text that is written into a store, sent to the homeserver, or received from it."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.texts: set[str] = set()
        seal, request = Sealer.seal, Homeserver.request

        def noted_seal(sealer: Sealer, kind: str, key: bytes, value: bytes) -> bytes:
            length = int.from_bytes(value[:4], "big")  # The plaintext is padded.
            for octets in (key, value[4 : 4 + length]):
                with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):  # not all of it is MessagePack
                    self.texts.update(texts(msgspec.msgpack.decode(octets)))
                self.texts.update([octets.hex(), octets.decode("latin-1")])
            return seal(sealer, kind, key, value)

        def noted_request(
            server: Homeserver, device: Device, method: str, path: str, body: Mapping[str, object] | None = None
        ) -> tuple[int, dict[str, object]]:
            status, answer = request(server, device, method, path, body)
            self.texts.update(texts([path.split("/"), body, answer]))
            return status, answer

        patch.setattr(Sealer, "seal", noted_seal)
        patch.setattr(Homeserver, "request", noted_request)


# T2.3, T2.6
async def test_nothing_in_the_trace_of_any_step_comes_from_a_message_a_name_or_a_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    witness, recorder = Witness(monkeypatch), Recorder()
    async with scene(tmp_path, recorder) as on:
        await do_all(on)
    steps = {str(line["step"]) for line in recorder.lines}
    assert steps >= {str(line.__struct_config__.tag) for line in get_args(trace_lines.MachineLine)} - {"abandon"}
    assert "put_aside" not in {line.get("outcome") for line in recorder.lines}
    decoded(recorder)
    trace = json.dumps(recorder.lines, ensure_ascii=False) + caplog.text
    secrets = {text for text in witness.texts if len(text) >= SHORTEST and text not in WORDS}
    assert len(secrets) > 800
    shown = [secret for secret in (*secrets, *NAMES) if secret in trace]
    assert not shown, shown
    words = {word for line in recorder.lines for name in line.keys() - {"library"} for word in words_of(line[name])}
    named = {each.__name__ for each in get_args(Request)} | {each.__name__ for each in StoreError.__subclasses__()}
    named |= {each.value for each in (*Phase, *KeySource)}
    codes = {each.code for each in MachineError.__subclasses__()}
    unknown = words - named - codes - SPECIFIED
    assert not unknown


def words_of(field: Field) -> Iterator[str]:
    """Return the texts of a field that are not numbers, pseudonyms or names of records."""
    for each in field if isinstance(field, list) else [field]:
        kind, _, name = str(each).rpartition("/")
        if isinstance(each, str) and not (PSEUDONYM.fullmatch(name) and kind in {"", *(known.name for known in KINDS)}):
            yield each
