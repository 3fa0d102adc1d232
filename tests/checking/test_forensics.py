"""Why a message can't be read: real machines and stores produce each verdict, and their traces show it."""

from __future__ import annotations

import contextlib
import json
import random
import re
import shlex
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

import chaos.stage
from chaos import room
from chaos.faults import Fault
from chaos.stage import LABELS, stage
from checking import command
from checking.command import FAILED, OK, app
from checking.errors import CheckError
from checking.explain.forensics import MEANINGS, SOUND, Finding, Name, UnknownMessage, Verdict, examine
from checking.explain.history import History, histories
from checking.explain.lines import DecryptMegolm, EncryptMegolm
from checking.explain.reading import NoTrace, read_all
from checking.explain.reasons import Certainty
from checking.machine_replay.client import Client
from checking.machine_replay.homeserver import Device, Json
from checking.replay.substitutions import substituted
from checking.traced_faults.machine_injections import INJECTIONS
from checking.traced_faults.machine_scene import ProcessScene
from checking.traced_faults.sample import make_sample
from tests.machine.scene import ALICE, BOB, KEY, MEGOLM, ROOM, Scene, scene
from tests.store.stores import Recorder
from unwedged.machine import LocalTrust, MachineError, MissingRoomKey, inbox, rooms, sharing
from unwedged.machine.records import INBOUND, SYNC
from unwedged.store import BYTES, CryptoStore, RecordKind, Transaction
from unwedged.trace import Line, Trace

CERTAIN, LIKELY, POSSIBLE = Certainty

README: Final = (Path(__file__).parents[2] / "README.md").read_text()
KEPT_CACHE: Final = INJECTIONS["session-cache-survives"]()
"""A process keeps its cache, whatever other processes have written."""


class Told:
    """A scene, and explanations from its traces."""

    def __init__(self, on: Scene, folder: Path, recorder: Recorder) -> None:
        self.on = on
        self._folder = folder
        self._recorder = recorder

    def trace_of(self, client: Client) -> Trace:
        trace = client.machine._store._services.trace
        assert trace is not None
        return trace

    def lines_of(self, process: Client) -> list[Line]:
        """Return the trace lines of one process."""
        instance = self.trace_of(process)._head["instance"]
        return [line for line in self._recorder.lines if line["instance"] == instance]

    def name(self, event: Json) -> Name:
        """Return the name of an event's message in the traces of both stores."""
        content = event["content"]
        assert isinstance(content, dict)
        sessions = {self.trace_of(each).pseudonym("session", content["session_id"]) for each in self.clients}
        [index] = {
            int(str(line["index"]))
            for line in self._recorder.lines
            if line["step"] == "decrypt_megolm"
            and line.get("event")
            in {self.trace_of(each).pseudonym("event", str(event["event_id"])) for each in self.clients}
        }
        return Name(frozenset(sessions), index)

    @property
    def clients(self) -> tuple[Client, Client]:
        return self.on.app, self.on.bob

    def explain(
        self,
        name: Name,
        of: Iterable[Client] | None = None,
        where: Callable[[Line], bool] = bool,
        reader: tuple[str, str] = (BOB, "LAPTOP"),
    ) -> Finding:
        """Explain a message from the traces of the given devices, by default of both."""
        paths = []
        for client in self.clients if of is None else of:
            store = self.trace_of(client)._head["store"]
            lines = [json.dumps(line) for line in self._recorder.lines if line["store"] == store and where(line)]
            paths.append(self._folder / f"{client.device.device}.ndjson")
            paths[-1].write_text("\n".join(lines) + "\n")
        devices = frozenset(self.trace_of(client).pseudonym("device", *reader) for client in self.clients)
        return examine(histories(read_all(paths)), name, devices)

    async def unreadable(self, event: Json, code: str) -> Name:
        """Check that Bob can't read an event, for the given reason."""
        with pytest.raises(MachineError) as raised:
            await self.on.bob.read(ROOM, event)
        assert raised.value.code == code
        return self.name(event)


@asynccontextmanager
async def told(folder: Path) -> AsyncIterator[Told]:
    recorder = Recorder()
    async with scene(folder, recorder) as on:
        await on.greet()
        yield Told(on, folder, recorder)


def must_be(finding: Finding, verdict: Verdict, certainty: Certainty, *said: str) -> None:
    text = "\n".join([finding.summary, *finding.details()])
    assert (finding.verdict, finding.certainty) == (verdict, certainty), text
    for each in (f"it means: {MEANINGS[verdict]}", *said):
        assert each in text, text


async def only_alice(on: Scene, text: str) -> Json:
    """Send a message with a key that only Alice's devices get."""
    shared = await on.app.share(ROOM, [ALICE])
    content = {"msgtype": "m.text", "body": text}
    return on.app.post(ROOM, await on.app.machine.encrypt_room_event(ROOM, shared, "m.room.message", content))


async def test_a_message_that_was_read(tmp_path: Path) -> None:
    async with told(tmp_path) as case:
        event = await case.on.app.say(ROOM, "hello")
        await case.on.bob.sync()
        await case.on.bob.read(ROOM, event)
        must_be(case.explain(case.name(event)), Verdict.READ, CERTAIN)


async def test_a_key_that_comes_after_the_message(tmp_path: Path) -> None:
    async with told(tmp_path) as case:
        await case.on.app.machine.discard_room_key(ROOM)
        event = await case.on.app.say(ROOM, "hello")
        name = await case.unreadable(event, "missing_room_key")
        await case.on.bob.sync()
        must_be(case.explain(name), Verdict.LATE, CERTAIN, "it can be decrypted now")
        must_be(case.explain(name, [case.on.bob]), Verdict.LATE, CERTAIN)


async def never_shared(case: Told) -> Name:
    await case.on.app.machine.discard_room_key(ROOM)
    await case.on.extension.sync()
    event = await only_alice(case.on, "hello")
    await case.on.bob.sync()
    return await case.unreadable(event, "missing_room_key")


async def test_a_key_that_was_never_shared(tmp_path: Path) -> None:
    async with told(tmp_path) as case:
        name = await never_shared(case)
        must_be(case.explain(name), Verdict.NEVER_SHARED, CERTAIN, "no line reports that the key was given")
        finding = case.explain(name, [case.on.bob])
        must_be(finding, Verdict.NOT_OURS, LIKELY, "the traces of the sender are missing")


async def shared_later(case: Told) -> Name:
    await case.on.app.machine.discard_room_key(ROOM)
    early = await only_alice(case.on, "hello")
    await case.on.app.say(ROOM, "welcome")
    await case.on.bob.sync()
    return await case.unreadable(early, "unknown_index")


async def test_a_key_that_was_shared_from_a_later_message_on(tmp_path: Path) -> None:
    async with told(tmp_path) as case:
        name = await shared_later(case)
        must_be(case.explain(name), Verdict.NEVER_SHARED, CERTAIN, "from message 1 on")
        must_be(case.explain(name, [case.on.app]), Verdict.NEVER_SHARED, LIKELY, "from message 1 on")
        must_be(case.explain(name, [case.on.bob]), Verdict.NEVER_SHARED, CERTAIN, "from message 1 on")


async def test_a_key_whose_request_was_never_sent(tmp_path: Path) -> None:
    async with told(tmp_path) as case:
        await case.on.app.machine.discard_room_key(ROOM)
        shared = await case.on.app.machine.share_room_key(ROOM, [ALICE, BOB])
        content = {"msgtype": "m.text", "body": "hello"}
        encrypted = await case.on.app.machine.encrypt_room_event(ROOM, shared, "m.room.message", content)
        event = case.on.app.post(ROOM, encrypted)
        await case.on.bob.sync()
        name = await case.unreadable(event, "missing_room_key")
        must_be(case.explain(name), Verdict.NEVER_SHARED, CERTAIN, "no answer to it has come")


async def withheld(case: Told) -> Name:
    [device] = (await case.on.app.machine.devices_of(BOB)).values()
    await case.on.app.machine.set_trust(BOB, device.device_id, device.ed25519, LocalTrust.BLOCKED)
    event = await case.on.app.say(ROOM, "hello")
    await case.on.bob.sync()
    return await case.unreadable(event, "withheld_room_key")


async def test_a_key_that_is_withheld(tmp_path: Path) -> None:
    async with told(tmp_path) as case:
        name = await withheld(case)
        for stores in (None, [case.on.bob], [case.on.app]):
            must_be(case.explain(name, stores), Verdict.WITHHELD, CERTAIN, "m.blacklisted")


async def wedged(case: Told) -> Name:
    """Let a process share a key over an outdated copy of an Olm session that another process has used since."""
    on = case.on
    await on.app.machine.discard_room_key(ROOM)
    await on.app.say(ROOM, "one")
    await on.extension.machine.discard_room_key(ROOM)
    await on.extension.say(ROOM, "two")
    with substituted(KEPT_CACHE):
        await on.app.machine.discard_room_key(ROOM)
        event = await on.app.say(ROOM, "three")
    await on.bob.sync()
    return await case.unreadable(event, "missing_room_key")


async def test_a_key_that_was_shared_over_a_wedged_session(tmp_path: Path) -> None:
    async with told(tmp_path) as case:
        on = case.on
        name = await wedged(case)
        must_be(case.explain(name), Verdict.WEDGED, CERTAIN, "that is a fork: ", "computed peer/")
        must_be(case.explain(name, [on.bob]), Verdict.WEDGED, LIKELY, "the traces of the sender are missing")
        # A name of one end only: the other end has another name for it.
        reading = [line for line in case._recorder.lines if line["step"] == "decrypt_megolm"][-1]
        assert str(reading["session"]) in name.pseudonyms
        half = case.explain(replace(name, pseudonyms=frozenset({str(reading["session"])})))
        must_be(half, Verdict.WEDGED, LIKELY, "if that is the store of the sender, add --message SESSION:0")
        assert "are missing" not in "".join(half.details())
        # The explanation traces the Olm message itself by its ratchet key and index.
        [unread] = [
            line for line in case._recorder.lines if line["step"] == "decrypt_olm" and line["outcome"] == "unreadable"
        ]
        olm = Name(frozenset({str(unread["ratchet"])}), int(str(unread["index"])), olm=True)
        must_be(case.explain(olm, [on.bob]), Verdict.SPENT_TWICE, LIKELY, "two messages came with this key")
        place = next(
            (str(line["ratchet"]), int(str(line["index"])))
            for number, line in enumerate(case._recorder.lines)
            if line["step"] == "encrypt_olm"
            and (line["ratchet"], line["index"])
            in {
                (each["ratchet"], each["index"])
                for each in case._recorder.lines[:number]
                if each["step"] == "encrypt_olm"
            }
        )
        olm = Name(frozenset({place[0]}), place[1], olm=True)
        must_be(case.explain(olm, [on.app]), Verdict.FORKED, CERTAIN, "computed peer/")


async def forked(case: Told) -> Name:
    on = case.on
    await on.app.say(ROOM, "one")
    first = await on.extension.say(ROOM, "two")
    with substituted(KEPT_CACHE):
        second = await on.app.say(ROOM, "three")
    await on.bob.sync()
    assert await on.bob.read(ROOM, first) == "two"
    return await case.unreadable(second, "replayed")


async def test_a_ratchet_that_was_forked_by_a_stale_write(tmp_path: Path) -> None:
    async with told(tmp_path) as case:
        on = case.on
        name = await forked(case)
        must_be(case.explain(name), Verdict.FORKED, CERTAIN, "computed outbound_group_session/", "overwritten version")
        must_be(case.explain(name, [on.app]), Verdict.FORKED, CERTAIN)
        must_be(case.explain(name, [on.bob]), Verdict.SPENT_TWICE, POSSIBLE, "the traces of the sender are missing")


async def spent_twice(case: Told) -> Name:
    """Restore an older copy of the store."""
    on, path, older = case.on, case.on.folder / "PHONE.db", case.on.folder / "older"
    for client in (on.app, on.extension):
        await client.machine.close()
    shutil.copy(path, older)
    on.app = await on.open(ALICE, "PHONE", "app")
    first = await on.app.say(ROOM, "one")
    await on.app.machine.close()
    shutil.copy(older, path)
    on.app = await on.open(ALICE, "PHONE", "app")
    second = await on.app.say(ROOM, "two")
    await on.bob.sync()
    await on.bob.read(ROOM, first)
    return await case.unreadable(second, "replayed")


async def test_a_key_that_was_spent_twice_since_an_older_store_was_put_back(tmp_path: Path) -> None:
    async with told(tmp_path) as case:
        name = await spent_twice(case)
        must_be(case.explain(name), Verdict.SPENT_TWICE, CERTAIN, "an older copy of the store was put back")


async def test_a_fork_is_not_blamed_for_what_came_later(tmp_path: Path) -> None:
    async with told(tmp_path) as case:
        earlier = await forked(case)
        name = await spent_twice(case)
        must_be(case.explain(name), Verdict.SPENT_TWICE, CERTAIN, "an older copy of the store was put back")
        must_be(case.explain(earlier), Verdict.FORKED, CERTAIN)


async def test_a_write_without_a_reading_is_not_stale(tmp_path: Path) -> None:
    async with told(tmp_path) as case:

        async def write(transaction: Transaction) -> None:
            transaction.put(SYNC, "classic:other", str(transaction.version))

        for process in (case.on.app, case.on.extension):
            await process.machine._store.run(write)
        event = await case.on.app.say(ROOM, "hello")
        await case.on.bob.sync()
        await case.on.bob.read(ROOM, event)
        finding = case.explain(case.name(event))
        assert not [write for store in finding.stores for write in store.stale_writes]


async def test_a_message_that_somebody_sends_again(tmp_path: Path) -> None:
    async with told(tmp_path) as case:
        event = await case.on.app.say(ROOM, "hello")
        await case.on.bob.sync()
        await case.on.bob.read(ROOM, event)
        name = await case.unreadable(event | {"event_id": "$again"}, "replayed")
        must_be(case.explain(name), Verdict.NOT_OURS, CERTAIN, "somebody else has sent it again")


async def forget(*_: object) -> None:
    """Ignore a batch."""


async def batch_lost(case: Told) -> Name:
    await case.on.app.machine.discard_room_key(ROOM)
    event = await case.on.app.say(ROOM, "hello")
    with substituted([(inbox, "_take_events", forget)]):
        await case.on.bob.sync()
    return await case.unreadable(event, "missing_room_key")


async def test_a_batch_that_was_lost(tmp_path: Path) -> None:
    async with told(tmp_path) as case:
        name = await batch_lost(case)
        must_be(case.explain(name), Verdict.BATCH_LOST, LIKELY, "1 of its events was never processed")
        must_be(case.explain(name, [case.on.bob]), Verdict.BATCH_LOST, LIKELY, "never processed")


async def test_a_batch_that_was_never_handed_in(tmp_path: Path) -> None:
    """The token advances without the events, as in a program that keeps the token in another store."""
    async with told(tmp_path) as case:
        await case.on.app.machine.discard_room_key(ROOM)
        event = await case.on.app.say(ROOM, "hello")
        unused = case.on.bob.ask(await case.on.bob.machine.sync_position())

        async def move_on(transaction: Transaction) -> None:
            transaction.put(SYNC, "classic:main", str(unused["next_batch"]))

        async with CryptoStore.open(tmp_path / "LAPTOP.db", key=KEY, label="other", kinds=[SYNC]) as store:
            await store.run(move_on)
        await case.on.bob.sync()
        name = await case.unreadable(event, "missing_room_key")
        must_be(case.explain(name), Verdict.BATCH_LOST, LIKELY, "never came here")


async def lost_by_the_homeserver(case: Told) -> Name:
    await case.on.app.machine.discard_room_key(ROOM)
    event = await case.on.app.say(ROOM, "hello")
    case.on.server._signed_in(case.on.bob.device).inbox.clear()
    await case.on.bob.sync()
    return await case.unreadable(event, "missing_room_key")


async def test_a_key_that_the_homeserver_loses(tmp_path: Path) -> None:
    async with told(tmp_path) as case:
        name = await lost_by_the_homeserver(case)
        must_be(case.explain(name), Verdict.NOT_OURS, CERTAIN, "the homeserver has taken it", "the key never arrived")


async def damaged(case: Told) -> Name:
    await case.on.app.machine.discard_room_key(ROOM)
    event = await case.on.app.say(ROOM, "hello")
    await case.on.bob.sync()
    await spoil_room_keys(case.on.folder / "LAPTOP.db")
    return await case.unreadable(event, "missing_room_key")


async def test_a_key_whose_record_was_damaged(tmp_path: Path) -> None:
    async with told(tmp_path) as case:
        name = await damaged(case)
        must_be(case.explain(name), Verdict.LOST_HERE, CERTAIN, "could not read the record any more")
        must_be(case.explain(name, [case.on.bob]), Verdict.LOST_HERE, CERTAIN)


async def test_a_key_that_another_program_has_deleted(tmp_path: Path) -> None:
    async with told(tmp_path) as case:
        await case.on.app.machine.discard_room_key(ROOM)
        event = await case.on.app.say(ROOM, "hello")
        await case.on.bob.sync()

        async def delete(transaction: Transaction) -> None:
            for key in await transaction.keys(INBOUND):
                transaction.delete(INBOUND, key)

        async with CryptoStore.open(tmp_path / "LAPTOP.db", key=KEY, label="other", kinds=[INBOUND]) as store:
            await store.run(delete)
        await case.on.bob.sync()
        name = await case.unreadable(event, "missing_room_key")
        finding = case.explain(name)
        must_be(finding, Verdict.LOST_HERE, LIKELY, "was not there any more", "processes whose traces are missing")


async def fail(*_: object) -> None:
    raise KeyError


async def test_a_key_that_met_a_fault_of_the_program(tmp_path: Path) -> None:
    async with told(tmp_path) as case:
        await case.on.app.machine.discard_room_key(ROOM)
        event = await case.on.app.say(ROOM, "hello")
        with substituted([(rooms, "receive_room_key", fail)]):
            await case.on.bob.sync()
        name = await case.unreadable(event, "missing_room_key")
        must_be(case.explain(name), Verdict.LOST_HERE, LIKELY, "met a fault here and was put aside")


async def test_what_the_sender_alone_can_not_clear_and_a_key_that_does_not_fit_are_unclear(tmp_path: Path) -> None:
    async with told(tmp_path) as case:
        event = await case.on.app.say(ROOM, "hello")
        await case.on.bob.sync()
        await case.on.bob.read(ROOM, event)
        name = case.name(event)
        must_be(case.explain(name, [case.on.app]), Verdict.UNCLEAR, POSSIBLE, "so far nothing is wrong")
        path = tmp_path / "trace.ndjson"
        lines = [json.dumps(line) + "\n" for line in case.lines_of(case.on.app)]
        path.write_text("".join(lines))
        [session] = name.pseudonyms & {str(line.get("session")) for line in case.lines_of(case.on.app)}
        assert explained(path, "--message", f"{session}:{name.index}") == FAILED
        content = event["content"]
        assert isinstance(content, dict)
        damaged = event | {"event_id": "$damaged", "content": content | {"ciphertext": spoilt(content["ciphertext"])}}
        unreadable = await case.unreadable(damaged, "unreadable")
        must_be(case.explain(unreadable), Verdict.UNCLEAR, POSSIBLE, "the key is here and does not fit")


def spoilt(ciphertext: str) -> str:
    """Corrupt the signature at the end of a Megolm message."""
    return ciphertext[:-4] + ("AAAA" if ciphertext[-4:] != "AAAA" else "BBBB")


async def test_a_key_that_the_sender_has_written_wrongly(tmp_path: Path) -> None:
    async with told(tmp_path) as case:
        await case.on.app.machine.discard_room_key(ROOM)
        with substituted([(sharing, "_room_key", lambda *_: {"algorithm": MEGOLM, "session_key": "none"})]):
            event = await case.on.app.say(ROOM, "hello")
        await case.on.bob.sync()
        name = await case.unreadable(event, "missing_room_key")
        must_be(
            case.explain(name), Verdict.NOT_OURS, LIKELY, "can't use an event for this device, m.room_key: malformed"
        )


async def test_a_key_that_comes_over_a_session_that_its_reader_has_forked(tmp_path: Path) -> None:
    async with told(tmp_path) as case:
        on = case.on
        await on.app.machine.discard_room_key(ROOM)
        await on.app.say(ROOM, "one")
        await on.bob.sync()
        await on.bob.machine.discard_room_key(ROOM)
        await on.bob.say(ROOM, "two")
        await on.app.sync()
        await on.extension.machine.discard_room_key(ROOM)
        await on.extension.say(ROOM, "three")
        await on.bob.sync()
        await on.bob.machine.discard_room_key(ROOM)
        event = await on.bob.say(ROOM, "four")
        with substituted(KEPT_CACHE):
            await on.app.machine.discard_room_key(ROOM)
            await on.app.say(ROOM, "five")
            await on.app.sync()
        with pytest.raises(MissingRoomKey):
            await on.app.read(ROOM, event)
        name = case.name(event)
        finding = case.explain(name, reader=(ALICE, "PHONE"))
        must_be(finding, Verdict.WEDGED, LIKELY, "the reader's own session was forked: ", "computed peer/")
        lines = [line for line in case.lines_of(on.app) if line["step"] == "decrypt_olm"]
        [unread] = [line for line in lines if line["outcome"] == "unreadable"]
        olm = Name(frozenset({str(unread["ratchet"])}), int(str(unread["index"])), olm=True)
        must_be(case.explain(olm, [on.app]), Verdict.FORKED, LIKELY, "the reader's own session was forked: ")


async def spoil_room_keys(path: Path) -> None:
    raw = RecordKind(INBOUND.name, BYTES, BYTES)

    async def spoil(transaction: Transaction) -> None:
        for key in await transaction.keys(raw):
            transaction.put(raw, key, b"\xc1")

    async with CryptoStore.open(path, key=KEY, label="spoiler", kinds=[raw]) as store:
        await store.run(spoil)


async def test_a_message_that_no_line_reports_is_unknown(tmp_path: Path) -> None:
    async with told(tmp_path) as case:
        with pytest.raises(UnknownMessage):
            case.explain(Name(frozenset({"0" * 16}), 0))
        with pytest.raises(UnknownMessage):
            case.explain(Name(frozenset({"0" * 16}), 0, olm=True))


async def test_missing_traces_of_a_process_make_a_verdict_less_sure(tmp_path: Path) -> None:
    async with told(tmp_path) as case:
        name = await never_shared(case)
        must_be(case.explain(name), Verdict.NEVER_SHARED, CERTAIN)
        missing = case.trace_of(case.on.extension)._head["instance"]
        finding = case.explain(name, where=lambda line: line["instance"] != missing)
        must_be(finding, Verdict.NEVER_SHARED, LIKELY, "processes whose traces are missing")


def written(folder: Path, case: Told) -> Path:
    """Write the traces of both stores into one file."""
    path = folder / "trace.ndjson"
    path.write_text("".join(json.dumps(line) + "\n" for line in case._recorder.lines))
    return path


def explained(*arguments: str | Path) -> int:
    """Run the command, in this process."""
    code = app(["explain", *map(str, arguments)])
    assert isinstance(code, int)
    return code


async def test_a_message_is_named_by_its_real_session_where_the_store_is_unlocked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with told(tmp_path) as case:
        [device] = (await case.on.app.machine.devices_of(BOB)).values()
        await case.on.app.machine.set_trust(BOB, device.device_id, device.ed25519, LocalTrust.BLOCKED)
        event = await case.on.app.say(ROOM, "hello")
        await case.on.bob.sync()
        name = await case.unreadable(event, "withheld_room_key")
        trace, laptop, phone, key = (
            written(tmp_path, case),
            *(tmp_path / each for each in ("LAPTOP.db", "PHONE.db", "key")),
        )
        content = event["content"]
        assert isinstance(content, dict)
        session = str(content["session_id"])
        key.write_text(KEY.hex() + "\n")
        unlocked = ("--unlock", laptop, "--unlock", phone, "--key-file", key, "--reader", f"{BOB}/LAPTOP")
        assert explained(trace, "--message", f"{session}:{name.index}", *unlocked) == OK
        by_real_name = capsys.readouterr().out
        assert "certainly WITHHELD" in by_real_name
        assert session not in by_real_name
        named = [word for each in sorted(name.pseudonyms) for word in ("--message", f"{each}:{name.index}")]
        assert explained(trace, *named) == OK
        assert capsys.readouterr().out == by_real_name
        unlocked_by_event = ("--event", str(event["event_id"]), "--unlock", laptop, "--key-file", key)
        assert explained(trace, *unlocked_by_event) == OK
        assert "certainly WITHHELD" in capsys.readouterr().out
        for arguments, why in (
            (("--event", "0" * 16), "no line reports an attempt"),
            (("--message", f"{'0' * 16}:0", "--message", f"{'1' * 16}:1"), "the same index"),
            (("--message", f"{session}:0"), "give its pseudonym as it stands there, or the store by --unlock"),
            (("--message", "a"), "SESSION:INDEX"),
            (("--message", f"{session}:0", "--olm", f"{session}:0"), "either in a room or an Olm message"),
            (("--message", f"{session}:0", "--unlock", laptop, "--key-file", "none"), "a secret can't be read"),
            (("--message", f"{session}:0", "--unlock", laptop, "--key-file", trace), "in hexadecimal"),
            (("--message", f"{session}:0", "--unlock", tmp_path / "none.db", "--key-file", key), "none.db"),
            (("--message", f"{session}:0", "--unlock", laptop, "--passphrase-file", key), "with a key"),
            (("--message", f"{'0' * 16}:0"), "no line is about message 0"),
        ):
            with pytest.raises(CheckError, match=re.escape(why)):
                explained(trace, *arguments)


async def test_the_passphrase_of_a_store_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with CryptoStore.open(tmp_path / "bot.db", passphrase="a secret", label="bot", kinds=[]) as store:
        name = store._sealer.trace_key()
    asked: list[str] = []

    def answer(prompt: str) -> str:
        asked.append(prompt)
        return "a secret"

    monkeypatch.setattr(command, "getpass", answer)
    [trace] = command._traces((tmp_path / "bot.db",), None, None)
    assert asked == [f"passphrase of {tmp_path / 'bot.db'}: "]
    expected = Trace(Recorder(), name, store._sealer.store, 0, lambda: 0)
    assert trace.pseudonym("session", "one") == expected.pseudonym("session", "one")


def test_without_a_terminal_a_passphrase_must_come_from_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(prompt: str) -> str:
        raise EOFError(prompt)

    monkeypatch.setattr(command, "getpass", closed)
    with pytest.raises(CheckError, match=r"there is no terminal .* give --passphrase-file or --key-file"):
        command._traces((Path("bot.db"),), None, None)


@pytest.mark.parametrize(
    "bring_about",
    [never_shared, shared_later, withheld, wedged, forked, batch_lost, lost_by_the_homeserver, damaged],
)
async def test_lines_that_are_missing_never_make_another_verdict_certain(
    tmp_path: Path, bring_about: Callable[[Told], Awaitable[Name]]
) -> None:
    async with told(tmp_path) as case:
        name = await bring_about(case)
        whole = case.explain(name)
        lines = case._recorder.lines
        last = {line["instance"]: number for number, line in enumerate(lines)}
        chance = random.Random(bring_about.__name__)
        for trial in range(40):
            share = chance.choice([0.01, 0.1, 0.5])
            # Lines that are missing at the end can't be noticed.
            gone = {
                (line["instance"], line["line"])
                for number, line in enumerate(lines)
                if number < last[line["instance"]] and chance.random() < share
            }

            def is_left(line: Line, gone: frozenset[object] = frozenset(gone)) -> bool:
                return (line["instance"], line["line"]) not in gone

            try:
                finding = case.explain(name, where=is_left)
            except (UnknownMessage, NoTrace):
                continue
            if finding.certainty is CERTAIN:
                assert finding.verdict is whole.verdict, f"trial {trial}: {finding.summary}"


async def test_what_is_sound_is_not_blamed(tmp_path: Path) -> None:
    """The traces are of a long conversation of two correct processes."""
    chance = random.Random(15)
    async with told(tmp_path) as case:
        events: list[Json] = []
        for number in range(25):
            process = chance.choice([case.on.app, case.on.extension])
            if chance.random() < 0.3:
                await process.machine.discard_room_key(ROOM)
            events.append(await process.say(ROOM, f"message {number}"))
            if chance.random() < 0.5:
                with contextlib.suppress(MissingRoomKey):
                    await case.on.bob.read(ROOM, events[-1])
            if chance.random() < 0.3:
                await case.on.bob.say(ROOM, f"answer {number}")
            await case.on.bob.sync()
            await chance.choice([case.on.app, case.on.extension]).sync()
            await case.on.bob.read(ROOM, events[-1])
        for event in events:
            finding = case.explain(case.name(event))
            assert (finding.verdict, finding.certainty) in {(Verdict.READ, CERTAIN), (Verdict.LATE, CERTAIN)}
            assert not finding.unknown
        for store in case.explain(case.name(events[0])).stores:
            assert not store.stale_writes
            assert not store.repeated_versions
            assert not list(store.lost_batches(None))
        # A value that a process without a trace wrote does not count as stale.
        missing = case.trace_of(case.on.extension)._head["instance"]
        finding = case.explain(case.name(events[0]), where=lambda line: line["instance"] != missing)
        assert finding.unknown
        assert not [write for store in finding.stores for write in store.stale_writes]


def of_phone(on: chaos.stage.Stage) -> tuple[History, ...]:
    """Read the traces of the phone's processes, which have ended. The peer has no trace."""
    return histories(read_all(on.traces.finish_part()))


def every_message(stores: Iterable[History]) -> set[Name]:
    """Return the room messages that any process tried to decrypt."""
    return {
        Name(frozenset({line.session}), line.index)
        for store in stores
        for _, line in store.of(DecryptMegolm)
        if line.session is not None and line.index is not None
    }


async def test_faults_that_real_processes_survive_are_not_blamed(tmp_path: Path) -> None:
    async with stage(tmp_path, seed=15) as on:
        for fault in (Fault.KILL, Fault.LOSE_ANSWERS, Fault.SUSPEND, None):
            await on.round(fault)
        await on.settle()
        await on.check()
    assert on.losses == []
    stores = of_phone(on)
    messages = every_message(stores)
    assert len(messages) > 3
    for message in messages:
        finding = examine(stores, message)
        assert finding.verdict in SOUND, "\n".join([finding.summary, *finding.details()])
    assert not [write for store in stores for write in store.stale_writes]


async def test_a_key_that_the_homeserver_loses_for_real_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with stage(tmp_path, seed=15) as on:
        request = on.homeserver.request

        def forgetful(device: Device, method: str, path: str, body: Json | None = None) -> tuple[int, Json]:
            return (200, {}) if "sendToDevice" in path else request(device, method, path, body)

        monkeypatch.setattr(on.homeserver, "request", forgetful)
        await on.bob.machine.discard_room_key(room.ROOM)
        await on.bob.say(room.ROOM, "hello")
        for _ in range(2):
            await on.round(None)
        await on.check()
    stores = of_phone(on)
    findings = [examine(stores, message) for message in every_message(stores)]
    unread = [finding for finding in findings if finding.verdict not in SOUND]
    assert unread
    for finding in unread:
        must_be(finding, Verdict.NOT_OURS, LIKELY, "the key never arrived", "the traces of the sender are missing")


def test_the_readme_shows_what_the_command_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (whole, of_traces), (about, of_message) = re.findall(
        r'^```console\n\$ make explain LOGS="(.*?)"\n(.*?)^```$', README, re.MULTILINE | re.DOTALL
    )
    message = make_sample(tmp_path).by_device
    monkeypatch.chdir(Path(__file__).parents[2])  # The repository is the working directory; the traces are elsewhere.
    assert explained(*(tmp_path / each for each in whole.split())) == command.FAILED
    printed = capsys.readouterr().out.replace(f"{tmp_path}/", "").splitlines(keepends=True)
    assert counted(of_traces) == counted("".join(printed[: of_traces.count("\n")]))
    monkeypatch.chdir(tmp_path)
    arguments = about.split()
    arguments[arguments.index("--message") + 1] = message
    assert explained(*arguments) == OK
    # Names are random, and any additional trace line changes the line numbers.
    assert numbered(of_message) == numbered(capsys.readouterr().out)


def test_the_sample_leads_a_newcomer_to_the_cause(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.sample(tmp_path / "traces") == OK
    commands = re.findall(r"^  \.venv/bin/python -m checking explain (.*)$", capsys.readouterr().out, re.MULTILINE)
    of_traces, of_message, of_both, unlocked = [shlex.split(each) for each in commands]
    assert explained(*of_traces) == FAILED
    said = capsys.readouterr().out
    assert "this is probably session-cache-survives" in said
    for arguments in (of_message, of_both, unlocked):
        assert explained(*arguments) == OK
        said = capsys.readouterr().out
        assert "certainly SHARED OVER A WEDGED SESSION" in said
        assert ("the traces of the reader are missing" in said) == (arguments is of_message)
    with pytest.raises(CheckError, match="is not empty"):
        command.sample(tmp_path / "traces")


def counted(text: str) -> str:
    """Replace all numbers, including those in pseudonyms: they change with any additional trace line."""
    return re.sub(r"\d+", "0", numbered(text))


def numbered(text: str) -> str:
    """Replace each pseudonym by the order of its first appearance, and omit line numbers."""
    names = list(dict.fromkeys(re.findall("[0-9a-f]{16}", text)))
    text = re.sub("[0-9a-f]{16}", lambda found: f"name {names.index(found[0])}", text)
    return re.sub(r"(ndjson):\d+", r"\1", text)


@contextmanager
def forgetful(folder: Path) -> Iterator[ProcessScene]:
    """Run real processes that keep their caches, whatever other processes have written."""
    with ExitStack() as stack:
        on = ProcessScene(stack, folder, "session-cache-survives")
        on.meet()
        on.greet()
        yield on
        for process in (on.app, on.extension, on.bob):
            process.close()


def last_reading(folder: Path) -> Finding:
    """Examine the last message that Bob tried to read, from the traces of all processes."""
    stores = histories(read_all(folder / f"{label}.ndjson" for label in (*LABELS, "bob")))
    laptop, phone = sorted(stores, key=lambda store: len(store.processes))
    *_, (_, reading) = laptop.of(DecryptMegolm)
    *_, (_, encryption) = phone.of(EncryptMegolm)
    assert reading.session is not None
    assert reading.index is not None
    return examine(stores, Name(frozenset({reading.session, encryption.session}), reading.index))


def test_a_ratchet_that_real_processes_fork(tmp_path: Path) -> None:
    with forgetful(tmp_path) as on:
        on.app.say("one")
        first, second = on.extension.say("two"), on.app.say("three")
        on.bob.do("sync")
        assert on.bob.do("read", ROOM, first) == "two"
        assert on.bob.do("read", ROOM, second) == "replayed"
    must_be(last_reading(tmp_path), Verdict.FORKED, CERTAIN, "computed outbound_group_session/", "overwritten version")


def test_a_key_that_real_processes_share_over_a_wedged_session(tmp_path: Path) -> None:
    with forgetful(tmp_path) as on:
        events = []
        for process in (on.app, on.extension, on.app):
            process.do("discard", ROOM)
            events.append(process.say("hello"))
        on.bob.do("sync")
        assert [on.bob.do("read", ROOM, event) for event in events] == ["hello", "hello", "missing_room_key"]
    must_be(last_reading(tmp_path), Verdict.WEDGED, CERTAIN, "that is a fork: ", "computed peer/")
